"""|y - exact| <= error_bound * sum_j ||a_j|| ||b_j|| on hard data, for all methods, the norms over what they mix."""

from dataclasses import replace

import numpy as np
import pytest

from fastconv import planner, reference
from fastconv.algorithms import ALGORITHMS
from fastconv.problem import ConvProblem

DIRECTIONS = ("forward", "input_grad", "weight_grad")
OPERANDS = {"forward": ("x", "w"), "input_grad": ("dy", "w"), "weight_grad": ("x", "dy")}
LINES = (
    "n2 c3 h22 w19 k2 r3 s3 pad1",
    "n1 c2 h21 w30 k3 r5 s5 pad2,1,0,2 symmetric",
    "n1 c2 h20 w20 k2 r3 s3 g2 pad1 rank1",
    "n2 c1 h24 w23 k1 r7 s5 pad3",
)
KINDS = ("one large element a tile", "positive", "alternating", "tiny beside huge", "constant 1e33")


def data(kind, shape, tiles, rng, second):
    """An operand (float64) of a kind; ``tiles``: rows and columns of the tiles that get one large element each."""
    x = rng.standard_normal(shape)
    if kind == "one large element a tile" and not second:
        x[..., 1 :: tiles[0], 2 :: tiles[1]] = 1e6
    elif kind == "positive":
        x = np.abs(x)
    elif kind == "alternating":
        x = np.abs(x) * (-1.0) ** np.add.outer(np.arange(shape[2]), np.arange(shape[3]))
    elif kind == "tiny beside huge" and not second:
        x *= 10.0 ** rng.choice([-30, 30], shape)
    elif kind == "constant 1e33" and not second:
        x = np.full(shape, 1e33)
    return x


def norms(a, rows, columns):
    return np.sqrt((a[:, :, rows, columns] ** 2).sum((2, 3)))


def sum_of_norms(problem, a, b, rows, columns):
    """sum_j ||a_j|| ||b_j|| of the results in rows and columns: (N, K), (N, C) or (K, C/groups); stride 1."""
    g, n = problem.groups, problem.N
    everything = slice(None)
    if problem.direction == "weight_grad":
        left = norms(reference.pad(a, problem), everything, everything).reshape(n, g, -1)
        right = norms(b, everything, everything).reshape(n, g, -1)
        return np.einsum("ngc,ngk->gkc", left, right).reshape(problem.K, -1)
    filters = norms(b, everything, everything).reshape(g, problem.K // g, -1)
    if problem.direction == "forward":
        read = slice(rows.start, rows.stop + problem.R - 1), slice(columns.start, columns.stop + problem.S - 1)
        left = norms(reference.pad(a, problem), *read).reshape(n, g, -1)
        return np.einsum("ngc,gkc->ngk", left, filters).reshape(n, -1)
    if problem.boundary != "constant":
        return np.einsum("ngk,gkc->ngc", norms(a, everything, everything).reshape(n, g, -1), filters).reshape(n, -1)
    (top, _), (left, _) = problem.padding
    read = (
        slice(max(rows.start + top - problem.R + 1, 0), rows.stop + top),
        slice(max(columns.start + left - problem.S + 1, 0), columns.stop + left),
    )
    return np.einsum("ngk,gkc->ngc", norms(a, *read).reshape(n, g, -1), filters).reshape(n, -1)


def allowed(plan, algorithm, a, b):
    """The right-hand side of the bound, of the result's shape."""
    problem = plan.problem
    if algorithm.ELEMENTWISE:
        size = getattr(reference, problem.direction)(np.abs(a), np.abs(b), replace(problem, cval=abs(problem.cval)))
        return plan.error_bound * size
    rows, columns = problem.out_shape[2:]
    tiles = [slice(p, p + 1) for p in range(rows)], [slice(q, q + 1) for q in range(columns)]
    if problem.direction == "weight_grad" or (problem.direction == "input_grad" and problem.boundary != "constant"):
        tiles = [slice(0, rows)], [slice(0, columns)]
    elif algorithm.SCOPE == "tile":
        tiles = algorithm.tiles(plan)
    size = np.zeros(problem.out_shape, a.dtype)
    for tile_rows in tiles[0]:
        for tile_columns in tiles[1]:
            size[:, :, tile_rows, tile_columns] = sum_of_norms(problem, a, b, tile_rows, tile_columns)[..., None, None]
    return plan.error_bound * size


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_error_bounds_hold_on_hard_data(line, direction, dtype):
    problem = ConvProblem.from_text(f"{line} {direction} {dtype}")
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "dy": problem.y_shape}
    rng = np.random.default_rng(0)
    for kind in KINDS if dtype != "float16" else ("positive", "alternating"):
        for algorithms in by_tile(problem):
            extents = algorithms[0].tile_extents(problem) if algorithms[0].SCOPE == "tile" else (problem.R, problem.S)
            names = OPERANDS[direction]
            a, b = (data(kind, shapes[name], extents, rng, i == 1) for i, name in enumerate(names))
            if problem.rank and direction != "weight_grad":
                b = np.rint(2 * b[..., :1]) * np.rint(2 * b[..., :1, :])  # outer products, as the rank says
            a, b = a.astype(dtype), b.astype(dtype)
            wide = [operand.astype(np.longdouble) for operand in (a, b)]
            exact = getattr(reference, direction)(*wide, problem)
            for algorithm in algorithms:
                check(problem, algorithm, kind, a, b, wide, exact)


def by_tile(problem):
    """The algorithms that can serve: those without tiles, and each that has."""
    able = [algorithm for algorithm in ALGORITHMS if algorithm.why_not(problem) is None]
    return [
        [algorithm for algorithm in able if algorithm.SCOPE == "window"],
        *([algorithm] for algorithm in able if algorithm.SCOPE == "tile"),
    ]


def check(problem, algorithm, kind, a, b, wide, exact):
    work = problem.compute_dtype
    every = planner.candidates(planner.plan(problem, max_error=np.inf, max_workspace=1 << 40), np.inf)
    plan = next(p for p in every if p.algorithm is algorithm)
    out = np.empty(problem.out_shape, work)
    plan.run(a.astype(work), b.astype(work), np.empty(0, work), out, 1)
    underflow = problem.terms * float(np.finfo(a.dtype).smallest_subnormal) * 16
    error = np.abs(out.astype(a.dtype) - exact)
    assert (error <= allowed(plan, algorithm, *wide) + underflow).all(), (plan.method, plan.variant, kind)
