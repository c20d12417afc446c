"""A first job: the edges of an image by Sobel's filters, and the same by plain loops on a part of it.

After ``pip install .``:  python examples/first.py
"""

import time

import numpy as np

import fastconv as fc

# A grey picture of 1080 x 1920 pixels: a ramp of light with discs on it.
rng = np.random.default_rng(0)
h, w = np.mgrid[:1080, :1920]
image = (w // 16).astype(np.uint8)
for row, column, radius, grey in rng.integers((0, 0, 20, 0), (1080, 1920, 150, 256), (40, 4)):
    image[(h - row) ** 2 + (w - column) ** 2 < radius**2] = grey

# One image of one channel, and two filters: differences along the rows and down the columns.
x = image[None, None]
across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.int8)
filters = np.stack([across, across.T])[:, None]


def timed(function, *args, **options):
    """The result, and the seconds of the best of three runs."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = function(*args, **options)
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


y, fast = timed(fc.conv2d, x, filters, padding="same", boundary="edge")
edges = np.hypot(y[0, 0], y[0, 1])

# The textbook's loops, in Python, on a corner. Integers are exact, so both must agree to the last bit.
part = x[:, :, :100, :100]
loops, slow = timed(fc.conv2d, part, filters, method="naive")
assert np.array_equal(loops, y[:, :, 1:99, 1:99])

plan = fc.plan_conv2d(x.shape, filters.shape, dtype="int64", padding="same", boundary="edge")
print(f"x {x.shape} {x.dtype}, filters {filters.shape} {filters.dtype} -> y {y.shape} {y.dtype}")
print(f"edges: {np.mean(edges > 100):.1%} of the pixels, the strongest {edges.max():.0f}")
print(f"method {plan.method}: {1e3 * fast:.1f} ms, {1e9 * fast / y.size:.1f} ns per output pixel")
print(f"method naive: {1e9 * slow / loops.size:.0f} ns per output pixel, on a corner of 100 x 100; the same values")
