"""conv2d and its gradients: exact on small integers, within the bound on floats, on every instruction set."""

import resource
from dataclasses import replace
from functools import cache
from unittest import mock

import numpy as np
import pytest
from convolutions import (
    DIRECTIONS,
    EXACT,
    LAYOUTS,
    NAMES,
    PROBLEMS,
    assert_exact,
    call,
    error_scale,
    layout_of,
    methods,
    operands,
    options,
    plan_shapes,
    problem_params,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastconv as fc
from fastconv import machine, reference
from fastconv.algorithms import ALGORITHMS
from fastconv.boundary import BOUNDARIES
from fastconv.ops.call import EXACT as EXACT_IN
from fastconv.problem import ConvProblem

HARD_PLACES = (
    "filter larger than the image", "pixels between windows", "gcd(stride, dilation) = 2", "wide dilation",
    "last rows that no window reaches", "padding beyond the image on one side", "edge, far padding",
    "reflect at stride 2", "wrap, dilated", "two groups", "depthwise", "13 filters, 9 columns",
    "17 filters, 16 columns at stride 2", "long rows", "a product deeper than one block", "one filter a group",
    "one pixel, one tap", "groups, channels last", "odd sizes, channels last",
)  # fmt: skip
"""Where a kernel could read or compute what it must not."""
DTYPES = {"float32": None, "float64": None, "float16": None, "int64": None, "mixed": ("uint8", "int8")}
"""Small integers are computed in floats, unless a test says modulo(True)."""


def typed(data, dtype, layout="NCHW"):
    """The operands in a dtype ("mixed": x and dy, w of different integers) and layout."""
    first, second = DTYPES[dtype] or (dtype, dtype)
    kinds = {"x": first, "w": second, "dy": second, "bias": second}
    return {
        name: array.astype(kinds[name]) if name in ("w", "bias") else layout_of(array.astype(kinds[name]), layout)
        for name, array in data.items()
    }


# --- exact on small integers -----------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("problem", problem_params())
def test_small_integers(problem, direction, isa, request, modulo):
    plain = replace(problem, layout="NCHW")
    data = operands(plain)
    cases = [("float32", "NCHW"), ("mixed", "NHWC")]
    if ":" not in request.node.callspec.id:  # of the networks every dtype and layout would show the same again
        cases += [("float32", "NHWC"), ("float64", "NCHW"), ("float16", "NCHW"), ("int64", "NCHW")]
    for dtype, layout in cases:
        kind = "int64" if dtype == "mixed" else dtype
        modulo(dtype == "int64")
        case = replace(plain, layout=layout)
        arrays = typed(data, dtype, layout)
        for method in methods(replace(case, dtype=kind), direction):
            if method == "naive":  # the reference itself: below
                continue
            result = call(case, direction, arrays, method)
            assert result.flags.c_contiguous
            assert_exact(result, case, direction, method, np.dtype(kind))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "problem", problem_params("odd sizes, channels last", "groups, channels last", "wrap, dilated", "edge")
)
def test_naive_is_the_reference(problem, direction):
    for dtype in DTYPES:
        arrays = typed(operands(replace(problem, layout="NCHW")), dtype, problem.layout)
        kind = np.dtype("int64" if dtype == "mixed" else dtype)
        assert_exact(call(problem, direction, arrays, "naive"), problem, direction, "naive", kind)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_auto_takes_a_method_that_serves(direction):
    for problem in PROBLEMS.values():
        plan = fc.plan_conv2d(*plan_shapes(problem), direction=direction, **options(problem))
        assert plan.method in fc.METHODS
        assert plan.method != "naive"
        arrays = typed(operands(replace(problem, layout="NCHW")), "float32", problem.layout)
        result = call(problem, direction, arrays, workers=None)
        assert_exact(result, problem, direction, plan.method, np.dtype("float32"))


# --- any geometry, any memory ----------------------------------------------------------------------


