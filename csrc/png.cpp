#include "png.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "simd.h"

namespace tpc {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Huffman codes

constexpr int kLongest = 12;     // bits of a literal's or length's code: four literals fit into one 64-bit store
constexpr int kSymbols = 286;    // literals, the end of the block, lengths
constexpr int kEndOfBlock = 256;
constexpr int kFirstLength = 257;
constexpr int64_t kSampledRows = 32;  // from which the codes are made
constexpr int kLongestMatch = 258, kShortestMatch = 3;

struct Code {
  uint16_t bits = 0;  // the first bit that is sent is the lowest
  uint16_t length = 0;
};

using Counts = std::array<uint32_t, kSymbols>;
using Codes = std::array<Code, kSymbols>;

// Canonical codes of at most `longest` bits for symbols that occur (count > 0).
template <size_t kCount>
std::array<Code, kCount> huffman_codes(const std::array<uint32_t, kCount>& counts, int longest) {
  std::vector<std::pair<uint32_t, int>> order;  // count, symbol: rarest first
  for (size_t s = 0; s < kCount; ++s)
    if (counts[s] > 0) order.emplace_back(counts[s], static_cast<int>(s));
  std::sort(order.begin(), order.end());
  const int n = static_cast<int>(order.size());

  // The tree from two queues, leaves and joints, both in increasing order of weight.
  std::vector<uint64_t> joints;
  std::vector<int> parent(2 * std::max(n, 1));
  int leaf = 0, joint = 0;
  const auto lightest = [&](int child_of) {
    const bool take_leaf = leaf < n && (joint == static_cast<int>(joints.size()) || order[leaf].first <= joints[joint]);
    parent[take_leaf ? leaf : n + joint] = child_of;
    return take_leaf ? uint64_t{order[leaf++].first} : joints[joint++];
  };
  for (int made = 0; made + 1 < n; ++made) {
    const uint64_t one = lightest(n + made), other = lightest(n + made);
    joints.push_back(one + other);
  }
  std::array<int, 64> of_length{};  // how many codes there are of each length
  std::vector<int> depth(2 * std::max(n, 1), 0);
  for (int node = 2 * n - 3; node >= 0; --node) depth[node] = depth[parent[node]] + 1;
  for (int i = 0; i < n; ++i) ++of_length[std::min(std::max(depth[i], 1), longest)];

  // Cutting off long codes asks for too much of the code space: a shorter code makes room by becoming two longer ones.
  int64_t space = 0;
  for (int length = 1; length <= longest; ++length) space += int64_t{of_length[length]} << (longest - length);
  for (; space > int64_t{1} << longest; --space) {
    int length = longest - 1;
    while (of_length[length] == 0) --length;
    --of_length[longest];
    --of_length[length];
    of_length[length + 1] += 2;
  }

  std::array<Code, kCount> codes{};
  int next = 0;
  for (int length = longest; length >= 1; --length)  // the rarest get the longest
    for (int i = 0; i < of_length[length]; ++i) codes[order[next++].second].length = static_cast<uint16_t>(length);
  std::array<uint32_t, 16> value{};  // the next code of each length
  for (int length = 1; length < longest; ++length) value[length + 1] = (value[length] + of_length[length]) << 1;
  for (Code& code : codes) {
    uint32_t bits = code.length > 0 ? value[code.length]++ : 0;
    for (int i = 0; i < code.length; ++i, bits >>= 1) code.bits = static_cast<uint16_t>(code.bits << 1 | (bits & 1));
  }
  return codes;
}

// ---------------------------------------------------------------------------------------------------------------
// The stream

class BitWriter {
 public:
  explicit BitWriter(uint8_t* out) : out_(out) {}

  // Takes up to 56 bits; writes up to 7 bytes ahead. Processors are little-endian here, as in all of the core.
  TPC_INLINE void put(uint64_t bits, unsigned count) {
    buffer_ |= bits << filled_;
    filled_ += count;
    std::memcpy(out_, &buffer_, 8);
    out_ += filled_ >> 3;
    buffer_ >>= filled_ & ~7u;
    filled_ &= 7;
  }
  TPC_INLINE void put(Code code) { put(code.bits, code.length); }

  uint8_t* finish() {  // up to the next whole byte
    if (filled_ > 0) *out_++ = static_cast<uint8_t>(buffer_);
    filled_ = 0;
    return out_;
  }

