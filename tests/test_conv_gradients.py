"""Gradients: adjoint to the convolution, exactly; conv2d_backward; the shapes and places that are easy to get wrong."""

from dataclasses import replace

import numpy as np
import pytest
from convolutions import DIRECTIONS, EXACT, PROBLEMS, call, layout_of, operands, options, problem_params, truth

import fastconv as fc


@pytest.mark.parametrize("problem", problem_params())
def test_adjoint_identities(problem):
    """<conv(x), dy> = <x, dx> = <w, dw>, exactly on integers (with a constant of 0)."""
    problem = replace(problem, layout="NCHW", cval=0)
    data = {name: operands(problem)[name] for name in ("x", "w", "dy")}
    y, dx, dw = (call(problem, direction, data) for direction in DIRECTIONS)
    inner = (y * data["dy"]).sum()
    assert (data["x"] * dx).sum() == inner
    assert (data["w"] * dw).sum() == inner


@pytest.mark.parametrize("problem", problem_params("edge", "reflect at stride 2", "depthwise", "two groups"))
def test_difference_quotients(problem):
    """The convolution is bilinear: gradients are its differences by one element, exactly."""
    data = {name: operands(problem)[name].astype(float) for name in ("x", "w", "dy")}
    dx, dw = (call(problem, direction, data) for direction in DIRECTIONS[1:])
    rng = np.random.default_rng(0)
    for name, gradient in (("x", dx), ("w", dw)):
        for index in rng.integers(0, data[name].size, 10):
            moved = data[name].copy()
            moved.flat[index] += 1
            change = call(problem, "forward", data | {name: moved}) - call(problem, "forward", data)
            assert (change * data["dy"]).sum() == gradient.flat[index]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("method", ["auto", *EXACT])
def test_backward(layout, method):
    for name in ("two groups", "reflect at stride 2", "pixels between windows"):
        problem = replace(PROBLEMS[name], layout=layout)
        plain = replace(problem, layout="NCHW")
        data = {key: array.astype(np.float64) for key, array in operands(plain).items()}
        dy, x = (layout_of(data[key], layout) for key in ("dy", "x"))
        expected = (
            layout_of(truth(plain, "input_grad"), layout), truth(plain, "weight_grad"), data["dy"].sum(axis=(0, 2, 3)),
        )  # fmt: skip
        for needs in np.ndindex(2, 2, 2):
            wants = tuple(map(bool, needs))
            results = fc.conv2d_backward(dy, x, data["w"], needs=wants, **options(problem, method=method))
            for result, right, want in zip(results, expected, wants, strict=True):
                assert (result is not None) == want
                if want:
                    assert result.dtype == np.float64
                    np.testing.assert_allclose(result, right, rtol=0, atol=1e-9 if method == "auto" else 0)


def test_bias_gradient():
    dy = np.full((2, 3, 40, 40), 0.1, np.float16)
    x, w = np.zeros((2, 1, 40, 40), np.float16), np.zeros((3, 1, 1, 1), np.float16)
    db = fc.conv2d_backward(dy, x, w)[2]
    assert db.dtype == np.float16
    assert (db == np.float16(3200 * float(np.float16(0.1)))).all()  # added up in a wider type
    db = fc.conv2d_backward(dy.astype(np.float32), x, w, dtype="float64")[2]
    assert db.dtype == np.float64
    db = fc.conv2d_backward(np.full((1, 1, 2, 2), 200, np.uint8), np.zeros((1, 1, 2, 2), int), [[[[1]]]])[2]
    assert db.dtype == np.int64
    assert db.tolist() == [800]
    db = fc.conv2d_backward(np.full((1, 1, 2, 2), 200.0), np.zeros((1, 1, 2, 2)), [[[[1.0]]]], dtype="uint8",
                            overflow="saturate")[2]  # fmt: skip
    assert db.dtype == np.uint8
    assert db.tolist() == [255]
    db = fc.conv2d_backward(np.array([[[[np.inf, -np.inf]]], [[[1.0, 2.0]]]]), np.zeros((2, 1, 1, 2)), [[[[1.0]]]])[2]
    assert np.isnan(db).all()


def test_backward_refusals():
    dy, x, w = np.ones((1, 4, 6, 6)), np.ones((1, 3, 8, 8)), np.ones((4, 3, 3, 3))
    for needs in [True, (True, True), (True, True, True, True), (1, 1, 1), None, "yes"]:
        with pytest.raises(TypeError, match="needs"):
            fc.conv2d_backward(dy, x, w, needs=needs)
    with pytest.raises(TypeError, match="out"):
        fc.conv2d_backward(dy, x, w, out=np.empty_like(x))
    with pytest.raises(TypeError, match="unexpected keyword argument 'strides'"):
        fc.conv2d_backward(dy, x, w, strides=2)
    for needs in [(True, False, False), (False, True, False), (False, False, True), (False, False, False)]:
        with pytest.raises(fc.ShapeError, match="dy: got shape"):
            fc.conv2d_backward(dy, x, w, stride=2, needs=needs)
        with pytest.raises(fc.ShapeError):
            fc.conv2d_backward(dy, x[:, :2], w, needs=needs)


def test_input_gradient_where_no_window_reaches():
    """Exact zeros, in a fresh result and in an ``out`` that held something else."""
    for method in ("direct", "im2col"):
        out = np.full((1, 1, 8, 8), np.nan)
        dx = fc.conv2d_input_grad(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)), (1, 1, 8, 8), stride=4, method=method,
                                  out=out)  # fmt: skip
        reached = np.zeros((8, 8))
        for corner in np.ndindex(2, 2):
            h, w = 4 * corner[0], 4 * corner[1]
            reached[h : h + 2, w : w + 2] = 1
        np.testing.assert_array_equal(dx[0, 0], reached)


def test_gradients_do_not_depend_on_the_constant():
    rng = np.random.default_rng(0)
    dy, w = rng.integers(-3, 4, (1, 2, 5, 5)), rng.integers(-3, 4, (2, 3, 3, 3))
    plain = fc.conv2d_input_grad(dy, w, (1, 3, 5, 5), padding=1)
    np.testing.assert_array_equal(fc.conv2d_input_grad(dy, w, (1, 3, 5, 5), padding=1, cval=7), plain)
    x = rng.integers(-3, 4, (1, 3, 5, 5))  # the filters do meet the constant
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=7)
    expected = fc.conv2d_weight_grad(padded, dy, w.shape)
    np.testing.assert_array_equal(fc.conv2d_weight_grad(x, dy, w.shape, padding=1, cval=7), expected)
