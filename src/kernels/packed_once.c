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

// The planar array as a map; the caller releases it.
static float *map_of(const struct convolution_shape *s, enum mls_operand operand, const float *planar, struct error *error)
{
    struct map_size size = size_of(s, operand);
    float *map = allocate_map(s, operand, error);
    for (size_t n = 0; map && n < (size_t)s->images; n++)
        blocked_from_planar(planar + n * (size_t)size.channels * size.pixels, size.channels, size.pixels,
                            map + n * blocked_channels(size.channels) * size.pixels);
    return map;
}

// Quantizes a map and, with a result, convolves it into that.
static bool run_map(struct packed_convolution *packed, struct thread_pool *pool, enum mls_operand operand, const float *planar, float *result,
                    struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    enum mls_operand other = operand == MLS_ACTIVATION ? MLS_ERROR : MLS_ACTIVATION;
    struct map_size size = size_of(s, other);
    float *map = map_of(s, operand, planar, error), *output = result ? allocate_map(s, other, error) : NULL;
    const struct packed_input input = {.source = {.kind = SOURCE_PLAIN, .x = map}};
    const struct image_done nothing = {0};
    bool good = map && (output || !result) &&
                (operand == MLS_ACTIVATION ? packed_forward(packed, pool, s->images, &input, true, output, nothing, error)
                                           : packed_input_error(packed, pool, s->images, &input, output, false, nothing, error));
    for (size_t n = 0; good && result && n < (size_t)s->images; n++)
        blocked_to_planar(output + n * blocked_channels(size.channels) * size.pixels, size.channels, size.pixels,
                          result + n * (size_t)size.channels * size.pixels);
    memory_release(map);
    memory_release(output);
    return good;
}

static bool run_pass(struct packed_convolution *packed, struct thread_pool *pool, enum convolution_pass pass, const float *first,
                     const float *second, float *result, struct error *error)
{
    const struct convolution_shape *s = &packed->shape;
    if (pass != CONVOLUTION_WEIGHT_GRADIENT)
        return packed_quantize_weights(packed, pool, second, 0, true, error) &&
               run_map(packed, pool, pass == CONVOLUTION_FORWARD ? MLS_ACTIVATION : MLS_ERROR, first, result, error);
    if (!run_map(packed, pool, MLS_ACTIVATION, first, NULL, error) || !run_map(packed, pool, MLS_ERROR, second, NULL, error)) return false;
    const size_t count = (size_t)s->out_channels * (size_t)inputs_of_group(s) * (size_t)(s->kernel_height * s->kernel_width);
    for (size_t i = 0; i < count; i++) result[i] = -0.0f; // to which a gradient of -0 can be added
    packed_weight_gradient(packed, pool, s->images, result);
    return true;
}

bool packed_convolve_once(const struct packed_request *request, enum convolution_pass pass, const float *first,
                          const float *second, float *result, struct error *error)
{
    struct packed_request nearest = *request;
    for (int k = 0; k < 3; k++) nearest.formats[k].rounding = MLS_NEAREST;
    struct thread_pool *pool = thread_pool_create(1, error);
    struct packed_convolution *packed = pool ? packed_create(&nearest, error) : NULL;
    bool good = packed && run_pass(packed, pool, pass, first, second, result, error);
    packed_destroy(packed);
    thread_pool_destroy(pool);
    return good;
}
