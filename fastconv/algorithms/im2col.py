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
from fastconv.algorithms.common import PREFIX, Cost, grouped, scratch, sum_bound, up
from fastconv.problem import ConvProblem

NAME = "im2col"
SCOPE, ELEMENTWISE = "window", True

BLOCK_BYTES = 1 << 20  # of windows at a time
PACKING = 0.25  # of the time that machine.Rates.bandwidth reckons: rows are copied whole
RUN_BYTES = 320  # that could be moved while a row is begun
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
    sizes: tuple[int, int, int]
    """Pixels (rows, columns), channels."""
    cols_bytes: int
    worker_bytes: int


def _blocks(problem: ConvProblem, kernel: Any) -> _Blocks:
    g, taps, item = problem.groups, problem.R * problem.S, problem.itemsize
    channels, filters = problem.C // g, problem.K // g
    tile_m, tile_n = kernel.TILE_ROWS, kernel.TILE_BYTES // item
    plane = problem.P * problem.Q
    c = channels
    if problem.direction == "input_grad":
        # whole planes of dx belong to one unit: few enough channels that there are UNITS of them
        c = max(min(-(-channels * g * problem.N // UNITS), channels, -(-16 * tile_m // taps)), 1)
    elif problem.direction == "weight_grad":
        c = max(min(-(-channels * g // UNITS), SUMS_BYTES // (filters * taps * item)), 1)
    rows = c * taps
    pixels = max(BLOCK_BYTES // item // max(rows, filters), 2 * tile_n)
    if problem.direction == "forward":
        pixels = min(pixels, max(up(-(-plane * problem.N * g // UNITS), tile_n), 2 * tile_n))
    pixels = min(pixels, plane)
    q = min(problem.Q, pixels)
    p = min(max(pixels // q, 1), problem.P)
    lanes, depth = {
        "forward": (p * q, rows),
        "input_grad": (p * q, filters),
        "weight_grad": (filters, p * q),
    }[problem.direction]
    depth = min(up(depth, 16), kernel.DEPTH_BYTES // item)
    cols_bytes = up(rows * p * q * item, 64)
    return _Blocks((p, q, c), cols_bytes, cols_bytes + kernel.PANEL_BYTES + up(lanes, tile_n) * (depth | 1) * item)


def cost(problem: ConvProblem, isa: str) -> Cost:
    kernel = machine.kernels(isa).gemm
    blocks = _blocks(problem, kernel)
    p, q, c = blocks.sizes
    g, taps, item = problem.groups, problem.R * problem.S, problem.itemsize
    channels, filters = problem.C // g, problem.K // g
    tile_n = kernel.TILE_BYTES // item
    n_blocks = problem.N * -(-problem.P // p) * -(-problem.Q // q)
    if problem.direction == "weight_grad":
        done = up(filters, tile_n) * problem.N * problem.P * problem.Q
    else:
        done = filters * n_blocks * up(p * q, tile_n)
    moved = problem.N * problem.P * problem.Q * g * (4 * channels * taps + 3 * -(-channels // c) * filters) * item
    moved += RUN_BYTES * problem.N * problem.P * problem.C * taps
    moved += (3 if problem.direction == "forward" else 8) * math.prod(problem.w_shape) * item
    return Cost(2 * g * channels * taps * done, PACKING * moved, 0, blocks.worker_bytes, "gemm")


@dataclass(frozen=True)
class _Tables:
    kernel: Any
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
    entry = getattr(kernel, f"{PREFIX[problem.compute_dtype]}_{problem.direction}")
    return _Tables(entry, geometry, _blocks(problem, kernel), problem.rows(), problem.columns())


def pack(plan: Any, w: np.ndarray) -> np.ndarray:
    return w.copy()  # the product packs what it needs as it goes


def run(plan: Any, a: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
    tables, problem = plan.tables, plan.problem
    blocks, groups = tables.blocks, problem.groups
    with scratch(blocks.worker_bytes * workers) as memory:
        sizes = (tables.geometry, blocks.sizes, tables.rows, tables.columns)
        room = (memory, blocks.cols_bytes, blocks.worker_bytes, workers)
        if problem.direction == "forward":
            tables.kernel(a, grouped(b, groups), bias, out, problem.compute_cval, *sizes, *room)
        elif problem.direction == "input_grad":
            tables.kernel(a, grouped(b, groups), bias, out, *sizes, *room)
        else:
            tables.kernel(a, b, grouped(out, groups), problem.compute_cval, *sizes, *room)
