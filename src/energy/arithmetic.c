#include "energy/arithmetic.h"

#include <math.h>

// Exact sums within a group, but for the 8-bit floats: those are summed in fp32.
static bool sums_in_integers(const struct mls_format *format)
{
    return mls_has_integers(format) || (format->family == MLS_FAMILY_MICROSCALING && format->exponent <= 3);
}

struct operand_format operand_of_format(const struct mls_format *format)
{
    static const enum scale_kind scales[] = {[MLS_FAMILY_MLS] = SCALE_GROUP, [MLS_FAMILY_FIXED] = SCALE_TENSOR,
                                             [MLS_FAMILY_BLOCK_FLOAT] = SCALE_BLOCK, [MLS_FAMILY_MICROSCALING] = SCALE_BLOCK,
                                             [MLS_FAMILY_FP8] = SCALE_TENSOR};
    return (struct operand_format){
        .exponent = format->exponent, .mantissa = format->mantissa, .always_signed = !mls_has_integers(format),
        .scale = scales[format->family], .group = format->group, .group_size = format->group_size,
        .each_pixel = format->family == MLS_FAMILY_MICROSCALING, .scale_exponent = format->scale_exponent,
        .scale_mantissa = format->scale_mantissa, .rounding = format->rounding};
}

struct arithmetic arithmetic_of_formats(const struct mls_format formats[3])
{
    struct arithmetic arithmetic = {.integer_sum = true, .sum_exponent = 8, .sum_mantissa = 23, .exact_product = true};
    for (int k = 0; k < 3; k++) {
        arithmetic.operands[k] = operand_of_format(&formats[k]);
        arithmetic.integer_sum = arithmetic.integer_sum && sums_in_integers(&formats[k]);
    }
    return arithmetic;
}

int operand_bits(const struct operand_format *format)
{
    return !format->nonnegative + format->exponent + format->mantissa;
}

bool operand_is_fp32(const struct operand_format *format)
{
    return format->exponent == 8 && format->mantissa == 23;
}

static bool has_tensor_scale(const struct operand_format *format)
{
    return format->scale == SCALE_TENSOR || format->scale == SCALE_GROUP;
}

static bool has_groups(const struct operand_format *format)
{
    return format->scale == SCALE_GROUP || format->scale == SCALE_BLOCK;
}

double operand_scale_bits(const struct operand_format *format, double tensors, double groups)
{
    double bits = has_groups(format) ? groups * (format->scale_exponent + format->scale_mantissa) : 0;
    return has_tensor_scale(format) ? bits + 32 * tensors : bits;
}

// ---------------------------------------------------------------------------------------------
// Widths. A float element is a significand of mantissa + 1 bits (the hidden bit, 0 for subnormals) shifted by 0 to
// 2^exponent - 2 places; a fixed-point one is `mantissa` bits.

static int significand_bits(const struct operand_format *format)
{
    return format->mantissa + (format->exponent > 0);
}

static int shift_places(const struct operand_format *format)
{
    return format->exponent ? (1 << format->exponent) - 2 : 0;
}

static double largest_integer(const struct operand_format *format)
{
    return ldexp(1, significand_bits(format) + shift_places(format)) - ldexp(1, shift_places(format));
}

int sum_bits(const struct operand_format *a, const struct operand_format *b, double products)
{
    double largest = largest_integer(a) * largest_integer(b) * products;
    return (int)ceil(log2(largest + 1)) + !(a->nonnegative && b->nonnegative);
}

static int larger(int a, int b)
{
    return a > b ? a : b;
}

// ---------------------------------------------------------------------------------------------
// One convolution of two operands

// A convolution as a sum of products, cut into group pairs.
struct reduction {
    enum operation_pass pass;
    const struct operand_format *a, *b;
    double products, results;
    double groups;  // group pairs, over all results
    double longest; // products of the largest group pair
    bool scaled;
};

