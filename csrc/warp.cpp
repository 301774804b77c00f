#include "warp.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>

#include "parallel.h"
#include "simd.h"

#if TPC_X86
#include <immintrin.h>
#elif TPC_SSE2
#include <emmintrin.h>
#elif TPC_NEON
#include <arm_neon.h>
#endif

namespace tpc {
namespace {

// Work goes strip by strip through planar float buffers that stay in the first-level cache:
// taps -> sample (one or two pyramid levels) -> blend -> store image and mask -> lay over the composite.
constexpr int kStrip = 128;
constexpr int kMaskPlane = 3;

struct alignas(64) Planes {
  float plane[4][kStrip];  // R, G, B, mask in 0..255; cubic overshoots
};

// Where the pixels of a strip lie in the packed reference, in 32.32 fixed point: within a strip the error stays below
// 2^-25 pixel. The strip starts and ends within reach of the reference, so nothing overflows there; what is computed
// beyond its end (vectors are whole) may be anything, and is clamped into the border like everything else.
struct Track {
  const PackedImage* source;
  uint64_t x, y, dx, dy;
};

// ---------------------------------------------------------------------------------------------------------------
// Taps: where the pixels of a strip read, and with what weights
//
// Weights along x are 16-bit integers of scale 2^14 that sum to 2^14, weights along y are floats. An integer weight is
// off by at most 2^-15 (the one that completes the sum: 3 * 2^-15), a row's sum of products therefore by at most
// 6 * 2^-15 * 255 = 0.05, and the y-weights (absolute sum <= 1.375 for a = -0.75) make it at most 0.07 levels.
// Coordinates add less than 2^-24 * 255 * 2, floats as little. So before rounding to bytes the core is within 0.07
// levels of exact arithmetic, and after it within 1.

constexpr float kWeightScale = 16384.0f;

struct alignas(64) Taps {
  int32_t offset[kStrip];            // of the first tap from the source's pixel (0, 0), in pixels
  int32_t x01[kStrip], x23[kStrip];  // two 16-bit weights each, the first in the low half
  float y[4][kStrip];                // divided by kWeightScale
};

// Rounds to the nearest integer, half to even, by adding 1.5 * 2^23; the low 16 bits are those of the result.
TPC_INLINE uint32_t round_to_bits(float value) {
  const float shifted = value + 12582912.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  return bits;
}

TPC_INLINE int32_t whole(uint64_t fixed) { return static_cast<int32_t>(fixed >> 32); }
TPC_INLINE float fraction(uint64_t fixed) {  // through 31 bits: conversions from signed integers are the fast ones
  return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(fixed) >> 1)) * 0x1p-31f;
}

// Keys' weights, a = -0.75, for the taps at floor(x) - 1 .. floor(x) + 2 and fraction f, times `scale`.
struct Keys {
  float w0, w1, w2, w3;
};
TPC_INLINE Keys keys(float f, float scale) {
  constexpr float kA = -0.75f;
  const float t = 1 - f, bump = scale * f * t;
  return {kA * bump * t, scale * t + bump * (1 - (kA + 2) * f), scale * f + bump * (1 - (kA + 2) * t), kA * bump * f};
}

TPC_INLINE int32_t pair(uint32_t low, uint32_t high) { return static_cast<int32_t>((low & 0xffff) | high << 16); }

// kTaps: 4 for cubic, 2 for bilinear, 1 for nearest.
template <int kTaps>
TPC_INLINE void find_taps(const Track& track, int n, Taps& taps) {
  constexpr int32_t kBefore = kTaps == 4 ? 1 : 0;  // taps left of and above the pixel
  constexpr uint64_t kRounding = kTaps == 1 ? uint64_t{1} << 31 : 0;
  constexpr uint32_t kScale = static_cast<uint32_t>(kWeightScale);
  const int32_t stride = static_cast<int32_t>(track.source->stride);
  const int32_t last_x = static_cast<int32_t>(track.source->width + 1);
  const int32_t last_y = static_cast<int32_t>(track.source->height + 1);
  const uint64_t dx = track.dx, dy = track.dy;
  uint64_t x = track.x + kRounding, y = track.y + kRounding;
  n = (n + 15) & ~15;
  for (int i = 0; i < n; ++i, x += dx, y += dy) {
    // Clamped such that every tap of a pixel out of reach falls on the border.
    const int32_t column = std::min(std::max(whole(x), -3), last_x), row = std::min(std::max(whole(y), -3), last_y);
    taps.offset[i] = (row - kBefore) * stride + column - kBefore;
    const float fx = fraction(x), fy = fraction(y);
    if (kTaps == 4) {
      const Keys wx = keys(fx, 1), wy = keys(fy, 1 / kWeightScale);
      const uint32_t i0 = round_to_bits(wx.w0 * kWeightScale), i1 = round_to_bits(wx.w1 * kWeightScale);
      const uint32_t i3 = round_to_bits(wx.w3 * kWeightScale);
      taps.x01[i] = pair(i0, i1);
      taps.x23[i] = pair(kScale - i0 - i1 - i3, i3);
      taps.y[0][i] = wy.w0;
      taps.y[1][i] = wy.w1;
      taps.y[2][i] = wy.w2;
      taps.y[3][i] = wy.w3;
    } else if (kTaps == 2) {
      const uint32_t i1 = round_to_bits(fx * kWeightScale);
      taps.x01[i] = pair(kScale - i1, i1);
      taps.y[0][i] = (1 - fy) * (1 / kWeightScale);
      taps.y[1][i] = fy * (1 / kWeightScale);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Baseline kernels: what every processor of a kind has. One pixel's four channels stand in a register. `along` is the
// sum of a row's taps, times their weights along x; `lay` adds it times the row's weight; `store` sorts four pixels into
// planes.

#if TPC_SSE2

using Pixel = __m128;

template <int kTaps>
TPC_INLINE Pixel along(const uint8_t* p, int32_t x01, int32_t x23) {
  const __m128i zero = _mm_setzero_si128(), v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  // Pairs of neighbouring pixels, channel by channel, as 16-bit integers.
  const __m128i first = _mm_unpacklo_epi8(_mm_unpacklo_epi8(v, _mm_srli_si128(v, 4)), zero);
  __m128i sum = _mm_madd_epi16(first, _mm_set1_epi32(x01));
  if (kTaps == 4) {
    const __m128i second = _mm_unpacklo_epi8(_mm_unpacklo_epi8(_mm_srli_si128(v, 8), _mm_srli_si128(v, 12)), zero);
    sum = _mm_add_epi32(sum, _mm_madd_epi16(second, _mm_set1_epi32(x23)));
  }
  return _mm_cvtepi32_ps(sum);
}

TPC_INLINE Pixel lay(Pixel sum, Pixel row, float weight) { return _mm_add_ps(sum, _mm_mul_ps(row, _mm_set1_ps(weight))); }

TPC_INLINE void store(Pixel p0, Pixel p1, Pixel p2, Pixel p3, Planes& out, int i) {
  _MM_TRANSPOSE4_PS(p0, p1, p2, p3);
  _mm_store_ps(out.plane[0] + i, p0);
  _mm_store_ps(out.plane[1] + i, p1);
  _mm_store_ps(out.plane[2] + i, p2);
  _mm_store_ps(out.plane[3] + i, p3);
}

#elif TPC_NEON

using Pixel = float32x4_t;

template <int kTaps>
TPC_INLINE Pixel along(const uint8_t* p, int32_t x01, int32_t x23) {
  const int16x4_t weights = vreinterpret_s16_s32(vset_lane_s32(x23, vdup_n_s32(x01), 1));
  const uint8x16_t v = vld1q_u8(p);
  const int16x8_t first = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v)));
  int32x4_t sum = vmull_lane_s16(vget_low_s16(first), weights, 0);
  sum = vmlal_lane_s16(sum, vget_high_s16(first), weights, 1);
  if (kTaps == 4) {
    const int16x8_t second = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(v)));
    sum = vmlal_lane_s16(sum, vget_low_s16(second), weights, 2);
    sum = vmlal_lane_s16(sum, vget_high_s16(second), weights, 3);
  }
  return vcvtq_f32_s32(sum);
}

