"""``fastconv.compat`` beside SciPy: random cases of every option, and what goes on to SciPy."""

import inspect
import warnings

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import fastconv.compat.common
import fastconv.compat.ndimage
import fastconv.compat.signal

SIGNAL, NDIMAGE = fastconv.compat.signal, fastconv.compat.ndimage
MODES = ("full", "same", "valid")
EDGES = ("reflect", "mirror", "nearest", "constant", "wrap", "grid-mirror", "grid-constant", "grid-wrap")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "uint64", "float32", "float64")


@pytest.fixture(autouse=True)
def every_size_is_ours(monkeypatch):
    for name in ("LEAST_WORK", "LEAST_PIXELS"):
        monkeypatch.setattr(fastconv.compat.common, name, 0)


@pytest.fixture
def handed_on(monkeypatch):
    """The names of the functions that SciPy was asked for."""
    names = []

    class Watch:
        def __init__(self, package):
            self.package = package

        def __getattr__(self, name):
            names.append(name)
            return getattr(self.package, name)

    class Packages:
        signal, ndimage = Watch(scipy.signal), Watch(scipy.ndimage)

    for module in (SIGNAL, NDIMAGE):
        monkeypatch.setattr(module, "scipy", Packages)
    return names


def values(rng, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    return rng.integers(-100 if dtype.kind == "i" else 0, 120, shape).astype(dtype)


def agree(ours, theirs, scale=1.0, dtype=None):
    """Within rounding errors of ``dtype``, or of the results'."""
    assert type(ours) is type(theirs)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if ours.dtype.kind == "f":
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=scale * 64 * np.finfo(dtype or ours.dtype).eps)
    else:
        np.testing.assert_array_equal(ours, theirs)


def both(module, name, *args, scale=1.0, **options):
    package = scipy.signal if module is SIGNAL else scipy.ndimage
    single = any(
        isinstance(arg, np.ndarray) and arg.dtype == np.float32 for arg in args
    )  # theirs may be no better
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = getattr(module, name)(*args, **options), getattr(package, name)(*args, **options)
    agree(ours, theirs, scale, np.float32 if single else None)


@pytest.mark.parametrize("module", [SIGNAL, NDIMAGE])
def test_signatures_are_scipys(module):
    package = scipy.signal if module is SIGNAL else scipy.ndimage
    for name in module.__all__:
        ours = inspect.signature(getattr(module, name)).parameters.values()
        theirs = inspect.signature(getattr(package, name)).parameters
        for place, parameter in enumerate(ours):
            if parameter.name not in theirs:  # an older SciPy
                assert parameter.kind is parameter.KEYWORD_ONLY
                continue
            other = theirs[parameter.name]
            assert (parameter.kind, parameter.default) == (other.kind, other.default), (name, parameter)
            assert list(theirs).index(parameter.name) == place
        assert {parameter.name for parameter in ours} >= set(theirs)


# --- signal ----------------------------------------------------------------------------------------

SHAPES = [
    ((9, 12), (3, 4)),
    ((8, 7), (5, 1)),
    ((3, 4), (9, 6)),
    ((5, 5), (5, 5)),
    ((1, 9), (1, 2)),
    ((20, 17), (18, 4)),
]


