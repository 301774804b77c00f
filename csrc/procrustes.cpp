#include "procrustes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "parallel.h"
#include "simd.h"
#include "subsets.h"
#include "svd3.h"

namespace tpc {
namespace {

// Hot loops are plain loops over independent lanes: problems side by side, or subsets. The compiler vectorises them anew
// for every instruction set (types like vector_size would be split for the baseline before they are inlined).
constexpr int kLanes = 8;
typedef double Row[kLanes];
#define TPC_LANES(l) _Pragma("omp simd") for (int l = 0; l < kLanes; ++l)

// ---------------------------------------------------------------------------------------------------------------
// Similarity fits

TPC_INLINE double larger(double a, double b) { return a > b ? a : b; }

// Spreads and covariances below this share of the coordinates' size are rounding noise of the input's type.
template <typename T>
constexpr double noise_floor() {
  return sizeof(T) == 4 ? 1e-6 : 1e-12;
}

// Whether the output type can hold a translation, or a scale. False for NaN.
template <typename T>
TPC_INLINE bool holds(double x) {
  return std::fabs(x) <= static_cast<double>(std::numeric_limits<T>::max());
}
template <typename T>
TPC_INLINE bool holds_scale(double x) {
  return (x >= static_cast<double>(std::numeric_limits<T>::denorm_min())) & holds<T>(x);
}

template <typename T>
TPC_INLINE T residual_of(double mean_square) {
  return static_cast<T>(std::fmin(std::sqrt(mean_square), static_cast<double>(std::numeric_limits<T>::max())));
}

// In 2-D a point is a complex number and the best s e^(i angle) is sum w conj(x) y / sum w |x|^2 over centred points.
// Fits up to kLanes problems from `first` on. `tile` is scratch for five rows per point; `equal` says whether its
// weights are equal ones from the call before.
template <typename T>
TPC_INLINE void fit_2d_tile(const FitBatch<T>& b, int64_t first, Row* tile, bool& equal) {
  const int64_t points = b.points;
  const int lanes = static_cast<int>(std::min<int64_t>(kLanes, b.count - first));
  Row *w = tile, *x0 = w + points, *x1 = x0 + points, *y0 = x1 + points, *y1 = y0 + points;
  const T *src[kLanes], *dst[kLanes];
  for (int l = 0; l < kLanes; ++l) {
    const int64_t n = first + std::min(l, lanes - 1);
    src[l] = b.src + n * b.src_stride;
    dst[l] = b.dst + n * b.dst_stride;
  }
  Row mx0 = {}, mx1 = {}, my0 = {}, my1 = {};  // means; of equal weights here, which most fits have
  const double share = 1.0 / static_cast<double>(points);
  for (int64_t k = 0; k < points; ++k) {
    T p[kLanes], q[kLanes], r[kLanes], s[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      p[l] = src[l][2 * k];
      q[l] = src[l][2 * k + 1];
      r[l] = dst[l][2 * k];
      s[l] = dst[l][2 * k + 1];
    }
    TPC_LANES(l) {
      x0[k][l] = p[l];
      x1[k][l] = q[l];
      y0[k][l] = r[l];
      y1[k][l] = s[l];
      mx0[l] += x0[k][l] * share;
      mx1[l] += x1[k][l] * share;
      my0[l] += y0[k][l] * share;
      my1[l] += y1[k][l] * share;
    }
  }
  double missing = 0;  // 0, or NaN if any coordinate is not finite
  for (int l = 0; l < kLanes; ++l)
    missing += (mx0[l] - mx0[l]) + (mx1[l] - mx1[l]) + (my0[l] - my0[l]) + (my1[l] - my1[l]);
  // The weights' sum becomes 1. Equal ones are written once and serve all tiles.
  Row total;
  if (!b.weights && !(missing != 0)) {
    if (!equal) {
      for (int64_t k = 0; k < points; ++k)
        TPC_LANES(l) w[k][l] = share;
    }
    equal = true;
    TPC_LANES(l) total[l] = static_cast<double>(points);
  } else {
    equal = false;
    for (int l = 0; l < kLanes; ++l) {
      const T* weights = b.weights ? b.weights + (first + std::min(l, lanes - 1)) * b.weights_stride : nullptr;
      for (int64_t k = 0; k < points; ++k) w[k][l] = weights ? static_cast<double>(weights[k]) : 1.0;
      total[l] = 0;
    }
    for (int64_t k = 0; k < points; ++k)
      TPC_LANES(l) {
        const double p = x0[k][l], q = x1[k][l], r = y0[k][l], s = y1[k][l];
        const bool seen = (p - p) + (q - q) + (r - r) + (s - s) == 0;
        w[k][l] = seen ? w[k][l] : 0.0;
        x0[k][l] = seen ? p : 0.0;
        x1[k][l] = seen ? q : 0.0;
        y0[k][l] = seen ? r : 0.0;
        y1[k][l] = seen ? s : 0.0;
        total[l] += w[k][l];
      }
    for (int64_t k = 0; k < points; ++k)
      TPC_LANES(l) w[k][l] *= total[l] > 0 ? 1 / total[l] : 0.0;
    TPC_LANES(l) mx0[l] = mx1[l] = my0[l] = my1[l] = 0;
    for (int64_t k = 0; k < points; ++k)
      TPC_LANES(l) {
        mx0[l] += w[k][l] * x0[k][l];
        mx1[l] += w[k][l] * x1[k][l];
        my0[l] += w[k][l] * y0[k][l];
        my1[l] += w[k][l] * y1[k][l];
      }
  }

  Row variance_x = {}, variance_y = {}, re = {}, im = {};
  for (int64_t k = 0; k < points; ++k)
    TPC_LANES(l) {
      const double a = x0[k][l] - mx0[l], c = x1[k][l] - mx1[l], d = y0[k][l] - my0[l], e = y1[k][l] - my1[l];
      variance_x[l] += w[k][l] * (a * a + c * c);
      variance_y[l] += w[k][l] * (d * d + e * e);
      re[l] += w[k][l] * (a * d + c * e);
      im[l] += w[k][l] * (a * e - c * d);
    }

  // The solution as y = a x + t in complex numbers; a degenerate one is the shift between the centres. The comparisons
  // are written so that a NaN (from an overflow) is degenerate too.
  Row scale, cosine, sine, t0, t1, ok;
  const double floor = noise_floor<T>() * noise_floor<T>();
  TPC_LANES(l) {
    const double squared = re[l] * re[l] + im[l] * im[l], covariance = std::sqrt(squared), one_over = 1 / covariance;
    const double far_x = mx0[l] * mx0[l] + mx1[l] * mx1[l], far_y = my0[l] * my0[l] + my1[l] * my1[l];
    const double s = covariance / variance_x[l], c0 = re[l] * one_over, c1 = im[l] * one_over;
    const double u0 = my0[l] - s * (c0 * mx0[l] - c1 * mx1[l]), u1 = my1[l] - s * (c1 * mx0[l] + c0 * mx1[l]);
    const bool good = (total[l] > 0) & (variance_x[l] > floor * far_x) & (variance_y[l] > floor * far_y) &
                      (squared > floor * variance_x[l] * variance_y[l]) & holds_scale<T>(s) & holds<T>(u0) & holds<T>(u1);
    const double shift0 = my0[l] - mx0[l], shift1 = my1[l] - mx1[l];
    const bool far = !(holds<T>(shift0) & holds<T>(shift1));
    ok[l] = good ? 1.0 : 0.0;
    scale[l] = good ? s : 1.0;
    cosine[l] = good ? c0 : 1.0;
    sine[l] = good ? c1 : 0.0;
    t0[l] = good ? u0 : far ? 0.0 : shift0;
    t1[l] = good ? u1 : far ? 0.0 : shift1;
  }
  // Measured, not derived from the moments: their difference would lose half of the digits of a good fit.
  Row mean_square = {}, a0, a1;
  TPC_LANES(l) {
    a0[l] = scale[l] * cosine[l];
    a1[l] = scale[l] * sine[l];
  }
  for (int64_t k = 0; k < points; ++k)
    TPC_LANES(l) {
      const double d0 = y0[k][l] - (a0[l] * x0[k][l] - a1[l] * x1[k][l] + t0[l]);
      const double d1 = y1[k][l] - (a1[l] * x0[k][l] + a0[l] * x1[k][l] + t1[l]);
      mean_square[l] += w[k][l] * (d0 * d0 + d1 * d1);
    }
  for (int l = 0; l < lanes; ++l) {
    const int64_t n = first + l;
    T* rotation = b.rotation + 4 * n;
    b.scale[n] = static_cast<T>(scale[l]);
    rotation[0] = rotation[3] = static_cast<T>(cosine[l]);
    rotation[1] = static_cast<T>(-sine[l]);
    rotation[2] = static_cast<T>(sine[l]);
    b.translation[2 * n] = static_cast<T>(t0[l]);
    b.translation[2 * n + 1] = static_cast<T>(t1[l]);
    b.residual[n] = residual_of<T>(mean_square[l]);
    b.ok[n] = ok[l] != 0;
  }
}

template <typename T>
void fit_3d(const FitBatch<T>& b, int64_t n, std::vector<double>& weights) {
  const T *src = b.src + n * b.src_stride, *dst = b.dst + n * b.dst_stride;
  double total = 0, mean_x[3] = {}, mean_y[3] = {};
  for (int64_t k = 0; k < b.points; ++k) {
    bool seen = true;
    for (int i = 0; i < 3; ++i) seen = seen && std::isfinite(src[3 * k + i]) && std::isfinite(dst[3 * k + i]);
    weights[k] = !seen ? 0 : b.weights ? static_cast<double>(b.weights[n * b.weights_stride + k]) : 1;
    total += weights[k];
  }
  for (int64_t k = 0; k < b.points; ++k) {
    if (weights[k] == 0) continue;
    weights[k] /= total;
    for (int i = 0; i < 3; ++i) {
      mean_x[i] += weights[k] * src[3 * k + i];
      mean_y[i] += weights[k] * dst[3 * k + i];
    }
  }
  double variance_x = 0, variance_y = 0, covariance[3][3] = {};
  for (int64_t k = 0; k < b.points; ++k) {
    if (weights[k] == 0) continue;
    for (int i = 0; i < 3; ++i) {
      const double x = src[3 * k + i] - mean_x[i], y = dst[3 * k + i] - mean_y[i];
      variance_x += weights[k] * x * x;
      variance_y += weights[k] * y * y;
      for (int j = 0; j < 3; ++j) covariance[i][j] += weights[k] * y * (src[3 * k + j] - mean_x[j]);
    }
  }
  const double spread_x = std::sqrt(variance_x), spread_y = std::sqrt(variance_y), floor = noise_floor<T>();
  double scale = 1, rotation[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, translation[3];
  const auto translate = [&] {
    bool representable = true;
    for (int i = 0; i < 3; ++i) {
      double moved = 0;
      for (int j = 0; j < 3; ++j) moved += rotation[i][j] * mean_x[j];
      translation[i] = mean_y[i] - scale * moved;
      representable = representable && holds<T>(translation[i]);
    }
    return representable;
  };
  double far_x = 0, far_y = 0;
  for (int i = 0; i < 3; ++i) {
    far_x += mean_x[i] * mean_x[i];
    far_y += mean_y[i] * mean_y[i];
  }
  bool ok = total > 0 && spread_x > floor * std::sqrt(far_x) && spread_y > floor * std::sqrt(far_y) &&
            std::isfinite(spread_x * spread_y);
  if (ok) {
    double u[3][3], s[3], v[3][3];
    svd3(covariance, u, s, v);
    ok = s[1] + s[2] > floor * spread_x * spread_y;  // else turning about one axis changes nothing
    scale = (s[0] + s[1] + s[2]) / variance_x;
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) rotation[i][j] = u[i][0] * v[j][0] + u[i][1] * v[j][1] + u[i][2] * v[j][2];
  }
  ok = ok && holds_scale<T>(scale) && translate();
  if (!ok) {
    scale = 1;
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) rotation[i][j] = i == j;
    if (!translate()) std::fill(translation, translation + 3, 0.0);
  }
  double mean_square = 0;
  for (int64_t k = 0; k < b.points; ++k) {
    if (weights[k] == 0) continue;
    for (int i = 0; i < 3; ++i) {
      double moved = translation[i];
      for (int j = 0; j < 3; ++j) moved += scale * rotation[i][j] * src[3 * k + j];
      mean_square += weights[k] * (dst[3 * k + i] - moved) * (dst[3 * k + i] - moved);
    }
  }
  b.scale[n] = static_cast<T>(scale);
  for (int i = 0; i < 3; ++i) {
    b.translation[3 * n + i] = static_cast<T>(translation[i]);
    for (int j = 0; j < 3; ++j) b.rotation[(3 * n + i) * 3 + j] = static_cast<T>(rotation[i][j]);
  }
  b.residual[n] = residual_of<T>(mean_square);
  b.ok[n] = ok;
}

template <typename T>
TPC_INLINE void fit_2d_range(const FitBatch<T>& b, int64_t first, int64_t last, Row* tile) {
  bool equal = false;
  for (int64_t n = first; n < last; n += kLanes) fit_2d_tile(b, n, tile, equal);
}
template <typename T>
void fit_2d_baseline(const FitBatch<T>& b, int64_t first, int64_t last, Row* tile) {
  fit_2d_range(b, first, last, tile);
}
#if TPC_X86
template <typename T>
TPC_TARGET_AVX2 void fit_2d_avx2(const FitBatch<T>& b, int64_t first, int64_t last, Row* tile) {
  fit_2d_range(b, first, last, tile);
}
template <typename T>
TPC_TARGET_AVX512 void fit_2d_avx512(const FitBatch<T>& b, int64_t first, int64_t last, Row* tile) {
  fit_2d_range(b, first, last, tile);
}
#endif

}  // namespace

