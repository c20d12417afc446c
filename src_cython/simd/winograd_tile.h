/* Transforms and products of minimal filtering F(m, r) with POINTS points, m + r - 1 = POINTS, for an element type T
 * (f32 or f64); lanes are channels. (S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray,
 * Fast Algorithms for Convolutional Neural Networks, 2016.)
 *
 *   y = A^T [ (G g) * (B^T d) ]     in one dimension; in two, each transform is applied to columns, then rows
 *
 * The points are 0, +-p_0, +-p_1, .., infinity; 0 is none of an odd number. Every pair +-p shares an even and an odd part:
 *
 *   input     N_i(x) = x (x + p_i) prod_{j != i} (x^2 - p_j^2):  row +-p_i = even(d) +- p_i odd(d), with the coefficients
 *             q_i of prod_{j != i} (y - p_j^2); rows 0 and infinity take those of the whole product, Q
 *   filter    row +-p_i = (g_0 + p^2 g_2 + .. +- p (g_1 + ..)) / (2 p^2 q_i(p^2)); 0: g_0 / Q_0; infinity: g_{r-1}
 *   output    y_k = [k = 0] m_0 + sum_i p_i^k (m_{+i} + (-1)^k m_{-i}) + [k = m-1] m_infinity
 *
 * Without 0, one x goes from N_i, so the parts change places, and one p from the filter's row; row -p_i of the input, and of
 * the filter, is that times -1.
 *
 * With these points the coefficients of input and output transforms are exact binary fractions, and the error of six
 * points is about twice that of a direct sum (points +-1, +-2: four times); that of five is smaller.
 *
 * A filter with a tap less than F(m, r) has is 0 at infinity; what its transform leaves there is not for use.
 */
#include "vector.h"

#define WINO(name) PASTE(T, PASTE__WINO(POINTS, name))
#define PASTE__WINO(points, name) PASTE_WINO_(points, name)
#define PASTE_WINO_(points, name) wino##points##_##name
#define PAIRS ((POINTS - 1) / 2)
#define ZERO (POINTS % 2 == 0) /* is 0 a point? Then the first pair comes after it. */

#ifndef FASTCONV_POINTS
#define FASTCONV_POINTS
static const double wino4_p[1] = {1};
static const double wino4_q[1][1] = {{1}};
static const double wino4_whole[2] = {-1, 1};
#define A5 0.375
#define B5 1.25
static const double wino5_p[2] = {A5, B5};
static const double wino5_q[2][2] = {{-B5 * B5, 1}, {-A5 * A5, 1}};
static const double wino5_whole[3] = {A5 * A5 * B5 * B5, -(A5 * A5 + B5 * B5), 1};
#define A6 0.625
#define B6 1.5
static const double wino6_p[2] = {A6, B6};
static const double wino6_q[2][2] = {{-B6 * B6, 1}, {-A6 * A6, 1}};
static const double wino6_whole[3] = {A6 * A6 * B6 * B6, -(A6 * A6 + B6 * B6), 1};
#define A8 0.5
#define B8 1.0
#define C8 2.0
static const double wino8_p[3] = {A8, B8, C8};
static const double wino8_q[3][3] = {{B8 * B8 * C8 * C8, -(B8 * B8 + C8 * C8), 1},
                                     {A8 * A8 * C8 * C8, -(A8 * A8 + C8 * C8), 1},
                                     {A8 * A8 * B8 * B8, -(A8 * A8 + B8 * B8), 1}};
static const double wino8_whole[4] = {-A8 * A8 * B8 * B8 * C8 * C8,
                                      A8 * A8 * B8 * B8 + A8 * A8 * C8 * C8 + B8 * B8 * C8 * C8,
                                      -(A8 * A8 + B8 * B8 + C8 * C8), 1};
#define WINO_TABLE(name) PASTE__WINO(POINTS, name)
#define INLINE static inline __attribute__((always_inline))
#endif

/* --- one dimension: `step` vectors apart --------------------------------------------------------------------------- */

