"""The examples run, and find what is there to be found."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def gallery():
    for name in ("matplotlib", "PIL", "skimage"):
        pytest.importorskip(name, reason=f"the gallery needs {name}")
    return runpy.run_path(str(EXAMPLES / "gallery.py"))


def test_the_gallery_is_drawn(gallery, tmp_path, capsys):
    gallery["main"](tmp_path / "gallery")
    assert len(list((tmp_path / "gallery").glob("*.png"))) == len(gallery["PICTURES"]) + 1


def test_a_word_is_found_wherever_it_stands(gallery):
    page, found = gallery["template"]()
    bright = scipy.ndimage.binary_opening(found > 0.9 * page, np.ones((5, 5)))
    assert scipy.ndimage.label(bright)[1] == 3


def test_holes_are_filled(gallery):
    holes, filled = gallery["mean_around_holes"]()
    assert np.isnan(holes).mean() > 0.7
    assert np.isfinite(filled).all()
    there = np.isfinite(holes)
    assert np.abs(filled - holes)[there].mean() < 10