 private:
  uint8_t* out_;
  uint64_t buffer_ = 0;
  unsigned filled_ = 0;
};

// RFC 1951, 3.2.5: symbol, and number of extra bits, of every match length.
struct Length {
  uint16_t symbol;
  uint8_t extra_bits, extra;
};

constexpr std::array<Length, kLongestMatch + 1> make_lengths() {
  std::array<Length, kLongestMatch + 1> lengths{};
  int length = kShortestMatch;
  for (int symbol = kFirstLength; symbol < kSymbols - 1; ++symbol) {
    const int bits = symbol < 265 ? 0 : (symbol - 261) / 4;
    for (int extra = 0; extra < 1 << bits && length < kLongestMatch; ++extra, ++length)
      lengths[length] = {static_cast<uint16_t>(symbol), static_cast<uint8_t>(bits), static_cast<uint8_t>(extra)};
  }
  lengths[kLongestMatch] = {kSymbols - 1, 0, 0};
  return lengths;
}
constexpr auto kLengths = make_lengths();

// Where scanlines go. Every value is sent `kRepeat` times: three times, a grey picture becomes RGB. All matches have
// distance 1: they repeat the byte before.
template <int kRepeat>
struct Writer {
  struct Repeated {
    uint64_t bits;
    unsigned length;
  };

  Writer(BitWriter stream, const Codes& symbol_codes) : out(stream), codes(symbol_codes) {
    for (int value = 0; value < 256; ++value) {
      values[value] = {0, 0};
      for (int i = 0; i < kRepeat; ++i) {
        values[value].bits |= uint64_t{codes[value].bits} << values[value].length;
        values[value].length += codes[value].length;
      }
    }
  }

  TPC_INLINE void once(uint8_t value) { out.put(codes[value]); }
  TPC_INLINE void value(uint8_t value) { out.put(values[value].bits, values[value].length); }
  TPC_INLINE void eight_values(const uint8_t* eight) {
    if (kRepeat > 1) {
      for (int i = 0; i < 8; ++i) value(eight[i]);
      return;
    }
    for (int half = 0; half < 8; half += 4) {
      const Code a = codes[eight[half]], b = codes[eight[half + 1]], c = codes[eight[half + 2]], d = codes[eight[half + 3]];
      const uint64_t ab = a.bits | uint64_t{b.bits} << a.length, cd = c.bits | uint64_t{d.bits} << c.length;
      const unsigned length_ab = a.length + b.length;
      out.put(ab | cd << length_ab, length_ab + c.length + d.length);
    }
  }
  TPC_INLINE void match(int length) {
    const Length& l = kLengths[length];
    const Code code = codes[l.symbol];
    // Then the extra bits, then one bit for the distance.
    out.put(code.bits | uint64_t{l.extra} << code.length, code.length + l.extra_bits + 1u);
  }

  BitWriter out;
  const Codes& codes;
  Repeated values[256];
};

template <int kRepeat>
struct Counter {
  TPC_INLINE void once(uint8_t value) { ++counts[value]; }
  TPC_INLINE void value(uint8_t value) { counts[value] += kRepeat; }
  TPC_INLINE void eight_values(const uint8_t* eight) {
    for (int i = 0; i < 8; ++i) value(eight[i]);
  }
  TPC_INLINE void match(int length) { ++counts[kLengths[length].symbol]; }