INLINE void WINO(input_1d)(const V(T) * d, ptrdiff_t step, V(T) * v, ptrdiff_t to) {
    V(T) zero = d[0] * (T)WINO_TABLE(whole)[0], infinity = d[ZERO * step] * (T)WINO_TABLE(whole)[0];
    _Pragma("GCC unroll 4") for (int k = 1; k <= PAIRS; k++) {
        zero += d[2 * k * step] * (T)WINO_TABLE(whole)[k];
        infinity += d[(2 * k + ZERO) * step] * (T)WINO_TABLE(whole)[k];
    }
    if (ZERO) v[0] = zero;
    v[(POINTS - 1) * to] = infinity;
    _Pragma("GCC unroll 3") for (int i = 0; i < PAIRS; i++) {
        V(T) low = d[ZERO * step] * (T)WINO_TABLE(q)[i][0], high = d[(1 + ZERO) * step] * (T)WINO_TABLE(q)[i][0];
        _Pragma("GCC unroll 3") for (int k = 1; k < PAIRS; k++) {
            low += d[(2 * k + ZERO) * step] * (T)WINO_TABLE(q)[i][k];
            high += d[(2 * k + 1 + ZERO) * step] * (T)WINO_TABLE(q)[i][k];
        }
        low *= (T)WINO_TABLE(p)[i];
        v[(2 * i + ZERO) * to] = high + low;
        v[(2 * i + 1 + ZERO) * to] = ZERO ? high - low : low - high;
    }
}

INLINE void WINO(filter_1d)(const V(T) * g, ptrdiff_t step, int taps, V(T) * u, ptrdiff_t to) {
    if (ZERO) u[0] = g[0] * (T)(1 / WINO_TABLE(whole)[0]);
    u[(POINTS - 1) * to] = g[(taps - 1) * step];
    _Pragma("GCC unroll 3") for (int i = 0; i < PAIRS; i++) {
        const double p = WINO_TABLE(p)[i];
        double scale = 0, power = 1;
        _Pragma("GCC unroll 3") for (int k = 0; k < PAIRS; k++) {
            scale += WINO_TABLE(q)[i][k] * power;
            power *= p * p;
        }
        scale = 1 / (2 * p * (ZERO ? p : 1) * scale);
        V(T) even = g[0] * (T)scale, odd = {0};
        if (taps > 1) odd = g[step] * (T)(scale * p);
        power = p * p;
        _Pragma("GCC unroll 6") for (int k = 2; k < taps; k++) {
            if (k % 2)
                odd += g[k * step] * (T)(scale * power * p);
            else
                even += g[k * step] * (T)(scale * power);
            if (k % 2) power *= p * p;
        }
        u[(2 * i + ZERO) * to] = even + odd;
        u[(2 * i + 1 + ZERO) * to] = even - odd;
    }
}

INLINE void WINO(output_1d)(const V(T) * m, ptrdiff_t step, int outputs, V(T) * y, ptrdiff_t to) {
    V(T) sum[PAIRS], difference[PAIRS];
    double power[PAIRS];
    _Pragma("GCC unroll 3") for (int i = 0; i < PAIRS; i++) {
        sum[i] = m[(2 * i + ZERO) * step] + m[(2 * i + 1 + ZERO) * step];
        difference[i] = m[(2 * i + ZERO) * step] - m[(2 * i + 1 + ZERO) * step];
        power[i] = 1;
    }
    _Pragma("GCC unroll 6") for (int k = 0; k < outputs; k++) {
        const int first = k == 0 && ZERO, last = k == outputs - 1;
        V(T) total = first ? m[0] : last ? m[(POINTS - 1) * step] : (V(T)){0};
        _Pragma("GCC unroll 3") for (int i = 0; i < PAIRS; i++) {
            const V(T) part = k % 2 ? difference[i] : sum[i];
            if (i == 0 && !first && !last)
                total = part * (T)power[i];
            else
                total += part * (T)power[i];
            power[i] *= WINO_TABLE(p)[i];
        }
        y[k * to] = total;
    }
}

