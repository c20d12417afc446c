"""Fixtures that several test files use."""

import ctypes
import mmap

import numpy as np
import pytest

import fastconv
from fastconv import machine
from fastconv.ops import call

EXACT = call.EXACT


@pytest.fixture(params=machine.ISAS)
def isa(request, monkeypatch):
    """The test runs once with each instruction set of this machine."""
    clear = getattr(fastconv, "clear_caches", lambda: None)
    monkeypatch.setattr(machine, "ISA", request.param)
    clear()
    yield request.param
    clear()


@pytest.fixture
def modulo(monkeypatch):
    """modulo(True): integers are computed modulo 2**64 from now on, not in floats, however small they are."""
    return lambda on: monkeypatch.setattr(call, "EXACT", dict.fromkeys(EXACT, -1) if on else EXACT)


@pytest.fixture
def guarded():
    """guarded(array, side): a C-contiguous copy that ends or starts (side) at an inaccessible page.

    Any access beyond that side ends the process.
    """
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = mmap.PAGESIZE
    mapped = []

    def make(array, side="end"):
        inner = max(-(-array.nbytes // page), 1) * page
        memory = mmap.mmap(-1, inner + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for guard in (start, start + page + inner):
            if protect(guard, page, 0):
                pytest.skip("mprotect is refused here")
        mapped.append((start, inner + 2 * page))
        offset = page if side == "start" else page + inner - array.nbytes
        copy = np.ndarray(array.shape, array.dtype, buffer=memory, offset=offset)
        copy[...] = array
        return copy

    yield make
    for start, length in mapped:
        protect(start, length, mmap.PROT_READ | mmap.PROT_WRITE)
