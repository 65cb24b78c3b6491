// mlsnet bench: images/s of complete training steps (loader, augmentation, forward, backward, SGD), or of evaluation.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/memory.h"
#include "base/random.h"
#include "cli/bench_layers.h"
#include "cli/command.h"
#include "cli/session.h"
#include "kernels/kernels.h"
#include "train/trainer.h"

struct options {
    struct session_request session;
    int rounds, steps, warmup;
    bool evaluation, random, layers, json;
};

struct bench {
    struct options options;
    struct session session;
    struct loader *loader; // NULL: always the same random pictures
    struct batch random;
    float *random_input;
    int *random_labels;
    long step;
    double *rates, seconds; // of each round; of all rounds
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// ---------------------------------------------------------------------------------------------
// Batches

// Of a batch: an evaluation has no subdivisions.
static int images_of_batch(const struct bench *b)
{
    return b->options.evaluation ? b->session.network->max_images : b->session.network->settings.batch;
}

static bool create_random(struct bench *b, struct error *error)
{
    const struct network *network = b->session.network;
    int images = images_of_batch(b), classes;
    size_t count = (size_t)images * shape_size(network->input_shape);
    network_output(network, &classes);
    b->random_input = memory_allocate(count, sizeof(float), error);
    b->random_labels = memory_allocate((size_t)images, sizeof(int), error);
    if (!b->random_input || !b->random_labels) return false;
    struct random_stream stream = {1, 0};
    for (size_t i = 0; i < count; i++) b->random_input[i] = random_normal(&stream);
    for (int i = 0; i < images; i++) b->random_labels[i] = (int)random_below(&stream, (uint32_t)classes);
    b->random = (struct batch){.images = images, .input = b->random_input, .labels = b->random_labels, .crops = 1};
    return true;
}

static bool open_batches(struct bench *b, struct error *error)
{
    if (b->options.random) return create_random(b, error);
    const struct loader_request request = {.dataset = b->session.dataset, .training = !b->options.evaluation,
                                           .batch = images_of_batch(b), .seed = 1};
    return loader_create(&request, &b->loader, error) && loader_start(b->loader, 0, 0, error);
}

static bool next_batch(struct bench *b, struct batch *batch, struct error *error)
{
    *batch = b->random;
    if (b->loader && !loader_next(b->loader, batch, error)) return false;
    if (batch->images > 0) return true;
    return loader_start(b->loader, 0, 0, error) && loader_next(b->loader, batch, error);
}

// ---------------------------------------------------------------------------------------------
// Measuring

static bool run_steps(struct bench *b, int steps, long *images, struct error *error)
{
    struct network *network = b->session.network;
    double loss = 0;
    long correct = 0;
    *images = 0;
    for (int i = 0; i < steps; i++) {
        struct batch batch;
        if (!next_batch(b, &batch, error)) return false;
        profile_lap(network->profile, network->layer_count, PART_DATA, 0, 0, false);
        long step = b->step++;
        struct pass pass = {.pool = b->session.pool, .images = batch.images, .same_weights = step > 0};
        bool good = b->options.evaluation ? network_forward(network, batch.input, &pass, error)
                                          : trainer_step(network, &b->session.training, &batch, step, 1000000, &loss, &correct, error);
        if (!good) return false;
        profile_lap(network->profile, network->layer_count, PART_OPTIMIZER, 0, 0, false);
        *images += batch.images;
    }
    return true;
}

static bool measure(struct bench *b, struct error *error)
{
    long images;
    if (!open_batches(b, error) || !run_steps(b, b->options.warmup, &images, error)) return false;
    profile_start(b->session.network->profile);
    for (int round = 0; round < b->options.rounds; round++) {
        double start = now();
        if (!run_steps(b, b->options.steps, &images, error)) return false;
        double seconds = now() - start;
        b->rates[round] = (double)images / seconds;
        b->seconds += seconds;
    }
    return true;
}

static bool report(struct bench *b, struct error *error)
{
    const struct options *o = &b->options;
    const struct network *network = b->session.network;
    struct peaks peaks;
    if (o->layers && !peaks_measure(b->session.pool, network->kernels, &peaks, error)) return false;
    qsort(b->rates, (size_t)o->rounds, sizeof *b->rates, by_value);
    double median = (b->rates[o->rounds / 2] + b->rates[(o->rounds - 1) / 2]) / 2;
    printf(o->json ? "{\"task\": \"%s\", \"images_per_second\": %.2f, \"rounds\": %d, \"steps\": %d, \"minimum\": %.2f, \"maximum\": %.2f, "
                     "\"batch\": %d, \"threads\": %d, \"kernel\": \"%s\""
                   : "%s: %.1f images/s (median of %d rounds of %d batches; %.1f to %.1f), batch %d, threads %d, kernels %s\n",
           o->evaluation ? "evaluation" : "training", median, o->rounds, o->steps, b->rates[0], b->rates[o->rounds - 1],
           images_of_batch(b), thread_pool_size(b->session.pool), network->kernels->name);
    if (o->layers && o->json) printf(", ");
    if (o->layers) bench_layers_print(network, &peaks, (double)o->rounds * o->steps, b->seconds, o->json);
    if (o->json) printf("}\n");
    return true;
}

static bool run(struct bench *b, struct error *error)
{
    struct network *network = b->session.network;
    b->rates = memory_allocate((size_t)b->options.rounds, sizeof *b->rates, error);
    if (b->rates && b->options.layers) network->profile = profile_create(network->layer_count, error);
    bool good = b->rates && (network->profile || !b->options.layers) && measure(b, error) && report(b, error);
    profile_destroy(network->profile);
    network->profile = NULL;
    return good;
}

int command_bench(int argc, char **argv)
{
    struct bench b = {.options = {.session = SESSION_REQUEST_DEFAULTS, .rounds = 5, .steps = 10, .warmup = 3}};
    struct options *o = &b.options;
    const struct argument table[] = {
        SESSION_ARGUMENTS(o->session),
        {"--rounds", ARGUMENT_INT, &o->rounds, "measured rounds (default: 5)"},
        {"--steps", ARGUMENT_INT, &o->steps, "batches of a round (default: 10)"},
        {"--warmup", ARGUMENT_INT, &o->warmup, "batches before the first round (default: 3)"},
        {"--evaluation", ARGUMENT_FLAG, &o->evaluation, "forward only, on the test pictures"},
        {"--random", ARGUMENT_FLAG, &o->random, "random pictures instead of the data set"},
        {"--layers", ARGUMENT_FLAG, &o->layers, "where the time goes, by layer and part, and how near each is to the machine's limit"},
        {"--json", ARGUMENT_FLAG, &o->json, "print as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "CFG [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    if (o->rounds < 1 || o->rounds > 10000 || o->steps < 1 || o->warmup < 0) {
        fprintf(stderr, "mlsnet bench: --rounds and --steps: expected at least 1, --warmup at least 0\n");
        return 2;
    }
    struct error error;
    o->session.needs_data = !o->random;
    o->session.for_training = !o->evaluation;
    int status = session_open(&b.session, &o->session);
    if (status == 0 && !run(&b, &error)) {
        fprintf(stderr, "mlsnet bench: %s\n", error.message);
        status = 1;
    }
    loader_destroy(b.loader);
    session_close(&b.session);
    memory_release(b.random_input);
    memory_release(b.random_labels);
    memory_release(b.rates);
    return status;
}
