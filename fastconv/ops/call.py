"""Prepared calls: everything that shapes, dtypes and options settle before the arrays come; then the run.

The machinery under the public convolutions and image functions. Knows arrays, problems and plans, no algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastconv import machine, planner
from fastconv.boundary import most_repeats
from fastconv.errors import ShapeError
from fastconv.factors import most_terms, rank
from fastconv.ops import arguments as check
from fastconv.ops.arguments import INT64_LARGEST
from fastconv.problem import ConvProblem

__all__ = [
    "Call", "PackedWeights", "Settings", "as_bias", "bind", "check_overflow", "clear_calls", "in_layout", "kernel_rank",
    "make_call", "prepared", "result_dtypes",
]  # fmt: skip

_NO_BIAS = {name: np.empty(0, name) for name in ("float32", "float64", "uint64")}
_OVERFLOW = ("raise", "saturate", "wrap")


def in_layout(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    n, c, h, w = shape
    return (n, h, w, c) if layout == "NHWC" else (n, c, h, w)


_calls: dict[tuple, Call] = {}
_CALLS_KEPT = 4096


def prepared(key: tuple, prepare: Callable[..., Call], *given: Any) -> Call:
    """``prepare(*given)``, from the dictionary where it was asked for before by this key, under the same defaults."""
    key = (key, planner.default_method(), machine.ISA)
    try:
        call = _calls.get(key)
    except TypeError:  # an option that can't be hashed, such as a list
        return prepare(*given)
    if call is None:
        call = prepare(*given)
        if len(_calls) >= _CALLS_KEPT:
            _calls.clear()
        _calls[key] = call
    return call


def clear_calls() -> None:
    _calls.clear()


FLOPS_A_TERM = 3e7
"""Under "auto" a kernel is searched for one outer product for each so many flops: the search stays a few percent."""


MOST_TAPS = 1000
"""Of all terms along both axes: a sum of so many products a pixel is slower than transforms, whatever its rank."""


def kernel_rank(
    kernels: np.ndarray, pixels: int, dtypes: tuple[np.dtype, ...], method: object, dtype: Any
) -> int | None:
    """The rank of kernels (count, R, S) where the separable method could win by it, else None: reading takes time.

    Each kernel meets ``pixels``; ``dtypes`` are the operands', ``dtype`` the one asked for.
    """
    if method == "auto":
        method = planner.default_method()
    most = most_terms(*kernels.shape[1:]) if kernels.size else 0
    if method == "auto":
        most = min(most, int(2 * pixels * kernels[0].size / FLOPS_A_TERM)) if most else 0
        most = min(most, 1 + MOST_TAPS // sum(kernels.shape[1:]))
    elif method != "separable":
        return None
    if most < 1:
        return None
    work = np.dtype(result_dtypes(check.promote(*dtypes), dtype)[0])
    return rank(check.normal(kernels, np.dtype(np.float32) if work == np.float16 else work), most)


@dataclass(frozen=True)
class Settings:
    planning: dict
    result: np.dtype
    overflow: str


def check_overflow(overflow: object) -> str:
    if overflow not in _OVERFLOW:
        raise ValueError(f"overflow: got {overflow!r}; must be one of {', '.join(map(repr, _OVERFLOW))}")
    return str(overflow)


def result_dtypes(promoted: np.dtype, dtype: Any) -> tuple[str, np.dtype]:
    """What is computed in ("int64" is exact), and the result's dtype."""
    promoted = promoted.newbyteorder("=")
    if dtype is None:
        return ("int64", np.dtype(np.int64)) if promoted.kind in "biu" else (promoted.name, promoted)
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype: got {dtype!r}; must be a float or integer dtype") from None
    if wanted.kind not in "iuf" or wanted.itemsize > 8 or not wanted.isnative:
        raise TypeError(f"dtype: got {wanted}; must be a native float16, float32, float64 or integer dtype")
    if promoted.kind in "biu" and wanted.kind in "iu":
        return "int64", wanted
    return np.result_type(promoted, wanted).name, wanted


def make_call(problem: ConvProblem, promoted: np.dtype, settings: Settings) -> Call:
    plan = planner.plan(problem, **settings.planning)
    compute = np.dtype(problem.compute_dtype)
    shape = problem.out_shape
    if problem.direction != "weight_grad":
        shape = in_layout(shape, problem.layout)  # type: ignore[assignment]
    bias_dtype = promoted if promoted.kind == "f" else compute
    return Call(plan, compute, settings.result, bias_dtype, shape, settings.overflow)


