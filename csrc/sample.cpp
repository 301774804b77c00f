#include "sample.h"

#include <algorithm>
#include <cmath>

#include "parallel.h"

namespace tpc {
namespace {

constexpr int64_t kRows = 16;  // of an output at once: enough work for a thread

// Weights of the taps of a pixel whose place lies a fraction f behind the middle one, and their derivatives by f.
template <int kTaps, typename T>
void weights_at(T f, T* w, T* slope) {
  if constexpr (kTaps == 1) {
    w[0] = 1;
    slope[0] = 0;
  } else if constexpr (kTaps == 2) {
    w[0] = 1 - f;
    w[1] = f;
    slope[0] = -1;
    slope[1] = 1;
  } else {
    constexpr T kA = T(-0.75);
    const auto near = [](T d) { return ((kA + 2) * d - (kA + 3)) * d * d + 1; };
    const auto near_slope = [](T d) { return (3 * (kA + 2) * d - 2 * (kA + 3)) * d; };
    const auto far = [](T d) { return kA * (((d - 5) * d + 8) * d - 4); };
    const auto far_slope = [](T d) { return kA * ((3 * d - 10) * d + 8); };
    w[0] = far(1 + f);
    w[1] = near(f);
    w[2] = near(1 - f);
    w[3] = far(2 - f);
    slope[0] = far_slope(1 + f);
    slope[1] = near_slope(f);
    slope[2] = -near_slope(1 - f);
    slope[3] = -far_slope(2 - f);
  }
}

// Where one output pixel reads: the taps that lie in the picture.
template <int kTaps, typename T>
struct Place {
  int64_t left, top;
  int first_x, end_x, first_y, end_y;
  T wx[kTaps], wy[kTaps], slope_x[kTaps], slope_y[kTaps];

  bool whole() const { return end_x - first_x == kTaps && end_y - first_y == kTaps; }

