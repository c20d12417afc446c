"""Chooses the algorithm of a problem, and explains the choice.

A problem goes through every algorithm: the reason it can't serve, its error bound, its scratch, its cost; what is
left with the least time wins. The result is a Plan, cached. Reads no array values; knows no algorithm's inside.
"""

from __future__ import annotations

import contextvars
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from fastconv import machine, repair
from fastconv.algorithms import ALGORITHMS
from fastconv.algorithms.common import Cost
from fastconv.errors import UnsupportedError
from fastconv.factors import Factors
from fastconv.problem import ConvProblem, integer

__all__ = ["METHODS", "Plan", "check_method", "check_options", "default_method", "plan", "set_method"]

_ORDER = ("naive", "direct", "im2col", "gemm", "winograd", "fft", "separable")
METHODS: tuple[str, ...] = tuple(sorted({a.NAME for a in ALGORITHMS}, key=_ORDER.index))
"""The methods that a call may name, beside "auto"."""

_DIRECT: Any = next(a for a in ALGORITHMS if a.NAME == "direct")
"""What results that are not finite are computed again by."""

AUTO_WORKSPACE = 64 << 20
"""Bytes of scratch that "auto" takes at the most, unless told otherwise or nothing else can serve."""

_default: contextvars.ContextVar[str] = contextvars.ContextVar("fastconv_method", default="auto")


def check_method(method: object) -> str:
    if method == "auto" or method in METHODS:
        return str(method)
    raise ValueError(f"method: got {method!r}; must be 'auto' or one of {', '.join(map(repr, METHODS))}")


def default_method() -> str:
    """What ``method="auto"`` means now."""
    return _default.get()


def set_method(name: str) -> machine.Default:
    """Set the method of calls and plans that leave ``method="auto"``.

    Parameters
    ----------
    name : str
        "auto" or one of ``fastconv.METHODS``.

    Returns
    -------
    A context manager that restores the former default when its block ends; used as a plain call, the default
    stays. It holds for the current thread or asyncio task (``contextvars``).

    Examples
    --------
    >>> import fastconv
    >>> with fastconv.set_method("direct"):
    ...     plan = fastconv.plan_conv2d((1, 1, 5, 5), (1, 1, 3, 3))
    >>> plan.method
    'direct'
    """
    return machine.Default(_default, check_method(name))


@dataclass(frozen=True)
class _Verdict:
    """What the planner found about one algorithm."""

    algorithm: Any
    variant: str
    cost: Cost
    seconds: float
    bound: float
    refusal: str | None
    tuned: bool = False
    """The seconds are measured, not reckoned."""

    @property
    def workspace(self) -> int:
        return self.cost.shared + self.cost.worker

    def line(self) -> str:
        if math.isinf(self.seconds):  # nothing could be reckoned
            return f"{self.algorithm.NAME:<9} refused: {self.refusal}"
        text = (
            f"{self.algorithm.NAME:<9} {_time(self.seconds):>9}  {_size(self.workspace):>9}  "
            f"error {self.bound:.1e} ({self.algorithm.SCOPE})  {self.variant}"
        )
        text += ", tuned" if self.tuned else ""
        return f"{text}; refused: {self.refusal}" if self.refusal else text


