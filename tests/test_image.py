"""Image filters, their gradients and kernels, against SciPy and against plain sums over ``numpy.pad``."""

import tracemalloc
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastconv as fc
from fastconv import machine

BOUNDARIES = ("constant", "edge", "symmetric", "reflect", "wrap")
MODES = ("same", "valid", "full")
DTYPES = ("float32", "float64", "float16", "int64", "uint8")


def integers(shape, seed=0, least=-4, most=4):
    return np.random.default_rng([seed, *shape]).integers(least, most + 1, shape)


def reach(mode, kernel, dilation, turned):
    """Padding before and after, from the contract: where index (R-1)//2 of the kernel as given comes to lie."""
    pads = []
    for r, d in zip(kernel, dilation, strict=True):
        centre = (r - 1) // 2 if not turned else r - 1 - (r - 1) // 2
        before, after = {"valid": (0, 0), "full": (r - 1, r - 1), "same": (centre, r - 1 - centre)}[mode]
        pads.append((before * d, after * d))
    return pads


def definition(x, kernel, mode="same", boundary="constant", cval=0, stride=(1, 1), dilation=(1, 1), turned=False):
    """The filter of images (..., H, W) by shifted copies of the padded image."""
    pads = reach(mode, kernel.shape, dilation, turned)
    if turned:
        kernel = kernel[::-1, ::-1]
    constant = {"constant_values": cval} if boundary == "constant" else {}
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + pads, mode=boundary, **constant)
    (R, S), (dh, dw) = kernel.shape, dilation
    P, Q = padded.shape[-2] - dh * (R - 1), padded.shape[-1] - dw * (S - 1)
    y = np.zeros((*x.shape[:-2], P, Q), np.result_type(x, kernel))
    for r in range(R):
        for s in range(S):
            y += padded[..., r * dh : r * dh + P, s * dw : s * dw + Q] * kernel[r, s]
    return y[..., :: stride[0], :: stride[1]]


# --- against SciPy ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("boundary", ["constant", "symmetric", "wrap"])
def test_is_scipy_signal(mode, boundary):
    theirs = {"constant": "fill", "symmetric": "symm", "wrap": "wrap"}[boundary]
    for extents in [(1, 1), (2, 2), (2, 3), (5, 4), (7, 1), (4, 6)]:
        image, kernel = integers((7, 8)), integers(extents, 1)
        for ours, name in ((fc.correlate2d, "correlate2d"), (fc.convolve2d, "convolve2d")):
            expected = getattr(scipy.signal, name)(image, kernel, mode, theirs, 3)
            result = ours(image, kernel, mode=mode, boundary=boundary, cval=3)
            assert result.dtype == np.int64
            np.testing.assert_array_equal(result, expected)


def test_a_kernel_larger_than_the_image():
    image, kernel = integers((3, 4)), integers((6, 9), 1)
    for mode in ("same", "full"):
        for ours, theirs in ((fc.correlate2d, scipy.signal.correlate2d), (fc.convolve2d, scipy.signal.convolve2d)):
            np.testing.assert_array_equal(ours(image, kernel, mode=mode), theirs(image, kernel, mode))
    for ours in (fc.correlate2d, fc.convolve2d):
        with pytest.raises(fc.ShapeError, match=r"kernel.*not swapped"):
            ours(image, kernel, mode="valid")
    with pytest.raises(fc.ShapeError):
        fc.correlate2d(integers((3, 9)), integers((2, 5)), mode="valid", dilation=3)


@pytest.mark.parametrize(
    ("boundary", "theirs"), [("edge", "nearest"), ("reflect", "mirror"), ("symmetric", "reflect"), ("wrap", "wrap")]
)
def test_is_scipy_ndimage_for_odd_kernels(boundary, theirs):
    image, kernel = integers((9, 8)), integers((5, 3), 1)
    expected = scipy.ndimage.correlate(image, kernel, mode=theirs)
    np.testing.assert_array_equal(fc.correlate2d(image, kernel, boundary=boundary), expected)
    expected = scipy.ndimage.convolve(image, kernel, mode=theirs)
    np.testing.assert_array_equal(fc.convolve2d(image, kernel, boundary=boundary), expected)


