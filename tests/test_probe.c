// mlsnet probe and mlsnet stats: the figures against hand-made cases and independent sums.
#include "testing.h"

#include <math.h>

#include "base/memory.h"
#include "mls/convolution.h"
#include "mls/presets.h"
#include "mls/quantize.h"
#include "mls/simulate.h"
#include "probe/gradient.h"
#include "probe/statistics.h"
#include "train/trainer.h"

// ---------------------------------------------------------------------------------------------
// Networks and data

static void write_idx(const char *folder, const char *name, int rank, const int *sizes, const uint8_t *data, size_t size)
{
    char path[512];
    uint8_t bytes[4096] = {0, 0, 8, (uint8_t)rank};
    size_t header = 4 + 4 * (size_t)rank;
    for (int i = 0; i < rank; i++) bytes[4 + 4 * i + 3] = (uint8_t)sizes[i];
    assert_true(header + size <= sizeof bytes);
    memcpy(bytes + header, data, size);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    write_file(path, bytes, header + size);
}

// `count` training pictures, side x side, labels 0 and 1 in turn.
static struct dataset *make_dataset(int count, int side, const uint8_t *pixels)
{
    static const float mean = 0, deviation = 1;
    const char *folder = temporary_folder();
    uint8_t labels[64];
    const int sizes[3] = {count, side, side};
    size_t size = (size_t)count * (size_t)side * (size_t)side;
    for (int i = 0; i < count; i++) labels[i] = (uint8_t)(i % 2);
    write_idx(folder, "train-images-idx3-ubyte", 3, sizes, pixels, size);
    write_idx(folder, "train-labels-idx1-ubyte", 1, sizes, labels, (size_t)count);
    write_idx(folder, "t10k-images-idx3-ubyte", 3, sizes, pixels, size);
    write_idx(folder, "t10k-labels-idx1-ubyte", 1, sizes, labels, (size_t)count);
    const struct data_settings settings = {.type = data_source_find("idx"), .path = (char *)(uintptr_t)folder, .mean_count = 1,
                                           .std_count = 1, .mean = &mean, .std = &deviation};
    struct dataset *dataset = NULL;
    struct error error = {""};
    if (!dataset_open(&settings, folder, &dataset, &error)) fail_msg("%s", error.message);
    return dataset;
}

static struct dataset *random_pictures(void)
{
    uint8_t pixels[32 * 64];
    struct random_stream stream = {7, 0};
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)random_below(&stream, 256);
    return make_dataset(32, 8, pixels);
}

static struct loader *make_loader(const struct dataset *dataset, int batch)
{
    const struct loader_request request = {.dataset = dataset, .training = true, .batch = batch, .seed = 3};
    struct loader *loader = NULL;
    struct error error = {""};
    if (!loader_create(&request, &loader, &error)) fail_msg("%s", error.message);
    return loader;
}

struct made {
    struct thread_pool *pool;
    struct cfg *cfg;
    struct network *network;
};

static struct made make_network(const char *text, unsigned plain, int threads)
{
    struct made made = {0};
    struct error error = {""};
    struct diagnostics diagnostics = {.path = "test.cfg"};
    const struct network_request request = {.for_training = true, .seed = 11, .plain_operands = plain};
    made.pool = thread_pool_create(threads, &error);
    made.cfg = cfg_parse("test.cfg", text, strlen(text), &diagnostics);
    made.network = made.cfg ? network_create(made.cfg, &request, made.pool, &diagnostics) : NULL;
    if (!made.network) fail_msg("%s", diagnostics.text);
    return made;
}

static void unmake(struct made *made)
{
    network_destroy(made->network);
    cfg_release(made->cfg);
    thread_pool_destroy(made->pool);
}

static const struct training_settings training = {.seed = 5, .label_smoothing = 0.1f};
static const bool all_counted[16] = {true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true};

#define LAYERS                                                                                                     \
    "[conv]\nmls=0\nfilters=8\nsize=3\npad=1\nbatch_normalize=1\nactivation=relu\n"                                \
    "[conv]\nfilters=20\nsize=3\nstride=2\npad=1\nbatch_normalize=1\nactivation=relu\n"                            \
    "[conv]\nfilters=20\nsize=3\npad=1\nbatch_normalize=1\nactivation=linear\n"                                    \
    "[shortcut]\nfrom=-2\nactivation=relu\n"                                                                       \
    "[dropout]\nprobability=0.3\n"                                                                                 \
    "[avgpool]\n[connected]\noutput=2\nactivation=linear\n[softmax]\n"
#define NET "[net]\nbatch=16\nsubdivisions=2\nheight=8\nwidth=8\nchannels=1\n"

