#include "track.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>
#include <cstring>
#include <limits>

#include "parallel.h"
#include "procrustes.h"

namespace tpc {
namespace {

constexpr int K = kTrackPoints, N = kTrackState, kBand = 2 * N + 1;
constexpr double kPi = 3.14159265358979323846;
constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

double rounded(double value) { return std::nearbyint(value * 1e6) / 1e6; }

// ---------------------------------------------------------------------------------------------------------------
// Sizes and candidates

struct Size {
  double value, rests_on;  // pixels, NaN for none; the lengths that say so
};

Size pair_ratio(const TrackSettings& s, const double (*src)[2], const double* dst, const bool* seen) {
  struct Pair {
    double ratio, length;
  } pairs[K * (K - 1) / 2];
  for (int part = 0; part < s.size_parts; ++part) {
    int count = 0;
    for (int i = 0; i < K; ++i) {
      if (!seen[i] || !s.pair_parts[part][i]) continue;
      for (int j = i + 1; j < K; ++j) {
        if (!seen[j] || !s.pair_parts[part][j]) continue;
        const double length = std::hypot(src[i][0] - src[j][0], src[i][1] - src[j][1]);
        if (!(length > 0)) continue;
        pairs[count++] = {std::hypot(dst[2 * i] - dst[2 * j], dst[2 * i + 1] - dst[2 * j + 1]) / length, length};
      }
    }
    if (count == 0) continue;
    std::sort(pairs, pairs + count, [](const Pair& a, const Pair& b) {
      return a.ratio != b.ratio ? a.ratio < b.ratio : a.length < b.length;
    });
    double total = 0, sum = 0;
    for (int i = 0; i < count; ++i) total += pairs[i].length;
    for (int i = 0; i < count; ++i) {
      sum += pairs[i].length;
      if (sum >= total / 2) return {pairs[i].ratio, total};
    }
    return {pairs[count - 1].ratio, total};
  }
  return {kMissing, 0};
}

void common_of(const TrackPhoto& photo, const bool* seen, bool (*common)[K]) {
  for (int side = 0; side < 2; ++side)
    for (int k = 0; k < K; ++k) common[side][k] = seen[k] && photo.seen[side][k];
}

Size alone_size(const TrackSettings& s, const TrackPhoto& photo, const double* points, const bool* seen) {
  bool common[2][K];
  common_of(photo, seen, common);
  return pair_ratio(s, photo.sides[0], points, common[0]);
}

// The weighted lower median of the sizes that are there.
double median_size(std::vector<Size>& near) {
  if (near.empty()) return kMissing;
  std::stable_sort(near.begin(), near.end(), [](const Size& a, const Size& b) { return a.value < b.value; });
  double total = 0, sum = 0;
  for (const Size& size : near) total += size.rests_on;
  for (const Size& size : near) {
    sum += size.rests_on;
    if (sum >= (0.5 - 1e-9) * total) return size.value;
  }
  return near.back().value;
}

void person_sizes(const TrackSettings& s, int64_t frames, const double* times, const Size* alone, double otherwise,
                  double* sizes) {
  std::vector<Size> near;
  std::vector<int64_t> known;
  for (int64_t f = 0; f < frames; ++f) {
    near.clear();
    const int64_t last = std::min(f + s.size_frames, frames - 1);
    for (int64_t g = std::max<int64_t>(f - s.size_frames, 0); g <= last; ++g)
      if (std::fabs(times[g] - times[f]) <= s.size_seconds && alone[g].value > 0) near.push_back(alone[g]);
    sizes[f] = median_size(near);
    if (sizes[f] > 0) known.push_back(f);
  }
  if (known.empty()) {
    std::fill(sizes, sizes + frames, otherwise);
    return;
  }
  size_t next = 0;
  for (int64_t f = 0; f < frames; ++f) {
    while (next < known.size() && known[next] < f) ++next;
    if (sizes[f] > 0) continue;
    if (next == 0 || next == known.size()) {
      sizes[f] = sizes[next == 0 ? known.front() : known.back()];
      continue;
    }
    const int64_t a = known[next - 1], b = known[next];
    const double span = times[b] - times[a], share = span > 0 ? (times[f] - times[a]) / span : 0;
    sizes[f] = std::exp(std::log(sizes[a]) + share * (std::log(sizes[b]) - std::log(sizes[a])));
  }
}

double frame_weight(const TrackSettings& s, double around) {
  return std::min(std::max(around / s.correlation_seconds, s.least_weight), 1.0);
}

void frame_weights(const TrackSettings& s, int64_t frames, const double* times, double* weights) {
  for (int64_t f = 0; f < frames; ++f) {
    const double before = f > 0 ? times[f] - times[f - 1] : 0, after = f + 1 < frames ? times[f + 1] - times[f] : 0;
    const double around = f == 0 ? after : f + 1 == frames ? before : (before + after) / 2;
    weights[f] = frames < 2 ? 1.0 : frame_weight(s, around);
  }
}

// The squared error of a point in tolerances: residuals along and across the body.
inline double square_error(const double* x, const double* y, double re, double im, double cos, double sin, double u,
                           double v, double along, double across) {
  const double dx = re * x[0] - im * x[1] + u - y[0], dy = im * x[0] + re * x[1] + v - y[1];
  const double a = (dx * cos + dy * sin) * along, b = (dy * cos - dx * sin) * across;
  return a * a + b * b;
}

// What a frame's candidates are fitted from, for one call of the batched fits and searches.
struct Fits {
  std::vector<double> src, dst, weights, scale, rotation, translation, residual;
  std::vector<char> ok;
  std::vector<double> search_src, search_dst, tolerance, prior, previous, inertia, value;
  std::vector<char> valid;
  std::vector<int64_t> mask;
};

struct Asked {  // one candidate that is to be fitted
  int64_t frame;
  int side;
  int search;  // which search has its members, -1 for a part
};

double weight_of(const TrackSettings& s, const TrackPhoto& photo, const double* scores, int side, int k, bool part) {
  const double score = std::min(std::min(photo.scores[side][k], scores[k]), 1.0);
  return part ? score * s.part_weights[k] : score;
}

// Candidates of frames [first, last) of one person.
void candidates_of(const TrackSettings& s, const TrackPhoto& photo, const double* points, const double* scores,
                   const bool* seen, int64_t first, int64_t last, const double* sizes, const double* weights,
                   double* rows, int64_t* counts, Fits& fits) {
  std::vector<Asked> asked;
  int64_t searches = 0;
  fits.src.clear();
  fits.dst.clear();
  fits.weights.clear();
  fits.search_src.clear();
  fits.search_dst.clear();
  fits.tolerance.clear();
  fits.valid.clear();
  const auto add = [&](int64_t f, int side, const bool* has, std::vector<double>& src, std::vector<double>& dst) {
    for (int k = 0; k < K; ++k)
      for (int i = 0; i < 2; ++i) {
        src.push_back(has[k] ? photo.sides[side][k][i] : 0.0);
        dst.push_back(has[k] ? points[(f * K + k) * 2 + i] : 0.0);
      }
  };
  for (int64_t f = first; f < last; ++f) {
    bool common[2][K];
    common_of(photo, seen + f * K, common);
    for (int side = 0; side < 2; ++side) {
      const bool* has = common[side];
      uint32_t done[kMaxTrackParts];
      int kept = 0;
      for (int part = 0; part < s.parts; ++part) {
        uint32_t mask = 0;
        int count = 0;
        for (int k = 0; k < K; ++k)
          if (has[k] && s.candidate_parts[part][k]) {
            mask |= uint32_t{1} << k;
            ++count;
          }
        if (count < (part == s.parts - 1 ? 2 : 3) || std::find(done, done + kept, mask) != done + kept) continue;
        done[kept++] = mask;
        asked.push_back({f, side, -1});
        add(f, side, has, fits.src, fits.dst);
        for (int k = 0; k < K; ++k) {
          const double t = s.tolerance[k] * sizes[f];
          fits.weights.push_back(mask >> k & 1 ? weight_of(s, photo, scores + f * K, side, k, true) / (t * t) : 0.0);
        }
      }
      if (!s.search || std::count(has, has + K, true) < s.search_least) continue;
      asked.push_back({f, side, static_cast<int>(searches++)});
      add(f, side, has, fits.src, fits.dst);
      add(f, side, has, fits.search_src, fits.search_dst);
      for (int k = 0; k < K; ++k) {
        fits.tolerance.push_back(s.tolerance[k] * sizes[f]);
        fits.valid.push_back(has[k]);
        fits.weights.push_back(0.0);
      }
    }
  }
  if (searches) {
    fits.prior.assign(searches * K, 0.0);
    fits.previous.assign(searches * 2, 0.0);
    fits.inertia.assign(searches, 0.0);
    fits.mask.resize(searches);
    fits.value.resize(searches);
    SearchBatch b{};
    b.count = searches;
    b.points = K;
    b.src = fits.search_src.data();
    b.dst = fits.search_dst.data();
    b.tolerance = fits.tolerance.data();
    b.valid = reinterpret_cast<const bool*>(fits.valid.data());
    b.prior = fits.prior.data();
    b.previous = fits.previous.data();
    b.inertia = fits.inertia.data();
    b.size = s.search_size;
    b.mask = fits.mask.data();
    b.value = fits.value.data();
    search_subset(b);
  }
  const int64_t count = static_cast<int64_t>(asked.size());
  for (int64_t n = 0; n < count; ++n) {
    if (asked[n].search < 0) continue;
    const std::bitset<K> members(fits.mask[asked[n].search]);
    if (members.count() < 3) continue;  // any two fit exactly; without weights there is no fit
    for (int k = 0; k < K; ++k)
      if (members[k])
        fits.weights[n * K + k] = weight_of(s, photo, scores + asked[n].frame * K, asked[n].side, k, false);
  }
  fits.scale.resize(count);
  fits.rotation.resize(count * 4);
  fits.translation.resize(count * 2);
  fits.residual.resize(count);
  fits.ok.resize(count);
  FitBatch<double> b{};
  b.count = count;
  b.points = K;
  b.dims = 2;
  b.src = fits.src.data();
  b.dst = fits.dst.data();
  b.weights = fits.weights.data();
  b.src_stride = b.dst_stride = 2 * K;
  b.weights_stride = K;
  b.scale = fits.scale.data();
  b.rotation = fits.rotation.data();
  b.translation = fits.translation.data();
  b.residual = fits.residual.data();
  b.ok = reinterpret_cast<bool*>(fits.ok.data());
  if (count) fit_similarity(b);

  std::fill(counts + first, counts + last, 0);
  for (int64_t n = 0; n < count; ++n) {
    const auto [f, side, search] = asked[n];
    const double scale = fits.scale[n], ratio = scale / sizes[f];
    if (!fits.ok[n] || !(1 / s.misfit <= ratio && ratio <= s.misfit)) continue;
    const double cos = fits.rotation[4 * n], sin = fits.rotation[4 * n + 2];
    const double u = fits.translation[2 * n], v = fits.translation[2 * n + 1];
    double value = 0;
    int has = 0;
    for (int k = 0; k < K; ++k) {
      if (!seen[f * K + k] || !photo.seen[side][k]) continue;
      ++has;
      const double along = 1 / (s.tolerance[k] * sizes[f]);
      const double error = square_error(photo.sides[side][k], points + (f * K + k) * 2, scale * cos, scale * sin, cos,
                                        sin, u, v, along, along / s.across);
      value += weight_of(s, photo, scores + f * K, side, k, true) * std::max(1 - error, 0.0);
    }
    value *= weights[f];
    const double angle = std::atan2(sin, cos);
    if (has == 2) value -= s.upright * (1 - std::cos(angle - photo.angle));
    double* row = rows + (f * kMaxTrackCandidates + counts[f]++) * kTrackRow;
    row[0] = side;
    row[1] = std::log(scale);
    row[2] = angle;
    row[3] = u;
    row[4] = v;
    row[5] = rounded(value);
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Path

struct Price {
  double value;
  bool broken;
};

Price step_price(const TrackSettings& s, const double* before, const double* after, double dt, double size) {
  dt = std::max(dt, s.least_seconds);
  double turn = after[2] - before[2] + kPi;
  turn = std::fabs(turn - 2 * kPi * std::floor(turn / (2 * kPi)) - kPi);
  const double way = std::hypot(after[3] - before[3], after[4] - before[4]) / size;
  const double price = std::fabs(after[1] - before[1]) / (s.path_log_scale[0] * dt + s.path_log_scale[1]) +
                       turn / (s.path_angle[0] * dt + s.path_angle[1]) +
                       way / (s.path_position[0] * dt + s.path_position[1]);
  return {rounded(std::min(price, s.path_break) + (after[0] != before[0] ? s.path_side : 0.0)), price >= s.path_break};
}

constexpr double kEqual = 5e-7;  // half of what values are rounded to

struct Origin {
  int32_t node, candidate;
};

// Adds to `gain` and `origin` [count] of a frame's candidates what the best way from an earlier frame is worth.
void extend(const TrackSettings& s, const double* rows, int64_t count, double time, double size, const double* before,
            int64_t before_count, const double* values, double before_time, double before_size, int32_t node, double* gain,
            Origin* origin) {
  double most = 0;
  for (int64_t b = 0; b < before_count; ++b) most = std::max(most, values[b]);
  const double between = std::sqrt(size * before_size);
  for (int64_t a = 0; a < count; ++a) {
    if (!(most > gain[a] + kEqual)) continue;  // no step costs less than nothing
    double best = -std::numeric_limits<double>::infinity();
    int32_t from = 0;
    for (int64_t b = 0; b < before_count; ++b) {
      if (!(values[b] > best)) continue;
      const double total =
          values[b] - step_price(s, before + b * kTrackRow, rows + a * kTrackRow, time - before_time, between).value;
      if (total > best) {
        best = total;
        from = static_cast<int32_t>(b);
      }
    }
    if (best > gain[a] + kEqual) {
      gain[a] = best;
      origin[a] = {node, from};
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Refinement

// Data of a window, one row a frame.
struct Track {
  std::vector<double> times, sizes, frame_weight;
  std::vector<double> points, target, weights;  // [F, K, 2], [F, K, 2], [F, K]
  std::vector<int64_t> stretch;
  std::vector<double> states, home;  // [F, 4]; home is NaN where the path has no candidate
  bool has_prior = false;
  double prior[2 * N][2 * N] = {}, pull[2 * N] = {}, prior_states[2 * N] = {};

  int64_t count() const { return static_cast<int64_t>(times.size()); }
  double unit(int64_t i) const { return i % N < 2 ? 1.0 : sizes[i / N]; }  // of number i of the states
};

// What pulls number i of the states to its candidate.
double pull_of(const TrackSettings& s, const Track& t, int64_t i) {
  return std::isfinite(t.home[i]) ? s.candidate_weight / (t.unit(i) * t.unit(i)) : 0.0;
}

struct Terms {
  std::vector<double> walk, bent, bend;  // [F - 1, 4], [F - 2, 4], [F - 2, 3]
};

Terms prior_terms(const TrackSettings& s, const Track& t) {
  const int64_t frames = t.count();
  Terms terms;
  if (frames < 2) return terms;
  terms.walk.assign((frames - 1) * N, 0.0);
  terms.bent.assign(std::max<int64_t>(frames - 2, 0) * N, 0.0);
  terms.bend.assign(std::max<int64_t>(frames - 2, 0) * 3, 0.0);
  const auto step = [&](int64_t f) { return std::max(t.times[f + 1] - t.times[f], s.least_seconds); };
  for (int64_t f = 0; f + 1 < frames; ++f) {
    if (t.stretch[f] != t.stretch[f + 1]) continue;
    for (int a = 0; a < N; ++a) {
      const double square = a < 2 ? 1.0 : t.sizes[f] * t.sizes[f + 1];
      terms.walk[f * N + a] = 1 / (s.walk[a] * s.walk[a] * step(f) * square);
    }
  }
  for (int64_t f = 0; f + 2 < frames; ++f) {
    if (t.stretch[f] != t.stretch[f + 2] || t.stretch[f] != t.stretch[f + 1]) continue;
    const double first = step(f), second = step(f + 1), span = (first + second) / 2;
    double* bend = &terms.bend[f * 3];
    bend[0] = 1 / first / span;
    bend[1] = (-1 / first - 1 / second) / span;
    bend[2] = 1 / second / span;
    for (int a = 0; a < N; ++a) {
      const double square = a < 2 ? 1.0 : t.sizes[f + 1] * t.sizes[f + 1];
      terms.bent[f * N + a] = span / (s.acceleration[a] * s.acceleration[a] * square);
    }
  }
  return terms;
}

double cost_of(const TrackSettings& s, const Track& t, const Terms& terms, const double* x) {
  const int64_t frames = t.count();
  double total = 0;
  for (int64_t f = 0; f < frames; ++f) {
    const double* state = x + f * N;
    const double cos = std::cos(state[1]), sin = std::sin(state[1]), scale = std::exp(state[0]);
    const double per_size = 1 / t.sizes[f];
    for (int k = 0; k < K; ++k) {
      const double w = t.weights[f * K + k];
      if (w == 0) continue;
      const double along = per_size / s.tolerance[k];
      const double error = square_error(&t.points[(f * K + k) * 2], &t.target[(f * K + k) * 2], scale * cos,
                                        scale * sin, cos, sin, state[2], state[3], along, along / s.across);
      total += w * (s.robust ? error / (1 + error) : error);
    }
  }
  for (int64_t f = 0; f + 1 < frames; ++f)
    for (int a = 0; a < N; ++a) {
      const double change = x[(f + 1) * N + a] - x[f * N + a];
      total += terms.walk[f * N + a] * change * change;
    }
  for (int64_t f = 0; f + 2 < frames; ++f)
    for (int a = 0; a < N; ++a) {
      const double* bend = &terms.bend[f * 3];
      const double curve = bend[0] * x[f * N + a] + bend[1] * x[(f + 1) * N + a] + bend[2] * x[(f + 2) * N + a];
      total += terms.bent[f * N + a] * curve * curve;
    }
  for (int64_t i = 0; i < frames * N; ++i)
    if (const double pull = pull_of(s, t, i); pull > 0) total += pull * (x[i] - t.home[i]) * (x[i] - t.home[i]);
  if (t.has_prior) {
    const int n = static_cast<int>(std::min<int64_t>(frames, 2)) * N;
    for (int i = 0; i < n; ++i) {
      const double di = x[i] - t.prior_states[i];
      total -= 2 * t.pull[i] * di;
      for (int j = 0; j < n; ++j) total += di * t.prior[i][j] * (x[j] - t.prior_states[j]);
    }
  }
  return total;
}

// J' W J (upper part) and -J' W r of one frame's keypoints.
void data_equations(const TrackSettings& s, const Track& t, int64_t f, const double* state, double (*matrix)[N],
                    double* vector) {
  const double cos = std::cos(state[1]), sin = std::sin(state[1]), scale = std::exp(state[0]);
  const double per_size = 1 / t.sizes[f];
  double ll = 0, la = 0, aa = 0, p1 = 0, p2 = 0, q1 = 0, q2 = 0, wa = 0, wb = 0, gl = 0, ga = 0, g1 = 0, g2 = 0;
  for (int k = 0; k < K; ++k) {
    double w = t.weights[f * K + k];
    if (w == 0) continue;
    const double *x = &t.points[(f * K + k) * 2], *y = &t.target[(f * K + k) * 2];
    const double along = per_size / s.tolerance[k], across = along / s.across;
    const double mr = scale * x[0], mi = scale * x[1], du = state[2] - y[0], dv = state[3] - y[1];
    const double ra = mr + du * cos + dv * sin, rb = mi + dv * cos - du * sin;
    if (s.robust) {
      const double error = ra * ra * along * along + rb * rb * across * across, share = 1 / (1 + error);
      w *= share * share;
    }
    const double u = w * along * along, v = w * across * across;
    ll += u * mr * mr + v * mi * mi;
    la += (v - u) * mr * mi;
    aa += u * mi * mi + v * mr * mr;
    p1 += u * mr;
    p2 += v * mi;
    q1 += u * mi;
    q2 += v * mr;
    wa += u;
    wb += v;
    gl -= u * mr * ra + v * mi * rb;
    ga -= v * mr * rb - u * mi * ra;
    g1 -= u * ra;
    g2 -= v * rb;
  }
  matrix[0][0] = ll;
  matrix[0][1] = la;
  matrix[0][2] = p1 * cos - p2 * sin;
  matrix[0][3] = p1 * sin + p2 * cos;
  matrix[1][1] = aa;
  matrix[1][2] = -q1 * cos - q2 * sin;
  matrix[1][3] = q2 * cos - q1 * sin;
  matrix[2][2] = wa * cos * cos + wb * sin * sin;
  matrix[2][3] = (wa - wb) * cos * sin;
  matrix[3][3] = wa * sin * sin + wb * cos * cos;
  vector[0] = gl;
  vector[1] = ga;
  vector[2] = g1 * cos - g2 * sin;
  vector[3] = g1 * sin + g2 * cos;
}

struct Solver {
  std::vector<double> band, damped, vector, step, trial;  // band [4 F, 9]: row i has the columns i to i + 8
};

void normal_equations(const TrackSettings& s, const Track& t, const Terms& terms, Solver& solver) {
  const int64_t frames = t.count();
  std::vector<double>&band = solver.band, &vector = solver.vector;
  band.assign(frames * N * kBand, 0.0);
  vector.assign(frames * N, 0.0);
  const double* x = t.states.data();
  const auto at = [&](int64_t i, int64_t j) -> double& { return band[i * kBand + (j - i)]; };
  for (int64_t f = 0; f < frames; ++f) {
    double matrix[N][N];
    data_equations(s, t, f, x + f * N, matrix, &vector[f * N]);
    for (int a = 0; a < N; ++a)
      for (int b = a; b < N; ++b) at(f * N + a, f * N + b) = matrix[a][b];
  }
  for (int64_t f = 0; f + 1 < frames; ++f)
    for (int a = 0; a < N; ++a) {
      const int64_t i = f * N + a, j = i + N;
      const double weight = terms.walk[i], change = x[j] - x[i];
      vector[i] += weight * change;
      vector[j] -= weight * change;
      at(i, i) += weight;
      at(j, j) += weight;
      at(i, j) -= weight;
    }
  for (int64_t f = 0; f + 2 < frames; ++f) {
    const double* bend = &terms.bend[f * 3];
    for (int a = 0; a < N; ++a) {
      const int64_t i = f * N + a;
      const double weight = terms.bent[i], curve = bend[0] * x[i] + bend[1] * x[i + N] + bend[2] * x[i + 2 * N];
      for (int p = 0; p < 3; ++p) {
        vector[i + p * N] -= weight * bend[p] * curve;
        for (int q = p; q < 3; ++q) at(i + p * N, i + q * N) += weight * bend[p] * bend[q];
      }
    }
  }
  for (int64_t i = 0; i < frames * N; ++i)
    if (const double pull = pull_of(s, t, i); pull > 0) {
      vector[i] -= pull * (x[i] - t.home[i]);
      at(i, i) += pull;
    }
  if (t.has_prior) {
    const int n = static_cast<int>(std::min<int64_t>(frames, 2)) * N;
    for (int i = 0; i < n; ++i) {
      vector[i] += t.pull[i];
      for (int j = 0; j < n; ++j) vector[i] -= t.prior[i][j] * (x[j] - t.prior_states[j]);
      for (int j = i; j < n; ++j) at(i, j) += t.prior[i][j];
    }
  }
}

// Cholesky of a band matrix, and the solution; false if the matrix is not positive definite.
bool solve_band(std::vector<double>& band, const std::vector<double>& vector, std::vector<double>& x) {
  const int64_t n = static_cast<int64_t>(vector.size());
  x = vector;
  for (int64_t i = 0; i < n; ++i) {
    double* row = &band[i * kBand];
    if (!(row[0] > 0)) return false;
    const double root = std::sqrt(row[0]), over = 1 / root;
    row[0] = root;
    const int last = static_cast<int>(std::min<int64_t>(kBand - 1, n - 1 - i));
    for (int d = 1; d <= last; ++d) row[d] *= over;
    for (int d = 1; d <= last; ++d) {
      double* below = &band[(i + d) * kBand];
      const double factor = row[d];
      if (factor == 0) continue;
      for (int e = d; e <= last; ++e) below[e - d] -= factor * row[e];
    }
    x[i] *= over;
    for (int d = 1; d <= last; ++d) x[i + d] -= row[d] * x[i];
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    const double* row = &band[i * kBand];
    const int last = static_cast<int>(std::min<int64_t>(kBand - 1, n - 1 - i));
    for (int d = 1; d <= last; ++d) x[i] -= row[d] * x[i + d];
    x[i] /= row[0];
  }
  return true;
}

int refine(const TrackSettings& s, Track& t, int iterations, Solver& solver) {
  const int64_t frames = t.count();
  if (frames == 0) return 0;
  const Terms terms = prior_terms(s, t);
  double damping = 0, now = cost_of(s, t, terms, t.states.data());
  for (int iteration = 0; iteration < iterations; ++iteration) {
    normal_equations(s, t, terms, solver);
    double value;
    for (;;) {
      solver.damped = solver.band;
      for (int64_t i = 0; i < frames * N; ++i) {
        const double unit = t.unit(i);
        double& diagonal = solver.damped[i * kBand];
        diagonal = diagonal * (1 + damping) + s.ridge / (unit * unit);
      }
      value = std::numeric_limits<double>::infinity();
      if (solve_band(solver.damped, solver.vector, solver.step)) {
        solver.trial = t.states;
        for (int64_t i = 0; i < frames * N; ++i) solver.trial[i] += solver.step[i];
        value = cost_of(s, t, terms, solver.trial.data());
      }
      if (value <= now + 1e-12 * (std::fabs(now) + 1)) break;
      if (damping > 1e6) return iteration;
      damping = std::max(10 * damping, 1e-3);
    }
    t.states.swap(solver.trial);
    now = value;
    damping = damping > 1e-3 ? damping / 10 : 0.0;
    double most = 0;
    for (int64_t i = 0; i < frames * N; ++i)
      most = std::max(most, std::fabs(solver.step[i]) / t.unit(i));
    if (most < s.converged) return iteration + 1;
  }
  return iterations;
}

// Takes the keypoints out that the states put beyond the picture, of frames in which enough are left; false if there is
// none.
bool hide(const TrackSettings& s, const TrackPicture& picture, Track& t) {
  bool any = false;
  for (int64_t f = 0; f < t.count(); ++f) {
    const double* state = &t.states[f * N];
    const double re = std::exp(state[0]) * std::cos(state[1]), im = std::exp(state[0]) * std::sin(state[1]);
    double* weights = &t.weights[f * K];
    bool beyond[K];
    int left = 0;
    for (int k = 0; k < K; ++k) {
      beyond[k] = false;
      if (weights[k] == 0) continue;
      const double *p = &t.points[(f * K + k) * 2], x = re * p[0] - im * p[1] + state[2],
                   y = im * p[0] + re * p[1] + state[3];
      beyond[k] = !(x >= picture.left && x <= picture.right && y >= picture.top && y <= picture.bottom);
      left += !beyond[k];
    }
    if (left < s.search_least) continue;
    for (int k = 0; k < K; ++k) {
      if (!beyond[k]) continue;
      weights[k] = 0;
      any = true;
    }
  }
  return any;
}

// Refines, and again without what lies beyond the picture, until nothing does.
int refine_shown(const TrackSettings& s, Track& t, int iterations, Solver& solver, const TrackPicture& picture) {
  int total = refine(s, t, iterations, solver);
  while (hide(s, picture, t)) total += refine(s, t, iterations, solver);
  return total;
}

// What the error leaves of each keypoint, and what they say; `assumed` ones, [K], say nothing of the frame.
void robust_weights(const TrackSettings& s, const Track& t, int64_t f, const bool* assumed, double* robust,
                    double* information) {
  const double* state = &t.states[f * N];
  const double cos = std::cos(state[1]), sin = std::sin(state[1]), scale = std::exp(state[0]);
  double total = 0, mean[2] = {0, 0}, weight[K];
  const double square = s.across * s.across;
  for (int k = 0; k < K; ++k) {
    const double w = t.weights[f * K + k], along = 1 / (t.sizes[f] * s.tolerance[k]);
    robust[k] = weight[k] = 0;
    if (w == 0 || assumed[k]) continue;
    const double *x = &t.points[(f * K + k) * 2], *y = &t.target[(f * K + k) * 2];
    const double error =
        square_error(x, y, scale * cos, scale * sin, cos, sin, state[2], state[3], along, along / s.across);
    robust[k] = s.robust ? 1 / ((1 + error) * (1 + error)) : 1.0;
    const double sigmas = s.tolerance_sigmas / s.tolerance[k];
    weight[k] = w / t.frame_weight[f] * robust[k] * sigmas * sigmas;
    total += weight[k];
    for (int i = 0; i < 2; ++i) mean[i] += weight[k] * x[i];
  }
  double xx = 0, yy = 0;
  for (int k = 0; k < K; ++k) {
    if (weight[k] == 0) continue;
    const double *x = &t.points[(f * K + k) * 2], a = x[0] - mean[0] / total, b = x[1] - mean[1] / total;
    xx += weight[k] * a * a;
    yy += weight[k] * b * b;
  }
  information[0] = xx + yy / square;
  information[1] = xx / square + yy;
  information[2] = (total + total / square) / 2;
}

// Fills a frame's part of the data: the photo's points on one side and the frame's, and what they count.
void set_frame(const TrackSettings& s, const TrackPhoto& photo, int side, const double* points, const double* scores,
               const bool* seen, Track& t, int64_t f) {
  for (int k = 0; k < K; ++k) {
    const bool has = seen[k] && photo.seen[side][k];
    t.weights[f * K + k] = has ? weight_of(s, photo, scores, side, k, true) * t.frame_weight[f] : 0.0;
    for (int i = 0; i < 2; ++i) {
      t.points[(f * K + k) * 2 + i] = photo.sides[side][k][i];
      t.target[(f * K + k) * 2 + i] = has ? points[2 * k + i] : 0.0;
    }
  }
}

double nearest_angle(double angle, double to) { return angle + 2 * kPi * std::nearbyint((to - angle) / (2 * kPi)); }

// Where the refinement starts; see naive_track.start. `row(f)` is the chosen candidate of a frame.
template <typename Row>
void start(const TrackPhoto& photo, Track& t, const int64_t* chosen, const bool* breaks, const Row& row,
           const double* points, const bool* seen, const TrackSettings& s, int64_t* side) {
  const int64_t frames = t.count();
  std::vector<int64_t> nodes;
  for (int64_t f = 0; f < frames; ++f)
    if (chosen[f] >= 0) nodes.push_back(f);
  t.stretch.assign(frames, 0);
  t.states.assign(frames * N, 0.0);
  if (nodes.empty()) {
    std::vector<int64_t> known;
    std::vector<std::array<double, 2>> places;
    const double re = photo.size * std::cos(photo.angle), im = photo.size * std::sin(photo.angle);
    for (int64_t f = 0; f < frames; ++f) {
      double total = 0, place[2] = {0, 0};
      for (int k = 0; k < K; ++k) {
        if (!seen[f * K + k] || !photo.seen[0][k]) continue;
        const double w = s.part_weights[k], *x = photo.sides[0][k], *y = points + (f * K + k) * 2;
        total += w;
        place[0] += w * (y[0] - (re * x[0] - im * x[1]));
        place[1] += w * (y[1] - (im * x[0] + re * x[1]));
      }
      if (total > 0) {
        known.push_back(f);
        places.push_back({place[0] / total, place[1] / total});
      }
    }
    size_t next = 0;
    for (int64_t f = 0; f < frames; ++f) {
      side[f] = 0;
      double* state = &t.states[f * N];
      state[0] = std::log(photo.size);
      state[1] = photo.angle;
      std::copy_n(photo.anchor, 2, state + 2);
      if (known.empty()) continue;
      while (next < known.size() && known[next] < f) ++next;
      const size_t after = std::min(next, known.size() - 1), before = known[after] > f && after > 0 ? after - 1 : after;
      const double span = t.times[known[after]] - t.times[known[before]];
      const double share = span > 0 ? (t.times[f] - t.times[known[before]]) / span : 0.0;
      for (int i = 0; i < 2; ++i) state[2 + i] = places[before][i] + share * (places[after][i] - places[before][i]);
    }
    t.home = t.states;
    return;
  }
  // Candidates' angles without jumps, and which stretch they belong to.
  std::vector<int64_t> part(nodes.size());
  std::vector<std::array<double, N>> track(nodes.size());
  for (size_t n = 0; n < nodes.size(); ++n) {
    const double* r = row(nodes[n]);
    part[n] = n == 0 ? 0 : part[n - 1] + breaks[nodes[n]];
    for (int a = 0; a < N; ++a) track[n][a] = r[1 + a];
    if (n > 0 && part[n] == part[n - 1]) track[n][1] = nearest_angle(track[n][1], track[n - 1][1]);
  }
  size_t next = 0;
  for (int64_t f = 0; f < frames; ++f) {
    while (next < nodes.size() && nodes[next] < f) ++next;
    const size_t after = std::min(next, nodes.size() - 1), before = nodes[after] > f && after > 0 ? after - 1 : after;
    const size_t nearest = t.times[f] - t.times[nodes[before]] <= t.times[nodes[after]] - t.times[f] ? before : after;
    t.stretch[f] = part[nearest];
    side[f] = static_cast<int64_t>(row(nodes[nearest])[0]);
    double* state = &t.states[f * N];
    const double span = t.times[nodes[after]] - t.times[nodes[before]];
    if (part[before] != part[after] || before == after || !(span > 0)) {
      std::copy_n(track[nearest].data(), N, state);
      continue;
    }
    const double share = (t.times[f] - t.times[nodes[before]]) / span;
    for (int a = 0; a < N; ++a) state[a] = track[before][a] + share * (track[after][a] - track[before][a]);
  }
  t.home.assign(frames * N, kMissing);
  for (size_t n = 0; n < nodes.size(); ++n) std::copy_n(track[n].data(), N, &t.home[nodes[n] * N]);
}

void resize(Track& t, int64_t frames) {
  t.times.resize(frames);
  t.sizes.resize(frames);
  t.frame_weight.resize(frames);
  t.points.resize(frames * K * 2);
  t.target.resize(frames * K * 2);
  t.weights.resize(frames * K);
}

}  // namespace

void track_candidates(const TrackSettings& s, int64_t persons, const TrackPhoto* photos, const TrackFrames* frames,
                      double* sizes, double* weights, double* rows, int64_t* counts) {
  const int64_t count = persons ? frames[0].count : 0;
  std::vector<Size> alone(persons * count);
  constexpr int64_t kChunk = 8;
  parallel_for(persons, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t f = 0; f < count; ++f)
        alone[p * count + f] = alone_size(s, photos[p], frames[p].points + f * K * 2, frames[p].seen + f * K);
      person_sizes(s, count, frames[p].times, alone.data() + p * count, photos[p].size, sizes + p * count);
      frame_weights(s, count, frames[p].times, weights + p * count);
    }
  });
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  parallel_for(persons * chunks, 1, [&](int64_t begin, int64_t end) {
    Fits fits;
    for (int64_t n = begin; n < end; ++n) {
      const int64_t p = n / chunks, first = n % chunks * kChunk, last = std::min(first + kChunk, count);
      candidates_of(s, photos[p], frames[p].points, frames[p].scores, frames[p].seen, first, last, sizes + p * count,
                    weights + p * count, rows + p * count * kMaxTrackCandidates * kTrackRow, counts + p * count, fits);
    }
  });
}

void track_path(const TrackSettings& s, int64_t frames, const double* times, const double* sizes, const double* rows,
                const int64_t* counts, int64_t* chosen, bool* breaks) {
  constexpr int64_t kRow = kMaxTrackCandidates * kTrackRow;
  std::vector<int64_t> nodes;
  for (int64_t f = 0; f < frames; ++f) {
    chosen[f] = -1;
    breaks[f] = false;
    if (counts[f] > 0) nodes.push_back(f);
  }
  std::vector<double> values(nodes.size() * kMaxTrackCandidates), most(nodes.size());
  std::vector<Origin> origins(nodes.size() * kMaxTrackCandidates);
  double best = -std::numeric_limits<double>::infinity();
  for (size_t n = 0; n < nodes.size(); ++n) {
    const int64_t f = nodes[n];
    double gain[kMaxTrackCandidates] = {};
    Origin* origin = &origins[n * kMaxTrackCandidates];
    std::fill(origin, origin + kMaxTrackCandidates, Origin{-1, -1});
    const int64_t earliest = std::max<int64_t>(static_cast<int64_t>(n) - s.path_frames, 0);
    for (int64_t m = static_cast<int64_t>(n) - 1; m >= earliest; --m) {
      const int64_t g = nodes[m];
      extend(s, rows + f * kRow, counts[f], times[f], sizes[f], rows + g * kRow, counts[g],
             &values[m * kMaxTrackCandidates], times[g], sizes[g], static_cast<int32_t>(m), gain, origin);
    }
    most[n] = -std::numeric_limits<double>::infinity();
    for (int64_t a = 0; a < counts[f]; ++a) {
      values[n * kMaxTrackCandidates + a] = rows[f * kRow + a * kTrackRow + 5] + gain[a];
      most[n] = std::max(most[n], values[n * kMaxTrackCandidates + a]);
    }
    best = std::max(best, most[n]);
  }
  int64_t n = static_cast<int64_t>(nodes.size()) - 1;
  while (n >= 0 && !(most[n] > best - kEqual)) --n;
  if (n < 0) return;
  const double* end = &values[n * kMaxTrackCandidates];
  int64_t at = std::max_element(end, end + counts[nodes[n]]) - end;
  while (n >= 0) {
    const int64_t f = nodes[n];
    const Origin from = origins[n * kMaxTrackCandidates + at];
    chosen[f] = at;
    if (from.node >= 0) {
      const int64_t g = nodes[from.node];
      breaks[f] = step_price(s, rows + g * kRow + from.candidate * kTrackRow, rows + f * kRow + at * kTrackRow,
                             times[f] - times[g], std::sqrt(sizes[f] * sizes[g]))
                      .broken;
    }
    n = from.node;
    at = from.candidate;
  }
}

int track_refine(const TrackSettings& s, const TrackPhoto& photo, const TrackFrames& frames, const double* sizes,
                 const double* weights, const double* rows, const int64_t* chosen, const bool* breaks,
                 const TrackPicture& picture, int64_t* side, double* states, double* robust, double* information) {
  Track t;
  resize(t, frames.count);
  t.times.assign(frames.times, frames.times + frames.count);
  t.sizes.assign(sizes, sizes + frames.count);
  t.frame_weight.assign(weights, weights + frames.count);
  const auto row = [&](int64_t f) { return rows + (f * kMaxTrackCandidates + chosen[f]) * kTrackRow; };
  start(photo, t, chosen, breaks, row, frames.points, frames.seen, s, side);
  for (int64_t f = 0; f < frames.count; ++f)
    set_frame(s, photo, static_cast<int>(side[f]), frames.points + f * K * 2, frames.scores + f * K,
              frames.seen + f * K, t, f);
  Solver solver;
  const int iterations = refine_shown(s, t, s.iterations, solver, picture);
  std::copy(t.states.begin(), t.states.end(), states);
  for (int64_t f = 0; f < frames.count; ++f)
    robust_weights(s, t, f, photo.assumed, robust + f * K, information + f * 3);
  return iterations;
}

// ---------------------------------------------------------------------------------------------------------------
// Stream

namespace {

struct StreamFrame {
  double points[K * 2], scores[K], rows[kMaxTrackCandidates * kTrackRow], values[kMaxTrackCandidates];
  Size alone;
  bool seen[K];
  int64_t count = 0, chosen = -1;
  Origin origins[kMaxTrackCandidates];  // nodes are numbers of frames since the start
};

}  // namespace

struct TrackStream::State {
  TrackSettings s{};
  TrackPhoto photo{};
  int lag = 0;
  int64_t first = 0;  // number of the window's first frame
  std::vector<StreamFrame> frames;
  std::vector<int64_t> side;
  double last_node = 0;  // when a candidate was last chosen
  bool met = false;      // whether one ever was
  double last_output[kTrackRow] = {}, last_time = 0;
  bool has_output = false;
  Track t;
  Solver solver;
  Fits fits;

  int64_t count() const { return static_cast<int64_t>(frames.size()); }

  // Appends a frame with its size, candidates, and the best ways to them.
  void append(double time, const double* points, const double* scores, const bool* seen) {
    const int64_t n = count();
    frames.emplace_back();
    StreamFrame& frame = frames.back();
    std::copy_n(points, K * 2, frame.points);
    std::copy_n(scores, K, frame.scores);
    std::copy_n(seen, K, frame.seen);
    frame.alone = alone_size(s, photo, points, seen);
    std::vector<Size> near;
    for (int64_t f = std::max<int64_t>(n - s.size_frames, 0); f <= n; ++f)
      if ((f == n || time - t.times[f] <= s.size_seconds) && frames[f].alone.value > 0)
        near.push_back(frames[f].alone);
    double size = median_size(near);
    if (!(size > 0)) size = n > 0 ? t.sizes[n - 1] : photo.size;
    const double weight = n > 0 ? frame_weight(s, time - t.times[n - 1]) : 1.0;
    candidates_of(s, photo, frame.points, frame.scores, frame.seen, 0, 1, &size, &weight, frame.rows, &frame.count,
                  fits);
    resize(t, n + 1);
    t.times[n] = time;
    t.sizes[n] = size;
    t.frame_weight[n] = weight;
    double gain[kMaxTrackCandidates] = {};
    std::fill(frame.origins, frame.origins + kMaxTrackCandidates, Origin{-1, -1});
    int nodes = 0;
    for (int64_t m = n - 1; m >= 0 && nodes < s.path_frames; --m) {
      if (frames[m].count == 0) continue;
      ++nodes;
      extend(s, frame.rows, frame.count, time, size, frames[m].rows, frames[m].count, frames[m].values, t.times[m],
             t.sizes[m], static_cast<int32_t>(m), gain, frame.origins);
    }
    for (int64_t a = 0; a < frame.count; ++a) {
      frame.values[a] = frame.rows[a * kTrackRow + 5] + gain[a];
      if (frame.origins[a].node >= 0) frame.origins[a].node += static_cast<int32_t>(first);
    }
  }

  const double* row(int64_t f, int64_t candidate) const { return frames[f].rows + candidate * kTrackRow; }

  // Whether a frame of the window shows a keypoint that counts and that the photo shows, too.
  bool any_keypoint() const {
    for (const StreamFrame& frame : frames)
      for (int k = 0; k < K; ++k)
        if (frame.seen[k] && photo.seen[0][k] && s.part_weights[k] > 0) return true;
    return false;
  }

  void path(std::vector<int64_t>& chosen, std::vector<char>& breaks) const {
    chosen.assign(count(), -1);
    breaks.assign(count(), 0);
    double best = -std::numeric_limits<double>::infinity();
    for (const StreamFrame& frame : frames)
      for (int64_t a = 0; a < frame.count; ++a) best = std::max(best, frame.values[a]);
    int64_t n = count() - 1, at = -1;
    for (; n >= 0 && at < 0; --n)
      if (frames[n].count > 0) {
        const double* end = std::max_element(frames[n].values, frames[n].values + frames[n].count);
        if (*end > best - kEqual) {
          at = end - frames[n].values;
          break;
        }
      }
    while (n >= 0 && at >= 0) {
      chosen[n] = at;
      const Origin from = frames[n].origins[at];
      const int64_t m = from.node - first;
      if (from.node < 0 || m < 0) break;
      breaks[n] = step_price(s, row(m, from.candidate), row(n, at), t.times[n] - t.times[m],
                             std::sqrt(t.sizes[n] * t.sizes[m]))
                      .broken;
      n = m;
      at = from.candidate;
    }
  }

  void estimate(const TrackPicture& picture) {
    const int64_t n = count() - 1;
    std::vector<int64_t> chosen, was_side = side, was_stretch = t.stretch;
    std::vector<char> breaks;
    path(chosen, breaks);
    int64_t node = 0;  // the first
    while (node <= n && chosen[node] < 0) ++node;
    const std::vector<double> before = t.states;  // of the frames but the last
    bool warm = n > 0;
    for (int64_t f = 0; f < n; ++f) warm = warm && chosen[f] == frames[f].chosen;
    // A keypoint, where there was never more to go by: the place is where it is, as in a whole clip.
    const bool lone = !met && node > n && any_keypoint();
    warm = warm && !lone;
    if (node > n) {  // nothing to go by in the whole window: as before
      if (n == 0 || lone) {
        std::vector<double> points;
        std::vector<char> seen;
        for (const StreamFrame& frame : frames) {
          points.insert(points.end(), frame.points, frame.points + K * 2);
          seen.insert(seen.end(), frame.seen, frame.seen + K);
        }
        side.assign(n + 1, 0);
        start(photo, t, chosen.data(), reinterpret_cast<const bool*>(breaks.data()),
              [&](int64_t f) { return row(f, 0); }, points.data(), reinterpret_cast<const bool*>(seen.data()), s,
              side.data());
      } else {
        side.push_back(side.back());
        t.stretch.push_back(t.stretch.back());
        t.states.insert(t.states.end(), before.end() - N, before.end());
        t.home.insert(t.home.end(), N, kMissing);
      }
    } else {
      side.resize(n + 1);
      start(photo, t, chosen.data(), reinterpret_cast<const bool*>(breaks.data()),
            [&](int64_t f) { return row(f, chosen[f]); }, nullptr, nullptr, s, side.data());
      // What lies before the first candidate stays as it was, and may have been somewhere else.
      const int64_t kept = std::min(node, n);
      if (kept > 0 && node > 0) {
        const double* next = row(node, chosen[node]);
        double last_kept[kTrackRow] = {next[0]};
        std::copy_n(&before[(kept - 1) * N], N, last_kept + 1);
        const double since = t.times[node] - std::min(last_node, t.times[node]);
        const bool away = step_price(s, last_kept, next, since, t.sizes[node]).broken;
        for (int64_t f = 0; f < kept; ++f) {
          side[f] = was_side[f];
          std::copy_n(&before[f * N], N, &t.states[f * N]);
          std::copy_n(&before[f * N], N, &t.home[f * N]);
          t.stretch[f] = away ? -1 : t.stretch[node];
        }
        const double turn = nearest_angle(t.states[node * N + 1], last_kept[2]) - t.states[node * N + 1];
        for (int64_t f = node; f <= n && t.stretch[f] == t.stretch[node]; ++f) t.states[f * N + 1] += turn;
      }
      for (int64_t f = 0; f < n && warm; ++f) {
        const auto joined = [f](const std::vector<int64_t>& stretch) { return stretch[f] == stretch[f + 1]; };
        warm = side[f] == was_side[f] && (f + 1 >= n || joined(was_stretch) == joined(t.stretch));
      }
      if (warm) {
        std::copy(before.begin(), before.end(), t.states.begin());
        if (t.stretch[n] == t.stretch[n - 1])
          t.states[n * N + 1] = nearest_angle(t.states[n * N + 1], t.states[(n - 1) * N + 1]);
      } else if (t.has_prior) {
        double was[kTrackRow] = {}, now[kTrackRow] = {};
        std::copy_n(t.prior_states, N, was + 1);
        std::copy_n(t.states.data(), N, now + 1);
        if (step_price(s, was, now, 0.0, t.sizes[0]).broken) {
          t.has_prior = false;
        } else {
          const double turn = nearest_angle(t.states[1], t.prior_states[1]) - t.states[1];
          for (int64_t f = 0; f <= n && t.stretch[f] == t.stretch[0]; ++f) t.states[f * N + 1] += turn;
        }
      }
    }
    for (int64_t f = 0; f <= n; ++f) {
      t.home[f * N + 1] = nearest_angle(t.home[f * N + 1], t.states[f * N + 1]);
      frames[f].chosen = chosen[f];
      if (chosen[f] >= 0) {
        last_node = t.times[f];
        met = true;
      }
      if (!warm || f == n || side[f] != was_side[f])
        set_frame(s, photo, static_cast<int>(side[f]), frames[f].points, frames[f].scores, frames[f].seen, t, f);
    }
    refine_shown(s, t, warm ? s.warm_iterations : s.iterations, solver, picture);
  }

  // Drops the first frame; what it said of the next two becomes a prior (the Schur complement of its part).
  void forget() {
    const int64_t n = std::min<int64_t>(count(), 3) * N;
    Track head;
    head.times.assign(t.times.begin(), t.times.begin() + n / N);
    head.sizes.assign(t.sizes.begin(), t.sizes.begin() + n / N);
    head.stretch.assign(t.stretch.begin(), t.stretch.begin() + n / N);
    const Terms terms = prior_terms(s, head);
    const double* x = t.states.data();
    double matrix[3 * N][3 * N] = {}, vector[3 * N] = {}, block[N][N], pull[N];
    data_equations(s, t, 0, x, block, pull);
    for (int a = 0; a < N; ++a) {
      vector[a] += pull[a];
      for (int b = 0; b < N; ++b) matrix[a][b] += block[std::min(a, b)][std::max(a, b)];
    }
    for (int a = 0; a < N; ++a) {
      if (n > N) {
        const double weight = terms.walk[a], change = x[a + N] - x[a];
        vector[a] += weight * change;
        vector[a + N] -= weight * change;
        matrix[a][a] += weight;
        matrix[a + N][a + N] += weight;
        matrix[a][a + N] -= weight;
        matrix[a + N][a] -= weight;
      }
      if (n > 2 * N) {
        const double weight = terms.bent[a], *bend = &terms.bend[0];
        const double curve = bend[0] * x[a] + bend[1] * x[a + N] + bend[2] * x[a + 2 * N];
        for (int p = 0; p < 3; ++p) {
          vector[a + p * N] -= weight * bend[p] * curve;
          for (int q = 0; q < 3; ++q) matrix[a + p * N][a + q * N] += weight * bend[p] * bend[q];
        }
      }
    }
    if (t.has_prior) {
      const int m = static_cast<int>(std::min<int64_t>(n, 2 * N));
      for (int i = 0; i < m; ++i) {
        vector[i] += t.pull[i];
        for (int j = 0; j < m; ++j) {
          vector[i] -= t.prior[i][j] * (x[j] - t.prior_states[j]);
          matrix[i][j] += t.prior[i][j];
        }
      }
    }
    for (int a = 0; a < N; ++a) {
      const double pull = pull_of(s, t, a);
      matrix[a][a] += s.ridge / (t.unit(a) * t.unit(a)) + pull;
      if (pull > 0) vector[a] -= pull * (x[a] - t.home[a]);
    }
    for (int p = 0; p < N; ++p)  // elimination of the first frame
      for (int i = p + 1; i < n; ++i) {
        const double factor = matrix[i][p] / matrix[p][p];
        for (int j = p; j < n; ++j) matrix[i][j] -= factor * matrix[p][j];
        vector[i] -= factor * vector[p];
      }
    std::memset(t.prior, 0, sizeof(t.prior));
    std::memset(t.pull, 0, sizeof(t.pull));
    std::memset(t.prior_states, 0, sizeof(t.prior_states));
    for (int i = N; i < n; ++i) {
      t.pull[i - N] = vector[i];
      t.prior_states[i - N] = x[i];
      for (int j = N; j < n; ++j) t.prior[i - N][j - N] = (matrix[i][j] + matrix[j][i]) / 2;
    }
    t.has_prior = true;
    ++first;
    frames.erase(frames.begin());
    side.erase(side.begin());
    t.times.erase(t.times.begin());
    t.sizes.erase(t.sizes.begin());
    t.frame_weight.erase(t.frame_weight.begin());
    t.stretch.erase(t.stretch.begin());
    t.points.erase(t.points.begin(), t.points.begin() + K * 2);
    t.target.erase(t.target.begin(), t.target.begin() + K * 2);
    t.weights.erase(t.weights.begin(), t.weights.begin() + K);
    t.states.erase(t.states.begin(), t.states.begin() + N);
    t.home.erase(t.home.begin(), t.home.begin() + N);
  }
};

TrackStream::TrackStream(const TrackSettings& settings, const TrackPhoto& photo, int lag) : state_(new State) {
  state_->s = settings;
  state_->photo = photo;
  state_->lag = lag;
}

TrackStream::~TrackStream() = default;

void TrackStream::reset() {
  State fresh;
  fresh.s = state_->s;
  fresh.photo = state_->photo;
  fresh.lag = state_->lag;
  *state_ = std::move(fresh);
}

TrackStream::Step TrackStream::step(double time, const double* points, const double* scores, const bool* seen,
                                    const TrackPicture& picture) {
  State& state = *state_;
  const int64_t least = std::max(3, state.lag + 2);
  // Room for the frame: what lies further back becomes a prior.
  while (state.count() + 1 > least && (state.count() + 1 > std::max<int64_t>(state.s.window_frames, least) ||
                                       time - state.t.times.front() > state.s.window_seconds))
    state.forget();
  state.append(time, points, scores, seen);
  state.estimate(picture);
  Step out = at(state.lag);
  if (out.frame >= 0) {
    double now[kTrackRow] = {0, out.state[0], out.state[1], out.state[2], out.state[3], 0};
    out.broke = state.has_output &&
                step_price(state.s, state.last_output, now, out.time - state.last_time, out.size).broken;
    std::copy_n(now, kTrackRow, state.last_output);
    state.last_time = out.time;
    state.has_output = true;
  }
  return out;
}

TrackStream::Step TrackStream::at(int64_t back) const {
  const State& state = *state_;
  Step out{};
  const int64_t f = state.count() - 1 - back;
  out.frame = f < 0 ? -1 : state.first + f;
  if (f < 0) return out;
  out.time = state.t.times[f];
  out.size = state.t.sizes[f];
  out.side = static_cast<int>(state.side[f]);
  std::copy_n(&state.t.states[f * N], N, out.state);
  const TrackPhoto& photo = state.photo;
  robust_weights(state.s, state.t, f, photo.assumed, out.robust, out.information);
  const double scale = std::exp(out.state[0]), cos = std::cos(out.state[1]), sin = std::sin(out.state[1]);
  const double turn = out.state[1] - photo.angle, re = scale / photo.size * std::cos(turn),
               im = scale / photo.size * std::sin(turn), *anchor = photo.anchor;
  const double matrix[6] = {re, -im, out.state[2] - (re * anchor[0] - im * anchor[1]),
                            im, re, out.state[3] - (im * anchor[0] + re * anchor[1])};
  std::copy_n(matrix, 6, out.matrix);
  double total = 0, square = 0;
  for (int k = 0; k < K; ++k) {
    const double w = state.t.weights[f * K + k] * out.robust[k];
    if (w == 0) continue;
    total += w;
    square += w * square_error(&state.t.points[(f * K + k) * 2], &state.t.target[(f * K + k) * 2], scale * cos,
                               scale * sin, cos, sin, out.state[2], out.state[3], 1, 1);
  }
  out.residual = total > 0 ? std::sqrt(square / total) : 0.0;
  return out;
}

}  // namespace tpc
