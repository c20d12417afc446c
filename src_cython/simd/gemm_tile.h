/* The register tile of the matrix product, for one element type T (f32, f64 or u64).
 *
 *   T_gemm_tile        c[i][j] += sum_k a[k][i] * b[k][j]        i < GEMM_M, j < GEMM_N
 *
 *   a   one panel of GEMM_M rows, packed:      a[k*GEMM_M + i]       b   one panel of GEMM_N columns: b[k*GEMM_N + j]
 *       k=0  a00 a10 a20 ..                                              k=0  b00 b01 b02 ..
 *       k=1  a01 a11 a21 ..                                              k=1  b10 b11 b12 ..
 *   c   GEMM_M rows of GEMM_N consecutive elements, row stride ld; not aliasing a or b.
 *
 * The accumulators fill the register file but for one vector row of b and one broadcast element of a.
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
#endif

static void PASTE(T, gemm_tile)(ptrdiff_t depth, const T* restrict a, const T* restrict b, T* restrict c, ptrdiff_t ld) {
    V(T) sum[GEMM_M][GEMM_VECTORS];
    _Pragma("GCC unroll 14") for (int i = 0; i < GEMM_M; i++)
        _Pragma("GCC unroll 3") for (int j = 0; j < GEMM_VECTORS; j++)
            sum[i][j] = (V(T)){0};
    for (ptrdiff_t k = 0; k < depth; k++) {
        V(T) row[GEMM_VECTORS];
        _Pragma("GCC unroll 3") for (int j = 0; j < GEMM_VECTORS; j++)
            row[j] = *(const V(T)*)(b + k * GEMM_N(T) + j * LANES(T));
        _Pragma("GCC unroll 14") for (int i = 0; i < GEMM_M; i++)
            _Pragma("GCC unroll 3") for (int j = 0; j < GEMM_VECTORS; j++)
                sum[i][j] += a[k * GEMM_M + i] * row[j];
    }
    _Pragma("GCC unroll 14") for (int i = 0; i < GEMM_M; i++)
        _Pragma("GCC unroll 3") for (int j = 0; j < GEMM_VECTORS; j++)
            *(V(T)*)(c + i * ld + j * LANES(T)) += sum[i][j];
}