static struct gradient_result probe(const char *text, unsigned plain, int threads, const struct dataset *dataset, int batches, int seeds)
{
    struct made fp32 = make_network(text, MLS_ALL_OPERANDS, threads), format = make_network(text, plain, threads);
    struct loader *loader = make_loader(dataset, fp32.network->settings.batch);
    struct error error = {""};
    struct gradient_result result = {0};
    bool counted[16] = {false};
    for (int i = 0; i < format.network->layer_count; i++) counted[i] = format.network->layers[i]->low_bit;
    struct gradient_probe *p = gradient_probe_create(fp32.network, &training, loader, batches, counted, &error);
    if (!p || !gradient_probe_measure(p, format.network, seeds, &result, &error)) fail_msg("%s", error.message);
    gradient_probe_destroy(p);
    loader_destroy(loader);
    unmake(&fp32);
    unmake(&format);
    return result;
}

static bool near(double a, double b, double within)
{
    return fabs(a - b) <= within;
}

static void expect(const struct gradient_figures *f, double error, double cosine, double slope)
{
    if (!near(f->error, error, 1e-6) || !near(f->bias, error, 1e-6) || f->noise != 0 || !near(f->cosine, cosine, 1e-6) ||
        !near(f->slope, slope, 1e-6))
        fail_msg("error %g bias %g noise %g cosine %g slope %g; expected %g, %g, %g", f->error, f->bias, f->noise, f->cosine, f->slope,
                 error, cosine, slope);
}

// ---------------------------------------------------------------------------------------------
// Probe

// Dropout draws the same for all rounding seeds.
static void test_fp32_is_perfect(void **state)
{
    (void)state;
    struct dataset *dataset = random_pictures();
    struct gradient_result r = probe(NET LAYERS, MLS_ALL_OPERANDS, 2, dataset, 2, 3);
    assert_int_equal(r.count, 4);
    for (int i = 0; i < r.count; i++) expect(&r.rows[i].figures, 0, 1, 1);
    expect(&r.mean, 0, 1, 1);
    expect(&r.whole, 0, 1, 1);
    assert_true(r.loss > 0 && r.loss_difference == 0);
    assert_string_equal(r.rows[3].name, "layers.6.connected.weight");
    assert_int_equal(r.rows[3].layer, 6);
    assert_true(r.rows[1].low_bit && !r.rows[0].low_bit && !r.rows[3].low_bit);
    memory_release(r.rows);
    dataset_close(dataset);
}

// Two pictures of one pixel, x = 1, labels 0 and 1; y_k = w_k x, w = (1, 1/4), squared error: G_k = sum over n of x (w_k x - t_nk), which
// is (1, -1/2). Every number is alone in its group, and those that are a group scale become 3/4 of it.
static void test_linear_by_hand(void **state)
{
    (void)state;
    static const char text[] = "[net]\nbatch=2\nheight=1\nwidth=1\nchannels=1\ngroup_size=1\n"
                               "[conv]\nfilters=2\nsize=1\nactivation=linear\n[cost]\n";
    static const uint8_t pixels[2] = {255, 255};
    static const double w[2] = {1, 0.25}, full[2] = {1, -0.5};
    struct dataset *dataset = make_dataset(2, 1, pixels);
    struct loader *loader = make_loader(dataset, 2);
    struct error error = {""};
    struct made fp32 = make_network(text, MLS_ALL_OPERANDS, 1);
    for (int k = 0; k < 2; k++) fp32.network->parameters[0]->value[k] = (float)w[k];
    struct gradient_probe *p = gradient_probe_create(fp32.network, &training, loader, 1, all_counted, &error);
    assert_non_null(p);
    for (int operand = 0; operand < 3; operand++) {
        struct made format = make_network(text, MLS_ALL_OPERANDS & ~(1u << operand), 1);
        struct gradient_result r;
        double g[2], difference = 0, along = 0, square = 0, loss = 0;
        for (int k = 0; k < 2; k++) {
            double y = operand == MLS_ERROR ? w[k] : 0.75 * w[k];
            format.network->parameters[0]->value[k] = (float)w[k];
            g[k] = (2 * y - 1) * (operand == MLS_WEIGHT ? 1 : 0.75);
            if (operand == MLS_ERROR) g[k] = 0.75 * full[k];
            difference += (g[k] - full[k]) * (g[k] - full[k]);
            along += g[k] * full[k];
            square += g[k] * g[k];
            loss += (y * y + (y - 1) * (y - 1)) / 2;
        }
        if (!gradient_probe_measure(p, format.network, 3, &r, &error)) fail_msg("%s", error.message);
        assert_int_equal(r.count, 1);
        expect(&r.rows[0].figures, difference / 1.25, along / sqrt(1.25 * square), along / 1.25);
        expect(&r.mean, difference / 1.25, along / sqrt(1.25 * square), along / 1.25);
        expect(&r.whole, difference / 1.25, along / sqrt(1.25 * square), along / 1.25);
        assert_true(near(r.loss, loss, 1e-6));
        assert_true(near(r.loss_difference, loss - (1 + 0 + 0.0625 + 0.5625) / 2, 1e-6));
        memory_release(r.rows);
        unmake(&format);
    }
    gradient_probe_destroy(p);
    unmake(&fp32);
    loader_destroy(loader);
    dataset_close(dataset);
}

