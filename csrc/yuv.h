// RGB or grey as the planes that video encoders take: YUV 4:2:0, BT.709, limited range (ITU-R BT.709-6, 3; 8 bits).
// The specification is `rgb_to_yuv` of tpc_fast/naive.
#pragma once

#include <cstdint>

namespace tpc {

// Sides are even. image: [height, width, channels], 1 or 3; y: [height, y_stride]; u, v: [height / 2, stride] each.
struct YuvJob {
  const uint8_t* image;
  int64_t height, width, channels;
  uint8_t *y, *u, *v;
  int64_t y_stride, u_stride, v_stride;
};

void rgb_to_yuv(const YuvJob& job);

}  // namespace tpc
