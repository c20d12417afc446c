/* What packing is made of, for one element type T: copies of rows into panels, and transposition. Knows no convolution.
 *
 *   T_copy          out[i] = in[i]
 *   T_copy_padded   out = before times value, in, after times value
 *   T_copy_every_2  out[i] = in[2*i]
 *   T_add           out[i] += in[i]
 *   T_finite        are all in[i] finite?
 *   T_put_every_2   out[2*i] = in[i], or += in[i]; what lies between is read and written back
 *   T_zip_row       out[2*i] = even[i], i < evens; out[2*i + 1] = odd[i], i < odds; evens == odds or odds + 1
 *   T_copy_runs     panels[(lane + i) / GEMM_N][k][(lane + i) % GEMM_N] = in[offsets[k] + i*step]     k < count, i < n
 *   T_transpose_rows   out[to[j] + i] = in[offsets[i] + j]     i < rows, j < columns; rows are rounded up to whole
 *                   vectors with zeros, and out must reach that far; what lies before `end` may be read, if it isn't
 *                   NULL; offsets[rows ..] are `next` rows that will be read soon
 *   T_put_turned    out[j*ld + i] = in[i][j] + bias[j], or += in[i][j] if bias is NULL      i < rows, j < lanes; rows of
 *                   in are GEMM_N apart, and as many as make whole vectors may be read
 *
 * The last vector of a row overlaps the one before it, so nothing beyond either end is touched and rows need no
 * remainder loop. After gemm_tile.h and transpose.h.
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

#define AHEAD 256 /* bytes, from where a row is read to where its next part is asked for */

/* Bytes that will be read, or written, soon: rows that lie too far apart for the processor to foresee. */
static inline void prefetch(const void* start, ptrdiff_t bytes) {
    for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)start + i);
}
static inline void prefetch_to_write(const void* start, ptrdiff_t bytes) {
    for (ptrdiff_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)start + i, 1);
    __builtin_prefetch((const char*)start + bytes - 1, 1);
}
#endif

static inline __attribute__((always_inline)) void PASTE(T, copy)(const T* in, ptrdiff_t n, T* out) {
    if (n >= 8) {
        for (ptrdiff_t i = 0; i < n - 8; i += 8) *(PACK_8(T)*)(out + i) = *(const PACK_8(T)*)(in + i);
        *(PACK_8(T)*)(out + n - 8) = *(const PACK_8(T)*)(in + n - 8);
    } else if (n >= 4) {
        *(PACK_4(T)*)out = *(const PACK_4(T)*)in;
        *(PACK_4(T)*)(out + n - 4) = *(const PACK_4(T)*)(in + n - 4);
    } else
        for (ptrdiff_t i = 0; i < n; i++) out[i] = in[i];
}

