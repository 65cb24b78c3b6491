// Formats by name in a network: training in each of them, layers of operands in several, options and their contradictions; and in the
// public interface.
#include "testing.h"

#include <math.h>

#include "base/blocked.h"
#include "base/memory.h"
#include "base/random.h"
#include "mls/convolution.h"
#include "mls/presets.h"
#include "mls/simulate.h"
#include "mlsnet.h"
#include "net/network.h"

static struct mls_format preset(const char *name, enum mls_rounding rounding)
{
    struct mls_format format;
    if (!mls_preset(name, MLS_ERROR, &format)) fail_msg("no format %s", name);
    format.rounding = rounding;
    return format;
}

static const char body[] = "[conv]\nbatch_normalize=1\nfilters=36\nsize=3\npad=1\nactivation=relu\nmls=0\n"
                           "[conv]\nbatch_normalize=1\nfilters=8\nsize=3\npad=1\nactivation=relu\n%s"
                           "[conv]\nfilters=8\nsize=3\nstride=2\ngroups=2\nactivation=leaky\n"
                           "[avgpool]\n[connected]\noutput=4\nactivation=linear\n[softmax]\n";

struct built {
    struct cfg *cfg;
    struct thread_pool *pool;
    struct network *network;
};

// false: diagnostics has the reason.
static bool build(struct built *b, const char *net, const char *layer, const char *set, int threads, struct diagnostics *diagnostics)
{
    char text[2048], layers[1024];
    struct network_request request = {.for_training = true, .seed = 5};
    struct error error;
    snprintf(layers, sizeof layers, body, layer);
    snprintf(text, sizeof text, "[net]\nbatch=6\nheight=5\nwidth=5\nchannels=2\n%s%s", net, layers);
    *b = (struct built){.pool = thread_pool_create(threads, NULL), .cfg = cfg_parse("x.cfg", text, strlen(text), diagnostics)};
    assert_non_null(b->cfg);
    if (set && !cfg_set(b->cfg, set, &error)) fail_msg("%s", error.message);
    b->network = network_create(b->cfg, &request, b->pool, diagnostics);
    return b->network != NULL;
}

static void release(struct built *b)
{
    network_destroy(b->network);
    cfg_release(b->cfg);
    thread_pool_destroy(b->pool);
}

// Some steps on one batch; returns the last loss, *first is that before them.
static double train(struct built *b, int steps, double *first)
{
    static float input[6 * 50 + 64];
    static const int labels[6] = {0, 1, 2, 3, 0, 1};
    struct random_stream stream = {99, 0};
    struct error error = {""};
    for (int i = 0; i < 6 * 50; i++) input[i] = random_normal(&stream);
    for (int step = 0; step <= steps; step++) {
        struct pass pass = {.pool = b->pool, .images = 6, .training = true, .seed = 3, .step = (uint64_t)step, .labels = labels,
                            .loss_scale = 1.0f / 6};
        if (!network_forward(b->network, input, &pass, &error)) fail_msg("%s", error.message);
        if (step == 0) *first = b->network->loss;
        if (step == steps) break;
        if (!network_backward(b->network, &pass, &error)) fail_msg("%s", error.message);
        for (int i = 0; i < b->network->parameter_count; i++) {
            struct parameter *p = b->network->parameters[i];
            for (size_t k = 0; p->gradient && k < p->count; k++) p->value[k] -= 0.1f * p->gradient[k], p->gradient[k] = 0;
        }
    }
    return b->network->loss;
}

