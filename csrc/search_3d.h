// The subset search for points in 3-D. The specification is tpc_fast/naive/search_3d.py.
#pragma once

#include <cstdint>

namespace tpc {

struct Search3d {
  int64_t count, points;   // problems, K
  const double *src, *dst; // [count, K, 3]
  const double* tolerance; // [count, K], in units of dst
  const bool* valid;       // [count, K]
  const double* prior;     // [count, K]
  const double* previous;  // [count, 3, 3]: scale * rotation of the frame before; zeros for none
  const double* inertia;   // [count]
  int64_t size;            // only subsets of this size; 0 for any
  bool* members;           // [count, K]
  double* value;           // [count]: J; 0 where no subset has a fit
  bool* exact;             // [count]: whether J is the largest of all; so with up to kMaxSearchPoints valid points
};

// Of more points an approximation: the best of exact searches on several choices of them, whose similarities then take
// turns with their inliers until J rises no more.
void search_3d(const Search3d& batch);

}  // namespace tpc
