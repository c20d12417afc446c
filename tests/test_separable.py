"""Kernels as sums of outer products, and filtering by their columns and rows."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv as fc
from fastconv import machine, planner
from fastconv.factors import GROWTH, TOLERANCE, factors, most_terms

BOUNDARIES = ("constant", "edge", "symmetric", "reflect", "wrap")


def of_rank(terms, shape, seed=0, dtype="float64"):
    rng = np.random.default_rng([seed, terms, *shape])
    return (rng.standard_normal((shape[0], terms)) @ rng.standard_normal((terms, shape[1]))).astype(dtype)


# --- factors ---


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_factors_are_the_kernel(dtype):
    for terms in (1, 2, 3):
        for shape in [(9, 9), (7, 31), (16, 8)]:
            for scale in (1.0, 1e-30, 1e30):
                kernel = (of_rank(terms, shape) * scale).astype(dtype)
                found = factors(kernel[None], most_terms(*shape))
                assert found.columns.shape == (1, terms, shape[0])
                assert found.rows.dtype == kernel.dtype
                assert found.rank == terms
                (columns,), (rows,) = found.columns, found.rows
                rest = kernel - np.einsum("ir,is->rs", columns, rows, dtype=np.float64)
                norm = np.linalg.norm(kernel.astype(np.float64))
                assert np.linalg.norm(rest) <= 1.01 * TOLERANCE * np.finfo(dtype).eps * norm
                products = [
                    np.linalg.norm(np.outer(c, r).astype(np.float64)) for c, r in zip(columns, rows, strict=True)
                ]
                assert sum(products) <= GROWTH * terms * norm
                assert (np.abs(rows).sum(axis=1) <= 1).all()


def test_rank_one_of_whole_numbers_is_exact():
    for column, row in [
        ([3], [5]),
        ([1, 3], [2, 5]),
        ([0, 0, 6, -9], [0, 4, -6]),
        ([0, 0], [1, 2]),
        ([7, 0, 21], [0, 5]),
        ([0, 0, 0], [0, 0]),
    ]:
        kernel = np.outer(column, row)
        for dtype in ("int64", "float32", "float64"):
            found = factors(kernel[None].astype(dtype), 1)
            assert found.same_signs
            np.testing.assert_array_equal(np.outer(found.columns[0, 0], found.rows[0, 0]), kernel)
            image = np.arange(30).reshape(5, 6).astype(dtype)
            expected = fc.correlate2d(image, kernel.astype(dtype), method="direct")
            np.testing.assert_array_equal(fc.correlate2d(image, kernel.astype(dtype), method="separable"), expected)


@pytest.mark.parametrize(
    ("kernel", "most"),
    [
        (np.array([[1, 2], [3, 4]]), 9),
        (np.array([[1.0, 2.0], [3.0, 4.0]]), 1),
        (np.array([[1, 2**32], [2**32, 0]]), 1),  # the product is 2**64: 0, if it wraps
        (np.array([[-(2**63), 1], [1, 1]]), 1),
        (np.array([[1.0, np.nan], [1.0, 1.0]]), 1),
        (np.array([[1.0, np.inf], [1.0, np.inf]]), 1),
        (np.full((3, 3), np.float32(3e38)), 1),  # no balance without overflow
        (np.random.default_rng(0).random((20, 20)), most_terms(20, 20)),
    ],
)
def test_too_many_terms(kernel, most):
    assert factors(kernel[None], most).rank == 0


def test_terms_that_pay():
    for height in range(1, 20):
        for width in range(1, 20):
            terms = most_terms(height, width)
            assert terms == 1 or terms * (height + width) < height * width
            assert (terms + 1) * (height + width) >= height * width


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 4), st.sampled_from([None, 0.0, 1e-9, 0.1]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_separate(height, width, terms, rtol, single):
    kernel = of_rank(terms, (height, width), dtype="float32" if single else "float64")
    columns, rows = fc.separate(kernel, rtol=rtol)
    assert columns.dtype == rows.dtype == kernel.dtype
    sizes = np.linalg.svd(kernel.astype(np.float64), compute_uv=False)
    limit = (max(height, width) * np.finfo(kernel.dtype).eps if rtol is None else rtol) * sizes[0]
    assert len(columns) == len(rows) == max((sizes > limit).sum(), 1)
    rest = kernel - columns.astype(np.float64).T @ rows
    assert np.linalg.norm(rest, 2) <= limit + 50 * np.finfo(kernel.dtype).eps * sizes[0]  # rounding


def test_separate_known_kernels():
    columns, rows = fc.separate(fc.sobel_kernel(1))
    assert (columns.tolist(), rows.tolist()) == ([[1, 2, 1]], [[-1, 0, 1]])
    assert len(fc.separate(fc.laplacian_kernel())[0]) == 2
    assert len(fc.separate(fc.gaussian_kernel(2.0))[0]) == 1
    columns, rows = fc.separate(np.zeros((2, 3)))
    assert (columns.shape, rows.shape, columns.any() and rows.any()) == ((1, 2), (1, 3), False)
    assert fc.separate(np.ones((2, 2), np.float16))[0].dtype == np.float32
    for wrong, options, error in [
        (np.ones(3), {}, fc.ShapeError), (np.ones((0, 3)), {}, fc.ShapeError), ([[np.nan]], {}, ValueError),
        ([[1.0]], {"rtol": -1}, ValueError), ([[1.0]], {"rtol": "x"}, ValueError), ([[1j]], {}, TypeError),
    ]:  # fmt: skip
        with pytest.raises(error):
            fc.separate(wrong, **options)


# --- filtering ---


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    channels = draw(st.integers(1, 3))
    terms = min(draw(st.integers(1, 3)), most_terms(*shape))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(*[st.tuples(st.integers(0, 12), st.integers(0, 12))] * 2))
    least = [max(d * (r - 1) + 1 - sum(p), 1) for r, d, p in zip(shape, dilation, padding, strict=True)]
    extents = tuple(draw(st.integers(n, n + 14)) for n in least)
    x_shape = (draw(st.integers(1, 3)), channels, *extents)
    return x_shape, (channels, 1, *shape), terms, {
        "dilation": dilation, "padding": padding, "groups": channels, "cval": draw(st.sampled_from([0.0, 2.5])),
        "stride": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))), "boundary": draw(st.sampled_from(BOUNDARIES)),
    }  # fmt: skip


@given(cases(), st.sampled_from(["float32", "float64"]), st.sampled_from(["plain", "spike", "positive", "wide"]))
@settings(max_examples=60, deadline=None)
def test_within_its_bound(case, dtype, data):
    """Hard data too: an element of 1e6, all positive, 1e-20 next to 1e20 (squares must fit a double in the norms)."""
    x_shape, w_shape, terms, options = case
    rng = np.random.default_rng([7, *x_shape])
    x = rng.standard_normal(x_shape)
    if data == "spike":
        x[..., rng.integers(x_shape[2]), rng.integers(x_shape[3])] = 1e6
    elif data == "positive":
        x = np.abs(x) + 1
    elif data == "wide":
        x *= 10.0 ** rng.integers(-20, 21, x_shape)
    x = x.astype(dtype)
    w = np.stack([of_rank(terms, w_shape[2:], c, dtype) for c in range(w_shape[0])])[:, None]
    try:
        y = fc.conv2d(x, w, method="separable", **options)
    except fc.UnsupportedError:
        pytest.fail(f"{w_shape} of rank {terms} must be served")
    # in longdouble, from the definition
    exact = shifted(x.astype(np.longdouble), w.astype(np.longdouble), options)
    norms = np.sqrt(shifted(x.astype(np.longdouble) ** 2, np.ones_like(w), options | {"cval": options["cval"] ** 2}))
    sizes = np.sqrt((w.astype(np.longdouble) ** 2).sum(axis=(1, 2, 3)))
    bound = bound_of(x_shape, w, dtype, options, "forward")
    assert (np.abs(y - exact) <= bound * norms * sizes[:, None, None] + 1e-37).all()
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx = fc.conv2d_input_grad(dy, w, x_shape, method="separable", **options)
    direct = fc.conv2d_input_grad(dy.astype("float64"), w.astype("float64"), x_shape, method="direct", **options)
    bound = bound_of(x_shape, w, dtype, options, "input_grad")
    assert (np.abs(dx - direct) <= bound * np.linalg.norm(dy) * sizes[:, None, None].astype(float)).all()


def bound_of(x_shape, w, dtype, options, direction):
    """The plan's bound, by the image function: only there values tell the rank to a plan."""
    problem = fc.plan_conv2d(x_shape, w.shape, dtype=dtype, direction=direction, method="direct", **options).problem
    found = factors(w[:, 0], most_terms(*w.shape[2:])).rank
    return planner.plan(replace(problem, rank=found), method="separable").error_bound


