#include "train/darknet_weights.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

#define MOST_ROLES 6
#define LARGEST_NUMBER 1000000 // no version number is larger
#define TRANSPOSED 1000        // is this version number or more

// The arrays of a layer type in the order of the file; those that a layer does not have are left out.
static const struct layer_order {
    const char *type;
    const char *roles[MOST_ROLES + 1];
} orders[] = {
    {"convolutional", {"conv.bias", "batchnorm.bias", "batchnorm.scale", "batchnorm.running_mean", "batchnorm.running_variance", "conv.weight"}},
    {"connected", {"connected.bias", "batchnorm.bias", "connected.weight", "batchnorm.scale", "batchnorm.running_mean", "batchnorm.running_variance"}},
    {"batchnorm", {"batchnorm.bias", "batchnorm.scale", "batchnorm.running_mean", "batchnorm.running_variance"}},
    {"local", {"local.bias", "local.weight"}},
};

struct item { // one array of the file
    const struct layer *layer;
    struct parameter *parameter;
    bool transposed; // [inputs][outputs] in the file
    bool absent;     // not in a file of this version; 0
};

struct plan {
    int count;
    struct item *items;
};

// ---------------------------------------------------------------------------------------------
// The header

static bool successor(const struct darknet_header *h)
{
    return h->major < TRANSPOSED && h->minor < TRANSPOSED && (h->major > 0 || h->minor > 2 || (h->minor == 2 && h->revision >= 5));
}

enum batch_norm_epsilon darknet_header_epsilon(const struct darknet_header *header)
{
    return successor(header) ? BATCH_NORM_EPSILON_VARIANCE : BATCH_NORM_EPSILON_DEVIATION;
}

static size_t seen_bytes(const struct darknet_header *h)
{
    return h->major * 10 + h->minor >= 2 && h->major < TRANSPOSED && h->minor < TRANSPOSED ? 8 : 4;
}

static bool possible(const struct darknet_header *h)
{
    return h->major >= 0 && h->major < LARGEST_NUMBER && h->minor >= 0 && h->minor < LARGEST_NUMBER && h->revision >= 0 &&
           h->revision < LARGEST_NUMBER;
}

bool darknet_header_from_text(const char *text, struct darknet_header *h)
{
    int end = 0;
    *h = (struct darknet_header){.known = true};
    if (sscanf(text, "%9" SCNd32 ".%9" SCNd32 "%n", &h->major, &h->minor, &end) != 2) return false;
    if (text[end] == '.') {
        int more = 0;
        if (sscanf(text + end, ".%9" SCNd32 "%n", &h->revision, &more) != 1) return false;
        end += more;
    }
    return text[end] == 0 && possible(h);
}

// Bytes of the header, or 0.
static size_t read_header(const uint8_t *bytes, size_t size, struct darknet_header *h)
{
    int32_t numbers[3];
    *h = (struct darknet_header){.known = true};
    if (size < sizeof numbers) return 0;
    memcpy(numbers, bytes, sizeof numbers);
    h->major = numbers[0];
    h->minor = numbers[1];
    h->revision = numbers[2];
    if (!possible(h) || size < sizeof numbers + seen_bytes(h)) return 0;
    memcpy(&h->seen, bytes + sizeof numbers, seen_bytes(h));
    return sizeof numbers + seen_bytes(h);
}

bool darknet_weights_recognized(const uint8_t *bytes, size_t size)
{
    struct darknet_header header;
    return read_header(bytes, size, &header) > 0;
}

// ---------------------------------------------------------------------------------------------
// What stands where

static const struct layer_order *order_of(const struct layer *layer)
{
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++)
        if (strcmp(orders[i].type, layer->type->name) == 0) return &orders[i];
    return NULL;
}

static struct parameter *parameter_of(const struct network *network, const struct layer *layer, const char *role)
{
    char name[64];
    snprintf(name, sizeof name, "layers.%d.%s", layer->index, role);
    return network_find_parameter(network, name);
}

static bool is_flipped(const struct layer *layer)
{
    const struct cfg_option *option = cfg_find_option(layer->section, "flipped");
    return option && strcmp(option->value, "0") != 0;
}

