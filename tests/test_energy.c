// Operation counts and energies: the formulas against what the scalar reference executes, by pass and kind, and against loops
// written out here; widths and prices by hand.
#include "testing.h"

#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "energy/account.h"
#include "net/operations.h"

#define IMAGES 3

struct built {
    struct cfg *cfg;
    struct thread_pool *pool;
    struct network *network;
};

static void build(struct built *b, const char *text)
{
    struct diagnostics diagnostics = {.path = "test.cfg"};
    struct network_request request = {.max_images = 1};
    b->pool = thread_pool_create(1, NULL);
    b->cfg = cfg_parse("test.cfg", text, strlen(text), &diagnostics);
    b->network = b->cfg ? network_create(b->cfg, &request, b->pool, &diagnostics) : NULL;
    if (!b->network) fail_msg("%s", diagnostics.text);
}

static void release(struct built *b)
{
    network_destroy(b->network);
    cfg_release(b->cfg);
    thread_pool_destroy(b->pool);
}

static struct operations count(const struct network *network, bool training, const struct arithmetic *instead)
{
    const struct training_settings settings = {.momentum = 0.9f, .decay = 1e-4f};
    struct operations o = {.images = IMAGES, .training = training, .instead = instead};
    assert_true(network_operations(network, &settings, &o));
    return o;
}

static double counted(const struct operations *o, int layer, enum operation_pass pass, enum operation_kind kind)
{
    double sum = 0;
    for (size_t i = 0; i < o->count; i++)
        if ((layer < 0 || o->items[i].layer == layer) && o->items[i].pass == pass && o->items[i].kind == kind) sum += o->items[i].count;
    return sum;
}

static void assert_count(const char *what, const char *kind, double formula, double executed)
{
    if (formula != executed) fail_msg("%s: %s: the formula says %.0f, %.0f were executed", what, kind, formula, executed);
}

// ---------------------------------------------------------------------------------------------
// Formula against execution

static void compare_convolution(const char *what, const struct operations *o, int layer, enum operation_pass pass,
                    const struct mls_counts *c)
{
    assert_count(what, "element multiply", counted(o, layer, pass, ELEMENT_MULTIPLY), (double)c->element_multiply);
    assert_count(what, "element accumulate", counted(o, layer, pass, ELEMENT_ACCUMULATE), (double)c->element_accumulate);
    assert_count(what, "group scale", counted(o, layer, pass, GROUP_SCALE), (double)c->group_scale);
    assert_count(what, "group accumulate", counted(o, layer, pass, GROUP_ACCUMULATE), (double)c->group_accumulate);
    assert_count(what, "tensor scale", counted(o, layer, pass, TENSOR_SCALE), (double)c->tensor_scale);
}

static void compare_quantization(const char *what, const struct operations *o, int layer, enum operation_pass pass,
                    const struct mls_counts *c)
{
    assert_count(what, "maximum", counted(o, layer, pass, QUANTIZE_MAXIMUM), (double)c->maximum);
    assert_count(what, "division", counted(o, layer, pass, QUANTIZE_DIVISION), (double)c->division);
    assert_count(what, "scaling", counted(o, layer, pass, QUANTIZE_SCALING), (double)c->scaling);
    assert_count(what, "rounding", counted(o, layer, pass, QUANTIZE_ROUNDING), (double)c->rounding);
    assert_count(what, "random bits", counted(o, layer, pass, QUANTIZE_RANDOM), (double)c->random_bits);
}

static void quantize_random(const struct mls_format *format, enum mls_operand operand, const int dims[4], int groups,
                            struct mls_tensor *out, struct mls_counts *counts)
{
    size_t n = (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3];
    float *values = memory_allocate(n, sizeof(float), NULL);
    struct random_stream stream = {n, 0};
    for (size_t i = 0; i < n; i++) values[i] = random_normal(&stream);
    assert_true(mls_quantize_counted(format, operand, values, dims, groups, 7, out, counts, NULL));
    memory_release(values);
}

// Runs the reference on tensors of the layer's shapes; the layer's options are read again from its section.
static void check_layer(const char *what, const struct network *network, int index, const struct operations *o)
{
    const struct layer *layer = network->layers[index];
    struct mls_settings settings = {0};
    struct { int size, stride, padding, groups; } window = {0};
    static const struct option_description options[] = {
        {"size", OPTION_INT, 0, 1, 9, "1", NULL, ""}, {"stride", OPTION_INT, 4, 1, 9, "1", NULL, ""},
        {"padding", OPTION_INT, 8, 0, 9, "0", NULL, ""}, {"groups", OPTION_INT, 12, 1, 99, "1", NULL, ""}, {0}};
    struct diagnostics diagnostics = {0};
    assert_true(options_read(mls_option_table, layer->section, &settings, &diagnostics));
    assert_true(options_read(options, layer->section, &window, &diagnostics));
    int mls;
    struct mls_format formats[3];
    mls_settings_resolve(&settings, &network->settings.mls, &mls, formats);
    struct shape in = layer->input_shape;
    struct convolution_shape s = {.images = IMAGES, .in_channels = in.channels, .in_height = in.height, .in_width = in.width,
                                  .out_channels = layer->output_shape.channels, .kernel_height = window.size, .kernel_width = window.size,
                                  .stride = window.stride, .padding = window.padding, .groups = window.groups};
    assert_true(convolution_shape_complete(&s, NULL));
    assert_int_equal(s.out_height, layer->output_shape.height);
    const int dims[3][4] = {{s.out_channels, s.in_channels / s.groups, window.size, window.size},
                            {IMAGES, s.in_channels, s.in_height, s.in_width}, {IMAGES, s.out_channels, s.out_height, s.out_width}};
    struct mls_tensor tensors[3];
    struct mls_counts forward = {0}, backward = {0}, passes[3] = {{0}, {0}, {0}};
    for (int k = 0; k < 3; k++)
        quantize_random(&formats[k], (enum mls_operand)k, dims[k], s.groups, &tensors[k], k == MLS_ERROR ? &backward : &forward);
    float *result = memory_allocate(32768, sizeof(float), NULL);
    mls_convolution_forward_counted(&s, &tensors[0], &tensors[1], result, &passes[0]);
    if (index > 0) mls_convolution_input_error_counted(&s, &tensors[0], &tensors[2], result, &passes[1]);
    mls_convolution_weight_gradient_counted(&s, &tensors[1], &tensors[2], result, &passes[2]);
    compare_quantization(what, o, index, IN_FORWARD, &forward);
    compare_quantization(what, o, index, IN_BACKWARD, &backward);
    compare_convolution(what, o, index, IN_FORWARD, &passes[0]);
    compare_convolution(what, o, index, IN_INPUT_ERROR, &passes[1]);
    compare_convolution(what, o, index, IN_WEIGHT_GRADIENT, &passes[2]);
    assert_true(passes[0].element_multiply > 0 && passes[2].element_multiply > 0);
    memory_release(result);
    for (int k = 0; k < 3; k++) mls_tensor_release(&tensors[k]);
}

