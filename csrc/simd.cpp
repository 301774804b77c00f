#include "simd.h"

#include <atomic>

namespace tpc {
namespace {

Simd detect() {
#if TPC_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      return Simd::avx512;
    return Simd::avx2;
  }
#endif
  return Simd::baseline;
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
