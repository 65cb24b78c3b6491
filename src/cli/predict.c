// mlsnet predict: the most likely classes of picture files.
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cli/class_names.h"
#include "cli/command.h"
#include "cli/session.h"
#include "train/trainer.h"

struct options {
    struct session_request session;
    const char *checkpoint, *names;
    struct argument_list pictures;
    int top;
    bool json;
};

struct score {
    float value;
    int class;
};

struct work {
    const struct options *options;
    struct session *session;
    uint8_t *pixels;
    float *input;
    struct score *scores; // [classes]
    struct class_names names;
    struct json_object *rows; // NULL: plain text
};

// Falling; the lower class first among equals.
static int compare_scores(const void *a, const void *b)
{
    const struct score *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? 1 : -1;
    return x->class < y->class ? -1 : 1;
}

static void sort_scores(const struct work *work, const float *values, int classes)
{
    for (int i = 0; i < classes; i++) work->scores[i] = (struct score){values[i], i};
    qsort(work->scores, (size_t)classes, sizeof *work->scores, compare_scores);
}

// A class without a name is called by its number.
static const char *name_of(const struct work *work, int class, char number[16])
{
    const struct dataset *dataset = work->session->dataset;
    if (work->names.count) return work->names.items[class];
    if (dataset) return dataset->names[class];
    snprintf(number, 16, "%d", class);
    return number;
}

static bool gives_probabilities(const struct network *network)
{
    return network->loss_layer && strcmp(network->loss_layer->type->name, "softmax") == 0;
}

static void report(const struct work *work, const char *path, int classes)
{
    bool probabilities = gives_probabilities(work->session->network);
    struct json_object *row = json_object_new_object(), *list = json_object_new_array();
    if (!work->rows) printf("%s:", path);
    for (int r = 0; r < work->options->top && r < classes; r++) {
        char number[16];
        double value = (double)work->scores[r].value;
        const char *name = name_of(work, work->scores[r].class, number);
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

// Without a data set pixels are 0..1, as Darknet's.
static void normalize(const struct work *work, size_t size)
{
    if (work->session->dataset) {
        dataset_normalize(work->session->dataset, work->pixels, work->input);
        return;
    }
    for (size_t i = 0; i < size; i++) work->input[i] = (float)work->pixels[i] / 255.0f;
}

static bool predict(const struct work *work, const char *path, struct error *error)
{
    struct network *network = work->session->network;
    struct shape in = network->input_shape;
    int classes;
    struct pass pass = {.pool = network->pool, .images = 1};
    if (!picture_read(path, in.channels, in.height, in.width, work->pixels, error)) return false;
    normalize(work, shape_size(in));
    if (!network_forward(network, work->input, &pass, error)) return error_prefix(error, "%s: ", path);
    const float *scores = network_output(network, &classes);
    sort_scores(work, scores, classes);
    report(work, path, classes);
    return true;
}

static bool prepare(struct work *work, struct error *error)
{
    const struct options *o = work->options;
    int classes;
    network_output(work->session->network, &classes);
    size_t size = shape_size(work->session->network->input_shape);
    work->pixels = memory_allocate(size, 1, error);
    work->input = memory_allocate(size + 64, sizeof(float), error);
    work->scores = memory_allocate((size_t)classes, sizeof *work->scores, error);
    return work->pixels && work->input && work->scores && (!o->names || class_names_read(&work->names, o->names, classes, error)) &&
           session_load_weights(work->session, o->checkpoint, error);
}

// A picture that cannot be read does not keep the others from being classified.
static int run(const struct options *o, struct session *session)
{
    struct error error;
    struct work work = {.options = o, .session = session, .rows = o->json ? json_object_new_array() : NULL};
    int status = 0;
    bool ready = prepare(&work, &error);
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
    memory_release(work.pixels);
    memory_release(work.input);
    memory_release(work.scores);
    class_names_release(&work.names);
    return status;
}

int command_predict(int argc, char **argv)
{
    struct options o = {.session = SESSION_REQUEST_DEFAULTS, .top = 5};
    const struct argument table[] = {
        SESSION_ARGUMENTS(o.session),
        {"CHECKPOINT", ARGUMENT_POSITIONAL, &o.checkpoint, "a .safetensors or .weights file of the network"},
        {"PICTURE", ARGUMENT_LIST, &o.pictures, "JPEG or PNG files"},
        {"--names", ARGUMENT_TEXT, &o.names, "file with a class name a line (default: the data set's names; numbers without a data set)"},
        {"--top", ARGUMENT_INT, &o.top, "classes shown (default: 5)"},
        {"--json", ARGUMENT_FLAG, &o.json, "print as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "CFG CHECKPOINT PICTURE... [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    if (o.pictures.count == 0) {
        fprintf(stderr, "mlsnet predict: no picture given; see mlsnet predict --help\n");
        return 2;
    }
    struct session session;
    o.session.needs_data = o.session.data_optional = true; // for the names of the classes, mean and deviation
    o.session.max_images = 1;
    int status = session_open(&session, &o.session);
    if (status == 0) status = run(&o, &session);
    session_close(&session);
    return status;
}
