"""Optimisers: steps worked by hand, memory, element by element."""

import numpy as np
import pytest

from fastconv import ShapeError, nn

RATE = 0.1
G1, G2 = np.array([1.0, -4.0]), np.array([2.0, 0.5])
EPS = 1e-8


def adam_steps():
    m1, s1 = 0.1 * G1, 0.001 * G1**2
    m2, s2 = 0.9 * m1 + 0.1 * G2, 0.999 * s1 + 0.001 * G2**2
    first = RATE * (m1 / 0.1) / (np.sqrt(s1 / 0.001) + EPS)
    return first, RATE * (m2 / (1 - 0.9**2)) / (np.sqrt(s2 / (1 - 0.999**2)) + EPS)


def adagrad_steps():
    return RATE * np.sign(G1), RATE * G2 / np.sqrt(G1**2 + G2**2)


def rms_steps():
    s1 = 0.1 * G1**2
    return RATE * G1 / np.sqrt(s1), RATE * G2 / np.sqrt(0.9 * s1 + 0.1 * G2**2)


STEPS = {
    "sgd": (nn.SGD, (RATE * G1, RATE * G2)),
    "momentum": (nn.Momentum, (RATE * G1, RATE * (0.9 * G1 + G2))),
    "adagrad": (nn.Adagrad, adagrad_steps()),
    "adagrad momentum": (nn.AdagradMomentum, (adagrad_steps()[0], 0.9 * adagrad_steps()[0] + adagrad_steps()[1])),
    "rmsprop": (nn.RMSProp, rms_steps()),
    "adam": (nn.Adam, adam_steps()),
}


@pytest.mark.parametrize("name", STEPS)
def test_two_steps_by_hand(name):
    make, (first, second) = STEPS[name]
    w = np.array([3.0, -2.0])
    live, optimizer = w, make(RATE)
    gradients = G1.copy(), G2.copy()
    optimizer.step({"w": w}, {"w": gradients[0]})
    np.testing.assert_allclose(w, [3, -2] - first, rtol=1e-7)
    optimizer.step({"w": w}, {"w": gradients[1]})
    np.testing.assert_allclose(w, [3, -2] - first - second, rtol=1e-7)
    assert w is live
    np.testing.assert_array_equal(gradients, [G1, G2])


def test_adam_never_takes_twice_the_rate():
    w, optimizer = np.zeros(1), nn.Adam(0.01)
    for _ in range(50):
        before = w.copy()
        optimizer.step({"w": w}, {"w": np.ones(1)})
        assert before - w == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize("name", STEPS)
def test_every_element_is_its_own(name):
    gradients = np.random.default_rng(0).normal(size=(3, 4, 5))
    whole, alone = np.zeros((4, 5)), np.zeros((4, 5))
    optimizer = STEPS[name][0](RATE)
    for g in gradients:
        optimizer.step({"w": whole}, {"w": g})
    for place in np.ndindex(4, 5):
        optimizer, w = STEPS[name][0](RATE), np.zeros(1)
        for g in gradients:
            optimizer.step({"w": w}, {"w": g[place].reshape(1)})
        alone[place] = w[0]
    np.testing.assert_array_equal(whole, alone)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtypes_stay(name, dtype):
    w, optimizer = np.ones(3, dtype), STEPS[name][0](RATE)
    for _ in range(3):
        optimizer.step({"w": w}, {"w": np.array([1e-4, 0, -1e-4], dtype)})
    assert w.dtype == dtype
    assert np.isfinite(w).all()
    assert w[1] == 1


def test_two_networks_have_their_own_moments():
    a, b, alone = np.zeros(2), np.zeros(2), np.zeros(2)
    shared, own = nn.Adam(RATE), nn.Adam(RATE)
    for g in (G1, G2):
        shared.step({"w": a}, {"w": g})
        shared.step({"w": b}, {"w": -g})
        own.step({"w": alone}, {"w": g})
    np.testing.assert_array_equal(a, alone)
    np.testing.assert_array_equal(b, -alone)


def test_refusals():
    for make in (lambda: nn.SGD(-1.0), lambda: nn.SGD("fast"), lambda: nn.SGD(np.nan), lambda: nn.Momentum(0.1, 1.0),
                 lambda: nn.Adam(0.1, beta2=-0.1), lambda: nn.Adam(0.1, eps=-1.0)):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            make()
    w = np.zeros(2)
    with pytest.raises(ShapeError, match="gradients"):
        nn.SGD().step({"w": w}, {"w": np.ones(3)})
    with pytest.raises(ShapeError, match="gradients"):
        nn.SGD().step({"w": w}, {})
    assert not w.any()
