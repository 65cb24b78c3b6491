// The prefetching loader: threads that prepare some pictures of a batch at a time, a few batches ahead.
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/threads.h"
#include "data/prepare.h"

#define BUFFERS 3
#define MOST_THREADS 64

struct buffer {
    float *input;    // [crops][batch][channels][height][width]
    int *labels, *pictures;
    int images;      // of the batch; 0: the end of the test split
    int taken, done; // pictures that threads have begun, and finished
    bool failed;     // a picture of it keeps the run from going on; why, `error` says
    struct error error;
    uint64_t epoch;
};

struct loader {
    struct loader_request request;
    struct split *split;
    int *order;             // of the epoch of the newest buffer
    int thread_count, chunk; // pictures that a thread takes at a time
    size_t picture_floats;
    struct buffer buffers[BUFFERS];
    struct preparer *preparers[MOST_THREADS]; // one a thread
    pthread_t threads[MOST_THREADS];
    // The consumer's alone:
    int running;            // threads
    bool held;              // it has the oldest buffer
    double waited;
    // Guarded by the mutex, and what changes in the buffers, too:
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stopping;
    int oldest, open;       // the oldest buffer in use, and how many are
    uint64_t epoch;         // of the next buffer
    int next_batch;
};

struct thread_argument {
    struct loader *loader;
    int thread;
};

int loader_batches_per_epoch(const struct loader *loader)
{
    int whole = loader->split->count / loader->request.batch;
    return loader->request.training || loader->split->count % loader->request.batch == 0 ? whole : whole + 1;
}

// ---------------------------------------------------------------------------------------------
// The threads' work

// Begins the next batch: which pictures it has. The mutex is held.
static void open_buffer(struct loader *loader)
{
    const struct loader_request *r = &loader->request;
    struct buffer *buffer = &loader->buffers[(loader->oldest + loader->open++) % BUFFERS];
    if (r->training && loader->next_batch == loader_batches_per_epoch(loader)) {
        loader->next_batch = 0;
        shuffle_order(loader->order, loader->split->count, r->seed, ++loader->epoch);
    }
    int first = loader->next_batch * r->batch, left = loader->split->count - first;
    buffer->images = left < r->batch ? (left > 0 ? left : 0) : r->batch;
    buffer->taken = buffer->done = 0;
    buffer->failed = false;
    buffer->epoch = loader->epoch;
    for (int i = 0; i < buffer->images; i++) buffer->pictures[i] = r->training ? loader->order[first + i] : first + i;
    loader->next_batch += buffer->images > 0;
    if (buffer->images == 0) pthread_cond_broadcast(&loader->changed);
}

// The buffer whose pictures are to be prepared next; NULL: there is nothing to do now, or after a failure nothing more. The
// mutex is held.
static struct buffer *buffer_with_work(struct loader *loader)
{
    struct buffer *newest = loader->open ? &loader->buffers[(loader->oldest + loader->open - 1) % BUFFERS] : NULL;
    for (int i = 0; i < loader->open; i++)
        if (loader->buffers[(loader->oldest + i) % BUFFERS].failed) return NULL;
    if (newest && newest->taken < newest->images) return newest;
    bool ended = newest && newest->images == 0;
    if (ended || loader->open == BUFFERS) return NULL;
    open_buffer(loader);
    newest = &loader->buffers[(loader->oldest + loader->open - 1) % BUFFERS];
    return newest->images ? newest : NULL;
}

static bool prepare_some(struct loader *loader, int thread, struct buffer *buffer, int first, int count, struct error *error)
{
    const struct place place = {buffer->input, (size_t)loader->request.batch * loader->picture_floats, loader->picture_floats};
    for (int i = first; i < first + count; i++)
        if (!prepare_picture(loader->preparers[thread], buffer->epoch, &buffer->pictures[i], &place, i, error)) return false;
    for (int i = first; i < first + count; i++)
        buffer->labels[i] = buffer->pictures[i] < 0 ? -1 : loader->split->labels[buffer->pictures[i]];
    return true;
}

