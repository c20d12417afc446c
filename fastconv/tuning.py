"""Measured times in place of reckoned ones: for problems that matter, each method is run and the fastest remembered.

Measurements are kept by machine (CPU model), instruction set and problem, and can be written to a file. Stands above
the operations; planner keeps the times of this machine and prefers them.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import machine, planner
from fastconv.ops import call
from fastconv.problem import ConvProblem

__all__ = ["export_tuning", "import_tuning", "tune"]

FORMAT, VERSION = "fastconv tuning", 1
REPEATS = 5
SECONDS = 0.2  # of repeats of one method, about
LONGEST = 1e9  # seconds that a file may hold
HOPELESS = 20  # times as long as the best, as reckoned: not tried

Times = dict[str, float]
"""Seconds of each method."""

_elsewhere: dict[tuple[str, str, str], Times] = {}
"""What was imported for other machines, by machine, instruction set and problem."""


def tune(*plans: planner.Plan) -> tuple[Times, ...]:
    """Run every method that may serve each plan's problem, and prefer the fastest from now on.

    Parameters
    ----------
    *plans : Plan
        As ``plan_conv2d`` makes them. Methods are measured under the plan's limits (``max_error``, ``max_workspace``)
        and with its workers, on random data; those that would take many times as long as the best are left out.

    Returns
    -------
    tuple of dict
        For each plan the seconds of each method that was measured.

    Raises
    ------
    TypeError
        An argument is no Plan.

    Notes
    -----
    A tuned problem's later plans and calls under ``method="auto"`` take the fastest measured method that their limits
    admit (``Plan.explain`` says "tuned"); plans made before stay as they are. The measurements are kept until the
    process ends, ``clear_caches`` included: see ``export_tuning``. As another method rounds differently, results may
    change in their last digits when a problem is tuned.

    Examples
    --------
    >>> import fastconv as fc
    >>> plan = fc.plan_conv2d((1, 3, 16, 16), (4, 3, 3, 3))
    >>> (times,) = fc.tune(plan)
    >>> fc.plan_conv2d((1, 3, 16, 16), (4, 3, 3, 3)).method == min(times, key=times.get)
    True
    """
    for plan in plans:
        if not isinstance(plan, planner.Plan):
            raise TypeError(f"plans: got {type(plan).__name__}; must be made with plan_conv2d or plan_correlate2d")
    measured = tuple(_measure(plan) for plan in plans)
    for plan, times in zip(plans, measured, strict=True):
        planner.add_tuning(plan.problem.text, plan.isa, times)
    _forget_plans()
    return measured


def _forget_plans() -> None:
    """So that calls are planned anew."""
    call.clear_calls()
    planner.clear_plans()


def _measure(plan: planner.Plan) -> Times:
    problem = plan.problem
    a, b, bias, out = _data(problem)
    if out.size == 0 or a.size == 0 or b.size == 0:
        return {}
    workers = machine.resolve_workers(getattr(plan.caller, "workers", None))
    return {
        candidate.tuning_key: _time(functools.partial(candidate.run, a, b, bias, out, workers))
        for candidate in planner.candidates(plan, HOPELESS)
    }


def _time(run: Callable[[], None]) -> float:
    """The least of a few runs, after one to warm up."""
    run()
    times: list[float] = []
    while len(times) < REPEATS and (not times or sum(times) < SECONDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return max(min(times), 1e-9)


def _data(problem: ConvProblem) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Operands in the order of fastconv.algorithms, of the problem's layout, and room for the result."""
    rng = np.random.default_rng(0)
    dtype = np.dtype(problem.compute_dtype)
    first, second = {
        "forward": (problem.x_shape, problem.w_shape),
        "input_grad": (problem.y_shape, problem.w_shape),
        "weight_grad": (problem.x_shape, problem.y_shape),
    }[problem.direction]

    def images(shape: tuple[int, ...]) -> np.ndarray:
        n, c, h, w = shape
        if problem.layout == "NHWC":
            return _random(rng, (n, h, w, c), dtype).transpose(0, 3, 1, 2)
        return _random(rng, shape, dtype)

    a = images(first)
    b = images(second) if problem.direction == "weight_grad" else _weights(rng, problem, dtype)
    out = images(problem.out_shape) if problem.direction != "weight_grad" else np.empty(problem.out_shape, dtype)
    return a, b, np.empty(0, dtype), out


