// Outlines and discs in pictures that a person looks at. The specification is `draw_marks` of tpc_fast/naive.
#pragma once

#include <cstdint>

namespace tpc {

struct Disc {
  double x, y, radius, colour[3];
};

// Outlines of a mask [mask_height, mask_width], of its nearest pixels, two pixels wide, in a picture [height, width, 3].
void draw_outline(const uint8_t* mask, int64_t mask_height, int64_t mask_width, const uint8_t colour[3], int64_t height,
                  int64_t width, uint8_t* picture);

// A disc with a dark rim and smooth edges, at the pixel nearest to its centre.
void draw_disc(const Disc& disc, double dark, int64_t height, int64_t width, uint8_t* picture);

}  // namespace tpc