static void add_products(struct operations *o, const struct arithmetic *arithmetic, const struct reduction *r)
{
    int a = significand_bits(r->a), b = significand_bits(r->b), exponent = larger(r->a->exponent, r->b->exponent);
    int places = shift_places(r->a) + shift_places(r->b), width = sum_bits(r->a, r->b, r->longest);
    struct unit product = {INTEGER_MULTIPLY, 1, a, b}, exponents = {exponent ? INTEGER_ADD : NO_UNIT, 1, exponent + 1, 0};
    if (!arithmetic->integer_sum) {
        struct unit whole = {FLOAT_MULTIPLY, 1, exponent, larger(r->a->mantissa, r->b->mantissa)};
        operations_add(o, r->pass, ELEMENT_MULTIPLY, r->products, arithmetic->exact_product ? UNITS(product, exponents) : UNITS(whole));
        operations_add(o, r->pass, ELEMENT_ACCUMULATE, r->products,
                       UNITS({FLOAT_ADD, 1, arithmetic->sum_exponent, arithmetic->sum_mantissa}));
        return;
    }
    operations_add(o, r->pass, ELEMENT_MULTIPLY, r->products, UNITS(product, exponents, {SHIFT, 1, a + b + places, places}));
    operations_add(o, r->pass, ELEMENT_ACCUMULATE, r->products, UNITS({INTEGER_ADD, 1, width, 0}));
}

// An integer becomes a float: leading zeros are counted, it is shifted, and rounded if it is wider than 24 bits.
#define CONVERSION(width) {INTEGER_ADD, 1, width, 0}, {SHIFT, 1, width, width}, {INTEGER_ADD, (width) > 24, 24, 0}

// The product of the scales is one of exponents and, where there are mantissas, of those; the sum is then shifted (an addition
// to the exponent), and multiplied: an addition for each single mantissa bit, a multiplier for more.
static void add_groups(struct operations *o, const struct arithmetic *arithmetic, const struct reduction *r)
{
    int width = arithmetic->integer_sum ? sum_bits(r->a, r->b, r->longest) : arithmetic->sum_mantissa + 1;
    int ma = has_groups(r->a) ? r->a->scale_mantissa : 0, mb = has_groups(r->b) ? r->b->scale_mantissa : 0;
    int exponent = larger(has_groups(r->a) ? r->a->scale_exponent : 0, has_groups(r->b) ? r->b->scale_exponent : 0);
    struct unit times = ma <= 1 && mb <= 1 ? (struct unit){INTEGER_ADD, ma + mb, width + 2, 0}
                                           : (struct unit){INTEGER_MULTIPLY, 1, width, ma + mb + 2};
    struct unit mantissas = {INTEGER_MULTIPLY, ma && mb, ma + 1, mb + 1};
    operations_add(o, r->pass, GROUP_SCALE, r->groups, UNITS({INTEGER_ADD, 1, exponent + 1, 0}, {INTEGER_ADD, 1, 8, 0}, mantissas, times));
    operations_add(o, r->pass, GROUP_ACCUMULATE, r->groups,
                   arithmetic->integer_sum ? UNITS(CONVERSION(width), FP32_ADD(1)) : UNITS(FP32_ADD(1)));
}

static void add_reduction(struct operations *o, const struct arithmetic *arithmetic, const struct reduction *r)
{
    add_products(o, arithmetic, r);
    if (r->scaled) add_groups(o, arithmetic, r);
    int width = sum_bits(r->a, r->b, r->longest);
    if (has_tensor_scale(r->a) || has_tensor_scale(r->b))
        operations_add(o, r->pass, TENSOR_SCALE, r->results,
                       arithmetic->integer_sum && !r->scaled ? UNITS(CONVERSION(width), FP32_MULTIPLY(1)) : UNITS(FP32_MULTIPLY(1)));
}

// ---------------------------------------------------------------------------------------------
// Counts of one convolution (mls-format.md section 4)

// Along one axis: products, and the outputs, inputs and taps that have any; each tap k meets the outputs y with
// 0 <= y * stride + k - padding < input.
struct axis {
    double products, outputs, inputs, taps;
};

// Inputs that lie under a tap: inputs r with (r + padding - k) a multiple of stride, for some k < kernel.
static double inputs_reached(int input, int output, int kernel, int stride, int padding)
{
    double reached = 0;
    for (int r = 0; r < input; r++) {
        int last = (r + padding) / stride; // the last window that begins at or before r
        if (last > output - 1) last = output - 1;
        reached += last * stride + kernel > r + padding;
    }
    return reached;
}

