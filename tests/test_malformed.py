"""Arguments that make no sense: every public function raises one of five exceptions, and nothing crashes.

Each function is called with its valid arguments, one of them replaced; the sanitizer build runs this too.
"""

import contextvars
import inspect
import random
import warnings

import numpy as np
import pytest

import fastconv

REFUSALS = (ValueError, TypeError, IndexError, OverflowError, MemoryError)
CALLS = 300  # per function

x = np.arange(2 * 4 * 6 * 7, dtype=np.float32).reshape(2, 4, 6, 7)
w = np.linspace(-1, 1, 4 * 2 * 9, dtype=np.float32).reshape(4, 2, 3, 3)
dy = np.ones((2, 4, 6, 7), np.float32)
image = np.arange(80.0).reshape(8, 10)
kernel = np.outer([1.0, 2.0, 1.0], [1.0, 0.0, -1.0])

CONV = {
    "stride": 1, "padding": 1, "dilation": 1, "groups": 2, "boundary": "constant", "cval": 0.0, "layout": "NCHW",
    "method": "auto", "max_error": None, "workers": 1, "max_workspace": None,
}  # fmt: skip
RESULT = {"out": None, "dtype": None, "overflow": "raise"}
WINDOWS = {"stride": 1, "padding": 1, "dilation": 1, "boundary": "constant", "layout": "NCHW"}
POOL = {
    "stride": 2, "padding": 1, "dilation": 1, "ceil_mode": False, "layout": "NCHW", "workers": 1,
}  # fmt: skip
IMAGE = {
    "mode": "same", "boundary": "constant", "cval": 0.0, "stride": 1, "dilation": 1, "axes": (-2, -1),
    "method": "auto", "max_error": None, "workers": 1, "max_workspace": None,
}  # fmt: skip
indices = np.tile(np.arange(12) * 3, (2, 4, 1)).reshape(2, 4, 3, 4)

VALID = {
    "conv2d": {"x": x, "w": w, "bias": np.ones(4, np.float32), **CONV, **RESULT},
    "conv2d_input_grad": {"dy": dy, "w": w, "input_shape": x.shape, **CONV, **RESULT},
    "conv2d_weight_grad": {"x": x, "dy": dy, "kernel_shape": w.shape, **CONV, **RESULT},
    "conv2d_backward": {"dy": dy, "x": x, "w": w, **CONV, "needs": (True, True, True)},
    "conv_transpose2d": {
        "x": x, "w": w, "bias": None, "stride": 2, "padding": 1, "output_padding": 1, "dilation": 1, "groups": 2,
        "layout": "NCHW", "method": "auto", "workers": 1, "max_workspace": None, "out": None, "dtype": None,
    },
    "im2col": {"x": x, "kernel_size": 3, **WINDOWS, "cval": 0.0},
    "col2im": {"cols": np.ones((2, 36, 42), np.float32), "input_shape": x.shape, "kernel_size": 3, **WINDOWS},
    "extract_windows": {"x": x, "window": 3, "stride": 1, "dilation": 1, "axes": (-2, -1)},
    "upsample_zeros": {"x": x, "stride": 2, "axes": (-2, -1)},
    "max_pool2d": {"x": x, "kernel_size": 3, **POOL, "return_indices": True, "out": None},
    "max_pool2d_grad": {"dy": np.ones((2, 4, 3, 4), np.float32), "indices": indices, "input_shape": x.shape,
                        "kernel_size": 3, "stride": 2, "padding": 1, "dilation": 1, "layout": "NCHW", "workers": 1},
    "max_unpool2d": {"y": np.ones((2, 4, 3, 4), np.float32), "indices": indices, "output_shape": x.shape,
                     "layout": "NCHW"},
    "avg_pool2d": {"x": x, "kernel_size": 3, **POOL, "count_include_pad": True, "divisor": None, "out": None},
    "avg_pool2d_grad": {"dy": np.ones((2, 4, 3, 4), np.float32), "input_shape": x.shape, "kernel_size": 3, **POOL,
                        "count_include_pad": True, "divisor": None},
    "global_avg_pool2d": {"x": x, "layout": "NCHW"},
    "global_max_pool2d": {"x": x, "layout": "NCHW"},
    "correlate2d": {"image": image, "kernel": kernel, **IMAGE, **RESULT},
    "convolve2d": {"image": image, "kernel": kernel, **IMAGE, **RESULT},
    "correlate2d_input_grad": {"dy": image, "kernel": kernel, "image_shape": image.shape, **IMAGE},
    "correlate2d_kernel_grad": {"image": image, "dy": image, "kernel_shape": kernel.shape, **IMAGE},
    "separate": {"kernel": kernel, "rtol": None},
    "gaussian_kernel": {"sigma": 1.0, "truncate": 4.0},
    "sobel_kernel": {"axis": 0},
    "box_kernel": {"size": 3},
    "plan_conv2d": {"x_shape": x.shape, "w_shape": w.shape, "dtype": "float32", "direction": "forward", **CONV},
    "plan_correlate2d": {"image_shape": image.shape, "kernel_or_shape": kernel, **IMAGE},
    "set_workers": {"n": 1},
    "set_method": {"name": "auto"},
}  # fmt: skip
NO_ARRAYS = {"laplacian_kernel", "tune", "export_tuning", "import_tuning", "clear_caches", "show_config"}