@pytest.mark.parametrize("name", ["convolve2d", "correlate2d"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm"])
def test_signal_2d(name, mode, boundary, handed_on):
    rng = np.random.default_rng(1)
    for shape, kernel in SHAPES:
        for left in ("bool", *DTYPES):
            for right in ("int8", "uint16", "int64", "float32", "float64"):
                fill = 0.5 if "float" in left else 3
                args = values(rng, shape, left), values(rng, kernel, right), mode, boundary
                both(SIGNAL, name, *args, scale=1e5)
                if "float" in right or "float" not in left:
                    both(SIGNAL, name, *args, fillvalue=fill, scale=1e5)
    assert not handed_on


@pytest.mark.parametrize("name", ["convolve", "correlate"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["auto", "direct", "fft"])
def test_signal_both_names(name, mode, method, handed_on):
    rng = np.random.default_rng(2)
    for shape, kernel in SHAPES:
        for left in ("uint8", "int16", "int64", "float32", "float64"):
            for right in ("int8", "uint16", "float32", "float64"):
                args = values(rng, shape, left), values(rng, kernel, right), mode, method
                exact = method == "direct" or "float" in left or "float" in right
                if exact or np.result_type(left, right).itemsize > 2:  # SciPy's transforms don't wrap around
                    both(SIGNAL, name, *args, scale=1e5)
    assert not handed_on


@pytest.mark.parametrize("name", ["fftconvolve", "oaconvolve"])
@pytest.mark.parametrize("mode", MODES)
def test_signal_by_transforms(name, mode, handed_on):
    rng = np.random.default_rng(3)
    for shape, kernel in [*SHAPES, ((9, 1), (3, 4)), ((9, 5), (3, 1)), ((40, 50), (33, 4))]:
        for left in ("bool", "uint8", "int64", "float32", "float64"):
            for right in ("bool", "int8", "float32", "float64"):
                both(SIGNAL, name, values(rng, shape, left), values(rng, kernel, right), mode, scale=1e5)
    x = values(rng, (9, 12), "float64")
    handed_on.clear()
    for axes in (None, (0, 1), [1, 0], (-2, -1)):
        both(SIGNAL, name, x, values(rng, (3, 4), "float64"), mode, axes=axes)
    both(SIGNAL, name, x, values(rng, (3, 1), "float64"), mode, axes=0)
    both(SIGNAL, name, x, values(rng, (1, 3), "float64"), mode, axes=[-1])
    assert not handed_on
    both(SIGNAL, name, x, values(rng, (9, 3), "float64"), mode, axes=1)  # a kernel for each line
    both(
        SIGNAL, name, values(rng, (1, 4), "int64"), values(rng, (3, 1), "int64"), mode
    )  # a product, of integers
    assert len(handed_on) == 2


def test_signal_integers_wrap_around():
    for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "uint64"):
        info = np.iinfo(dtype)
        x, w = np.full((5, 6), info.max, dtype), np.full((3, 3), info.max, dtype)
        both(SIGNAL, "convolve2d", x, w)
        both(SIGNAL, "correlate2d", np.full((5, 6), info.min, dtype), w, fillvalue=1)


def test_signal_large_integers_by_transforms():
    rng = np.random.default_rng(4)
    x, w = rng.integers(0, 256, (90, 70)), rng.integers(0, 256, (40, 45))
    both(SIGNAL, "convolve2d", x, w)
    both(SIGNAL, "correlate", x, w, "same")


@pytest.mark.parametrize("arguments", [
    (np.ones((3, 3), complex), np.ones((2, 2))),
    (np.ones((3, 3)), np.ones((2, 2), np.longdouble)),
    (np.ones((3, 3), ">f8"), np.ones((2, 2))),
    (np.matrix(np.ones((3, 3))), np.ones((2, 2))),
])  # fmt: skip
@pytest.mark.parametrize("name", ["convolve2d", "correlate2d", "convolve", "correlate", "fftconvolve"])
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_signal_goes_on_to_scipy(name, arguments, handed_on):
    both(SIGNAL, name, *arguments)
    assert handed_on == [name]


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_signal_other_ranks(rank, handed_on):
    x = np.arange(3.0**rank).reshape((3,) * rank)
    for name in ("convolve", "correlate", "fftconvolve", "oaconvolve"):
        np.testing.assert_allclose(getattr(SIGNAL, name)(x, x), getattr(scipy.signal, name)(x, x), atol=1e-12)
    assert len(handed_on) == 4


@pytest.mark.parametrize(("name", "args", "options"), [
    ("convolve2d", ([1], [2]), {}),
    ("convolve2d", (np.ones((3, 3), object), np.ones((2, 2))), {}),
    ("convolve2d", (np.ones((3, 3), bool), np.ones((2, 2), bool)), {}),
    ("convolve2d", (np.ones((3, 3), np.float16), np.ones((2, 2))), {"mode": "none"}),
    ("convolve2d", ([[1]], [[1, 2]]), {"fillvalue": 1j}),
    ("convolve2d", ([[1]], [[1, 2]]), {"fillvalue": [1, 2]}),
    ("convolve2d", ([[1]], [[1]]), {"mode": "none"}),
    ("convolve2d", (np.ones((3, 3), np.uint8), np.ones((2, 2), np.uint8)), {"fillvalue": -1}),
    ("correlate2d", ([[1]], [[1]]), {"boundary": "none"}),
    ("correlate2d", (np.ones((2, 3)), np.ones((3, 2)), "valid"), {}),
    ("convolve", (np.ones((2, 3)), np.ones((3, 2)), "valid"), {}),
    ("convolve", ([[1]], [[1]]), {"method": "none"}),
    ("correlate", ([[1]], [[1]]), {"mode": "none"}),
    ("fftconvolve", ([[1]], [1]), {}),
    ("fftconvolve", (np.ones((4, 4)), np.ones((3, 3))), {"axes": 0}),
    ("oaconvolve", (np.ones((4, 4)), np.ones((3, 3))), {"axes": [0, 0]}),
    ("oaconvolve", (np.ones((4, 4)), np.ones((3, 3))), {"axes": []}),
])  # fmt: skip
def test_signal_errors_are_scipys(name, args, options):
    with pytest.raises(Exception) as theirs:
        getattr(scipy.signal, name)(*args, **options)
    with pytest.raises(theirs.type) as ours:
        getattr(SIGNAL, name)(*args, **options)
    assert str(ours.value) == str(theirs.value)


def test_choose_conv_method(handed_on):
    rng = np.random.default_rng(5)
    large = rng.standard_normal((300, 300))
    assert SIGNAL.choose_conv_method(large, large[:3, :3]) == "direct"
    assert SIGNAL.choose_conv_method(large, large[:50, :50]) == "fft"
    assert SIGNAL.choose_conv_method(np.ones((300, 300), int), np.ones((50, 50), int)) == "direct"
    method, times = SIGNAL.choose_conv_method(large, large[:20, :20], "same", measure=True)
    assert times.keys() == {"fft", "direct"}
    assert times[method] == min(times.values())
    assert not handed_on
    assert SIGNAL.choose_conv_method(large[0], large[1]) == scipy.signal.choose_conv_method(
        large[0], large[1]
    )


# --- ndimage -----------------------------------------------------------------------------------------


def kernels(rng):
    return [
        values(rng, shape, "float64") for shape in ((3, 3), (4, 3), (2, 6), (1, 5), (7, 1), (1, 1), (12, 13))
    ]


@pytest.mark.parametrize("name", ["correlate", "convolve"])
@pytest.mark.parametrize("mode", EDGES)
def test_ndimage(name, mode, handed_on):
    rng = np.random.default_rng(6)
    for weights in kernels(rng):
        for shape in ((9, 12), (1, 5), (6, 2)):
            for dtype in ("float32", "float64"):
                x = values(rng, shape, dtype)
                both(NDIMAGE, name, x, weights, mode=mode, cval=2.5, scale=30)
                both(NDIMAGE, name, x, weights.astype(np.float32), np.float64, mode, scale=30)
                for rows in (-(weights.shape[0] // 2), (weights.shape[0] - 1) // 2):
                    origin = (rows, (weights.shape[1] - 1) // 2)
                    both(NDIMAGE, name, x, weights, mode=mode, origin=origin, cval=-1, scale=30)
    assert not handed_on or mode in ("reflect", "grid-mirror")  # see test_reflections_of_reflections


@pytest.mark.parametrize("name", ["correlate", "convolve"])
@pytest.mark.parametrize("mode", ["reflect", "mirror", "nearest", "constant", "wrap"])
def test_ndimage_integers(name, mode, handed_on):
    rng = np.random.default_rng(7)
    for image in ("bool", *DTYPES[:-2]):
        for output in ("uint8", "int16", "int32", "uint32", "int64"):
            x, weights = values(rng, (9, 12), image), values(rng, (4, 3), "int8")
            both(NDIMAGE, name, x, weights, output, mode, 3)
            both(NDIMAGE, name, x, weights / 8, "float32", mode, 3, scale=1e5)
            both(NDIMAGE, name, x, weights / 8, "float64", mode, 3, scale=1e5)
    assert not handed_on


@pytest.mark.parametrize("name", ["correlate1d", "convolve1d"])
@pytest.mark.parametrize("mode", EDGES)
def test_ndimage_along_an_axis(name, mode, handed_on):
    rng = np.random.default_rng(8)
    for taps in (1, 2, 3, 6, 11):
        weights = values(rng, (taps,), "float64")
        for axis in (0, 1, -1, -2):
            for dtype in ("uint8", "int32", "float32", "float64"):
                x = values(rng, (7, 9), dtype)
                for origin in (-(taps // 2), 0, (taps - 1) // 2):
                    whole = np.rint(9 * weights) if "int" in dtype else weights
                    both(NDIMAGE, name, x, whole, axis, None, mode, 2.0, origin, scale=30)
    assert not handed_on


@pytest.mark.parametrize("mode", ["reflect", "constant", ("wrap", "mirror"), ("constant", "nearest")])
@pytest.mark.parametrize("large", [False, True])
def test_ndimage_by_name(mode, large, handed_on, monkeypatch):
    if large:
        monkeypatch.setattr(NDIMAGE, "_ONE_PASS", 1)
    rng = np.random.default_rng(9)
    for dtype in ("float32", "float64"):
        x = values(rng, (13, 17), dtype)
        for output in (None, "float32", "float64"):
            for cval in (0.0, 2.0):
                options = {"output": output, "mode": mode, "cval": cval, "scale": 30}
                both(NDIMAGE, "gaussian_filter", x, 1.5, **options)
                both(NDIMAGE, "gaussian_filter", x, (0.7, 2), (1, 0), truncate=3, **options)
                both(NDIMAGE, "gaussian_filter", x, 2, (0, 3), radius=(4, 3), **options)
                both(NDIMAGE, "gaussian_filter", x, (0, 1), **options)
                both(NDIMAGE, "gaussian_filter", x, 0, **options)
                both(NDIMAGE, "sobel", x, **options)
                both(NDIMAGE, "sobel", x, 0, **options)
                both(NDIMAGE, "uniform_filter", x, 4, **options)
                both(NDIMAGE, "uniform_filter", x, (1, 5), origin=(0, -2), **options)
        both(NDIMAGE, "gaussian_filter", x, 1, axes=1, scale=30)
        both(NDIMAGE, "gaussian_filter", x, (1, 2), mode=("wrap", "nearest"), axes=(1, 0), scale=30)
        both(NDIMAGE, "uniform_filter", x, 3, axes=(-1,), scale=30)
    handed = [name for name in handed_on if name != "gaussian_filter1d"]  # that gives the taps
    assert not handed


@pytest.mark.parametrize("mode", ["reflect", "constant", ("wrap", "mirror")])
def test_ndimage_by_name_of_integers(mode, handed_on):
    rng = np.random.default_rng(10)
    for dtype in DTYPES[:-2]:
        x = values(rng, (13, 17), dtype)
        for output in (None, "uint8", "int16", "int32", "uint32", "float32", "float64"):
            for cval in (0, 2):
                options = {"output": output, "mode": mode, "cval": cval, "scale": 1e4}
                both(NDIMAGE, "sobel", x, **options)
                both(NDIMAGE, "sobel", x, 0, **options)
                both(NDIMAGE, "uniform_filter", x, (3, 6), **options)
                both(NDIMAGE, "uniform_filter", x, 7, origin=-2, **options)
                both(NDIMAGE, "gaussian_filter", x, 1, **options)
    assert "uniform_filter" not in handed_on


def test_sobel_beyond_the_output():
    x = np.random.default_rng(15).integers(-(2**31), 2**31, (9, 9), np.int32)
    for output in ("int8", "uint16", "int32"):
        both(NDIMAGE, "sobel", x, 0, output)


def test_integers_of_a_photo():
    rng = np.random.default_rng(11)
    x = rng.integers(0, 256, (60, 70), np.uint8)
    x[:20, :20] = 255
    for name, args in (("gaussian_filter", (1.5,)), ("uniform_filter", (5,)), ("sobel", ()),
                       ("correlate", (np.full((3, 3), 1 / 9),)), ("correlate1d", ([0.25, 0.5, 0.25],))):  # fmt: skip
        both(NDIMAGE, name, x, *args)
        both(NDIMAGE, name, x, *args, output=np.int32)


def test_ndimage_output_arrays():
    rng = np.random.default_rng(12)
    x = values(rng, (9, 12), "float32")
    for name, args in (
        ("correlate", (np.ones((3, 3)),)),
        ("gaussian_filter", (1,)),
        ("correlate1d", ([1, 2, 1],)),
    ):
        function, theirs = getattr(NDIMAGE, name), getattr(scipy.ndimage, name)
        for dtype in ("float32", "float64", "int32", "complex128", "float16"):
            expected = np.zeros((9, 12), dtype)
            try:
                theirs(x, *args, output=expected)
            except (RuntimeError, TypeError) as error:
                with pytest.raises(type(error)):
                    function(x, *args, output=np.zeros((9, 12), dtype))
                continue
            out = np.zeros((9, 24), dtype)[:, ::2]
            assert function(x, *args, output=out) is out
            agree(out, expected, 30)
        copy, expected = x.copy(), theirs(x, *args)
        assert function(copy, *args, output=copy) is copy
        agree(copy, expected, 30)


def test_reflections_of_reflections(handed_on):
    """SciPy's filters of several axes count wrong there; as long as they do, so does what replaces them."""
    x = np.arange(6.0).reshape(2, 3)
    for taps in (9, 10, 30):
        both(NDIMAGE, "correlate", x, np.ones((taps, 1)), origin=(4, 0), scale=100)
        both(NDIMAGE, "correlate1d", x, np.arange(taps), 0, scale=1000)


def test_taps_that_scipy_leaves_out():
    x = np.random.default_rng(13).standard_normal((9, 9))
    x[4, 4], x[7, 1] = np.nan, np.inf
    weights = np.array([[0, 1, 0], [1, -4, 1], [0, 1e-20, 0]])
    both(NDIMAGE, "correlate", x, weights)
    both(NDIMAGE, "convolve", x, weights)
    both(NDIMAGE, "correlate1d", x, [1, 0, 1])
    both(NDIMAGE, "sobel", x)


@pytest.mark.parametrize(("name", "args", "options"), [
    ("correlate", (np.ones((3, 3)), np.ones((3, 3))), {"origin": 2}),
    ("correlate", (np.ones((3, 3)), np.ones((3, 3))), {"origin": (0, 1, 1)}),
    ("correlate", (np.ones((3, 3)), np.ones(3)), {}),
    ("correlate", (np.ones((3, 3)), np.ones((3, 3))), {"mode": "none"}),
    ("correlate", (np.ones((3, 3)), np.ones((3, 3))), {"mode": ("wrap", "wrap")}),
    ("correlate", (np.ones((3, 3)), np.ones((3, 3))), {"output": np.zeros((2, 2))}),
    ("convolve", (np.ones((3, 3)), np.ones((2, 2))), {"origin": (1, 1)}),
    ("convolve", (np.ones((3, 3)), np.ones((0, 2))), {}),
    ("correlate1d", (np.ones((3, 3)), []), {}),
    ("correlate1d", (np.ones((3, 3)), [1, 2]), {"axis": 2}),
    ("convolve1d", (np.ones((3, 3)), [1, 2]), {"origin": 1}),
    ("gaussian_filter", (np.ones((3, 3)), (1, 2, 3)), {}),
    ("gaussian_filter", (np.ones((3, 3)), 1), {"order": -1}),
    ("gaussian_filter", (np.ones((3, 3)), 1), {"radius": 1.5}),
    ("gaussian_filter", (np.ones((3, 3)), 1), {"axes": (0, 2)}),
    ("sobel", (np.ones((3, 3)),), {"axis": 5}),
    ("uniform_filter", (np.ones((3, 3)),), {"size": (2, 3, 4)}),
    ("uniform_filter", (np.ones((3, 3)),), {"size": 3, "origin": 3}),
    ("uniform_filter", (np.ones((3, 3)),), {"axes": (0, 0)}),
])  # fmt: skip
def test_ndimage_errors_are_scipys(name, args, options):
    with pytest.raises(Exception) as theirs:
        getattr(scipy.ndimage, name)(*args, **options)
    with pytest.raises(theirs.type) as ours:
        getattr(NDIMAGE, name)(*args, **options)
    assert str(ours.value) == str(theirs.value)


def test_small_arrays_go_to_scipy(monkeypatch, handed_on):
    monkeypatch.undo()
    x = np.ones((8, 8))
    NDIMAGE.correlate(x, np.ones((3, 3)))
    np.testing.assert_array_equal(SIGNAL.convolve2d(x, x), scipy.signal.convolve2d(x, x))


def test_memory_maps(tmp_path, handed_on):
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(40, 50))
    x[...] = np.random.default_rng(14).standard_normal(x.shape)
    out = np.memmap(tmp_path / "y", np.float32, "w+", shape=(40, 50))
    NDIMAGE.correlate(x, np.ones((3, 3)), output=out)
    np.testing.assert_allclose(out, scipy.ndimage.correlate(x, np.ones((3, 3))), atol=1e-5)
    assert not handed_on
