"""The textbook definitions, against SciPy and against numbers worked by hand."""

import numpy as np
import pytest
from scipy import signal

from fastconv import reference
from fastconv.problem import ConvProblem, PoolProblem

# An image and a filter small enough for paper.
IMAGE = np.array([[1, 2, 0], [0, 1, 3], [4, 0, 1]])
FILTER = np.array([[1, -1], [2, 0]])


def planes(array):
    return np.array(array, float)[None, None]


def test_forward_by_hand():
    problem = ConvProblem(1, 1, 3, 3, 1, 2, 2)
    # top left: 1*1 - 1*2 + 2*0 = -1; top right: 2 - 0 + 2*1 = 4; bottom left: 0 - 1 + 2*4 = 7; right: 1 - 3 + 0 = -2
    assert reference.forward(planes(IMAGE), planes(FILTER), problem)[0, 0].tolist() == [[-1, 4], [7, -2]]


def test_padding_stride_and_dilation_by_hand():
    # Padded by one row above and one column on the right; stride 2: rows 0 and 2, columns 0 and 2 of
    #   0 0 0 0 / 1 2 0 0 / 0 1 3 0 / 4 0 1 0
    problem = ConvProblem(1, 1, 3, 3, 1, 2, 2, stride=(2, 2), padding=((1, 0), (0, 1)))
    assert reference.forward(planes(IMAGE), planes(FILTER), problem)[0, 0].tolist() == [[2, 0], [-1 + 8, 3 + 2]]
    # Dilation 2 takes the corners of the 3x3 image: 1*1 - 1*0 + 2*4 + 0*1
    problem = ConvProblem(1, 1, 3, 3, 1, 2, 2, dilation=(2, 2))
    assert reference.forward(planes(IMAGE), planes(FILTER), problem).item() == 9


def test_channels_and_groups_by_hand():
    x = np.array([2.0, 3.0, 5.0, 7.0]).reshape(1, 4, 1, 1)
    w = np.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(2, 2, 1, 1)
    problem = ConvProblem(1, 4, 1, 1, 2, 1, 1, groups=2)
    assert reference.forward(x, w, problem).ravel().tolist() == [2 + 30, 500 + 7000]
    assert reference.input_grad(np.array([[[[1.0]], [[2.0]]]]), w, problem).ravel().tolist() == [1, 10, 200, 2000]
    assert reference.weight_grad(x, np.array([[[[1.0]], [[2.0]]]]), problem).ravel().tolist() == [2, 3, 10, 14]


def test_gradients_by_hand():
    problem = ConvProblem(1, 1, 3, 3, 1, 2, 2)
    dy = planes([[1, 0], [0, 10]])
    # one filter at the top left, ten at the bottom right
    assert reference.input_grad(dy, planes(FILTER), problem)[0, 0].tolist() == [[1, -1, 0], [2, 10, -10], [0, 20, 0]]
    # the window at the top left and ten times the one at the bottom right
    assert reference.weight_grad(planes(IMAGE), dy, problem)[0, 0].tolist() == [[1 + 10, 2 + 30], [0, 1 + 10]]