TPC_INLINE Pixel lay(Pixel sum, Pixel row, float weight) { return vfmaq_n_f32(sum, row, weight); }

TPC_INLINE void store(Pixel p0, Pixel p1, Pixel p2, Pixel p3, Planes& out, int i) {
  const float32x4x2_t rb_gm01 = vtrnq_f32(p0, p1), rb_gm23 = vtrnq_f32(p2, p3);
  vst1q_f32(out.plane[0] + i, vcombine_f32(vget_low_f32(rb_gm01.val[0]), vget_low_f32(rb_gm23.val[0])));
  vst1q_f32(out.plane[1] + i, vcombine_f32(vget_low_f32(rb_gm01.val[1]), vget_low_f32(rb_gm23.val[1])));
  vst1q_f32(out.plane[2] + i, vcombine_f32(vget_high_f32(rb_gm01.val[0]), vget_high_f32(rb_gm23.val[0])));
  vst1q_f32(out.plane[3] + i, vcombine_f32(vget_high_f32(rb_gm01.val[1]), vget_high_f32(rb_gm23.val[1])));
}

#else

struct Pixel {
  float channel[4];
};

template <int kTaps>
TPC_INLINE Pixel along(const uint8_t* p, int32_t x01, int32_t x23) {
  const int32_t weights[4] = {static_cast<int16_t>(x01), x01 >> 16, static_cast<int16_t>(x23), x23 >> 16};
  int32_t sum[4] = {};
  for (int tap = 0; tap < kTaps; ++tap)
    for (int c = 0; c < 4; ++c) sum[c] += p[4 * tap + c] * weights[tap];
  Pixel row;
  for (int c = 0; c < 4; ++c) row.channel[c] = static_cast<float>(sum[c]);
  return row;
}

TPC_INLINE Pixel lay(Pixel sum, Pixel row, float weight) {
  for (int c = 0; c < 4; ++c) sum.channel[c] += row.channel[c] * weight;
  return sum;
}

TPC_INLINE void store(Pixel p0, Pixel p1, Pixel p2, Pixel p3, Planes& out, int i) {
  for (int c = 0; c < 4; ++c) {
    float* plane = out.plane[c] + i;
    plane[0] = p0.channel[c];
    plane[1] = p1.channel[c];
    plane[2] = p2.channel[c];
    plane[3] = p3.channel[c];
  }
}

#endif

template <int kTaps>
TPC_INLINE Pixel pixel_at(const uint8_t* origin, int64_t stride, const Taps& taps, int i) {
  const uint8_t* p = origin + 4 * static_cast<int64_t>(taps.offset[i]);
  const int32_t x01 = taps.x01[i], x23 = kTaps == 4 ? taps.x23[i] : 0;
  Pixel sum{};
  for (int row = 0; row < kTaps; ++row) sum = lay(sum, along<kTaps>(p + row * stride, x01, x23), taps.y[row][i]);
  return sum;
}

template <int kTaps>
void sample_baseline(const Track& track, int n, Planes& out) {
  const uint8_t* origin = track.source->at(0, 0);
  const int64_t stride = 4 * track.source->stride;
  Taps taps;
  find_taps<kTaps>(track, n, taps);
  for (int i = 0; i < n; i += 4)  // taps are found up to a multiple of sixteen
    store(pixel_at<kTaps>(origin, stride, taps, i), pixel_at<kTaps>(origin, stride, taps, i + 1),
          pixel_at<kTaps>(origin, stride, taps, i + 2), pixel_at<kTaps>(origin, stride, taps, i + 3), out, i);
}

// ---------------------------------------------------------------------------------------------------------------
// Plain loops, which the compiler makes vectors of, at every level anew

TPC_INLINE void sample_nearest_body(const Track& track, int n, Planes& out) {
  const uint8_t* origin = track.source->at(0, 0);
  Taps taps;
  find_taps<1>(track, n, taps);
  uint8_t pixels[4 * kStrip];
  for (int i = 0; i < n; ++i) std::memcpy(pixels + 4 * i, origin + 4 * static_cast<int64_t>(taps.offset[i]), 4);
  for (int i = 0; i < n; ++i)
    for (int channel = 0; channel < 4; ++channel) out.plane[channel][i] = pixels[4 * i + channel];
}

// Blends two pyramid levels; without a second one only clamps.
TPC_INLINE void settle_body(Planes& fine, const Planes* coarse, float share, int n) {
  for (int channel = 0; channel < 4; ++channel) {
    float* __restrict a = fine.plane[channel];
    if (coarse != nullptr) {
      const float* __restrict b = coarse->plane[channel];
      for (int i = 0; i < n; ++i) a[i] += share * (b[i] - a[i]);
    }
    for (int i = 0; i < n; ++i) a[i] = std::min(std::max(a[i], 0.0f), 255.0f);
  }
}

