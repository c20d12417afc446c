"""What the tests of convolution share: the named problems, their operands, calls, and the truth about them."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import fastconv as fc
from fastconv import reference
from fastconv.algorithms import ALGORITHMS
from fastconv.boundary import most_repeats
from fastconv.problem import DIRECTIONS, LAYOUTS, ConvProblem

__all__ = [
    "DIRECTIONS", "EXACT", "LAYOUTS", "NAMES", "PROBLEMS", "assert_exact", "call", "check_direct", "error_scale",
    "layout_of", "methods", "named", "operands", "options", "plan_shapes", "problem_params", "shrunk",
    "small_integers", "truth",
]  # fmt: skip

EXACT = ("naive", "direct", "im2col", "gemm")
"""Plain sums of products: right to the bit where every partial sum is a float, and what they serve is everything."""


def named(file):
    """The problems of tests/problems/<file>.txt: {name: ConvProblem}."""
    lines = (Path(__file__).parent / "problems" / f"{file}.txt").read_text().splitlines()
    return {line.split('"')[1]: ConvProblem.from_text(line) for line in lines if line and line[0] != "#"}


def _small(extent, most, modulo):
    """The largest of at most ``most`` with the same residue."""
    return extent if extent <= most else most - (most - extent) % modulo


def shrunk(problem):
    """The problem with extents up to 12 and channels up to 40, which keep their residues modulo 4 and 32."""
    h, w = (_small(extent, 12, 4) for extent in (problem.H, problem.W))
    c, k = (_small(extent, 40, 32) for extent in (problem.C, problem.K))
    return replace(problem, H=h, W=w, C=c, K=k, groups=c if problem.groups == problem.C else problem.groups)


def _problems():
    problems = dict(named("edge"))
    seen = set()
    for file in ("resnet50", "vgg16", "mobilenet"):
        for name, problem in named(file).items():
            small = shrunk(problem)
            if small not in seen:  # different layers may shrink to one
                problems[name] = small
            seen.add(small)
    return problems


PROBLEMS = _problems()


def problem_params(*names):
    """Arguments for pytest.mark.parametrize("problem", ...): the problems named, or all."""
    return [pytest.param(PROBLEMS[name], id=name.replace(" ", "_")) for name in names or PROBLEMS]


def options(problem, **others):
    """The keyword arguments that describe the problem."""
    names = ("stride", "padding", "dilation", "groups", "boundary", "cval", "layout")
    return {name: getattr(problem, name) for name in names} | others


def layout_of(array, layout):
    """An (N, C, H, W) array as a contiguous one in the layout."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if layout == "NHWC" else array


def integers(shape, least, most, seed):
    return np.random.default_rng([seed, *shape]).integers(least, most + 1, shape)


@cache
def operands(problem):
    """{"x", "w", "dy", "bias"} as int64 arrays (N, C, H, W) of small integers, x not negative."""
    return {
        "x": integers(problem.x_shape, 0, 4, 1),
        "w": integers(problem.w_shape, -3, 3, 2),
        "dy": integers(problem.y_shape, -3, 3, 3),
        "bias": integers((problem.K,), -9, 9, 4),
    }


NAMES = {"forward": ("x", "w"), "input_grad": ("dy", "w"), "weight_grad": ("x", "dy")}
"""The operands of each direction, in the order in which the operation takes them."""


@cache
def truth(problem, direction):
    """The exact integer result, (N, C, H, W), bias included."""
    problem = replace(problem, dtype="int64", direction=direction)
    data = operands(replace(problem, dtype="float32", direction="forward", layout="NCHW"))
    a, b = (data[name].view(np.uint64) for name in NAMES[direction])
    result = getattr(reference, direction)(a, b, problem).view(np.int64)
    return result + data["bias"][:, None, None] if direction == "forward" else result


