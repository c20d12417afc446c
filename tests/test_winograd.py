"""The orders and blocks of Winograd's method: src_cython/winograd.pyx, and its way there."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from convolutions import DIRECTIONS

import fastconv as fc
from fastconv import machine, reference
from fastconv.algorithms import ALGORITHMS, winograd
from fastconv.problem import ConvProblem

PLACES = {
    "tiles outside, in L2": {"MANY_FILTERS": 1 << 40},
    "tiles outside, from beyond": {"MANY_FILTERS": 1 << 40, "L2_BYTES": 4096, "CHUNK": 9},
    "filters outside": {"MANY_FILTERS": 0, "FEW_TILES": 1 << 40},
    "filters outside, few channels at a time": {"MANY_FILTERS": 0, "FEW_TILES": 1 << 40, "L2_BYTES": 4096},
}
"""What decides about the order of the loops and the blocks."""
LINES = [
    "n2 c40 h15 w20 k70 r3 s3 pad1",
    "n1 c17 h30 w13 k33 r3 s3 pad2,0,1,3 dil3 reflect",
    "n3 c9 h4 w61 k5 r3 s3 pad1 dil1x5",
    "n1 c36 h21 w18 k40 r5 s5 pad2 g2 NHWC",
    "n2 c40 h15 w40 k70 r3 s3 stride2 pad1",
    "n1 c17 h30 w13 k33 r4 s4 stride2 pad2,0,1,3 reflect",
    "n1 c36 h21 w38 k40 r5 s5 stride2 pad2 g2 NHWC",
]


SHAPES = {
    "forward": lambda problem: (problem.x_shape, problem.w_shape),
    "input_grad": lambda problem: (problem.y_shape, problem.w_shape),
    "weight_grad": lambda problem: (problem.x_shape, problem.y_shape),
}


def operands(problem):
    rng = np.random.default_rng([problem.C, problem.K, problem.H])
    return [rng.standard_normal(shape).astype(problem.dtype) for shape in SHAPES[problem.direction](problem)]


def results(problem, a, b, variant, isa, workers):
    tables = variant.prepare(problem, isa)
    plan = type("Plan", (), {"problem": problem, "tables": tables})
    for number in workers:
        out = np.full(problem.out_shape, np.nan, problem.dtype)
        variant.run(plan, a, b, np.empty(0, problem.dtype), out, number)
        yield out


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_order_and_blocks_change_no_byte(line, direction, dtype, isa, monkeypatch):
    problem = ConvProblem.from_text(f"{line} {direction} {dtype}")
    a, b = operands(problem)
    exact = getattr(reference, direction)(a.astype(np.float64), b.astype(np.float64), problem)
    scale = winograd.F4.error_bound(problem) * np.linalg.norm(a) * np.linalg.norm(b)
    for variant in (winograd.F4, winograd.F2):
        if variant.why_not(problem):
            assert problem.stride == (2, 2)
            continue
        first = None
        for name, values in PLACES.items():
            with monkeypatch.context() as patch:
                for constant, value in values.items():
                    patch.setattr(machine if constant == "L2_BYTES" else winograd, constant, value)
                if "beyond" in name:  # several chunks, whose sums wait for each other
                    patch.setattr(winograd, "WEIGHT_TILES", 1)
                for out in results(problem, a, b, variant, isa, (1, 2, 3, 5)):
                    if first is None:
                        first = out
                        np.testing.assert_allclose(out, exact, rtol=0, atol=scale)
                    np.testing.assert_array_equal(out, first, err_msg=f"{variant.variant(problem)}, {name}")


@pytest.mark.parametrize("direction", ["forward", "input_grad"])
def test_the_order_follows_filters_and_tiles(direction):
    def order(h, channels):
        problem = ConvProblem.from_text(f"n1 c{channels} h{h} w{h} k{channels} r3 s3 pad1 {direction}")
        return winograd.F4.prepare(problem, machine.ISA).blocks.filters_outside

    assert order(14, 512)
    assert not order(14, 32), "few filters are transformed once"
    assert not order(800, 512), "too many tiles to wait"


def test_more_phases_than_rows():
    """A dilation beyond the result's extents leaves phases without outputs."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 5, 9, 23)), rng.standard_normal((4, 5, 3, 3))
    for dilation in ((4, 11), (4, 1), (1, 11), (4, 9)):
        y = fc.conv2d(x, w, dilation=dilation, method="winograd")
        np.testing.assert_allclose(y, fc.conv2d(x, w, dilation=dilation, method="gemm"), atol=1e-11)
        dw = fc.conv2d_weight_grad(x, y, w.shape, dilation=dilation, method="winograd")
        expected = fc.conv2d_weight_grad(x, y, w.shape, dilation=dilation, method="gemm")
        np.testing.assert_allclose(dw, expected, atol=1e-10)


@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_parities(kernel, isa):
    """At a stride of 2 every padding and extent puts the pixels of each parity elsewhere; some have none."""
    rng = np.random.default_rng(kernel)
    w = rng.standard_normal((3, 5, kernel, kernel))
    for h, before, after in itertools.product((1, 2, 5, 6, 19, 20), range(4), range(3)):
        if h + before + after < kernel:
            continue
        padding = ((before, after), (after, before))
        x = rng.standard_normal((2, 5, h, h))
        options = {"stride": 2, "padding": padding}
        y = fc.conv2d(x, w, method="winograd", **options)
        np.testing.assert_allclose(y, fc.conv2d(x, w, method="gemm", **options), rtol=0, atol=1e-12)
        dx = fc.conv2d_input_grad(y, w, x.shape, method="winograd", **options)
        expected = fc.conv2d_input_grad(y, w, x.shape, method="gemm", **options)
        np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-11)


