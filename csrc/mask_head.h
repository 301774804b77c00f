// The last layers of BlazePose's segmentation, from 8 features at a quarter of its output's sides to confidences. The
// general kernels of a network's runtime are made for more channels and fill a cache with every layer; here a band of rows
// goes through all layers of a size at once. The specification is `mask_head` of tpc_fast/naive.
#pragma once

#include <cstdint>

namespace tpc {

constexpr int64_t kMaskFeatures = 8;
// Of a block: 3 x 3 x 8 and bias 8 of the depthwise layer, 8 x 8 (from, to) and bias 8 of the pointwise one. Four blocks
// come first, then 3 x 3 x 8 and one bias of the last layer.
constexpr int64_t kMaskBlockWeights = 9 * 8 + 8 + 8 * 8 + 8, kMaskWeights = 4 * kMaskBlockWeights + 9 * 8 + 1;

struct MaskHeadJob {
  const float* features;  // [height, width, 8]
  const float* earlier;   // [2 height, 2 width, 8], added to them when they are enlarged
  int64_t height, width;
  const float* weights;  // [kMaskWeights]
  uint8_t* out;          // [4 height, 4 width], confidence in 255ths
};

void mask_head(const MaskHeadJob& job);

}  // namespace tpc
