#include "resample.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "simd.h"

namespace tpc {
namespace {

constexpr int64_t kRowsPerTask = 16;

// A part of the picture, shrunk, and where its pixel (0, 0) lies in the whole shrunk picture [height, width].
struct Part {
  const uint8_t* pixels;
  int64_t stride;  // bytes from one row to the next
  int64_t left, top;
  int64_t height, width;
};

// The pixels from `low` to `high` of a side that a view needs when it reaches from `first` to `last`, and one more at each
// end: the coordinates of its pixels are rounded otherwise than those of its corners.
void reach(double first, double last, int64_t side, int64_t& low, int64_t& high) {
  const double end = static_cast<double>(side - 1);
  low = static_cast<int64_t>(std::min(std::max(std::floor(first) - 1, 0.0), end));
  high = static_cast<int64_t>(std::min(std::max(std::ceil(last) + 1, 0.0), end));
}

// Averages over squares of k x k pixels, halves up, for the part that the view needs.
Part shrunk(const ResampleJob& job, const double m[6], std::vector<uint8_t>& buffer) {
  const int64_t k = job.shrink, channels = job.channels;
  Part part{nullptr, 0, 0, 0, job.image_height / k, job.image_width / k};
  const double w = static_cast<double>(job.width - 1), h = static_cast<double>(job.height - 1);
  int64_t right, bottom;
  reach(m[2] + std::min(m[0] * w, 0.0) + std::min(m[1] * h, 0.0),
        m[2] + std::max(m[0] * w, 0.0) + std::max(m[1] * h, 0.0), part.width, part.left, right);
  reach(m[5] + std::min(m[3] * w, 0.0) + std::min(m[4] * h, 0.0),
        m[5] + std::max(m[3] * w, 0.0) + std::max(m[4] * h, 0.0), part.height, part.top, bottom);
  const int64_t columns = right - part.left + 1, rows = bottom - part.top + 1;
  part.stride = columns * channels;
  buffer.resize(static_cast<size_t>(rows * part.stride));
  part.pixels = buffer.data();
  const int64_t row_bytes = job.image_width * channels, count = k * k;
  parallel_for(rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> sums(static_cast<size_t>(columns * k * channels));  // of the k rows, pixel by pixel
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* from = job.image + (part.top + row) * k * row_bytes + part.left * k * channels;
      std::fill(sums.begin(), sums.end(), 0u);
      for (int64_t j = 0; j < k; ++j, from += row_bytes)
        for (size_t i = 0; i < sums.size(); ++i) sums[i] += from[i];
      uint8_t* to = buffer.data() + row * part.stride;
      const uint32_t* sum = sums.data();
      for (int64_t column = 0; column < columns; ++column, sum += k * channels)
        for (int64_t c = 0; c < channels; ++c) {
          uint64_t total = 0;
          for (int64_t i = 0; i < k; ++i) total += sum[i * channels + c];
          *to++ = static_cast<uint8_t>((2 * total + count) / (2 * count));
        }
    }
  });
  return part;
}

// One row of the output, whose pixel x lies at (x0 + x dx, y0 + x dy) of the part's whole.
template <int kChannels, bool kRepeat>
void sample_row(const Part& part, double x0, double y0, double dx, double dy, int64_t count, uint8_t* out) {
  const double last_x = static_cast<double>(part.width - 1), last_y = static_cast<double>(part.height - 1);
  const uint8_t* origin = part.pixels - part.top * part.stride - part.left * kChannels;
  for (int64_t i = 0; i < count; ++i, out += kChannels) {
    double x = x0 + static_cast<double>(i) * dx, y = y0 + static_cast<double>(i) * dy;
    if (!kRepeat && !(x > -1 && y > -1 && x < last_x + 1 && y < last_y + 1)) {
      for (int c = 0; c < kChannels; ++c) out[c] = 0;
      continue;
    }
    if (kRepeat) {
      x = std::min(std::max(x, 0.0), last_x);
      y = std::min(std::max(y, 0.0), last_y);
    }
    // x > -1: one more makes truncation the floor.
    const int64_t left = static_cast<int64_t>(x + 1) - 1, top = static_cast<int64_t>(y + 1) - 1;
    const float fx = static_cast<float>(x - static_cast<double>(left));
    const float fy = static_cast<float>(y - static_cast<double>(top));
    float wx[2] = {1 - fx, fx}, wy[2] = {1 - fy, fy};
    const int64_t columns[2] = {std::max<int64_t>(left, 0), std::min(left + 1, part.width - 1)};
    const int64_t rows[2] = {std::max<int64_t>(top, 0), std::min(top + 1, part.height - 1)};
    if (!kRepeat) {
      if (left < 0) wx[0] = 0;
      if (left + 1 >= part.width) wx[1] = 0;
      if (top < 0) wy[0] = 0;
      if (top + 1 >= part.height) wy[1] = 0;
    }
    const uint8_t* above = origin + rows[0] * part.stride;
    const uint8_t* below = origin + rows[1] * part.stride;
    for (int c = 0; c < kChannels; ++c) {
      const int64_t l = columns[0] * kChannels + c, r = columns[1] * kChannels + c;
      const float value = wy[0] * (wx[0] * above[l] + wx[1] * above[r]) + wy[1] * (wx[0] * below[l] + wx[1] * below[r]);
      out[c] = static_cast<uint8_t>(value + 0.5f);
    }
  }
}

using SampleRow = void (*)(const Part&, double, double, double, double, int64_t, uint8_t*);

}  // namespace

void resample(const ResampleJob& job) {
  if (job.height == 0 || job.width == 0) return;
  double m[6];
  std::copy(job.inverse, job.inverse + 6, m);
  std::vector<uint8_t> buffer;
  Part part{job.image, job.image_width * job.channels, 0, 0, job.image_height, job.image_width};
  if (job.shrink > 1) {
    // Pixel i of the shrunk picture lies at k i + (k - 1) / 2 of the picture.
    const double k = static_cast<double>(job.shrink);
    for (int row = 0; row < 6; row += 3) {
      m[row + 2] -= (k - 1) / 2;
      for (int i = 0; i < 3; ++i) m[row + i] /= k;
    }
    part = shrunk(job, m, buffer);
  }
  const SampleRow sample = job.channels == 1 ? (job.repeat ? sample_row<1, true> : sample_row<1, false>)
                                             : (job.repeat ? sample_row<3, true> : sample_row<3, false>);
  const int64_t bytes = job.width * job.channels;
  parallel_for(job.height, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      const double at = static_cast<double>(y);
      sample(part, m[1] * at + m[2], m[4] * at + m[5], m[0], m[3], job.width, job.out + y * bytes);
    }
  });
}

}  // namespace tpc
