// The public interface, thin over the floors below.
#include "mlsnet.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/packed.h"
#include "mls/presets.h"
#include "mls/simulate.h"
#include "mls/standard.h"
#include "net/network.h"
#include "net/training_options.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

#ifndef MLSNET_VERSION
#define MLSNET_VERSION "unknown"
#endif

const char *mlsnet_version(void)
{
    return MLSNET_VERSION;
}

static int finish(bool good, const struct error *from, mlsnet_error *to)
{
    if (!good && to) memcpy(to->message, from->message, sizeof to->message);
    return good ? 0 : 1;
}

// ---------------------------------------------------------------------------------------------
// Format

static struct mls_format internal(const mlsnet_format *f)
{
    return (struct mls_format){f->exponent, f->mantissa, (enum mls_group)f->group, f->group_size,
                               f->scale_exponent, f->scale_mantissa, (enum mls_rounding)f->rounding, (enum mls_family)f->family};
}

static mlsnet_format external(const struct mls_format *f)
{
    return (mlsnet_format){f->exponent, f->mantissa, (int)f->group, f->group_size, f->scale_exponent, f->scale_mantissa, (int)f->rounding,
                           (int)f->family};
}

mlsnet_format mlsnet_format_default(int operand)
{
    struct mls_format f = mls_format_default((enum mls_operand)operand);
    return external(&f);
}

int mlsnet_format_named(const char *name, int operand, mlsnet_format *format, mlsnet_error *error)
{
    struct error problem = {""};
    struct mls_format f;
    if (!mls_preset(name, (enum mls_operand)operand, &f))
        return finish(error_set(&problem, "format %s: expected one of: " MLS_FORMAT_NAMES, name), &problem, error);
    *format = external(&f);
    return 0;
}

static bool quantize_standard(const struct mls_format *format, enum mls_operand operand, const float *values, const int dims[4],
                              uint64_t key, float *dequantized, int32_t *integers, float *tensor_scale, float *group_scales, int blocks[2],
                              struct error *error)
{
    const struct standard_element *element = standard_element_of(format);
    size_t count = (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3];
    bool one_scale = format->family == MLS_FAMILY_FP8;
    struct standard_result result = {.values = dequantized, .scales = one_scale ? tensor_scale : group_scales};
    result.elements = integers ? memory_allocate(count, sizeof(float), error) : NULL;
    bool good = (result.elements || !integers) && standard_quantize(format, operand, values, dims, 1, key, NULL, &result, error);
    for (size_t i = 0; good && integers && i < count; i++) integers[i] = standard_code(element, result.elements[i]);
    if (tensor_scale && !one_scale) *tensor_scale = 1;
    if (group_scales && one_scale) *group_scales = 1;
    if (blocks) {
        blocks[0] = one_scale ? 1 : dims[0];
        blocks[1] = one_scale ? 1 : standard_blocks(operand, dims, 1);
    }
    memory_release(result.elements);
    return good;
}

int mlsnet_quantize(const mlsnet_format *format, int operand, const float *values, const int dims[4], uint64_t seed,
                    float *dequantized, int32_t *integers, float *tensor_scale, float *group_scales, int blocks[2],
                    mlsnet_error *error)
{
    struct error problem = {""};
    struct mls_tensor tensor = {0};
    struct mls_format f = internal(format);
    bool good = mls_format_check(&f, &problem);
    for (int i = 0; good && i < 4; i++)
        if (dims[i] < 1) good = error_set(&problem, "dimension %d is %d: expected at least 1", i, dims[i]);
    if (good && !mls_has_integers(&f))
        return finish(quantize_standard(&f, (enum mls_operand)operand, values, dims, random_key(seed, 0, 0, (uint64_t)operand), dequantized,
                                        integers, tensor_scale, group_scales, blocks, &problem), &problem, error);
    good = good && mls_quantize(&f, (enum mls_operand)operand, values, dims, 1, random_key(seed, 0, 0, (uint64_t)operand), &tensor, &problem);
    if (!good) return finish(false, &problem, error);
    size_t count = (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3];
    size_t groups = (size_t)tensor.grouping.blocks[0] * (size_t)tensor.grouping.blocks[1];
    if (dequantized) mls_dequantize(&tensor, dequantized);
    if (integers) memcpy(integers, tensor.integers, count * sizeof *integers);
    if (tensor_scale) *tensor_scale = tensor.tensor_scale;
    if (group_scales) memcpy(group_scales, tensor.group_scales, groups * sizeof *group_scales);
    if (blocks) memcpy(blocks, tensor.grouping.blocks, sizeof tensor.grouping.blocks);
    mls_tensor_release(&tensor);
    return 0;
}

// ---------------------------------------------------------------------------------------------
// One convolution

