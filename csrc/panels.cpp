#include "panels.h"

#include <cstring>
#include <vector>

#include "simd.h"

namespace tpc {
namespace {

// Factors that are known when this is compiled take a third of the time of others.
template <int kChannels, int kFactor>
TPC_INLINE void shrink_rows(const uint8_t* picture, int64_t height, int64_t width, uint8_t* out) {
  constexpr uint32_t kArea = kFactor * kFactor;
  const int64_t values = width * kFactor * kChannels;
  std::vector<uint16_t> column(static_cast<size_t>(values));
  uint16_t* __restrict sums = column.data();
  for (int64_t y = 0; y < height; ++y, out += width * kChannels) {
    const uint8_t* __restrict line = picture + y * kFactor * values;
    for (int64_t i = 0; i < values; ++i) {
      uint32_t sum = line[i];
      for (int row = 1; row < kFactor; ++row) sum += line[row * values + i];
      sums[i] = static_cast<uint16_t>(sum);
    }
    for (int64_t x = 0; x < width; ++x)
      for (int c = 0; c < kChannels; ++c) {
        uint32_t sum = kArea / 2;
        for (int i = 0; i < kFactor; ++i) sum += sums[(x * kFactor + i) * kChannels + c];
        out[x * kChannels + c] = static_cast<uint8_t>(sum / kArea);
      }
  }
}

template <int kChannels>
TPC_INLINE void shrink_channels(const uint8_t* picture, int64_t height, int64_t width, int factor, uint8_t* out) {
  if (factor == 2) return shrink_rows<kChannels, 2>(picture, height, width, out);
  if (factor == 3) return shrink_rows<kChannels, 3>(picture, height, width, out);
  shrink_rows<kChannels, 4>(picture, height, width, out);
}

TPC_INLINE void shrink_body(const uint8_t* picture, int64_t height, int64_t width, int channels, int factor, uint8_t* out) {
  channels == 3 ? shrink_channels<3>(picture, height, width, factor, out)
                : shrink_channels<1>(picture, height, width, factor, out);
}

TPC_INLINE Areas areas_body(const uint8_t* __restrict one, const uint8_t* __restrict other, int64_t pixels) {
  constexpr int64_t kPiece = 128;  // a count in a byte does not overflow
  constexpr int kLanes = 64;
  Areas areas{};
  int64_t at = 0;
  for (; at + kPiece * kLanes <= pixels; at += kPiece * kLanes) {
    uint8_t both[kLanes] = {}, first[kLanes] = {}, second[kLanes] = {};
    for (int64_t i = 0; i < kPiece; ++i)
      for (int l = 0; l < kLanes; ++l) {
        const uint8_t a = one[at + i * kLanes + l] >> 7, b = other[at + i * kLanes + l] >> 7;
        both[l] = static_cast<uint8_t>(both[l] + (a & b));
        first[l] = static_cast<uint8_t>(first[l] + a);
        second[l] = static_cast<uint8_t>(second[l] + b);
      }
    for (int l = 0; l < kLanes; ++l) areas.both += both[l], areas.one += first[l], areas.other += second[l];
  }
  for (; at < pixels; ++at) {
    areas.both += (one[at] & other[at]) >> 7;
    areas.one += one[at] >> 7;
    areas.other += other[at] >> 7;
  }
  return areas;
}

#define TPC_PANELS_LEVEL(LEVEL, TARGET)                                                                             \
  TARGET void shrink_##LEVEL(const uint8_t* p, int64_t height, int64_t width, int c, int factor, uint8_t* out) {        \
    shrink_body(p, height, width, c, factor, out);                                                                  \
  }                                                                                                                 \
  TARGET Areas areas_##LEVEL(const uint8_t* a, const uint8_t* b, int64_t pixels) { return areas_body(a, b, pixels); }

TPC_PANELS_LEVEL(baseline, )
#if TPC_X86
TPC_PANELS_LEVEL(avx2, TPC_TARGET_AVX2)
TPC_PANELS_LEVEL(avx512, TPC_TARGET_AVX512)
#endif

}  // namespace

void shrink(const uint8_t* picture, int64_t height, int64_t width, int channels, int factor, uint8_t* out) {
#if TPC_X86
  if (simd() == Simd::avx512) return shrink_avx512(picture, height, width, channels, factor, out);
  if (simd() == Simd::avx2) return shrink_avx2(picture, height, width, channels, factor, out);
#endif
  shrink_baseline(picture, height, width, channels, factor, out);
}

void lay_over(const uint8_t* picture, const uint8_t* mask, int64_t pixels, uint8_t* out) {
  for (int64_t i = 0; i < pixels;) {
    int64_t run = i;  // most pixels are all background or all person
    for (; run < pixels && mask[run] == 0; ++run) {}
    if (run > i) {
      i = run;
      continue;
    }
    for (; run < pixels && mask[run] == 255; ++run) {}
    std::memcpy(out + 3 * i, picture + 3 * i, static_cast<size_t>(3 * (run - i)));
    for (i = run; i < pixels && mask[i] != 0 && mask[i] != 255; ++i) {
      const uint32_t over = mask[i], under = 255 - over;
      for (int c = 0; c < 3; ++c)
        out[3 * i + c] = static_cast<uint8_t>((picture[3 * i + c] * over + out[3 * i + c] * under + 127) / 255);
    }
  }
}

Areas mask_areas(const uint8_t* one, const uint8_t* other, int64_t pixels) {
#if TPC_X86
  if (simd() == Simd::avx512) return areas_avx512(one, other, pixels);
  if (simd() == Simd::avx2) return areas_avx2(one, other, pixels);
#endif
  return areas_baseline(one, other, pixels);
}

}  // namespace tpc
