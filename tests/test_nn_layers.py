"""Layers and losses: gradients against central differences, values worked by hand, clear refusals."""

import numpy as np
import pytest

import fastconv
from fastconv import ShapeError, nn

LAYOUTS = ("NCHW", "NHWC")


def numbers(shape, seed=0):
    """Apart from each other and from zero by more than the differences step: no kink, no tie."""
    order = np.random.default_rng(seed).permutation(int(np.prod(shape)))
    return ((order - len(order) / 2 + 0.3) * (3 / max(len(order), 1))).reshape(shape)


def slope(function, array, step=1e-5):
    """Central differences of a scalar function by every element of an array, which it reads live."""
    result = np.zeros(array.shape)
    for place in np.ndindex(array.shape):
        before = array[place]
        array[place] = before + step
        above = function()
        array[place] = before - step
        result[place] = (above - function()) / (2 * step)
        array[place] = before
    return result


def check_gradients(layer, x, training=True, seed=1):
    y = layer.forward(x, training)
    weights = np.random.default_rng(seed).normal(size=y.shape)

    def value():
        return float((layer.forward(x, training) * weights).sum())

    dx = layer.backward(weights)
    assert dx.shape == x.shape
    gradients = {name: g.copy() for name, g in layer.gradients().items()}
    assert gradients.keys() == layer.parameters().keys()
    np.testing.assert_allclose(dx, slope(value, x), rtol=2e-6, atol=1e-7)
    for name, parameter in layer.parameters().items():
        np.testing.assert_allclose(gradients[name], slope(value, parameter), rtol=2e-6, atol=1e-7, err_msg=name)


