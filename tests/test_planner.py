"""Plans: what is chosen, why, within which limits; packing; defaults; the short cut of repeated calls."""

import threading

import numpy as np
import pytest

import fastconv as fc
from fastconv import machine, planner, reference
from fastconv.algorithms import ALGORITHMS
from fastconv.ops import call
from fastconv.problem import ConvProblem

SHAPES = (2, 16, 12, 13), (24, 16, 3, 3)
OPTIONS = {"stride": (1, 2), "padding": 1}
DIRECTIONS = ("forward", "input_grad", "weight_grad")
rng = np.random.default_rng(0)
X, W = rng.standard_normal(SHAPES[0]).astype("f4"), rng.standard_normal(SHAPES[1]).astype("f4")
DY = rng.standard_normal((2, 24, 12, 7)).astype("f4")
OPERANDS = {"forward": (X, W), "input_grad": (DY, W), "weight_grad": (X, DY)}


def called(direction, **options):
    """The plain function that a plan of this direction stands for."""
    a, b = OPERANDS[direction]
    if direction == "forward":
        return fc.conv2d(a, b, **OPTIONS, **options)
    if direction == "input_grad":
        return fc.conv2d_input_grad(a, b, X.shape, **OPTIONS, **options)
    return fc.conv2d_weight_grad(a, b, W.shape, **OPTIONS, **options)


def test_methods():
    assert tuple(m for m in ("naive", "direct", "im2col", "gemm", "winograd", "fft", "separable")
                               if m in fc.METHODS) == fc.METHODS  # fmt: skip
    assert {a.NAME for a in ALGORITHMS} == set(fc.METHODS)
    assert {"naive", "direct", "im2col"} <= set(fc.METHODS)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_plan_attributes(direction, isa):
    plan = fc.plan_conv2d(*SHAPES, direction=direction, **OPTIONS)
    assert plan.method in fc.METHODS
    assert isinstance(plan.variant, str)
    assert plan.variant
    assert plan.workspace_bytes >= 0
    assert plan.flops == 2 * 2 * 24 * 12 * 7 * 16 * 9
    assert 0 < plan.error_bound < 1e-3
    assert plan.error_scope in ("window", "tile")
    assert plan.isa == isa
    assert fc.plan_conv2d((1, 8, 9, 9), (8, 1, 3, 3), groups=8, method="direct").variant == "depthwise"


def test_explain_has_a_line_for_each_method():
    for direction in DIRECTIONS:
        plan = fc.plan_conv2d(*SHAPES, direction=direction)
        first, *lines = plan.explain().splitlines()
        assert plan.problem.text in first
        assert len(lines) == len(fc.METHODS)
        assert sorted(line[2:].split()[0] for line in lines) == sorted(fc.METHODS)
        assert [line[2:].split()[0] for line in lines if line.startswith("> ")] == [plan.method]
    limit = fc.plan_conv2d(*SHAPES, method="direct").workspace_bytes
    lines = fc.plan_conv2d(*SHAPES, max_workspace=limit).explain().splitlines()
    refused = [line for line in lines if f"bytes of scratch, max_workspace is {limit}" in line]
    assert refused
    assert all("; refused: it needs" in line for line in refused)


def test_auto_takes_the_least_time():
    """As it is reckoned; and never the textbook loops where something else serves."""
    for direction in DIRECTIONS:
        plan = fc.plan_conv2d(*SHAPES, direction=direction)
        assert plan.method != "naive"
        serving = [m for m in fc.METHODS if m != "separable"]  # plans without values know no rank
        plans = [fc.plan_conv2d(*SHAPES, direction=direction, method=m) for m in serving]
        assert plan.seconds == min(p.seconds for p in plans)


# --- limits ----------------------------------------------------------------------------------------


def test_max_error():
    plan = fc.plan_conv2d(*SHAPES, method="direct")
    assert fc.plan_conv2d(*SHAPES, method="direct", max_error=plan.error_bound).method == "direct"
    for method in ("auto", "direct", "im2col", "naive"):
        with pytest.raises(fc.UnsupportedError, match=r"error_bound is .*, max_error 1.00e-09"):
            fc.plan_conv2d(*SHAPES, method=method, max_error=1e-9)
        with pytest.raises(fc.UnsupportedError, match="max_error"):
            fc.conv2d(X, W, method=method, max_error=1e-9)
        assert fc.plan_conv2d(*SHAPES, method=method, dtype="float64", max_error=1e-9).error_bound <= 1e-9
        assert fc.plan_conv2d(*SHAPES, method=method, dtype="int8", max_error=0).error_bound == 0
    assert fc.plan_conv2d(*SHAPES, elementwise=True).error_scope == "window"