def shifted(x, w, options):
    """conv2d of each channel with its filter, by shifted copies of the padded image."""
    constant = {"constant_values": options["cval"]} if options["boundary"] == "constant" else {}
    padded = np.pad(x, ((0, 0), (0, 0), *options["padding"]), mode=options["boundary"], **constant)
    (R, S), (dh, dw), (sh, sw) = w.shape[2:], options["dilation"], options["stride"]
    P, Q = padded.shape[2] - dh * (R - 1), padded.shape[3] - dw * (S - 1)
    y = np.zeros((*x.shape[:2], P, Q), x.dtype)
    for r in range(R):
        for s in range(S):
            y += padded[..., r * dh : r * dh + P, s * dw : s * dw + Q] * w[:, 0, r, s, None, None]
    return y[..., ::sh, ::sw]


def test_a_large_constant():
    image = np.full((40, 50), np.float32(3e38))
    y = fc.correlate2d(image, fc.box_kernel(9).astype(np.float32), boundary="edge", method="separable")
    np.testing.assert_allclose(y, image, rtol=1e-6)
    image = np.full((40, 50), np.float32(1e33))
    kernel = of_rank(2, (9, 9), dtype="float32")
    y = fc.correlate2d(image, kernel, boundary="edge", method="separable")
    size = float(np.linalg.norm(kernel)) * 9 * 1e33
    np.testing.assert_allclose(y, kernel.sum(dtype=np.float64) * 1e33, atol=1e-5 * size)


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_nan_and_infinities_go_where_the_direct_sum_sends_them(terms, special, isa):
    kernel = of_rank(terms, (5, 7))
    kernel[:, 3] = 0  # times infinity: NaN
    assert factors(kernel[None], 2).rank == terms
    image = np.random.default_rng(0).standard_normal((60, 70))
    for options in ({}, {"stride": 2, "boundary": "reflect"}, {"cval": special}):
        spoilt = image.copy()
        spoilt[[3, 30, 31], [5, 40, 42]] = special, 1.0, -special
        expected = fc.correlate2d(spoilt, kernel, method="direct", **options)
        result = fc.correlate2d(spoilt, kernel, method="separable", **options)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(result[~finite], expected[~finite])
        np.testing.assert_allclose(result[finite], expected[finite], atol=1e-12)
    dy = image.copy()
    dy[7, 8] = special
    for options in ({}, {"stride": 2, "boundary": "wrap"}):
        shape = tuple(n * options.get("stride", 1) for n in dy.shape)
        expected = fc.correlate2d_input_grad(dy, kernel, shape, method="direct", **options)
        result = fc.correlate2d_input_grad(dy, kernel, shape, method="separable", **options)
        np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
        np.testing.assert_array_equal(np.isinf(result), np.isinf(expected))


