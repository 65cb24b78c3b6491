// Every kernel set equals the plain definition in src/mls bit for bit, over random shapes and formats.
// To add a case: a row in fixed_cases, or more rounds of random_case. A kernel set that this processor lacks
// is reported as skipped.
#include <setjmp.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "base/memory.h"
#include "kernels/direct.h"
#include "kernels/packed.h"

#define TENSOR_KEY 0x1234567890abcdefu

struct test_case {
    struct convolution_shape shape;
    struct mls_format formats[3];
    bool nonnegative;
    enum { VALUES_RANDOM, VALUES_SOME_PLANES_ZERO, VALUES_ACTIVATIONS_ZERO, VALUES_LARGEST, VALUES_LARGEST_SIGNED, VALUES_TINY_PLANES } values;
};

static float *random_values(const int dims[4], uint64_t key, bool nonnegative, int kind)
{
    size_t plane = (size_t)dims[2] * (size_t)dims[3], planes = (size_t)dims[0] * (size_t)dims[1];
    float *values = memory_allocate(planes * plane + 64, sizeof(float), NULL);
    struct random_stream stream = {key, 0};
    for (size_t p = 0; p < planes; p++) {
        float scale = ldexpf(1.0f, kind == VALUES_TINY_PLANES ? -(int)random_below(&stream, 76) : (int)random_below(&stream, 12) - 6);
        for (size_t i = 0; i < plane; i++) {
            float value = random_normal(&stream) * scale;
            if (nonnegative && value < 0) value = 0;
            if (kind == VALUES_ACTIVATIONS_ZERO || (kind == VALUES_SOME_PLANES_ZERO && p % 3 == 0)) value = 0;
            if (kind == VALUES_LARGEST) value = 1;
            if (kind == VALUES_LARGEST_SIGNED) value = nonnegative || value > 0 ? 1 : -1;
            values[p * plane + i] = value;
        }
    }
    return values;
}

static void assert_same(const char *what, const float *expected, const float *found, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (memcmp(&expected[i], &found[i], sizeof(float)) != 0)
            fail_msg("%s: element %zu of %zu: expected %a, found %a", what, i, count, (double)expected[i], (double)found[i]);
}

static size_t volume(const int dims[4])
{
    return (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3];
}

static float *to_blocked(const float *planar, const int dims[4])
{
    size_t pixels = (size_t)dims[2] * (size_t)dims[3], stored = blocked_channels(dims[1]) * pixels;
    float *map = memory_allocate((size_t)dims[0] * stored, sizeof(float), NULL);
    for (size_t n = 0; n < (size_t)dims[0]; n++)
        blocked_from_planar(planar + n * (size_t)dims[1] * pixels, dims[1], pixels, map + n * stored);
    return map;
}

static void from_blocked(const float *map, const int dims[4], float *planar)
{
    size_t pixels = (size_t)dims[2] * (size_t)dims[3], stored = blocked_channels(dims[1]) * pixels;
    for (size_t n = 0; n < (size_t)dims[0]; n++)
        blocked_to_planar(map + n * stored, dims[1], pixels, planar + n * (size_t)dims[1] * pixels);
}

// What is not for training keeps the bytes of the images at work only.
static void check_inference(struct packed_request request, struct thread_pool *pool, const float *w, const struct packed_input *activations,
                            float *out_map, const float *expected)
{
    struct error error;
    const struct convolution_shape *s = &request.shape;
    const int output[4] = {s->images, s->out_channels, s->out_height, s->out_width};
    float *found = memory_allocate(volume(output), sizeof(float), NULL);
    request.for_training = false;
    struct packed_convolution *packed = packed_create(&request, &error);
    assert_non_null(packed);
    assert_true(packed_quantize_weights(packed, pool, w, TENSOR_KEY, false, &error));
    assert_true(packed_forward(packed, pool, s->images, activations, false, out_map, (struct image_done){0}, &error));
    from_blocked(out_map, output, found);
    assert_same("forward, not for training", expected, found, volume(output));
    packed_destroy(packed);
    memory_release(found);
}

static void check_case(const struct kernel_set *set, const struct test_case *test, uint64_t key, int threads)
{
    const struct convolution_shape *s = &test->shape;
    const int input[4] = {s->images, s->in_channels, s->in_height, s->in_width};
    const int output[4] = {s->images, s->out_channels, s->out_height, s->out_width};
    const int weight[4] = {s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width};
    int others = test->values == VALUES_ACTIVATIONS_ZERO ? VALUES_RANDOM : (int)test->values;
    float *a = random_values(input, key, test->nonnegative, (int)test->values), *e = random_values(output, key + 2, false, others);
    float *w = random_values(weight, key + 1, false, others >= VALUES_LARGEST ? others : VALUES_RANDOM);
    size_t most = volume(input) + volume(output) + volume(weight) + 64;
    float *expected = memory_allocate(most, sizeof(float), NULL), *found = memory_allocate(most, sizeof(float), NULL);
    struct error error = {""};
    struct mls_tensor qw, qa, qe;
    assert_true(mls_quantize(&test->formats[MLS_WEIGHT], MLS_WEIGHT, w, weight, s->groups, TENSOR_KEY, &qw, &error));
    assert_true(mls_quantize(&test->formats[MLS_ACTIVATION], MLS_ACTIVATION, a, input, s->groups, TENSOR_KEY + 1, &qa, &error));
    assert_true(mls_quantize(&test->formats[MLS_ERROR], MLS_ERROR, e, output, s->groups, TENSOR_KEY + 2, &qe, &error));

    struct packed_request request = {.kernels = set, .shape = *s, .nonnegative = test->nonnegative, .for_training = true};
    memcpy(request.formats, test->formats, sizeof request.formats);
    struct thread_pool *pool = thread_pool_create(threads, &error);
    struct packed_convolution *packed = packed_create(&request, &error);
    assert_non_null(pool);
    assert_non_null(packed);
    assert_true(packed_quantize_weights(packed, pool, w, TENSOR_KEY, false, &error));
    float *a_map = to_blocked(a, input), *e_map = to_blocked(e, output);
    const struct packed_input activations = {.source = {.kind = SOURCE_PLAIN, .x = a_map}, .tensor_key = TENSOR_KEY + 1};
    const struct packed_input errors = {.source = {.kind = SOURCE_PLAIN, .x = e_map}, .tensor_key = TENSOR_KEY + 2};
    const struct image_done nothing = {0};
    for (size_t i = 0; i < volume(input); i++) found[i] = (float)(i % 7);
    float *map = to_blocked(found, input), *out_map = to_blocked(e, output);

    mls_convolution_forward(s, &qw, &qa, expected);
    assert_true(packed_forward(packed, pool, s->images, &activations, false, out_map, nothing, &error));
    from_blocked(out_map, output, found);
    assert_same("forward", expected, found, volume(output));
    check_inference(request, pool, w, &activations, out_map, expected);
    mls_convolution_input_error(s, &qw, &qe, expected);
    float *added = memory_allocate(volume(input), sizeof(float), NULL);
    for (size_t i = 0; i < volume(input); i++) added[i] = (float)(i % 7) + expected[i];
    assert_true(packed_input_error(packed, pool, s->images, &errors, map, true, nothing, &error));
    from_blocked(map, input, found);
    assert_same("input error, added", added, found, volume(input));
    assert_true(packed_input_error(packed, pool, s->images, &errors, map, false, nothing, &error));
    from_blocked(map, input, found);
    assert_same("input error", expected, found, volume(input));
    memory_release(added);
    memory_release(a_map);
    memory_release(e_map);
    memory_release(map);
    memory_release(out_map);
    mls_convolution_weight_gradient(s, &qa, &qe, expected);
    for (size_t i = 0; i < volume(weight); i++) found[i] = -0.0f; // with which a sum of -0 stays one
    packed_weight_gradient(packed, pool, s->images, found);
    assert_same("weight gradient", expected, found, volume(weight));

    packed_destroy(packed);
    thread_pool_destroy(pool);
    mls_tensor_release(&qw);
    mls_tensor_release(&qa);
    mls_tensor_release(&qe);
    memory_release(a);
    memory_release(w);
    memory_release(e);
    memory_release(expected);
    memory_release(found);
}

