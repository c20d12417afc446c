"""Paddings, output extents, problem texts and refusals, worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastconv import ShapeError
from fastconv.problem import (
    ConvProblem,
    PoolProblem,
    check_size,
    integer,
    output_extent,
    pair,
    parse_padding,
    transposed_padding,
)

NO_PADS = ((0, 0), (0, 0))


def parsed(padding, extents=(6, 7), kernel=(3, 2), stride=(2, 3), dilation=(2, 1)):
    return parse_padding(padding, extents, kernel, stride, dilation)


# --- options ---


def test_integer_and_pair():
    assert integer(np.int8(3), "n", 0) == 3
    assert integer(True, "n", 0) == 1
    assert pair(2, "stride", 1) == (2, 2)
    for given_pair in [(1, 2), [1, 2], np.array([1, 2]), (np.int64(1), 2)]:
        assert pair(given_pair, "stride", 1) == (1, 2)
    assert pair(np.array(3), "stride", 1) == (3, 3)
    assert pair(2**70, "stride", 1) == (2**70, 2**70)


@pytest.mark.parametrize("value", [1.0, "1", "12", b"12", None, (1, 2.0), ("1", 2), ((1, 2), (3, 4)), {1, 2}, 1j])
def test_pair_wants_integers(value):
    with pytest.raises(TypeError, match=r"stride: got .*must be an integer"):
        pair(value, "stride", 1)


@pytest.mark.parametrize("value", [0, -1, (1, 0), (), (1,), (1, 2, 3), range(10**15), np.zeros((3, 1), int)])
def test_pair_wants_two_large_enough(value):
    with pytest.raises(ShapeError, match="stride: got "):
        pair(value, "stride", 1)


# --- padding ---


@pytest.mark.parametrize(
    ("padding", "pads"),
    [
        (0, NO_PADS),
        (np.int32(2), ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        ([[1, 2], [3, 4]], ((1, 2), (3, 4))),
        (((1, 2), 3), ((1, 2), (3, 3))),
        (np.array([[1, 2], [3, 4]]), ((1, 2), (3, 4))),
        ("valid", NO_PADS),
        ("full", ((4, 4), (1, 1))),
        # rows: 3 windows, the last starts at 4 and spans 5: 9 rows, 3 more than 6; columns: 3 windows end at 8
        ("same", ((1, 2), (0, 1))),
        ("same_lower", ((2, 1), (1, 0))),
    ],
)
def test_forms_of_padding(padding, pads):
    assert parsed(padding) == pads


@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "dilation", "pads"),
    [  # TensorFlow, "Padding": SAME
        (13, 6, 5, 1, (1, 2)),
        (5, 2, 1, 1, (0, 1)),
        (4, 3, 2, 1, (0, 1)),
        (5, 3, 2, 1, (1, 1)),
        (224, 7, 2, 1, (2, 3)),
        (7, 3, 1, 2, (2, 2)),
        (6, 1, 3, 1, (0, 0)),  # a stride beyond the window leaves pixels out, and needs no padding
    ],
)
def test_same_is_tensorflows(extent, kernel, stride, dilation, pads):
    axes = [(n, n) for n in (extent, kernel, stride, dilation)]
    assert parse_padding("same", *axes) == (pads, pads)
    assert parse_padding("same_lower", *axes) == (pads[::-1], pads[::-1])
    assert output_extent(extent, pads, kernel, stride, dilation) == math.ceil(extent / stride)


@pytest.mark.parametrize(
    ("error", "padding"),
    [
        (ValueError, "some"), (ValueError, "SAME"), (ShapeError, -1), (ShapeError, (1, -1)), (ShapeError, (1,)),
        (ShapeError, (1, 2, 3, 4)), (ShapeError, ((1, 2, 3), 0)), (ShapeError, ((1, 2), (3,))), (TypeError, 1.0),
        (TypeError, None), (TypeError, ("same", "same")), (TypeError, b"ab"), (TypeError, (((1, 2), 3), 4)),
    ],
)  # fmt: skip
def test_padding_refusals(error, padding):
    with pytest.raises(error, match="padding: got "):
        parsed(padding)


# --- transposed convolution ---


@pytest.mark.parametrize(
    ("padding", "output_padding", "extent", "pads"),
    [  # 4 pixels, stride 2, kernel 3: they reach (4-1)*2 + 3 = 9
        (0, 0, 9, (0, 0)),
        (1, 0, 7, (1, 1)),
        (1, 1, 8, (1, 0)),
        (0, 1, 10, (0, -1)),
        ("valid", 0, 9, (0, 0)),
        ("full", 0, 5, (2, 2)),
        ("same", 0, 8, (0, 1)),
        ("same_lower", 0, 8, (1, 0)),
        ("same", 1, 8, (1, 0)),
    ],
)
def test_transposed_padding(padding, output_padding, extent, pads):
    out, both = transposed_padding(padding, (4, 4), (3, 3), (2, 2), (1, 1), (output_padding, output_padding))
    assert out == (extent, extent)
    assert both == (pads, pads)
    assert output_extent(extent, pads, 3, 2, 1) == 4  # the forward convolution leads back


def test_transposed_padding_leaves_something():
    with pytest.raises(ShapeError, match="padding: got 2"):
        transposed_padding(2, (1, 1), (3, 3), (1, 1), (1, 1), (0, 0))


# --- ConvProblem ---


def test_shapes_and_counts():
    p = ConvProblem(2, 4, 9, 8, 6, 3, 2, (2, 1), ((1, 0), (2, 3)), (2, 3), 2)
    assert (p.P, p.Q) == (3, 10)  # (9 + 1 - 5) // 2 + 1, (8 + 5 - 4) // 1 + 1
    assert p.x_shape == (2, 4, 9, 8)
    assert p.w_shape == (6, 2, 3, 2)
    assert p.y_shape == p.out_shape == (2, 6, 3, 10)
    assert p.padded_shape == (2, 4, 10, 13)
    assert p.terms == 2 * 3 * 2
    assert p.flops == 2 * 2 * 6 * 3 * 10 * p.terms
    assert p.rows().tolist() == [-1, *range(9)]
    assert p.columns().tolist() == [-1, -1, *range(8), -1, -1, -1]
    assert hash(p) == hash(ConvProblem(2, 4, 9, 8, 6, 3, 2, (2, 1), ((1, 0), (2, 3)), (2, 3), 2))


def test_directions():
    names = {d: ConvProblem(2, 4, 9, 8, 6, 3, 2, direction=d) for d in ("input_grad", "weight_grad")}
    assert names["input_grad"].out_shape == (2, 4, 9, 8)
    assert names["input_grad"].terms == 6 * 3 * 2
    assert names["weight_grad"].out_shape == (6, 4, 3, 2)
    assert names["weight_grad"].terms == 2 * 7 * 7


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_compute_dtype(dtype):
    p = ConvProblem(1, 1, 3, 3, 1, 2, 2, dtype=dtype)
    assert p.itemsize == np.dtype(p.compute_dtype).itemsize


@pytest.mark.parametrize("boundary", ["edge", "symmetric", "reflect", "wrap"])
@pytest.mark.parametrize(("extent", "pad"), [(3, 0), (1, 4), (2, 3), (5, 2), (5, 11)])
def test_terms_of_an_input_gradient_beyond_the_edge(boundary, extent, pad):
    """No pixel takes part in more products than ``terms`` says."""
    p = ConvProblem(
        1, 1, extent, extent, 1, 3, 3, padding=((pad, pad),) * 2, boundary=boundary, direction="input_grad"
    )
    reads = p.rows()[np.add.outer(np.arange(p.P), np.arange(3))]
    assert np.bincount(reads.ravel()).max() ** 2 <= p.terms < 10**4


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("K", {"K": 0}), ("H", {"H": 0}), ("W", {"W": 0}), ("R", {"R": 0}), ("S", {"S": 0}), ("groups", {"groups": 3}),
        ("groups", {"groups": 4}), ("w: a filter of 9x3 spans 9x3", {"R": 9}), ("spans 3x9", {"dilation": (1, 4)}),
        ("overflows", {"N": 2**60}), ("overflows", {"padding": ((2**62, 0), (0, 0))}),
        ("overflows", {"K": 2**60, "groups": 2}), ("overflows", {"H": 2**62, "W": 2**62, "N": 0}),
    ],
)  # fmt: skip
def test_conv_refusals(word, change):
    fields = {"N": 1, "C": 4, "H": 8, "W": 8, "K": 6, "R": 3, "S": 3}
    with pytest.raises(ShapeError, match=word):
        ConvProblem(**{**fields, **change})


def test_check_size_counts_bytes():
    check_size("x", (2**30, 2**29), 8)
    check_size("x", (2**31, 2**31), 1)
    with pytest.raises(ShapeError, match="x: a shape of"):
        check_size("x", (2**31, 2**29), 8)
    with pytest.raises(ShapeError):
        check_size("x", (0, 2**61), 8)  # strides of an empty array are counted too


def test_text_by_hand():
    text = 'n1 c64 h56 w55 k64 r3 s2 stride2 pad1 dil1x2 g1 "resnet50:conv2"'
    p = ConvProblem.from_text(text)
    assert p == ConvProblem(1, 64, 56, 55, 64, 3, 2, (2, 2), ((1, 1), (1, 1)), (1, 2))
    assert p.text == "n1 c64 h56 w55 k64 r3 s2 stride2 pad1 dil1x2 g1"
    q = ConvProblem.from_text("n1 c1 h5 w5 k1 r3 s3 pad0,1,2,3 edge NHWC float16 weight_grad cval-2.5")
    assert q.padding == ((0, 1), (2, 3))
    assert (q.boundary, q.layout, q.dtype, q.direction, q.cval) == ("edge", "NHWC", "float16", "weight_grad", -2.5)


@given(
    st.tuples(*[st.integers(0, 5)] * 2),
    st.tuples(*[st.integers(7, 9)] * 2),
    st.tuples(*[st.integers(1, 3)] * 6),
    st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
    st.sampled_from(["constant", "edge", "symmetric", "reflect", "wrap"]),
    st.sampled_from(["NCHW", "NHWC"]),
    st.sampled_from(["float16", "float32", "float64", "int64"]),
    st.sampled_from(["forward", "input_grad", "weight_grad"]),
    st.floats(allow_nan=False) | st.integers(),
)
def test_text_round_trip(nc, hw, small, pads, boundary, layout, dtype, direction, cval):
    K, R, S, stride, step, dilation = small
    p = ConvProblem(
        *nc, *hw, K, R, S, (stride, step), pads, (dilation, 1), 1, boundary, cval, layout, dtype, direction
    )
    assert ConvProblem.from_text(p.text) == p


def test_text_of_integers_in_floats():
    p = ConvProblem(1, 1, 3, 3, 1, 3, 3, dtype="int64", exact_in="float32")
    assert p.compute_dtype == "float32"
    assert p.compute_cval == 0.0
    assert ConvProblem.from_text(p.text) == p


def test_a_nan_beyond_the_edge_has_a_text():
    p = ConvProblem.from_text(ConvProblem(1, 1, 3, 3, 1, 3, 3, cval=float("nan")).text)
    assert math.isnan(p.cval)


@pytest.mark.parametrize("word", ["q3", "strides2", "stride", "3", "bfloat16"])
def test_text_refusals(word):
    with pytest.raises(ValueError, match="problem text"):
        ConvProblem.from_text(f"n1 c1 h3 w3 k1 r1 s1 {word}")


# --- PoolProblem ---


def pool(extent, kernel, stride, pads=(0, 0), dilation=1, ceil_mode=False):
    return PoolProblem(1, 1, extent, extent, kernel, kernel, (stride,) * 2, (pads,) * 2, (dilation,) * 2, ceil_mode)


@pytest.mark.parametrize(
    ("extent", "kernel", "stride", "pads", "dilation", "floor", "ceiling"),
    [  # PyTorch: floor or ceil of (H + pads - dilation*(R-1) - 1) / stride, plus 1
        (4, 2, 2, (0, 0), 1, 2, 2),
        (5, 2, 2, (0, 0), 1, 2, 3),
        (6, 3, 2, (0, 0), 1, 2, 3),
        (112, 3, 2, (1, 1), 1, 56, 57),
        (7, 2, 2, (1, 1), 1, 4, 4),  # a fifth window would start at 8, in the padding after: PyTorch drops it
        (4, 1, 3, (0, 0), 1, 2, 2),
        (3, 1, 4, (0, 0), 1, 1, 1),  # a second would start at 4, beyond the image
        (7, 3, 2, (0, 0), 2, 2, 2),
        (8, 3, 2, (0, 0), 2, 2, 3),
        (10, 3, 2, (1, 2), 1, 6, 6),
    ],
)
def test_pooled_extents(extent, kernel, stride, pads, dilation, floor, ceiling):
    p = pool(extent, kernel, stride, pads, dilation)
    assert p.P == p.Q == floor
    assert p.y_shape == (1, 1, floor, floor)
    larger = pool(extent, kernel, stride, pads, dilation, ceil_mode=True)
    assert larger.P == larger.Q == ceiling


def holds_a_pixel(extent, kernel, stride, pads, dilation, ceil_mode):
    """Does every window, tap by tap? None where there is no window."""
    span = extent + sum(pads) - dilation * (kernel - 1) - 1
    windows = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (windows - 1) * stride >= extent + pads[0]:
        windows -= 1
    starts = [i * stride - pads[0] for i in range(windows)]
    held = [any(0 <= first + j * dilation < extent for j in range(kernel)) for first in starts]
    return all(held) if held else None


@given(
    st.integers(1, 7), st.integers(1, 4), st.integers(1, 9), st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.integers(1, 9), st.booleans(),
)  # fmt: skip
def test_windows_wholly_in_padding_are_refused(extent, kernel, stride, pads, dilation, ceil_mode):
    held = holds_a_pixel(extent, kernel, stride, pads, dilation, ceil_mode)
    if held:
        pool(extent, kernel, stride, pads, dilation, ceil_mode)
    else:
        with pytest.raises(ShapeError, match="kernel_size" if held is None else "wholly in padding"):
            pool(extent, kernel, stride, pads, dilation, ceil_mode)


def test_pool_refusals():
    for change in ({"H": 0}, {"W": 0}, {"R": 0}, {"R": 7}, {"padding": ((2, 0), (0, 0))}, {"N": 2**62}):
        with pytest.raises(ShapeError):
            PoolProblem(**{"N": 1, "C": 1, "H": 6, "W": 6, "R": 2, "S": 2, "stride": (2, 2), **change})


def test_a_huge_window_is_judged_at_once():
    with pytest.raises(ShapeError):
        PoolProblem(1, 1, 4, 4, 2**40, 1, (1, 1), ((2**40, 2**40), (0, 0)))
    assert PoolProblem(1, 1, 4, 4, 2**40, 1, (1, 1), ((2**40 - 1, 2**40 - 1), (0, 0))).P == 2**40 + 3