static void check_network(const char *net_options, const char *middle)
{
    char text[2048];
    snprintf(text, sizeof text, "[net]\nbatch=%d\nheight=6\nwidth=5\nchannels=2\n%s\n"
             "[conv]\nfilters=18\nsize=3\npadding=1\nactivation=relu\nbatch_normalize=1\n[conv]\nactivation=relu\nfilters=12\n%s\n"
             "[conv]\nfilters=5\nsize=1\nactivation=linear\n[connected]\noutput=3\n[softmax]\n", IMAGES, net_options, middle);
    struct built b;
    build(&b, text);
    struct operations o = count(b.network, true, NULL), inference = count(b.network, false, NULL);
    for (int i = 0; i < 3; i++) check_layer(text, b.network, i, &o);
    // Inference has its weights quantized already, and rounds to nearest.
    assert_count(text, "rounding in inference", counted(&inference, 0, IN_FORWARD, QUANTIZE_ROUNDING), IMAGES * 2 * 30);
    assert_count(text, "random bits in inference", counted(&inference, -1, IN_FORWARD, QUANTIZE_RANDOM), 0);
    operations_release(&inference);
    operations_release(&o);
    release(&b);
}

static const char *const middles[] = {
    "size=3\npadding=1", "size=3\npadding=1\nstride=2", "size=1\nstride=2", "size=4\npadding=3\nstride=3\ngroups=2",
    "size=3\npadding=4\nstride=1", "size=3\npadding=1\ngroups=6\nstride=2", "size=2\nstride=4", "size=9\npadding=2"};

// All groupings and group sizes (1000: whole), all windows of `middles`.
static void test_groupings(void **state)
{
    (void)state;
    static const char *const groups[] = {"none", "n", "c", "nc"};
    static const int sizes[] = {1, 4, 16, 1000};
    for (int g = 0; g < 4; g++)
        for (int s = 0; s < 4; s++)
            for (size_t m = 0; m < sizeof middles / sizeof middles[0]; m++) {
                char options[128];
                snprintf(options, sizeof options, "group=%s\ngroup_size=%d", groups[g], sizes[s]);
                check_network(options, middles[m]);
            }
}

// Operands that differ, scale kinds, rounding, element formats with 16 and 24 working bits.
static void test_formats(void **state)
{
    (void)state;
    static const char *const options[] = {
        "weight_group=nc\nweight_group_size=4\nactivation_group=nc\nactivation_group_size=6\nerror_group=c\nerror_group_size=5",
        "weight_group=n\nweight_group_size=3\nactivation_group=none\nerror_group=none",
        "weight_group=none\nactivation_group=c\nactivation_group_size=7\nerror_group=n",
        "scale_exponent=2\nscale_mantissa=0", "scale_exponent=1\nscale_mantissa=1\nrounding=stochastic", "rounding=nearest",
        "exponent=0\nmantissa=7", "exponent=3\nmantissa=4\nrounding=stochastic", "exponent=3\nmantissa=1\nrounding=stochastic",
        "activation_mantissa=2\nexponent=2\nmantissa=4"};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) check_network(options[i], middles[i % 4]);
}

// fixedK and bfpK are run by the same reference; what they do not need is not counted: fixedK has no group scales, bfpK no tensor
// scale, and powers of two need no division.
static void test_presets(void **state)
{
    (void)state;
    static const char *const names[] = {"fixed4", "bfp4"};
    for (int k = 0; k < 2; k++) {
        char text[512];
        struct built b;
        snprintf(text, sizeof text, "[net]\nbatch=%d\nheight=6\nwidth=5\nchannels=20\nformat=%s\n%s"
                 "[conv]\nfilters=18\nsize=3\npadding=1\nactivation=relu\n[connected]\noutput=3\n[softmax]\n", IMAGES, names[k],
                 k ? "group_size=8\n" : "");
        build(&b, text);
        struct operations o = count(b.network, true, NULL);
        double products = IMAGES * 18 * 20 * (3 * 6 - 2) * (3 * 5 - 2), results = IMAGES * 18 * 30;
        assert_count(names[k], "element multiply", counted(&o, 0, IN_FORWARD, ELEMENT_MULTIPLY), products);
        assert_count(names[k], "element accumulate", counted(&o, 0, IN_WEIGHT_GRADIENT, ELEMENT_ACCUMULATE), products);
        assert_count(names[k], "group scale", counted(&o, 0, IN_FORWARD, GROUP_SCALE), k ? 3 * results : 0);
        assert_count(names[k], "group accumulate", counted(&o, 0, IN_FORWARD, GROUP_ACCUMULATE), k ? 3 * results : 0);
        assert_count(names[k], "gradient's group scale", counted(&o, 0, IN_WEIGHT_GRADIENT, GROUP_SCALE), k ? IMAGES * 18 * 20 * 9 : 0);
        assert_count(names[k], "tensor scale", counted(&o, 0, IN_FORWARD, TENSOR_SCALE), k ? 0 : results);
        assert_count(names[k], "maximum", counted(&o, 0, IN_BACKWARD, QUANTIZE_MAXIMUM), results);
        assert_count(names[k], "division", counted(&o, 0, IN_BACKWARD, QUANTIZE_DIVISION), k ? 0 : 1);
        assert_count(names[k], "random bits", counted(&o, 0, IN_BACKWARD, QUANTIZE_RANDOM), 16 * results);
        operations_release(&o);
        release(&b);
    }
}

