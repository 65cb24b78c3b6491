// [local]: a convolution whose weights differ from place to place; y = activation(w[place] x + b[place]), in fp32. Darknet's layout:
// weights [places][filters][channels * size * size], biases [filters][places].
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "net/activations.h"
#include "net/operations.h"

struct local_settings {
    int filters, size, stride, pad, activation;
};

#define AT(field) offsetof(struct local_settings, field)

// clang-format off
static const struct option_description options[] = {
    {"filters", OPTION_INT, AT(filters), 1, 65536, "1", NULL, "output channels"},
    {"size", OPTION_INT, AT(size), 1, 255, "1", NULL, "rows and columns of the window"},
    {"stride", OPTION_INT, AT(stride), 1, 255, "1", NULL, "pixels between windows"},
    {"pad", OPTION_BOOL, AT(pad), 0, 1, "0", NULL, "1: one zero around the input, for size=3"},
    {"activation", OPTION_CHOICE, AT(activation), 0, 0, "logistic", ACTIVATION_NAMES, "activation function"},
    {0},
};
// clang-format on

struct local {
    int places, window; // window: channels * size * size
    struct parameter *weights, *bias;
    float *windows;     // [max_images][places][window], 0 outside the picture
};

struct work {
    struct layer *layer;
    const struct pass *pass;
    float *delta;
    bool accumulate;
};

static bool add_parameters(struct layer *layer, struct local *l, struct diagnostics *diagnostics)
{
    const struct local_settings *s = layer->settings;
    const int weight_dims[4] = {l->places, s->filters, layer->input_shape.channels, s->size * s->size}, bias_dims[2] = {s->filters, l->places};
    l->weights = layer_add_parameter(layer, "local.weight", 4, weight_dims, true, true, diagnostics);
    l->bias = l->weights ? layer_add_parameter(layer, "local.bias", 2, bias_dims, true, false, diagnostics) : NULL;
    if (!l->bias) return false;
    float deviation = sqrtf(2.0f / (float)l->window);
    struct random_stream stream = {random_key(layer->network->seed, 1, (uint64_t)layer->index, 0), 0};
    for (size_t i = 0; i < l->weights->count; i++) l->weights->value[i] = deviation * random_normal(&stream);
    return true;
}

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    const struct local_settings *s = layer->settings;
    struct local *l = layer->state = layer_allocate(layer, 1, sizeof *l, diagnostics);
    struct shape in = layer->input_shape;
    if (!l) return false;
    int height = in.height + 2 * s->pad - s->size, width = in.width + 2 * s->pad - s->size;
    if (height < 0 || width < 0 || (s->pad && s->size != 3)) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "size=%d pad=%d does not fit an input of %dx%d%s", s->size, s->pad,
                        in.height, in.width, s->pad ? "; pad=1 is for size=3" : "");
        return false;
    }
    struct shape out = layer->output_shape = (struct shape){s->filters, height / s->stride + 1, width / s->stride + 1};
    double window = (double)in.channels * s->size * s->size;
    if (window > 1 << 28) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "a window of %.0f numbers: expected at most 2^28", window);
        return false;
    }
    l->places = out.height * out.width;
    l->window = (int)window;
    layer->output_nonnegative = activation_is_nonnegative((enum activation)s->activation);
    layer->multiply_adds = (double)l->places * s->filters * l->window;
    size_t count = (size_t)layer->network->max_images * (size_t)l->places;
    l->windows = layer_allocate(layer, count, (size_t)l->window * sizeof(float), diagnostics);
    return l->windows && add_parameters(layer, l, diagnostics);
}

// Where element k of the window at a place is in a blocked image; false: outside.
static bool pixel_of(const struct layer *layer, int place, int k, size_t *at)
{
    const struct local_settings *s = layer->settings;
    struct shape in = layer->input_shape, out = layer->output_shape;
    int y = place / out.width * s->stride - s->pad + k / s->size % s->size, x = place % out.width * s->stride - s->pad + k % s->size;
    if (y < 0 || y >= in.height || x < 0 || x >= in.width) return false;
    *at = blocked_at(shape_pixels(in), k / (s->size * s->size), (size_t)(y * in.width + x));
    return true;
}

