"""Pooling and its gradients; im2col, col2im and the other views and copies of windows. Rates are bytes in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from measure import Run, parametrize
from peers import Windows, loops, numpy_windows, scikit_windows, torch_windows
from workloads import random

import fastconv as fc

GEOMETRIES = {
    "3x3 stride 2, 8x64x112x112": Windows((8, 64, 112, 112), 3, 2, 1),
    "2x2 stride 2, 64x8x28x28": Windows((64, 8, 28, 28), 2, 2),
    "3x3, 2x64x56x56": Windows((2, 64, 56, 56), 3, 1, 1),
}
POOLING = ("max", "max gradient", "average", "average gradient")
MATRICES = ("im2col", "col2im")
OTHERS: dict[str, tuple[str, Callable[..., Callable[..., Any]]]] = {
    "NumPy slices": ("numpy", numpy_windows),
    "view_as_windows": ("skimage", scikit_windows),
    "PyTorch": ("torch", torch_windows),
}
LOOP_WINDOWS = 10_000
ROWS = ("auto", "naive", *OTHERS)


def rows(operations: tuple[str, ...], geometries: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for geometry in geometries:
        for operation in operations:
            for row in ROWS:
                if row != "view_as_windows" or operation in ("max", "average", "im2col"):
                    yield f"{operation} {geometry}", row


def operands(geometry: Windows, operation: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The operand, and for the gradient of a maximum its indices."""
    x = random("x", *geometry.shape)
    if operation in ("max", "average", "im2col"):
        return x, None
    n, c = geometry.shape[:2]
    if operation == "col2im":
        return random("columns", n, c * geometry.size**2, int(np.prod(geometry.extents))), None
    dy = random("dy", n, c, *geometry.extents)
    if operation == "average gradient":
        return dy, None
    return dy, fc.max_pool2d(x, geometry.size, stride=geometry.stride, padding=geometry.padding, return_indices=True)[1]


def ours(operation: str) -> Callable[..., Callable[..., Any]]:
    def prepare(geometry: Windows, a: np.ndarray, b: np.ndarray | None, workers: int) -> Callable[..., Any]:
        size, shape = geometry.size, geometry.shape
        step = {"stride": geometry.stride, "padding": geometry.padding}
        threads = {"workers": workers}
        return {
            "max": lambda: fc.max_pool2d(a, size, **step, **threads),
            "max gradient": lambda: fc.max_pool2d_grad(a, b, shape, **threads),
            "average": lambda: fc.avg_pool2d(a, size, **step, **threads),
            "average gradient": lambda: fc.avg_pool2d_grad(a, shape, size, **step, **threads),
            "im2col": lambda: fc.im2col(a, size, **step),
            "col2im": lambda: fc.col2im(a, shape, size, **step),
        }[operation]

    return prepare


def run(workload: str, row: str, workers: int) -> Run:
    name = next(name for name in GEOMETRIES if workload.endswith(f" {name}"))
    operation, geometry = workload.removesuffix(f" {name}"), GEOMETRIES[name]
    part = geometry
    if row in OTHERS:
        module, adapter = OTHERS[row]
        pytest.importorskip(module, reason=f"{module} is not installed")
    else:
        adapter = loops if row == "naive" else ours
    if row == "naive":  # one sample, and as many channels as make a short run
        channels = max(1, min(geometry.shape[1], LOOP_WINDOWS // int(np.prod(geometry.extents))))
        part = replace(geometry, shape=(1, channels, *geometry.shape[2:]))
    a, b = operands(part, operation)
    right = numpy_windows(operation)(part, a, b, 1)()
    scale = np.prod(geometry.shape) / np.prod(part.shape)
    bytes_moved = scale * (a.nbytes + right.nbytes + (b.nbytes if b is not None else 0))
    kind = {"naive": "naive", "auto": "fastconv"}.get(row, "peer")
    return Run(adapter(operation)(part, a, b, workers), right, bytes_moved, "B", float(scale), kind=kind)


@parametrize(rows(POOLING, tuple(GEOMETRIES)[:2]))
def test_pooling(timed, workers, workload, row):
    timed("pooling", workload, row, run(workload, row, workers))


@parametrize(rows(MATRICES, tuple(GEOMETRIES)[2:]))
def test_windows(timed, workers, workload, row):
    timed("windows", workload, row, run(workload, row, workers))


def _upsample_by_slices(x: np.ndarray) -> np.ndarray:
    n, c, h, w = x.shape
    y = np.zeros((n, c, 2 * h - 1, 2 * w - 1), x.dtype)
    y[:, :, ::2, ::2] = x
    return y


@parametrize([("upsample_zeros stride 2, 2x64x56x56", row) for row in ("auto", "NumPy slices")])
def test_upsampling(timed, workload, row):
    x = random("x", 2, 64, 56, 56)
    right = _upsample_by_slices(x)
    call = (lambda: fc.upsample_zeros(x, 2)) if row == "auto" else (lambda: _upsample_by_slices(x))
    kind = "fastconv" if row == "auto" else "peer"
    timed("windows", workload, row, Run(call, right, x.nbytes + right.nbytes, "B", kind=kind))