static void *loader_main(void *pointer)
{
    struct thread_argument *argument = pointer;
    struct loader *loader = argument->loader;
    int thread = argument->thread;
    memory_release(argument);
    pthread_mutex_lock(&loader->mutex);
    while (!loader->stopping) {
        struct buffer *buffer = buffer_with_work(loader);
        if (!buffer) {
            pthread_cond_wait(&loader->changed, &loader->mutex);
            continue;
        }
        int first = buffer->taken, left = buffer->images - first, count = left < loader->chunk ? left : loader->chunk;
        struct error error;
        buffer->taken += count;
        pthread_mutex_unlock(&loader->mutex);
        bool good = prepare_some(loader, thread, buffer, first, count, &error);
        pthread_mutex_lock(&loader->mutex);
        buffer->done += count;
        if (!good && !buffer->failed) {
            buffer->failed = true;
            buffer->error = error;
        }
        if (!good || buffer->done == buffer->images) pthread_cond_broadcast(&loader->changed);
    }
    pthread_mutex_unlock(&loader->mutex);
    return NULL;
}

static void stop(struct loader *loader)
{
    pthread_mutex_lock(&loader->mutex);
    loader->stopping = true;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->mutex);
    for (; loader->running > 0; loader->running--) pthread_join(loader->threads[loader->running - 1], NULL);
}

static bool start_thread(struct loader *loader, struct error *error)
{
    struct thread_argument *argument = memory_allocate(1, sizeof *argument, error);
    if (!argument) return false;
    *argument = (struct thread_argument){loader, loader->running};
    if (pthread_create(&loader->threads[loader->running], NULL, loader_main, argument) == 0) {
        loader->running++;
        return true;
    }
    memory_release(argument);
    return error_set(error, "cannot start thread %d of the loader", loader->running + 1);
}

bool loader_start(struct loader *loader, uint64_t epoch, int first_batch, struct error *error)
{
    stop(loader);
    if (first_batch < 0 || first_batch > loader_batches_per_epoch(loader))
        return error_set(error, "batch %d of an epoch of %d batches does not exist", first_batch, loader_batches_per_epoch(loader));
    loader->stopping = loader->held = false;
    loader->oldest = loader->open = 0;
    loader->waited = 0;
    loader->epoch = epoch;
    loader->next_batch = first_batch;
    if (loader->request.training) shuffle_order(loader->order, loader->split->count, loader->request.seed, epoch);
    for (int i = 0; i < loader->thread_count; i++)
        if (!start_thread(loader, error)) return false;
    return true;
}

// ---------------------------------------------------------------------------------------------
// The consumer

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// Pictures of the test split that could not be read leave the batch.
static int close_gaps(struct loader *loader, struct buffer *buffer)
{
    size_t size = loader->picture_floats, stride = (size_t)loader->request.batch * size;
    int kept = 0;
    for (int i = 0; i < buffer->images; i++) {
        if (buffer->labels[i] < 0) continue;
        for (int k = 0; k < loader->request.crops && kept < i; k++) {
            float *crop = buffer->input + (size_t)k * stride;
            memcpy(crop + (size_t)kept * size, crop + (size_t)i * size, size * sizeof *crop);
        }
        buffer->labels[kept] = buffer->labels[i];
        buffer->pictures[kept++] = buffer->pictures[i];
    }
    return kept;
}

static bool is_ready(const struct loader *loader)
{
    const struct buffer *buffer = &loader->buffers[loader->oldest];
    return loader->open > 0 && (buffer->failed || buffer->done == buffer->images);
}

