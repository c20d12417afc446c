"""Networks: training, repeatability, interruption, files."""

import json
import zipfile

import numpy as np
import pytest

import fastconv
from fastconv import ShapeError, nn

XOR_X, XOR_Y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])


def stripes(count, seed=0, dtype=np.float32):
    """Images with a bright row (0), column (1) or diagonal (2), under noise; the classes take turns."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    x = generator.normal(0, 0.3, (count, 1, 8, 8))
    for image, label, place in zip(x[:, 0], labels, generator.integers(0, 8, count), strict=True):
        if label == 0:
            image[place] += 1
        elif label == 1:
            image[:, place] += 1
        else:
            image[np.arange(8), (np.arange(8) + place) % 8] += 1
    return x.astype(dtype), labels


def small_network(seed=0, layout="NCHW", last=()):
    return nn.Network(
        [nn.Conv2D(6, 3, padding="same"), nn.ReLU(), nn.MaxPool2D(2), nn.BatchNorm2D(), nn.Conv2D(4, 2), nn.Tanh(),
         nn.AvgPool2D(3, stride=2, padding=1), nn.Flatten(), nn.Dropout(0.1), nn.Dense(3), *last],
        seed=seed, layout=layout,
    )  # fmt: skip


def snapshot(net):
    return {name: a.copy() for name, a in net.parameters().items()}


# --- learning ---


@pytest.mark.parametrize("loss", [nn.BinaryCrossEntropy(), nn.MeanSquaredError()])
@pytest.mark.parametrize("optimizer", [nn.Momentum(0.3), nn.Adam(0.05), nn.RMSProp(0.02), nn.AdagradMomentum(0.1)])
def test_xor_is_solved(loss, optimizer):
    net = nn.Network(seed=2).add(nn.Dense(8)).add(nn.Tanh()).add(nn.Dense(1)).add(nn.Sigmoid())
    history = net.fit(XOR_X, XOR_Y, epochs=400, loss=loss, optimizer=optimizer, progress=False)
    assert history.history["loss"][-1] < 0.05
    assert net.predict_classes(XOR_X).tolist() == XOR_Y.tolist()
    assert net.predict(XOR_X).dtype == np.float64
    found = net.evaluate(XOR_X, XOR_Y)
    if isinstance(loss, nn.BinaryCrossEntropy):
        assert found["accuracy"] == 1
    else:
        assert found.keys() == {"loss"}


def test_a_small_cnn_learns():
    x, y = stripes(360)
    net = small_network()
    history = net.fit(x[:300], y[:300], epochs=12, batch_size=32, optimizer=nn.Adam(0.01),
                      validation_data=(x[300:], y[300:]), progress=False)  # fmt: skip
    assert {len(values) for values in history.history.values()} == {12}
    assert history.history.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history.history["val_accuracy"][-1] > 0.9
    found = net.evaluate(x[300:], y[300:])
    assert found == {"loss": history.history["val_loss"][-1], "accuracy": history.history["val_accuracy"][-1]}
    assert (net.predict_classes(x[300:]) == y[300:]).mean() == found["accuracy"]


def test_a_line_is_fitted_and_the_last_smaller_batch_counts():
    x = np.linspace(-1, 1, 11)[:, None]
    net = nn.Network([nn.Dense(1)], seed=0)
    history = net.fit(x, 3 * x[:, 0] + 1, 300, 4, nn.MeanSquaredError(), nn.SGD(0.1), progress=False)
    assert history.history.keys() == {"loss"}
    np.testing.assert_allclose(net.parameters()["0.w"], [[3]], rtol=1e-6)
    np.testing.assert_allclose(net.parameters()["0.bias"], [1], rtol=1e-6)

    class Counting(nn.MeanSquaredError):
        sizes = ()

        def __call__(self, predicted, target):
            Counting.sizes += (len(target),)
            return super().__call__(predicted, target)

    net.fit(x, x, epochs=1, batch_size=4, loss=Counting(), progress=False)
    assert Counting.sizes[-3:] == (4, 4, 3)


def test_every_layer_is_trained_the_first_too():
    x, y = stripes(12)
    net = small_network()
    net.forward(x)
    before = snapshot(net)
    net.fit(x, y, epochs=1, optimizer=nn.SGD(0.1), progress=False)
    for name, parameter in net.parameters().items():
        assert (parameter != before[name]).any(), name


def test_one_step_is_the_gradient_of_the_mean_loss():
    """All gradients are taken before any weight moves, and the filters obey the rate."""
    x, y = stripes(10, dtype=np.float64)
    net = nn.Network([nn.Conv2D(3, 3), nn.Tanh(), nn.Flatten(), nn.Dense(4), nn.ReLU(), nn.Dense(3)], seed=4)
    net.forward(x)
    before = snapshot(net)

    def loss():
        return nn.CrossEntropy()(net.forward(x), y)[0]

    slopes = {}
    for name, parameter in net.parameters().items():
        slopes[name] = np.zeros(parameter.shape)
        for place in np.ndindex(parameter.shape):
            values = []
            for step in (1e-6, -1e-6):
                parameter[place] = before[name][place] + step
                values.append(loss())
            parameter[place] = before[name][place]
            slopes[name][place] = (values[0] - values[1]) / 2e-6
    first = loss()
    history = net.fit(x, y, epochs=1, batch_size=10, optimizer=nn.SGD(0.1), progress=False)
    assert history.history["loss"] == [pytest.approx(first)]
    for name, parameter in net.parameters().items():
        np.testing.assert_allclose(before[name] - parameter, 0.1 * slopes[name], atol=1e-9, err_msg=name)


def test_l2_shrinks_weights_not_biases_and_is_not_reported():
    x, y = np.zeros((4, 2)), np.full((4, 1), 5.0)
    net = nn.Network([nn.Dense(1)], seed=0)
    net.predict(x)
    net.parameters()["0.bias"][...] = 5
    w = net.parameters()["0.w"].copy()
    history = net.fit(x, y, epochs=2, loss=nn.MeanSquaredError(), optimizer=nn.SGD(0.5), l2=0.2, progress=False)
    np.testing.assert_allclose(net.parameters()["0.w"], w * 0.9**2)
    assert net.parameters()["0.bias"] == 5
    assert history.history["loss"] == [0, 0]


def test_training_twice_with_one_optimizer_goes_on():
    x, y = stripes(9, dtype=np.float64)
    nets = [nn.Network([nn.Flatten(), nn.Dense(3)], seed=0) for _ in range(2)]
    options = {"shuffle": False, "progress": False}
    nets[0].fit(x, y, epochs=4, optimizer=nn.Adam(0.1), **options)
    optimizer = nn.Adam(0.1)
    for _ in range(4):
        nets[1].fit(x, y, epochs=1, optimizer=optimizer, **options)
    for a, b in zip(nets[0].parameters().values(), nets[1].parameters().values(), strict=True):
        np.testing.assert_array_equal(a, b)


# --- classes ---


def test_softmax_at_the_end_changes_nothing_but_the_output():
    x, y = stripes(30)
    results = []
    for last in ((), (nn.Softmax(),)):
        net = small_network(last=last)
        history = net.fit(x, y, epochs=2, progress=False).history
        results.append((history, net.predict(x)))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(nn.Softmax().forward(results[0][1]), results[1][1])


@pytest.mark.parametrize("loss", [nn.CrossEntropy(), nn.MeanSquaredError(), nn.BinaryCrossEntropy()])
def test_labels_and_one_hot_rows_mean_the_same(loss):
    x, y = stripes(21)
    results = []
    for target in (y, y[:, None].astype(np.uint8), nn.one_hot(y, 3), nn.one_hot(y, 3).astype(bool), list(y)):
        net = small_network(last=(nn.Sigmoid(),))
        net.fit(x, target, epochs=2, loss=loss, progress=False)
        results.append((net.evaluate(x, target), net.predict(x).tobytes()))
        assert results[-1][0].keys() == {"loss", "accuracy"}
    assert all(result == results[0] for result in results)


def test_accuracy_counts_samples_not_elements():
    net = nn.Network([nn.Identity()])
    x = np.eye(10)[[1] * 8 + [0] * 2] * 9.0  # eight samples wrong, two right
    assert net.evaluate(x, np.zeros(10, int))["accuracy"] == 0.2
    assert net.evaluate(x, np.full(10, 5))["accuracy"] == 0.0


def test_thresholds():
    net = nn.Network([nn.Identity()])
    x = np.array([[0.2], [0.5], [0.7]])
    assert net.predict_classes(x).tolist() == [0, 0, 1]
    assert net.predict_classes(x, threshold=0.1).tolist() == [1, 1, 1]
    assert net.predict_classes(np.array([[1.0, 3.0, 2.0]])).tolist() == [1]
    with pytest.raises(ShapeError, match="Flatten"):
        net.predict_classes(np.ones((1, 2, 3, 3)))


# --- repeatability ---


def test_a_seed_repeats_every_byte_for_any_number_of_workers():
    x, y = stripes(80)
    results = []
    for workers, seed in ((1, 5), (2, 5), (3, 5), (1, 6)):
        net = small_network(seed)
        with fastconv.set_workers(workers):
            history = net.fit(x, y, epochs=2, batch_size=48, progress=False)
            results.append((b"".join(a.tobytes() for a in net.parameters().values()), str(history.history)))
    assert results[0] == results[1] == results[2]
    assert results[0][0] != results[3][0]


def test_both_layouts_learn_the_same():
    x, y = stripes(24, dtype=np.float64)
    one, other = small_network(), small_network(layout="NHWC")
    a = one.fit(x, y, epochs=3, progress=False)
    b = other.fit(x.transpose(0, 2, 3, 1), y, epochs=3, progress=False)
    np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=1e-9)
    np.testing.assert_allclose(one.predict(x), other.predict(x.transpose(0, 2, 3, 1)), rtol=1e-7, atol=1e-9)


def test_shuffling_comes_from_the_network():
    x, y = stripes(20)
    results = []
    for shuffle in (True, False):
        net = nn.Network([nn.Flatten(), nn.Dense(3)], seed=0)
        np.random.seed(0)  # noqa: NPY002 (must be of no influence)
        net.fit(x, y, epochs=1, batch_size=3, shuffle=shuffle, progress=False)
        results.append(net.predict(x))
    assert (results[0] != results[1]).any()


def test_parameters_take_the_first_dtype_and_are_live():
    for dtype, expected in (("f2", "f2"), ("f4", "f4"), ("f8", "f8"), ("u1", "f8"), (">f4", "f4")):
        x, y = stripes(6, dtype=np.float32)
        net = small_network()
        net.fit(x.astype(dtype), y, epochs=1, progress=False)
        assert {a.dtype for a in net.parameters().values()} == {np.dtype(expected)}
        assert net.predict(x.astype("f8")).dtype == expected
    net.parameters()["9.w"][...] = 0
    net.parameters()["9.bias"][...] = [1, 2, 3]
    assert (net.predict(x) == [1, 2, 3]).all()


def test_inputs_stay_and_prediction_is_a_new_array():
    x = np.ones((3, 2))
    net = nn.Network([nn.Identity()])
    y = net.predict(x)
    y[...] = 7
    assert (x == 1).all()
    assert net.predict(np.zeros((0, 2))).shape == (0, 2)
    assert net.predict(np.arange(1000.0)[:, None], batch_size=7)[:, 0].tolist() == list(range(1000))


def test_whole_passes():
    x, y = stripes(6, dtype=np.float64)
    net = small_network()
    dx = net.backward(nn.CrossEntropy()(net.forward(x, training=True), y)[1])
    assert dx.shape == x.shape
    assert net.gradients().keys() == net.parameters().keys()


# --- Ctrl-C ---


@pytest.mark.parametrize("calls", [0, 1, 30])
def test_interruption_ends_training_with_the_history_so_far(monkeypatch, calls):
    x, y = stripes(30)
    net = small_network()
    net.predict(x)
    real, count = fastconv.nn.layers.conv2d_backward, iter(range(10**6))

    def interrupted(*args, **options):
        if next(count) == calls:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr("fastconv.nn.layers.conv2d_backward", interrupted)
    history = net.fit(x, y, epochs=100, batch_size=10, validation_data=(x, y), progress=False)
    epochs = calls // 6  # two layers, three batches
    assert [len(values) for values in history.history.values()] == ([epochs] * 4 if epochs else [])
    monkeypatch.undo()
    assert net.predict(x).shape == (30, 3)
    assert len(net.fit(x, y, epochs=1, progress=False)) == 1


def test_interruption_before_the_first_step(monkeypatch):
    x, y = stripes(3)
    net = small_network()

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastconv.nn.layers.conv2d", interrupted)
    assert len(net.fit(x, y, progress=False)) == 0
    monkeypatch.undo()
    assert len(net.fit(x, y, epochs=1, progress=False)) == 1


# --- progress, history ---


def test_progress_works_without_tqdm(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    x, y = stripes(6)
    assert len(small_network().fit(x, y, epochs=2)) == 2


def test_progress_goes_to_stderr(capsys):
    pytest.importorskip("tqdm")
    x, y = stripes(6)
    small_network().fit(x, y, epochs=2, batch_size=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 2/2" in err
    assert "accuracy=" in err


def test_history_is_plotted():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    x, y = stripes(6)
    history = small_network().fit(x, y, epochs=3, validation_data=(x, y), progress=False)
    figure = history.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]
    matplotlib.pyplot.close(figure)
    assert repr(history).startswith("History(3 epochs: loss ")


def test_summary():
    net = small_network()
    assert "?" in net.summary()
    net.predict(stripes(2)[0])
    lines = net.summary().splitlines()
    assert lines[1].split()[-2:] == ["6x8x8", "60"]
    assert lines[-1].split() == ["total", str(sum(a.size for a in net.parameters().values()))]
    assert len({len(line) for line in lines}) == 1


# --- files ---


def everything():
    """All kinds of layers and options in one network."""
    return nn.Network(
        [nn.Conv2D(4, (3, 2), stride=(1, 2), padding=((1, 0), (0, 1)), dilation=np.int64(1), groups=1, boundary="wrap"),
         nn.BatchNorm2D(0.8), nn.LeakyReLU(0.2), nn.ConvTranspose2D(4, 2, stride=2, groups=2, initializer="glorot"),
         nn.MaxPool2D(2, stride=1), nn.Identity(), nn.AvgPool2D((2, 2), divisor=3.0), nn.Sigmoid(), nn.Reshape((-1, 2)),
         nn.Flatten(), nn.Dropout(0.2), nn.Dense(6, initializer=nn.Uniform(0.3)), nn.Tanh(), nn.Reshape((1, 1, 6)),
         nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(3, use_bias=False), nn.ReLU(), nn.Softmax()],
        seed=3, layout="NHWC",
    )  # fmt: skip


def test_a_file_brings_back_the_network(tmp_path):
    x, y = stripes(20)
    x = x.transpose(0, 2, 3, 1)
    net = everything()
    net.fit(x, y, epochs=2, loss=nn.MeanSquaredError(), progress=False)
    path = tmp_path / "network.bin"
    net.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["network.bin"]
    again = nn.load(path)
    assert repr(again) == repr(net)
    assert again.layout == "NHWC"
    assert again.seed == 3
    assert again.predict(x).tobytes() == net.predict(x).tobytes()
    assert again.evaluate(x, y) == net.evaluate(x, y)
    for name, parameter in again.parameters().items():
        assert parameter.dtype == np.float32, name
    again.fit(x, y, epochs=1, progress=False)  # its arrays are writeable


def test_a_network_that_was_never_called_is_saved_too(tmp_path):
    small_network(seed=9).save(tmp_path / "n.npz")
    net, x = nn.load(str(tmp_path / "n.npz")), stripes(3)[0]
    assert net.predict(x).tobytes() == small_network(seed=9).predict(x).tobytes()


def test_functions_of_your_own_are_refused(tmp_path):
    class Mine(nn.ReLU):
        pass

    for layer in (nn.Activation(np.sin, np.cos), Mine()):
        with pytest.raises(TypeError, match="holds no code"):
            nn.Network([layer]).save(tmp_path / "n.npz")
    assert not any(tmp_path.iterdir())


def tampered(path, change):
    """Write the file again after ``change(description, arrays)``."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    description = json.loads(str(arrays.pop("description")))
    change(description, arrays)
    np.savez(path, description=np.array(json.dumps(description)), **arrays)


