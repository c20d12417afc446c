"""What was installed: metadata, instruction sets, imports, and the sentence for those who did not compile."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv
from fastconv import machine

pytestmark = pytest.mark.processes
PACKAGE = Path(fastconv.__file__).parent


def run(code, folder, **environment):
    """Run Python code with the package that is tested here (or the one in ``folder``)."""
    unset = {"FASTCONV_ISA", "PYTHONPATH", "PYTHONSAFEPATH"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    command, env = [sys.executable, "-c", code], inherited | environment
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


def test_the_installed_package_is_tested():
    """Not the folder beside the tests, unless it is compiled in place."""
    beside = Path(__file__).resolve().parent.parent / "fastconv"
    assert PACKAGE.resolve() != beside or any(beside.glob("_kernels/cpu.*.so"))


def test_metadata():
    data = importlib.metadata.metadata("fastconv")
    assert fastconv.__version__ == data["Version"]
    assert {"test", "bench", "demo", "dev"} <= set(data.get_all("Provides-Extra"))
    needed = [r for r in importlib.metadata.requires("fastconv") if "extra ==" not in r]
    assert sorted(re.match(r"[\w-]+", r).group() for r in needed) == ["numpy", "scipy"]


def test_a_copy_that_is_not_compiled_says_so(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "fastconv", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    result = run("import fastconv", tmp_path)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fastconv is not compiled in")
    assert "pip install" in last


def test_an_unknown_isa_is_refused(tmp_path):
    result = run("import fastconv", tmp_path, FASTCONV_ISA="sse9")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last == "ImportError: FASTCONV_ISA: got 'sse9'; must be one of baseline, avx2, avx512, or unset"


@pytest.mark.parametrize("cap", ["baseline", "avx2", "avx512", None])
def test_isa_is_capped(tmp_path, cap):
    """No set above the cap, and none that the processor has not."""
    code = "import json; from fastconv import machine; print(json.dumps([machine.ISA, machine.kernels().isa]))"
    found = machine.cpu.instruction_sets()
    order = ("baseline", "avx2", "avx512")
    best = [isa for isa in found if cap is None or order.index(isa) <= order.index(cap)][-1]
    result = run(code, tmp_path, **({"FASTCONV_ISA": cap} if cap else {}))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [best, best]


def test_every_isa_here_has_its_kernels():
    for isa in machine.ISAS:
        assert machine.kernels(isa).isa == isa


def test_import_is_light(tmp_path):
    heavy = ("scipy", "matplotlib", "tqdm", "torch", "cv2", "skimage", "PIL")
    result = run(f"import sys, fastconv; print([name for name in {heavy} if name in sys.modules])", tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