static void forward_task(void *context, int image, int thread)
{
    (void)thread;
    struct layer *layer = ((struct work *)context)->layer;
    const struct local *l = layer->state;
    const float *input = layer_input(layer, 0) + (size_t)image * shape_stored(layer->input_shape), *weights = l->weights->value;
    float *output = layer->output + (size_t)image * shape_stored(layer->output_shape);
    size_t places = (size_t)l->places, at = 0;
    for (int place = 0; place < l->places; place++) {
        float *window = l->windows + ((size_t)image * places + (size_t)place) * (size_t)l->window;
        for (int k = 0; k < l->window; k++) window[k] = pixel_of(layer, place, k, &at) ? input[at] : 0;
        for (int f = 0; f < layer->output_shape.channels; f++, weights += l->window) {
            float sum = l->bias->value[(size_t)f * places + (size_t)place];
            for (int k = 0; k < l->window; k++) sum += weights[k] * window[k];
            output[blocked_at(places, f, (size_t)place)] = sum;
        }
    }
    activation_apply((enum activation)((struct local_settings *)layer->settings)->activation, output, shape_stored(layer->output_shape));
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    struct work work = {.layer = layer};
    thread_pool_run(pass->pool, pass->images, forward_task, &work);
    return true;
}

// The gradients of one place, over the images in their order.
static void gradient_task(void *context, int place, int thread)
{
    (void)thread;
    const struct work *work = context;
    const struct local *l = work->layer->state;
    struct shape out = work->layer->output_shape;
    for (size_t n = 0; n < (size_t)work->pass->images; n++) {
        const float *window = l->windows + (n * (size_t)l->places + (size_t)place) * (size_t)l->window;
        float *gradient = l->weights->gradient + (size_t)place * (size_t)out.channels * (size_t)l->window;
        for (int f = 0; f < out.channels; f++, gradient += l->window) {
            float d = work->layer->delta[n * shape_stored(out) + blocked_at((size_t)l->places, f, (size_t)place)];
            l->bias->gradient[(size_t)f * (size_t)l->places + (size_t)place] += d;
            for (int k = 0; k < l->window; k++) gradient[k] += d * window[k];
        }
    }
}

static void input_error_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    const struct local *l = work->layer->state;
    struct shape in = work->layer->input_shape, out = work->layer->output_shape;
    const float *weights = l->weights->value, *errors = work->layer->delta + (size_t)image * shape_stored(out);
    float *to = work->delta + (size_t)image * shape_stored(in);
    size_t at = 0;
    if (!work->accumulate) memset(to, 0, shape_stored(in) * sizeof(float));
    for (int place = 0; place < l->places; place++)
        for (int f = 0; f < out.channels; f++, weights += l->window) {
            float d = errors[blocked_at((size_t)l->places, f, (size_t)place)];
            for (int k = 0; k < l->window; k++)
                if (pixel_of(work->layer, place, k, &at)) to[at] += d * weights[k];
        }
}

static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    const struct local_settings *s = layer->settings;
    const struct local *l = layer->state;
    struct work work = {.layer = layer, .pass = pass};
    activation_gradient((enum activation)s->activation, layer->output, layer->delta, (size_t)pass->images * shape_stored(layer->output_shape));
    thread_pool_run(pass->pool, l->places, gradient_task, &work);
    work.delta = layer_input_delta(layer, 0, &work.accumulate);
    if (work.delta) thread_pool_run(pass->pool, pass->images, input_error_task, &work);
    return true;
}

static void destroy(struct layer *layer)
{
    struct local *l = layer->state;
    memory_release(l->windows);
    memory_release(l);
}

static void operations(const struct layer *layer, struct operations *operations)
{
    const struct local *l = layer->state;
    double outputs = (double)shape_size(layer->output_shape);
    operations_of_float_products(operations, layer->multiply_adds, (double)l->weights->count, (double)shape_size(layer->input_shape), outputs);
    operations_of_activation(operations, (enum activation)((struct local_settings *)layer->settings)->activation, outputs, true);
}

const struct layer_type local_layer_type = {
    .name = "local", .help = "convolution with weights of its own at each place, fp32", .options = options,
    .settings_size = sizeof(struct local_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
