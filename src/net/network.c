#include "net/network.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/kernels.h"
#include "net/arrays.h"

// ---------------------------------------------------------------------------------------------
// Helpers for layer files

const float *layer_input(const struct layer *layer, int i)
{
    return layer->inputs[i] ? layer->inputs[i]->output : layer->network->blocked_input;
}

struct source layer_input_source(const struct layer *layer, int i)
{
    const struct layer *input = layer->inputs[i];
    return input && !input->output ? input->source : (struct source){.kind = SOURCE_PLAIN, .x = layer_input(layer, i)};
}

struct shape layer_input_shape(const struct layer *layer, int i)
{
    return layer->inputs[i] ? layer->inputs[i]->output_shape : layer->network->input_shape;
}

float *layer_input_delta(struct layer *layer, int i, bool *accumulate)
{
    struct layer *input = layer->inputs[i];
    if (!input || !input->delta) return NULL;
    *accumulate = input->delta_written;
    input->delta_written = true;
    input->delta_written_count++;
    return input->delta;
}

static void call_delta_ready(void *context, int image)
{
    struct layer *layer = context;
    layer->delta_ready(layer, image, NULL);
}

struct delta_target layer_delta_target(struct layer *layer, int i)
{
    struct delta_target target = {0};
    struct layer *input = layer->inputs[i];
    target.values = layer_input_delta(layer, i, &target.accumulate);
    if (!target.values || !input->delta_ready || input->delta_written_count < input->delta_writers) return target;
    input->delta_seen = true;
    const float *reads = input->delta_reads ? input->delta_reads->raw : NULL;
    target.done = (struct image_done){call_delta_ready, input, reads, shape_stored(input->output_shape)};
    return target;
}

static struct layer *named_layer(const struct network *network, int index)
{
    struct layer *layer = network->layers[index];
    return layer->is_alias ? layer->inputs[0] : layer;
}

bool layer_set_inputs(struct layer *layer, const int *references, int count, struct diagnostics *diagnostics)
{
    struct layer **inputs = layer_allocate(layer, (size_t)count, sizeof *inputs, diagnostics);
    if (!inputs) return false;
    for (int i = 0; i < count; i++) {
        int index = references[i] < 0 ? layer->index + references[i] : references[i];
        if (index < 0 || index >= layer->index) {
            diagnostics_add(diagnostics, layer->section->line, layer->section->name,
                            "layer %d: %d names layer %d, which does not exist before it: expected %d to %d, or 0 to %d",
                            layer->index, references[i], index, -layer->index, -1, layer->index - 1);
            memory_release(inputs);
            return false;
        }
        inputs[i] = named_layer(layer->network, index);
    }
    memory_release(layer->inputs);
    layer->inputs = inputs;
    layer->input_count = count;
    layer->input_shape = layer_input_shape(layer, 0);
    return true;
}

void *layer_allocate(struct layer *layer, size_t count, size_t size, struct diagnostics *diagnostics)
{
    struct error error;
    void *memory = memory_allocate(count, size, &error);
    if (!memory)
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "layer %d: %s", layer->index,
                        error.message);
    else
        layer->extra_memory += count * size;
    return memory;
}

void network_request_scratch(struct network *network, size_t bytes)
{
    bytes = (bytes + 4095) / 4096 * 4096;
    if (bytes > network->scratch_bytes) network->scratch_bytes = bytes;
}

void network_request_workspace(struct network *network, size_t bytes)
{
    if (bytes > network->workspace_bytes) network->workspace_bytes = bytes;
}

// ---------------------------------------------------------------------------------------------
// Parameters

static void parameter_release(struct parameter *parameter)
{
    if (!parameter) return;
    memory_release(parameter->value);
    memory_release(parameter->gradient);
    memory_release(parameter->momentum);
    memory_release(parameter);
}

static struct parameter *parameter_create(const struct network *network, int rank, const int *dims, bool trainable,
                                          struct error *error)
{
    struct parameter *parameter = memory_allocate(1, sizeof *parameter, error);
    if (!parameter) return NULL;
    parameter->rank = rank;
    parameter->count = 1;
    for (int i = 0; i < rank; i++) {
        parameter->dims[i] = dims[i];
        if (dims[i] > 0 && parameter->count > ((size_t)1 << 40) / (size_t)dims[i]) {
            error_set(error, "a parameter of more than 2^40 elements");
            parameter_release(parameter);
            return NULL;
        }
        parameter->count *= (size_t)dims[i];
    }
    bool complete = (parameter->value = memory_allocate(parameter->count, sizeof(float), error)) != NULL;
    if (complete && trainable && network->for_training)
        complete = (parameter->gradient = memory_allocate(parameter->count, sizeof(float), error)) != NULL &&
                   (parameter->momentum = memory_allocate(parameter->count, sizeof(float), error)) != NULL;
    if (complete) return parameter;
    parameter_release(parameter);
    return NULL;
}

