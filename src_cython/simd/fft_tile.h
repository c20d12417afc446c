/* Fourier transforms of L columns at once, L = LANES(T), for one element type T (f32 or f64).
 *
 *   x[i][2][L]     row i of L columns: their real parts, then their imaginary parts; every lane is one column
 *
 *   T_fft          y[f(i)] = sum_j x[j] exp(-2*pi*sqrt(-1)*i*j/n), in the order f that the passes leave; x is
 *                  destroyed; rows of y are `stride` apart (y = x, stride = 2L: in place)
 *   T_fft_back     x = the inverse of T_fft times n, of y in that order
 *   T_fft_turn     out[j][p][i] = in[i][p][j]          i, j < L, p < 2: from lanes along one axis to the other
 *   T_fft_products sums[j][a][b] (+)= sum_t x[j][t][a] * conj(w[j][t][b])     complex vectors, any strides
 *
 * Forward passes decimate in frequency (the twiddle factors follow the butterfly), backward passes in time (they
 * precede it), so that what one puts out of order the other takes from there, and nothing is ever sorted: products
 * don't care (W. Gentleman and G. Sande, Fast Fourier transforms for fun and profit, 1966). An inverse transform is a
 * forward one with real and imaginary parts exchanged. A pass over blocks of `length` rows with radix r takes the
 * rows j, j + m, ..., j + (r-1)*m of a block, m = length / r. `twiddles` holds exp(-2*pi*sqrt(-1)*j*q/length) as
 * (real, imaginary) by pass, j = 1..m-1, q = 1..r-1. Knows no convolution.
 */
#include "transpose.h"

#ifndef FASTCONV_FFT_TILE
#define FASTCONV_FFT_TILE
#define FFT_INLINE static inline __attribute__((always_inline))
#endif

/* dft_r: X_q = sum_k x_k exp(-2*pi*sqrt(-1)*k*q/r), in place. */

FFT_INLINE void PASTE(T, dft3)(V(T) * re, V(T) * im) {
    const T h = (T)0.86602540378443864676;
    const V(T) sum_re = re[1] + re[2], sum_im = im[1] + im[2];
    const V(T) dif_re = re[1] - re[2], dif_im = im[1] - im[2];
    const V(T) mid_re = re[0] - (T)0.5 * sum_re, mid_im = im[0] - (T)0.5 * sum_im;
    re[0] += sum_re, im[0] += sum_im;
    re[1] = mid_re + h * dif_im, im[1] = mid_im - h * dif_re;
    re[2] = mid_re - h * dif_im, im[2] = mid_im + h * dif_re;
}

FFT_INLINE void PASTE(T, dft4)(V(T) * re, V(T) * im) {
    const V(T) a_re = re[0] + re[2], a_im = im[0] + im[2], b_re = re[0] - re[2], b_im = im[0] - im[2];
    const V(T) c_re = re[1] + re[3], c_im = im[1] + im[3], d_re = re[1] - re[3], d_im = im[1] - im[3];
    re[0] = a_re + c_re, im[0] = a_im + c_im;
    re[1] = b_re + d_im, im[1] = b_im - d_re;
    re[2] = a_re - c_re, im[2] = a_im - c_im;
    re[3] = b_re - d_im, im[3] = b_im + d_re;
}

