"""Pooling: the reference exactly, in every dtype, layout, memory layout and instruction set; refusals."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import fastconv as fc
from fastconv import machine, reference
from fastconv.errors import ShapeError
from fastconv.problem import PoolProblem

# (H, W), kernel, stride, padding, dilation, ceil_mode
GEOMETRIES = [
    ((6, 8), (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), False),
    ((7, 9), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), False),
    ((7, 9), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), False),
    ((5, 70), (2, 3), (1, 2), ((0, 1), (2, 0)), (1, 1), True),
    ((4, 300), (2, 2), (2, 1), ((0, 0), (0, 0)), (1, 1), False),
    ((9, 7), (2, 3), (3, 1), ((1, 2), (3, 3)), (3, 2), True),
    ((5, 5), (5, 5), (5, 5), ((0, 0), (0, 0)), (1, 1), False),
    ((1, 1), (3, 3), (1, 1), ((2, 2), (2, 2)), (1, 1), False),
    ((8, 8), (1, 1), (3, 3), ((0, 0), (0, 0)), (1, 1), True),
    ((10, 11), (3, 2), (3, 3), ((1, 1), (1, 1)), (2, 4), True),
    ((2, 3), (2, 3), (4, 6), ((3, 3), (5, 5)), (3, 5), False),
    ((4, 1), (3, 1), (3, 1), ((0, 2), (0, 0)), (1, 1), False),
]
DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]
LAYOUTS = ["NCHW", "NHWC"]


def problem_of(geometry, N=2, C=3):
    (H, W), (R, S), stride, padding, dilation, ceil_mode = geometry
    return PoolProblem(N, C, H, W, R, S, stride, padding, dilation, ceil_mode)


def options(problem, layout):
    return {
        "stride": problem.stride,
        "padding": problem.padding,
        "dilation": problem.dilation,
        "layout": layout,
    }


def few_values(shape, dtype, seed=0, finite=False):
    """Small integers: many ties, and every sum exact."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    x = rng.integers(-3 if kind in "if" else 0, 4, shape).astype(dtype)
    if np.dtype(dtype) == np.uint64:
        x += np.uint64(2**63 - 2) * rng.integers(0, 2, shape).astype(np.uint64)
    if kind == "f" and not finite:
        x[rng.random(shape) < 0.1] = np.nan
        x[rng.random(shape) < 0.1] = -np.inf
    return x


def to_layout(x, layout):
    """A view of x, given in N, C, H, W order."""
    return x.transpose(0, 2, 3, 1) if layout == "NHWC" else x


def dense(x, layout):
    return np.ascontiguousarray(to_layout(x, layout))


def from_layout(y, layout):
    return y.transpose(0, 3, 1, 2) if layout == "NHWC" else y


def check_max(x, problem, layout="NCHW"):
    """max_pool2d of x, which is in this layout, with every kind of indices, against the reference."""
    y, indices = reference.max_pool(from_layout(x, layout), problem)
    o = dict(options(problem, layout), ceil_mode=problem.ceil_mode)
    kernel = (problem.R, problem.S)
    plain = fc.max_pool2d(x, kernel, **o)
    assert plain.dtype == x.dtype.newbyteorder("=")
    assert plain.flags.c_contiguous
    np.testing.assert_array_equal(from_layout(plain, layout), y)
    again, found = fc.max_pool2d(x, kernel, return_indices=True, **o)
    assert found.dtype == np.int64
    assert again.tobytes() == plain.tobytes()
    np.testing.assert_array_equal(from_layout(found, layout), indices)
    again, places = fc.max_pool2d(x, kernel, return_indices="offset", **o)
    assert places.dtype == (np.uint8 if problem.R * problem.S <= 256 else np.uint16)
    assert again.tobytes() == plain.tobytes()
    np.testing.assert_array_equal(from_layout(places, layout), reference.max_pool_offsets(indices, problem))
    return plain, found, places


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_max_is_the_reference(geometry, layout, isa):
    problem = problem_of(geometry)
    for dtype in ("float32", "float64"):
        check_max(dense(few_values(problem.x_shape, dtype), layout), problem, layout)


@pytest.mark.parametrize("dtype", DTYPES)
def test_max_of_every_dtype(dtype, isa):
    problem = problem_of(GEOMETRIES[1])
    check_max(few_values(problem.x_shape, dtype), problem)