// Each operand's elements have the bits of their own format, whatever the others are; behind a ReLU floats keep their sign.
static void test_signs(void **state)
{
    (void)state;
    static const struct { const char *options; double bits[3]; } rows[] = {
        {"mantissa=2\n", {5, 4, 5}}, {"format=bfp4\n", {4, 3, 4}}, {"format=mxfp4\n", {4, 4, 4}}, {"format=fp8_e4m3\n", {8, 8, 8}},
        {"weight_format=fp8_e4m3\n", {8, 3, 4}}, {"activation_format=mxint8\n", {4, 8, 4}}, {"error_format=fp8_e5m2\n", {4, 3, 8}}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct built b;
        char text[512];
        snprintf(text, sizeof text, "[net]\nbatch=3\nheight=6\nwidth=5\n%s[conv]\nmls=0\nfilters=20\nactivation=relu\n"
                 "[conv]\nfilters=12\nactivation=linear\n[connected]\n[softmax]\n", rows[i].options);
        build(&b, text);
        struct operations o = count(b.network, true, NULL);
        for (size_t k = 0; k < o.traffic_count; k++)
            if (o.traffic[k].low_bit && !o.traffic[k].scales && o.traffic[k].bits != rows[i].bits[o.traffic[k].operand])
                fail_msg("%s%s have %g bits", rows[i].options, operand_names[o.traffic[k].operand], o.traffic[k].bits);
        operations_release(&o);
        release(&b);
    }
}

// Groups of one pixel (Microscaling): loops over all products.
static void test_pixel_groups(void **state)
{
    (void)state;
    const struct convolution_shape s = {.images = IMAGES, .in_channels = 40, .in_height = 5, .in_width = 4,
                                        .out_channels = 6, .out_height = 3, .out_width = 2, .kernel_height = 3, .kernel_width = 3,
                                        .stride = 2, .padding = 1, .groups = 1};
    struct arithmetic mx = {.sum_exponent = 8, .sum_mantissa = 23};
    for (int k = 0; k < 3; k++)
        mx.operands[k] = (struct operand_format){.exponent = 2, .mantissa = 1, .scale = SCALE_BLOCK, .group = MLS_GROUP_NC,
                                                 .group_size = 32,
                                                 .each_pixel = true, .scale_exponent = 8};
    struct operations o = {.images = IMAGES, .training = true, .backward = true, .passes_error = true};
    operations_of_convolution(&o, &s, &mx, false);
    double pairs = 0;
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 2; x++)
            for (int k = 0; k < 9; k++) {
                int r = 2 * y + k / 3 - 1, c = 2 * x + k % 3 - 1;
                pairs += r >= 0 && r < 5 && c >= 0 && c < 4;
            }
    assert_true(counted(&o, 0, IN_FORWARD, ELEMENT_MULTIPLY) == IMAGES * 6 * 40 * pairs);
    assert_true(counted(&o, 0, IN_FORWARD, GROUP_ACCUMULATE) == IMAGES * 6 * 2 * pairs);      // 40 channels are two blocks
    assert_true(counted(&o, 0, IN_INPUT_ERROR, GROUP_ACCUMULATE) == IMAGES * 40 * 6 * pairs); // each has its weights' own scale
    assert_true(counted(&o, 0, IN_WEIGHT_GRADIENT, GROUP_ACCUMULATE) == IMAGES * 6 * 40 * pairs);
    assert_true(counted(&o, 0, IN_FORWARD, TENSOR_SCALE) == 0);
    operations_release(&o);
}

// ---------------------------------------------------------------------------------------------
// The rest of a network, counted by hand

static void test_other_layers(void **state)
{
    (void)state;
    struct built b;
    build(&b, "[net]\nbatch=3\nheight=6\nwidth=6\nchannels=2\nmls=0\n"
              "[conv]\nfilters=4\nsize=3\npadding=1\nbatch_normalize=1\nactivation=relu\n"
              "[conv]\nfilters=4\nsize=3\npadding=1\nactivation=linear\n"
              "[shortcut]\nfrom=-2\nactivation=relu\n[maxpool]\nsize=3\nstride=2\n[avgpool]\n"
              "[dropout]\n[connected]\noutput=5\nactivation=linear\n[softmax]\n");
    struct operations o = count(b.network, true, NULL);
    assert_true(counted(&o, 0, IN_FORWARD, FLOAT_LAYER) == 3 * 4 * 2 * 16 * 16);    // per axis 6 * 3 positions less the two outside
    assert_true(counted(&o, 0, IN_INPUT_ERROR, FLOAT_LAYER) == 0);
    assert_true(counted(&o, 0, IN_WEIGHT_GRADIENT, FLOAT_LAYER) == 3 * 4 * 2 * 16 * 16);
    assert_true(counted(&o, 1, IN_INPUT_ERROR, FLOAT_LAYER) == 3 * 4 * 4 * 16 * 16);
    assert_true(counted(&o, 0, IN_FORWARD, BATCH_NORM) == 3 * 4 * 36 + 4);
    assert_true(counted(&o, 0, IN_BACKWARD, BATCH_NORM) == 3 * 4 * 36 + 4);
    assert_true(counted(&o, 0, IN_BACKWARD, RESIDUAL_ADD) == 3 * 4 * 36);           // read by layers 1 and 2
    assert_true(counted(&o, 2, IN_FORWARD, RESIDUAL_ADD) == 3 * 4 * 36);
    assert_true(counted(&o, 2, IN_BACKWARD, ACTIVATION) == 3 * 4 * 36);
    assert_true(counted(&o, 3, IN_FORWARD, POOLING) == 3 * 4 * 8 * 8);              // windows begin at -1, 1, 3: 2 + 3 + 3 positions
    assert_true(counted(&o, 4, IN_FORWARD, POOLING) == 3 * 4 * 9 + 3 * 4);
    assert_true(counted(&o, 6, IN_WEIGHT_GRADIENT, FLOAT_LAYER) == 3 * 4 * 5);
    assert_true(counted(&o, -1, IN_UPDATE, OPTIMIZER) == 72 + 8 + 144 + 4 + 20 + 5);
    struct operations inference = count(b.network, false, NULL);
    for (size_t i = 0; i < inference.count; i++) assert_int_equal(inference.items[i].pass, IN_FORWARD);
    assert_true(counted(&inference, -1, IN_FORWARD, FLOAT_LAYER) == counted(&o, -1, IN_FORWARD, FLOAT_LAYER));
    operations_release(&inference);
    operations_release(&o);
    release(&b);
}

