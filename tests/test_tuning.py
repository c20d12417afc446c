"""Measured times: the fastest measured method is taken, times go to a file and come back, bad files are refused."""

import json

import numpy as np
import pytest

import fastconv
from fastconv import planner, tuning
from fastconv.algorithms import ALGORITHMS

SHAPES = (1, 3, 16, 16), (4, 3, 3, 3)


@pytest.fixture(autouse=True)
def untuned(monkeypatch):
    monkeypatch.setattr(planner, "_tuning", {})
    monkeypatch.setattr(tuning, "_elsewhere", {})
    monkeypatch.setattr(tuning, "SECONDS", 0.0)
    fastconv.clear_caches()
    yield
    fastconv.clear_caches()


def slow_but(method, monkeypatch):
    """Every method takes a second but one."""
    monkeypatch.setattr(tuning, "HOPELESS", np.inf)
    names = [a.NAME for a in ALGORITHMS if not a.why_not(problem()) and not getattr(a, "ON_REQUEST", False)]
    seconds = iter([1e-6 if name == method else 1.0 for name in names])
    monkeypatch.setattr(tuning, "_time", lambda call: next(seconds))


def problem():
    return fastconv.plan_conv2d(*SHAPES).problem


@pytest.mark.parametrize("method", ["naive", "im2col", "fft"])
def test_the_fastest_measured_method_is_taken(method, monkeypatch):
    plan = fastconv.plan_conv2d(*SHAPES)
    assert "tuned" not in plan.explain()
    slow_but(method, monkeypatch)
    (times,) = fastconv.tune(plan)
    assert times[method] == 1e-6
    tuned = fastconv.plan_conv2d(*SHAPES)
    assert tuned.method == method
    assert "tuned" in tuned.explain()
    fastconv.clear_caches()
    assert fastconv.plan_conv2d(*SHAPES).method == method
    x, w = np.ones(SHAPES[0], "f"), np.ones(SHAPES[1], "f")
    np.testing.assert_allclose(fastconv.conv2d(x, w), fastconv.conv2d(x, w, method="direct"), rtol=1e-5)
    assert fastconv.plan_conv2d(*SHAPES, method="direct").method == "direct"


def test_limits_still_hold(monkeypatch):
    slow_but("fft", monkeypatch)
    fastconv.tune(fastconv.plan_conv2d(*SHAPES))
    assert fastconv.plan_conv2d(*SHAPES).method == "fft"
    assert fastconv.plan_conv2d(*SHAPES, elementwise=True).method not in ("fft", "winograd")
    assert fastconv.plan_conv2d(*SHAPES, dtype="float64").method  # another problem: reckoned