def test_max_across_more_channels_than_a_block(isa):
    problem = problem_of(GEOMETRIES[0], N=1, C=131)
    check_max(dense(few_values(problem.x_shape, "float32"), "NHWC"), problem, "NHWC")


def test_first_of_equal_zeros_keeps_its_sign():
    x = np.array([[[[-0.0, 0.0, 0.0, -0.0]]]])
    assert np.signbit(fc.max_pool2d(x, (1, 2))).tolist() == [[[[True, False]]]]


def test_first_nan_wins_and_infinities_are_numbers():
    x = np.array([[[[1, np.nan, np.nan, np.inf, -np.inf, -np.inf, -np.inf, 0]]]], np.float32)
    y, indices = fc.max_pool2d(x, (1, 4), return_indices=True)
    np.testing.assert_array_equal(y, [[[[np.nan, 0]]]])
    assert indices.tolist() == [[[[1, 7]]]]
    x[..., :] = -np.inf
    _, indices = fc.max_pool2d(x, (1, 2), padding=((0, 0), (1, 1)), return_indices=True)
    assert indices.tolist() == [[[[0, 1, 3, 5, 7]]]]


@pytest.mark.parametrize("size", [(16, 16), (1, 257)])
def test_offset_dtype_follows_the_window(size):
    problem = problem_of(((17, 260), size, (9, 9), ((0, 0), (0, 0)), (1, 1), False), N=1, C=1)
    check_max(np.random.default_rng(0).standard_normal(problem.x_shape), problem)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_avg_and_its_gradient_are_the_reference(geometry, layout, include, isa):
    problem = problem_of(geometry, N=1, C=2)
    kernel, rng = (problem.R, problem.S), np.random.default_rng(1)
    for dtype, divisor in (("float32", None), ("float64", -2.5)):
        x = rng.standard_normal(problem.x_shape).astype(dtype)
        dy = rng.standard_normal(problem.y_shape).astype(dtype)
        o = dict(
            options(problem, layout), ceil_mode=problem.ceil_mode, count_include_pad=include, divisor=divisor
        )
        y = from_layout(fc.avg_pool2d(dense(x, layout), kernel, **o), layout)
        dx = fc.avg_pool2d_grad(dense(dy, layout), to_layout(x, layout).shape, kernel, **o)
        dx = from_layout(dx, layout)
        assert dx.dtype == y.dtype == dtype
        slack = (problem.R * problem.S + 2) * np.finfo(dtype).eps / 2
        bound = slack * np.abs(reference.avg_pool(np.abs(x), problem, include, divisor))
        assert (np.abs(y - reference.avg_pool(x, problem, include, divisor)) <= bound).all()
        bound = slack * np.abs(reference.avg_pool_grad(np.abs(dy), problem, include, divisor))
        assert (np.abs(dx - reference.avg_pool_grad(dy, problem, include, divisor)) <= bound).all()
        if dtype == "float64":
            np.testing.assert_allclose(np.vdot(y, dy), np.vdot(x, dx), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_avg_and_global_dtypes(dtype):
    problem = problem_of(GEOMETRIES[0])
    x = few_values(problem.x_shape, dtype, finite=True)
    y = fc.avg_pool2d(x, 2)
    assert y.dtype == (dtype if dtype.startswith("float") else "float64")
    np.testing.assert_allclose(y, reference.avg_pool(x, problem), rtol=1e-15)
    np.testing.assert_array_equal(fc.global_max_pool2d(x)[..., 0, 0], x.max(axis=(2, 3)))
    mean = fc.global_avg_pool2d(x)
    assert mean.dtype == y.dtype
    np.testing.assert_allclose(mean[..., 0, 0], x.astype(float).mean(axis=(2, 3)), rtol=1e-3, atol=1e-3)


def test_divisor_beyond_float32():
    x = np.full((1, 1, 1, 1), 1e-20, np.float32)
    np.testing.assert_allclose(fc.avg_pool2d(x, 1, divisor=1e-50), 1e30, rtol=1e-6)


def test_global_pooling():
    x = np.arange(24.0).reshape(2, 2, 2, 3)
    assert fc.global_avg_pool2d(x).tolist() == [[[[2.5]], [[8.5]]], [[[14.5]], [[20.5]]]]
    assert fc.global_max_pool2d(x, layout="NHWC").tolist() == [[[[9, 10, 11]]], [[[21, 22, 23]]]]
    assert np.isnan(fc.global_max_pool2d([[[[1.0, np.nan]]]])).all()
    assert fc.global_avg_pool2d(np.zeros((0, 2, 3, 3))).shape == (0, 2, 1, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_max_gradient_and_unpool_are_the_reference(geometry, layout, isa):
    problem = problem_of(geometry, N=1)
    kernel, o = (problem.R, problem.S), options(problem, layout)
    x = dense(few_values(problem.x_shape, "float32", finite=True), layout)
    y, indices, places = check_max(x, problem, layout)
    flat = from_layout(indices, layout)
    for dtype in ("float32", "float64", "float16", "int8", "bool"):
        dy = few_values(problem.y_shape, dtype, finite=True)
        result = "int64" if dtype in ("int8", "bool") else dtype
        dx = to_layout(reference.max_pool_grad(dy.astype(result), flat, problem), layout)
        dy = dense(dy, layout)
        got = fc.max_pool2d_grad(dy, indices, x.shape, layout=layout)
        assert got.dtype == result
        np.testing.assert_array_equal(got, dx)
        for given_indices in (indices.astype(np.uint64), places, places.astype(">u2")):
            got = fc.max_pool2d_grad(dy, given_indices, x.shape, kernel_size=kernel, **o)
            np.testing.assert_array_equal(got, dx)
    back = reference.max_unpool(from_layout(y, layout), flat, problem.x_shape)
    np.testing.assert_array_equal(
        fc.max_unpool2d(y, indices, x.shape, layout=layout), to_layout(back, layout)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_unpool_keeps_every_dtype_and_the_last_duplicate(dtype):
    y = few_values((1, 2, 2, 3), dtype)
    indices = np.array([0, 3, 3, 5, 0, 1, 2, 2, 2, 4, 4, 5]).reshape(y.shape)
    x = fc.max_unpool2d(y, indices, (1, 2, 2, 3))
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, reference.max_unpool(y, indices, x.shape))


@st.composite
def problems(draw):
    small, pad = st.integers(1, 4), st.integers(0, 4)
    extents = (draw(st.integers(1, 7)), draw(st.integers(1, 30)))
    kernel, stride, dilation = ((draw(small), draw(small)) for _ in range(3))
    padding = tuple((draw(pad), draw(pad)) for _ in range(2))
    try:
        return problem_of((extents, kernel, stride, padding, dilation, draw(st.booleans())), N=1, C=2)
    except ShapeError:
        assume(False)


def sparse(x):
    wide = np.zeros((*x.shape[:3], 2 * x.shape[3]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def unaligned(x):
    view = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


MEMORY = {
    "plain": np.copy,
    "flipped": lambda x: x[:, ::-1, ::-1, ::-1].copy()[:, ::-1, ::-1, ::-1],
    "sparse": sparse,
    "fortran": np.asfortranarray,
    "swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "unaligned": unaligned,
    "read-only": read_only,
    "broadcast": lambda x: np.broadcast_to(x[:1, :1, :, :1], x.shape),
}


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems(), st.sampled_from(sorted(MEMORY)), st.sampled_from(LAYOUTS), st.sampled_from(machine.ISAS))
def test_odd_shapes_and_memory(problem, memory, layout, isa):
    kernel, o = (problem.R, problem.S), options(problem, layout)
    shape = to_layout(np.empty(problem.x_shape), layout).shape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "ISA", isa)
        x = MEMORY[memory](dense(few_values(problem.x_shape, "float32"), layout))
        _, found, places = check_max(x, problem, layout)
        x = MEMORY[memory](dense(few_values(problem.x_shape, "float32", finite=True), layout))
        dy = MEMORY[memory](dense(few_values(problem.y_shape, "float32", seed=1, finite=True), layout))
        plain_x, plain_dy = from_layout(x, layout), from_layout(dy, layout)
        dx = to_layout(reference.max_pool_grad(plain_dy, from_layout(found, layout), problem), layout)
        np.testing.assert_array_equal(fc.max_pool2d_grad(dy, found, shape, layout=layout), dx)
        np.testing.assert_array_equal(fc.max_pool2d_grad(dy, places, shape, kernel_size=kernel, **o), dx)
        o.update(ceil_mode=problem.ceil_mode, divisor=1)
        y = fc.avg_pool2d(x, kernel, **o)
        np.testing.assert_array_equal(from_layout(y, layout), reference.avg_pool(plain_x, problem, divisor=1))
        dx = from_layout(fc.avg_pool2d_grad(dy, shape, kernel, **o), layout)
        np.testing.assert_array_equal(dx, reference.avg_pool_grad(plain_dy, problem, divisor=1))


@pytest.mark.parametrize("padding", ["valid", "same", "same_lower", "full"])
def test_padding_strings(padding):
    x = np.random.default_rng(0).standard_normal((1, 1, 7, 8))
    pairs = {"valid": 0, "same": ((1, 1), (0, 1)), "same_lower": ((1, 1), (1, 0)), "full": 2}[padding]
    for function in (fc.max_pool2d, fc.avg_pool2d):
        expected = function(x, 3, stride=2, padding=pairs)
        np.testing.assert_array_equal(function(x, 3, stride=2, padding=padding), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_workers_give_the_same_bytes(layout):
    x = dense(np.random.default_rng(0).standard_normal((3, 30, 40, 60)).astype(np.float32), layout)
    o = {"stride": 2, "padding": 1, "layout": layout}
    results = set()
    for workers in (1, 2, 3, 5):
        y, indices = fc.max_pool2d(x, 3, return_indices=True, workers=workers, **o)
        dx = fc.max_pool2d_grad(y, indices, x.shape, layout=layout, workers=workers)
        mean = fc.avg_pool2d(x, 3, workers=workers, **o)
        spread = fc.avg_pool2d_grad(mean, x.shape, 3, workers=workers, **o)
        results.add(b"".join(a.tobytes() for a in (y, indices, dx, mean, spread)))
    assert len(results) == 1


@pytest.mark.parametrize("side", ["start", "end"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_touched_outside(guarded, side, layout, isa):
    for width in (*range(1, 20), 33, 40):
        for kernel, stride in ((2, 2), (3, 1), (1, 2), (2, 3)):
            if width < kernel:
                continue
            for dtype in (np.float32, np.float64):
                x = guarded(dense(np.zeros((1, width, 4, 3), dtype), layout).swapaxes(1, 3), side)
                if layout == "NHWC":
                    x = guarded(np.zeros((1, 4, 3, width), dtype), side)
                o = {"stride": stride, "layout": layout}
                y, indices = fc.max_pool2d(x, (1, kernel), return_indices=True, **o)
                out = guarded(y, side)
                fc.max_pool2d(x, (1, kernel), out=out, **o)
                fc.avg_pool2d(x, (1, kernel), out=out, **o)
                fc.max_pool2d_grad(out, guarded(indices, side), x.shape, layout=layout)
                fc.avg_pool2d_grad(out, x.shape, (1, kernel), out=x, **o)


def test_out():
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 8)).astype(np.float32)
    for function in (fc.max_pool2d, fc.avg_pool2d):
        expected = function(x, 2)
        for out in (
            np.empty_like(expected),
            np.empty((2, 3, 3, 8), "f4")[..., ::-2],
            unaligned(expected * 0),
        ):
            assert function(x, 2, out=out) is out
            np.testing.assert_array_equal(out, expected)
    out = np.empty_like(expected)
    assert fc.max_pool2d(x, 2, return_indices=True, out=out)[0] is out
    half = np.empty((2, 3, 3, 4), np.float16)
    assert fc.max_pool2d(x.astype(np.float16), 2, out=half) is half
    np.testing.assert_array_equal(half, fc.max_pool2d(x.astype(np.float16), 2))
    dx = np.ones_like(x)
    assert fc.avg_pool2d_grad(out, x.shape, 2, out=dx) is dx
    np.testing.assert_array_equal(dx, fc.avg_pool2d_grad(out, x.shape, 2))
    with pytest.raises(ValueError, match="out"):
        fc.max_pool2d(x, 1, out=x)
    with pytest.raises(TypeError, match="out"):
        fc.max_pool2d(x, 2, out=out.astype(np.float64))
    with pytest.raises(ShapeError, match="out"):
        fc.avg_pool2d(x, 2, out=out[:1])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_empty_batches(shape):
    x = np.empty(shape, np.float32)
    y, indices = fc.max_pool2d(x, 2, return_indices=True)
    assert y.shape == indices.shape == fc.avg_pool2d(x, 2).shape == (*shape[:2], 2, 2)
    assert fc.max_pool2d_grad(y, indices, shape).shape == shape
    assert fc.avg_pool2d_grad(y, shape, 2).shape == shape
    assert fc.max_unpool2d(y, indices, shape).shape == shape


X = np.zeros((1, 2, 5, 6), np.float32)
FLAT = X.astype(np.int64)
REFUSED = [
    (ShapeError, "x", lambda: fc.max_pool2d(X[0], 2)),
    (ShapeError, "H", lambda: fc.max_pool2d(X[:, :, :0], 2)),
    (ShapeError, "kernel_size", lambda: fc.max_pool2d(X, 6)),
    (ShapeError, "kernel_size", lambda: fc.max_pool2d(X, 0)),
    (ShapeError, "kernel_size", lambda: fc.max_pool2d(X, (1, 2, 3))),
    (TypeError, "kernel_size", lambda: fc.max_pool2d(X, 2.5)),
    (TypeError, "kernel_size", lambda: fc.max_pool2d(X, None)),
    (ShapeError, "stride", lambda: fc.avg_pool2d(X, 2, stride=0)),
    (ShapeError, "dilation", lambda: fc.avg_pool2d(X, 2, dilation=-1)),
    (ShapeError, "padding", lambda: fc.max_pool2d(X, 2, padding=-1)),
    (ShapeError, "padding", lambda: fc.max_pool2d(X, 2, padding=2)),
    (ShapeError, "overflows", lambda: fc.max_pool2d(X, 2, padding=10**18)),
    (ShapeError, "overflows", lambda: fc.max_pool2d(X, (2**61, 1), padding=((2**61, 0), (0, 0)))),
    (ShapeError, "overflows", lambda: fc.max_pool2d(X, 2**40, padding=2**40 - 1, stride=1)),
    (ShapeError, "padding", lambda: fc.max_pool2d(X, 2, dilation=20, padding=20, stride=3)),
    (ValueError, "padding", lambda: fc.avg_pool2d(X, 2, padding="half")),
    (TypeError, "ceil_mode", lambda: fc.max_pool2d(X, 2, ceil_mode=1)),
    (TypeError, "return_indices", lambda: fc.max_pool2d(X, 2, return_indices=1)),
    (ValueError, "return_indices", lambda: fc.max_pool2d(X, 2, return_indices="place")),
    (
        ShapeError,
        "kernel_size",
        lambda: fc.max_pool2d(np.zeros((1, 1, 257, 257)), 257, return_indices="offset"),
    ),
    (ValueError, "layout", lambda: fc.max_pool2d(X, 2, layout="CHWN")),
    (ValueError, "workers", lambda: fc.max_pool2d(X, 2, workers=0)),
    (TypeError, "x", lambda: fc.max_pool2d(X.astype(complex), 2)),
    (TypeError, "x", lambda: fc.global_avg_pool2d(X.astype(object))),
    (ShapeError, "x", lambda: fc.global_max_pool2d(X[:, :, :0])),
    (TypeError, "count_include_pad", lambda: fc.avg_pool2d(X, 2, count_include_pad=None)),
    (ValueError, "divisor", lambda: fc.avg_pool2d(X, 2, divisor=0)),
    (ValueError, "divisor", lambda: fc.avg_pool2d(X, 2, divisor=np.nan)),
    (TypeError, "divisor", lambda: fc.avg_pool2d(X, 2, divisor="2")),
    (TypeError, "divisor", lambda: fc.avg_pool2d(X, 2, divisor=2j)),
    (ShapeError, "dy", lambda: fc.avg_pool2d_grad(X, X.shape, 2)),
    (TypeError, "input_shape", lambda: fc.avg_pool2d_grad(X, None, 2)),
    (ShapeError, "input_shape", lambda: fc.avg_pool2d_grad(X, (1, 2, 3), 2)),
    (ShapeError, "input_shape", lambda: fc.max_pool2d_grad(X, FLAT, (1, 2, 2**40, 2**40))),
    (ShapeError, "dy", lambda: fc.max_pool2d_grad(X, FLAT, (1, 3, 9, 9))),
    (ShapeError, "dy", lambda: fc.max_pool2d_grad(X, FLAT, (1, 2, 9, 9), kernel_size=2)),
    (ShapeError, "indices", lambda: fc.max_pool2d_grad(X, FLAT[:, :1], (1, 2, 9, 9))),
    (TypeError, "indices", lambda: fc.max_pool2d_grad(X, X, (1, 2, 9, 9))),
    (TypeError, "indices", lambda: fc.max_pool2d_grad(X, X.astype(bool), (1, 2, 9, 9))),
    (ValueError, "kernel_size", lambda: fc.max_pool2d_grad(X, X.astype(np.uint8), (1, 2, 9, 9))),
    (TypeError, "indices", lambda: fc.max_unpool2d(X, X.astype(np.uint8), (1, 2, 9, 9))),
    (ShapeError, "output_shape", lambda: fc.max_unpool2d(X, FLAT, (1, 1, 9, 9))),
    (ShapeError, "output_shape", lambda: fc.max_unpool2d(X, FLAT, (1, 2, 0, 9))),
]


@pytest.mark.parametrize(("error", "name", "call"), REFUSED)
def test_refused(error, name, call):
    with pytest.raises(error, match=name):
        call()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("index", [-1, 30, 2**31, 2**62, -(2**63), 2**63, 2**64 - 1])
def test_indices_outside_the_plane(index, layout):
    indices = np.zeros((1, 2, 2, 3), np.uint64 if index >= 2**63 else np.int64)
    indices[0, 1, 0, 2] = index
    dy, indices, shape = np.ones(indices.shape), dense(indices, layout), to_layout(X, layout).shape
    with pytest.raises(IndexError, match=r"indices: .*\(0, 1, 0, 2\)"):
        fc.max_pool2d_grad(dense(dy, layout), indices, shape, layout=layout)
    with pytest.raises(IndexError, match=r"indices: .*\(0, 1, 0, 2\)"):
        fc.max_unpool2d(dense(dy, layout), indices, shape, layout=layout)


@pytest.mark.parametrize("place", [0, 1, 3, 9, 255])  # three in padding, two beyond the window
def test_places_that_are_no_pixel(place):
    places = np.full((1, 1, 2, 2), 4, np.uint8)
    dy = np.ones(places.shape)
    o = {"kernel_size": 3, "stride": 2, "padding": 1}
    assert fc.max_pool2d_grad(dy, places, (1, 1, 4, 4), **o).sum() == 4
    places[0, 0, 0, 0] = place
    with pytest.raises(IndexError, match=r"indices: .*\(0, 0, 0, 0\)"):
        fc.max_pool2d_grad(dy, places, (1, 1, 4, 4), **o)


def test_integer_gradients_are_exact_or_refused():
    dy = np.full((1, 1, 1, 2), 2**62, np.int64)
    with pytest.raises(OverflowError, match="dy"):
        fc.max_pool2d_grad(dy, np.zeros_like(dy), (1, 1, 1, 2))
    assert fc.max_pool2d_grad(dy, [[[[0, 1]]]], (1, 1, 1, 2)).tolist() == dy.tolist()
    with pytest.raises(OverflowError, match="dy"):
        fc.max_pool2d_grad(np.array([[[[2**63]]]], np.uint64), [[[[0]]]], (1, 1, 1, 1))


def test_numbers_far_beyond_the_image():
    np.testing.assert_array_equal(
        fc.max_pool2d(X + 1, 1, stride=2**70, dilation=2**80), np.ones((1, 2, 1, 1))
    )
    o = {"stride": 2**70, "padding": ((2**40 - 1, 0), (0, 0)), "ceil_mode": True}
    y, indices = fc.max_pool2d(X + 1, (2**41, 1), return_indices=True, **o)
    assert y.shape == (1, 2, 1, 1)
    assert not indices.any()
    np.testing.assert_array_equal(fc.avg_pool2d(X + 1, (2**41, 1), count_include_pad=False, **o), y)


def test_windows_are_checked_without_walking_through_them():
    problem = PoolProblem(1, 1, 1, 1, 2**40, 1, (1, 1), ((2**40 - 1, 2**40 - 1), (0, 0)))
    assert problem.P == 2**40  # each holds the one pixel
