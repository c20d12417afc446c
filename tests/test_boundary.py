"""Boundary index vectors against ``numpy.pad``."""

import numpy as np
import pytest

from fastconv.boundary import BOUNDARIES, boundary_index, boundary_name, most_repeats


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("extent", [1, 2, 3, 5])
def test_index_is_numpy_pad(boundary, extent):
    """From no padding to one many times the extent."""
    x = np.arange(extent)
    for before in (0, 1, 2, extent, 4 * extent + 1):
        for after in (0, 1, extent - 1, 7 * extent + 2):
            constant = {"constant_values": -1} if boundary == "constant" else {}
            index = boundary_index(extent, before, after, boundary)
            assert index.dtype == np.int64
            assert index.tolist() == np.pad(x, (before, after), mode=boundary, **constant).tolist()


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_negative_padding_after_crops(boundary):
    whole = boundary_index(5, 3, 0, boundary)
    assert boundary_index(5, 3, -2, boundary).tolist() == whole[:-2].tolist()


def test_names_and_aliases():
    assert [boundary_name(name) for name in BOUNDARIES] == list(BOUNDARIES)
    aliases = {"nearest": "edge", "replicate": "edge", "mirror": "reflect", "circular": "wrap"}
    assert {alias: boundary_name(alias) for alias in aliases} == aliases


@pytest.mark.parametrize("name", ["", "EDGE", "zeros", "grid-wrap", None, 0, ["edge"]])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"boundary: got .*must be one of 'constant', 'edge'"):
        boundary_name(name)


def test_most_repeats():
    assert most_repeats(boundary_index(3, 4, 2, "edge")) == 5
    assert most_repeats(boundary_index(3, 4, 2, "constant")) == 1
    assert most_repeats(boundary_index(1, 2, 2, "wrap")) == 5
    assert most_repeats(np.array([-1, -1])) == 0
    assert most_repeats(np.array([], np.int64)) == 0