static_assert(TPC_LITTLE_ENDIAN, "pixels are taken apart and put together as 32-bit words");

TPC_INLINE uint32_t to_byte(float value) { return round_to_bits(std::min(std::max(value, 0.0f), 255.0f)) & 0xff; }

TPC_INLINE void store_bytes_body(const Planes& planes, int channels, int n, uint8_t* __restrict image,
                                 uint8_t* __restrict mask) {
  const auto& in = planes.plane;
  uint32_t pixels[kStrip];
  for (int i = 0; i < n; ++i)
    pixels[i] = to_byte(in[0][i]) | to_byte(in[1][i]) << 8 | to_byte(in[2][i]) << 16 | to_byte(in[3][i]) << 24;
  if (channels == 1) {
    for (int i = 0; i < n; ++i) image[i] = static_cast<uint8_t>(pixels[i]);
  } else {
    for (int i = 0; i < n - 1; ++i) std::memcpy(image + 3 * i, &pixels[i], 4);  // the next pixel mends the fourth byte
    if (n > 0) std::memcpy(image + 3 * (n - 1), &pixels[n - 1], 3);
  }
  if (mask != nullptr)
    for (int i = 0; i < n; ++i) mask[i] = static_cast<uint8_t>(pixels[i] >> 24);
}

TPC_INLINE void store_value(float value, float* out) { *out = value; }

// IEEE half, rounded to nearest even (after F. Giesen, float_to_half_fast3_rtne); |value| <= 1, so nothing overflows.
TPC_INLINE void store_value(float value, uint16_t* out) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits & 0x80000000u, magnitude = bits ^ sign;
  float tiny;
  std::memcpy(&tiny, &magnitude, 4);
  tiny += 0.5f;  // shifts the mantissa of a subnormal half into place
  uint32_t subnormal;
  std::memcpy(&subnormal, &tiny, 4);
  const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const uint32_t half = magnitude < (113u << 23) ? subnormal - 0x3f000000u : normal;
  *out = static_cast<uint16_t>(half | sign >> 16);
}

template <typename T>
TPC_INLINE void store_plane_body(const float* __restrict plane, float scale, float shift, int n, T* __restrict out) {
  for (int i = 0; i < n; ++i) store_value(plane[i] * scale + shift, out + i);
}

TPC_INLINE void load_bytes_body(const uint8_t* __restrict image, int channels, int n, Planes& out) {
  if (channels == 1) {
    for (int i = 0; i < n; ++i) out.plane[0][i] = image[i];
  } else {
    for (int i = 0; i < n; ++i)
      for (int channel = 0; channel < 3; ++channel) out.plane[channel][i] = image[3 * i + channel];
  }
}

// Lays n pixels of a person over the composite from pixel `first` on.
TPC_INLINE void lay_over_body(const Planes& person, int channels, int n, int first, Planes& composite) {
  for (int channel = 0; channel < channels; ++channel) {
    float* __restrict under = composite.plane[channel] + first;
    for (int i = 0; i < n; ++i) {
      const float m = person.plane[kMaskPlane][i] * (1 / 255.0f);
      under[i] = under[i] * (1 - m) + person.plane[channel][i] * m;
    }
  }
}

// A line of a reference as pixels of four bytes.
TPC_INLINE void pack_grey_line(const uint8_t* __restrict colour, const uint8_t* __restrict mask, int64_t width,
                               uint8_t* __restrict out) {
  for (int64_t x = 0; x < width; ++x) {
    const uint32_t pixel = colour[x] | static_cast<uint32_t>(mask[x]) << 24;
    std::memcpy(out + 4 * x, &pixel, 4);
  }
}

TPC_INLINE void pack_rgb_line(const uint8_t* __restrict colour, const uint8_t* __restrict mask, int64_t width,
                              uint8_t* __restrict out) {
  int64_t x = 0;
  for (; x + 1 < width; ++x) {  // the byte beyond a pixel, which the mask replaces, lies in the next one
    std::memcpy(out + 4 * x, colour + 3 * x, 4);
    out[4 * x + kMaskPlane] = mask[x];
  }
  for (; x < width; ++x) {
    for (int c = 0; c < 3; ++c) out[4 * x + c] = colour[3 * x + c];
    out[4 * x + kMaskPlane] = mask[x];
  }
}

// One line of a pyramid level from four lines of the finer one: [1 3 3 1] / 8 both ways, decimated by two.
TPC_INLINE void halve_line_body(const PackedImage& fine, int64_t y, const PackedImage& coarse) {
  constexpr int64_t kPixels = kStrip / 2;
  uint16_t column[4 * (kStrip + 2)];
  for (int64_t begin = 0; begin < coarse.width; begin += kPixels) {
    const int64_t n = std::min(kPixels, coarse.width - begin), bytes = 4 * (2 * n + 2);
    const uint8_t* __restrict line = fine.at(2 * y - 1, 2 * begin - 1);
    const int64_t stride = 4 * fine.stride;
    for (int64_t i = 0; i < bytes; ++i)
      column[i] = static_cast<uint16_t>(line[i] + 3 * (line[i + stride] + line[i + 2 * stride]) + line[i + 3 * stride]);
    uint8_t* __restrict out = coarse.at(y, begin);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < 4; ++c) {
        const uint16_t* p = column + 8 * i + c;
        out[4 * i + c] = static_cast<uint8_t>((p[0] + 3 * (p[4] + p[8]) + p[12] + 32) >> 6);
      }
  }
}

#if TPC_X86

// Byte shuffles of a 128-bit lane. Four pixels -> pairs of neighbouring pixels, channel by channel, as 16-bit integers:
// of the first two, and of the last two.
alignas(16) constexpr int8_t kPairs[2][16] = {{0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1},
                                              {8, -1, 12, -1, 9, -1, 13, -1, 10, -1, 14, -1, 11, -1, 15, -1}};
// Four values of R, of G, of B, of the mask -> four RGB pixels and four of the mask.
alignas(16) constexpr int8_t kInterleave[16] = {0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, 12, 13, 14, 15};

// Eight pixels at once: one by one they would take as long as sampling them does.
TPC_TARGET_AVX2 void pack_rgb_avx2(const uint8_t* colour, const uint8_t* mask, int64_t width, uint8_t* out) {
  const __m256i apart = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,  //
                                         4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
  int64_t x = 0;
  for (; x + 8 <= width; x += 8) {  // 24 bytes: the first sixteen, and the last
    const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(colour + 3 * x));
    const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(colour + 3 * x + 8));
    const __m256i pixels = _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1), apart);
    const __m256i coverage = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(mask + x)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 4 * x), _mm256_or_si256(pixels, _mm256_slli_epi32(coverage, 24)));
  }
  pack_rgb_line(colour + 3 * x, mask + x, width - x, out + 4 * x);
}

