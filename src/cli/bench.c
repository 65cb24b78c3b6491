// mlsnet bench: images/s of complete training steps (loader, augmentation, forward, backward, SGD), or of evaluation.
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/command.h"
#include "cli/session.h"
#include "kernels/kernels.h"
#include "train/trainer.h"

struct options {
    struct session_request session;
    int rounds, steps, warmup;
    bool evaluation, json;
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

static bool run_steps(const struct options *o, struct session *session, struct loader *loader, int steps, long *step,
                      long *images, struct error *error)
{
    double loss = 0;
    long correct = 0;
    *images = 0;
    for (int i = 0; i < steps; i++) {
        struct batch batch = loader_next(loader);
        if (batch.images == 0) {
            if (!loader_start(loader, 0, 0, error)) return false;
            batch = loader_next(loader);
        }
        struct pass pass = {.pool = session->pool, .images = batch.images};
        bool good = o->evaluation ? network_forward(session->network, batch.input, &pass, error)
                                  : trainer_step(session->network, &session->training, &batch, (*step)++, 1000000, &loss, &correct, error);
        if (!good) return false;
        *images += batch.images;
    }
    return true;
}

static int measure(const struct options *o, struct session *session, struct loader *loader, double *rates)
{
    struct error error;
    long step = 0, images;
    bool good = loader_start(loader, 0, 0, &error) && run_steps(o, session, loader, o->warmup, &step, &images, &error);
    for (int round = 0; good && round < o->rounds; round++) {
        double start = now();
        good = run_steps(o, session, loader, o->steps, &step, &images, &error);
        rates[round] = (double)images / (now() - start);
    }
    if (good) return 0;
    fprintf(stderr, "mlsnet bench: %s\n", error.message);
    return 1;
}

static void report(const struct options *o, const struct session *session, double *rates)
{
    qsort(rates, (size_t)o->rounds, sizeof *rates, by_value);
    double median = (rates[o->rounds / 2] + rates[(o->rounds - 1) / 2]) / 2;
    const char *kernel = session->network->kernels->name;
    int threads = thread_pool_size(session->pool);
    if (o->json)
        printf("{\"images_per_second\": %.2f, \"minimum\": %.2f, \"maximum\": %.2f, \"rounds\": %d, \"steps\": %d, \"batch\": %d, "
               "\"threads\": %d, \"kernel\": \"%s\"}\n",
               median, rates[0], rates[o->rounds - 1], o->rounds, o->steps, session->network->settings.batch, threads, kernel);
    else
        printf("%s: %.1f images/s (median of %d rounds of %d batches; %.1f to %.1f), batch %d, threads %d, kernels %s\n",
               o->evaluation ? "evaluation" : "training", median, o->rounds, o->steps, rates[0], rates[o->rounds - 1],
               session->network->settings.batch, threads, kernel);
}

int command_bench(int argc, char **argv)
{
    struct options o = {.session = SESSION_REQUEST_DEFAULTS, .rounds = 5, .steps = 10, .warmup = 3};
    const struct argument table[] = {
        SESSION_ARGUMENTS(o.session),
        {"--rounds", ARGUMENT_INT, &o.rounds, "measured rounds (default: 5)"},
        {"--steps", ARGUMENT_INT, &o.steps, "batches of a round (default: 10)"},
        {"--warmup", ARGUMENT_INT, &o.warmup, "batches before the first round (default: 3)"},
        {"--evaluation", ARGUMENT_FLAG, &o.evaluation, "forward only, on the test pictures"},
        {"--json", ARGUMENT_FLAG, &o.json, "print as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "CFG [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    if (o.rounds < 1 || o.rounds > 10000 || o.steps < 1 || o.warmup < 0) {
        fprintf(stderr, "mlsnet bench: --rounds and --steps: expected at least 1, --warmup at least 0\n");
        return 2;
    }
    struct session session;
    struct error error;
    struct loader *loader = NULL;
    o.session.needs_data = true;
    o.session.for_training = !o.evaluation;
    double *rates = calloc((size_t)o.rounds, sizeof *rates);
    int status = session_open(&session, &o.session);
    if (status == 0 && !loader_create(session.dataset, !o.evaluation, session.network->settings.batch, 1, &loader, &error)) {
        fprintf(stderr, "mlsnet bench: %s\n", error.message);
        status = 1;
    }
    if (status == 0) status = measure(&o, &session, loader, rates);
    if (status == 0) report(&o, &session, rates);
    loader_destroy(loader);
    session_close(&session);
    free(rates);
    return status;
}