static struct item item_of(const struct layer *layer, const char *role, struct parameter *parameter, const struct darknet_header *h)
{
    struct item item = {.layer = layer, .parameter = parameter};
    if (strcmp(role, "connected.weight") == 0) item.transposed = h->major > TRANSPOSED || h->minor > TRANSPOSED;
    if (strcmp(role, "conv.weight") == 0) item.transposed = is_flipped(layer);
    item.absent = strcmp(layer->type->name, "batchnorm") == 0 && strcmp(role, "batchnorm.bias") == 0 && !successor(h);
    return item;
}

// All arrays in the order of the file. false: out of memory, or a parameter that Darknet has no place for.
static bool make_plan(const char *name, const struct network *network, const struct darknet_header *h, struct plan *plan, struct error *error)
{
    *plan = (struct plan){0, memory_allocate((size_t)network->parameter_count + 1, sizeof *plan->items, error)};
    if (!plan->items) return false;
    for (int i = 0; i < network->layer_count; i++) {
        const struct layer *layer = network->layers[i];
        const struct layer_order *order = order_of(layer);
        for (int k = 0; order && order->roles[k]; k++) {
            struct parameter *parameter = parameter_of(network, layer, order->roles[k]);
            if (parameter) plan->items[plan->count++] = item_of(layer, order->roles[k], parameter, h);
        }
    }
    if (plan->count == network->parameter_count) return true;
    memory_release(plan->items);
    return error_set(error, "%s: a .weights file has no place for all of this network's parameters", name);
}

// to[columns][rows] = from[rows][columns]
static void transpose(const float *from, size_t rows, size_t columns, float *to)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c];
}

// How many of the arrays are those of the first `layers` layers.
static int items_of_first(const struct plan *plan, int layers)
{
    int count = 0;
    while (count < plan->count && plan->items[count].layer->index < layers) count++;
    return count;
}

static size_t stored_bytes(const struct item *item)
{
    return item->absent ? 0 : item->parameter->count * sizeof(float);
}

// ---------------------------------------------------------------------------------------------
// Reading

static bool too_short(const char *name, const struct plan *plan, int i, size_t left, struct error *error)
{
    const struct item *item = &plan->items[i];
    int index = item->layer->index, before = i - 1;
    const char *type = item->layer->type->name;
    while (before >= 0 && plan->items[before].absent) before--;
    if (left == 0 && (before < 0 || plan->items[before].layer != item->layer))
        return error_set(error, "%s: ends before layer %d [%s]: weights of the first %d layers alone, or of another network", name, index,
                         type, index);
    return error_set(error, "%s: ends within layer %d [%s]: %s needs %zu bytes, %zu are left: cut off, or weights of another network", name,
                     index, type, item->parameter->name, stored_bytes(item), left);
}

// Whether `size` bytes are the first `count` arrays.
static bool check_length(const char *name, const struct plan *plan, int count, size_t size, struct error *error)
{
    for (int i = 0; i < count; i++) {
        if (stored_bytes(&plan->items[i]) > size) return too_short(name, plan, i, size, error);
        size -= stored_bytes(&plan->items[i]);
    }
    if (size == 0) return true;
    if (count == 0) return error_set(error, "%s: %zu bytes behind the header, but no layer has weights", name, size);
    const struct layer *last = plan->items[count - 1].layer;
    return error_set(error, "%s: %zu bytes too many behind the last layer with weights%s, layer %d [%s]: weights of another network", name, size,
                     count < plan->count ? " that is asked for" : "", last->index, last->type->name);
}

// A negative one tells that the arrays are not what the cfg says.
static bool check_variances(const char *name, const struct plan *plan, int count, const uint8_t *bytes, struct error *error)
{
    for (int i = 0; i < count; i++) {
        const struct item *item = &plan->items[i];
        if (item->absent) continue;
        bool variances = strstr(item->parameter->name, "running_variance") != NULL;
        for (size_t k = 0; k < item->parameter->count; k++, bytes += sizeof(float)) {
            float value;
            memcpy(&value, bytes, sizeof value);
            if (variances && !(value >= 0 && isfinite(value)))
                return error_set(error, "%s: layer %d [%s]: a variance is %g: weights of another network?", name, item->layer->index,
                                 item->layer->type->name, (double)value);
        }
    }
    return true;
}

