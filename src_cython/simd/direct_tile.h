/* Register tiles of the direct method, for one element type T (f32, f64 or u64). No boundary, stride or shape:
 * src_cython/direct.pyx lays the image out so that every filter tap is one offset (see its picture).
 *
 *   T_direct_tile   y[k*ld + at[i].y] = start[k] + sum_t w[t][k] * x[taps[t] + at[i].x]      k < filters
 *                   or += the sum, if start is NULL; one vector for each i < positions. The last tile reads places
 *                   beyond these, up to DIRECT_MOST, that repeat the last one
 *   T_direct_dots   dot[k][t] += sum_i dy[k*ld + at[i].y] * x[taps[t] + at[i].x]      k < filters, t < DIRECT_U(filters)
 *                   lane by lane; i < whole, and of the lanes of the mask alone i < positions
 *
 * K filters x DIRECT_U(K) vectors of sums stay in registers while all taps pass by: each vector of x that is loaded
 * meets K weights, and each weight as many vectors. So do the dot products of K filters by as many taps.
 */
#include "vector.h"

#ifndef DIRECT_K
#define DIRECT_K (VECTOR_REGISTERS == 32 ? 8 : 4) /* filters of one tile, at the most */
#define DIRECT_AHEAD 256 /* bytes, from where a tile stores to where lines are asked for: large results come from memory */
#define DIRECT_MOST 8                             /* vectors of one filter, at the most: each has a pointer */
#if VECTOR_REGISTERS == 32
#define DIRECT_EACH(TILE) TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8)
#else
#define DIRECT_EACH(TILE) TILE(1) TILE(2) TILE(3) TILE(4)
#endif
/* Registers beside the sums and a vector of x for each column of them: a weight, and its product if it isn't fused. */
#if VECTOR_REGISTERS == 32 || defined(__FMA__)
#define DIRECT_REST 1
#else
#define DIRECT_REST 2
#endif
#define DIRECT_FIT(K) ((VECTOR_REGISTERS - DIRECT_REST) / (K + 1))
#define DIRECT_U(K) (DIRECT_FIT(K) < DIRECT_MOST ? DIRECT_FIT(K) : DIRECT_MOST)
#define DIRECT_FOR(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < n; i++)

#define DIRECT_TILE(FILTERS)                                                                               \
    case FILTERS: {                                                                                        \
        enum { K = FILTERS, U = DIRECT_U(FILTERS) };                                                       \
        for (ptrdiff_t i = 0; i < positions; i += U) {                                                     \
            V(T) sum[K][U], v[U];                                                                          \
            ptrdiff_t from[U];                                                                             \
            T* to[U];                                                                                      \
            DIRECT_FOR(u, U) from[u] = at[2 * (i + u)];                                                    \
            DIRECT_FOR(u, U) to[u] = y + at[2 * (i + u) + 1];                                              \
            DIRECT_FOR(k, K) DIRECT_FOR(u, U) __builtin_prefetch(to[u] + k * ld + DIRECT_AHEAD / sizeof(T), 1); \
            DIRECT_FOR(k, K) DIRECT_FOR(u, U) {                                                            \
                if (start) sum[k][u] = start[k] - (V(T)){0};                                               \
                else sum[k][u] = *(const V(T)*)(to[u] + k * ld);                                           \
            }                                                                                              \
            for (ptrdiff_t t = 0; t < ntaps; t++) {                                                        \
                const T* x_tap = x + taps[t];                                                              \
                DIRECT_FOR(u, U) v[u] = *(const V(T)*)(x_tap + from[u]);                                   \
                DIRECT_FOR(k, K) DIRECT_FOR(u, U) sum[k][u] += w[t * K + k] * v[u];                        \
            }                                                                                              \
            DIRECT_FOR(k, K) DIRECT_FOR(u, U) *(V(T)*)(to[u] + k * ld) = sum[k][u];                        \
        }                                                                                                  \
        break;                                                                                             \
    }

/* The tile has no register left for the mask: so the compiler must not know that it is the same each time. */
static inline const u32_vector* in_memory(const u32_vector* mask) {
    __asm__ volatile("" : "+r"(mask));
    return mask;
}
#define DIRECT_WHOLE(v) (v)
#define DIRECT_LANES(v) (V(T))(*(const u32_vector*)&(v) & *in_memory(lanes))

#define DIRECT_DOT(MASK)                                                                                   \
    {                                                                                                      \
        const T *x_at = x + at[2 * i], *dy_at = dy + at[2 * i + 1];                                        \
        DIRECT_FOR(u, U) v[u] = MASK(*(const V(T)*)(x_at + taps[u]));                                      \
        DIRECT_FOR(k, K) {                                                                                 \
            const V(T) d = MASK(*(const V(T)*)(dy_at + k * ld));                                           \
            DIRECT_FOR(u, U) sum[k][u] += d * v[u];                                                        \
        }                                                                                                  \
    }

#define DIRECT_DOTS(FILTERS)                                                                               \
    case FILTERS: {                                                                                        \
        enum { K = FILTERS, U = DIRECT_U(FILTERS) };                                                       \
        V(T) sum[K][U], v[U];                                                                              \
        ptrdiff_t i = 0;                                                                                   \
        DIRECT_FOR(k, K) DIRECT_FOR(u, U) sum[k][u] = *(const V(T)*)(dot + (k * U + u) * LANES(T));        \
        for (; i < whole; i++) DIRECT_DOT(DIRECT_WHOLE)                                                    \
        for (; i < positions; i++) DIRECT_DOT(DIRECT_LANES)                                                \
        DIRECT_FOR(k, K) DIRECT_FOR(u, U) *(V(T)*)(dot + (k * U + u) * LANES(T)) = sum[k][u];              \
        break;                                                                                             \
    }
#endif

static void PASTE(T, direct_tile)(int filters, const T* x, const ptrdiff_t* taps, ptrdiff_t ntaps, const T* w,
                                  const T* start, T* y, ptrdiff_t ld, const ptrdiff_t* at, ptrdiff_t positions) {
    switch (filters) { DIRECT_EACH(DIRECT_TILE) }
}

static void PASTE(T, direct_dots)(int filters, const T* x, const ptrdiff_t* taps, const T* dy, ptrdiff_t ld,
                                  const ptrdiff_t* at, ptrdiff_t whole, ptrdiff_t positions, const T* mask, T* dot) {
    const u32_vector* lanes = (const u32_vector*)mask;
    switch (filters) { DIRECT_EACH(DIRECT_DOTS) }
}
