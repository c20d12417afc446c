"""The compiled half of the build; all metadata is in pyproject.toml.

Each module of MODULES is compiled once per instruction set into ``fastconv._kernels.<isa>``, each of
COMMON once; Cython runs once for each. ``fastconv/machine.py`` picks a set at import by CPUID: nothing
here looks at the build host's CPU. Environment: ``FASTCONV_NO_OPENMP=1`` builds without threads,
``FASTCONV_SANITIZE=1`` with the address and undefined-behaviour sanitizers (see tools/sanitize.sh),
``FASTCONV_SETS="common avx512"`` these sets only (to try a kernel in place, beside sets built before).
"""

import os
import platform
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULES = ("rows", "gemm", "winograd", "pool", "direct", "separable", "fft")  # those that take longest first
COMMON = ("cpu", "team", "windows")
UTILITY = "fastconv._kernels._cyutility"  # Cython's memoryview code, compiled once for all modules

X86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
# What machine.py asks CPUID for must stay in step with these flags (src_cython/cpu.pyx).
ISA_FLAGS = {"baseline": []}
if X86:
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma"]
    ISA_FLAGS["avx512"] = [
        "-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mprefer-vector-width=512",
    ]  # fmt: skip

# No -ffast-math: linked into a library it makes the whole process flush denormals to zero.
CFLAGS = [
    "-O3", "-g0", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-fno-split-loops",  # it writes tiles twice, for the last vector of a row, and compiling takes twice as long
    "-Wno-unused-function", "-Wno-psabi",
]  # fmt: skip
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1", "-O1"]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "freethreading_compatible": False,
}


def sources(name):
    return [f"src_cython/{name}.pyx"]


def sets(modules):
    """The extensions of each set, from those made once of each source.

    The sets share the generated C; each has copies, since an object file lies where its source does.
    """
    by_name = {module.name.rpartition(".")[2]: module for module in modules}
    yield "common", [by_name[name] for name in (*COMMON, UTILITY.rpartition(".")[2])]
    for isa, flags in ISA_FLAGS.items():
        folder = Path("build", "cython", isa)
        folder.mkdir(parents=True, exist_ok=True)
        copies = []
        for name in MODULES:
            module = by_name[name]
            source = folder / f"{name}.c"
            code = Path(module.sources[0]).read_bytes()
            if not source.is_file() or source.read_bytes() != code:
                source.write_bytes(code)
            options = {"include_dirs": module.include_dirs, "depends": module.depends, "extra_compile_args": flags}
            copies.append(Extension(f"fastconv._kernels.{isa}.{name}", [str(source)], **options))
        yield isa, copies


class BuildKernels(build_ext):
    """cythonize each module once, then compile it for each set, in parallel."""

    def finalize_options(self):
        from Cython.Build import cythonize

        headers = [str(p) for pattern in ("*.pxd", "*.h", "simd/*.h") for p in sorted(Path("src_cython").glob(pattern))]
        options = {"include_dirs": ["src_cython", "src_cython/simd"], "depends": headers}
        modules = cythonize(
            [Extension(f"fastconv._kernels.{name}", sources(name), **options) for name in (*COMMON, *MODULES)]
            + [Extension(UTILITY, [])],
            build_dir=os.path.join("build", "cython"),
            compiler_directives=DIRECTIVES,
            shared_utility_qualified_name=UTILITY,
            include_path=["src_cython", "."],
        )
        wanted = (os.environ.get("FASTCONV_SETS") or " ".join(["common", *ISA_FLAGS])).split()
        self.distribution.ext_modules = [
            extension for folder, extensions in sets(modules) if folder in wanted for extension in extensions
        ]
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count()

    def build_extensions(self):
        if self.compiler.compiler_type != "unix":
            sys.exit("fastconv is written for GCC or Clang (vector extensions); this compiler is neither")
        compile_args, link_args = list(CFLAGS), []
        if os.environ.get("FASTCONV_SANITIZE") == "1":
            compile_args += SANITIZE
            link_args += SANITIZE[:1]
        if not self.compiles(VECTOR_PROBE, compile_args, link_args):
            sys.exit("fastconv is written for GCC 12 or Clang (vector extensions); this compiler can't build them")
        if os.environ.get("FASTCONV_NO_OPENMP") != "1":
            for openmp_compile, openmp_link in OPENMP_FLAGS:
                if self.compiles(OPENMP_PROBE, compile_args + openmp_compile, link_args + openmp_link):
                    compile_args += openmp_compile
                    link_args += openmp_link
                    break
            else:
                print("fastconv: no OpenMP found; building without threads")
        # Objects made with other flags are stale: the stamp gets younger than they are.
        stamp, flags = Path("build", "flags"), " ".join(compile_args + link_args)
        if not stamp.is_file() or stamp.read_text() != flags:
            stamp.parent.mkdir(exist_ok=True)
            stamp.write_text(flags)
        for extension in self.extensions:
            extension.extra_compile_args = compile_args + (extension.extra_compile_args or [])
            extension.extra_link_args = link_args
            extension.depends = [*extension.depends, str(stamp)]
        super().build_extensions()

    def copy_extensions_to_source(self):
        """In place: the folders of the instruction sets hold compiled modules only, so they may be missing."""
        for isa in ISA_FLAGS:
            Path("fastconv", "_kernels", isa).mkdir(exist_ok=True)
        super().copy_extensions_to_source()

    def compiles(self, code, compile_args, link_args):
        """Does the compiler make a program of this?"""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(code)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=compile_args)
                self.compiler.link_executable(objects, str(Path(folder, "probe")), extra_postargs=link_args)
            except Exception:  # whatever the compiler driver raises: the answer is no
                return False
        return True


VECTOR_PROBE = """
typedef float v __attribute__((vector_size(16)));
int main(void) { v a = {1}; a += a; a = __builtin_shufflevector(a, a, 0, 4, 1, 5); return a[0] != 2; }
"""
OPENMP_PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
OPENMP_FLAGS = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]

setup(
    # The real list is made in BuildKernels, so that making metadata needs no Cython run;
    # these names only say that there is something to compile, and what an sdist must hold.
    ext_modules=[Extension(f"fastconv._kernels.{name}", sources(name)) for name in (*COMMON, *MODULES)],
    cmdclass={"build_ext": BuildKernels},
)