// What a word stands for: the standards round to nearest, their blocks are of 32 channels; the others round errors stochastically.
static void test_presets(void **state)
{
    (void)state;
    static const struct { const char *name; int exponent, mantissa, group, group_size, scale_mantissa; bool stochastic; } rows[] = {
        {"mls", 2, 1, MLS_GROUP_NC, 16, 1, true}, {"fixed6", 0, 5, MLS_GROUP_NONE, 1, 0, true}, {"bfp16", 0, 15, MLS_GROUP_NC, 16, 0, true},
        {"mxfp6_e3m2", 3, 2, MLS_GROUP_NC, 32, 0, false}, {"mxint8", 0, 7, MLS_GROUP_NC, 32, 0, false},
        {"fp8_e5m2", 5, 2, MLS_GROUP_NONE, 1, 0, false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int operand = 0; operand < 3; operand++) {
            struct mls_format f;
            assert_true(mls_preset(rows[i].name, (enum mls_operand)operand, &f));
            assert_true(f.exponent == rows[i].exponent && f.mantissa == rows[i].mantissa && (int)f.group == rows[i].group);
            assert_true(f.group_size == rows[i].group_size && f.scale_exponent == 8 && f.scale_mantissa == rows[i].scale_mantissa);
            assert_int_equal(f.rounding, rows[i].stochastic && operand == MLS_ERROR ? MLS_STOCHASTIC : MLS_NEAREST);
            assert_true(mls_format_check(&f, NULL));
        }
}

// Every format: the loss falls; the weights are the same with one thread and with three in plain C; the mode is as promised.
static void test_training(void **state)
{
    (void)state;
    char name[32], net[64], settings[160];
    for (int index = 0; mls_preset_name(index, name, sizeof name), *name; index++) {
        struct built one, three;
        struct diagnostics diagnostics = {.path = "x.cfg"};
        snprintf(net, sizeof net, "format=%s\n", name);
        bool built = build(&one, net, "", NULL, 1, &diagnostics) && build(&three, net, "", "kernel=scalar", 3, &diagnostics);
        if (!built) fail_msg("%s", diagnostics.text);
        one.network->layers[1]->type->describe(one.network->layers[1], settings, sizeof settings);
        struct mls_format format = preset(name, MLS_NEAREST);
        assert_contains(settings, index ? name : "MLS <2,1>");
        assert_true(mls_fits_int8(&format) == !strstr(settings, "simulated"));
        double first, last = train(&one, 40, &first), last3 = train(&three, 40, &first);
        if (last3 != last || !(last < 0.6 * first)) fail_msg("%s: loss %g, then %g and %g", name, first, last, last3);
        for (int i = 0; i < one.network->parameter_count; i++) {
            const struct parameter *a = one.network->parameters[i], *b = three.network->parameters[i];
            assert_memory_equal(a->value, b->value, a->count * sizeof(float));
        }
        release(&one);
        release(&three);
    }
}

// Which format holds, and how it is described.
static void test_settings(void **state)
{
    (void)state;
    static const struct { const char *net, *layer, *set, *settings; } rows[] = {
        {"format=mxfp4\n", "", NULL, "mxfp4 simulated"},
        {"format=mxfp4\nerror_format=mls\nrounding=stochastic\n", "", NULL, "MLS w:mxfp4 a:mxfp4 e:<2,1> nc 16 simulated"},
        {"weight_format=fp8_e4m3\nexponent=1\n", "", NULL, "MLS w:fp8_e4m3 a:<1,1> e:<1,1> nc 16 simulated"},
        {"exponent=2\nmantissa=4\n", "format=bfp6\ngroup_size=8\n", NULL, "bfp6 nc 8"},
        {"format=bfp6\n", "group=n\n", NULL, "bfp6 n 16"},
        {"format=mxint8\n", "format=mls\nmantissa=4\n", NULL, "MLS <2,4> nc 16"},
        {"format=mxint8\nweight_format=mls\nmantissa=4\n", "", NULL, "MLS w:<2,4> a:mxint8 e:mxint8 nc 16 simulated"},
        {"exponent=2\nmantissa=4\nactivation_mantissa=3\ngroup_size=4\n", "", "format=mxfp8_e5m2", "mxfp8_e5m2 simulated"},
        {"exponent=2\nmantissa=4\ngroup_size=4\n", "", "format=bfp4", "bfp4 nc 4"},
        {"exponent=2\nmantissa=4\n", "exponent=1\n", "1.format=fixed8", "fixed8"},
        {"mantissa=4\nerror_mantissa=3\n", "", "error_format=fixed8", "MLS w:<2,4> a:<2,4> e:fixed8 nc 16"},
        {"format=fixed8\n", "", "error_format=fp8_e5m2", "w:fixed8 a:fixed8 e:fp8_e5m2 simulated"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct built b;
        struct diagnostics diagnostics = {.path = "x.cfg"};
        char settings[160], expected[160];
        if (!build(&b, rows[i].net, rows[i].layer, rows[i].set, 1, &diagnostics)) fail_msg("%s", diagnostics.text);
        b.network->layers[1]->type->describe(b.network->layers[1], settings, sizeof settings);
        snprintf(expected, sizeof expected, "3x3/1 %s", rows[i].settings);
        assert_string_equal(settings, expected);
        release(&b);
    }
}

static float *operand_of(const struct layer *layer, const struct mls_format *format, enum mls_operand operand, const float *x,
                         const int dims[4])
{
    float *values = memory_allocate((size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3], sizeof(float), NULL);
    struct mls_format f = *format;
    uint64_t key = random_key(3, 0, (uint64_t)layer->index, (uint64_t)operand);
    assert_true(mls_simulate(&f, operand, x, dims, 1, key, NULL, values, NULL));
    return values;
}

static void assert_near(const float *a, const float *b, size_t count)
{
    float largest = 0;
    for (size_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(b[i]));
    assert_true(largest > 0);
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(a[i] - b[i]) <= 1e-5f * largest)) fail_msg("element %zu is %g, expected %g", i, (double)a[i], (double)b[i]);
}

