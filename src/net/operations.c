#include "net/operations.h"

#include <stdio.h>
#include <string.h>

// Forward: x * multiplier + offset; in training the sums of x and x^2 before it. Backward: the sums of d and d * (x - mean),
// then c0 * d + (c1 * x + c2). A channel: mean, variance, 1 / deviation, running statistics, coefficients.
void operations_of_batch_normalization(struct operations *o, double elements, int channels)
{
    double n = elements * o->images, size = elements;
    if (!o->training) {
        operations_add(o, IN_FORWARD, BATCH_NORM, n, UNITS(FP32_MULTIPLY(1), FP32_ADD(1)));
        return;
    }
    operations_add(o, IN_FORWARD, BATCH_NORM, n, UNITS(FP32_MULTIPLY(2), FP32_ADD(3)));
    operations_add(o, IN_FORWARD, BATCH_NORM, channels, UNITS({FLOAT_FUNCTION, 2, 0, 0}, FP32_MULTIPLY(10), FP32_ADD(6)));
    operations_move(o, IN_FORWARD, MLS_ACTIVATION, n, 32);
    if (!o->backward) return;
    operations_add(o, IN_BACKWARD, BATCH_NORM, n, UNITS(FP32_MULTIPLY(3), FP32_ADD(5)));
    operations_add(o, IN_BACKWARD, BATCH_NORM, channels, UNITS(FP32_MULTIPLY(6), FP32_ADD(4)));
    operations_move(o, IN_BACKWARD, MLS_ACTIVATION, 2 * size * o->images, 32);
    operations_move(o, IN_BACKWARD, MLS_ERROR, 2 * size * o->images, 32);
}

void operations_of_activation(struct operations *o, enum activation activation, double elements, bool bias)
{
    bool compares = activation == ACTIVATION_RELU || activation == ACTIVATION_RELU6 || activation == ACTIVATION_HARDTAN;
    bool function = activation == ACTIVATION_LOGISTIC || activation == ACTIVATION_TANH || activation == ACTIVATION_ELU ||
                    activation == ACTIVATION_SELU || activation == ACTIVATION_LOGGY;
    double n = elements * o->images;
    struct unit add = {FLOAT_ADD, bias, 8, 23};
    if (activation == ACTIVATION_LINEAR && !bias) return;
    if (activation == ACTIVATION_LINEAR)
        operations_add(o, IN_FORWARD, ACTIVATION, n, UNITS(add));
    else if (function)
        operations_add(o, IN_FORWARD, ACTIVATION, n, UNITS(add, {FLOAT_FUNCTION, 2, 0, 0}));
    else
        operations_add(o, IN_FORWARD, ACTIVATION, n, UNITS(add, FP32_COMPARE(1), {FLOAT_MULTIPLY, !compares, 8, 23}));
    if (!o->backward) return;
    if (activation == ACTIVATION_LINEAR)
        operations_add(o, IN_BACKWARD, ACTIVATION, n, UNITS(add));
    else
        operations_add(o, IN_BACKWARD, ACTIVATION, n, UNITS(add, FP32_COMPARE(1), {FLOAT_MULTIPLY, function ? 2 : !compares, 8, 23}));
}

static void move_floats(struct operations *o, enum operation_pass pass, double weights, double activations, double errors)
{
    operations_move(o, pass, MLS_WEIGHT, weights, 32);
    operations_move(o, pass, MLS_ACTIVATION, activations * o->images, 32);
    operations_move(o, pass, MLS_ERROR, errors * o->images, 32);
}

void operations_of_float_products(struct operations *o, double products, double weights, double inputs, double outputs)
{
    double n = products * o->images;
    operations_add_products(o, IN_FORWARD, n);
    move_floats(o, IN_FORWARD, weights, inputs + outputs, 0);
    if (!o->backward) return;
    operations_add_products(o, IN_WEIGHT_GRADIENT, n);
    move_floats(o, IN_WEIGHT_GRADIENT, weights, inputs, outputs);
    if (!o->passes_error) return;
    operations_add_products(o, IN_INPUT_ERROR, n);
    move_floats(o, IN_INPUT_ERROR, weights, 0, inputs + outputs);
}

// ---------------------------------------------------------------------------------------------
// The walk

static bool belongs_to(const struct parameter *parameter, int layer)
{
    char prefix[32];
    int length = snprintf(prefix, sizeof prefix, "layers.%d.", layer);
    return strncmp(parameter->name, prefix, (size_t)length) == 0;
}

// train/sgd.c: g += decay * w; v = momentum * v + g; w -= rate * v, or rate * (g + momentum * v).
static void add_optimizer(const struct network *network, const struct training_settings *training, struct operations *o)
{
    for (int i = 0; i < network->parameter_count; i++) {
        const struct parameter *p = network->parameters[i];
        if (!p->trainable || !belongs_to(p, o->layer)) continue;
        int steps = 2 + ((p->decay || training->decay_all) && training->decay > 0) + training->nesterov;
        operations_add(o, IN_UPDATE, OPTIMIZER, (double)p->count, UNITS(FP32_MULTIPLY(steps), FP32_ADD(steps)));
        operations_move(o, IN_UPDATE, MLS_WEIGHT, 5 * (double)p->count, 32); // reads gradient, momentum, weight; writes two
    }
}

bool network_operations(const struct network *network, const struct training_settings *training, struct operations *o)
{
    for (int i = 0; i < network->layer_count; i++) {
        const struct layer *layer = network->layers[i];
        o->layer = i;
        o->backward = o->training && layer->needs_delta;
        o->passes_error = o->backward && layer->inputs[0] && layer->inputs[0]->needs_delta;
        if (layer->type->operations) layer->type->operations(layer, o);
        if (!o->training) continue;
        // The errors that several readers pass back are added.
        if (layer->needs_delta && layer->delta_writers > 1)
            operations_add(o, IN_BACKWARD, RESIDUAL_ADD, (layer->delta_writers - 1.0) * (double)shape_size(layer->output_shape) * o->images,
                           UNITS(FP32_ADD(1)));
        add_optimizer(network, training, o);
    }
    return !o->failed;
}