  Counts& counts;
};

template <typename Sink>
TPC_INLINE void send_zeros(int64_t bytes, Sink& sink) {
  if (bytes > kShortestMatch) {
    sink.once(0);
    --bytes;
    for (; bytes >= kLongestMatch; bytes -= kLongestMatch) sink.match(kLongestMatch);
    if (bytes >= kShortestMatch) {
      sink.match(static_cast<int>(bytes));
      bytes = 0;
    }
  }
  for (; bytes > 0; --bytes) sink.once(0);
}

// The head of the stream and of its only block, with the codes (RFC 1951, 3.2.7).
void put_head(const Codes& codes, BitWriter& out) {
  out.put(0x0178, 16);  // zlib: deflate, a window of 32 KiB, the fastest level
  out.put(0b101, 3);    // the last block, with codes of its own
  std::vector<uint8_t> lengths;
  for (const Code& code : codes) lengths.push_back(static_cast<uint8_t>(code.length));
  lengths.insert(lengths.end(), {1, 1});  // distances 1 and 2: one bit each, which makes the code complete

  struct Item {
    uint8_t symbol, extra_bits, extra;
  };
  std::vector<Item> items;
  std::array<uint32_t, 19> counts{};
  for (size_t i = 0; i < lengths.size();) {
    size_t run = 1;
    while (i + run < lengths.size() && lengths[i + run] == lengths[i] && run < 138) ++run;
    Item item{lengths[i], 0, 0};
    if (lengths[i] == 0 && run >= 11)
      item = {18, 7, static_cast<uint8_t>(run - 11)};
    else if (lengths[i] == 0 && run >= 3)
      item = {17, 3, static_cast<uint8_t>(run - 3)};
    else
      run = 1;
    items.push_back(item);
    ++counts[item.symbol];
    i += run;
  }
  const auto length_codes = huffman_codes(counts, 7);
  constexpr uint8_t kOrder[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
  out.put(kSymbols - 257, 5);
  out.put(2 - 1, 5);
  out.put(19 - 4, 4);
  for (const uint8_t symbol : kOrder) out.put(length_codes[symbol].length, 3);
  for (const Item& item : items) {
    out.put(length_codes[item.symbol]);
    out.put(item.extra, item.extra_bits);
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Scanlines

constexpr int kLanes = 64, kBlocks = 22;       // in 16 bits, 255 (22 + 21 + ... + 1) does not overflow
constexpr int64_t kPiece = kLanes * kBlocks;  // values that are filtered, summed and sent at a time
constexpr uint8_t kFilterNone = 0, kFilterUp = 2;

// RFC 1950: two sums modulo a prime, of the bytes and of the first sum.
struct Adler {
  static constexpr uint64_t kPrime = 65521;
  uint64_t a = 1, b = 0;

  // Up to kPiece values, each `repeat` times. `weighted` counts a value as often as there are values from it to the end.
  TPC_INLINE void add(const uint8_t* __restrict values, int64_t count, int repeat) {
    uint64_t sum = 0, weighted = 0;
    const int64_t blocks = count / kLanes;
    uint16_t first[kLanes] = {}, second[kLanes] = {};
    for (int64_t j = 0; j < blocks; ++j)
#pragma omp simd
      for (int l = 0; l < kLanes; ++l) {
        first[l] = static_cast<uint16_t>(first[l] + values[kLanes * j + l]);
        second[l] = static_cast<uint16_t>(second[l] + first[l]);
      }
    uint32_t lanes_sum = 0, lanes_weighted = 0;
#pragma omp simd reduction(+ : lanes_sum, lanes_weighted)
    for (int l = 0; l < kLanes; ++l) {
      lanes_sum += first[l];
      lanes_weighted += kLanes * uint32_t{second[l]} - static_cast<uint32_t>(l) * first[l];
    }
    const int64_t rest = count - kLanes * blocks;
    sum = lanes_sum;
    weighted = lanes_weighted + uint64_t{lanes_sum} * static_cast<uint64_t>(rest);
    for (int64_t i = 0; i < rest; ++i) {
      sum += values[kLanes * blocks + i];
      weighted += values[kLanes * blocks + i] * static_cast<uint64_t>(rest - i);
    }
    // The r copies of a value with n values to go, itself included, count r n, r n - 1 ... times: r^2 n - r (r - 1) / 2.
    const uint64_t r = static_cast<uint64_t>(repeat);
    b = (b + static_cast<uint64_t>(count) * r * a + weighted * r * r - sum * (r * (r - 1) / 2)) % kPrime;
    a = (a + sum * r) % kPrime;
  }
};

struct Picture {
  const uint8_t* values;
  int64_t height, row;
};

// Hands the rows, each less the one above, to `take(values, count, filter)`, piece by piece; `filter` is the byte that
// comes before the piece, or -1 inside a row.
template <typename Take>
TPC_INLINE void filtered_rows(const Picture& picture, int64_t step, Take take) {
  uint8_t piece[kPiece];
  for (int64_t y = 0; y < picture.height; y += step) {
    const uint8_t* row = picture.values + y * picture.row;
    // A black row as it is continues the zeros before it: its filter byte too is zero.
    const bool black = row[0] == 0 && std::memcmp(row, row + 1, static_cast<size_t>(picture.row - 1)) == 0;
    const uint8_t* above = y == 0 || black ? nullptr : row - picture.row;
    for (int64_t x = 0; x < picture.row; x += kPiece) {
      const int64_t count = std::min(kPiece, picture.row - x);
      if (above == nullptr) {
        std::memcpy(piece, row + x, static_cast<size_t>(count));
      } else {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) piece[i] = static_cast<uint8_t>(row[x + i] - above[x + i]);
      }
      take(piece, count, x > 0 ? -1 : above == nullptr ? kFilterNone : kFilterUp);
    }
  }
}

TPC_INLINE uint64_t load8(const uint8_t* values) {
  uint64_t eight;
  std::memcpy(&eight, values, 8);
  return eight;
}

// Values one by one, but zeros as runs: flat areas, and black where a warp did not reach. `zeros` counts the bytes of a
// run that may go on in the next piece.
template <int kRepeat, typename Sink>
TPC_INLINE void send_piece(const uint8_t* values, int64_t count, int filter, int64_t& zeros, Sink& sink) {
  if (filter == 0 && zeros > 0) {
    ++zeros;
  } else if (filter >= 0) {
    send_zeros(zeros, sink);
    zeros = 0;
    sink.once(static_cast<uint8_t>(filter));
  }
  for (int64_t i = 0; i < count;) {
    if (zeros > 0) {
      const int64_t start = i;
      while (i + 8 <= count && load8(values + i) == 0) i += 8;
      while (i < count && values[i] == 0) ++i;
      zeros += (i - start) * kRepeat;
      if (i == count) return;
      send_zeros(zeros, sink);
      zeros = 0;
    }
    for (; i + 8 <= count && load8(values + i) != 0; i += 8) sink.eight_values(values + i);
    if (i + 8 > count)
      for (; i < count && values[i] != 0; ++i) sink.value(values[i]);
    if (i < count) {  // at a zero
      zeros = kRepeat;
      ++i;
    }
  }
}

template <int kRepeat>
TPC_INLINE void count_body(const Picture& picture, int64_t step, Counts& counts) {
  Counter<kRepeat> counter{counts};
  filtered_rows(picture, step, [&](const uint8_t* values, int64_t count, int filter) TPC_ALWAYS_INLINE {
    int64_t zeros = 0;
    send_piece<kRepeat>(values, count, filter, zeros, counter);
    send_zeros(zeros, counter);
  });
}

template <int kRepeat>
TPC_INLINE void send_body(const Picture& picture, const Codes& codes, BitWriter& out, Adler& adler) {
  Adler sums;
  Writer<kRepeat> writer(out, codes);
  int64_t zeros = 0;
  filtered_rows(picture, 1, [&](const uint8_t* values, int64_t count, int filter) TPC_ALWAYS_INLINE {
    if (filter >= 0) {
      sums.a += static_cast<uint64_t>(filter);
      sums.b += sums.a;
    }
    sums.add(values, count, kRepeat);
    send_piece<kRepeat>(values, count, filter, zeros, writer);
  });
  send_zeros(zeros, writer);
  out = writer.out;
  adler = sums;
}

#define TPC_PNG_LEVEL(NAME, TARGET)                                                                            \
  TARGET void NAME(const Picture& picture, int repeat, const Codes& codes, BitWriter& out, Adler& adler) {     \
    repeat == 3 ? send_body<3>(picture, codes, out, adler) : send_body<1>(picture, codes, out, adler);         \
  }

TPC_PNG_LEVEL(send_baseline, )
#if TPC_X86
TPC_PNG_LEVEL(send_avx2, TPC_TARGET_AVX2)
TPC_PNG_LEVEL(send_avx512, TPC_TARGET_AVX512)
#endif

}  // namespace

int64_t deflated_bound(int64_t height, int64_t row, int repeat) {
  const int64_t bytes = height * (1 + row * repeat);
  return bytes + bytes / 2 + 1024;  // kLongest bits a byte, the codes, and what BitWriter writes ahead
}

int64_t deflate_picture(const uint8_t* pixels, int64_t height, int64_t row, int repeat, uint8_t* out) {
  const Picture picture{pixels, height, row};
  Counts counts;
  counts.fill(1);  // the codes come from a sample of the rows, but any byte may follow
  const int64_t step = std::max<int64_t>(height / kSampledRows, 1);
  repeat == 3 ? count_body<3>(picture, step, counts) : count_body<1>(picture, step, counts);
  const Codes codes = huffman_codes(counts, kLongest);
  BitWriter writer(out);
  put_head(codes, writer);
  const auto send = [] {
#if TPC_X86
    if (simd() == Simd::avx512) return send_avx512;
    if (simd() == Simd::avx2) return send_avx2;
#endif
    return send_baseline;
  }();
  Adler adler;
  send(picture, repeat, codes, writer, adler);
  writer.put(codes[kEndOfBlock]);
  uint8_t* last = writer.finish();
  for (const uint64_t sum : {adler.b, adler.a}) {
    *last++ = static_cast<uint8_t>(sum >> 8);
    *last++ = static_cast<uint8_t>(sum);
  }
  return last - out;
}

}  // namespace tpc