FFT_INLINE void PASTE(T, dft5)(V(T) * re, V(T) * im) {
    const T c1 = (T)0.30901699437494742410, c2 = (T)-0.80901699437494742410;
    const T s1 = (T)0.95105651629515357212, s2 = (T)0.58778525229247312917;
    const V(T) p_re = re[1] + re[4], p_im = im[1] + im[4], u_re = re[1] - re[4], u_im = im[1] - im[4];
    const V(T) q_re = re[2] + re[3], q_im = im[2] + im[3], v_re = re[2] - re[3], v_im = im[2] - im[3];
    const V(T) a_re = re[0] + c1 * p_re + c2 * q_re, a_im = im[0] + c1 * p_im + c2 * q_im;
    const V(T) b_re = re[0] + c2 * p_re + c1 * q_re, b_im = im[0] + c2 * p_im + c1 * q_im;
    const V(T) d_re = s1 * u_re + s2 * v_re, d_im = s1 * u_im + s2 * v_im;
    const V(T) e_re = s2 * u_re - s1 * v_re, e_im = s2 * u_im - s1 * v_im;
    re[0] += p_re + q_re, im[0] += p_im + q_im;
    re[1] = a_re + d_im, im[1] = a_im - d_re;
    re[2] = b_re + e_im, im[2] = b_im - e_re;
    re[3] = b_re - e_im, im[3] = b_im + e_re;
    re[4] = a_re - d_im, im[4] = a_im + d_re;
}

FFT_INLINE void PASTE(T, dft8)(V(T) * re, V(T) * im) {
    const T h = (T)0.70710678118654752440;
    V(T) even_re[4] = {re[0], re[2], re[4], re[6]}, even_im[4] = {im[0], im[2], im[4], im[6]};
    V(T) odd_re[4] = {re[1], re[3], re[5], re[7]}, odd_im[4] = {im[1], im[3], im[5], im[7]};
    PASTE(T, dft4)(even_re, even_im);
    PASTE(T, dft4)(odd_re, odd_im);
    const V(T) b_re = odd_re[1] + odd_im[1], b_im = odd_im[1] - odd_re[1]; /* times h: odd[1] * exp(-pi*i/4) */
    const V(T) d_re = odd_im[3] - odd_re[3], d_im = odd_re[3] + odd_im[3]; /* times h, -h: odd[3] * exp(-3*pi*i/4) */
    re[0] = even_re[0] + odd_re[0], im[0] = even_im[0] + odd_im[0];
    re[4] = even_re[0] - odd_re[0], im[4] = even_im[0] - odd_im[0];
    re[1] = even_re[1] + h * b_re, im[1] = even_im[1] + h * b_im;
    re[5] = even_re[1] - h * b_re, im[5] = even_im[1] - h * b_im;
    re[2] = even_re[2] + odd_im[2], im[2] = even_im[2] - odd_re[2];
    re[6] = even_re[2] - odd_im[2], im[6] = even_im[2] + odd_re[2];
    re[3] = even_re[3] + h * d_re, im[3] = even_im[3] - h * d_im;
    re[7] = even_re[3] - h * d_re, im[7] = even_im[3] + h * d_im;
}

/* x_q *= w_q for q = 1..R-1 */
FFT_INLINE void PASTE(T, twiddle)(V(T) * re, V(T) * im, const T* w, const int R) {
    _Pragma("GCC unroll 8") for (int q = 1; q < R; q++) {
        const T w_re = w[2 * q - 2], w_im = w[2 * q - 1];
        const V(T) x_re = re[q];
        re[q] = w_re * x_re - w_im * im[q];
        im[q] = w_re * im[q] + w_im * x_re;
    }
}

/* The butterflies of one j in all blocks, from x to y, whose rows are x_row and y_row apart. R, `forward` and
 * `twiddled` are constants. */
FFT_INLINE void PASTE(T, fft_column)(const T* x, ptrdiff_t x_row, T* y, ptrdiff_t y_row, ptrdiff_t blocks,
                                     ptrdiff_t length, const T* w, const int R, const int forward, const int twiddled) {
    const ptrdiff_t real = forward ? 0 : LANES(T), imaginary = LANES(T) - real;
    const ptrdiff_t x_step = length / R * x_row, y_step = length / R * y_row;
    for (; blocks > 0; blocks--, x += length * x_row, y += length * y_row) {
        V(T) re[8], im[8];
        _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) {
            re[k] = *(const V(T)*)(x + k * x_step + real);
            im[k] = *(const V(T)*)(x + k * x_step + imaginary);
        }
        if (twiddled && !forward) PASTE(T, twiddle)(re, im, w, R);
        if (R == 8)
            PASTE(T, dft8)(re, im);
        else if (R == 5)
            PASTE(T, dft5)(re, im);
        else if (R == 4)
            PASTE(T, dft4)(re, im);
        else
            PASTE(T, dft3)(re, im);
        if (twiddled && forward) PASTE(T, twiddle)(re, im, w, R);
        _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) {
            *(V(T)*)(y + k * y_step + real) = re[k];
            *(V(T)*)(y + k * y_step + imaginary) = im[k];
        }
    }
}

