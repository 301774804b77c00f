#include "transforms.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "parallel.h"
#include "procrustes.h"
#include "simd.h"
#include "subsets.h"

namespace tpc {
namespace {

// The linear part of the best map of centred moments, how much of the spread of y it explains, and whether there is one.
// xx = (sum x0 x0, sum x0 x1, sum x1 x1), xy = (sum x0 y0, sum x1 y0, sum x0 y1, sum x1 y1).
struct Linear {
  double a, b, c, d;  // y = [a b; c d] x
  double cost;        // sum |y - A x|^2
  bool usable;
};

template <Model model>
TPC_INLINE Linear solve(double x00, double x01, double x11, double x0y0, double x1y0, double x0y1, double x1y1, double yy,
                        double floor) {
  if (model == Model::translation) return {1, 0, 0, 1, yy + x00 + x11 - 2 * (x0y0 + x1y1), true};
  if (model == Model::linear) {
    const double a = x0y0 / x00, d = x1y1 / x11;
    const double least = floor * (x00 + x11);
    const bool usable = (x00 > least) & (x11 > least) & (std::fabs(a * d) > 1e-12 * (a * a + d * d));
    return {a, 0, 0, d, yy - a * x0y0 - d * x1y1, usable};
  }
  const double determinant = x00 * x11 - x01 * x01, trace = x00 + x11, one_over = 1 / determinant;
  const double a = (x0y0 * x11 - x1y0 * x01) * one_over, b = (x1y0 * x00 - x0y0 * x01) * one_over;
  const double c = (x0y1 * x11 - x1y1 * x01) * one_over, d = (x1y1 * x00 - x0y1 * x01) * one_over;
  const double square = a * a + b * b + c * c + d * d;
  const bool usable = (determinant > floor * trace * trace) & (std::fabs(a * d - b * c) > 1e-12 * square);
  return {a, b, c, d, yy - a * x0y0 - b * x1y0 - c * x0y1 - d * x1y1, usable};
}

template <Model model>
void fit_one(const TransformBatch& batch, int64_t n) {
  const double *src = batch.src + n * batch.points * 2, *dst = batch.dst + n * batch.points * 2;
  const double* weights = batch.weights + n * batch.points;
  const auto weight = [&](int64_t k) {
    const bool seen = std::isfinite(src[2 * k] + src[2 * k + 1]) && std::isfinite(dst[2 * k] + dst[2 * k + 1]);
    return seen ? weights[k] : 0.0;
  };
  double total = 0, mean[4] = {};
  for (int64_t k = 0; k < batch.points; ++k) total += weight(k);
  const double share = total > 0 ? 1 / total : 0;
  for (int64_t k = 0; k < batch.points; ++k) {
    const double w = weight(k) * share;
    if (w == 0) continue;
    for (int i = 0; i < 2; ++i) {
      mean[i] += w * src[2 * k + i];
      mean[2 + i] += w * dst[2 * k + i];
    }
  }
  double x00 = 0, x01 = 0, x11 = 0, x0y0 = 0, x1y0 = 0, x0y1 = 0, x1y1 = 0, yy = 0;
  for (int64_t k = 0; k < batch.points; ++k) {
    const double w = weight(k) * share;
    if (w == 0) continue;
    const double x0 = src[2 * k] - mean[0], x1 = src[2 * k + 1] - mean[1];
    const double y0 = dst[2 * k] - mean[2], y1 = dst[2 * k + 1] - mean[3];
    x00 += w * x0 * x0;
    x01 += w * x0 * x1;
    x11 += w * x1 * x1;
    x0y0 += w * x0 * y0;
    x1y0 += w * x1 * y0;
    x0y1 += w * x0 * y1;
    x1y1 += w * x1 * y1;
    yy += w * (y0 * y0 + y1 * y1);
  }
  const double noise = batch.floor * batch.floor;
  Linear found = solve<model>(x00, x01, x11, x0y0, x1y0, x0y1, x1y1, yy, model == Model::affine ? 1e-12 : noise);
  bool ok = total > 0 && found.usable;
  const double far = mean[0] * mean[0] + mean[1] * mean[1];
  if (model == Model::linear) ok = ok && x00 > noise * far && x11 > noise * far;
  if (model == Model::affine) ok = ok && x00 * x11 - x01 * x01 > noise * far * (x00 + x11);
  if (!ok) found = {1, 0, 0, 1, 0, false};
  double* matrix = batch.matrix + 6 * n;
  matrix[0] = found.a;
  matrix[1] = found.b;
  matrix[3] = found.c;
  matrix[4] = found.d;
  matrix[2] = mean[2] - found.a * mean[0] - found.b * mean[1];
  matrix[5] = mean[3] - found.c * mean[0] - found.d * mean[1];
  double square = 0;  // measured, not the difference of moments
  for (int64_t k = 0; k < batch.points; ++k) {
    const double w = weight(k) * share;
    if (w == 0) continue;
    const double d0 = dst[2 * k] - (matrix[0] * src[2 * k] + matrix[1] * src[2 * k + 1] + matrix[2]);
    const double d1 = dst[2 * k + 1] - (matrix[3] * src[2 * k] + matrix[4] * src[2 * k + 1] + matrix[5]);
    square += w * (d0 * d0 + d1 * d1);
  }
  batch.residual[n] = std::sqrt(square);
  batch.ok[n] = ok;
}

// What a subset's value is made of; additive.
enum Sum { kW, kX0, kX1, kY0, kY1, k00, k01, k11, k0Y0, k1Y0, k0Y1, k1Y1, kYY, kReward, kCount, kSums };

constexpr int kLowBits = 7;
constexpr int kLowCount = 1 << kLowBits;

struct Problem {
  int points = 0;
  int index[kMaxSearchPoints];
  double sums[kMaxSearchPoints][kSums];
  double back[4] = {1, 0, 0, 1};  // the inverse of the linear part of the frame before
  double inertia = 0;
  int size = 0;
};

bool prepare(const TransformSearch& b, int64_t n, Problem& p) {
  const double *src = b.src + n * b.points * 2, *dst = b.dst + n * b.points * 2, *tolerance = b.tolerance + n * b.points;
  const ValidPoints valid(b.points, src, dst, b.valid + n * b.points);
  const double* mean = valid.centre;
  p.points = valid.count;
  p.size = b.size;
  std::copy(valid.index, valid.index + valid.count, p.index);
  const double unit = std::max(valid.radius_src, valid.radius_dst);  // one for both sides: a translation knows no scale
  if (!(p.points >= 2 && unit > 0 && std::isfinite(unit))) return false;
  for (int j = 0; j < p.points; ++j) {
    const int k = p.index[j];
    const double x0 = (src[2 * k] - mean[0]) / unit, x1 = (src[2 * k + 1] - mean[1]) / unit;
    const double y0 = (dst[2 * k] - mean[2]) / unit, y1 = (dst[2 * k + 1] - mean[3]) / unit;
    const double t = tolerance[k] / unit, w = 1 / (t * t);
    const double terms[kSums] = {w,           w * x0,      w * x1,      w * y0,      w * y1,
                                 w * x0 * x0, w * x0 * x1, w * x1 * x1, w * x0 * y0, w * x1 * y0,
                                 w * x0 * y1, w * x1 * y1, w * (y0 * y0 + y1 * y1),  1 + b.prior[n * b.points + k], 1};
    std::copy(terms, terms + kSums, p.sums[j]);
  }
  const double* m = b.previous + 4 * n;
  const double determinant = m[0] * m[3] - m[1] * m[2];
  if (determinant != 0) {
    p.inertia = b.inertia[n];
    p.back[0] = m[3] / determinant;
    p.back[1] = -m[1] / determinant;
    p.back[2] = -m[2] / determinant;
    p.back[3] = m[0] / determinant;
  }
  return true;
}

// J of the subset whose sums these are, or kNoSubset.
template <Model model, typename Get>
TPC_INLINE double evaluate(const Problem& p, const Get& s) {
  const double w = s(kW), x0 = s(kX0), x1 = s(kX1), y0 = s(kY0), y1 = s(kY1), one_over = 1 / w;
  const double x00 = s(k00) - x0 * x0 * one_over, x01 = s(k01) - x0 * x1 * one_over, x11 = s(k11) - x1 * x1 * one_over;
  const Linear found = solve<model>(x00, x01, x11, s(k0Y0) - x0 * y0 * one_over, s(k1Y0) - x1 * y0 * one_over,
                                    s(k0Y1) - x0 * y1 * one_over, s(k1Y1) - x1 * y1 * one_over,
                                    s(kYY) - (y0 * y0 + y1 * y1) * one_over, 1e-12);
  const double e = found.a * p.back[0] + found.b * p.back[2] - 1, f = found.a * p.back[1] + found.b * p.back[3];
  const double g = found.c * p.back[0] + found.d * p.back[2], h = found.c * p.back[1] + found.d * p.back[3] - 1;
  const double change = (e * e + f * f + g * g + h * h) * 0.5;
  const double value = s(kReward) - (found.cost > 0 ? found.cost : 0.0) - p.inertia * (change < 1 ? change : 1.0);
  const bool spread = (model == Model::translation) | (x00 + x11 > 1e-12 * w);
  const bool usable = found.usable & spread & (w > 0) & (p.size == 0 || s(kCount) == p.size);
  return usable ? value : kNoSubset;
}

// Every subset: blocks of one part above the first points with every part below.
template <Model model>
TPC_INLINE int64_t search_body(const Problem& p, std::vector<double>& scratch) {
  const int low_bits = std::min(p.points, kLowBits), high_bits = p.points - low_bits;
  const int64_t low_count = int64_t{1} << low_bits, high_count = int64_t{1} << high_bits;
  alignas(64) double low[kSums * kLowCount], keys[kLowCount];
  scratch.resize(kSums * high_count);
  tabulate(p.sums, low_bits, low);
  tabulate(p.sums + low_bits, high_bits, scratch.data());
  double best = kNoSubset;
  int64_t mask = 0;
  for (int64_t high = 0; high < high_count; ++high) {
    double h[kSums];
    for (int i = 0; i < kSums; ++i) h[i] = scratch[i * high_count + high];
#pragma omp simd
    for (int64_t m = 0; m < low_count; ++m) {
      const double value = evaluate<model>(p, [&](int i) TPC_ALWAYS_INLINE { return low[i * low_count + m] + h[i]; });
      keys[m] = key_of(value, low[kCount * low_count + m] + h[kCount]);
    }
    const double largest = largest_of(keys, low_count);
    if (!(largest > best)) continue;  // of equal keys the lowest mask, which came first
    best = largest;
    mask = (high << low_bits) + (std::find(keys, keys + low_count, largest) - keys);
  }
  return mask;
}

template <Model model>
TPC_INLINE int64_t search_baseline(const Problem& p, std::vector<double>& s) {
  return search_body<model>(p, s);
}
#if TPC_X86
template <Model model>
TPC_TARGET_AVX2 int64_t search_avx2(const Problem& p, std::vector<double>& s) {
  return search_body<model>(p, s);
}
template <Model model>
TPC_TARGET_AVX512 int64_t search_avx512(const Problem& p, std::vector<double>& s) {
  return search_body<model>(p, s);
}
#endif

template <Model model>
void search_all(const TransformSearch& b) {
  auto search = search_baseline<model>;
#if TPC_X86
  if (simd() == Simd::avx512) search = search_avx512<model>;
  if (simd() == Simd::avx2) search = search_avx2<model>;
#endif
  parallel_for(b.count, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch;
    for (int64_t n = begin; n < end; ++n) {
      Problem p;
      b.mask[n] = 0;
      b.value[n] = 0;
      const int64_t mask = prepare(b, n, p) ? search(p, scratch) : 0;
      if (mask == 0) continue;
      double sums[kSums] = {};  // J once more, not rounded
      for (int j = 0; j < p.points; ++j) {
        if (!(mask >> j & 1)) continue;
        b.mask[n] |= int64_t{1} << p.index[j];
        for (int i = 0; i < kSums; ++i) sums[i] += p.sums[j][i];
      }
      b.value[n] = evaluate<model>(p, [&](int i) { return sums[i]; });
    }
  });
}

}  // namespace

void fit_linear_map(const TransformBatch& batch) {
  const auto fit = batch.model == Model::translation ? fit_one<Model::translation>
                   : batch.model == Model::linear    ? fit_one<Model::linear>
                                                     : fit_one<Model::affine>;
  parallel_for(batch.count, 512, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) fit(batch, n);
  });
}

void search_transform(const TransformSearch& batch) {
  if (batch.model == Model::translation) return search_all<Model::translation>(batch);
  if (batch.model == Model::linear) return search_all<Model::linear>(batch);
  search_all<Model::affine>(batch);
}

}  // namespace tpc
