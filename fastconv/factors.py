"""Separable kernels: a kernel as a sum of few outer products of a column and a row.

Both the operations, which tell the planner a kernel's rank, and the algorithm that filters by columns and rows look
here, so that they agree. Knows arrays; no problem, no machine, no algorithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["GROWTH", "TOLERANCE", "Factors", "factors", "most_terms", "rank"]

TOLERANCE = 4
"""Units of machine epsilon, relative to the kernel's norm, that factors may miss the kernel by."""
GROWTH = 2
"""sum_i ||column_i|| ||row_i|| stays within GROWTH * terms * ||kernel|| where there are several terms."""


@dataclass(frozen=True)
class Factors:
    """kernel[r, s] = sum_i columns[i, r] * rows[i, s], in the kernel's dtype."""

    columns: np.ndarray
    rows: np.ndarray
    same_signs: bool
    """The products have the kernel's signs and zeros: infinite pixels give what they give in the direct sum."""


def most_terms(height: int, width: int) -> int:
    """How many terms pay: the most with terms * (R + S) < R * S; one always does."""
    return max((height * width - 1) // (height + width), 1)


def rank(kernels: np.ndarray, most: int) -> int:
    """The most terms that any of the kernels (count, R, S) needs; 0 where one needs more than ``most``."""
    found = 1
    for kernel in kernels:
        terms = factors(kernel, most)
        if terms is None:
            return 0
        found = max(found, len(terms.columns))
    return found


def factors(kernel: np.ndarray, most: int) -> Factors | None:
    """The factors of a kernel (R, S) of float32, float64 or int64; None where ``most`` terms are not enough.

    Rank 1 is read off the pivot row and column, and what is left is treated alike: Gaussian elimination with complete
    pivoting, ended when the rest is within TOLERANCE (J. Wilkinson, Error Analysis of Direct Methods of Matrix
    Inversion, 1961). A singular value decomposition could save a term, but LAPACK starts threads of its own and gives
    other bytes on two of them.
    """
    return _integer_factors(kernel) if kernel.dtype.kind == "i" else _float_factors(kernel, most)


def _integer_factors(kernel: np.ndarray) -> Factors | None:
    """One term, exact: every row of a kernel of rank 1 is an integer multiple of a primitive row."""
    filled = np.flatnonzero(kernel.any(axis=1))
    if not filled.size:
        return Factors(kernel[None, :, 0], kernel[None, 0], True)
    row = kernel[filled[0]]
    row = row // np.gcd.reduce(row)
    pivot = int(np.flatnonzero(row)[0])
    column = kernel[:, pivot] // row[pivot]
    # Bounded as integers of any length first: products modulo 2**64 prove nothing.
    if _largest(column) * _largest(row) != _largest(kernel) or (np.outer(column, row) != kernel).any():
        return None
    return Factors(column[None], row[None], True)


def _largest(values: np.ndarray) -> int:
    return max(abs(int(values.max())), abs(int(values.min())))


def _float_factors(kernel: np.ndarray, most: int) -> Factors | None:
    dtype, eps = kernel.dtype, float(np.finfo(kernel.dtype).eps)
    top = np.abs(kernel).max()
    if not np.isfinite(top):
        return None
    if top == 0:
        return Factors(kernel[None, :, 0], kernel[None, 0], True)
    if top <= 2 / eps and (np.rint(kernel) == kernel).all():  # whole numbers: their factors are exact
        whole = _integer_factors(kernel.astype(np.int64))
        if whole is not None:
            column, row = _balanced(whole.columns[0].astype(np.float64), whole.rows[0].astype(np.float64), dtype)
            return Factors(column[None], row[None], True)
    exponent = np.frexp(float(top))[1]
    scaled = np.ldexp(kernel.astype(np.float64), -exponent)  # norms can't overflow
    norm = _norm(scaled)
    rest, columns, rows, growth = scaled.copy(), [], [], 0.0
    for _ in range(most):
        r, s = divmod(int(np.abs(rest).argmax()), rest.shape[1])
        column, row = _balanced(rest[:, s] / rest[r, s], rest[r], dtype, exponent)
        columns.append(column)
        rows.append(row)
        product = np.outer(column.astype(np.float64), np.ldexp(row.astype(np.float64), -exponent))
        rest -= product
        growth += _norm(product)
        if _norm(rest) <= TOLERANCE * eps * norm:
            break
    else:
        return None
    terms = len(columns)
    if not np.isfinite(rows).all() or (terms > 1 and not growth <= GROWTH * terms * norm):
        return None
    same_signs = terms == 1 and bool((np.sign(product) == np.sign(scaled)).all())
    return Factors(np.array(columns), np.array(rows), same_signs)


def _balanced(column: np.ndarray, row: np.ndarray, dtype: np.dtype, exponent: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The two scaled by powers of two, row by 2**exponent besides, so that 1/2 <= sum |column| < 1.

    The sums along columns then exceed no pixel: they can't overflow where the result doesn't.
    """
    balance = np.frexp(np.abs(column).sum())[1]
    with np.errstate(over="ignore"):
        return np.ldexp(column, -balance).astype(dtype), np.ldexp(row, balance + exponent).astype(dtype)


def _norm(values: np.ndarray) -> float:
    return math.sqrt(float(np.square(values).sum()))
