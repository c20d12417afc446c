"""The literal ``pytest --benchmark``: bench/ is run in place of tests/.

pytest takes no abbreviated options, so the name is free beside pytest-benchmark's own ``--benchmark-...``.
"""

from argparse import ArgumentTypeError
from pathlib import Path

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("fastconv")
    group.addoption(
        "--benchmark", action="store_true", help="run the benchmarks in bench/ instead of the tests (needs .[bench])"
    )
    group.addoption(
        "--workers", type=_workers, default=1, metavar="N", help="threads of every library in a benchmark (default 1)"
    )


def _workers(text):
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"got {text!r}; must be an integer of at least 1")
    return int(text)


def pytest_configure(config):
    if not config.getoption("--benchmark"):
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError('--benchmark needs the plugin pytest-benchmark: pip install ".[bench]"')
    sources = type(config).ArgsSource
    if config.args_source in (sources.TESTPATHS, sources.INVOCATION_DIR):  # no path was given
        config.args = [str(Path(__file__).with_name("bench"))]
    if not (config.option.benchmark_columns or config.option.benchmark_histogram or config.option.benchmark_compare):
        config.option.benchmark_quiet = True  # bench/conftest.py has a table of its own
