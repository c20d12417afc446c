"""What is easy to get wrong in convolution, gradients, windows and pooling; each test names what is right."""

import numpy as np
import pytest

import fastconv as fc

METHODS = [m for m in fc.METHODS if m not in ("winograd", "fft", "separable")]
every_method = pytest.mark.parametrize("method", METHODS)
rng = np.random.default_rng(0)


def integers(*shape):
    return rng.integers(-4, 5, shape).astype(float)


# --- forward ---------------------------------------------------------------------------------------


@every_method
def test_last_window_is_kept(method):
    """A window that ends exactly at the last pixel counts, with stride and padding too."""
    x = np.zeros((1, 1, 5, 5))
    x[..., -1, -1] = 1
    for stride, padding, extent in [(1, 0, 3), (2, 0, 2), (1, 1, 5), (2, 1, 3)]:
        y = fc.conv2d(x, np.ones((1, 1, 3, 3)), stride=stride, padding=padding, method=method)
        assert y.shape == (1, 1, extent, extent)
        assert y[0, 0, -1, -1] == 1
    assert fc.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)), method=method).tolist() == [[[[9]]]]


@every_method
def test_every_channel_and_filter_counts(method):
    x = np.array([1.0, 10.0, 100.0]).reshape(1, 3, 1, 1) * np.ones((2, 3, 4, 4))
    w = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).reshape(2, 3, 1, 1)
    y = fc.conv2d(x, w, [0.5, 0.25], method=method)
    assert (y[:, 0] == 321.5).all()
    assert (y[:, 1] == 654.25).all()


@every_method
def test_bias_is_one_number_for_each_filter(method):
    """It does not depend on the image's size."""
    w, bias = np.zeros((3, 1, 3, 3)), np.array([1.0, -2.0, 3.0])
    for extent in (3, 5, 17):
        y = fc.conv2d(np.ones((2, 1, extent, extent)), w, bias, method=method)
        assert (y == bias[:, None, None]).all()


