// mlsnet predict: the most likely classes of picture files.
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "cli/command.h"
#include "cli/session.h"
#include "train/metrics.h"

struct options {
    struct session_request session;
    const char *checkpoint;
    struct argument_list pictures;
    int top;
    bool json;
};

struct work {
    struct session *session;
    float *input;
    int *top, top_count;      // classes of the highest scores
    struct json_object *rows; // NULL: plain text
};

static bool gives_probabilities(const struct network *network)
{
    return network->loss_layer && layer_is(network->loss_layer, LAYER_GIVES_PROBABILITIES);
}

static void report(const struct work *work, const char *path, const float *scores)
{
    bool probabilities = gives_probabilities(work->session->network);
    struct json_object *row = json_object_new_object(), *list = json_object_new_array();
    if (!work->rows) printf("%s:", path);
    for (int r = 0; r < work->top_count; r++) {
        double value = (double)scores[work->top[r]];
        const char *name = work->session->dataset->names[work->top[r]];
        if (!work->rows) printf(probabilities ? "%s %s %.2f %%" : "%s %s %g", r ? "," : "", name, probabilities ? 100 * value : value);
        struct json_object *entry = json_object_new_object();
        json_object_object_add(entry, "class", json_object_new_string(name));
        json_object_object_add(entry, probabilities ? "probability" : "score", json_object_new_double(value));
        json_object_array_add(list, entry);
    }
    if (!work->rows) putchar('\n');
    json_object_object_add(row, "picture", json_object_new_string(path));
    json_object_object_add(row, "predictions", list);
    if (work->rows)
        json_object_array_add(work->rows, row);
    else
        json_object_put(row);
}

static bool predict(const struct work *work, const char *path, struct error *error)
{
    struct network *network = work->session->network;
    int classes;
    struct pass pass = {.pool = network->pool, .images = 1};
    if (!dataset_read_picture(work->session->dataset, path, work->input, error)) return false;
    if (!network_forward(network, work->input, &pass, error)) return error_prefix(error, "%s: ", path);
    const float *scores = network_output(network, &classes);
    for (int i = 0; i < classes; i++)
        if (!isfinite(scores[i])) return error_set(error, "%s: the score of class %d is not a finite number", path, i);
    metrics_top(scores, classes, work->top_count, work->top);
    report(work, path, scores);
    return true;
}

// A picture that cannot be read does not keep the others from being classified.
static int run(const struct options *o, struct session *session)
{
    struct error error;
    size_t size = shape_size(session->network->input_shape);
    int classes = session->dataset->classes, top = o->top ? o->top : session->darknet.top ? session->darknet.top : 5;
    struct work work = {session, memory_allocate(size + 64, sizeof(float), &error), memory_allocate((size_t)classes, sizeof(int), &error),
                        top < classes ? top : classes, o->json ? json_object_new_array() : NULL};
    int status = 0;
    bool ready = work.input && work.top && session_load_weights(session, o->checkpoint, &error);
    if (!ready) {
        fprintf(stderr, "mlsnet predict: %s\n", error.message);
        status = 1;
    }
    for (int i = 0; ready && i < o->pictures.count; i++) {
        if (predict(&work, o->pictures.items[i], &error)) continue;
        fprintf(stderr, "mlsnet predict: %s\n", error.message);
        status = 1;
    }
    if (ready && work.rows) puts(json_object_to_json_string_ext(work.rows, JSON_C_TO_STRING_PRETTY));
    json_object_put(work.rows);
    memory_release(work.top);
    memory_release(work.input);
    return status;
}

int command_predict(int argc, char **argv)
{
    struct options o = {.session = SESSION_REQUEST_DEFAULTS, .top = 0};
    const struct argument table[] = {
        SESSION_ARGUMENTS(o.session),
        {"CHECKPOINT", ARGUMENT_POSITIONAL, &o.checkpoint, "a .safetensors or .weights file of the network"},
        {"PICTURE", ARGUMENT_LIST, &o.pictures, "JPEG or PNG files"},
        {"--names", ARGUMENT_TEXT, &o.session.names, "file with a class name a line (default: the data set's names; numbers without a data set)"},
        {"--top", ARGUMENT_INT, &o.top, "classes shown (default: 5, or top= of the .data file)"},
        {"--json", ARGUMENT_FLAG, &o.json, "print as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "CFG CHECKPOINT PICTURE... [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    if (o.pictures.count == 0) {
        fprintf(stderr, "mlsnet predict: no picture given; see mlsnet predict --help\n");
        return 2;
    }
    if (o.top < 0) {
        fprintf(stderr, "mlsnet predict: --top: expected at least 1\n");
        return 2;
    }
    struct session session;
    o.session.without_train = o.session.without_test = true;
    o.session.needs_data = o.session.data_optional = true; // for the names of the classes, mean and deviation
    o.session.max_images = 1;
    int status = session_open(&session, &o.session);
    if (status == 0) status = run(&o, &session);
    session_close(&session);
    return status;
}
