#include "search_many.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <limits>
#include <vector>

#include "parallel.h"
#include "procrustes.h"

// The branch and bound. Without inertia the best subset has J = max over T of sum max(0, c_k - |T x_k - y_k|^2 / t_k^2),
// c_k = 1 + prior_k, and a similarity T: x -> a x + b has four numbers. A box of them leaves each point's residual known
// to a radius, hence three kinds of points: those that gain wherever in the box T lies (members), those that nowhere
// gain (gone), and the others (open). In the box J is at most: what the members gain less their least cost, plus what
// they lose since the box keeps away from their own best T, plus each open point's best. Boxes whose bound does not reach
// the best J known are dropped. With few points open, all their subsets are looked at, and the box is done.

namespace tpc {
namespace {

using Complex = std::complex<double>;

constexpr double kSlack = 1e-7;  // how much larger J may be in a box that is dropped; J is compared to 1e-6 elsewhere
constexpr int kOpen = 6;         // open points whose subsets, 64, take less time than the boxes that would tell them apart
constexpr int kCores = 8;        // choices of points for the approximation: the last ones hardly ever win
constexpr int kTurns = 30;       // of inliers and transform; each raises J, and mostly three are enough

double square(double x) { return x * x; }

struct Point {
  Complex x, y;
  double weight, gain, radius, reach;  // 1 / t^2, 1 + prior, |x|, the residual beyond which it costs more than it gains
  int64_t index;
};

// What the best transform of some points and its cost are made of; additive.
struct Sums {
  double w = 0, xx = 0, yy = 0, gain = 0;
  Complex x = 0, y = 0, xy = 0;
  int64_t count = 0;

  void add(const Point& p) {
    w += p.weight;
    x += p.weight * p.x;
    y += p.weight * p.y;
    xx += p.weight * std::norm(p.x);
    yy += p.weight * std::norm(p.y);
    xy += p.weight * std::conj(p.x) * p.y;
    gain += p.gain;
    ++count;
  }
};

struct Fit {
  bool ok = false;
  Complex a = 0, mean_x = 0, mean_y = 0;
  double spread = 0, cost = 0;  // sum w |x - mean|^2, least sum w |residual|^2

  explicit Fit(const Sums& s) {
    if (!(s.w > 0)) return;
    mean_x = s.x / s.w;
    mean_y = s.y / s.w;
    spread = s.xx - s.w * std::norm(mean_x);
    const double spread_y = s.yy - s.w * std::norm(mean_y);
    const Complex both = s.xy - s.w * std::conj(mean_x) * mean_y;
    ok = spread > 1e-12 * s.w && std::norm(both) > 1e-12 * spread * spread;
    if (!(spread > 0)) {
      spread = 0;
      cost = 0;
      return;
    }
    a = both / spread;
    cost = std::max(0.0, spread_y - std::norm(both) / spread);
  }
  Complex b() const { return mean_y - a * mean_x; }
};

class Search {
 public:
  Search(const ManySearch& job, int64_t n) : job_(job), n_(n) {
    const double *src = job.src + n * job.points * 2, *dst = job.dst + n * job.points * 2;
    Complex centre_x = 0, centre_y = 0;
    for (int64_t k = 0; k < job.points; ++k)
      if (job.valid[n * job.points + k]) {
        points_.push_back({{src[2 * k], src[2 * k + 1]}, {dst[2 * k], dst[2 * k + 1]}, 0, 0, 0, 0, k});
        centre_x += points_.back().x;
        centre_y += points_.back().y;
      }
    const double share = 1.0 / static_cast<double>(std::max<size_t>(points_.size(), 1));
    for (Point& p : points_) {
      p.x -= centre_x * share;
      p.y -= centre_y * share;
      unit_x_ = std::max(unit_x_, std::max(std::abs(p.x.real()), std::abs(p.x.imag())));
      unit_y_ = std::max(unit_y_, std::max(std::abs(p.y.real()), std::abs(p.y.imag())));
    }
    usable_ = points_.size() >= 2 && unit_x_ > 0 && unit_y_ > 0 && std::isfinite(unit_x_) && std::isfinite(unit_y_);
    if (!usable_) return;
    for (Point& p : points_) {
      const double t = job.tolerance[n * job.points + p.index] / unit_y_;
      p.x /= unit_x_;
      p.y /= unit_y_;
      p.weight = 1 / (t * t);
      p.gain = 1 + job.prior[n * job.points + p.index];
      p.radius = std::abs(p.x);
      p.reach = p.gain > 0 ? t * std::sqrt(p.gain) : -1;
    }
    const Complex before(job.previous[2 * n], job.previous[2 * n + 1]);
    if (before != 0.0) {
      inertia_ = job.inertia[n];
      turn_ = unit_y_ / unit_x_ / before;
    }
  }