@every_method
@pytest.mark.parametrize(("r", "s"), [(2, 2), (4, 2), (2, 3), (3, 3), (6, 5)])
def test_same_pads_even_kernels_by_the_rule(method, r, s):
    """The output extent is the input's; the odd pixel comes after, or before with "same_lower"."""
    x, w = integers(1, 1, 7, 8), integers(1, 1, r, s)
    for padding in ("same", "same_lower"):
        before = [(n - 1) // 2 if padding == "same" else n // 2 for n in (r, s)]
        pads = [(b, n - 1 - b) for b, n in zip(before, (r, s), strict=True)]
        y = fc.conv2d(x, w, padding=padding, method=method)
        assert y.shape == x.shape
        np.testing.assert_array_equal(y, fc.conv2d(np.pad(x, ((0, 0), (0, 0), *pads)), w, method=method))


@every_method
def test_mean_filter_averages_the_neighbours(method):
    x = np.zeros((1, 1, 6, 6))
    x[0, 0, 2, 3] = 9
    y = fc.conv2d(x, np.full((1, 1, 3, 3), 1 / 9), padding="same", method=method)
    expected = np.zeros((6, 6))
    expected[1:4, 2:5] = 1
    np.testing.assert_allclose(y[0, 0], expected, atol=1e-15)


@every_method
def test_strides_leave_no_holes(method):
    """Every element of the smaller result is a window's sum."""
    x = np.arange(1.0, 50.0).reshape(1, 1, 7, 7)
    y = fc.conv2d(x, np.ones((1, 1, 1, 1)), stride=3, method=method)
    np.testing.assert_array_equal(y[0, 0], x[0, 0, ::3, ::3])


@every_method
def test_asymmetric_kernels_and_strides(method):
    x, w = integers(2, 2, 9, 8), integers(3, 2, 7, 1)
    y = fc.conv2d(x, w, stride=(2, 3), method=method)
    assert y.shape == (2, 3, 2, 3)
    expected = [[[[(x[n, :, 2 * p : 2 * p + 7, 3 * q] * w[k, :, :, 0]).sum() for q in range(3)] for p in range(2)]
                 for k in range(3)] for n in range(2)]  # fmt: skip
    np.testing.assert_array_equal(y, expected)


@every_method
@pytest.mark.parametrize("padding", [0, 1, (2, 0), ((1, 0), (0, 3)), "valid", "same", "full"])
def test_any_padding_works_forward_and_backward(method, padding):
    x, w = integers(1, 2, 5, 6), integers(2, 2, 3, 3)
    y = fc.conv2d(x, w, padding=padding, method=method)
    dx, dw, _ = fc.conv2d_backward(y, x, w, padding=padding, method=method)
    assert (y * y).sum() == (x * dx).sum() == (w * dw).sum()


# --- gradients -------------------------------------------------------------------------------------


@every_method
def test_input_gradient_is_cropped_to_the_image(method):
    dy = integers(1, 1, 5, 5)
    w = integers(1, 1, 3, 3)
    dx = fc.conv2d_input_grad(dy, w, (1, 1, 5, 5), padding=1, method=method)
    whole = fc.conv2d_input_grad(dy, w, (1, 1, 7, 7), method=method)
    np.testing.assert_array_equal(dx, whole[:, :, 1:-1, 1:-1])


@every_method
def test_input_gradient_is_centred_under_the_window(method):
    """One dy spreads the filter, not turned, over the very pixels it came from."""
    w = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    dy = np.zeros((1, 1, 4, 4))
    dy[0, 0, 1, 2] = 1
    expected = np.zeros((6, 6))
    expected[1:4, 2:5] = w[0, 0]
    np.testing.assert_array_equal(fc.conv2d_input_grad(dy, w, (1, 1, 6, 6), method=method)[0, 0], expected)


@every_method
def test_weight_gradient_is_summed_over_positions_and_samples(method):
    x, dy = integers(3, 2, 6, 5), integers(3, 4, 4, 3)
    dw = fc.conv2d_weight_grad(x, dy, (4, 2, 3, 3), method=method)
    for k, c, r, s in np.ndindex(dw.shape):
        assert dw[k, c, r, s] == (x[:, c, r : r + 4, s : s + 3] * dy[:, k]).sum()


@every_method
def test_weight_gradient_of_a_batch_is_the_sum_of_its_samples(method):
    x, dy = integers(5, 2, 6, 5), integers(5, 4, 3, 3)
    options = {"stride": (2, 1), "padding": ((1, 0), (0, 0)), "method": method}
    together = fc.conv2d_weight_grad(x, dy, (4, 2, 3, 3), **options)
    alone = [fc.conv2d_weight_grad(x[n : n + 1], dy[n : n + 1], (4, 2, 3, 3), **options) for n in range(5)]
    np.testing.assert_array_equal(together, sum(alone))
    shuffled = fc.conv2d_weight_grad(x[::-1], dy[::-1], (4, 2, 3, 3), **options)
    np.testing.assert_array_equal(together, shuffled)


@every_method
@pytest.mark.parametrize("stride", [2, 3, (3, 1), 4, 5])
@pytest.mark.parametrize("extent", [7, 8, 9, 10])
def test_backward_shapes_at_any_stride(method, stride, extent):
    """Those of the operands, whether or not the stride divides the extent; strides of 3 and more too."""
    x, w = integers(2, 3, extent, extent + 1), integers(4, 3, 3, 2)
    y = fc.conv2d(x, w, stride=stride, padding=1, method=method)
    dx, dw, db = fc.conv2d_backward(y, x, w, stride=stride, padding=1, method=method)
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    assert db.shape == (4,)
    assert (y * y).sum() == (x * dx).sum() == (w * dw).sum()


@every_method
def test_backward_has_the_scale_of_forward(method):
    x, w = np.ones((1, 1, 4, 4)), np.ones((1, 1, 2, 2))
    step = fc.conv2d(2 * x, w, method=method) - fc.conv2d(x, w, method=method)
    assert step.sum() == (x * fc.conv2d_input_grad(np.ones((1, 1, 3, 3)), w, x.shape, method=method)).sum()


def test_bias_gradient_is_the_sum_of_dy():
    dy = integers(3, 2, 4, 5)
    db = fc.conv2d_backward(dy, np.ones((3, 1, 4, 5)), np.ones((2, 1, 1, 1)))[2]
    np.testing.assert_array_equal(db, dy.sum(axis=(0, 2, 3)))


def test_operands_are_not_written_to():
    x, w, dy = integers(2, 3, 6, 6), integers(4, 3, 3, 3), integers(2, 4, 4, 4)
    copies = x.copy(), w.copy(), dy.copy()
    for method in METHODS:
        fc.conv2d(x, w, method=method)
        for _ in range(2):  # twice: nothing is added up in place
            fc.conv2d_backward(dy, x, w, method=method)
    for array, copy in zip((x, w, dy), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# --- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7])
def test_zero_insertion_at_any_stride(stride):
    x = np.arange(1.0, 13.0).reshape(1, 1, 3, 4)
    up = fc.upsample_zeros(x, stride)
    assert up.shape == (1, 1, 2 * stride + 1, 3 * stride + 1)
    np.testing.assert_array_equal(up[..., ::stride, ::stride], x)
    assert up.sum() == x.sum()


def test_windows_are_two_dimensional_and_complete():
    x = np.arange(30.0).reshape(5, 6)
    windows = fc.extract_windows(x, (2, 3))
    assert windows.shape == (4, 4, 2, 3)
    assert windows[-1, -1].tolist() == [[21, 22, 23], [27, 28, 29]]
    columns = fc.im2col(x[None, None], (2, 3))
    np.testing.assert_array_equal(columns[0].T.reshape(4, 4, 2, 3), windows)


def test_columns_of_different_samples_do_not_mix():
    x, w, dy = integers(3, 2, 5, 5), integers(4, 2, 3, 3), integers(3, 4, 3, 3)
    columns = fc.im2col(x, 3)
    np.testing.assert_array_equal((w.reshape(4, -1) @ columns).reshape(3, 4, 3, 3), fc.conv2d(x, w, method="direct"))
    dw = sum(dy[n].reshape(4, -1) @ columns[n].T for n in range(3)).reshape(w.shape)
    np.testing.assert_array_equal(dw, fc.conv2d_weight_grad(x, dy, w.shape, method="direct"))
    dx = fc.col2im(w.reshape(4, -1).T @ dy.reshape(3, 4, -1), x.shape, 3)
    np.testing.assert_array_equal(dx, fc.conv2d_input_grad(dy, w, x.shape, method="direct"))


# --- pooling ---------------------------------------------------------------------------------------


def test_padding_does_not_beat_negative_values():
    y, indices = fc.max_pool2d(np.full((1, 1, 3, 3), -5.0), 3, stride=2, padding=1, return_indices=True)
    assert (y == -5).all()
    assert indices[0, 0].tolist() == [[0, 1], [3, 4]]


def test_pooling_windows_may_be_oblong():
    """On a square image too; and the last window is kept."""
    x = np.arange(36.0).reshape(1, 1, 6, 6)
    assert fc.max_pool2d(x, (3, 2))[0, 0].tolist() == [[13, 15, 17], [31, 33, 35]]
    assert fc.avg_pool2d(x, (1, 6))[0, 0].tolist() == [[2.5 + 6 * i] for i in range(6)]
    assert fc.max_pool2d(x, (2, 3), stride=(4, 3)).shape == (1, 1, 2, 2)


def test_a_tie_sends_its_gradient_to_one_pixel():
    y, indices = fc.max_pool2d(np.ones((1, 1, 4, 4)), 2, return_indices=True)
    dx = fc.max_pool2d_grad(np.ones_like(y), indices, (1, 1, 4, 4))
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(dx[0, 0], expected)


def test_overlapping_pooling_windows_add_their_gradients():
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 1
    _, indices = fc.max_pool2d(x, 2, stride=1, return_indices=True)
    dx = fc.max_pool2d_grad(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), indices, x.shape)
    assert dx[0, 0].tolist() == [[0, 0, 0], [0, 10, 0], [0, 0, 0]]
    dx = fc.avg_pool2d_grad(np.full((1, 1, 2, 2), 4.0), x.shape, 2, stride=1)
    assert dx[0, 0].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_pooling_gradients_follow_the_stride_and_the_shape_of_the_image():
    dx = fc.avg_pool2d_grad(np.array([[[[4.0, 8.0]]]]), (1, 1, 3, 7), 2, stride=(2, 4))
    assert dx[0, 0].tolist() == [[1, 1, 0, 0, 2, 2, 0], [1, 1, 0, 0, 2, 2, 0], [0] * 7]
    x = integers(1, 2, 7, 7)
    y, indices = fc.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
    dx = fc.max_pool2d_grad(np.ones_like(y), indices, x.shape)
    assert dx.shape == x.shape  # not that of the padded image
    assert dx.sum() == y.size
