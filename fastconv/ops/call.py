"""Prepared calls: everything that shapes, dtypes and options settle before the arrays come; then the run.

The machinery under the public convolutions and image functions. Knows arrays, problems and plans, no algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastconv import machine, planner
from fastconv.boundary import most_repeats
from fastconv.errors import ShapeError, UnsupportedError
from fastconv.factors import Factors, factors, most_terms
from fastconv.ops import arguments as check
from fastconv.ops.arguments import INT64_LARGEST
from fastconv.problem import ConvProblem

__all__ = [
    "OPERANDS", "Call", "PackedWeights", "Settings", "as_bias", "bind", "check_overflow", "clear_calls", "in_layout",
    "kernel_factors", "make_call", "prepared", "result_dtypes",
]  # fmt: skip

_NO_BIAS = {np.dtype(name): np.empty(0, name) for name in ("float32", "float64", "uint64")}
EXACT = {"float32": 2**24, "float64": 2**53}
"""Up to these sizes every integer is a float: a sum within them is exact."""
OPERANDS = {"forward": ("x", "w"), "input_grad": ("dy", "w"), "weight_grad": ("x", "dy")}
"""Names of what each direction takes."""
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


FLOPS_A_TERM = 2e7
"""Under "auto" a kernel is searched for one outer product for each so many flops: the search stays a few percent."""


MOST_TAPS = 1000
"""Of all terms along both axes: a sum of so many products a pixel is slower than transforms, whatever its rank."""


def kernel_factors(
    kernels: np.ndarray, pixels: int, dtypes: tuple[np.dtype, ...], method: object, dtype: Any
) -> Factors | None:
    """The factors of kernels (count, R, S) where the separable method could win by them, else None: reading takes time.

    Each kernel meets ``pixels``; ``dtypes`` are the operands', ``dtype`` the one asked for.
    """
    if method == "auto":
        method = planner.default_method()
    most = most_terms(*kernels.shape[1:]) if kernels.size else 0
    if method == "auto":
        if most:
            most = min(most, int(2 * pixels * kernels[0].size / FLOPS_A_TERM), 1 + MOST_TAPS // sum(kernels.shape[1:]))
    elif method != "separable":
        return None
    if most < 1:
        return None
    work = np.dtype(result_dtypes(check.promote(*dtypes), dtype)[0])
    return factors(check.normal(kernels, np.dtype(np.float32) if work == np.float16 else work), most)


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
        return ("int64", np.dtype(np.int64)) if promoted.kind in "biu" else (f"float{8 * promoted.itemsize}", promoted)
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
    shape = problem.out_shape
    if problem.direction != "weight_grad":
        shape = in_layout(shape, problem.layout)  # type: ignore[assignment]
    bias_dtype = promoted if promoted.kind == "f" or problem.dtype == "int64" else np.dtype(problem.compute_dtype)
    bias_dtype = np.dtype(bias_dtype.type)  # the one object of that dtype
    return Call(plan, settings.result, bias_dtype, shape, settings.overflow, settings.planning)


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
    result: np.dtype
    bias_dtype: np.dtype
    shape: tuple[int, ...]
    """Of the result, in the caller's layout."""
    overflow: str
    planning: dict
    """The options that chose the plan."""
    _compute_dtype: np.dtype = field(init=False)
    _plain: bool = field(init=False)
    """Floats, of which there are some, in the usual layout."""
    _bias_shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        problem = self.plan.problem
        compute = np.dtype(problem.compute_dtype)
        floats = problem.dtype == problem.compute_dtype == self.result.name
        plain = floats and problem.layout == "NCHW" and problem.N > 0 and problem.C > 0
        bias = problem.out_shape[1:2] if problem.direction != "weight_grad" else ()
        for name, value in (("_compute_dtype", compute), ("_plain", plain), ("_bias_shape", bias)):
            object.__setattr__(self, name, value)

    def __call__(
        self,
        a: np.ndarray,
        b: Any,
        bias: Any,
        out: np.ndarray | None,
        workers: int | None,
        found: Factors | None = None,
    ) -> np.ndarray:
        """Operands as fastconv.algorithms orders them, with the shapes this call was prepared for.

        ``found``: the factors of b, where somebody looked.
        """
        compute = self._compute_dtype
        # Nothing to convert, to turn or to fill: the short way.
        if (
            self._plain and out is None and a.dtype is compute and type(b) is np.ndarray and b.dtype is compute
            and a.flags.aligned and b.flags.aligned
        ):  # fmt: skip
            start = self._bias(bias)
            y = check.new_array(self.shape, compute)
            self._run(a, b, start, y, machine.resolve_workers(workers), found)
            return y
        workers, bias = machine.resolve_workers(workers), self._checked_bias(bias)
        if out is not None:
            check.check_out(out, self.shape, self.result, (a, b if isinstance(b, np.ndarray) else None, bias))
        call = self
        if self.plan.problem.dtype == "int64":
            bound = self._refuse_overflow(a, b, bias)
            if isinstance(b, np.ndarray):
                call = self._exact_within(bound)
        return call._compute(a, b, bias, out, workers, found)

    def _compute(
        self,
        a: np.ndarray,
        b: Any,
        bias: np.ndarray | None,
        out: np.ndarray | None,
        workers: int,
        found: Factors | None,
    ) -> np.ndarray:
        problem, compute, work = self.plan.problem, self._compute_dtype, self._work
        arrays = isinstance(b, np.ndarray)
        target = out
        if out is None or not out.flags.aligned or work != self.result:
            target = check.new_array(self.shape, work)
        assert target is not None
        first = target.view(compute) if compute.kind == "u" else target
        a, bias = self._first(a), self._bias(bias)
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
            self._run(a, b, bias, first, workers, found)
        if target is out:
            return target
        if problem.dtype == "int64":
            target = target.astype(np.int64, copy=False)
        values = target if target.dtype == self.result else check.narrow(target, self.result, self.overflow)
        if out is None:
            return values
        out[...] = values
        return out

    def _run(
        self, a: np.ndarray, b: Any, bias: np.ndarray, out: np.ndarray, workers: int, found: Factors | None
    ) -> None:
        self.plan.run(a, b, bias, out, workers)

    @cached_property
    def _work(self) -> np.dtype:
        """What the kernels write: the result's dtype where they can."""
        exact = self.plan.problem.dtype == "int64"
        wanted = np.dtype(np.int64) if exact else self.result
        return wanted if self._compute_dtype.kind == "u" or wanted.name in self.plan.writes else self._compute_dtype

    @cached_property
    def _reads(self) -> frozenset[np.dtype]:
        """What the kernels take as their first operand without a copy."""
        return frozenset(map(np.dtype, self.plan.reads))

    def _first(self, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "b":
            array = array.view(np.uint8)
        return array if array.dtype in self._reads and array.flags.aligned else self._operand(array)

    def _operand(self, array: np.ndarray) -> np.ndarray:
        compute = self._compute_dtype
        if compute.kind == "u":
            return check.normal(array, np.dtype(np.int64)).view(np.uint64)
        return check.normal(array, compute)

    def _checked_bias(self, bias: Any) -> np.ndarray | None:
        return None if bias is None else as_bias(bias, self._bias_shape[0], self.plan.problem.dtype == "int64")

    def _bias(self, bias: Any) -> np.ndarray:
        """As the kernels take it."""
        compute = self._compute_dtype
        if bias is None:
            return _NO_BIAS[compute]
        if type(bias) is np.ndarray and bias.dtype is compute is self.bias_dtype and bias.shape == self._bias_shape:
            flags = bias.flags
            if flags.c_contiguous and flags.aligned:
                return bias
        bias = self._checked_bias(bias)
        assert bias is not None
        if self.plan.problem.dtype == "int64":
            bias = bias.astype(np.int64)
            return np.ascontiguousarray(bias.view(np.uint64) if compute.kind == "u" else bias.astype(compute))
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(bias.astype(self.bias_dtype, copy=False).astype(compute, copy=False))

    def _refuse_overflow(self, a: np.ndarray, b: Any, bias: np.ndarray | None) -> int:
        """max|a| * (largest sum of |b|) + |bias|, which must stay below 2**63; or something larger that does."""
        problem = self.plan.problem
        packed, weights = isinstance(b, PackedWeights), problem.direction != "weight_grad"
        size = b.largest if packed else check.magnitude(b) if weights else check.largest(b)
        extra = 0 if bias is None else check.magnitude(bias)
        left = self._largest_pixel(problem, check.largest(a))
        bound = max(left * size * problem.terms, left, size) + extra
        if bound <= EXACT["float32" if weights else "float64"]:
            return bound  # a gradient by weights isn't worth another look at dy
        most = b.total if packed else _largest_sum(b, problem)
        if problem.direction == "input_grad":
            most *= most_repeats(problem.rows()) * most_repeats(problem.columns())
        bound = left * most + extra
        if bound > INT64_LARGEST:
            bound = self._largest_pixel(problem, check.magnitude(a)) * most + extra
        if bound > INT64_LARGEST:
            raise OverflowError(
                f"the exact integer result could reach {bound}, beyond int64; "
                "pass dtype='float64' to work in floating point"
            )
        return max(bound, left, size)

    @staticmethod
    def _largest_pixel(problem: ConvProblem, left: int) -> int:
        """``left``, or the constant beyond the edge."""
        padded = problem.boundary == "constant" and problem.padded_shape != problem.x_shape
        return max(left, abs(int(problem.cval))) if padded and problem.direction != "input_grad" else left

    def _exact_within(self, bound: int) -> Call:
        """This call of integers by the same method, in floats where these hold every sum, which is at most ``bound``.

        No product and no partial sum is larger either, so none of them is rounded, whatever their order.
        """
        for name, largest in EXACT.items():
            if bound <= largest:
                if name not in self._in_floats:
                    problem = replace(self.plan.problem, exact_in=name)
                    try:
                        plan = planner.plan(problem, **(self.planning | {"method": self.plan.method}))
                        self._in_floats[name] = replace(self, plan=plan)
                    except UnsupportedError:  # more scratch than the limit admits
                        self._in_floats[name] = self
                return self._in_floats[name]
        return self

    @cached_property
    def _in_floats(self) -> dict[str, Call]:
        return {}


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
        rows = b.reshape(1, -1)
    elif problem.direction == "weight_grad":
        rows = check.channels_first(b, problem.layout).swapaxes(0, 1).reshape(problem.K, -1)
    elif problem.direction == "forward":
        rows = b.reshape(problem.K, -1)
    else:
        rows = b.reshape(problem.groups, -1, *b.shape[1:]).swapaxes(1, 2).reshape(problem.C, -1)
    # |int64 min| wraps to itself and reads right as uint64; halves of 32 bits can't overflow their sums.
    sizes = rows.astype(np.uint64) if rows.dtype.kind in "ub" else np.abs(rows.astype(np.int64)).view(np.uint64)
    if rows.dtype.itemsize <= 4:
        return int(sizes.sum(axis=1).max())
    low, high = (sizes & np.uint64(0xFFFFFFFF)).sum(axis=1), (sizes >> np.uint64(32)).sum(axis=1)
    return max((h << 32) + l for h, l in zip(high.tolist(), low.tolist(), strict=True))


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
        a = self._operand(a, 0)
        if isinstance(b, PackedWeights):
            if b.plan != self._identity:
                raise ValueError("w: these weights were packed by another plan; must come from this plan's pack()")
        else:
            b = self._operand(b, 1)
        self._check_dtype(check.promote(a.dtype, b.dtype))
        if bias is not None and not self.takes_bias:
            raise TypeError(f"bias: got one; a plan of {' and '.join(self.names)} takes none")
        return self.call(a, b, bias, out, self.workers)


def bind(call: Call, workers: int | None, names: tuple[str, str] | None = None, shapes: Any = None) -> planner.Plan:
    """The call's plan, to be called by a user; ``names`` and ``shapes`` of its operands, unless conv2d's."""
    problem = call.plan.problem
    takes_bias = names is None and problem.direction == "forward"
    if names is None:
        names = OPERANDS[problem.direction]
        y_shape, x_shape = (in_layout(shape, problem.layout) for shape in (problem.y_shape, problem.x_shape))
        of = {"x": x_shape, "dy": y_shape, "w": problem.w_shape}
        shapes = of[names[0]], of[names[1]]
    bound = _BoundPlan(call, workers, names, shapes, takes_bias)
    return replace(call.plan, caller=bound, packer=None if problem.direction == "weight_grad" else bound.pack)
