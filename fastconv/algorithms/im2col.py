"""Window extraction, then one product of matrices: the textbook's fast convolution, a block of pixels at a time.

Forward: y = w cols; weight gradient: dw = dy cols^T; input gradient: cols = w^T dy, scattered back (col2im), which
needs no zeros between or around dy whatever the stride. Kernel: src_cython/gemm.pyx; this module chooses its block
sizes. (K. Chellapilla, S. Puri and P. Simard, High Performance Convolutional Neural Networks for Document
Processing, 2006.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv import machine
from fastconv.algorithms.common import PREFIX, Cost, add_up, grouped, scratch, sum_bound, up
from fastconv.problem import ConvProblem

NAME = "im2col"
SCOPE, ELEMENTWISE = "window", True

BLOCK_BYTES = 1 << 20  # of windows at a time
UNITS = 4  # at the least, where the problem is large enough, so that several workers have something to do
SUMS_BYTES = 1 << 20  # of a weight gradient in the making


def why_not(problem: ConvProblem) -> str | None:
    return None


def variant(problem: ConvProblem) -> str:
    return "col2im" if problem.direction == "input_grad" else "blocks of pixels"


def error_bound(problem: ConvProblem) -> float:
    return sum_bound(problem)


@dataclass(frozen=True)
class _Blocks:
    sizes: tuple[int, int, int, int]
    """Pixels (rows, columns), channels, pieces."""
    worker_bytes: int


def _blocks(problem: ConvProblem, kernel: Any) -> _Blocks:
    g, taps, item = problem.groups, problem.R * problem.S, problem.itemsize
    channels, filters = max(problem.C // g, 1), problem.K // g
    tile_m, tile_n = kernel.TILE_ROWS, kernel.TILE_BYTES // item
    plane = problem.P * problem.Q
    c = channels
    if problem.direction == "input_grad":
        # whole planes of dx belong to one unit: few enough channels that there are UNITS of them
        c = max(min(-(-channels * g * problem.N // UNITS), channels, -(-16 * tile_m // taps)), 1)
    elif problem.direction == "weight_grad":
        c = max(min(channels, SUMS_BYTES // (up(filters, tile_n) * taps * item)), 1)
    rows = c * taps
    pixels = max(BLOCK_BYTES // item // max(rows, filters), 2 * tile_n)
    if problem.direction == "forward":
        pixels = min(pixels, max(up(-(-plane * problem.N * g // UNITS), tile_n), 2 * tile_n))
    pixels = min(pixels, plane)
    q = min(problem.Q, pixels)
    p = min(max(pixels // q, 1), problem.P)
    width, panel = up(p * q, tile_n), kernel.DEPTH_BLOCK * tile_n
    pieces = 1
    if problem.direction == "forward":
        elements = panel + (rows + up(filters, tile_m)) * width
    elif problem.direction == "input_grad":
        elements = panel + (filters + up(rows, tile_m)) * width
    else:
        blocks = problem.N * -(-problem.P // p) * -(-problem.Q // q)
        pieces = max(min(blocks, UNITS // (g * -(-channels // c))), 1)
        height, wide = up(rows, tile_m), up(filters, tile_n)
        elements = panel + p * q * (rows + height + wide) + height * wide
    return _Blocks((p, q, c, pieces), up(elements * item, 64))


def _packed_elements(problem: ConvProblem, blocks: _Blocks, kernel: Any) -> int:
    g, taps, tile_m = problem.groups, problem.R * problem.S, kernel.TILE_ROWS
    if problem.direction == "forward":
        return g * up(problem.K // g, tile_m) * problem.C // g * taps
    c = blocks.sizes[2]
    return g * -(-(problem.C // g) // c) * up(c * taps, tile_m) * (problem.K // g)


def cost(problem: ConvProblem, isa: str) -> Cost:
    kernel = machine.kernels(isa).gemm
    blocks = _blocks(problem, kernel)
    p, q, c, pieces = blocks.sizes
    g, taps, item = problem.groups, problem.R * problem.S, problem.itemsize
    channels, filters = problem.C // g, problem.K // g
    tile_m, tile_n = kernel.TILE_ROWS, kernel.TILE_BYTES // item
    n_blocks = problem.N * -(-problem.P // p) * -(-problem.Q // q)
    c_blocks = -(-channels // c)
    if problem.direction == "weight_grad":
        pixels = problem.N * problem.P * problem.Q
        flops = 2 * g * c_blocks * up(c * taps, tile_m) * up(filters, tile_n) * pixels
        # single elements are moved when panels are packed against the grain: count them as several bytes each
        moved = pixels * g * (2 * channels * taps + 8 * (channels * taps + c_blocks * filters)) * item
        shared = (pieces if pieces > 1 else 0) * math.prod(problem.w_shape) * item
        return Cost(flops, moved, shared, blocks.worker_bytes, "gemm")
    pixels = n_blocks * up(p * q, tile_n)
    shared = _packed_elements(problem, blocks, kernel) * item
    if problem.direction == "forward":
        flops = 2 * g * up(filters, tile_m) * channels * taps * pixels
        moved = pixels * g * (3 * channels * taps + 3 * up(filters, tile_m)) * item
    else:
        flops = 2 * g * c_blocks * up(c * taps, tile_m) * filters * pixels
        moved = pixels * g * (4 * channels * taps + 3 * c_blocks * filters) * item
    return Cost(flops, moved + 8 * shared, shared, blocks.worker_bytes, "gemm")


@dataclass(frozen=True)
class _Tables:
    kernel: Any
    prefix: str
    geometry: tuple[int, ...]
    blocks: _Blocks
    rows: np.ndarray
    columns: np.ndarray


def prepare(problem: ConvProblem, isa: str) -> _Tables:
    kernel = machine.kernels(isa).gemm
    g = problem.groups
    geometry = (
        g, problem.C // g, problem.K // g, problem.H, problem.W, problem.R, problem.S, problem.P, problem.Q,
        problem.padding[0][0], problem.padding[1][0], *problem.stride, *problem.dilation,
    )  # fmt: skip
    prefix = PREFIX[problem.compute_dtype]
    return _Tables(kernel, prefix, geometry, _blocks(problem, kernel), problem.rows(), problem.columns())


def pack(plan: Any, w: np.ndarray) -> np.ndarray:
    tables, problem = plan.tables, plan.problem
    packed = np.zeros(_packed_elements(problem, tables.blocks, tables.kernel), w.dtype)
    transposed = problem.direction == "input_grad"
    block_c = tables.blocks.sizes[2]
    getattr(tables.kernel, tables.prefix + "_pack")(grouped(w, problem.groups), transposed, block_c, packed)
    return packed


def run(plan: Any, a: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    tables, problem = plan.tables, plan.problem
    blocks = tables.blocks
    kernel = getattr(tables.kernel, f"{tables.prefix}_{problem.direction}")
    with scratch(blocks.worker_bytes * workers) as memory:
        places = (tables.rows, tables.columns, memory, blocks.worker_bytes, workers)
        if problem.direction == "weight_grad":
            pieces = blocks.sizes[3]
            whole = pieces == 1 and out.flags.c_contiguous
            parts = out[None] if whole else np.empty((pieces, *out.shape), out.dtype)
            kernel(a, b, parts, problem.compute_cval, tables.geometry, blocks.sizes, *places)
            if not whole:
                add_up(parts, out)
            return
        packed = pack(plan, b) if b.ndim == 4 else b
        if problem.direction == "forward":
            kernel(a, packed, bias, out, problem.compute_cval, tables.geometry, blocks.sizes, *places)
        else:
            kernel(a, packed, bias, out, tables.geometry, blocks.sizes, *places)