def test_channels_with_a_kernel_each():
    x = np.random.default_rng(0).standard_normal((2, 3, 20, 30))
    w = np.stack([of_rank(1, (7, 5)), of_rank(2, (7, 5)), np.zeros((7, 5))])[:, None]
    bias = np.array([1.0, 2.0, 3.0])
    for layout in ("NCHW", "NHWC"):
        given_x = x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        options = {"groups": 3, "padding": "same", "layout": layout}
        expected = fc.conv2d(given_x, w, bias, method="direct", **options)
        result = fc.conv2d(given_x, w, bias, method="separable", **options)
        np.testing.assert_allclose(result, expected, atol=1e-12)


def test_what_it_refuses():
    image = np.ones((20, 20))
    dense = np.random.default_rng(0).random((5, 5))
    for call in (
        lambda: fc.correlate2d(image, dense, method="separable"),
        lambda: fc.correlate2d(image.astype(int), (dense * 9).astype(int), method="separable"),
        lambda: fc.correlate2d(image.astype(int), fc.laplacian_kernel().astype(int), method="separable"),
        lambda: fc.correlate2d(image, np.full((3, 3), np.nan), method="separable"),
        lambda: fc.correlate2d_kernel_grad(image, image, (3, 3), method="separable"),
        lambda: fc.conv2d(np.ones((1, 2, 9, 9)), np.ones((1, 2, 3, 3)), method="separable"),
        lambda: fc.conv2d(np.ones((1, 1, 9, 9)), np.ones((2, 1, 3, 3)), method="separable"),
        lambda: fc.correlate2d(image, fc.box_kernel(3), method="separable", elementwise=True, max_workspace=0),
        lambda: fc.correlate2d(image, fc.box_kernel(3), method="separable", elementwise=True),
        lambda: fc.plan_conv2d((1, 1, 9, 9), (1, 1, 3, 3), method="separable"),
    ):
        with pytest.raises(fc.UnsupportedError, match="separable"):
            call()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
