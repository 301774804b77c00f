// A picture seen through an affine view, for networks: bilinear, borders repeated or black, shrunk by averages first if asked.
// The specification is `resample` of tpc_fast/naive.
#pragma once

#include <cstdint>

namespace tpc {

struct ResampleJob {
  const uint8_t* image;  // [image_height, image_width, channels]
  int64_t image_height, image_width, channels;
  double inverse[6];  // [2, 3], output pixels -> picture pixels
  int64_t shrink;     // the picture is averaged over squares of so many pixels, at most its shorter side
  bool repeat;        // borders; black otherwise
  int64_t height, width;
  uint8_t* out;  // [height, width, channels]
};

void resample(const ResampleJob& job);

}  // namespace tpc
