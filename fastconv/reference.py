"""The plainest definition of every operation, loops as in a textbook.

What the tests believe, and what ``method="naive"`` runs. Arrays are (N, C, H, W), already checked; sums are
taken in the arrays' dtype (``uint64`` is int64 modulo 2**64). Knows problems and boundaries, no kernel.
"""

from __future__ import annotations

import numpy as np

from fastconv.problem import ConvProblem

__all__ = ["forward", "input_grad", "pad", "weight_grad"]


def pad(x: np.ndarray, problem: ConvProblem) -> np.ndarray:
    """x with its boundary: padded[n, c, u, v] = x[n, c, rows[u], columns[v]], or cval."""
    rows, columns = problem.rows(), problem.columns()
    padded = x[:, :, rows[:, None], columns]
    outside = (rows < 0)[:, None] | (columns < 0)
    padded[:, :, outside] = problem.compute_cval
    return padded


def _window(problem: ConvProblem, g: int, p: int, q: int) -> tuple[slice, slice, slice]:
    """The channels, rows and columns of the padded image under the filter at output (p, q) of group g."""
    channels = problem.C // problem.groups
    (sh, sw), (dh, dw) = problem.stride, problem.dilation
    return (
        slice(g * channels, (g + 1) * channels),
        slice(p * sh, p * sh + (problem.R - 1) * dh + 1, dh),
        slice(q * sw, q * sw + (problem.S - 1) * dw + 1, dw),
    )


def forward(x: np.ndarray, w: np.ndarray, problem: ConvProblem) -> np.ndarray:
    """y[n,k,p,q] = sum_{c,r,s} padded[n, c, p*sh + r*dh, q*sw + s*dw] * w[k,c,r,s]."""
    padded = pad(x, problem)
    y = np.empty(problem.y_shape, x.dtype)
    for n in range(problem.N):
        for k in range(problem.K):
            g = k // (problem.K // problem.groups)
            for p in range(problem.P):
                for q in range(problem.Q):
                    window = padded[n][_window(problem, g, p, q)]
                    y[n, k, p, q] = (window * w[k]).sum()
    return y


def input_grad(dy: np.ndarray, w: np.ndarray, problem: ConvProblem) -> np.ndarray:
    """dx: each window of the padded image gets dy[n,k,p,q] * w[k]; then every padded pixel goes to its source."""
    padded = np.zeros(problem.padded_shape, dy.dtype)
    for n in range(problem.N):
        for k in range(problem.K):
            g = k // (problem.K // problem.groups)
            for p in range(problem.P):
                for q in range(problem.Q):
                    padded[n][_window(problem, g, p, q)] += dy[n, k, p, q] * w[k]
    dx = np.zeros(problem.x_shape, dy.dtype)
    for u, h in enumerate(problem.rows()):
        for v, j in enumerate(problem.columns()):
            if h >= 0 and j >= 0:
                dx[:, :, h, j] += padded[:, :, u, v]
    return dx


def weight_grad(x: np.ndarray, dy: np.ndarray, problem: ConvProblem) -> np.ndarray:
    """dw[k,c,r,s] = sum_{n,p,q} padded[n, c, p*sh + r*dh, q*sw + s*dw] * dy[n,k,p,q]."""
    padded = pad(x, problem)
    dw = np.zeros(problem.w_shape, x.dtype)
    for n in range(problem.N):
        for k in range(problem.K):
            g = k // (problem.K // problem.groups)
            for p in range(problem.P):
                for q in range(problem.Q):
                    dw[k] += dy[n, k, p, q] * padded[n][_window(problem, g, p, q)]
    return dw
