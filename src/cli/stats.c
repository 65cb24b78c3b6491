// mlsnet stats: what quantization does to the weights, activations and errors of each layer on real data.
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/gnuplot.h"
#include "cli/session.h"
#include "cli/stats_report.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

struct options {
    struct session_request session;
    const char *checkpoint, *csv, *plot;
    int batches;
    bool json;
};

static bool watch(const struct options *o, struct session *session, struct loader *loader, struct statistics *statistics,
                  struct error *error)
{
    const struct observer observer = {statistics_see, statistics};
    struct network *network = session->network;
    double loss = 0;
    long correct = 0;
    if (!checkpoint_load(o->checkpoint, network, NULL, error) || !loader_start(loader, 0, 0, error)) return false;
    network->observer = &observer;
    bool good = true;
    for (int i = 0; good && i < o->batches; i++) {
        struct batch batch;
        good = loader_next(loader, &batch, error) && trainer_gradient(network, &session->training, &batch, i, 0, &loss, &correct, error);
    }
    network->observer = NULL;
    statistics_finish(statistics);
    return good;
}

static bool write_csv(const struct stats_report *report, const char *path, struct error *error)
{
    FILE *file = fopen(path, "w");
    if (!file) return error_set(error, "%s: cannot create: %s", path, strerror(errno));
    stats_write_csv(report, file);
    bool bad = ferror(file);
    return fclose(file) == 0 && !bad ? true : error_set(error, "%s: cannot write: %s", path, strerror(errno));
}

static bool report(const struct options *o, const struct session *session, const struct statistics *statistics, struct error *error)
{
    const struct stats_report r = {.cfg_path = o->session.cfg_path, .checkpoint = o->checkpoint, .network = session->network,
                                   .statistics = statistics, .images = session->network->settings.batch, .batches = o->batches};
    bool any = false;
    for (int i = 0; i < statistics->layer_count; i++) any |= statistics->rows[i][MLS_WEIGHT].seen;
    if (!any) return error_set(error, "%s: no layer is low-bit (mls=0): nothing is quantized", o->session.cfg_path);
    o->json ? stats_print_json(&r) : stats_print_text(&r);
    if (o->csv && !write_csv(&r, o->csv, error)) return false;
    return !o->plot || stats_plot(&r, o->plot, error);
}

static bool run(const struct options *o, struct session *session, struct error *error)
{
    struct statistics statistics;
    struct loader *loader = NULL;
    const struct loader_request request = {.dataset = session->dataset, .training = true, .batch = session->network->settings.batch,
                                           .seed = (uint64_t)session->training.seed};
    if (!statistics_create(&statistics, session->network->layer_count, error)) return false;
    bool good = loader_create(&request, &loader, error) && watch(o, session, loader, &statistics, error) &&
                report(o, session, &statistics, error);
    loader_destroy(loader);
    statistics_release(&statistics);
    return good;
}

int command_stats(int argc, char **argv)
{
    struct options o = {.session = SESSION_REQUEST_DEFAULTS, .batches = 4};
    const struct argument table[] = {
        SESSION_ARGUMENTS(o.session),
        {"CHECKPOINT", ARGUMENT_POSITIONAL, &o.checkpoint, "a .safetensors file of the network: the weights"},
        {"--batches", ARGUMENT_INT, &o.batches, "batches of training pictures (default: 4)"},
        {"--csv", ARGUMENT_TEXT, &o.csv, "write all figures to this CSV file (default: do not)"},
        {"--plot", ARGUMENT_TEXT, &o.plot, "draw them into this .png or .svg file, with gnuplot, its script beside it (default: do not)"},
        {"--json", ARGUMENT_FLAG, &o.json, "print as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "CFG CHECKPOINT [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    struct error error;
    if (o.batches < 1 || o.batches > 10000) {
        fprintf(stderr, "mlsnet stats: --batches %d: expected 1 to 10000\n", o.batches);
        return 2;
    }
    bool good_path = !o.plot || gnuplot_path_check(o.plot, &error);
    if (!good_path || (o.plot && !gnuplot_available(&error))) {
        fprintf(stderr, "mlsnet stats: --plot: %s\n", error.message);
        return good_path ? 1 : 2;
    }
    struct session session;
    o.session.needs_data = o.session.for_training = o.session.without_test = true;
    int status = session_open(&session, &o.session);
    if (status == 0 && !run(&o, &session, &error)) {
        fprintf(stderr, "mlsnet stats: %s\n", error.message);
        status = 1;
    }
    session_close(&session);
    return status;
}
