// Formats by name: elements against the standards' definitions and tables of all codes, Microscaling against golden values of
// microsoft/microxcaling, block floating point against its definition, rounding.
#include "testing.h"

#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "mls/presets.h"
#include "mls/quantize.h"
#include "mls/simulate.h"
#include "mls/standard.h"

static struct mls_format preset(const char *name, enum mls_rounding rounding)
{
    struct mls_format format;
    if (!mls_preset(name, MLS_ERROR, &format)) fail_msg("no format %s", name);
    format.rounding = rounding;
    return format;
}

static void quantize(const struct mls_format *format, const float *x, const int dims[4], uint64_t key, const struct standard_result *result)
{
    struct error error = {""};
    if (!standard_quantize(format, MLS_ACTIVATION, x, dims, 1, key, NULL, result, &error)) fail_msg("%s", error.message);
}

// ---------------------------------------------------------------------------------------------
// Elements. The tables are written from the standards: OFP8 v1.0 tables 1 and 2, MX v1.0 sections 5.3.1 to 5.3.4.

struct definition {
    const char *name;
    int exponent, mantissa, bias;
    double largest;
    int highest_code; // of the positive finite numbers: what lies behind it is NaN or infinity
};

static const struct definition definitions[] = {
    {"mxfp4", 2, 1, 1, 6, 0x7}, {"mxfp6_e2m3", 2, 3, 1, 7.5, 0x1f}, {"mxfp6_e3m2", 3, 2, 3, 28, 0x1f},
    {"mxfp8_e4m3", 4, 3, 7, 448, 0x7e}, {"mxfp8_e5m2", 5, 2, 15, 57344, 0x7b},
    {"fp8_e4m3", 4, 3, 7, 448, 0x7e}, {"fp8_e5m2", 5, 2, 15, 57344, 0x7b}};

static double value_of(const struct definition *d, int code)
{
    int e = code >> d->mantissa, m = code & ((1 << d->mantissa) - 1);
    double fraction = (double)m / (1 << d->mantissa);
    return e ? ldexp(1 + fraction, e - d->bias) : ldexp(fraction, 1 - d->bias);
}

// Elements of numbers in a tensor with scale 1: the first makes it so, for it is the largest element.
static void elements_of(const struct definition *d, enum mls_rounding rounding, const float *x, int count, float *elements)
{
    struct mls_format format = preset(d->name, rounding);
    float buffer[2] = {(float)d->largest, 0}, out[2], scale[2];
    const int dims[4] = {1, 2, 1, 1};
    for (int i = 0; i < count; i++) {
        buffer[1] = x[i];
        quantize(&format, buffer, dims, (uint64_t)i, &(struct standard_result){NULL, out, scale});
        assert_true(scale[0] == 1 && out[0] == buffer[0]);
        elements[i] = out[1];
    }
}

static void check_codes(const struct definition *d)
{
    struct mls_format format = preset(d->name, MLS_NEAREST);
    const struct standard_element *element = standard_element_of(&format);
    assert_true(value_of(d, d->highest_code) == d->largest);
    for (int code = 0; code < d->highest_code; code++) {
        double low = value_of(d, code), high = value_of(d, code + 1), middle = (low + high) / 2;
        double even = code % 2 ? high : low;
        const float x[] = {(float)low, (float)-low, (float)middle, (float)-middle, nextafterf((float)middle, 0),
                           nextafterf((float)middle, 1e9f)};
        const double expected[] = {low, -low, even, -even, low, high};
        float y[6];
        elements_of(d, MLS_NEAREST, x, 6, y);
        for (int i = 0; i < 6; i++)
            if (y[i] != (float)expected[i]) fail_msg("%s: %a becomes %a, expected %a", d->name, (double)x[i], (double)y[i], expected[i]);
        assert_int_equal(standard_code(element, y[0]), code);
        assert_int_equal(standard_code(element, y[1]), code | 1 << (d->exponent + d->mantissa));
        elements_of(d, MLS_STOCHASTIC, x, 2, y); // numbers of the format stay
        assert_true(y[0] == (float)low && y[1] == (float)-low);
    }
    assert_int_equal(standard_code(element, (float)d->largest), d->highest_code);
}