#define SEEDS 5
// Gradients of layer 1 of the first batch, by the trainer alone: fp32's last.
static void take_gradients(const struct dataset *dataset, float (*gradients)[20 * 8 * 9])
{
    struct loader *loader = make_loader(dataset, 16);
    struct error error = {""};
    struct batch batch;
    assert_true(loader_start(loader, 0, 0, &error) && loader_next(loader, &batch, &error));
    for (int s = 0; s <= SEEDS; s++) {
        struct made made = make_network(NET LAYERS, s == SEEDS ? MLS_ALL_OPERANDS : 0, 1);
        const struct parameter *weights = network_find_parameter(made.network, "layers.1.conv.weight");
        double loss = 0;
        long correct = 0;
        assert_true(trainer_gradient(made.network, &training, &batch, 0, (uint64_t)s % SEEDS, &loss, &correct, &error));
        assert_int_equal(weights->count, 20 * 8 * 9);
        memcpy(gradients[s], weights->gradient, sizeof *gradients);
        unmake(&made);
    }
    loader_destroy(loader);
}

// The parts against sums that are made another way.
static void test_bias_and_noise(void **state)
{
    (void)state;
    static float g[SEEDS + 1][20 * 8 * 9];
    struct dataset *dataset = random_pictures();
    take_gradients(dataset, g);
    double length = 0, error = 0, noise = 0, cosine = 0, slope = 0, from_mean = 0;
    for (int i = 0; i < 20 * 8 * 9; i++) length += pow((double)g[SEEDS][i], 2);
    for (int s = 0; s < SEEDS; s++) {
        double along = 0, own = 0;
        for (int i = 0; i < 20 * 8 * 9; i++) {
            double mean = 0;
            for (int k = 0; k < SEEDS; k++) mean += (double)g[k][i] / SEEDS;
            error += pow((double)g[s][i] - (double)g[SEEDS][i], 2) / SEEDS / length;
            noise += pow((double)g[s][i] - mean, 2) / (SEEDS - 1) / length;
            from_mean += pow(mean - (double)g[SEEDS][i], 2) / SEEDS / length;
            along += (double)g[s][i] * (double)g[SEEDS][i];
            own += pow((double)g[s][i], 2);
        }
        cosine += along / sqrt(own * length) / SEEDS;
        slope += along / length / SEEDS;
    }
    struct gradient_result r = probe(NET LAYERS, 0, 2, dataset, 1, SEEDS), one = probe(NET LAYERS, 0, 1, dataset, 1, 1);
    const struct gradient_figures *f = &r.rows[1].figures;
    assert_true(noise > 1e-4 && error > noise && f->noise > 0);
    assert_true(near(f->error, error, 1e-9) && near(f->noise, noise, 1e-9) && near(f->bias, from_mean - noise / SEEDS, 1e-9));
    assert_true(near(f->cosine, cosine, 1e-9) && near(f->slope, slope, 1e-9));
    for (int i = 0; i < r.count; i++)
        assert_true(near(r.rows[i].figures.error, r.rows[i].figures.bias + r.rows[i].figures.noise, 1e-12));
    assert_true(near(r.mean.error, (r.rows[1].figures.error + r.rows[2].figures.error) / 2, 1e-12)); // the low-bit layers
    assert_true(near(r.whole.error, r.whole.bias + r.whole.noise, 1e-12) && r.whole.noise > 0);
    assert_true(isnan(one.rows[1].figures.bias) && isnan(one.mean.noise) && one.mean.error > 0);
    memory_release(r.rows);
    memory_release(one.rows);
    dataset_close(dataset);
}

// The figures of the network are of the layers that count: of one alone its own.
static void test_counted(void **state)
{
    (void)state;
    static const bool counted[16] = {false, true};
    struct dataset *dataset = random_pictures();
    struct loader *loader = make_loader(dataset, 16);
    struct made fp32 = make_network(NET LAYERS, MLS_ALL_OPERANDS, 1), format = make_network(NET LAYERS, 0, 1);
    struct error error = {""};
    struct gradient_result r;
    struct gradient_probe *p = gradient_probe_create(fp32.network, &training, loader, 2, counted, &error);
    if (!p || !gradient_probe_measure(p, format.network, 2, &r, &error)) fail_msg("%s", error.message);
    const struct gradient_figures *own = &r.rows[1].figures, *const all[2] = {&r.mean, &r.whole};
    for (int k = 0; k < 2; k++)
        assert_true(own->error > 0 && near(all[k]->error, own->error, 1e-12) && near(all[k]->bias, own->bias, 1e-12) &&
                    near(all[k]->noise, own->noise, 1e-12) && near(all[k]->cosine, own->cosine, 1e-12) &&
                    near(all[k]->slope, own->slope, 1e-12));
    for (int i = 0; i < r.count; i++) assert_int_equal(r.rows[i].counted, i == 1);
    memory_release(r.rows);
    gradient_probe_destroy(p);
    loader_destroy(loader);
    unmake(&fp32);
    unmake(&format);
    dataset_close(dataset);
}

