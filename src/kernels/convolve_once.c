#include "kernels/convolve_once.h"

#include <string.h>

#include "base/memory.h"
#include "kernels/packed.h"
#include "mls/simulate.h"

const enum mls_operand *once_operands(enum convolution_pass pass)
{
    static const enum mls_operand operands[][3] = {
        {MLS_ACTIVATION, MLS_WEIGHT, MLS_ERROR}, {MLS_ERROR, MLS_WEIGHT, MLS_ACTIVATION}, {MLS_ACTIVATION, MLS_ERROR, MLS_WEIGHT}};
    return operands[pass];
}

void once_dims(const struct convolution_shape *s, enum mls_operand operand, int dims[4])
{
    const int all[3][4] = {{s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width},
                           {s->images, s->in_channels, s->in_height, s->in_width},
                           {s->images, s->out_channels, s->out_height, s->out_width}};
    memcpy(dims, all[operand], sizeof all[0]);
}

// The operand that takes no part must not stand in the way.
static void set_formats(const struct once_request *request, struct mls_format formats[3])
{
    const enum mls_operand *operands = once_operands(request->pass);
    memcpy(formats, request->formats, sizeof request->formats);
    formats[operands[2]] = formats[operands[0]];
    for (int k = 0; k < 3; k++) formats[k].rounding = MLS_NEAREST;
}

enum once_path once_path_of(const struct once_request *request, const char **reason)
{
    struct mls_format formats[3];
    set_formats(request, formats);
    if (reason) *reason = NULL;
    if (request->simulated || !mls_fits_int8(&formats[0]) || !mls_fits_int8(&formats[1]) || !mls_fits_int8(&formats[2])) return ONCE_SIMULATED;
    return request->kernels && packed_supports(&request->shape, formats, reason) ? ONCE_KERNELS : ONCE_REFERENCE;
}

static bool simulate(const struct convolution_shape *s, enum convolution_pass pass, const struct mls_format formats[3],
                     const float *const operands[2], float *result, struct error *error)
{
    float *values[2] = {NULL, NULL};
    bool good = true;
    for (int i = 0; i < 2 && good; i++) {
        const enum mls_operand operand = once_operands(pass)[i];
        int dims[4];
        once_dims(s, operand, dims);
        values[i] = memory_allocate((size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3], sizeof(float), error);
        good = values[i] && mls_simulate(&formats[operand], operand, operands[i], dims, s->groups, 0, NULL, values[i], error);
    }
    if (good && pass == CONVOLUTION_FORWARD) float_convolution_forward(s, values[1], values[0], result);
    if (good && pass == CONVOLUTION_INPUT_ERROR) float_convolution_input_error(s, values[1], values[0], result);
    if (good && pass == CONVOLUTION_WEIGHT_GRADIENT) float_convolution_weight_gradient(s, values[0], values[1], result);
    memory_release(values[0]);
    memory_release(values[1]);
    return good;
}

static bool refer(const struct convolution_shape *s, enum convolution_pass pass, const struct mls_format formats[3],
                  const float *const operands[2], float *result, struct error *error)
{
    struct mls_tensor q[2] = {{.group_scales = NULL}};
    bool good = true;
    for (int i = 0; i < 2 && good; i++) {
        const enum mls_operand operand = once_operands(pass)[i];
        int dims[4];
        once_dims(s, operand, dims);
        good = mls_quantize(&formats[operand], operand, operands[i], dims, s->groups, 0, &q[i], error);
    }
    if (good && pass == CONVOLUTION_FORWARD) mls_convolution_forward(s, &q[1], &q[0], result);
    if (good && pass == CONVOLUTION_INPUT_ERROR) mls_convolution_input_error(s, &q[1], &q[0], result);
    if (good && pass == CONVOLUTION_WEIGHT_GRADIENT) mls_convolution_weight_gradient(s, &q[0], &q[1], result);
    mls_tensor_release(&q[0]);
    mls_tensor_release(&q[1]);
    return good;
}

bool convolve_once(const struct once_request *request, const float *first, const float *second, float *result, struct error *error)
{
    const float *const operands[2] = {first, second};
    struct packed_request packed = {.kernels = request->kernels, .shape = request->shape, .for_training = true};
    set_formats(request, packed.formats);
    switch (once_path_of(request, NULL)) {
    case ONCE_KERNELS: return packed_convolve_once(&packed, request->pass, first, second, result, error);
    case ONCE_REFERENCE: return refer(&request->shape, request->pass, packed.formats, operands, result, error);
    case ONCE_SIMULATED: break;
    }
    return simulate(&request->shape, request->pass, packed.formats, operands, result, error);
}