struct parameter *layer_add_parameter(struct layer *layer, const char *role, int rank, const int *dims, bool trainable,
                                      bool decay, struct diagnostics *diagnostics)
{
    struct network *network = layer->network;
    struct error error;
    struct parameter **grown =
        memory_allocate((size_t)network->parameter_count + 1, sizeof *grown, &error);
    struct parameter *parameter = grown ? parameter_create(network, rank, dims, trainable, &error) : NULL;
    if (!parameter) {
        memory_release(grown);
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "layer %d: %s", layer->index,
                        error.message);
        return NULL;
    }
    snprintf(parameter->name, sizeof parameter->name, "layers.%d.%s", layer->index, role);
    parameter->decay = decay;
    parameter->trainable = trainable;
    if (network->parameter_count > 0)
        memcpy(grown, network->parameters, (size_t)network->parameter_count * sizeof *grown);
    memory_release(network->parameters);
    network->parameters = grown;
    grown[network->parameter_count++] = parameter;
    if (trainable) layer->needs_delta = true;
    return parameter;
}

struct parameter *network_find_parameter(const struct network *network, const char *name)
{
    for (int i = 0; i < network->parameter_count; i++)
        if (strcmp(network->parameters[i]->name, name) == 0) return network->parameters[i];
    return NULL;
}

// ---------------------------------------------------------------------------------------------
// Building

static bool is_net(const char *name)
{
    return strcmp(name, "net") == 0 || strcmp(name, "network") == 0;
}

static void report_unknown_section(const struct cfg_section *section, struct diagnostics *diagnostics)
{
    const char *names[64];
    int count = 0;
    names[count++] = "net";
    names[count++] = "data";
    for (int i = 0; layer_types[i]; i++) {
        names[count++] = layer_types[i]->name;
        if (layer_types[i]->alias) names[count++] = layer_types[i]->alias;
    }
    const char *nearest = options_nearest(section->name, names, count);
    diagnostics_add(diagnostics, section->line, section->name, "unknown section%s%s%s", nearest ? "; did you mean [" : "",
                    nearest ? nearest : "", nearest ? "]?" : "");
}

static bool read_net(struct network *network, struct cfg *cfg, struct diagnostics *diagnostics)
{
    struct cfg_section *section = cfg_find_net(cfg);
    if (!section) {
        diagnostics_add(diagnostics, 1, "net", "missing: a cfg starts with a [net] section");
        return false;
    }
    if (cfg->sections != section)
        diagnostics_add(diagnostics, section->line, section->name, "expected as the first section of the file");
    bool good = options_read(net_option_table, section, &network->settings, diagnostics);
    good &= options_read(mls_option_table, section, &network->settings.mls, diagnostics) &&
            mls_settings_check(&network->settings.mls, NULL, section, diagnostics);
    const struct option_description *const tables[] = {net_option_table, mls_option_table, training_option_table, NULL};
    // The training options are read by training_settings_read; here they only count as known.
    for (const struct option_description *row = training_option_table; row->name; row++)
        for (int i = 0; i < section->option_count; i++)
            if (strcmp(section->options[i].key, row->name) == 0) section->options[i].used = true;
    options_report_unknown(section, tables, diagnostics);
    return good;
}

static struct layer *layer_create(struct network *network, struct cfg_section *section, const struct layer_type *type,
                                  struct diagnostics *diagnostics)
{
    struct error error;
    struct layer *layer = memory_allocate(1, sizeof *layer, &error);
    struct layer **inputs = memory_allocate(1, sizeof *inputs, &error);
    void *settings = memory_allocate(1, type->settings_size, &error);
    if (!layer || !inputs || !settings) {
        diagnostics_add(diagnostics, section->line, section->name, "%s", error.message);
        memory_release(layer);
        memory_release(inputs);
        memory_release(settings);
        return NULL;
    }
    *layer = (struct layer){.type = type, .network = network, .index = network->layer_count, .section = section,
                            .settings = settings, .inputs = inputs, .input_count = 1};
    inputs[0] = layer->index > 0 ? named_layer(network, layer->index - 1) : NULL;
    layer->input_shape = layer_input_shape(layer, 0);
    return layer;
}