// Asks for what a turned strip reads before it is read: it takes its pixels from many rows of the reference, and waits for
// the cache at each. Between other work a warp of 512 x 512 takes an eighth less time so, without any a tenth more.
// Neighbouring pixels share their lines.
constexpr uint64_t kTurned = uint64_t{1} << 29;  // rows a pixel, an eighth: lines that lie flatter the processor foresees

template <int kTaps>
TPC_TARGET_AVX2 TPC_INLINE void prefetch(const Track& track, const uint8_t* origin, int64_t stride, const Taps& taps, int n) {
  if (track.dy + kTurned <= 2 * kTurned) return;
  for (int i = 0; i < n; i += 2)
    for (int row = 0; row < kTaps; ++row)
      _mm_prefetch(reinterpret_cast<const char*>(origin + 4 * static_cast<int64_t>(taps.offset[i]) + row * stride), _MM_HINT_T0);
}

// ---------------------------------------------------------------------------------------------------------------
// AVX-512: sixteen pixels at a time. A register holds the four taps x four channels of one row for four pixels, a pixel
// per 128-bit lane; group g holds pixels g, 4 + g, 8 + g, 12 + g, so that their weights are element g of every lane.

// 16 bytes from each of two places. Half a register at a time, as inserting into a whole one takes twice as long.
TPC_TARGET_AVX2 TPC_INLINE __m256i two_taps(const uint8_t* first, const uint8_t* second) {
  const __m256i low = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(first)));
  return _mm256_inserti128_si256(low, _mm_loadu_si128(reinterpret_cast<const __m128i*>(second)), 1);
}

template <int kTaps, int kGroup>
TPC_TARGET_AVX512 TPC_INLINE __m512 group512(const uint8_t* origin, int64_t stride, const Taps& taps, int i) {
  const __m512i first = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kPairs[0])));
  const __m512i second = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kPairs[1])));
  constexpr _MM_PERM_ENUM kPick = static_cast<_MM_PERM_ENUM>(kGroup * 0x55);
  const __m512i x01 = _mm512_shuffle_epi32(_mm512_load_si512(taps.x01 + i), kPick);
  const __m512i x23 = kTaps == 4 ? _mm512_shuffle_epi32(_mm512_load_si512(taps.x23 + i), kPick) : x01;
  const uint8_t* p0 = origin + 4 * static_cast<int64_t>(taps.offset[i + kGroup]);
  const uint8_t* p1 = origin + 4 * static_cast<int64_t>(taps.offset[i + kGroup + 4]);
  const uint8_t* p2 = origin + 4 * static_cast<int64_t>(taps.offset[i + kGroup + 8]);
  const uint8_t* p3 = origin + 4 * static_cast<int64_t>(taps.offset[i + kGroup + 12]);
  __m512 sum = _mm512_setzero_ps();
  for (int row = 0; row < kTaps; ++row) {
    const int64_t at = row * stride;
    const __m512i v = _mm512_inserti64x4(_mm512_castsi256_si512(two_taps(p0 + at, p1 + at)), two_taps(p2 + at, p3 + at), 1);
    __m512i along_x = _mm512_madd_epi16(_mm512_shuffle_epi8(v, first), x01);
    if (kTaps == 4) along_x = _mm512_add_epi32(along_x, _mm512_madd_epi16(_mm512_shuffle_epi8(v, second), x23));
    const __m512 weight = _mm512_permute_ps(_mm512_load_ps(taps.y[row] + i), kGroup * 0x55);
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(along_x), weight, sum);
  }
  return sum;
}

template <int kTaps>
TPC_TARGET_AVX512 void sample_avx512(const Track& track, int n, Planes& out) {
  const uint8_t* origin = track.source->at(0, 0);
  const int64_t stride = 4 * track.source->stride;
  Taps taps;
  find_taps<kTaps>(track, n, taps);
  prefetch<kTaps>(track, origin, stride, taps, n);
  for (int i = 0; i < n; i += 16) {
    const __m512 g0 = group512<kTaps, 0>(origin, stride, taps, i), g1 = group512<kTaps, 1>(origin, stride, taps, i);
    const __m512 g2 = group512<kTaps, 2>(origin, stride, taps, i), g3 = group512<kTaps, 3>(origin, stride, taps, i);
    const __m512d rg01 = _mm512_castps_pd(_mm512_unpacklo_ps(g0, g1));
    const __m512d bm01 = _mm512_castps_pd(_mm512_unpackhi_ps(g0, g1));
    const __m512d rg23 = _mm512_castps_pd(_mm512_unpacklo_ps(g2, g3));
    const __m512d bm23 = _mm512_castps_pd(_mm512_unpackhi_ps(g2, g3));
    _mm512_store_ps(out.plane[0] + i, _mm512_castpd_ps(_mm512_unpacklo_pd(rg01, rg23)));
    _mm512_store_ps(out.plane[1] + i, _mm512_castpd_ps(_mm512_unpackhi_pd(rg01, rg23)));
    _mm512_store_ps(out.plane[2] + i, _mm512_castpd_ps(_mm512_unpacklo_pd(bm01, bm23)));
    _mm512_store_ps(out.plane[3] + i, _mm512_castpd_ps(_mm512_unpackhi_pd(bm01, bm23)));
  }
}

TPC_TARGET_AVX512 TPC_INLINE void store_rgb_avx512(const Planes& planes, int n, uint8_t* image, uint8_t* mask) {
  const __m512i arrange = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kInterleave)));
  const __m512i gather = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15);
  for (int i = 0; i < n; i += 16) {
    const __m512i r = _mm512_cvtps_epi32(_mm512_load_ps(planes.plane[0] + i));
    const __m512i g = _mm512_cvtps_epi32(_mm512_load_ps(planes.plane[1] + i));
    const __m512i b = _mm512_cvtps_epi32(_mm512_load_ps(planes.plane[2] + i));
    const __m512i m = _mm512_cvtps_epi32(_mm512_load_ps(planes.plane[3] + i));
    // Saturating packs clamp to 0..255; every lane then holds R, G, B, mask of four pixels.
    const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(r, g), _mm512_packs_epi32(b, m));
    const __m512i sorted = _mm512_permutexvar_epi32(gather, _mm512_shuffle_epi8(bytes, arrange));
    const int count = std::min(n - i, 16);
    _mm512_mask_storeu_epi8(image + 3 * i, (uint64_t{1} << (3 * count)) - 1, sorted);
    if (mask != nullptr)
      _mm_mask_storeu_epi8(mask + i, static_cast<__mmask16>((1u << count) - 1), _mm512_extracti32x4_epi32(sorted, 3));
  }
}