  void run() {
    bool* members = job_.members + n_ * job_.points;
    std::fill_n(members, job_.points, false);
    job_.value[n_] = 0;
    job_.exact[n_] = true;
    job_.boxes[n_] = 0;
    if (!usable_) return;
    approximate();
    bool exact = false;
    if (job_.size == 0 && inertia_ == 0 && job_.most_boxes > 0 && !best_.empty()) exact = branch_and_bound();
    job_.exact[n_] = exact;
    job_.boxes[n_] = boxes_;
    if (best_.empty()) return;
    job_.value[n_] = best_value_;
    for (const int64_t j : best_) members[points_[static_cast<size_t>(j)].index] = true;
  }

 private:
  // J, or minus infinity where there is no fit.
  double value_of(const Sums& s, const Fit& fit) const {
    if (!fit.ok || (job_.size != 0 && s.count != job_.size)) return -std::numeric_limits<double>::infinity();
    return s.gain - fit.cost - (inertia_ > 0 ? inertia_ * std::min(1.0, std::norm(fit.a * turn_ - 1.0)) : 0);
  }

  void take(double value, const std::vector<int64_t>& members) {
    if (!(value > best_value_)) return;
    best_value_ = value;
    best_ = members;
  }

  // Who gains under a transform; of a given number, those who gain most.
  std::vector<int64_t> inliers(Complex a, Complex b) const {
    std::vector<std::pair<double, int64_t>> gains;
    for (size_t j = 0; j < points_.size(); ++j) {
      const Point& p = points_[j];
      const double gain = p.gain - p.weight * std::norm(a * p.x + b - p.y);
      if (gain >= 0 || job_.size != 0) gains.push_back({-gain, static_cast<int64_t>(j)});
    }
    if (job_.size != 0) {
      std::sort(gains.begin(), gains.end());
      gains.resize(std::min(gains.size(), static_cast<size_t>(job_.size)));
    }
    std::vector<int64_t> members;
    for (const auto& [gain, j] : gains) members.push_back(j);
    std::sort(members.begin(), members.end());
    return members;
  }

  Sums sums_of(const std::vector<int64_t>& members) const {
    Sums s;
    for (const int64_t j : members) s.add(points_[static_cast<size_t>(j)]);
    return s;
  }

  // From some members on, in turns: their transform, its inliers.
  void climb(std::vector<int64_t> members) {
    double last = -std::numeric_limits<double>::infinity();
    for (int turn = 0; turn < kTurns; ++turn) {
      const Sums s = sums_of(members);
      const Fit fit(s);
      const double value = value_of(s, fit);
      take(value, members);
      if (!fit.ok || (turn > 0 && !(value > last))) return;
      last = value;
      members = inliers(fit.a, fit.b());
    }
  }

  void approximate() {
    const int64_t count = static_cast<int64_t>(points_.size());
    const int64_t core = std::min<int64_t>(count, kMaxSearchPoints);
    std::vector<int64_t> all(static_cast<size_t>(count));
    for (int64_t j = 0; j < count; ++j) all[static_cast<size_t>(j)] = j;
    if (job_.size == 0 || job_.size == count) climb(all);
    std::vector<double> src, dst, tolerance, prior;
    const std::array<double, 2> previous = {job_.previous[2 * n_], job_.previous[2 * n_ + 1]};
    for (int c = 0; c < (count > core ? kCores : 1); ++c) {
      // Spread over the order of the points, which neighbours in a body mostly share; each choice begins elsewhere.
      std::vector<int64_t> chosen;
      for (int64_t i = 0; i < core; ++i) chosen.push_back((i * count + c * count / kCores) / core % count);
      std::sort(chosen.begin(), chosen.end());
      chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
      const size_t k = chosen.size();
      src.resize(2 * k);
      dst.resize(2 * k);
      tolerance.resize(k);
      prior.resize(k);
      for (size_t i = 0; i < k; ++i) {
        const int64_t index = n_ * job_.points + points_[static_cast<size_t>(chosen[i])].index;
        std::copy_n(job_.src + 2 * index, 2, &src[2 * i]);
        std::copy_n(job_.dst + 2 * index, 2, &dst[2 * i]);
        tolerance[i] = job_.tolerance[index];
        prior[i] = job_.prior[index];
      }
      std::array<bool, kMaxSearchPoints> valid;
      valid.fill(true);
      int64_t mask = 0;
      double value = 0;
      const int size = static_cast<int>(std::min<int64_t>(job_.size, static_cast<int64_t>(k)));
      search_subset({1, static_cast<int>(k), src.data(), dst.data(), tolerance.data(), valid.data(), prior.data(),
                     previous.data(), job_.inertia + n_, size, &mask, &value});
      std::vector<int64_t> members;
      for (size_t i = 0; i < k; ++i)
        if (mask >> i & 1) members.push_back(chosen[i]);
      if (!members.empty()) climb(members);
    }
  }

  struct Box {
    double centre[4], half[4];  // of the real and imaginary parts of a and b
    Sums members;
    std::vector<int64_t> inside, open;
  };

