"""fft: every geometry against the reference, bytes, scratch, refusals; and the repair of tiles that are not finite."""

import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastconv
from fastconv import planner, reference
from fastconv.algorithms import fft, winograd
from fastconv.algorithms.common import scratch
from fastconv.errors import ShapeError, UnsupportedError
from fastconv.problem import ConvProblem

DIRECTIONS = ("forward", "input_grad", "weight_grad")
OPERANDS = {"forward": ("x", "w"), "input_grad": ("dy", "w"), "weight_grad": ("x", "dy")}
NO_BIAS = {name: np.empty(0, name) for name in ("float32", "float64")}


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of a few pixels and blocks of a few channels, so that small problems have many."""
    monkeypatch.setattr(fft, "LENGTHS", (16,))
    monkeypatch.setattr(fft, "FILTER_BYTES", 2000)
    monkeypatch.setattr(fft, "NEAR_BYTES", 2000)
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget():
    fft._tiling.cache_clear()
    fastconv.clear_caches()


def operands(problem, rng):
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "dy": problem.y_shape}
    return [rng.standard_normal(shapes[name]).astype(problem.compute_dtype) for name in OPERANDS[problem.direction]]


def run(plan, a, b, workers=1):
    out = np.full(plan.problem.out_shape, np.nan, a.dtype)
    plan.run(a, b, NO_BIAS[a.dtype.name], out, workers)
    return out


def check(problem, seed=0):
    """Agreement with the reference to a bound of norms over whole planes."""
    a, b = operands(problem, np.random.default_rng(seed))
    plan = planner.plan(problem, "fft")
    y = run(plan, a, b)
    exact = getattr(reference, problem.direction)(a.astype(np.longdouble), b.astype(np.longdouble), problem)
    padded = reference.pad(a, problem) if problem.direction != "input_grad" else a
    size = np.linalg.norm(padded) * np.linalg.norm(b)
    assert np.abs(y - exact).max() <= plan.error_bound * size
    return y


GEOMETRY = (
    "n1 c1 h1 w1 k1 r1 s1",
    "n1 c1 h5 w5 k1 r5 s5",
    "n2 c3 h17 w19 k4 r3 s5",
    "n1 c1 h40 w7 k1 r9 s2 pad3,5,0,1",
    "n1 c2 h16 w16 k2 r3 s3 stride2 pad1",
    "n1 c2 h16 w17 k3 r2 s2 stride3",
    "n2 c2 h20 w21 k2 r3 s4 stride2x3 dil3x2 pad4",
    "n1 c2 h20 w21 k2 r3 s4 stride4x6 dil6x4 pad9",
    "n1 c1 h23 w9 k2 r3 s3 dil5x1",
    "n2 c6 h12 w12 k9 r3 s3 g3 pad1",
    "n1 c4 h9 w9 k4 r3 s3 g4 pad2 edge",
    "n1 c2 h4 w5 k2 r4 s4 pad9 reflect",
    "n1 c2 h4 w5 k2 r4 s4 pad9 symmetric",
    "n1 c2 h4 w5 k2 r4 s4 pad9 wrap stride2",
    "n1 c2 h4 w5 k2 r4 s4 pad9 edge dil2",
    "n1 c1 h1 w6 k1 r3 s3 pad3 reflect",
    "n1 c2 h8 w8 k2 r3 s3 pad2 cval1.5",
    "n1 c2 h8 w8 k2 r1 s1 stride5 dil3",
    "n1 c1 h2 w9 k1 r1 s3 stride7x1 pad2",
)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("line", GEOMETRY)
def test_agrees_with_the_reference(line, direction):
    check(ConvProblem.from_text(f"{line} {direction}"))
    check(ConvProblem.from_text(f"{line} {direction} float64"))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("line", GEOMETRY)
def test_small_tiles_agree_with_the_reference(line, direction, small_tiles):
    check(ConvProblem.from_text(f"{line} {direction} float64"))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "line",
    [
        "n1 c1 h300 w200 k1 r31 s9 pad15",
        "n3 c20 h34 w30 k33 r7 s7 pad3",
        "n2 c40 h20 w20 k40 r5 s5 g40 pad2",
        "n1 c1 h700 w3 k1 r600 s2",
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_larger_problems_agree_with_the_direct_method(line, direction, dtype):
    """Transforms of several lengths, chunks of several tiles, several groups at a time; in scratch that holds NaN."""
    problem = ConvProblem.from_text(f"{line} {direction} {dtype}")
    a, b = operands(problem, np.random.default_rng(0))
    plan = planner.plan(problem, "fft")
    with scratch(plan.workspace_bytes) as memory:
        memory.fill(0xFF)
    y, exact = (
        run(plan, a, b),
        run(planner.plan(replace(problem, dtype="float64"), "direct"), a.astype("d"), b.astype("d")),
    )
    assert np.abs(y - exact).max() <= 60 * np.finfo(dtype).eps * np.abs(exact).max()
    plan._most_workers = 3
    assert run(plan, a, b, 3).tobytes() == y.tobytes()


@pytest.mark.parametrize("length", [16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 512, 1024, 1536])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_length_of_transform(length, dtype, monkeypatch):
    monkeypatch.setattr(fft, "LENGTHS", (16, length))
    forget()
    problem = ConvProblem.from_text(f"n1 c1 h{length + 40} w30 k1 r{max(length - 20, 3)} s3 {dtype}")
    check(problem)
    assert planner.plan(problem, "fft").variant == f"tiles of {length}x16"
    monkeypatch.undo()
    forget()


@st.composite
def problems(draw):
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    small, pad = st.integers(1, 4), st.integers(0, 7)
    pair = st.tuples(small, small)
    try:
        return ConvProblem(
            N=draw(st.integers(1, 2)), C=groups * draw(st.integers(1, 3)), K=groups * draw(st.integers(1, 3)),
            H=draw(st.integers(1, 20)), W=draw(st.integers(1, 20)), R=draw(st.integers(1, 6)), S=draw(small),
            stride=draw(pair), dilation=draw(pair), padding=(draw(st.tuples(pad, pad)), draw(st.tuples(pad, pad))),
            groups=groups, boundary=draw(st.sampled_from(("constant", "edge", "symmetric", "reflect", "wrap"))),
            dtype=draw(st.sampled_from(("float32", "float64"))), direction=draw(st.sampled_from(DIRECTIONS)),
        )  # fmt: skip
    except ShapeError:
        assume(False)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_random_problems(problem):
    check(problem)


def test_empty_sums_and_batches():
    x, w = np.ones((2, 0, 6, 6)), np.ones((3, 0, 3, 3))
    assert not fastconv.conv2d(x, w, method="fft").any()
    assert fastconv.conv2d(np.ones((0, 2, 6, 6)), np.ones((3, 2, 3, 3)), method="fft").shape == (0, 3, 4, 4)


def test_bias_float16_nhwc_and_strided_operands():
    rng = np.random.default_rng(1)
    x, w, bias = rng.standard_normal((2, 9, 8, 3)), rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    expected = fastconv.conv2d(x, w, bias, layout="NHWC", padding=1, method="direct")
    np.testing.assert_allclose(
        fastconv.conv2d(x, w, bias, layout="NHWC", padding=1, method="fft"), expected, atol=1e-13
    )
    halves = fastconv.conv2d(x.astype("e"), w.astype("e"), layout="NHWC", padding=1, method="fft")
    assert halves.dtype == np.float16
    flipped = fastconv.conv2d(x[:, ::-1, ::-2], w[..., ::-1], layout="NHWC", method="fft")
    np.testing.assert_allclose(
        flipped, fastconv.conv2d(x[:, ::-1, ::-2].copy(), w[..., ::-1].copy(), layout="NHWC"), atol=1e-13
    )
    out = np.zeros((2, 4, 9, 16))[..., ::2]
    fastconv.conv2d(x.transpose(0, 3, 1, 2), w, bias, padding=1, method="fft", out=out)
    np.testing.assert_allclose(out.transpose(0, 2, 3, 1), expected, atol=1e-13)


def test_integers_are_refused():
    with pytest.raises(UnsupportedError, match="integer results are exact"):
        fastconv.conv2d(np.ones((1, 1, 5, 5), int), np.ones((1, 1, 3, 3), int), method="fft")


# --- bytes -----------------------------------------------------------------------------------------

BYTES = (
    "n3 c5 h40 w37 k4 r5 s3 pad2",
    "n2 c2 h50 w50 k2 r3 s3 stride2 dil3 pad3",
    "n3 c4 h20 w20 k6 r3 s3 g2 pad2 wrap",
)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("line", BYTES)
def test_every_number_of_workers_gives_the_same_bytes(line, direction, small_tiles):
    problem = ConvProblem.from_text(f"{line} {direction}")
    a, b = operands(problem, np.random.default_rng(2))
    plan = planner.plan(problem, "fft")
    plan._most_workers = 5
    alone = run(plan, a, b).tobytes()
    assert all(run(plan, a, b, workers).tobytes() == alone for workers in (2, 3, 5))


@pytest.mark.parametrize(
    "line", ["n3 c5 h40 w37 k4 r5 s3 pad2", "n7 c1 h9 w9 k1 r4 s4", "n5 c3 h28 w28 k2 r5 s5 stride2"]
)
def test_a_sample_is_the_same_alone_and_in_a_batch(line):
    problem = ConvProblem.from_text(line)
    x, w = operands(problem, np.random.default_rng(3))
    y = fastconv.conv2d(x, w, stride=problem.stride, padding=problem.padding, method="fft")
    for n in range(problem.N):
        alone = fastconv.conv2d(x[n : n + 1], w, stride=problem.stride, padding=problem.padding, method="fft")
        assert alone.tobytes() == y[n : n + 1].tobytes()


@pytest.mark.parametrize("tiles", ["whole", "small"])
def test_packed_filters_give_the_same_bytes(tiles, request):
    if tiles == "small":  # several blocks of results
        request.getfixturevalue("small_tiles")
    rng = np.random.default_rng(4)
    for direction in ("forward", "input_grad"):
        plan = fastconv.plan_conv2d((2, 4, 30, 30), (6, 2, 5, 5), groups=2, direction=direction, method="fft", stride=2)
        w = rng.standard_normal((6, 2, 5, 5)).astype("f")
        a = rng.standard_normal((2, 4, 30, 30) if direction == "forward" else (2, 6, 13, 13)).astype("f")
        assert plan(a, plan.pack(w)).tobytes() == plan(a, w).tobytes()


def test_one_worker_starts_no_thread(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda self: pytest.fail("a thread was started"))
    fastconv.conv2d(np.ones((2, 2, 64, 64)), np.ones((2, 2, 9, 9)), method="fft", workers=1)


def test_importing_and_planning_leave_scipy_alone():
    code = (
        "import sys, fastconv; fastconv.plan_conv2d((1, 1, 99, 99), (1, 1, 31, 31), method='fft'); "
        "assert not any(name.split('.')[0] == 'scipy' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


# --- scratch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "line",
    ["n1 c1 h2048 w2048 k1 r31 s31 pad15 float64", "n2 c24 h40 w40 k24 r9 s9", "n2 c24 h60 w60 k24 r9 s9 stride2"],
)
def test_scratch_is_as_reported(line, direction):
    problem = ConvProblem.from_text(f"{line} {direction}")
    plan = planner.plan(problem, "fft")
    assert plan.workspace_bytes < 64 << 20
    a, b = operands(problem, np.random.default_rng(5))
    run(plan, a, b)  # imports, plans and tables are made once
    out = np.empty(problem.out_shape, a.dtype)
    fastconv.machine.clear_scratch()
    tracemalloc.start()
    try:
        plan.run(a, b, NO_BIAS[a.dtype.name], out, 1)
        assert tracemalloc.get_traced_memory()[1] <= plan.workspace_bytes
    finally:
        tracemalloc.stop()


def test_a_limit_that_cannot_be_kept_is_refused():
    with pytest.raises(UnsupportedError, match="max_workspace is 1000"):
        fastconv.conv2d(np.ones((1, 1, 64, 64)), np.ones((1, 1, 9, 9)), method="fft", max_workspace=1000)


# --- results that are not finite -------------------------------------------------------------------


@pytest.fixture(params=[fft, winograd.F4, winograd.F2], ids=["fft", "F4", "F2"])
def chosen(request, monkeypatch):
    """ "auto" chooses this method wherever it can serve."""
    cost = request.param.cost
    monkeypatch.setattr(request.param, "cost", lambda *args: replace(cost(*args), flops=0, bytes=0, calls=0))
    forget()
    yield request.param.NAME
    monkeypatch.undo()
    forget()


REPAIRED = (
    "n2 c2 h40 w40 k3 r3 s3 pad1", "n2 c4 h30 w33 k4 r5 s5 pad2 g2", "n1 c2 h40 w41 k2 r3 s3 dil3 pad4",
    "n1 c1 h20 w20 k1 r5 s5 pad2 wrap", "n1 c1 h20 w20 k1 r3 s3 pad3 reflect cval2",
)  # fmt: skip
REPAIRED_FFT = (
    "n1 c2 h41 w40 k2 r3 s4 stride2 pad2", "n2 c2 h41 w40 k2 r3 s4 stride2x3 dil3x2 pad5",
    "n1 c2 h40 w40 k2 r2 s2 stride3 pad1", "n1 c1 h30 w30 k1 r4 s4 stride4x6 dil6x4 pad9",
    "n1 c1 h20 w20 k1 r5 s5 stride2 pad3 symmetric",
)  # fmt: skip


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("line", REPAIRED + REPAIRED_FFT)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_not_finite_operands_spread_no_further(line, direction, value, where, small_tiles, chosen):
    problem = ConvProblem.from_text(f"{line} {direction}")
    if chosen == "winograd" and line in REPAIRED_FFT:
        pytest.skip("winograd serves no stride")
    clean = operands(problem, np.random.default_rng(6))
    spoilt = [array.copy() for array in clean]
    spoilt[where][0, -1, spoilt[where].shape[2] // 2, -2] = value
    plan = planner.plan(problem)
    assert plan.method == chosen
    y, before = run(plan, *spoilt), run(plan, *clean)
    expected = run(planner.plan(problem, "direct"), *spoilt)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(y == np.inf, expected == np.inf)
    finite = np.isfinite(expected)
    np.testing.assert_allclose(y[finite], expected[finite], rtol=1e-3, atol=1e-3)
    if where == 0 and problem.direction != "weight_grad" and problem.boundary == "constant":
        assert (y == before).any()  # tiles far from it keep their bytes


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_finite_operands_whose_transform_overflows_come_out_right(direction, chosen):
    problem = ConvProblem.from_text(f"n1 c1 h64 w64 k1 r5 s5 {direction}")
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "dy": problem.y_shape}
    a, b = (np.full(shapes[name], 1.0, "f") for name in OPERANDS[direction])
    a *= np.float32(3e36 if direction != "weight_grad" else 5e34)  # a tile's sums exceed float32, a window's don't
    if chosen == "winograd":
        a *= np.float32(4)
    plan = planner.plan(problem)
    np.testing.assert_allclose(run(plan, a, b), run(planner.plan(problem, "direct"), a, b), rtol=1e-4)


def test_a_named_method_spreads_and_auto_repairs_packed_weights(chosen):
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((1, 2, 32, 32)).astype("f"), rng.standard_normal((2, 2, 3, 3)).astype("f")
    x[0, 0, 4, 4] = np.nan
    plan = fastconv.plan_conv2d(x.shape, w.shape)
    y = plan(x, plan.pack(w))
    assert np.isnan(y).sum() == 2 * 9
    assert y.tobytes() == plan(x, w).tobytes()
    named = fastconv.plan_conv2d(x.shape, w.shape, method=chosen)
    spread = np.isnan(named(x, named.pack(w))).sum()
    assert spread > 2 * 9 or named.variant == "F(2x2,3x3)"  # in which a pixel reaches no output but its own


def test_a_filter_that_is_not_finite_leaves_the_others_alone(small_tiles, chosen):
    rng = np.random.default_rng(8)
    x, w = rng.standard_normal((1, 4, 30, 30)).astype("f"), rng.standard_normal((6, 2, 3, 3)).astype("f")
    before = fastconv.conv2d(x, w, groups=2)
    w[4, 1, 1, 1] = np.inf
    y = fastconv.conv2d(x, w, groups=2)
    others = [0, 1, 2, 3, 5]
    assert y[:, others].tobytes() == before[:, others].tobytes()
    assert not np.isfinite(y[:, 4]).any()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_scratch_covers_the_repair(direction, chosen):
    problem = ConvProblem.from_text(f"n1 c8 h100 w300 k8 r5 s5 {direction}")
    plan = planner.plan(problem)
    a, b = operands(problem, np.random.default_rng(9))
    a[:] = np.nan
    run(plan, a, b)
    out = np.empty(problem.out_shape, a.dtype)
    fastconv.machine.clear_scratch()
    tracemalloc.start()
    try:
        plan.run(a, b, NO_BIAS[a.dtype.name], out, 1)
        assert tracemalloc.get_traced_memory()[1] <= plan.workspace_bytes
    finally:
        tracemalloc.stop()
    assert np.isnan(out).all()