constexpr int64_t kGrain = 64 * kLanes;  // fits that are not worth waking another thread for

template <typename T>
void fit_similarity(const FitBatch<T>& b) {
  if (b.dims == 3) {
    parallel_for(b.count, kGrain, [&](int64_t begin, int64_t end) {
      std::vector<double> weights(b.points);
      for (int64_t n = begin; n < end; ++n) fit_3d(b, n, weights);
    });
    return;
  }
  auto fit = fit_2d_baseline<T>;
#if TPC_X86
  if (simd() == Simd::avx512) fit = fit_2d_avx512<T>;
  if (simd() == Simd::avx2) fit = fit_2d_avx2<T>;
#endif
  parallel_for(b.count, kGrain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<Row[]> tile(new Row[5 * b.points]);
    fit(b, begin, end, tile.get());
  });
}

template <typename T>
void fit_leaving_out(const FitBatch<T>& b, T* change) {
  const int64_t points = b.points, dims = b.dims, fits = points + 1;
  parallel_for(b.count, kGrain / fits + 1, [&](int64_t begin, int64_t end) {
    std::vector<T> weights(fits * points), numbers(fits * (2 + dims * dims + dims));
    const std::unique_ptr<bool[]> ok(new bool[fits]);
    FitBatch<T> one{};  // all points, then all but the first, but the second...
    one.count = fits;
    one.points = points;
    one.dims = b.dims;
    one.weights = weights.data();
    one.weights_stride = points;
    one.scale = numbers.data();
    one.residual = one.scale + fits;
    one.translation = one.residual + fits;
    one.rotation = one.translation + fits * dims;
    one.ok = ok.get();
    for (int64_t n = begin; n < end; ++n) {
      one.src = b.src + n * b.src_stride;
      one.dst = b.dst + n * b.dst_stride;
      for (int64_t j = 0; j < fits; ++j) {
        std::copy_n(b.weights + n * b.weights_stride, points, weights.data() + j * points);
        if (j > 0) weights[j * points + j - 1] = 0;
      }
      fit_similarity(one);
      b.scale[n] = one.scale[0];
      b.residual[n] = one.residual[0];
      b.ok[n] = ok[0];
      std::copy_n(one.translation, dims, b.translation + n * dims);
      std::copy_n(one.rotation, dims * dims, b.rotation + n * dims * dims);
      for (int64_t k = 0; k < points; ++k)
        change[n * points + k] =
            ok[k + 1] ? std::fabs(std::log(one.scale[k + 1] / one.scale[0])) : std::numeric_limits<T>::infinity();
    }
  });
}

