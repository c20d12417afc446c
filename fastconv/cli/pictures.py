"""The demo's pictures, as PNG. Readable in grey: what differs, differs in lightness, hatches or marks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from fastconv.cli.demo import Filter, Timing, Trained

__all__ = ["digits", "learned_filters", "learning", "photo", "times"]

_GREY: dict[str, Any] = {"cmap": "gray", "interpolation": "nearest"}


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130, facecolor="white", bbox_inches="tight", pad_inches=0.15)
    return path


def photo(out: Path, image: np.ndarray, filters: tuple[Filter, ...], filtered: list[np.ndarray]) -> Path:
    """The photo beside what the filters make of it; of two directions, the length of the slope."""
    figure = Figure(figsize=(9, 9.6), layout="constrained")
    panels = figure.subplots(2, 2)
    h, w = image.shape
    shown = [(f"Photo, {h} x {w} pixels", image)]
    for job, planes in zip(filters, filtered, strict=True):
        steepness = len(planes) > 1
        title = job.name.replace("both directions", "steepness (dark: steep)") if steepness else job.name
        shown.append((title, np.hypot(*planes) if steepness else planes[0]))
    for axes, (title, plane) in zip(panels.flat, shown, strict=True):
        dark_is_high = "dark: steep" in title
        high = np.quantile(plane, 0.995) if dark_is_high else 1
        axes.imshow(plane, vmin=0, vmax=high, cmap="gray_r" if dark_is_high else "gray")
        axes.set_title(title)
        axes.set_axis_off()
    return _save(figure, out / "photo.png")


def times(out: Path, shape: tuple[int, ...], filters: tuple[Filter, ...], timings: dict[str, list[Timing]]) -> Path:
    """Milliseconds by method, a panel per filter."""
    counts = [len(timings[job.name]) for job in filters]
    figure = Figure(figsize=(9, 1.8 + 0.36 * sum(counts)), layout="constrained")
    panels = figure.subplots(len(filters), 1, sharex=True, height_ratios=counts)
    everything = [line.ms for lines in timings.values() for line in lines]
    low, high = min(everything) / 2, max(everything) * 12
    for axes, job in zip(panels, filters, strict=True):
        lines = timings[job.name]
        for i, line in enumerate(lines):
            style: dict[str, Any] = {"color": "0.75"} if not line.chosen else {"color": "0.25"}
            if line.method == "naive":
                style = {"color": "white", "hatch": "////"}
            axes.barh(i, line.ms - low, left=low, edgecolor="black", linewidth=0.8, height=0.7, **style)
            note = f"{line.ms:,.2f} ms" if line.ms < 100 else f"{line.ms:,.0f} ms"
            if line.method != "naive":
                note += f",  {line.faster:,.0f} x naive"
            axes.text(line.ms * 1.12, i, note, va="center", fontsize=9)
        axes.set_yticks(range(len(lines)), [line.method for line in lines])
        axes.set(xscale="log", xlim=(low, high), title=job.name)
        axes.title.set_fontsize(10.5)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("milliseconds a photo (logarithmic scale)")
    figure.suptitle(
        f"Time by method, photo of {shape[0]} x {shape[1]} pixels, float32\n"
        "dark: what method='auto' takes; hatched: Python loops, scaled from a part of the photo",
        fontsize=11,
    )
    return _save(figure, out / "times.png")


def learning(out: Path, trained: Trained) -> Path:
    """Loss and accuracy by epoch."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = trained.history.plot()
    loss, accuracy = figure.axes
    figure.set_size_inches(10, 4.2)
    loss.set(ylabel="cross-entropy (nats, logarithmic scale)", yscale="log")
    accuracy.set(ylabel="share of digits right", ylim=(None, 1.0))
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    first = 1
    for axes in (loss, accuracy):
        first = 1
        for rate, epochs in trained.stages:
            if first > 1:
                axes.axvline(first - 0.5, color="0.4", linestyle=":")
            middle, above = first + epochs / 2 - 0.5, axes.get_xaxis_transform()
            axes.text(
                middle, 0.65, f"rate {rate:g}", rotation=90, ha="center", va="center", color="0.45", transform=above
            )
            first += epochs
        axes.set_xlim(0.5, first - 0.5)
    loss.legend(loc="upper right")
    accuracy.legend(loc="lower right")
    figure.suptitle("Learning: training is on digits moved at random and with dropout, so it looks worse")
    path = _save(figure, out / "learning.png")
    plt.close(figure)
    return path


def digits(out: Path, trained: Trained, rows: int = 5, columns: int = 9) -> Path:
    """Unseen digits with what the network says; those it gets wrong come first, framed."""
    wrong = trained.predicted != trained.labels
    order = np.concatenate([np.flatnonzero(wrong), np.flatnonzero(~wrong)])[: rows * columns]
    figure = Figure(figsize=(1.22 * columns, 1.5 * rows + 0.7), layout="constrained")
    for axes, i in zip(figure.subplots(rows, columns).flat, order, strict=True):
        says, truth = trained.predicted[i], trained.labels[i]
        sure = trained.probabilities[i, says]
        axes.imshow(trained.digits[i, 0], vmin=0, vmax=1, **(_GREY | {"cmap": "gray_r"}))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(linewidth=3.5 if wrong[i] else 0.5, color="black" if wrong[i] else "0.6")
        text = f"says {says}, is {truth}" if wrong[i] else f"{says}"
        axes.set_title(f"{text}\n{100 * sure:.0f} %", fontsize=9, fontweight="bold" if wrong[i] else "normal")
    shown = min(int(wrong.sum()), rows * columns)
    figure.suptitle(
        f"Unseen digits: {int((~wrong).sum()):,} of {len(wrong):,} right. "
        f"Framed: {'all' if shown == wrong.sum() else f'{shown} of the'} {int(wrong.sum())} wrong ones. "
        "%: how sure the network is",
        fontsize=11,
    )
    return _save(figure, out / "digits.png")


def learned_filters(out: Path, trained: Trained) -> Path:
    """The filters of the first convolution, and what each makes of a digit."""
    layer = next(layer for layer in trained.net.layers if "w" in layer.parameters())
    filters = layer.parameters()["w"][:, 0]
    digit = trained.digits[:1]
    responses = layer.forward(digit)[0]
    layer.forget()
    count, columns = len(filters), 8
    rows = -(-count // columns)
    figure = Figure(figsize=(11, 2.7 * rows + 1.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1)
    size = " x ".join(map(str, filters.shape[1:]))
    titles = f"The {count} learned filters of {size} pixels", f"What each makes of a {trained.labels[0]}"
    for part, planes, title, unit in zip(parts, (filters, responses), titles, ("weight", "response"), strict=True):
        panels = part.subplots(rows, columns)
        bound = float(np.abs(planes).max())
        for i, axes in enumerate(panels.flat):
            axes.set(xticks=[], yticks=[])
            axes.set_visible(i < count)
            if i < count:
                shown = axes.imshow(planes[i], vmin=-bound, vmax=bound, **_GREY)
                axes.set_title(str(i + 1), fontsize=8, pad=2)
        part.colorbar(shown, ax=panels, label=f"{unit} (grey: 0)", shrink=0.9, pad=0.01)
        part.suptitle(title)
    return _save(figure, out / "filters.png")