static inline void PASTE(T, copy_padded)(const T* in, ptrdiff_t before, ptrdiff_t n, ptrdiff_t after, T value, T* out) {
    const ptrdiff_t width = before + n + after;
    if (before <= 8 && after <= 8 && width >= 8) { /* what is written too much, the copy writes again */
        *(PACK_8(T)*)out = value + (PACK_8(T)){0};
        *(PACK_8(T)*)(out + width - 8) = value + (PACK_8(T)){0};
    } else {
        for (ptrdiff_t i = 0; i < before; i++) out[i] = value;
        for (ptrdiff_t i = before + n; i < width; i++) out[i] = value;
    }
    PASTE(T, copy)(in, n, out + before);
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

static int PASTE(T, finite)(const T* in, ptrdiff_t n) {
    V(T) sums[8]; /* of products with zero: NaN where one is */
    T rest[8 * PASTE__(LANES, T)] = {0};
    ptrdiff_t i = 0;
    _Pragma("GCC unroll 8") for (int j = 0; j < 8; j++) sums[j] = (V(T)){0};
    for (; i + 8 * LANES(T) <= n; i += 8 * LANES(T))
        _Pragma("GCC unroll 8") for (int j = 0; j < 8; j++) sums[j] += *(const V(T)*)(in + i + j * LANES(T)) * 0;
    _Pragma("GCC unroll 8") for (int j = 0; j < 8; j++) *(V(T)*)(rest + j * LANES(T)) = sums[j];
    for (; i < n; i++) rest[0] += in[i] * 0;
    for (int j = 1; j < 8 * LANES(T); j++) rest[0] += rest[j];
    return rest[0] == 0;
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

static inline void PASTE(T, zip_row)(const T* even, ptrdiff_t evens, const T* odd, ptrdiff_t odds, T* out) {
    if (odds >= 8)
        for (ptrdiff_t i = 0;; i = i + 8 < odds - 8 ? i + 8 : odds - 8) {
            const PACK_8(T) a = *(const PACK_8(T)*)(even + i), b = *(const PACK_8(T)*)(odd + i);
            *(PACK_8(T)*)(out + 2 * i) = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
            *(PACK_8(T)*)(out + 2 * i + 8) = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
            if (i == odds - 8) break;
        }
    else
        for (ptrdiff_t i = 0; i < odds; i++) out[2 * i] = even[i], out[2 * i + 1] = odd[i];
    if (evens > odds) out[2 * odds] = even[odds];
}

static inline __attribute__((always_inline)) void PASTE(T, copy_strided)(const T* in, ptrdiff_t step, ptrdiff_t n, T* out) {
    if (step == 1)
        PASTE(T, copy)(in, n, out);
    else if (step == 2)
        PASTE(T, copy_every_2)(in, n, out);
    else
        for (ptrdiff_t i = 0; i < n; i++) out[i] = in[i * step];
}

static void PASTE(T, copy_runs)(const T* in, const ptrdiff_t* offsets, ptrdiff_t count, ptrdiff_t step, ptrdiff_t n,
                                ptrdiff_t lane, ptrdiff_t depth, T* panels) {
    panels += lane / GEMM_N(T) * depth * GEMM_N(T);
    lane %= GEMM_N(T);
    if (lane + n <= GEMM_N(T)) /* within one panel: the same few vectors each time */
        for (ptrdiff_t k = 0; k < count; k++)
            PASTE(T, copy_strided)(in + offsets[k], step, n, panels + k * GEMM_N(T) + lane);
    else
        for (ptrdiff_t k = 0; k < count; k++) { /* a run is read from end to end: the processor foresees that */
            const T* from = in + offsets[k];
            T* to = panels + k * GEMM_N(T) + lane;
            if (k + 6 < count) prefetch(in + offsets[k + 6], n * step * (ptrdiff_t)sizeof(T));
            ptrdiff_t rest = n;
            if (lane > 0) {
                PASTE(T, copy_strided)(from, step, GEMM_N(T) - lane, to);
                from += (GEMM_N(T) - lane) * step, to += depth * GEMM_N(T) - lane, rest -= GEMM_N(T) - lane;
            }
            for (; rest >= GEMM_N(T); rest -= GEMM_N(T), from += GEMM_N(T) * step, to += depth * GEMM_N(T))
                if (step == 1)
                    memcpy(to, from, GEMM_N(T) * sizeof(T));
                else
                    PASTE(T, copy_strided)(from, step, GEMM_N(T), to);
            if (rest) PASTE(T, copy_strided)(from, step, rest, to);
        }
}

static void PASTE(T, transpose_rows)(const T* restrict in, const ptrdiff_t* offsets, ptrdiff_t rows, ptrdiff_t next,
                                     ptrdiff_t columns, const T* end, T* restrict out, const ptrdiff_t* to) {
    const ptrdiff_t ahead = AHEAD / (ptrdiff_t)sizeof(T);
    /* Two vectors of rows, whose columns make whole lines; one where all rows fall on the same few sets of a cache. */
    const ptrdiff_t apart = rows > 1 ? (offsets[1] - offsets[0]) * (ptrdiff_t)sizeof(T) : 1;
    const ptrdiff_t some = apart % 4096 == 0 ? LANES(T) : 2 * LANES(T);
    for (ptrdiff_t i = 0; i < rows; i += some) {
        const T* row[2 * PASTE__(LANES, T)];
        for (ptrdiff_t l = 0; l < some; l++) row[l] = in + offsets[i + l < rows ? i + l : i];
        for (ptrdiff_t j = 0; j < columns; j += LANES(T)) {
            if (j > 0 && columns - j <= 2) { /* a block for one or two columns would cost more */
                for (; j < columns; j++)
                    for (ptrdiff_t l = 0; l < some && i + l / LANES(T) * LANES(T) < rows; l++)
                        out[to[j] + i + l] = i + l < rows ? row[l][j] : 0;
                break;
            }
            if (columns - j < LANES(T) && columns >= LANES(T)) j = columns - LANES(T); /* the last block overlaps */
            const ptrdiff_t width = columns - j < LANES(T) ? columns - j : LANES(T);
            if (j + ahead < columns)
                for (ptrdiff_t l = 0; l < some; l++) __builtin_prefetch(row[l] + j + ahead);
            else if (columns >= ahead / 4)
                for (ptrdiff_t l = i + some; l < i + 2 * some && l < rows + next; l++)
                    __builtin_prefetch(in + offsets[l] + (columns < ahead ? j : j + ahead - columns));
            for (ptrdiff_t i1 = i; i1 < i + some && i1 < rows; i1 += LANES(T)) {
                const T* const* first = row + (i1 - i);
                const ptrdiff_t height = rows - i1;
                V(T) v[PASTE__(LANES, T)];
                if (height >= LANES(T) && width == LANES(T))
                    _Pragma("GCC unroll 16") for (int l = 0; l < LANES(T); l++) v[l] = *(const V(T)*)(first[l] + j);
                else
                    for (ptrdiff_t l = 0; l < LANES(T); l++) {
                        T rest[PASTE__(LANES, T)] = {0};
                        if (l >= height)
                            v[l] = (V(T)){0};
                        else if (width == LANES(T) || end - (first[l] + j) >= LANES(T))
                            v[l] = *(const V(T)*)(first[l] + j);
                        else {
                            for (ptrdiff_t k = 0; k < width; k++) rest[k] = first[l][j + k];
                            v[l] = *(const V(T)*)rest;
                        }
                    }
                PASTE(T, transpose)(v);
                if (width == LANES(T))
                    _Pragma("GCC unroll 16") for (int l = 0; l < LANES(T); l++) *(V(T)*)(out + to[j + l] + i1) = v[l];
                else
                    for (ptrdiff_t l = 0; l < width; l++) *(V(T)*)(out + to[j + l] + i1) = v[l];
            }
        }
    }
}

static void PASTE(T, put_turned)(const T* restrict in, ptrdiff_t rows, ptrdiff_t lanes, const T* bias, T* restrict out,
                                 ptrdiff_t ld) {
    V(T) v[PASTE__(LANES, T)];
    for (ptrdiff_t j = 0; j < lanes; j += LANES(T)) {
        const ptrdiff_t width = lanes - j < LANES(T) ? lanes - j : LANES(T);
        for (ptrdiff_t i = 0; i < rows; i += LANES(T)) {
            _Pragma("GCC unroll 16") for (int l = 0; l < LANES(T); l++)
                v[l] = *(const V(T)*)(in + (i + l) * GEMM_N(T) + j);
            PASTE(T, transpose)(v);
            if (bias)
                for (ptrdiff_t l = 0; l < width; l++) v[l] += bias[j + l];
            for (ptrdiff_t l = 0; l < width; l++) {
                T* to = out + (j + l) * ld + i;
                T rest[PASTE__(LANES, T)];
                if (rows - i >= LANES(T)) {
                    if (!bias) v[l] += *(V(T)*)to;
                    *(V(T)*)to = v[l];
                    continue;
                }
                *(V(T)*)rest = v[l];
                if (bias)
                    PASTE(T, copy)(rest, rows - i, to);
                else
                    PASTE(T, add)(rest, rows - i, to);
            }
        }
    }
}
