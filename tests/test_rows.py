"""The direct method where each output channel sees one input channel: src_cython/rows.pyx, and its way there."""

from dataclasses import replace

import numpy as np
import pytest
from convolutions import DIRECTIONS, call, check_direct, small_integers

import fastconv as fc
from fastconv import machine, reference
from fastconv.algorithms import common, direct, rows
from fastconv.boundary import BOUNDARIES, boundary_edges, boundary_index
from fastconv.problem import ConvProblem


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 11])
def test_every_chunk_of_taps(size, direction, isa):
    for height, width in [(size, 3), (3, size), (size, size)]:
        problem = ConvProblem(2, 3, 13, 21, 3, height, width, padding=((1, 2), (2, 1)), groups=3)
        check_direct(problem, direction)
        check_direct(replace(problem, stride=(2, 2)), direction)
        check_direct(replace(problem, stride=(1, 2), dilation=(2, 1), padding=((9, 9), (2, 2))), direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("channels", [1, 3, 8, 20, 33, 64])
def test_channels_side_by_side(channels, direction, isa):
    """NHWC: slices of channels, the last of which may be short; rows that don't fill a tile."""
    for extents in [(1, 1), (5, 7), (8, 3), (14, 14)]:
        problem = ConvProblem(2, channels, *extents, channels, 3, 3, padding=((1, 1), (1, 1)), groups=channels,
                              layout="NHWC")  # fmt: skip
        for dtype in ("float32", "float64", "int64", "uint8"):
            check_direct(problem, direction, dtype, small_integers(problem, 0 if dtype == "uint8" else -3))
        check_direct(replace(problem, stride=(2, 1), boundary="wrap"), direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("width", [5, 15, 16, 17, 31, 33, 34, 70])
def test_every_second_column(width, direction, isa):
    """Picked or zipped in registers, with neighbouring columns of taps or others; or phases of a copy."""
    for size, dilation in [(2, 1), (3, 1), (5, 1), (3, 3), (7, 1)]:
        reach = dilation * (size - 1)
        problem = ConvProblem(
            2, 3, 11, width, 3, 3, size, stride=(2, 2), padding=((1, 1), (reach // 2 + 1, reach)),
            dilation=(1, dilation), groups=3,
        )  # fmt: skip
        for dtype in ("float32", "float64", "int64"):
            check_direct(problem, direction, dtype)
        check_direct(replace(problem, stride=(1, 2), boundary="edge"), direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_several_filters_a_channel(direction, isa):
    check_direct(ConvProblem(2, 3, 9, 10, 6, 3, 2, padding=((1, 0), (0, 1)), groups=3), direction)
    check_direct(ConvProblem(2, 6, 9, 10, 3, 3, 2, padding=((1, 0), (0, 1)), groups=3), direction)
    assert rows.serves(ConvProblem(1, 6, 9, 9, 3, 3, 3, groups=3, direction="input_grad"))
    assert not rows.serves(ConvProblem(1, 6, 9, 9, 3, 3, 3, groups=3))


@pytest.mark.parametrize("width", [1, 7, 8, 9, 15, 16, 17, 40])
def test_what_lies_beyond_an_edge(width, isa):
    """Zeros are masked, all else is copied; neither lets a NaN of the next row in, or one at the edge out."""
    x = np.full((3, 4, 6, width), np.nan, np.float32)
    x[1, 2] = 1.0
    for boundary in BOUNDARIES:
        problem = ConvProblem(3, 4, 6, width, 4, 3, 3, padding=((1, 1), (1, 1)), groups=4, boundary=boundary)
        w = np.ones(problem.w_shape, np.float32)
        y = call(problem, "forward", {"x": x, "w": w}, "direct")
        assert np.isnan(np.delete(y.reshape(12, -1), 6, axis=0)).all()
        counts = reference.forward(x[1:2, 2:3], w[:1], replace(problem, N=1, C=1, K=1, groups=1))
        np.testing.assert_array_equal(y[1, 2], counts[0, 0])
        ones = np.ones(problem.y_shape, np.float32)
        dw = call(problem, "weight_grad", {"x": x, "dy": ones}, "direct")
        np.testing.assert_array_equal(dw, reference.weight_grad(x, ones, problem))
        zero_rest = np.zeros(problem.y_shape, np.float32)
        zero_rest[1, 2] = 1.0
        only = replace(problem, N=1, C=1, K=1, groups=1)
        alone = call(only, "weight_grad", {"x": x[1:2, 2:3], "dy": zero_rest[1:2, 2:3]}, "direct")
        np.testing.assert_array_equal(alone, reference.weight_grad(x[1:2, 2:3], zero_rest[1:2, 2:3], only))


def test_infinite_weights_meet_nothing_beyond_dy(isa):
    problem = ConvProblem(1, 2, 6, 6, 2, 3, 3, padding=((1, 1), (1, 1)), groups=2)
    dy, w = np.ones((1, 2, 6, 6), np.float32), np.ones((2, 1, 3, 3), np.float32)
    w[1, 0, 0, 0] = np.inf
    dx = call(problem, "input_grad", {"dy": dy, "w": w}, "direct")
    np.testing.assert_array_equal(dx, reference.input_grad(dy, w, problem))
    assert not np.isnan(dx).any()


@pytest.mark.parametrize("dtype", common.KINDS)
@pytest.mark.parametrize("result", ["float32", "float64", None])
def test_images_of_integers_are_converted_in_passing(dtype, result, isa):
    rng = np.random.default_rng(0)
    for shape in [(3, 3), (21, 40), (40, 1, 37)]:
        image = rng.integers(0, 100, shape).astype(dtype)
        kernel = rng.integers(-3, 4, (3, 3)).astype("int16" if result is None else result)
        for source in (image, image[..., ::-1, ::2], np.asfortranarray(image)):
            for options in ({}, {"boundary": "reflect"}, {"stride": 2, "cval": 7}):
                y = fc.correlate2d(source, kernel, method="direct", dtype=result, **options)
                exact = fc.correlate2d(source.astype(np.int64), kernel.astype(np.int64), method="naive", **options)
                assert y.dtype == (result or "int64")
                np.testing.assert_array_equal(y, exact)


def test_no_copy_of_a_converted_image(monkeypatch):
    def refuse(array, dtype):
        assert array.size < 100
        return array.astype(dtype)

    monkeypatch.setattr("fastconv.ops.arguments.normal", refuse)
    image, kernel = np.ones((50, 60), np.uint8), np.ones((3, 3), np.float32)
    assert fc.correlate2d(image, kernel, method="direct", dtype="float32")[1, 1] == 9
    assert fc.correlate2d(image, kernel.astype(int), method="direct")[1, 1] == 9
    assert fc.correlate2d(image > 0, kernel.astype(int), method="direct")[1, 1] == 9


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (0, 2)])
def test_photos(axes, isa):
    """Channels between the pixels are a longer line with the same weights."""
    image = np.random.default_rng(0).integers(-4, 5, (19, 23, 3)).astype(np.float32)
    kernel = np.arange(-4, 5, dtype=np.float32).reshape(3, 3)
    planes = np.moveaxis(image, axes, (-2, -1))
    for options in ({}, {"stride": 2}, {"boundary": "edge", "dilation": 2}):
        y = fc.correlate2d(image, kernel, axes=axes, method="direct", **options)
        expected = np.stack([fc.correlate2d(plane, kernel, method="naive", **options) for plane in planes])
        np.testing.assert_array_equal(np.moveaxis(y, axes, (-2, -1)), expected)
        dx = fc.correlate2d_input_grad(y, kernel, image.shape, axes=axes, method="direct", **options)
        other = fc.correlate2d_input_grad(y, kernel, image.shape, axes=axes, method="naive", **options)
        np.testing.assert_array_equal(dx, other)
        dw = fc.correlate2d_kernel_grad(image, y, (3, 3), axes=axes, method="direct", **options)
        np.testing.assert_array_equal(
            dw, fc.correlate2d_kernel_grad(image, y, (3, 3), axes=axes, method="naive", **options)
        )


@pytest.mark.parametrize("shape", [(5, 3000), (300, 257), (64, 2048)])
def test_blocks_of_large_images(shape, isa):
    """Lines that don't fit the copy are cut, and so are tall images."""
    image = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float64)
    for size in [(3, 3), (17, 2), (2, 33)]:
        kernel = np.random.default_rng(1).integers(-4, 5, size).astype(np.float64)
        for boundary in ("constant", "symmetric"):
            expected = fc.correlate2d(image, kernel, boundary=boundary, method="im2col")
            result = fc.correlate2d(image, kernel, boundary=boundary, method="direct", workers=2)
            np.testing.assert_array_equal(result, expected)
    wide = np.ones((2, 400_000), np.float32)
    assert fc.correlate2d(wide, np.ones((1, 3), np.float32), method="direct").sum() == 2 * (3 * 400_000 - 2)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("extent", "before", "after"), [(1, 0, 0), (1, 3, 4), (5, 2, 0), (4, 9, 11), (6, 1, -2)])
def test_edges_alone(boundary, extent, before, after):
    index = boundary_index(extent, before, after, boundary)
    edges = boundary_edges(extent, before, after, boundary)
    np.testing.assert_array_equal(edges, np.concatenate((index[:before], index[before + extent :])))


def test_scratch_and_tables_do_not_grow_with_the_image():
    small, large = (ConvProblem(1, 1, n, 2000, 1, 3, 3, padding=((1, 1), (1, 1))) for n in (100, 10**6))
    assert direct.cost(large, machine.ISA).worker == direct.cost(small, machine.ISA).worker < 1 << 20
    edges = rows.Tables(replace(large, boundary="reflect"), machine.ISA).edges
    assert edges[0].size == edges[1].size == 2