// ---------------------------------------------------------------------------------------------------------------
// AVX2: the same with eight pixels, two to a register.

template <int kTaps, int kGroup>
TPC_TARGET_AVX2 TPC_INLINE __m256 group256(const uint8_t* origin, int64_t stride, const Taps& taps, int i) {
  const __m256i first = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kPairs[0])));
  const __m256i second = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kPairs[1])));
  const auto* all_x01 = reinterpret_cast<const __m256i*>(taps.x01 + i);
  const auto* all_x23 = reinterpret_cast<const __m256i*>(taps.x23 + i);
  const __m256i x01 = _mm256_shuffle_epi32(_mm256_load_si256(all_x01), kGroup * 0x55);
  const __m256i x23 = kTaps == 4 ? _mm256_shuffle_epi32(_mm256_load_si256(all_x23), kGroup * 0x55) : x01;
  const uint8_t* p0 = origin + 4 * static_cast<int64_t>(taps.offset[i + kGroup]);
  const uint8_t* p1 = origin + 4 * static_cast<int64_t>(taps.offset[i + kGroup + 4]);
  __m256 sum = _mm256_setzero_ps();
  for (int row = 0; row < kTaps; ++row) {
    const int64_t at = row * stride;
    const __m256i v = two_taps(p0 + at, p1 + at);
    __m256i along_x = _mm256_madd_epi16(_mm256_shuffle_epi8(v, first), x01);
    if (kTaps == 4) along_x = _mm256_add_epi32(along_x, _mm256_madd_epi16(_mm256_shuffle_epi8(v, second), x23));
    const __m256 weight = _mm256_permute_ps(_mm256_load_ps(taps.y[row] + i), kGroup * 0x55);
    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(along_x), weight, sum);
  }
  return sum;
}

template <int kTaps>
TPC_TARGET_AVX2 void sample_avx2(const Track& track, int n, Planes& out) {
  const uint8_t* origin = track.source->at(0, 0);
  const int64_t stride = 4 * track.source->stride;
  Taps taps;
  find_taps<kTaps>(track, n, taps);
  prefetch<kTaps>(track, origin, stride, taps, n);
  for (int i = 0; i < n; i += 8) {
    const __m256 g0 = group256<kTaps, 0>(origin, stride, taps, i), g1 = group256<kTaps, 1>(origin, stride, taps, i);
    const __m256 g2 = group256<kTaps, 2>(origin, stride, taps, i), g3 = group256<kTaps, 3>(origin, stride, taps, i);
    const __m256d rg01 = _mm256_castps_pd(_mm256_unpacklo_ps(g0, g1));
    const __m256d bm01 = _mm256_castps_pd(_mm256_unpackhi_ps(g0, g1));
    const __m256d rg23 = _mm256_castps_pd(_mm256_unpacklo_ps(g2, g3));
    const __m256d bm23 = _mm256_castps_pd(_mm256_unpackhi_ps(g2, g3));
    _mm256_store_ps(out.plane[0] + i, _mm256_castpd_ps(_mm256_unpacklo_pd(rg01, rg23)));
    _mm256_store_ps(out.plane[1] + i, _mm256_castpd_ps(_mm256_unpackhi_pd(rg01, rg23)));
    _mm256_store_ps(out.plane[2] + i, _mm256_castpd_ps(_mm256_unpacklo_pd(bm01, bm23)));
    _mm256_store_ps(out.plane[3] + i, _mm256_castpd_ps(_mm256_unpackhi_pd(bm01, bm23)));
  }
}

TPC_TARGET_AVX2 TPC_INLINE void store_rgb_avx2(const Planes& planes, int n, uint8_t* image, uint8_t* mask) {
  const __m256i arrange = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kInterleave)));
  const __m256i gather = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7);
  for (int i = 0; i < n; i += 8) {
    const __m256i r = _mm256_cvtps_epi32(_mm256_load_ps(planes.plane[0] + i));
    const __m256i g = _mm256_cvtps_epi32(_mm256_load_ps(planes.plane[1] + i));
    const __m256i b = _mm256_cvtps_epi32(_mm256_load_ps(planes.plane[2] + i));
    const __m256i m = _mm256_cvtps_epi32(_mm256_load_ps(planes.plane[3] + i));
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(r, g), _mm256_packs_epi32(b, m));
    const __m256i sorted = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(bytes, arrange), gather);
    if (n - i >= 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(image + 3 * i), _mm256_castsi256_si128(sorted));
      const __m128i rest = _mm256_extracti128_si256(sorted, 1);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(image + 3 * i + 16), rest);
      if (mask != nullptr) _mm_storel_epi64(reinterpret_cast<__m128i*>(mask + i), _mm_srli_si128(rest, 8));
    } else {
      alignas(32) uint8_t last[32];
      _mm256_store_si256(reinterpret_cast<__m256i*>(last), sorted);
      std::memcpy(image + 3 * i, last, 3 * static_cast<size_t>(n - i));
      if (mask != nullptr) std::memcpy(mask + i, last + 24, static_cast<size_t>(n - i));
    }
  }
}

#endif  // TPC_X86

// ---------------------------------------------------------------------------------------------------------------
// The kernels of one instruction set

struct Kernels {
  void (*sample[3])(const Track&, int n, Planes&);  // by Interpolation
  void (*settle)(Planes& fine, const Planes* coarse, float share, int n);
  void (*store_bytes)(const Planes&, int channels, int n, uint8_t* image, uint8_t* mask);
  void (*store_floats)(const float* plane, float scale, float shift, int n, float* out);
  void (*store_halves)(const float* plane, float scale, float shift, int n, uint16_t* out);
  void (*load_bytes)(const uint8_t* image, int channels, int n, Planes&);
  void (*lay_over)(const Planes& person, int channels, int n, int first, Planes& composite);
  void (*halve_line)(const PackedImage& fine, int64_t y, const PackedImage& coarse);
  void (*pack_rgb)(const uint8_t* colour, const uint8_t* mask, int64_t width, uint8_t* out);
  void (*pack_grey)(const uint8_t* colour, const uint8_t* mask, int64_t width, uint8_t* out);
};