// Output and weight gradient of a layer are those of its quantized operands, each in its own format.
static void test_layer(void **state)
{
    (void)state;
    enum { IMAGES = 6, MAP = 8 * 49, WEIGHTS = 8 * 2 * 9 };
    struct built b = {.pool = thread_pool_create(2, NULL)};
    struct diagnostics diagnostics = {.path = "x.cfg"};
    struct network_request request = {.for_training = true, .seed = 5};
    static const char text[] = "[net]\nbatch=6\nheight=7\nwidth=7\nchannels=2\nweight_format=mxfp6_e2m3\nactivation_format=fp8_e4m3\n"
                               "error_format=mxfp4\nerror_rounding=stochastic\n"
                               "[conv]\nfilters=8\nsize=3\npad=1\nactivation=linear\n[connected]\noutput=4\nactivation=linear\n[softmax]\n";
    b.cfg = cfg_parse("x.cfg", text, strlen(text), &diagnostics);
    b.network = network_create(b.cfg, &request, b.pool, &diagnostics);
    if (!b.network) fail_msg("%s", diagnostics.text);
    static float input[IMAGES * 98 + 64];
    static const int labels[IMAGES] = {0, 1, 2, 3, 0, 1};
    struct random_stream stream = {7, 0};
    for (int i = 0; i < IMAGES * 98; i++) input[i] = random_normal(&stream);
    struct pass pass = {.pool = b.pool, .images = IMAGES, .training = true, .seed = 3, .labels = labels, .loss_scale = 1};
    struct error error = {""};
    static float z[2][IMAGES * MAP], gradient[WEIGHTS], errors[IMAGES * MAP];
    const struct layer *layer = b.network->layers[0];
    if (!network_forward(b.network, input, &pass, &error)) fail_msg("%s", error.message);
    for (int n = 0; n < IMAGES; n++) blocked_to_planar(layer->output + (size_t)n * 16 * 49, 8, 49, z[0] + n * MAP);
    if (!network_backward(b.network, &pass, &error)) fail_msg("%s", error.message);
    for (int n = 0; n < IMAGES; n++) blocked_to_planar(layer->delta + (size_t)n * 16 * 49, 8, 49, errors + n * MAP);
    const int dims[3][4] = {{8, 2, 3, 3}, {IMAGES, 2, 7, 7}, {IMAGES, 8, 7, 7}};
    struct mls_format formats[3] = {preset("mxfp6_e2m3", MLS_NEAREST), preset("fp8_e4m3", MLS_NEAREST), preset("mxfp4", MLS_STOCHASTIC)};
    const float *const raw[3] = {b.network->parameters[0]->value, input, errors};
    float *values[3];
    for (int k = 0; k < 3; k++) values[k] = operand_of(layer, &formats[k], (enum mls_operand)k, raw[k], dims[k]);
    struct convolution_shape shape = {.images = IMAGES, .in_channels = 2, .in_height = 7, .in_width = 7, .out_channels = 8,
                                      .kernel_height = 3, .kernel_width = 3, .stride = 1, .padding = 1, .groups = 1};
    assert_true(convolution_shape_complete(&shape, NULL));
    float_convolution_forward(&shape, values[0], values[1], z[1]);
    assert_near(z[0], z[1], IMAGES * MAP);
    float_convolution_weight_gradient(&shape, values[1], values[2], gradient);
    assert_near(b.network->parameters[0]->gradient, gradient, WEIGHTS);
    for (int k = 0; k < 3; k++) memory_release(values[k]);
    release(&b);
}