static void test_nearest_has_no_noise(void **state)
{
    (void)state;
    struct dataset *dataset = random_pictures();
    struct gradient_result r = probe(NET "rounding=nearest\n" LAYERS, 0, 1, dataset, 2, 3);
    assert_true(r.mean.noise == 0 && r.whole.noise == 0 && r.mean.bias > 0.001 && near(r.mean.bias, r.mean.error, 1e-12));
    memory_release(r.rows);
    r = probe(NET "rounding=stochastic\n" LAYERS, 0, 1, dataset, 2, 3);
    assert_true(r.mean.noise > 0.001);
    memory_release(r.rows);
    dataset_close(dataset);
}

static void test_threads(void **state)
{
    (void)state;
    struct dataset *dataset = random_pictures();
    static const unsigned plain[2] = {0, MLS_ALL_OPERANDS & ~(1u << MLS_ERROR)};
    for (int k = 0; k < 2; k++) {
        struct gradient_result a = probe(NET LAYERS, plain[k], 1, dataset, 2, 2), b = probe(NET LAYERS, plain[k], 3, dataset, 2, 2);
        for (int i = 0; i < a.count; i++) assert_memory_equal(&a.rows[i].figures, &b.rows[i].figures, sizeof a.rows[i].figures);
        assert_memory_equal(&a.whole, &b.whole, sizeof a.whole);
        assert_true(a.loss == b.loss && a.loss_difference == b.loss_difference);
        memory_release(a.rows);
        memory_release(b.rows);
    }
    dataset_close(dataset);
}

// One operand after the other: each is a part of the whole error, and none is all of it.
static void test_operands_differ(void **state)
{
    (void)state;
    struct dataset *dataset = random_pictures();
    struct gradient_result all = probe(NET LAYERS, 0, 1, dataset, 2, 2);
    double sum = 0;
    for (int k = 0; k < 3; k++) {
        struct gradient_result r = probe(NET LAYERS, MLS_ALL_OPERANDS & ~(1u << k), 1, dataset, 2, 2);
        assert_true(r.mean.error > 0.001 && r.mean.error < all.mean.error);
        assert_true((r.loss_difference == 0 || fabs(r.loss_difference) < 1e-6) == (k == MLS_ERROR)); // errors do not act forward
        sum += r.mean.error;
        memory_release(r.rows);
    }
    assert_true(sum > 0.5 * all.mean.error && sum < 2 * all.mean.error);
    memory_release(all.rows);
    dataset_close(dataset);
}

static float *copy_parameters(const struct network *network, size_t *count)
{
    *count = 0;
    for (int i = 0; i < network->parameter_count; i++) *count += network->parameters[i]->count;
    float *copy = memory_allocate(*count, sizeof *copy, NULL), *to = copy;
    for (int i = 0; i < network->parameter_count; to += network->parameters[i++]->count)
        memcpy(to, network->parameters[i]->value, network->parameters[i]->count * sizeof *to);
    return copy;
}

static void test_network_is_left_alone(void **state)
{
    (void)state;
    struct dataset *dataset = random_pictures();
    struct loader *loader = make_loader(dataset, 16);
    struct made fp32 = make_network(NET LAYERS, MLS_ALL_OPERANDS, 1), format = make_network(NET LAYERS, 0, 1),
                other = make_network("[net]\nbatch=16\nheight=8\nwidth=8\nchannels=1\n" LAYERS, 0, 1);
    struct error error = {""};
    struct gradient_result r;
    size_t count;
    float *before[2] = {copy_parameters(fp32.network, &count), copy_parameters(format.network, &count)};
    struct gradient_probe *p = gradient_probe_create(fp32.network, &training, loader, 2, all_counted, &error);
    assert_true(p && gradient_probe_measure(p, format.network, 2, &r, &error));
    float *after[2] = {copy_parameters(fp32.network, &count), copy_parameters(format.network, &count)};
    for (int k = 0; k < 2; k++) assert_memory_equal(before[k], after[k], count * sizeof(float));
    memory_release(r.rows);
    assert_false(gradient_probe_measure(p, other.network, 2, &r, &error));
    assert_contains(error.message, "differs from the fp32 one");
    for (int k = 0; k < 2; k++) {
        memory_release(before[k]);
        memory_release(after[k]);
    }
    gradient_probe_destroy(p);
    loader_destroy(loader);
    unmake(&fp32);
    unmake(&format);
    unmake(&other);
    dataset_close(dataset);
}

// ---------------------------------------------------------------------------------------------
// Statistics

