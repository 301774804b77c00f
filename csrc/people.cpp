#include "people.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "procrustes.h"

namespace tpc {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Corners {  // left, top, and minus right and bottom
  double side[4];

  double width() const { return -(side[0] + side[2]); }
  double height() const { return -(side[1] + side[3]); }
};

Corners around(int64_t count, const double* points, const bool* seen) {
  Corners c{{kInfinity, kInfinity, kInfinity, kInfinity}};
  for (int64_t k = 0; k < count; ++k) {
    if (!seen[k]) continue;
    const double x = points[2 * k], y = points[2 * k + 1];
    c.side[0] = std::min(c.side[0], x);
    c.side[1] = std::min(c.side[1], y);
    c.side[2] = std::min(c.side[2], -x);
    c.side[3] = std::min(c.side[3], -y);
  }
  return c;
}

// Of a person whose body has these corners.
double size_of(const Corners& body) {
  const double width = std::max(body.width(), 0.0), height = std::max(body.height(), 0.0);
  return std::max({std::sqrt(width * height), std::max(width, height) / 4, 1.0});
}

// Mean distance of the keypoints that both have; infinite without any. `order` names those of the frame anew, or is null.
double distance(int64_t keypoints, const double* points, const bool* known, const double* shift, const double* theirs,
                const bool* seen, const int64_t* order) {
  double sum = 0;
  int64_t count = 0;
  for (int64_t k = 0; k < keypoints; ++k) {
    const int64_t j = order ? order[k] : k;
    if (!known[k] || !seen[j]) continue;
    const double dx = points[2 * k] + shift[0] - theirs[2 * j], dy = points[2 * k + 1] + shift[1] - theirs[2 * j + 1];
    sum += std::sqrt(dx * dx + dy * dy);
    ++count;
  }
  return count ? sum / static_cast<double>(count) : kInfinity;
}

double overlap(const double* a, const double* b) {
  double low[4];
  for (int i = 0; i < 4; ++i) low[i] = std::max(a[i], b[i]);
  const double both = std::min(low[0] + low[2], 0.0) * std::min(low[1] + low[3], 0.0);
  const double area_a = (a[0] + a[2]) * (a[1] + a[3]), area_b = (b[0] + b[2]) * (b[1] + b[3]);
  return both / std::max(area_a + area_b - both, 1e-9);
}

}  // namespace

void seen_points(int64_t count, const double* points, const double* scores, double threshold, bool* seen) {
  for (int64_t n = 0; n < count; ++n)
    seen[n] = std::isfinite(points[2 * n]) && std::isfinite(points[2 * n + 1]) && scores[n] >= threshold;
}

void person_bounds(int64_t count, int64_t keypoints, const double* points, const bool* seen, int64_t body,
                   double* bounds) {
  for (int64_t n = 0; n < count; ++n) {
    const double* p = points + n * keypoints * 2;
    const bool* s = seen + n * keypoints;
    double* out = bounds + 5 * n;
    std::copy_n(around(keypoints, p, s).side, 4, out);
    out[4] = std::log(size_of(around(body, p, s)));
  }
}

void pair_costs(const Known& known, const Seen& seen, const Prices& prices, double* distances, double* cost) {
  const int64_t k = seen.keypoints;
  for (int64_t t = 0; t < known.count; ++t) {
    const double gap = seen.time - known.last[t];
    const double coast = -prices.coast_seconds * std::expm1(-gap / prices.coast_seconds);
    const double shift[2] = {known.velocity[2 * t] * coast, known.velocity[2 * t + 1] * coast};
    const double* was = known.bounds + 5 * t;
    const double moved[4] = {was[0] + shift[0], was[1] + shift[1], was[2] - shift[0], was[3] - shift[1]};
    const double reach = prices.reach + prices.reach_per_second * gap;
    for (int64_t d = 0; d < seen.count; ++d) {
      const double* theirs = seen.points + d * k * 2;
      const bool* visible = seen.seen + d * k;
      const double* bounds = seen.bounds + 5 * d;
      double* pair = distances + 2 * (t * seen.count + d);
      for (int side = 0; side < 2; ++side)
        pair[side] = distance(k, known.points + t * k * 2, known.known + t * k, shift, theirs, visible,
                              side ? seen.mirrored : nullptr);
      double apart = std::min(pair[0], pair[1]);
      if (apart == kInfinity)
        apart = std::hypot(moved[0] - moved[2] - bounds[0] + bounds[2], moved[1] - moved[3] - bounds[1] + bounds[3]) / 2;
      const bool few = std::count(visible, visible + k, true) < seen.good;
      const double size = few ? was[4] : bounds[4];
      apart /= std::exp((was[4] + size) / 2);
      cost[t * seen.count + d] = apart <= reach ? apart + prices.overlap * (1 - overlap(moved, bounds)) +
                                                      prices.size * std::fabs(was[4] - size) + prices.gap * gap
                                                : prices.impossible;
    }
  }
}

void follow(const Known& known, const Seen& seen, int64_t pairs, const int64_t* tracks, const int64_t* found,
            const bool* exchanged, double velocity_seconds, double size_seconds) {
  const int64_t k = seen.keypoints;
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t t = tracks[i], d = found[i];
    double* before = known.points + t * k * 2;
    bool* was = known.known + t * k;
    const double* theirs = seen.points + d * k * 2;
    const bool* visible = seen.seen + d * k;
    if (exchanged[i])
      for (int64_t a = 0; a < k; ++a) {
        const int64_t b = seen.mirrored[a];
        if (b <= a) continue;
        std::swap_ranges(before + 2 * a, before + 2 * a + 2, before + 2 * b);
        std::swap(was[a], was[b]);
      }
    const double dt = std::max(seen.time - known.last[t], 1e-6);
    double moved[2] = {0, 0};
    int64_t common = 0, count = 0;
    for (int64_t j = 0; j < k; ++j) {
      count += visible[j];
      if (!was[j] || !visible[j]) continue;
      for (int c = 0; c < 2; ++c) moved[c] += theirs[2 * j + c] - before[2 * j + c];
      ++common;
    }
    for (int c = 0; c < 2; ++c) {
      moved[c] /= static_cast<double>(std::max<int64_t>(common, 1));
      double& velocity = known.velocity[2 * t + c];
      if (common) velocity -= std::expm1(-dt / velocity_seconds) * (moved[c] / dt - velocity);
    }
    for (int64_t j = 0; j < k; ++j) {
      for (int c = 0; c < 2; ++c) before[2 * j + c] = visible[j] ? theirs[2 * j + c] : before[2 * j + c] + moved[c];
      was[j] = was[j] || visible[j];
    }
    known.last[t] = seen.time;
    const double* bounds = seen.bounds + 5 * d;
    double* ours = known.bounds + 5 * t;
    std::copy_n(bounds, 4, ours);
    if (count >= seen.good) ours[4] -= std::expm1(-dt / size_seconds) * (bounds[4] - ours[4]);
  }
}

}  // namespace tpc
