#include "search_3d.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "parallel.h"
#include "procrustes.h"
#include "simd.h"
#include "subsets.h"
#include "svd3.h"

// As in 2-D a subset's least cost follows from sums over its points, but by way of a singular value decomposition: with
// M = sum w y x^T over centred points it is yy - sigma^2 / xx, sigma = s1 + s2 +- s3 (minus where det M < 0). Too much for
// a million subsets. Yet sigma is the largest root of a quartic, which Newton's method comes down to from above (Theobald,
// "Rapid calculation of RMSDs using a quaternion-based characteristic polynomial", Acta Cryst. A61, 2005). So a few steps
// on plain loops give a bound of J for every subset, and only those whose bound reaches the best J known are decomposed.

namespace tpc {
namespace {

enum Sum { kW, kX, kY = kX + 3, kXX = kY + 3, kYY, kXY, kReward = kXY + 9, kCount, kSums };  // kXY: y_i x_j, row by row

constexpr int kLowBits = 7;  // the table of all subsets of the first points fits into the first-level cache
constexpr int64_t kLowCount = int64_t{1} << kLowBits;
constexpr int kSteps = 4;    // of Newton's method: where points fit at all, the start is close, and three are enough
constexpr int kCores = 8;    // choices of points for the approximation, as in 2-D
constexpr int kTurns = 30;   // of inliers and similarity; each raises J, and mostly three are enough

struct Point {
  double x[3], y[3], weight, gain;  // about the centres, of order 1; 1 / t^2, 1 + prior
  int64_t index;
};

using Sums = std::array<double, kSums>;

struct Solution {
  bool ok = false;
  double value = kNoSubset;  // kNoSubset where there is none, and for a subset of another size
  double linear[3][3], mean_x[3], mean_y[3];
};

// The points of a problem, or some of them.
struct Problem {
  std::vector<Point> points;
  std::vector<Sums> sums;  // what each point adds
  double turn[3][3] = {};  // the linear part times this is what it is relative to the frame before
  double inertia = 0;
  int64_t size = 0;

  Problem() = default;
  Problem(const Search3d& b, int64_t n);

  Problem some(const std::vector<int64_t>& chosen) const {
    Problem part = *this;
    part.points.clear();
    part.sums.clear();
    for (const int64_t j : chosen) {
      part.points.push_back(points[static_cast<size_t>(j)]);
      part.sums.push_back(sums[static_cast<size_t>(j)]);
    }
    part.size = std::min<int64_t>(size, static_cast<int64_t>(chosen.size()));
    return part;
  }