struct call {
    struct convolution_shape shape;
    struct mls_format formats[3];
    enum mls_operand operands[2];
    const float *values[2];
    float *result;
};

static void operand_dims(const struct convolution_shape *s, enum mls_operand operand, int dims[4])
{
    const int all[3][4] = {{s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width},
                           {s->images, s->in_channels, s->in_height, s->in_width},
                           {s->images, s->out_channels, s->out_height, s->out_width}};
    memcpy(dims, all[operand], sizeof all[0]);
}

static bool convolve_simulated(const struct call *c, int pass, struct error *error)
{
    float *values[2] = {NULL, NULL};
    bool good = true;
    for (int i = 0; i < 2 && good; i++) {
        int dims[4];
        operand_dims(&c->shape, c->operands[i], dims);
        values[i] = memory_allocate((size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3], sizeof(float), error);
        good = values[i] && mls_simulate(&c->formats[c->operands[i]], c->operands[i], c->values[i], dims, c->shape.groups, 0, NULL,
                                         values[i], error);
    }
    if (good && pass == MLSNET_FORWARD) float_convolution_forward(&c->shape, values[1], values[0], c->result);
    if (good && pass == MLSNET_INPUT_ERROR) float_convolution_input_error(&c->shape, values[1], values[0], c->result);
    if (good && pass == MLSNET_WEIGHT_GRADIENT) float_convolution_weight_gradient(&c->shape, values[0], values[1], c->result);
    memory_release(values[0]);
    memory_release(values[1]);
    return good;
}

static bool convolve_reference(const struct call *c, int pass, struct error *error)
{
    struct mls_tensor q[2] = {{.group_scales = NULL}};
    bool good = true;
    for (int i = 0; i < 2 && good; i++) {
        int dims[4];
        operand_dims(&c->shape, c->operands[i], dims);
        good = mls_quantize(&c->formats[c->operands[i]], c->operands[i], c->values[i], dims, c->shape.groups, 0, &q[i], error);
    }
    if (good && pass == MLSNET_FORWARD) mls_convolution_forward(&c->shape, &q[1], &q[0], c->result);
    if (good && pass == MLSNET_INPUT_ERROR) mls_convolution_input_error(&c->shape, &q[1], &q[0], c->result);
    if (good && pass == MLSNET_WEIGHT_GRADIENT) mls_convolution_weight_gradient(&c->shape, &q[0], &q[1], c->result);
    mls_tensor_release(&q[0]);
    mls_tensor_release(&q[1]);
    return good;
}

int mlsnet_convolve(const mlsnet_convolution *shape, int pass, const mlsnet_format formats[3], const char *kernel,
                    const float *first, const float *second, float *result, mlsnet_error *error)
{
    static const enum mls_operand operands[3][3] = {
        {MLS_ACTIVATION, MLS_WEIGHT, MLS_ERROR}, {MLS_ERROR, MLS_WEIGHT, MLS_ACTIVATION}, {MLS_ACTIVATION, MLS_ERROR, MLS_WEIGHT}};
    struct error problem = {""};
    struct call c = {.values = {first, second}, .result = result};
    bool good = (pass >= 0 && pass <= 2) || error_set(&problem, "pass %d: expected 0 to 2", pass);
    c.shape = (struct convolution_shape){.images = shape->images, .in_channels = shape->in_channels, .in_height = shape->in_height,
                                         .in_width = shape->in_width, .out_channels = shape->out_channels,
                                         .kernel_height = shape->kernel_height, .kernel_width = shape->kernel_width,
                                         .stride = shape->stride, .padding = shape->padding, .groups = shape->groups};
    good = good && convolution_shape_complete(&c.shape, &problem);
    for (int k = 0; k < 3 && good; k++) {
        c.formats[k] = internal(&formats[k]);
        c.formats[k].rounding = MLS_NEAREST;
        good = mls_format_check(&c.formats[k], &problem);
    }
    if (!good) return finish(false, &problem, error);
    memcpy(c.operands, operands[pass], sizeof c.operands);
    c.formats[operands[pass][2]] = c.formats[c.operands[0]]; // takes no part
    bool reference = kernel && strcmp(kernel, "reference") == 0;
    const struct kernel_set *set = reference ? NULL : kernel_set_find(kernel);
    if (!reference && !set) return finish(error_set(&problem, "kernel %s: unknown or not supported here", kernel), &problem, error);
    if (set && packed_supports(&c.shape, c.formats, NULL)) {
        struct packed_request request = {.kernels = set, .shape = c.shape, .for_training = true};
        memcpy(request.formats, c.formats, sizeof request.formats);
        return finish(packed_convolve_once(&request, (enum convolution_pass)pass, first, second, result, &problem), &problem, error);
    }
    bool integers = mls_has_integers(&c.formats[c.operands[0]]) && mls_has_integers(&c.formats[c.operands[1]]);
    return finish(integers ? convolve_reference(&c, pass, &problem) : convolve_simulated(&c, pass, &problem), &problem, error);
}