// Outputs, errors, and the network's ends, when all layers are known.
static bool allocate_maps(struct network *network, struct diagnostics *diagnostics)
{
    struct error error;
    struct layer *first = network->layers[0];
    size_t images = (size_t)network->max_images;
    for (int i = 0; i < network->layer_count; i++)
        for (int k = 0; k < network->layers[i]->input_count; k++) {
            struct layer *layer = network->layers[i], *input = layer->inputs[k];
            if (!input) continue;
            if (input->needs_delta) layer->needs_delta = true;
            if (!layer->is_alias) input->delta_writers++;
        }
    if (network->for_training) arrays_plan_deltas(network);
    for (int i = 0; i < network->layer_count; i++) {
        struct layer *layer = network->layers[i];
        if (layer->type->planned && !layer->type->planned(layer, diagnostics)) return false;
    }
    bool good = arrays_allocate(network, &error);
    for (int i = 0; good && i < network->layer_count; i++) {
        size_t planes = images * blocked_channels(network->layers[i]->output_shape.channels);
        good = (network->layers[i]->output_maximum = memory_allocate(planes, sizeof(float), &error)) != NULL;
    }
    if (good) good = (network->scores = memory_allocate(images * shape_size(network->output_layer->output_shape), sizeof(float), &error)) != NULL;
    if (good && !first->reads_planar) network->blocked_input = memory_allocate(images * shape_stored(network->input_shape), sizeof(float), &error);
    if (good && (network->blocked_input || first->reads_planar)) return true;
    diagnostics_add(diagnostics, 1, "net", "%s", error.message);
    return false;
}

// Adds the layer of one section. false if its shape is not known, so that nothing can follow.
static bool add_layer(struct network *network, struct cfg_section *section, struct diagnostics *diagnostics)
{
    const struct layer_type *type = layer_type_find(section->name);
    if (!type) {
        report_unknown_section(section, diagnostics);
        return false;
    }
    struct layer *layer = layer_create(network, section, type, diagnostics);
    if (!layer) return false;
    network->layers[network->layer_count++] = layer;
    bool good = options_read(type->options, section, layer->settings, diagnostics);
    good = good && type->create(layer, diagnostics);
    bool takes_mls = layer_is(layer, LAYER_TAKES_MLS);
    const struct option_description *const tables[] = {type->options, takes_mls ? mls_option_table : NULL, NULL};
    if (good || !takes_mls) options_report_unknown(section, tables, diagnostics);
    return good;
}

// The loss is the last thing that is computed, and there is one; behind [softmax] a [cost] may stand, as in Darknet's files.
static void check_ends(const struct network *network, struct diagnostics *diagnostics)
{
    const struct layer *loss = network->loss_layer;
    for (int i = 0; loss && i < network->layer_count; i++) {
        const struct layer *layer = network->layers[i];
        bool behind = i == loss->index + 1 && i + 1 == network->layer_count && layer_is(layer, LAYER_IS_LOSS) &&
                      !layer_is(layer, LAYER_GIVES_PROBABILITIES) && layer_is(loss, LAYER_GIVES_PROBABILITIES);
        if (i < loss->index && layer_is(layer, LAYER_IS_LOSS))
            diagnostics_add(diagnostics, layer->section->line, layer->section->name, "a second loss, beside [%s] of layer %d: expected one",
                            loss->section->name, loss->index);
        if (i > loss->index && !behind)
            diagnostics_add(diagnostics, layer->section->line, layer->section->name, "behind the loss, [%s] of layer %d: expected nothing%s",
                            loss->section->name, loss->index, layer_is(loss, LAYER_GIVES_PROBABILITIES) ? " but one [cost]" : "");
    }
}

static void find_ends(struct network *network, bool needs_loss, struct diagnostics *diagnostics)
{
    for (int i = 0; i < network->layer_count; i++) {
        struct layer *layer = network->layers[i];
        if (layer_is(layer, LAYER_GIVES_PROBABILITIES)) network->output_layer = network->loss_layer = layer;
    }
    if (network->output_layer) return;
    network->output_layer = named_layer(network, network->layer_count - 1);
    if (layer_is(network->output_layer, LAYER_IS_LOSS)) {
        network->loss_layer = network->output_layer;
        network->output_layer = network->loss_layer->inputs[0] ? network->loss_layer->inputs[0] : network->loss_layer;
    } else if (needs_loss) {
        diagnostics_add(diagnostics, network->output_layer->section->line, network->output_layer->section->name,
                        "the last layer has no loss to train with: expected [softmax] or [cost]");
    }
}