// The plain loops are compiled once per instruction set and vectorised by the compiler.
#define TPC_WARP_LEVEL(NAME, TARGET, BILINEAR, CUBIC, STORE_RGB, PACK_RGB)                                          \
  struct NAME {                                                                                                     \
    TARGET static void nearest(const Track& t, int n, Planes& out) { sample_nearest_body(t, n, out); }              \
    TARGET static void settle(Planes& a, const Planes* b, float s, int n) { settle_body(a, b, s, n); }              \
    TARGET static void store_bytes(const Planes& p, int channels, int n, uint8_t* image, uint8_t* mask) {           \
      if (channels == 3)                                                                                            \
        STORE_RGB(p, n, image, mask);                                                                               \
      else                                                                                                          \
        store_bytes_body(p, 1, n, image, mask);                                                                     \
    }                                                                                                               \
    TARGET static void store_floats(const float* p, float a, float b, int n, float* out) {                          \
      store_plane_body(p, a, b, n, out);                                                                            \
    }                                                                                                               \
    TARGET static void store_halves(const float* p, float a, float b, int n, uint16_t* out) {                       \
      store_plane_body(p, a, b, n, out);                                                                            \
    }                                                                                                               \
    TARGET static void load_bytes(const uint8_t* p, int channels, int n, Planes& out) {                             \
      load_bytes_body(p, channels, n, out);                                                                         \
    }                                                                                                               \
    TARGET static void lay_over(const Planes& p, int channels, int n, int first, Planes& out) {                     \
      lay_over_body(p, channels, n, first, out);                                                                    \
    }                                                                                                               \
    TARGET static void halve_line(const PackedImage& fine, int64_t y, const PackedImage& coarse) {                  \
      halve_line_body(fine, y, coarse);                                                                             \
    }                                                                                                               \
    TARGET static void pack_grey(const uint8_t* p, const uint8_t* m, int64_t n, uint8_t* out) {                     \
      pack_grey_line(p, m, n, out);                                                                                 \
    }                                                                                                               \
    static constexpr Kernels kernels = {{nearest, BILINEAR, CUBIC}, settle, store_bytes, store_floats, store_halves,\
                                        load_bytes, lay_over, halve_line, PACK_RGB, pack_grey};                     \
  };

TPC_INLINE void store_rgb_baseline(const Planes& planes, int n, uint8_t* image, uint8_t* mask) {
  store_bytes_body(planes, 3, n, image, mask);
}

void pack_rgb_baseline(const uint8_t* colour, const uint8_t* mask, int64_t width, uint8_t* out) {
  pack_rgb_line(colour, mask, width, out);
}

TPC_WARP_LEVEL(Baseline, , sample_baseline<2>, sample_baseline<4>, store_rgb_baseline, pack_rgb_baseline)
#if TPC_X86
TPC_WARP_LEVEL(Avx2, TPC_TARGET_AVX2, sample_avx2<2>, sample_avx2<4>, store_rgb_avx2, pack_rgb_avx2)
TPC_WARP_LEVEL(Avx512, TPC_TARGET_AVX512, sample_avx512<2>, sample_avx512<4>, store_rgb_avx512, pack_rgb_avx2)
#endif
#undef TPC_WARP_LEVEL

const Kernels& kernels() {
#if TPC_X86
  if (simd() == Simd::avx512) return Avx512::kernels;
  if (simd() == Simd::avx2) return Avx2::kernels;
#endif
  return Baseline::kernels;
}

// ---------------------------------------------------------------------------------------------------------------
// Geometry

// Output pixel -> pixel of one pyramid level.
struct View {
  const PackedImage* source;
  double xx, xy, x0;  // x = xx * column + xy * row + x0
  double yx, yy, y0;
};

struct Span {
  int64_t begin, end;
  bool empty() const { return begin >= end; }
};

// Narrows [low, high] to where `from` < slope * t + offset < `to`: to nothing where that is never so, or not a number.
void clip(double slope, double offset, double from, double to, double& low, double& high) {
  const double a = (from - offset) / slope, b = (to - offset) / slope;  // infinite for slopes near 0, which says it too
  if (slope == 0 ? from < offset && offset < to : !(std::isnan(a) || std::isnan(b))) {
    if (slope == 0) return;
    low = std::max(low, std::min(a, b));
    high = std::min(high, std::max(a, b));
  } else {
    low = std::numeric_limits<double>::infinity();
    high = -low;
  }
}

// The columns of an output row that the reference reaches: where some tap of non-zero weight can lie inside it. Whatever
// the matrix is, they lie in [0, width].
Span reach(const View& view, int64_t row, int64_t width, int radius) {
  double low = 0, high = static_cast<double>(width - 1);
  const double y = static_cast<double>(row);
  clip(view.xx, view.xy * y + view.x0, -radius, static_cast<double>(view.source->width + radius - 1), low, high);
  clip(view.yx, view.yy * y + view.y0, -radius, static_cast<double>(view.source->height + radius - 1), low, high);
  if (!(low <= high)) return {0, 0};  // both are within [0, width - 1] from here on
  return {static_cast<int64_t>(std::ceil(low)), static_cast<int64_t>(std::floor(high)) + 1};
}

uint64_t to_fixed(double value) {
  // A step this large has no second pixel within reach, so limiting it changes nothing. NaN becomes the lower limit.
  constexpr double kLimit = 0x1p30;
  return static_cast<uint64_t>(std::llrint(std::min(std::max(-kLimit, value), kLimit) * 0x1p32));
}

Track track(const View& view, int64_t row, int64_t column) {
  const double x = static_cast<double>(column), y = static_cast<double>(row);
  return {view.source, to_fixed(view.xx * x + (view.xy * y + view.x0)), to_fixed(view.yx * x + (view.yy * y + view.y0)),
          to_fixed(view.xx), to_fixed(view.yx)};
}

// How one person is sampled in one frame: from one pyramid level, or from two neighbours.
struct Placement {
  View views[2];
  int count;
  float share;  // of the coarser level

  Span reach_of(int64_t row, int64_t width, int radius) const {
    Span span = reach(views[0], row, width, radius);
    if (count == 1) return span;
    const Span other = reach(views[1], row, width, radius);
    if (span.empty()) return other;
    if (other.empty()) return span;
    return {std::min(span.begin, other.begin), std::max(span.end, other.end)};
  }
};

