"""One team of threads for all kernels of the process (team.h). Called by kernels only, which cimport `share`."""

from libc.stddef cimport ptrdiff_t

cdef extern from "team.h" nogil:
    void share_units "share"(unit_function unit, void* call, ptrdiff_t units, char* scratch, ptrdiff_t worker_bytes, int workers)


cdef void share(unit_function unit, void* call, Py_ssize_t units, char* scratch, Py_ssize_t worker_bytes,
                int workers) noexcept nogil:
    """unit(call, i, scratch of the worker) for each i in 0..units, once, in any order, on up to `workers` threads.

    Worker number j has scratch + j * worker_bytes. One worker starts no thread and touches nothing shared.
    """
    share_units(unit, call, units, scratch, worker_bytes, workers)
