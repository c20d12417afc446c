"""A pytest plugin: SciPy's tests meet ``fastconv.compat`` wherever they say ``scipy.signal`` or ``scipy.ndimage``.

``pytest -p scipy_by_fastconv --pyargs scipy.ndimage.tests.test_filters``. The functions are put in place before the
tests are imported, and keep SciPy's own for what they hand on; with ``--every-size`` small arrays are not among that.
The last line says how many calls there were, and how many of them fastconv served.
"""

import functools
import importlib
from collections import Counter
from types import SimpleNamespace

calls: Counter[str] = Counter()


def _counted(function, name):
    @functools.wraps(function)
    def counted(*args, **options):
        calls["calls"] += 1
        return function(*args, **options)

    counted.__name__ = name
    return counted


def _handed_on(function):
    @functools.wraps(function)
    def handed_on(*args, **options):
        calls["handed on"] += 1
        return function(*args, **options)

    return handed_on


def pytest_addoption(parser):
    parser.addoption("--every-size", action="store_true")


def pytest_configure(config):
    if config.getoption("--every-size"):
        common = importlib.import_module("fastconv.compat.common")
        common.LEAST_WORK = common.LEAST_PIXELS = 0
    for package in ("signal", "ndimage"):
        theirs = importlib.import_module(f"scipy.{package}")
        ours = importlib.import_module(f"fastconv.compat.{package}")
        originals = {name: getattr(theirs, name) for name in ours.__all__}
        kept = vars(theirs) | {name: _handed_on(function) for name, function in originals.items()}
        ours.scipy = SimpleNamespace(**{package: SimpleNamespace(**kept)})
        for name, original in originals.items():
            function = _counted(getattr(ours, name), name)
            _know(original, function)
            setattr(theirs, name, function)


def _know(original, function):
    """SciPy looks up by the function which array libraries its tests can have."""
    try:
        from scipy._lib._array_api import xp_capabilities_table as table
    except ImportError:
        return
    if original in table:
        table[function] = table[original]


def pytest_terminal_summary(terminalreporter):
    served = calls["calls"] - calls["handed on"]
    terminalreporter.write_line(f"fastconv served {served} of {calls['calls']} calls")
