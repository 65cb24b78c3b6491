// [softmax]: class probabilities; with labels also the cross-entropy, summed into network->loss. The target is
// 1 - smoothing for the label plus smoothing / classes for all. Darknet's options:
//
//   groups       that many softmaxes over equal parts; the loss is that of the part with the label
//   temperature  scores are divided by it. The error that goes back lacks the factor 1 / temperature, as in Darknet
//   tree         softmaxes over the children of each class; the loss is the sum over the label and its ancestors. The output holds the
//                probabilities of the leaves, others 0
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "net/operations.h"
#include "net/softmax_tree.h"

struct softmax_settings {
    int groups;
    float temperature;
    char *tree;
};

#define AT(field) offsetof(struct softmax_settings, field)

// clang-format off
static const struct option_description options[] = {
    {"groups", OPTION_INT, AT(groups), 1, 1000000, "1", NULL, "softmaxes over equal parts of the classes"},
    {"temperature", OPTION_FLOAT, AT(temperature), 1e-3, 1e6, "1", NULL, "scores are divided by it"},
    {"tree", OPTION_STRING, AT(tree), 0, 0, NULL, NULL, "file of a tree of classes (Darknet's data/9k.tree), below this folder or the cfg's"},
    {0},
};
// clang-format on

struct softmax {
    float *scores;              // of one image, [classes]
    struct softmax_tree tree;   // also where there is none
    bool is_tree;
    float *probabilities;       // [max_images][stored classes], given the parent; without a tree NULL: the output is that
};

// As Darknet's commands, which run in the folder above cfg/, find it; then as seen from the cfg.
static void find_tree(const struct layer *layer, const char *name, char *path, size_t size)
{
    const char *cfg = layer->network->cfg_path, *slash = strrchr(cfg, '/');
    int folder = slash ? (int)(slash - cfg + 1) : 0;
    snprintf(path, size, "%s", name);
    for (int k = 0; k < 2 && name[0] != '/' && !file_exists(path); k++) snprintf(path, size, "%.*s%s%s", folder, cfg, k ? "" : "../", name);
}

static bool create_tree(struct layer *layer, struct softmax *state, int classes, struct error *error)
{
    const struct softmax_settings *settings = layer->settings;
    char path[4096];
    state->is_tree = settings->tree != NULL;
    if (!state->is_tree) return softmax_tree_split(&state->tree, classes, settings->groups, error);
    find_tree(layer, settings->tree, path, sizeof path);
    return softmax_tree_read(&state->tree, path, classes, error);
}

static bool create(struct layer *layer, struct diagnostics *diagnostics)
{
    struct error error;
    struct softmax *state = layer->state = layer_allocate(layer, 1, sizeof *state, diagnostics);
    size_t classes = shape_size(layer->input_shape);
    if (!state || !(state->scores = layer_allocate(layer, classes, sizeof(float), diagnostics))) return false;
    layer->output_shape = (struct shape){(int)classes, 1, 1};
    layer->output_nonnegative = true;
    if (!create_tree(layer, state, (int)classes, &error)) {
        diagnostics_add(diagnostics, layer->section->line, layer->section->name, "%s", error.message);
        return false;
    }
    size_t stored = (size_t)layer->network->max_images * shape_stored(layer->output_shape);
    return !state->is_tree || (state->probabilities = layer_allocate(layer, stored, sizeof(float), diagnostics));
}

static void softmax(const float *x, float *p, int classes)
{
    float largest = x[0], sum = 0;
    for (int i = 1; i < classes; i++) largest = x[i] > largest ? x[i] : largest;
    for (int i = 0; i < classes; i++) sum += p[i] = expf(x[i] - largest);
    for (int i = 0; i < classes; i++) p[i] /= sum;
}

// -sum of target * log p, from the scores, so that no logarithm of 0 comes up.
static double cross_entropy(const float *x, int classes, int label, float smoothing)
{
    double largest = (double)x[0], sum = 0, all = 0;
    for (int i = 1; i < classes; i++) largest = (double)x[i] > largest ? (double)x[i] : largest;
    for (int i = 0; i < classes; i++) {
        sum += exp((double)x[i] - largest);
        all += (double)x[i];
    }
    double normalizer = largest + log(sum), mean = all / classes;
    return (1 - (double)smoothing) * (normalizer - (double)x[label]) + (double)smoothing * (normalizer - mean);
}

// Where the probabilities of an image are that the loss is about.
static float *probabilities_of(const struct layer *layer, size_t image)
{
    const struct softmax *state = layer->state;
    return (state->is_tree ? state->probabilities : layer->output) + image * shape_stored(layer->output_shape);
}