@pytest.mark.parametrize("kernel_dtype", ["int64", "float32", "float64"])
@pytest.mark.parametrize(
    "options", [{}, {"stride": (1, 2), "dilation": (3, 2), "boundary": "wrap"}, {"cval": 7}], ids=str
)
def test_integer_images_are_converted_in_passing(dtype, kernel_dtype, options, isa):
    """Small ones, whose sums every dtype holds, and the largest whose sums int64 and float64 hold."""
    kernel = np.outer([1, -2, 3, 0, 1], [2, 0, -1, 1]).astype(kernel_dtype)
    least, most = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    for limit in (9, 2**45):
        if kernel_dtype == "float32" and min(most, limit) > 2**16:
            continue  # promoted to float64, whose kernels the other parameter tries
        sizes = max(least, -limit), min(most, limit)
        images = np.random.default_rng(0).integers(*sizes, (2, 21, 70, 2), endpoint=True).astype(dtype)
        for axes in ((1, 2), (2, 1)):
            expected = fc.correlate2d(images, kernel, axes=axes, method="direct", **options)
            result = fc.correlate2d(images, kernel, axes=axes, method="separable", **options)
            assert result.dtype == expected.dtype
            np.testing.assert_array_equal(result, expected)
            out = np.empty((*result.shape, 2), result.dtype)[..., 1]
            fc.correlate2d(images, kernel, axes=axes, method="separable", out=out, **options)
            np.testing.assert_array_equal(out, expected)


@given(cases(), st.sampled_from(["float32", "float64", "int64"]))
@settings(max_examples=60, deadline=None)
def test_whole_numbers_are_exact(case, dtype):
    x_shape, w_shape, _, options = case
    rng = np.random.default_rng([7, *x_shape])
    x = rng.integers(-5, 6, x_shape).astype(dtype)
    columns, rows = (rng.integers(-3, 4, (w_shape[0], 1, n)) for n in w_shape[2:])
    w = (columns[..., None] * rows[:, :, None]).astype(dtype)
    bias = rng.integers(-3, 4, w_shape[0]).astype(dtype)
    options = options | {"cval": 2.0}
    expected = fc.conv2d(x, w, bias, method="direct", **options)
    np.testing.assert_array_equal(fc.conv2d(x, w, bias, method="separable", **options), expected)
    dy = rng.integers(-5, 6, expected.shape).astype(dtype)
    expected = fc.conv2d_input_grad(dy, w, x_shape, method="direct", **options)
    np.testing.assert_array_equal(fc.conv2d_input_grad(dy, w, x_shape, method="separable", **options), expected)


