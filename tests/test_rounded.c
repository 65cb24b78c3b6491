// Simulated formats: maps rounded as they are read from a source (kernels/rounded.h) and tensors (mls/simulate.h) against the plain
// definitions, bit for bit.
#include "testing.h"

#include <math.h>

#include "base/blocked.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/rounded.h"
#include "mls/presets.h"
#include "mls/quantize.h"
#include "mls/simulate.h"
#include "mls/standard.h"

enum { MOST = 3 * 80 * 13 * 11 };

// A tensor whose planes have very different sizes; some planes and pixels are zero.
static void fill(float *x, const int dims[4], uint64_t seed)
{
    struct random_stream stream = {seed, 0};
    int plane = dims[2] * dims[3];
    for (int i = 0; i < dims[0] * dims[1]; i++)
        for (int p = 0; p < plane; p++) {
            float size = i % 7 == 3 || p % 11 == 5 ? 0 : ldexpf(1, -(i * 5 % 23) - p % 3);
            x[i * plane + p] = size * random_normal(&stream);
        }
}

// By the definitions alone.
static void plain(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4], int groups, uint64_t key,
                  float *values)
{
    struct mls_tensor tensor;
    if (!mls_has_integers(format)) {
        assert_true(standard_quantize(format, operand, x, dims, groups, key, NULL, &(struct standard_result){.values = values}, NULL));
        return;
    }
    assert_true(mls_quantize(format, operand, x, dims, groups, key, &tensor, NULL));
    mls_dequantize(&tensor, values);
    mls_tensor_release(&tensor);
}

static void to_blocked(const float *planar, const int dims[4], float *blocked)
{
    size_t pixels = (size_t)dims[2] * (size_t)dims[3], channels = (size_t)dims[1];
    for (int n = 0; n < dims[0]; n++)
        blocked_from_planar(planar + (size_t)n * channels * pixels, dims[1], pixels,
                            blocked + (size_t)n * blocked_channels(dims[1]) * pixels);
}

struct case_of_format {
    struct mls_format format;
    const char *name;
};

// Compares the fast ways with the plain one.
static void check_tensor(const struct case_of_format *c, enum mls_operand operand, const int dims[4], int groups, struct thread_pool *pool)
{
    static float x[MOST], wanted[MOST], found[MOST], map[2 * MOST], wanted_map[2 * MOST], found_map[2 * MOST];
    size_t count = (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3];
    size_t stored = (size_t)dims[0] * blocked_channels(dims[1]) * (size_t)dims[2] * (size_t)dims[3];
    uint64_t key = random_key(1, 2, (uint64_t)operand, 3);
    fill(x, dims, count);
    plain(&c->format, operand, x, dims, groups, key, wanted);
    for (int threads = 0; threads < 2; threads++) {
        assert_true(mls_simulate(&c->format, operand, x, dims, groups, key, threads ? pool : NULL, found, NULL));
        if (memcmp(wanted, found, count * sizeof(float)) != 0)
            fail_msg("%s, operand %d, group %d size %d: mls_simulate differs", c->name, operand, (int)c->format.group,
                     c->format.group_size);
    }
    if (operand == MLS_WEIGHT) return;
    to_blocked(x, dims, map);
    to_blocked(wanted, dims, wanted_map);
    struct rounded_request request = {.format = &c->format, .operand = operand, .dims = {dims[0], dims[1], dims[2], dims[3]},
                                      .convolution_groups = groups, .tensor_key = key};
    assert_true(rounded_map(&request, pool, &(struct source){.kind = SOURCE_PLAIN, .x = map}, found_map, NULL));
    if (memcmp(wanted_map, found_map, stored * sizeof(float)) != 0)
        fail_msg("%s, operand %d, group %d size %d, %d channels: rounded_map differs", c->name, operand, (int)c->format.group,
                 c->format.group_size, dims[1]);
}

static void check_shapes(const struct case_of_format *c, struct thread_pool *pool)
{
    static const int shapes[][4] = {{3, 80, 13, 11}, {2, 5, 3, 3}, {2, 33, 1, 1}, {1, 16, 9, 17}, {2, 64, 3, 2}, {2, 96, 2, 3}};
    static const int weights[4] = {19, 35, 3, 3};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int operand = MLS_ACTIVATION; operand <= MLS_ERROR; operand++) {
            check_tensor(c, (enum mls_operand)operand, shapes[i], 1, pool);
            check_tensor(c, (enum mls_operand)operand, shapes[i], shapes[i][1], pool); // depthwise
            if (shapes[i][1] > 5) check_tensor(c, (enum mls_operand)operand, shapes[i], shapes[i][1] % 2 ? 3 : 2, pool);
        }
    check_tensor(c, MLS_WEIGHT, weights, 1, pool);
}

static void check_roundings(struct case_of_format c, struct thread_pool *pool)
{
    for (int rounding = 0; rounding < 2; rounding++) {
        c.format.rounding = rounding ? MLS_STOCHASTIC : MLS_NEAREST;
        check_shapes(&c, pool);
    }
}