static struct mls_format random_format(struct random_stream *stream)
{
    static const int elements[][2] = {{2, 1}, {2, 4}, {2, 2}, {1, 2}, {1, 6}, {0, 3}, {0, 7}, {0, 1}, {3, 0}, {2, 0}};
    static const int sizes[] = {1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 64};
    const int *element = elements[random_below(stream, 10)];
    return (struct mls_format){.exponent = element[0], .mantissa = element[1],
                               .group = (enum mls_group)(random_below(stream, 8) < 4 ? MLS_GROUP_NC : random_below(stream, 4)),
                               .group_size = sizes[random_below(stream, 11)],
                               .scale_exponent = 1 + (int)random_below(stream, 8),
                               .scale_mantissa = (int)random_below(stream, 2),
                               .rounding = random_below(stream, 2) ? MLS_STOCHASTIC : MLS_NEAREST};
}

enum { UNGROUPED, DEPTHWISE, GROUPED };

// groups of up to `most` input and as many output channels.
static void set_groups(struct convolution_shape *s, int most, struct random_stream *stream)
{
    s->groups = 2 + (int)random_below(stream, 7);
    s->in_channels = s->groups * (1 + (int)random_below(stream, (uint32_t)most));
    s->out_channels = s->groups * (1 + (int)random_below(stream, (uint32_t)most));
}

static struct test_case random_case(uint64_t key, int kind)
{
    static const int kernels[] = {1, 2, 3, 3, 3, 5, 7};
    struct random_stream stream = {key, 0};
    struct test_case test;
    do {
        int kernel = kernels[random_below(&stream, 7)];
        test.shape = (struct convolution_shape){.images = 1 + (int)random_below(&stream, 3),
                                                .in_channels = 1 + (int)random_below(&stream, 40),
                                                .in_height = 1 + (int)random_below(&stream, 18),
                                                .in_width = 1 + (int)random_below(&stream, 20),
                                                .out_channels = 1 + (int)random_below(&stream, 40),
                                                .kernel_height = kernel, .kernel_width = kernel,
                                                .stride = 1 + (int)random_below(&stream, 3),
                                                .padding = (int)random_below(&stream, (uint32_t)kernel), .groups = 1};
        if (kind == DEPTHWISE) test.shape.groups = test.shape.out_channels = test.shape.in_channels;
        if (kind == GROUPED) set_groups(&test.shape, random_below(&stream, 4) ? 12 : 40, &stream);
        for (int i = 0; i < 3; i++) test.formats[i] = random_format(&stream);
        test.nonnegative = random_below(&stream, 2);
        test.values = random_below(&stream, 8) == 0 ? VALUES_ACTIVATIONS_ZERO : random_below(&stream, 2);
    } while (!convolution_shape_complete(&test.shape, NULL) || !packed_supports(&test.shape, test.formats, NULL));
    return test;
}

static const struct kernel_set *set_or_skip(void **state)
{
    const struct kernel_set *set = *state;
    if (set->supported()) return set;
    print_message("skipped: kernel set %s is not supported by this processor\n", set->name);
    skip();
    return NULL;
}

static void test_random_shapes(void **state)
{
    const struct kernel_set *set = set_or_skip(state);
    for (uint64_t round = 0; round < 150; round++) {
        struct test_case test = random_case(1000 + round, UNGROUPED);
        check_case(set, &test, 77 * round, 1 + (int)(round % 3));
    }
}

static atomic_int winograd_calls, winograd_gradient_calls, raster_calls, product_calls, squares_calls, gradient_squares_calls, pixel_taps;
static const struct kernel_set *counted_set;

static void count_winograd_rows(const struct winograd_job *job, float *const outputs[2])
{
    winograd_calls++;
    counted_set->winograd_rows(job, outputs);
}

static void count_winograd_gradient(const struct winograd_gradient_job *job, float *totals)
{
    winograd_gradient_calls++;
    counted_set->winograd_gradient(job, totals);
}

static void count_squares(const struct squares_job *job, float *outputs)
{
    squares_calls++;
    counted_set->convolve_squares(job, outputs);
}

static void count_gradient_squares(const struct squares_gradient_job *job, float *totals)
{
    gradient_squares_calls++;
    counted_set->gradient_squares(job, totals);
}

static void count_pixels(const struct convolve_job *job, const uint8_t *input, const struct convolve_pixel *pixels, int count,
                         float *const outputs[2])
{
    pixel_taps += job->taps * job->blocks * count;
    counted_set->convolve_pixels(job, input, pixels, count, outputs);
}

static void count_raster(const struct raster_job *job, float *totals)
{
    raster_calls++;
    counted_set->gradient_raster(job, totals);
}

static void count_products(const struct products_job *job, float *totals)
{
    product_calls++;
    counted_set->add_image_products(job, totals);
}

// Shapes whose rows are taken in pairs, with formats up to the largest integers for which that is done, and beyond. Half of them are in groups
// of one channel, the others of all sizes.
static struct test_case winograd_case(uint64_t key)
{
    static const int elements[][2] = {{2, 1}, {2, 2}, {1, 2}, {0, 3}, {0, 5}, {2, 0}, {0, 6}, {2, 3}, {0, 7}}, widths[] = {7, 8, 14, 16, 21, 24, 32, 56, 64, 72};
    struct random_stream stream = {key, 0};
    int padding = (int)random_below(&stream, 3);
    struct test_case test = {.nonnegative = random_below(&stream, 2)};
    test.shape = (struct convolution_shape){.images = 1 + (int)random_below(&stream, 3), .in_channels = 1 + (int)random_below(&stream, 40),
                                            .in_height = 2 + 2 * (int)random_below(&stream, 9), .in_width = widths[random_below(&stream, 10)],
                                            .out_channels = 1 + (int)random_below(&stream, 40), .kernel_height = 3, .kernel_width = 3,
                                            .stride = 1, .padding = padding, .groups = 1};
    if (padding == 0) test.shape.in_height += 2, test.shape.in_width += 2; // so that the outputs fit
    static const int sizes[] = {4, 16, 3, 32, 4, 16, 8, 1 << 20};
    const int group_size = key % 2 ? 1 : sizes[random_below(&stream, 8)];
    for (int i = 0; i < 3; i++) {
        const int *element = elements[random_below(&stream, 9)];
        test.formats[i] = (struct mls_format){.exponent = element[0], .mantissa = element[1], .group = MLS_GROUP_NC, .group_size = group_size,
                                              .scale_exponent = 8, .scale_mantissa = 1,
                                              .rounding = i == MLS_ERROR ? MLS_STOCHASTIC : MLS_NEAREST};
    }
    static const int values[] = {VALUES_RANDOM, VALUES_SOME_PLANES_ZERO, VALUES_LARGEST, VALUES_LARGEST_SIGNED, VALUES_TINY_PLANES};
    test.values = values[key % 5];
    return test;
}