static bool copy_in(const struct item *item, const uint8_t *bytes, struct error *error)
{
    struct parameter *p = item->parameter;
    if (item->absent) {
        memset(p->value, 0, p->count * sizeof(float));
        return true;
    }
    memcpy(p->value, bytes, p->count * sizeof(float));
    if (!item->transposed) return true;
    float *copy = memory_allocate(p->count, sizeof(float), error);
    if (!copy) return false;
    memcpy(copy, p->value, p->count * sizeof(float));
    transpose(copy, p->count / (size_t)p->dims[0], (size_t)p->dims[0], p->value);
    memory_release(copy);
    return true;
}

bool darknet_weights_parse(const char *name, const uint8_t *bytes, size_t size, struct network *network, int layers,
                           struct darknet_header *header, struct error *error)
{
    struct plan plan;
    size_t at = read_header(bytes, size, header), all = 0;
    if (at == 0) return error_set(error, "%s: not one of Darknet's .weights files", name);
    if (!make_plan(name, network, header, &plan, error)) return false;
    int wanted = items_of_first(&plan, layers);
    for (int i = 0; i < plan.count; i++) all += stored_bytes(&plan.items[i]);
    bool good = check_length(name, &plan, size - at == all ? plan.count : wanted, size - at, error) &&
                check_variances(name, &plan, wanted, bytes + at, error);
    for (int i = 0; good && i < wanted; i++) {
        good = copy_in(&plan.items[i], bytes + at, error);
        at += stored_bytes(&plan.items[i]);
    }
    memory_release(plan.items);
    if (good) network_use_batch_norm_epsilon(network, darknet_header_epsilon(header));
    return good;
}

// ---------------------------------------------------------------------------------------------
// Writing

static bool check_absent(const char *path, const struct item *item, struct error *error)
{
    for (size_t i = 0; item->absent && i < item->parameter->count; i++)
        if (item->parameter->value[i] != 0)
            return error_set(error, "%s: layer %d [batchnorm] has a bias, which the file gets only with a header of 0.2.5 or later", path,
                             item->layer->index);
    return true;
}

// *owned: memory to be released after writing, or NULL.
static bool piece_of(const char *path, const struct item *item, struct file_piece *piece, float **owned, struct error *error)
{
    const struct parameter *p = item->parameter;
    *piece = (struct file_piece){p->value, stored_bytes(item)};
    if (!item->transposed) return check_absent(path, item, error);
    if (!(*owned = memory_allocate(p->count, sizeof(float), error))) return false;
    transpose(p->value, (size_t)p->dims[0], p->count / (size_t)p->dims[0], *owned);
    piece->data = *owned;
    return true;
}

bool darknet_weights_write(const char *path, const struct network *network, int layers, const struct darknet_header *h, struct error *error)
{
    struct plan plan;
    uint8_t start[20];
    const int32_t numbers[3] = {h->major, h->minor, h->revision};
    memcpy(start, numbers, sizeof numbers);
    memcpy(start + sizeof numbers, &h->seen, sizeof h->seen);
    if (seen_bytes(h) == 4 && h->seen > INT32_MAX)
        return error_set(error, "%s: %" PRIu64 " pictures seen do not fit a header of %d.%d", path, h->seen, h->major, h->minor);
    if (!make_plan(path, network, h, &plan, error)) return false;
    plan.count = items_of_first(&plan, layers);
    struct file_piece *pieces = memory_allocate((size_t)plan.count + 1, sizeof *pieces, error);
    float **owned = memory_allocate((size_t)plan.count + 1, sizeof *owned, error);
    bool good = pieces && owned;
    if (good) pieces[0] = (struct file_piece){start, sizeof numbers + seen_bytes(h)};
    for (int i = 0; good && i < plan.count; i++) good = piece_of(path, &plan.items[i], &pieces[i + 1], &owned[i], error);
    good = good && file_write_atomically(path, pieces, plan.count + 1, error);
    for (int i = 0; owned && i < plan.count; i++) memory_release(owned[i]);
    memory_release(owned);
    memory_release(pieces);
    memory_release(plan.items);
    return good;
}
