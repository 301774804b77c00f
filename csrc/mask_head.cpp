#include "mask_head.h"

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace tpc {
namespace {

constexpr int64_t kBand = 16;  // rows of the output; with those that they rest on they fit into a second-level cache
constexpr int64_t kMargin = 16;  // floats beside a row: zeros at its ends, and aligned rows
constexpr int kC = static_cast<int>(kMaskFeatures);

// Some rows of a picture, plane by plane: row y of channel c, which may be read one pixel beyond both ends.
struct Rows {
  float* values;
  int64_t first, stride;
  float* row(int64_t y, int c) const { return values + ((y - first) * kC + c) * stride + kMargin; }
};

TPC_INLINE float relu6(float value) {
  value = value > 0.0f ? value : 0.0f;
  return value < 6.0f ? value : 6.0f;
}

// A row at twice the height and width (bilinear, pixel centres at halves, borders repeated).
TPC_INLINE void enlarge_row(const MaskHeadJob& job, int64_t y, const Rows& to, float* __restrict blended) {
  const int64_t nearest = y / 2, other = std::min(std::max(nearest + (y % 2 == 0 ? -1 : 1), int64_t{0}), job.height - 1);
  const float* a = job.features + nearest * job.width * kC;
  const float* b = job.features + other * job.width * kC;
  for (int64_t i = 0; i < job.width * kC; ++i) blended[kC + i] = 0.75f * a[i] + 0.25f * b[i];
  for (int c = 0; c < kC; ++c) {
    blended[c] = blended[kC + c];
    blended[(job.width + 1) * kC + c] = blended[job.width * kC + c];
  }
  float* __restrict out = to.row(y, 0);
  for (int64_t x = 0; x < job.width; ++x) {
    const float* at = blended + x * kC;
    for (int c = 0; c < kC; ++c) {
      const float here = 0.75f * at[kC + c];
      out[c * to.stride + 2 * x] = here + 0.25f * at[c];
      out[c * to.stride + 2 * x + 1] = here + 0.25f * at[2 * kC + c];
    }
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
TPC_INLINE void block_row(const float* w, const Rows& from, int64_t y, int64_t n, const Rows& to,
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
    float* __restrict out = to.row(y, c);
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

// Rows of the output from `begin` to `end`; `memory`: [band_floats] of `mask_head`.
TPC_INLINE void band_body(const MaskHeadJob& job, int64_t begin, int64_t end, int64_t stride, float* memory) {
  const int64_t height = 2 * job.height, n = 2 * job.width;
  // Every layer but the first reads a row beyond both ends; what lies beyond the picture is 0.
  const int64_t plane = (kBand + 6) * kC * stride;
  const Rows enlarged{memory, begin - 3, stride}, first{memory + plane, begin - 3, stride},
      second{memory + 2 * plane, begin - 3, stride};
  float* spare = memory + 3 * plane;
  const auto inside = [&](int64_t y) { return y >= 0 && y < height; };
  const auto black = [&](const Rows& rows, int64_t y) {
    for (int c = 0; c < kC; ++c) std::fill(rows.row(y, c), rows.row(y, c) + n, 0.0f);
  };
  for (int64_t y = begin - 3; y < end + 3; ++y) inside(y) ? enlarge_row(job, y, enlarged, spare) : black(enlarged, y);
  for (int64_t y = begin - 2; y < end + 2; ++y)
    inside(y) ? block_row(job.weights, enlarged, y, n, first, spare) : black(first, y);
  for (int64_t y = begin - 1; y < end + 1; ++y)
    inside(y) ? block_row(job.weights + kMaskBlockWeights, first, y, n, second, spare) : black(second, y);
  const float* last = job.weights + 2 * kMaskBlockWeights;
  for (int64_t y = begin; y < end; ++y) {
    std::fill(spare, spare + n, last[9 * kC]);
    for (int c = 0; c < kC; ++c) {
      const Taps taps(second, y, c, last);
      for (int64_t x = 0; x < n; ++x) spare[x] += taps.at(x);
    }
    confidence_row(spare, n, job.out + y * n);
  }
}

using BandFunction = void (*)(const MaskHeadJob&, int64_t, int64_t, int64_t, float*);

void band(const MaskHeadJob& job, int64_t begin, int64_t end, int64_t stride, float* memory) {
  band_body(job, begin, end, stride, memory);
}

#if TPC_X86
TPC_TARGET_AVX2 void band_avx2(const MaskHeadJob& job, int64_t begin, int64_t end, int64_t stride, float* memory) {
  band_body(job, begin, end, stride, memory);
}
#endif

}  // namespace

void mask_head(const MaskHeadJob& job) {
  const int64_t height = 2 * job.height, n = 2 * job.width, stride = n + 2 * kMargin;
  if (height == 0 || n == 0) return;
  BandFunction function = band;
#if TPC_X86
  if (simd() != Simd::baseline) function = band_avx2;
#endif
  parallel_for((height + kBand - 1) / kBand, 1, [&](int64_t begin, int64_t end) {
    // Kept by the thread, for new memory is cleared by the system every time; nothing is written beside the rows.
    static thread_local std::vector<float> memory;
    const size_t floats = static_cast<size_t>(3 * (kBand + 6) * kC * stride + kC * (n + 2));
    if (memory.size() != floats) memory.assign(floats, 0.0f);
    for (int64_t i = begin; i < end; ++i) function(job, i * kBand, std::min((i + 1) * kBand, height), stride, memory.data());
  });
}

}  // namespace tpc