static bool add_layers(struct network *network, struct cfg *cfg, bool needs_loss, struct diagnostics *diagnostics)
{
    int before = diagnostics->count;
    bool shapes_known = true;
    for (int i = 0; i < cfg->section_count; i++) {
        struct cfg_section *section = &cfg->sections[i];
        if (strcmp(section->name, "data") == 0) { // read by the owner of the data
            if (section != cfg_find_section(cfg, "data")) diagnostics_add(diagnostics, section->line, section->name, "a second [data] section");
            continue;
        }
        if (is_net(section->name)) {
            if (i > 0 && is_net(cfg->sections[0].name))
                diagnostics_add(diagnostics, section->line, section->name, "a second [net] section");
            continue;
        }
        if (shapes_known)
            shapes_known = add_layer(network, section, diagnostics);
        else if (!layer_type_find(section->name))
            report_unknown_section(section, diagnostics);
    }
    if (diagnostics->count > before || !shapes_known) return false;
    if (network->layer_count == 0) {
        diagnostics_add(diagnostics, 1, "net", "no layer follows: expected at least one layer section");
        return false;
    }
    find_ends(network, needs_loss, diagnostics);
    check_ends(network, diagnostics);
    return diagnostics->count == before && allocate_maps(network, diagnostics);
}

static bool configure(struct network *network, const struct network_request *request, struct diagnostics *diagnostics)
{
    struct net_settings *settings = &network->settings;
    if (settings->batch % settings->subdivisions != 0) {
        diagnostics_add(diagnostics, 1, "net", "batch=%d is not divisible by subdivisions=%d", settings->batch,
                        settings->subdivisions);
        return false;
    }
    network->max_images = request->max_images > 0 ? request->max_images : settings->batch / settings->subdivisions;
    network->input_shape = (struct shape){settings->channels, settings->height, settings->width};
    const char *kernel = request->kernel ? request->kernel : settings->kernel;
    network->kernels = kernel_set_find(kernel);
    if (!network->kernels)
        diagnostics_add(diagnostics, 1, "net", "kernel=%s: unknown or not supported by this processor; see `mlsnet kernels`",
                        kernel);
    if (settings->batch_norm_epsilon != OPTION_UNSET) network->batch_norm_epsilon = (enum batch_norm_epsilon)settings->batch_norm_epsilon;
    return network->kernels != NULL;
}

static bool build(struct network *network, struct cfg *cfg, const struct network_request *request,
                  struct diagnostics *diagnostics)
{
    struct error error;
    int before = diagnostics->count;
    bool good = read_net(network, cfg, diagnostics);
    good = good && configure(network, request, diagnostics);
    if (!good) return false;
    network->layers = memory_allocate((size_t)cfg->section_count + 1, sizeof *network->layers, &error);
    if (!network->layers) {
        diagnostics_add(diagnostics, 1, "net", "%s", error.message);
        return false;
    }
    if (!add_layers(network, cfg, request->for_training && !request->loss_optional, diagnostics)) return false;
    int threads = thread_pool_size(network->pool);
    network->scratch = memory_allocate((size_t)threads, network->scratch_bytes, &error);
    network->workspace = memory_allocate(network->workspace_bytes, 1, &error);
    if (!network->scratch || !network->workspace) diagnostics_add(diagnostics, 1, "net", "%s", error.message);
    return network->scratch && network->workspace && diagnostics->count == before;
}

struct network *network_create(struct cfg *cfg, const struct network_request *request, struct thread_pool *pool,
                               struct diagnostics *diagnostics)
{
    struct error error;
    struct network *network = memory_allocate(1, sizeof *network, &error);
    if (!network) {
        diagnostics_add(diagnostics, 1, "net", "%s", error.message);
        return NULL;
    }
    network->cfg_path = cfg->path;
    network->pool = pool;
    network->for_training = request->for_training;
    network->plain_operands = request->plain_operands;
    network->seed = request->seed;
    if (build(network, cfg, request, diagnostics)) return network;
    network_destroy(network);
    return NULL;
}

static void layer_destroy(struct layer *layer)
{
    if (layer->state) layer->type->destroy(layer);
    options_release(layer->type->options, layer->settings);
    memory_release(layer->settings);
    memory_release(layer->inputs);
    memory_release(layer->output_maximum);
    memory_release(layer);
}

