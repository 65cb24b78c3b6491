// The prefetching loader: a thread of its own keeps a few batches ready.
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/random.h"
#include "data/data.h"

#define BUFFERS 3

struct buffer {
    float *input;
    int *labels;
    int images;
};

struct loader {
    const struct dataset *dataset;
    const struct split *split;
    bool training;
    int batch;
    uint64_t seed;
    int *order;             // of the epoch that is being prepared
    float table[4][256];    // normalized value of each byte
    struct buffer buffers[BUFFERS];
    // Guarded by the mutex:
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_t thread;
    bool running, stopping, held; // held: the consumer has the oldest buffer
    int ready;                    // filled buffers, the oldest first
    int oldest;                   // index of the oldest filled buffer
    double waited;
    // The thread's own:
    uint64_t epoch;
    int next_batch;
};

int loader_batches_per_epoch(const struct loader *loader)
{
    int whole = loader->split->count / loader->batch;
    return loader->training || loader->split->count % loader->batch == 0 ? whole : whole + 1;
}

// ---------------------------------------------------------------------------------------------
// Pictures

struct augmentation {
    int top, left;           // where the crop starts in the padded picture, less the padding
    bool mirror;
    int hole_top, hole_left; // of the cutout square; its side is in the settings
};

// A function of (seed, epoch, index of the picture) alone.
static struct augmentation draw(const struct loader *loader, uint64_t epoch, int picture)
{
    const struct dataset *d = loader->dataset;
    const struct data_settings *s = &d->settings;
    struct random_stream stream = {random_key(loader->seed, 3, epoch, (uint64_t)picture), 0};
    struct augmentation a = {0, 0, false, 0, 0};
    uint32_t positions = 2 * (uint32_t)s->pad_crop + 1;
    a.top = (int)random_below(&stream, positions) - s->pad_crop;
    a.left = (int)random_below(&stream, positions) - s->pad_crop;
    a.mirror = random_below(&stream, 2) && s->flip;
    a.hole_top = (int)random_below(&stream, (uint32_t)d->height) - s->cutout / 2;
    a.hole_left = (int)random_below(&stream, (uint32_t)d->width) - s->cutout / 2;
    return a;
}

// One row of the crop: table values inside the picture, black outside.
static void copy_row(const float *table, const uint8_t *row, int width, const struct augmentation *a, float *out)
{
    for (int x = 0; x < width; x++) {
        int column = x + a->left;
        uint8_t byte = row && column >= 0 && column < width ? row[column] : 0;
        out[a->mirror ? width - 1 - x : x] = table[byte];
    }
}

static void cut_out(const struct dataset *d, const struct augmentation *a, float *plane)
{
    int side = d->settings.cutout;
    for (int y = a->hole_top < 0 ? 0 : a->hole_top; y < a->hole_top + side && y < d->height; y++)
        for (int x = a->hole_left < 0 ? 0 : a->hole_left; x < a->hole_left + side && x < d->width; x++)
            plane[y * d->width + x] = 0;
}

static void prepare_picture(const struct loader *loader, uint64_t epoch, int picture, float *out)
{
    const struct dataset *d = loader->dataset;
    size_t plane = (size_t)d->height * (size_t)d->width, size = plane * (size_t)d->channels;
    const uint8_t *pixels = loader->split->pixels + (size_t)picture * size;
    struct augmentation a = {0, 0, false, 0, 0};
    if (loader->training) a = draw(loader, epoch, picture);
    for (int c = 0; c < d->channels; c++, pixels += plane, out += plane) {
        for (int y = 0; y < d->height; y++) {
            int r = y + a.top;
            const uint8_t *row = r >= 0 && r < d->height ? pixels + (size_t)r * (size_t)d->width : NULL;
            copy_row(loader->table[c], row, d->width, &a, out + (size_t)y * (size_t)d->width);
        }
        if (loader->training && d->settings.cutout) cut_out(d, &a, out);
    }
}

// Fills one buffer with the next batch; 0 images at the end of the test split.
static void prepare_batch(struct loader *loader, struct buffer *buffer)
{
    const struct dataset *d = loader->dataset;
    size_t size = (size_t)d->channels * (size_t)d->height * (size_t)d->width;
    if (loader->training && loader->next_batch == loader_batches_per_epoch(loader)) {
        loader->next_batch = 0;
        shuffle_order(loader->order, loader->split->count, loader->seed, ++loader->epoch);
    }
    int first = loader->next_batch * loader->batch, left = loader->split->count - first;
    buffer->images = left < loader->batch ? (left > 0 ? left : 0) : loader->batch;
    for (int i = 0; i < buffer->images; i++) {
        int picture = loader->training ? loader->order[first + i] : first + i;
        prepare_picture(loader, loader->epoch, picture, buffer->input + (size_t)i * size);
        buffer->labels[i] = loader->split->labels[picture];
    }
    loader->next_batch++;
}

