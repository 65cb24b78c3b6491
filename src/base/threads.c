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

struct thread_pool {
    int size;
    struct worker *workers; // size - 1 of them; the caller is thread 0
    int started;
    pthread_mutex_t mutex;
    pthread_cond_t work_ready, work_done;
    unsigned generation; // counts the calls of thread_pool_run
    int running;         // workers that have not finished the present generation
    bool stopping;
    thread_task function;
    void *context;
    int tasks;
    atomic_int next;
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
    int task;
    while ((task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed)) < pool->tasks)
        pool->function(pool->context, task, thread);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct thread_pool *pool = worker->pool;
    unsigned seen = 0;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (!pool->stopping && pool->generation == seen) pthread_cond_wait(&pool->work_ready, &pool->mutex);
        if (pool->stopping) break;
        seen = pool->generation;
        pthread_mutex_unlock(&pool->mutex);
        run_tasks(pool, worker->thread);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->running == 0) pthread_cond_signal(&pool->work_done);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

struct thread_pool *thread_pool_create(int threads, struct error *error)
{
    if (threads < 1 || threads > 256) {
        error_set(error, "%d threads: expected 1 to 256", threads);
        return NULL;
    }
    struct thread_pool *pool = calloc(1, sizeof *pool);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!pool || !workers) {
        free(pool);
        free(workers);
        error_set(error, "out of memory: cannot create a pool of %d threads", threads);
        return NULL;
    }
    pool->size = threads;
    pool->workers = workers;
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
    pthread_cond_broadcast(&pool->work_ready);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < pool->started; i++) pthread_join(pool->workers[i].handle, NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->work_ready);
    pthread_cond_destroy(&pool->work_done);
    free(pool->workers);
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
    pool->tasks = tasks;
    atomic_store(&pool->next, 0);
    bool parallel = pool->size > 1 && tasks > 1;
    if (parallel) {
        pthread_mutex_lock(&pool->mutex);
        pool->running = pool->size - 1;
        pool->generation++;
        pthread_cond_broadcast(&pool->work_ready);
        pthread_mutex_unlock(&pool->mutex);
    }
    run_tasks(pool, 0);
    if (!parallel) return;
    pthread_mutex_lock(&pool->mutex);
    while (pool->running > 0) pthread_cond_wait(&pool->work_done, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}
