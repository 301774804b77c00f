// What exhaustive searches over subsets of points share, whatever is fitted to them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>

#include "procrustes.h"
#include "simd.h"

namespace tpc {

constexpr double kNoSubset = -std::numeric_limits<double>::infinity();

// Clang makes no vectors of a reduction to a maximum, and lets it start at a finite number; GCC makes none of the lanes
// on ARM.
TPC_INLINE double largest_of(const double* keys, int64_t count) {
#if defined(__clang__)
  constexpr int64_t kLanes = 8;
  double lanes[kLanes];
  std::fill(std::begin(lanes), std::end(lanes), kNoSubset);
  int64_t m = 0;
  for (; m + kLanes <= count; m += kLanes)
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] = keys[m + i] > lanes[i] ? keys[m + i] : lanes[i];
  for (; m < count; ++m) lanes[0] = keys[m] > lanes[0] ? keys[m] : lanes[0];
  return *std::max_element(std::begin(lanes), std::end(lanes));
#else
  double largest = kNoSubset;
#pragma omp simd reduction(max : largest)
  for (int64_t m = 0; m < count; ++m) largest = keys[m] > largest ? keys[m] : largest;
  return largest;
#endif
}

// J rounded to 1e-6 and, beneath it, the number of members: of equal J the larger subset is better.
TPC_INLINE double key_of(double value, double members) {
  constexpr double kMagic = 6755399441055744.0;  // adding and subtracting 1.5 * 2^52 rounds to an integer
  return ((value * 1e6 + kMagic) - kMagic) * 32 + members;
}

// The valid points of a problem, to be centred and scaled to order 1 so that sums over them keep their digits.
struct ValidPoints {
  int count = 0;
  int index[kMaxSearchPoints];
  double centre[4] = {};                // of src and dst
  double radius_src = 0, radius_dst = 0;  // the largest coordinate about the centre

  ValidPoints(int points, const double* src, const double* dst, const bool* valid) {
    for (int k = 0; k < points; ++k) {
      if (!valid[k]) continue;
      index[count++] = k;
      for (int i = 0; i < 2; ++i) {
        centre[i] += src[2 * k + i];
        centre[2 + i] += dst[2 * k + i];
      }
    }
    for (double& c : centre) c /= std::max(count, 1);
    for (int j = 0; j < count; ++j)
      for (int i = 0; i < 2; ++i) {
        radius_src = std::max(radius_src, std::abs(src[2 * index[j] + i] - centre[i]));
        radius_dst = std::max(radius_dst, std::abs(dst[2 * index[j] + i] - centre[2 + i]));
      }
  }
};

// The sums of all subsets of some points, each one addition from a smaller one: table[i * 2^bits + m] is sum i of the
// subset m. `sums` has what each point adds.
template <int kSums>
TPC_INLINE void tabulate(const double (*sums)[kSums], int bits, double* __restrict table) {
  const int64_t count = int64_t{1} << bits;
  for (int i = 0; i < kSums; ++i) {
    double* __restrict row = table + i * count;
    row[0] = 0;
    for (int j = 0; j < bits; ++j)
#pragma omp simd
      for (int64_t m = 0; m < int64_t{1} << j; ++m) row[(int64_t{1} << j) + m] = row[m] + sums[j][i];
  }
}

}  // namespace tpc
