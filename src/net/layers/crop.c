// [crop]: a random part of the picture (mirrored at random with flip=1) in training, its centre in evaluation.
// Unless noadjust=1 the pixels, 0..1, are spread to -1..1 as Darknet does.
#include "base/random.h"
#include "net/operations.h"

struct crop_settings {
    int crop_height, crop_width, flip, noadjust;
};

#define AT(field) offsetof(struct crop_settings, field)
#define IGNORED(name) {name, OPTION_IGNORED, 0, 0, 0, NULL, NULL, "accepted for Darknet's files; without effect"}

// clang-format off
static const struct option_description options[] = {
    {"crop_height", OPTION_INT, AT(crop_height), 1, 4096, "1", NULL, "rows that are kept"},
    {"crop_width", OPTION_INT, AT(crop_width), 1, 4096, "1", NULL, "columns that are kept"},
    {"flip", OPTION_BOOL, AT(flip), 0, 1, "0", NULL, "1: mirror at random in training"},
    {"noadjust", OPTION_BOOL, AT(noadjust), 0, 1, "0", NULL, "1: keep the values; 0: 2 x - 1"},
    IGNORED("angle"), IGNORED("saturation"), IGNORED("exposure"), IGNORED("shift"),
    {0},
};
// clang-format on

struct work {
    struct layer *layer;
    const struct pass *pass;
};

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    const struct crop_settings *s = layer->settings;
    struct shape in = layer->input_shape;
    if (s->crop_height > in.height || s->crop_width > in.width) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "%dx%d does not fit an input of %dx%d",
                        s->crop_height, s->crop_width, in.height, in.width);
        return false;
    }
    layer->output_shape = (struct shape){in.channels, s->crop_height, s->crop_width};
    return true;
}

static void crop_task(void *context, int image, int thread)
{
    (void)thread;
    const struct work *work = context;
    struct layer *layer = work->layer;
    const struct crop_settings *s = layer->settings;
    struct shape in = layer->input_shape, out = layer->output_shape;
    uint64_t key = random_key(work->pass->seed, work->pass->step, (uint64_t)layer->index, (uint64_t)image);
    struct random_stream stream = {key, 0};
    int top = (in.height - out.height) / 2, left = (in.width - out.width) / 2;
    bool mirror = false;
    if (work->pass->training) {
        top = (int)random_below(&stream, (uint32_t)(in.height - out.height) + 1);
        left = (int)random_below(&stream, (uint32_t)(in.width - out.width) + 1);
        mirror = s->flip && random_below(&stream, 2);
    }
    const float *input = layer_input(layer, 0) + (size_t)image * shape_stored(in);
    float *output = layer->output + (size_t)image * shape_stored(out);
    float scale = s->noadjust ? 1 : 2, shift = s->noadjust ? 0 : -1;
    for (int c = 0; c < in.channels; c++)
        for (int y = 0; y < out.height; y++)
            for (int x = 0; x < out.width; x++) {
                int column = left + (mirror ? out.width - 1 - x : x);
                float value = input[blocked_at(shape_pixels(in), c, (size_t)(top + y) * (size_t)in.width + (size_t)column)];
                output[blocked_at(shape_pixels(out), c, (size_t)(y * out.width + x))] = value * scale + shift;
            }
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    thread_pool_run(pass->pool, pass->images, crop_task, &(struct work){layer, pass});
    return true;
}

// Darknet's crop passes no error on: it stands first in a network.
static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)layer;
    (void)pass;
    return error_set(error, "[crop] passes no error on: it has to be the first layer");
}

static void destroy(struct layer *layer)
{
    (void)layer;
}

static void operations(const struct layer *layer, struct operations *operations)
{
    const struct crop_settings *s = layer->settings;
    double elements = (double)shape_size(layer->output_shape) * operations->images;
    if (!s->noadjust) operations_add(operations, IN_FORWARD, OTHER, elements, UNITS(FP32_MULTIPLY(1), FP32_ADD(1)));
}

const struct layer_type crop_layer_type = {
    .name = "crop", .help = "part of the picture", .options = options, .settings_size = sizeof(struct crop_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
