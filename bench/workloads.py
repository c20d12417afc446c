"""What is timed: named convolutions, their operands, and what must come out.

Full-size layers come from tests/problems/*.txt by name. Data are random and the same in every run.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

import fastconv as fc
from fastconv.problem import ConvProblem

MNIST = """
n64 c1 h28 w28 k8 r5 s5 stride1 pad2 dil1 g1 "mnist:conv1, batch 64"
n64 c8 h14 w14 k16 r3 s3 stride1 pad1 dil1 g1 "mnist:conv2, batch 64"
"""


def _read() -> dict[str, ConvProblem]:
    files = sorted((Path(__file__).parents[1] / "tests" / "problems").glob("*.txt"))
    lines = [line for text in (MNIST, *(file.read_text() for file in files)) for line in text.splitlines()]
    return {line.split('"')[1]: ConvProblem.from_text(line) for line in lines if line and not line.startswith("#")}


PROBLEMS = _read()
"""Every named problem of tests/problems, and two layers of a network for MNIST."""

FORWARD = (
    "mnist:conv1, batch 64", "mnist:conv2, batch 64", "resnet50:conv1", "resnet50:conv2", "resnet50:conv2.expand",
    "resnet50:conv3.down", "resnet50:conv5", "vgg16:conv3.2", "mobilenet2:depthwise3",
)  # fmt: skip
GRADIENTS = (
    "mnist:conv2, batch 64", "resnet50:conv1", "resnet50:conv2", "resnet50:conv3.down", "resnet50:conv5",
    "mobilenet2:depthwise3",
)  # fmt: skip
CONVOLUTIONS = {"forward": FORWARD, "input_grad": GRADIENTS, "weight_grad": GRADIENTS}


def random(name: str, *shape: int, dtype: str = "float32") -> np.ndarray:
    """Numbers that depend on the name and the shape alone."""
    rng = np.random.default_rng((zlib.crc32(name.encode()), *shape))
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype)
    return rng.standard_normal(shape, "float32").astype(dtype)


@lru_cache(maxsize=2)
def operands(problem: ConvProblem) -> tuple[np.ndarray, np.ndarray]:
    """(x, w), (dy, w) or (x, dy), in the order in which the direction's function takes them."""
    x, w, dy = (random(n, *getattr(problem, f"{n}_shape")) for n in ("x", "w", "y"))
    return {"forward": (x, w), "input_grad": (dy, w), "weight_grad": (x, dy)}[problem.direction]


def convolve(problem: ConvProblem, a: np.ndarray, b: np.ndarray, method: str, workers: int) -> np.ndarray:
    """The public function of the problem's direction."""
    options = {
        "stride": problem.stride, "padding": problem.padding, "dilation": problem.dilation, "groups": problem.groups,
        "method": method, "workers": workers,
    }  # fmt: skip
    if problem.direction == "forward":
        return fc.conv2d(a, b, **options)
    if problem.direction == "input_grad":
        return fc.conv2d_input_grad(a, b, problem.x_shape, **options)
    return fc.conv2d_weight_grad(a, b, problem.w_shape, **options)


@lru_cache(maxsize=2)
def expected(problem: ConvProblem) -> np.ndarray:
    """The plain sum in float64: what every row must come to."""
    a, b = operands(problem)
    return convolve(problem, a.astype("float64"), b.astype("float64"), "direct", 1)


def smaller_image(problem: ConvProblem, flops: float) -> ConvProblem:
    """The problem with its batch, then its image, halved until it takes no more than that."""
    while problem.flops > flops and problem.N > 1:
        problem = replace(problem, N=problem.N // 2)
    while problem.flops > flops and (problem.H > problem.R or problem.W > problem.S):
        problem = replace(problem, H=max(problem.H // 2, problem.R), W=max(problem.W // 2, problem.S))
    return problem


def fewer_filters(problem: ConvProblem, flops: float) -> ConvProblem:
    """The problem with its batch, then its filters, halved until it takes no more than that."""
    while problem.flops > flops and problem.N > 1:
        problem = replace(problem, N=problem.N // 2)
    while problem.flops > flops and problem.groups == 1 and problem.K > 1:
        problem = replace(problem, K=problem.K // 2)
    return problem


def for_loops(problem: ConvProblem, windows: int = 10_000) -> ConvProblem:
    """The problem cut down to that many elements of y: what loops in Python pay for."""
    return smaller_image(problem, problem.flops * min(1.0, windows / math.prod(problem.y_shape)))
