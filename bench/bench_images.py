"""Filters of single images: small and large, separable and not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pytest
from measure import Run, parametrize
from peers import IMAGES
from workloads import for_loops, random, smaller_image

import fastconv as fc
from fastconv.problem import ConvProblem

PEERS = {peer.name: peer for peer in IMAGES}
SHARPEN = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], "float32")

# workload: extent of the square image, its dtype, kernel
WORKLOADS = {
    "Sobel 3x3, 512x512": (512, "float32", fc.sobel_kernel(0).astype("float32")),
    "sharpen 3x3, 2048x2048 uint8": (2048, "uint8", SHARPEN),
    "random 9x9, 1024x1024": (1024, "float32", random("kernel", 9, 9)),
    "random 31x31, 512x512": (512, "float32", random("kernel", 31, 31)),
    "Gaussian 49x49, 1024x1024": (1024, "float32", fc.gaussian_kernel(6.0).astype("float32")),
}


def options(dtype: str) -> dict:
    """The result is float32, as OpenCV's; NumPy's promotion of uint8 and float32."""
    return {"dtype": np.result_type(dtype, "float32")}


def plan(workload: str, method: str) -> fc.Plan:
    extent, dtype, kernel = WORKLOADS[workload]
    return fc.plan_correlate2d((extent, extent), kernel, method=method, **options(dtype))


def rows() -> Iterator[tuple[str, str]]:
    """Every method and library that serves, for each workload."""
    for workload in WORKLOADS:
        for method in ("auto", *fc.METHODS):
            try:
                plan(workload, method)
            except fc.UnsupportedError:
                continue
            yield workload, method
        for peer in IMAGES:
            if peer.serves(problem_of(workload)):
                yield workload, peer.name


def problem_of(workload: str) -> ConvProblem:
    extent, _, kernel = WORKLOADS[workload]
    pads = tuple(((n - 1) // 2, n // 2) for n in kernel.shape)
    rank = len(fc.separate(kernel, rtol=1e-6)[0])
    return ConvProblem(1, 1, extent, extent, 1, *kernel.shape, padding=pads, rank=rank)


@lru_cache(maxsize=2)
def expected(dtype: str, extent: int, workload: str) -> np.ndarray:
    """The plain sum in float64."""
    kernel = WORKLOADS[workload][2].astype("float64")
    return fc.correlate2d(random("image", extent, extent, dtype=dtype).astype("float64"), kernel, method="direct")


@parametrize(rows())
def test_image(timed, workers, workload, row):
    _, dtype, kernel = WORKLOADS[workload]
    problem = part = problem_of(workload)
    peer = PEERS.get(row)
    if peer is not None or row == "naive":
        part = for_loops(problem) if peer is None else smaller_image(problem, peer.limit)
    image = random("image", part.H, part.H, dtype=dtype)
    details = {"problem": problem.text, "timed": part.text}
    if peer is not None:
        pytest.importorskip(peer.module, reason=f"{peer.module} is not installed")
        call, kind = peer.prepare(image, kernel, workers), "peer"
    else:
        kind = "naive" if row == "naive" else "fastconv"
        details["plan"] = plan(workload, row)

        def call():
            return fc.correlate2d(image, kernel, method=row, workers=workers, **options(dtype))

    right = expected(dtype, part.H, workload)
    scale = problem.flops / part.flops
    timed("images", workload, row, Run(call, right, problem.flops, scale=scale, kind=kind, details=details))