// Two groups, of maxima 1 and 1/4, in <2,1> to nearest: 0, 1/16, 1/8, 3/16, 1/4, 3/8, 1/2, 3/4 of the maximum.
static void test_statistics_by_hand(void **state)
{
    (void)state;
    static const float x[16] = {1, 0.75f, -0.5f, 0.3f, 0.1f, 0.01f, 0, 0, 0.25f, 0.125f, 0.02f, 0.001f, -0.25f, 0, 0, 0};
    static const double q[16] = {0.75, 0.75, -0.5, 0.25, 0.125, 0, 0, 0, 0.1875, 0.125, 0.015625, 0, -0.1875, 0, 0, 0};
    struct layer layer = {.index = 1};
    struct observation seen = {.layer = &layer, .operand = MLS_WEIGHT, .format = mls_format_default(MLS_WEIGHT), .convolution_groups = 1,
                               .dims = {1, 2, 2, 4}, .values = x};
    struct statistics statistics;
    struct error error = {""};
    seen.format.group_size = 1;
    assert_true(statistics_create(&statistics, 2, &error));
    for (int i = 0; i < 2; i++) assert_true(statistics_see(&statistics, &seen, &error)); // the same twice: shares stay
    statistics_finish(&statistics);
    const struct operand_statistics *s = &statistics.rows[1][MLS_WEIGHT];
    double square = 0, difference = 0;
    for (int i = 0; i < 16; i++) {
        square += (double)x[i] * (double)x[i];
        difference += (q[i] - (double)x[i]) * (q[i] - (double)x[i]);
    }
    assert_false(statistics.rows[0][0].seen || statistics.rows[1][1].seen);
    assert_true(s->seen && s->tensors == 2 && s->elements == 32 && s->zeros == 10 && s->underflows == 4 && s->at_largest == 8 &&
                s->above_largest == 6 && s->groups == 4 && s->zero_groups == 0);
    assert_true(near(statistics_relative_error(s), sqrt(difference / square), 1e-9));
    assert_true(near(statistics_decibel(s), 10 * log10(square / difference), 1e-6));
    assert_int_equal(statistics_element_bits(s), 4);
    assert_true(near(statistics_stored_bits(s), 4 + (2 * 9 + 32) / 16.0, 1e-12));
    assert_true(statistics_deviation(s) == 1 && statistics_quantile(s, 0) == -2 && statistics_quantile(s, 0.5) == -1 &&
                near(statistics_quantile(s, 0.4), -2 + 0.2 * 2, 1e-12) && statistics_quantile(s, 1) == 0);
    statistics_release(&statistics);
}

// ---------------------------------------------------------------------------------------------
// Statistics of every format, against loops over groups that are written out here.

enum { PARTS = 2, MOST_GROUPS = 4096 };

// A number for the group of element p of plane (i, j): MLS and bfp in tiles of 16, Microscaling in blocks of 32 channels of one pixel;
// neither crosses one of the two convolution groups.
static int group_number(enum mls_family family, enum mls_operand operand, const int dims[4], int i, int j, int p)
{
    if (family == MLS_FAMILY_FIXED || family == MLS_FAMILY_FP8) return 0;
    int span = family == MLS_FAMILY_MICROSCALING ? 32 : 16, part = operand == MLS_WEIGHT ? dims[1] : dims[1] / PARTS;
    int column = j / part * 3 + j % part / span;
    if (family == MLS_FAMILY_MICROSCALING) return (i * 6 + column) * 16 + p;
    return (operand == MLS_WEIGHT ? i / (dims[0] / PARTS) * 3 + i % (dims[0] / PARTS) / 16 : i) * 6 + column;
}

// Xmax of a group with this maximum, by the format's definition.
static double largest_of(const char *name, const struct mls_format *f, double tensor, double group)
{
    static const struct { const char *name; int emax; double largest; } elements[] = {
        {"mxfp4", 2, 6}, {"mxfp6_e2m3", 2, 7.5}, {"mxfp6_e3m2", 4, 28}, {"mxfp8_e4m3", 8, 448}, {"mxfp8_e5m2", 15, 57344},
        {"mxint8", 0, 127.0 / 64}};
    for (size_t i = 0; i < sizeof elements / sizeof elements[0]; i++)
        if (strcmp(name, elements[i].name) == 0) return exp2(floor(log2(group)) - elements[i].emax) * elements[i].largest;
    double fixed_point = 1 - exp2(-f->mantissa), scale = 1;
    if (f->family == MLS_FAMILY_FP8) return tensor;
    if (f->family == MLS_FAMILY_FIXED) return tensor * fixed_point;
    if (f->family == MLS_FAMILY_BLOCK_FLOAT) return exp2(ceil(log2(group))) * fixed_point;
    for (int e = 1; e < 64; e++) // <2,1>, scales (1 + m/2) 2^-e
        for (int m = 1; m >= 0; m--)
            if ((1 + m / 2.0) * exp2(-e) >= group / tensor) scale = (1 + m / 2.0) * exp2(-e);
    return tensor * scale * 0.75;
}

// Bits of an element that is never negative, of one that is, of a group's scale and of the tensor's.
static void bits_of(const char *name, const struct mls_format *f, int bits[4])
{
    int k = atoi(name + strcspn(name, "0123456789"));
    bool one_scale = f->family == MLS_FAMILY_FIXED || f->family == MLS_FAMILY_FP8;
    bits[2] = one_scale ? 0 : f->family == MLS_FAMILY_MLS ? 9 : 8;
    bits[3] = one_scale || f->family == MLS_FAMILY_MLS ? 32 : 0;
    bits[1] = f->family == MLS_FAMILY_MLS ? 4 : k;
    bits[0] = strncmp(name, "mx", 2) == 0 || strncmp(name, "fp8", 3) == 0 ? k : bits[1] - 1;
}

