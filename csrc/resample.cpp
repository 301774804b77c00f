#include "resample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "simd.h"

#if TPC_X86
#include <immintrin.h>
#endif

namespace tpc {
namespace {

constexpr int64_t kRowsPerTask = 16;

// A part of the picture, shrunk, and where its pixel (0, 0) lies in the whole shrunk picture [height, width].
struct Part {
  const uint8_t* pixels;
  const uint8_t* end;  // of what may be read
  int64_t stride;  // bytes from one row to the next
  int64_t left, top, right, bottom;  // its first and last columns and rows
  int64_t height, width;
};

// The pixels from `low` to `high` of a side that a view needs when it reaches from `first` to `last`, and one more at each
// end: the coordinates of its pixels are rounded otherwise than those of its corners.
void reach(double first, double last, int64_t side, int64_t& low, int64_t& high) {
  const double end = static_cast<double>(side - 1);
  low = static_cast<int64_t>(std::min(std::max(std::floor(first) - 1, 0.0), end));
  high = static_cast<int64_t>(std::min(std::max(std::ceil(last) + 1, 0.0), end));
}

// Division by d = 2 k^2 as a multiplication, since it takes longer than all else here: floor(n / d) is
// n * ceil(2^40 / d) >> 40 exactly while n * d < 2^40 (Granlund and Montgomery, PLDI 1994). Here n < 512 k^2, so that
// n * d < 2^38 for k up to 128.
constexpr int64_t kMostShrunkFast = 128;
constexpr int kReciprocalBits = 40;

// Means of `columns` squares, halves up, of the sums of their columns of pixels.
template <int kChannels>
void mean_row(const uint32_t* sum, int64_t columns, int64_t k, uint8_t* to) {
  const uint64_t count = static_cast<uint64_t>(k * k), twice = 2 * count;
  const uint64_t reciprocal = ((uint64_t{1} << kReciprocalBits) + twice - 1) / twice;
  for (int64_t column = 0; column < columns; ++column, sum += k * kChannels, to += kChannels)
    for (int c = 0; c < kChannels; ++c) {
      uint64_t total = 0;
      for (int64_t i = 0; i < k; ++i) total += sum[i * kChannels + c];
      const uint64_t n = 2 * total + count;
      to[c] = static_cast<uint8_t>(k <= kMostShrunkFast ? n * reciprocal >> kReciprocalBits : n / twice);
    }
}

// Averages over squares of k x k pixels, halves up, for the part that the view needs.
Part shrunk(const ResampleJob& job, const double m[6], std::vector<uint8_t>& buffer) {
  const int64_t k = job.shrink, channels = job.channels;
  Part part{nullptr, nullptr, 0, 0, 0, 0, 0, job.image_height / k, job.image_width / k};
  const double w = static_cast<double>(job.width - 1), h = static_cast<double>(job.height - 1);
  reach(m[2] + std::min(m[0] * w, 0.0) + std::min(m[1] * h, 0.0),
        m[2] + std::max(m[0] * w, 0.0) + std::max(m[1] * h, 0.0), part.width, part.left, part.right);
  reach(m[5] + std::min(m[3] * w, 0.0) + std::min(m[4] * h, 0.0),
        m[5] + std::max(m[3] * w, 0.0) + std::max(m[4] * h, 0.0), part.height, part.top, part.bottom);
  const int64_t columns = part.right - part.left + 1, rows = part.bottom - part.top + 1;
  part.stride = columns * channels;
  buffer.resize(static_cast<size_t>(rows * part.stride));
  part.pixels = buffer.data();
  part.end = buffer.data() + buffer.size();
  const int64_t row_bytes = job.image_width * channels;
  const auto mean = channels == 1 ? mean_row<1> : mean_row<3>;
  parallel_for(rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> sums(static_cast<size_t>(columns * k * channels));  // of the k rows, pixel by pixel
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* from = job.image + (part.top + row) * k * row_bytes + part.left * k * channels;
      for (size_t i = 0; i < sums.size(); ++i) sums[i] = from[i];
      from += row_bytes;
      for (int64_t j = 1; j < k; ++j, from += row_bytes)
        for (size_t i = 0; i < sums.size(); ++i) sums[i] += from[i];
      mean(sums.data(), columns, k, buffer.data() + row * part.stride);
    }
  });
  return part;
}

