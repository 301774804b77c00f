#include "panels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "simd.h"

namespace tpc {
namespace {

// Which pixels of a side make up each of a smaller side, and their weights, which sum to one: a triangle about its centre,
// as wide to both sides as the side is larger. Pillow's filter BILINEAR, which it widens when it shrinks.
struct Taps {
  Taps(int64_t side, int64_t small) {
    const double ratio = static_cast<double>(side) / static_cast<double>(small);
    for (int64_t i = 0; i < small; ++i) {
      const double centre = (static_cast<double>(i) + 0.5) * ratio;
      const int64_t low = std::max<int64_t>(static_cast<int64_t>(centre - ratio + 0.5), 0);
      const int64_t high = std::min(static_cast<int64_t>(centre + ratio + 0.5), side);
      const auto height = [&](int64_t pixel) {
        return std::max(1 - std::abs(static_cast<double>(pixel) + 0.5 - centre) / ratio, 0.0);
      };
      double total = 0;
      for (int64_t pixel = low; pixel < high; ++pixel) total += height(pixel);
      first.push_back(low);
      start.push_back(weights.size());
      for (int64_t pixel = low; pixel < high; ++pixel) weights.push_back(static_cast<float>(height(pixel) / total));
    }
    start.push_back(weights.size());
  }

  std::vector<int64_t> first;
  std::vector<size_t> start;  // of the weights of each
  std::vector<float> weights;
};

// One value more than a pixel has is summed, so that a pixel of three is a vector of four.
template <int kChannels>
TPC_INLINE void mean_row(const float* __restrict sums, const Taps& taps, int64_t width, uint8_t* __restrict out) {
  constexpr int kLanes = kChannels == 3 ? 4 : 1;
  for (int64_t x = 0; x < width; ++x) {
    const size_t i = static_cast<size_t>(x), begin = taps.start[i], end = taps.start[i + 1];
    const float* __restrict from = sums + taps.first[i] * kChannels;
    float total[kLanes];
    for (int c = 0; c < kLanes; ++c) total[c] = 0.5f;
    for (size_t tap = begin; tap < end; ++tap, from += kChannels)
      for (int c = 0; c < kLanes; ++c) total[c] += taps.weights[tap] * from[c];
    for (int c = 0; c < kChannels; ++c) out[x * kChannels + c] = static_cast<uint8_t>(static_cast<int32_t>(total[c]));
  }
}

template <int kChannels>
TPC_INLINE void shrink_body(const uint8_t* picture, int64_t height, int64_t width, int64_t small_height,
                            int64_t small_width, uint8_t* out) {
  const int64_t values = width * kChannels;
  const Taps across(width, small_width), down(height, small_height);
  std::vector<float> sums(static_cast<size_t>(values + 1));
  float* __restrict sum = sums.data();
  for (int64_t y = 0; y < small_height; ++y) {
    const size_t begin = down.start[static_cast<size_t>(y)], end = down.start[static_cast<size_t>(y) + 1];
    const uint8_t* __restrict line = picture + down.first[static_cast<size_t>(y)] * values;
    std::fill_n(sum, values, 0.0f);
    for (size_t tap = begin; tap < end; ++tap, line += values) {
      const float weight = down.weights[tap];
      for (int64_t i = 0; i < values; ++i) sum[i] += weight * static_cast<float>(line[i]);
    }
    mean_row<kChannels>(sum, across, small_width, out + y * small_width * kChannels);
  }
}

#define TPC_SHRINK_LEVEL(NAME, TARGET)                                                                              \
  TARGET void NAME(const uint8_t* picture, int64_t height, int64_t width, int64_t channels, int64_t small_height,   \
                   int64_t small_width, uint8_t* out) {                                                             \
    channels == 3 ? shrink_body<3>(picture, height, width, small_height, small_width, out)                          \
                  : shrink_body<1>(picture, height, width, small_height, small_width, out);                         \
  }

TPC_SHRINK_LEVEL(shrink_baseline, )
#if TPC_X86
TPC_SHRINK_LEVEL(shrink_avx2, TPC_TARGET_AVX2)
TPC_SHRINK_LEVEL(shrink_avx512, TPC_TARGET_AVX512)
#endif

}  // namespace

void shrink(const uint8_t* picture, int64_t height, int64_t width, int64_t channels, int64_t small_height,
                 int64_t small_width, uint8_t* out) {
#if TPC_X86
  if (simd() == Simd::avx512) return shrink_avx512(picture, height, width, channels, small_height, small_width, out);
  if (simd() == Simd::avx2) return shrink_avx2(picture, height, width, channels, small_height, small_width, out);
#endif
  shrink_baseline(picture, height, width, channels, small_height, small_width, out);
}

void lay_over(const uint8_t* picture, const uint8_t* mask, int64_t pixels, uint8_t* out) {
  for (int64_t i = 0; i < pixels; ++i) {
    if (mask[i] == 0) continue;
    const uint32_t over = mask[i], under = 255 - over;
    for (int c = 0; c < 3; ++c)
      out[3 * i + c] = static_cast<uint8_t>((picture[3 * i + c] * over + out[3 * i + c] * under + 127) / 255);
  }
}

void draw_outline(const uint8_t* mask, int64_t mask_height, int64_t mask_width, const uint8_t colour[3], int64_t height,
                  int64_t width, uint8_t* picture) {
  const auto nearest = [](int64_t i, int64_t side, int64_t small) { return (2 * i + 1) * side / (2 * small); };
  std::vector<int64_t> columns(static_cast<size_t>(width));
  for (int64_t x = 0; x < width; ++x) columns[static_cast<size_t>(x)] = nearest(x, mask_width, width);
  std::vector<uint8_t> above(columns.size()), here(columns.size());
  const auto paint = [&](int64_t y, int64_t x) { std::memcpy(picture + 3 * (y * width + x), colour, 3); };
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* line = mask + nearest(y, mask_height, height) * mask_width;
    for (size_t x = 0; x < columns.size(); ++x) here[x] = line[columns[x]] > 127;
    for (int64_t x = 0; x < width; ++x) {
      const size_t i = static_cast<size_t>(x);
      if (x > 0 && here[i] != here[i - 1]) paint(y, x - 1), paint(y, x);
      if (y > 0 && here[i] != above[i]) paint(y - 1, x), paint(y, x);
    }
    std::swap(above, here);
  }
}

void draw_disc(const Disc& disc, double dark, int64_t height, int64_t width, uint8_t* picture) {
  const auto pixel = [](double value) { return std::llrint(std::min(std::max(value, -1e6), 1e6)); };
  const int64_t x = pixel(disc.x), y = pixel(disc.y), reach = static_cast<int64_t>(disc.radius) + 2;
  const auto share = [](double value) { return std::min(std::max(value, 0.0), 1.0); };
  for (int64_t row = std::max<int64_t>(y - reach, 0); row <= std::min(y + reach, height - 1); ++row)
    for (int64_t column = std::max<int64_t>(x - reach, 0); column <= std::min(x + reach, width - 1); ++column) {
      const double dy = static_cast<double>(row - y), dx = static_cast<double>(column - x);
      const double distance = std::sqrt(dx * dx + dy * dy);
      const double rim = share(disc.radius + 1.5 - distance), inside = share(disc.radius + 0.5 - distance);
      uint8_t* to = picture + 3 * (row * width + column);
      for (int c = 0; c < 3; ++c)
        to[c] = static_cast<uint8_t>(std::lrint(to[c] * (1 - rim) + dark * (rim - inside) + disc.colour[c] * inside));
    }
}

}  // namespace tpc
