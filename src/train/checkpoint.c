#include "train/checkpoint.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "train/safetensors.h"

#ifndef MLSNET_VERSION
#define MLSNET_VERSION "unknown"
#endif

// Metadata of weights that came from Darknet.
#define EPSILON_KEY "batch_norm_epsilon" // only where it is not "variance"
#define DEVIATION "deviation"
#define HEADER_KEY "darknet_header"
#define SEEN_KEY "darknet_seen"

static struct safetensors_tensor tensor_of(const struct parameter *p, const char *name, const float *data)
{
    struct safetensors_tensor tensor = {.name = name, .rank = p->rank, .data = data, .count = p->count};
    memcpy(tensor.dims, p->dims, sizeof tensor.dims);
    return tensor;
}

static void momentum_name(char name[96], const struct parameter *parameter)
{
    snprintf(name, 96, "%s.momentum", parameter->name);
}

struct texts { // metadata
    int count;
    struct safetensors_text items[16];
    char numbers[16][32]; // where they are kept that are made here
};

static void add_text(struct texts *texts, const char *key, const char *value)
{
    texts->items[texts->count++] = (struct safetensors_text){key, value};
}

__attribute__((format(printf, 3, 4)))
static void add_number(struct texts *texts, const char *key, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(texts->numbers[texts->count], sizeof texts->numbers[0], format, arguments);
    va_end(arguments);
    add_text(texts, key, texts->numbers[texts->count]);
}

static bool save(const char *path, const struct network *network, bool momentum, struct texts *texts, const char *cfg_text, struct error *error)
{
    size_t most = 2 * (size_t)network->parameter_count;
    struct safetensors_tensor *tensors = memory_allocate(most, sizeof *tensors, error);
    char(*names)[96] = memory_allocate(most, sizeof *names, error);
    bool good = tensors && names;
    int count = 0;
    for (int i = 0; good && i < network->parameter_count; i++) {
        const struct parameter *p = network->parameters[i];
        tensors[count++] = tensor_of(p, p->name, p->value);
        if (!p->momentum || !momentum) continue;
        momentum_name(names[i], p);
        tensors[count++] = tensor_of(p, names[i], p->momentum);
    }
    if (network->batch_norm_epsilon == BATCH_NORM_EPSILON_DEVIATION) add_text(texts, EPSILON_KEY, DEVIATION);
    add_text(texts, "cfg", cfg_text);
    good = good && safetensors_write(path, tensors, count, texts->items, texts->count, error);
    memory_release(tensors);
    memory_release(names);
    return good;
}

bool checkpoint_save(const char *path, const struct network *network, const struct training_state *state,
                     const char *cfg_text, struct error *error)
{
    struct texts texts = {0};
    add_text(&texts, "format", "mlsnet");
    add_text(&texts, "version", MLSNET_VERSION);
    add_number(&texts, "step", "%ld", state->step);
    add_number(&texts, "epoch", "%ld", state->epoch);
    add_number(&texts, "batch", "%ld", state->batch);
    add_number(&texts, "loss_sum", "%a", state->loss_sum);
    add_number(&texts, "correct", "%ld", state->correct);
    add_number(&texts, "images", "%ld", state->images);
    add_number(&texts, "best", "%a", state->best);
    add_number(&texts, "seed", "%ld", state->seed);
    if (*state->data) add_text(&texts, "data", state->data);
    return save(path, network, true, &texts, cfg_text, error);
}

bool checkpoint_save_weights(const char *path, const struct network *network, const char *cfg_text, const struct darknet_header *header,
                             struct error *error)
{
    struct texts texts = {0};
    add_text(&texts, "format", "mlsnet");
    add_text(&texts, "version", MLSNET_VERSION);
    if (header->known) {
        add_number(&texts, HEADER_KEY, "%d.%d.%d", header->major, header->minor, header->revision);
        add_number(&texts, SEEN_KEY, "%" PRIu64, header->seen);
    }
    return save(path, network, false, &texts, cfg_text, error);
}

static void shape_text(char text[64], int rank, const int *dims)
{
    int used = snprintf(text, 64, "[");
    for (int i = 0; i < rank && used < 50; i++) used += snprintf(text + used, (size_t)(64 - used), i ? ", %d" : "%d", dims[i]);
    snprintf(text + used, (size_t)(64 - used), "]");
}

// The tensor that fits the parameter, or NULL with a message.
static const struct safetensors_tensor *fitting(const char *path, const struct safetensors *file, const struct parameter *p,
                                                const char *name, struct error *error)
{
    const struct safetensors_tensor *tensor = safetensors_find(file, name);
    char found[64], expected[64];
    if (!tensor) {
        error_set(error, "%s: no tensor %s: a checkpoint of another network", path, name);
        return NULL;
    }
    if (tensor->rank == p->rank && memcmp(tensor->dims, p->dims, (size_t)p->rank * sizeof(int)) == 0) return tensor;
    shape_text(found, tensor->rank, tensor->dims);
    shape_text(expected, p->rank, p->dims);
    error_set(error, "%s: tensor %s has shape %s, the network needs %s: a checkpoint of another network", path, name, found,
              expected);
    return NULL;
}