// ---------------------------------------------------------------------------------------------------------------
// Sampling: block by block, first where the pixels of a block lie, in loops that the compiler vectorises, then what is
// there. This is the long way, which any pixel can go.

constexpr int kBlock = 64;

// Of a row of the output: its pixel i lies at (x + i dx, y + i dy) of the part's whole.
struct Line {
  double x, y, dx, dy;
};

// Where the four neighbours of a block's pixels lie, and their weights (0 for those outside a black border).
struct alignas(64) Block {
  int32_t left[kBlock], right[kBlock];  // bytes from the start of a row
  int32_t above[kBlock], below[kBlock];  // rows
  float wx[2][kBlock], wy[2][kBlock];
};

// One axis: coordinates start + i step, i from 0, in a side of pixels up to `last`, of which those from `least` to `most`
// are at hand. Coordinates of 1e15 and more are rounded by more pixels than `reach` allows for: none is read beyond.
template <bool kRepeat>
TPC_INLINE void find_axis(double start, double step, int32_t last, int32_t least, int32_t most, int32_t unit, int n,
                          int32_t* __restrict low, int32_t* __restrict high, float* __restrict w0,
                          float* __restrict w1) {
  const double first = kRepeat ? 0.0 : -1.0, end = static_cast<double>(last) + (kRepeat ? 0.0 : 1.0);
  for (int i = 0; i < n; ++i) {
    const double at = std::min(std::max(start + static_cast<double>(i) * step, first), end);
    const int32_t whole = static_cast<int32_t>(at + 1) - 1;  // at >= -1: truncation is the floor
    const float f = static_cast<float>(at - static_cast<double>(whole));
    // Beyond a black border there is nothing; beyond a repeated one f is 0.
    w0[i] = !kRepeat && (whole < 0 || whole > last) ? 0.0f : 1 - f;
    w1[i] = !kRepeat && whole >= last ? 0.0f : f;
    low[i] = std::min(std::max(whole, least), most) * unit;
    high[i] = std::min(std::max(whole + 1, least), most) * unit;
  }
}

template <int kChannels, bool kRepeat>
TPC_INLINE void find_block(const Part& part, const Line& line, int n, Block& block) {
  const auto whole = [](int64_t pixel) { return static_cast<int32_t>(pixel); };
  find_axis<kRepeat>(line.x, line.dx, whole(part.width - 1), whole(part.left), whole(part.right), kChannels, n,
                     block.left, block.right, block.wx[0], block.wx[1]);
  find_axis<kRepeat>(line.y, line.dy, whole(part.height - 1), whole(part.top), whole(part.bottom), 1, n, block.above,
                     block.below, block.wy[0], block.wy[1]);
}

template <int kChannels>
TPC_INLINE void blend_body(const Part& part, const Block& block, int n, uint8_t* out) {
  const uint8_t* origin = part.pixels - part.top * part.stride - part.left * kChannels;
  for (int i = 0; i < n; ++i, out += kChannels) {
    const uint8_t* above = origin + block.above[i] * part.stride;
    const uint8_t* below = origin + block.below[i] * part.stride;
    const int32_t left = block.left[i], right = block.right[i];
    const float x0 = block.wx[0][i], x1 = block.wx[1][i], y0 = block.wy[0][i], y1 = block.wy[1][i];
    for (int c = 0; c < kChannels; ++c) {
      const float value = y0 * (x0 * above[left + c] + x1 * above[right + c]) +
                          y1 * (x0 * below[left + c] + x1 * below[right + c]);
      out[c] = static_cast<uint8_t>(static_cast<int32_t>(value + 0.5f));
    }
  }
}

#if TPC_X86
// The three bytes of a pixel and one more, as floats.
TPC_TARGET_AVX2 TPC_INLINE __m128 load_pixel(const uint8_t* pixel) {
  int32_t bytes;
  std::memcpy(&bytes, pixel, 4);
  return _mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes)));
}

