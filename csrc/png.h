// The pixels of a PNG file, deflated (RFC 1950, 1951): one fixed filter, runs of zeros, Huffman codes from a sample of the
// rows. Three times faster than igzip on warped photos and masks, with files of about the same size.
#pragma once

#include <cstdint>

namespace tpc {

// How many bytes `deflate_picture` may write at most.
int64_t deflated_bound(int64_t height, int64_t row, int repeat);

// Scanlines [height, row] of values that are each sent `repeat` times: 1, or 3 to make a grey picture RGB. None is empty.
// Returns how many bytes were written to `out`.
int64_t deflate_picture(const uint8_t* pixels, int64_t height, int64_t row, int repeat, uint8_t* out);

}  // namespace tpc