static void test_depthwise(void **state)
{
    const struct kernel_set *set = set_or_skip(state);
    for (uint64_t round = 0; round < 300; round++) {
        struct test_case test = random_case(2000 + round, DEPTHWISE);
        check_case(set, &test, 77 * round, 1 + (int)(round % 3));
    }
}

// Convolution groups, that share blocks of 16 channels or cross them: rows one by one, in pairs, and images together.
static void test_grouped(void **state)
{
    struct kernel_set set = *set_or_skip(state);
    int by_winograd = 0, gradients_by_winograd = 0;
    counted_set = *state;
    if (set.winograd_rows) set.winograd_rows = count_winograd_rows;
    if (set.winograd_gradient) set.winograd_gradient = count_winograd_gradient;
    for (uint64_t round = 0; round < 200; round++) {
        struct random_stream stream = {round, 6000};
        struct test_case test = round % 2 ? random_case(6000 + round, GROUPED) : winograd_case(6000 + round);
        if (round % 2 == 0) set_groups(&test.shape, 24, &stream);
        assert_true(convolution_shape_complete(&test.shape, NULL));
        winograd_calls = winograd_gradient_calls = 0;
        check_case(&set, &test, 77 * round, 1 + (int)(round % 3));
        by_winograd += winograd_calls > 0;
        gradients_by_winograd += winograd_gradient_calls > 0;
    }
    if (set.winograd_rows) assert_in_range(by_winograd, 20, 100);
    if (set.winograd_gradient) assert_in_range(gradients_by_winograd, 20, 100);
}

static int up(int a, int b)
{
    return (a + b - 1) / b;
}