static void test_presets(void **state)
{
    (void)state;
    struct thread_pool *pool = thread_pool_create(3, NULL);
    for (int i = 0;; i++) {
        char name[32];
        mls_preset_name(i, name, sizeof name);
        if (!*name) break;
        check_roundings((struct case_of_format){mls_preset_at(i, MLS_ERROR), name}, pool);
    }
    thread_pool_destroy(pool);
}

// MLS elements of every kind (with Q of 16 and 24 bits), every grouping.
static void test_groupings(void **state)
{
    (void)state;
    static const int elements[][2] = {{2, 1}, {3, 4}, {3, 7}, {0, 7}, {1, 3}}, sizes[] = {1, 3, 16, 1000};
    struct thread_pool *pool = thread_pool_create(2, NULL);
    for (int k = 0; k < 5; k++)
        for (int group = MLS_GROUP_NONE; group <= MLS_GROUP_NC; group++)
            for (int size = 0; size < 4; size++) {
                struct mls_format format = mls_format_default(MLS_ERROR);
                format.exponent = elements[k][0];
                format.mantissa = elements[k][1];
                format.group = (enum mls_group)group;
                format.group_size = sizes[size];
                format.scale_mantissa = size % 2;
                check_roundings((struct case_of_format){format, "mls"}, pool);
            }
    thread_pool_destroy(pool);
}

// What is owed to the source's numbers is done first; maxima that are known are taken.
static void test_sources(void **state)
{
    (void)state;
    enum { CHANNELS = 20, PIXELS = 35, STORED = 2 * 32 * PIXELS };
    static const char *const names[] = {"mxfp4", "fp8_e4m3", "bfp12"};
    static float x[STORED], delta[STORED], numbers[STORED], wanted[STORED], found[STORED], planar[2 * CHANNELS * PIXELS], constants[5][32];
    const int dims[4] = {2, CHANNELS, 5, 7};
    struct random_stream stream = {11, 0};
    struct thread_pool *pool = thread_pool_create(1, NULL);
    for (int i = 0; i < STORED; i++) x[i] = random_normal(&stream), delta[i] = random_normal(&stream);
    for (int k = 0; k < 5; k++)
        for (int i = 0; i < 32; i++) constants[k][i] = 1 + 0.3f * random_normal(&stream);
    for (size_t k = 0; k < 6; k++) {
        struct source source = {.kind = k % 2 ? SOURCE_ERROR : SOURCE_NORMALIZED, .activation = PIECEWISE_RELU, .x = x, .delta = delta,
                                .multiplier = constants[0], .offset = constants[1],
                                .coefficients = {constants[2], constants[3], constants[4]}};
        float maxima[2 * 32];
        struct mls_format format;
        for (int block = 0; block < 4; block++) {
            struct source part = source_of_block(&source, block / 2, block % 2, 2, PIXELS);
            source_maxima(&part, PIXELS, maxima + block * 16);
            source_write(&part, PIXELS, numbers + block * 16 * PIXELS, false);
        }
        for (int n = 0; n < 2; n++) blocked_to_planar(numbers + n * 32 * PIXELS, CHANNELS, PIXELS, planar + n * CHANNELS * PIXELS);
        assert_true(mls_preset(names[k / 2], MLS_ACTIVATION, &format));
        plain(&format, MLS_ACTIVATION, planar, dims, 1, 0, planar);
        to_blocked(planar, dims, wanted);
        struct rounded_request request = {.format = &format, .operand = MLS_ACTIVATION, .dims = {2, CHANNELS, 5, 7},
                                          .convolution_groups = 1};
        for (int known = 0; known < 2; known++) {
            request.maxima = known ? maxima : NULL;
            assert_true(rounded_map(&request, pool, &source, found, NULL));
            assert_memory_equal(wanted, found, sizeof wanted);
        }
    }
    thread_pool_destroy(pool);
}

static void test_not_finite(void **state)
{
    (void)state;
    static const char *const names[] = {"mxfp4", "mxint8", "fp8_e5m2", "bfp12", "fixed16"};
    struct thread_pool *pool = thread_pool_create(1, NULL);
    for (size_t k = 0; k < 5; k++)
        for (int bad = 0; bad < 2; bad++) {
            float map[2 * 16 * 4] = {0}, values[2 * 16 * 4];
            struct mls_format format;
            struct error error;
            assert_true(mls_preset(names[k], MLS_ERROR, &format));
            map[blocked_at(4, 2, 3) + 64] = bad ? NAN : -INFINITY;
            map[blocked_at(4, 5, 0)] = NAN; // a lane that is no channel
            struct rounded_request request = {.format = &format, .operand = MLS_ERROR, .dims = {2, 3, 2, 2}, .convolution_groups = 1};
            assert_false(rounded_map(&request, pool, &(struct source){.kind = SOURCE_PLAIN, .x = map}, values, &error));
            assert_contains(error.message, "element [1, 2, 1, 1]");
            map[blocked_at(4, 2, 3) + 64] = 1;
            assert_true(rounded_map(&request, pool, &(struct source){.kind = SOURCE_PLAIN, .x = map}, values, &error));
        }
    thread_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_presets), cmocka_unit_test(test_groupings), cmocka_unit_test(test_sources),
                                       cmocka_unit_test(test_not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