// The oldest buffer once it is ready or has failed. A failed one, or the end of the split, stays the oldest. So a run gets all batches
// before the one that stops it, however far ahead the threads were.
static struct buffer *wait_for_buffer(struct loader *loader)
{
    pthread_mutex_lock(&loader->mutex);
    if (loader->held && loader->buffers[loader->oldest].images > 0 && !loader->buffers[loader->oldest].failed) {
        loader->oldest = (loader->oldest + 1) % BUFFERS;
        loader->open--;
        pthread_cond_broadcast(&loader->changed);
    }
    if (!is_ready(loader)) {
        double start = now();
        while (!is_ready(loader)) pthread_cond_wait(&loader->changed, &loader->mutex);
        loader->waited += now() - start;
    }
    loader->held = true;
    pthread_mutex_unlock(&loader->mutex);
    return &loader->buffers[loader->oldest];
}

bool loader_next(struct loader *loader, struct batch *batch, struct error *error)
{
    const struct loader_request *r = &loader->request;
    for (;;) {
        struct buffer *buffer = wait_for_buffer(loader);
        if (buffer->failed) return error_set(error, "%s", buffer->error.message);
        int images = r->training ? buffer->images : close_gaps(loader, buffer);
        *batch = (struct batch){images, buffer->input, buffer->labels, buffer->pictures, r->crops, (size_t)r->batch * loader->picture_floats};
        if (images > 0 || buffer->images == 0) return true;
    }
}

double loader_waited_seconds(const struct loader *loader)
{
    return loader->waited;
}

// ---------------------------------------------------------------------------------------------

static bool allocate(struct loader *loader, struct error *error)
{
    const struct loader_request *r = &loader->request;
    size_t batch = (size_t)r->batch;
    if (!(loader->order = memory_allocate((size_t)loader->split->count, sizeof(int), error))) return false;
    for (int i = 0; i < BUFFERS; i++) {
        struct buffer *b = &loader->buffers[i];
        b->input = memory_allocate((size_t)r->crops * batch * loader->picture_floats + 64, sizeof(float), error);
        b->labels = memory_allocate(batch, sizeof(int), error);
        b->pictures = memory_allocate(batch, sizeof(int), error);
        if (!b->input || !b->labels || !b->pictures) return false;
    }
    for (int i = 0; i < loader->thread_count; i++)
        if (!(loader->preparers[i] = preparer_create(r, loader->split, error))) return false;
    return true;
}

bool loader_create(const struct loader_request *request, struct loader **result, struct error *error)
{
    const struct dataset *d = request->dataset;
    const struct split *split = request->training ? &d->train : &d->test;
    if (request->batch < 1 || (request->training && request->batch > split->count))
        return error_set(error, "batch=%d: expected 1 to %d, the number of training pictures", request->batch, split->count);
    struct loader *loader = memory_allocate(1, sizeof *loader, error);
    if (!loader) return false;
    *loader = (struct loader){.request = *request, .split = (struct split *)(uintptr_t)split};
    if (request->training || request->crops != 10) loader->request.crops = 1;
    int threads = d->settings.threads ? d->settings.threads : split->pixels ? 1 : threads_available();
    loader->thread_count = threads < MOST_THREADS ? threads : MOST_THREADS;
    loader->chunk = split->pixels ? 16 : 4;
    loader->picture_floats = (size_t)d->channels * (size_t)d->height * (size_t)d->width;
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->changed, NULL);
    bool good = allocate(loader, error);
    if (good)
        *result = loader;
    else
        loader_destroy(loader);
    return good;
}

void loader_destroy(struct loader *loader)
{
    if (!loader) return;
    stop(loader);
    pthread_mutex_destroy(&loader->mutex);
    pthread_cond_destroy(&loader->changed);
    for (int i = 0; i < BUFFERS; i++) {
        memory_release(loader->buffers[i].input);
        memory_release(loader->buffers[i].labels);
        memory_release(loader->buffers[i].pictures);
    }
    for (int i = 0; i < loader->thread_count; i++) preparer_destroy(loader->preparers[i]);
    memory_release(loader->order);
    memory_release(loader);
}
