// mlsnet bench: images/s of complete training steps (loader, augmentation, forward, backward, SGD), or of evaluation.
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/command.h"
#include "cli/peaks.h"
#include "cli/session.h"
#include "kernels/kernels.h"
#include "train/trainer.h"

struct options {
    struct session_request session;
    int rounds, steps, warmup;
    bool evaluation, layers, json;
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
        profile_lap(session->network->profile, session->network->layer_count, PART_DATA, 0, 0, false);
        struct pass pass = {.pool = session->pool, .images = batch.images};
        bool good = o->evaluation ? network_forward(session->network, batch.input, &pass, error)
                                  : trainer_step(session->network, &session->training, &batch, (*step)++, 1000000, &loss, &correct, error);
        if (!good) return false;
        profile_lap(session->network->profile, session->network->layer_count, PART_OPTIMIZER, 0, 0, false);
        *images += batch.images;
    }
    return true;
}

static int measure(const struct options *o, struct session *session, struct loader *loader, double *rates, double *elapsed)
{
    struct error error;
    long step = 0, images;
    bool good = loader_start(loader, 0, 0, &error) && run_steps(o, session, loader, o->warmup, &step, &images, &error);
    profile_start(session->network->profile);
    for (int round = 0; good && round < o->rounds; round++) {
        double start = now();
        good = run_steps(o, session, loader, o->steps, &step, &images, &error);
        double seconds = now() - start;
        rates[round] = (double)images / seconds;
        *elapsed += seconds;
    }
    if (good) return 0;
    fprintf(stderr, "mlsnet bench: %s\n", error.message);
    return 1;
}

// ---------------------------------------------------------------------------------------------
// Where the time went

static void print_row(const char *layer, const char *part, const struct profile_row *row, double total, double steps, const struct peaks *peaks)
{
    printf("%-22s %-21s %9.3f %6.1f ", layer, part, 1e3 * row->seconds / steps, 100 * row->seconds / total);
    double macs = row->multiply_adds / row->seconds, bytes = row->bytes / row->seconds;
    if (row->multiply_adds > 0)
        printf("%9.1f GMAC/s %5.0f %%\n", 1e-9 * macs, 100 * macs / (row->integers ? peaks->dot_products : peaks->multiply_adds));
    else if (row->bytes > 0)
        printf("%9.1f GB/s   %5.0f %%\n", 1e-9 * bytes, 100 * bytes / peaks->memory);
    else
        printf("\n");
}

static void add_row(struct profile_row *to, const struct profile_row *row)
{
    to->seconds += row->seconds;
    to->multiply_adds += row->multiply_adds;
    to->bytes += row->bytes;
    to->integers |= row->integers;
}

static void print_layers(const struct options *o, const struct session *session, double elapsed)
{
    const struct profile *profile = session->network->profile;
    struct peaks peaks;
    struct error error;
    if (!peaks_measure(session->pool, session->network->kernels, &peaks, &error)) {
        fprintf(stderr, "mlsnet bench: %s\n", error.message);
        return;
    }
    printf("peaks of %d threads: %s integers %.0f GMAC/s, fp32 %.0f GMAC/s, memory %.1f GB/s (reading)\n\n",
           thread_pool_size(session->pool), session->network->kernels->name, 1e-9 * peaks.dot_products,
           1e-9 * peaks.multiply_adds, 1e-9 * peaks.memory);
    printf("%-22s %-21s %9s %6s %9s        %s\n", "layer", "part", "ms/step", "share", "rate", "of the peak");
    struct profile_row sums[2][PROFILE_PARTS] = {{{0}}};
    double steps = (double)o->rounds * o->steps, total = 0;
    for (int i = 0; i <= profile->layers; i++)
        for (int part = 0; part < PROFILE_PARTS; part++) {
            const struct profile_row *row = &profile->rows[i][part];
            if (row->seconds <= 0) continue;
            char name[64] = "-";
            if (i < profile->layers) snprintf(name, sizeof name, "%d %s", i, session->network->layers[i]->type->name);
            if (row->multiply_adds > 0 || row->bytes > 0 || row->seconds > 1e-3 * elapsed)
                print_row(name, profile_part_names[part], row, elapsed, steps, &peaks);
            add_row(&sums[row->integers][part], row);
            total += row->seconds;
        }
    printf("\n");
    for (int part = 0; part < PROFILE_PARTS; part++)
        for (int integers = 1; integers >= 0; integers--)
            if (sums[integers][part].seconds > 0)
                print_row(integers ? "all MLS layers" : "all others", profile_part_names[part], &sums[integers][part], elapsed, steps, &peaks);
    printf("sum of the parts: %.1f %% of the %.2f ms of a step\n", 100 * total / elapsed, 1e3 * elapsed / steps);
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
        {"--layers", ARGUMENT_FLAG, &o.layers, "where the time goes, by layer and part, and how near each is to the machine's limit"},
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
    double elapsed = 0;
    struct profile *profile = NULL;
    if (status == 0 && o.layers) {
        profile = session.network->profile = profile_create(session.network->layer_count, &error);
        if (!profile) {
            fprintf(stderr, "mlsnet bench: %s\n", error.message);
            status = 1;
        }
    }
    if (status == 0) status = measure(&o, &session, loader, rates, &elapsed);
    if (status == 0) report(&o, &session, rates);
    if (status == 0 && profile) print_layers(&o, &session, elapsed);
    profile_destroy(profile);
    loader_destroy(loader);
    session_close(&session);
    free(rates);
    return status;
}
