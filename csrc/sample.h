// Floating-point pictures under affine maps, and the gradients of that. The specification is `sample_pictures` and
// `sample_gradients` of tpc_fast/naive.
#pragma once

#include <cstdint>

namespace tpc {

// Every picture is seen under a number of maps of its own: output = share * picture(inverse * pixel), zero outside.
template <typename T>
struct SampleJob {
  int64_t pictures, maps, channels;  // S, M, C
  int64_t picture_height, picture_width, height, width;
  int taps;               // along each axis: 1 nearest, 2 bilinear, 4 cubic (Keys, a = -0.75)
  const T* image;         // [S, C, picture_height, picture_width]
  const double* inverse;  // [S, M, 2, 3], output pixels -> picture pixels
  const double* share;    // [S, M]; where it is 0 nothing is read, and no gradient flows
};

template <typename T>
void sample_pictures(const SampleJob<T>& job, T* out);  // [S, M, C, height, width]

// Of a loss whose gradient with respect to the output is `wanted`; each is null where it is not asked for.
template <typename T>
struct SampleGradients {
  T* image;
  double *inverse, *share;
};

template <typename T>
void sample_gradients(const SampleJob<T>& job, const T* wanted, const SampleGradients<T>& out);

}  // namespace tpc