  Solution solve(const Sums& s) const;
};

// Without points if no subset can have a fit.
Problem::Problem(const Search3d& b, int64_t n) : size(b.size) {
  double centre[6] = {}, radius[2] = {};
  const double *src = b.src + n * b.points * 3, *dst = b.dst + n * b.points * 3;
  for (int64_t k = 0; k < b.points; ++k) {
    if (!b.valid[n * b.points + k]) continue;
    Point p{};
    p.index = k;
    for (int i = 0; i < 3; ++i) {
      centre[i] += p.x[i] = src[3 * k + i];
      centre[3 + i] += p.y[i] = dst[3 * k + i];
    }
    points.push_back(p);
  }
  const double share = 1.0 / static_cast<double>(std::max<size_t>(points.size(), 1));
  for (Point& p : points)
    for (int i = 0; i < 3; ++i) {
      radius[0] = std::max(radius[0], std::abs(p.x[i] -= centre[i] * share));
      radius[1] = std::max(radius[1], std::abs(p.y[i] -= centre[3 + i] * share));
    }
  if (!(radius[0] > 0 && radius[1] > 0 && std::isfinite(radius[0]) && std::isfinite(radius[1]))) points.clear();
  for (Point& p : points) {
    const double t = b.tolerance[n * b.points + p.index] / radius[1];
    p.weight = 1 / (t * t);
    p.gain = 1 + b.prior[n * b.points + p.index];
    Sums& s = sums.emplace_back();
    s[kW] = p.weight;
    s[kReward] = p.gain;
    s[kCount] = 1;
    s[kXX] = s[kYY] = 0;
    for (int i = 0; i < 3; ++i) {
      p.x[i] /= radius[0];
      p.y[i] /= radius[1];
    }
    for (int i = 0; i < 3; ++i) {
      s[kX + i] = p.weight * p.x[i];
      s[kY + i] = p.weight * p.y[i];
      s[kXX] += p.weight * p.x[i] * p.x[i];
      s[kYY] += p.weight * p.y[i] * p.y[i];
      for (int j = 0; j < 3; ++j) s[kXY + 3 * i + j] = p.weight * p.y[i] * p.x[j];
    }
  }
  const double* before = b.previous + 9 * n;
  const auto minor = [&](int i, int j) {
    const int r0 = (i + 1) % 3, r1 = (i + 2) % 3, c0 = (j + 1) % 3, c1 = (j + 2) % 3;
    return before[3 * r0 + c0] * before[3 * r1 + c1] - before[3 * r0 + c1] * before[3 * r1 + c0];
  };
  const double det = before[0] * minor(0, 0) + before[1] * minor(0, 1) + before[2] * minor(0, 2);
  if (det == 0) return;
  inertia = b.inertia[n];
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) turn[i][j] = minor(j, i) / det * (radius[1] / radius[0]);
}

// J and the similarity of the subset whose sums these are.
Solution Problem::solve(const Sums& s) const {
  Solution found;
  const double w = s[kW];
  if (!(w > 0)) return found;
  double m[3][3], u[3][3], singular[3], v[3][3], xx = s[kXX], yy = s[kYY];
  for (int i = 0; i < 3; ++i) {
    found.mean_x[i] = s[kX + i] / w;
    found.mean_y[i] = s[kY + i] / w;
    xx -= s[kX + i] * found.mean_x[i];
    yy -= s[kY + i] * found.mean_y[i];
  }
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) m[i][j] = s[kXY + 3 * i + j] - s[kY + i] * found.mean_x[j];
  if (!(xx > 1e-12 * w && yy > 1e-12 * w)) return found;
  svd3(m, u, singular, v);
  if (!(singular[1] + singular[2] > 1e-6 * std::sqrt(xx * yy))) return found;  // a line may be turned about itself
  const double sigma = singular[0] + singular[1] + singular[2], scale = sigma / xx;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      found.linear[i][j] = scale * (u[i][0] * v[j][0] + u[i][1] * v[j][1] + u[i][2] * v[j][2]);
  found.ok = true;
  if (size != 0 && s[kCount] != static_cast<double>(size)) return found;
  found.value = s[kReward] - std::max(0.0, yy - sigma * scale);
  if (inertia > 0) {
    double change = 0;
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) {
        double moved = i == j ? -1 : 0;
        for (int k = 0; k < 3; ++k) moved += found.linear[i][k] * turn[k][j];
        change += moved * moved / 3;
      }
    found.value -= inertia * std::min(1.0, change);
  }
  return found;
}

// No less than J, without inertia, of the subset with the sums at(0), at(1), ... The cost of subsets whose points hardly
// differ is not resolved and left out.
template <typename At>
TPC_INLINE double bound_of(const At& at) {
  const double w = at(kW), over = 1 / w;
  const double x0 = at(kX), x1 = at(kX + 1), x2 = at(kX + 2), y0 = at(kY), y1 = at(kY + 1), y2 = at(kY + 2);
  const double xx = at(kXX) - (x0 * x0 + x1 * x1 + x2 * x2) * over, yy = at(kYY) - (y0 * y0 + y1 * y1 + y2 * y2) * over;
  const double unit = 1 / std::sqrt(xx * yy);
  const double a = (at(kXY) - y0 * x0 * over) * unit, b = (at(kXY + 1) - y0 * x1 * over) * unit;
  const double c = (at(kXY + 2) - y0 * x2 * over) * unit, d = (at(kXY + 3) - y1 * x0 * over) * unit;
  const double e = (at(kXY + 4) - y1 * x1 * over) * unit, f = (at(kXY + 5) - y1 * x2 * over) * unit;
  const double g = (at(kXY + 6) - y2 * x0 * over) * unit, h = (at(kXY + 7) - y2 * x1 * over) * unit;
  const double i = (at(kXY + 8) - y2 * x2 * over) * unit;
  const double ei = e * i - f * h, fg = f * g - d * i, dh = d * h - e * g;
  const double bi = b * i - c * h, ai = a * i - c * g, ah = a * h - b * g;
  const double bf = b * f - c * e, af = a * f - c * d, ae = a * e - b * d;
  const double square = a * a + b * b + c * c + d * d + e * e + f * f + g * g + h * h + i * i;
  const double minors = ei * ei + fg * fg + dh * dh + bi * bi + ai * ai + ah * ah + bf * bf + af * af + ae * ae;
  const double det = a * ei + b * fg + c * dh;
  // P(l) = (l^2 - square)^2 - 4 minors - 8 det l, whose largest root is sigma / sqrt(xx yy), at most 1. Where its slope is
  // lost in rounding the steps end.
  double l = 1;
  for (int step = 0; step < kSteps; ++step) {
    const double q = l * l - square, slope = 4 * (l * q - 2 * det);
    l -= slope > 1e-6 ? (q * q - 4 * minors - 8 * det * l) / slope : 0.0;
  }
  l += 1e-8;  // what rounding may have taken from it: some 1e-15 over the least slope
  const double cost = yy * (1 - l * l);
  return at(kReward) - (((xx > 1e-6 * w) & (yy > 1e-6 * w) & (cost > 0)) ? cost : 0.0);
}