// How often one operation of the layer, OTHER of this pass, needs a type of unit.
static double units_of(const struct operations *o, int layer, enum operation_pass pass, enum unit_type type)
{
    double times = 0;
    for (size_t i = 0; i < o->count; i++)
        for (int k = 0; k < MOST_UNITS; k++)
            if (o->items[i].layer == layer && o->items[i].pass == pass && o->items[i].kind == OTHER && o->items[i].units[k].type == type)
                times += o->items[i].units[k].times;
    return times;
}

// What Darknet's other cfgs have.
static void test_darknet_layers(void **state)
{
    (void)state;
    struct built b;
    build(&b, "[net]\nbatch=3\nheight=6\nwidth=6\nchannels=2\nmls=0\n[conv]\nfilters=4\nsize=1\nactivation=linear\n"
              "[local]\nfilters=3\nsize=3\nstride=2\nactivation=linear\n[shortcut]\nfrom=0\n"
              "[connected]\noutput=6\nactivation=linear\n[softmax]\ngroups=2\ntemperature=3\n");
    struct operations o = count(b.network, true, NULL);
    for (int pass = IN_FORWARD; pass <= IN_WEIGHT_GRADIENT; pass++)
        assert_true(counted(&o, 1, (enum operation_pass)pass, FLOAT_LAYER) == 3 * (2 * 2) * 3 * (4 * 9));
    assert_true(counted(&o, 1, IN_FORWARD, ACTIVATION) == 3 * 3 * (2 * 2)); // the bias
    assert_true(counted(&o, 1, IN_UPDATE, OPTIMIZER) == 4 * 3 * 36 + 3 * 4);
    assert_true(counted(&o, 2, IN_FORWARD, RESIDUAL_ADD) == 3 * 3 * (2 * 2)); // every third pixel, the channels that both have
    assert_true(counted(&o, 4, IN_FORWARD, OTHER) == 3 * 6);
    assert_true(units_of(&o, 4, IN_FORWARD, FLOAT_FUNCTION) == 3);
    assert_true(counted(&o, 4, IN_BACKWARD, OTHER) == 3 * 3); // the group with the label
    operations_release(&o);
    release(&b);
    build(&b, "[net]\nbatch=3\nheight=6\nwidth=6\nchannels=2\n[connected]\noutput=5\n[connected]\noutput=7\n"
              "[softmax]\ntree=tests/golden/classes.tree\n");
    o = count(b.network, true, NULL);
    assert_true(counted(&o, 2, IN_FORWARD, OTHER) == 3 * (7 + 5));
    assert_true(fabs(counted(&o, 2, IN_BACKWARD, OTHER) - 3 * (3 * (2 + 3) + 2 * (2 + 2)) / 5.0) < 1e-9);
    operations_release(&o);
    release(&b);
    static const struct { const char *layer; double forward[3], backward[3]; } costs[] = { // additions, comparisons, multiplications
        {"[cost]\n", {2, 0, 1}, {1, 0, 2}},
        {"[cost]\ntype=L1\nscale=2\n", {2, 0, 1}, {1, 1, 2}},
        {"[cost]\ntype=smooth\n", {3, 1, 1}, {1, 1, 2}}};
    static const enum unit_type types[3] = {FLOAT_ADD, INTEGER_ADD, FLOAT_MULTIPLY};
    for (size_t i = 0; i < sizeof costs / sizeof costs[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, "[net]\nbatch=3\nheight=6\nwidth=6\nchannels=2\n[connected]\noutput=5\n[connected]\noutput=7\n%s",
                 costs[i].layer);
        build(&b, text);
        o = count(b.network, true, NULL);
        assert_true(counted(&o, 2, IN_FORWARD, OTHER) == 3 * 7 && counted(&o, 2, IN_BACKWARD, OTHER) == 3 * 7);
        for (int k = 0; k < 3; k++) {
            assert_true(units_of(&o, 2, IN_FORWARD, types[k]) == costs[i].forward[k]);
            assert_true(units_of(&o, 2, IN_BACKWARD, types[k]) == costs[i].backward[k]);
        }
        operations_release(&o);
        release(&b);
    }
}

// Every layer type says what it computes; [route] moves data alone.
static void test_all_types(void **state)
{
    (void)state;
    for (int i = 0; layer_types[i]; i++)
        if (!layer_types[i]->operations) fail_msg("[%s] has no operations", layer_types[i]->name);
}

// ---------------------------------------------------------------------------------------------
// Widths and prices

static void test_widths(void **state)
{
    (void)state;
    for (int e = 0; e <= 3; e++)
        for (int m = e == 0; m <= 7; m++) {
            struct mls_format mls = {.exponent = e, .mantissa = m, .group_size = 1};
            const struct mls_format formats[3] = {mls, mls, mls};
            struct arithmetic a = arithmetic_of_formats(formats);
            double largest = mls_largest_integer(&mls);
            for (double n = 1; n < 3e5; n *= 9) {
                int bits = sum_bits(&a.operands[0], &a.operands[1], n);
                assert_true(largest * largest * n < ldexp(1, bits - 1));
                assert_true(largest * largest * n >= ldexp(1, bits - 2));
            }
            assert_int_equal(operand_bits(&a.operands[0]), 1 + e + m);
            a.operands[0].nonnegative = true;
            assert_int_equal(operand_bits(&a.operands[0]), e + m);
            assert_int_equal(sum_bits(&a.operands[0], &a.operands[1], 4), sum_bits(&a.operands[1], &a.operands[1], 4));
            a.operands[1].nonnegative = true;
            assert_int_equal(sum_bits(&a.operands[0], &a.operands[1], 4) + 1, sum_bits(&a.operands[2], &a.operands[2], 4));
        }
}

// The units of an operation, of all its items together, are those of the list and no others.
static void expect_units(const char *what, const struct operations *o, int layer, enum operation_pass pass, enum operation_kind kind,
                         const struct unit *expected)
{
    struct unit found[8 * MOST_UNITS];
    int count = 0;
    for (size_t i = 0; i < o->count; i++) {
        const struct operation *item = &o->items[i];
        if (item->layer != layer || item->pass != pass || item->kind != kind) continue;
        for (int k = 0; k < MOST_UNITS && item->units[k].type != NO_UNIT; k++)
            if (item->units[k].times > 0) found[count++] = item->units[k];
    }
    for (; expected->type != NO_UNIT; expected++) {
        double left = expected->times;
        for (int k = 0; k < count; k++) {
            struct unit *f = &found[k];
            if (f->type != expected->type || f->width != expected->width || f->second != expected->second) continue;
            left -= f->times;
            f->times = 0;
        }
        if (left != 0)
            fail_msg("%s: %s, %s: %g of %s %d %d expected, %g more than there are", what, operation_pass_names[pass],
                     operation_kind_names[kind], expected->times, unit_names[expected->type], expected->width, expected->second, left);
    }
    for (int k = 0; k < count; k++)
        if (found[k].times != 0)
            fail_msg("%s: %s, %s: %g of %s %d %d too many", what, operation_pass_names[pass], operation_kind_names[kind], found[k].times,
                     unit_names[found[k].type], found[k].width, found[k].second);
}

