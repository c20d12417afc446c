/* The transforms of tiles for both floating-point types. What src_cython/fft.pyx includes. */
#ifndef FASTCONV_FFT_H
#define FASTCONV_FFT_H

#define T f32
#include "fft_tile.h"
#undef T
#define T f64
#include "fft_tile.h"
#undef T

#endif