/* A pass with twiddle factors, in place. */
FFT_INLINE void PASTE(T, fft_pass)(T* x, ptrdiff_t n, ptrdiff_t length, const T* w, const int R, const int forward) {
    const ptrdiff_t row = 2 * LANES(T);
    PASTE(T, fft_column)(x, row, x, row, n / length, length, w, R, forward, 0);
    for (ptrdiff_t j = 1; j < length / R; j++, w += 2 * (R - 1))
        PASTE(T, fft_column)(x + j * row, row, x + j * row, row, n / length, length, w, R, forward, 1);
}

#define FFT_PASS(forward)                                              \
    if (radix == 8)                                                    \
        PASTE(T, fft_pass)(x, n, length, twiddles, 8, forward);        \
    else if (radix == 4)                                               \
        PASTE(T, fft_pass)(x, n, length, twiddles, 4, forward);        \
    else if (radix == 5)                                               \
        PASTE(T, fft_pass)(x, n, length, twiddles, 5, forward);        \
    else                                                               \
        PASTE(T, fft_pass)(x, n, length, twiddles, 3, forward)

/* The last radix is 4 or 8; its pass has no twiddle factors. */
static void PASTE(T, fft)(ptrdiff_t n, ptrdiff_t passes, const int64_t* radices, const T* twiddles, T* x, T* y,
                          ptrdiff_t stride) {
    ptrdiff_t length = n;
    for (ptrdiff_t pass = 0; pass < passes - 1; pass++) {
        const ptrdiff_t radix = radices[pass];
        FFT_PASS(1);
        twiddles += (length / radix - 1) * (radix - 1) * 2;
        length /= radix;
    }
    if (length == 8)
        PASTE(T, fft_column)(x, 2 * LANES(T), y, stride, n / 8, 8, twiddles, 8, 1, 0);
    else
        PASTE(T, fft_column)(x, 2 * LANES(T), y, stride, n / 4, 4, twiddles, 4, 1, 0);
}

static void PASTE(T, fft_back)(ptrdiff_t n, ptrdiff_t passes, const int64_t* radices, const T* twiddles, const T* y,
                               ptrdiff_t stride, T* x) {
    ptrdiff_t length = n;
    for (ptrdiff_t pass = 0; pass < passes - 1; length /= radices[pass++])
        twiddles += (length / radices[pass] - 1) * (radices[pass] - 1) * 2;
    if (length == 8)
        PASTE(T, fft_column)(y, stride, x, 2 * LANES(T), n / 8, 8, twiddles, 8, 0, 0);
    else
        PASTE(T, fft_column)(y, stride, x, 2 * LANES(T), n / 4, 4, twiddles, 4, 0, 0);
    while (passes-- > 1) {
        const ptrdiff_t radix = radices[passes - 1];
        twiddles -= (length - 1) * (radix - 1) * 2;
        length *= radix;
        FFT_PASS(0);
    }
}
#undef FFT_PASS

static void PASTE(T, fft_turn)(const T* in, T* out) {
    for (ptrdiff_t part = 0; part < 2 * LANES(T); part += LANES(T)) {
        V(T) v[PASTE__(LANES, T)];
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES(T); i++) v[i] = *(const V(T)*)(in + part + i * 2 * LANES(T));
        PASTE(T, transpose)(v);
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES(T); i++) *(V(T)*)(out + part + i * 2 * LANES(T)) = v[i];
    }
}

