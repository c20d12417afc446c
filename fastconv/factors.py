"""Separable kernels: a kernel as a sum of few outer products of a column and a row.

Both the operations, which tell the planner a kernel's rank, and the algorithm that filters by columns and rows look
here, so that they agree. Knows arrays; no problem, no machine, no algorithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["GROWTH", "TOLERANCE", "Factors", "factors", "most_terms"]

TOLERANCE = 4
"""Units of machine epsilon, relative to the kernel's norm, that factors may miss the kernel by."""
GROWTH = 2
"""sum_m ||column_m|| ||row_m|| stays within GROWTH * terms * ||kernel|| where there are several terms."""


@dataclass(frozen=True)
class Factors:
    """kernels[i, r, s] = sum_m columns[i, m, r] * rows[i, m, s], in the kernels' dtype."""

    columns: np.ndarray
    """(count, terms, R), zeros where a kernel needs fewer terms than another."""
    rows: np.ndarray
    same_signs: bool
    """The products have the kernels' signs and zeros: infinite pixels give what they give in the direct sum."""

    @property
    def rank(self) -> int:
        """The most terms that any of the kernels needs; 0 where one needs too many."""
        return self.columns.shape[1]


def most_terms(height: int, width: int) -> int:
    """How many terms pay: the most with terms * (R + S) < R * S; one always does."""
    return max((height * width - 1) // (height + width), 1)


def factors(kernels: np.ndarray, most: int) -> Factors:
    """The factors of kernels (count, R, S) of float32, float64 or int64; of rank 0 where ``most`` terms are not enough.

    Rank 1 is read off the pivot row and column. What that leaves of a float kernel is treated alike: Gaussian
    elimination with complete pivoting, ended when the rest is within TOLERANCE (J. Wilkinson, Error Analysis of Direct
    Methods of Matrix Inversion, 1961). A singular value decomposition could save a term, but LAPACK starts threads of
    its own and gives other bytes on two of them.
    """
    count, height, width = kernels.shape
    found = []
    for kernel in kernels:
        one = _integer_terms(kernel) if kernel.dtype.kind == "i" else _float_terms(kernel, most)
        if one is None:
            return Factors(kernels[:, :0], kernels[:, :0], False)
        found.append(one)
    if count == 1:
        columns, rows, same_signs = found[0]
        return Factors(columns[None], rows[None], same_signs)
    rank = max((len(columns) for columns, _, _ in found), default=0)
    columns, rows = np.zeros((count, rank, height), kernels.dtype), np.zeros((count, rank, width), kernels.dtype)
    for i, one in enumerate(found):
        columns[i, : len(one[0])], rows[i, : len(one[0])] = one[:2]
    return Factors(columns, rows, all(same_signs and len(terms) == rank for terms, _, same_signs in found))


_Terms = tuple[np.ndarray, np.ndarray, bool]
"""Columns (terms, R) and rows (terms, S) of one kernel, and whether the products have its signs."""


def _integer_terms(kernel: np.ndarray) -> _Terms | None:
    """One term, exact: every row of a kernel of rank 1 is an integer multiple of a primitive row."""
    filled = np.flatnonzero(kernel.any(axis=1))
    if not filled.size:
        return kernel[None, :, 0], kernel[None, 0], True
    row = kernel[filled[0]]
    row = row // np.gcd.reduce(row)
    pivot = int(np.flatnonzero(row)[0])
    column = kernel[:, pivot] // row[pivot]
    # Bounded as integers of any length first: products modulo 2**64 prove nothing.
    if _largest(column) * _largest(row) != _largest(kernel) or (np.outer(column, row) != kernel).any():
        return None
    return column[None], row[None], True


def _largest(values: np.ndarray) -> int:
    return max(abs(int(values.max())), abs(int(values.min())))


@np.errstate(over="ignore", invalid="ignore")
def _float_terms(kernel: np.ndarray, most: int) -> _Terms | None:
    dtype, eps, sizes = kernel.dtype, float(np.finfo(kernel.dtype).eps), np.abs(kernel)
    r, s = divmod(int(sizes.argmax()), kernel.shape[1])
    pivot = float(kernel[r, s])  # NaN, if there is one
    if not math.isfinite(pivot):
        return None
    if pivot == 0:
        return kernel[None, :, 0], kernel[None, 0], True
    if pivot.is_integer() and abs(pivot) <= 2 / eps and (np.rint(kernel) == kernel).all():
        whole = _integer_terms(kernel.astype(np.int64))  # of whole numbers: exact
        if whole is not None:
            column, row = _balanced(whole[0][0].astype(np.float64), whole[1][0].astype(np.float64), dtype)
            return column[None], row[None], True
    if most == 1 and not _may_be_of_rank_one(kernel, r, s):
        return None
    column, row = _balanced(kernel[:, s].astype(np.float64), kernel[r] / np.float64(pivot), dtype)
    product = column[:, None].astype(np.float64) * row
    if (np.abs(product - kernel) <= TOLERANCE * eps * sizes).all():  # of each element: its sign, too
        return column[None], row[None], True
    return _eliminated(kernel, most, float(sizes[r, s]))


def _may_be_of_rank_one(kernel: np.ndarray, r: int, s: int) -> bool:
    """One pixel of what rank 1 would leave tells most kernels that aren't; (r, s) is the pivot."""
    other = (r + 1) % kernel.shape[0], (s + 1) % kernel.shape[1]
    pivot = float(kernel[r, s])
    rest = float(kernel[other]) - float(kernel[other[0], s]) / pivot * float(kernel[r, other[1]])
    slack = 4 + math.sqrt(kernel.size)  # the factors' own rounding; the norm, in pivots
    return abs(rest) <= slack * TOLERANCE * float(np.finfo(kernel.dtype).eps) * abs(pivot)


def _eliminated(kernel: np.ndarray, most: int, top: float) -> _Terms | None:
    dtype, eps = kernel.dtype, float(np.finfo(kernel.dtype).eps)
    exponent = math.frexp(top)[1]
    scaled = np.ldexp(kernel.astype(np.float64), -exponent)  # norms can't overflow
    norm = _norm(scaled)
    rest, columns, rows, growth = scaled.copy(), [], [], 0.0
    for _ in range(most):
        r, s = divmod(int(np.abs(rest).argmax()), rest.shape[1])
        column, row = _balanced(rest[:, s], rest[r] / rest[r, s], dtype, exponent)
        columns.append(column)
        rows.append(row)
        product = np.outer(np.ldexp(column.astype(np.float64), -exponent), row.astype(np.float64))
        rest -= product
        growth += _norm(product)
        if _norm(rest) <= TOLERANCE * eps * norm:
            break
    else:
        return None
    terms = len(columns)
    if not np.isfinite(columns).all() or (terms > 1 and not growth <= GROWTH * terms * norm):
        return None
    same_signs = terms == 1 and bool((np.sign(product) == np.sign(scaled)).all())
    return np.array(columns), np.array(rows), same_signs


def _balanced(column: np.ndarray, row: np.ndarray, dtype: np.dtype, exponent: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The two scaled by powers of two, column by 2**exponent besides, so that 1/2 <= sum |row| < 1.

    The sums along rows then exceed no pixel: they can't overflow where the result doesn't.
    """
    balance = math.frexp(float(np.abs(row).sum()))[1]
    return np.ldexp(column, balance + exponent).astype(dtype), np.ldexp(row, -balance).astype(dtype)


def _norm(values: np.ndarray) -> float:
    return math.sqrt(float(np.square(values).sum()))