TPC_INLINE void bound_alone(const double* __restrict sums, int64_t count, double* __restrict bound) {
#pragma omp simd
  for (int64_t m = 0; m < count; ++m)
    bound[m] = bound_of([&](int i) TPC_ALWAYS_INLINE { return sums[i * count + m]; });
}

TPC_INLINE void bound_block(const double* __restrict low, const double* __restrict high, int64_t count,
                            double* __restrict bound) {
#pragma omp simd
  for (int64_t m = 0; m < count; ++m)
    bound[m] = bound_of([&](int i) TPC_ALWAYS_INLINE { return low[i * count + m] + high[i]; });
}

// The best subset of at most kMaxSearchPoints points, as a bitmask; 0 if there is none. By blocks, as in 2-D: one part
// above the first kLowBits points with every part below. The bounds of two parts add up to one of the whole.
TPC_INLINE int64_t search_body(const Problem& p, std::vector<double>& scratch) {
  const int points = static_cast<int>(p.points.size());
  const int low_bits = std::min(points, kLowBits), high_bits = points - low_bits;
  const int64_t low_count = int64_t{1} << low_bits, high_count = int64_t{1} << high_bits;
  alignas(64) double low_sums[kSums * kLowCount], bounds[kLowCount];
  scratch.resize(static_cast<size_t>((kSums + 1) * high_count));
  double* const high_sums = scratch.data();
  double* const bound = high_sums + kSums * high_count;
  double table[kMaxSearchPoints][kSums];
  for (int j = 0; j < points; ++j) std::copy(p.sums[j].begin(), p.sums[j].end(), table[j]);
  tabulate(table, low_bits, low_sums);
  tabulate(table + low_bits, high_bits, high_sums);

  bound_alone(low_sums, low_count, bounds);
  double most = kNoSubset, most_of[kLowBits + 1];  // of low parts, of any size and of each
  std::fill(std::begin(most_of), std::end(most_of), kNoSubset);
  for (int64_t m = 0; m < low_count; ++m) {
    double& own = most_of[static_cast<int>(low_sums[kCount * low_count + m])];
    own = std::max(own, bounds[m]);
    most = std::max(most, bounds[m]);
  }
  bound_alone(high_sums, high_count, bound);
  int64_t first = 0;
  for (int64_t high = 0; high < high_count; ++high) {
    const int64_t rest = p.size - static_cast<int64_t>(high_sums[kCount * high_count + high]);
    bound[high] += p.size == 0 ? most : 0 <= rest && rest <= low_bits ? most_of[rest] : kNoSubset;
    if (bound[high] > bound[first]) first = high;
  }
  // What rounding, of J and of the sums, may cost a bound.
  const double slack = 1e-5 + 1e-12 * (low_sums[kYY * low_count + low_count - 1] + high_sums[kYY * high_count + high_count - 1]);

  double best_key = kNoSubset, enough = kNoSubset;
  int64_t best = 0;
  Sums s, above;
  for (int64_t turn = -1; turn < high_count; ++turn) {
    const int64_t high = turn < 0 ? first : turn;  // the most promising block first
    if (turn == first || !(bound[high] >= enough)) continue;
    for (int i = 0; i < kSums; ++i) above[i] = high_sums[i * high_count + high];
    bound_block(low_sums, above.data(), low_count, bounds);
    for (int64_t m = 0; m < low_count; ++m) {
      const double count = low_sums[kCount * low_count + m] + above[kCount];
      if (!(bounds[m] >= enough) || count < 3 || (p.size != 0 && count != static_cast<double>(p.size))) continue;
      for (int i = 0; i < kSums; ++i) s[i] = low_sums[i * low_count + m] + above[i];
      const double value = p.solve(s).value;
      if (value == kNoSubset) continue;
      const double key = key_of(value, count);
      const int64_t mask = (high << low_bits) + m;
      if (key < best_key || (key == best_key && mask > best)) continue;
      best_key = key;
      best = mask;
      enough = std::floor(key / 32) * 1e-6 - slack;
    }
  }
  return best;
}