/* A x B of the sums of one j in registers, A and B constants. */
FFT_INLINE void PASTE(T, fft_product)(const int A, const int B, ptrdiff_t terms, const T* x, ptrdiff_t x_a,
                                      ptrdiff_t x_t, const T* w, ptrdiff_t w_b, ptrdiff_t w_t, T* sums, ptrdiff_t sum_a,
                                      ptrdiff_t sum_b, int more) {
    V(T) re[2][2], im[2][2];
    _Pragma("GCC unroll 2") for (int a = 0; a < A; a++)
        _Pragma("GCC unroll 2") for (int b = 0; b < B; b++) {
        const T* from = sums + a * sum_a + b * sum_b;
        re[a][b] = more ? *(const V(T)*)from : (V(T)){0};
        im[a][b] = more ? *(const V(T)*)(from + LANES(T)) : (V(T)){0};
    }
    for (; terms > 0; terms--, x += x_t, w += w_t)
        _Pragma("GCC unroll 2") for (int a = 0; a < A; a++) {
            const V(T) x_re = *(const V(T)*)(x + a * x_a), x_im = *(const V(T)*)(x + a * x_a + LANES(T));
            _Pragma("GCC unroll 2") for (int b = 0; b < B; b++) {
                const V(T) w_re = *(const V(T)*)(w + b * w_b), w_im = *(const V(T)*)(w + b * w_b + LANES(T));
                re[a][b] += x_re * w_re;
                im[a][b] += x_im * w_re;
                re[a][b] += x_im * w_im;
                im[a][b] -= x_re * w_im;
            }
        }
    _Pragma("GCC unroll 2") for (int a = 0; a < A; a++)
        _Pragma("GCC unroll 2") for (int b = 0; b < B; b++) {
        T* to = sums + a * sum_a + b * sum_b;
        *(V(T)*)to = re[a][b];
        *(V(T)*)(to + LANES(T)) = im[a][b];
    }
}

/* For all j < n and terms t; strides in complex vectors. The sums may lie where x does if A == B == terms == 1. */
static void PASTE(T, fft_products)(ptrdiff_t n, ptrdiff_t A, ptrdiff_t B, ptrdiff_t terms, const T* x, ptrdiff_t x_j,
                                   ptrdiff_t x_a, ptrdiff_t x_t, const T* w, ptrdiff_t w_j, ptrdiff_t w_b,
                                   ptrdiff_t w_t, T* sums, ptrdiff_t sum_j, ptrdiff_t sum_a, ptrdiff_t sum_b,
                                   int more) {
    const ptrdiff_t c = 2 * LANES(T);
    x_j *= c, x_a *= c, x_t *= c, w_j *= c, w_b *= c, w_t *= c, sum_j *= c, sum_a *= c, sum_b *= c;
    for (; n > 0; n--, x += x_j, w += w_j, sums += sum_j)
        for (ptrdiff_t b = 0; b < B; b += 2)
            for (ptrdiff_t a = 0; a < A; a += 2) {
                const T *xa = x + a * x_a, *wb = w + b * w_b;
                T* to = sums + a * sum_a + b * sum_b;
                if (a + 1 < A && b + 1 < B)
                    PASTE(T, fft_product)(2, 2, terms, xa, x_a, x_t, wb, w_b, w_t, to, sum_a, sum_b, more);
                else if (b + 1 < B)
                    PASTE(T, fft_product)(1, 2, terms, xa, x_a, x_t, wb, w_b, w_t, to, sum_a, sum_b, more);
                else if (a + 1 < A)
                    PASTE(T, fft_product)(2, 1, terms, xa, x_a, x_t, wb, w_b, w_t, to, sum_a, sum_b, more);
                else
                    PASTE(T, fft_product)(1, 1, terms, xa, x_a, x_t, wb, w_b, w_t, to, sum_a, sum_b, more);
            }
}

/* y = x * scale + start, a vector */
static inline void PASTE(T, fft_put)(const T* x, T scale, T start, T* y) {
    *(V(T)*)y = *(const V(T)*)x * scale + start;
}