static void test_codes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof definitions / sizeof definitions[0]; i++) check_codes(&definitions[i]);
    // Some entries of the standards' own tables.
    static const struct { int row, code; double value; } known[] = {
        {3, 0x01, 0x1p-9}, {3, 0x08, 0x1p-6}, {3, 0x7e, 448}, {4, 0x01, 0x1p-16}, {4, 0x04, 0x1p-14}, {4, 0x7b, 57344},
        {1, 0x01, 0.125}, {1, 0x1f, 7.5}, {2, 0x01, 0.0625}, {2, 0x1f, 28}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        assert_true(value_of(&definitions[known[i].row], known[i].code) == known[i].value);
    static const double fp4[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    for (int i = 0; i < 8; i++) assert_true(value_of(&definitions[0], i) == fp4[i]);
}

// mxint8: multiples of 1/64 up to 127/64; the block's scale is 1 for a maximum in [1, 2).
static void test_int8(void **state)
{
    (void)state;
    struct mls_format format = preset("mxint8", MLS_NEAREST);
    const struct standard_element *element = standard_element_of(&format);
    const int dims[4] = {1, 2, 1, 1};
    for (int k = -127; k < 127; k++) {
        const float x[3][2] = {{1.5f, (float)k / 64}, {1.5f, ((float)k + 0.5f) / 64}, {1.99999f, -1.99999f}};
        const float expected[] = {(float)k / 64, (float)(k % 2 ? k + 1 : k) / 64, -127.0f / 64};
        for (int i = 0; i < 3; i++) {
            float out[2], scale[1];
            quantize(&format, x[i], dims, 0, &(struct standard_result){NULL, out, scale});
            assert_true(scale[0] == 1);
            assert_true(out[1] == expected[i]);
            if (i == 0) assert_int_equal(standard_code(element, out[1]), k & 0xff);
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Golden values

static void read_bits(FILE *file, float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        unsigned bits;
        assert_int_equal(fscanf(file, "%x", &bits), 1);
        memcpy(&values[i], &bits, sizeof bits);
    }
}

static void test_golden(void **state)
{
    (void)state;
    FILE *file = fopen("tests/golden/microscaling.txt", "r");
    assert_non_null(file);
    int dims[4], compared = 0;
    while (fscanf(file, " x %d %d %d %d", &dims[0], &dims[1], &dims[2], &dims[3]) == 4) {
        size_t count = (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3];
        float *x = memory_allocate(count, sizeof *x, NULL), *y = memory_allocate(count, sizeof *x, NULL);
        float *expected = memory_allocate(count, sizeof *x, NULL);
        read_bits(file, x, count);
        for (int k = 0; k < 6; k++) {
            char name[32];
            assert_int_equal(fscanf(file, "%31s", name), 1);
            read_bits(file, expected, count);
            struct mls_format format = preset(name, MLS_NEAREST);
            quantize(&format, x, dims, 0, &(struct standard_result){y, NULL, NULL});
            for (size_t i = 0; i < count; i++, compared++)
                if (y[i] != expected[i])
                    fail_msg("%s: element %zu of [%d, ...]: %a becomes %a, expected %a", name, i, dims[0], (double)x[i], (double)y[i],
                             (double)expected[i]);
        }
        memory_release(x);
        memory_release(y);
        memory_release(expected);
    }
    fclose(file);
    assert_true(compared > 6 * 1000);
}

// ---------------------------------------------------------------------------------------------
// Tensors

// Blocks of 32 channels at one pixel, which do not cross a convolution group, by a loop of its own; any number of threads.
static void test_blocks(void **state)
{
    (void)state;
    enum { COUNT = 2 * 80 * 3 * 100 };
    static const int dims[4] = {2, 80, 3, 100};
    static float x[COUNT], y[2][COUNT], scales[2 * 4 * 300];
    struct random_stream stream = {5, 0};
    for (int i = 0; i < COUNT; i++) x[i] = random_normal(&stream) * (float)(1 + i % 7);
    struct mls_format format = preset("mxfp6_e3m2", MLS_STOCHASTIC);
    assert_int_equal(standard_blocks(MLS_ACTIVATION, dims, 2), 4);
    assert_int_equal(standard_blocks(MLS_WEIGHT, dims, 2), 3);
    for (int threads = 1; threads <= 2; threads++) {
        struct thread_pool *pool = thread_pool_create(2 * threads - 1, NULL);
        const struct standard_result result = {y[threads - 1], NULL, scales};
        assert_true(standard_quantize(&format, MLS_ACTIVATION, x, dims, 2, 9, pool, &result, NULL));
        thread_pool_destroy(pool);
    }
    assert_memory_equal(y[0], y[1], sizeof y[0]);
    for (int n = 0; n < 2; n++)
        for (int block = 0; block < 4; block++)
            for (int p = 0; p < 300; p++) {
                int first = block / 2 * 40 + block % 2 * 32, last = block % 2 ? first + 8 : first + 32;
                float largest = 0;
                for (int c = first; c < last; c++) largest = fmaxf(largest, fabsf(x[(n * 80 + c) * 300 + p]));
                assert_true(scales[(n * 4 + block) * 300 + p] == ldexpf(1, ilogbf(largest) - 4));
            }
    static float again[COUNT];
    assert_true(standard_quantize(&format, MLS_ACTIVATION, x, dims, 2, 10, NULL, &(struct standard_result){again, NULL, NULL}, NULL));
    assert_memory_not_equal(again, y[0], sizeof again); // another key, other bits
}

static void test_fp8_scale(void **state)
{
    (void)state;
    const int dims[4] = {1, 1, 1, 4};
    const float x[4] = {3, -0.5f, 0.01f, 0}, tiny[4] = {0x1p-61f, 0, 0, 0};
    float y[4], elements[4], scale;
    struct mls_format format = preset("fp8_e4m3", MLS_NEAREST);
    quantize(&format, x, dims, 0, &(struct standard_result){y, elements, &scale});
    assert_true(scale == 3.0f / 448 && elements[0] == 448 && elements[1] == -72 && elements[2] == 1.5f && elements[3] == 0);
    for (int i = 0; i < 4; i++) assert_true(y[i] == elements[i] * scale);
    quantize(&format, tiny, dims, 0, &(struct standard_result){y, elements, &scale});
    assert_true(scale == 0 && y[0] == 0 && elements[0] == 0);
}

static void test_not_finite(void **state)
{
    (void)state;
    const int dims[4] = {1, 3, 1, 2};
    static const char *const names[] = {"mxfp4", "mxint8", "fp8_e5m2", "bfp4", "fixed8"};
    for (size_t k = 0; k < 5; k++)
        for (int bad = 0; bad < 2; bad++) {
            float x[6] = {1, 2, 3, 4, bad ? NAN : -INFINITY, 5}, y[6];
            struct mls_format format = preset(names[k], MLS_NEAREST);
            struct error error;
            assert_false(mls_simulate(&format, MLS_ACTIVATION, x, dims, 1, 0, NULL, y, &error));
            assert_contains(error.message, "element [0, 2, 0, 0]");
        }
}

// The mean over many pixels against the number, in units of the deviation of the mean; the first channel sets the scale.
static void test_unbiased(void **state)
{
    (void)state;
    enum { DRAWS = 200000 };
    static const char *const names[] = {"mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8", "fp8_e4m3", "fp8_e5m2",
                                        "fixed4", "bfp4", "fixed12"};
    static const int dims[4] = {1, 4, 1, DRAWS};
    static const float numbers[4] = {1, 0.3f, -0.0517f, 0.0041f};
    static float x[4 * DRAWS], y[4 * DRAWS];
    for (int i = 0; i < 4 * DRAWS; i++) x[i] = numbers[i / DRAWS];
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        struct mls_format format = preset(names[k], MLS_STOCHASTIC);
        assert_true(mls_simulate(&format, MLS_ERROR, x, dims, 1, random_key(1, k, 0, 0), NULL, y, NULL));
        for (int j = 1; j < 4; j++) {
            double sum = 0, squares = 0;
            for (int i = j * DRAWS; i < (j + 1) * DRAWS; i++) sum += (double)y[i], squares += (double)y[i] * (double)y[i];
            double mean = sum / DRAWS, deviation = sqrt(fmax(0, squares / DRAWS - mean * mean) / DRAWS);
            // fixed and bfp are unbiased with respect to Y of 16 or 24 bits; fp8 to the rounded quotient.
            if (fabs(mean - (double)numbers[j]) > 4.5 * deviation + 1e-5)
                fail_msg("%s: %g has the mean %g, deviation %g", names[k], (double)numbers[j], mean, deviation);
        }
    }
}

// Between the largest element and the next power of two nothing is rounded up, in any rounding.
static void test_saturation(void **state)
{
    (void)state;
    enum { DRAWS = 1000 };
    static const int dims[4] = {1, 2, 1, DRAWS};
    static float x[2 * DRAWS], elements[2 * DRAWS], scales[DRAWS];
    for (size_t k = 0; k < sizeof definitions / sizeof definitions[0]; k++)
        for (int rounding = MLS_NEAREST; rounding <= MLS_STOCHASTIC; rounding++) {
            const struct definition *d = &definitions[k];
            struct mls_format format = preset(d->name, (enum mls_rounding)rounding);
            if (format.family == MLS_FAMILY_FP8) continue; // its scale leaves nothing above the largest element
            float next = ldexpf(1, ilogb(d->largest) + 1);
            for (int i = 0; i < DRAWS; i++) {
                x[i] = (float)d->largest + (next - (float)d->largest) * (float)i / DRAWS;
                x[DRAWS + i] = -x[i];
            }
            quantize(&format, x, dims, 4, &(struct standard_result){NULL, elements, scales});
            for (int i = 0; i < 2 * DRAWS; i++)
                if (scales[i % DRAWS] != 1 || elements[i] != copysignf((float)d->largest, x[i]))
                    fail_msg("%s: %g becomes %g", d->name, (double)x[i], (double)elements[i]);
        }
}

// A number of the format stays what it is even where the random bits are all 0; half a step is then rounded up.
static void test_random_bits_zero(void **state)
{
    (void)state;
    const int dims[4] = {1, 2, 1, 1};
    uint64_t key = 0;
    while (mls_random_bits(mls_plane_keys_of(key, 1), 0, 24) != 0) key++;
    static const struct { const char *name; float top, x, expected; } rows[] = {
        {"mxfp4", 6, 1.5f, 1.5f}, {"mxfp4", 6, 1.25f, 1.5f}, {"mxfp4", 6, 0, 0}, {"fp8_e4m3", 448, -3, -3}, {"mxint8", 1.5f, 0.5f, 0.5f}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mls_format format = preset(rows[i].name, MLS_STOCHASTIC);
        const float x[2] = {rows[i].top, rows[i].x};
        float elements[2];
        quantize(&format, x, dims, key, &(struct standard_result){NULL, elements, NULL});
        if (elements[1] != rows[i].expected) fail_msg("%s: %g becomes %g", rows[i].name, (double)x[1], (double)elements[1]);
    }
}

// ---------------------------------------------------------------------------------------------
// fixedK, bfpK

// HBFP by its definition, with the nearest rounding of section 3: interval 2^(ceil(log2 max) - (K-1)), saturating.
static void test_block_float(void **state)
{
    (void)state;
    const int dims[4] = {2, 10, 3, 3};
    float x[180], y[180];
    struct random_stream stream = {11, 0};
    static const struct { const char *name; int bits; } rows[] = {{"bfp2", 2}, {"bfp4", 4}, {"bfp8", 8}, {"bfp12", 12}};
    for (int round = 0; round < 20; round++)
        for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++) {
            struct mls_format format = preset(rows[k].name, MLS_NEAREST);
            format.group_size = 4;
            // 12 bits: ties and powers of two too.
            for (int i = 0; i < 180; i++) x[i] = ldexpf((float)(int)(random_next(&stream) >> 52) - 2048, -8 - i / 9 % 5);
            assert_int_equal(mls_fits_int8(&format), rows[k].bits <= 8);
            assert_true(mls_simulate(&format, MLS_ACTIVATION, x, dims, 1, 0, NULL, y, NULL));
            for (int n = 0; n < 2; n++)
                for (int c = 0; c < 10; c++)
                    for (int p = 0; p < 9; p++) {
                        double largest = 0;
                        for (int d = c / 4 * 4; d < 10 && d < c / 4 * 4 + 4; d++)
                            for (int q = 0; q < 9; q++) largest = fmax(largest, fabs((double)x[(n * 10 + d) * 9 + q]));
                        double interval = exp2(ceil(log2(largest)) - (rows[k].bits - 1)), most = ldexp(1, rows[k].bits - 1) - 1;
                        double value = (double)x[(n * 10 + c) * 9 + p], steps = fmin(floor(fabs(value) / interval + 0.5), most);
                        assert_true((double)y[(n * 10 + c) * 9 + p] == copysign(steps * interval, value));
                    }
        }
}

// Without the power of two of the tensor, scale_mantissa=0 alone is something else: the difference that mls/presets.h states.
static void test_block_float_is_not_mls(void **state)
{
    (void)state;
    const int dims[4] = {1, 2, 1, 1};
    const float x[2] = {0.75f, 0.25f};
    float y[2];
    struct mls_format format = preset("bfp4", MLS_NEAREST), mls = format;
    mls.family = MLS_FAMILY_MLS;
    assert_true(mls_simulate(&format, MLS_ACTIVATION, x, dims, 1, 0, NULL, y, NULL));
    assert_true(y[0] == 0.75f && y[1] == 0.25f);
    assert_true(mls_simulate(&mls, MLS_ACTIVATION, x, dims, 1, 0, NULL, y, NULL));
    assert_true(y[0] == 0.75f * 7 / 8 && y[1] == 0.28125f);
    const float huge[2] = {0x1.8p127f, -0x1p-70f};
    assert_true(mls_simulate(&format, MLS_ACTIVATION, huge, dims, 1, 0, NULL, y, NULL));
    assert_true(y[0] == 0x1.cp126f && y[1] == 0);
}

static void test_fixed(void **state)
{
    (void)state;
    const int dims[4] = {1, 1, 1, 4};
    const float x[4] = {2, -1, 0.1f, 0.02f};
    float y[4];
    static const struct { const char *name; float steps; } rows[] = {{"fixed4", 8}, {"fixed8", 128}, {"fixed16", 32768}};
    for (size_t k = 0; k < 3; k++) {
        struct mls_format format = preset(rows[k].name, MLS_NEAREST);
        assert_true(mls_simulate(&format, MLS_ERROR, x, dims, 1, 0, NULL, y, NULL));
        for (int i = 0; i < 4; i++) {
            float steps = fminf(floorf(fabsf(x[i]) / 2 * rows[k].steps + 0.5f), rows[k].steps - 1);
            assert_true(y[i] == copysignf(steps, x[i]) / rows[k].steps * 2);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes), cmocka_unit_test(test_int8), cmocka_unit_test(test_golden), cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_fp8_scale), cmocka_unit_test(test_not_finite), cmocka_unit_test(test_unbiased),
        cmocka_unit_test(test_saturation), cmocka_unit_test(test_random_bits_zero), cmocka_unit_test(test_block_float),
        cmocka_unit_test(test_block_float_is_not_mls), cmocka_unit_test(test_fixed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
