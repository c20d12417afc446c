/* The register tile of the matrix product, for one element type T (f32, f64 or u64).
 *
 *   T_gemm_tile     c[to[i] + j] = start[i] + sum_k a[rows[i] + steps[k]] * b[k][j]     i < height <= GEMM_M
 *                   c[to[i] + j] += the same sum, if start is NULL                      j < width units of GEMM_UNIT bytes
 *
 *   a   read where it lies: any matrix whose elements' places are the sum of an offset of the row, rows[i], and an
 *       offset of the depth, steps[k]
 *   b   a panel of columns, GEMM_N side by side          k=0  b00 b01 b02 ..
 *                                                        k=1  b10 b11 b12 ..
 *   c   rows of consecutive elements, wherever each begins; not aliasing a or b. Their lines are asked for before the
 *       sums begin, so that they are there when the sums are done.
 *
 * The accumulators fill the register file but for one row of b and one broadcast element of a. An element of a is used
 * for a whole row of b, so it may cost two loads, its row's offset and itself, and still leave the multiply-adds
 * waiting for nothing; so a need not be copied into another order. There is one tile for each height and width, so a
 * matrix can be cut without remainders; a unit is half a vector where that costs half the time.
 * Knows no convolution. (K. Goto and R. van de Geijn, Anatomy of high-performance matrix multiplication, 2008.)
 */
#include "vector.h"

#ifndef GEMM_M
#if VECTOR_REGISTERS == 32
#define GEMM_M (VECTOR_BYTES == 64 ? 14 : 8)
#define GEMM_VECTORS (VECTOR_BYTES == 64 ? 2 : 3)
#else
#define GEMM_M 6
#define GEMM_VECTORS 2
#endif
#define GEMM_UNIT (VECTOR_BYTES == 64 ? 32 : VECTOR_BYTES)
#define GEMM_N(type) (GEMM_VECTORS * LANES(type))
#define GEMM_GROUP (VECTOR_BYTES == 64 ? 112 : 96) /* rows: a multiple of GEMM_M and of every vector's lanes */
#define GEMM_DEPTH_BYTES 4608 /* of one row of a, in one block of the depth, at most */

#define UNIT(type) PASTE(type, unit)
typedef f32 f32_unit __attribute__((vector_size(GEMM_UNIT), aligned(4), may_alias));
typedef f64 f64_unit __attribute__((vector_size(GEMM_UNIT), aligned(8), may_alias));
typedef u64 u64_unit __attribute__((vector_size(GEMM_UNIT), aligned(8), may_alias));

#define GEMM_EACH_ROW(M) _Pragma("GCC unroll 14") for (int i = 0; i < M; i++)
#define GEMM_EACH_VECTOR(N) _Pragma("GCC unroll 3") for (int j = 0; j < N; j++)
#define GEMM_EACH(T, M, N, H, vector_c, unit_c)                       \
    GEMM_EACH_ROW(M) {                                                \
        T* row = c + to[i];                                            \
        GEMM_EACH_VECTOR(N) {                                         \
            V(T)* at = (V(T)*)(row + j * LANES(T));                   \
            *at = vector_c;                                           \
        }                                                             \
        GEMM_EACH_VECTOR(H) {                                         \
            UNIT(T)* at = (UNIT(T)*)(row + N * LANES(T));             \
            *at = unit_c;                                             \
        }                                                             \
    }
#define GEMM_TILE(T, M, N, H) /* N vectors and H units wide */                                            \
    {                                                                                                     \
        V(T) sum[M][N];                                                                                   \
        UNIT(T) rest[M][H];                                                                               \
        GEMM_EACH_ROW(M) {                                                                                \
            __builtin_prefetch(c + to[i], 1);                                                             \
            __builtin_prefetch(c + to[i] + N * LANES(T) + H * GEMM_UNIT / sizeof(T) - 1, 1);              \
            GEMM_EACH_VECTOR(N) sum[i][j] = (V(T)){0};                                                    \
            GEMM_EACH_VECTOR(H) rest[i][j] = (UNIT(T)){0};                                                \
        }                                                                                                 \
        for (ptrdiff_t k = 0; k < depth; k++) {                                                           \
            V(T) row[N];                                                                                  \
            UNIT(T) last[H];                                                                              \
            const T* at = a + steps[k];                                                                   \
            GEMM_EACH_VECTOR(N) row[j] = *(const V(T)*)(b + k * GEMM_N(T) + j * LANES(T));                \
            GEMM_EACH_VECTOR(H) last[j] = *(const UNIT(T)*)(b + k * GEMM_N(T) + N * LANES(T));            \
            GEMM_EACH_ROW(M) {                                                                            \
                const T factor = at[rows[i]];                                                             \
                GEMM_EACH_VECTOR(N) sum[i][j] += factor * row[j];                                         \
                GEMM_EACH_VECTOR(H) rest[i][j] += factor * last[j];                                       \
            }                                                                                             \
        }                                                                                                 \
        if (start)                                                                                        \
            GEMM_EACH(T, M, N, H, start[i] + sum[i][j], start[i] + rest[i][j])                            \
        else                                                                                              \
            GEMM_EACH(T, M, N, H, *at + sum[i][j], *at + rest[i][j])                                      \
        return;                                                                                           \
    }
#if VECTOR_BYTES == 64
#define GEMM_HEIGHT(T, M)             \
    case M:                           \
        if (width == 1)               \
            GEMM_TILE(T, M, 0, 1)     \
        if (width == 2)               \
            GEMM_TILE(T, M, 1, 0)     \
        if (width == 3)               \
            GEMM_TILE(T, M, 1, 1)     \
        GEMM_TILE(T, M, 2, 0)
#elif GEMM_VECTORS == 3
#define GEMM_HEIGHT(T, M)             \
    case M:                           \
        if (width == 1)               \
            GEMM_TILE(T, M, 1, 0)     \
        if (width == 2)               \
            GEMM_TILE(T, M, 2, 0)     \
        GEMM_TILE(T, M, 3, 0)
#else
#define GEMM_HEIGHT(T, M)             \
    case M:                           \
        if (width == 1)               \
            GEMM_TILE(T, M, 1, 0)     \
        GEMM_TILE(T, M, 2, 0)
#endif
#endif

static void PASTE(T, gemm_tile)(ptrdiff_t height, ptrdiff_t width, ptrdiff_t depth, const T* restrict a,
                                const ptrdiff_t* restrict rows, const ptrdiff_t* restrict steps, const T* restrict b,
                                const T* restrict start, T* restrict c, const ptrdiff_t* restrict to) {
    switch (height) {
#if VECTOR_BYTES == 64
        GEMM_HEIGHT(T, 14) GEMM_HEIGHT(T, 13) GEMM_HEIGHT(T, 12) GEMM_HEIGHT(T, 11) GEMM_HEIGHT(T, 10) GEMM_HEIGHT(T, 9)
#endif
#if VECTOR_REGISTERS == 32
        GEMM_HEIGHT(T, 8) GEMM_HEIGHT(T, 7)
#endif
        GEMM_HEIGHT(T, 6) GEMM_HEIGHT(T, 5) GEMM_HEIGHT(T, 4) GEMM_HEIGHT(T, 3) GEMM_HEIGHT(T, 2) GEMM_HEIGHT(T, 1)
    }
}