@dataclass
class Plan:
    """How one problem is computed: an algorithm with its options settled, ready to be called again and again.

    Made by ``plan_conv2d``. A forward plan is called ``plan(x, w_or_packed, bias=None, out=None)``, an input gradient
    ``plan(dy, w_or_packed)``, a weight gradient ``plan(x, dy)``, with arrays of the shapes it was made for.
    """

    problem: ConvProblem
    isa: str
    tables: Any = field(repr=False)
    _chosen: _Verdict = field(repr=False)
    _verdicts: tuple[_Verdict, ...] = field(repr=False)
    _limit: float = field(repr=False)
    _repairs: bool = field(default=False, repr=False)
    """Results that are not finite are computed again directly: chosen by "auto", and mixes whole tiles."""
    caller: Callable | None = field(default=None, repr=False)
    """Checks arrays and runs this plan: set by the operation that hands it out."""
    packer: Callable | None = field(default=None, repr=False)

    @property
    def method(self) -> str:
        """One of ``fastconv.METHODS``."""
        return self.algorithm.NAME

    @property
    def algorithm(self) -> Any:
        """What runs it (fastconv.algorithms)."""
        return self._chosen.algorithm

    @property
    def variant(self) -> str:
        """What form of the method."""
        return self._chosen.variant

    @property
    def tuning_key(self) -> str:
        """What the time of this method and variant is kept under (``tune``)."""
        return tuning_key(self.algorithm, self.variant)

    @property
    def workspace_bytes(self) -> int:
        """Scratch memory of a call with one worker, beyond inputs and outputs."""
        return self._chosen.workspace

    @property
    def seconds(self) -> float:
        """What a call with one worker is reckoned to take, or was measured to (``tune``)."""
        return self._chosen.seconds

    @property
    def flops(self) -> int:
        """Two for each multiply-add of the direct sum, whatever the method."""
        return self.problem.flops

    @property
    def error_bound(self) -> float:
        """e of |y - exact| <= e * sum_j ||a_j||_2 ||b_j||_2, plus underflow (see ``conv2d``)."""
        return self._chosen.bound

    @property
    def error_scope(self) -> str:
        """What the norms of the bound run over: "window" or "tile"."""
        return self.algorithm.SCOPE

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the dtypes of the first operand that need no copy in the compute dtype."""
        algorithm, own = self._chosen.algorithm, self.problem.compute_dtype
        return (own, *algorithm.reads(self.problem)) if hasattr(algorithm, "reads") else (own,)

    @property
    def writes(self) -> tuple[str, ...]:
        """Names of the dtypes of the result that need no copy in the compute dtype."""
        algorithm, own = self._chosen.algorithm, self.problem.compute_dtype
        return (own, *algorithm.writes(self.problem)) if hasattr(algorithm, "writes") else (own,)

    def explain(self) -> str:
        """The problem, then each method's best variant: time reckoned, scratch, error bound, or why it was refused."""
        chosen = self._chosen
        rates = machine.rates(self.isa)
        best: dict[str, _Verdict] = {}  # of a method's variants
        for verdict in sorted(self._verdicts, key=lambda v: (v is not chosen, v.refusal is not None, v.seconds)):
            best.setdefault(verdict.algorithm.NAME, verdict)
        lines = [
            f"{self.problem.text}  ({self.flops / 1e9:.3g} GFLOP, {self.isa}, one worker; rates {rates.provenance})",
            *(("> " if verdict is chosen else "  ") + verdict.line() for verdict in best.values()),
        ]
        return "\n".join(lines)

    def pack(self, w: Any) -> Any:
        """The weights in the order the kernels read them, to be passed in their place. A copy: w may change later."""
        if self.packer is None:
            raise TypeError("pack: this plan has no weights to pack")
        return self.packer(w)

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        if self.caller is None:
            raise TypeError("this plan is not bound to an operation; make plans with plan_conv2d")
        return self.caller(*args, **kwargs)

    def pack_checked(self, w: np.ndarray) -> Any:
        """``pack`` on a checked array of the compute dtype."""
        packed = self.algorithm.pack(self, w)
        return repair.PackedTwice(packed, w.copy()) if self.error_scope == "tile" else packed

    def by_factors(self, w: np.ndarray, found: Factors | None) -> Any:
        """Checked weights whose factors somebody found: packed, if the algorithm goes by them."""
        pack = getattr(self._chosen.algorithm, "pack_factors", None)
        return w if pack is None or found is None else pack(self, w, found)

    def run(self, a: np.ndarray, b: Any, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
        """Compute on checked arrays (fastconv.algorithms says what that means)."""
        if workers > self._most_workers:
            workers = self._most_workers
        weights = b
        if isinstance(b, repair.PackedTwice):
            b, weights = b.packed, b.weights
        finite = self._chosen.algorithm.run(self, a, b, bias, out, workers)
        if self._repairs and not finite:
            self._repair(a, weights, bias, out, workers)

    def _repair(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray, out: np.ndarray, workers: int) -> None:
        if repair.finite(out):
            return
        if self.problem.direction == "weight_grad":
            repair.repair_weight_grad(self.problem, self._direct, a, b, out, workers)
        else:
            tiles = self.algorithm.tiles(self)
            repair.repair(self.problem, tiles, self._direct, a, b, bias, out, workers)

    def _direct(self, problem: ConvProblem) -> Plan:
        return _plan(problem, "direct", None, False, None, self.isa)

    def __post_init__(self) -> None:
        cost = self._chosen.cost
        calls = max(cost.calls, 1)  # each of them is a parallel region of its own
        if self._chosen.seconds / calls - machine.CALL_SECONDS < machine.PARALLEL_SECONDS:
            most = 1
        elif math.isinf(self._limit) or cost.worker == 0:
            most = 1 << 20
        else:
            most = max(int((self._limit - cost.shared) // cost.worker), 1)
        self._most_workers = most


def check_options(method: object, max_error: object, elementwise: object, max_workspace: object) -> dict:
    """The options that choose a method, checked; "auto" becomes the default in force."""
    name = check_method(method)
    if max_error is not None:
        if not isinstance(max_error, numbers.Real) or isinstance(max_error, bool):
            raise TypeError(f"max_error: got {max_error!r}; must be None or a number")
        max_error = float(max_error)
        if not max_error >= 0:
            raise ValueError(f"max_error: got {max_error}; must be None or at least 0")
    if not isinstance(elementwise, (bool, np.bool_)):
        raise TypeError(f"elementwise: got {elementwise!r}; must be True or False")
    if max_workspace is not None:
        max_workspace = integer(max_workspace, "max_workspace", 0)
    return {
        "method": default_method() if name == "auto" else name,
        "max_error": max_error,
        "elementwise": bool(elementwise),
        "max_workspace": max_workspace,
    }


def plan(
    problem: ConvProblem,
    method: str = "auto",
    max_error: float | None = None,
    elementwise: bool = False,
    max_workspace: int | None = None,
) -> Plan:
    """The plan of a problem under checked options; cached."""
    return _plan(problem, method, max_error, elementwise, max_workspace, machine.ISA)


@lru_cache(maxsize=1024)
def _plan(
    problem: ConvProblem,
    method: str,
    max_error: float | None,
    elementwise: bool,
    max_workspace: int | None,
    isa: str,
) -> Plan:
    limit: float = math.inf if max_workspace is None else max_workspace
    if max_workspace is None and method == "auto":
        limit = AUTO_WORKSPACE
    auto = method == "auto"
    asked = problem
    if not (problem.N and problem.C):  # nothing to compute: algorithms see the least problem that isn't empty
        problem = replace(problem, N=max(problem.N, 1), C=max(problem.C, problem.groups))
    verdicts = tuple(_judge(a, problem, max_error, elementwise, limit, isa, auto) for a in ALGORITHMS)
    if auto:
        fit = [v for v in verdicts if v.refusal is None]
        if not fit and max_workspace is None:  # "auto" serves where any method can, with the least scratch
            limit = math.inf
            unlimited = [_judge(a, problem, max_error, elementwise, limit, isa, auto) for a in ALGORITHMS]
            fit = sorted((v for v in unlimited if v.refusal is None), key=lambda v: v.workspace)[:1]
        if not fit:
            reasons = "; ".join(f"{v.algorithm.NAME}: {v.refusal}" for v in verdicts)
            raise UnsupportedError(f"method: no method can serve {problem.text}: {reasons}")
        # Where anything is measured, nothing that isn't: reckoned and measured seconds don't compare.
        chosen = min([v for v in fit if v.tuned] or fit, key=lambda v: v.seconds)
    else:
        # The variant doesn't depend on the batch: a sample's result is the same alone.
        one = replace(problem, N=1)
        named = [
            (_judge(v.algorithm, one, max_error, elementwise, math.inf, isa, False), v)
            for v in verdicts
            if method == v.algorithm.NAME
        ]
        chosen = min(named, key=lambda pair: (pair[0].refusal is not None, pair[0].seconds))[1]
        if chosen.refusal:
            raise UnsupportedError(f"method: {method!r} can't serve {problem.text}: {chosen.refusal}")
    repairs = auto and chosen.algorithm.SCOPE == "tile"
    return Plan(asked, isa, chosen.algorithm.prepare(problem, isa), chosen, verdicts, limit, repairs)


def _judge(
    algorithm: Any,
    problem: ConvProblem,
    max_error: float | None,
    elementwise: bool,
    limit: float,
    isa: str,
    repairs: bool,
) -> _Verdict:
    refusal = algorithm.why_not(problem)
    if refusal:
        return _Verdict(algorithm, "", Cost(0, 0, 0, 0, "direct"), math.inf, math.inf, refusal)
    cost, bound = algorithm.cost(problem, isa), algorithm.error_bound(problem)
    if repairs and algorithm.SCOPE == "tile":
        part, scratch = repair.largest_part(problem, algorithm.tile_extents(problem))
        again = _judge(_DIRECT, part, None, False, math.inf, isa, False).workspace + scratch
        cost = replace(cost, shared=cost.shared + again)  # added: scratch is kept when the method is done
    if max_error is not None and not bound <= max_error:
        refusal = f"its error_bound is {bound:.2e}, max_error {max_error:.2e}"
    elif max_error is None and getattr(algorithm, "ON_REQUEST", False):
        refusal = "it serves only where max_error admits it"
    elif elementwise and not algorithm.ELEMENTWISE:
        refusal = "its error bound doesn't hold element by element"
    elif cost.shared + cost.worker > limit:
        refusal = f"it needs {cost.shared + cost.worker} bytes of scratch, max_workspace is {limit:.0f}"
    rates = machine.rates(isa)
    seconds = cost.flops / getattr(rates, cost.rate) * problem.itemsize / 4 + cost.bytes / rates.bandwidth
    seconds += cost.calls * machine.CALL_SECONDS
    variant = algorithm.variant(problem)
    measured = _tuning.get((problem.text, isa), {}).get(tuning_key(algorithm, variant)) if _tuning else None
    seconds = seconds if measured is None else measured
    return _Verdict(algorithm, variant, cost, seconds, bound, refusal, measured is not None)


def clear_plans() -> None:
    _plan.cache_clear()


# --- measured times (fastconv.tuning measures) -----------------------------------------------------

_tuning: dict[tuple[str, str], dict[str, float]] = {}
"""Seconds of each method by problem text and instruction set, of this machine. Plans do not expire with them."""


def tuning_key(algorithm: Any, variant: str) -> str:
    """The method's name; with the variant where a method has several and this isn't its default."""
    default = next(a for a in ALGORITHMS if a.NAME == algorithm.NAME)
    return algorithm.NAME if algorithm is default else f"{algorithm.NAME} {variant}"


def tuning() -> dict[tuple[str, str], dict[str, float]]:
    return dict(_tuning)


def add_tuning(problem: str, isa: str, times: dict[str, float]) -> None:
    """Measured seconds; plans made afterwards (clear_plans) prefer them to reckoned ones."""
    if times:
        _tuning[problem, isa] = _tuning.get((problem, isa), {}) | times


def candidates(plan: Plan, within: float) -> list[Plan]:
    """Plans of the same problem by every method that the plan's limits admit, and that isn't ``within`` times as slow
    as the best."""
    fit = [v for v in plan._verdicts if v.refusal is None] or [plan._chosen]
    longest = within * min(v.seconds for v in fit)
    return [
        Plan(
            plan.problem,
            plan.isa,
            v.algorithm.prepare(plan.problem, plan.isa),
            v,
            (),
            plan._limit,
            v.algorithm.SCOPE == "tile",
        )
        for v in fit
        if v.seconds <= longest
    ]


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _size(nbytes: float) -> str:
    if nbytes < 1 << 10:
        return f"{nbytes:.0f} B"
    return f"{nbytes / 2**10:.1f} KiB" if nbytes < 1 << 20 else f"{nbytes / 2**20:.1f} MiB"