  // How large a can be in a transform of a better subset: a larger one would bring all members' x so close together that
  // they gain less than the best J known.
  double largest_scale() const {
    double nearest = std::numeric_limits<double>::infinity(), spread = 0, reach = 0;
    std::vector<std::pair<double, double>> others;
    for (const Point& p : points_) {
      spread = std::max(spread, std::abs(p.y));
      reach = std::max(reach, p.reach);
      others.clear();
      for (const Point& q : points_)
        if (q.gain > 0) others.push_back({std::abs(q.x - p.x), q.gain});
      std::sort(others.begin(), others.end());
      double gain = 0;
      for (const auto& [distance, g] : others) {
        gain += g;
        if (gain > best_value_) {
          nearest = std::min(nearest, distance);
          break;
        }
      }
    }
    if (!std::isfinite(nearest)) return 0;  // no subset gains more
    return nearest > 0 ? 2 * (spread + reach) / nearest : std::numeric_limits<double>::infinity();
  }

  bool branch_and_bound() {
    const double scale = largest_scale();
    if (scale == 0) return true;
    if (!(scale < 1e6)) return false;
    double far_x = 0, far_y = 0, reach = 0;
    for (const Point& p : points_) {
      far_x = std::max(far_x, p.radius);
      far_y = std::max(far_y, std::abs(p.y));
      reach = std::max(reach, p.reach);
    }
    const double shift = far_y + scale * far_x + reach;
    std::vector<Box> boxes(1);
    Box& whole = boxes.back();
    for (int i = 0; i < 4; ++i) {
      whole.centre[i] = 0;
      whole.half[i] = i < 2 ? scale : shift;
    }
    for (size_t j = 0; j < points_.size(); ++j)
      if (points_[j].gain > 0) whole.open.push_back(static_cast<int64_t>(j));
    double mean_radius = 0;
    for (const Point& p : points_) mean_radius += p.radius / static_cast<double>(points_.size());
    while (!boxes.empty()) {
      if (++boxes_ > job_.most_boxes) return false;
      Box box = std::move(boxes.back());
      boxes.pop_back();
      if (!narrow(box) || finish(box)) continue;
      // Halves of the side along which residuals vary most.
      int side = 0;
      for (int i = 1; i < 4; ++i)
        if (box.half[i] * (i < 2 ? mean_radius : 1) > box.half[side] * (side < 2 ? mean_radius : 1)) side = i;
      box.half[side] /= 2;
      Box other = box;
      box.centre[side] -= box.half[side];
      other.centre[side] += box.half[side];
      boxes.push_back(std::move(box));
      boxes.push_back(std::move(other));
    }
    return true;
  }

  // Sorts the open points of a box; false if it holds nothing better than the best.
  bool narrow(Box& box) const {
    const Complex a(box.centre[0], box.centre[1]), b(box.centre[2], box.centre[3]);
    const double of_a = std::hypot(box.half[0], box.half[1]), of_b = std::hypot(box.half[2], box.half[3]);
    double hope = 0;
    size_t kept = 0;
    for (const int64_t j : box.open) {
      const Point& p = points_[static_cast<size_t>(j)];
      const double residual = std::sqrt(std::norm(a * p.x + b - p.y)), radius = of_a * p.radius + of_b;
      if (residual - radius >= p.reach) continue;
      if (residual + radius <= p.reach) {
        box.members.add(p);
        box.inside.push_back(j);
        continue;
      }
      box.open[kept++] = j;
      hope += p.gain - p.weight * square(std::max(0.0, residual - radius));
    }
    box.open.resize(kept);
    if (!(box.members.gain + hope > best_value_ + kSlack)) return false;
    if (box.members.count == 0) return true;
    const Fit fit(box.members);
    const double off_a = std::max(0.0, std::abs(a - fit.a) - of_a);
    const double off_b = std::max(0.0, std::abs(b + a * fit.mean_x - fit.mean_y) - of_b - of_a * std::abs(fit.mean_x));
    const double cost = fit.cost + (fit.spread > 0 ? fit.spread * square(off_a) : 0) + box.members.w * square(off_b);
    return box.members.gain - cost + hope > best_value_ + kSlack;
  }

  // All subsets of the open points, if they are few; whether that was done.
  bool finish(const Box& box) {
    if (box.open.size() > kOpen) return false;
    for (int64_t mask = 0; mask < int64_t{1} << box.open.size(); ++mask) {
      Sums s = box.members;
      for (size_t i = 0; i < box.open.size(); ++i)
        if (mask >> i & 1) s.add(points_[static_cast<size_t>(box.open[i])]);
      const double value = value_of(s, Fit(s));
      if (!(value > best_value_)) continue;
      std::vector<int64_t> members = box.inside;
      for (size_t i = 0; i < box.open.size(); ++i)
        if (mask >> i & 1) members.push_back(box.open[i]);
      take(value, members);
    }
    return true;
  }

  const ManySearch& job_;
  const int64_t n_;
  std::vector<Point> points_;
  double unit_x_ = 0, unit_y_ = 0, inertia_ = 0;
  Complex turn_ = 0;
  bool usable_ = false;
  double best_value_ = -std::numeric_limits<double>::infinity();
  std::vector<int64_t> best_;
  int64_t boxes_ = 0;
};

}  // namespace

void search_many(const ManySearch& batch) {
  parallel_for(batch.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) Search(batch, n).run();
  });
}

}  // namespace tpc