static void count_units(struct operations *o, const char *options, const struct arithmetic *instead)
{
    struct built b;
    char text[1024];
    snprintf(text, sizeof text, "[net]\nheight=8\nwidth=8\n%s[conv]\nmls=0\nfilters=8\nactivation=relu\n"
             "[conv]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n"
             "[connected]\noutput=2\nactivation=logistic\n[softmax]\n", options);
    build(&b, text);
    *o = count(b.network, true, instead);
    release(&b);
}

// cfg/energy/README.md's table of units. <2,1>, activations <2,2> without a sign: a sum of 9 * 12 * 28 has 12 bits and a sign.
static void test_units(void **state)
{
    (void)state;
    struct operations o;
    const char *what = "<2,1>, a <2,2>, size 1";
    count_units(&o, "group_size=1\nactivation_mantissa=2\n", NULL);
    expect_units(what, &o, 1, IN_FORWARD, ELEMENT_MULTIPLY, UNITS({INTEGER_MULTIPLY, 1, 2, 3}, {INTEGER_ADD, 1, 3, 0}, {SHIFT, 1, 9, 4}));
    expect_units(what, &o, 1, IN_FORWARD, ELEMENT_ACCUMULATE, UNITS({INTEGER_ADD, 1, 13, 0}));
    expect_units(what, &o, 1, IN_FORWARD, GROUP_SCALE,
                 UNITS({INTEGER_ADD, 1, 9, 0}, {INTEGER_ADD, 1, 8, 0}, {INTEGER_MULTIPLY, 1, 2, 2}, {INTEGER_ADD, 2, 15, 0}));
    expect_units(what, &o, 1, IN_FORWARD, GROUP_ACCUMULATE, UNITS({INTEGER_ADD, 1, 13, 0}, {SHIFT, 1, 13, 13}, {FLOAT_ADD, 1, 8, 23}));
    expect_units(what, &o, 1, IN_FORWARD, TENSOR_SCALE, UNITS({FLOAT_MULTIPLY, 1, 8, 23}));
    expect_units(what, &o, 1, IN_BACKWARD, QUANTIZE_MAXIMUM, UNITS({INTEGER_ADD, 1, 32, 0}));
    expect_units(what, &o, 1, IN_BACKWARD, QUANTIZE_DIVISION,
                 UNITS({FLOAT_FUNCTION, 2, 0, 0}, {INTEGER_ADD, 1, 32, 0}, {FLOAT_MULTIPLY, 1, 8, 23}));
    expect_units(what, &o, 1, IN_BACKWARD, QUANTIZE_SCALING, UNITS({FLOAT_MULTIPLY, 1, 8, 23}, {INTEGER_ADD, 1, 8, 0}));
    expect_units(what, &o, 1, IN_BACKWARD, QUANTIZE_ROUNDING, UNITS({SHIFT, 1, 24, 24}, {INTEGER_ADD, 3, 16, 0}, {SHIFT, 1, 16, 16}));
    expect_units(what, &o, 1, IN_BACKWARD, QUANTIZE_RANDOM, UNITS({RANDOM_BIT, 1, 1, 0}));
    operations_release(&o);

    what = "<0,3>, scales <8,0>, whole tensor"; // a sum of 9 * 8 * 7 * 7: 12 bits and a sign
    count_units(&o, "exponent=0\nmantissa=3\ngroup=none\nscale_mantissa=0\n", NULL);
    expect_units(what, &o, 1, IN_FORWARD, ELEMENT_MULTIPLY, UNITS({INTEGER_MULTIPLY, 1, 3, 3}));
    expect_units(what, &o, 1, IN_FORWARD, ELEMENT_ACCUMULATE, UNITS({INTEGER_ADD, 1, 13, 0}));
    expect_units(what, &o, 1, IN_FORWARD, GROUP_SCALE, UNITS({INTEGER_ADD, 1, 9, 0}, {INTEGER_ADD, 1, 8, 0}));
    expect_units(what, &o, 1, IN_BACKWARD, QUANTIZE_ROUNDING, UNITS({SHIFT, 1, 24, 24}, {INTEGER_ADD, 2, 16, 0}, {SHIFT, 1, 16, 16}));
    operations_release(&o);

    what = "scales of one operand with a mantissa";
    count_units(&o, "weight_scale_mantissa=0\nscale_exponent=3\nexponent=3\nmantissa=6\n", NULL); // 9 * 8 * 8128^2: 33 bits, a sign
    expect_units(what, &o, 1, IN_FORWARD, GROUP_SCALE, UNITS({INTEGER_ADD, 1, 4, 0}, {INTEGER_ADD, 1, 8, 0}, {INTEGER_ADD, 1, 36, 0}));
    expect_units(what, &o, 1, IN_FORWARD, GROUP_ACCUMULATE,
                 UNITS({INTEGER_ADD, 1, 34, 0}, {SHIFT, 1, 34, 34}, {INTEGER_ADD, 1, 24, 0}, {FLOAT_ADD, 1, 8, 23}));
    expect_units(what, &o, 1, IN_BACKWARD, QUANTIZE_ROUNDING, UNITS({SHIFT, 2, 24, 24}, {INTEGER_ADD, 3, 24, 0}));
    operations_release(&o);

    count_units(&o, "format=fixed4\n", NULL);
    expect_units("fixed4", &o, 1, IN_FORWARD, TENSOR_SCALE, UNITS({INTEGER_ADD, 1, 13, 0}, {SHIFT, 1, 13, 13}, {FLOAT_MULTIPLY, 1, 8, 23}));
    expect_units("fixed4", &o, 1, IN_BACKWARD, QUANTIZE_DIVISION, UNITS({FLOAT_FUNCTION, 1, 0, 0}));
    operations_release(&o);

    count_units(&o, "format=mxfp4\n", NULL); // 8 products of 12 * 12: 11 bits and a sign
    expect_units("mxfp4", &o, 1, IN_FORWARD, GROUP_SCALE, UNITS({INTEGER_ADD, 1, 9, 0}, {INTEGER_ADD, 1, 8, 0}));
    expect_units("mxfp4", &o, 1, IN_FORWARD, ELEMENT_ACCUMULATE, UNITS({INTEGER_ADD, 1, 12, 0}));
    expect_units("mxfp4", &o, 1, IN_BACKWARD, QUANTIZE_SCALING, UNITS({INTEGER_ADD, 1, 8, 0}));
    expect_units("mxfp4", &o, 1, IN_BACKWARD, QUANTIZE_DIVISION, UNITS({NO_UNIT, 0, 0, 0}));
    operations_release(&o);

    count_units(&o, "format=mxfp8_e4m3\nerror_format=mxfp8_e5m2\n", NULL);
    expect_units("mxfp8", &o, 1, IN_INPUT_ERROR, ELEMENT_MULTIPLY, UNITS({INTEGER_MULTIPLY, 1, 4, 3}, {INTEGER_ADD, 1, 6, 0}));
    expect_units("mxfp8", &o, 1, IN_INPUT_ERROR, ELEMENT_ACCUMULATE, UNITS({FLOAT_ADD, 1, 8, 23}));
    expect_units("mxfp8", &o, 1, IN_INPUT_ERROR, GROUP_ACCUMULATE, UNITS({FLOAT_ADD, 1, 8, 23}));
    expect_units("mxfp8", &o, 1, IN_BACKWARD, QUANTIZE_ROUNDING, UNITS({INTEGER_ADD, 1, 24, 0}));
    operations_release(&o);

    struct arithmetic rounded = {.sum_exponent = 5, .sum_mantissa = 10,
                                 .operands = {{.exponent = 4, .mantissa = 3}, {.exponent = 4, .mantissa = 3},
                                              {.exponent = 3, .mantissa = 6}}};
    count_units(&o, "", &rounded);
    expect_units("rounded", &o, 1, IN_INPUT_ERROR, ELEMENT_MULTIPLY, UNITS({FLOAT_MULTIPLY, 1, 4, 6}));
    expect_units("rounded", &o, 1, IN_INPUT_ERROR, ELEMENT_ACCUMULATE, UNITS({FLOAT_ADD, 1, 5, 10}));
    operations_release(&o);
}

