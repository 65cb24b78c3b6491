// [batchnorm]: batch normalization of the previous layer's output.
#include "base/memory.h"
#include "net/batch_normalization.h"
#include "net/operations.h"

static const struct option_description options[] = {{0}};

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    struct batch_normalization *norm = layer->state = layer_allocate(layer, 1, sizeof *norm, diagnostics);
    struct shape in = layer->output_shape = layer->input_shape;
    return norm && batch_normalization_create(norm, layer, in.channels, in.height * in.width, diagnostics);
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    layer->output_maximum_known = true;
    return batch_normalization_forward(layer->state, pass, layer_input(layer, 0), false, ACTIVATION_LINEAR, layer->output,
                                       layer->output_maximum, error);
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    bool accumulate = false;
    float *input_delta = layer_input_delta(layer, 0, &accumulate);
    return batch_normalization_backward(layer->state, pass, layer_input(layer, 0), layer->output, ACTIVATION_LINEAR,
                                        layer->delta, input_delta, accumulate, error);
}

static void destroy(struct layer *layer)
{
    batch_normalization_destroy(layer->state);
    memory_release(layer->state);
}

static void operations(const struct layer *layer, struct operations *operations)
{
    operations_of_batch_normalization(operations, (double)shape_size(layer->output_shape), layer->output_shape.channels);
}

const struct layer_type batchnorm_layer_type = {
    .name = "batchnorm", .help = "batch normalization", .options = options, .settings_size = 1,
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
