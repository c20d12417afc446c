/* The register tile of the matrix product, for one element type T (f32, f64 or u64).
 *
 *   T_gemm_tile     c[i][j] = start[i] + sum_k a[i][k] * b[k][j]       i < rows <= GEMM_M, j < vectors * LANES
 *                   c[i][j] += the same sum, if start is NULL
 *
 *   a   a panel of rows, GEMM_LDA apart           b   a panel of columns, GEMM_N side by side
 *       a00 a01 a02 ..                                k=0  b00 b01 b02 ..
 *       a10 a11 a12 ..                                k=1  b10 b11 b12 ..
 *   c   rows of consecutive elements, ld apart; not aliasing a or b.
 *
 * The accumulators fill the register file but for one row of b and one broadcast element of a. Rows of a are a constant
 * apart, so that one pointer reaches them all; they need not be interleaved, because a stays in the first cache while
 * panels of b pass by. There is one tile for each height, so a matrix can be cut into panels without a remainder.
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
#define GEMM_N(type) (GEMM_VECTORS * LANES(type))
#define GEMM_DEPTH_BYTES 1536                                                    /* of one row of a panel of a, at most */
#define GEMM_LDA(type) ((ptrdiff_t)((GEMM_DEPTH_BYTES + 64) / sizeof(type))) /* not a multiple of a page */

#define GEMM_EACH_ROW(M) _Pragma("GCC unroll 14") for (int i = 0; i < M; i++)
#define GEMM_EACH_VECTOR(N) _Pragma("GCC unroll 3") for (int j = 0; j < N; j++)
#define GEMM_TILE(T, M, N)                                                                            \
    {                                                                                                 \
        V(T) sum[M][N];                                                                               \
        GEMM_EACH_ROW(M) GEMM_EACH_VECTOR(N) sum[i][j] = (V(T)){0};                                   \
        for (ptrdiff_t k = 0; k < depth; k++) {                                                       \
            V(T) row[N];                                                                              \
            GEMM_EACH_VECTOR(N) row[j] = *(const V(T)*)(b + k * GEMM_N(T) + j * LANES(T));            \
            GEMM_EACH_ROW(M) GEMM_EACH_VECTOR(N) sum[i][j] += a[i * GEMM_LDA(T) + k] * row[j];        \
        }                                                                                             \
        if (start)                                                                                    \
            GEMM_EACH_ROW(M) GEMM_EACH_VECTOR(N) *(V(T)*)(c + i * ld + j * LANES(T)) = start[i] + sum[i][j]; \
        else                                                                                          \
            GEMM_EACH_ROW(M) GEMM_EACH_VECTOR(N) *(V(T)*)(c + i * ld + j * LANES(T)) += sum[i][j];    \
        return;                                                                                       \
    }
#if GEMM_VECTORS == 3
#define GEMM_HEIGHT(T, M)          \
    case M:                        \
        if (vectors == 1)          \
            GEMM_TILE(T, M, 1)     \
        if (vectors == 2)          \
            GEMM_TILE(T, M, 2)     \
        GEMM_TILE(T, M, 3)
#else
#define GEMM_HEIGHT(T, M)          \
    case M:                        \
        if (vectors == 1)          \
            GEMM_TILE(T, M, 1)     \
        GEMM_TILE(T, M, 2)
#endif
#endif

static void PASTE(T, gemm_tile)(ptrdiff_t rows, ptrdiff_t vectors, ptrdiff_t depth, const T* restrict a,
                                const T* restrict b, const T* restrict start, T* restrict c, ptrdiff_t ld) {
    for (ptrdiff_t i = 0; i < rows; i++) /* arrives while the sum is made */
        for (ptrdiff_t j = 0; j < vectors * VECTOR_BYTES; j += 64) __builtin_prefetch((char*)(c + i * ld) + j, 1);
    switch (rows) {
#if VECTOR_BYTES == 64
        GEMM_HEIGHT(T, 14) GEMM_HEIGHT(T, 13) GEMM_HEIGHT(T, 12) GEMM_HEIGHT(T, 11) GEMM_HEIGHT(T, 10) GEMM_HEIGHT(T, 9)
#endif
#if VECTOR_REGISTERS == 32
        GEMM_HEIGHT(T, 8) GEMM_HEIGHT(T, 7)
#endif
        GEMM_HEIGHT(T, 6) GEMM_HEIGHT(T, 5) GEMM_HEIGHT(T, 4) GEMM_HEIGHT(T, 3) GEMM_HEIGHT(T, 2) GEMM_HEIGHT(T, 1)
    }
}