def call(problem, direction, arrays, method="auto", **others):
    """fc.conv2d or a gradient of it. ``arrays`` are in the problem's layout; a bias goes to the forward one only.

    One worker unless told otherwise: that the number makes no difference is a test of its own.
    """
    a, b = (arrays[name] for name in NAMES[direction])
    keywords = options(problem, method=method) | {"workers": 1} | others
    if direction == "forward":
        return fc.conv2d(a, b, arrays.get("bias"), **keywords)
    n, c, h, w = problem.x_shape
    shape = (n, h, w, c) if problem.layout == "NHWC" else (n, c, h, w)
    if direction == "input_grad":
        return fc.conv2d_input_grad(a, b, shape, **keywords)
    return fc.conv2d_weight_grad(a, b, problem.w_shape, **keywords)


def methods(problem, direction):
    """The methods that serve the problem."""
    problem = replace(problem, direction=direction)
    return list(dict.fromkeys(algorithm.NAME for algorithm in ALGORITHMS if algorithm.why_not(problem) is None))


def plan_shapes(problem):
    """x_shape and w_shape in the problem's layout, as plan_conv2d takes them."""
    n, c, h, w = problem.x_shape
    return ((n, h, w, c) if problem.layout == "NHWC" else (n, c, h, w)), problem.w_shape


def error_scale(problem, direction, arrays):
    """sum_j ||a_j|| ||b_j|| with norms over whole planes, which is at least what any method's tile gives.

    An operation on the norms as images and filters of one pixel: shape (N, K, 1, 1), (N, C, 1, 1) or (K, C/g, 1, 1).
    """
    arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    arrays["x"] = reference.pad(arrays["x"], replace(problem, dtype="float64"))
    a, b = (np.sqrt((arrays[name] ** 2).sum(axis=(2, 3), keepdims=True)) for name in NAMES[direction])
    one = ConvProblem(problem.N, problem.C, 1, 1, problem.K, 1, 1, groups=problem.groups, dtype="float64")
    repeats = 1
    if direction == "input_grad":
        repeats = most_repeats(problem.rows()) * most_repeats(problem.columns())
    return getattr(reference, direction)(a, b, replace(one, direction=direction)) * repeats


def assert_exact(result, problem, direction, method, dtype):
    """The result of small integers is the truth: to the bit if the method is one of EXACT, else within its bound."""
    expected = truth(replace(problem, dtype="float32", direction="forward", layout="NCHW"), direction)
    if problem.layout == "NHWC" and direction != "weight_grad":
        result = result.transpose(0, 3, 1, 2)
    if method in EXACT:
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected.astype(dtype))
        return
    plan = fc.plan_conv2d(*plan_shapes(problem), dtype=dtype, direction=direction, **options(problem, method=method))
    data = operands(replace(problem, dtype="float32", direction="forward", layout="NCHW"))
    slack = plan.error_bound * error_scale(problem, direction, {name: data[name] for name in ("x", "w", "dy")})
    assert (np.abs(result.astype(np.float64) - expected) <= slack).all()


def small_integers(problem, least=-3):
    """Operands and dy for which every sum is exact."""
    rng = np.random.default_rng([problem.H, problem.W, problem.C, problem.K])
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "dy": problem.y_shape}
    return {name: rng.integers(least, 4, shape) for name, shape in shapes.items()}


def check_direct(problem, direction, dtype="float32", data=None, **others):
    """The direct method on small integers, of any kernel: equal to the definition, to the bit."""
    data = data or small_integers(problem)
    a, b = (data[name].astype(np.int64).view(np.uint64) for name in NAMES[direction])
    exact = replace(problem, dtype="int64", direction=direction)
    expected = getattr(reference, direction)(a, b, exact).view(np.int64)
    arrays = {
        name: array.astype(dtype) if name == "w" else layout_of(array.astype(dtype), problem.layout)
        for name, array in data.items()
    }
    result = call(problem, direction, arrays, "direct", **others)
    if problem.layout == "NHWC" and direction != "weight_grad":
        result = result.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(result, expected, err_msg=problem.text)
