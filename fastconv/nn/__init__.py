"""Small neural networks on the fast operations: layers, losses, optimisers, and the Network that trains them.

Images are (N, C, H, W), or (N, H, W, C) in a network of ``layout="NHWC"``. Arrays keep the first input's dtype.
All sums are cut by the problem alone, so a seed makes a run repeatable to the byte, for any number of workers.

>>> import numpy as np
>>> from fastconv import nn
>>> net = nn.Network([nn.Conv2D(8, 3, padding="same"), nn.ReLU(), nn.MaxPool2D(2), nn.Flatten(), nn.Dense(10)], seed=0)
>>> images, labels = np.random.default_rng(0).random((32, 1, 8, 8), np.float32), np.arange(32) % 10
>>> history = net.fit(images, labels, epochs=2, loss=nn.CrossEntropy(), optimizer=nn.Adam(1e-3), progress=False)
>>> net.predict(images).shape
(32, 10)
"""

from fastconv.nn.activations import Activation, Identity, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from fastconv.nn.initializers import Glorot, He, Initializer, Uniform
from fastconv.nn.layers import (
    AvgPool2D,
    BatchNorm2D,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    MaxPool2D,
    Reshape,
)
from fastconv.nn.losses import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError, one_hot
from fastconv.nn.network import History, Network, load
from fastconv.nn.optimizers import SGD, Adagrad, AdagradMomentum, Adam, Momentum, Optimizer, RMSProp

__all__ = [
    "SGD",
    "Activation",
    "Adagrad",
    "AdagradMomentum",
    "Adam",
    "AvgPool2D",
    "BatchNorm2D",
    "BinaryCrossEntropy",
    "Conv2D",
    "ConvTranspose2D",
    "CrossEntropy",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2D",
    "Glorot",
    "He",
    "History",
    "Identity",
    "Initializer",
    "Layer",
    "LeakyReLU",
    "Loss",
    "MaxPool2D",
    "MeanSquaredError",
    "Momentum",
    "Network",
    "Optimizer",
    "RMSProp",
    "ReLU",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Uniform",
    "load",
    "one_hot",
]
