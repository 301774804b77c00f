// The subset search for more points than all subsets can be looked at. Specified by tpc_fast/naive.
#pragma once

#include <cstdint>

namespace tpc {

struct ManySearch {
  int64_t count, points;     // problems, K
  const double *src, *dst;   // [count, K, 2]
  const double* tolerance;   // [count, K], pixels of dst
  const bool* valid;         // [count, K]
  const double* prior;       // [count, K]
  const double* previous;    // [count, 2], see SearchBatch
  const double* inertia;     // [count]
  int64_t size;              // only subsets of this size; 0 for any
  int64_t most_boxes;        // of the branch and bound, after which it gives up; 0: no branch and bound
  bool* members;             // [count, K]
  double* value;             // [count]: J; 0 where no subset has a fit
  bool* exact;               // [count]: whether J is the largest of all, to 1e-6
  int64_t* boxes;            // [count]: how many were looked at
};

// First an approximation: the best of exact searches on several choices of kMaxSearchPoints points, whose transforms then
// take turns with their inliers until J rises no more. Then, for subsets of any size and without inertia, a branch and
// bound over the transforms; see search_many.cpp.
void search_many(const ManySearch& batch);

}  // namespace tpc
