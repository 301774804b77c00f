#include "marks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace tpc {

void draw_outline(const uint8_t* mask, int64_t mask_height, int64_t mask_width, const uint8_t colour[3], int64_t height,
                  int64_t width, uint8_t* picture) {
  const auto nearest = [](int64_t i, int64_t side, int64_t small) { return (2 * i + 1) * side / (2 * small); };
  std::vector<int64_t> columns(static_cast<size_t>(width));
  for (int64_t x = 0; x < width; ++x) columns[static_cast<size_t>(x)] = nearest(x, mask_width, width);
  std::vector<uint8_t> above(columns.size()), here(columns.size());
  const auto eight = [](const uint8_t* values) {
    uint64_t word;
    std::memcpy(&word, values, 8);
    return word;
  };
  const auto paint = [&](int64_t y, int64_t x) { std::memcpy(picture + 3 * (y * width + x), colour, 3); };
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* line = mask + nearest(y, mask_height, height) * mask_width;
    for (size_t x = 0; x < columns.size(); ++x) here[x] = line[columns[x]] > 127;
    for (int64_t x = 0; x < width; ++x) {
      const size_t i = static_cast<size_t>(x);
      if (x > 0 && y > 0 && x + 8 <= width && eight(&here[i]) == eight(&here[i - 1]) && eight(&here[i]) == eight(&above[i])) {
        x += 7;  // no edge among these, as nearly everywhere
        continue;
      }
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
