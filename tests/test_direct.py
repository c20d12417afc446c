"""The direct method's blocks: src_cython/direct.pyx, and its way there."""

from dataclasses import replace

import numpy as np
import pytest
from convolutions import DIRECTIONS, call, check_direct, layout_of, small_integers

import fastconv as fc
from fastconv import machine, reference
from fastconv.algorithms import direct
from fastconv.problem import ConvProblem


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("filters", [*range(1, 10), 13, 17])
def test_every_number_of_filters(filters, direction, isa):
    """Tiles of every height; rows shorter than a vector, as long as several, and between."""
    for width in (3, 8, 11, 16, 23):
        problem = ConvProblem(2, 3, 5, width, filters, 3, 3, padding=((1, 1), (1, 1)))
        check_direct(problem, direction)
        check_direct(replace(problem, padding=((0, 1), (0, 0))), direction, "float64")
        check_direct(replace(problem, stride=(1, 2), layout="NHWC"), direction)
        check_direct(replace(problem, C=filters, K=3), direction)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few outputs, channels, filters and samples; every number of workers asked for works."""
    small = {"RUN": 24, "SUMS_BYTES": 400, "BLOCK_BYTES": 1200, "ROWS_BYTES": 480, "BUNCH": 40, "DOT_TAPS": 18}
    for name, value in small.items():
        monkeypatch.setattr(direct, name, value)
    monkeypatch.setattr(machine, "PARALLEL_SECONDS", -1.0)
    fc.clear_caches()
    direct._prepare_blocks.cache_clear()
    yield
    monkeypatch.undo()
    fc.clear_caches()
    direct._prepare_blocks.cache_clear()


GEOMETRIES = [
    {},
    {"stride": (2, 2)},
    {"stride": (2, 3), "dilation": (3, 2), "padding": ((3, 4), (2, 2))},
    {"groups": 2},
    {"boundary": "reflect"},
    {"layout": "NHWC"},
]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_blocks_and_workers(geometry, direction, isa, small_blocks):
    """Sums cut over blocks of channels, filters in parts, samples in bunches; the same bytes for every worker."""
    problem = ConvProblem(5, 6, 9, 31, 14, 3, 3, padding=((1, 1), (1, 1)))
    problem = replace(problem, **geometry)
    for workers in (1, 3):
        check_direct(problem, direction, workers=workers)
        check_direct(replace(problem, W=5), direction, workers=workers)
    rng = np.random.default_rng(1)
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "dy": problem.y_shape}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    arrays = {name: a if name == "w" else layout_of(a, problem.layout) for name, a in arrays.items()}
    one, two, five = (call(problem, direction, arrays, "direct", workers=n).tobytes() for n in (1, 2, 5))
    assert one == two == five


@pytest.mark.parametrize("stride", [1, 2])
def test_weights_of_an_input_gradient_that_are_not_finite(stride, isa, small_blocks):
    """What they meet beyond dy is nothing: no NaN where the definition has none; packed as well."""
    problem = ConvProblem(2, 3, 8, 11, 6, 3, 3, stride=(stride, stride), padding=((1, 1), (1, 1)))
    data = {name: array.astype(np.float32) for name, array in small_integers(problem).items()}
    data["w"][1, 2, 0, 2], data["w"][4, 0, 1, 1] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        expected = reference.input_grad(data["dy"], data["w"], replace(problem, direction="input_grad"))
    np.testing.assert_array_equal(call(problem, "input_grad", data, "direct"), expected)
    plan = fc.plan_conv2d(
        problem.x_shape, problem.w_shape, direction="input_grad", stride=stride, padding=1, method="direct"
    )
    np.testing.assert_array_equal(plan(data["dy"], plan.pack(data["w"])), expected)
