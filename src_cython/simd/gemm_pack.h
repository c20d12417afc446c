/* What packing is made of, for one element type T: copies of short rows, and transposition. Knows no convolution.
 *
 *   T_copy          out[i] = in[i]
 *   T_copy_every_2  out[i] = in[2*i]
 *   T_copy_runs     out[k][i] = in[offsets[k] + i*step]
 *   T_add           out[i] += in[i]
 *   T_put_every_2   out[2*i] = in[i], or += in[i]; what lies between is read and written back
 *   T_transpose     out[j][i] = in[i][j], in whole blocks of 4x4: both extents are rounded up, in and out must reach
 *                   that far
 *
 * The last vector of a row overlaps the one before it, so nothing beyond either end is touched and rows need no
 * remainder loop.
 */
#include "vector.h"

#ifndef PACK_4
#define PACK_4(type) PASTE(type, 4)
#define PACK_8(type) PASTE(type, 8)
typedef f32 f32_4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef f64 f64_4 __attribute__((vector_size(32), aligned(8), may_alias));
typedef u64 u64_4 __attribute__((vector_size(32), aligned(8), may_alias));
typedef f32 f32_8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef f64 f64_8 __attribute__((vector_size(64), aligned(8), may_alias));
typedef u64 u64_8 __attribute__((vector_size(64), aligned(8), may_alias));
#endif

#ifndef PACK_PREFETCH
#define PACK_PREFETCH
/* Bytes that will be read soon: other rows of a matrix lie too far apart for the processor to foresee. */
static inline void prefetch(const void* start, ptrdiff_t bytes) {
    for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)start + i);
}
#endif

static inline void PASTE(T, copy)(const T* in, ptrdiff_t n, T* out) {
    if (n >= 8) {
        for (ptrdiff_t i = 0; i < n - 8; i += 8) *(PACK_8(T)*)(out + i) = *(const PACK_8(T)*)(in + i);
        *(PACK_8(T)*)(out + n - 8) = *(const PACK_8(T)*)(in + n - 8);
    } else if (n >= 4) {
        *(PACK_4(T)*)out = *(const PACK_4(T)*)in;
        *(PACK_4(T)*)(out + n - 4) = *(const PACK_4(T)*)(in + n - 4);
    } else
        for (ptrdiff_t i = 0; i < n; i++) out[i] = in[i];
}

static inline void PASTE(T, copy_every_2)(const T* in, ptrdiff_t n, T* out) {
    if (n < 8) {
        for (ptrdiff_t i = 0; i < n; i++) out[i] = in[2 * i];
        return;
    }
    for (ptrdiff_t i = 0;; i = i + 8 < n - 8 ? i + 8 : n - 8) {
        const PACK_8(T) low = *(const PACK_8(T)*)(in + 2 * i), high = *(const PACK_8(T)*)(in + 2 * i + 7);
        *(PACK_8(T)*)(out + i) = __builtin_shufflevector(low, high, 0, 2, 4, 6, 9, 11, 13, 15);
        if (i == n - 8) return;
    }
}

static inline void PASTE(T, add)(const T* in, ptrdiff_t n, T* out) {
    ptrdiff_t i = 0;
    for (; i + 16 < n; i += 8) *(PACK_8(T)*)(out + i) += *(const PACK_8(T)*)(in + i);
    if (n - i >= 8) { /* both vectors are read before either is written: they may overlap */
        const PACK_8(T) low = *(PACK_8(T)*)(out + i) + *(const PACK_8(T)*)(in + i);
        const PACK_8(T) high = *(PACK_8(T)*)(out + n - 8) + *(const PACK_8(T)*)(in + n - 8);
        *(PACK_8(T)*)(out + i) = low;
        *(PACK_8(T)*)(out + n - 8) = high;
    } else
        for (; i < n; i++) out[i] += in[i];
}

static inline void PASTE(T, put_every_2)(const T* in, ptrdiff_t n, T* out, int add) {
    ptrdiff_t i = 0;
    for (; i + 8 < n; i += 8) { /* the last element has no neighbour */
        const PACK_8(T) low = *(PACK_8(T)*)(out + 2 * i), high = *(PACK_8(T)*)(out + 2 * i + 8);
        PACK_8(T) v = *(const PACK_8(T)*)(in + i);
        if (add) v += __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14);
        *(PACK_8(T)*)(out + 2 * i) = __builtin_shufflevector(low, v, 8, 1, 9, 3, 10, 5, 11, 7);
        *(PACK_8(T)*)(out + 2 * i + 8) = __builtin_shufflevector(high, v, 12, 1, 13, 3, 14, 5, 15, 7);
    }
    for (; i < n; i++) out[2 * i] = in[i] + (add ? out[2 * i] : 0);
}

static void PASTE(T, copy_runs)(const T* in, const ptrdiff_t* offsets, ptrdiff_t count, ptrdiff_t step, ptrdiff_t n,
                                T* out, ptrdiff_t ld) {
    if (step == 1 && n >= 8)
        for (ptrdiff_t k = 0; k < count; k++) {
            const T* from = in + offsets[k];
            T* to = out + k * ld;
            if (n >= 64 && k + 2 < count) prefetch(in + offsets[k + 2], n * sizeof(T));
            for (ptrdiff_t i = 0; i < n - 8; i += 8) *(PACK_8(T)*)(to + i) = *(const PACK_8(T)*)(from + i);
            *(PACK_8(T)*)(to + n - 8) = *(const PACK_8(T)*)(from + n - 8);
        }
    else if (step == 1 && n >= 4)
        for (ptrdiff_t k = 0; k < count; k++) {
            *(PACK_4(T)*)(out + k * ld) = *(const PACK_4(T)*)(in + offsets[k]);
            *(PACK_4(T)*)(out + k * ld + n - 4) = *(const PACK_4(T)*)(in + offsets[k] + n - 4);
        }
    else if (step == 2)
        for (ptrdiff_t k = 0; k < count; k++) PASTE(T, copy_every_2)(in + offsets[k], n, out + k * ld);
    else
        for (ptrdiff_t i = 0; i < n; i++)
            for (ptrdiff_t k = 0; k < count; k++) out[k * ld + i] = in[offsets[k] + i * step];
}

static void PASTE(T, transpose)(const T* restrict in, ptrdiff_t ld_in, ptrdiff_t rows, ptrdiff_t columns,
                                T* restrict out, ptrdiff_t ld_out) {
    for (ptrdiff_t j = 0; j < columns; j += 4)
        for (ptrdiff_t i = 0; i < rows; i += 4) {
            const T* from = in + i * ld_in + j;
            T* to = out + j * ld_out + i;
            const PACK_4(T) a = *(const PACK_4(T)*)from, b = *(const PACK_4(T)*)(from + ld_in),
                            c = *(const PACK_4(T)*)(from + 2 * ld_in), d = *(const PACK_4(T)*)(from + 3 * ld_in);
            const PACK_4(T) ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7),
                            cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            *(PACK_4(T)*)to = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
            *(PACK_4(T)*)(to + ld_out) = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
            *(PACK_4(T)*)(to + 2 * ld_out) = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
            *(PACK_4(T)*)(to + 3 * ld_out) = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
        }
}
