/* The threads that share a call's units of work. One team a process, in the module `team`; kernels reach it by `share`.

   A call is cut into units, numbered from 0; the numbers are cut into one range for each worker. Who is through with its own
   range takes units of the others': nobody waits for a unit that nobody has begun, and a thread that the system does not
   let run costs no more than its help. The caller is worker 0. The others take seats: when no unit is left the caller closes
   those that are still empty, and waits for those who sit.

   OpenMP's barrier waits for every thread, also for one that waits for a processor: with another library's threads
   spinning on it, for tens of milliseconds. That is all the reason for this file. OpenMP still says how many there may be.

   Knows no kernel. Idle threads look for work for IDLE_NS, then they sleep; they start when they are first needed and
   stay. Calls that come from two threads at once don't wait: the later one works alone. A forked child starts a team of its
   own. Without OpenMP, or without a thread to be had, the caller does it all. */
#ifndef TEAM_H
#define TEAM_H
#include <stddef.h>

typedef void (*unit_function)(void *call, ptrdiff_t unit, char *scratch);

#ifdef _OPENMP
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

enum { SPIN_NS = 50000, IDLE_NS = 2000000, WORKERS = 256, SEAT = 1 << 16 };

static struct {
    unit_function unit;
    void *call;
    char *scratch;
    ptrdiff_t worker_bytes;
    int workers;
    struct { ptrdiff_t next, last; char apart[128 - 2 * sizeof(ptrdiff_t)]; } range[WORKERS];  /* no two in a pair of lines */
    int seats; /* SEAT for each empty one, 1 for each taken one */
    int busy, threads, sleepers;
    pthread_mutex_t lock;
    pthread_cond_t wake;
} team = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void work(int worker) {
    for (int i = 0; i < team.workers; ++i) {
        int of = (worker + i) % team.workers;
        while (__atomic_load_n(&team.range[of].next, __ATOMIC_RELAXED) < team.range[of].last) {
            ptrdiff_t unit = __atomic_fetch_add(&team.range[of].next, 1, __ATOMIC_RELAXED);
            if (unit < team.range[of].last) team.unit(team.call, unit, team.scratch + worker * team.worker_bytes);
        }
    }
}

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* One moment of waiting. Whoever is waited for may wait for this very processor, so yield; but not soon, since that gives
   it to anybody else too, for milliseconds. */
static void wait_on(long long waited) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield" ::: "memory");
#endif
    if (waited > SPIN_NS) sched_yield();
}

static int take_seat(void) {
    int seats = __atomic_load_n(&team.seats, __ATOMIC_SEQ_CST);
    while (seats >= SEAT)
        if (__atomic_compare_exchange_n(&team.seats, &seats, seats - SEAT + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            work(team.workers - seats / SEAT);
            __atomic_sub_fetch(&team.seats, 1, __ATOMIC_RELEASE);
            return 1;
        }
    return 0;
}

static void *member(void *nothing) {
    for (;;) {
        for (long long since = now_ns(), now = since; now - since < IDLE_NS; now = now_ns()) {
            if (take_seat()) since = now_ns();
            wait_on(now - since);
        }
        pthread_mutex_lock(&team.lock);
        __atomic_add_fetch(&team.sleepers, 1, __ATOMIC_SEQ_CST); /* before the look at the seats, which the caller fills before its look here */
        while (__atomic_load_n(&team.seats, __ATOMIC_SEQ_CST) < SEAT) pthread_cond_wait(&team.wake, &team.lock);
        __atomic_sub_fetch(&team.sleepers, 1, __ATOMIC_SEQ_CST);
        pthread_mutex_unlock(&team.lock);
    }
    return nothing;
}

static void forked(void) {
    team.seats = team.busy = team.threads = team.sleepers = 0;
    pthread_mutex_init(&team.lock, NULL);
    pthread_cond_init(&team.wake, NULL);
}

/* Signals go on to the threads that Python knows. */
static void start(int threads) {
    static int registered;
    sigset_t all, before;
    pthread_attr_t detached;
    pthread_t thread;
    if (!registered) registered = pthread_atfork(NULL, NULL, forked) == 0;
    if (!registered || pthread_attr_init(&detached)) return;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (team.threads < threads && pthread_create(&thread, &detached, member, NULL) == 0) ++team.threads;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
}

static void share_with_team(unit_function unit, void *call, ptrdiff_t units, char *scratch, ptrdiff_t worker_bytes, int workers) {
    team.unit = unit, team.call = call, team.scratch = scratch, team.worker_bytes = worker_bytes, team.workers = workers;
    for (int i = 0; i < workers; ++i) {
        team.range[i].next = units * i / workers;
        team.range[i].last = units * (i + 1) / workers;
    }
    start(workers - 1);
    __atomic_store_n(&team.seats, (workers - 1) * SEAT, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&team.sleepers, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&team.lock);
        for (int i = 1; i < workers; ++i) pthread_cond_signal(&team.wake);
        pthread_mutex_unlock(&team.lock);
    }
    work(0);
    if (!__atomic_and_fetch(&team.seats, SEAT - 1, __ATOMIC_ACQUIRE)) return;
    for (long long since = now_ns(); __atomic_load_n(&team.seats, __ATOMIC_ACQUIRE);) wait_on(now_ns() - since);
}
#endif

/* unit(call, i, scratch of the worker) for each i in 0..units, each once, in any order, on up to `workers` threads. One
   worker starts no thread and touches nothing shared. */
static void share(unit_function unit, void *call, ptrdiff_t units, char *scratch, ptrdiff_t worker_bytes, int workers) {
    if (workers > units) workers = units;
#ifdef _OPENMP
    if (workers > WORKERS) workers = WORKERS;
    if (workers > 1 && !__atomic_exchange_n(&team.busy, 1, __ATOMIC_ACQUIRE)) {
        share_with_team(unit, call, units, scratch, worker_bytes, workers);
        __atomic_store_n(&team.busy, 0, __ATOMIC_RELEASE);
        return;
    }
#endif
    for (ptrdiff_t i = 0; i < units; ++i) unit(call, i, scratch);
}
#endif
