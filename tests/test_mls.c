// The number format and the reference convolutions: the specification's integers and examples, unbiased rounding,
// special values, overflow at the bound, and the integer path against the simulated one.
#include "testing.h"

#include <math.h>

#include "base/memory.h"
#include "mls/convolution.h"

static struct mls_format format_of(int exponent, int mantissa)
{
    return (struct mls_format){.exponent = exponent, .mantissa = mantissa, .group = MLS_GROUP_NC, .group_size = 16,
                               .scale_exponent = 8, .scale_mantissa = 1, .rounding = MLS_NEAREST};
}

// Section 1, the table of constants.
static void test_constants(void **state)
{
    (void)state;
    static const int rows[][5] = {{2, 1, 4, 12, 1}, {2, 4, 7, 124, 1}, {1, 2, 3, 7, 1}, {0, 3, 3, 7, 1}, {3, 1, 8, 192, 0},
                                  {1, 1, 2, 3, 1},  {1, 6, 7, 127, 1}, {0, 1, 1, 1, 1}, {0, 7, 7, 127, 1}, {2, 5, 8, 252, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mls_format format = format_of(rows[i][0], rows[i][1]);
        assert_int_equal(mls_fraction_bits(&format), rows[i][2]);
        assert_int_equal(mls_largest_integer(&format), rows[i][3]);
        assert_int_equal(mls_fits_int8(&format), rows[i][4]);
    }
}

// Every integer of the format comes out of the quantizer, and no other.
static void check_integers(int exponent, int mantissa, const int *expected, int count)
{
    struct mls_format format = format_of(exponent, mantissa);
    bool seen[256] = {false};
    for (int i = 0; i <= 65536; i++) seen[mls_quantize_element(&format, (float)i / 65536, 1, 0)] = true;
    int found = 0;
    for (int i = 0; i < 256; i++) {
        if (!seen[i]) continue;
        assert_true(found < count);
        assert_int_equal(i, expected[found]);
        found++;
    }
    assert_int_equal(found, count);
}

static void test_integers(void **state)
{
    (void)state;
    const int small[] = {0, 1, 2, 3, 4, 6, 8, 12}, fixed[] = {0, 1, 2, 3, 4, 5, 6, 7};
    check_integers(2, 1, small, 8);
    check_integers(1, 2, fixed, 8);
    check_integers(0, 3, fixed, 8);
    int large[64], count = 0;
    for (int i = 0; i < 32; i++) large[count++] = i;
    for (int i = 32; i <= 62; i += 2) large[count++] = i;
    for (int i = 64; i <= 124; i += 4) large[count++] = i;
    check_integers(2, 4, large, count);
}

// Worked by hand from section 3: <2,1> has the values 0, 1/16, 2/16, 3/16, 4/16, 6/16, 8/16, 12/16.
static void test_elements(void **state)
{
    (void)state;
    struct mls_format format = format_of(2, 1);
    static const struct { float x; int integer; } rows[] = {
        {0, 0}, {-0.0f, 0}, {1, 12}, {-1, -12}, {0.75f, 12}, {0.5f, 8}, {0.62f, 8}, {0.63f, 12}, {0.25f, 4}, {0.3f, 4},
        {0.32f, 6}, {0.44f, 8}, {0.0625f, 1}, {0.03f, 0}, {0.032f, 1}, {0.2f, 3}, {0.22f, 4}, {-0.126f, -2}, {1e-30f, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(mls_quantize_element(&format, rows[i].x, 1, 0), rows[i].integer);
}

static void test_group_scales(void **state)
{
    (void)state;
    struct mls_format format = format_of(2, 1);
    static const float rows[][2] = {{1, 1}, {0.99f, 1}, {0.76f, 1}, {0.75f, 0.75f}, {0.6f, 0.75f}, {0.5f, 0.5f}, {0.51f, 0.75f},
                                    {0.3f, 0.375f}, {0, 0x1p-63f}, {1e-30f, 0x1p-63f}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) assert_true(mls_group_scale(&format, rows[i][0]) == rows[i][1]);
    format.scale_mantissa = 0;
    assert_true(mls_group_scale(&format, 0.6f) == 1);
    format.scale_exponent = 1; // 1 and 1/2 only
    assert_true(mls_group_scale(&format, 0.1f) == 0.5f);
    for (int bits = 0; bits <= 1; bits++) { // the smallest value that is not below f, over many f
        format = format_of(2, 1);
        format.scale_mantissa = bits;
        for (int i = 1; i < 5000; i++) {
            float f = (float)i / 5000, scale = mls_group_scale(&format, f);
            assert_true(scale >= f);
            assert_true(scale / f < (bits ? 1.5001f : 2.0001f));
        }
    }
}

static void test_special_values(void **state)
{
    (void)state;
    struct mls_format format = format_of(2, 1);
    struct mls_tensor tensor;
    struct error error = {""};
    const int dims[4] = {1, 2, 1, 2};
    float x[4] = {1, 2, NAN, 0};
    assert_false(mls_quantize(&format, MLS_ACTIVATION, x, dims, 1, 0, &tensor, &error));
    assert_contains(error.message, "[0, 1, 0, 0]");
    x[2] = -INFINITY;
    assert_false(mls_quantize(&format, MLS_ERROR, x, dims, 1, 0, &tensor, &error));
    for (int i = 0; i < 4; i++) x[i] = 0x1p-61f; // below 2^-60 the tensor counts as zero
    assert_true(mls_quantize(&format, MLS_ERROR, x, dims, 1, 0, &tensor, &error));
    assert_true(tensor.tensor_scale == 0);
    for (int i = 0; i < 4; i++) assert_int_equal(tensor.integers[i], 0);
    mls_tensor_release(&tensor);
    for (int i = 0; i < 4; i++) x[i] = 3e38f;
    x[1] = 1e-44f;
    assert_true(mls_quantize(&format, MLS_ERROR, x, dims, 1, 0, &tensor, &error));
    assert_int_equal(tensor.integers[0], 12);
    assert_int_equal(tensor.integers[1], 0);
    mls_tensor_release(&tensor);
    format.group_size = 1; // a group of zeros: smallest scale, zero codes
    x[2] = x[3] = 0;
    assert_true(mls_quantize(&format, MLS_ERROR, x, dims, 1, 0, &tensor, &error));
    assert_true(tensor.group_scales[1] == 0x1p-63f);
    assert_int_equal(tensor.integers[2] | tensor.integers[3], 0);
    mls_tensor_release(&tensor);
}

static void test_groupings(void **state)
{
    (void)state;
    static const struct { enum mls_group group; enum mls_operand operand; int size, parts, blocks0, blocks1; } rows[] = {
        {MLS_GROUP_NONE, MLS_ACTIVATION, 4, 1, 1, 1}, {MLS_GROUP_N, MLS_ACTIVATION, 4, 1, 6, 1}, {MLS_GROUP_C, MLS_ACTIVATION, 4, 1, 1, 3},
        {MLS_GROUP_NC, MLS_ACTIVATION, 4, 1, 6, 3},   {MLS_GROUP_NC, MLS_ACTIVATION, 4, 2, 6, 4}, {MLS_GROUP_N, MLS_WEIGHT, 4, 1, 2, 1},
        {MLS_GROUP_NC, MLS_WEIGHT, 4, 1, 2, 3},       {MLS_GROUP_NC, MLS_WEIGHT, 2, 3, 3, 6},     {MLS_GROUP_NC, MLS_ERROR, 100, 1, 6, 1},
        {MLS_GROUP_C, MLS_WEIGHT, 4, 1, 1, 3},        {MLS_GROUP_C, MLS_WEIGHT, 4, 2, 2, 3}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mls_format format = format_of(2, 1);
        format.group = rows[i].group;
        format.group_size = rows[i].size;
        struct mls_grouping g = mls_grouping_of(&format, rows[i].operand, 6, 12, rows[i].parts);
        assert_int_equal(g.blocks[0], rows[i].blocks0);
        assert_int_equal(g.blocks[1], rows[i].size == 2 ? 6 : rows[i].blocks1);
    }
    // With 2 convolution groups of 6 channels and scale groups of 4, channels 0-3, 4-5, 6-9, 10-11 share.
    static const int blocks[12] = {0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3};
    for (int c = 0; c < 12; c++) assert_int_equal(mls_block_index(c, 12, 2, 4), blocks[c]);
}

// The mean of stochastic rounding is Y below Xmax. 400 values x 4000 draws; the sum of 400 squared standard scores is
// chi-squared with 400 degrees of freedom: above 550 by chance less than once in 10^6. Seeds are fixed.
static void test_unbiased(void **state)
{
    (void)state;
    const int draws = 4000, values = 400;
    static const int formats[][2] = {{2, 1}, {2, 4}, {0, 3}, {3, 1}};
    for (size_t f = 0; f < 4; f++) {
        struct mls_format format = format_of(formats[f][0], formats[f][1]);
        format.rounding = MLS_STOCHASTIC;
        int bits = mls_quantizer_bits(&format), fraction = mls_fraction_bits(&format);
        double scores = 0, top = (double)mls_largest_integer(&format) / ldexp(1, fraction);
        for (int v = 0; v < values; v++) {
            float x = (float)((v + 0.37) / values * top);
            double sum = 0, squares = 0, y = nearbyint((double)x * ldexp(1, bits)) / ldexp(1, bits);
            struct mls_plane_keys keys = mls_plane_keys_of(random_key(7, (uint64_t)v, f, 0), 3);
            for (int i = 0; i < draws; i++) {
                double q = mls_quantize_element(&format, x, 1, mls_random_bits(keys, (uint32_t)i, bits)) / ldexp(1, fraction);
                sum += q;
                squares += q * q;
            }
            double mean = sum / draws, variance = squares / draws - mean * mean + 1e-12;
            scores += (mean - y) * (mean - y) / (variance / draws);
        }
        if (scores > 550 || scores < 280) fail_msg("<%d,%d>: chi-squared %g of 400", formats[f][0], formats[f][1], scores);
    }
}

static float *random_array(size_t count, uint64_t key)
{
    float *values = memory_allocate(count, sizeof(float), NULL);
    struct random_stream stream = {key, 0};
    for (size_t i = 0; i < count; i++) values[i] = random_normal(&stream);
    return values;
}

struct operands {
    struct mls_tensor tensors[3];
    float *values[3]; // dequantized
    size_t counts[3];
};

static void make_operands(struct operands *o, const struct convolution_shape *s, const struct mls_format *format, uint64_t key)
{
    const int dims[3][4] = {{s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width},
                            {s->images, s->in_channels, s->in_height, s->in_width},
                            {s->images, s->out_channels, s->out_height, s->out_width}};
    for (int k = 0; k < 3; k++) {
        o->counts[k] = (size_t)dims[k][0] * (size_t)dims[k][1] * (size_t)dims[k][2] * (size_t)dims[k][3];
        o->values[k] = random_array(o->counts[k], key + (uint64_t)k);
        assert_true(mls_quantize(format, (enum mls_operand)k, o->values[k], dims[k], s->groups, key, &o->tensors[k], NULL));
        mls_dequantize(&o->tensors[k], o->values[k]);
    }
}

static void release_operands(struct operands *o)
{
    for (int k = 0; k < 3; k++) {
        mls_tensor_release(&o->tensors[k]);
        memory_release(o->values[k]);
    }
}

static void assert_near(const float *a, const float *b, size_t count)
{
    double error = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)a[i] * (double)a[i];
    }
    if (error > 1e-11 * size) fail_msg("relative squared error %g", error / size);
}

// Integer path = simulated path within fp32 summation error, all passes, with grouped and depthwise convolution.
static void test_integer_against_simulated(void **state)
{
    (void)state;
    static const int shapes[][7] = {// channels in, out, size, window, stride, padding, groups
                                    {8, 12, 7, 3, 1, 1, 1}, {8, 12, 7, 3, 2, 1, 4}, {6, 6, 9, 3, 1, 1, 6}, {5, 3, 8, 5, 3, 2, 1},
                                    {16, 4, 5, 1, 1, 0, 2}, {3, 7, 11, 7, 2, 3, 1}};
    static const int formats[][2] = {{2, 1}, {2, 4}, {0, 7}, {3, 1}};
    for (size_t i = 0; i < 6; i++)
        for (int f = 0; f < 4; f++)
            for (int group = 0; group < 4; group++) {
                const int *r = shapes[i];
                struct convolution_shape s = {.images = 2, .in_channels = r[0], .out_channels = r[1], .in_height = r[2], .in_width = r[2] + 1,
                                              .kernel_height = r[3], .kernel_width = r[3], .stride = r[4], .padding = r[5], .groups = r[6]};
                struct mls_format format = format_of(formats[f][0], formats[f][1]);
                format.group = (enum mls_group)group;
                format.group_size = 1 + (int)i;
                format.rounding = f % 2 ? MLS_STOCHASTIC : MLS_NEAREST;
                assert_true(convolution_shape_complete(&s, NULL));
                struct operands o;
                make_operands(&o, &s, &format, 11 * i + (uint64_t)f);
                float *a = memory_allocate(4096, sizeof(float), NULL), *b = memory_allocate(4096, sizeof(float), NULL);
                mls_convolution_forward(&s, &o.tensors[0], &o.tensors[1], a);
                float_convolution_forward(&s, o.values[0], o.values[1], b);
                assert_near(a, b, o.counts[2]);
                mls_convolution_input_error(&s, &o.tensors[0], &o.tensors[2], a);
                float_convolution_input_error(&s, o.values[0], o.values[2], b);
                assert_near(a, b, o.counts[1]);
                mls_convolution_weight_gradient(&s, &o.tensors[1], &o.tensors[2], a);
                float_convolution_weight_gradient(&s, o.values[1], o.values[2], b);
                assert_near(a, b, o.counts[0]);
                release_operands(&o);
                memory_release(a);
                memory_release(b);
            }
}

// A weight gradient over 512 x 512 pixels, all at the largest value: the sum does not fit 32 bits and is exact.
static void test_wide_sum(void **state)
{
    (void)state;
    struct convolution_shape s = {.images = 1, .in_channels = 1, .out_channels = 1, .in_height = 512, .in_width = 512,
                                  .kernel_height = 1, .kernel_width = 1, .stride = 1, .groups = 1};
    assert_true(convolution_shape_complete(&s, NULL));
    struct mls_format format = format_of(0, 7);
    const int dims[4] = {1, 1, 512, 512};
    float *ones = memory_allocate(512 * 512, sizeof(float), NULL), gradient;
    for (int i = 0; i < 512 * 512; i++) ones[i] = 1;
    struct mls_tensor a, e;
    assert_true(mls_quantize(&format, MLS_ACTIVATION, ones, dims, 1, 0, &a, NULL));
    assert_true(mls_quantize(&format, MLS_ERROR, ones, dims, 1, 0, &e, NULL));
    assert_int_equal(a.integers[0], 127);
    mls_convolution_weight_gradient(&s, &a, &e, &gradient);
    assert_true(gradient == (float)(127LL * 127 * 512 * 512) * 0x1p-14f);
    mls_tensor_release(&a);
    mls_tensor_release(&e);
    memory_release(ones);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_constants), cmocka_unit_test(test_integers), cmocka_unit_test(test_elements),
        cmocka_unit_test(test_group_scales), cmocka_unit_test(test_special_values), cmocka_unit_test(test_groupings),
        cmocka_unit_test(test_unbiased), cmocka_unit_test(test_integer_against_simulated), cmocka_unit_test(test_wide_sum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
