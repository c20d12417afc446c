"""How well "auto" chooses: time(auto) / time(best) over the named problems, one worker.

    python bench/regret.py [TEXT ...]        only problems whose line holds one of the texts

For every problem of tests/problems/*.txt and every direction, each method that serves is timed (least of some calls)
unless the planner reckons it twenty times slower than its choice. A row: the problem, what auto took, what was best,
the ratio; then each method's measured and reckoned microseconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import fastconv as fc
from fastconv.problem import DIRECTIONS, ConvProblem

PROBLEMS = Path(__file__).parent.parent / "tests" / "problems"
SECONDS = 0.15  # of each method and row
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


def least_time(call, seconds: float) -> float:
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best


def row(problem: ConvProblem, direction: str) -> tuple[str, dict[str, tuple[float, float]]]:
    """What auto takes, and for each method measured and reckoned seconds."""
    options = {
        "stride": problem.stride, "padding": problem.padding, "dilation": problem.dilation, "groups": problem.groups,
        "direction": direction, "workers": 1,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(s, np.float32) for s in (problem.x_shape, problem.w_shape, problem.y_shape))
    operands = {"forward": (x, w), "input_grad": (dy, w), "weight_grad": (x, dy)}[direction]
    auto = fc.plan_conv2d(problem.x_shape, problem.w_shape, **options)
    times = {}
    for method in fc.METHODS:
        try:
            plan = fc.plan_conv2d(problem.x_shape, problem.w_shape, method=method, **options)
        except fc.UnsupportedError:
            continue
        if plan.seconds <= HOPELESS * auto.seconds:
            times[method] = least_time(lambda plan=plan: plan(*operands), SECONDS), plan.seconds
    return auto.method, times


def main() -> None:
    ratios = []
    for name, problem in problems(sys.argv[1:]):
        for direction in DIRECTIONS:
            auto, times = row(problem, direction)
            best = min(times, key=lambda method: times[method][0])
            ratio = times[auto][0] / times[best][0]
            ratios.append(ratio)
            detail = "  ".join(f"{m} {t * 1e6:.0f} ({r * 1e6:.0f})" for m, (t, r) in times.items())
            print(f"{name:28} {direction:11} {auto:8} {best:8} {ratio:5.2f}   {detail}", flush=True)
    within = sum(r <= 1.1 for r in ratios)
    print(f"\nwithin 10% of the best: {within} of {len(ratios)}; worst {max(ratios, default=1):.2f}")


if __name__ == "__main__":
    main()