IMAGE_LAYERS = {
    "conv": lambda: nn.Conv2D(4, 3),
    "conv odd": lambda: nn.Conv2D(2, (3, 2), stride=(2, 1), padding=((0, 1), (2, 0)), dilation=(1, 2), groups=2),
    "conv wide stride": lambda: nn.Conv2D(2, 2, stride=3, padding="same"),
    "conv wrap": lambda: nn.Conv2D(2, 3, padding=2, boundary="wrap", use_bias=False),
    "conv cval": lambda: nn.Conv2D(2, 3, padding=1, cval=0.5),
    "transpose": lambda: nn.ConvTranspose2D(4, 3),
    "transpose odd": lambda: nn.ConvTranspose2D(
        2, (3, 2), stride=(3, 2), padding=((0, 1), (1, 0)), output_padding=(2, 1), groups=2
    ),
    "transpose dilated": lambda: nn.ConvTranspose2D(2, 2, dilation=3, output_padding=2, use_bias=False),
    "transpose same": lambda: nn.ConvTranspose2D(2, 2, stride=3, padding="same"),
    "transpose same lower": lambda: nn.ConvTranspose2D(2, 5, stride=2, padding="same_lower"),
    "transpose full": lambda: nn.ConvTranspose2D(2, 3, stride=2, padding="full"),
    "max pool": lambda: nn.MaxPool2D(2),
    "max pool overlapping": lambda: nn.MaxPool2D((3, 2), stride=(2, 1), padding=1, ceil_mode=True),
    "max pool dilated": lambda: nn.MaxPool2D(2, stride=2, dilation=2),
    "average pool": lambda: nn.AvgPool2D(2),
    "average pool overlapping": lambda: nn.AvgPool2D((2, 3), stride=(1, 2), padding=1, count_include_pad=False),
    "average pool divisor": lambda: nn.AvgPool2D(3, stride=2, ceil_mode=True, divisor=2.5),
    "global average": lambda: nn.GlobalAvgPool2D(),
    "flatten": lambda: nn.Flatten(),
    "reshape": lambda: nn.Reshape((-1, 2)),
    "batch norm": lambda: nn.BatchNorm2D(),
    "softmax": lambda: nn.Softmax(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_gradients_of_layers_on_images(name, layout):
    layer = IMAGE_LAYERS[name]()
    layer.layout, layer.generator = layout, np.random.default_rng(3)
    check_gradients(layer, numbers((2, 4, 5, 6) if layout == "NCHW" else (2, 5, 6, 4)))


def test_gradients_of_batch_norm_after_training():
    layer = nn.BatchNorm2D()
    layer.forward(numbers((3, 2, 2, 2)), training=True)
    check_gradients(layer, numbers((2, 2, 3, 3)), training=False)


ROW_LAYERS = {
    "dense": lambda: nn.Dense(4),
    "dense without bias": lambda: nn.Dense(1, use_bias=False),
    "relu": lambda: nn.ReLU(),
    "leaky relu": lambda: nn.LeakyReLU(0.1),
    "sigmoid": lambda: nn.Sigmoid(),
    "tanh": lambda: nn.Tanh(),
    "softmax": lambda: nn.Softmax(),
    "identity": lambda: nn.Identity(),
    "activation": lambda: nn.Activation(np.sin, np.cos),
    "dropout outside training": lambda: nn.Dropout(0.4),
}


@pytest.mark.parametrize("name", ROW_LAYERS)
def test_gradients_of_layers_on_rows(name):
    check_gradients(ROW_LAYERS[name](), numbers((5, 3)), training=name != "dropout outside training")


LOSSES = {
    "squares": (nn.MeanSquaredError(), numbers((4, 3)), numbers((4, 3), 5)),
    "squares of images": (nn.MeanSquaredError(), numbers((2, 1, 3, 3)), numbers((2, 1, 3, 3), 5)),
    "binary": (nn.BinaryCrossEntropy(), np.array([[0.2], [0.9], [0.5]]), np.array([0, 1, 0.3])),
    "binary, columns": (nn.BinaryCrossEntropy(), np.array([[0.2, 0.7], [0.9, 0.1]]), np.array([[1, 0], [1, 1]])),
    "classes": (nn.CrossEntropy(), numbers((4, 3)), np.array([0, 2, 1, 1])),
    "distributions": (nn.CrossEntropy(), numbers((2, 3)), np.array([[0.2, 0.3, 0.5], [1, 0, 0]])),
    "weights": (nn.CrossEntropy(), numbers((2, 3)), np.array([[0.2, 0.3, 0.1], [2, 0, 0]])),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_losses(name):
    loss, predicted, target = LOSSES[name]
    value, gradient = loss(predicted, target)
    assert isinstance(value, float)
    assert gradient.shape == predicted.shape
    predicted = predicted.copy()
    np.testing.assert_allclose(gradient, slope(lambda: loss(predicted, target)[0], predicted), rtol=1e-6, atol=1e-8)


def test_gradient_of_binary_cross_entropy_through_the_sigmoid():
    logits, target = numbers((4, 1)), np.array([0, 1, 0.25, 1])
    loss = nn.BinaryCrossEntropy()
    value, gradient = loss.on_logits(logits, target)
    assert value == pytest.approx(loss(nn.Sigmoid().forward(logits), target)[0], rel=1e-12)
    np.testing.assert_allclose(gradient, slope(lambda: loss.on_logits(logits, target)[0], logits), rtol=1e-6)


# --- values by hand ---


def test_losses_are_means_over_samples_or_elements():
    assert nn.MeanSquaredError()([[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]])[0] == 2.5
    assert nn.BinaryCrossEntropy()([[0.5, 0.5], [0.5, 0.5]], [[1, 0], [1, 1]])[0] == pytest.approx(2 * np.log(2))
    assert nn.CrossEntropy()(np.zeros((7, 4)), np.arange(7) % 4)[0] == pytest.approx(np.log(4))


def test_losses_far_out_stay_finite():
    value, gradient = nn.CrossEntropy()(np.array([[1e4, 0, -np.inf]], np.float32), [1])
    assert value == 1e4
    assert gradient.tolist() == [[1, -1, 0]]
    for predicted in (0.0, 1.0):
        value, gradient = nn.BinaryCrossEntropy()(np.float32([[predicted]]), [[1 - predicted]])
        assert value == 100
        assert np.isfinite(gradient).all()
        assert np.sign(gradient) == np.sign(predicted - 0.5)
    assert nn.BinaryCrossEntropy().on_logits([[-1e4], [1e4]], [1, 1])[0] == 5e3


def test_activations_far_out():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert nn.Sigmoid().forward(np.float64([-1e4, 0, 1e4])).tolist() == [0, 0.5, 1]
        assert nn.Softmax().forward(np.float32([[1e4, 1e4, -1e4]])).tolist() == [[0.5, 0.5, 0]]


def test_softmax_slope_is_the_whole_jacobian():
    layer = nn.Softmax()
    y = layer.forward([[0.1, 0.7, -0.3]])[0]
    jacobian = np.diag(y) - np.outer(y, y)
    rows = [layer.backward(row[None])[0] for row in np.eye(3)]
    np.testing.assert_allclose(rows, jacobian, atol=1e-15)
    assert np.abs(jacobian).max() > 0.2  # its column sums are zero


def test_activation_takes_the_slope_at_the_input():
    layer = nn.Activation(lambda x: x**3, lambda x: 3 * x**2)
    assert layer.forward([2.0]).tolist() == [8]
    assert layer.backward([10.0]).tolist() == [120]


def test_convolution_layer_by_hand():
    layer = nn.Conv2D(1, 2)
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    layer.forward(x)
    layer.parameters()["w"][...] = [[[[1, 2], [3, 4]]]]
    layer.parameters()["bias"][...] = 10
    assert layer.forward(x)[0, 0].tolist() == [[37, 47], [67, 77]]
    dx = layer.backward(np.ones((1, 1, 2, 2)))
    assert dx[0, 0].tolist() == [[1, 3, 2], [4, 10, 6], [3, 7, 4]]
    assert layer.gradients()["w"][0, 0].tolist() == [[8, 12], [20, 24]]
    assert layer.gradients()["bias"].tolist() == [4]


def test_convolution_layer_adds_up_channels_and_has_a_bias_per_filter():
    layer = nn.Conv2D(3, 3, padding="same")
    for extent in (5, 8):  # the bias is not tied to the image's size
        assert layer.forward(np.ones((2, 4, extent, extent))).shape == (2, 3, extent, extent)
    assert {name: a.shape for name, a in layer.parameters().items()} == {"w": (3, 4, 3, 3), "bias": (3,)}
    layer.parameters()["w"][...] = 1
    assert layer.forward(np.ones((1, 4, 5, 5)))[0, 0, 2, 2] == 36


def test_flatten_means_the_same_in_both_layouts():
    x = numbers((2, 3, 4, 5))
    layer = nn.Flatten()
    layer.layout = "NHWC"
    np.testing.assert_array_equal(layer.forward(x.transpose(0, 2, 3, 1)), nn.Flatten().forward(x))


def test_dropout():
    layer = nn.Dropout(0.25)
    layer.generator = np.random.default_rng(0)
    x = np.ones((100, 100), np.float32)
    y = layer.forward(x, training=True)
    assert y.dtype == np.float32
    assert np.unique(y).tolist() == [0, np.float32(1 / 0.75)]
    assert abs((y == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(layer.backward(x), y)
    np.testing.assert_array_equal(layer.forward(x), x)


def test_batch_norm_statistics():
    layer = nn.BatchNorm2D(momentum=0.5)
    x = numbers((4, 2, 3, 3)) + 7
    y = layer.forward(x, training=True)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), 1, rtol=1e-4)
    np.testing.assert_allclose(layer.arrays["mean"], x.mean(axis=(0, 2, 3)) / 2)
    np.testing.assert_allclose(layer.arrays["variance"], 0.5 + x.var(axis=(0, 2, 3), ddof=1) / 2)
    assert layer.parameters().keys() == {"gamma", "beta"}
    expected = (x - layer.arrays["mean"][:, None, None]) / np.sqrt(layer.arrays["variance"] + 1e-5)[:, None, None]
    np.testing.assert_allclose(layer.forward(x), expected)


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (0, 2, 3, 3)])
def test_batch_norm_of_next_to_nothing(shape):
    layer = nn.BatchNorm2D()
    y = layer.forward(np.ones(shape), training=True)
    assert np.isfinite(y).all()
    assert layer.backward(y).shape == shape


def test_initialisers():
    generator = np.random.default_rng(0)
    shape = (64, 32, 3, 3)
    assert nn.He()(shape, 288, 576, generator).std() == pytest.approx(np.sqrt(2 / 288), rel=0.02)
    assert nn.Glorot()(shape, 288, 576, generator).std() == pytest.approx(np.sqrt(2 / 864), rel=0.02)
    assert np.abs(nn.Uniform()(shape, 100, 1, generator)).max() == pytest.approx(0.1, rel=0.01)
    assert np.abs(nn.Uniform(0.5)(shape, 100, 1, generator)).max() == pytest.approx(0.5, rel=0.01)
    layer = nn.Dense(2, initializer="glorot")
    assert layer.initializer == nn.Glorot()
    with pytest.raises(TypeError, match="initializer"):
        nn.Dense(2, initializer="zeros")


# --- what comes in ---


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "uint8", "bool"])
@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_dtypes(name, dtype):
    layer = IMAGE_LAYERS[name]()
    x = (numbers((2, 4, 5, 6)) > 0).astype(dtype)
    kept = x.copy()
    y = layer.forward(x, training=True)
    native = np.dtype(dtype).newbyteorder("=") if np.dtype(dtype).kind == "f" else np.dtype(np.float64)
    assert y.dtype == native
    assert layer.backward(y).dtype == native
    for array in [*layer.parameters().values(), *layer.gradients().values()]:
        assert array.dtype == native
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_odd_memory_gives_the_same(name):
    x = numbers((2, 4, 6, 7))
    view = np.zeros((4, 4, 12, 7))[::2, ::-1, ::-2]
    view[...] = x
    view.flags.writeable = False
    results = []
    for given in (x, view):
        layer = IMAGE_LAYERS[name]()
        layer.generator = np.random.default_rng(0)
        y = layer.forward(given, True)
        results.append((y, layer.backward(y)))
    for plain, odd in zip(*results, strict=True):
        np.testing.assert_allclose(odd, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_empty_batch(name):
    layer = IMAGE_LAYERS[name]()
    y = layer.forward(np.zeros((0, 4, 5, 6), np.float32))
    assert len(y) == 0
    assert layer.backward(y).shape == (0, 4, 5, 6)
    for gradient in layer.gradients().values():
        assert not gradient.any()


def test_empty_batch_of_rows():
    layer = nn.Dense(3)
    y = layer.forward(np.zeros((0, 5)))
    assert y.shape == (0, 3)
    assert layer.backward(y).shape == (0, 5)
    assert not layer.gradients()["w"].any()


# --- refusals ---


@pytest.mark.parametrize("make", [*IMAGE_LAYERS.values(), *ROW_LAYERS.values()])
def test_backward_before_forward(make):
    layer = make()
    with pytest.raises(RuntimeError, match="backward before forward"):
        layer.backward(np.zeros((1, 1)))


def test_gradients_before_backward():
    layer = nn.Dense(2)
    assert layer.gradients() == {}
    layer.forward(np.ones((1, 2)))
    with pytest.raises(RuntimeError, match="gradients before backward"):
        layer.gradients()


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2D(2, 3), np.ones((4, 4))),
        (nn.Conv2D(2, 3), np.ones((1, 1, 2, 2))),
        (nn.Conv2D(2, 3, groups=2), np.ones((1, 3, 5, 5))),
        (nn.Dense(2), np.ones((1, 2, 3, 4))),
        (nn.MaxPool2D(3), np.ones((1, 1, 2, 2))),
        (nn.BatchNorm2D(), np.ones((2, 3))),
        (nn.Reshape((4, 2)), np.ones((2, 3))),
        (nn.Reshape((4, -1)), np.ones((2, 6))),
        (nn.Flatten(), np.ones(3)),
        (nn.Softmax(), np.ones(3)),
        (nn.Activation(np.sum, np.cos), np.ones((2, 2))),
    ],
)
def test_wrong_shapes(layer, x):
    with pytest.raises(ShapeError):
        layer.forward(x)
    assert not layer.parameters()  # a wrong input settles nothing