@pytest.mark.parametrize("direction", ["forward", "input_grad", "weight_grad"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_kind_of_problem_can_be_tuned(direction, dtype, layout):
    x_shape = (2, 4, 12, 12) if layout == "NCHW" else (2, 12, 12, 4)
    plan = fastconv.plan_conv2d(x_shape, (6, 2, 3, 3), groups=2, dtype=dtype, direction=direction, layout=layout)
    (times,) = fastconv.tune(plan)
    assert "direct" in times
    assert "naive" not in times
    assert all(seconds > 0 for seconds in times.values())
    assert planner.plan(plan.problem).method == min(times, key=times.get)


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_separable_kernels_can_be_tuned(dtype):
    kernel = np.outer([1, 2, 3, 2, 1], [1, 4, 6, 4, 1]).astype(dtype)
    plan = fastconv.plan_correlate2d((64, 64), kernel, dtype=dtype)
    (times,) = fastconv.tune(plan)
    assert "separable" in times


def test_nothing_to_measure():
    assert fastconv.tune() == ()
    assert fastconv.tune(fastconv.plan_conv2d((0, 3, 8, 8), (2, 3, 3, 3))) == ({},)
    with pytest.raises(TypeError, match="plans: got str"):
        fastconv.tune("direct")


def test_a_file_brings_the_times_back(tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    slow_but("im2col", monkeypatch)
    (times,) = fastconv.tune(fastconv.plan_conv2d(*SHAPES))
    fastconv.export_tuning(path)
    assert [file.name for file in tmp_path.iterdir()] == ["tuning.json"]
    planner._tuning.clear()
    fastconv.clear_caches()
    assert fastconv.plan_conv2d(*SHAPES).method != "im2col"
    assert fastconv.import_tuning(str(path)) == 1
    assert fastconv.plan_conv2d(*SHAPES).method == "im2col"
    assert planner.tuning() == {(problem().text, fastconv.machine.ISA): times}


def test_times_of_other_machines_and_instruction_sets_are_kept_apart(tmp_path):
    path = tmp_path / "tuning.json"
    other = [entry(machine="another CPU"), entry(isa="another set")]
    path.write_text(json.dumps(content(other)))
    assert fastconv.import_tuning(path) == 1
    assert "tuned" not in fastconv.plan_conv2d(*SHAPES).explain()
    fastconv.export_tuning(path)
    assert sorted(json.loads(path.read_text())["entries"], key=str) == sorted(other, key=str)


def entry(**changes):
    return {
        "machine": tuning._machine(),
        "isa": fastconv.machine.ISA,
        "problem": problem().text,
        "seconds": {"naive": 1e-6},
    } | changes


def content(entries, **changes):
    return {"format": "fastconv tuning", "version": 1, "entries": entries} | changes


MALFORMED = {
    "": "not JSON",
    "[1": "not JSON",
    "[" * 100_000: "not JSON",
    "\ud800": "not JSON",
    "3": "lacks",
    '{"format": "something else"}': "lacks",
    "version": "reads version 1",
    "entries": "no list",
    "keys": "entry 1 must have exactly",
    "entry": "entry 1 must have exactly",
    "machine": "must be strings",
    "problem": "problem 'n1 c' is not understood",
    "zeros": "not understood",
    "few": "not understood",
    "seconds": "must name methods",
    "negative": "naive takes -1 seconds",
    "nan": "naive takes nan seconds",
    "true": "naive takes True seconds",
    "text": "naive takes '1' seconds",
    "huge": "naive takes 1000",
}


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case[:10])
def test_malformed_files_are_refused_whole(case, tmp_path):
    bad = {
        "version": lambda: content([], version=2),
        "entries": lambda: content({}),
        "keys": lambda: content([entry(), entry(more=1)]),
        "entry": lambda: content([entry(), 5]),
        "machine": lambda: content([entry(), entry(machine=3)]),
        "problem": lambda: content([entry(), entry(problem="n1 c")]),
        "zeros": lambda: content([entry(), entry(problem=problem().text.replace("g1", "g0"))]),
        "few": lambda: content([entry(), entry(problem="n1")]),
        "seconds": lambda: content([entry(), entry(seconds=[1])]),
        "negative": lambda: content([entry(), entry(seconds={"naive": -1})]),
        "nan": lambda: content([entry(), entry(seconds={"naive": float("nan")})]),
        "true": lambda: content([entry(), entry(seconds={"naive": True})]),
        "huge": lambda: content([entry(seconds={"naive": 10**400})]),
        "text": lambda: content([entry(), entry(seconds={"naive": "1"})]),
    }
    path = tmp_path / "tuning.json"
    text = json.dumps(bad[case]()) if case in bad else case
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=f"path: .* is no tuning file: .*{MALFORMED[case]}"):
        fastconv.import_tuning(path)
    assert planner.tuning() == {}


def test_an_unknown_method_is_left_out(tmp_path):
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps(content([entry(seconds={"analog": 1e-9, "naive": 1e-6})])))
    assert fastconv.import_tuning(path) == 1
    assert fastconv.plan_conv2d(*SHAPES).method == "naive"


def test_an_export_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    path.write_text("old")
    monkeypatch.setattr(tuning.os, "replace", lambda *args: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        fastconv.export_tuning(path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(OSError, match="nowhere"):
        fastconv.export_tuning(tmp_path / "nowhere" / "tuning.json")
    with pytest.raises(OSError, match="nowhere"):
        fastconv.import_tuning(tmp_path / "nowhere")
