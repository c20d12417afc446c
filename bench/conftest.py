"""How a row is measured, what is kept of it, and the closing table.

One worker is the default, and the figure to trust: the OpenMP runtimes of PyTorch (its own libgomp) and of fastconv
sit in one process here, and with more workers the idle threads of one spin on the cores that the other one needs.
"""

from __future__ import annotations

import math
import os
import platform
import time
import warnings

import numpy as np
import pytest
import table
from measure import Run, compare, cpu_model, isa, versions

import fastconv as fc

ROWS = pytest.StashKey[list[table.Row]]()


@pytest.fixture(scope="session")
def workers(request):
    """``--workers``, set in every library that is there."""
    n = request.config.getoption("--workers")
    os.environ["OMP_NUM_THREADS"] = str(n)  # for libraries not loaded yet
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torch

            torch.set_num_threads(n)
        except ImportError:
            pass
        try:
            import cv2

            cv2.setNumThreads(n)
        except ImportError:
            pass
    from threadpoolctl import threadpool_limits

    with threadpool_limits(n), fc.set_workers(n):
        yield n


@pytest.fixture
def timed(request, benchmark, workers):
    """timed(group, workload, row, run): check the result once, then time it."""

    def measure(group: str, workload: str, row: str, run: Run) -> None:
        start = time.perf_counter()
        result = run.call()
        once = time.perf_counter() - start
        if run.expected is not None:
            compare(np.asarray(result), np.asarray(run.expected), run.tolerance)
        benchmark.group = f"{group}: {workload}"
        plan = run.details.pop("plan", None)
        benchmark.extra_info.update(
            group=group, workload=workload, row=row, kind=run.kind, work=run.work, unit=run.unit, scale=run.scale,
            workers=workers, isa=isa(), **run.details,
        )  # fmt: skip
        if plan is not None:
            benchmark.extra_info.update(method=plan.method, variant=plan.variant)
        longest = float(request.config.getoption("--benchmark-max-time"))
        if once * request.config.getoption("--benchmark-min-rounds") > longest:
            benchmark.pedantic(run.call, rounds=min(5, math.ceil(longest / once)))
        else:
            benchmark(run.call)
        if benchmark.stats is None:  # --benchmark-disable
            return
        seconds = benchmark.stats.stats.min
        benchmark.extra_info["rate"] = run.work / (seconds * run.scale) / 1e9
        benchmark.extra_info["rate_unit"] = f"G{run.unit}/s"
        rows = request.config.stash.setdefault(ROWS, [])
        rows.append(table.Row.of(benchmark.extra_info, seconds))

    return measure


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name.startswith("bench_"):  # other libraries may warn as they like
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.pop("node", None)  # the host's name says nothing
    machine_info["fastconv"] = {
        "cpu": cpu_model(), "cores": os.cpu_count(), "isa": isa(), "workers": config.getoption("--workers"),
        "system": platform.platform(), "python": platform.python_version(), "versions": versions(),
    }  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json):
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)  # every single round: megabytes that nothing here reads


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section(f"{cpu_model()}, {isa()}, {config.getoption('--workers')} worker(s)")
    for line in table.text(rows):
        write(line)
    write(", ".join(f"{name} {version}" for name, version in versions().items()))
    missing = {report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())}
    for reason in sorted(missing):
        write(f"left out: {reason.removeprefix('Skipped: ')}")
    if config.getoption("--benchmark-json"):
        write(f"pictures and a Markdown table: python bench/report.py {config.getoption('--benchmark-json')}")