static void forward_image(struct layer *layer, const struct pass *pass, size_t n)
{
    const struct softmax *state = layer->state;
    const struct softmax_tree *tree = &state->tree;
    struct shape in = layer->input_shape;
    float temperature = ((struct softmax_settings *)layer->settings)->temperature, *p = probabilities_of(layer, n);
    blocked_to_planar(layer_input(layer, 0) + n * shape_stored(in), in.channels, shape_pixels(in), state->scores);
    for (int i = 0; temperature != 1 && i < tree->classes; i++) state->scores[i] /= temperature;
    for (int g = 0; g < tree->groups; g++)
        softmax(state->scores + tree->group_start[g], p + tree->group_start[g], tree->group_start[g + 1] - tree->group_start[g]);
    for (int class = pass->labels ? pass->labels[n] : -1; class >= 0; class = tree->parent[class]) {
        int start = tree->group_start[tree->group[class]], end = tree->group_start[tree->group[class] + 1];
        layer->network->loss += cross_entropy(state->scores + start, end - start, class - start, pass->label_smoothing);
    }
    if (!state->is_tree) return;
    float *output = layer->output + n * shape_stored(layer->output_shape);
    memcpy(output, p, (size_t)tree->classes * sizeof *p);
    softmax_tree_leaves(tree, output);
}

static bool forward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    for (size_t n = 0; n < (size_t)pass->images; n++) forward_image(layer, pass, n);
    return true;
}

// dL/dx = p - target in the groups that the loss looks at, else 0, for scores[classes].
static void score_errors(const struct layer *layer, const struct pass *pass, size_t n, float *errors)
{
    const struct softmax *state = layer->state;
    const struct softmax_tree *tree = &state->tree;
    const float *p = probabilities_of(layer, n);
    memset(errors, 0, (size_t)tree->classes * sizeof *errors);
    for (int class = pass->labels[n]; class >= 0; class = tree->parent[class]) {
        int start = tree->group_start[tree->group[class]], end = tree->group_start[tree->group[class] + 1];
        float spread = pass->label_smoothing / (float)(end - start);
        for (int i = start; i < end; i++)
            errors[i] = (p[i] - (spread + (i == class ? 1 - pass->label_smoothing : 0))) * pass->loss_scale;
    }
}

// The loss starts here, the layer's own delta is not read.
static bool backward(struct layer *layer, const struct pass *pass, struct error *error)
{
    (void)error;
    const struct softmax *state = layer->state;
    struct shape in = layer->input_shape;
    size_t pixels = shape_pixels(in);
    bool accumulate = false;
    float *delta = layer_input_delta(layer, 0, &accumulate);
    for (size_t n = 0; delta && n < (size_t)pass->images; n++) {
        score_errors(layer, pass, n, state->scores);
        for (size_t i = 0; i < shape_size(in); i++) {
            float *to = &delta[n * shape_stored(in) + blocked_at(pixels, (int)(i / pixels), i % pixels)];
            *to = accumulate ? *to + state->scores[i] : state->scores[i];
        }
    }
    return true;
}

static void destroy(struct layer *layer)
{
    struct softmax *state = layer->state;
    softmax_tree_release(&state->tree);
    memory_release(state->probabilities);
    memory_release(state->scores);
    memory_release(state);
}

// Scores of an image that the loss looks at, if its label is any leaf with equal probability.
static double scores_in_loss(const struct softmax_tree *tree)
{
    double scores = 0, leaves = 0;
    for (int i = 0; i < tree->classes; i++) {
        if (!tree->leaf[i]) continue;
        leaves++;
        for (int class = i; class >= 0; class = tree->parent[class])
            scores += tree->group_start[tree->group[class] + 1] - tree->group_start[tree->group[class]];
    }
    return scores / leaves;
}

// The temperature's division; the largest score, exponentials, their sum, a division each; a tree's products of probabilities.
// Backward: p - target.
static void operations(const struct layer *layer, struct operations *operations)
{
    const struct softmax *state = layer->state;
    const struct softmax_tree *tree = &state->tree;
    double elements = (double)tree->classes * operations->images, with_parent = 0;
    int functions = ((const struct softmax_settings *)layer->settings)->temperature != 1 ? 3 : 2;
    for (int i = 0; i < tree->classes; i++) with_parent += tree->parent[i] >= 0;
    operations_add(operations, IN_FORWARD, OTHER, elements, UNITS(FP32_COMPARE(1), {FLOAT_FUNCTION, functions, 0, 0}, FP32_ADD(2)));
    operations_add(operations, IN_FORWARD, OTHER, with_parent * operations->images, UNITS(FP32_MULTIPLY(1)));
    if (operations->passes_error)
        operations_add(operations, IN_BACKWARD, OTHER, scores_in_loss(tree) * operations->images, UNITS(FP32_ADD(1), FP32_MULTIPLY(1)));
}

const struct layer_type softmax_layer_type = {
    .name = "softmax", .alias = "soft", .help = "class probabilities and cross-entropy loss",
    .properties = LAYER_IS_LOSS | LAYER_GIVES_PROBABILITIES, .options = options, .settings_size = sizeof(struct softmax_settings),
    .create = create, .forward = forward, .backward = backward, .destroy = destroy, .operations = operations,
};