def as_bias(bias: Any, extent: int, exact: bool) -> np.ndarray | None:
    if bias is None:
        return None
    bias = check.as_operand(bias, "bias")
    if bias.shape != (extent,):
        raise ShapeError(f"bias: got shape {bias.shape}; must be ({extent},), one for each output channel")
    if exact and bias.dtype.kind == "f":
        if not (np.isfinite(bias).all() and (bias == np.rint(bias)).all()):
            raise TypeError("bias: got fractions; must be whole numbers where the operands are integers")
        if bias.size and np.abs(bias.astype(np.float64)).max() >= 2.0**63:
            raise OverflowError("bias: reaches beyond int64")
        bias = bias.astype(np.int64)
    return bias


@dataclass(frozen=True)
class Call:
    """Everything about a call that its arrays' shapes and dtypes and its options settle."""

    plan: planner.Plan
    compute: np.dtype
    result: np.dtype
    bias_dtype: np.dtype
    shape: tuple[int, ...]
    """Of the result, in the caller's layout."""
    overflow: str

    def __call__(
        self, a: np.ndarray, b: Any, bias: np.ndarray | None, out: np.ndarray | None, workers: int | None
    ) -> np.ndarray:
        """Operands as fastconv.algorithms orders them, with the shapes this call was prepared for."""
        problem, compute, result = self.plan.problem, self.compute, self.result
        exact = problem.dtype == "int64"
        arrays = isinstance(b, np.ndarray)
        if out is not None:
            check.check_out(out, self.shape, result, (a, b if arrays else None, bias))
        if exact:
            self._refuse_overflow(a, b, bias)
        workers = machine.resolve_workers(workers)
        target = out
        if out is None or not out.flags.aligned or not self._direct:
            target = check.new_array(self.shape, self._work)
        assert target is not None
        first = target if target.dtype == compute else target.view(compute)
        a, bias = self._operand(a), self._bias(bias)
        layout = problem.layout
        if layout == "NHWC":
            a = a.transpose(0, 3, 1, 2)
            if problem.direction != "weight_grad":
                first = first.transpose(0, 3, 1, 2)
        if arrays:
            b = self._operand(b)
            if layout == "NHWC" and problem.direction == "weight_grad":
                b = b.transpose(0, 3, 1, 2)
        else:
            b = b.data
        if first.size == 0 or a.size == 0 or (arrays and b.size == 0):
            first[...] = bias[:, None, None] if bias.size else 0
        else:
            self._run(a, b, bias, first, workers)
        if self._direct and target is not out:
            if out is None:
                return target
            out[...] = target
        elif target is not out:
            values = check.narrow(target, result, self.overflow)
            if out is None:
                return values
            out[...] = values
        assert out is not None
        return out

    def _run(self, a: np.ndarray, b: Any, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
        self.plan.run(a, b, bias, out, workers)

    @property
    def _direct(self) -> bool:
        """The kernels compute in the result's dtype."""
        return self._work == self.result

    @property
    def _work(self) -> np.dtype:
        return np.dtype(np.int64) if self.compute.kind == "u" else self.compute

    def _operand(self, array: np.ndarray) -> np.ndarray:
        if self.compute.kind == "u":
            return check.normal(array, np.dtype(np.int64)).view(np.uint64)
        return check.normal(array, self.compute)

    def _bias(self, bias: np.ndarray | None) -> np.ndarray:
        if bias is None:
            return _NO_BIAS[self.compute.name]
        if self.compute.kind == "u":
            return np.ascontiguousarray(bias.astype(np.int64)).view(np.uint64)
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(bias.astype(self.bias_dtype, copy=False).astype(self.compute, copy=False))

    def _refuse_overflow(self, a: np.ndarray, b: Any, bias: np.ndarray | None) -> None:
        """max|a| * (largest sum of |b|) + |bias| must stay below 2**63."""
        problem = self.plan.problem
        if isinstance(b, PackedWeights):
            largest, total, most = b.largest, b.total, b.total
        else:
            largest, total, most = check.magnitude(b), None, 0
        left = check.magnitude(a)
        padded = problem.boundary == "constant" and problem.padded_shape != problem.x_shape
        if problem.direction != "input_grad" and padded:
            left = max(left, abs(int(problem.cval)))
        extra = 0 if bias is None else check.magnitude(bias)
        if left * largest * problem.terms + extra <= INT64_LARGEST:
            return
        repeats = 1
        if problem.direction == "input_grad":
            repeats = most_repeats(problem.rows()) * most_repeats(problem.columns())
        if total is None:
            most = _largest_sum(b, problem)
        if left * most * repeats + extra > INT64_LARGEST:
            raise OverflowError(
                f"the exact integer result could reach {left * most * repeats + extra}, beyond int64; "
                "pass dtype='float64' to work in floating point"
            )


@dataclass(frozen=True)
class PackedWeights:
    """Weights in a plan's own order: made by Plan.pack, good for that plan's problem, method and instruction set."""

    plan: tuple
    dtype: np.dtype
    data: Any
    largest: int
    total: int


def _largest_sum(b: np.ndarray, problem: ConvProblem) -> int:
    """The largest sum of |b| that meets one element of the result; exact, whatever its size."""
    if b.size == 0:
        return 0
    if problem.C == problem.K == 1:
        return _sum_of_sizes(b)
    if problem.direction == "weight_grad":
        b = check.channels_first(b, problem.layout)
        rows = [b[:, k] for k in range(problem.K)]
    elif problem.direction == "forward":
        rows = list(b)
    else:
        grouped = b.reshape(problem.groups, -1, *b.shape[1:])
        rows = [grouped[g, :, c] for g in range(problem.groups) for c in range(b.shape[1])]
    return max(_sum_of_sizes(row) for row in rows)


def _sum_of_sizes(values: np.ndarray) -> int:
    # |int64 min| wraps to itself and reads right as uint64; halves of 32 bits can't overflow their sums.
    sizes = values.astype(np.uint64) if values.dtype.kind in "ub" else np.abs(values.astype(np.int64)).view(np.uint64)
    low = int((sizes & np.uint64(0xFFFFFFFF)).sum(dtype=np.uint64))
    return (int((sizes >> np.uint64(32)).sum(dtype=np.uint64)) << 32) + low


@dataclass(frozen=True)
class _BoundPlan:
    """Checks the arrays that a user's plan is called with."""

    call: Call
    workers: int | None
    names: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    takes_bias: bool

    def _operand(self, value: ArrayLike, place: int) -> np.ndarray:
        name = self.names[place]
        array = check.as_operand(value, name)
        check.check_same_shape(array, name, self.shapes[place], "what the plan was made for")
        return array

    def _check_dtype(self, dtype: np.dtype) -> None:
        exact = self.call.plan.problem.dtype == "int64"
        if dtype != self.call.result if not exact else dtype.kind not in "biu":
            planned = "integers" if exact else self.call.result
            raise TypeError(f"operands: got dtype {dtype}; must be {planned}, what the plan was made for")

    def pack(self, w: ArrayLike) -> PackedWeights:
        w = self._operand(w, 1)
        problem = self.call.plan.problem
        self._check_dtype(w.dtype)
        w = w.reshape(problem.w_shape)
        exact = problem.dtype == "int64"
        total = _largest_sum(w, problem) if exact else 0
        # An empty filter bank has nothing to pack; its result is zeros.
        data = self.call.plan.pack_checked(self.call._operand(w)) if w.size else None
        return PackedWeights(self._identity, w.dtype, data, check.magnitude(w) if exact else 0, total)

    @property
    def _identity(self) -> tuple:
        plan = self.call.plan
        return (plan.problem, plan.method, plan.isa)

    def __call__(self, a: ArrayLike, b: Any, bias: Any = None, out: np.ndarray | None = None) -> np.ndarray:
        problem = self.call.plan.problem
        a = self._operand(a, 0)
        if isinstance(b, PackedWeights):
            if b.plan != self._identity:
                raise ValueError("w: these weights were packed by another plan; must come from this plan's pack()")
        else:
            b = self._operand(b, 1)
        self._check_dtype(check.promote(a.dtype, b.dtype))
        if bias is not None and not self.takes_bias:
            raise TypeError(f"bias: got one; a plan of {' and '.join(self.names)} takes none")
        bias = as_bias(bias, problem.K, problem.dtype == "int64")
        return self.call(a, b, bias, out, self.workers)


_OPERANDS = {"forward": ("x", "w"), "input_grad": ("dy", "w"), "weight_grad": ("x", "dy")}


def bind(call: Call, workers: int | None, names: tuple[str, str] | None = None, shapes: Any = None) -> planner.Plan:
    """The call's plan, to be called by a user; ``names`` and ``shapes`` of its operands, unless conv2d's."""
    problem = call.plan.problem
    takes_bias = names is None and problem.direction == "forward"
    if names is None:
        names = _OPERANDS[problem.direction]
        y_shape, x_shape = (in_layout(shape, problem.layout) for shape in (problem.y_shape, problem.x_shape))
        of = {"x": x_shape, "dy": y_shape, "w": problem.w_shape}
        shapes = of[names[0]], of[names[1]]
    bound = _BoundPlan(call, workers, names, shapes, takes_bias)
    return replace(call.plan, caller=bound, packer=None if problem.direction == "weight_grad" else bound.pack)
