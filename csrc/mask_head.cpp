#include "mask_head.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace tpc {
namespace {

constexpr int64_t kBand = 16;      // a thread's rows of a result, at least; the up to three beyond each end are made twice
constexpr int64_t kMargin = 16;    // floats beside a row: zeros at its ends, and aligned rows
constexpr size_t kAlignment = 64;  // of rows, in bytes: a line of the cache and a register of AVX-512
constexpr int64_t kKept = 4;       // rows of a layer: a power of two, of which the next one reads three
constexpr int kC = static_cast<int>(kMaskFeatures);

// The last rows of a layer, plane by plane: row y of channel c, which may be read one pixel beyond both ends. (Loops over
// rows are what compilers vectorise; over eight channels of a pixel they do not.)
struct Rows {
  float* values;
  int64_t stride;
  float* row(int64_t y, int c) const { return values + ((y & (kKept - 1)) * kC + c) * stride + kMargin; }
};

// A size of the network: features come at half its sides, are enlarged, and pass two blocks. Pictures between levels are
// stored as rows of planes [height, 8, width].
struct Level {
  const float* features;  // [height / 2, 8, width / 2]
  const float* earlier;   // [height, width, 8] or null
  const float* weights;
  int64_t height, width;
  float* out;         // [height, 8, width], or null
  uint8_t* mask;      // [height, width], after the last layer, or null
  const float* last;  // its weights
};

// Compared as whole numbers, whose order is that of floats from 0 on, and below which all negative ones lie: of these,
// unlike of floats, which may be NaN, compilers know that they have minima and maxima.
TPC_INLINE float relu6(float value) {
  constexpr int32_t kSix = 0x40c00000;  // the bits of 6.0f
  int32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = std::min(std::max(bits, 0), kSix);
  std::memcpy(&value, &bits, 4);
  return value;
}

// A row at twice the height and width (bilinear, pixel centres at halves, borders repeated).
TPC_INLINE void enlarge_row(const Level& level, int64_t y, const Rows& to, float* __restrict blended) {
  const int64_t width = level.width / 2, last = level.height / 2 - 1;
  const int64_t nearest = y / 2, other = std::min(std::max(nearest + (y % 2 == 0 ? -1 : 1), int64_t{0}), last);
  for (int c = 0; c < kC; ++c) {
    const float* a = level.features + (nearest * kC + c) * width;
    const float* b = level.features + (other * kC + c) * width;
    for (int64_t x = 0; x < width; ++x) blended[x + 1] = 0.75f * a[x] + 0.25f * b[x];
    blended[0] = blended[1];
    blended[width + 1] = blended[width];
    float* __restrict out = to.row(y, c);
    for (int64_t x = 0; x < width; ++x) {
      const float here = 0.75f * blended[x + 1];
      out[2 * x] = here + 0.25f * blended[x];
      out[2 * x + 1] = here + 0.25f * blended[x + 2];
    }
    if (level.earlier == nullptr) continue;
    const float* add = level.earlier + y * level.width * kC + c;
    for (int64_t x = 0; x < level.width; ++x) out[x] += add[x * kC];
  }
}

// The nine taps of a 3 x 3 of one channel.
struct Taps {
  const float *above, *here, *below;
  float w[9];

