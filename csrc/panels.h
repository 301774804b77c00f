// Small pictures that a person looks at. The specifications are `shrink`, `lay_over` and `draw_marks` of tpc_fast/naive.
#pragma once

#include <cstdint>

namespace tpc {

// A picture [height, width, channels], 1 or 3, at sides of at most its own: [small_height, small_width, channels].
void shrink(const uint8_t* picture, int64_t height, int64_t width, int64_t channels, int64_t small_height,
            int64_t small_width, uint8_t* out);

// A picture [pixels, 3] of a person, cut out by its mask [pixels], over another, in place.
void lay_over(const uint8_t* picture, const uint8_t* mask, int64_t pixels, uint8_t* out);

struct Disc {
  double x, y, radius, colour[3];
};

// Outlines of a mask [mask_height, mask_width], of its nearest pixels, two pixels wide, in a picture [height, width, 3].
void draw_outline(const uint8_t* mask, int64_t mask_height, int64_t mask_width, const uint8_t colour[3], int64_t height,
                  int64_t width, uint8_t* picture);

// A disc with a dark rim and smooth edges, at the pixel nearest to its centre.
void draw_disc(const Disc& disc, double dark, int64_t height, int64_t width, uint8_t* picture);

}  // namespace tpc
