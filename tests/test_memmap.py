"""Images in files: filtered from one memory map into another, with no copy of the whole in memory."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

EXTENT = 4096

PROGRAM = f"""
import re, sys, threading, time
import numpy as np
import fastconv as fc

def private():
    "Bytes of memory that belong to no file."
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", status.read())[1])

folder, dtype, taps, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
image = np.memmap(folder + "/image", dtype, "r", shape=({EXTENT}, {EXTENT}))
out = np.memmap(folder + "/out", np.float32, "w+", shape=image.shape)
kernel = np.load(folder + "/kernel.npy")
before, most, ended = private(), 0, threading.Event()

def watch():
    global most
    while not ended.wait(0.002):
        most = max(most, private())

watcher = threading.Thread(target=watch)
watcher.start()
fc.correlate2d(image, kernel, out=out, boundary="symmetric", max_workspace=limit)
ended.set()
watcher.join()
print(most - before)
"""


@pytest.mark.parametrize(("dtype", "taps", "separable"), [
    ("float32", 3, False), ("float32", 9, False), ("float32", 41, False), ("float32", 41, True), ("uint8", 5, False),
])  # fmt: skip
def test_memory_is_bounded(dtype, taps, separable, tmp_path):
    rng = np.random.default_rng(0)
    image = np.memmap(tmp_path / "image", dtype, "w+", shape=(EXTENT, EXTENT))
    for band in range(0, EXTENT, 512):
        image[band : band + 512] = rng.integers(0, 256, (512, EXTENT), np.uint8)
    image.flush()
    kernel = rng.standard_normal((taps, taps)).astype(np.float32)
    if separable:
        kernel = np.outer(kernel[0], kernel[1])
    np.save(tmp_path / "kernel.npy", kernel)
    limit = 2**24
    grown = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, tmp_path, dtype, str(taps), str(limit)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    copy = 0 if dtype == "float32" else 4 * EXTENT**2  # of a foreign dtype: one, normalised
    assert int(grown) < 2 * limit + copy  # two workers
    out = np.memmap(tmp_path / "out", np.float32, "r", shape=image.shape)
    for rows in (slice(0, 100), slice(2000, 2100)):  # the first of them lie at the edge
        near = slice(max(rows.start - 50, 0), rows.stop + 50)
        expected = scipy.ndimage.correlate(image[near, :300].astype(np.float64), kernel)
        part = expected[rows.start - near.start : rows.stop - near.start, :250]
        np.testing.assert_allclose(out[rows, :250], part, atol=1e-5 * 256 * np.abs(kernel).sum())