def test_max_workspace_of_a_named_method():
    for method in ("direct", "im2col"):
        for direction in DIRECTIONS:
            need = fc.plan_conv2d(*SHAPES, method=method, direction=direction).workspace_bytes
            assert fc.plan_conv2d(*SHAPES, method=method, direction=direction, max_workspace=need).method == method
            figures = f"needs {need} bytes of scratch, max_workspace is {need - 1}"
            with pytest.raises(fc.UnsupportedError, match=figures):
                fc.plan_conv2d(*SHAPES, method=method, direction=direction, max_workspace=need - 1)


def test_max_workspace_of_auto():
    needs = {m: fc.plan_conv2d(*SHAPES, method=m).workspace_bytes for m in ("naive", "direct", "im2col")}
    for limit in sorted(needs.values()):
        plan = fc.plan_conv2d(*SHAPES, max_workspace=limit)
        assert plan.workspace_bytes <= limit
    with pytest.raises(fc.UnsupportedError, match=rf"needs {needs['direct']} bytes of scratch, max_workspace is 0"):
        fc.conv2d(X, W, max_workspace=0)
    # More than the default limit of 64 MiB whatever the method: "auto" serves all the same.
    assert fc.plan_conv2d((1, 3000, 3, 3), (3000, 3000, 3, 3)).method in fc.METHODS


def test_fewer_workers_under_a_limit(monkeypatch):
    """The method stays, the bytes of the result too; so many work as the limit has scratch for."""
    monkeypatch.setattr(machine, "PARALLEL_SECONDS", -1.0)
    fc.clear_caches()
    taken = []
    take = machine.take_scratch
    monkeypatch.setattr(machine, "take_scratch", lambda n: taken.append(n) or take(n))
    for method in ("direct", "im2col"):
        plan = fc.plan_conv2d(*SHAPES, method=method, **OPTIONS)
        free = called("forward", method=method, workers=4)
        worker = (taken[-1] - plan.workspace_bytes) // 3
        shared = plan.workspace_bytes - worker
        for workers in (1, 2, 3):
            limit = shared + worker * workers + worker // 2
            result = called("forward", method=method, workers=4, max_workspace=limit)
            assert taken[-1] == shared + worker * workers
            assert result.tobytes() == free.tobytes()
    fc.clear_caches()


# --- calls and packed weights ----------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("method", ["auto", *fc.METHODS[:3]])
def test_plan_is_the_function(direction, method, isa):
    if method == "naive" and isa != machine.ISAS[0]:
        pytest.skip("the same loops on every instruction set")
    plan = fc.plan_conv2d(*SHAPES, direction=direction, method=method, **OPTIONS)
    a, b = OPERANDS[direction]
    expected = called(direction, method=method).tobytes()
    assert plan(a, b).tobytes() == expected
    out = np.empty(plan(a, b).shape, np.float32)
    assert plan(a, b, out=out) is out
    assert out.tobytes() == expected
    if direction == "weight_grad":
        with pytest.raises(TypeError, match="no weights to pack"):
            plan.pack(W)
        return
    w = W.copy()
    packed = plan.pack(w)
    w[...] = 0  # a copy: the packed weights stay
    for _ in range(2):
        assert plan(a, packed).tobytes() == expected


def test_packed_weights_of_every_dtype_and_layout():
    for layout in ("NCHW", "NHWC"):
        for dtype in ("float32", "float64", "float16", "int64", "uint8"):
            x_shape = (2, 5, 6, 4) if layout == "NHWC" else (2, 4, 5, 6)
            x, w = np.ones(x_shape, dtype), np.arange(6 * 2 * 9).reshape(6, 2, 3, 3).astype(dtype)
            bias = np.arange(6).astype(dtype)
            plan = fc.plan_conv2d(x_shape, w.shape, dtype=dtype, groups=2, layout=layout, padding="same")
            expected = fc.conv2d(x, w, bias, groups=2, layout=layout, padding="same")
            result = plan(x, plan.pack(w), bias)
            assert result.dtype == expected.dtype
            np.testing.assert_array_equal(result, expected)
    mixed = fc.plan_conv2d((1, 1, 2, 2), (1, 1, 1, 1), dtype="int8")
    ones = np.ones((1, 1, 1, 1), np.int64)
    assert mixed(np.full((1, 1, 2, 2), 3, np.uint64), mixed.pack(ones)).tolist() == [[[[3, 3], [3, 3]]]]


def test_packed_integers_are_watched_for_overflow():
    plan = fc.plan_conv2d((1, 2, 1, 1), (1, 2, 1, 1), dtype="int64")
    packed = plan.pack(np.full((1, 2, 1, 1), 2**61))
    assert plan(np.ones((1, 2, 1, 1), int), packed) == 2**62
    with pytest.raises(OverflowError):
        plan(np.full((1, 2, 1, 1), 2), packed)