static void check_statistics(const char *name, const struct mls_format *f, enum mls_operand operand, const int dims[4], const float *x)
{
    static double maxima[MOST_GROUPS];
    static float q[6 * 80 * 9];
    struct layer layer = {.index = 0};
    struct error error = {""};
    struct statistics statistics;
    const struct observation seen = {.layer = &layer, .operand = operand, .format = *f, .nonnegative = operand == MLS_ACTIVATION,
                                     .convolution_groups = PARTS, .tensor_key = 77, .dims = {dims[0], dims[1], dims[2], dims[3]},
                                     .values = x};
    assert_true(statistics_create(&statistics, 1, &error));
    if (!statistics_see(&statistics, &seen, &error)) fail_msg("%s: %s", name, error.message);
    statistics_finish(&statistics);
    assert_true(mls_simulate(f, operand, x, dims, PARTS, 77, NULL, q, &error));
    int plane = dims[2] * dims[3], count = dims[0] * dims[1] * plane, groups = 0, zero_groups = 0, bits[4];
    uint64_t zeros = 0, underflows = 0, at = 0, above = 0;
    double tensor = 0, square = 0, difference = 0, sum = 0, squares = 0;
    for (int g = 0; g < MOST_GROUPS; g++) maxima[g] = -1;
#define GROUP(k) group_number(f->family, operand, dims, (k) / plane / dims[1], (k) / plane % dims[1], (k) % plane)
    for (int k = 0; k < count; k++) {
        maxima[GROUP(k)] = fmax(maxima[GROUP(k)], fabs((double)x[k]));
        tensor = fmax(tensor, fabs((double)x[k]));
    }
    for (int k = 0; k < count; k++) {
        double largest = largest_of(name, f, tensor, maxima[GROUP(k)]), magnitude = fabs((double)x[k]);
        zeros += magnitude == 0;
        underflows += magnitude > 0 && q[k] == 0;
        at += magnitude > 0 && near(fabs((double)q[k]), largest, 1e-6 * largest);
        above += magnitude > largest;
        square += magnitude * magnitude;
        difference += pow((double)q[k] - (double)x[k], 2);
    }
    for (int g = 0; g < MOST_GROUPS; g++) {
        groups += maxima[g] >= 0;
        zero_groups += maxima[g] == 0;
        sum += maxima[g] > 0 ? log2(maxima[g] / tensor) : 0;
        squares += maxima[g] > 0 ? pow(log2(maxima[g] / tensor), 2) : 0;
    }
    const struct operand_statistics *s = &statistics.rows[0][operand];
    double mean = sum / (groups - zero_groups);
    if (s->zeros != zeros || s->underflows != underflows || s->at_largest != at || s->above_largest != above ||
        s->groups != (uint64_t)groups || s->zero_groups != (uint64_t)zero_groups)
        fail_msg("%s, operand %d: %d zeros, %d underflow, %d at Xmax, %d above, %d groups, %d zero; expected %d, %d, %d, %d, %d, %d", name,
                 (int)operand, (int)s->zeros, (int)s->underflows, (int)s->at_largest, (int)s->above_largest, (int)s->groups,
                 (int)s->zero_groups, (int)zeros, (int)underflows, (int)at, (int)above, groups, zero_groups);
    assert_true(near(statistics_relative_error(s), sqrt(difference / square), 1e-9));
    assert_true(near(statistics_decibel(s), 10 * log10(square / difference), 1e-6));
    assert_true(near(statistics_deviation(s), sqrt(fmax(0, squares / (groups - zero_groups) - mean * mean)), 1e-5));
    assert_true(statistics_quantile(s, 1) == 0);
    bits_of(name, f, bits);
    assert_int_equal(statistics_element_bits(s), bits[operand != MLS_ACTIVATION]);
    assert_true(near(statistics_stored_bits(s), bits[operand != MLS_ACTIVATION] + (double)(bits[2] * groups + bits[3]) / count, 1e-9));
    // The cases are there: something underflows, is cut off, and some groups are zero, where the format can have that.
    assert_true(operand != MLS_ERROR || f->exponent == 5 || underflows > 0);
    bool fp8 = f->family == MLS_FAMILY_FP8, one_scale = fp8 || f->family == MLS_FAMILY_FIXED;
    if (one_scale || (f->family != MLS_FAMILY_BLOCK_FLOAT && f->mantissa <= 3)) assert_true(at > 0 && (above > 0) == !fp8);
    assert_true((zero_groups > 0) == (groups > 1 && operand == MLS_ACTIVATION));
    statistics_release(&statistics);
}