// The shapes of the networks that we ship, few images.
static void test_network_shapes(void **state)
{
    const struct kernel_set *set = set_or_skip(state);
    // Channels in and out, width and height, window, stride, images if not 2.
    static const int rows[][6] = {{16, 16, 32, 3, 1}, {16, 32, 32, 3, 2}, {32, 32, 16, 3, 1}, {32, 64, 16, 3, 2},
                                  {64, 64, 8, 3, 1, 9}, {64, 64, 2, 3, 1, 70}, {32, 48, 4, 3, 1, 19}, {20, 24, 3, 3, 1, 11}, {40, 100, 1, 3, 1, 65},
                                  {48, 16, 8, 3, 2, 5}, {64, 40, 4, 1, 1, 3}, {3, 16, 32, 3, 1}, {3, 64, 16, 7, 2},
                                  {16, 32, 32, 1, 2}, {48, 80, 7, 1, 1},  {16, 16, 300, 3, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int group_size = 1; group_size <= 16; group_size *= 4) {
            const int *r = rows[i];
            struct test_case test = {.nonnegative = i % 2 == 0};
            test.shape = (struct convolution_shape){.images = r[5] ? r[5] : 2, .in_channels = r[0], .out_channels = r[1],
                                                    .in_height = r[2] > 100 ? 2 : r[2], .in_width = r[2],
                                                    .kernel_height = r[3], .kernel_width = r[3], .stride = r[4],
                                                    .padding = r[3] / 2, .groups = 1};
            assert_true(convolution_shape_complete(&test.shape, NULL));
            for (int k = 0; k < 3; k++) {
                test.formats[k] = mls_format_default((enum mls_operand)k);
                test.formats[k].group_size = group_size;
            }
            check_case(set, &test, 5 * i, 2);
        }
}

static bool winograd_gradient_fits(const struct test_case *test)
{
    // Where there is but one image all sums are in one group.
    return test->shape.images > 1 && test->shape.out_height * ((test->shape.out_width + 3) / 4) >= 8 &&
           mls_largest_integer(&test->formats[MLS_ACTIVATION]) <= 63 && mls_largest_integer(&test->formats[MLS_ERROR]) <= 63;
}

// Whether a map of this format and the weights have integers that are small enough.
static bool winograd_integers_fit(const struct kernel_set *set, const struct test_case *test, enum mls_operand operand)
{
    const int64_t map = mls_largest_integer(&test->formats[operand]), weight = mls_largest_integer(&test->formats[MLS_WEIGHT]);
    // In 16 bits: two products of bytes, and twice the outputs of two channels.
    bool fit_16 = 2 * (128 + 2 * map) * 3 * weight < 32768 && 2 * 9 * 2 * map * weight < 32768;
    return weight <= 42 && map <= 63 && (set->winograd_bits == 32 || fit_16);
}

// Whether it is to be done in both directions: in packed blocks where groups have more than one quad, and the map is not so small that
// images are taken together.
static bool winograd_fits(const struct kernel_set *set, const struct test_case *test)
{
    const struct convolution_shape *s = &test->shape;
    bool blocks = test->formats[0].group_size >= 16 && s->in_channels >= 16 && s->out_channels >= 16 && s->in_height * s->in_width > 16 &&
                  s->out_height * s->out_width > 16;
    return ((test->formats[0].group_size == 1 && set->winograd_planar) || blocks) && winograd_integers_fit(set, test, MLS_ACTIVATION) &&
           winograd_integers_fit(set, test, MLS_ERROR);
}

// Two rows of outputs at once. The calls are counted, since nothing else shows that it is done.
static void test_winograd(void **state)
{
    struct kernel_set set = *set_or_skip(state);
    counted_set = *state;
    set.winograd_rows = count_winograd_rows;
    if (set.winograd_gradient) set.winograd_gradient = count_winograd_gradient;
    int by_winograd = 0;
    for (uint64_t round = 0; round < 120; round++) {
        struct test_case test = winograd_case(3000 + (set.winograd_planar ? round : 2 * round)); // those of even keys are not planar
        winograd_calls = winograd_gradient_calls = 0;
        assert_true(convolution_shape_complete(&test.shape, NULL));
        check_case(&set, &test, 77 * round, 1 + (int)(round % 3));
        if (winograd_fits(&set, &test)) assert_true(winograd_calls > 0);
        by_winograd += winograd_fits(&set, &test);
        if (set.winograd_gradient) assert_int_equal(winograd_gradient_calls > 0, winograd_gradient_fits(&test));
    }
    assert_in_range(by_winograd, 5, 120);
}

// A 3x3 window over maps of all small sizes, with integers that are too large for pairs of rows, in groups of quads.
static struct test_case squares_case(uint64_t key)
{
    static const int elements[][2] = {{2, 4}, {2, 3}, {0, 7}, {1, 6}}, sizes[] = {16, 16, 8, 32, 64, 4, 5, 1 << 20};
    struct random_stream stream = {key, 0};
    struct test_case test = {.nonnegative = random_below(&stream, 2)};
    const int size = sizes[random_below(&stream, 8)], padding = (int)random_below(&stream, 3);
    do {
        test.shape = (struct convolution_shape){.images = 1 + (int)random_below(&stream, 9), .in_channels = 1 + (int)random_below(&stream, 80),
                                                .in_height = 2 + (int)random_below(&stream, 17), .in_width = 2 + (int)random_below(&stream, 17),
                                                .out_channels = 1 + (int)random_below(&stream, 80), .kernel_height = 3, .kernel_width = 3,
                                                .stride = 1, .padding = padding, .groups = 1};
        if (random_below(&stream, 3) == 0) test.shape.in_height = test.shape.in_width = 4 * (1 + (int)random_below(&stream, 4)) + 2 - 2 * padding;
        if (random_below(&stream, 8) == 0) set_groups(&test.shape, 40, &stream);
    } while (!convolution_shape_complete(&test.shape, NULL));
    for (int i = 0; i < 3; i++) {
        const int *element = elements[random_below(&stream, 4)];
        test.formats[i] = (struct mls_format){.exponent = element[0], .mantissa = element[1], .group = MLS_GROUP_NC, .group_size = size,
                                              .scale_exponent = 8, .scale_mantissa = 1,
                                              .rounding = i == MLS_ERROR ? MLS_STOCHASTIC : MLS_NEAREST};
    }
    static const int values[] = {VALUES_RANDOM, VALUES_SOME_PLANES_ZERO, VALUES_LARGEST, VALUES_LARGEST_SIGNED, VALUES_TINY_PLANES};
    test.values = values[key % 5];
    return test;
}

// Whether squares of 4 x 4 cover a map of outputs with little to spare.
static bool squares_cover(int height, int width)
{
    return 16 * up(height, 4) * up(width, 4) <= 1.35 * height * width;
}

// Whether forward or input error is to be done so: at least one of these, where a group has 16 channels or more (with 5
// or less in all, planes take fewer dot products).
static bool squares_fit(const struct kernel_set *set, const struct test_case *test)
{
    const struct convolution_shape *s = &test->shape;
    const int least = 16 * (set->squares_blocks - 1);
    if (s->groups > 1 || test->formats[0].group_size < 16) return false;
    const bool forward = s->in_channels > 5 && s->out_channels > least && squares_cover(s->out_height, s->out_width);
    return forward || (s->out_channels > 5 && s->in_channels > least && squares_cover(s->in_height, s->in_width));
}

// Whether the weight gradient is: images that have groups of their own, and nine squares or more.
static bool gradient_squares_fit(const struct test_case *test)
{
    const struct convolution_shape *s = &test->shape;
    const int64_t largest = (int64_t)mls_largest_integer(&test->formats[MLS_ACTIVATION]) * mls_largest_integer(&test->formats[MLS_ERROR]);
    return s->images > 1 && up(s->out_height, 4) * up(s->out_width, 4) >= 9 && squares_cover(s->out_height, s->out_width) &&
           !(winograd_gradient_fits(test) && s->out_height % 2 == 0) && largest * s->out_height * s->out_width < 1 << 25;
}

static void test_squares(void **state)
{
    struct kernel_set set = *set_or_skip(state);
    int by_squares = 0, gradients = 0;
    counted_set = *state;
    set.convolve_squares = count_squares;
    if (set.gradient_squares) set.gradient_squares = count_gradient_squares;
    for (uint64_t round = 0; round < 80; round++) {
        const struct test_case test = squares_case(8000 + round);
        squares_calls = gradient_squares_calls = 0;
        check_case(&set, &test, 77 * round, 1 + (int)(round % 3));
        if (squares_fit(&set, &test)) assert_true(squares_calls > 0);
        if (set.gradient_squares) assert_int_equal(gradient_squares_calls > 0, gradient_squares_fit(&test));
        by_squares += squares_calls > 0;
        gradients += gradient_squares_calls > 0;
    }
    assert_in_range(by_squares, 25, 80);
    if (set.gradient_squares) assert_in_range(gradients, 12, 80);
}

static struct mls_format plain_format(int exponent, int mantissa, int group_size)
{
    return (struct mls_format){.exponent = exponent, .mantissa = mantissa, .group = MLS_GROUP_NC, .group_size = group_size, .scale_exponent = 8};
}

// More weights than are kept transformed, in groups of several sizes.
static void test_many_squares(void **state)
{
    struct kernel_set set = *set_or_skip(state);
    static const int sizes[] = {16, 24, 32, 64};
    counted_set = *state;
    set.convolve_squares = count_squares;
    for (int round = 0; round < 4; round++) {
        struct test_case test = {.shape = {.images = 5, .in_channels = 100, .in_height = 4, .in_width = 7, .out_channels = 116, .kernel_height = 3,
                                           .kernel_width = 3, .stride = 1, .padding = 1, .groups = 1}, .nonnegative = round % 2};
        assert_true(convolution_shape_complete(&test.shape, NULL));
        for (int k = 0; k < 3; k++) test.formats[k] = plain_format(2, 4, sizes[round]);
        squares_calls = 0;
        check_case(&set, &test, 9, 2);
        assert_true(squares_calls > 0);
    }
}

// A weight gradient over as many pixels as may be, of the largest integers, and over more.
static void test_full_gradient_squares(void **state)
{
    struct kernel_set set = *set_or_skip(state);
    counted_set = *state;
    set.gradient_squares = count_gradient_squares;
    for (int side = 45; side <= 46; side++) {
        struct test_case test = {.shape = {.images = 2, .in_channels = 3, .in_height = side, .in_width = side, .out_channels = 2, .kernel_height = 3,
                                           .kernel_width = 3, .stride = 1, .padding = 1, .groups = 1}, .nonnegative = true, .values = VALUES_LARGEST};
        assert_true(convolution_shape_complete(&test.shape, NULL));
        for (int k = 0; k < 3; k++) test.formats[k] = plain_format(0, 7, 16);
        gradient_squares_calls = 0;
        check_case(&set, &test, 9, 1);
        assert_int_equal(gradient_squares_calls > 0, side == 45);
    }
}

// One group of as many channels as may be, of the largest integers, and one more.
static void test_full_squares(void **state)
{
    struct kernel_set set = *set_or_skip(state);
    counted_set = *state;
    set.convolve_squares = count_squares;
    for (int channels = 240; channels <= 244; channels += 4) {
        struct test_case test = {.shape = {.images = 2, .in_channels = channels, .in_height = 8, .in_width = 8, .out_channels = 20, .kernel_height = 3,
                                           .kernel_width = 3, .stride = 1, .padding = 1, .groups = 1}, .nonnegative = true, .values = VALUES_LARGEST};
        assert_true(convolution_shape_complete(&test.shape, NULL));
        for (int k = 0; k < 3; k++)
            test.formats[k] = plain_format(2, 4, 1 << 20);
        test.formats[MLS_ERROR] = plain_format(3, 0, 1); // not by squares
        squares_calls = 0;
        check_case(&set, &test, 9, 1);
        assert_int_equal(squares_calls > 0, channels == 240);
    }
}

// Pairs of an output and a tap that reads inside of the map.
static int taps_inside(const struct convolution_shape *s)
{
    int count = 0;
    for (int y = 0; y < s->out_height; y++)
        for (int x = 0; x < s->out_width; x++)
            for (int ky = 0; ky < s->kernel_height; ky++)
                for (int kx = 0; kx < s->kernel_width; kx++) {
                    const int row = y * s->stride + ky - s->padding, column = x * s->stride + kx - s->padding;
                    count += row >= 0 && row < s->in_height && column >= 0 && column < s->in_width;
                }
    return count;
}

// Small maps, where taps that read nothing but the halo are left out: their number, one block of outputs.
static void test_small_maps(void **state)
{
    struct kernel_set set = *set_or_skip(state);
    int saved = 0;
    counted_set = *state;
    set.convolve_pixels = count_pixels;
    for (int round = 0; round < 160; round++) {
        const int window = round / 20 % 2 ? 5 : 3, halo = round % 7 ? window / 2 : 0, more = halo ? 0 : window - 1;
        const int height = 1 + round % 4 + more, width = (round / 4 % 5 == 4 ? 16 / (1 + round % 4) : 1 + round / 4 % 5) + more;
        struct test_case test = {.nonnegative = round % 3 == 0, .values = round % 5 == 0 ? VALUES_LARGEST : VALUES_RANDOM};
        test.shape = (struct convolution_shape){.images = 11, .in_channels = 12, .out_channels = 16, .in_height = height, .in_width = width,
                                                .kernel_height = window, .kernel_width = window, .stride = 1 + round / 40 % 2,
                                                .padding = halo, .groups = 1};
        assert_true(convolution_shape_complete(&test.shape, NULL));
        for (int k = 0; k < 3; k++) {
            test.formats[k] = mls_format_default((enum mls_operand)k);
            test.formats[k].group_size = 4;
            test.formats[k].rounding = MLS_NEAREST;
        }
        check_case(&set, &test, (uint64_t)round, 2);
        struct packed_request request = {.kernels = &set, .shape = test.shape, .nonnegative = test.nonnegative};
        memcpy(request.formats, test.formats, sizeof request.formats);
        static float a[11 * 12 * 256], w[16 * 12 * 25], z[11 * 16 * 64];
        struct error error;
        const int inside = taps_inside(&test.shape), all = test.shape.out_height * test.shape.out_width * window * window;
        pixel_taps = 0;
        assert_true(packed_convolve_once(&request, CONVOLUTION_FORWARD, a, w, z, &error));
        assert_int_equal(pixel_taps, 11 * (inside <= 0.8 * all ? inside : all));
        saved += inside <= 0.8 * all;
    }
    assert_in_range(saved, 80, 159);
}

// Small maps and many images, or large maps and few channels; windows of up to 5 rows, in convolution groups, too.
static struct test_case gradient_case(uint64_t key)
{
    struct random_stream stream = {key, 0};
    struct test_case test;
    const bool small = key % 2;
    do {
        const int window = 1 + (int)random_below(&stream, 5), channels = small ? 40 : 16, least = small ? 1 : 20, sides = small ? 9 : 20;
        test.shape = (struct convolution_shape){.images = small ? 1 + (int)random_below(&stream, 40) : 1 + (int)random_below(&stream, 4),
                                                .in_height = least + (int)random_below(&stream, (uint32_t)sides),
                                                .in_width = least + (int)random_below(&stream, (uint32_t)sides),
                                                .in_channels = 1 + (int)random_below(&stream, (uint32_t)channels),
                                                .out_channels = 1 + (int)random_below(&stream, (uint32_t)channels),
                                                .kernel_height = window, .kernel_width = random_below(&stream, 4) ? 3 : window,
                                                .stride = 1 + (int)random_below(&stream, 2), .groups = 1};
        test.shape.padding = window == 1 ? 0 : (int)random_below(&stream, 2);
        if (random_below(&stream, 4) == 0) set_groups(&test.shape, 12, &stream);
        for (int i = 0; i < 3; i++) test.formats[i] = random_format(&stream);
        test.nonnegative = random_below(&stream, 2);
        test.values = random_below(&stream, VALUES_TINY_PLANES + 1);
    } while (!convolution_shape_complete(&test.shape, NULL) || !packed_supports(&test.shape, test.formats, NULL));
    return test;
}

static bool has_own_group(const struct mls_format *format)
{
    return format->group == MLS_GROUP_NC || format->group == MLS_GROUP_N;
}

// Whether there is an image that has a group of its own.
static bool has_groups_by_image(const struct test_case *test)
{
    return test->shape.images > 1 && (has_own_group(&test->formats[MLS_ACTIVATION]) || has_own_group(&test->formats[MLS_ERROR]));
}

// Whether P of an image takes less memory than its errors.
static bool products_fit(const struct test_case *test)
{
    const struct convolution_shape *s = &test->shape;
    const int tiles = up(s->in_channels, 16) * up(s->out_channels, 8), quads = s->out_height * up(s->out_width, 4);
    return has_groups_by_image(test) && tiles * s->kernel_height * s->kernel_width * 8 * 16 * 4 <= up(s->out_channels, 16) * quads * 64;
}

// The ways of the weight gradient that nothing else shows: by image, and packed in the order of the raster.
static void test_gradient_ways(void **state)
{
    struct kernel_set set = *set_or_skip(state);
    int by_image = 0, by_raster = 0;
    counted_set = *state;
    set.add_image_products = count_products;
    if (set.gradient_raster) set.gradient_raster = count_raster;
    if (set.winograd_gradient) set.winograd_gradient = count_winograd_gradient;
    for (uint64_t round = 0; round < 200; round++) {
        const struct test_case test = gradient_case(7000 + round);
        const struct convolution_shape *s = &test.shape;
        raster_calls = product_calls = winograd_gradient_calls = 0;
        check_case(&set, &test, 77 * round, 1 + (int)(round % 3));
        if (s->groups > 1 && s->groups == s->in_channels && s->groups == s->out_channels) continue; // depthwise
        assert_int_equal(product_calls > 0, products_fit(&test));
        const bool small = s->kernel_width == 3 && up(s->out_height * s->out_width, 4) <= 16 && has_groups_by_image(&test);
        if (set.gradient_raster) assert_int_equal(raster_calls > 0, small && !winograd_gradient_calls);
        by_image += product_calls > 0;
        by_raster += raster_calls > 0;
    }
    assert_in_range(by_image, 20, 100);
    if (set.gradient_raster) assert_in_range(by_raster, 20, 100);
}

// Numbers at and beside every place where I could change: all that begin with few bits, and halves beside them, which the
// rounding to Y takes to its even neighbour.
static int beside_thresholds(float *values)
{
    int count = 0;
    for (int exponent = 126; exponent < 127 + 17; exponent++)
        for (int32_t first = 0; first < 64; first++) {
            int32_t bits = exponent * (1 << 23) + first * (1 << 17);
            float edge;
            memcpy(&edge, &bits, sizeof edge);
            for (float offset = -1; offset <= 0.5f; offset += 0.5f)
                for (int32_t step = -2; step <= 2; step++) {
                    float value = edge + offset;
                    int32_t near;
                    memcpy(&near, &value, sizeof near);
                    near += step;
                    memcpy(&values[count], &near, sizeof near);
                    if (values[count] >= 0 && values[count] <= 65536.0f) count++;
                }
        }
    return count;
}

static void test_thresholds(void **state)
{
    const struct kernel_set *set = set_or_skip(state);
    enum { MOST = 18 * 64 * 4 * 5 };
    float *values = memory_allocate(MOST + 1, sizeof(float), NULL);
    int count = beside_thresholds(values) / 4 * 4;
    assert_true(count > MOST / 2);
    float *map = memory_allocate((size_t)count * BLOCK_CHANNELS, sizeof(float), NULL);
    uint8_t *expected = memory_allocate((size_t)count * BLOCK_CHANNELS, 1, NULL), *found = memory_allocate((size_t)count * BLOCK_CHANNELS, 1, NULL);
    for (int i = 0; i < count; i++)
        for (int c = 0; c < BLOCK_CHANNELS; c++) map[i * BLOCK_CHANNELS + c] = values[(i + 37 * c) % count];
    for (int exponent = 0; exponent <= 2; exponent++)
        for (int mantissa = exponent == 0; mantissa <= (exponent == 2 ? 4 : 6); mantissa++) {
            const struct mls_format format = {.exponent = exponent, .mantissa = mantissa};
            struct quantize_job job = {.quantizer = {.mantissa = mantissa, .low = exponent ? 17 - (1 << exponent) : 16, .high = exponent ? 15 : 16,
                                                     .largest = (int)mls_largest_integer(&format)},
                                       .source = {.kind = SOURCE_PLAIN, .x = map}, .height = 1, .width = count,
                                       .row_bytes = (size_t)count * BLOCK_CHANNELS};
            for (int c = 0; c < BLOCK_CHANNELS; c++) job.reciprocals[c] = 0x1p-16f;
            job.pixels = expected;
            kernels_scalar.quantize_block(&job);
            job.pixels = found;
            set->quantize_block(&job);
            if (memcmp(expected, found, (size_t)count * BLOCK_CHANNELS) != 0) fail_msg("<%d,%d>", exponent, mantissa);
        }
    memory_release(values);
    memory_release(map);
    memory_release(expected);
    memory_release(found);
}

// All elements at the largest value, with the most products that packed_supports lets through: `channels` for forward and
// input error, `side` * `side` pixels for the weight gradient.
static void check_largest(const struct kernel_set *set, int channels, int side)
{
    struct test_case test = {.shape = {.images = 1, .in_channels = channels, .in_height = side, .in_width = side, .out_channels = 2,
                                       .kernel_height = 3, .kernel_width = 3, .stride = 1, .padding = 1, .groups = 1},
                             .values = VALUES_LARGEST};
    assert_true(convolution_shape_complete(&test.shape, NULL));
    for (int k = 0; k < 3; k++)
        test.formats[k] = (struct mls_format){.mantissa = 7, .group = MLS_GROUP_NONE, .group_size = 1, .scale_exponent = 8};
    assert_true(packed_supports(&test.shape, test.formats, NULL));
    check_case(set, &test, 9, 1);
    if (channels > 1)
        test.shape.in_channels = channels + channels / 20;
    else
        test.shape.in_height = test.shape.in_width = side + side / 40;
    assert_true(convolution_shape_complete(&test.shape, NULL));
    assert_false(packed_supports(&test.shape, test.formats, NULL));
}

static void test_largest_sums(void **state)
{
    const struct kernel_set *set = set_or_skip(state);
    check_largest(set, 3600, 3);
    check_largest(set, 1, 257);
    // A sum of 16 bits is as full as can be.
    struct test_case depthwise = {.shape = {.images = 2, .in_channels = 20, .in_height = 9, .in_width = 11, .out_channels = 20, .kernel_height = 5,
                                            .kernel_width = 5, .stride = 1, .padding = 2, .groups = 20}, .values = VALUES_LARGEST};
    assert_true(convolution_shape_complete(&depthwise.shape, NULL));
    for (int mantissa = 1; mantissa <= 7; mantissa++) {
        for (int k = 0; k < 3; k++)
            depthwise.formats[k] = (struct mls_format){.mantissa = mantissa, .group = MLS_GROUP_NC, .group_size = 1, .scale_exponent = 8};
        check_case(set, &depthwise, 9, 1);
    }
}

// Elements at the largest value, formats from 1 to 7 bits: where products add up in 16 bits, the sums are as full as can be.
static void test_full_sums(void **state)
{
    const struct kernel_set *set = set_or_skip(state);
    static const int elements[][2] = {{0, 1}, {0, 2}, {0, 3}, {2, 1}, {0, 4}, {2, 2}, {0, 5}, {0, 6}, {0, 7}};
    for (int i = 0; i < 9 * 24; i++) {
        int larger = i / 24, smaller = larger > 0 && i / 12 % 2 ? larger - 1 : larger, kernel = 1 + 2 * (i % 3); // weights: the smaller
        struct test_case test = {.shape = {.images = 2, .in_channels = 20, .in_height = 9, .in_width = 11, .out_channels = 18, .kernel_height = kernel,
                                           .kernel_width = kernel, .stride = 1, .padding = kernel / 2, .groups = 1},
                                 .nonnegative = i / 3 % 2, .values = VALUES_LARGEST};
        assert_true(convolution_shape_complete(&test.shape, NULL));
        for (int k = 0; k < 3; k++) {
            const int *element = elements[k == MLS_WEIGHT ? smaller : larger];
            test.formats[k] = (struct mls_format){.exponent = element[0], .mantissa = element[1], .group = MLS_GROUP_NC,
                                                  .group_size = i / 6 % 2 ? 16 : 1, .scale_exponent = 8};
        }
        check_case(set, &test, 9, 1);
    }
}

// ---------------------------------------------------------------------------------------------
// Sources with work owed to them: the same bytes as from a map on which the work was done before.

struct owed {
    float *multiplier, *offset, *coefficients[3];
};

static struct owed random_owed(int channels, uint64_t key)
{
    struct owed o;
    float **arrays[5] = {&o.multiplier, &o.offset, &o.coefficients[0], &o.coefficients[1], &o.coefficients[2]};
    struct random_stream stream = {key, 0};
    for (int k = 0; k < 5; k++) {
        *arrays[k] = memory_allocate(blocked_channels(channels), sizeof(float), NULL);
        for (int c = 0; c < channels; c++) (*arrays[k])[c] = random_normal(&stream);
    }
    return o;
}

static void release_owed(struct owed *o)
{
    memory_release(o->multiplier);
    memory_release(o->offset);
    for (int k = 0; k < 3; k++) memory_release(o->coefficients[k]);
}

static float *materialized(const struct source *map, const int dims[4])
{
    size_t pixels = (size_t)dims[2] * (size_t)dims[3];
    int blocks = blocked_count(dims[1]);
    float *values = memory_allocate((size_t)dims[0] * (size_t)blocks * pixels * BLOCK_CHANNELS, sizeof(float), NULL);
    for (int n = 0; n < dims[0]; n++)
        for (int block = 0; block < blocks; block++) {
            struct source source = source_of_block(map, n, block, blocks, pixels);
            source_write(&source, pixels, values + (size_t)(n * blocks + block) * pixels * BLOCK_CHANNELS, false);
        }
    return values;
}

// With an odd key the worst: only the plane that holds the largest value has a tight bound, so it is looked at last.
static void loose_bounds(const float *map, const int dims[4], uint64_t key, float *bounds)
{
    size_t pixels = (size_t)dims[2] * (size_t)dims[3], count = (size_t)dims[0] * blocked_channels(dims[1]);
    struct random_stream stream = {key, 0};
    float largest = 0;
    for (size_t block = 0; block < count / BLOCK_CHANNELS; block++)
        source_maxima(&(struct source){.kind = SOURCE_PLAIN, .x = map + block * pixels * BLOCK_CHANNELS}, pixels, bounds + block * BLOCK_CHANNELS);
    for (size_t i = 0; i < count; i++) largest = fmaxf(largest, bounds[i]);
    for (size_t i = 0; i < count; i++) {
        if (key % 2)
            bounds[i] = bounds[i] < largest ? 2 * largest : largest;
        else if (random_below(&stream, 2))
            bounds[i] *= 1 + 3 * random_uniform(&stream);
    }
}

static void check_sources(const struct kernel_set *set, struct test_case test, enum piecewise activation, uint64_t key)
{
    const struct convolution_shape *s = &test.shape;
    const int input[4] = {s->images, s->in_channels, s->in_height, s->in_width};
    const int output[4] = {s->images, s->out_channels, s->out_height, s->out_width};
    float *planar_x = random_values(input, key, false, VALUES_RANDOM), *planar_z = random_values(output, key + 1, false, VALUES_RANDOM);
    float *planar_d = random_values(output, key + 2, false, VALUES_RANDOM);
    float *x = to_blocked(planar_x, input), *z = to_blocked(planar_z, output), *d = to_blocked(planar_d, output);
    struct owed of_input = random_owed(s->in_channels, key + 3), of_output = random_owed(s->out_channels, key + 4);
    struct source owed[2] = {
        {.kind = SOURCE_NORMALIZED, .activation = activation, .x = x, .multiplier = of_input.multiplier, .offset = of_input.offset},
        {.kind = SOURCE_ERROR, .activation = activation, .x = z, .delta = d, .multiplier = of_output.multiplier, .offset = of_output.offset,
         .coefficients = {of_output.coefficients[0], of_output.coefficients[1], of_output.coefficients[2]}}};
    float *plain[2] = {materialized(&owed[0], input), materialized(&owed[1], output)}, *results[2][2];
    size_t weights = (size_t)s->out_channels * (size_t)(s->in_channels / s->groups) * (size_t)(s->kernel_height * s->kernel_width);
    struct thread_pool *pool = thread_pool_create(2, NULL);
    for (int k = 0; k < 2; k++) {
        // The bounds are anything between the maxima and far above; they must change nothing.
        float *bounds = memory_allocate((size_t)s->images * blocked_channels(s->out_channels), sizeof(float), NULL);
        loose_bounds(plain[1], output, key + 6, bounds);
        const struct packed_input activations = {.source = k ? (struct source){.kind = SOURCE_PLAIN, .x = plain[0]} : owed[0], .tensor_key = TENSOR_KEY};
        const struct packed_input errors = {.source = k ? (struct source){.kind = SOURCE_PLAIN, .x = plain[1]} : owed[1], .tensor_key = TENSOR_KEY,
                                            .bounds = k ? NULL : bounds};
        const struct image_done nothing = {0};
        struct packed_request request = {.kernels = k ? &kernels_scalar : set, .shape = *s, .for_training = true,
                                         .nonnegative = activation == PIECEWISE_RELU || activation == PIECEWISE_RELU6};
        memcpy(request.formats, test.formats, sizeof request.formats);
        struct packed_convolution *packed = packed_create(&request, NULL);
        float *w = random_values((const int[4]){s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width}, key + 5, false, VALUES_RANDOM);
        assert_true(packed_quantize_weights(packed, pool, w, TENSOR_KEY, false, NULL));
        assert_true(packed_forward(packed, pool, s->images, &activations, false, NULL, nothing, NULL));
        results[k][0] = memory_allocate(weights, sizeof(float), NULL);
        results[k][1] = memory_allocate(volume(input), sizeof(float), NULL);
        float *map = to_blocked(planar_x, input);
        assert_true(packed_input_error(packed, pool, s->images, &errors, map, false, nothing, NULL));
        packed_weight_gradient(packed, pool, s->images, results[k][0]);
        from_blocked(map, input, results[k][1]);
        memory_release(map);
        memory_release(w);
        memory_release(bounds);
        packed_destroy(packed);
    }
    assert_same("weight gradient from sources", results[1][0], results[0][0], weights);
    assert_same("input error from sources", results[1][1], results[0][1], volume(input));
    float *all[] = {planar_x, planar_z, planar_d, x, z, d, plain[0], plain[1], results[0][0], results[0][1], results[1][0], results[1][1]};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) memory_release(all[i]);
    release_owed(&of_input);
    release_owed(&of_output);
    thread_pool_destroy(pool);
}