def test_wrong_operands_of_a_plan():
    plan = fc.plan_conv2d(*SHAPES, method="direct", **OPTIONS)
    packed = plan.pack(W)
    for other in [
        fc.plan_conv2d(*SHAPES, method="im2col", **OPTIONS),
        fc.plan_conv2d(*SHAPES, method="direct"),
        fc.plan_conv2d(*SHAPES, method="direct", dtype="float64", **OPTIONS),
        fc.plan_conv2d(*SHAPES, method="direct", direction="input_grad", **OPTIONS),
    ]:
        a = OPERANDS[other.problem.direction][0].astype(other.problem.dtype)
        with pytest.raises(ValueError, match="packed by another plan"):
            other(a, packed)
    with pytest.raises(fc.ShapeError, match="x: got shape"):
        plan(X[:1], W)
    with pytest.raises(fc.ShapeError, match="w: got shape"):
        plan(X, W[:1])
    with pytest.raises(fc.ShapeError, match="w: got shape"):
        plan.pack(W[:1])
    with pytest.raises(TypeError, match="got dtype float64"):
        plan(X.astype(float), W)
    with pytest.raises(TypeError, match="got dtype float64"):
        plan.pack(W.astype(float))
    with pytest.raises(fc.ShapeError, match="bias"):
        plan(X, W, np.ones(3, np.float32))
    with pytest.raises(TypeError, match="bias"):
        fc.plan_conv2d(*SHAPES, direction="input_grad", **OPTIONS)(DY, W, np.ones(16, np.float32))
    with pytest.raises(ValueError, match="direction: got 'backward'"):
        fc.plan_conv2d(*SHAPES, direction="backward")
    with pytest.raises(TypeError, match="dtype"):
        fc.plan_conv2d(*SHAPES, dtype="complex64")
    for shape in [(1, 2, 3), (1, 2, 3, 4.5), 7, "abcd", None]:
        with pytest.raises((fc.ShapeError, TypeError), match="x_shape"):
            fc.plan_conv2d(shape, SHAPES[1])


def test_plan_holds_its_instruction_set(monkeypatch):
    plans = {}
    for isa in machine.ISAS:
        monkeypatch.setattr(machine, "ISA", isa)
        plans[isa] = fc.plan_conv2d(*SHAPES, **OPTIONS)
        assert called("forward").shape == (2, 24, 12, 7)
    for isa, plan in plans.items():
        assert plan.isa == isa
        assert plan(X, W).shape == (2, 24, 12, 7)


# --- defaults --------------------------------------------------------------------------------------


def planned():
    return fc.plan_conv2d(*SHAPES).method


def test_set_method_as_context_manager():
    usual = planned()
    with fc.set_method("naive"):
        assert planned() == "naive"
        with fc.set_method("im2col"):
            assert planned() == "im2col"
            assert fc.plan_conv2d(*SHAPES, method="direct").method == "direct"
            assert "max_workspace" not in fc.plan_conv2d(*SHAPES).explain().splitlines()[0]
        assert planned() == "naive"
    assert planned() == usual
    with pytest.raises(RuntimeError, match="stop"), fc.set_method("naive"):
        raise RuntimeError("stop")
    assert planned() == usual
    with pytest.raises(ValueError, match="method: got 'quick'"):
        fc.set_method("quick")


def test_set_method_reaches_calls_that_were_made_before(monkeypatch):
    seen = []
    for algorithm in ALGORITHMS:
        run = algorithm.run
        monkeypatch.setattr(
            algorithm, "run", lambda plan, *args, run=run, name=algorithm.NAME: seen.append(name) or run(plan, *args)
        )
    for name in ("direct", "im2col", "direct"):
        with fc.set_method(name):
            called("forward")
    assert seen == ["direct", "im2col", "direct"]


def test_defaults_are_per_thread():
    """set_* as a plain call stays in force, in this thread alone."""
    results = {}

    def other():
        fc.set_method("naive")
        fc.set_workers(3)
        results["inside"] = planned(), machine.resolve_workers(None)

    usual = planned(), machine.resolve_workers(None)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert results["inside"] == ("naive", 3)
    assert (planned(), machine.resolve_workers(None)) == usual


# --- the short cut ---------------------------------------------------------------------------------


def test_repeated_calls_plan_once():
    fc.clear_caches()
    assert not call._calls
    first = called("forward")
    assert len(call._calls) == 1
    prepared = next(iter(call._calls.values()))
    assert called("forward").tobytes() == first.tobytes()
    assert next(iter(call._calls.values())) is prepared
    assert len(call._calls) == 1
    fc.clear_caches()
    assert not call._calls
    assert called("forward").tobytes() == first.tobytes()


def test_options_in_any_form():
    expected = called("forward")
    for stride in ([1, 2], np.array([1, 2]), (np.int64(1), np.int8(2))):
        for padding in (np.int64(1), [1, 1], [[1, 1], [1, 1]], np.ones((2, 2), int)):
            for _ in range(2):
                assert fc.conv2d(X, W, stride=stride, padding=padding).tobytes() == expected.tobytes()