@pytest.mark.parametrize("terms", [1, 2])
def test_bands_and_blocks(terms, isa):
    """Several of both, and rows of one line."""
    for shape, kernel, options in [
        ((700, 60), (23, 3), {}), ((70, 9000), (5, 5), {}), ((40, 3000), (31, 31), {"boundary": "reflect"}),
        ((260, 50), (3, 7), {"stride": (3, 1)}), ((300, 40), (5, 4), {"dilation": (4, 2), "stride": (2, 3)}),
    ]:  # fmt: skip
        rng = np.random.default_rng(0)
        image, w = rng.integers(-3, 4, shape).astype(np.float64), np.zeros(kernel)
        for _ in range(terms):
            w += np.outer(rng.integers(-2, 3, kernel[0]), rng.integers(-2, 3, kernel[1]))
        expected = fc.correlate2d(image, w, method="direct", **options)
        result = fc.correlate2d(image, w, method="separable", **options)
        np.testing.assert_allclose(result, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("channels", [2, 3, 5])
@pytest.mark.parametrize("terms", [1, 2])
def test_a_channel_of_a_photo_keeps_its_bytes(boundary, channels, terms, isa):
    kernel = of_rank(terms, (5, 7), dtype="float32")
    photo = np.random.default_rng(0).standard_normal((23, 41, channels)).astype(np.float32)
    for spoilt in (0, np.inf):
        photo[11, 17, 0] += spoilt
        for options in ({}, {"dilation": (1, 3)}, {"stride": (2, 1), "mode": "full", "cval": 2.0}, {"stride": 2}):
            options = options | {"boundary": boundary, "method": "separable"}
            together = fc.correlate2d(photo, kernel, axes=(0, 1), **options)
            for c in range(channels):
                assert together[..., c].tobytes() == fc.correlate2d(photo[..., c], kernel, **options).tobytes()
            dx = fc.correlate2d_input_grad(together, kernel, photo.shape, axes=(0, 1), **options)
            for c in range(channels):
                alone = fc.correlate2d_input_grad(together[..., c], kernel, photo.shape[:2], **options)
                assert dx[..., c].tobytes() == alone.tobytes()


def test_auto_takes_it_where_it_pays():
    image = np.random.default_rng(0).random((600, 600), np.float32)
    smooth = fc.gaussian_kernel(3.0).astype(np.float32)
    dense = np.random.default_rng(1).random(smooth.shape, np.float32)
    named = fc.correlate2d(image, smooth, method="separable")
    assert fc.correlate2d(image, smooth).tobytes() == named.tobytes()
    assert fc.plan_correlate2d(image.shape, smooth).method == "separable"
    assert fc.plan_correlate2d(image.shape, dense).method != "separable"
    assert "so few outer products" in fc.plan_correlate2d(image.shape, dense).explain()


def test_scratch_stays_bounded():
    """A 2048 x 2048 image with a 31 x 31 kernel."""
    image, out = np.ones((2048, 2048)), np.empty((2048, 2048))
    for kernel in (fc.gaussian_kernel(3.75), of_rank(2, (31, 31))):
        plan = fc.plan_correlate2d(image.shape, kernel, boundary="reflect", method="separable")
        assert plan.method == "separable"
        assert plan.workspace_bytes < 4 << 20
        fc.correlate2d(image, kernel, boundary="reflect", out=out, workers=1, method="separable")
        machine.clear_scratch()  # plans, made by now, are no scratch
        tracemalloc.start()
        fc.correlate2d(image, kernel, boundary="reflect", out=out, workers=1, method="separable")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < plan.workspace_bytes + (1 << 20)


def test_same_bytes_for_any_number_of_workers_or_neighbours(isa):
    x = np.random.default_rng(0).standard_normal((4, 1, 150, 140)).astype(np.float32)
    w = of_rank(2, (9, 9), dtype="float32")[None, None]
    results = {fc.conv2d(x, w, padding=4, method="separable", workers=n).tobytes() for n in (1, 2, 3, 5)}
    results.add(b"".join(fc.conv2d(x[n : n + 1], w, padding=4, method="separable").tobytes() for n in range(4)))
    assert len(results) == 1


def test_a_sample_keeps_its_bytes_beside_one_that_is_not_finite():
    x = np.random.default_rng(0).standard_normal((3, 1, 30, 30)).astype(np.float32)
    w = of_rank(2, (9, 9), dtype="float32")[None, None]
    expected = fc.conv2d(x, w, method="separable")
    x[1, 0, 15, 15] = np.inf
    result = fc.conv2d(x, w, method="separable")
    assert result[[0, 2]].tobytes() == expected[[0, 2]].tobytes()
    assert result[1:2].tobytes() == fc.conv2d(x[1:2], w, method="separable").tobytes()
    np.testing.assert_allclose(result[1], fc.conv2d(x[1:2], w, method="direct")[0], rtol=1e-4, atol=1e-4)
