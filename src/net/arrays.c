#include "net/arrays.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static bool same_shape(struct shape a, struct shape b)
{
    return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

// A map and the times at which it is in use, both included.
struct map {
    float **place; // where its address goes
    size_t floats, offset;
    int from, until;
};

struct plan {
    struct map *maps;
    int count;
};

static void add(struct plan *plan, float **place, size_t floats, int from, int until)
{
    plan->maps[plan->count++] = (struct map){place, (floats + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS * BLOCK_CHANNELS, 0, from, until};
}

static bool in_use_together(const struct map *a, const struct map *b)
{
    return a->from <= b->until && b->from <= a->until;
}

// Falling by size; the order of adding among equals.
static int compare_maps(const void *a, const void *b)
{
    const struct map *x = a, *y = b;
    if (x->floats != y->floats) return x->floats < y->floats ? 1 : -1;
    return x->from != y->from ? x->from - y->from : x->until - y->until;
}

// The lowest offset at which map `index` meets none of those before it that are in use with it.
static void place_map(struct plan *plan, int index)
{
    struct map *map = &plan->maps[index];
    map->offset = 0;
    for (int i = 0; i < index; i++) {
        const struct map *other = &plan->maps[i];
        bool overlap = map->offset < other->offset + other->floats && other->offset < map->offset + map->floats;
        if (!overlap || !in_use_together(map, other)) continue;
        map->offset = other->offset + other->floats;
        i = -1; // again, from the new offset
    }
}

// The largest maps first: small ones fit between them.
static bool allocate_plan(struct plan *plan, struct network *network, struct error *error)
{
    size_t floats = 0;
    qsort(plan->maps, (size_t)plan->count, sizeof *plan->maps, compare_maps);
    for (int i = 0; i < plan->count; i++) {
        place_map(plan, i);
        size_t end = plan->maps[i].offset + plan->maps[i].floats;
        floats = end > floats ? end : floats;
    }
    network->maps = memory_allocate(floats, sizeof(float), error);
    if (!network->maps) return false;
    network->maps_floats = floats;
    for (int i = 0; i < plan->count; i++) *plan->maps[i].place = network->maps + plan->maps[i].offset;
    return true;
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

// Time goes on from the first layer's forward to the last one's, and from the last layer's backward to the first one's.
static int backward_time(const struct network *network, int index)
{
    return 2 * network->layer_count - 1 - index;
}

// The last time at which the output is read. The layers that read it come before it in backward.
static int end_of_output(const struct network *network, const struct layer *layer)
{
    int backward = backward_time(network, layer->index);
    if (network->for_training && layer->needs_delta && !layer->backward_spares_output) return backward;
    for (int i = 0; i < network->layer_count && network->for_training; i++) {
        const struct layer *reader = network->layers[i];
        for (int k = 0; k < reader->input_count; k++)
            if (layer_reads(reader, k, layer) && reader->needs_delta && !reader->backward_spares_input) return backward;
    }
    return last_reader(network, layer);
}

// Whether no other layer from index `from` on reads `layer`.
static bool is_only_reader(const struct network *network, const struct layer *reader, const struct layer *layer, int from)
{
    for (int i = from; i < network->layer_count; i++)
        for (int k = 0; k < network->layers[i]->input_count && network->layers[i] != reader; k++)
            if (layer_reads(network->layers[i], k, layer)) return false;
    return true;
}

// The layer whose raw map becomes this one's output, in place: one that it follows, where nobody else needs that map.
static struct layer *replaced_by(const struct network *network, const struct layer *layer)
{
    struct layer *first = layer->inputs[0];
    bool follows = !network->for_training && first && first->output_follower == layer && is_deferred(network, first);
    return follows && layer != network->output_layer && is_only_reader(network, layer, first, 0) ? first : NULL;
}

static void add_outputs(struct plan *plan, struct network *network)
{
    for (int i = 0; i < network->layer_count; i++) {
        struct layer *layer = network->layers[i];
        size_t floats = (size_t)network->max_images * shape_stored(layer->output_shape);
        bool deferred = is_deferred(network, layer);
        int end = network->for_training ? backward_time(network, i) : deferred ? last_reader(network, layer) : i;
        if (layer->is_alias) continue;
        if (layer->output_follower && replaced_by(network, layer->output_follower) == layer) end = end_of_output(network, layer->output_follower);
        if (layer->wants_raw) add(plan, &layer->raw, floats, i, end);
        // It is written while the layer that this one follows is at work.
        int begin = layer->follow && layer->inputs[0]->output_follower == layer ? layer->inputs[0]->index : i;
        if (!deferred && !replaced_by(network, layer)) add(plan, &layer->output, floats, begin, end_of_output(network, layer));
    }
}

// ---------------------------------------------------------------------------------------------
// Errors

// A layer that gives its error to both inputs, as [shortcut]. Its array can serve as theirs where nobody writes to it before its time:
// for the first input, that reads it next, if the shortcut is its only reader; for the second if all its other readers come
// before the first input, and that leaves the array as it is.
static void share_with_inputs(const struct network *network, struct layer *layer)
{
    if (!layer_is(layer, LAYER_SHARES_DELTA)) return;
    struct layer *first = layer->inputs[0], *second = layer->inputs[1];
    if (first == second) return;
    if (!is_only_reader(network, layer, first, 0) || !first->needs_delta) return;
    first->delta_owner = layer->delta_owner;
    if (!same_shape(first->output_shape, second->output_shape)) return;
    bool comes_last = is_only_reader(network, layer, second, first->index + 1);
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

void arrays_plan_deltas(struct network *network)
{
    for (int i = network->layer_count - 1; i >= 0; i--) {
        struct layer *layer = network->layers[i];
        if (!has_delta(layer)) continue;
        if (!layer->delta_owner) layer->delta_owner = layer;
        share_with_inputs(network, layer);
    }
}

static void add_deltas(struct plan *plan, struct network *network)
{
    for (int i = network->layer_count - 1; i >= 0; i--) {
        struct layer *layer = network->layers[i];
        if (!has_delta(layer) || layer->delta_owner != layer) continue;
        size_t floats = (size_t)network->max_images * shape_stored(layer->output_shape);
        add(plan, &layer->delta, floats, backward_time(network, first_writer(network, layer)), backward_time(network, last_user(network, layer)));
    }
}

bool arrays_allocate(struct network *network, struct error *error)
{
    // A layer has at most an output, a raw one and an error.
    struct plan plan = {.maps = memory_allocate(3 * (size_t)network->layer_count, sizeof *plan.maps, error)};
    if (!plan.maps) return false;
    add_outputs(&plan, network);
    if (network->for_training) add_deltas(&plan, network);
    bool good = allocate_plan(&plan, network, error);
    memory_release(plan.maps);
    for (int i = 0; i < network->layer_count; i++) {
        struct layer *layer = network->layers[i], *replaced = replaced_by(network, layer);
        if (replaced) layer->output = replaced->raw;
        if (layer->delta_owner) layer->delta = layer->delta_owner->delta;
    }
    return good;
}