/* --- two dimensions ------------------------------------------------------------------------------------------------ */

/* d: POINTS rows of POINTS vectors, `row` elements apart; v: POINTS*POINTS vectors, `frequency` elements apart. */
static void WINO(input)(const T* d, ptrdiff_t row, T* v, ptrdiff_t frequency) {
    V(T) half[POINTS * POINTS];
    for (int j = 0; j < POINTS; j++) /* columns: half[i][j] */
        WINO(input_1d)((const V(T)*)(d + j * LANES(T)), row / LANES(T), half + j, POINTS);
    for (int i = 0; i < POINTS; i++) WINO(input_1d)(half + i * POINTS, 1, (V(T)*)(v + i * POINTS * frequency), frequency / LANES(T));
}

/* g: R x S vectors, (r, s) at g + r*row + s*column. Also the transform of dy tiles in the weight gradient. */
#define WINO_FILTER(R, S)                                                                                            \
    static void WINO(filter_##R##S)(const T* g, ptrdiff_t row, ptrdiff_t column, T* u, ptrdiff_t frequency) {        \
        V(T) half[POINTS * S];                                                                                       \
        for (int j = 0; j < S; j++)                                                                                  \
            WINO(filter_1d)((const V(T)*)(g + j * column), row / LANES(T), R, half + j, S);                          \
        for (int i = 0; i < POINTS; i++)                                                                             \
            WINO(filter_1d)(half + i * S, 1, S, (V(T)*)(u + i * POINTS * frequency), frequency / LANES(T));          \
    }

/* y: outputs x outputs vectors, (p, q) at y + p*row + q*column; start is added to each. zeros += 0 * y, so they remain
 * zeros while all of y is finite, and sums of it are. */
#define WINO_OUTPUT(outputs)                                                                                         \
    static void WINO(output_##outputs)(const T* m, ptrdiff_t frequency, const T* start, T* zeros, T* y,              \
                                       ptrdiff_t row, ptrdiff_t column) {                                            \
        V(T) half[outputs * POINTS], line[outputs], sum = {0};                                                       \
        const V(T) bias = *(const V(T)*)start;                                                                       \
        for (int j = 0; j < POINTS; j++)                                                                             \
            WINO(output_1d)((const V(T)*)(m + j * frequency), POINTS * frequency / LANES(T), outputs, half + j, POINTS); \
        for (int i = 0; i < outputs; i++) {                                                                          \
            WINO(output_1d)(half + i * POINTS, 1, outputs, line, 1);                                                 \
            for (int j = 0; j < outputs; j++) {                                                                      \
                const V(T) pixel = line[j] + bias;                                                                   \
                *(V(T)*)(y + i * row + j * column) = pixel;                                                          \
                sum += pixel;                                                                                        \
            }                                                                                                        \
        }                                                                                                            \
        *(V(T)*)zeros += sum * 0;                                                                                    \
    }

/* Filters of r taps give m outputs and, in a weight gradient, tiles of m by m of dy give r by r. At a stride of 2 a
 * filter is four, of the even and the odd taps of each axis. */
#if POINTS == 4
#define EACH(filter, output) filter(2, 2) filter(3, 3) output(2) output(3)
#elif POINTS == 5
#define EACH(filter, output) filter(2, 2) filter(2, 1) filter(1, 2) filter(1, 1) output(4)
#elif POINTS == 6
#define EACH(filter, output)                                                                                         \
    filter(2, 2) filter(2, 3) filter(3, 2) filter(3, 3) filter(4, 4) filter(5, 5) output(2) output(3) output(4) output(5)
#else
#define EACH(filter, output) filter(3, 3) filter(4, 4) filter(5, 5) filter(6, 6) output(3) output(4) output(5) output(6)
#endif
EACH(WINO_FILTER, WINO_OUTPUT)
#undef EACH

#undef WINO_FILTER
#undef WINO_OUTPUT
#undef PAIRS
#undef ZERO
#undef WINO