TPC_TARGET_AVX2 inline void blend3_avx2(const Part& part, const Block& block, int n, uint8_t* out) {
  const uint8_t* origin = part.pixels - part.top * part.stride - part.left * 3;
  const uint8_t* end = part.end - 4;  // the last from which four bytes can be read
  const __m128i pick = _mm_set1_epi32(0x0c080400);
  for (int i = 0; i < n; ++i, out += 3) {
    const uint8_t* above = origin + block.above[i] * part.stride;
    const uint8_t* below = origin + block.below[i] * part.stride;
    const int32_t left = block.left[i], right = block.right[i];
    if (below + right > end || i + 1 == n) {  // what is behind the picture is not read, what is behind the row not written
      Block one;
      one.left[0] = left, one.right[0] = right, one.above[0] = block.above[i], one.below[0] = block.below[i];
      for (int j = 0; j < 2; ++j) one.wx[j][0] = block.wx[j][i], one.wy[j][0] = block.wy[j][i];
      blend_body<3>(part, one, 1, out);
      continue;
    }
    const __m128 x0 = _mm_set1_ps(block.wx[0][i]), x1 = _mm_set1_ps(block.wx[1][i]);
    const __m128 upper = _mm_fmadd_ps(x0, load_pixel(above + left), _mm_mul_ps(x1, load_pixel(above + right)));
    const __m128 lower = _mm_fmadd_ps(x0, load_pixel(below + left), _mm_mul_ps(x1, load_pixel(below + right)));
    const __m128 value = _mm_fmadd_ps(_mm_set1_ps(block.wy[0][i]), upper,
                                      _mm_fmadd_ps(_mm_set1_ps(block.wy[1][i]), lower, _mm_set1_ps(0.5f)));
    const int32_t bytes = _mm_cvtsi128_si32(_mm_shuffle_epi8(_mm_cvttps_epi32(value), pick));
    std::memcpy(out, &bytes, 4);  // the fourth is the next pixel's
  }
}
#endif

// ---------------------------------------------------------------------------------------------------------------
// The short way, for pixels whose four neighbours are all at hand: one span of a row, beside which a few need care.

struct Span {
  int64_t begin, end;
};

// What is left of a span where start + i step lies from `least` to `most`.
TPC_INLINE Span within(Span span, double start, double step, double least, double most) {
  const double begin = static_cast<double>(span.begin), end = static_cast<double>(span.end);
  if (least > most || (step == 0 && (start < least || start > most))) return {span.begin, span.begin};
  if (step == 0) return span;
  const double one = (least - start) / step, other = (most - start) / step;  // infinite at worst
  const double first = std::min(std::max(std::ceil(std::min(one, other)), begin), end);
  const double behind = std::min(std::max(std::floor(std::max(one, other)) + 1, first), end);
  return {static_cast<int64_t>(first), static_cast<int64_t>(behind)};
}

// Outside this, a line is black. Quotients are rounded by less than a pixel: one more at each end is looked at.
TPC_INLINE Span visible(const Part& part, const Line& line, int64_t count) {
  const Span columns = within({0, count}, line.x, line.dx, -1, static_cast<double>(part.width));
  const Span some = within(columns, line.y, line.dy, -1, static_cast<double>(part.height));
  return {std::max<int64_t>(some.begin - 1, 0), std::min(some.end + 1, count)};
}

// Here coordinates are float32, from the first neighbour of their block. They are at most 64 steps and a pixel large, and
// have three rounding errors of 2^-24 of that: of the step, its product and the sum. (That of the block's first pixel is
// smaller.) With steps of four pixels, these are 3 * 257 * 2^-24 < 2^-14 pixels on each of two axes, which change a level
// by less than 2 * 255 * 2^-14 < 2^-5. Larger steps go the long way. kCare is more than these errors, and than those of
// the double precision that finds the span, 2^-52 of coordinates below 2^33: a pixel stays between its neighbours when it
// is rounded, too.
constexpr double kLargestStep = 4, kCare = 1.0 / 1024;
// So that 257 rows and as many columns of three bytes are below 2^31 bytes.
constexpr int64_t kLongestRow = int64_t{1} << 22;

TPC_INLINE Span inside(const Part& part, const Line& line, int64_t count) {
  if (std::max(std::fabs(line.dx), std::fabs(line.dy)) > kLargestStep || part.stride > kLongestRow) return {0, 0};
  const Span columns = within({0, count}, line.x, line.dx, static_cast<double>(part.left) + kCare,
                              static_cast<double>(part.right) - kCare);
  return within(columns, line.y, line.dy, static_cast<double>(part.top) + kCare,
                static_cast<double>(part.bottom) - kCare);
}

