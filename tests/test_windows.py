"""im2col, col2im, extract_windows and upsample_zeros against plain loops over ``numpy.pad``."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import ShapeError, col2im, extract_windows, im2col, upsample_zeros

BOUNDARIES = ("constant", "edge", "symmetric", "reflect", "wrap")
DTYPES = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")


def windows_by_loops(x, kernel, stride=(1, 1), pads=((0, 0), (0, 0)), dilation=(1, 1), boundary="constant", cval=0):
    """The definition of im2col for x in the order N, C, H, W."""
    N, C, _, _ = x.shape
    constant = {"constant_values": x.dtype.type(cval)} if boundary == "constant" else {}
    padded = np.pad(x, ((0, 0), (0, 0), *pads), mode=boundary, **constant)
    (R, S), (sh, sw), (dh, dw) = kernel, stride, dilation
    P = (padded.shape[2] - dh * (R - 1) - 1) // sh + 1
    Q = (padded.shape[3] - dw * (S - 1) - 1) // sw + 1
    cols = np.empty((N, C, R, S, P, Q), x.dtype)
    for r in range(R):
        for s in range(S):
            for p in range(P):
                for q in range(Q):
                    cols[:, :, r, s, p, q] = padded[:, :, p * sh + r * dh, q * sw + s * dw]
    return cols.reshape(N, C * R * S, P * Q)


def numbers(shape, dtype, seed=0):
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


@st.composite
def geometries(draw):
    """An image shape and options under which at least one window fits."""
    extents = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    pads = draw(st.tuples(*[st.tuples(st.integers(0, 7), st.integers(0, 7))] * 2))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    room = [(h + sum(p) - 1) // d + 1 for h, p, d in zip(extents, pads, dilation, strict=True)]
    kernel = tuple(draw(st.integers(1, min(n, 4))) for n in room)
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    shape = (draw(st.integers(0, 2)), draw(st.integers(0, 3)), *extents)
    return shape, {"kernel": kernel, "stride": stride, "pads": pads, "dilation": dilation}


def options(geometry):
    """The same under the names of the public functions."""
    return {
        "kernel_size": geometry["kernel"], "stride": geometry["stride"], "padding": geometry["pads"],
        "dilation": geometry["dilation"],
    }  # fmt: skip


@st.composite
def memory_layouts(draw, array):
    """The same values under other strides."""
    order = draw(st.permutations(range(array.ndim)))
    array = np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
    steps = tuple(draw(st.sampled_from([1, -1, 2, -3])) for _ in range(array.ndim))
    places = tuple(slice(None, None, step) for step in steps)
    wide = np.zeros([n * abs(step) for n, step in zip(array.shape, steps, strict=True)], array.dtype)
    view = wide[places]
    view = view[tuple(slice(0, n) for n in array.shape)]
    view[...] = array
    if draw(st.booleans()):
        view = view.astype(view.dtype.newbyteorder(), order="K")
    view.flags.writeable = False
    return view


# --- im2col ---


def test_im2col_by_hand():
    x = np.array([[[[1, 2, 3], [4, 5, 6]]]], np.int16)
    cols = im2col(x, (1, 2), padding=((0, 0), (1, 0)), cval=9)
    assert cols.dtype == np.int16
    assert cols.tolist() == [[[9, 1, 2, 9, 4, 5], [1, 2, 3, 4, 5, 6]]]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_im2col_is_its_definition(data):
    shape, geometry = data.draw(geometries())
    boundary = data.draw(st.sampled_from(BOUNDARIES))
    x = numbers(shape, data.draw(st.sampled_from(DTYPES)))
    expected = windows_by_loops(x, **geometry, boundary=boundary, cval=1)
    layout = data.draw(st.sampled_from(["NCHW", "NHWC"]))
    given_x = data.draw(memory_layouts(x.transpose(0, 2, 3, 1) if layout == "NHWC" else x))
    cols = im2col(given_x, **options(geometry), boundary=boundary, cval=1, layout=layout)
    assert cols.dtype == x.dtype
    assert cols.flags.c_contiguous
    np.testing.assert_array_equal(cols, expected)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("extents", [(1, 1), (1, 5), (2, 3)])
def test_padding_far_beyond_the_image(boundary, extents):
    x = numbers((1, 2, *extents), "f4")
    pads = ((11, 8), (7, 13))
    expected = windows_by_loops(x, (3, 2), pads=pads, boundary=boundary)
    np.testing.assert_array_equal(im2col(x, (3, 2), padding=pads, boundary=boundary), expected)


@pytest.mark.parametrize(
    ("padding", "pads"),
    [("valid", ((0, 0), (0, 0))), ("full", ((4, 4), (1, 1))), ("same", ((1, 2), (0, 0))),
     ("same_lower", ((2, 1), (0, 0))), (2, ((2, 2), (2, 2))), ((1, 0), ((1, 1), (0, 0)))],
)  # fmt: skip
def test_padding_forms(padding, pads):
    x = numbers((1, 1, 6, 7), "f8")  # rows: ceil(6/2)=3 windows span 2*2+5=9 rows; columns: 3 windows span 2*3+2=8
    geometry = {"kernel": (3, 2), "stride": (2, 3), "dilation": (2, 1)}
    if padding in ("same", "same_lower"):
        pads = (pads[0], (0, 1) if padding == "same" else (1, 0))
    expected = windows_by_loops(x, **geometry, pads=pads)
    np.testing.assert_array_equal(im2col(x, (3, 2), stride=(2, 3), dilation=(2, 1), padding=padding), expected)


def test_aliases_of_boundaries():
    x = numbers((1, 1, 4, 4), "f4")
    for alias, name in {"nearest": "edge", "mirror": "reflect", "circular": "wrap", "replicate": "edge"}.items():
        np.testing.assert_array_equal(im2col(x, 2, padding=3, boundary=alias), im2col(x, 2, padding=3, boundary=name))


def test_im2col_moves_bits():
    bits = np.array([[[[0x7FC01234, 0xFF800001], [0x80000000, 0x00000001]]]], np.uint32)
    assert im2col(bits.view(np.float32), 1).view(np.uint32).ravel().tolist() == bits.ravel().tolist()
    corner = im2col(np.zeros((1, 1, 1, 1), np.float32), 1, padding=1, cval=-0.0)[0, 0, 0]
    assert np.signbit(corner)
    assert np.isnan(im2col(np.zeros((1, 1, 1, 1), np.float16), 1, padding=1, cval=np.nan)[0, 0, 0])
    assert np.isinf(im2col(np.zeros((1, 1, 1, 1), np.float16), 1, padding=1, cval=np.inf)[0, 0, 0])


def test_unaligned_and_broadcast():
    x = numbers((2, 3, 5, 4), "f8")
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float64).reshape(x.shape)
    unaligned[...] = x
    np.testing.assert_array_equal(im2col(unaligned, 2), im2col(x, 2))
    row = np.broadcast_to(np.arange(4.0), (2, 3, 5, 4))
    np.testing.assert_array_equal(im2col(row, 2, padding=1), windows_by_loops(row, (2, 2), pads=((1, 1), (1, 1))))


def test_steps_longer_than_any_integer():
    x = numbers((1, 1, 3, 3), "f4")
    assert im2col(x, 2, stride=2**70).tolist() == [[[x[0, 0, r, s]] for r in (0, 1) for s in (0, 1)]]
    assert im2col(x, 1, dilation=2**70).shape == (1, 1, 9)
    assert extract_windows(x, 2, stride=2**70).shape == (1, 1, 1, 1, 2, 2)
    assert extract_windows(x, 1, dilation=2**70).shape == (1, 1, 3, 3, 1, 1)
    assert upsample_zeros(x[..., :1, :1], 2**70).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 0, 4, 4), (0, 0, 4, 4)])
def test_empty(shape):
    cols = im2col(np.zeros(shape, np.float32), 3, padding=1)
    assert cols.shape == (shape[0], shape[1] * 9, 16)
    image = col2im(cols, shape, 3, padding=1)
    assert image.shape == shape
    assert image.dtype == np.float32


# --- col2im ---


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_col2im_is_the_adjoint(data):
    """On integers <im2col(a), b> and <a, col2im(b)> are equal to the last bit, for every element a."""
    shape, geometry = data.draw(geometries())
    boundary = data.draw(st.sampled_from(BOUNDARIES))
    layout = data.draw(st.sampled_from(["NCHW", "NHWC"]))
    places = np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape)
    sources = windows_by_loops(places, **geometry, boundary=boundary)  # which element each entry came from, 0: none
    dtype = data.draw(st.sampled_from(DTYPES))
    cols = numbers(sources.shape, dtype, seed=1) % np.array(5).astype(dtype if dtype != "?" else "i1")
    expected = np.bincount(sources.ravel(), cols.ravel().astype("f8"), places.size + 1)[1:].reshape(shape)
    input_shape = tuple(np.array(shape)[[0, 2, 3, 1]]) if layout == "NHWC" else shape
    image = col2im(
        data.draw(memory_layouts(cols)), input_shape, **options(geometry), boundary=boundary, layout=layout
    )
    assert image.dtype == (cols.dtype if cols.dtype.kind == "f" else np.int64)
    assert image.flags.c_contiguous
    assert image.shape == input_shape
    np.testing.assert_array_equal(image.transpose(0, 3, 1, 2) if layout == "NHWC" else image, expected)


def test_float16_is_summed_in_float32():
    cols = np.full((1, 9, 9), 2049 / 2048, np.float16)  # sums of 9 round differently in float16
    cols[0, ::2] = 0.0004
    exact = col2im(cols.astype(np.float64), (1, 1, 3, 3), 3, padding=1)
    summed = col2im(cols.astype(np.float32), (1, 1, 3, 3), 3, padding=1)
    np.testing.assert_allclose(summed, exact, rtol=1e-6)
    np.testing.assert_array_equal(col2im(cols, (1, 1, 3, 3), 3, padding=1), summed.astype(np.float16))
    assert np.isinf(col2im(np.full((1, 4, 1), 6e4, np.float16), (1, 1, 1, 1), 2, padding="same", boundary="edge")).all()


def test_integer_sums_are_exact_or_refused():
    shape, large = (1, 1, 2, 2), 2**61
    kept = col2im(np.full((1, 4, 1), large), shape, 2)
    assert kept.tolist() == [[[[large] * 2] * 2]]
    cols = np.full((1, 4, 9), 2**61 - 1)
    assert col2im(cols, shape, 2, padding=1).tolist() == [[[[2**63 - 4] * 2] * 2]]
    assert col2im(-cols, shape, 2, padding=1).tolist() == [[[[4 - 2**63] * 2] * 2]]
    with pytest.raises(OverflowError, match="cols"):
        col2im(cols + 1, shape, 2, padding=1)
    with pytest.raises(OverflowError, match="cols"):
        col2im(np.full((1, 4, 1), 2**63, np.uint64), shape, 2)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i4"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_same_bytes_for_every_number_of_workers(dtype, layout):
    shape = (2, 5, 61, 67)  # large enough to be shared out
    x = np.random.default_rng(0).standard_normal(shape)
    x = (100 * x).astype(dtype) if dtype == "i4" else x.astype(dtype)
    given_shape = tuple(np.array(shape)[[0, 2, 3, 1]]) if layout == "NHWC" else shape
    geometry = {"padding": 2, "boundary": "wrap", "layout": layout}
    results = []
    for workers in (1, 2, 3, 5):
        with fastconv.set_workers(workers):
            cols = im2col(x.transpose(0, 2, 3, 1) if layout == "NHWC" else x, 4, **geometry)
            results.append((cols.tobytes(), col2im(cols, given_shape, 4, **geometry).tobytes()))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("side", ["start", "end"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_nothing_outside_is_touched(guarded, boundary, side):
    """Arrays that end (or begin) at an unmapped page."""
    for extents, kernel, stride in [((5, 7), (3, 3), 1), ((4, 4), (1, 1), 2), ((1, 9), (2, 5), 1)]:
        x = guarded(numbers((2, 3, *extents), "f4"), side)
        cols = im2col(x, kernel, stride=stride, padding=2, boundary=boundary)
        image = col2im(guarded(cols, side), x.shape, kernel, stride=stride, padding=2, boundary=boundary)
        ones = np.ones_like(cols)
        counts = col2im(ones, x.shape, kernel, stride=stride, padding=2, boundary=boundary)
        np.testing.assert_array_equal(image, counts * x)


# --- extract_windows ---


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_extract_windows(data):
    extents = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    dilation = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    window = tuple(data.draw(st.integers(1, (h - 1) // d + 1)) for h, d in zip(extents, dilation, strict=True))
    x = numbers((2, 3, *extents), data.draw(st.sampled_from(DTYPES)))
    axes = data.draw(st.permutations(range(4)))[:2]
    moved = np.moveaxis(x, (2, 3), axes)
    named = tuple(axis - data.draw(st.sampled_from([0, 4])) for axis in axes)
    view = extract_windows(data.draw(memory_layouts(moved)), window, stride=stride, dilation=dilation, axes=named)
    P, Q = ((h - d * (r - 1) - 1) // s + 1 for h, d, r, s in zip(extents, dilation, window, stride, strict=True))
    expected = windows_by_loops(x, window, stride, dilation=dilation).reshape(2, 3, *window, P, Q)
    np.testing.assert_array_equal(view, expected.transpose(0, 1, 4, 5, 2, 3))


def test_extract_windows_is_a_read_only_view():
    x = numbers((4, 5), "f4")
    view = extract_windows(x, 2)
    assert np.shares_memory(view, x)
    assert not view.flags.writeable
    assert x.flags.writeable
    x[0, 0] = 77
    assert view[0, 0, 0, 0] == 77
    assert extract_windows(np.zeros((0, 4, 4)), 2).shape == (0, 3, 3, 2, 2)


# --- upsample_zeros ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_upsample_zeros(dtype):
    x = numbers((3, 4, 2), dtype)
    y = upsample_zeros(x, (3, 2), axes=(1, -3))
    assert y.dtype == x.dtype
    assert y.shape == (5, 10, 2)
    np.testing.assert_array_equal(y[::2, ::3], x)
    y[::2, ::3] = 0
    assert not y.any()
    same = upsample_zeros(x, 1)
    np.testing.assert_array_equal(same, x)
    assert not np.shares_memory(same, x)
    assert upsample_zeros(x.astype(x.dtype.newbyteorder()), 2).dtype.isnative


def test_upsample_zeros_undoes_striding_of_gradients():
    assert upsample_zeros(np.zeros((0, 3, 3)), 2).shape == (0, 5, 5)
    assert upsample_zeros([[1, 2], [3, 4]], 2).tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 4]]


# --- refusals ---

X = np.zeros((1, 2, 4, 5), np.float32)
COLS = np.zeros((1, 18, 6), np.float32)


@pytest.mark.parametrize(
    ("error", "word", "x", "changes"),
    [
        (TypeError, "x", X.astype(complex), {}),
        (TypeError, "x", X.astype(object), {}),
        (TypeError, "x", X.astype(str), {}),
        (TypeError, "x", X.astype(np.longdouble), {}),
        (ShapeError, "x", X[0], {}),
        (ShapeError, "x", X[:, :, :0], {}),
        (ShapeError, "kernel_size", X, {"kernel_size": 0}),
        (ShapeError, "kernel_size", X, {"kernel_size": (5, 1)}),
        (ShapeError, "kernel_size", X, {"kernel_size": (1, 6)}),
        (ShapeError, "kernel_size", X, {"kernel_size": 3, "dilation": 2}),
        (ShapeError, "kernel_size", X, {"kernel_size": (1, 2, 3)}),
        (TypeError, "kernel_size", X, {"kernel_size": 2.0}),
        (TypeError, "kernel_size", X, {"kernel_size": "22"}),
        (ShapeError, "stride", X, {"stride": 0}),
        (ShapeError, "dilation", X, {"dilation": (1, 0)}),
        (ShapeError, "padding", X, {"padding": -1}),
        (ValueError, "padding", X, {"padding": "some"}),
        (ShapeError, "2\\*\\*63", X, {"padding": 2**62}),
        (ShapeError, "2\\*\\*63", X, {"padding": 2**31}),
        (ValueError, "boundary", X, {"boundary": "around"}),
        (ValueError, "layout", X, {"layout": "CHWN"}),
        (TypeError, "cval", X, {"cval": "0"}),
        (TypeError, "cval", X, {"cval": 1j}),
        (TypeError, "cval", X.astype("i4"), {"cval": 0.5}),
        (TypeError, "cval", X.astype("i4"), {"cval": np.inf}),
        (TypeError, "cval", X.astype("?"), {"cval": np.nan}),
        (OverflowError, "cval", X.astype("u1"), {"cval": -1}),
        (OverflowError, "cval", X.astype("i1"), {"cval": 128.0}),
        (OverflowError, "cval", X.astype("u8"), {"cval": 2**64}),
        (OverflowError, "cval", X.astype("?"), {"cval": 2}),
        (OverflowError, "cval", X.astype("f2"), {"cval": 1e5}),
        (OverflowError, "cval", X, {"cval": 1e39}),
    ],
)
def test_im2col_refuses(error, word, x, changes):
    with pytest.raises(error, match=word):
        im2col(x, **{"kernel_size": 2, **changes})


@pytest.mark.parametrize(
    ("error", "word", "changes"),
    [
        (TypeError, "cols", {"cols": COLS.astype(complex)}),
        (ShapeError, "cols", {"cols": COLS[0]}),
        (ShapeError, "cols", {"cols": COLS[:, 1:]}),
        (ShapeError, "cols", {"cols": COLS[:, :, 1:]}),
        (ShapeError, "cols", {"padding": 1}),
        (ShapeError, "cols", {"layout": "NHWC", "input_shape": (1, 5, 5, 3)}),
        (ShapeError, "input_shape", {"input_shape": (2, 4, 5)}),
        (ShapeError, "input_shape", {"input_shape": (1, 2, 4, -5)}),
        (ShapeError, "input_shape", {"input_shape": (2**40, 2**40, 4, 5)}),
        (TypeError, "input_shape", {"input_shape": 4}),
        (TypeError, "input_shape", {"input_shape": (1, 2, 4.0, 5)}),
        (ShapeError, "0x5", {"input_shape": (1, 2, 0, 5)}),
        (ShapeError, "kernel_size", {"kernel_size": 6}),
        (ValueError, "layout", {"layout": 3}),
        (ValueError, "boundary", {"boundary": None}),
    ],
)
def test_col2im_refuses(error, word, changes):
    with pytest.raises(error, match=word):
        col2im(**{"cols": COLS, "input_shape": (1, 2, 4, 5), "kernel_size": 3, **changes})


@pytest.mark.parametrize(
    ("error", "word", "changes"),
    [
        (TypeError, "x", {"x": X.astype(complex)}),
        (TypeError, "x", {"x": [["a"]]}),
        (IndexError, "axes", {"axes": (0, 4)}),
        (ValueError, "axes", {"axes": (0, -5)}),
        (ValueError, "axes", {"axes": (1, 1)}),
        (ValueError, "axes", {"axes": (1, -3)}),
        (ValueError, "axes", {"axes": (1,)}),
        (TypeError, "axes", {"axes": 1}),
        (TypeError, "axes", {"axes": (0, 1.0)}),
        (ValueError, "axes", {"x": np.zeros(3)}),
        (ShapeError, "stride", {"stride": 0}),
    ],
)
def test_extract_windows_and_upsample_zeros_refuse(error, word, changes):
    with pytest.raises(error, match=word):
        extract_windows(**{"x": X, "window": 2, **changes})
    with pytest.raises(error, match=word):
        upsample_zeros(**{"x": X, "stride": 2, **changes})


def test_extract_windows_refuses():
    for changes in ({"window": 5}, {"window": (1, 6)}, {"window": 3, "dilation": 2}, {"window": 0}):
        with pytest.raises(ShapeError, match="window"):
            extract_windows(X, **changes)
    with pytest.raises(ShapeError, match="window"):
        extract_windows(X[:, :, :0], 1)
    with pytest.raises(ShapeError, match="overflows"):
        extract_windows(np.broadcast_to(np.float64(1), (2**30, 2**28)), 5)
    with pytest.raises(ShapeError, match="axes"):
        upsample_zeros(X[:, :, :0], 2)
    with pytest.raises(ShapeError, match="overflows"):
        upsample_zeros(X, 2**40)
    with pytest.raises(MemoryError):
        upsample_zeros(X, (2**40, 1))


def test_sizes_that_can_not_be_had():
    with pytest.raises(MemoryError):
        im2col(X, 2, padding=(2**40, 0))
