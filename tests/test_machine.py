"""Workers, threads, forks, signals, instruction sets: what a process may expect of the package."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastconv as fc
from fastconv import machine

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

PROLOGUE = """
import os, sys
import numpy as np
import fastconv as fc
from fastconv import machine

def threads():
    return len(os.listdir("/proc/self/task"))

x, w = np.ones((8, 32, 40, 40), np.float32), np.ones((32, 32, 3, 3), np.float32)
dy = np.ones((8, 32, 38, 38), np.float32)

def all_calls(workers):
    for method in ("direct", "im2col"):
        assert (fc.conv2d(x, w, method=method, workers=workers) == 288).all()
        fc.conv2d_input_grad(dy, w, x.shape, method=method, workers=workers)
        fc.conv2d_weight_grad(x, dy, w.shape, method=method, workers=workers)
        fc.conv_transpose2d(x, w, stride=2, method=method, workers=workers)
    fc.max_pool2d(x, 2, workers=workers)
    fc.avg_pool2d(x, 2, workers=workers)
"""


def run(code, timeout=60, **environment):
    """Run the code in a process of its own; its standard output."""
    names = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROLOGUE + textwrap.dedent(code)], env=inherited | environment, timeout=timeout,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- workers ---------------------------------------------------------------------------------------


def test_check_workers():
    assert machine.check_workers(None) is None
    assert machine.check_workers(np.int64(3)) == 3
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"workers: got {bad}; must be None or at least 1"):
            machine.check_workers(bad)
    for bad in (1.0, "2", (1,), 1j):
        with pytest.raises(TypeError, match="workers"):
            machine.check_workers(bad)
    for bad, error in [(0, ValueError), (1.5, TypeError)]:
        with pytest.raises(error, match="workers"):
            fc.set_workers(bad)


def test_set_workers():
    usual = machine.resolve_workers(None)
    assert 1 <= usual <= CORES
    with fc.set_workers(3):
        assert machine.resolve_workers(None) == 3
        assert machine.resolve_workers(2) == 2
        with fc.set_workers(None):
            assert machine.resolve_workers(None) == usual
        assert machine.resolve_workers(None) == 3
    assert machine.resolve_workers(None) == usual


@pytest.mark.processes
def test_workers_from_the_environment():
    assert run("print(machine.resolve_workers(None))", OMP_NUM_THREADS="1") == "1"
    assert run("print(machine.resolve_workers(None), machine.resolve_workers(7))") == f"{min(CORES, machine._quota)} 7"


@pytest.mark.processes
@linux
def test_workers_from_the_affinity():
    code = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(machine.resolve_workers(None))"
    assert run(code) == "1"
    assert run(f"import threading; {code}") == "1"


def test_workers_from_threadpoolctl():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    if not any(pool["user_api"] == "openmp" for pool in threadpoolctl.threadpool_info()):
        pytest.skip("no OpenMP runtime is loaded")
    usual = machine.resolve_workers(None)
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert machine.resolve_workers(None) == 1
        assert machine.resolve_workers(2) == 2
    assert machine.resolve_workers(None) == usual


@pytest.mark.processes
@linux
def test_one_worker_starts_no_thread():
    code = """
    before = threads()
    all_calls(1)
    with fc.set_workers(1):
        all_calls(None)
    assert threads() == before, (before, threads())
    fc.conv2d(x, w, method="direct", workers=3)
    print(threads() - before)
    """
    assert run(code) == ("2" if machine.cpu.openmp_version() else "0")


@pytest.mark.processes
@linux
def test_small_problems_start_no_thread():
    code = """
    before = threads()
    fc.conv2d(x[:1, :1], w[:1, :1], workers=4)
    fc.max_pool2d(x[:1, :1], 2, workers=4)
    print(threads() - before)
    """
    assert run(code) == "0"


@pytest.mark.processes
@linux
def test_more_workers_than_processors():
    """Threads that wait for the caller's own processor get it."""
    code = """
    before = threads()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for _ in range(5):
        all_calls(5)
    print(threads() - before)
    """
    assert run(code) == ("4" if machine.cpu.openmp_version() else "0")


# --- processes and threads -------------------------------------------------------------------------


@pytest.mark.processes
@linux
def test_fork_after_a_parallel_call():
    """The child has threads of its own: those of the parent are not there to wait for."""
    code = """
    all_calls(2)
    child = os.fork()
    if child == 0:
        before = threads()
        all_calls(2)
        os._exit(0 if threads() - before == (1 if machine.cpu.openmp_version() else 0) else 3)
    import time
    for _ in range(400):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        sys.exit("the child hangs")
    assert status == 0, status
    all_calls(2)
    print("done")
    """
    assert run(code) == "done"