def as_laid_out(array, kind):
    """The same values in another memory layout ("broadcast": of its first element along axis 0 and the last)."""
    if kind == "fortran":
        return np.asfortranarray(array)
    if kind == "reversed":
        return np.ascontiguousarray(array[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1]
    if kind == "sliced":
        large = np.full([2 * n + 1 for n in array.shape], 77, array.dtype)
        part = large[tuple(slice(1, None, 2) for _ in array.shape)]
        part[...] = array
        return part
    if kind == "broadcast":
        return np.broadcast_to(array[:1, ..., :1], array.shape)
    if kind == "byteswapped":
        return array.astype(array.dtype.newbyteorder())
    if kind == "unaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
        shifted = raw.view(array.dtype).reshape(array.shape)
        shifted[...] = array
        return shifted
    if kind == "readonly":
        array = array.copy()
        array.flags.writeable = False
        return array
    return array


MEMORY = ("contiguous", "fortran", "reversed", "sliced", "broadcast", "byteswapped", "unaligned", "readonly")
OUT = (None, "contiguous", "fortran", "reversed", "sliced", "byteswapped-view", "unaligned")


@st.composite
def conv_problems(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, filters = (groups * draw(st.integers(1, 4)) for _ in range(2))
    axes = []
    for _ in range(2):
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        before, after = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        least = max(dilation * (kernel - 1) + 1 - before - after, 1)
        axes.append((draw(st.integers(least, least + 9)), kernel, draw(st.integers(1, 5)), (before, after), dilation))
    (h, r, sh, rows, dh), (w, s, sw, columns, dw) = axes
    boundary = draw(st.sampled_from(BOUNDARIES))
    cval = draw(st.integers(-3, 3)) if boundary == "constant" else 0
    return ConvProblem(
        draw(st.integers(1, 3)), channels, h, w, filters, r, s, (sh, sw), (rows, columns), (dh, dw), groups, boundary,
        cval, draw(st.sampled_from(LAYOUTS)),
    )  # fmt: skip


@given(
    problem=conv_problems(),
    direction=st.sampled_from(DIRECTIONS),
    dtype=st.sampled_from(["float32", "float64", "float16", "int64", "modulo"]),
    method=st.sampled_from(fc.METHODS),
    isa=st.sampled_from(machine.ISAS),
    memory=st.tuples(st.sampled_from(MEMORY), st.sampled_from(MEMORY)),
    out=st.sampled_from(OUT),
)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_geometry_and_memory(problem, direction, dtype, method, isa, memory, out):
    exact_in, dtype = (dict.fromkeys(EXACT_IN, -1), "int64") if dtype == "modulo" else (EXACT_IN, dtype)
    plain = replace(problem, layout="NCHW")
    data = typed(operands(plain), dtype, problem.layout)
    a, b = NAMES[direction]
    data[a], data[b] = as_laid_out(data[a], memory[0]), as_laid_out(data[b], memory[1])
    before = data[a].copy(), data[b].copy()
    exact = {
        name: array.transpose(0, 3, 1, 2) if problem.layout == "NHWC" and name in ("x", "dy") else array
        for name, array in data.items()
    }
    exact = {name: array.astype(np.int64).view(np.uint64) for name, array in exact.items()}
    expected = getattr(reference, direction)(exact[a], exact[b], replace(plain, dtype="int64")).view(np.int64)
    if direction == "forward":
        expected = expected + exact["bias"].view(np.int64)[:, None, None]
    if direction != "weight_grad":
        expected = layout_of(expected, problem.layout)
    target = None
    if out is not None:
        target = as_laid_out(np.full(expected.shape, 55, dtype), out)
    with mock.patch.object(machine, "ISA", isa), mock.patch("fastconv.ops.call.EXACT", exact_in):
        if method not in methods(replace(problem, dtype=dtype), direction):
            return
        result = call(problem, direction, data, method, out=target)
    assert (data[a] == before[0]).all()
    assert (data[b] == before[1]).all()
    if target is not None:
        assert result is target
    if method in EXACT:
        np.testing.assert_array_equal(result, expected.astype(dtype))


def test_out_leaves_its_neighbours_alone(isa):
    problem = PROBLEMS["groups, channels last"]
    for direction in DIRECTIONS:
        arrays = typed(operands(replace(problem, layout="NCHW")), "float32", "NHWC")
        expected = call(problem, direction, arrays, "direct")
        for method in EXACT[1:3]:
            large = np.full([2 * n + 1 for n in expected.shape], 77, np.float32)
            inner = tuple(slice(1, None, 2) for _ in expected.shape)
            call(problem, direction, arrays, method, out=large[inner])
            np.testing.assert_array_equal(large[inner], expected)
            large[inner] = 77
            assert (large == 77).all()


@pytest.mark.parametrize("side", ["start", "end"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nothing_beyond_the_arrays(isa, guarded, monkeypatch, modulo, direction, side):
    """Every array, the scratch memory too, ends or starts at a page that may not be touched. Scratch begins as NaN."""
    monkeypatch.setattr(machine, "take_scratch", lambda size: guarded(np.full(size, 255, np.uint8), side))
    monkeypatch.setattr(machine, "give_scratch", lambda buffer: None)
    for name in HARD_PLACES:
        problem = PROBLEMS[name]
        for dtype in ("float32", "float64", "float16", "int64", "mixed"):
            arrays = typed(operands(replace(problem, layout="NCHW")), dtype, problem.layout)
            arrays = {name: guarded(array, side) for name, array in arrays.items()}
            modulo(dtype == "int64")
            dtype = "int64" if dtype == "mixed" else dtype
            out = None
            for method in methods(replace(problem, dtype=dtype), direction):
                if method == "naive":
                    continue
                if out is None:
                    out = guarded(call(problem, direction, arrays, method), side)
                out[...] = 99
                assert call(problem, direction, arrays, method, out=out) is out
                assert_exact(out, problem, direction, method, np.dtype(dtype))


# --- accuracy --------------------------------------------------------------------------------------

ALGORITHM = {algorithm.NAME: algorithm for algorithm in ALGORITHMS}
HARD = ("normal", "spikes", "positive", "cancelling", "wide")


def hard_data(kind, shape, dtype, seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    spike, most = (1e2, 1.5) if dtype == "float16" else (1e6, 30.0 if dtype == "float32" else 150.0)
    if kind == "spikes":
        values = np.where(rng.random(shape) < 0.02, spike, values)
    elif kind == "positive":
        values = np.abs(values) + 1
    elif kind == "cancelling":
        values = np.where(np.indices(shape).sum(axis=0) % 2, -1, 1) * (1 + 1e-3 * values)
    elif kind == "wide":
        values = np.where(rng.random(shape) < 0.5, 10.0**-most, 10.0**most) * values
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "problem",
    problem_params("edge, far padding", "gcd(stride, dilation) = 2", "two groups", "depthwise", "33 of all",
                   "a product deeper than one block"),
)  # fmt: skip
def test_within_the_error_bound(problem, direction, dtype):
    problem = replace(problem, dtype=dtype)
    for kind in HARD:
        names = NAMES[direction]
        shapes = {"x": problem.x_shape, "w": problem.w_shape, "dy": problem.y_shape}
        data = {name: hard_data(kind, shapes[name], dtype, i) for i, name in enumerate(shapes)}
        if kind == "wide":  # one wide operand: products stay in range
            data[names[1]] = hard_data("normal", shapes[names[1]], dtype, 7)
        # 11 bits more than float64 has: the reference's own error does not count
        wide = [data[name].astype(np.longdouble) for name in names]
        truth = getattr(reference, direction)(*wide, problem)
        sizes = getattr(reference, direction)(*map(np.abs, wide), replace(problem, cval=abs(problem.cval)))
        bias = hard_data(kind, (problem.K,), dtype, 9)
        if direction == "forward":
            truth, sizes = truth + bias[:, None, None], sizes + np.abs(bias.astype(np.longdouble))[:, None, None]
        for method in methods(problem, direction):
            plan = fc.plan_conv2d(
                *plan_shapes(problem), dtype=dtype, direction=direction, **options(problem, method=method)
            )
            scale = sizes
            if not ALGORITHM[method].ELEMENTWISE:
                scale = error_scale(problem, direction, data) + np.abs(bias).max()
            result = call(problem, direction, data | {"bias": bias}, method)
            least = np.finfo(dtype).smallest_subnormal
            slack = plan.error_bound * (1 + 1e-3) * scale + least * (problem.terms + 1)
            assert (np.abs(result - truth) <= slack).all(), (method, kind)


def test_bounds_are_not_lax():
    """float32 within a millionth per thousand terms; exact integers; float16 to its last place."""
    bounds = {
        dtype: fc.plan_conv2d((1, 64, 9, 9), (1, 64, 4, 4), dtype=dtype, method="direct").error_bound
        for dtype in ("float32", "float64", "float16", "int8")
    }
    assert 0 < bounds["float32"] < 1.1 * 1025 * 2.0**-24
    assert 0 < bounds["float64"] < 1.1 * 1025 * 2.0**-53
    assert 2.0**-11 < bounds["float16"] < 1.2 * 2.0**-11
    assert bounds["int8"] == 0


# --- NaN and infinities ----------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("special", [(np.nan,), (np.inf,), (np.inf, -np.inf, np.nan)], ids=str)
def test_nan_and_infinities(direction, special, isa):
    """They go where the reference sends them, from either operand; everything else stays exact."""
    for name in HARD_PLACES:
        problem = replace(PROBLEMS[name], direction=direction, layout="NCHW")
        for place in NAMES[direction]:
            data, expected = sent_where(problem, place, special)
            for dtype in ("float32", "float64"):
                for method in EXACT[1:]:
                    if method in methods(problem, direction):
                        arrays = {key: array.astype(dtype) for key, array in data.items()}
                        result = call(problem, direction, arrays, method)
                        np.testing.assert_array_equal(result, expected, err_msg=f"{name} {place} {method}")


@cache
def sent_where(problem, place, special):
    """Operands with the special values here and there in one of them, and what the reference makes of them."""
    data = typed(operands(replace(problem, direction="forward")), "float64")
    del data["bias"]
    flat = data[place].reshape(-1)
    flat[np.random.default_rng(flat.size).integers(0, flat.size, len(special))] = special
    with np.errstate(all="ignore"):
        return data, getattr(reference, problem.direction)(*(data[n] for n in NAMES[problem.direction]), problem)


def test_infinite_weights_meet_the_padding(isa):
    w = np.zeros((1, 1, 3, 3), np.float32)
    w[0, 0, 0, 0] = np.inf
    for method in EXACT[1:3]:
        y = fc.conv2d(np.ones((1, 1, 3, 3), np.float32), w, padding=1, method=method)[0, 0]
        expected = np.full((3, 3), np.inf)
        expected[0], expected[:, 0] = np.nan, np.nan  # 0 * inf
        np.testing.assert_array_equal(y, expected)
        # The adjoint of padding is cropping: there is no zero to multiply. Only where a window reaches is there inf.
        dx = fc.conv2d_input_grad(np.ones((1, 1, 3, 3), np.float32), w, (1, 1, 3, 3), padding=1, method=method)[0, 0]
        expected = np.zeros((3, 3))
        expected[:2, :2] = np.inf
        np.testing.assert_array_equal(dx, expected)


def test_nan_constant():
    y = fc.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)), padding=1, cval=np.nan)[0, 0]
    assert np.isnan(y).sum() == 8
    assert y[1, 1] == 9


# --- workers and batches ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_same_bytes_for_any_number_of_workers(direction, isa, monkeypatch):
    monkeypatch.setattr(machine, "PARALLEL_SECONDS", -1.0)  # small problems are computed in parallel too
    fc.clear_caches()
    rng = np.random.default_rng(5)
    large = [problem for problem in PROBLEMS.values() if problem.flops > 20_000]
    for problem in large[::3]:
        case = replace(problem, layout="NCHW", N=max(problem.N, 2))
        shapes = {"x": case.x_shape, "w": case.w_shape, "dy": case.y_shape, "bias": (case.K,)}
        for dtype in ("float32", "float64"):
            arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
            for method in methods(replace(case, dtype=dtype), direction):
                if method == "naive":
                    continue
                results = [call(case, direction, arrays, method, workers=n).tobytes() for n in (1, 2, 3, 5)]
                assert results[1:] == results[:1] * 3, (case.text, method)


def test_a_sample_alone_and_in_a_batch(isa):
    rng = np.random.default_rng(6)
    for problem in PROBLEMS.values():
        case = replace(problem, layout="NCHW", N=5)
        x = rng.standard_normal(case.x_shape).astype(np.float32)
        w = rng.standard_normal(case.w_shape).astype(np.float32)
        for method in methods(case, "forward"):
            if method == "naive":
                continue
            together = fc.conv2d(x, w, **options(case, method=method), workers=2)
            alone = fc.conv2d(x[3:4], w, **options(case, method=method), workers=1)
            assert together[3:4].tobytes() == alone.tobytes(), (case.text, method)


# --- dtypes ----------------------------------------------------------------------------------------

ONE = np.ones((1, 1, 1, 1))


@pytest.mark.parametrize(
    ("x", "w", "y"),
    [
        ("float32", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("float16", "float16", "float16"),
        ("float16", "float32", "float32"),
        ("float16", "int8", "float16"),
        ("uint8", "float32", "float32"),
        ("int32", "float32", "float64"),
        ("int64", "float32", "float64"),
        ("bool", "float16", "float16"),
        ("bool", "bool", "int64"),
        ("bool", "int8", "int64"),
        ("uint8", "int8", "int64"),
        ("uint64", "uint64", "int64"),
        ("uint64", "int64", "int64"),
        ("int8", "uint64", "int64"),
        (">f4", "<f4", "float32"),
        (">i2", "u1", "int64"),
    ],
)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_promotion(x, w, y, direction):
    problem = ConvProblem(1, 1, 1, 1, 1, 1, 1)
    a, b = NAMES[direction]
    result = call(problem, direction, {a: ONE.astype(x), b: ONE.astype(w)})
    assert result.dtype == y
    assert result.dtype.isnative
    assert result == 1
    result = fc.conv_transpose2d(ONE.astype(x), ONE.astype(w))
    assert result.dtype == y
    dx, dw, db = fc.conv2d_backward(ONE.astype(x), ONE.astype(x), ONE.astype(w))
    assert dx.dtype == y
    assert dw.dtype == np.result_type(x).newbyteorder("=") if np.dtype(x).kind == "f" else "int64"
    assert db == 1


@pytest.mark.parametrize("bad", [ONE.astype(complex), ONE.astype(np.longdouble), ONE.astype(object), [["a"]]])
def test_dtypes_that_are_refused(bad):
    for arguments in [(bad, ONE), (ONE, bad)]:
        with pytest.raises(TypeError, match=r"got dtype .*must be bool, an integer, float16"):
            fc.conv2d(*arguments)
        with pytest.raises(TypeError, match="got dtype"):
            fc.conv2d_input_grad(*arguments, (1, 1, 1, 1))
        with pytest.raises(TypeError, match="got dtype"):
            fc.conv2d_weight_grad(*arguments, (1, 1, 1, 1))
        with pytest.raises(TypeError, match="got dtype"):
            fc.conv_transpose2d(*arguments)
    with pytest.raises(TypeError, match="bias: got dtype"):
        fc.conv2d(ONE, ONE, np.ones(1, complex))


def test_float16_is_added_up_in_float32():
    x = np.full((1, 3000, 1, 1), 1, np.float16)
    for method in EXACT[:3]:
        y = fc.conv2d(x, np.ones((1, 3000, 1, 1), np.float16), method=method)
        assert y.dtype == np.float16
        assert y == 3000  # in float16 alone the sum stops at 2048
    assert np.isinf(fc.conv2d(np.full((1, 2, 1, 1), 6e4, np.float16), np.ones((1, 2, 1, 1), np.float16)))


@pytest.mark.parametrize("method", [m for m in EXACT if m in fc.METHODS])
def test_integers_are_exact_to_the_last(method):
    largest = 2**63 - 1
    for x, w, bias in [
        (largest, 1, 0),
        (-largest, 1, 0),
        (1, -largest, 0),
        (3037000499, 3037000499, largest - 3037000499**2),
        (largest - 5, -1, -5),
    ]:
        y = fc.conv2d(np.full((1, 1, 1, 1), x), np.full((1, 1, 1, 1), w), [bias], method=method)
        assert y.dtype == np.int64
        assert int(y[0, 0, 0, 0]) == x * w + bias
    y = fc.conv2d(np.full((1, 1, 1, 1), largest, np.uint64), np.ones((1, 1, 1, 1), np.uint8), method=method)
    assert int(y[0, 0, 0, 0]) == largest


def whole(*values):
    return np.array(values).reshape(1, -1, 1, 1)


@pytest.mark.parametrize("method", ["auto", *EXACT[:3]])
def test_integers_that_could_overflow(method):
    """Refused where max|x| * (largest sum of |w|) + |bias| passes 2**63 - 1; the sum itself need not."""
    most = 2**62
    assert fc.conv2d(whole(most, most - 1), whole(1, 0), [most - 1], method=method) == 2**63 - 1
    for x, w, bias in [
        (whole(most, most), whole(1, 0), [most]),
        (whole(most, 0), whole(1, 1), None),
        (whole(most, most), whole(1, -1), None),
        (whole(-(2**63)), whole(1), None),
        (np.array([2**63], np.uint64).reshape(1, 1, 1, 1), whole(1), None),
        (whole(1), np.array([2**64 - 1], np.uint64).reshape(1, 1, 1, 1), None),
    ]:
        with pytest.raises(OverflowError, match="beyond int64"):
            fc.conv2d(x, w, bias, method=method)
    # Filters are looked at one by one, and groups too.
    w = np.array([[most, 0], [0, most]]).reshape(2, 2, 1, 1)
    assert fc.conv2d(whole(1, 1), w, method=method).ravel().tolist() == [most, most]
    assert fc.conv2d(whole(1, 1), w[:, :1], groups=2, method=method).ravel().tolist() == [most, 0]
    with pytest.raises(OverflowError):
        fc.conv2d(whole(1, 1), whole(most, most), method=method)


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("power", [0, 7, 8, 11, 12, 23, 24, 25, 31, 52, 53, 54, 61])
def test_integers_are_exact_whatever_their_size(method, power, isa):
    """Sums at and around the largest integers that floats hold: of 2**power and small ones, with a bias."""
    rng = np.random.default_rng(power)
    x = rng.integers(-1, 2, (2, 3, 5, 9))
    x[:, :, 2, 2::3] += 2**power
    w = rng.integers(-1, 2, (3, 1, 3, 2))
    w[0] = w[0] != 0
    bias = np.array([2**power - 1, -(2**power), 1])
    for kind in ("int64", "uint8", "int8", "uint16", "int16", "int32", "uint32"):
        info = np.iinfo(kind)
        small = x.clip(max(info.min, -(2**62)), min(info.max, 2**62)).astype(kind)
        problem = ConvProblem(2, 3, 5, 9, 3, 3, 2, padding=((1, 0), (0, 1)), groups=3, dtype="int64", cval=-3)
        expected = reference.forward(small.astype(np.int64).view(np.uint64), w.view(np.uint64), problem)
        expected = expected.view(np.int64) + bias[:, None, None]
        if np.abs(small.astype(object)).max() * 6 + 2**power >= 2**63:
            continue
        np.testing.assert_array_equal(call(problem, "forward", {"x": small, "w": w, "bias": bias}, method), expected)


def test_gradients_that_could_overflow():
    most = 2**62
    w = np.array([most, most]).reshape(2, 1, 1, 1)  # both meet the one element of dx
    with pytest.raises(OverflowError):
        fc.conv2d_input_grad(whole(1, 1), w, (1, 1, 1, 1))
    assert fc.conv2d_input_grad(whole(1, 1), w.reshape(1, 2, 1, 1)[:, :1].repeat(2, 0) // 2, (1, 1, 1, 1)) == most
    dy = np.full((2, 1, 1, 1), most)
    with pytest.raises(OverflowError):
        fc.conv2d_weight_grad(np.ones((2, 1, 1, 1), int), dy, (1, 1, 1, 1))
    assert fc.conv2d_weight_grad(np.ones((1, 1, 1, 1), int), dy[:1], (1, 1, 1, 1)) == most
    # edge: the one pixel of dx collects from five positions of the padded image
    dy = np.full((1, 1, 1, 5), 2**60)
    one = np.ones((1, 1, 1, 1), int)
    assert fc.conv2d_input_grad(dy, one, (1, 1, 1, 1), padding=(0, 2), boundary="edge") == 5 * 2**60
    with pytest.raises(OverflowError):
        fc.conv2d_input_grad(2 * dy, one, (1, 1, 1, 1), padding=(0, 2), boundary="edge")
    with pytest.raises(OverflowError, match="the exact sum of dy"):
        fc.conv2d_backward(np.full((1, 1, 1, 2), most), np.zeros((1, 1, 1, 2), int), np.zeros((1, 1, 1, 1), int))


def test_constant_counts_for_overflow_where_it_is_used():
    with pytest.raises(OverflowError):
        fc.conv2d(whole(1), whole(2), padding=1, cval=2**62)
    assert fc.conv2d(whole(1), whole(2), cval=2**62) == 2
    assert (fc.conv2d(whole(1), whole(2), padding=1, cval=2**62, boundary="edge") == 2).all()


def test_constant():
    assert fc.conv2d(whole(1), whole(2), padding=1, cval=-5)[0, 0].tolist() == [[-10] * 3, [-10, 2, -10], [-10] * 3]
    for cval in (0.5, np.nan, np.inf):
        with pytest.raises(TypeError, match=r"cval: got .*whole number"):
            fc.conv2d(whole(1), whole(2), padding=1, cval=cval)
    assert fc.conv2d(whole(1), whole(2), padding=1, cval=3.0)[0, 0, 0, 0] == 6
    assert fc.conv2d(ONE, ONE, padding=1, cval=np.float32(0.5))[0, 0, 0, 0] == 0.5
    assert fc.conv2d(ONE, ONE, padding=1, cval=np.array(0.5))[0, 0, 0, 0] == 0.5
    for cval in ("1", 1j, None, [1.0]):
        with pytest.raises(TypeError, match="cval"):
            fc.conv2d(ONE, ONE, padding=1, cval=cval)


def test_bias_is_cast_to_the_promotion_of_the_operands():
    third = np.array([1 / 3])
    y = fc.conv2d(ONE.astype("f4") * 0, ONE.astype("f4"), third)
    assert y.dtype == np.float32
    assert y == np.float32(1 / 3)
    y = fc.conv2d(ONE.astype("f4") * 0, ONE.astype("f4"), third, dtype="float64")
    assert y == np.float64(np.float32(1 / 3))
    y = fc.conv2d(ONE.astype("f2") * 0, ONE.astype("f2"), third, dtype="float32")
    assert y == np.float32(np.float16(1 / 3))
    assert fc.conv2d(whole(1), whole(1), [2.0]) == 3
    assert fc.conv2d(ONE, ONE, np.array([True])) == 2
    with pytest.raises(TypeError, match="bias: got fractions"):
        fc.conv2d(whole(1), whole(1), [0.5])
    with pytest.raises(TypeError, match="bias"):
        fc.conv2d(whole(1), whole(1), [np.nan])
    with pytest.raises(OverflowError):
        fc.conv2d(whole(1), whole(1), [1e300])
    with pytest.raises(OverflowError):
        fc.conv2d(whole(0), whole(1), np.array([2**63], np.uint64))
    for bias in (1.0, [1.0, 2.0], [[1.0]], []):
        with pytest.raises(fc.ShapeError, match=r"bias: got shape .*must be \(1,\)"):
            fc.conv2d(ONE, ONE, bias)


# --- dtype= ----------------------------------------------------------------------------------------


def narrowed(values, dtype, overflow="raise", **others):
    """The values through a 1x1 convolution with the weight 1."""
    x = np.array(values).reshape(1, 1, 1, -1)
    return fc.conv2d(x, np.ones((1, 1, 1, 1), x.dtype), dtype=dtype, overflow=overflow, **others)[0, 0, 0]


def test_narrowing_rounds_half_to_even():
    values = [0.5, 1.5, 2.5, -0.5, -1.5, 254.5, 2.4999]
    result = narrowed(values, "int16")
    assert result.dtype == np.int16
    assert result.tolist() == [0, 2, 2, 0, -2, 254, 2]
    assert narrowed(values, "int16", method="naive").tolist() == result.tolist()


@pytest.mark.parametrize("kind", ["float32", "float64", "int64"])
def test_narrowing_modes(kind):
    values = np.array([-129, -128, 0, 127, 128, 300], kind)
    with pytest.raises(OverflowError, match=r"dtype: the result holds -129.*beyond int8"):
        narrowed(values, "int8")
    assert narrowed(values[1:4], "int8").tolist() == [-128, 0, 127]
    assert narrowed(values, "int8", "saturate").tolist() == [-128, -128, 0, 127, 127, 127]
    assert narrowed(values, "int8", "wrap").tolist() == [127, -128, 0, 127, -128, 44]
    assert narrowed(values, "uint8", "saturate").tolist() == [0, 0, 0, 127, 128, 255]
    assert narrowed(values, "uint8", "wrap").tolist() == [127, 128, 0, 127, 128, 44]


def test_narrowing_at_the_ends_of_64_bits():
    assert narrowed([2.0**63 - 1024, -(2.0**63)], "int64").tolist() == [2**63 - 1024, -(2**63)]
    assert narrowed([2.0**63, -(2.0**64)], "int64", "saturate").tolist() == [2**63 - 1, -(2**63)]
    assert narrowed([2.0**63, 2.0**64 + 4096], "int64", "wrap").tolist() == [-(2**63), 4096]
    with pytest.raises(OverflowError):
        narrowed([2.0**63], "int64")
    assert narrowed([2.0**64 - 2048], "uint64").tolist() == [2**64 - 2048]
    assert narrowed(np.array([5, -1]), "uint64", "saturate").tolist() == [5, 0]
    with pytest.raises(OverflowError):
        narrowed(np.array([5, -1]), "uint64")


@pytest.mark.parametrize("overflow", ["raise", "saturate", "wrap"])
def test_narrowing_nan_and_infinities(overflow):
    with pytest.raises(OverflowError, match="NaN"):
        narrowed([1.0, np.nan], "int8", overflow)
    if overflow == "saturate":
        assert narrowed([np.inf, -np.inf], "int8", overflow).tolist() == [127, -128]
    else:
        with pytest.raises(OverflowError):
            narrowed([1.0, np.inf], "int8", overflow)


def test_result_dtype():
    assert narrowed([1, 2], "float32").dtype == np.float32
    assert narrowed([1.5], "float16").dtype == np.float16
    assert narrowed(np.array([1.5], np.float32), "float64").dtype == np.float64
    # the work is done in the promotion of operands and dtype
    third = np.array([1 / 3], np.float32)
    assert fc.conv2d(third.reshape(1, 1, 1, 1), third.reshape(1, 1, 1, 1), dtype="float64") == float(third[0]) ** 2
    for dtype in ("complex64", "longdouble", "object", "bool", "nonsense", ">f4", "U3"):
        with pytest.raises(TypeError, match="dtype"):
            narrowed([1.0], dtype)
    for overflow in ("clip", None, 3, ["raise"]):
        with pytest.raises((ValueError, TypeError), match="overflow"):
            narrowed([1.0], "int8", overflow)


def test_out_is_untouched_on_error():
    out = np.full((1, 1, 1, 3), 42, np.int8)
    x = np.array([1.0, 2.0, 1000.0]).reshape(1, 1, 1, 3)
    with pytest.raises(OverflowError):
        fc.conv2d(x, ONE, out=out, dtype="int8")
    assert (out == 42).all()
    out = np.full((1, 1, 1, 1), 42)
    with pytest.raises(OverflowError):
        fc.conv2d(whole(2**62), whole(4), out=out)
    with pytest.raises(fc.UnsupportedError):
        fc.conv2d(whole(1), whole(4), out=out, method="direct", max_workspace=0)
    assert out == 42


# --- out= ------------------------------------------------------------------------------------------


def test_out_that_is_refused():
    x, w = np.ones((1, 2, 4, 4)), np.ones((2, 2, 1, 1))
    good = np.empty((1, 2, 4, 4))
    assert fc.conv2d(x, w, out=good) is good
    for bad, error in [
        (np.empty((1, 2, 4, 5)), fc.ShapeError),
        (np.empty((2, 4, 4)), fc.ShapeError),
        (np.empty((1, 2, 4, 4), np.float32), TypeError),
        (np.empty((1, 2, 4, 4), ">f8"), TypeError),
        ([0.0], TypeError),
        (np.broadcast_to(1.0, (1, 2, 4, 4)), ValueError),
        (np.lib.stride_tricks.as_strided(np.empty(16), (1, 2, 4, 4), (0, 0, 32, 8)), ValueError),
        (x, ValueError),
        (x[:, ::-1], ValueError),
    ]:
        with pytest.raises(error, match="out"):
            fc.conv2d(x, w, out=bad)
    with pytest.raises(ValueError, match="out: shares memory"):
        fc.conv2d(x, w, out=x.view())
    square = np.ones((2, 2, 1, 1))
    with pytest.raises(ValueError, match="out"):
        fc.conv2d(np.ones((2, 2, 1, 1)), square, out=square)
    bias = np.ones(2)
    with pytest.raises(ValueError, match="out"):
        fc.conv2d(np.ones((1, 1, 1, 1)), np.ones((2, 1, 1, 1)), bias, out=bias.reshape(1, 2, 1, 1))


def test_out_between_the_elements_of_an_input():
    both = np.zeros((1, 1, 4, 8))
    both[..., ::2] = np.arange(16).reshape(4, 4)
    for method in EXACT[:3]:
        fc.conv2d(both[..., ::2], np.full((1, 1, 1, 1), 3.0), out=both[..., 1::2], method=method)
        np.testing.assert_array_equal(both[..., 1::2], 3 * both[..., ::2])


# --- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", *(m for m in EXACT if m in fc.METHODS)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_batches_and_no_channels(method, dtype, layout):
    for n, c in [(0, 3), (2, 0), (0, 0)]:
        problem = ConvProblem(n, c, 5, 6, 4, 3, 3, layout=layout, dtype=dtype)
        for direction in DIRECTIONS:
            if method not in ("auto", *methods(problem, direction)):
                pytest.skip(f"{method} does not serve it")
            arrays = {
                "x": layout_of(np.ones(problem.x_shape, dtype), layout), "w": np.ones(problem.w_shape, dtype),
                "dy": layout_of(np.ones(problem.y_shape, dtype), layout),
            }  # fmt: skip
            result = call(problem, direction, arrays, method)
            expected = {"forward": problem.y_shape, "input_grad": problem.x_shape, "weight_grad": problem.w_shape}
            shape = expected[direction]
            if layout == "NHWC" and direction != "weight_grad":
                shape = (shape[0], shape[2], shape[3], shape[1])
            assert result.shape == shape
            assert result.dtype == dtype
            assert not result.any()
        bias = np.arange(4).astype(dtype)
        y = fc.conv2d(arrays["x"], arrays["w"], bias, layout=layout, method=method)
        assert (y == (bias if layout == "NHWC" else bias[:, None, None])).all()
        dx, dw, db = fc.conv2d_backward(arrays["dy"], arrays["x"], arrays["w"], layout=layout, method=method)
        assert not dx.any()
        assert not dw.any()
        assert db.tolist() == [0 if n == 0 else 2 * 3 * 4] * 4


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": np.ones((4, 5, 6))}, fc.ShapeError, r"x: got shape .*must have 4 axes"),
        ({"w": np.ones((4, 3, 3))}, fc.ShapeError, r"w: got shape .*must have 4 axes"),
        ({"x": np.ones((1, 4, 0, 6))}, fc.ShapeError, "H = 0"),
        ({"x": np.ones((1, 4, 5, 0))}, fc.ShapeError, "W = 0"),
        ({"w": np.ones((0, 4, 3, 3))}, fc.ShapeError, "K = 0"),
        ({"w": np.ones((4, 4, 0, 3))}, fc.ShapeError, "R = 0"),
        ({"w": np.ones((4, 4, 3, 0))}, fc.ShapeError, "S = 0"),
        ({"w": np.ones((4, 3, 3, 3))}, fc.ShapeError, "w: got 3 channels"),
        ({"groups": 2}, fc.ShapeError, "w: got 4 channels"),
        ({"groups": 4, "w": np.ones((6, 1, 3, 3))}, fc.ShapeError, "groups: got 4"),
        ({"groups": 0}, fc.ShapeError, "groups: got 0"),
        ({"groups": 1.0}, TypeError, "groups"),
        ({"stride": 0}, fc.ShapeError, "stride: got 0"),
        ({"stride": (1, -1)}, fc.ShapeError, "stride: got -1"),
        ({"stride": (1, 1, 1)}, fc.ShapeError, "stride"),
        ({"stride": 1.5}, TypeError, "stride"),
        ({"dilation": 0}, fc.ShapeError, "dilation: got 0"),
        ({"dilation": "2"}, TypeError, "dilation"),
        ({"padding": -1}, fc.ShapeError, "padding: got -1"),
        ({"padding": ((0, 0), (0, -1))}, fc.ShapeError, "padding: got -1"),
        ({"padding": (1, 1, 1)}, fc.ShapeError, "padding"),
        ({"padding": "some"}, ValueError, "padding: got 'some'"),
        ({"padding": None}, TypeError, "padding"),
        ({"dilation": 3}, fc.ShapeError, "filter of 3x3 spans 7x7"),
        ({"w": np.ones((4, 4, 6, 3))}, fc.ShapeError, "filter of 6x3"),
        ({"padding": 2**62}, fc.ShapeError, "overflow"),
        ({"padding": 2**31}, fc.ShapeError, "overflow"),
        ({"padding": 2**200}, fc.ShapeError, "overflow"),
        ({"dilation": 2**62}, fc.ShapeError, "filter"),
        ({"padding": "full", "dilation": 2**61}, fc.ShapeError, "overflow"),
        ({"boundary": "zero"}, ValueError, "boundary: got 'zero'"),
        ({"layout": "CHWN"}, ValueError, "layout: got 'CHWN'"),
        ({"method": "fast"}, ValueError, "method: got 'fast'"),
        ({"method": None}, ValueError, "method"),
        ({"max_error": -1.0}, ValueError, "max_error"),
        ({"max_error": np.nan}, ValueError, "max_error"),
        ({"max_error": "small"}, TypeError, "max_error"),
        ({"max_workspace": -1}, fc.ShapeError, "max_workspace"),
        ({"max_workspace": 1e6}, TypeError, "max_workspace"),
        ({"elementwise": 1}, TypeError, "elementwise"),
        ({"workers": 0}, ValueError, "workers: got 0"),
        ({"workers": 2.0}, TypeError, "workers"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_refusals(change, error, words):
    valid = {"x": np.ones((1, 4, 5, 6)), "w": np.ones((4, 4, 3, 3))}
    fc.conv2d(**valid)
    with pytest.raises(error, match=words):
        fc.conv2d(**valid | change)


def test_refusals_do_not_depend_on_earlier_calls():
    """1.0 == 1 == True, but only integers are strides: what was seen before does not let others pass."""
    x, w = np.ones((1, 1, 4, 4)), np.ones((1, 1, 2, 2))
    refused = [(name, 1.0) for name in ("stride", "dilation", "groups", "padding")]
    refused += [("stride", (1.0, 1)), ("dilation", (1, 1.0)), ("padding", ((1.0, 1), (1, 1))), ("elementwise", 0)]
    for name, value in refused:
        if name != "elementwise":
            fc.conv2d(x, w, **{name: 1})
        fc.conv2d(x, w, **{name: ((1, 1), (1, 1)) if name == "padding" else False if name == "elementwise" else 1})
        with pytest.raises(TypeError, match=name):
            fc.conv2d(x, w, **{name: value})


def test_gradient_refusals():
    x, w, dy = np.ones((2, 3, 8, 8)), np.ones((4, 3, 3, 3)), np.ones((2, 4, 6, 6))
    for shape in [(2, 3, 8, 9), (1, 3, 8, 8), (2, 3, 8), (2, 3, 8, 8, 1)]:
        with pytest.raises(fc.ShapeError):
            fc.conv2d_input_grad(dy, w, shape)
    with pytest.raises(fc.ShapeError, match=r"w: got 3 channels"):
        fc.conv2d_input_grad(dy, w, (2, 5, 8, 8))
    for shape in [(4, 3, 3, 4), (5, 3, 3, 3), (4, 3, 3), (4, 2, 3, 3)]:
        with pytest.raises(fc.ShapeError):
            fc.conv2d_weight_grad(x, dy, shape)
    with pytest.raises(TypeError, match="input_shape"):
        fc.conv2d_input_grad(dy, w, (2, 3, 8.0, 8))
    with pytest.raises(TypeError, match="kernel_shape"):
        fc.conv2d_weight_grad(x, dy, 3)
    with pytest.raises(fc.ShapeError, match="dy: got shape"):
        fc.conv2d_input_grad(dy, w, (2, 3, 8, 8), stride=2)
    with pytest.raises(fc.ShapeError):
        fc.conv2d_input_grad(dy, w, (2, 3, 2**31, 2**31))


@pytest.mark.slow  # and no matter for the sanitizers: their memory is of another kind
@pytest.mark.parametrize(
    "change",
    [
        {"padding": 2**24},
        {"padding": ((0, 2**50), (0, 0))},
        {"padding": ((0, 2**27), (0, 2**27)), "boundary": "edge"},
        {"padding": 2**24, "dtype": "int64"},
        {"padding": 2**24, "method": "direct"},
    ],
    ids=str,
)
def test_sizes_that_can_not_be_had(change):
    """MemoryError at once: memory in use hardly grows."""
    before = peak_memory()
    with pytest.raises(MemoryError):
        fc.conv2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 1, 1)), **change)
    assert peak_memory() - before < 50 << 20


def peak_memory():
    """Bytes that this process had in use at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_anything_that_asarray_takes():
    assert fc.conv2d([[[[1, 2]]]], (((((3,),),),)), [1]).tolist() == [[[[4, 7]]]]
    assert fc.conv2d(memoryview(np.ones((1, 1, 1, 2))), ONE).tolist() == [[[[1, 1]]]]


def test_padding_and_option_forms():
    rng = np.random.default_rng(0)
    x, w = rng.integers(-3, 4, (2, 3, 9, 10)), rng.integers(-3, 4, (4, 3, 4, 3))
    same = fc.conv2d(np.pad(x, ((0, 0), (0, 0), (1, 2), (1, 1))), w)
    np.testing.assert_array_equal(fc.conv2d(x, w, padding="same"), same)
    lower = fc.conv2d(np.pad(x, ((0, 0), (0, 0), (2, 1), (1, 1))), w)
    np.testing.assert_array_equal(fc.conv2d(x, w, padding="same_lower"), lower)
    full = fc.conv2d(np.pad(x, ((0, 0), (0, 0), (6, 6), (4, 4))), w, dilation=2)
    np.testing.assert_array_equal(fc.conv2d(x, w, padding="full", dilation=2), full)
    np.testing.assert_array_equal(fc.conv2d(x, w, padding="valid"), fc.conv2d(x, w))
    expected = fc.conv2d(x, w, stride=(2, 3), padding=((1, 1), (2, 2)))
    for stride in [(2, 3), [2, 3], np.array([2, 3]), (np.int8(2), np.int64(3))]:
        for padding in [(1, 2), [1, 2], [[1, 1], [2, 2]], np.array([[1, 1], [2, 2]])]:
            np.testing.assert_array_equal(fc.conv2d(x, w, stride=stride, padding=padding), expected)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_boundaries_are_numpys(boundary):
    rng = np.random.default_rng(0)
    x, w = rng.integers(-3, 4, (2, 2, 4, 3)), rng.integers(-3, 4, (3, 2, 3, 2))
    padded = np.pad(x, ((0, 0), (0, 0), (3, 9), (7, 1)), boundary)
    result = fc.conv2d(x, w, padding=((3, 9), (7, 1)), boundary=boundary)
    np.testing.assert_array_equal(result, fc.conv2d(padded, w))


def test_boundary_aliases():
    x, w = np.arange(12).reshape(1, 1, 3, 4), np.arange(9).reshape(1, 1, 3, 3)
    for alias, name in [("nearest", "edge"), ("replicate", "edge"), ("mirror", "reflect"), ("circular", "wrap")]:
        expected = fc.conv2d(x, w, padding=2, boundary=name)
        np.testing.assert_array_equal(fc.conv2d(x, w, padding=2, boundary=alias), expected)