@pytest.mark.parametrize(
    "change",
    [
        lambda d, a: d.update(format="other"),
        lambda d, a: d.update(version=2),
        lambda d, a: d.pop("layers"),
        lambda d, a: d.update(layout="CHWN"),
        lambda d, a: d.update(seed="x"),
        lambda d, a: d.update(dtype="object"),
        lambda d, a: d.update(dtype="float64"),
        lambda d, a: d.update(loss={"kind": "ReLU", "options": {}}),
        lambda d, a: d.update(loss=None),
        lambda d, a: d["layers"][0].update(kind="os.system"),
        lambda d, a: d["layers"][0].update(kind="Activation"),
        lambda d, a: d["layers"][0].update(more=1),
        lambda d, a: d["layers"][0]["options"].update(filters=7),
        lambda d, a: d["layers"][0]["options"].update(filters=-1),
        lambda d, a: d["layers"][0]["options"].update(colour=1),
        lambda d, a: d["layers"].append("ReLU"),
        lambda d, a: d["layers"].pop(),
        lambda d, a: d["inputs"].pop(),
        lambda d, a: d["inputs"].__setitem__(0, [1, 10**12, 8, 8]),
        lambda d, a: d["inputs"].__setitem__(0, [8, 8]),
        lambda d, a: d["inputs"].__setitem__(0, "8888"),
        lambda d, a: d["inputs"].__setitem__(0, None),
        lambda d, a: a.pop("0.w"),
        lambda d, a: a.update({"0.w": a["0.w"][:1]}),
        lambda d, a: a.update({"0.w": a["0.w"].astype(np.float64)}),
        lambda d, a: a.update({"99.w": a["0.w"]}),
    ],
)
def test_wrong_files_are_refused(tmp_path, change):
    path = tmp_path / "n.npz"
    net = small_network()
    net.predict(stripes(2)[0])
    net.save(path)
    tampered(path, change)
    with pytest.raises(ValueError, match="is no network that this release can read"):
        nn.load(path)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "n.npz"
    net = small_network()
    net.predict(stripes(2)[0])
    net.save(path)
    whole = path.read_bytes()
    plain = tmp_path / "plain.npy"
    np.save(plain, np.ones(3))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, description=np.array([{}], dtype=object), allow_pickle=True)
    text = tmp_path / "text.zip"
    with zipfile.ZipFile(text, "w") as archive:
        archive.writestr("description", "hello")
    contents = [b"", b"hello", whole[:100], whole[:-30], whole[:300] + b"\0" * 200 + whole[500:]]
    contents += [p.read_bytes() for p in (plain, pickled, text)]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no network"):
            nn.load(path)
    with pytest.raises(FileNotFoundError):
        nn.load(tmp_path / "absent.npz")