def test_what_a_stride_of_two_excludes():
    x, w = np.ones((1, 4, 12, 12)), np.ones((4, 4, 3, 3))
    for options, reason in (
        ({"stride": 3}, "stride is .3, 3.; must be 1 or 2"),
        ({"stride": (1, 2)}, "stride is .1, 2.; must be 1 or 2"),
        ({"stride": 2, "dilation": 2}, "dilation is .2, 2.; must be 1 at a stride of 2"),
    ):
        with pytest.raises(fc.UnsupportedError, match=reason):
            fc.conv2d(x, w, method="winograd", **options)
    y = fc.conv2d(x, w, stride=2)
    with pytest.raises(fc.UnsupportedError, match="weight gradients have no such variant"):
        fc.conv2d_weight_grad(x, y, w.shape, stride=2, method="winograd")


@pytest.mark.parametrize("kernel", [5, 6, 7, 8])
@pytest.mark.parametrize("boundary", ["constant", "wrap"])
def test_space_to_depth(kernel, boundary, isa):
    """Forward and input gradient at a stride of 2 by those at a stride of 1, of four times as many channels."""
    rng = np.random.default_rng(kernel)
    variant = winograd.DEPTH4 if kernel < 7 else winograd.DEPTH3
    for (h, w), before, after in itertools.product(((1, 9), (6, 5), (20, 31)), (0, 1, 4), (0, 3)):
        if min(h, w) + before + after < kernel:
            continue
        base = ConvProblem(
            N=2, C=3, H=h, W=w, K=9, R=kernel, S=kernel, stride=(2, 2), padding=((before, after), (after, before)),
            boundary=boundary, cval=0.5 if boundary == "constant" else 0.0, dtype="float64",
        )  # fmt: skip
        for direction in ("forward", "input_grad"):
            problem = replace(base, direction=direction)
            assert variant.why_not(problem) is None
            a, b = (rng.standard_normal(shape) for shape in SHAPES[direction](problem))
            exact = getattr(reference, direction)(a, b, problem)
            scale = variant.error_bound(problem) * np.linalg.norm(a) * np.linalg.norm(b)
            first = None
            for out in results(problem, a, b, variant, isa, (1, 2, 3)):
                first = out if first is None else first
                np.testing.assert_allclose(out, exact, rtol=0, atol=scale)
                np.testing.assert_array_equal(out, first)


@pytest.mark.parametrize("kernel", range(3, 9))
def test_transposed_convolutions(kernel):
    """Output padding leaves pixels that no window reaches; they have the bias."""
    rng = np.random.default_rng(kernel)
    w, bias = rng.standard_normal((9, 3, kernel, kernel)), rng.standard_normal(3)
    for h, padding, beyond in itertools.product((2, 7, 10), (0, 1, "same"), (0, 1)):
        x, options = rng.standard_normal((2, 9, h, h + 1)), {"stride": 2, "padding": padding, "output_padding": beyond}
        y = fc.conv_transpose2d(x, w, bias, method="winograd", **options)
        np.testing.assert_allclose(y, fc.conv_transpose2d(x, w, bias, method="direct", **options), atol=1e-10)


def test_space_to_depth_packs_filters():
    rng = np.random.default_rng(3)
    x, w, bias = rng.standard_normal((2, 3, 19, 22)), rng.standard_normal((9, 3, 7, 7)), rng.standard_normal(9)
    packed = fc.plan_conv2d(x.shape, w.shape, dtype="float64", stride=2, method="winograd")
    expected = fc.conv2d(x, w, bias, stride=2, method="gemm")
    np.testing.assert_allclose(packed(x, packed.pack(w), bias), expected, atol=1e-11)


@pytest.mark.parametrize("line", [*LINES, "n1 c3 h20 w31 k9 r7 s7 stride2 pad3", "n1 c3 h9 w8 k9 r5 s5 stride2 pad4"])
@pytest.mark.parametrize("direction", ["forward", "input_grad"])
def test_tiles_cover_the_result_once(line, direction):
    problem = ConvProblem.from_text(f"{line} {direction}")
    for variant in ALGORITHMS:
        if variant.NAME == "winograd" and not variant.why_not(problem):
            plan = type("Plan", (), {"problem": problem, "tables": None})
            count = np.zeros(problem.out_shape[2:], int)
            for rows, columns in itertools.product(*variant.tiles(plan)):
                assert min(rows.start, columns.start) >= 0
                assert min(rows.stop, columns.stop) > 0
                count[rows, columns] += 1
            assert (count == 1).all(), variant.variant(problem)


@pytest.mark.parametrize("kernel", range(3, 9))
@pytest.mark.parametrize("side", ["end", "start"])
def test_strided_reads_stay_inside(kernel, side, isa, guarded):
    """Every second column comes in whole vectors: never from beyond an array."""
    rng = np.random.default_rng(kernel)
    for channels, extent, dtype in itertools.product((1, 3, 8, 17), (9, 17, 40), (np.float32, np.float64)):
        x = guarded(rng.standard_normal((1, channels, extent, extent)).astype(dtype), side)
        w = guarded(rng.standard_normal((9, channels, kernel, kernel)).astype(dtype), side)
        y = fc.conv2d(x, w, stride=2, padding=1, method="winograd", workers=2)
        dy = guarded(y, side)
        fc.conv2d_input_grad(dy, w, x.shape, stride=2, padding=1, method="winograd", workers=3)