static struct axis axis_of(int input, int output, int kernel, int stride, int padding)
{
    struct axis axis = {.products = window_positions(input, output, kernel, stride, padding),
                        .inputs = inputs_reached(input, output, kernel, stride, padding)};
    for (int y = 0; y < output; y++) axis.outputs += y * stride - padding < input && y * stride - padding + kernel > 0;
    for (int k = 0; k < kernel; k++) axis.taps += window_positions(input, output, 1, stride, padding - k) > 0;
    return axis;
}

// Over both axes, for an image and a pair of channels.
static struct axis area_of(const struct convolution_shape *s)
{
    struct axis a = axis_of(s->in_height, s->out_height, s->kernel_height, s->stride, s->padding);
    struct axis b = axis_of(s->in_width, s->out_width, s->kernel_width, s->stride, s->padding);
    return (struct axis){a.products * b.products, a.outputs * b.outputs, a.inputs * b.inputs, a.taps * b.taps};
}

double convolution_products(const struct convolution_shape *s, int images)
{
    return area_of(s).products * images * s->out_channels * (s->in_channels / s->groups);
}

static int greatest_common_divisor(int a, int b)
{
    return b ? greatest_common_divisor(b, a % b) : a;
}

// Runs of `channels` in which neither of two groupings, of blocks of so many channels (0: all), changes; *longest of them.
static double runs_of(int channels, int span_a, int span_b, double *longest)
{
    double a = span_a ? span_a : channels, b = span_b ? span_b : channels, last = channels - 1;
    double both = a / greatest_common_divisor((int)a, (int)b) * b;
    *longest = fmin(fmin(a, b), channels);
    return 1 + floor(last / a) + floor(last / b) - floor(last / both);
}

// Channels that share a scale along the reduced dimension of an operand; 0: all.
static int span_of(const struct operand_format *format, enum mls_group along, int channels)
{
    bool divided = has_groups(format) && (format->group == MLS_GROUP_NC || format->group == along);
    return divided && format->group_size < channels ? format->group_size : 0;
}

// Forward (over the input channels of a convolution group) and input error (over its output channels). `reached`: results that
// have a product.
static void set_channel_groups(struct reduction *r, int channels, enum mls_group weights_along, const struct convolution_shape *s,
                               double reached)
{
    double longest, taps = (double)s->kernel_height * s->kernel_width;
    // Blocks of weights that are of one tap lie along the input channels: the next output channel has a scale of its own.
    int weights_span = r->a->each_pixel && weights_along == MLS_GROUP_N && channels > 1 ? 1 : span_of(r->a, weights_along, channels);
    double runs = runs_of(channels, weights_span, span_of(r->b, MLS_GROUP_C, channels), &longest);
    bool each_pixel = (r->a->each_pixel && has_groups(r->a)) || (r->b->each_pixel && has_groups(r->b));
    r->groups = each_pixel ? r->products / channels * runs : reached * runs;
    r->longest = longest * (each_pixel ? 1 : taps);
}

// Over images and pixels; a group is at most an image.
static void set_image_groups(struct reduction *r, const struct convolution_shape *s, int images, double reached)
{
    bool by_image = false, each_pixel = false;
    const struct operand_format *const formats[2] = {r->a, r->b};
    for (int k = 0; k < 2; k++) {
        if (!has_groups(formats[k])) continue;
        by_image = by_image || formats[k]->group == MLS_GROUP_N || formats[k]->group == MLS_GROUP_NC;
        each_pixel = each_pixel || formats[k]->each_pixel;
    }
    double pixels = (double)s->out_height * s->out_width;
    r->groups = each_pixel ? r->products : reached * (by_image ? images : 1);
    r->longest = each_pixel ? 1 : pixels * (by_image ? 1 : images);
}

// ---------------------------------------------------------------------------------------------
// Quantization (section 3) of one operand of a layer

struct tensor_size {
    double elements, groups;
};