  // Whether any tap lies in the picture.
  bool find(const double* inverse, int64_t column, int64_t row, int64_t width, int64_t height) {
    const double j = static_cast<double>(column), i = static_cast<double>(row);
    // Clamped to where nothing is reached, which NaN becomes too: integers hold it.
    const double x = std::min(std::max(-8.0, inverse[0] * j + inverse[1] * i + inverse[2]), width + 8.0);
    const double y = std::min(std::max(-8.0, inverse[3] * j + inverse[4] * i + inverse[5]), height + 8.0);
    const double rounding = kTaps == 1 ? 0.5 : 0;
    const double x0 = std::floor(x + rounding), y0 = std::floor(y + rounding);
    constexpr int kBefore = kTaps == 4 ? 1 : 0;
    left = static_cast<int64_t>(x0) - kBefore;
    top = static_cast<int64_t>(y0) - kBefore;
    const auto clip = [](int64_t value) { return static_cast<int>(std::min<int64_t>(std::max<int64_t>(value, 0), kTaps)); };
    first_x = clip(-left);
    end_x = clip(width - left);
    first_y = clip(-top);
    end_y = clip(height - top);
    if (first_x >= end_x || first_y >= end_y) return false;
    weights_at<kTaps>(static_cast<T>(x - x0), wx, slope_x);
    weights_at<kTaps>(static_cast<T>(y - y0), wy, slope_y);
    return true;
  }
};

template <int kTaps, typename T>
void sample_rows(const SampleJob<T>& job, int64_t map, int64_t begin, int64_t end, T* out) {
  const int64_t area = job.height * job.width, picture_area = job.picture_height * job.picture_width;
  const T* const image = job.image + map / job.maps * job.channels * picture_area;
  const T share = static_cast<T>(job.share[map]);
  out += map * job.channels * area;
  if (share == 0) {
    for (int64_t c = 0; c < job.channels; ++c)
      std::fill(out + c * area + begin * job.width, out + c * area + end * job.width, T(0));
    return;
  }
  Place<kTaps, T> place;
  for (int64_t row = begin; row < end; ++row)
    for (int64_t column = 0; column < job.width; ++column) {
      T* const pixel = out + row * job.width + column;
      const bool reached = place.find(job.inverse + 6 * map, column, row, job.picture_width, job.picture_height);
      for (int64_t c = 0; c < job.channels; ++c) {
        T sum = 0;
        if (reached && place.whole()) {  // loops of known length, for nearly all pixels
          const T* line = image + c * picture_area + place.top * job.picture_width + place.left;
          for (int v = 0; v < kTaps; ++v, line += job.picture_width) {
            T along = 0;
            for (int u = 0; u < kTaps; ++u) along += place.wx[u] * line[u];
            sum += place.wy[v] * along;
          }
        } else if (reached)
          for (int v = place.first_y; v < place.end_y; ++v) {
            const T* const line = image + c * picture_area + (place.top + v) * job.picture_width + place.left;
            T along = 0;
            for (int u = place.first_x; u < place.end_x; ++u) along += place.wx[u] * line[u];
            sum += place.wy[v] * along;
          }
        pixel[c * area] = share * sum;
      }
    }
}

// One channel of a picture: what all its maps' pixels give back to it, in order, so that threads never meet.
template <int kTaps, typename T>
void image_gradient(const SampleJob<T>& job, const T* wanted, int64_t plane, T* out) {
  const int64_t area = job.height * job.width, picture_area = job.picture_height * job.picture_width;
  const int64_t picture = plane / job.channels, channel = plane % job.channels;
  out += plane * picture_area;
  std::fill(out, out + picture_area, T(0));
  Place<kTaps, T> place;
  for (int64_t map = picture * job.maps; map < (picture + 1) * job.maps; ++map) {
    const T share = static_cast<T>(job.share[map]);
    if (share == 0) continue;
    const T* pixel = wanted + (map * job.channels + channel) * area;
    for (int64_t row = 0; row < job.height; ++row)
      for (int64_t column = 0; column < job.width; ++column, ++pixel) {
        if (*pixel == 0 || !place.find(job.inverse + 6 * map, column, row, job.picture_width, job.picture_height)) continue;
        for (int v = place.first_y; v < place.end_y; ++v) {
          T* const line = out + (place.top + v) * job.picture_width + place.left;
          const T scale = share * *pixel * place.wy[v];
          for (int u = place.first_x; u < place.end_x; ++u) line[u] += scale * place.wx[u];
        }
      }
  }
}

template <int kTaps, typename T>
void map_gradient(const SampleJob<T>& job, const T* wanted, int64_t map, const SampleGradients<T>& out) {
  const int64_t area = job.height * job.width, picture_area = job.picture_height * job.picture_width;
  const T* const image = job.image + map / job.maps * job.channels * picture_area;
  wanted += map * job.channels * area;
  double inverse[6] = {}, share = 0;
  Place<kTaps, T> place;
  if (job.share[map] != 0)
    for (int64_t row = 0; row < job.height; ++row)
      for (int64_t column = 0; column < job.width; ++column) {
        if (!place.find(job.inverse + 6 * map, column, row, job.picture_width, job.picture_height)) continue;
        double by_x = 0, by_y = 0;
        for (int64_t c = 0; c < job.channels; ++c) {
          const double g = wanted[c * area + row * job.width + column];
          T value = 0, slope_x = 0, slope_y = 0;
          for (int v = place.first_y; v < place.end_y; ++v) {
            const T* const line = image + c * picture_area + (place.top + v) * job.picture_width + place.left;
            T along = 0, slope = 0;
            for (int u = place.first_x; u < place.end_x; ++u) {
              along += place.wx[u] * line[u];
              slope += place.slope_x[u] * line[u];
            }
            value += place.wy[v] * along;
            slope_x += place.wy[v] * slope;
            slope_y += place.slope_y[v] * along;
          }
          share += g * value;
          by_x += g * slope_x;
          by_y += g * slope_y;
        }
        const double at[3] = {static_cast<double>(column), static_cast<double>(row), 1};
        for (int k = 0; k < 3; ++k) {
          inverse[k] += by_x * at[k];
          inverse[3 + k] += by_y * at[k];
        }
      }
  if (out.inverse != nullptr)
    for (int k = 0; k < 6; ++k) out.inverse[6 * map + k] = job.share[map] * inverse[k];
  if (out.share != nullptr) out.share[map] = share;
}

template <int kTaps, typename T>
void gradients(const SampleJob<T>& job, const T* wanted, const SampleGradients<T>& out) {
  if (out.image != nullptr)
    parallel_for(job.pictures * job.channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) image_gradient<kTaps>(job, wanted, plane, out.image);
    });
  if (out.inverse != nullptr || out.share != nullptr)
    parallel_for(job.pictures * job.maps, 1, [&](int64_t begin, int64_t end) {
      for (int64_t map = begin; map < end; ++map) map_gradient<kTaps>(job, wanted, map, out);
    });
}

}  // namespace

template <typename T>
void sample_pictures(const SampleJob<T>& job, T* out) {
  const int64_t blocks = (job.height + kRows - 1) / kRows;
  parallel_for(job.pictures * job.maps * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t map = k / blocks, first = k % blocks * kRows, last = std::min(first + kRows, job.height);
      if (job.taps == 4) sample_rows<4>(job, map, first, last, out);
      if (job.taps == 2) sample_rows<2>(job, map, first, last, out);
      if (job.taps == 1) sample_rows<1>(job, map, first, last, out);
    }
  });
}

template <typename T>
void sample_gradients(const SampleJob<T>& job, const T* wanted, const SampleGradients<T>& out) {
  if (job.taps == 4) gradients<4>(job, wanted, out);
  if (job.taps == 2) gradients<2>(job, wanted, out);
  if (job.taps == 1) gradients<1>(job, wanted, out);
}

template void sample_pictures(const SampleJob<float>&, float*);
template void sample_pictures(const SampleJob<double>&, double*);
template void sample_gradients(const SampleJob<float>&, const float*, const SampleGradients<float>&);
template void sample_gradients(const SampleJob<double>&, const double*, const SampleGradients<double>&);

}  // namespace tpc
