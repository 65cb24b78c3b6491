#include "cli/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/data_settings.h"
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
    return request->seed == SEED_OF_CFG || cfg_set(cfg, text, error);
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
                                     .kernel = request->kernel, .loss_optional = request->loss_optional,
                                     .plain_operands = request->plain_operands};
    training_settings_read(session->cfg, &session->training, &diagnostics);
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

// --names goes before the data set's own, by which a list may still know its labels.
static void use_names(const struct session_request *request, struct data_settings *settings)
{
    if (!request->names) return;
    if (!settings->labels) settings->labels = settings->names;
    settings->names = request->names;
    settings->more_names = true;
}

// Pixels of 0..1 as in Darknet; classes have the names of --names, or numbers.
static int open_without_data(struct session *session, const struct session_request *request)
{
    struct error error;
    struct data_settings settings;
    if (!data_settings_make(&session->data, session->network, NULL, &settings, &error)) {
        fprintf(stderr, "%s: %s\n", request->cfg_path, error.message);
        return 2;
    }
    network_output(session->network, &settings.classes);
    use_names(request, &settings);
    return dataset_open_without_pictures(&settings, &session->dataset, &error) ? 0 : fail(error.message, 1);
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
    use_names(request, &settings);
    settings.without_train = request->without_train;
    settings.without_test = request->without_test;
    if (!dataset_open(&settings, folder, &session->dataset, &error)) return fail(error.message, 1);
    const struct shape in = session->network->input_shape;
    const struct dataset *d = session->dataset;
    const char *type = data_sources[settings.type]->name;
    int classes;
    network_output(session->network, &classes);
    if (!shape_fits(session, &settings)) {
        fprintf(stderr, "%s: [net] channels=%d height=%d width=%d: expected %d, %d, %d, as the data (type=%s) has, or [data] resize= or "
                "crop_scale=\n", request->cfg_path, in.channels, in.height, in.width, d->channels, d->picture_height, d->picture_width, type);
        return 2;
    }
    if (classes != d->classes) {
        fprintf(stderr, "%s: the network predicts %d classes: expected %d, as the data (type=%s) has\n", request->cfg_path, classes,
                d->classes, type);
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
    if (status || !request->needs_data) return status;
    bool without_data = request->data_optional && !request->data && !cfg_find_section(session->cfg, "data");
    return without_data ? open_without_data(session, request) : open_data(session, request);
}

static bool has_mls_option(const struct cfg *cfg)
{
    for (int i = 0; i < cfg->section_count; i++)
        for (const struct option_description *row = mls_option_table; row->name; row++)
            if (cfg_find_option(&cfg->sections[i], row->name)) return true;
    return false;
}

// The first MLS option of a section that the other has otherwise, or not at all.
static const struct cfg_option *other_format(const struct cfg_section *a, const struct cfg_section *b)
{
    for (const struct option_description *row = mls_option_table; row->name; row++) {
        const struct cfg_option *x = cfg_find_option(a, row->name), *y = cfg_find_option(b, row->name);
        if (x && (!y || strcmp(x->value, y->value) != 0)) return x;
    }
    return NULL;
}

// Weights that were trained in another format than they are used in: that may be meant, but is easily forgotten.
static void note_other_format(const struct session *session, const char *path)
{
    struct diagnostics diagnostics = {.path = path};
    char *text = checkpoint_text(path, "cfg");
    struct cfg *was = text ? cfg_parse(path, text, strlen(text), &diagnostics) : NULL;
    const struct cfg *now = session->cfg;
    for (int i = 0; was && i < was->section_count && i < now->section_count; i++) {
        const struct cfg_section *then = &was->sections[i], *current = &now->sections[i];
        const struct cfg_option *before = other_format(then, current), *option = before ? before : other_format(current, then);
        if (!option) continue;
        fprintf(stderr, "note: %s was trained with other MLS options: [%s] %s=%s %s\n", path, then->name, option->key, option->value,
                before ? "then" : "now");
        break;
    }
    cfg_release(was);
    diagnostics_release(&diagnostics);
    free(text);
}

bool session_load_weights(struct session *session, const char *path, struct error *error)
{
    struct darknet_header header;
    if (!checkpoint_load_weights(path, session->network, &header, error)) return false;
    if (header.known && !has_mls_option(session->cfg))
        fprintf(stderr, "note: %s holds weights of Darknet's kind, and the cfg runs convolutions in MLS; --set mls=0 gives fp32\n", path);
    if (!header.known) note_other_format(session, path);
    return true;
}

int session_first_layers(const struct session *session, int count, struct error *error)
{
    int all = session->network->layer_count;
    if (count >= 0 && count <= all) return count ? count : all;
    error_set(error, "--layers %d: expected 1 to %d, the layers of the cfg", count, all);
    return -1;
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
