#include "net/arrays.h"

#include <string.h>

#include "base/memory.h"

static bool same_shape(struct shape a, struct shape b)
{
    return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

// An array for `floats` numbers that is free from time `from` on, the smallest that is large enough; else a new one. Those
// before `first` are not looked at.
static float *take(struct network *network, int first, size_t floats, int from, int until, struct error *error)
{
    struct shared_array *best = NULL;
    for (int i = first; i < network->array_count; i++) {
        struct shared_array *array = &network->arrays[i];
        if (array->busy_until < from && array->floats >= floats && (!best || array->floats < best->floats)) best = array;
    }
    if (!best) {
        best = &network->arrays[network->array_count];
        *best = (struct shared_array){.values = memory_allocate(floats, sizeof(float), error), .floats = floats};
        if (!best->values) return NULL;
        network->array_count++;
    }
    best->busy_until = until;
    return best->values;
}

// ---------------------------------------------------------------------------------------------
// Outputs

// The output is deferred where the layer can and all that read it can.
static bool is_deferred(const struct network *network, const struct layer *layer)
{
    int readers = 0;
    if (!layer->can_defer || layer == network->output_layer) return false;
    for (int i = 0; i < network->layer_count; i++)
        for (int k = 0; k < network->layers[i]->input_count; k++) {
            if (!layer_reads(network->layers[i], k, layer)) continue;
            if (!network->layers[i]->reads_sources) return false;
            readers++;
        }
    return readers > 0;
}

static int last_reader(const struct network *network, const struct layer *layer)
{
    if (layer == network->output_layer) return network->layer_count;
    for (int i = network->layer_count - 1; i > layer->index; i--)
        for (int k = 0; k < network->layers[i]->input_count; k++)
            if (layer_reads(network->layers[i], k, layer)) return i;
    return layer->index;
}

bool arrays_allocate_outputs(struct network *network, struct error *error)
{
    // A layer has at most an output, a raw one and an error.
    network->arrays = memory_allocate(3 * (size_t)network->layer_count, sizeof *network->arrays, error);
    if (!network->arrays) return false;
    for (int i = 0; i < network->layer_count; i++) {
        struct layer *layer = network->layers[i];
        size_t floats = (size_t)network->max_images * shape_stored(layer->output_shape);
        bool deferred = is_deferred(network, layer);
        int end = network->for_training ? network->layer_count : last_reader(network, layer);
        if (layer->is_alias) continue;
        if (layer->wants_raw && !(layer->raw = take(network, 0, floats, i, deferred || network->for_training ? end : i, error))) return false;
        if (!deferred && !(layer->output = take(network, 0, floats, i, end, error))) return false;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------
// Errors. Time runs from the last layer to the first.

static int backward_time(const struct network *network, int index)
{
    return network->layer_count - 1 - index;
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

static bool has_delta(const struct layer *layer)
{
    return layer->needs_delta && !layer->is_alias;
}

bool arrays_allocate_deltas(struct network *network, struct error *error)
{
    int first = network->array_count;
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
        int from = backward_time(network, first_writer(network, layer)), until = backward_time(network, last_user(network, layer));
        if (!(layer->delta = take(network, first, floats, from, until, error))) return false;
    }
    return true;
}

void arrays_release(struct network *network)
{
    for (int i = 0; i < network->array_count; i++) memory_release(network->arrays[i].values);
    memory_release(network->arrays);
}
