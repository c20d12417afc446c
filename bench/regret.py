"""How well "auto" chooses: time(auto) / time(best) over the named problems, one worker.

    python bench/regret.py [TEXT ...]        only problems whose line or name holds one of the texts

For every problem of tests/problems/*.txt and every direction, and for images with dense and separable kernels, each
method that serves is timed (least of some calls) unless the planner reckons it twenty times slower than its choice. A
row: the problem, what auto took, what was best, the ratio; then each method's measured and reckoned microseconds.
"""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import fastconv as fc
from fastconv.problem import DIRECTIONS, ConvProblem

PROBLEMS = Path(__file__).parent.parent / "tests" / "problems"
SECONDS = 0.15  # of each method and row
KINDS = ("dense", "separable")
HOPELESS = 20  # times slower than the choice


def problems(wanted: list[str]) -> list[tuple[str, ConvProblem]]:
    found = []
    for path in sorted(PROBLEMS.glob("*.txt")):
        if path.stem == "edge":
            continue
        for line in path.read_text().splitlines():
            text = line.split("#")[0].strip()
            if text and (not wanted or any(w in text for w in wanted)):
                found.append((text.split('"')[1] if '"' in text else text, ConvProblem.from_text(text)))
    return found


def least_time(call: Callable[[], object], seconds: float) -> float:
    """The least processor time of a call: one worker works, and waiting for a busy machine doesn't count."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.thread_time()
        call()
        best = min(best, time.thread_time() - start)
        if time.perf_counter() > end:
            return best


Times = dict[str, tuple[float, float]]
"""Measured and reckoned seconds of each method."""


def compare(make_plan: Callable[..., fc.Plan], operands: tuple[np.ndarray, np.ndarray]) -> tuple[str, Times]:
    """What auto takes, and the times."""
    auto = make_plan()
    times = {}
    for method in fc.METHODS:
        try:
            plan = make_plan(method=method)
        except fc.UnsupportedError:
            continue
        if plan.seconds <= HOPELESS * auto.seconds:
            times[method] = least_time(lambda plan=plan: plan(*operands), SECONDS), plan.seconds
    return auto.method, times


def of_problem(problem: ConvProblem, direction: str) -> tuple[str, Times]:
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(s, np.float32) for s in (problem.x_shape, problem.w_shape, problem.y_shape))
    make_plan = functools.partial(
        fc.plan_conv2d, problem.x_shape, problem.w_shape, stride=problem.stride, padding=problem.padding,
        dilation=problem.dilation, groups=problem.groups, direction=direction, workers=1,
    )  # fmt: skip
    return compare(make_plan, {"forward": (x, w), "input_grad": (dy, w), "weight_grad": (x, dy)}[direction])


def of_image(dtype: str, extent: int, taps: int, kind: str) -> tuple[str, Times]:
    rng = np.random.default_rng(0)
    image, kernel, line = (rng.standard_normal(shape).astype(dtype) for shape in ((extent, extent), (taps, taps), taps))
    if kind == "separable":
        kernel = np.outer(line, line)
    make_plan = functools.partial(
        fc.plan_correlate2d, image.shape, kernel, dtype=dtype, boundary="reflect", workers=1
    )  # fmt: skip
    return compare(make_plan, (image, kernel))


def rows(wanted: list[str]) -> Iterator[tuple[str, str, str, Times]]:
    """Name, what of it, what auto takes, times."""
    for name, problem in problems(wanted):
        for direction in DIRECTIONS:
            yield name, direction, *of_problem(problem, direction)
    for image in itertools.product(("float32", "float64"), (64, 512, 2048), (3, 5, 9, 15, 21, 31, 63), KINDS):
        dtype, extent, taps, kind = image
        name = f"image {dtype} {extent} {taps}x{taps}"
        if not wanted or any(w in f"{name} {kind}" for w in wanted):
            yield name, kind, *of_image(*image)


def main() -> None:
    ratios = []
    for name, what, auto, times in rows(sys.argv[1:]):
        best = min(times, key=lambda method: times[method][0])
        ratio = times[auto][0] / times[best][0]
        ratios.append(ratio)
        detail = "  ".join(f"{m} {t * 1e6:.0f} ({r * 1e6:.0f})" for m, (t, r) in times.items())
        print(f"{name:28} {what:11} {auto:9} {best:9} {ratio:5.2f}   {detail}", flush=True)
    within = sum(r <= 1.1 for r in ratios)
    print(f"\nwithin 10% of the best: {within} of {len(ratios)}; worst {max(ratios, default=1):.2f}")


if __name__ == "__main__":
    main()