static void test_statistics_of_formats(void **state)
{
    (void)state;
    static const int dims[3][4] = {{6, 40, 3, 3}, {2, 80, 3, 3}, {3, 80, 2, 4}};
    static float x[6 * 80 * 9];
    char name[32];
    for (int index = 0; mls_preset_name(index, name, sizeof name), *name; index++)
        for (int operand = 0; operand < 3; operand++) {
            struct random_stream stream = {(uint64_t)(100 + operand), 0};
            struct mls_format format = mls_preset_at(index, (enum mls_operand)operand);
            const int *d = dims[operand], plane = d[2] * d[3];
            for (int k = 0; k < d[0] * d[1] * plane; k++) {
                x[k] = random_normal(&stream) * exp2f(-(float)(k / plane / 8 % 7)); // planes of different size
                if (operand == MLS_ACTIVATION) x[k] = k < 40 * plane ? 0 : fmaxf(x[k], 0);
                if (operand == MLS_ERROR && k % 5 == 0) x[k] *= 0x1p-26f;
            }
            check_statistics(name, &format, (enum mls_operand)operand, d, x);
        }
}

// More groups than are kept: an even sample of them.
static void test_statistics_of_many_groups(void **state)
{
    (void)state;
    enum { COUNT = 3 * STATISTICS_GROUPS };
    float *x = memory_allocate(COUNT, sizeof *x, NULL);
    struct layer layer = {.index = 0};
    struct observation seen = {.layer = &layer, .operand = MLS_ERROR, .format = mls_format_default(MLS_ERROR), .convolution_groups = 1,
                               .dims = {3, STATISTICS_GROUPS, 1, 1}, .values = x};
    struct statistics statistics;
    struct error error = {""};
    seen.format.group_size = 1;
    for (int k = 0; k < COUNT; k++) x[k] = k % 4 == 3 ? 0 : exp2f(-(float)(k % 4));
    assert_true(statistics_create(&statistics, 1, &error));
    for (int i = 0; i < 2; i++) assert_true(statistics_see(&statistics, &seen, &error));
    statistics_finish(&statistics);
    const struct operand_statistics *s = &statistics.rows[0][MLS_ERROR];
    assert_true(s->groups == 2 * COUNT && s->zero_groups == 2 * COUNT / 4 && s->maxima_count == 2 * COUNT / 4);
    for (int k = 0; k < 3; k++) assert_true(s->maxima[((size_t)(2 * k) + 1) * s->maxima_count / 6] == (float)(k - 2));
    statistics_release(&statistics);
    memory_release(x);
}

static void test_statistics_of_nothing(void **state)
{
    (void)state;
    static const float zeros[8] = {0}, bad[8] = {0, 0, 0, NAN};
    struct layer layer = {.index = 0};
    struct observation seen = {.layer = &layer, .operand = MLS_ACTIVATION,
                               .format = mls_format_default(MLS_ACTIVATION), .nonnegative = true, .convolution_groups = 1,
                               .dims = {2, 2, 1, 2}, .values = zeros};
    struct statistics statistics;
    struct error error = {""};
    assert_true(statistics_create(&statistics, 1, &error) && statistics_see(&statistics, &seen, &error));
    statistics_finish(&statistics);
    const struct operand_statistics *s = &statistics.rows[0][MLS_ACTIVATION];
    assert_true(s->zeros == 8 && s->underflows == 0 && s->at_largest == 0 && s->groups == 2 && s->zero_groups == 2);
    assert_true(isnan(statistics_decibel(s)) && isnan(statistics_deviation(s)) && isnan(statistics_quantile(s, 0.5)));
    assert_int_equal(statistics_element_bits(s), 3);
    seen.values = bad;
    assert_false(statistics_see(&statistics, &seen, &error));
    assert_contains(error.message, "activations: ");
    statistics_release(&statistics);
}

// Weights are quantized once a step, whatever the subdivisions: two with the same pictures have the same loss, in every way to compute it.
static void test_weights_once(void **state)
{
    (void)state;
    static const char *const settings[] = {"", "exponent=3\n", "exponent=3\ngroups=2\n", "stride=3\npadding=3\n"};
    static float input[2 * 8 * 64];
    int labels[2 * 8];
    struct random_stream stream = {3, 0};
    for (int i = 0; i < 8 * 64; i++) input[i] = input[8 * 64 + i] = random_normal(&stream);
    for (int i = 0; i < 16; i++) labels[i] = i % 2;
    for (int k = 0; k < 4; k++)
        for (uint64_t rounding = 0; rounding < 2; rounding++) {
            char text[1024];
            snprintf(text, sizeof text, "[net]\nbatch=16\nsubdivisions=2\nheight=8\nwidth=8\nchannels=1\nweight_rounding=stochastic\n"
                     "[conv]\nmls=0\nfilters=6\nsize=3\npad=1\nactivation=relu\n[conv]\nfilters=4\nsize=3\nactivation=linear\n%s"
                     "[connected]\noutput=2\nactivation=linear\n[softmax]\n", settings[k]);
            struct made made = make_network(text, 0, 2);
            const struct batch batch = {.images = 16, .input = input, .labels = labels};
            double losses[2];
            for (int step = 0; step < 2; step++) {
                struct error error = {""};
                double sum = 0;
                long correct = 0;
                assert_true(trainer_gradient(made.network, &training, &batch, step, rounding, &sum, &correct, &error));
                losses[step] = made.network->loss;
                assert_true(sum == losses[step] + losses[step]);
            }
            assert_true(losses[0] != losses[1]); // the next step rounds otherwise
            unmake(&made);
        }
}