// Where the first of each pixel's four neighbours lies, in bytes from `origin`, and the weights of those right and below.
struct alignas(64) Inner {
  int32_t at[kBlock];
  float x[kBlock], y[kBlock];
  const uint8_t* origin;
};

// All of a block, for a fixed length makes short loops; what lies behind its n pixels is not used.
template <int kChannels>
TPC_INLINE void find_inner(const Part& part, const Line& line, int n, Inner& inner) {
  const double columns = (n - 1) * line.dx, rows = (n - 1) * line.dy;
  const double left = std::floor(std::min(line.x, line.x + columns)), top = std::floor(std::min(line.y, line.y + rows));
  const float x = static_cast<float>(line.x - left), y = static_cast<float>(line.y - top);
  const float dx = static_cast<float>(line.dx), dy = static_cast<float>(line.dy);
  const int32_t stride = static_cast<int32_t>(part.stride);
  for (int i = 0; i < kBlock; ++i) {
    const float at_x = x + static_cast<float>(i) * dx, at_y = y + static_cast<float>(i) * dy;
    const int32_t column = static_cast<int32_t>(at_x), row = static_cast<int32_t>(at_y);
    inner.x[i] = at_x - static_cast<float>(column);
    inner.y[i] = at_y - static_cast<float>(row);
    inner.at[i] = row * stride + column * kChannels;
  }
  inner.origin = part.pixels + (static_cast<int64_t>(top) - part.top) * part.stride +
                 (static_cast<int64_t>(left) - part.left) * kChannels;
}

TPC_INLINE float between(float a, float b, float share) { return a + share * (b - a); }

// Byte `place` of four that were loaded at once, as a float.
TPC_INLINE float level(uint32_t bytes, int place) {
  const int shift = 8 * (TPC_LITTLE_ENDIAN ? place : 3 - place);
  return static_cast<float>(static_cast<int32_t>(bytes >> shift & 255));
}

TPC_INLINE int32_t rounded(float value) { return static_cast<int32_t>(value + 0.5f); }

// Neighbours first go into arrays, by plain loads of what lies side by side; the rest is a loop that the compiler
// vectorises. Gathers would be slower, on some processors by far. Nothing but neighbours is read.
template <int kChannels>
TPC_INLINE void blend_inner(const Inner& inner, int64_t stride, int n, uint8_t* out);

template <>
TPC_INLINE void blend_inner<1>(const Inner& inner, int64_t stride, int n, uint8_t* out) {
  alignas(64) uint32_t four[kBlock];  // left and right above, left and right below
  for (int i = 0; i < n; ++i) {
    const uint8_t* above = inner.origin + inner.at[i];
    uint16_t one, other;
    std::memcpy(&one, above, 2);
    std::memcpy(&other, above + stride, 2);
    four[i] = TPC_LITTLE_ENDIAN ? one | static_cast<uint32_t>(other) << 16 : static_cast<uint32_t>(one) << 16 | other;
  }
  for (int i = n; i < kBlock; ++i) four[i] = 0;
  alignas(64) uint8_t seen[kBlock];
  for (int i = 0; i < kBlock; ++i)
    seen[i] = static_cast<uint8_t>(rounded(between(between(level(four[i], 0), level(four[i], 1), inner.x[i]),
                                                   between(level(four[i], 2), level(four[i], 3), inner.x[i]), inner.y[i])));
  std::memcpy(out, seen, static_cast<size_t>(n));
}

// Two pixels of three bytes are six: the first four and the last four of them.
template <>
TPC_INLINE void blend_inner<3>(const Inner& inner, int64_t stride, int n, uint8_t* out) {
  alignas(64) uint32_t above[2][kBlock], below[2][kBlock], seen[kBlock];
  for (int i = 0; i < n; ++i) {
    const uint8_t* six = inner.origin + inner.at[i];
    std::memcpy(&above[0][i], six, 4);
    std::memcpy(&above[1][i], six + 2, 4);
    std::memcpy(&below[0][i], six + stride, 4);
    std::memcpy(&below[1][i], six + stride + 2, 4);
  }
  for (int i = n; i < kBlock; ++i) above[0][i] = above[1][i] = below[0][i] = below[1][i] = 0;
  for (int i = 0; i < kBlock; ++i) {
    const auto channel = [&](int c) {
      return static_cast<uint32_t>(
          rounded(between(between(level(above[0][i], c), level(above[1][i], 1 + c), inner.x[i]),
                          between(level(below[0][i], c), level(below[1][i], 1 + c), inner.x[i]), inner.y[i])));
    };
    seen[i] = TPC_LITTLE_ENDIAN ? channel(0) | channel(1) << 8 | channel(2) << 16
                                : channel(0) << 24 | channel(1) << 16 | channel(2) << 8;
  }
  for (int i = 0; i + 1 < n; ++i) std::memcpy(out + 3 * i, &seen[i], 4);  // the fourth byte is the next pixel's
  std::memcpy(out + 3 * (n - 1), &seen[n - 1], 3);
}

