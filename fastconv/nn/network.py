"""A chain of layers: training, prediction, files.

The network owns the generator that every random number comes from, the layout, and the dtype, which is that of the
first input; the layers own the arrays.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import ShapeError
from fastconv.nn import activations, initializers, layers, losses
from fastconv.nn.common import as_floats, real
from fastconv.nn.layers import Layer
from fastconv.nn.losses import CrossEntropy, Loss, as_target, decide
from fastconv.nn.optimizers import Adam, Optimizer
from fastconv.ops import arguments as check

__all__ = ["History", "Network", "load"]

_PREDICTED_AT_ONCE = 256  # samples


class History:
    """What ``fit`` saw: ``history`` holds a list with a number per epoch for loss, accuracy, val_loss, val_accuracy."""

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.history.items())
        return f"History({len(self)} epochs{': ' if last else ''}{last})"

    def __len__(self) -> int:
        return len(self.history.get("loss", ()))

    def append(self, numbers: Mapping[str, float]) -> None:
        """Add an epoch."""
        for name, value in numbers.items():
            self.history.setdefault(name, []).append(value)

    def plot(self) -> Any:
        """Learning curves, loss and accuracy side by side; validation dashed. Returns a matplotlib Figure."""
        import matplotlib.pyplot as plt
        from matplotlib.ticker import MaxNLocator

        shown = [name for name in ("loss", "accuracy") if name in self.history] or ["loss"]
        figure, panels = plt.subplots(1, len(shown), figsize=(5 * len(shown), 3.5), squeeze=False, layout="constrained")
        for axes, name in zip(panels[0], shown, strict=True):
            for key, style, label in ((name, "o-k", "training"), (f"val_{name}", "s--C0", "validation")):
                if key in self.history:
                    values = self.history[key]
                    axes.plot(range(1, len(values) + 1), values, style, markersize=4, label=label)
            axes.set(xlabel="epoch", ylabel=name, title=f"{name.capitalize()} by epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend()
        return figure


class Network:
    """Layers in a chain.

    Parameters
    ----------
    layers : iterable of Layer
    layout : {"NCHW", "NHWC"}
        Of images in all layers.
    seed : int, optional
        Of first weights, shuffling and dropout. The same seed, data and calls give the same bytes, for any number of
        workers; None takes other numbers each time.

    Notes
    -----
    Input channels are inferred at the first call, whose dtype (float; integers count as float64) all parameters take;
    later inputs are cast to it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> net = nn.Network([nn.Dense(8), nn.Tanh(), nn.Dense(1), nn.Sigmoid()], seed=1)
    >>> x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    >>> history = net.fit(x, y, epochs=200, loss=nn.BinaryCrossEntropy(), optimizer=nn.Adam(0.05), progress=False)
    >>> net.predict_classes(x)
    array([0, 1, 1, 0])
    """

    def __init__(self, layers: Iterable[Layer] = (), *, layout: str = "NCHW", seed: int | None = None) -> None:
        self.layout = check.check_layout(layout)
        self.seed = None if seed is None else check.integer(seed, "seed", 0)
        self.generator = np.random.default_rng(self.seed)
        self.dtype: np.dtype | None = None
        self.loss: Loss = CrossEntropy()
        """What ``evaluate`` reports: that of the last ``fit``."""
        self.layers: list[Layer] = []
        for layer in layers:
            self.add(layer)

    def __repr__(self) -> str:
        return f"Network([{', '.join(map(repr, self.layers))}])"

    def add(self, layer: Layer) -> Network:
        """Put a layer at the end. Returns the network, for chaining.

        TypeError for what is no layer; ValueError for one that is in this network already, or in one of another layout.
        """
        if not isinstance(layer, Layer):
            raise TypeError(f"layer: got {layer!r}; must be a layer of fastconv.nn")
        if any(layer is other for other in self.layers):
            raise ValueError(f"layer: {layer!r} is in this network already; make another one")
        if vars(layer).get("layout", self.layout) != self.layout:
            raise ValueError(f"layer: {layer!r} is in a network of layout {layer.layout}; this one's is {self.layout}")
        layer.layout, layer.generator = self.layout, self.generator
        self.layers.append(layer)
        return self

    # --- passes ---

    def forward(self, x: ArrayLike, training: bool = False) -> np.ndarray:
        """The output of the last layer."""
        return self._through(self.layers, self._input(x), training)

    def backward(self, dy: ArrayLike) -> np.ndarray:
        """The gradient by the input of the last forward pass; afterwards ``gradients()`` has those by parameters."""
        dx = as_floats(dy, "dy")
        for layer in reversed(self.layers):
            dx = layer.backward(dx)
        return dx

    def parameters(self) -> dict[str, np.ndarray]:
        """The live arrays of all layers, as "0.w" for ``w`` of the first."""
        return {f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer.parameters().items()}

    def gradients(self) -> dict[str, np.ndarray]:
        """What the last backward pass found, by the parameters' names."""
        return {f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in layer.gradients().items()}

    def _input(self, x: ArrayLike) -> np.ndarray:
        array = as_floats(x, "x")
        if array.ndim < 1:
            raise ShapeError("x: got a single number; its first axis must be the samples")
        if not self.layers:
            raise RuntimeError("network: has no layers; add some first")
        return array if self.dtype is None else array.astype(self.dtype, copy=False)

    def _through(self, chain: list[Layer], x: np.ndarray, training: bool) -> np.ndarray:
        new = [layer for layer in chain if layer.arrays is None]
        dtype, y = x.dtype, x
        for i, layer in enumerate(chain):
            try:
                y = layer.forward(y, training)
            except BaseException as error:
                for built in new:
                    built.arrays = None  # an input that didn't fit must not settle the channels
                error.add_note(f"in layer {i} of the network, {layer!r}")
                raise
        self.dtype = self.dtype or dtype
        return y

    # --- training ---

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        epochs: int = 10,
        batch_size: int = 64,
        loss: Loss | None = None,
        optimizer: Optimizer | None = None,
        l2: float = 0.0,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        shuffle: bool = True,
        progress: bool = True,
    ) -> History:
        """Train by gradients of batches.

        Each step takes the loss of a batch, all gradients by it, and then moves the parameters.

        Parameters
        ----------
        x : array_like, (N, ...)
        y : array_like
            Class indices (N,), or of the shape of the predictions (one-hot rows, numbers).
        epochs, batch_size : int
            How often every sample is seen, and how many at a time; the last batch may be smaller.
        loss : Loss, default CrossEntropy()
        optimizer : Optimizer, default Adam(1e-3)
            The same object in another call goes on from where it was.
        l2 : float, default 0
            ``l2 * w`` is added to the gradients of weights (of Conv2D, ConvTranspose2D, Dense), not of biases: the
            slope of ``l2 / 2 * sum(w**2)``, which the reported losses leave out.
        validation_data : (x, y), optional
            Evaluated after each epoch.
        shuffle : bool, default True
            Another order every epoch, from the network's generator.
        progress : bool, default True
            Show a bar, if tqdm is installed.

        Returns
        -------
        History
            Means over the epoch's samples, each batch before its own step. Accuracy is there where the targets are
            classes. Ctrl-C ends the training early; the epochs that were completed are there.

        Raises
        ------
        ShapeError, TypeError, ValueError, IndexError
            Data or options that don't fit, before the first step.
        """
        x, y = self._data(x, y)
        epochs, batch_size = check.integer(epochs, "epochs", 0), check.integer(batch_size, "batch_size", 1)
        loss, optimizer = CrossEntropy() if loss is None else loss, Adam() if optimizer is None else optimizer
        if not isinstance(loss, Loss):
            raise TypeError(f"loss: got {loss!r}; must be a loss of fastconv.nn, as nn.CrossEntropy()")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: got {optimizer!r}; must be an optimiser of fastconv.nn, as nn.Adam(1e-3)")
        l2 = real(l2, "l2", least=0.0)
        check.check_flag(shuffle, "shuffle")
        check.check_flag(progress, "progress")
        validation = None
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
                raise TypeError("validation_data: must be a pair (x, y)")
            validation = self._data(*validation_data)

        history, bar = History(), None
        try:
            target = self._target(x, y, loss)
            if validation is not None:
                validation = validation[0], self._target(*validation, loss)
            self.loss = loss
            bar = _progress_bar(epochs * -(-len(x) // batch_size)) if progress else None
            for epoch in range(epochs):
                if bar is not None:
                    bar.set_description(f"epoch {epoch + 1}/{epochs}", refresh=False)
                scores = _Scores(loss)
                order = self.generator.permutation(len(x)) if shuffle else np.arange(len(x))
                for start in range(0, len(x), batch_size):
                    batch = order[start : start + batch_size]
                    self._learn(x[batch], target[batch], optimizer, l2, scores)
                    if bar is not None:
                        bar.update()
                numbers = scores.means()
                if validation is not None:
                    found = self._evaluate(*validation)
                    numbers |= {f"val_{name}": value for name, value in found.items()}
                history.append(numbers)
                if bar is not None:
                    bar.set_postfix({name: f"{value:.4f}" for name, value in numbers.items()})
        except KeyboardInterrupt:
            pass  # what was learned stays, and so does the history
        finally:
            if bar is not None:
                bar.close()
            self._forget()
        return history

    def _learn(self, x: np.ndarray, target: np.ndarray, optimizer: Optimizer, l2: float, scores: _Scores) -> None:
        """One step."""
        dy, chain = self._score(x, target, scores, training=True)
        trained = [i for i, layer in enumerate(chain) if layer.parameters()]
        for i, layer in reversed(list(enumerate(chain))):
            if not trained or i < trained[0]:
                break  # nothing below has parameters
            dy = layer.backward(dy, needs_dx=i > trained[0])
        gradients = {}
        for i in trained:
            layer = chain[i]
            for name, gradient in layer.gradients().items():
                if l2 and name in layer.shrinking:
                    gradient = gradient + gradient.dtype.type(l2) * layer.parameters()[name]
                gradients[f"{i}.{name}"] = gradient
        optimizer.step({f"{i}.{name}": a for i in trained for name, a in chain[i].parameters().items()}, gradients)

    def _score(
        self, x: np.ndarray, target: np.ndarray, scores: _Scores, training: bool
    ) -> tuple[np.ndarray, list[Layer]]:
        """Predict and score a batch. Returns the loss's gradient, and the layers it is to go back through."""
        x, last, fuses = self._input(x), self.layers[-1], scores.loss.fuses
        if fuses is not None and isinstance(last, fuses):
            chain = self.layers[:-1]
            logits = self._through(chain, x, training)
            predicted = last.forward(logits, training)
            value, dy = scores.loss.on_logits(logits, target)
        else:
            chain = self.layers
            predicted = self._through(chain, x, training)
            value, dy = scores.loss(predicted, target)
        scores.add(value, predicted, target)
        return dy, chain

    def _target(self, x: np.ndarray, y: np.ndarray, loss: Loss) -> np.ndarray:
        """The whole target in the shape of the predictions; a first sample tells that shape, and tries the loss."""
        predicted = self.forward(x[:1])
        target = as_target(y, (len(y), *predicted.shape[1:]), predicted.dtype)
        self._score(x[:1], target[:1], _Scores(loss), training=False)
        return target

    @staticmethod
    def _data(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        x, y = check.as_operand(x, "x"), check.as_operand(y, "y")
        if x.ndim < 1 or y.ndim < 1 or len(x) != len(y):
            raise ShapeError(f"y: got shape {y.shape}; must have a first axis of the samples in x, of shape {x.shape}")
        if len(x) == 0:
            raise ShapeError("x: got no samples")
        return x, y

    # --- use ---

    def predict(self, x: ArrayLike, batch_size: int = _PREDICTED_AT_ONCE) -> np.ndarray:
        """The network's output for every sample, ``batch_size`` of them at a time."""
        x = check.as_operand(x, "x")
        batch_size = check.integer(batch_size, "batch_size", 1)
        if x.ndim < 1:
            raise ShapeError("x: got a single number; its first axis must be the samples")
        starts = range(0, len(x), batch_size) or range(1)
        try:
            self._freeze()
            parts = [self.forward(x[start : start + batch_size]) for start in starts]
        finally:
            self._forget()
        return parts[0].copy() if len(parts) == 1 else np.concatenate(parts)

    def predict_classes(self, x: ArrayLike, threshold: float = 0.5) -> np.ndarray:
        """The class of every sample, int64 (N,): the number of its largest output.

        Of a network with a single output: 1 where that exceeds ``threshold``, which is meant for probabilities, so end
        such a network with Sigmoid; else 0.
        """
        return decide(self.predict(x), real(threshold, "threshold"))

    def evaluate(self, x: ArrayLike, y: ArrayLike) -> dict[str, float]:
        """Loss (that of the last ``fit``; CrossEntropy before one) and, where the targets are classes, accuracy.

        Both are means over samples; accuracy is the share whose class is right, of a single output at threshold 0.5.
        """
        x, y = self._data(x, y)
        try:
            self._freeze()
            return self._evaluate(x, self._target(x, y, self.loss))
        finally:
            self._forget()

    def _evaluate(self, x: np.ndarray, target: np.ndarray) -> dict[str, float]:
        scores = _Scores(self.loss)
        for start in range(0, len(x), _PREDICTED_AT_ONCE):
            batch = slice(start, start + _PREDICTED_AT_ONCE)
            self._score(x[batch], target[batch], scores, training=False)
        return scores.means()

    def _freeze(self) -> None:
        for layer in self.layers:
            layer.freeze()

    def _forget(self) -> None:
        for layer in self.layers:
            layer.forget()

    def summary(self) -> str:
        """A table of the layers: options, output shape of a sample (once known), parameters."""
        rows = [("layer", "", "output", "parameters")]
        for i, layer in enumerate(self.layers):
            shape = "x".join(map(str, layer.sample_shape)) if layer.sample_shape is not None else "?"
            count = sum(a.size for a in layer.parameters().values())
            rows.append((str(i), repr(layer), shape, f"{count:,}" if layer.arrays is not None else "?"))
        total = sum(a.size for a in self.parameters().values())
        rows.append(("", "total", "", f"{total:,}" if self.dtype is not None else "?"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows
        )

    # --- files ---

    def save(self, path: str | os.PathLike) -> None:
        """Write layers, options and arrays to one file (NumPy's npz with a description in JSON), at exactly this path.

        What an optimiser remembers is not kept. TypeError for ``Activation`` and for layers or losses of your own: a
        file holds no code.
        """
        description = {
            "format": _FORMAT, "version": _VERSION, "layout": self.layout, "seed": self.seed,
            "dtype": None if self.dtype is None else self.dtype.name, "loss": _described(self.loss),
            "layers": [_described(layer) for layer in self.layers],
            "inputs": [None if layer.arrays is None else layer.x_shape for layer in self.layers],
        }  # fmt: skip
        text = json.dumps(description)
        arrays = {f"{i}.{name}": a for i, layer in enumerate(self.layers) for name, a in (layer.arrays or {}).items()}
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, description=np.array(text), **arrays)


class _Scores:
    """Sums the loss and the right answers of batches."""

    def __init__(self, loss: Loss) -> None:
        self.loss, self.samples, self.total = loss, 0, 0.0
        self.right: int | None = 0

    def add(self, value: float, predicted: np.ndarray, target: np.ndarray) -> None:
        self.samples += len(target)
        self.total += value * len(target)
        classes = self.loss.classes(target)
        if classes is None or self.right is None:
            self.right = None
        else:
            self.right += int((decide(predicted) == classes).sum())

    def means(self) -> dict[str, float]:
        numbers = {"loss": self.total / self.samples}
        if self.right is not None:
            numbers["accuracy"] = self.right / self.samples
        return numbers


def _progress_bar(steps: int) -> Any:
    """A tqdm bar, or None where tqdm is not installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None

    class Bar(tqdm):
        monitor_interval = 0  # tqdm would start a thread

    return Bar(total=steps, unit="batch")


# --- files -----------------------------------------------------------------------------------------

_FORMAT, _VERSION = "fastconv.nn", 1

_UNREADABLE = (
    ValueError, TypeError, AttributeError, LookupError, RuntimeError, OverflowError, EOFError, zipfile.BadZipFile,
    zlib.error, struct.error,
)  # fmt: skip
"""What numpy, zipfile, json and the layers raise over a damaged file."""

_KINDS: dict[str, type] = {
    name: getattr(module, name)
    for module in (layers, activations, losses, initializers)
    for name in module.__all__
    if isinstance(getattr(module, name), type) and name not in ("Activation", "Initializer", "Layer", "Loss")
}
"""What a file may name."""


def _described(value: Any) -> Any:
    """An object of ``_KINDS`` as its name and options, an option as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (tuple, list, np.ndarray)):
        return [_described(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    name = type(value).__name__
    if _KINDS.get(name) is not type(value):
        raise TypeError(f"save: {value!r} holds functions or a class of your own, and a file holds no code")
    options = {f.name: _described(getattr(value, f.name)) for f in fields(value)} if is_dataclass(value) else {}
    return {"kind": name, "options": options}


def _restored(described: Any) -> Any:
    """The inverse; lists come back as tuples."""
    if isinstance(described, list):
        return tuple(_restored(item) for item in described)
    if not isinstance(described, dict):
        return described
    if described.keys() != {"kind", "options"} or described["kind"] not in _KINDS:
        raise ValueError(f"{described.get('kind')!r} is not known")
    return _KINDS[described["kind"]](**{name: _restored(value) for name, value in described["options"].items()})


def load(path: str | os.PathLike) -> Network:
    """The network that ``Network.save`` wrote. No code in the file is run, and everything in it is checked.

    Its generator starts again from the seed.

    Raises
    ------
    ValueError
        A file that is no network, of a newer version, or with arrays that don't fit the layers.
    OSError
        A file that can't be read.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        description = json.loads(str(arrays.pop("description")[()]))
        if description["format"] != _FORMAT:
            raise ValueError(f"its format is {description['format']!r}, not {_FORMAT!r}")
        if description["version"] != _VERSION:
            raise ValueError(f"its version is {description['version']!r}; this release reads version {_VERSION}")
        net = Network(_restored(description["layers"]), layout=description["layout"], seed=description["seed"])
        net.loss = _restored(description["loss"])
        if not isinstance(net.loss, Loss):
            raise ValueError("its loss is none")
        if description["dtype"] is not None:
            if description["dtype"] not in ("float16", "float32", "float64"):
                raise ValueError(f"its dtype is {description['dtype']!r}")
            net.dtype = np.dtype(description["dtype"])
        for i, (layer, shape) in enumerate(zip(net.layers, description["inputs"], strict=True)):
            if shape is not None:
                _fill(layer, tuple(check.integer(n, "inputs", 0) for n in shape), i, arrays, net.dtype)
        if arrays:
            raise ValueError(f"it holds an array {min(arrays)!r} that belongs to no layer")
    except _UNREADABLE as error:
        raise ValueError(f"path: {os.fspath(path)!r} is no network that this release can read: {error}") from error
    return net


def _fill(
    layer: Layer, x_shape: tuple[int, ...], i: int, arrays: dict[str, np.ndarray], dtype: np.dtype | None
) -> None:
    """Move a layer's arrays from the file's into the layer."""
    if layer.axes is not None and len(x_shape) != layer.axes.count(",") + 1:
        raise ValueError(f"the input shape {x_shape} of layer {i} has not the axes {layer.axes}")
    layer.arrays, layer.x_shape = {}, x_shape
    for name, shape in layer.shapes(x_shape).items():
        array = arrays.pop(f"{i}.{name}", None)
        if array is None or array.shape != shape or array.dtype != dtype:
            got = "none" if array is None else f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"array {name!r} of layer {i}: got {got}; must be {dtype} of shape {shape}")
        layer.arrays[name] = array