# --- any geometry, any memory ---


@st.composite
def geometries(draw):
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    mode = draw(st.sampled_from(MODES))
    least = [d * (r - 1) + 1 if mode == "valid" else 1 for r, d in zip(kernel, dilation, strict=True)]
    extents = tuple(draw(st.integers(n, n + 8)) for n in least)
    boundary = draw(st.sampled_from(BOUNDARIES))
    return extents, kernel, {
        "mode": mode, "dilation": dilation, "boundary": boundary,
        "cval": draw(st.integers(-3, 3)) if boundary == "constant" else 0,
        "stride": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
    }  # fmt: skip


@st.composite
def laid_out(draw, array):
    """The same values under other strides, perhaps byte-swapped, read-only."""
    order = draw(st.permutations(range(array.ndim)))
    array = np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
    steps = [draw(st.sampled_from([1, -1, 2, -2])) for _ in array.shape]
    wide = np.zeros([n * abs(step) for n, step in zip(array.shape, steps, strict=True)], array.dtype)
    view = wide[tuple(slice(None, None, step) for step in steps)]
    view[...] = array
    if draw(st.booleans()):
        view = view.astype(view.dtype.newbyteorder(), order="K")
    view.flags.writeable = False
    return view


def served(method, *args, direction="forward", **options):
    """Does the method serve? Those that sum directly always do."""
    try:
        fc.plan_correlate2d(*args, direction=direction, method=method, **options)
    except fc.UnsupportedError:
        assert method not in ("naive", "direct", "im2col")
        return False
    return True


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_is_its_definition(data):
    extents, kernel_shape, options = data.draw(geometries())
    stack = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    dtype = data.draw(st.sampled_from(DTYPES))
    low = 0 if dtype == "uint8" else -4
    image = integers((*stack, *extents), 1, low).astype(dtype)
    kernel = integers(kernel_shape, 2, low).astype(dtype)
    if data.draw(st.booleans()):  # of rank 1
        kernel = np.outer(kernel[:, 0], kernel[0]).astype(dtype)
    if dtype == "uint8":
        options["cval"] = abs(options["cval"])
    turned = data.draw(st.booleans())
    wide = np.int64 if dtype in ("int64", "uint8") else np.float64
    expected = definition(image.astype(wide), kernel.astype(wide), turned=turned, **options)
    axes = data.draw(st.permutations(range(image.ndim)))[:2]
    image, expected = (np.moveaxis(a, (-2, -1), axes) for a in (image, expected))
    image, kernel = data.draw(laid_out(image)), data.draw(laid_out(kernel))
    method = data.draw(st.sampled_from(("auto", *fc.METHODS)))
    function = fc.convolve2d if turned else fc.correlate2d
    out = None
    if data.draw(st.booleans()):
        result_dtype = "int64" if dtype == "uint8" else dtype
        out = np.full([2 * n for n in expected.shape], 9, result_dtype)[(slice(None, None, -2),) * expected.ndim]
    with mock.patch.object(machine, "ISA", data.draw(st.sampled_from(machine.ISAS))):
        if method not in ("auto", "fft", "winograd") and not served(
            method, image.shape, kernel, dtype=dtype, axes=axes, **options
        ):
            return
        try:
            result = function(image, kernel, axes=tuple(axes), method=method, out=out, **options)
        except fc.UnsupportedError:
            assert method in ("fft", "winograd")
            return
    assert result is out if out is not None else result.flags.c_contiguous
    if method in ("fft", "winograd"):
        np.testing.assert_allclose(result, expected, atol=1 if dtype == "float16" else 1e-2)
    elif method == "separable" and dtype[0] == "f":
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(result, expected, atol=2000 * eps, rtol=50 * eps)
    else:
        assert result.dtype == ("int64" if dtype == "uint8" else dtype)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("method", ["naive", "direct", "im2col", "separable"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_every_instruction_set(method, dtype, isa):
    """Bit for bit on small integers: a kernel of rank 1 has whole factors."""
    image = integers((2, 33, 70), 3).astype(dtype)
    for shape in [(3, 3), (4, 7), (1, 5), (6, 1)]:
        kernel = np.outer(integers(shape[:1], 5), integers(shape[1:], 6)).astype(dtype)
        for boundary in BOUNDARIES:
            result = fc.correlate2d(image, kernel, method=method, boundary=boundary)
            np.testing.assert_array_equal(result, definition(image, kernel, boundary=boundary))


@pytest.mark.parametrize("side", ["start", "end"])
def test_nothing_beyond_the_arrays(isa, guarded, side):
    """Every array ends or starts at a page that may not be touched."""
    for dtype in ("float32", "float64", "int64"):
        for extents, shape in [((9, 17), (3, 4)), ((21, 5), (5, 1)), ((30, 30), (7, 7))]:
            image = guarded(integers((2, *extents), 3).astype(dtype), side)
            kernel = guarded(np.outer(integers(shape[:1], 5), integers(shape[1:], 6)).astype(dtype), side)
            for method in ("direct", "im2col", "separable"):
                for options in ({}, {"stride": (2, 3), "dilation": (2, 1), "boundary": "reflect", "mode": "full"}):
                    y = fc.correlate2d(image, kernel, method=method, **options)
                    out, dy = guarded(np.zeros_like(y), side), guarded(y, side)
                    np.testing.assert_array_equal(fc.correlate2d(image, kernel, method=method, out=out, **options), y)
                    dx = guarded(np.zeros_like(image), side)
                    fc.correlate2d_input_grad(dy, kernel, image.shape, method=method, out=dx, **options)
                    if method != "separable":
                        dw = guarded(np.zeros_like(kernel), side)
                        fc.correlate2d_kernel_grad(image, dy, shape, method=method, out=dw, **options)


# --- stacks and axes ---


def test_a_photo_is_filtered_without_a_copy():
    photo = np.random.default_rng(0).random((300, 400, 3), np.float32)
    kernel = np.random.default_rng(1).random((3, 3), np.float32)
    expected = np.stack([fc.correlate2d(photo[..., c], kernel) for c in range(3)], axis=-1)
    out = np.empty_like(photo)
    batch = np.stack([photo, photo[::-1]])
    for image, axes, target in ((photo, (0, 1), out), (batch, (1, 2), np.empty_like(batch))):
        fc.correlate2d(image, kernel, axes=axes, method="direct", out=target, workers=1)
        tracemalloc.start()
        fc.correlate2d(image, kernel, axes=axes, method="direct", out=target, workers=1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < photo.nbytes / 10
        np.testing.assert_array_equal(target if target.ndim == 3 else target[0], expected)


def test_stacks_of_any_order():
    image, kernel = integers((2, 5, 3, 6, 2)), integers((3, 2), 1)
    for axes in [(0, 1), (1, 3), (3, 1), (-1, -4), (2, 3)]:
        front = np.moveaxis(image, axes, (-2, -1))
        expected = np.moveaxis(definition(front, kernel), (-2, -1), axes)
        result = fc.correlate2d(image, kernel, axes=axes)
        assert result.flags.c_contiguous
        np.testing.assert_array_equal(result, expected)
        dw = fc.correlate2d_kernel_grad(image, expected, (3, 2), axes=axes)
        whole = fc.correlate2d_kernel_grad(
            np.ascontiguousarray(front), np.ascontiguousarray(np.moveaxis(expected, axes, (-2, -1))), (3, 2)
        )
        np.testing.assert_array_equal(dw, whole)
        dx = fc.correlate2d_input_grad(expected, kernel, image.shape, axes=axes)
        assert (dx * image).sum() == (expected * expected).sum()


def test_empty_stacks():
    kernel = np.ones((3, 3), np.float32)
    for shape in [(0, 5, 6), (2, 0, 5, 6), (0, 3, 5, 6)]:
        image = np.zeros(shape, np.float32)
        y = fc.correlate2d(image, kernel, mode="valid")
        assert y.shape == (*shape[:-2], 3, 4)
        assert fc.correlate2d_input_grad(y, kernel, shape, mode="valid").shape == shape
        assert fc.correlate2d_kernel_grad(image, y, (3, 3), mode="valid").tolist() == np.zeros((3, 3)).tolist()


def test_an_image_alone_and_in_a_stack():
    images = np.random.default_rng(0).standard_normal((5, 40, 50)).astype(np.float32)
    kernel = fc.gaussian_kernel(1.0).astype(np.float32)
    for method in ("direct", "im2col", "separable"):
        together = fc.correlate2d(images, kernel, method=method)
        for image, y in zip(images, together, strict=True):
            assert fc.correlate2d(image, kernel, method=method).tobytes() == y.tobytes()


# --- gradients ---


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_gradients_are_adjoints(data):
    """<correlate(x, k), dy> = <x, input_grad(dy, k)> = <k, kernel_grad(x, dy)>, exactly, with cval 0."""
    extents, kernel_shape, options = data.draw(geometries())
    options["cval"] = 0
    stack = tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
    image, kernel = integers((*stack, *extents), 1), integers(kernel_shape, 2)
    if data.draw(st.booleans()):
        kernel = np.outer(kernel[:, 0], kernel[0])
    axes = tuple(data.draw(st.permutations(range(image.ndim)))[:2])
    image = np.moveaxis(image, (-2, -1), axes)
    dtype = data.draw(st.sampled_from(["float64", "int64"]))
    image, kernel = image.astype(dtype), kernel.astype(dtype)
    y = fc.correlate2d(image, kernel, axes=axes, **options)
    dy = integers(y.shape, 3).astype(dtype)
    product = (y * dy).sum()
    for method in ("auto", "direct", "im2col", "separable"):
        if served(method, image.shape, kernel, axes=axes, direction="input_grad", **options):
            dx = fc.correlate2d_input_grad(dy, kernel, image.shape, axes=axes, method=method, **options)
            assert dx.shape == image.shape
            if method != "separable" or dtype == "int64":
                assert (dx * image).sum() == product
            else:
                np.testing.assert_allclose((dx * image).sum(), product, atol=1e-9)
        if method != "separable":
            dw = fc.correlate2d_kernel_grad(image, dy, kernel_shape, axes=axes, method=method, **options)
            assert (dw * kernel).sum() == product


def test_kernel_gradient_of_the_constant():
    image, dy = integers((5, 6)), integers((7, 8), 1)
    options = {"mode": "full", "cval": 3}
    dw = fc.correlate2d_kernel_grad(image, dy, (3, 3), **options)
    for r in range(3):
        for s in range(3):
            tap = np.zeros((3, 3), np.int64)
            tap[r, s] = 1
            assert dw[r, s] == (definition(image, tap, **options) * dy).sum()


# --- dtypes ---


def test_bytes_and_fractions():
    image = integers((40, 30, 3), 0, 0, 255).astype(np.uint8)
    kernel = fc.gaussian_kernel(1.2)
    expected = definition(np.moveaxis(image, 2, 0).astype(np.float64), kernel, boundary="reflect")
    expected = np.moveaxis(expected, 0, 2)
    single = fc.correlate2d(image, kernel.astype(np.float32), axes=(0, 1), boundary="reflect", dtype="float32")
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-5)
    out = np.zeros_like(image)
    result = fc.correlate2d(image, kernel, axes=(0, 1), boundary="reflect", dtype=np.uint8, out=out)
    assert result is out
    np.testing.assert_array_equal(out, np.rint(expected).astype(np.uint8))
    half = fc.correlate2d(image.astype(np.float16), kernel.astype(np.float16), axes=(0, 1))
    assert half.dtype == np.float16


def test_narrowing():
    image, kernel = np.array([[100, 200]], np.uint8), np.array([[2]], np.uint8)
    assert fc.correlate2d(image, kernel, dtype="uint8", overflow="saturate").tolist() == [[200, 255]]
    assert fc.correlate2d(image, kernel, dtype="uint8", overflow="wrap").tolist() == [[200, 144]]
    out = np.full((1, 2), 7, np.uint8)
    with pytest.raises(OverflowError):
        fc.correlate2d(image, kernel, dtype="uint8", out=out)
    assert out.tolist() == [[7, 7]]
    stack = np.full((2, 2, 2, 2), 100, np.uint8)[..., ::-1]
    stack[1, 1, 1, 1] = 200
    out = np.full((2, 2, 2, 2), 7, np.uint8)
    with pytest.raises(OverflowError):
        fc.correlate2d(stack, kernel, dtype="uint8", out=out, axes=(1, 2))
    assert (out == 7).all()


def test_integers_that_could_overflow():
    image, kernel = np.full((3, 3), 2**40), np.full((2, 2), 2**21)
    with pytest.raises(OverflowError):
        fc.correlate2d(image, kernel)
    assert fc.correlate2d(image, kernel // 2, mode="valid")[0, 0] == 2**62
    assert fc.correlate2d(image, kernel // 2, mode="valid", method="separable")[0, 0] == 2**62
    with pytest.raises(OverflowError):
        fc.correlate2d_input_grad(image, kernel, (4, 4), mode="valid")
    with pytest.raises(OverflowError):
        fc.correlate2d_kernel_grad(image, np.full((3, 3), 2**21), (2, 2))
    with pytest.raises(TypeError, match="cval"):
        fc.correlate2d(image, kernel, cval=0.5)


def test_same_bytes_for_any_number_of_workers(isa):
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal((3, 120, 131)), rng.standard_normal((5, 5))
    smooth = fc.gaussian_kernel(2.0)
    for method, k in (("direct", kernel), ("im2col", kernel), ("separable", smooth), ("auto", kernel)):
        results = set()
        for workers in (1, 2, 3, 5):
            y = fc.correlate2d(image, k, boundary="reflect", method=method, workers=workers)
            dx = fc.correlate2d_input_grad(y, k, y.shape, boundary="reflect", method=method, workers=workers)
            dw = fc.correlate2d_kernel_grad(
                image, y, k.shape, workers=workers, method="auto" if method == "separable" else method
            )
            results.add(y.tobytes() + dx.tobytes() + dw.tobytes())
        assert len(results) == 1


# --- plans ---


def test_plans():
    image = np.random.default_rng(0).random((3, 300, 200))
    kernel = fc.gaussian_kernel(3.0)
    plan = fc.plan_correlate2d(image.shape, kernel, boundary="wrap")
    assert (plan.method, plan.variant, plan.error_scope) == ("separable", "rank 1", "window")
    assert "rank 1" in plan.explain()
    expected = fc.correlate2d(image, kernel, boundary="wrap")
    packed, out = plan.pack(kernel), np.empty_like(image)
    assert plan(image, kernel).tobytes() == plan(image, packed, out=out).tobytes() == expected.tobytes()
    with pytest.raises(fc.UnsupportedError, match="rank"):
        plan(image, np.random.default_rng(0).random(kernel.shape))
    with pytest.raises(fc.ShapeError, match="image"):
        plan(image[0], kernel)
    with pytest.raises(TypeError, match="bias"):
        plan(image, kernel, np.zeros(1))
    unknown = fc.plan_correlate2d(image.shape, kernel.shape, dtype="float64", boundary="wrap", method="direct")
    np.testing.assert_allclose(unknown(image, kernel), expected, rtol=1e-12)
    with pytest.raises(fc.UnsupportedError, match="not known"):
        fc.plan_correlate2d(image.shape, kernel.shape, method="separable")


def test_plans_of_gradients():
    image, kernel = integers((4, 9, 8, 2)).astype(np.float64), fc.sobel_kernel(0)
    options = {"axes": (1, 2), "stride": 2, "boundary": "edge"}
    y = fc.correlate2d(image, kernel, **options)
    plan = fc.plan_correlate2d(image.shape, kernel, direction="input_grad", **options)
    expected = fc.correlate2d_input_grad(y, kernel, image.shape, **options)
    np.testing.assert_array_equal(plan(y, kernel), expected)
    np.testing.assert_array_equal(plan(y, plan.pack(kernel)), expected)
    plan = fc.plan_correlate2d(image.shape, (3, 3), direction="weight_grad", dtype="float64", **options)
    np.testing.assert_array_equal(plan(image, y), fc.correlate2d_kernel_grad(image, y, (3, 3), **options))


def test_plans_follow_the_default_method():
    image, kernel = integers((6, 7)).astype(np.float64), np.ones((3, 3))
    fc.correlate2d(image, kernel)
    with fc.set_method("separable"):
        np.testing.assert_array_equal(fc.correlate2d(image, kernel), definition(image, kernel))
        with pytest.raises(fc.UnsupportedError):
            fc.correlate2d(image, integers((3, 3)).astype(np.float64))


# --- refusals ---


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"image": np.ones(3)}, fc.ShapeError, "image"),
        ({"image": np.ones((0, 3))}, fc.ShapeError, "image"),
        ({"image": np.ones((3, 3), complex)}, TypeError, "image"),
        ({"image": np.ones((3, 3), np.longdouble)}, TypeError, "image"),
        ({"kernel": np.ones((1, 3, 3))}, fc.ShapeError, "kernel"),
        ({"kernel": np.ones((3, 0))}, fc.ShapeError, "kernel"),
        ({"kernel": np.ones((2, 2), object)}, TypeError, "kernel"),
        ({"mode": "SAME"}, ValueError, "mode"),
        ({"mode": None}, ValueError, "mode"),
        ({"boundary": "fill"}, ValueError, "boundary"),
        ({"cval": 1j}, TypeError, "cval"),
        ({"stride": 0}, fc.ShapeError, "stride"),
        ({"stride": 1.0}, TypeError, "stride"),
        ({"dilation": (1, 1, 1)}, fc.ShapeError, "dilation"),
        ({"axes": (0, 0)}, ValueError, "axes"),
        ({"axes": (0, 2)}, IndexError, "axes"),
        ({"axes": 1}, TypeError, "axes"),
        ({"method": "fastest"}, ValueError, "method"),
        ({"workers": 0}, ValueError, "workers"),
        ({"workers": 1.5}, TypeError, "workers"),
        ({"max_error": -1}, ValueError, "max_error"),
        ({"max_workspace": -1}, fc.ShapeError, "max_workspace"),
        ({"max_error": 1e-30}, fc.UnsupportedError, "error_bound"),
        ({"dtype": "complex128"}, TypeError, "dtype"),
        ({"overflow": "ignore"}, ValueError, "overflow"),
        ({"out": np.ones((4, 5), np.float32)}, TypeError, "out"),
        ({"out": np.ones((5, 4))}, fc.ShapeError, "out"),
        ({"out": [[0.0]]}, TypeError, "out"),
        ({"dilation": 2**62}, fc.ShapeError, "overflows"),
    ],
)  # fmt: skip
def test_refusals(change, error, words):
    given_all = {"image": np.ones((4, 5)), "kernel": np.ones((3, 3))} | change
    image, kernel = given_all.pop("image"), given_all.pop("kernel")
    fc.correlate2d(np.ones((4, 5)), np.ones((3, 3)))  # what equals it, as 1.0 equals 1, is in the short cut already
    for function in (fc.correlate2d, fc.convolve2d):
        with pytest.raises(error, match=words):
            function(image, kernel, **given_all)


