#include "net/deltas.h"

#include <string.h>

#include "base/memory.h"

static bool same_shape(struct shape a, struct shape b)
{
    return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

// A [shortcut] gives its error to both inputs. Its array can serve as theirs where nobody writes to it before its time:
// for the first input, that reads it next, if the shortcut is its only reader; for the second if all its other readers come
// before the first input, and that leaves the array as it is.
static void share_with_inputs(const struct network *network, struct layer *layer)
{
    if (strcmp(layer->type->name, "shortcut") != 0) return;
    struct layer *first = layer->inputs[0], *second = layer->inputs[1];
    if (first == second) return;
    bool only_reader = true, comes_last = true;
    for (int i = 0; i < network->layer_count; i++) {
        const struct layer *reader = network->layers[i];
        for (int k = 0; k < reader->input_count && reader != layer; k++) {
            only_reader &= !layer_reads(reader, k, first);
            comes_last &= !layer_reads(reader, k, second) || i <= first->index;
        }
    }
    if (!only_reader || !first->needs_delta) return;
    first->delta_owner = layer->delta_owner;
    if (!same_shape(first->output_shape, second->output_shape)) return;
    if (comes_last && first->keeps_delta && second->needs_delta && second->index < first->index) second->delta_owner = layer->delta_owner;
}

// The highest index of a layer that writes the layer's delta, and the lowest index of one that shares its array.
static int first_writer(const struct network *network, const struct layer *layer)
{
    for (int i = network->layer_count - 1; i > layer->index; i--)
        for (int k = 0; k < network->layers[i]->input_count; k++)
            if (layer_reads(network->layers[i], k, layer)) return i;
    return layer->index;
}

static int last_user(const struct network *network, const struct layer *owner)
{
    for (int i = 0; i < owner->index; i++)
        if (network->layers[i]->delta_owner == owner) return i;
    return owner->index;
}

// An array that is free when layer `writer` writes, the smallest that is large enough; else a new one.
static struct delta_array *find_array(struct network *network, size_t floats, int writer, struct error *error)
{
    struct delta_array *best = NULL;
    for (int i = 0; i < network->delta_array_count; i++) {
        struct delta_array *array = &network->delta_arrays[i];
        if (array->last_use > writer && array->floats >= floats && (!best || array->floats < best->floats)) best = array;
    }
    if (best) return best;
    best = &network->delta_arrays[network->delta_array_count];
    *best = (struct delta_array){.values = memory_allocate(floats, sizeof(float), error), .floats = floats};
    if (!best->values) return NULL;
    network->delta_array_count++;
    return best;
}

static bool has_delta(const struct layer *layer)
{
    return layer->needs_delta && !layer->is_alias;
}

bool deltas_allocate(struct network *network, struct error *error)
{
    network->delta_arrays = memory_allocate((size_t)network->layer_count, sizeof *network->delta_arrays, error);
    if (!network->delta_arrays) return false;
    for (int i = network->layer_count - 1; i >= 0; i--) {
        struct layer *layer = network->layers[i];
        if (!has_delta(layer)) continue;
        if (!layer->delta_owner) layer->delta_owner = layer;
        share_with_inputs(network, layer);
    }
    for (int i = network->layer_count - 1; i >= 0; i--) {
        struct layer *layer = network->layers[i];
        if (!has_delta(layer)) continue;
        if (layer->delta_owner != layer) {
            layer->delta = layer->delta_owner->delta;
            continue;
        }
        size_t floats = (size_t)network->max_images * shape_stored(layer->output_shape);
        struct delta_array *array = find_array(network, floats, first_writer(network, layer), error);
        if (!array) return false;
        array->last_use = last_user(network, layer);
        layer->delta = array->values;
    }
    return true;
}

void deltas_release(struct network *network)
{
    for (int i = 0; i < network->delta_array_count; i++) memory_release(network->delta_arrays[i].values);
    memory_release(network->delta_arrays);
}
