"""The examples in the docstrings of the whole package."""

import doctest
import importlib
import pkgutil

import pytest

import fastconv

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(fastconv.__path__, "fastconv.")
    if not name.startswith("fastconv._kernels")
]
NEEDS = {"fastconv.cli.pictures": "matplotlib"}


@pytest.mark.parametrize("name", ["fastconv", *MODULES])
def test_examples(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_public_functions_have_examples():
    finder = doctest.DocTestFinder(recurse=False)
    for name in fastconv.__all__:
        thing = getattr(fastconv, name)
        if callable(thing) and not isinstance(thing, type) and name not in ("clear_caches", "show_config"):
            assert any(test.examples for test in finder.find(thing, name)), name
