/* Vector types of the instruction set that this file is compiled for, through GCC/Clang vector extensions.
 *
 * V(f32), V(f64), V(u64): as many lanes as a register holds, loaded and stored at any alignment.
 * Only whole-vector arithmetic is used on them: one lane subscript makes GCC keep a whole tile in memory.
 * Knows no convolution. Included by the tiles, which are included once per element type.
 */
#ifndef FASTCONV_VECTOR_H
#define FASTCONV_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define VECTOR_REGISTERS 16
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 32
#else
#define VECTOR_BYTES 16
#define VECTOR_REGISTERS 16
#endif

typedef float f32;
typedef double f64;
typedef uint64_t u64; /* int64 modulo 2**64: additions and products never overflow */

typedef f32 f32_vector __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef f64 f64_vector __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
typedef u64 u64_vector __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
typedef uint32_t u32_vector __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
#define V(type) PASTE(type, vector)
#define LANES(type) ((ptrdiff_t)(VECTOR_BYTES / sizeof(type)))

/* Ask for the cache lines of `bytes` bytes. Any address will do: nothing is read. */
static inline void prefetch_lines(const void* start, ptrdiff_t bytes) {
    for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)start + i);
}

#endif