static void test_sources(void **state)
{
    const struct kernel_set *set = set_or_skip(state);
    for (uint64_t round = 0; round < 48; round++) {
        struct test_case test = random_case(5000 + round, (int)(round / 16));
        if (round % 3 == 0) { // more than are looked at together in the search for the largest
            test.shape.images = 20;
            test.formats[MLS_ERROR].group = MLS_GROUP_NC;
        }
        check_sources(set, test, (enum piecewise)(round % 4), 31 * round);
    }
}

// ---------------------------------------------------------------------------------------------
// Direct fp32 convolutions: near the naive ones, and the same bits as the scalar set.

static float *direct_result(const struct kernel_set *set, const struct convolution_shape *s, enum convolution_pass pass, bool planar_input,
                            const float *x, const float *w, const float *e, int threads)
{
    const int input[4] = {s->images, s->in_channels, s->in_height, s->in_width};
    const int output[4] = {s->images, s->out_channels, s->out_height, s->out_width};
    const int weight[4] = {s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width};
    struct thread_pool *pool = thread_pool_create(threads, NULL);
    struct direct_request request = {.kernels = set, .shape = *s, .planar_input = planar_input, .for_training = pass != CONVOLUTION_FORWARD || threads > 2};
    struct direct_convolution *direct = direct_create(&request, NULL);
    float *in_map = to_blocked(x, input), *out_map = to_blocked(e, output), *errors = to_blocked(e, output);
    const struct source in = {.kind = SOURCE_PLAIN, .x = planar_input ? x : in_map}, out = {.kind = SOURCE_PLAIN, .x = errors};
    const int *dims = pass == CONVOLUTION_FORWARD ? output : pass == CONVOLUTION_INPUT_ERROR ? input : weight;
    float *result = memory_allocate(volume(dims), sizeof(float), NULL);
    assert_true(direct_forward(direct, pool, s->images, w, &in, out_map, (struct image_done){0}, NULL));
    if (pass == CONVOLUTION_FORWARD) from_blocked(out_map, dims, result);
    if (pass == CONVOLUTION_WEIGHT_GRADIENT) direct_weight_gradient(direct, pool, s->images, &in, &out, result);
    if (pass == CONVOLUTION_INPUT_ERROR) {
        direct_input_error(direct, pool, s->images, &out, in_map, false, (struct image_done){0});
        from_blocked(in_map, dims, result);
    }
    direct_destroy(direct);
    thread_pool_destroy(pool);
    memory_release(in_map);
    memory_release(out_map);
    memory_release(errors);
    return result;
}

