// One binary, several instruction sets: hot functions are compiled once per level by function attribute (a whole file
// compiled for AVX-512 would let the linker pick its copies of inline library code on older machines), and chosen at run time.
//
// All that is not standard C++17 is asked for here; a compiler without it gets plain loops. TPC_PLAIN asks for nothing.
#pragma once

// Levels above the baseline need attributes of functions, which MSVC lacks; GCC for Windows aligns no stack for them.
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__) && !defined(_WIN32) && !defined(TPC_PLAIN)
#define TPC_X86 1
#define TPC_TARGET_AVX2 __attribute__((target("avx2,fma,bmi2")))
#define TPC_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2")))
#else
#define TPC_X86 0
#endif

// What every x86-64 and every 64-bit ARM processor has, as intrinsics.
#if (defined(__SSE2__) || defined(_M_X64)) && !defined(_M_ARM64EC) && !defined(TPC_PLAIN)
#define TPC_SSE2 1
#else
#define TPC_SSE2 0
#endif
#if defined(__aarch64__) && defined(__ARM_NEON) && !defined(TPC_PLAIN)
#define TPC_NEON 1
#else
#define TPC_NEON 0
#endif

// Bodies shared by the levels must be inlined into the function that carries the attribute.
#if defined(__GNUC__)
#define TPC_ALWAYS_INLINE __attribute__((always_inline))
#define TPC_INLINE inline TPC_ALWAYS_INLINE
#elif defined(_MSC_VER)
#define TPC_ALWAYS_INLINE
#define TPC_INLINE __forceinline
#else
#define TPC_ALWAYS_INLINE
#define TPC_INLINE inline
#endif

#if defined(__BYTE_ORDER__)
#define TPC_LITTLE_ENDIAN (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
#else  // MSVC, whose targets all are
#define TPC_LITTLE_ENDIAN 1
#endif

namespace tpc {

enum class Simd { baseline = 0, avx2 = 1, avx512 = 2 };

Simd best_simd();             // what this processor can run
Simd simd();                  // what the operations use: the best one, unless another was forced
bool force_simd(Simd level);  // for tests and benchmarks; false if this processor cannot run it

}  // namespace tpc