def _weights(rng: np.random.Generator, problem: ConvProblem, dtype: np.dtype) -> np.ndarray:
    """Filters of the problem's rank: sums of outer products of small integers, which every dtype holds exactly."""
    if not problem.rank:
        return _random(rng, problem.w_shape, dtype)
    filters, channels, rows, columns = problem.w_shape
    factors = rng.integers(1, 9, (2, filters, channels, max(rows, columns), problem.rank))
    return (factors[0, :, :, :rows] @ factors[1, :, :, :columns].swapaxes(2, 3)).astype(dtype)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "u":
        return rng.integers(0, 100, shape, dtype=dtype)
    return rng.standard_normal(shape, dtype=dtype)


# --- files -----------------------------------------------------------------------------------------


def _machine() -> str:
    """The CPU's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown"


def export_tuning(path: str | os.PathLike) -> None:
    """Write all measurements to a JSON file: those of this machine, and those imported for others.

    Parameters
    ----------
    path : str or path-like
        Written whole or not at all; an existing file is replaced.

    Raises
    ------
    OSError
        The file can't be written.

    Examples
    --------
    >>> import fastconv as fc, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fc.export_tuning(os.path.join(folder, "tuning.json"))
    ...     fc.import_tuning(os.path.join(folder, "tuning.json")) >= 0
    True
    """
    here = {(_machine(), isa, problem): times for (problem, isa), times in planner.tuning().items()}
    entries = [
        {"machine": name, "isa": isa, "problem": problem, "seconds": times}
        for (name, isa, problem), times in sorted((_elsewhere | here).items())
    ]
    text = json.dumps({"format": FORMAT, "version": VERSION, "entries": entries}, indent=1) + "\n"
    target = Path(path)
    import tempfile  # not at the top: it would make every import slower

    file, name = tempfile.mkstemp(prefix=target.name, dir=target.parent)
    try:
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def import_tuning(path: str | os.PathLike) -> int:
    """Take over the measurements in a file that export_tuning wrote.

    Parameters
    ----------
    path : str or path-like
        Entries of this machine replace those of the same problem here and hold at once; entries of other machines
        are kept apart, for ``export_tuning`` alone. A method that isn't present here is left out.

    Returns
    -------
    int
        How many entries are of this machine.

    Raises
    ------
    OSError
        The file can't be read.
    ValueError
        It isn't what export_tuning writes; nothing is taken over.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import fastconv as fc
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fc.export_tuning(pathlib.Path(folder, "tuning.json"))
    ...     fc.import_tuning(pathlib.Path(folder, "tuning.json")) >= 0
    True
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"path: {os.fspath(path)!r} is no tuning file: not JSON ({error})") from None
    try:
        entries = _read(content)
    except ValueError as error:
        raise ValueError(f"path: {os.fspath(path)!r} is no tuning file: {error}") from None
    here, own = _machine(), 0
    for (name, isa, problem), times in entries.items():
        if name == here:
            own += 1
            planner.add_tuning(problem, isa, times)
        else:
            _elsewhere[name, isa, problem] = times
    _forget_plans()
    return own


def _read(content: Any) -> dict[tuple[str, str, str], Times]:
    """The entries of a file's content, checked. ValueError says what is wrong."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'it lacks "format": "{FORMAT}"')
    if content.get("version") != VERSION:
        raise ValueError(f"its version is {content.get('version')!r}; this package reads version {VERSION}")
    if not isinstance(content.get("entries"), list):
        raise ValueError("its entries are no list")
    return dict(_read_entry(i, entry) for i, entry in enumerate(content["entries"]))


def _read_entry(i: int, entry: Any) -> tuple[tuple[str, str, str], Times]:
    if not isinstance(entry, dict) or entry.keys() != {"machine", "isa", "problem", "seconds"}:
        raise ValueError(f"entry {i} must have exactly machine, isa, problem and seconds")
    if not all(isinstance(entry[key], str) for key in ("machine", "isa", "problem")):
        raise ValueError(f"entry {i}: machine, isa and problem must be strings")
    try:
        problem = ConvProblem.from_text(entry["problem"]).text
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"entry {i}: problem {entry['problem']!r} is not understood ({error})") from None
    seconds = entry["seconds"]
    if not isinstance(seconds, dict):
        raise ValueError(f"entry {i}: seconds must name methods and their times")
    for method, value in seconds.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < LONGEST:
            raise ValueError(f"entry {i}: {method} takes {value!r} seconds; must be a positive number below 1e9")
    return (entry["machine"], entry["isa"], problem), {method: float(value) for method, value in seconds.items()}
