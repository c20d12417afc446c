"""conv_transpose2d against its definition: every pixel adds a scaled filter to the result."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv as fc


def definition(x, w, stride, crop, dilation, extra, groups):
    """y[n, k, p*sh + r*dh - top, q*sw + s*dw - left] += x[n,c,p,q] * w[c,k,r,s], on int64 arrays."""
    N, C, H, W = x.shape
    _, K, R, S = w.shape
    (sh, sw), (dh, dw), ((top, bottom), (left, right)) = stride, dilation, crop
    height, width = (H - 1) * sh + (R - 1) * dh + 1 + extra[0], (W - 1) * sw + (S - 1) * dw + 1 + extra[1]
    y = np.zeros((N, K * groups, height, width), int)
    for n, c, p, q, k, r, s in np.ndindex(N, C, H, W, K, R, S):
        y[n, c // (C // groups) * K + k, p * sh + r * dh, q * sw + s * dw] += x[n, c, p, q] * w[c, k, r, s]
    return y[:, :, top : y.shape[2] - bottom, left : y.shape[3] - right]


@st.composite
def transposed(draw):
    groups = draw(st.integers(1, 2))
    c, k = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    extents, kernel, stride, dilation = ([draw(st.integers(1, n)) for _ in range(2)] for n in (4, 4, 4, 3))
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    crop = []
    for axis in range(2):
        whole = (extents[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 + extra[axis]
        before = draw(st.integers(0, min(whole - 1, 4)))
        crop.append((before, draw(st.integers(0, min(whole - 1 - before, 4)))))
    return draw(st.integers(1, 2)), c, k, tuple(extents), tuple(kernel), tuple(stride), tuple(crop), tuple(dilation), \
        tuple(extra), groups  # fmt: skip


@given(transposed(), st.sampled_from(["NCHW", "NHWC"]), st.sampled_from(["float32", "float64", "int64"]),
       st.sampled_from(["auto", "direct", "im2col", "naive"]), st.booleans())  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_definition(case, layout, dtype, method, with_bias):
    n, c, k, extents, kernel, stride, crop, dilation, extra, groups = case
    rng = np.random.default_rng(abs(hash(case)))
    x, w = rng.integers(-3, 4, (n, c, *extents)), rng.integers(-3, 4, (c, k, *kernel))
    bias = rng.integers(-3, 4, k * groups) if with_bias else None
    expected = definition(x, w, stride, crop, dilation, extra, groups)
    if bias is not None:
        expected = expected + bias[:, None, None]
        bias = bias.astype(dtype)
    given_x = x.transpose(0, 2, 3, 1) if layout == "NHWC" else x
    y = fc.conv_transpose2d(
        given_x.astype(dtype), w.astype(dtype), bias, stride=stride, padding=crop, output_padding=extra,
        dilation=dilation, groups=groups, layout=layout, method=method,
    )  # fmt: skip
    assert y.dtype == dtype
    assert y.flags.c_contiguous
    np.testing.assert_array_equal(y.transpose(0, 3, 1, 2) if layout == "NHWC" else y, expected)


def test_by_hand():
    x = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    w = np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(1, 1, 2, 2)
    assert fc.conv_transpose2d(x, w)[0, 0].tolist() == [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]
    assert fc.conv_transpose2d(x, w, [0.5], padding=1)[0, 0].tolist() == [[1234.5]]
    wide = fc.conv_transpose2d(x, w, stride=(1, 3), output_padding=(0, 1))[0, 0]
    assert wide.tolist() == [[1, 10, 0, 2, 20, 0], [103, 1030, 0, 204, 2040, 0], [300, 3000, 0, 400, 4000, 0]]


def test_same_padding_gives_extent_times_stride():
    """ONNX auto_pad: what is too much is cropped, the odd row after (SAME_UPPER) or before (SAME_LOWER)."""
    rng = np.random.default_rng(0)
    for stride, kernel, dilation in [((1, 1), (3, 3), (1, 1)), ((2, 3), (3, 4), (1, 2)), ((3, 2), (2, 5), (1, 1))]:
        x, w = rng.integers(-3, 4, (1, 2, 4, 5)), rng.integers(-3, 4, (2, 3, *kernel))
        for padding in ("same", "same_lower"):
            y = fc.conv_transpose2d(x, w, stride=stride, dilation=dilation, padding=padding)
            assert y.shape == (1, 3, 4 * stride[0], 5 * stride[1])
            whole = definition(x, w, stride, ((0, 0), (0, 0)), dilation, (0, 0), 1)
            whole = np.pad(whole, ((0, 0), (0, 0), (0, 9), (0, 9)))
            starts = []
            for n, s, r, d in zip((4, 5), stride, kernel, dilation, strict=True):
                surplus = max((n - 1) * s + (r - 1) * d + 1 - n * s, 0)
                starts.append(surplus // 2 if padding == "same" else surplus - surplus // 2)
            top, left = starts
            np.testing.assert_array_equal(y, whole[:, :, top : top + y.shape[2], left : left + y.shape[3]])
    full = fc.conv_transpose2d(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)), padding="full")
    assert full.shape == (1, 1, 2, 2)
    assert (full == 9).all()


def test_adjoint_of_conv2d():
    rng = np.random.default_rng(1)
    x, w = rng.integers(-3, 4, (2, 4, 9, 11)), rng.integers(-3, 4, (6, 2, 3, 2))
    keywords = {"stride": (2, 3), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 2}
    y = fc.conv2d(x, w, **keywords)
    dy = rng.integers(-3, 4, y.shape)
    # output_padding: the rows and columns at the end of x that no window reached
    back = fc.conv_transpose2d(dy, w, output_padding=((9 + 1 - 3) % 2, (11 + 3 - 3) % 3), **keywords)
    assert (y * dy).sum() == (x * back).sum()
    np.testing.assert_array_equal(back, fc.conv2d_input_grad(dy, w, x.shape, **keywords))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_empty(layout):
    bias = np.array([1.0, 2.0, 3.0])
    for n, c in [(0, 2), (2, 0)]:
        x = np.ones((n, 4, 5, c) if layout == "NHWC" else (n, c, 4, 5))
        y = fc.conv_transpose2d(x, np.ones((c, 3, 2, 2)), bias, stride=2, layout=layout)
        assert y.shape == ((n, 8, 10, 3) if layout == "NHWC" else (n, 3, 8, 10))
        assert (y == (bias if layout == "NHWC" else bias[:, None, None])).all()
        out = np.full(y.shape, 9.0)
        assert fc.conv_transpose2d(x, np.ones((c, 3, 2, 2)), stride=2, layout=layout, out=out) is out
        assert not out.any()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": np.ones((2, 4, 5))}, fc.ShapeError, "x: got shape"),
        ({"w": np.ones((2, 3, 2))}, fc.ShapeError, "w: got shape"),
        ({"x": np.ones((1, 2, 0, 5))}, fc.ShapeError, "H = 0"),
        ({"w": np.ones((3, 3, 2, 2))}, fc.ShapeError, "w: got 3 input channels"),
        ({"w": np.ones((2, 0, 2, 2))}, fc.ShapeError, "w: got shape"),
        ({"w": np.ones((2, 3, 2, 0))}, fc.ShapeError, "w: got shape"),
        ({"groups": 3}, fc.ShapeError, "groups: got 3"),
        ({"output_padding": 1}, fc.ShapeError, "output_padding: got 1; must be below"),
        ({"output_padding": -1}, fc.ShapeError, "output_padding"),
        ({"stride": (1, 3), "output_padding": (1, 2)}, fc.ShapeError, "output_padding"),
        ({"padding": 3}, fc.ShapeError, "padding: got 3"),
        ({"padding": "half"}, ValueError, "padding"),
        ({"stride": 0}, fc.ShapeError, "stride"),
        ({"stride": 2**62}, fc.ShapeError, "overflow"),
        pytest.param({"stride": 2**25}, MemoryError, None, marks=pytest.mark.slow),
        ({"bias": np.ones(2)}, fc.ShapeError, "bias"),
        ({"layout": "NCWH"}, ValueError, "layout"),
        ({"method": "quick"}, ValueError, "method"),
        ({"workers": 0}, ValueError, "workers"),
        ({"out": np.empty((1, 3, 5, 5))}, fc.ShapeError, "out"),
        ({"out": np.empty((1, 3, 5, 6), np.float32)}, TypeError, "out"),
        ({"dtype": complex}, TypeError, "dtype"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refusals(change, error, words):
    valid = {"x": np.ones((1, 2, 4, 5)), "w": np.ones((2, 3, 2, 2))}
    fc.conv_transpose2d(**valid)
    with pytest.raises(error, match=words):
        fc.conv_transpose2d(**valid | change)


def test_integers_that_could_overflow():
    x = np.full((1, 1, 1, 2), 2**62)
    assert fc.conv_transpose2d(x, np.ones((1, 1, 1, 1), int), [2**62 - 1]).tolist() == [[[[2**63 - 1] * 2]]]
    with pytest.raises(OverflowError):
        fc.conv_transpose2d(x, np.ones((1, 1, 1, 2), int))
    with pytest.raises(OverflowError):
        fc.conv_transpose2d(x, np.ones((1, 1, 1, 1), int), [2**62])
