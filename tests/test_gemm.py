"""What is special about the gemm method: tile remainders, both orientations, patches over samples, odd weights."""

import numpy as np
import pytest

import fastconv as fc
from fastconv import machine
from fastconv.algorithms import gemm

rng = np.random.default_rng(5)


def integers(*shape, dtype="float32"):
    return rng.integers(-4, 5, shape).astype(dtype)


def check(x, w, bias=None, **options):
    """All directions equal the reference on small integers, whatever the instruction set and the workers."""
    for isa in machine.ISAS:
        for workers in (1, 3):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(machine, "ISA", isa)
                patch.setattr(machine, "PARALLEL_SECONDS", 0)
                fc.clear_caches()
                y, same = (fc.conv2d(x, w, bias, method=m, workers=workers, **options) for m in ("gemm", "naive"))
                np.testing.assert_array_equal(y, same)
                dy = integers(*y.shape, dtype=x.dtype)
                for gradient, args in (
                    (fc.conv2d_input_grad, (dy, w, x.shape)),
                    (fc.conv2d_weight_grad, (x, dy, w.shape)),
                ):
                    got, want = (gradient(*args, method=m, workers=workers, **options) for m in ("gemm", "naive"))
                    np.testing.assert_array_equal(got, want)
    fc.clear_caches()


@pytest.mark.parametrize("filters", [1, 5, 6, 7, 13, 14, 15, 29])
@pytest.mark.parametrize("width", [1, 8, 15, 16, 17, 33])
def test_tile_remainders(filters, width):
    check(integers(1, 3, 1, width), integers(filters, 3, 1, 1), integers(filters))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_several_depth_blocks(dtype):
    check(integers(1, 90, 4, 4, dtype=dtype), integers(3, 90, 3, 3, dtype=dtype), padding=1)


@pytest.mark.parametrize("size", [3, 7, 9])
def test_1x1_by_filters_and_by_pixels(size):
    check(integers(1, 20, size, size), integers(40, 20, 1, 1), integers(40))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_panels_over_several_samples(stride, dilation):
    check(integers(5, 4, 5, 4), integers(6, 2, 3, 2), padding=2, stride=stride, dilation=dilation, groups=2)


@pytest.mark.parametrize("kernel", [1, 3])
def test_channels_last(kernel):
    check(integers(2, 6, 5, 9), integers(17, 9, kernel, kernel), integers(17), padding=kernel // 2, layout="NHWC")


def test_patches_of_few_channels(monkeypatch):
    monkeypatch.setattr("fastconv.algorithms.gemm.PATCH_BYTES", 64)
    check(integers(2, 5, 9, 7), integers(4, 5, 3, 3), padding=1, stride=2)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_sample_alone_has_the_bytes_it_has_in_a_batch(kernel):
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((6, 30, 5, 5), (20, 30, kernel, kernel)))
    whole = fc.conv2d(x, w, padding=kernel // 2, method="gemm")
    for n in range(6):
        alone = fc.conv2d(x[n : n + 1], w, padding=kernel // 2, method="gemm")
        np.testing.assert_array_equal(whole[n], alone[0])


@pytest.fixture
def by_pixels(monkeypatch):
    """Windows are the rows of every product."""
    monkeypatch.setattr(gemm, "_best_product", lambda p, turned, kernel: gemm._product(p, True, turned, kernel))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (3, 3), (5, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_runs_of_channels(by_pixels, dtype, kernel, stride):
    x, w = integers(2, 38, 9, 8, dtype=dtype), integers(22, 19, *kernel, dtype=dtype)
    check(x, w, padding=1, stride=stride, groups=2)


@pytest.mark.parametrize("boundary", ["wrap", "reflect", "nearest"])
def test_runs_of_channels_beyond_the_edge(by_pixels, boundary):
    check(integers(1, 17, 6, 7), integers(9, 17, 3, 3), padding=2, boundary=boundary)


@pytest.mark.parametrize("channels", [16, 17, 130, 1030])
def test_runs_of_channels_in_several_blocks(by_pixels, channels):
    check(integers(1, channels, 4, 5), integers(7, channels, 3, 3), padding=(0, 1))


def test_long_rows_of_pixels(by_pixels):
    check(integers(1, 16, 2, 150), integers(5, 16, 1, 3), padding=(0, 1))


@pytest.mark.parametrize("stride", [1, 2])
def test_runs_of_channels_of_any_strides(by_pixels, stride):
    x, w = integers(2, 17, 16, 7), integers(16, 9, 3, 6)
    check(x.transpose(0, 2, 1, 3), w.transpose(0, 2, 1, 3)[:, :, ::-1].repeat(6, 1)[:, :16], padding=1, stride=stride)
    check(integers(1, 16, 7, 6), np.broadcast_to(integers(16, 1, 1, 3), (16, 16, 3, 3)), padding=1, stride=stride)
    check(integers(1, 16, 7, 6), integers(16, 16, 6, 6)[:, :, ::2, ::-2], padding=1, stride=stride)


def test_strides_that_leave_as_many_pixels(by_pixels):
    check(integers(1, 16, 3, 3), integers(4, 16, 1, 1), stride=2, padding=((0, 2), (0, 2)))


@pytest.mark.parametrize("boundary", ["constant", "wrap"])
@pytest.mark.parametrize("stride", [1, 2])
def test_weights_that_are_not_finite_meet_no_padding(boundary, stride):
    w = integers(4, 3, 3, 3)
    w[0, 0, 0, 0], w[1, 2, 2, 1], w[3, 1, 1, 1] = np.inf, -np.inf, np.nan
    options = {"padding": 1, "stride": stride, "boundary": boundary}
    dy = integers(*fc.conv2d(integers(2, 3, 6, 5), w, method="naive", **options).shape)
    dy[0, 0, 1, 1], dy[1, 2, 0, 0] = -np.inf, np.nan
    with np.errstate(invalid="ignore"):
        got, want = (fc.conv2d_input_grad(dy, w, (2, 3, 6, 5), method=m, **options) for m in ("gemm", "naive"))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("stride", [1, 2])
def test_elements_between_those_of_out_are_left_alone(stride):
    x, w = integers(1, 4, 9, 40), integers(15, 4, 3, 3)
    y = fc.conv2d(x, w, stride=stride, method="gemm")
    room = np.full((*y.shape[:3], 2 * y.shape[3]), 7, np.float32)
    fc.conv2d(x, w, stride=stride, method="gemm", out=room[..., ::2])
    np.testing.assert_array_equal(room[..., ::2], y)
    assert (room[..., 1::2] == 7).all()


def test_packed_weights():
    x, w = integers(1, 4, 6, 6), integers(5, 4, 3, 3)
    for direction, a in (("forward", x), ("input_grad", integers(1, 5, 6, 6))):
        plan = fc.plan_conv2d(x.shape, w.shape, padding=1, direction=direction, method="gemm", workers=1)
        packed = plan.pack(w)
        np.testing.assert_array_equal(plan(a, packed), plan(a, w))