struct seen_operands {
    float *values[3]; // dequantized
    int dims[3][4];
    bool nonnegative[3];
};

static bool keep(void *context, const struct observation *o, struct error *error)
{
    struct seen_operands *seen = context;
    struct mls_tensor tensor;
    if (o->layer->index != 1) return true;
    const int *d = o->dims;
    seen->values[o->operand] = memory_allocate((size_t)d[0] * (size_t)d[1] * (size_t)d[2] * (size_t)d[3], sizeof(float), error);
    memcpy(seen->dims[o->operand], d, sizeof o->dims);
    seen->nonnegative[o->operand] = o->nonnegative;
    assert_true(mls_quantize(&o->format, o->operand, o->values, d, o->convolution_groups, o->tensor_key, &tensor, error));
    mls_dequantize(&tensor, seen->values[o->operand]);
    mls_tensor_release(&tensor);
    return true;
}

static void compare(const float *a, const float *b, size_t count)
{
    double difference = 0, square = 0;
    for (size_t i = 0; i < count; i++) {
        difference += pow((double)a[i] - (double)b[i], 2);
        square += pow((double)b[i], 2);
    }
    assert_true(square > 0 && difference < 1e-10 * square);
}

// What the observer sees is what the convolutions use, in each way to compute them: their results follow from it.
static void test_observer(void **state)
{
    (void)state;
    // packed, also in planes and in convolution groups, simulated, plain C
    static const char *const settings[] = {"stride=2\npad=1\n", "stride=2\npad=1\ngroup_size=1\n", "stride=2\npad=1\ngroups=2\n",
                                           "stride=2\npad=1\nexponent=3\n", "stride=3\npadding=3\n"};
    struct dataset *dataset = random_pictures();
    for (int k = 0; k < 5; k++) {
        char text[1024];
        snprintf(text, sizeof text, "[net]\nbatch=16\nheight=8\nwidth=8\nchannels=1\n"
                 "[conv]\nmls=0\nfilters=6\nsize=3\npad=1\nbatch_normalize=1\nactivation=relu\n"
                 "[conv]\nfilters=4\nsize=3\nactivation=linear\n%s[avgpool]\n"
                 "[connected]\noutput=2\nactivation=linear\n[softmax]\n",
                 settings[k]);
        struct made made = make_network(text, 0, 2);
        struct loader *loader = make_loader(dataset, 16);
        struct seen_operands seen = {0};
        const struct observer observer = {keep, &seen};
        struct error error = {""};
        struct batch batch;
        double loss = 0;
        long correct = 0;
        made.network->observer = &observer;
        assert_true(loader_start(loader, 0, 0, &error) && loader_next(loader, &batch, &error));
        assert_true(trainer_gradient(made.network, &training, &batch, 0, 0, &loss, &correct, &error));
        struct convolution_shape shape = {.images = 16, .in_channels = 6, .in_height = 8, .in_width = 8, .out_channels = 4,
                                          .kernel_height = 3, .kernel_width = 3, .stride = k == 4 ? 3 : 2, .padding = k == 4 ? 3 : 1,
                                          .groups = k == 2 ? 2 : 1};
        assert_true(convolution_shape_complete(&shape, &error));
        static float output[16 * 4 * 16], found[16 * 4 * 16], gradient[4 * 6 * 9];
        float_convolution_forward(&shape, seen.values[MLS_WEIGHT], seen.values[MLS_ACTIVATION], output);
        for (int n = 0; n < 16; n++) blocked_to_planar(made.network->layers[1]->output + n * 16 * 16, 4, 16, found + n * 4 * 16);
        compare(found, output, 16 * 4 * 16);
        const struct parameter *weights = network_find_parameter(made.network, "layers.1.conv.weight");
        float_convolution_weight_gradient(&shape, seen.values[MLS_ACTIVATION], seen.values[MLS_ERROR], gradient);
        compare(weights->gradient, gradient, weights->count);
        assert_true(seen.nonnegative[MLS_ACTIVATION] && !seen.nonnegative[MLS_WEIGHT] && !seen.nonnegative[MLS_ERROR]);
        for (int i = 0; i < 3; i++) memory_release(seen.values[i]);
        loader_destroy(loader);
        unmake(&made);
    }
    dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fp32_is_perfect),
        cmocka_unit_test(test_linear_by_hand),
        cmocka_unit_test(test_bias_and_noise),
        cmocka_unit_test(test_counted),
        cmocka_unit_test(test_nearest_has_no_noise),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_operands_differ),
        cmocka_unit_test(test_network_is_left_alone),
        cmocka_unit_test(test_statistics_by_hand),
        cmocka_unit_test(test_statistics_of_formats),
        cmocka_unit_test(test_statistics_of_many_groups),
        cmocka_unit_test(test_statistics_of_nothing),
        cmocka_unit_test(test_weights_once),
        cmocka_unit_test(test_observer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