@pytest.mark.processes
def test_multiprocessing():
    code = """
    import multiprocessing
    all_calls(2)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        jobs = [pool.apply_async(fc.conv2d, (x[:1], w), {"method": "direct"}) for _ in range(4)]
        assert all((job.get(timeout=30) == 288).all() for job in jobs)
    print("done")
    """
    assert run(code) == "done"


@pytest.mark.slow
def test_threads_at_once():
    """Several Python threads, several workers each: everybody gets the right bytes."""
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((2, 8, 20 + i, 30)).astype("f4") for i in range(6)]
    filters = rng.standard_normal((9, 8, 3, 3)).astype("f4")

    def work(i):
        x = images[i % 6]
        method = ("direct", "im2col")[i % 2]
        y = fc.conv2d(x, filters, method=method, workers=1 + i % 3)
        dx = fc.conv2d_input_grad(y, filters, x.shape, method=method, workers=1 + i % 3)
        return y.tobytes(), dx.tobytes(), fc.conv2d_weight_grad(x, y, filters.shape, method=method).tobytes()

    alone = [work(i) for i in range(6)]
    with ThreadPoolExecutor(4) as pool:
        for i, together in enumerate(pool.map(work, range(60))):
            assert together == alone[i % 6]


@pytest.mark.slow
def test_the_interpreter_is_free_during_a_call():
    """Another thread counts while kernels run. Holding the lock it could count only between calls."""
    x, w = np.ones((1, 64, 128, 128), np.float32), np.ones((64, 64, 3, 3), np.float32)
    ticks, stop = [], threading.Event()

    def count():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    fc.conv2d(x, w, workers=1, method="direct")  # plan and pages
    counter = threading.Thread(target=count)
    counter.start()
    try:
        inside = 0
        for _ in range(20):
            start = time.perf_counter()
            fc.conv2d(x, w, workers=1, method="direct")
            end = time.perf_counter()
            margin = (end - start) / 4
            inside += sum(start + margin < tick < end - margin for tick in ticks[-500:])
            if inside >= 3:
                break
    finally:
        stop.set()
        counter.join()
    assert inside >= 3


@pytest.mark.processes
def test_keyboard_interrupt():
    """Ctrl-C while calls run: an ordinary KeyboardInterrupt, and everything works afterwards."""
    code = """
    import signal, threading, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
    all_calls(2)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            fc.conv2d(x, w, workers=2)
        sys.exit("no interrupt")
    except KeyboardInterrupt:
        pass
    all_calls(1)
    all_calls(2)
    print("done")
    """
    assert run(code) == "done"


# --- instruction sets and configuration ------------------------------------------------------------


def test_isas():
    assert machine.ISAS[0] == machine.built_isas()[0]
    assert machine.ISAS[-1] == machine.ISA
    assert set(machine.ISAS) <= set(machine.built_isas())


@pytest.mark.processes
def test_isa_from_the_environment():
    for isa in machine.ISAS:
        assert run("print(machine.ISA); all_calls(1)", FASTCONV_ISA=isa) == isa
    code = "import fastconv"
    environment = os.environ | {"FASTCONV_ISA": "avx1024"}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError: FASTCONV_ISA: got 'avx1024'; must be one of baseline, avx2, avx512" in done.stderr


def test_importing_changes_no_floating_point_mode():
    tiny = np.array([np.finfo(np.float32).smallest_subnormal])
    assert (tiny * np.float32(1) != 0).all()
    y = fc.conv2d(np.full((1, 1, 1, 1), tiny[0]), np.ones((1, 1, 1, 1), np.float32))
    assert y == tiny[0]  # subnormal numbers are not flushed


def test_show_config(capsys):
    fc.show_config()
    text = capsys.readouterr().out
    words = fc.__version__, "compiler", "instruction sets", machine.ISA, "openmp", "workers", "caches", *fc.METHODS
    for word in words:
        assert word in text


def test_scratch_is_aligned_and_kept():
    fc.clear_caches()
    buffer = machine.take_scratch(1000)
    assert buffer.nbytes >= 1000
    assert buffer.ctypes.data % 64 == 0
    other = machine.take_scratch(1000)
    assert not np.shares_memory(buffer, other)
    machine.give_scratch(buffer)
    assert machine.take_scratch(500) is buffer
    machine.give_scratch(buffer)
    assert machine.take_scratch(5000).nbytes >= 5000
    fc.clear_caches()
