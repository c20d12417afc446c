"""The threads that share a call's units of work: what src_cython/team.pyx offers to the kernels (see team.h there)."""

ctypedef void (*unit_function)(void* call, Py_ssize_t unit, char* scratch) noexcept nogil

cdef void share(unit_function unit, void* call, Py_ssize_t units, char* scratch, Py_ssize_t worker_bytes,
                int workers) noexcept nogil