static struct tensor_size size_of(const struct operand_format *format, enum mls_operand operand, const struct convolution_shape *s,
                                  int images)
{
    const int dims[3][4] = {{s->out_channels, s->in_channels / s->groups, s->kernel_height, s->kernel_width},
                            {images, s->in_channels, s->in_height, s->in_width},
                            {images, s->out_channels, s->out_height, s->out_width}};
    const int *d = dims[operand];
    struct tensor_size size = {(double)d[0] * d[1] * d[2] * d[3], 0};
    if (!has_groups(format)) return size;
    struct mls_format mls = {.group = format->group, .group_size = format->group_size};
    struct mls_grouping grouping = mls_grouping_of(&mls, operand, d[0], d[1], s->groups);
    size.groups = (double)grouping.blocks[0] * grouping.blocks[1];
    if (format->each_pixel && operand == MLS_WEIGHT) size.groups = (double)d[0] * mls_block_count(d[1], 1, format->group_size);
    if (format->each_pixel) size.groups *= (double)d[2] * d[3]; // blocks of weights lie along the input channels
    return size;
}

// Bits that the quantizer works with (Q of section 3), and the random bits it draws.
static int quantizer_bits(const struct operand_format *format, bool integer)
{
    int fraction = significand_bits(format) + shift_places(format);
    return integer && fraction <= 8 && !format->each_pixel ? 16 : 24;
}

static void add_scales(struct operations *o, enum operation_pass pass, const struct operand_format *format, struct tensor_size size)
{
    if (format->scale == SCALE_NONE) return;
    operations_add(o, pass, QUANTIZE_MAXIMUM, size.elements + (format->scale == SCALE_GROUP ? size.groups : 0), UNITS(FP32_COMPARE(1)));
    if (format->scale == SCALE_TENSOR) operations_add(o, pass, QUANTIZE_DIVISION, 1, UNITS({FLOAT_FUNCTION, 1, 0, 0}));
    if (format->scale == SCALE_GROUP) {
        operations_add(o, pass, QUANTIZE_DIVISION, size.groups, UNITS({FLOAT_FUNCTION, 1, 0, 0}, FP32_COMPARE(1))); // f, rounded up
        operations_add(o, pass, QUANTIZE_DIVISION, size.groups, UNITS(FP32_MULTIPLY(1), {FLOAT_FUNCTION, 1, 0, 0}));
    }
    // A power of two from the maximum's exponent; with mantissa bits a division.
    if (format->scale == SCALE_BLOCK && format->scale_mantissa)
        operations_add(o, pass, QUANTIZE_DIVISION, size.groups, UNITS({FLOAT_FUNCTION, 1, 0, 0}));
    bool power_of_two = format->scale == SCALE_BLOCK && !format->scale_mantissa;
    operations_add(o, pass, QUANTIZE_SCALING, size.elements,
                   power_of_two ? UNITS({INTEGER_ADD, 1, 8, 0}) : UNITS(FP32_MULTIPLY(1), {INTEGER_ADD, 1, 8, 0}));
}

// An integer quantizer shifts the scaled number to a fixed point and rounds it there to Q bits, finds its exponent, adds the
// rounding, and shifts the dropped bits out. A float's last bits are rounded off where they stand.
static void add_rounding(struct operations *o, enum operation_pass pass, const struct operand_format *format, double elements, bool integer)
{
    int q = quantizer_bits(format, integer);
    struct unit find = {INTEGER_ADD, format->exponent > 0, q, 0};
    operations_add(o, pass, QUANTIZE_ROUNDING, elements,
                   integer ? UNITS({SHIFT, 1, 24, 24}, {INTEGER_ADD, 2, q, 0}, find, {SHIFT, 1, q, q}) : UNITS({INTEGER_ADD, 1, 24, 0}));
    if (o->training && format->rounding == MLS_STOCHASTIC)
        operations_add(o, pass, QUANTIZE_RANDOM, elements * q, UNITS({RANDOM_BIT, 1, 1, 0}));
}

static void add_quantization(struct operations *o, enum operation_pass pass, enum mls_operand operand, const struct arithmetic *arithmetic,
                             struct tensor_size size)
{
    const struct operand_format *format = &arithmetic->operands[operand];
    if (operand_is_fp32(format)) return;
    add_scales(o, pass, format, size);
    add_rounding(o, pass, format, size.elements, arithmetic->integer_sum);
    operations_move(o, pass, operand, size.elements, 32);
    operations_move(o, pass, operand, size.elements, operand_bits(format));
    operations_move(o, pass, operand, size.groups, format->scale_exponent + format->scale_mantissa);
}