def test_wrong_shapes_after_the_first():
    conv, dense = nn.Conv2D(2, 3), nn.Dense(2)
    conv.forward(np.ones((1, 3, 5, 5)))
    dense.forward(np.ones((1, 3)))
    with pytest.raises(ShapeError, match="x: got shape"):
        conv.forward(np.ones((1, 4, 5, 5)))
    with pytest.raises(ShapeError, match="x: got shape"):
        dense.forward(np.ones((1, 4)))
    with pytest.raises(ShapeError, match="dy: got shape"):
        dense.backward(np.ones((2, 2)))
    with pytest.raises(TypeError, match="x"):
        dense.forward(np.ones((1, 3), complex))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2D(0, 3),
        lambda: nn.Conv2D(3, 3, groups=2),
        lambda: nn.Conv2D(3, (3, 3, 3)),
        lambda: nn.Conv2D(3, 3, stride=0),
        lambda: nn.Conv2D(3, 3, color="red"),
        lambda: nn.Conv2D(3.5, 3),
        lambda: nn.ConvTranspose2D(3, 3, output_padding=-1),
        lambda: nn.MaxPool2D(0),
        lambda: nn.AvgPool2D(2, stride=0),
        lambda: nn.Dense(0),
        lambda: nn.Dropout(1.0),
        lambda: nn.Dropout("half"),
        lambda: nn.Reshape((0, 2)),
        lambda: nn.Reshape((-1, -1)),
        lambda: nn.BatchNorm2D(momentum=1.0),
        lambda: nn.LeakyReLU(None),
        lambda: nn.Activation(np.sin, 3),
        lambda: nn.Uniform(-1.0),
    ],
)
def test_wrong_options(make):
    with pytest.raises((ValueError, TypeError)):
        make()