static void check_direct(const struct kernel_set *set, const struct convolution_shape *s, bool planar_input, uint64_t key)
{
    const int input[4] = {s->images, s->in_channels, s->in_height, s->in_width};
    const int output[4] = {s->images, s->out_channels, s->out_height, s->out_width};
    const int weight[4] = {s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width};
    float *x = random_values(input, key, false, VALUES_RANDOM), *w = random_values(weight, key + 1, false, VALUES_RANDOM);
    float *e = random_values(output, key + 2, false, VALUES_RANDOM), *naive = memory_allocate(volume(input) + volume(output) + volume(weight), sizeof(float), NULL);
    for (int pass = 0; pass < 3; pass++) {
        if (planar_input && pass == CONVOLUTION_INPUT_ERROR) continue;
        const int *dims = pass == CONVOLUTION_FORWARD ? output : pass == CONVOLUTION_INPUT_ERROR ? input : weight;
        if (pass == CONVOLUTION_FORWARD) float_convolution_forward(s, w, x, naive);
        if (pass == CONVOLUTION_INPUT_ERROR) float_convolution_input_error(s, w, e, naive);
        if (pass == CONVOLUTION_WEIGHT_GRADIENT) float_convolution_weight_gradient(s, x, e, naive);
        float *found = direct_result(set, s, (enum convolution_pass)pass, planar_input, x, w, e, 2);
        float *scalar = direct_result(&kernels_scalar, s, (enum convolution_pass)pass, planar_input, x, w, e, 3);
        assert_same("direct, against the scalar set", scalar, found, volume(dims));
        float largest = 0;
        for (size_t i = 0; i < volume(dims); i++) largest = fmaxf(largest, fabsf(naive[i]));
        for (size_t i = 0; i < volume(dims); i++)
            if (!(fabsf(naive[i] - found[i]) <= 1e-5f * largest)) fail_msg("direct, pass %d: %g, naive %g", pass, (double)found[i], (double)naive[i]);
        memory_release(found);
        memory_release(scalar);
    }
    memory_release(x);
    memory_release(w);
    memory_release(e);
    memory_release(naive);
}

