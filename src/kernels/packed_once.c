// Packed convolutions: one pass by itself, from planar fp32 operands to the planar fp32 result.
#include <string.h>

#include "base/memory.h"
#include "kernels/packed_internal.h"

// channels, height, width of one image of an operand that is a map.
struct map_size {
    int channels;
    size_t pixels;
};

static struct map_size size_of(const struct convolution_shape *s, enum mls_operand operand)
{
    if (operand == MLS_ACTIVATION) return (struct map_size){s->in_channels, (size_t)s->in_height * (size_t)s->in_width};
    return (struct map_size){s->out_channels, (size_t)s->out_height * (size_t)s->out_width};
}

static float *allocate_map(const struct convolution_shape *s, enum mls_operand operand, struct error *error)
{
    struct map_size size = size_of(s, operand);
    return memory_allocate((size_t)s->images * blocked_channels(size.channels) * size.pixels, sizeof(float), error);
}

static bool quantize_map(struct packed_convolution *packed, struct thread_pool *pool, enum mls_operand operand, const float *x,
                         struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    struct map_size size = size_of(s, operand);
    float *map = allocate_map(s, operand, error);
    if (!map) return false;
    for (size_t n = 0; n < (size_t)s->images; n++)
        blocked_from_planar(x + n * (size_t)size.channels * size.pixels, size.channels, size.pixels,
                            map + n * blocked_channels(size.channels) * size.pixels);
    const struct source source = {.kind = SOURCE_PLAIN, .x = map};
    bool good = packed_quantize_map(packed, operand == MLS_ACTIVATION ? &packed->activations : &packed->errors, pool, s->images,
                                    &source, NULL, 0, true, error);
    memory_release(map);
    return good;
}

static bool quantize_one(struct packed_convolution *packed, struct thread_pool *pool, enum mls_operand operand, const float *x,
                         struct error *error)
{
    return operand == MLS_WEIGHT ? packed_quantize_weights(packed, pool, x, 0, true, error)
                                 : quantize_map(packed, pool, operand, x, error);
}

static bool convolve_map(struct packed_convolution *packed, struct thread_pool *pool, bool forward, float *result, struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    struct map_size size = size_of(s, forward ? MLS_ERROR : MLS_ACTIVATION);
    float *map = allocate_map(s, forward ? MLS_ERROR : MLS_ACTIVATION, error);
    if (!map) return false;
    if (forward)
        packed_forward(packed, pool, s->images, map, (struct image_done){0});
    else
        packed_input_error(packed, pool, s->images, map, false, (struct image_done){0});
    for (size_t n = 0; n < (size_t)s->images; n++)
        blocked_to_planar(map + n * blocked_channels(size.channels) * size.pixels, size.channels, size.pixels,
                          result + n * (size_t)size.channels * size.pixels);
    memory_release(map);
    return true;
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
    if (good && pass != CONVOLUTION_WEIGHT_GRADIENT) good = convolve_map(packed, pool, pass == CONVOLUTION_FORWARD, result, error);
    if (good && pass == CONVOLUTION_WEIGHT_GRADIENT) {
        size_t weights = (size_t)s->out_channels * (size_t)s->in_channels * (size_t)(s->kernel_height * s->kernel_width);
        memset(result, 0, weights * sizeof *result);
        packed_weight_gradient(packed, pool, s->images, result);
    }
    packed_destroy(packed);
    thread_pool_destroy(pool);
    return good;
}
