#include "simd.h"

#include <atomic>

#if TPC_X86
#include <cpuid.h>
#endif

namespace tpc {
namespace {

#if TPC_X86
// Which of the processor's registers the system saves: the lower half of XCR0.
unsigned saved_registers() {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}
#endif

// By the instructions themselves (Intel's manual, volume 1, sections 14.3 and 15.2): __builtin_cpu_supports comes from
// a library of the compiler, and the one that Zig brings with clang says no to everything.
Simd detect() {
#if TPC_X86
  constexpr unsigned fma = 1u << 12, osxsave = 1u << 27;                  // leaf 1, ecx
  constexpr unsigned avx2 = 1u << 5 | 1u << 8;                            // leaf 7, ebx: avx2, bmi2
  constexpr unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // f, dq, bw, vl
  constexpr unsigned ymm = 1u << 1 | 1u << 2, zmm = 1u << 5 | 1u << 6 | 1u << 7;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (fma | osxsave)) != (fma | osxsave)) return Simd::baseline;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & avx2) != avx2) return Simd::baseline;
  const unsigned saved = saved_registers();
  if ((saved & ymm) != ymm) return Simd::baseline;
#if defined(__APPLE__)
  const bool wide = true;  // macOS begins to save these at their first use
#else
  const bool wide = (saved & zmm) == zmm;
#endif
  return wide && (b & avx512) == avx512 ? Simd::avx512 : Simd::avx2;
#else
  return Simd::baseline;
#endif
}

std::atomic<int> g_forced{-1};

}  // namespace

Simd best_simd() {
  static const Simd best = detect();
  return best;
}

Simd simd() {
  const int forced = g_forced.load(std::memory_order_relaxed);
  return forced < 0 ? best_simd() : static_cast<Simd>(forced);
}

bool force_simd(Simd level) {
  if (level > best_simd()) return false;
  g_forced.store(static_cast<int>(level));
  return true;
}

}  // namespace tpc