template void fit_similarity<float>(const FitBatch<float>&);
template void fit_similarity<double>(const FitBatch<double>&);
template void fit_leaving_out<float>(const FitBatch<float>&, float*);
template void fit_leaving_out<double>(const FitBatch<double>&, double*);

// ---------------------------------------------------------------------------------------------------------------
// Exact subset search

namespace {

// What a subset's value is made of. All of it is additive, so a subset costs one addition from a smaller one.
enum Sum { kW, kX0, kX1, kY0, kY1, kXX, kYY, kRe, kIm, kReward, kCount, kSums };

constexpr int kLowBits = 8;  // the table of all subsets of the first eight points fits into the first-level cache
constexpr int kLowCount = 1 << kLowBits;

struct Best {
  double key = kNoSubset;
  int64_t mask = 0;

  void take(const Best& other) {
    if (other.key > key || (other.key == key && other.mask < mask)) *this = other;
  }
};

struct Problem {
  int points = 0;  // valid ones
  int index[kMaxSearchPoints];
  double sums[kMaxSearchPoints][kSums];
  double turn_re = 0, turn_im = 0;  // a / a_prev = (re + i im) * (turn_re + i turn_im) / denominator
  double inertia = 0;
  int size = 0;
};

// False if no subset can have a fit.
bool prepare(const SearchBatch& b, int64_t n, Problem& p) {
  const double *src = b.src + n * b.points * 2, *dst = b.dst + n * b.points * 2, *tolerance = b.tolerance + n * b.points;
  const ValidPoints valid(b.points, src, dst, b.valid + n * b.points);
  const double *mean = valid.centre, radius_src = valid.radius_src, radius_dst = valid.radius_dst;
  p.points = valid.count;
  p.size = b.size;
  std::copy(valid.index, valid.index + valid.count, p.index);
  if (p.points < 2) return false;
  if (!(radius_src > 0 && radius_dst > 0 && std::isfinite(radius_src) && std::isfinite(radius_dst))) return false;
  for (int j = 0; j < p.points; ++j) {
    const int k = p.index[j];
    const double x0 = (src[2 * k] - mean[0]) / radius_src, x1 = (src[2 * k + 1] - mean[1]) / radius_src;
    const double y0 = (dst[2 * k] - mean[2]) / radius_dst, y1 = (dst[2 * k + 1] - mean[3]) / radius_dst;
    const double t = tolerance[k] / radius_dst, w = 1 / (t * t);
    double* s = p.sums[j];
    s[kW] = w;
    s[kX0] = w * x0;
    s[kX1] = w * x1;
    s[kY0] = w * y0;
    s[kY1] = w * y1;
    s[kXX] = w * (x0 * x0 + x1 * x1);
    s[kYY] = w * (y0 * y0 + y1 * y1);
    s[kRe] = w * (x0 * y0 + x1 * y1);
    s[kIm] = w * (x0 * y1 - x1 * y0);
    s[kReward] = 1 + b.prior[n * b.points + k];
    s[kCount] = 1;
  }
  const double re = b.previous[2 * n], im = b.previous[2 * n + 1], square = re * re + im * im;
  p.inertia = square > 0 ? b.inertia[n] : 0;
  if (p.inertia > 0) {
    const double unit = radius_dst / radius_src / square;
    p.turn_re = re * unit;
    p.turn_im = -im * unit;
  }
  return true;
}

// J of the subset whose sums these are, or kNoSubset.
TPC_INLINE double evaluate(const Problem& p, double w, double x0, double x1, double y0, double y1, double x_square,
                           double y_square, double real, double imaginary, double reward, double count) {
  // Second moments about the weighted means, times w.
  const double xx = w * x_square - x0 * x0 - x1 * x1, yy = w * y_square - y0 * y0 - y1 * y1;
  const double re = w * real - x0 * y0 - x1 * y1, im = w * imaginary - x0 * y1 + x1 * y0;
  const double square = re * re + im * im;
  const double one_over = 1 / (w * xx);  // not finite for a subset without a fit, which is ruled out below
  double value = reward - larger(yy * xx - square, 0.0) * one_over;
  const double d0 = (re * p.turn_re - im * p.turn_im) * (one_over * w) - 1;
  const double d1 = (re * p.turn_im + im * p.turn_re) * (one_over * w);
  const double change = d0 * d0 + d1 * d1;
  value -= p.inertia * (change < 1 ? change : 1.0);
  const bool usable = (xx > 1e-12 * w * w) & (square > 1e-12 * xx * xx) & (p.size == 0 || count == p.size);
  return usable ? value : kNoSubset;
}

// For every subset its reward less its least cost, without inertia: an upper bound of J. The cost of subsets whose points
// hardly differ is not resolved and left out.
TPC_INLINE void bound_alone(const double* __restrict sums, int64_t count, double* __restrict bound) {
  const auto sum = [&](int i, int64_t m) TPC_ALWAYS_INLINE { return sums[i * count + m]; };
#pragma omp simd
  for (int64_t m = 0; m < count; ++m) {
    const double w = sum(kW, m), x0 = sum(kX0, m), x1 = sum(kX1, m), y0 = sum(kY0, m), y1 = sum(kY1, m);
    const double xx = w * sum(kXX, m) - x0 * x0 - x1 * x1, yy = w * sum(kYY, m) - y0 * y0 - y1 * y1;
    const double re = w * sum(kRe, m) - x0 * y0 - x1 * y1, im = w * sum(kIm, m) - x0 * y1 + x1 * y0;
    const double cost = larger(yy * xx - (re * re + im * im), 0.0) / (w * xx);
    bound[m] = sum(kReward, m) - (xx > 1e-6 * w * w ? cost : 0.0);
  }
}

// The best subset of all. Subsets come in blocks: one part above the first kLowBits points, with every part below. Least
// costs add up to no more than the least cost of the whole (one similarity serves both parts no better than one each), so
// the bounds of the parts give one for the block, and most blocks need not be looked into.
TPC_INLINE Best search_body(const Problem& p, std::vector<double>& scratch) {
  const int low_bits = std::min(p.points, kLowBits), high_bits = p.points - low_bits;
  const int64_t low_count = int64_t{1} << low_bits, high_count = int64_t{1} << high_bits;
  alignas(64) double low_sums[kSums * kLowCount], keys[kLowCount];
  scratch.resize((kSums + 1) * high_count);
  double* const high_sums = scratch.data();
  double* const bound = high_sums + kSums * high_count;

  tabulate(p.sums, low_bits, low_sums);
  tabulate(p.sums + low_bits, high_bits, high_sums);
  bound_alone(low_sums, low_count, keys);
  double most = kNoSubset, most_of[kLowBits + 1];  // of low parts, of any size and of each
  std::fill(std::begin(most_of), std::end(most_of), kNoSubset);
  for (int64_t m = 0; m < low_count; ++m) {
    const int count = static_cast<int>(low_sums[kCount * low_count + m]);
    most_of[count] = larger(most_of[count], keys[m]);
    most = larger(most, keys[m]);
  }
  bound_alone(high_sums, high_count, bound);
  int64_t first = 0;
  for (int64_t high = 0; high < high_count; ++high) {
    const int rest = p.size - static_cast<int>(high_sums[kCount * high_count + high]);
    bound[high] += p.size == 0 ? most : 0 <= rest && rest <= low_bits ? most_of[rest] : kNoSubset;
    if (bound[high] > bound[first]) first = high;
  }
  // What rounding, of J and of the sums, may cost a bound.
  const double slack = 1e-5 + 1e-12 * (low_sums[kYY * low_count + low_count - 1] + high_sums[kYY * high_count + high_count - 1]);

  Best best;
  double enough = kNoSubset;
  const auto low = [&](int i, int64_t m) TPC_ALWAYS_INLINE { return low_sums[i * low_count + m]; };
  for (int64_t turn = -1; turn < high_count; ++turn) {
    const int64_t high = turn < 0 ? first : turn;  // the most promising block first
    if (turn == first || !(bound[high] >= enough)) continue;
    double h[kSums];
    for (int i = 0; i < kSums; ++i) h[i] = high_sums[i * high_count + high];
#pragma omp simd
    for (int64_t m = 0; m < low_count; ++m) {
      const double count = low(kCount, m) + h[kCount];
      const double value =
          evaluate(p, low(kW, m) + h[kW], low(kX0, m) + h[kX0], low(kX1, m) + h[kX1], low(kY0, m) + h[kY0],
                   low(kY1, m) + h[kY1], low(kXX, m) + h[kXX], low(kYY, m) + h[kYY], low(kRe, m) + h[kRe],
                   low(kIm, m) + h[kIm], low(kReward, m) + h[kReward], count);
      keys[m] = key_of(value, count);
    }
    const double largest = largest_of(keys, low_count);
    if (!(largest >= best.key) || largest == kNoSubset) continue;
    const int64_t m = std::find(keys, keys + low_count, largest) - keys;
    best.take({largest, (high << low_bits) + m});
    enough = std::floor(best.key / 32) * 1e-6 - slack;
  }
  return best;
}

// J of the best subset, once more and not rounded.
double value_of(const Problem& p, int64_t mask) {
  double s[kSums] = {};
  for (int j = 0; j < p.points; ++j)
    if (mask >> j & 1)
      for (int i = 0; i < kSums; ++i) s[i] += p.sums[j][i];
  return evaluate(p, s[kW], s[kX0], s[kX1], s[kY0], s[kY1], s[kXX], s[kYY], s[kRe], s[kIm], s[kReward], s[kCount]);
}

using Scratch = std::vector<double>;
Best search_baseline(const Problem& p, Scratch& scratch) { return search_body(p, scratch); }
#if TPC_X86
TPC_TARGET_AVX2 Best search_avx2(const Problem& p, Scratch& scratch) { return search_body(p, scratch); }
TPC_TARGET_AVX512 Best search_avx512(const Problem& p, Scratch& scratch) { return search_body(p, scratch); }
#endif

}  // namespace

void search_subset(const SearchBatch& b) {
  auto search = search_baseline;
#if TPC_X86
  if (simd() == Simd::avx512) search = search_avx512;
  if (simd() == Simd::avx2) search = search_avx2;
#endif
  constexpr int64_t kAtOnce = 4;  // what is not worth waking another thread for: a stream asks for one problem or two
  parallel_for(b.count, kAtOnce, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t n = begin; n < end; ++n) {
      Problem p;
      const Best best = prepare(b, n, p) ? search(p, scratch) : Best{};
      const bool exists = best.key != kNoSubset;
      b.mask[n] = 0;
      b.value[n] = exists ? value_of(p, best.mask) : 0;
      for (int j = 0; j < p.points; ++j)
        if (exists && (best.mask >> j & 1)) b.mask[n] |= int64_t{1} << p.index[j];
    }
  });
}

}  // namespace tpc
