// Transform models beside the similarity: batched fits and the exact subset search. Specified by tpc_fast/naive.
#pragma once

#include <cstdint>

namespace tpc {

enum class Model : int { translation, linear, affine };

struct TransformBatch {  // row-major; computed in double
  int64_t count, points;    // problems, K
  Model model;
  const double *src, *dst;  // [count, K, 2]; a point with a non-finite coordinate is missing
  const double* weights;    // [count, K], finite and >= 0
  double floor;             // what share of the coordinates' size is rounding noise
  double *matrix, *residual;  // [count, 2, 3], [count]
  bool* ok;                   // [count]
};

void fit_linear_map(const TransformBatch& batch);

struct TransformSearch {  // see SearchBatch
  int64_t count;
  int points;  // K <= kMaxSearchPoints
  Model model;
  const double *src, *dst;   // [count, K, 2]
  const double* tolerance;   // [count, K], pixels of dst
  const bool* valid;         // [count, K]
  const double* prior;       // [count, K]
  const double* previous;    // [count, 2, 2]: the linear part of the frame before; zeros for none
  const double* inertia;     // [count]
  int size;                  // only subsets of this size; 0 for any
  int64_t* mask;             // [count]
  double* value;             // [count]
};

void search_transform(const TransformSearch& batch);

}  // namespace tpc