// Checks (copy = false) or copies every tensor of the first `layers` layers.
static bool visit(const char *path, const struct safetensors *file, struct network *network, int layers, bool momentum, bool copy,
                  int *used, struct error *error)
{
    *used = 0;
    for (int i = 0; i < network->parameter_count; i++) {
        struct parameter *p = network->parameters[i];
        char name[96];
        if (atoi(p->name + strlen("layers.")) >= layers) break;
        momentum_name(name, p);
        const struct safetensors_tensor *value = fitting(path, file, p, p->name, error), *velocity = NULL;
        if (!value) return false;
        if (p->momentum && momentum && !(velocity = fitting(path, file, p, name, error))) return false;
        *used += 1 + (safetensors_find(file, name) != NULL);
        if (copy) memcpy(p->value, value->data, p->count * sizeof(float));
        if (copy && velocity) memcpy(p->momentum, velocity->data, p->count * sizeof(float));
    }
    return true;
}

static bool read_number(const char *path, const struct safetensors *file, const char *key, long *integer, double *number,
                        struct error *error)
{
    const char *text = safetensors_metadata(file, key);
    char *end = NULL;
    if (text && integer) *integer = strtol(text, &end, 10);
    if (text && number) *number = strtod(text, &end);
    if (text && end != text && *end == 0 && (!integer || *integer >= 0)) return true;
    return error_set(error, "%s: metadata %s is %s: cannot go on from this checkpoint", path, key, text ? text : "missing");
}

static bool read_state(const char *path, const struct safetensors *file, struct training_state *s, struct error *error)
{
    const char *data = safetensors_metadata(file, "data"); // checkpoints of before have none
    snprintf(s->data, sizeof s->data, "%s", data ? data : "");
    return read_number(path, file, "step", &s->step, NULL, error) && read_number(path, file, "epoch", &s->epoch, NULL, error) &&
           read_number(path, file, "batch", &s->batch, NULL, error) &&
           read_number(path, file, "loss_sum", NULL, &s->loss_sum, error) &&
           read_number(path, file, "correct", &s->correct, NULL, error) &&
           read_number(path, file, "images", &s->images, NULL, error) && read_number(path, file, "best", NULL, &s->best, error) &&
           read_number(path, file, "seed", &s->seed, NULL, error);
}

// What the file says of the behaviour in evaluation, and of the .weights file it was made from.
static bool read_origin(const char *path, const struct safetensors *file, struct network *network, struct darknet_header *header,
                        struct error *error)
{
    const char *epsilon = safetensors_metadata(file, EPSILON_KEY), *version = safetensors_metadata(file, HEADER_KEY);
    const char *seen = safetensors_metadata(file, SEEN_KEY);
    if (version && (!darknet_header_from_text(version, header) || !seen || sscanf(seen, "%" SCNu64, &header->seen) != 1))
        return error_set(error, "%s: metadata " HEADER_KEY " is %s: expected three numbers, and " SEEN_KEY, path, version);
    if (epsilon && strcmp(epsilon, DEVIATION) != 0) return error_set(error, "%s: metadata " EPSILON_KEY " is %s: unknown", path, epsilon);
    network_use_batch_norm_epsilon(network, epsilon ? BATCH_NORM_EPSILON_DEVIATION : BATCH_NORM_EPSILON_VARIANCE);
    return true;
}

// From the file's bytes, which are taken over.
static bool load_safetensors(const char *path, uint8_t *bytes, size_t size, struct network *network, int layers,
                             struct training_state *state, struct darknet_header *header, struct error *error)
{
    struct safetensors file;
    struct training_state read = {0};
    int used = 0;
    bool good = safetensors_parse(path, bytes, size, &file, error) && visit(path, &file, network, layers, state != NULL, false, &used, error);
    if (good && layers >= network->layer_count && used != file.count)
        good = error_set(error, "%s: %d tensors, the network has %d: a checkpoint of another network", path, file.count, used);
    if (good && state) good = read_state(path, &file, &read, error);
    good = good && read_origin(path, &file, network, header, error);
    if (good) {
        visit(path, &file, network, layers, state != NULL, true, &used, error);
        if (state) *state = read;
    }
    safetensors_release(&file);
    return good;
}

static bool load(const char *path, struct network *network, int layers, struct training_state *state, struct darknet_header *header,
                 struct error *error)
{
    size_t size = 0;
    uint8_t *bytes = file_read(path, SAFETENSORS_LARGEST_FILE, &size, error);
    *header = (struct darknet_header){0};
    if (!bytes) return false;
    if (!darknet_weights_recognized(bytes, size)) return load_safetensors(path, bytes, size, network, layers, state, header, error);
    bool good = !state || error_set(error, "%s: a .weights file has no training state to go on from", path);
    good = good && darknet_weights_parse(path, bytes, size, network, layers, header, error);
    memory_release(bytes);
    return good;
}

char *checkpoint_text(const char *path, const char *key)
{
    struct safetensors file;
    const char *text = safetensors_read(path, &file, NULL) ? safetensors_metadata(&file, key) : NULL;
    char *copy = text ? strdup(text) : NULL;
    safetensors_release(&file);
    return copy;
}

bool checkpoint_load(const char *path, struct network *network, struct training_state *state, struct error *error)
{
    struct darknet_header header;
    return load(path, network, network->layer_count, state, &header, error);
}

bool checkpoint_load_weights(const char *path, struct network *network, struct darknet_header *header, struct error *error)
{
    return load(path, network, network->layer_count, NULL, header, error);
}

bool checkpoint_load_first_layers(const char *path, struct network *network, int layers, struct darknet_header *header, struct error *error)
{
    return load(path, network, layers, NULL, header, error);
}
