#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

struct worker {
    struct thread_pool *pool;
    pthread_t handle;
    int thread;
};

// The tasks of one thread that nobody has begun. On cache lines of its own (neighbours are fetched in pairs).
struct share {
    atomic_int next;
    int end;
    char unused[128 - 2 * sizeof(int)];
};

struct thread_pool {
    int size;
    struct worker *workers; // size - 1 of them; the caller is thread 0
    int started;
    pthread_mutex_t mutex;
    pthread_cond_t work_ready, work_done;
    atomic_uint generation; // counts the calls of thread_pool_run
    atomic_int running;     // workers that have not finished the present generation
    bool stopping;
    thread_task function;
    void *context;
    struct share *shares; // [size]
};

int threads_available(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : count > 256 ? 256 : count;
}

static void run_tasks(struct thread_pool *pool, int thread)
{
    for (int k = 0; k < pool->size; k++) {
        struct share *share = &pool->shares[(thread + k) % pool->size];
        int task;
        while ((task = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed)) < share->end)
            pool->function(pool->context, task, thread);
    }
}

static inline void pause_a_little(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

// The next piece of work of a training step comes within some microseconds; waking a sleeping thread takes longer. So a
// thread looks for SPINS turns (10 to 50 microseconds) before it sleeps, which is too short to take a core from anybody.
#define SPINS 1000

static void wait_for_work(struct thread_pool *pool, unsigned seen)
{
    for (int i = 0; i < SPINS && atomic_load(&pool->generation) == seen; i++) pause_a_little();
    if (atomic_load(&pool->generation) != seen) return;
    pthread_mutex_lock(&pool->mutex);
    while (!pool->stopping && atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->work_ready, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

static void wait_for_workers(struct thread_pool *pool)
{
    for (int i = 0; i < SPINS && atomic_load(&pool->running) > 0; i++) pause_a_little();
    if (atomic_load(&pool->running) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load(&pool->running) > 0) pthread_cond_wait(&pool->work_done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct thread_pool *pool = worker->pool;
    for (unsigned seen = 0;; seen++) {
        wait_for_work(pool, seen);
        if (pool->stopping) return NULL;
        run_tasks(pool, worker->thread);
        if (atomic_fetch_sub(&pool->running, 1) > 1) continue;
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_signal(&pool->work_done);
        pthread_mutex_unlock(&pool->mutex);
    }
}

struct thread_pool *thread_pool_create(int threads, struct error *error)
{
    if (threads < 1 || threads > 256) {
        error_set(error, "%d threads: expected 1 to 256", threads);
        return NULL;
    }
    struct thread_pool *pool = calloc(1, sizeof *pool);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    struct share *shares = aligned_alloc(sizeof *shares, (size_t)threads * sizeof *shares);
    if (!pool || !workers || !shares) {
        free(pool);
        free(workers);
        free(shares);
        error_set(error, "out of memory: cannot create a pool of %d threads", threads);
        return NULL;
    }
    pool->size = threads;
    pool->workers = workers;
    pool->shares = shares;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work_ready, NULL);
    pthread_cond_init(&pool->work_done, NULL);
    for (int i = 0; i < threads - 1; i++) {
        workers[i] = (struct worker){.pool = pool, .thread = i + 1};
        if (pthread_create(&workers[i].handle, NULL, worker_main, &workers[i]) != 0) {
            error_set(error, "cannot start thread %d of %d", i + 2, threads);
            thread_pool_destroy(pool);
            return NULL;
        }
        pool->started++;
    }
    return pool;
}

void thread_pool_destroy(struct thread_pool *pool)
{
    if (!pool) return;
    pthread_mutex_lock(&pool->mutex);
    pool->stopping = true;
    atomic_fetch_add(&pool->generation, 1);
    pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < pool->started; i++) pthread_join(pool->workers[i].handle, NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->work_ready);
    pthread_cond_destroy(&pool->work_done);
    free(pool->workers);
    free(pool->shares);
    free(pool);
}

int thread_pool_size(const struct thread_pool *pool)
{
    return pool->size;
}

void thread_pool_run(struct thread_pool *pool, int tasks, thread_task function, void *context)
{
    pool->function = function;
    pool->context = context;
    for (int t = 0; t < pool->size; t++) {
        pool->shares[t].end = (int)((long)tasks * (t + 1) / pool->size);
        atomic_store_explicit(&pool->shares[t].next, (int)((long)tasks * t / pool->size), memory_order_relaxed);
    }
    bool parallel = pool->size > 1 && tasks > 1;
    if (parallel) {
        pthread_mutex_lock(&pool->mutex);
        atomic_store(&pool->running, pool->size - 1);
        atomic_fetch_add(&pool->generation, 1);
        pthread_cond_broadcast(&pool->work_ready);
        pthread_mutex_unlock(&pool->mutex);
    }
    run_tasks(pool, 0);
    if (parallel) wait_for_workers(pool);
}
