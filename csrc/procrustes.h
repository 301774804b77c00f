// Batched similarity fits (Umeyama) and the exact subset search. The specification is tpc_fast/naive.
#pragma once

#include <cstdint>

namespace tpc {

// Row-major arrays; a stride of 0 shares one row among all problems. Everything is computed in double.
template <typename T>
struct FitBatch {
  int64_t count;    // problems
  int64_t points;   // K
  int dims;         // D, 2 or 3
  const T *src, *dst;  // [count, K, D]; a point with a non-finite coordinate is missing
  const T* weights;    // [count, K], finite and >= 0, or null for ones
  int64_t src_stride, dst_stride, weights_stride;  // elements from one problem to the next
  T *scale, *rotation, *translation, *residual;    // [count], [count, D, D], [count, D], [count]
  bool* ok;                                        // [count]
};

template <typename T>
void fit_similarity(const FitBatch<T>& batch);

// The same, with weights; and in change [count, K] what leaving a point out does to the scale, as |log| of the ratio:
// infinite where the rest has no fit.
template <typename T>
void fit_leaving_out(const FitBatch<T>& batch, T* change);

constexpr int kMaxSearchPoints = 20;

struct SearchBatch {  // all 2^K subsets count; a bound tells which need not be looked at
  int64_t count;
  int points;                   // K <= kMaxSearchPoints
  const double *src, *dst;      // [count, K, 2]
  const double* tolerance;      // [count, K], pixels of dst
  const bool* valid;            // [count, K]
  const double* prior;          // [count, K]
  const double* previous;       // [count, 2]: real and imaginary part of s e^(i angle) of the frame before; 0 for none
  const double* inertia;        // [count]
  int size;                     // only subsets of this size; 0 for any
  int64_t* mask;                // [count]: bit k set if point k belongs to the best subset; 0 if there is none
  double* value;                // [count]: its J
};

void search_subset(const SearchBatch& batch);

}  // namespace tpc
