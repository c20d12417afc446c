"""Calls so small that what surrounds the work is what they cost."""

from __future__ import annotations

import numpy as np
import pytest
from measure import Run, parametrize
from peers import Windows, loops
from workloads import random

import fastconv as fc

X, W = random("x", 1, 1, 8, 8), random("w", 4, 1, 3, 3)
IMAGE, KERNEL = random("image", 16, 16), random("kernel", 3, 3)
POOLED = random("pooled", 1, 4, 8, 8)


def torch_call(name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    f = torch.nn.functional
    x, w, image, kernel, pooled = (
        torch.from_numpy(v) for v in (X, W, IMAGE[None, None], KERNEL[None, None], POOLED)
    )
    return {
        "conv2d": lambda: f.conv2d(x, w),
        "correlate2d": lambda: f.conv2d(image, kernel, padding=1)[0, 0],
        "max_pool2d": lambda: f.max_pool2d(pooled, 2),
    }[name]


def scipy_call(name):
    from scipy.signal import correlate2d

    if name == "correlate2d":
        return lambda: correlate2d(IMAGE, KERNEL, "same")
    return lambda: np.stack([correlate2d(X[0, 0], w, "valid") for w in W[:, 0]])[None]


def opencv_call(name):
    cv2 = pytest.importorskip("cv2", reason="cv2 is not installed")
    return lambda: cv2.filter2D(IMAGE, -1, KERNEL, borderType=cv2.BORDER_CONSTANT)


def windows_call(name):
    windows = pytest.importorskip("skimage.util", reason="skimage is not installed").view_as_windows
    if name == "max_pool2d":
        return lambda: windows(POOLED, (1, 1, 2, 2), (1, 1, 2, 2)).max((4, 5, 6, 7))
    axes = (3, 4), (1, 2)
    return lambda: np.tensordot(windows(X, (1, 1, 3, 3))[:, 0, :, :, 0, 0], W[:, 0], axes).transpose(0, 3, 1, 2)


# workload: (multiply-adds of one call times two, the call, others)
WORKLOADS = {
    "conv2d 1x1x8x8, four 3x3": (
        2 * 4 * 36 * 9, "conv2d", lambda method, n: fc.conv2d(X, W, method=method, workers=n),
        {"SciPy": scipy_call, "view_as_windows": windows_call, "PyTorch": torch_call},
    ),
    "correlate2d 16x16, 3x3": (
        2 * 256 * 9, "correlate2d", lambda method, n: fc.correlate2d(IMAGE, KERNEL, method=method, workers=n),
        {"SciPy": scipy_call, "OpenCV": opencv_call, "PyTorch": torch_call},
    ),
    "max_pool2d 1x4x8x8, 2x2": (
        4 * 16 * 4, "max_pool2d", lambda method, n: fc.max_pool2d(POOLED, 2, workers=n),
        {"view_as_windows": windows_call, "PyTorch": torch_call},
    ),
}  # fmt: skip


def rows():
    for workload, (_, name, _, others) in WORKLOADS.items():
        yield workload, "auto"
        if name == "conv2d":
            yield workload, "plan, packed"
        yield workload, "naive"
        for row in others:
            yield workload, row


@parametrize(rows())
def test_tiny(timed, workers, workload, row):
    flops, name, ours, others = WORKLOADS[workload]
    if row in others:
        call, kind = others[row](name), "peer"
    elif row == "plan, packed":
        plan = fc.plan_conv2d(X.shape, W.shape, workers=workers)
        packed = plan.pack(W)
        call, kind = (lambda: plan(X, packed)), "fastconv"
    elif row == "naive" and name == "max_pool2d":
        call, kind = loops("max")(Windows(POOLED.shape, 2, 2), POOLED, None, 1), "naive"
    else:
        call, kind = (lambda: ours(row, workers)), "naive" if row == "naive" else "fastconv"
    right = ours("auto", 1) if name == "max_pool2d" else ours("direct", 1)
    timed("tiny calls", workload, row, Run(call, right, flops, kind=kind))