void network_destroy(struct network *network)
{
    if (!network) return;
    for (int i = 0; i < network->layer_count; i++) layer_destroy(network->layers[i]);
    for (int i = 0; i < network->parameter_count; i++) parameter_release(network->parameters[i]);
    memory_release(network->maps);
    memory_release(network->layers);
    memory_release(network->parameters);
    memory_release(network->scratch);
    memory_release(network->workspace);
    memory_release(network->blocked_input);
    memory_release(network->scores);
    options_release(net_option_table, &network->settings);
    memory_release(network);
}

// ---------------------------------------------------------------------------------------------
// Running

// The time of a layer that is in none of its own parts. Backward reads the error, writes that of each input, and looks at the output.
static void lap_layer(struct network *network, const struct layer *layer, enum profile_part part)
{
    if (!network->profile) return;
    size_t values = shape_size(layer->output_shape);
    for (int i = 0; i < layer->input_count; i++) values += shape_size(layer_input_shape(layer, i));
    if (part == PART_BACKWARD) values += shape_size(layer->output_shape);
    // What the layer does in parts of its own, or the layer below or, backward, above has done for it, is not counted again.
    const struct layer *first = layer->input_count > 0 ? layer->inputs[0] : NULL;
    bool followed = first && first->output_followed && first->output_follower == layer;
    bool nothing = layer_is(layer, LAYER_HAS_PARTS) || (part == PART_BACKWARD ? layer->delta_seen : followed);
    profile_lap(network->profile, layer->index, part, 0, nothing ? 0 : 4.0 * (double)values * network->max_images, false);
}

static void block_input_task(void *context, int image, int thread)
{
    (void)thread;
    struct network *network = context;
    blocked_from_planar(network->input + (size_t)image * shape_size(network->input_shape), network->input_shape.channels,
                        shape_pixels(network->input_shape), network->blocked_input + (size_t)image * shape_stored(network->input_shape));
}

static void copy_scores(struct network *network, int images)
{
    const struct layer *layer = network->output_layer;
    for (size_t n = 0; n < (size_t)images; n++)
        blocked_to_planar(layer->output + n * shape_stored(layer->output_shape), layer->output_shape.channels,
                          shape_pixels(layer->output_shape), network->scores + n * shape_size(layer->output_shape));
}

bool network_forward(struct network *network, const float *input, const struct pass *pass, struct error *error)
{
    network->input = input;
    network->loss = 0;
    if (network->blocked_input) thread_pool_run(pass->pool, pass->images, block_input_task, network);
    for (int i = 0; i < network->layer_count; i++) {
        struct layer *layer = network->layers[i];
        layer->output_maximum_known = layer->output_followed = false;
        if (!layer->type->forward(layer, pass, error))
            return error_prefix(error, "layer %d [%s], forward: ", i, layer->type->name);
        lap_layer(network, layer, PART_FORWARD);
    }
    copy_scores(network, pass->images);
    if (pass->labels && !isfinite(network->loss))
        return error_set(error, "layer %d [%s], forward: the loss is not a finite number", network->loss_layer->index,
                         network->loss_layer->type->name);
    return true;
}

bool network_backward(struct network *network, const struct pass *pass, struct error *error)
{
    for (int i = 0; i < network->layer_count; i++) {
        network->layers[i]->delta_written = network->layers[i]->delta_seen = false;
        network->layers[i]->delta_written_count = 0;
    }
    for (int i = network->layer_count - 1; i >= 0; i--) {
        struct layer *layer = network->layers[i];
        bool has_error = layer->delta_written || layer == network->loss_layer;
        if (!layer->needs_delta || !has_error) continue;
        if (!layer->type->backward(layer, pass, error))
            return error_prefix(error, "layer %d [%s], backward: ", i, layer->type->name);
        lap_layer(network, layer, PART_BACKWARD);
    }
    return true;
}

void network_use_batch_norm_epsilon(struct network *network, enum batch_norm_epsilon epsilon)
{
    if (network->settings.batch_norm_epsilon == OPTION_UNSET) network->batch_norm_epsilon = epsilon;
}

void network_clear_gradients(struct network *network)
{
    for (int i = 0; i < network->parameter_count; i++) {
        struct parameter *parameter = network->parameters[i];
        if (parameter->gradient) memset(parameter->gradient, 0, parameter->count * sizeof(float));
    }
}

const float *network_output(const struct network *network, int *classes)
{
    *classes = (int)shape_size(network->output_layer->output_shape);
    return network->scores;
}
