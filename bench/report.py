"""Pictures and a Markdown table from the JSON of a run.

    pytest --benchmark --benchmark-json=RESULT.json
    python bench/report.py RESULT.json [--out DIR]

The table goes to stdout; a PNG for each group of workloads, and one of the ratios, to DIR (default: the folder of
RESULT.json).
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # python -P leaves a script's own folder out

from table import AUTO, Row, best_peer, milliseconds, naive, times, workloads

MARKERS = "osD^vP<>*Xph8H"


def load(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a result file, and what it says of its machine."""
    try:
        document = json.loads(path.read_text())
        rows = [Row.of(b["extra_info"], b["stats"]["min"]) for b in document["benchmarks"]]
        machine = document["machine_info"]["fastconv"]
    except OSError as error:
        sys.exit(f"RESULT.json: can't read {path}: {error.strerror or error}")
    except (ValueError, KeyError, TypeError):
        sys.exit(f'RESULT.json: {path} is no result of "pytest --benchmark --benchmark-json=FILE"')
    if not rows:
        sys.exit(f"RESULT.json: {path} has no benchmark in it")
    return rows, machine


def setting(machine: dict[str, Any]) -> str:
    """One line: where and with what it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['cpu']}, {machine['isa']}, {machine['workers']} worker(s); {versions}"


def markdown(rows: list[Row], machine: dict[str, Any]) -> Iterator[str]:
    """One line for each workload: fastconv's own choice beside the naive loops and the fastest other library."""
    yield "| Group | Workload | ms | rate | method | x naive loops | fastest other | its ms | x fastest other |"
    yield "|---|---|--:|--:|---|--:|---|--:|--:|"
    for (group, workload), same in workloads(rows).items():
        auto = next((row for row in same if row.name == AUTO), None)
        if auto is None:
            continue
        loops, best = naive(same), best_peer(same)
        cells = [
            group, workload, milliseconds(auto), f"{auto.rate:.3g} {auto.unit}", auto.method, times(auto, loops),
            best.name if best else "-", milliseconds(best) if best else "-", times(auto, best),
        ]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield f"Least times. ~: scaled up from a smaller problem. {setting(machine)}."


def plot_group(group: str, found: dict[str, list[Row]], machine: dict[str, Any], path: Path) -> None:
    """Times of one group: a line for each workload, a marker for each method. Filled: fastconv; open: others."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row.name for same in found.values() for row in same))
    kinds = {row.name: row.kind for same in found.values() for row in same}
    names.sort(key=lambda name: (("fastconv", "peer", "naive").index(kinds[name]), name != AUTO, name))
    figure, axes = plt.subplots(figsize=(11, 2.2 + 0.55 * max(len(found), 5)), layout="constrained")
    shapes = {kind: iter(MARKERS * 3) for kind in ("fastconv", "peer", "naive")}
    for name in names:
        points = [(row.seconds * 1e3, y) for y, same in enumerate(found.values()) for row in same if row.name == name]
        ours, shape = kinds[name] == "fastconv", next(shapes[kinds[name]])
        style: dict[str, Any] = {"marker": shape, "edgecolors": "0.2", "s": 55}
        style["facecolors"] = "0.35" if ours else "none"
        if name == AUTO:
            style = {"marker": "|", "c": "black", "s": 220, "linewidths": 3}
        elif kinds[name] == "naive":
            style = {"marker": "x", "c": "0.2", "s": 55}
        scaled = any(row.scaled for same in found.values() for row in same if row.name == name)
        label = {"fastconv": "fastconv ", "peer": "", "naive": ""}[kinds[name]] + name + (" ~" if scaled else "")
        axes.scatter(*zip(*points, strict=True), label=label, zorder=3, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("time of one call in ms (least of all rounds; logarithmic; left is faster)")
    axes.set_yticks(range(len(found)), [textwrap.fill(workload, 30) for workload in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(axis="x", which="major", color="0.75")
    axes.grid(axis="y", color="0.9")
    axes.set_title(f"fastconv, {group}: {machine['cpu']}, {machine['isa']}, {machine['workers']} worker(s)", wrap=True)
    title = "filled: fastconv\n~: scaled up from smaller\nproblems (some or all)"
    figure.legend(loc="outside right upper", fontsize="small", title=title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_ratios(rows: list[Row], machine: dict[str, Any], path: Path) -> None:
    """fastconv's own choice beside the fastest other library, for every workload."""
    import matplotlib.pyplot as plt

    bars = []
    for (group, workload), same in workloads(rows).items():
        auto, best = next((row for row in same if row.name == AUTO), None), best_peer(same)
        if auto and best:
            bars.append((f"{group}: {workload}", best.seconds / auto.seconds, best.name))
    if not bars:
        return
    labels, ratios, peers = zip(*bars, strict=True)
    figure, axes = plt.subplots(figsize=(11, 1.6 + 0.3 * len(bars)), layout="constrained")
    shades = ["0.45" if ratio >= 1 else "0.8" for ratio in ratios]
    axes.barh(labels, [ratio - 1 for ratio in ratios], left=1, color=shades, edgecolor="0.2")
    for y, (ratio, peer) in enumerate(zip(ratios, peers, strict=True)):
        axes.annotate(
            f"{ratio:.2f} {peer}", (max(ratio, 1), y), (4, 0), textcoords="offset points", va="center", fontsize="small"
        )
    axes.axvline(1, color="black")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.01)
    axes.set_xlim(min(*ratios, 1) / 1.3, max(*ratios, 1) * 3)
    axes.invert_yaxis()
    axes.set_xlabel("time of the fastest other library / time of fastconv (logarithmic; right of 1 fastconv is faster)")
    axes.set_title(f"fastconv (auto): {machine['cpu']}, {machine['isa']}, {machine['workers']} worker(s)", wrap=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("result", metavar="RESULT.json", type=Path)
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the pictures go (default: beside RESULT.json)")
    arguments = parser.parse_args()
    rows, machine = load(arguments.result)
    try:
        import matplotlib

        matplotlib.use("agg")
    except ImportError:
        sys.exit('the pictures need matplotlib: pip install ".[bench]"')
    out = arguments.out or arguments.result.parent
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, dict[str, list[Row]]] = {}
    for (group, workload), same in workloads(rows).items():
        groups.setdefault(group, {})[workload] = same
    paths = [out / f"{group.replace(' ', '-')}.png" for group in groups]
    for (group, found), path in zip(groups.items(), paths, strict=True):
        plot_group(group, found, machine, path)
    plot_ratios(rows, machine, out / "ratios.png")
    print(*markdown(rows, machine), sep="\n")
    print(f"pictures: {', '.join(str(path) for path in sorted(out.glob('*.png')))}", file=sys.stderr)


if __name__ == "__main__":
    main()