// ---------------------------------------------------------------------------------------------
// A layer

struct layer_work {
    struct operations *operations;
    const struct convolution_shape *shape;
    const struct arithmetic *arithmetic;
    struct tensor_size sizes[3];
    bool is_float; // left in fp32
};

static void read_operand(const struct layer_work *w, enum operation_pass pass, enum mls_operand operand)
{
    const struct operand_format *format = &w->arithmetic->operands[operand];
    struct traffic read = {.pass = pass, .operand = operand, .elements = w->sizes[operand].elements, .bits = operand_bits(format),
                           .low_bit = !w->is_float};
    operations_add_traffic(w->operations, read);
    read.elements = w->sizes[operand].groups;
    read.bits = format->scale_exponent + format->scale_mantissa;
    read.scales = true;
    operations_add_traffic(w->operations, read);
}

// One convolution from operands a and b; its result has the size of the third operand.
static void add_convolution(const struct layer_work *w, enum operation_pass pass, enum mls_operand a, enum mls_operand b)
{
    const struct convolution_shape *s = w->shape;
    struct operations *o = w->operations;
    const struct arithmetic *arithmetic = w->arithmetic;
    int result = 3 - (int)a - (int)b;
    struct reduction r = {.pass = pass, .a = &arithmetic->operands[a], .b = &arithmetic->operands[b],
                          .products = convolution_products(s, o->images), .results = w->sizes[result].elements};
    r.scaled = has_groups(r.a) || has_groups(r.b);
    struct axis area = area_of(s);
    if (pass == IN_FORWARD)
        set_channel_groups(&r, s->in_channels / s->groups, MLS_GROUP_C, s, area.outputs * o->images * s->out_channels);
    else if (pass == IN_INPUT_ERROR)
        set_channel_groups(&r, s->out_channels / s->groups, MLS_GROUP_N, s, area.inputs * o->images * s->in_channels);
    else
        set_image_groups(&r, s, o->images, area.taps * s->out_channels * (s->in_channels / s->groups));
    if (w->is_float)
        operations_add_products(o, pass, r.products);
    else
        add_reduction(o, arithmetic, &r);
    read_operand(w, pass, a);
    read_operand(w, pass, b);
    enum mls_operand written = pass == IN_FORWARD ? MLS_ACTIVATION : pass == IN_INPUT_ERROR ? MLS_ERROR : MLS_WEIGHT;
    operations_move(o, pass, written, r.results, 32);
}

#define FP32_OPERAND {.exponent = 8, .mantissa = 23, .always_signed = true}
static const struct arithmetic fp32 = {.operands = {FP32_OPERAND, FP32_OPERAND, FP32_OPERAND}, .sum_exponent = 8, .sum_mantissa = 23};

void operations_of_convolution(struct operations *o, const struct convolution_shape *shape, const struct arithmetic *own,
                               bool nonnegative_input)
{
    struct arithmetic arithmetic = !own ? fp32 : o->instead ? *o->instead : *own;
    struct layer_work w = {.operations = o, .shape = shape, .arithmetic = &arithmetic, .is_float = !own};
    struct operand_format *activations = &arithmetic.operands[MLS_ACTIVATION];
    activations->nonnegative = nonnegative_input && !activations->always_signed;
    for (int k = 0; k < 3; k++) w.sizes[k] = size_of(&arithmetic.operands[k], (enum mls_operand)k, shape, o->images);
    if (o->training) add_quantization(o, IN_FORWARD, MLS_WEIGHT, &arithmetic, w.sizes[MLS_WEIGHT]); // kept quantized for inference
    add_quantization(o, IN_FORWARD, MLS_ACTIVATION, &arithmetic, w.sizes[MLS_ACTIVATION]);
    add_convolution(&w, IN_FORWARD, MLS_WEIGHT, MLS_ACTIVATION);
    if (!o->backward) return;
    add_quantization(o, IN_BACKWARD, MLS_ERROR, &arithmetic, w.sizes[MLS_ERROR]);
    if (o->passes_error) add_convolution(&w, IN_INPUT_ERROR, MLS_WEIGHT, MLS_ERROR);
    add_convolution(&w, IN_WEIGHT_GRADIENT, MLS_ACTIVATION, MLS_ERROR);
}
