#include "yuv.h"

#include <algorithm>
#include <cstring>

#include "simd.h"

namespace tpc {
namespace {

constexpr int kBits = 16;  // of the weights: three of them, each off by 2^-17 at most, move a value by 0.003
constexpr int kChromaBits = kBits + 2;  // of four pixels
constexpr int kBlock = 64;

constexpr int32_t weight(double share) { return static_cast<int32_t>(share * (1 << kBits) + (share < 0 ? -0.5 : 0.5)); }

constexpr double kRed = 0.2126, kBlue = 0.0722, kGreen = 1 - kRed - kBlue;  // BT.709
constexpr double kLuma = 219.0 / 255, kChroma = 224.0 / 255 / 2;            // limited range; chroma spans both signs
constexpr int32_t kY[3] = {weight(kLuma * kRed), weight(kLuma * kGreen), weight(kLuma * kBlue)};
// The third completes the sum to zero, so that grey has no chroma.
constexpr int32_t kUr = weight(-kChroma * kRed / (1 - kBlue)), kUg = weight(-kChroma * kGreen / (1 - kBlue));
constexpr int32_t kVg = weight(-kChroma * kGreen / (1 - kRed)), kVb = weight(-kChroma * kBlue / (1 - kRed));
constexpr int32_t kU[3] = {kUr, kUg, -kUr - kUg}, kV[3] = {-kVg - kVb, kVg, kVb};
constexpr int32_t kYOffset = (16 << kBits) + (1 << (kBits - 1)), kChromaOffset = (128 << kChromaBits) + (1 << (kChromaBits - 1));

TPC_INLINE void grey_row(const uint8_t* __restrict row, int64_t width, uint8_t* __restrict y) {
  constexpr int32_t kGrey = weight(kLuma);
  for (int64_t x = 0; x < width; ++x) y[x] = static_cast<uint8_t>((kGrey * row[x] + kYOffset) >> kBits);
}

TPC_INLINE void two_rows(const uint8_t* const rows[2], int64_t width, uint8_t* const y[2], uint8_t* __restrict u,
                         uint8_t* __restrict v) {
  for (int64_t x = 0; x < width; x += kBlock) {
    const int n = static_cast<int>(std::min<int64_t>(kBlock, width - x));
    int32_t sums[3][kBlock] = {};  // of two rows
    for (int line = 0; line < 2; ++line) {
      const uint8_t* __restrict pixels = rows[line] + 3 * x;
      uint8_t* __restrict luma = y[line] + x;
      int32_t r[kBlock], g[kBlock], b[kBlock];
      for (int i = 0; i < n; ++i) r[i] = pixels[3 * i], g[i] = pixels[3 * i + 1], b[i] = pixels[3 * i + 2];
      for (int i = 0; i < n; ++i)
        luma[i] = static_cast<uint8_t>((kY[0] * r[i] + kY[1] * g[i] + kY[2] * b[i] + kYOffset) >> kBits);
      for (int i = 0; i < n; ++i) sums[0][i] += r[i], sums[1][i] += g[i], sums[2][i] += b[i];
    }
    for (int i = 0; i < n / 2; ++i) {
      const int32_t r = sums[0][2 * i] + sums[0][2 * i + 1], g = sums[1][2 * i] + sums[1][2 * i + 1];
      const int32_t b = sums[2][2 * i] + sums[2][2 * i + 1];
      u[x / 2 + i] = static_cast<uint8_t>((kU[0] * r + kU[1] * g + kU[2] * b + kChromaOffset) >> kChromaBits);
      v[x / 2 + i] = static_cast<uint8_t>((kV[0] * r + kV[1] * g + kV[2] * b + kChromaOffset) >> kChromaBits);
    }
  }
}

TPC_INLINE void convert(const YuvJob& job) {
  for (int64_t row = 0; row < job.height; row += 2) {
    const uint8_t* top = job.image + row * job.width * job.channels;
    const uint8_t* rows[2] = {top, top + job.width * job.channels};
    uint8_t* const y[2] = {job.y + row * job.y_stride, job.y + (row + 1) * job.y_stride};
    uint8_t *u = job.u + row / 2 * job.u_stride, *v = job.v + row / 2 * job.v_stride;
    if (job.channels == 3) {
      two_rows(rows, job.width, y, u, v);
    } else {
      for (int line = 0; line < 2; ++line) grey_row(rows[line], job.width, y[line]);
      std::memset(u, 128, static_cast<size_t>(job.width / 2));
      std::memset(v, 128, static_cast<size_t>(job.width / 2));
    }
  }
}

void convert_baseline(const YuvJob& job) { convert(job); }
#if TPC_X86
TPC_TARGET_AVX2 void convert_avx2(const YuvJob& job) { convert(job); }
TPC_TARGET_AVX512 void convert_avx512(const YuvJob& job) { convert(job); }
#endif

}  // namespace

void rgb_to_yuv(const YuvJob& job) {
#if TPC_X86
  if (simd() == Simd::avx512) return convert_avx512(job);
  if (simd() == Simd::avx2) return convert_avx2(job);
#endif
  convert_baseline(job);
}

}  // namespace tpc