// ---------------------------------------------------------------------------------------------
// Networks

struct mlsnet_network {
    struct cfg *cfg;
    char *cfg_text;
    struct thread_pool *pool;
    struct network *network;
    struct training_settings training;
    long steps;
};

static bool open_network(mlsnet_network *n, const char *cfg_path, const char *const *settings, int count, int threads, int batch,
                         struct error *error)
{
    struct diagnostics diagnostics = {.path = cfg_path};
    bool good = (n->cfg = cfg_read(cfg_path, &diagnostics)) != NULL;
    for (int i = 0; good && i < count; i++)
        if (!cfg_set(n->cfg, settings[i], error)) return false;
    if (good && !(n->cfg_text = cfg_to_text(n->cfg))) return error_set(error, "out of memory");
    if (good && !(n->pool = thread_pool_create(threads > 0 ? threads : threads_available(), error))) return false;
    if (good) {
        struct cfg_section *net = cfg_find_section(n->cfg, "net");
        options_read(training_option_table, net ? net : cfg_find_section(n->cfg, "network"), &n->training, &diagnostics);
        struct network_request request = {.for_training = true, .max_images = batch, .seed = (uint64_t)n->training.seed};
        n->network = network_create(n->cfg, &request, n->pool, &diagnostics);
        good = n->network && diagnostics.count == 0;
    }
    if (!good && diagnostics.text) {
        diagnostics.text[strcspn(diagnostics.text, "\n")] = 0; // the first message
        error_set(error, "%s", diagnostics.text);
    }
    diagnostics_release(&diagnostics);
    return good;
}

mlsnet_network *mlsnet_network_open(const char *cfg_path, const char *const *settings, int count, int threads, int batch,
                                    mlsnet_error *error)
{
    struct error problem = {"out of memory"};
    mlsnet_network *n = calloc(1, sizeof *n);
    bool good = n && open_network(n, cfg_path, settings, count, threads, batch, &problem);
    if (!good) mlsnet_network_close(n);
    return finish(good, &problem, error) == 0 ? n : NULL;
}

void mlsnet_network_close(mlsnet_network *n)
{
    if (!n) return;
    network_destroy(n->network);
    thread_pool_destroy(n->pool);
    options_release(training_option_table, &n->training);
    cfg_release(n->cfg);
    free(n->cfg_text);
    free(n);
}

void mlsnet_network_shape(const mlsnet_network *n, int *channels, int *height, int *width, int *classes, int *batch)
{
    *channels = n->network->input_shape.channels;
    *height = n->network->input_shape.height;
    *width = n->network->input_shape.width;
    *batch = n->network->max_images * n->network->settings.subdivisions;
    network_output(n->network, classes);
}

int mlsnet_network_load(mlsnet_network *n, const char *path, mlsnet_error *error)
{
    struct error problem;
    return finish(checkpoint_load(path, n->network, NULL, &problem), &problem, error);
}

int mlsnet_network_save(const mlsnet_network *n, const char *path, mlsnet_error *error)
{
    struct error problem;
    const struct training_state state = {.step = n->steps, .best = -1, .seed = n->training.seed};
    return finish(checkpoint_save(path, n->network, &state, n->cfg_text, &problem), &problem, error);
}

int mlsnet_network_predict(mlsnet_network *n, const float *input, int images, float *scores, mlsnet_error *error)
{
    struct error problem;
    int classes;
    if (images < 1 || images > n->network->max_images)
        return finish(error_set(&problem, "%d images: expected 1 to %d", images, n->network->max_images), &problem, error);
    struct pass pass = {.pool = n->pool, .images = images};
    if (!network_forward(n->network, input, &pass, &problem)) return finish(false, &problem, error);
    const float *output = network_output(n->network, &classes);
    memcpy(scores, output, (size_t)images * (size_t)classes * sizeof *scores);
    return 0;
}

int mlsnet_network_train_step(mlsnet_network *n, const float *input, const int *labels, long step, long total, double *mean_loss,
                              mlsnet_error *error)
{
    struct error problem;
    double loss = 0;
    long correct = 0;
    struct batch batch = {.images = n->network->max_images * n->network->settings.subdivisions, .input = input, .labels = labels, .crops = 1};
    if (!trainer_step(n->network, &n->training, &batch, step, total, &loss, &correct, &problem)) return finish(false, &problem, error);
    n->steps = step + 1;
    *mean_loss = loss / batch.images;
    return 0;
}