# Sizes between those that are quickly served and those that no machine can hold are left out on purpose.
STRANGE = (
    None, True, -1, 0, 2, 5, 2**40, 2**62, 2**63, 2**64, 2**70, -(2**63), -(2**70), 0.5, -0.0, 1e308, float("nan"),
    float("inf"), 1j, "", "same", "full", "wrap", "NHWC", "naive", "no such thing", "\0", b"x", (), [], {}, {1, 2},
    (1,), (1, 2), (2, 1), (0, 0), (-1, 1), (1, 2, 3), (1.5, 2), ("a", "b"), (None, None), ((1, 2), (3, 4)), ((1, 2), 3),
    ((1,), (2,)), ((0, 0), (2**62, 0)), [[], []], (2**40, 0), (2**62, 2**62), (1, 1, 1, 1), (2, 4, 6, 7), (2, 4, 0, 7),
    (2, 4, -6, 7), (2**40,) * 4, (2**62, 4, 6, 7), (2, 4, 6, 7, 8), object(), len, int, slice(None),
    np.int8(3), np.float64(2), np.array(2), np.array([1, 2]), np.array([[1, 2], [3, 4]]), np.datetime64(0, "s"),
)  # fmt: skip


def arrays_like(array, rng):
    """Arrays that are nearly right."""
    shape = list(array.shape)
    axis = rng.randrange(array.ndim)
    shape[axis] = rng.choice([0, 1, shape[axis] + 1, 3 * shape[axis]])
    extreme = array.copy()
    extreme.flat[rng.randrange(array.size)] = rng.choice([np.inf, np.nan, 1e30, -1]) if array.dtype.kind == "f" else (
        rng.choice([-1, -(2**62), 2**62, 10**6])
    )  # fmt: skip
    kinds = ["?", "i1", "u8", "i8", "f2", "f4", "f8", ">f4", ">i2", "g", "F", "O", "U3", "S2", "M8[s]", "f4,i4", "V8"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cast = np.empty(array.shape, rng.choice(kinds)) if rng.random() < 0.3 else array.astype(rng.choice(kinds[:9]))
    if cast.dtype.kind == "f":
        cast = np.zeros_like(cast)
    return rng.choice([
        np.zeros(shape, array.dtype), array[..., :-1], array[None], array[0], array.T, array[..., ::-1], array.ravel(),
        cast, extreme, array.tolist(), np.ma.masked_array(array), memoryview(array), array.tobytes(),
        np.broadcast_to(array.flat[0], array.shape), np.zeros((0,) * array.ndim, array.dtype),
    ])  # fmt: skip


def mutant(value, rng):
    if isinstance(value, np.ndarray) and rng.random() < 0.7:
        return arrays_like(value, rng)
    if isinstance(value, tuple) and rng.random() < 0.5:
        changed = list(value)
        changed[rng.randrange(len(changed))] = rng.choice(STRANGE)
        return tuple(changed)
    return rng.choice(STRANGE)


def as_bytes(result):
    """A result as something that compares equal."""
    parts = result if isinstance(result, tuple) else (result,)
    return [part.tobytes() if isinstance(part, np.ndarray) else None for part in parts]


@pytest.mark.parametrize("name", sorted(set(VALID) & set(fastconv.__all__)))
def test_malformed_arguments_are_refused(name):
    function, valid, rng = getattr(fastconv, name), VALID[name], random.Random(name)
    expected = as_bytes(contextvars.copy_context().run(function, **valid))
    for _ in range(CALLS):
        word = rng.choice(list(valid))
        value = mutant(valid[word], rng)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                contextvars.copy_context().run(function, **{**valid, word: value})
        except REFUSALS as error:
            assert str(error), (word, value)  # noqa: PT017
        except BaseException as error:
            error.add_note(f"{name}({word}={value!r})")
            raise
    assert as_bytes(contextvars.copy_context().run(function, **valid)) == expected


def test_every_public_function_is_tried():
    public = {name for name in fastconv.__all__ if inspect.isfunction(getattr(fastconv, name))}
    assert public <= set(VALID) | NO_ARRAYS


@pytest.mark.parametrize("name", sorted(set(VALID) & set(fastconv.__all__)))
def test_unknown_arguments_are_refused(name):
    with pytest.raises(TypeError):
        getattr(fastconv, name)(**VALID[name], no_such_option=1)
    with pytest.raises(TypeError):
        getattr(fastconv, name)()