// The rest of the network, and the optimizer with all that it may do.
static void test_float_units(void **state)
{
    (void)state;
    struct operations o;
    const char *what = "fp32 work";
    count_units(&o, "", NULL);
    expect_units(what, &o, 1, IN_FORWARD, BATCH_NORM,
                 UNITS(FP32_MULTIPLY(2 + 10), FP32_ADD(3 + 6), {FLOAT_FUNCTION, 2, 0, 0})); // an element and a channel
    expect_units(what, &o, 1, IN_BACKWARD, BATCH_NORM, UNITS(FP32_MULTIPLY(3 + 6), FP32_ADD(5 + 4)));
    operations_release(&o);
    static const struct training_settings all = {.momentum = 0.9f, .decay = 1e-4f, .nesterov = 1}, plain = {.momentum = 0.9f},
                                          everywhere = {.decay = 1e-4f, .decay_all = 1};
    static const struct { const struct training_settings *training; double weights, biases; } rows[] = {
        {&all, 4, 3}, {&plain, 2, 2}, {&everywhere, 3, 3}};
    struct built b;
    build(&b, "[net]\nheight=8\nwidth=8\n[connected]\noutput=2\nactivation=leaky\n[connected]\noutput=2\nactivation=logistic\n[softmax]\n");
    for (size_t i = 0; i < 3; i++) {
        o = (struct operations){.images = 1, .training = true};
        assert_true(network_operations(b.network, rows[i].training, &o));
        double steps = rows[i].weights + rows[i].biases;
        expect_units(what, &o, 0, IN_UPDATE, OPTIMIZER, UNITS(FP32_MULTIPLY(steps), FP32_ADD(steps)));
        expect_units(what, &o, 0, IN_FORWARD, ACTIVATION, UNITS(FP32_ADD(1), FP32_COMPARE(1), FP32_MULTIPLY(1)));
        expect_units(what, &o, 0, IN_BACKWARD, ACTIVATION, UNITS(FP32_ADD(1), FP32_COMPARE(1), FP32_MULTIPLY(1)));
        expect_units(what, &o, 1, IN_FORWARD, ACTIVATION, UNITS(FP32_ADD(1), {FLOAT_FUNCTION, 2, 0, 0}));
        expect_units(what, &o, 1, IN_BACKWARD, ACTIVATION, UNITS(FP32_ADD(1), FP32_COMPARE(1), FP32_MULTIPLY(2)));
        expect_units(what, &o, 0, IN_FORWARD, FLOAT_LAYER, UNITS(FP32_MULTIPLY(1), FP32_ADD(1)));
        operations_release(&o);
    }
    release(&b);
}

static struct energy_table *read_table(void)
{
    struct diagnostics diagnostics = {.path = "cfg/energy/horowitz-45nm.cfg"};
    struct energy_table *table = energy_table_read(diagnostics.path, &diagnostics);
    if (!table) fail_msg("%s", diagnostics.text);
    diagnostics.path = "cfg/energy/formats.cfg";
    if (!energy_table_read_formats(table, diagnostics.path, &diagnostics)) fail_msg("%s", diagnostics.text);
    return table;
}

static void assert_close(double a, double b)
{
    if (fabs(a - b) > 1e-6 * (fabs(a) + fabs(b))) fail_msg("%.9g, expected %.9g", a, b);
}