static void test_contradictions(void **state)
{
    (void)state;
    static const struct { const char *net, *layer, *set, *message; } rows[] = {
        {"format=mxfp5\n", "", NULL, "x.cfg:6: [net] format=mxfp5: expected one of: mls fixed2"},
        {"exponent=2\nformat=mxfp4\n", "", NULL, "x.cfg:6: [net] exponent=2 contradicts format=mxfp4"},
        {"format=mxfp4\ngroup_size=16\n", "", NULL, "group_size=16 contradicts format=mxfp4"},
        {"format=fp8_e4m3\nerror_group=nc\n", "", NULL, "error_group=nc contradicts format=fp8_e4m3"},
        {"format=bfp4\nscale_mantissa=1\n", "", NULL, "scale_mantissa=1 contradicts format=bfp4"},
        {"format=fixed8\n", "mantissa=3\n", NULL, "x.cfg:20: [conv] mantissa=3 contradicts format=fixed8"},
        {"", "weight_format=mxint8\nweight_exponent=1\n", NULL, "weight_exponent=1 contradicts format=mxint8"},
        {"format=mxfp4\n", "", "mantissa=4", "--set: [net] mantissa=4 contradicts format=mxfp4"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct built b;
        struct diagnostics diagnostics = {.path = "x.cfg"};
        assert_false(build(&b, rows[i].net, rows[i].layer, rows[i].set, 1, &diagnostics));
        assert_contains(diagnostics.text, rows[i].message);
        diagnostics_release(&diagnostics);
        release(&b);
    }
}

// ---------------------------------------------------------------------------------------------
// The public interface

static void test_interface(void **state)
{
    (void)state;
    mlsnet_format format;
    mlsnet_error error;
    const int dims[4] = {1, 1, 1, 4};
    const float x[4] = {6, -3, 0.4f, 0.2f};
    float y[4], tensor_scale, scales[4];
    int32_t codes[4];
    int blocks[2];
    assert_int_not_equal(mlsnet_format_named("mxfp5", MLSNET_WEIGHT, &format, &error), 0);
    assert_contains(error.message, "format mxfp5: expected one of: mls");
    assert_int_equal(mlsnet_format_named("mxfp4", MLSNET_WEIGHT, &format, &error), 0);
    assert_int_equal(mlsnet_quantize(&format, MLSNET_WEIGHT, x, dims, 1, y, codes, &tensor_scale, scales, blocks, &error), 0);
    const float expected[4] = {6, -3, 0.375f, 0.1875f}, expected_scales[4] = {1, 0.5f, 0x1p-4f, 0x1p-5f};
    const int32_t expected_codes[4] = {7, 15, 7, 7};
    assert_memory_equal(y, expected, sizeof y);
    assert_memory_equal(scales, expected_scales, sizeof scales);
    assert_memory_equal(codes, expected_codes, sizeof codes);
    assert_true(tensor_scale == 1 && blocks[0] == 1 && blocks[1] == 1);
    assert_int_equal(mlsnet_format_named("fp8_e4m3", MLSNET_WEIGHT, &format, &error), 0);
    assert_int_equal(mlsnet_quantize(&format, MLSNET_WEIGHT, x, dims, 1, y, codes, &tensor_scale, NULL, NULL, &error), 0);
    assert_true(tensor_scale == 6.0f / 448 && codes[0] == 0x7e && codes[1] == 0xf6);

    const mlsnet_convolution shape = {1, 2, 3, 3, 1, 3, 3, 1, 1, 1};
    float a[18], w[18], result[9], expected_result[9];
    for (int i = 0; i < 18; i++) a[i] = (float)(i % 5), w[i] = (float)(i % 7 - 3) / 2; // numbers of mxfp8_e4m3 already
    mlsnet_format formats[3];
    for (int k = 0; k < 3; k++) assert_int_equal(mlsnet_format_named("mxfp8_e4m3", k, &formats[k], &error), 0);
    assert_int_equal(mlsnet_convolve(&shape, MLSNET_FORWARD, formats, NULL, a, w, result, &error), 0);
    struct convolution_shape plain = {.images = 1, .in_channels = 2, .in_height = 3, .in_width = 3, .out_channels = 1, .kernel_height = 3,
                                      .kernel_width = 3, .stride = 1, .padding = 1, .groups = 1};
    assert_true(convolution_shape_complete(&plain, NULL));
    float_convolution_forward(&plain, w, a, expected_result);
    assert_memory_equal(result, expected_result, sizeof result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_presets), cmocka_unit_test(test_training),
                                       cmocka_unit_test(test_settings), cmocka_unit_test(test_layer),
                                       cmocka_unit_test(test_contradictions), cmocka_unit_test(test_interface)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