// ---------------------------------------------------------------------------------------------
// The thread

static void *loader_main(void *argument)
{
    struct loader *loader = argument;
    pthread_mutex_lock(&loader->mutex);
    for (;;) {
        while (!loader->stopping && loader->ready == BUFFERS) pthread_cond_wait(&loader->changed, &loader->mutex);
        if (loader->stopping) break;
        struct buffer *buffer = &loader->buffers[(loader->oldest + loader->ready) % BUFFERS];
        pthread_mutex_unlock(&loader->mutex);
        prepare_batch(loader, buffer);
        bool ended = buffer->images == 0;
        pthread_mutex_lock(&loader->mutex);
        loader->ready++;
        pthread_cond_broadcast(&loader->changed);
        if (ended) break;
    }
    pthread_mutex_unlock(&loader->mutex);
    return NULL;
}

static void stop(struct loader *loader)
{
    if (!loader->running) return;
    pthread_mutex_lock(&loader->mutex);
    loader->stopping = true;
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->mutex);
    pthread_join(loader->thread, NULL);
    loader->running = false;
}

bool loader_start(struct loader *loader, uint64_t epoch, int first_batch, struct error *error)
{
    stop(loader);
    if (first_batch < 0 || first_batch > loader_batches_per_epoch(loader))
        return error_set(error, "batch %d of an epoch of %d batches does not exist", first_batch, loader_batches_per_epoch(loader));
    loader->stopping = loader->held = false;
    loader->ready = loader->oldest = 0;
    loader->waited = 0;
    loader->epoch = epoch;
    loader->next_batch = first_batch;
    if (loader->training) shuffle_order(loader->order, loader->split->count, loader->seed, epoch);
    if (pthread_create(&loader->thread, NULL, loader_main, loader) != 0)
        return error_set(error, "cannot start the loader's thread");
    loader->running = true;
    return true;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

struct batch loader_next(struct loader *loader)
{
    pthread_mutex_lock(&loader->mutex);
    if (loader->held && loader->buffers[loader->oldest].images > 0) { // the end of the split stays
        loader->oldest = (loader->oldest + 1) % BUFFERS;
        loader->ready--;
        pthread_cond_broadcast(&loader->changed);
    }
    if (loader->ready == 0) {
        double start = now();
        while (loader->ready == 0) pthread_cond_wait(&loader->changed, &loader->mutex);
        loader->waited += now() - start;
    }
    loader->held = true;
    const struct buffer *buffer = &loader->buffers[loader->oldest];
    pthread_mutex_unlock(&loader->mutex);
    return (struct batch){buffer->images, buffer->input, buffer->labels};
}

double loader_waited_seconds(const struct loader *loader)
{
    return loader->waited;
}

bool loader_create(const struct dataset *dataset, bool training, int batch, uint64_t seed, struct loader **result,
                   struct error *error)
{
    const struct split *split = training ? &dataset->train : &dataset->test;
    if (batch < 1 || (training && batch > split->count))
        return error_set(error, "batch=%d: expected 1 to %d, the number of training pictures", batch, split->count);
    struct loader *loader = memory_allocate(1, sizeof *loader, error);
    if (!loader) return false;
    *loader = (struct loader){.dataset = dataset, .split = split, .training = training, .batch = batch, .seed = seed};
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->changed, NULL);
    size_t size = (size_t)dataset->channels * (size_t)dataset->height * (size_t)dataset->width;
    bool good = (loader->order = memory_allocate((size_t)split->count, sizeof(int), error)) != NULL;
    for (int i = 0; good && i < BUFFERS; i++) {
        loader->buffers[i].input = memory_allocate((size_t)batch * size + 64, sizeof(float), error);
        loader->buffers[i].labels = memory_allocate((size_t)batch, sizeof(int), error);
        good = loader->buffers[i].input && loader->buffers[i].labels;
    }
    for (int c = 0; c < dataset->channels; c++)
        for (int v = 0; v < 256; v++) loader->table[c][v] = ((float)v / 255.0f - dataset->mean[c]) / dataset->std[c];
    *result = loader;
    if (!good) loader_destroy(loader);
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
    }
    memory_release(loader->order);
    memory_release(loader);
}