static void test_prices(void **state)
{
    (void)state;
    struct energy_table *table = read_table();
    static const struct { struct unit unit; double pj; } rows[] = {
        {{INTEGER_ADD, 1, 8, 0}, 0.03}, {{INTEGER_ADD, 1, 32, 0}, 0.1}, {{INTEGER_ADD, 2, 20, 0}, 0.13}, {{INTEGER_MULTIPLY, 1, 8, 8}, 0.2},
        {{INTEGER_MULTIPLY, 1, 32, 32}, 3.1}, {{INTEGER_MULTIPLY, 1, 16, 34}, 0.2 + 2.9 * 480 / 960}, {{FLOAT_ADD, 1, 5, 10}, 0.4},
        {{FLOAT_ADD, 3, 8, 23}, 2.7},
        {{FLOAT_MULTIPLY, 1, 5, 10}, 1.1}, {{FLOAT_MULTIPLY, 1, 8, 23}, 3.7}, {{FLOAT_MULTIPLY, 1, 8, 7}, 1.1 - 2.6 * 57 / 455},
        {{SHIFT, 1, 14, 4}, 0.042}, {{SHIFT, 1, 14, 0}, 0}, {{RANDOM_BIT, 16, 1, 0}, 0.048}, {{FLOAT_MULTIPLY, 0, 8, 23}, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) assert_close(unit_energy(&table->prices, &rows[i].unit), rows[i].pj);
    for (int type = INTEGER_ADD; type <= FLOAT_MULTIPLY; type++) // more bits never take less
        for (int bits = 1; bits < 40; bits++) {
            struct unit narrow = {(enum unit_type)type, 1, bits, bits}, wide = {(enum unit_type)type, 1, bits + 1, bits + 1};
            assert_true(unit_energy(&table->prices, &narrow) <= unit_energy(&table->prices, &wide));
        }
    energy_table_release(table);
}

// One product and its accumulation in <2,4>, 3x3, group size 1, from the figures: 5 x 5 bits, 3 bits of exponents, 14 bits
// shifted by up to 4 places; a sum of 9 * 124^2 has 18 bits and a sign.
static void test_element_energy(void **state)
{
    (void)state;
    struct energy_table *table = read_table();
    struct built b;
    build(&b, "[net]\nheight=8\nwidth=8\nmantissa=4\ngroup_size=1\n"
              "[conv]\nfilters=4\nsize=3\npad=1\nactivation=linear\n[connected]\n[softmax]\n");
    struct operations o = count(b.network, true, NULL);
    double line = 2.9 / 960, adder = 0.07 / 24;
    for (size_t i = 0; i < o.count; i++) {
        if (o.items[i].pass != IN_FORWARD) continue;
        double pj = operation_energy(&table->prices, &o.items[i]);
        if (o.items[i].kind == ELEMENT_MULTIPLY) assert_close(pj, 0.2 + line * (25 - 64) + 0.03 + adder * (3 - 8) + 0.001 * 14 * 3);
        if (o.items[i].kind == ELEMENT_ACCUMULATE) assert_close(pj, 0.03 + adder * (19 - 8));
    }
    operations_release(&o);
    release(&b);
    energy_table_release(table);
}

// Sums agree with each other; another format's fp32 is the same as the cfg in fp32; the ratios are those of the sums.
static void test_sums(void **state)
{
    (void)state;
    static const char *const layers = "[net]\nheight=9\nwidth=9\n%s[conv]\nfilters=16\nsize=3\npad=1\nbatch_normalize=1\nactivation=relu\n"
                                      "[conv]\nfilters=20\nsize=3\nstride=2\nactivation=leaky\n"
                                      "[avgpool]\n[connected]\noutput=4\nactivation=linear\n[softmax]\n";
    struct energy_table *table = read_table();
    const struct energy_format *fp32 = energy_table_find(table, "fp32"), *fp8 = energy_table_find(table, "fp8");
    struct built b, plain;
    char text[1024];
    snprintf(text, sizeof text, layers, "mantissa=4\n");
    build(&b, text);
    snprintf(text, sizeof text, layers, "mls=0\n");
    build(&plain, text);
    for (int training = 0; training < 2; training++) {
        struct operations own = count(b.network, training, NULL), other = count(b.network, training, &fp32->arithmetic);
        struct operations eight = count(b.network, training, &fp8->arithmetic), expected = count(plain.network, training, &fp8->arithmetic);
        struct energy_sums s = energy_sum(&table->prices, &own, -1);
        double kinds = 0, passes = 0, by_layer = 0;
        double low_bit = 0;
        for (int k = 0; k < OPERATION_KINDS; k++) {
            kinds += s.kinds[k];
            if (k < FLOAT_LAYER) low_bit += s.kinds[k];
        }
        assert_true(low_bit > 0 && s.kinds[QUANTIZE_MAXIMUM] > 0);
        assert_close(low_bit, s.low_bit);
        for (int p = 0; p < OPERATION_PASSES; p++) passes += s.passes[p];
        for (int i = 0; i < b.network->layer_count; i++) by_layer += energy_sum(&table->prices, &own, i).total;
        assert_close(kinds, s.total);
        assert_close(passes, s.total);
        assert_close(by_layer, s.total);
        assert_close(energy_sum(&table->prices, &other, -1).total, energy_sum(&table->prices, &expected, -1).total);
        assert_true(energy_sum(&table->prices, &eight, -1).total > s.total);
        assert_true(energy_sum(&table->prices, &eight, -1).total < energy_sum(&table->prices, &other, -1).total);
        operations_release(&own);
        operations_release(&other);
        operations_release(&eight);
        operations_release(&expected);
    }
    release(&b);
    release(&plain);
    energy_table_release(table);
}

// Operands of a 1x1 convolution from 20 to 12 channels, 6 x 5 pixels, groups of 16 channels: elements and scales. The input is
// behind a ReLU, so <2,4> has 6 bits there.
static void test_traffic(void **state)
{
    (void)state;
    struct built b;
    build(&b, "[net]\nbatch=3\nheight=6\nwidth=5\nmantissa=4\n"
              "[conv]\nmls=0\nfilters=20\nactivation=relu\n[conv]\nfilters=12\nactivation=linear\n[connected]\n[softmax]\n");
    struct operations o = count(b.network, true, NULL);
    struct traffic_row rows[MOST_TRAFFIC_ROWS], total;
    int used = traffic_sum(&o, rows, &total);
    double bytes[3][33] = {{0}}, all = 0;
    for (int i = 0; i < used; i++) {
        bytes[rows[i].operand][(int)rows[i].bits] = rows[i].operand_bytes;
        all += rows[i].bytes;
    }
    assert_close(bytes[MLS_WEIGHT][7], 2 * 240 * 7 / 8.0); // forward and input error
    assert_close(bytes[MLS_WEIGHT][9], 2 * 2 * 9 / 8.0);
    assert_close(bytes[MLS_ACTIVATION][6], 2 * 3 * 20 * 30 * 6 / 8.0);
    assert_close(bytes[MLS_ACTIVATION][9], 2 * 3 * 2 * 9 / 8.0);
    assert_close(bytes[MLS_ERROR][7], 2 * 3 * 12 * 30 * 7 / 8.0);
    assert_close(bytes[MLS_ERROR][9], 2 * 3 * 9 / 8.0);
    assert_close(all, total.bytes);
    operations_release(&o);
    release(&b);
}

// A block of 32 input channels of one weight, of 32 channels of one pixel has a scale of 8 bits; all else in 32.
static void test_traffic_of_blocks(void **state)
{
    (void)state;
    struct built b;
    build(&b, "[net]\nbatch=3\nheight=6\nwidth=5\nchannels=40\nformat=mxfp4\n[conv]\nfilters=12\nsize=3\npad=1\nactivation=linear\n"
              "[connected]\n[softmax]\n");
    struct operations o = count(b.network, true, NULL);
    double elements[3] = {0}, scales[3] = {0}, optimizer = 0;
    for (size_t i = 0; i < o.traffic_count; i++) {
        const struct traffic *t = &o.traffic[i];
        if (t->low_bit && t->pass == IN_FORWARD) *(t->scales ? &scales[t->operand] : &elements[t->operand]) += t->elements * t->bits;
        if (t->low_bit && t->pass == IN_WEIGHT_GRADIENT && t->operand == MLS_ERROR)
            *(t->scales ? &scales[MLS_ERROR] : &elements[MLS_ERROR]) += t->elements * t->bits;
        if (t->pass == IN_UPDATE) optimizer += t->elements * t->bits;
    }
    assert_close(elements[MLS_WEIGHT], 12 * 40 * 9 * 4.0);
    assert_close(scales[MLS_WEIGHT], 12 * 2 * 9 * 8.0);
    assert_close(elements[MLS_ACTIVATION], 3 * 40 * 30 * 4.0);
    assert_close(scales[MLS_ACTIVATION], 3 * 2 * 30 * 8.0);
    assert_close(elements[MLS_ERROR], 3 * 12 * 30 * 4.0);
    assert_close(scales[MLS_ERROR], 3 * 1 * 30 * 8.0);
    assert_close(optimizer, 5 * 32.0 * (12 * 40 * 9 + 12 + 12 * 30 + 1)); // weights and biases: gradient, momentum, weight in; two out
    operations_release(&o);
    release(&b);
}

// ---------------------------------------------------------------------------------------------
// Tables

static void expect_problem(const char *text, const char *part)
{
    struct diagnostics diagnostics = {.path = "t.cfg"};
    assert_null(energy_table_parse("t.cfg", text, strlen(text), &diagnostics));
    assert_contains(diagnostics.text, part);
    diagnostics_release(&diagnostics);
}

#define PRICES \
    "[energy]\ninteger_add_8=1\ninteger_add_32=1\ninteger_multiply_8=1\ninteger_multiply_32=1\n" \
    "float_add_16=1\nfloat_add_32=1\nfloat_multiply_16=1\n" \
    "float_multiply_32=1\nfloat_function=1\nmultiplexer_bit=1\nrandom_bit=1\nsram_bit=1\ndram_bit=1\n"

static void test_bad_tables(void **state)
{
    (void)state;
    expect_problem("", "[energy]");
    expect_problem("[energy]\ninteger_add_8=1\n", "t.cfg:1: [energy] integer_add_32 is missing");
    expect_problem("[energy]\ninteger_add_8=-1\n", "t.cfg:2: [energy] integer_add_8=-1: expected a number from 0");
    expect_problem(PRICES "float_ad_16=1\n", "did you mean float_add_16");
    expect_problem(PRICES PRICES, "second [energy]");
    expect_problem(PRICES "[prices]\n", "unknown section");
    expect_problem(PRICES "[format]\nexponent=4\nmantissa=3\n", "name is missing");
    expect_problem(PRICES "[format]\nname=a\nmantissa=3\n", "expected for all operands");
    expect_problem(PRICES "[format]\nname=a\nexponent=0\nmantissa=0\n", "not both 0");
    expect_problem(PRICES "[format]\nname=a\nexponent=8\nmantissa=7\nsum=integer\n", "at most 5");
    expect_problem(PRICES "[format]\nname=a\nexponent=0\nmantissa=7\n"
                   "[format]\nname=a\nexponent=0\nmantissa=6\n", "second format with name=a");
    expect_problem(PRICES "[format]\nname=a\nexponent=9\nmantissa=7\n", "exponent=9: expected an integer from 0 to 8");
    struct diagnostics diagnostics = {.path = "t.cfg"};
    static const char good[] = PRICES "[format]\nname=a\nexponent=2\nmantissa=1\nactivation_mantissa=2\n"
                                  "sum=integer\nscale=block\nerror_rounding=stochastic\n";
    struct energy_table *table = energy_table_parse("t.cfg", good, strlen(good), &diagnostics);
    if (!table) fail_msg("%s", diagnostics.text);
    const struct arithmetic *a = &energy_table_find(table, "a")->arithmetic;
    assert_int_equal(a->operands[MLS_ACTIVATION].mantissa, 2);
    assert_int_equal(a->operands[MLS_WEIGHT].mantissa, 1);
    assert_int_equal(a->operands[MLS_WEIGHT].rounding, MLS_NEAREST);
    assert_int_equal(a->operands[MLS_ERROR].rounding, MLS_STOCHASTIC);
    assert_null(energy_table_find(table, "b"));
    energy_table_release(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groupings), cmocka_unit_test(test_formats), cmocka_unit_test(test_presets),
        cmocka_unit_test(test_signs), cmocka_unit_test(test_pixel_groups),
        cmocka_unit_test(test_other_layers), cmocka_unit_test(test_darknet_layers), cmocka_unit_test(test_all_types),
        cmocka_unit_test(test_widths), cmocka_unit_test(test_units), cmocka_unit_test(test_float_units), cmocka_unit_test(test_prices),
        cmocka_unit_test(test_element_energy), cmocka_unit_test(test_sums),
        cmocka_unit_test(test_traffic), cmocka_unit_test(test_traffic_of_blocks), cmocka_unit_test(test_bad_tables)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
