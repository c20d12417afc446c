#!/usr/bin/env bash
# Build the kernels with the address and undefined-behaviour sanitizers, and run the tests on them.
# Arguments go to pytest; without any: all but slow ones and those that start processes.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
compiler=${CC:-$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("CC").split()[0])')}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The interpreter isn't built with the sanitizers, so their runtime must be loaded before it.
if "$compiler" --version 2>/dev/null | grep -qi clang; then
    runtime=$("$compiler" -print-file-name="libclang_rt.asan-$(uname -m).so")
    [ -e "$runtime" ] || runtime=$("$compiler" -print-file-name="libclang_rt.asan.so")
else
    runtime=$("$compiler" -print-file-name=libasan.so 2>/dev/null || true)
fi
echo 'int main(void) { return 0; }' >"$work/probe.c"
if [ "$(uname -s)" != Linux ] || [ ! -e "$runtime" ] ||
    ! "$compiler" -fsanitize=address,undefined "$work/probe.c" -o "$work/probe" 2>/dev/null; then
    echo "sanitize.sh: $compiler has no sanitizer runtime here; nothing was checked"
    exit 0
fi
runtime=$(realpath "$runtime") # a linker script or symbolic link can't be preloaded everywhere

# Only kernels that run are worth building: those of FASTCONV_ISA, or the best that this processor has. Where nobody can
# tell (no fastconv here yet), all.
sets=$("$python" -P -c 'from fastconv import machine; print("common", machine.ISA)' 2>/dev/null) || sets=
"$python" -m venv "$work/venv"
FASTCONV_SETS=$sets FASTCONV_SANITIZE=1 CC=$compiler "$work/venv/bin/pip" install --quiet --disable-pip-version-check ".[test]"

if [ $# -eq 0 ]; then
    set -- -q -n auto -m "not slow and not processes"
    for python_only in nn cli compat doctests examples planner problem tuning; do
        set -- "$@" --ignore-glob="*test_$python_only*"
    done
fi
# A size that can't be had must come back as MemoryError, and the interpreter's own leaks are none of ours.
LD_PRELOAD=$runtime \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
    PYTHONMALLOC=malloc PYTHONSAFEPATH=1 \
    "$work/venv/bin/pytest" -p no:cacheprovider "$@"