  TPC_ALWAYS_INLINE Taps(const Rows& from, int64_t y, int c, const float* weights)
      : above(from.row(y - 1, c)), here(from.row(y, c)), below(from.row(y + 1, c)) {
    for (int i = 0; i < 9; ++i) w[i] = weights[i * kC + c];
  }
  TPC_ALWAYS_INLINE float at(int64_t x) const {
    return w[0] * above[x - 1] + w[1] * above[x] + w[2] * above[x + 1] + w[3] * here[x - 1] + w[4] * here[x] +
           w[5] * here[x + 1] + w[6] * below[x - 1] + w[7] * below[x] + w[8] * below[x + 1];
  }
};

// relu6(x + pointwise(relu6(depthwise(x)))) of a row.
TPC_INLINE void block_row(const float* w, const Rows& from, int64_t y, int64_t n, float* to, int64_t stride,
                          float* __restrict between) {
  const float* bias = w + 9 * kC;
  const float* mix = bias + kC;
  const float* mix_bias = mix + kC * kC;
  for (int c = 0; c < kC; ++c) {
    float* __restrict sum = between + c * n;
    const Taps taps(from, y, c, w);
    const float plus = bias[c];
    for (int64_t x = 0; x < n; ++x) sum[x] = relu6(plus + taps.at(x));
  }
  for (int c = 0; c < kC; ++c) {
    const float* in = from.row(y, c);
    float* __restrict out = to + c * stride;
    const float w0 = mix[c], w1 = mix[kC + c], w2 = mix[2 * kC + c], w3 = mix[3 * kC + c], w4 = mix[4 * kC + c],
                w5 = mix[5 * kC + c], w6 = mix[6 * kC + c], w7 = mix[7 * kC + c], plus = mix_bias[c];
    for (int64_t x = 0; x < n; ++x) {
      const float* at = between + x;
      out[x] = relu6(in[x] + (plus + w0 * at[0] + w1 * at[n] + w2 * at[2 * n] + w3 * at[3 * n] + w4 * at[4 * n] +
                              w5 * at[5 * n] + w6 * at[6 * n] + w7 * at[7 * n]));
    }
  }
}

// 255 / (1 + exp(-x)), rounded: by the rational approximation of tanh(x / 2) that Eigen uses (ptanh_float), good to a few
// units in the last place.
TPC_INLINE void confidence_row(const float* sum, int64_t n, uint8_t* __restrict out) {
  constexpr float kMost = 7.90531110763549805f;
  for (int64_t i = 0; i < n; ++i) {
    float x = 0.5f * sum[i];
    x = x < kMost ? x : kMost;
    x = x > -kMost ? x : -kMost;
    const float s = x * x;
    float p = -2.76076847742355e-16f;
    p = p * s + 2.00018790482477e-13f;
    p = p * s - 8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    float q = 1.19825839466702e-06f;
    q = q * s + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    out[i] = static_cast<uint8_t>(static_cast<int32_t>(255 * (0.5f + 0.5f * (x * p / q)) + 0.5f));
  }
}

// Rows of a result from `begin` to `end`. All layers go down the picture together, each a row behind the one that it
// reads: rows are made once, but for those beyond the ends, and read while a cache has them.
TPC_INLINE void band_body(const Level& level, int64_t begin, int64_t end, float* memory) {
  const int64_t n = level.width, stride = n + 2 * kMargin, plane = kKept * kC * stride;
  const Rows enlarged{memory, stride}, first{memory + plane, stride}, second{memory + 2 * plane, stride};
  float* spare = memory + 3 * plane;
  // Every layer but the first reads a row beyond both ends; what lies beyond the picture is 0.
  const auto outside = [&](int64_t y) { return y < 0 || y >= level.height; };
  const auto clear = [&](const Rows& rows, int64_t y) {
    for (int c = 0; c < kC; ++c) std::fill(rows.row(y, c), rows.row(y, c) + n, 0.0f);
  };
  const float* next = level.weights + kMaskBlockWeights;
  const int64_t more = level.mask == nullptr ? 0 : 1;  // one layer more
  for (int64_t y = begin - 4 - 2 * more; y < end; ++y) {
    const int64_t third = y + more, ahead = third + 1, farthest = third + 2;
    if (outside(farthest))
      clear(enlarged, farthest);
    else
      enlarge_row(level, farthest, enlarged, spare);
    if (ahead < begin - more - 1) continue;
    if (outside(ahead))
      clear(first, ahead);
    else
      block_row(level.weights, enlarged, ahead, n, first.row(ahead, 0), stride, spare);
    if (third < begin - more) continue;
    if (outside(third))
      clear(second, third);
    else if (level.mask == nullptr)
      block_row(next, first, third, n, level.out + third * n * kC, n, spare);
    else
      block_row(next, first, third, n, second.row(third, 0), stride, spare);
    if (level.mask == nullptr || y < begin) continue;
    std::fill(spare, spare + n, level.last[9 * kC]);
    for (int c = 0; c < kC; ++c) {
      const Taps taps(second, y, c, level.last);
      for (int64_t x = 0; x < n; ++x) spare[x] += taps.at(x);
    }
    confidence_row(spare, n, level.mask + y * n);
  }
}

using BandFunction = void (*)(const Level&, int64_t, int64_t, float*);

void band(const Level& level, int64_t begin, int64_t end, float* memory) { band_body(level, begin, end, memory); }

#if TPC_X86
TPC_TARGET_AVX2 void band_avx2(const Level& level, int64_t begin, int64_t end, float* memory) {
  band_body(level, begin, end, memory);
}

TPC_TARGET_AVX512 void band_avx512(const Level& level, int64_t begin, int64_t end, float* memory) {
  band_body(level, begin, end, memory);
}
#endif

void run(const Level& level) {
  BandFunction function = band;
#if TPC_X86
  if (simd() == Simd::avx2) function = band_avx2;
  if (simd() == Simd::avx512) function = band_avx512;
#endif
  // Two pieces for each thread, for one may come late.
  const int64_t bands = (level.height + kBand - 1) / kBand, pieces = 2 * num_threads();
  parallel_for(bands, (bands + pieces - 1) / pieces, [&](int64_t begin, int64_t end) {
    // Kept by the thread, for new memory is cleared by the system every time. What lies beside the rows stays 0.
    static thread_local std::vector<float> wide, narrow;
    std::vector<float>& memory = level.mask == nullptr ? narrow : wide;
    const int64_t needed = 3 * kKept * kC * (level.width + 2 * kMargin) + kC * (level.width + 2);
    const size_t floats = static_cast<size_t>(needed) + kAlignment / sizeof(float);
    if (memory.size() != floats) memory.assign(floats, 0.0f);
    const size_t beyond = reinterpret_cast<uintptr_t>(memory.data()) % kAlignment;
    function(level, begin * kBand, std::min(end * kBand, level.height),
             memory.data() + (kAlignment - beyond) % kAlignment / sizeof(float));
  });
}

}  // namespace

void mask_head(const MaskHeadJob& job) {
  const int64_t height = 2 * job.height, width = 2 * job.width;
  if (height == 0 || width == 0) return;
  static thread_local std::vector<float> planes, between;
  planes.resize(static_cast<size_t>(job.height * job.width * kC));
  between.resize(static_cast<size_t>(height * width * kC));
  for (int64_t y = 0; y < job.height; ++y)
    for (int c = 0; c < kC; ++c)
      for (int64_t x = 0; x < job.width; ++x)
        planes[(y * kC + c) * job.width + x] = job.features[(y * job.width + x) * kC + c];
  const float* second = job.weights + 2 * kMaskBlockWeights;
  run({planes.data(), job.earlier, job.weights, height, width, between.data(), nullptr, nullptr});
  run({between.data(), nullptr, second, 2 * height, 2 * width, nullptr, job.out, second + 2 * kMaskBlockWeights});
}

}  // namespace tpc
