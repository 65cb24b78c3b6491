// Packed convolutions: one pass by itself, from fp32 operands to the fp32 result.
#include <string.h>

#include "kernels/packed_internal.h"

static bool quantize_one(struct packed_convolution *packed, struct thread_pool *pool, enum mls_operand operand, const float *x,
                         struct error *error)
{
    int images = packed->shape.images;
    if (operand == MLS_WEIGHT) return packed_quantize_weights(packed, pool, x, 0, true, error);
    if (operand == MLS_ACTIVATION) return packed_quantize_activations(packed, pool, images, x, NULL, 0, true, error);
    return packed_quantize_map(packed, &packed->errors, pool, images, x, NULL, 0, true, error);
}

bool packed_convolve_once(const struct packed_request *request, enum convolution_pass pass, const float *first,
                          const float *second, float *result, struct error *error)
{
    static const enum mls_operand operands[3][2] = {{MLS_ACTIVATION, MLS_WEIGHT}, {MLS_ERROR, MLS_WEIGHT}, {MLS_ACTIVATION, MLS_ERROR}};
    const struct convolution_shape *s = &request->shape;
    struct thread_pool *pool = thread_pool_create(1, error);
    struct packed_convolution *packed = pool ? packed_create(request, error) : NULL;
    bool good = packed && quantize_one(packed, pool, operands[pass][0], first, error) &&
                quantize_one(packed, pool, operands[pass][1], second, error);
    size_t weights = (size_t)s->out_channels * (size_t)s->in_channels * (size_t)(s->kernel_height * s->kernel_width);
    if (good && pass == CONVOLUTION_FORWARD) packed_forward(packed, pool, s->images, result, NULL, NULL);
    if (good && pass == CONVOLUTION_INPUT_ERROR) packed_input_error(packed, pool, s->images, result, false);
    if (good && pass == CONVOLUTION_WEIGHT_GRADIENT) {
        memset(result, 0, weights * sizeof *result);
        packed_weight_gradient(packed, pool, s->images, result);
    }
    packed_destroy(packed);
    thread_pool_destroy(pool);
    return good;
}