def test_refusals_of_gradients():
    dy, kernel = np.ones((4, 5)), np.ones((3, 3))
    with pytest.raises(fc.ShapeError, match="dy"):
        fc.correlate2d_input_grad(dy, kernel, (4, 6))
    with pytest.raises(fc.ShapeError, match="dy"):
        fc.correlate2d_kernel_grad(np.ones((4, 6)), dy, (3, 3))
    with pytest.raises(fc.ShapeError, match="image_shape"):
        fc.correlate2d_input_grad(dy, kernel, (4,))
    with pytest.raises(TypeError, match="image_shape"):
        fc.correlate2d_input_grad(dy, kernel, 4)
    with pytest.raises(fc.ShapeError, match="kernel_shape"):
        fc.correlate2d_kernel_grad(dy, dy, (3, 0))
    with pytest.raises(ValueError, match="direction"):
        fc.plan_correlate2d((4, 5), (3, 3), direction="backward")
    with pytest.raises(fc.UnsupportedError, match="gradient"):
        fc.correlate2d_kernel_grad(dy, dy, (3, 3), method="separable")


def test_out_may_not_share_memory_with_an_input():
    image = np.ones((5, 5))
    with pytest.raises(ValueError, match="out"):
        fc.correlate2d(image, np.ones((3, 3)), out=image)
    pairs = np.zeros((5, 5, 2))  # interleaved, no element in common
    fc.correlate2d(pairs[..., 0] + 1, np.ones((1, 1)), out=pairs[..., 1])
    fc.correlate2d(pairs[..., 1], np.ones((1, 1)), out=pairs[..., 0])
    assert (pairs == 1).all()