template <int kChannels, bool kRepeat, class Blend>
TPC_INLINE void sample_body(const Part& part, Line line, int64_t count, uint8_t* out, Blend blend) {
  Block block;
  Inner inner;
  const Line start = line;
  const Span seen = kRepeat ? Span{0, count} : visible(part, line, count), easy = inside(part, line, count);
  if (!kRepeat) {
    std::memset(out, 0, static_cast<size_t>(seen.begin * kChannels));
    std::memset(out + seen.end * kChannels, 0, static_cast<size_t>((count - seen.end) * kChannels));
  }
  for (int64_t done = seen.begin; done < seen.end;) {
    const bool is_easy = done >= easy.begin && done < easy.end;
    const int64_t until = std::min(done < easy.begin ? easy.begin : is_easy ? easy.end : seen.end, seen.end);
    const int n = static_cast<int>(std::min<int64_t>(kBlock, until - done));
    line.x = start.x + static_cast<double>(done) * line.dx;
    line.y = start.y + static_cast<double>(done) * line.dy;
    uint8_t* to = out + done * kChannels;
    if (is_easy) {
      find_inner<kChannels>(part, line, n, inner);
      blend_inner<kChannels>(inner, part.stride, n, to);
    } else {
      find_block<kChannels, kRepeat>(part, line, n, block);
      blend(part, block, n, to);
    }
    done += n;
  }
}

template <int kChannels, bool kRepeat>
void sample_row(const Part& part, const Line& line, int64_t count, uint8_t* out) {
  sample_body<kChannels, kRepeat>(part, line, count, out, blend_body<kChannels>);
}

#if TPC_X86
template <int kChannels, bool kRepeat>
TPC_TARGET_AVX2 void sample_row_avx2(const Part& part, const Line& line, int64_t count, uint8_t* out) {
  if constexpr (kChannels == 3)
    sample_body<kChannels, kRepeat>(part, line, count, out, blend3_avx2);
  else
    sample_body<kChannels, kRepeat>(part, line, count, out, blend_body<kChannels>);
}
#endif

using SampleRow = void (*)(const Part&, const Line&, int64_t, uint8_t*);

template <int kChannels, bool kRepeat>
SampleRow sampler() {
#if TPC_X86
  if (simd() != Simd::baseline) return sample_row_avx2<kChannels, kRepeat>;
#endif
  return sample_row<kChannels, kRepeat>;
}

}  // namespace

void resample(const ResampleJob& job) {
  if (job.height == 0 || job.width == 0) return;
  double m[6];
  std::copy(job.inverse, job.inverse + 6, m);
  std::vector<uint8_t> buffer;
  const int64_t stride = job.image_width * job.channels;
  Part part{job.image, job.image + job.image_height * stride, stride, 0, 0, job.image_width - 1, job.image_height - 1,
            job.image_height, job.image_width};
  if (job.shrink > 1) {
    // Pixel i of the shrunk picture lies at k i + (k - 1) / 2 of the picture.
    const double k = static_cast<double>(job.shrink);
    for (int row = 0; row < 6; row += 3) {
      m[row + 2] -= (k - 1) / 2;
      for (int i = 0; i < 3; ++i) m[row + i] /= k;
    }
    part = shrunk(job, m, buffer);
  }
  const SampleRow sample = job.channels == 1 ? (job.repeat ? sampler<1, true>() : sampler<1, false>())
                                             : (job.repeat ? sampler<3, true>() : sampler<3, false>());
  const int64_t bytes = job.width * job.channels;
  parallel_for(job.height, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      const double at = static_cast<double>(y);
      sample(part, Line{m[1] * at + m[2], m[4] * at + m[5], m[0], m[3]}, job.width, job.out + y * bytes);
    }
  });
}

}  // namespace tpc
