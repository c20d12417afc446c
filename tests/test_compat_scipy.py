"""SciPy's own tests of the functions that ``fastconv.compat`` replaces, run on the replacements.

They come with SciPy's wheels and need what they need (hypothesis); where they aren't there, this is skipped.
"""

import importlib.util
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.processes]

NAMED = {
    "signal": ("scipy.signal.tests.test_signaltools", "onvolve or orrelate or choose_conv"),
    "ndimage": (
        "scipy.ndimage.tests.test_filters",
        "correlate or convolve or gauss or sobel or uniform or axes or multiple_modes or origins or extend",
    ),
}
"""The module and what its tests of these names are called, as ``pytest -k`` takes it."""

BIT_FOR_BIT = "test_gaussian_laplace01 or test_gaussian_laplace02 or test_multiple_modes_sequentially"
"""These compare the last bits of a filter that is replaced and one that isn't."""


@pytest.mark.parametrize(("package", "every_size"), [("signal", True), ("ndimage", False), ("ndimage", True)])
def test_scipys_tests_pass(package, every_size, tmp_path, record_property, capsys):
    module, names = NAMED[package]
    if importlib.util.find_spec(f"scipy.{package}.tests") is None or importlib.util.find_spec(module) is None:
        pytest.skip(f"this SciPy comes without {module}")
    if importlib.util.find_spec("hypothesis") is None:
        pytest.skip("SciPy's tests need hypothesis")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    selected = f"({names}) and not ({BIT_FOR_BIT})" if every_size else names
    run = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "scipy_by_fastconv",
         "-c", tmp_path / "pytest.ini", "--rootdir", tmp_path, "--junitxml", tmp_path / "report.xml",
         "-k", selected, *["--every-size"] * every_size, "--pyargs", module],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *_path()])},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    suite = ElementTree.parse(tmp_path / "report.xml").find("testsuite")
    assert suite is not None
    ran, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    served, calls = map(int, re.search(r"fastconv served (\d+) of (\d+) calls", run.stdout).groups())
    record_property("scipy", f"{ran - skipped} passed, {skipped} skipped, {served} of {calls} calls served")
    with capsys.disabled():
        print(
            f"\n{module}: {ran - skipped} passed, {skipped} skipped; fastconv served {served} of {calls} calls"
        )
    assert ran > skipped
    assert calls > 0
    if every_size:
        assert served > 100


def _path():
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