static void test_direct(void **state)
{
    const struct kernel_set *set = set_or_skip(state);
    for (uint64_t round = 0; round < 160; round++) {
        struct test_case test = random_case(9000 + round, round >= 100 ? GROUPED : round >= 60 ? DEPTHWISE : UNGROUPED);
        if (round % 7 == 6) { // outputs that see nothing but padding
            test.shape.padding = test.shape.kernel_height + (int)(round % 3);
            assert_true(convolution_shape_complete(&test.shape, NULL));
        }
        check_direct(set, &test.shape, round % 3 == 0 && test.shape.groups == 1, 17 * round);
    }
    struct convolution_shape first = {.images = 9, .in_channels = 3, .in_height = 32, .in_width = 32, .out_channels = 16, .kernel_height = 3,
                                      .kernel_width = 3, .stride = 1, .padding = 1, .groups = 1};
    assert_true(convolution_shape_complete(&first, NULL));
    check_direct(set, &first, true, 3);
    // Short rows: several images together (of 5 to 8 outputs with many weights only), and a rest; enough outputs for threads to share them in the weight gradient, or too few.
    for (int k = 0; k < 12; k++) {
        struct convolution_shape small = {.images = 11 + 3 * k, .in_channels = k % 3 ? 64 : 19, .in_height = 1 + k % 8, .in_width = 8 - k % 8,
                                          .out_channels = k % 2 ? 131 : 40, .kernel_height = k % 4 ? 3 : 1, .kernel_width = k % 4 ? 3 : 1,
                                          .stride = 1 + k % 3, .padding = k % 4 != 0, .groups = 1};
        assert_true(convolution_shape_complete(&small, NULL));
        check_direct(set, &small, false, 7 * (uint64_t)k);
        small.groups = k % 2 ? 4 : 3; // of 40 or 64 outputs: blocks that share their terms, and that do not
        small.in_channels *= small.groups;
        small.out_channels = small.groups * (k % 3 ? 40 : 64);
        check_direct(set, &small, false, 11 * (uint64_t)k);
    }
}

