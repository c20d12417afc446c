"""What the processor and the OpenMP runtime say of themselves. Compiled once, for the plainest CPU.

Called by fastconv/machine.py alone. Knows no kernel and makes no choice.
"""

cdef extern from *:
    """
    #include <unistd.h>
    #ifdef _OPENMP
    #include <omp.h>
    #define OPENMP_VERSION _OPENMP
    #else
    #define OPENMP_VERSION 0
    #define omp_get_max_threads() 1
    #define omp_get_num_procs() 1
    #define omp_get_thread_limit() 1
    #endif

    /* In step with ISA_FLAGS in setup.py. GCC and Clang ask the operating system (XGETBV) as well. */
    #if defined(__x86_64__) || defined(__i386__)
    static int cpu_has_avx2(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
    static int cpu_has_avx512(void) {
        return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
            && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    }
    #else
    static int cpu_has_avx2(void) { return 0; }
    static int cpu_has_avx512(void) { return 0; }
    #endif

    #ifdef _SC_LEVEL1_DCACHE_SIZE
    static long cache_bytes(int level) {
        return sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : level == 2 ? _SC_LEVEL2_CACHE_SIZE
                                                                        : _SC_LEVEL3_CACHE_SIZE);
    }
    #else
    static long cache_bytes(int level) { (void)level; return 0; }
    #endif
    """
    const int OPENMP_VERSION
    const char* COMPILER "__VERSION__"
    int omp_get_max_threads() noexcept
    int omp_get_num_procs() noexcept
    int omp_get_thread_limit() noexcept
    int cpu_has_avx2() noexcept
    int cpu_has_avx512() noexcept
    long cache_bytes(int level) noexcept


def instruction_sets() -> tuple:
    """The kernel sets this processor can run, plainest first."""
    names = ["baseline"]
    if cpu_has_avx2():
        names.append("avx2")
    if cpu_has_avx512():
        names.append("avx512")
    return tuple(names)


def openmp_threads() -> int:
    """How many threads OpenMP would start now: its settings and the CPU affinity, read at every call."""
    return min(omp_get_max_threads(), omp_get_num_procs(), omp_get_thread_limit())


def cache_sizes() -> tuple:
    """Bytes of the data caches of level 1, 2 and 3, as the operating system tells; 0 where it doesn't."""
    return max(cache_bytes(1), 0), max(cache_bytes(2), 0), max(cache_bytes(3), 0)


def compiler() -> str:
    return COMPILER.decode()


def openmp_version() -> int:
    """The date of the OpenMP standard built against (yyyymm), 0 without OpenMP."""
    return OPENMP_VERSION
