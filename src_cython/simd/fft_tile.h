/* Fourier transforms of L columns at once, L = LANES(T), for one element type T (f32 or f64).
 *
 *   x[i][2][L]     row i of L columns: their real parts, then their imaginary parts; every lane is one column
 *
 *   T_fft          X[f(i)] = sum_j x[j] exp(-2*pi*sqrt(-1)*i*j/n), in place, in the order f that the passes leave
 *   T_fft_back     the inverse of T_fft times n, from that order
 *   T_fft_turn     out[j][p][i] = in[i][p][j]          i, j < L, p < 2: from lanes along one axis to the other
 *   T_fft_products sums[k][i] (+)= sum_c x[c][i] * conj(w[k][c][i])
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
#define FFT_LARGEST_RADIX 8
#define FFT_PAIR 2 /* results and rows of one register tile of products */
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

/* The butterflies of one j, in all blocks. `forward` and `twiddled` are constants, as is R. */
FFT_INLINE void PASTE(T, fft_column)(T* x, const T* end, ptrdiff_t length, const T* w, const int R, const int forward,
                                     const int twiddled) {
    const ptrdiff_t block = length * 2 * LANES(T), step = block / R;
    const ptrdiff_t real = forward ? 0 : LANES(T), imaginary = LANES(T) - real;
    for (; x < end; x += block) {
        V(T) re[8], im[8];
        _Pragma("GCC unroll 8") for (int k = 0; k < R; k++) {
            re[k] = *(const V(T)*)(x + k * step + real);
            im[k] = *(const V(T)*)(x + k * step + imaginary);
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
            *(V(T)*)(x + k * step + real) = re[k];
            *(V(T)*)(x + k * step + imaginary) = im[k];
        }
    }
}

FFT_INLINE void PASTE(T, fft_pass)(T* x, ptrdiff_t n, ptrdiff_t length, const T* w, const int R, const int forward) {
    const T* end = x + n * 2 * LANES(T);
    PASTE(T, fft_column)(x, end, length, w, R, forward, 0);
    for (ptrdiff_t j = 1; j < length / R; j++, w += 2 * (R - 1))
        PASTE(T, fft_column)(x + j * 2 * LANES(T), end, length, w, R, forward, 1);
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

static void PASTE(T, fft)(ptrdiff_t n, ptrdiff_t passes, const int64_t* radices, const T* twiddles, T* x) {
    ptrdiff_t length = n;
    for (ptrdiff_t pass = 0; pass < passes; pass++) {
        const ptrdiff_t radix = radices[pass];
        FFT_PASS(1);
        twiddles += (length / radix - 1) * (radix - 1) * 2;
        length /= radix;
    }
}

static void PASTE(T, fft_back)(ptrdiff_t n, ptrdiff_t passes, const int64_t* radices, const T* twiddles, T* x) {
    ptrdiff_t length = n;
    for (ptrdiff_t pass = 0; pass < passes; length /= radices[pass++])
        twiddles += (length / radices[pass] - 1) * (radices[pass] - 1) * 2;
    while (passes-- > 0) {
        const ptrdiff_t radix = radices[passes];
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

/* K results and FFT_PAIR rows in registers; sums may be x where C == 1 or K == 1. */
FFT_INLINE void PASTE(T, fft_products_of)(const int K, ptrdiff_t n, ptrdiff_t C, const T* x, ptrdiff_t source,
                                          const T* w, ptrdiff_t filter, T* sums, ptrdiff_t result, int more) {
    for (ptrdiff_t i = 0; i < n * 2 * LANES(T); i += FFT_PAIR * 2 * LANES(T)) {
        V(T) re[FFT_PAIR][FFT_PAIR], im[FFT_PAIR][FFT_PAIR];
        _Pragma("GCC unroll 2") for (int k = 0; k < K; k++)
            _Pragma("GCC unroll 2") for (int j = 0; j < FFT_PAIR; j++) {
            const T* from = sums + k * result + i + j * 2 * LANES(T);
            re[k][j] = more ? *(const V(T)*)from : (V(T)){0};
            im[k][j] = more ? *(const V(T)*)(from + LANES(T)) : (V(T)){0};
        }
        for (ptrdiff_t c = 0; c < C; c++)
            _Pragma("GCC unroll 2") for (int j = 0; j < FFT_PAIR; j++) {
                const T* at = x + c * source + i + j * 2 * LANES(T);
                const V(T) x_re = *(const V(T)*)at, x_im = *(const V(T)*)(at + LANES(T));
                _Pragma("GCC unroll 2") for (int k = 0; k < K; k++) {
                    const T* by = w + k * filter + c * source + i + j * 2 * LANES(T);
                    const V(T) w_re = *(const V(T)*)by, w_im = *(const V(T)*)(by + LANES(T));
                    re[k][j] += x_re * w_re;
                    im[k][j] += x_im * w_re;
                    re[k][j] += x_im * w_im;
                    im[k][j] -= x_re * w_im;
                }
            }
        _Pragma("GCC unroll 2") for (int k = 0; k < K; k++)
            _Pragma("GCC unroll 2") for (int j = 0; j < FFT_PAIR; j++) {
            T* to = sums + k * result + i + j * 2 * LANES(T);
            *(V(T)*)to = re[k][j];
            *(V(T)*)(to + LANES(T)) = im[k][j];
        }
    }
}

/* Sources are n rows apart in x and w. */
static void PASTE(T, fft_products)(ptrdiff_t n, ptrdiff_t K, ptrdiff_t C, const T* x, const T* w, ptrdiff_t filter,
                                   T* sums, ptrdiff_t result, int more) {
    const ptrdiff_t source = n * 2 * LANES(T);
    for (; K >= FFT_PAIR; K -= FFT_PAIR, w += FFT_PAIR * filter, sums += FFT_PAIR * result)
        PASTE(T, fft_products_of)(FFT_PAIR, n, C, x, source, w, filter, sums, result, more);
    if (K) PASTE(T, fft_products_of)(1, n, C, x, source, w, filter, sums, result, more);
}

/* y = x * scale + start, a vector */
static inline void PASTE(T, fft_put)(const T* x, T scale, T start, T* y) {
    *(V(T)*)y = *(const V(T)*)x * scale + start;
}
