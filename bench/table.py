"""Rows of a run and the ratios between them; the one place that knows what a result means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

GROUPS = ("forward", "input gradient", "weight gradient", "pooling", "windows", "images", "tiny calls")
AUTO = "auto"


@dataclass(frozen=True)
class Row:
    """One line: least time of the workload by one method or library."""

    group: str
    workload: str
    name: str
    kind: str
    """ "naive" (the textbook's loops), "peer" (another library) or "fastconv"."""
    seconds: float
    rate: float
    """10^9 of ``unit`` a second."""
    unit: str
    scaled: bool
    """Was a smaller problem timed, and its time scaled up?"""
    method: str

    @classmethod
    def of(cls, info: Mapping[str, Any], seconds: float) -> Row:
        """From a benchmark's ``extra_info`` and the least seconds of what was timed."""
        seconds *= info["scale"]
        method = " ".join(filter(None, (info.get("method", ""), info.get("variant", ""))))
        return cls(
            info["group"], info["workload"], info["row"], info["kind"], seconds, info["work"] / seconds / 1e9,
            f"G{info['unit']}/s", info["scale"] != 1, method,
        )  # fmt: skip

    @property
    def mark(self) -> str:
        return "~" if self.scaled else ""


def workloads(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by group, in the order of GROUPS, and workload; the fastest first."""
    found: dict[tuple[str, str], list[Row]] = {}
    order = sorted(rows, key=lambda row: GROUPS.index(row.group) if row.group in GROUPS else len(GROUPS))
    for row in order:
        found.setdefault((row.group, row.workload), []).append(row)
    return {key: sorted(same, key=lambda row: row.seconds) for key, same in found.items()}


def naive(rows: Iterable[Row]) -> Row | None:
    return next((row for row in rows if row.kind == "naive"), None)


def best_peer(rows: Iterable[Row]) -> Row | None:
    return min((row for row in rows if row.kind == "peer"), key=lambda row: row.seconds, default=None)


def times(row: Row, other: Row | None) -> str:
    """How many times as fast as another row, to two or three digits."""
    if other is None:
        return "-"
    ratio = other.seconds / row.seconds
    if ratio < 0.1:
        return f"{ratio:.2g}"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}"


def milliseconds(row: Row) -> str:
    ms = row.seconds * 1e3
    return row.mark + (f"{ms:,.0f}" if ms >= 1000 else f"{ms:.4g}" if ms >= 0.1 else f"{ms:.4f}")


def text(rows: Iterable[Row]) -> Iterator[str]:
    """The closing table of the terminal, line by line."""
    yield "Least times. ~: a smaller problem was timed, and the time scaled up by the work."
    yield "x naive, x best: how many times as fast as the naive loops, and as the fastest other library (*)."
    for (group, workload), same in workloads(rows).items():
        loops, best = naive(same), best_peer(same)
        yield ""
        yield f"{group}: {workload}"
        yield f"  {'':20s} {'ms':>12s} {same[0].unit:>9s} {'x naive':>9s} {'x best':>8s}"
        for row in same:
            name = row.name + ("*" if row is best else "")
            line = (
                f"  {name:20s} {milliseconds(row):>12s} {row.rate:9.3g} {times(row, loops):>9s} {times(row, best):>8s}"
            )
            yield f"{line}  {row.method}".rstrip()
    yield ""
