"""The benchmark suite: what is collected when, and the report of a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="bench/ is not here"),
]


def run(*arguments, expect=0):
    """A Python process at the root of the project that imports the same fastconv as this one."""
    path = os.pathsep.join([str(Path(fastconv.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "-P", *map(str, arguments)], cwd=ROOT, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.returncode == expect, process.stdout + process.stderr
    return process


def collected(*arguments):
    lines = run("-m", "pytest", "--collect-only", "-q", *arguments).stdout.splitlines()
    return [line for line in lines if "::" in line]


def test_benchmark_flag_collects_bench_alone():
    pytest.importorskip("pytest_benchmark")
    rows = collected("--benchmark", "--benchmark-max-time=0.05")
    assert rows
    assert all(row.startswith("bench/bench_") for row in rows)
    for group in ("forward", "input_gradient", "weight_gradient", "pooling", "windows", "image", "tiny"):
        assert any(f"::test_{group}[" in row for row in rows), group
    for method in ("auto", *fastconv.METHODS):
        assert any(row.endswith(f"-{method}]") for row in rows), method


def test_plain_pytest_collects_no_benchmarks():
    rows = collected()
    assert rows
    assert all(row.startswith("tests/") for row in rows)


def test_benchmark_flag_without_plugin_says_what_to_install():
    process = run("-m", "pytest", "--benchmark", "-p", "no:benchmark", "-p", "no:cacheprovider", expect=4)
    assert 'pip install ".[bench]"' in process.stderr


def test_workers_must_be_positive():
    assert "must be an integer of at least 1" in run("-m", "pytest", "--workers=0", expect=4).stderr


def benchmark(row, kind, seconds, **info):
    """One benchmark as pytest-benchmark writes it, as far as the report reads it."""
    facts = {"group": "forward", "workload": "a layer", "row": row, "kind": kind}
    return {"extra_info": facts | {"work": 2e6, "unit": "FLOP", "scale": 1} | info, "stats": {"min": seconds}}


@pytest.fixture
def result(tmp_path):
    machine = {"cpu": "A CPU", "isa": "avx2", "workers": 1, "versions": {"fastconv": "0.1.0"}}
    rows = [
        benchmark("auto", "fastconv", 1e-3, method="direct", variant="blocks of rows"),
        benchmark("naive", "naive", 0.05, scale=10),
        benchmark("Other", "peer", 2e-3),
        benchmark("Slow", "peer", 4e-3),
    ]
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"machine_info": {"fastconv": machine}, "benchmarks": rows}))
    return path


def test_report(result, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "pictures"
    table = run(ROOT / "bench" / "report.py", result, "--out", out).stdout
    line = next(line for line in table.splitlines() if "a layer" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["forward", "a layer", "1", "2 GFLOP/s", "direct blocks of rows", "500", "Other", "2", "2.00"]
    assert "A CPU" in table
    assert {path.name for path in out.iterdir()} == {"forward.png", "ratios.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.iterdir())


@pytest.mark.parametrize("text", ["not json", "[]", '{"benchmarks": [{}]}', None])
def test_report_refuses_another_file(tmp_path, text):
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    process = run(ROOT / "bench" / "report.py", path, expect=1)
    assert process.stderr.startswith("RESULT.json: ")
    assert "Traceback" not in process.stderr