# --- refusals ---


def test_networks_refuse():
    layer = nn.ReLU()
    with pytest.raises(TypeError, match="layer"):
        nn.Network([nn.ReLU])
    with pytest.raises(ValueError, match="already"):
        nn.Network([layer, layer])
    with pytest.raises(ValueError, match="layout"):
        nn.Network([nn.Network([layer]).layers[0]], layout="NHWC")
    with pytest.raises(ValueError, match="layout"):
        nn.Network(layout="HWC")
    with pytest.raises(TypeError, match="seed"):
        nn.Network(seed="today")
    with pytest.raises(RuntimeError, match="no layers"):
        nn.Network().predict(np.ones((1, 2)))
    with pytest.raises(RuntimeError, match="backward before forward"):
        nn.Network([nn.ReLU()]).backward([1.0])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"epochs": -1}, ValueError),
        ({"epochs": 1.5}, TypeError),
        ({"batch_size": 0}, ValueError),
        ({"loss": "mse"}, TypeError),
        ({"loss": nn.CrossEntropy}, TypeError),
        ({"optimizer": "adam"}, TypeError),
        ({"l2": -0.1}, ValueError),
        ({"l2": "much"}, TypeError),
        ({"shuffle": 1}, TypeError),
        ({"progress": None}, TypeError),
        ({"validation_data": 3}, TypeError),
        ({"validation_data": (np.ones((2, 4)), [0])}, ValueError),
        ({"validation_data": (np.ones((2, 5)), [0, 1])}, ValueError),
        ({"learning_rate": 0.1}, TypeError),
        ({"x": np.ones((3, 4))}, ValueError),
        ({"x": np.ones((0, 4)), "y": []}, ValueError),
        ({"y": [0, 3]}, IndexError),
        ({"y": [0.0, 1.0]}, TypeError),
        ({"y": np.ones((2, 2))}, ValueError),
        ({"x": np.ones((2, 4), complex)}, TypeError),
    ],
)
def test_training_refuses_before_it_begins(options, error):
    net = nn.Network([nn.Dense(3)], seed=0)
    net.predict(np.zeros((1, 4)))
    before = snapshot(net)
    with pytest.raises(error):
        net.fit(**({"x": np.ones((2, 4)), "y": [0, 1], "progress": False} | options))
    np.testing.assert_array_equal(net.parameters()["0.w"], before["0.w"])


