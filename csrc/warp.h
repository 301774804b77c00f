// Affine warp of reference image and person mask, fused with the composite. The specification is tpc_fast/naive.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace tpc {

enum class Interpolation { nearest = 0, bilinear = 1, cubic = 2 };
enum class Format { uint8 = 0, float32 = 1, float16 = 2 };  // uint8: HWC; the others: CHW in [-1, 1], masks in [0, 1]

// Pixels of four bytes (R, G, B, mask; grey uses R), surrounded by kBorder zeros on every side, so that sampling needs
// no border tests.
struct PackedImage {
  static constexpr int64_t kBorder = 4;

  PackedImage(int64_t height, int64_t width);
  uint8_t* at(int64_t y, int64_t x) const { return data_.get() + 4 * ((y + kBorder) * stride + x + kBorder); }

  int64_t height, width;
  int64_t stride;  // pixels from one row to the next

 private:
  std::unique_ptr<uint8_t[], void (*)(void*)> data_;  // only the border is written yet
};

// The reference of every person, packed once and warped often.
class WarpSource {
 public:
  static constexpr int64_t kMaxSide = int64_t{1} << 24;

  // image: [P, H, W, C], or [H, W, C] for all persons if shared; mask: [P, H, W]; C = 1 or 3.
  WarpSource(const uint8_t* image, bool shared, const uint8_t* mask, int64_t persons, int64_t height, int64_t width,
             int channels);

  // Whether a reference is small enough for 32.32 fixed-point coordinates and 32-bit pixel offsets.
  static bool fits(int64_t height, int64_t width) {
    constexpr int64_t kBorders = 2 * PackedImage::kBorder;
    return height <= kMaxSide && width <= kMaxSide && (height + kBorders) * (width + kBorders) < (int64_t{1} << 31);
  }

  int64_t persons() const { return static_cast<int64_t>(levels_.size()); }
  int channels() const { return channels_; }
  const std::vector<PackedImage>& levels(int64_t person) const { return levels_[person]; }

  void build_pyramid();  // all levels down to one pixel, on the first call

 private:
  std::vector<std::vector<PackedImage>> levels_;  // [person][level]
  int channels_;
  std::once_flag pyramid_built_;
};

struct WarpJob {
  int64_t frames, height, width;  // F, h, w
  const double* matrix;           // [F, P, 2, 3] forward, invertible
  Interpolation interpolation;
  bool antialias;
  Format format;
  void* image;      // uint8 [F, P, h, w, C], or [F, P, C, h, w]
  void* mask;       // [F, P, h, w]
  void* composite;  // uint8 [F, h, w, C], or [F, C, h, w]; null for none
  const uint8_t* background;   // [h, w, C] per frame, or null for a colour
  int64_t background_stride;   // bytes from one frame to the next; 0 if all share one
  float colour[3];             // 0..255
};

void warp_composite(WarpSource& source, const WarpJob& job);

}  // namespace tpc