Placement place(const std::vector<PackedImage>& levels, const double* m, bool antialias) {
  const double det = m[0] * m[4] - m[1] * m[3];
  const View full{&levels[0],   m[4] / det, -m[1] / det, (m[1] * m[5] - m[4] * m[2]) / det,
                  -m[3] / det, m[0] / det, (m[3] * m[2] - m[0] * m[5]) / det};

  // Level l is a blur of variance (4^l - 1) / 4, and blending l and l + 1 gives (1 / s^2 - 1) / 4.
  double shrink = antialias ? 1 / std::abs(det) : 1;  // 1 / s^2, relative to the level
  size_t level = 0;
  for (; shrink >= 4 && level + 1 < levels.size(); ++level) shrink /= 4;

  const auto view_of = [&](size_t l) {
    const double size = std::ldexp(1.0, static_cast<int>(l)), shift = (size - 1) / 2;
    return View{&levels[l],           full.xx / size, full.xy / size, (full.x0 - shift) / size,
                full.yx / size, full.yy / size, (full.y0 - shift) / size};
  };
  Placement placement{{view_of(level), full}, 1, 0};
  if (shrink > 1 && level + 1 < levels.size()) {
    placement.views[1] = view_of(level + 1);
    placement.count = 2;
    placement.share = static_cast<float>((shrink - 1) / 3);
  }
  return placement;
}

// ---------------------------------------------------------------------------------------------------------------
// Rendering

// Rows of all outputs of one job. T: the type of their elements.
template <typename T>
class Renderer {
 public:
  Renderer(const WarpSource& source, const WarpJob& job)
      : kernels_(kernels()), job_(job), persons_(source.persons()), channels_(source.channels()),
        radius_(job.interpolation == Interpolation::cubic ? 2 : 1) {
    placements_.reserve(static_cast<size_t>(job.frames * persons_));
    for (int64_t i = 0; i < job.frames * persons_; ++i)
      placements_.push_back(place(source.levels(i % persons_), job.matrix + 6 * i, job.antialias));
    if (kBytes && job.composite != nullptr && job.background == nullptr) {
      Planes colour{};
      load_colour(1, colour);
      colour_row_.resize(static_cast<size_t>(job.width * channels_));
      for (int64_t x = 0; x < job.width; ++x)
        kernels_.store_bytes(colour, channels_, 1, colour_row_.data() + x * channels_, nullptr);
    }
  }

  // Rows [top, bottom) of a frame, at most kRows. Strip by strip, not row by row: the strips of neighbouring rows read
  // the same part of the reference, which then still is in the cache.
  void rows(int64_t frame, int64_t top, int64_t bottom) const {
    Span reached[kRows], columns{job_.width, 0};
    for (int64_t y = top; y < bottom; ++y) {
      Span& span = reached[y - top] = {job_.width, 0};
      for (int64_t person = 0; person < persons_; ++person) {
        const int64_t i = frame * persons_ + person;
        const Span own = placements_[static_cast<size_t>(i)].reach_of(y, job_.width, radius_);
        clear(i, y, 0, own.begin);
        clear(i, y, own.end, job_.width);
        if (!own.empty()) span = {std::min(span.begin, own.begin), std::max(span.end, own.end)};
      }
      if (span.empty()) span = {0, 0};
      if (!span.empty()) columns = {std::min(columns.begin, span.begin), std::max(columns.end, span.end)};
      if (job_.composite != nullptr) {
        show_background(frame, y, 0, span.begin);
        show_background(frame, y, span.end, job_.width);
      }
    }
    for (int64_t x = columns.begin; x < columns.end; x += kStrip)
      for (int64_t y = top; y < bottom; ++y) {
        const int64_t begin = std::max(x, reached[y - top].begin), end = std::min(x + kStrip, reached[y - top].end);
        if (begin < end) strip(frame, y, begin, end);
      }
  }

  static constexpr int64_t kRows = 16;

 private:
  static constexpr bool kBytes = std::is_same_v<T, uint8_t>;

  void strip(int64_t frame, int64_t y, int64_t begin, int64_t end) const {
    Planes person, coarse, composite;
    if (job_.composite != nullptr) load_background(frame, y, begin, end, composite);
    for (int64_t p = 0; p < persons_; ++p) {
      const Placement& placement = placements_[static_cast<size_t>(frame * persons_ + p)];
      Span span{begin, end};  // of one person that is what it reaches
      if (persons_ > 1) {
        const Span own = placement.reach_of(y, job_.width, radius_);
        span = {std::max(own.begin, begin), std::min(own.end, end)};
      }
      if (span.empty()) continue;
      const int n = static_cast<int>(span.end - span.begin);
      const auto sample = kernels_.sample[static_cast<int>(job_.interpolation)];
      sample(track(placement.views[0], y, span.begin), n, person);
      if (placement.count == 2) sample(track(placement.views[1], y, span.begin), n, coarse);
      // Bytes saturate when they are stored.
      if (placement.count == 2 || !kBytes || job_.composite != nullptr)
        kernels_.settle(person, placement.count == 2 ? &coarse : nullptr, placement.share, n);
      store(person, frame * persons_ + p, y, span.begin, n);
      if (job_.composite != nullptr)
        kernels_.lay_over(person, channels_, n, static_cast<int>(span.begin - begin), composite);
    }
    if (job_.composite != nullptr)
      store_image(composite, job_.composite, frame, y, begin, static_cast<int>(end - begin));
  }

  // Element (row y, column x) of picture i, in the first channel.
  T* pixel(void* images, int64_t i, int64_t y, int64_t x) const {
    const int64_t at = kBytes ? ((i * job_.height + y) * job_.width + x) * channels_
                              : (i * channels_ * job_.height + y) * job_.width + x;
    return static_cast<T*>(images) + at;
  }
  T* mask_pixel(int64_t i, int64_t y, int64_t x) const {
    return static_cast<T*>(job_.mask) + (i * job_.height + y) * job_.width + x;
  }

  void store_plane(const float* plane, float scale, float shift, int n, T* out) const {
    if constexpr (std::is_same_v<T, float>) kernels_.store_floats(plane, scale, shift, n, out);
    if constexpr (std::is_same_v<T, uint16_t>) kernels_.store_halves(plane, scale, shift, n, out);
  }

  void store_image(const Planes& planes, void* images, int64_t i, int64_t y, int64_t x, int n) const {
    T* out = pixel(images, i, y, x);
    if constexpr (kBytes) {
      kernels_.store_bytes(planes, channels_, n, out, nullptr);
    } else {
      for (int c = 0; c < channels_; ++c)
        store_plane(planes.plane[c], 1 / 127.5f, -1, n, out + c * job_.height * job_.width);
    }
  }