def test_the_short_cut_tells_calls_apart():
    """Everything that changes the result is in the key."""
    x, w = np.arange(64.0).reshape(1, 1, 8, 8), np.arange(9.0).reshape(1, 1, 3, 3)
    calls = [
        {}, {"stride": 2}, {"padding": 1}, {"padding": 1, "cval": 1.0}, {"padding": 1, "boundary": "edge"},
        {"dilation": 2}, {"dtype": "float32"}, {"dtype": "int16"}, {"padding": "same", "stride": 2}, {"stride": (1, 2)},
    ]  # fmt: skip
    fc.clear_caches()
    fresh = []
    for options in calls:
        fresh.append(fc.conv2d(x, w, **options))
        fc.clear_caches()
    for _ in range(2):
        for options, expected in zip(calls, fresh, strict=True):
            result = fc.conv2d(x, w, **options)
            assert result.dtype == expected.dtype
            np.testing.assert_array_equal(result, expected)
    square = x.reshape(1, 8, 8, 1), np.ones((1, 8, 1, 1))
    with pytest.raises(fc.ShapeError):
        fc.conv2d(*square, layout="NHWC")
    assert fc.conv2d(*square).shape == (1, 1, 8, 1)
    wide = fc.conv2d_input_grad(np.ones((1, 1, 3, 3)), w, (1, 1, 7, 7), stride=2)
    assert wide.shape == (1, 1, 7, 7)
    assert fc.conv2d_input_grad(np.ones((1, 1, 3, 3)), w, (1, 1, 8, 8), stride=2).shape == (1, 1, 8, 8)


# --- variants --------------------------------------------------------------------------------------


def test_winograds_variants_follow_max_error_and_the_map():
    def variant(**options):
        shapes = options.pop("shapes", ((1, 64, 56, 56), (64, 64, 3, 3)))
        plan = fc.plan_conv2d(*shapes, padding=1, method="winograd", **options)
        return plan.variant

    assert variant() == "F(4x4,3x3)"
    assert variant(max_error=1.0) == "F(6x6,3x3)"
    bounds = {
        v: fc.plan_conv2d((1, 64, 56, 56), (64, 64, 3, 3), method="winograd", max_error=e).error_bound
        for v, e in (("F6", 1.0), ("F4", None))
    }
    assert bounds["F4"] < bounds["F6"]
    tight = fc.plan_conv2d((1, 64, 56, 56), (64, 64, 3, 3), padding=1, method="winograd").error_bound
    assert variant(max_error=tight * 0.99) == "F(2x2,3x3)"
    assert variant(shapes=((1, 64, 2, 2), (64, 64, 3, 3))) == "F(2x2,3x3)"
    assert variant(direction="weight_grad", max_error=1.0) == "F(3x3,6x6)"
    with pytest.raises(fc.UnsupportedError, match="max_error"):
        variant(max_error=1e-12)


def test_a_named_methods_variant_does_not_depend_on_the_batch():
    for h in range(1, 14):
        variants = {
            fc.plan_conv2d((n, 8, h, h), (8, 8, 3, 3), padding=1, method="winograd").variant for n in (1, 7, 64)
        }
        assert len(variants) == 1


@pytest.mark.parametrize("direction", ["forward", "input_grad", "weight_grad"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_winograd_variant_is_right(direction, dtype):
    rng = np.random.default_rng(3)
    for line in ("n2 c5 h15 w20 k7 r3 s3 pad1", "n1 c17 h9 w8 k33 r3 s3 pad2,0,1,3 dil2 reflect",
                 "n1 c4 h13 w12 k6 r5 s5 pad2 g2", "n3 c2 h2 w3 k3 r3 s3 pad1 edge"):  # fmt: skip
        problem = ConvProblem.from_text(f"{line} {direction} {dtype}")
        shapes = {"forward": (problem.x_shape, problem.w_shape), "input_grad": (problem.y_shape, problem.w_shape),
                  "weight_grad": (problem.x_shape, problem.y_shape)}[direction]  # fmt: skip
        a, b = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        exact = getattr(reference, direction)(a.astype(np.float64), b.astype(np.float64), problem)
        plans = planner.candidates(planner.plan(problem, max_error=np.inf), np.inf)
        variants = [plan for plan in plans if plan.method == "winograd"]
        assert len(variants) == (3 if problem.R == 3 else 2)
        for plan in variants:
            out = np.empty(problem.out_shape, dtype)
            plan.run(a, b, np.empty(0, dtype), out, 1)
            np.testing.assert_allclose(out, exact, atol=(3e-3 if dtype == "float32" else 1e-12), err_msg=plan.variant)
