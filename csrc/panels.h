// Small pictures that a person looks at. The specifications are `shrink` and `lay_over` of tpc_fast/naive.
#pragma once

#include <cstdint>

namespace tpc {

// A picture [height * factor, width * factor, channels] -> [height, width, channels]: means of factor x factor pixels,
// halves up. channels: 1 or 3; factor: 2, 3 or 4.
void shrink(const uint8_t* picture, int64_t height, int64_t width, int channels, int factor, uint8_t* out);

// Lays a picture [pixels, 3], weighted by its mask [pixels], over `out` [pixels, 3], in place.
void lay_over(const uint8_t* picture, const uint8_t* mask, int64_t pixels, uint8_t* out);

// How many of so many pixels have 128 or more in both masks, in the first, in the second.
struct Areas {
  int64_t both, one, other;
};
Areas mask_areas(const uint8_t* one, const uint8_t* other, int64_t pixels);

}  // namespace tpc
