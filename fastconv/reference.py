"""The plainest definition of every operation, loops as in a textbook.

What the tests believe, and what ``method="naive"`` runs. Arrays are (N, C, H, W), already checked; sums are
taken in the arrays' dtype (``uint64`` is int64 modulo 2**64). Knows problems and boundaries, no kernel.
"""

from __future__ import annotations

import math

import numpy as np

from fastconv.problem import ConvProblem, PoolProblem

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


# --- pooling: arrays (N, C, H, W) ------------------------------------------------------------------


def pool_taps(problem: PoolProblem, p: int, q: int) -> list[tuple[int, int, int]]:
    """(place in the window, h, w) of every tap of window (p, q) that is a pixel, in row-major order."""
    (top, _), (left, _) = problem.padding
    taps = []
    for r in range(problem.R):
        for s in range(problem.S):
            h = p * problem.stride[0] + r * problem.dilation[0] - top
            w = q * problem.stride[1] + s * problem.dilation[1] - left
            if 0 <= h < problem.H and 0 <= w < problem.W:
                taps.append((r * problem.S + s, h, w))
    return taps


def pool_count(problem: PoolProblem, p: int, q: int, count_include_pad: bool) -> int:
    """How many taps of window (p, q) lie in the padded image, or in the image."""
    count = 0
    for r in range(problem.R):
        for s in range(problem.S):
            h = p * problem.stride[0] + r * problem.dilation[0]
            w = q * problem.stride[1] + s * problem.dilation[1]
            (top, bottom), (left, right) = problem.padding
            if count_include_pad:
                count += h < top + problem.H + bottom and w < left + problem.W + right
            else:
                count += top <= h < top + problem.H and left <= w < left + problem.W
    return count


def max_pool(x: np.ndarray, problem: PoolProblem) -> tuple[np.ndarray, np.ndarray]:
    """y[n,c,p,q] = max_{r,s} x[n,c,h,w], and h*W + w of the first maximum, or of the first NaN."""
    y = np.zeros(problem.y_shape, x.dtype)
    indices = np.zeros(problem.y_shape, np.int64)
    for n, c, p, q in np.ndindex(*problem.y_shape):
        _, h, w = pool_taps(problem, p, q)[0]
        best, index = x[n, c, h, w], h * problem.W + w
        for _, h, w in pool_taps(problem, p, q):
            v = x[n, c, h, w]
            if v > best or (v != v and best == best):
                best, index = v, h * problem.W + w
        y[n, c, p, q], indices[n, c, p, q] = best, index
    return y, indices


def max_pool_offsets(indices: np.ndarray, problem: PoolProblem) -> np.ndarray:
    """The place r*S + s in the window of every index that max_pool gave."""
    offsets = np.zeros(problem.y_shape, np.int64)
    for n, c, p, q in np.ndindex(*problem.y_shape):
        for place, h, w in pool_taps(problem, p, q):
            if h * problem.W + w == indices[n, c, p, q]:
                offsets[n, c, p, q] = place
    return offsets


def max_pool_grad(dy: np.ndarray, indices: np.ndarray, problem: PoolProblem) -> np.ndarray:
    """dx[n,c,h,w] = sum of dy[n,c,p,q] over the windows whose index is h*W + w."""
    dx = np.zeros(problem.x_shape, dy.dtype)
    for n, c, p, q in np.ndindex(*problem.y_shape):
        h, w = divmod(int(indices[n, c, p, q]), problem.W)
        dx[n, c, h, w] += dy[n, c, p, q]
    return dx


def max_unpool(y: np.ndarray, indices: np.ndarray, x_shape: tuple[int, int, int, int]) -> np.ndarray:
    """x[n,c,h,w] = y[n,c,p,q] where indices[n,c,p,q] = h*W + w, the last of them; zero elsewhere."""
    x = np.zeros(x_shape, y.dtype)
    for n, c, p, q in np.ndindex(*y.shape):
        h, w = divmod(int(indices[n, c, p, q]), x_shape[3])
        x[n, c, h, w] = y[n, c, p, q]
    return x


def avg_pool(
    x: np.ndarray, problem: PoolProblem, count_include_pad: bool = True, divisor: float | None = None
) -> np.ndarray:
    """y[n,c,p,q] = sum_{r,s} x[n,c,h,w] / count, correctly rounded to float64."""
    y = np.zeros(problem.y_shape, np.float64)
    for n, c, p, q in np.ndindex(*problem.y_shape):
        total = math.fsum(float(x[n, c, h, w]) for _, h, w in pool_taps(problem, p, q))
        y[n, c, p, q] = total / (pool_count(problem, p, q, count_include_pad) if divisor is None else divisor)
    return y


def avg_pool_grad(
    dy: np.ndarray, problem: PoolProblem, count_include_pad: bool = True, divisor: float | None = None
) -> np.ndarray:
    """dx[n,c,h,w] = sum of dy[n,c,p,q] / count over the windows that hold pixel (h, w)."""
    dx = np.zeros(problem.x_shape, np.float64)
    for n, c, p, q in np.ndindex(*problem.y_shape):
        count = pool_count(problem, p, q, count_include_pad) if divisor is None else divisor
        for _, h, w in pool_taps(problem, p, q):
            dx[n, c, h, w] += float(dy[n, c, p, q]) / count
    return dx
