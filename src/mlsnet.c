// The public interface, thin over what lies below.
#include "mlsnet.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "kernels/convolve_once.h"
#include "mls/presets.h"
#include "mls/standard.h"
#include "net/network.h"
#include "net/training_options.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

#ifndef MLSNET_VERSION
#define MLSNET_VERSION "unknown"
#endif

#define MOST_ELEMENTS 0x1p40 // of a tensor: more cannot be there, and its bytes are a number of 64 bits

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

static bool operand_check(int operand, struct error *error)
{
    return (operand >= MLSNET_WEIGHT && operand <= MLSNET_ERROR) || error_set(error, "operand %d: expected 0 to 2", operand);
}

int mlsnet_format_named(const char *name, int operand, mlsnet_format *format, mlsnet_error *error)
{
    struct error problem = {""};
    struct mls_format f;
    if (!operand_check(operand, &problem)) return finish(false, &problem, error);
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

static bool dims_check(const int dims[4], struct error *error)
{
    double count = 1;
    for (int i = 0; i < 4; i++) {
        if (dims[i] < 1) return error_set(error, "dimension %d is %d: expected at least 1", i, dims[i]);
        count *= dims[i];
    }
    return count <= MOST_ELEMENTS || error_set(error, "%.0f elements: expected at most %.0f", count, MOST_ELEMENTS);
}

int mlsnet_quantize(const mlsnet_format *format, int operand, const float *values, const int dims[4], uint64_t seed,
                    float *dequantized, int32_t *integers, float *tensor_scale, float *group_scales, int blocks[2],
                    mlsnet_error *error)
{
    struct error problem = {""};
    struct mls_tensor tensor = {0};
    struct mls_format f = internal(format);
    bool good = mls_format_check(&f, &problem) && operand_check(operand, &problem) && dims_check(dims, &problem);
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

int mlsnet_convolve(const mlsnet_convolution *shape, int pass, const mlsnet_format formats[3], const char *kernel,
                    const float *first, const float *second, float *result, mlsnet_error *error)
{
    struct error problem = {""};
    struct once_request request = {.pass = (enum convolution_pass)pass};
    bool good = (pass >= 0 && pass <= 2) || error_set(&problem, "pass %d: expected 0 to 2", pass);
    request.shape = (struct convolution_shape){.images = shape->images, .in_channels = shape->in_channels, .in_height = shape->in_height,
                                               .in_width = shape->in_width, .out_channels = shape->out_channels,
                                               .kernel_height = shape->kernel_height, .kernel_width = shape->kernel_width,
                                               .stride = shape->stride, .padding = shape->padding, .groups = shape->groups};
    good = good && convolution_shape_complete(&request.shape, &problem);
    for (int k = 0; k < 3 && good; k++) {
        request.formats[k] = internal(&formats[k]);
        good = mls_format_check(&request.formats[k], &problem);
    }
    bool reference = kernel && strcmp(kernel, "reference") == 0;
    request.kernels = reference ? NULL : kernel_set_find(kernel);
    if (good && !reference && !request.kernels) good = error_set(&problem, "kernel %s: unknown or not supported here", kernel);
    good = good && convolve_once(&request, first, second, result, &problem);
    return finish(good, &problem, error);
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
        training_settings_read(n->cfg, &n->training, &diagnostics);
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
    int classes;
    network_output(n->network, &classes);
    for (int i = 0; i < n->network->max_images * n->network->settings.subdivisions; i++)
        if (labels[i] < 0 || labels[i] >= classes)
            return finish(error_set(&problem, "label %d of image %d: expected 0 to %d", labels[i], i, classes - 1), &problem, error);
    struct batch batch = {.images = n->network->max_images * n->network->settings.subdivisions, .input = input, .labels = labels, .crops = 1};
    if (!trainer_step(n->network, &n->training, &batch, step, total, &loss, &correct, &problem)) return finish(false, &problem, error);
    n->steps = step + 1;
    *mean_loss = loss / batch.images;
    return 0;
}
