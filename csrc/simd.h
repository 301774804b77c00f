// One binary, several instruction sets: hot functions are compiled once per level by function attribute (a whole file
// compiled for AVX-512 would let the linker pick its copies of inline library code on older machines), and chosen at run time.
#pragma once

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define TPC_X86 1
#define TPC_TARGET_AVX2 __attribute__((target("avx2,fma,bmi2")))
#define TPC_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")))
#else
#define TPC_X86 0
#endif

// Bodies shared by the levels must be inlined into the function that carries the attribute.
#if defined(__GNUC__) || defined(__clang__)
#define TPC_ALWAYS_INLINE __attribute__((always_inline))
#else
#define TPC_ALWAYS_INLINE
#endif
#define TPC_INLINE inline TPC_ALWAYS_INLINE

namespace tpc {

enum class Simd { baseline = 0, avx2 = 1, avx512 = 2 };

Simd best_simd();             // what this processor can run
Simd simd();                  // what the operations use: the best one, unless another was forced
bool force_simd(Simd level);  // for tests and benchmarks; false if this processor cannot run it

}  // namespace tpc