def test_a_wrong_first_input_settles_nothing():
    net = nn.Network([nn.Conv2D(2, 3), nn.Flatten(), nn.Reshape((4, 1, 1)), nn.Flatten(), nn.Dense(2)], seed=0)
    with pytest.raises(ShapeError) as caught:
        net.predict(np.ones((1, 3, 9, 9)))
    assert "layer 2" in caught.value.__notes__[0]
    assert net.parameters() == {}
    assert net.predict(np.ones((1, 1, 4, 3), np.float32)).dtype == np.float32


def test_prediction_packs_filters_once_and_for_that_call_alone(monkeypatch):
    x = np.random.default_rng(0).standard_normal((10, 8, 12, 12)).astype("f")
    net = nn.Network([nn.Conv2D(32, 3, padding=1, method="winograd"), nn.ReLU()], seed=0)
    whole = net.predict(x)
    np.testing.assert_array_equal(net.predict(x, batch_size=4), whole)  # 4, 4 and 2 samples
    assert net.layers[0].plans is None
    net.layers[0].parameters()["w"][...] *= 2  # live arrays: a change between two calls holds
    np.testing.assert_allclose(net.predict(x, batch_size=4), 2 * whole, rtol=1e-4, atol=1e-5)
    packs = []
    pack = fastconv.Plan.pack
    monkeypatch.setattr(fastconv.Plan, "pack", lambda self, w: packs.append(w) or pack(self, w))
    net.predict(x, batch_size=5)
    assert len(packs) == 1