static void test_fits(void **state)
{
    (void)state;
    struct error error;
    struct convolution_shape s = {.images = 1, .in_channels = 2048, .in_height = 255, .in_width = 255, .out_channels = 16, .out_height = 1,
                                  .out_width = 1, .kernel_height = 255, .kernel_width = 255, .stride = 1, .groups = 1};
    assert_true(direct_fits(&s, &error));
    s.in_channels = 2080;
    assert_false(direct_fits(&s, &error));
    assert_string_equal(error.message, "2164032000 weights: expected at most 2147483647");
    s.out_channels = 1;
    assert_false(direct_fits(&s, &error));
    assert_string_equal(error.message, "2080 channels with a window of 255x255: expected a product of at most 134217727");
}

int main(void)
{
    struct CMUnitTest tests[64] = {cmocka_unit_test(test_fits)};
    static char names[64][64];
    size_t count = 1;
    static const struct { const char *name; CMUnitTestFunction function; } functions[] = {
        {"random_shapes", test_random_shapes}, {"depthwise", test_depthwise}, {"grouped", test_grouped},
        {"network_shapes", test_network_shapes}, {"winograd", test_winograd}, {"gradient_ways", test_gradient_ways},
        {"small_maps", test_small_maps}, {"squares", test_squares}, {"full_squares", test_full_squares},
        {"many_squares", test_many_squares}, {"full_gradient_squares", test_full_gradient_squares},
        {"largest_sums", test_largest_sums}, {"full_sums", test_full_sums}, {"thresholds", test_thresholds},
        {"sources", test_sources}, {"direct", test_direct}};
    for (int i = 0; kernel_sets[i]; i++)
        for (size_t f = 0; f < sizeof functions / sizeof functions[0]; f++) {
            if (functions[f].function == test_winograd && !kernel_sets[i]->winograd_rows) continue;
            if (functions[f].function == test_small_maps && !kernel_sets[i]->convolve_pixels) continue;
            snprintf(names[count], sizeof names[count], "%s: %s", kernel_sets[i]->name, functions[f].name);
            tests[count] = (struct CMUnitTest){names[count], functions[f].function, NULL, NULL, (void *)(uintptr_t)kernel_sets[i]};
            count++;
        }
    return _cmocka_run_group_tests("kernels", tests, count, NULL, NULL);
}
