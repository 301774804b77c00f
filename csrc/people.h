// Who is who from frame to frame. The specification is
// tpc_fast/naive, which says what the arrays are. All row-major; D persons of a frame, T who are known, K keypoints.
#pragma once

#include <cstdint>

namespace tpc {

// seen: [count], of points [count, 2].
void seen_points(int64_t count, const double* points, const double* scores, double threshold, bool* seen);

// bounds: [count, 5].
void person_bounds(int64_t count, int64_t keypoints, const double* points, const bool* seen, int64_t body,
                   double* bounds);

struct Known {
  int64_t count;
  double* points;    // [T, K, 2]
  bool* known;       // [T, K]
  double* velocity;  // [T, 2]
  double* last;      // [T]
  double* bounds;    // [T, 5]
};

struct Seen {
  int64_t count, keypoints;
  const double* points;     // [D, K, 2]
  const bool* seen;         // [D, K]
  const double* bounds;     // [D, 5]
  double time;
  const int64_t* mirrored;  // [K]
  int64_t good;             // keypoints of a person whose size counts
};

struct Prices {
  double reach, reach_per_second, coast_seconds, overlap, size, gap, impossible;
};

// distances: [T, D, 2]; cost: [T, D].
void pair_costs(const Known& known, const Seen& seen, const Prices& prices, double* distances, double* cost);

// tracks, found, exchanged: [pairs].
void follow(const Known& known, const Seen& seen, int64_t pairs, const int64_t* tracks, const int64_t* found,
            const bool* exchanged, double velocity_seconds, double size_seconds);

}  // namespace tpc
