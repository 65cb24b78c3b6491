// A thread pool: started once, sleeping when idle (after some microseconds). Work is a number of independent tasks. Each thread
// has its share of neighbouring tasks and helps the others when it is through with it: so in one piece of work after the other
// an image mostly stays with one thread and its caches, which matters where cores do not share them. Which thread computes a
// task is left open nevertheless, so a task must own what it writes. Sums that cross tasks are kept per task and added in task
// order by the caller, which makes every result independent of the number of threads.
#ifndef BASE_THREADS_H
#define BASE_THREADS_H

#include "base/error.h"

struct thread_pool;

// task: 0 <= task < tasks; thread: 0 <= thread < thread_pool_size(pool), for per-thread scratch.
typedef void (*thread_task)(void *context, int task, int thread);

// Cores that this process may run on (its affinity mask), at least 1.
int threads_available(void);

// threads: 1 to 256; the calling thread of thread_pool_run is one of them.
struct thread_pool *thread_pool_create(int threads, struct error *error);
void thread_pool_destroy(struct thread_pool *pool);
int thread_pool_size(const struct thread_pool *pool);

// Runs function(context, t, thread) for every t in [0, tasks) and returns when all are done.
// Not to be called from inside a task, nor from two threads at once.
void thread_pool_run(struct thread_pool *pool, int tasks, thread_task function, void *context);

#endif
