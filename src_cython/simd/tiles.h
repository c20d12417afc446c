/* Every tile, for every element type. What the kernel modules include. */
#ifndef FASTCONV_TILES_H
#define FASTCONV_TILES_H

#define T f32
#include "direct_tile.h"
#include "gemm_tile.h"
#include "transpose.h"
#include "gemm_pack.h"
#include "convert.h"
#include "separable_tile.h"
#undef T
#define T f64
#include "direct_tile.h"
#include "gemm_tile.h"
#include "transpose.h"
#include "gemm_pack.h"
#include "convert.h"
#include "separable_tile.h"
#undef T
#define T u64
#include "direct_tile.h"
#include "gemm_tile.h"
#include "transpose.h"
#include "gemm_pack.h"
#include "convert.h"
#include "separable_tile.h"
#undef T

#endif