@pytest.mark.parametrize(
    ("loss", "predicted", "target", "error"),
    [
        (nn.MeanSquaredError(), np.ones((3, 2)), np.ones((3, 1)), TypeError),
        (nn.MeanSquaredError(), np.ones((3, 2)), np.ones((2, 2)), ShapeError),
        (nn.MeanSquaredError(), np.ones((0, 2)), np.ones((0, 2)), ShapeError),
        (nn.CrossEntropy(), np.ones((3, 2)), [0, 1, 2], IndexError),
        (nn.CrossEntropy(), np.ones((3, 2)), [0, 1, -1], IndexError),
        (nn.CrossEntropy(), np.ones((3, 2)), [0.0, 1.0, 0.0], TypeError),
        (nn.CrossEntropy(), np.ones((3, 1)), [0, 0, 0], ShapeError),
        (nn.CrossEntropy(), np.ones((3, 2, 1, 1)), [0, 0, 0], ShapeError),
        (nn.BinaryCrossEntropy(), [[1.5]], [1], ValueError),
        (nn.BinaryCrossEntropy(), [[0.5]], [2], ValueError),
    ],
)
def test_losses_refuse(loss, predicted, target, error):
    with pytest.raises(error):
        loss(predicted, target)


def test_one_hot():
    assert nn.one_hot([[1], [0]], 2).tolist() == [[[0, 1]], [[1, 0]]]
    assert nn.one_hot([], 3).shape == (0, 3)
    for labels, error in (([3], IndexError), ([-1], IndexError), ([0.5], TypeError)):
        with pytest.raises(error, match="labels"):
            nn.one_hot(labels, 3)


def test_repr_shows_what_was_asked_for():
    assert repr(nn.Conv2D(8, 3, padding="same")) == "Conv2D(8, 3, padding='same')"
    assert repr(nn.Adam(0.1)) == "Adam(learning_rate=0.1)"
    assert repr(nn.Reshape((2, 3))) == "Reshape((2, 3))"


def test_dense_is_the_same_for_any_number_of_workers():
    x, dy = numbers((300, 200)).astype(np.float32), numbers((300, 50), 1).astype(np.float32)
    results = set()
    for workers in (1, 2, 3):
        layer = nn.Dense(50)
        layer.generator = np.random.default_rng(0)
        with fastconv.set_workers(workers):
            found = [layer.forward(x), layer.backward(dy), *layer.gradients().values()]
        results.add(b"".join(a.tobytes() for a in found))
    assert len(results) == 1