def test_inputs_are_never_written_to():
    image, kernel = integers((6, 7)).astype(np.float64), fc.box_kernel(3)
    before = image.copy(), kernel.copy()
    for method in ("direct", "im2col", "separable"):
        fc.convolve2d(image, kernel, method=method)
    assert (image == before[0]).all()
    assert (kernel == before[1]).all()


# --- kernels ---


def test_gaussian_is_scipy():
    for sigma, truncate in [(0.3, 4.0), (1.0, 4.0), (2.5, 3.0), ((0.7, 2.0), 4.0)]:
        kernel = fc.gaussian_kernel(sigma, truncate=truncate)
        spot = np.zeros(kernel.shape)
        spot[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1
        expected = scipy.ndimage.gaussian_filter(spot, sigma, truncate=truncate, mode="constant")
        np.testing.assert_allclose(kernel, expected, rtol=1e-13)
        assert abs(kernel.sum() - 1) < 1e-14
    assert fc.gaussian_kernel(0).tolist() == [[1.0]]


def test_derivatives_are_scipy():
    image = integers((8, 9)).astype(np.float64)
    for axis in (0, 1, -1, -2):
        expected = scipy.ndimage.sobel(image, axis, mode="nearest")
        np.testing.assert_array_equal(fc.correlate2d(image, fc.sobel_kernel(axis), boundary="edge"), expected)
    expected = scipy.ndimage.laplace(image, mode="mirror")
    np.testing.assert_array_equal(fc.correlate2d(image, fc.laplacian_kernel(), boundary="reflect"), expected)
    expected = scipy.ndimage.uniform_filter(image, (3, 5), mode="mirror")
    np.testing.assert_allclose(fc.correlate2d(image, fc.box_kernel((3, 5)), boundary="reflect"), expected, atol=1e-14)


def test_kernels_are_float64_and_refuse():
    for kernel in (
        fc.gaussian_kernel(1),
        fc.sobel_kernel(0),
        fc.sobel_kernel(1),
        fc.box_kernel(3),
        fc.laplacian_kernel(),
    ):
        assert kernel.dtype == np.float64
        assert kernel.flags.c_contiguous
    for wrong, error in ((-1.0, ValueError), (np.nan, ValueError), ((1.0, 2.0, 3.0), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="sigma"):
            fc.gaussian_kernel(wrong)
    with pytest.raises(ValueError, match="truncate"):
        fc.gaussian_kernel(1.0, truncate=-1)
    with pytest.raises(IndexError):
        fc.sobel_kernel(2)
    with pytest.raises(fc.ShapeError, match="size"):
        fc.box_kernel(0)


def test_problem_text_holds_the_rank():
    problem = fc.plan_correlate2d((64, 64), fc.gaussian_kernel(2.0)).problem
    assert problem.rank == 1
    assert type(problem).from_text(problem.text) == problem
    assert "rank" not in replace(problem, rank=None).text