using Scratch = std::vector<double>;
int64_t search_baseline(const Problem& p, Scratch& scratch) { return search_body(p, scratch); }
#if TPC_X86
TPC_TARGET_AVX2 int64_t search_avx2(const Problem& p, Scratch& scratch) { return search_body(p, scratch); }
TPC_TARGET_AVX512 int64_t search_avx512(const Problem& p, Scratch& scratch) { return search_body(p, scratch); }
#endif

int64_t search(const Problem& p, Scratch& scratch) {
#if TPC_X86
  if (simd() == Simd::avx512) return search_avx512(p, scratch);
  if (simd() == Simd::avx2) return search_avx2(p, scratch);
#endif
  return search_baseline(p, scratch);
}

// The best members known, and how they are come by.
class Search {
 public:
  Search(const Problem& problem, Scratch& scratch) : p_(problem), scratch_(scratch) {}

  // The best subset of all.
  void enumerate() { solve(best_of(p_, all())); }

  // The best that several choices of points lead to.
  void approximate() {
    const int64_t count = static_cast<int64_t>(p_.points.size());
    climb(all());
    for (int64_t c = 0; c < kCores; ++c) {
      // Spread over the order of the points, which neighbours in a body mostly share; each choice begins elsewhere.
      std::vector<int64_t> chosen;
      for (int64_t i = 0; i < kMaxSearchPoints; ++i)
        chosen.push_back((i * count + c * count / kCores) / kMaxSearchPoints % count);
      std::sort(chosen.begin(), chosen.end());
      chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
      climb(best_of(p_.some(chosen), chosen));
    }
  }

  double value = kNoSubset;
  std::vector<int64_t> members;

 private:
  std::vector<int64_t> all() const {
    std::vector<int64_t> every(p_.points.size());
    for (size_t j = 0; j < every.size(); ++j) every[j] = static_cast<int64_t>(j);
    return every;
  }

  std::vector<int64_t> best_of(const Problem& some, const std::vector<int64_t>& which) {
    const int64_t mask = search(some, scratch_);
    std::vector<int64_t> subset;
    for (size_t j = 0; j < which.size(); ++j)
      if (mask >> j & 1) subset.push_back(which[j]);
    return subset;
  }

  Solution solve(const std::vector<int64_t>& subset) {
    Sums s{};
    for (const int64_t j : subset)
      for (int i = 0; i < kSums; ++i) s[i] += p_.sums[static_cast<size_t>(j)][i];
    const Solution found = p_.solve(s);
    if (found.value > value) {
      value = found.value;
      members = subset;
    }
    return found;
  }

  // In turns: the similarity of some points, its inliers.
  void climb(std::vector<int64_t> subset) {
    double last = kNoSubset;
    for (int turn = 0; turn < kTurns; ++turn) {
      const Solution found = solve(subset);
      if (!found.ok || (turn > 0 && !(found.value > last))) return;
      last = found.value;
      subset = inliers(found);
    }
  }

  // Who gains under a similarity; of a given number, those who gain most.
  std::vector<int64_t> inliers(const Solution& found) const {
    std::vector<std::pair<double, int64_t>> gains;
    for (size_t j = 0; j < p_.points.size(); ++j) {
      const Point& q = p_.points[j];
      double square = 0;
      for (int i = 0; i < 3; ++i) {
        double off = found.mean_y[i] - q.y[i];
        for (int k = 0; k < 3; ++k) off += found.linear[i][k] * (q.x[k] - found.mean_x[k]);
        square += off * off;
      }
      const double gain = q.gain - q.weight * square;
      if (gain >= 0 || p_.size != 0) gains.push_back({-gain, static_cast<int64_t>(j)});
    }
    std::sort(gains.begin(), gains.end());
    if (p_.size != 0) gains.resize(std::min(gains.size(), static_cast<size_t>(p_.size)));
    std::vector<int64_t> subset;
    for (const auto& one : gains) subset.push_back(one.second);
    std::sort(subset.begin(), subset.end());
    return subset;
  }

  const Problem& p_;
  Scratch& scratch_;
};

}  // namespace

void search_3d(const Search3d& b) {
  parallel_for(b.count, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t n = begin; n < end; ++n) {
      const Problem p(b, n);
      Search found(p, scratch);
      const bool few = p.points.size() <= static_cast<size_t>(kMaxSearchPoints);
      if (few)
        found.enumerate();
      else
        found.approximate();
      b.exact[n] = few;
      b.value[n] = found.members.empty() ? 0 : found.value;
      std::fill_n(b.members + n * b.points, b.points, false);
      for (const int64_t j : found.members) b.members[n * b.points + p.points[static_cast<size_t>(j)].index] = true;
    }
  });
}

}  // namespace tpc
