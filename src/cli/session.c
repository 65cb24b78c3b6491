#include "cli/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/checkpoint.h"

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
                                     .kernel = request->kernel, .loss_optional = request->loss_optional};
    read_training(session, &diagnostics);
    read_data(session, &diagnostics);
    wanted.seed = (uint64_t)session->training.seed;
    session->network = network_create(session->cfg, &wanted, session->pool, &diagnostics);
    if (diagnostics.count) fputs(diagnostics.text ? diagnostics.text : "mlsnet: out of memory\n", stderr);
    int status = diagnostics.count ? 2 : 0;
    diagnostics_release(&diagnostics);
    return status;
}

static int open_data(struct session *session, const struct session_request *request)
{
    struct error error;
    const struct data_options *o = &session->data;
    const struct network *network = session->network;
    const struct data_settings settings = {.type = o->type, .path = o->path, .classes = o->classes, .names = o->names,
                                           .mean_count = o->mean.count, .std_count = o->std.count, .mean = o->mean.floats,
                                           .std = o->std.floats, .pad_crop = o->pad_crop, .flip = o->flip, .cutout = o->cutout};
    if (!dataset_open(&settings, request->data, &session->dataset, &error)) return fail(error.message, 1);
    const struct dataset *d = session->dataset;
    int classes;
    network_output(network, &classes);
    if (d->channels != network->input_shape.channels || d->height != network->input_shape.height || d->width != network->input_shape.width) {
        fprintf(stderr, "%s: [net] channels=%d height=%d width=%d: the data has %d, %d, %d\n", request->cfg_path,
                network->input_shape.channels, network->input_shape.height, network->input_shape.width, d->channels, d->height, d->width);
        return 2;
    }
    if (classes != d->classes) {
        fprintf(stderr, "%s: the network predicts %d classes, the data has %d\n", request->cfg_path, classes, d->classes);
        return 2;
    }
    return 0;
}

int session_open(struct session *session, const struct session_request *request)
{
    *session = (struct session){0};
    struct error error;
    struct diagnostics diagnostics = {.path = request->cfg_path};
    if (request->threads < 0 || request->threads > 256) return fail("--threads: expected 1 to 256", 2);
    session->cfg = cfg_read(request->cfg_path, &diagnostics);
    if (!session->cfg) {
        fputs(diagnostics.text ? diagnostics.text : "mlsnet: out of memory\n", stderr);
        diagnostics_release(&diagnostics);
        return 2;
    }
    if (!apply_set(session->cfg, request, &error)) return fail(error.message, 2);
    if (!(session->cfg_text = cfg_to_text(session->cfg))) return fail("out of memory", 1);
    session->pool = thread_pool_create(request->threads ? request->threads : threads_available(), &error);
    if (!session->pool) return fail(error.message, 1);
    int status = open_network(session, request);
    bool without_data = !request->needs_data || (request->data_optional && !request->data && !cfg_find_section(session->cfg, "data"));
    return status || without_data ? status : open_data(session, request);
}

static bool has_mls_option(const struct cfg *cfg)
{
    for (int i = 0; i < cfg->section_count; i++)
        for (const struct option_description *row = mls_option_table; row->name; row++)
            if (cfg_find_option(&cfg->sections[i], row->name)) return true;
    return false;
}

bool session_load_weights(struct session *session, const char *path, struct error *error)
{
    struct darknet_header header;
    if (!checkpoint_load_weights(path, session->network, &header, error)) return false;
    if (header.known && !has_mls_option(session->cfg))
        fprintf(stderr, "note: %s holds weights of Darknet's kind, and the cfg runs convolutions in MLS; --set mls=0 gives fp32\n", path);
    return true;
}

void session_close(struct session *session)
{
    network_destroy(session->network);
    dataset_close(session->dataset);
    thread_pool_destroy(session->pool);
    options_release(training_option_table, &session->training);
    options_release(data_option_table, &session->data);
    cfg_release(session->cfg);
    free(session->cfg_text);
}
