#include "cli/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/data_settings.h"

static int fail(const char *text, int status)
{
    fprintf(stderr, "mlsnet: %s\n", text);
    return status;
}

static bool apply_set(struct cfg *cfg, const struct session_request *request, struct error *error)
{
    char text[32];
    for (int i = 0; i < request->set.count; i++)
        if (!cfg_set(cfg, request->set.items[i], error)) return false;
    snprintf(text, sizeof text, "seed=%d", request->seed);
    return request->seed < 0 || cfg_set(cfg, text, error);
}

static void read_training(struct session *session, struct diagnostics *diagnostics)
{
    struct cfg_section *net = cfg_find_section(session->cfg, "net");
    if (!net) net = cfg_find_section(session->cfg, "network");
    options_read(training_option_table, net, &session->training, diagnostics);
    if (session->training.steps.count != session->training.scales.count)
        diagnostics_add(diagnostics, net ? net->line : 1, "net", "steps has %d numbers, scales %d: expected as many",
                        session->training.steps.count, session->training.scales.count);
}

static void read_data(struct session *session, struct diagnostics *diagnostics)
{
    struct cfg_section *data = cfg_find_section(session->cfg, "data");
    const struct option_description *const tables[] = {data_option_table, NULL};
    options_read(data_option_table, data, &session->data, diagnostics);
    if (data) options_report_unknown(data, tables, diagnostics);
}

static int open_network(struct session *session, const struct session_request *request)
{
    struct diagnostics diagnostics = {.path = request->cfg_path};
    struct network_request wanted = {.for_training = request->for_training, .max_images = request->max_images,
                                     .kernel = request->kernel, .plain_operands = request->plain_operands};
    read_training(session, &diagnostics);
    read_data(session, &diagnostics);
    wanted.seed = (uint64_t)session->training.seed;
    session->network = network_create(session->cfg, &wanted, session->pool, &diagnostics);
    if (diagnostics.count) fputs(diagnostics.text ? diagnostics.text : "mlsnet: out of memory\n", stderr);
    int status = diagnostics.count ? 2 : 0;
    diagnostics_release(&diagnostics);
    return status;
}

// Pictures in memory are taken as they are, unless the cfg says how they become the network's size.
static bool shape_fits(const struct session *session, const struct data_settings *settings)
{
    const struct shape in = session->network->input_shape;
    const struct dataset *d = session->dataset;
    bool same_size = d->picture_height == 0 || (d->picture_height == in.height && d->picture_width == in.width);
    return d->channels == in.channels && (same_size || settings->darknet_crop || settings->area_crop || settings->resize);
}

static int open_data(struct session *session, const struct session_request *request)
{
    struct error error;
    struct data_settings settings;
    const char *folder = request->data;
    char parent[4096];
    bool darknet = folder && file_exists(folder);
    if (darknet) {
        if (!darknet_data_read(folder, &session->darknet, &error)) return fail(error.message, 1);
        const char *slash = strrchr(folder, '/');
        snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - folder) : 1, slash ? folder : ".");
        folder = parent;
    }
    if (!data_settings_make(&session->data, session->network, darknet ? &session->darknet : NULL, &settings, &error)) {
        fprintf(stderr, "%s: %s\n", request->cfg_path, error.message);
        return 2;
    }
    settings.without_train = request->without_train;
    settings.without_test = request->without_test;
    if (!dataset_open(&settings, folder, &session->dataset, &error)) return fail(error.message, 1);
    const struct shape in = session->network->input_shape;
    const struct dataset *d = session->dataset;
    int classes;
    network_output(session->network, &classes);
    if (!shape_fits(session, &settings)) {
        fprintf(stderr, "%s: [net] channels=%d height=%d width=%d: the data has %d, %d, %d\n", request->cfg_path, in.channels, in.height,
                in.width, d->channels, d->picture_height, d->picture_width);
        return 2;
    }
    if (classes != d->classes) {
        fprintf(stderr, "%s: the network predicts %d classes, the data has %d\n", request->cfg_path, classes, d->classes);
        return 2;
    }
    return 0;
}

struct cfg *session_read_cfg(const struct session_request *request)
{
    struct error error;
    struct diagnostics diagnostics = {.path = request->cfg_path};
    struct cfg *cfg = cfg_read(request->cfg_path, &diagnostics);
    if (!cfg) fputs(diagnostics.text ? diagnostics.text : "mlsnet: out of memory\n", stderr);
    diagnostics_release(&diagnostics);
    if (!cfg || apply_set(cfg, request, &error)) return cfg;
    fail(error.message, 2);
    cfg_release(cfg);
    return NULL;
}

int session_open(struct session *session, const struct session_request *request)
{
    *session = (struct session){0};
    struct error error;
    if (request->threads < 0 || request->threads > 256) return fail("--threads: expected 1 to 256", 2);
    session->cfg = session_read_cfg(request);
    if (!session->cfg) return 2;
    if (!(session->cfg_text = cfg_to_text(session->cfg))) return fail("out of memory", 1);
    session->pool = thread_pool_create(request->threads ? request->threads : threads_available(), &error);
    if (!session->pool) return fail(error.message, 1);
    int status = open_network(session, request);
    return status || !request->needs_data ? status : open_data(session, request);
}

void session_close(struct session *session)
{
    network_destroy(session->network);
    dataset_close(session->dataset);
    thread_pool_destroy(session->pool);
    options_release(training_option_table, &session->training);
    options_release(data_option_table, &session->data);
    darknet_data_release(&session->darknet);
    cfg_release(session->cfg);
    free(session->cfg_text);
}
