// [dropout]: in training each element is zeroed with this probability and the others are scaled up; nothing in
// evaluation. The choice is a function of (seed, step, layer, image), drawn again in the backward pass.
#include "net/operations.h"

#include "base/random.h"

struct dropout_settings {
    float probability;
};

static const struct option_description options[] = {
    {"probability", OPTION_FLOAT, offsetof(struct dropout_settings, probability), 0, 0.999, "0.5", NULL,
     "of an element to be zeroed"},
    {0},
};

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    (void)diagnostics;
    layer->output_shape = layer->input_shape;
    layer->output_nonnegative = layer->inputs[0] && layer->inputs[0]->output_nonnegative;
    return true;
}

struct work {
    struct layer *layer;
    const struct pass *pass;
    const float *from;
    float *to;
    bool accumulate;
};

static void drop_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    float probability = ((struct dropout_settings *)work->layer->settings)->probability, scale = 1 / (1 - probability);
    size_t size = shape_stored(work->layer->output_shape), start = (size_t)image * size;
    uint64_t key = random_key(work->pass->seed, work->pass->step, (uint64_t)work->layer->index, (uint64_t)image);
    struct random_stream stream = {key, 0};
    for (size_t i = start; i < start + size; i++) {
        float value = !work->pass->training ? work->from[i] : random_uniform(&stream) < probability ? 0 : work->from[i] * scale;
        work->to[i] = work->accumulate ? work->to[i] + value : value;
    }
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct work work = {layer, pass, layer_input(layer, 0), layer->output, false};
    thread_pool_run(pass->pool, pass->images, drop_task, &work);
    return true;
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct work work = {layer, pass, layer->delta, NULL, false};
    work.to = layer_input_delta(layer, 0, &work.accumulate);
    if (work.to) thread_pool_run(pass->pool, pass->images, drop_task, &work);
    return true;
}

static void destroy(struct layer *layer)
{
    (void)layer;
}

static void operations(const struct layer *layer, struct operations *operations)
{
    double elements = (double)shape_size(layer->output_shape) * operations->images;
    if (!operations->training) return;
    operations_add(operations, IN_FORWARD, OTHER, elements, UNITS({RANDOM_BIT, 24, 1, 0}, FP32_COMPARE(1), FP32_MULTIPLY(1)));
    operations_move(operations, IN_FORWARD, MLS_ACTIVATION, 2 * elements, 32);
    if (!operations->passes_error) return;
    operations_add(operations, IN_BACKWARD, OTHER, elements, UNITS(FP32_MULTIPLY(1)));
    operations_move(operations, IN_BACKWARD, MLS_ERROR, 2 * elements, 32);
}

const struct layer_type dropout_layer_type = {
    .name = "dropout", .help = "zeroes elements at random in training", .options = options,
    .settings_size = sizeof(struct dropout_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