@pytest.mark.parametrize(
    ("boundary", "row"),
    [
        ("constant", [9, 9, 1, 2, 3, 9, 9]),
        ("edge", [1, 1, 1, 2, 3, 3, 3]),
        ("symmetric", [2, 1, 1, 2, 3, 3, 2]),
        ("reflect", [3, 2, 1, 2, 3, 2, 1]),
        ("wrap", [2, 3, 1, 2, 3, 1, 2]),
    ],
)
def test_boundaries_by_hand(boundary, row):
    problem = ConvProblem(1, 1, 1, 3, 1, 1, 1, padding=((0, 0), (2, 2)), boundary=boundary, cval=9)
    x = np.array([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
    assert reference.pad(x, problem).ravel().tolist() == row
    # the gradient gathers what was spread: with 10**i at padded position i, by inspection of the row
    dy = 10.0 ** np.arange(7).reshape(1, 1, 1, 7)
    expected = [sum(10**i for i in range(7) if row[i] == value) for value in (1, 2, 3)]
    assert reference.input_grad(dy, np.ones((1, 1, 1, 1)), problem).ravel().tolist() == expected


@pytest.mark.parametrize(("h", "w", "r", "s"), [(6, 7, 3, 2), (5, 5, 5, 1), (4, 9, 1, 4), (3, 3, 3, 3)])
def test_against_scipy(h, w, r, s):
    rng = np.random.default_rng(h)
    x, f = rng.integers(-5, 6, (2, 3, h, w)).astype(float), rng.integers(-5, 6, (4, 3, r, s)).astype(float)
    for pads, mode in [(((0, 0), (0, 0)), "valid"), (((r - 1, r - 1), (s - 1, s - 1)), "full")]:
        problem = ConvProblem(2, 3, h, w, 4, r, s, padding=pads)
        expected = [[sum(signal.correlate2d(n[c], k[c], mode) for c in range(3)) for k in f] for n in x]
        np.testing.assert_array_equal(reference.forward(x, f, problem), expected)
    problem = ConvProblem(2, 3, h, w, 4, r, s)
    dy = rng.integers(-5, 6, problem.y_shape).astype(float)
    expected = [[sum(signal.convolve2d(n[k], f[k, c], "full") for k in range(4)) for c in range(3)] for n in dy]
    np.testing.assert_array_equal(reference.input_grad(dy, f, problem), expected)
    expected = [
        [sum(signal.correlate2d(x[n, c], dy[n, k], "valid") for n in range(2)) for c in range(3)] for k in range(4)
    ]
    np.testing.assert_array_equal(reference.weight_grad(x, dy, problem), expected)


@pytest.mark.parametrize(("stride", "dilation"), [((2, 3), (1, 1)), ((1, 2), (3, 2)), ((3, 2), (2, 1))])
def test_stride_and_dilation_against_scipy(stride, dilation):
    """Strides leave out results; a dilated filter is one with zeros between its taps."""
    rng = np.random.default_rng(3)
    x, f = rng.integers(-5, 6, (1, 1, 11, 13)).astype(float), rng.integers(-5, 6, (1, 1, 3, 4)).astype(float)
    spread = np.zeros((2 * dilation[0] + 1, 3 * dilation[1] + 1))
    spread[:: dilation[0], :: dilation[1]] = f[0, 0]
    problem = ConvProblem(1, 1, 11, 13, 1, 3, 4, stride=stride, dilation=dilation)
    expected = signal.correlate2d(x[0, 0], spread, "valid")[:: stride[0], :: stride[1]]
    np.testing.assert_array_equal(reference.forward(x, f, problem)[0, 0], expected)


def test_integers_are_modulo_two_to_the_64th():
    problem = ConvProblem(1, 1, 1, 1, 1, 1, 1, dtype="int64")
    x, w = (np.array(v, np.int64).reshape(1, 1, 1, 1).view(np.uint64) for v in (-3, 5))
    assert reference.forward(x, w, problem).view(np.int64).item() == -15


# --- pooling ---------------------------------------------------------------------------------------


def test_max_pooling_by_hand():
    x = planes([[-5, -1, -7], [-2, -1, -9]])
    y, indices = reference.max_pool(x, PoolProblem(1, 1, 2, 3, 2, 2, (1, 1)))
    assert y.ravel().tolist() == [-1, -1]
    assert indices.ravel().tolist() == [1, 1]  # the first of equals
    padded = PoolProblem(1, 1, 2, 3, 2, 2, (2, 2), ((1, 0), (1, 0)))
    y, indices = reference.max_pool(x, padded)
    assert y.ravel().tolist() == [-5, -1]  # padding never wins
    assert indices.ravel().tolist() == [0, 1]
    x[0, 0, 1, 0] = np.nan
    y, indices = reference.max_pool(x, PoolProblem(1, 1, 2, 3, 2, 2, (1, 1)))
    assert np.isnan(y[0, 0, 0, 0])
    assert indices.ravel().tolist() == [3, 1]
    overlapping = PoolProblem(1, 1, 2, 3, 2, 2, (1, 1))
    dx = reference.max_pool_grad(planes([[1, 10]]), np.array([[[[1, 1]]]]), overlapping)
    assert dx[0, 0].tolist() == [[0, 11, 0], [0, 0, 0]]
    assert reference.max_unpool(planes([[1, 10]]), np.array([[[[4, 4]]]]), (1, 1, 2, 3))[0, 0].tolist() == [
        [0, 0, 0],
        [0, 10, 0],
    ]


def test_average_pooling_by_hand():
    x = planes([[1, 2, 3], [4, 5, 6]])
    problem = PoolProblem(1, 1, 2, 3, 2, 2, (2, 2), ((0, 0), (1, 0)))
    assert reference.avg_pool(x, problem)[0, 0].tolist() == [[5 / 4, 4]]
    assert reference.avg_pool(x, problem, count_include_pad=False)[0, 0].tolist() == [[5 / 2, 4]]
    assert reference.avg_pool(x, problem, divisor=2)[0, 0].tolist() == [[5 / 2, 8]]
    dx = reference.avg_pool_grad(planes([[4, 8]]), problem)
    assert dx[0, 0].tolist() == [[1, 2, 2], [1, 2, 2]]
    dx = reference.avg_pool_grad(planes([[4, 8]]), problem, count_include_pad=False)
    assert dx[0, 0].tolist() == [[2, 2, 2], [2, 2, 2]]