  void store(const Planes& planes, int64_t i, int64_t y, int64_t x, int n) const {
    if constexpr (kBytes) {
      kernels_.store_bytes(planes, channels_, n, pixel(job_.image, i, y, x), mask_pixel(i, y, x));
    } else {
      store_image(planes, job_.image, i, y, x, n);
      store_plane(planes.plane[kMaskPlane], 1 / 255.0f, 0, n, mask_pixel(i, y, x));
    }
  }

  // Columns that nothing reaches: black, no mask.
  void clear(int64_t i, int64_t y, int64_t begin, int64_t end) const {
    if (begin >= end) return;
    const int64_t n = end - begin;
    T* out = pixel(job_.image, i, y, begin);
    if constexpr (kBytes) {
      std::memset(out, 0, static_cast<size_t>(n * channels_));
    } else {
      T black;
      store_value(-1.0f, &black);
      for (int c = 0; c < channels_; ++c) std::fill_n(out + c * job_.height * job_.width, n, black);
    }
    std::fill_n(mask_pixel(i, y, begin), n, T{0});
  }

  void load_colour(int n, Planes& out) const {
    for (int c = 0; c < channels_; ++c) std::fill_n(out.plane[c], n, job_.colour[c]);
  }

  const uint8_t* background(int64_t frame, int64_t y, int64_t x) const {
    return job_.background + frame * job_.background_stride + (y * job_.width + x) * channels_;
  }

  void load_background(int64_t frame, int64_t y, int64_t begin, int64_t end, Planes& out) const {
    const int n = static_cast<int>(end - begin);
    out = Planes{};  // all four channels are converted when it is stored
    if (job_.background == nullptr)
      load_colour(n, out);
    else
      kernels_.load_bytes(background(frame, y, begin), channels_, n, out);
  }

  void show_background(int64_t frame, int64_t y, int64_t begin, int64_t end) const {
    if (begin >= end) return;
    if constexpr (kBytes) {
      const uint8_t* from = job_.background == nullptr ? colour_row_.data() : background(frame, y, begin);
      std::memcpy(pixel(job_.composite, frame, y, begin), from, static_cast<size_t>((end - begin) * channels_));
    } else {
      Planes planes;
      for (int64_t x = begin; x < end; x += kStrip) {
        const int64_t stop = std::min(x + kStrip, end);
        load_background(frame, y, x, stop, planes);
        store_image(planes, job_.composite, frame, y, x, static_cast<int>(stop - x));
      }
    }
  }

  const Kernels& kernels_;
  const WarpJob& job_;
  const int64_t persons_;
  const int channels_, radius_;
  std::vector<Placement> placements_;  // [frame][person]
  std::vector<uint8_t> colour_row_;
};

// Pixels below which a thread takes longer to wake than to sample: 10 us or so on the machines seen, at 2 to 4 ns a pixel.
constexpr int64_t kWorthWaking = 4096;

template <typename T>
void render(const WarpSource& source, const WarpJob& job) {
  const Renderer<T> renderer(source, job);
  constexpr int64_t kRows = Renderer<T>::kRows;
  const int64_t bands = (job.height + kRows - 1) / kRows;  // of a frame
  const int64_t grain = kWorthWaking / (kRows * job.width * source.persons()) + 1;
  parallel_for(job.frames * bands, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t top = i % bands * kRows;
      renderer.rows(i / bands, top, std::min(top + kRows, job.height));
    }
  });
}

}  // namespace

constexpr size_t kMaxLevels = 25;  // halving WarpSource::kMaxSide down to one pixel

// Kernels load 16 bytes from any tap, hence the four pixels beyond the last row.
PackedImage::PackedImage(int64_t height_, int64_t width_)
    : height(height_), width(width_), stride(width_ + 2 * kBorder), data_(nullptr, std::free) {
  const int64_t pixels = (height + 2 * kBorder) * stride + 4;
  data_.reset(static_cast<uint8_t*>(std::malloc(static_cast<size_t>(4 * pixels))));
  if (data_ == nullptr) throw std::bad_alloc();
  std::memset(data_.get(), 0, static_cast<size_t>(at(0, 0) - data_.get()));
  for (int64_t y = 0; y + 1 < height; ++y) std::memset(at(y, width), 0, static_cast<size_t>(8 * kBorder));
  uint8_t* const end = at(height - 1, width);
  std::memset(end, 0, static_cast<size_t>(data_.get() + 4 * pixels - end));
}

WarpSource::WarpSource(const uint8_t* image, bool shared, const uint8_t* mask, int64_t persons, int64_t height,
                       int64_t width, int channels)
    : levels_(static_cast<size_t>(persons)), channels_(channels) {
  for (int64_t p = 0; p < persons; ++p) {
    std::vector<PackedImage>& levels = levels_[static_cast<size_t>(p)];
    levels.reserve(kMaxLevels);  // so that building the pyramid moves nothing that another thread is sampling
    const PackedImage& packed = levels.emplace_back(height, width);
    const uint8_t* colours = image + (shared ? 0 : p * height * width * channels);
    const uint8_t* coverage = mask + p * height * width;
    const auto pack_line = channels == 3 ? kernels().pack_rgb : kernels().pack_grey;
    parallel_for(height, 64, [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y)
        pack_line(colours + y * width * channels, coverage + y * width, width, packed.at(y, 0));
    });
  }
}

void WarpSource::build_pyramid() {
  std::call_once(pyramid_built_, [this] {
    const auto halve_line = kernels().halve_line;
    for (std::vector<PackedImage>& levels : levels_)
      while (levels.back().height > 1 || levels.back().width > 1) {
        PackedImage coarse((levels.back().height + 1) / 2, (levels.back().width + 1) / 2);
        const PackedImage& fine = levels.back();
        parallel_for(coarse.height, 32, [&](int64_t begin, int64_t end) {
          for (int64_t y = begin; y < end; ++y) halve_line(fine, y, coarse);
        });
        levels.push_back(std::move(coarse));
      }
  });
}

void warp_composite(WarpSource& source, const WarpJob& job) {
  if (job.antialias) source.build_pyramid();
  switch (job.format) {
    case Format::uint8: return render<uint8_t>(source, job);
    case Format::float32: return render<float>(source, job);
    case Format::float16: return render<uint16_t>(source, job);
  }
}

}  // namespace tpc
