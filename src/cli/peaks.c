#include "cli/peaks.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/vector.h"

#define ARRAY_FLOATS ((size_t)64 << 20)
#define PIECES 64
#define TRIES 5

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

struct work {
    double (*rounds)(long rounds);
    long count;
    double done[256]; // multiply-adds, by task
    const float *array;
    float sums[PIECES];
};

static void rounds_task(void *context, int task, int thread)
{
    (void)thread;
    struct work *work = context;
    work->done[task] = work->rounds(work->count);
}

VECTORIZED static float sum_of(const float *x, size_t count)
{
    vector_float sum[4] = {0};
    for (size_t i = 0; i + 4 * VECTOR_LANES <= count; i += 4 * VECTOR_LANES)
        for (int k = 0; k < 4; k++) sum[k] += vector_load(x + i + (size_t)k * VECTOR_LANES);
    return vector_sum(sum[0] + sum[1] + sum[2] + sum[3]);
}

static void read_task(void *context, int task, int thread)
{
    (void)thread;
    struct work *work = context;
    work->sums[task] = sum_of(work->array + (size_t)task * (ARRAY_FLOATS / PIECES), ARRAY_FLOATS / PIECES);
}

// Multiply-adds/s, the best of a few tries of some milliseconds.
static double rate_of(struct thread_pool *pool, double (*rounds)(long))
{
    struct work work = {.rounds = rounds, .count = 1000};
    int threads = thread_pool_size(pool);
    double best = 0;
    for (int i = 0; i < TRIES;) {
        double start = now(), done = 0;
        thread_pool_run(pool, threads, rounds_task, &work);
        double seconds = now() - start;
        for (int t = 0; t < threads; t++) done += work.done[t];
        if (seconds < 0.01) {
            work.count *= 2;
            continue;
        }
        if (done / seconds > best) best = done / seconds;
        i++;
    }
    return best;
}

// Two threads that hand a word to each other.
struct exchange {
    _Alignas(128) atomic_int word;
    double seconds;
};

enum { THEIRS, OURS, OVER };

static void hand_over(atomic_int *word)
{
    atomic_store(word, THEIRS);
    while (atomic_load(word) == THEIRS) {}
}

static void exchange_task(void *context, int task, int thread)
{
    (void)thread;
    struct exchange *e = context;
    for (int word; task == 1 && (word = atomic_load(&e->word)) != OVER;)
        if (word == THEIRS) atomic_store(&e->word, OURS);
    if (task == 1) return;
    hand_over(&e->word); // when the other one is there
    double begin = now(), last = begin;
    do { // the best of some: others may want the cores, too
        double start = last;
        for (int i = 0; i < 20; i++) hand_over(&e->word);
        last = now();
        double seconds = (last - start) / 40;
        if (e->seconds == 0 || seconds < e->seconds) e->seconds = seconds;
    } while (last - begin < 0.005);
    atomic_store(&e->word, OVER);
}

bool peaks_measure(struct thread_pool *pool, const struct kernel_set *kernels, struct peaks *peaks, struct error *error)
{
    float *array = memory_allocate(ARRAY_FLOATS, sizeof(float), error);
    if (!array) return false;
    memset(array, 0x3c, ARRAY_FLOATS * sizeof(float)); // pages that are really there
    peaks->dot_products = rate_of(pool, kernels->dot_product_rounds);
    peaks->multiply_adds = rate_of(pool, kernels->multiply_add_rounds);
    struct exchange exchange = {.word = OURS};
    if (thread_pool_size(pool) > 1) thread_pool_run(pool, 2, exchange_task, &exchange);
    peaks->exchange = exchange.seconds;
    struct work work = {.array = array};
    peaks->memory = 0;
    for (int i = 0; i < TRIES; i++) {
        double start = now();
        thread_pool_run(pool, PIECES, read_task, &work);
        double rate = (double)(ARRAY_FLOATS * sizeof(float)) / (now() - start);
        if (rate > peaks->memory) peaks->memory = rate;
    }
    memory_release(array);
    return true;
}
