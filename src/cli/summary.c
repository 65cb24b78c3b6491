// mlsnet summary: layers, shapes, parameters, multiply-adds, MLS settings, memory.
#include <json-c/json.h>
#include <stdio.h>

#include "cli/command.h"
#include "cli/session.h"
#include "net/arrays.h"

static size_t parameters_of(const struct network *network, int layer)
{
    char prefix[32];
    size_t count = 0;
    int length = snprintf(prefix, sizeof prefix, "layers.%d.", layer);
    for (int i = 0; i < network->parameter_count; i++) {
        const struct parameter *p = network->parameters[i];
        bool mine = true;
        for (int k = 0; k < length; k++) mine = mine && p->name[k] == prefix[k];
        if (mine && p->gradient) count += p->count;
    }
    return count;
}

// What the layer has for itself: parameters with gradient and momentum, and what it allocated.
static size_t memory_of(const struct network *network, const struct layer *layer)
{
    return 3 * sizeof(float) * parameters_of(network, layer->index) + layer->extra_memory;
}

// What the layers share: maps, workspace and scratch.
static size_t shared_memory(const struct network *network)
{
    return network->maps_floats * sizeof(float) + network->workspace_bytes + network->scratch_bytes * (size_t)thread_pool_size(network->pool);
}

struct totals {
    size_t parameters, memory;
    double multiply_adds;
};

static void print_row(const struct network *network, const struct layer *layer, struct totals *totals)
{
    char text[160] = "", output[48];
    struct shape o = layer->output_shape;
    if (layer->type->describe) layer->type->describe(layer, text, sizeof text);
    snprintf(output, sizeof output, "%d x %d x %d", o.channels, o.height, o.width);
    size_t parameters = parameters_of(network, layer->index), memory = memory_of(network, layer);
    printf("%4d  %-14s %-18s %12zu %12.3f %9.1f  %s\n", layer->index, layer->type->name, output, parameters,
           layer->multiply_adds / 1e6, (double)memory / 1048576, text);
    totals->parameters += parameters;
    totals->memory += memory;
    totals->multiply_adds += layer->multiply_adds;
}

static struct json_object *row_json(const struct network *network, const struct layer *layer)
{
    char text[160] = "";
    struct shape o = layer->output_shape;
    struct json_object *row = json_object_new_object();
    if (layer->type->describe) layer->type->describe(layer, text, sizeof text);
    json_object_object_add(row, "layer", json_object_new_int(layer->index));
    json_object_object_add(row, "type", json_object_new_string(layer->type->name));
    json_object_object_add(row, "channels", json_object_new_int(o.channels));
    json_object_object_add(row, "height", json_object_new_int(o.height));
    json_object_object_add(row, "width", json_object_new_int(o.width));
    json_object_object_add(row, "parameters", json_object_new_int64((int64_t)parameters_of(network, layer->index)));
    json_object_object_add(row, "multiply_adds", json_object_new_double(layer->multiply_adds));
    json_object_object_add(row, "bytes", json_object_new_int64((int64_t)memory_of(network, layer)));
    json_object_object_add(row, "settings", json_object_new_string(text));
    return row;
}

static void print_json(const struct network *network)
{
    struct json_object *rows = json_object_new_array();
    for (int i = 0; i < network->layer_count; i++) json_object_array_add(rows, row_json(network, network->layers[i]));
    puts(json_object_to_json_string_ext(rows, JSON_C_TO_STRING_PRETTY));
    json_object_put(rows);
}

static void print_table(const struct network *network)
{
    struct totals totals = {0};
    struct shape in = network->input_shape;
    printf("input %d x %d x %d, %d images at a time; kernels: see mlsnet kernels\n", in.channels, in.height, in.width, network->max_images);
    printf("%4s  %-14s %-18s %12s %12s %9s  %s\n", "", "layer", "output", "parameters", "M mult-adds", "MiB", "settings");
    for (int i = 0; i < network->layer_count; i++) print_row(network, network->layers[i], &totals);
    printf("%4s  %-14s %-18s %12s %12s %9.1f  feature maps, their errors, workspace: places used by one after the other\n", "", "shared", "", "", "",
           (double)shared_memory(network) / 1048576);
    totals.memory += shared_memory(network);
    printf("%4s  %-14s %-18s %12zu %12.3f %9.1f  parameters without running statistics; memory of training\n", "", "total", "",
           totals.parameters, totals.multiply_adds / 1e6, (double)totals.memory / 1048576);
}

int command_summary(int argc, char **argv)
{
    struct session_request request = SESSION_REQUEST_DEFAULTS;
    bool json = false;
    const struct argument table[] = {SESSION_ARGUMENTS(request), {"--json", ARGUMENT_FLAG, &json, "print as JSON"}, {0}};
    enum arguments_result result = arguments_parse(argc, argv, "CFG [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    struct session session;
    request.for_training = request.loss_optional = true;
    int status = session_open(&session, &request);
    if (status == 0) json ? print_json(session.network) : print_table(session.network);
    session_close(&session);
    return status;
}
