// Darknet's files: golden results of Darknet (tests/golden/darknet, scripts/make-darknet-golden), .weights in all their versions, damage,
// and the output shapes of every layer of Darknet's classification cfgs.
// To add a shape: a row in tests/golden/darknet/shapes.txt.
#include "testing.h"

#include <math.h>

#include "base/file.h"
#include "base/memory.h"
#include "data/data.h"
#include "net/network.h"
#include "train/checkpoint.h"

#define FOLDER "tests/golden/darknet/"
#define MOST_OUTPUTS 128

struct built {
    struct cfg *cfg;
    struct thread_pool *pool;
    struct network *network;
};

static struct built build(const char *cfg, const char *set)
{
    struct diagnostics diagnostics = {0};
    struct error error;
    struct built b = {cfg_read(cfg, &diagnostics), thread_pool_create(2, NULL), NULL};
    struct network_request request = {.max_images = 2};
    if (b.cfg && (!cfg_set(b.cfg, "mls=0", &error) || (set && !cfg_set(b.cfg, set, &error)))) fail_msg("%s", error.message);
    b.network = b.cfg ? network_create(b.cfg, &request, b.pool, &diagnostics) : NULL;
    if (!b.network) fail_msg("%s", diagnostics.text);
    return b;
}

static void release(struct built *b)
{
    network_destroy(b->network);
    cfg_release(b->cfg);
    thread_pool_destroy(b->pool);
}

static uint8_t *read_bytes(const char *path, size_t *size)
{
    struct error error;
    uint8_t *bytes = file_read(path, 1 << 20, size, &error);
    if (!bytes) fail_msg("%s", error.message);
    return bytes;
}

// Scores of two copies of a picture; the count of numbers of one.
static int run(struct network *network, const char *picture, float scores[MOST_OUTPUTS])
{
    struct error error;
    struct shape in = network->input_shape;
    size_t size = shape_size(in);
    float *input = memory_allocate(2 * size + 64, sizeof(float), NULL);
    const struct data_settings settings = {.classes = 1, .channels = in.channels, .height = in.height, .width = in.width};
    struct dataset *dataset;
    int count;
    if (!dataset_open_without_pictures(&settings, &dataset, &error)) fail_msg("%s", error.message);
    if (!dataset_read_picture(dataset, picture, input, &error)) fail_msg("%s", error.message);
    dataset_close(dataset);
    memcpy(input + size, input, size * sizeof *input);
    struct pass pass = {.pool = network->pool, .images = 2};
    if (!network_forward(network, input, &pass, &error)) fail_msg("%s", error.message);
    const float *output = network_output(network, &count);
    assert_in_range(count, 1, MOST_OUTPUTS);
    memcpy(scores, output, (size_t)count * sizeof *scores);
    for (int i = 0; i < count; i++) assert_true(fabsf(output[count + i] - output[i]) < 1e-6f);
    memory_release(input);
    return count;
}

struct golden {
    const char *name, *weights;
    enum batch_norm_epsilon epsilon;
    float apart; // how far the other epsilon's results are off
};

static const struct golden goldens[] = {
    {"layers", "layers", BATCH_NORM_EPSILON_DEVIATION, 1e-6f},
    {"tree", "tree", BATCH_NORM_EPSILON_DEVIATION, -1},
    {"trunk", "trunk", BATCH_NORM_EPSILON_DEVIATION, 1e-2f},
    {"trunk", "trunk-0.2.5", BATCH_NORM_EPSILON_VARIANCE, 1e-2f},
};

// The largest difference from Darknet's numbers.
static float difference(const struct golden *g, const char *set)
{
    char cfg[256], weights[256], picture[256], result[256];
    struct error error;
    size_t size;
    float scores[MOST_OUTPUTS], expected[MOST_OUTPUTS], largest = 0;
    snprintf(cfg, sizeof cfg, FOLDER "%s.cfg", g->name);
    snprintf(picture, sizeof picture, FOLDER "%s.png", g->name);
    snprintf(weights, sizeof weights, FOLDER "%s.weights", g->weights);
    snprintf(result, sizeof result, FOLDER "%s.f32", g->weights);
    struct built b = build(cfg, set);
    if (!checkpoint_load(weights, b.network, NULL, &error)) fail_msg("%s", error.message);
    if (!set) assert_int_equal(b.network->batch_norm_epsilon, g->epsilon);
    int count = run(b.network, picture, scores);
    uint8_t *bytes = read_bytes(result, &size);
    assert_int_equal(size, (size_t)count * sizeof(float));
    memcpy(expected, bytes, size);
    memory_release(bytes);
    for (int i = 0; i < count; i++) largest = fmaxf(largest, fabsf(scores[i] - expected[i]));
    release(&b);
    return largest;
}

static void test_golden(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof goldens / sizeof goldens[0]; i++) {
        const struct golden *g = &goldens[i];
        bool deviation = g->epsilon == BATCH_NORM_EPSILON_DEVIATION;
        float found = difference(g, NULL);
        float other = difference(g, deviation ? "batch_norm_epsilon=variance" : "batch_norm_epsilon=deviation");
        if (found > 2e-5f) fail_msg("%s: off by %g from Darknet's", g->weights, (double)found);
        if (other < g->apart) fail_msg("%s: batch_norm_epsilon makes no difference (%g)", g->weights, (double)other);
    }
}

static void test_golden_shapes(void **state)
{
    (void)state;
    static const char *const names[] = {"layers", "trunk", "tree"};
    for (int i = 0; i < 3; i++) {
        char path[256];
        snprintf(path, sizeof path, FOLDER "%s.cfg", names[i]);
        struct built b = build(path, NULL);
        snprintf(path, sizeof path, FOLDER "%s.shapes", names[i]);
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        struct shape s;
        int layer = 0;
        for (; fscanf(file, "%d %d %d", &s.channels, &s.height, &s.width) == 3; layer++) {
            struct shape found = b.network->layers[layer]->output_shape;
            if (memcmp(&found, &s, sizeof s) != 0)
                fail_msg("%s, layer %d: %d x %d x %d, Darknet has %d x %d x %d", names[i], layer, found.channels, found.height, found.width,
                         s.channels, s.height, s.width);
        }
        assert_int_equal(layer, b.network->layer_count);
        fclose(file);
        release(&b);
    }
}

// Every line of shapes.txt, "IN -> OUT [section] OPTIONS", is a layer of Darknet's cfgs with the shape that Darknet gives it.
static void test_shapes(void **state)
{
    (void)state;
    char line[256], layer[128], text[512];
    int count = 0;
    FILE *file = fopen(FOLDER "shapes.txt", "r");
    assert_non_null(file);
    struct thread_pool *pool = thread_pool_create(1, NULL);
    for (; fgets(line, sizeof line, file); count++) {
        struct shape in, out;
        struct diagnostics diagnostics = {.path = "shapes.txt"};
        assert_int_equal(sscanf(line, "%d %d %d -> %d %d %d %127[^\n]", &in.channels, &in.height, &in.width, &out.channels, &out.height,
                                &out.width, layer), 7);
        for (char *p = layer; *p; p++) *p = *p == ' ' ? '\n' : *p;
        snprintf(text, sizeof text, "[net]\nmls=0\nchannels=%d\nheight=%d\nwidth=%d\n%s\n", in.channels, in.height, in.width, layer);
        struct cfg *cfg = cfg_parse("shapes.txt", text, strlen(text), &diagnostics);
        struct network_request request = {.max_images = 1};
        struct network *network = cfg ? network_create(cfg, &request, pool, &diagnostics) : NULL;
        if (!network) fail_msg("%s", diagnostics.text);
        struct shape found = network->layers[0]->output_shape;
        if (memcmp(&found, &out, sizeof out) != 0) fail_msg("%d x %d x %d for: %s", found.channels, found.height, found.width, line);
        network_destroy(network);
        cfg_release(cfg);
    }
    assert_true(count > 50);
    fclose(file);
    thread_pool_destroy(pool);
}

// ---------------------------------------------------------------------------------------------
// .weights

struct file { // a .weights file of layers.cfg
    const char *name;
    uint8_t bytes[16384];
    size_t size, header;
};

static void transpose(float *values, size_t rows, size_t columns)
{
    float copy[512];
    assert_in_range(rows * columns, 1, 512);
    memcpy(copy, values, rows * columns * sizeof *copy);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) values[c * rows + r] = copy[r * columns + c];
}

// The golden file of Darknet 0.2.0, under another header. The arrays of the connected layers are at its end: biases, weights [12][16],
// scales, means, variances; biases, weights [10][12].
static void make_file(struct file *f, const char *name, int major, int minor, int revision)
{
    static const int32_t seen = 4711;
    size_t size;
    uint8_t *golden = read_bytes(FOLDER "layers.weights", &size);
    const int32_t numbers[3] = {major, minor, revision};
    bool wide = major * 10 + minor >= 2 && major < 1000 && minor < 1000;
    *f = (struct file){.name = name, .header = wide ? 20 : 16};
    memcpy(f->bytes, numbers, sizeof numbers);
    memcpy(f->bytes + 12, &seen, sizeof seen);
    memcpy(f->bytes + f->header, golden + 20, size - 20);
    f->size = f->header + size - 20;
    memory_release(golden);
    if (major <= 1000 && minor <= 1000) return;
    float *end = (float *)(void *)(f->bytes + f->size);
    transpose(end - 120, 10, 12);
    transpose(end - 120 - 10 - 36 - 192, 12, 16);
}

static void load_file(const struct file *f, struct built *b, struct darknet_header *header)
{
    struct error error;
    if (!darknet_weights_parse(f->name, f->bytes, f->size, b->network, b->network->layer_count, header, &error)) fail_msg("%s", error.message);
}

static void assert_same_parameters(const struct network *a, const struct network *b, const char *name)
{
    for (int i = 0; i < a->parameter_count; i++)
        if (memcmp(a->parameters[i]->value, b->parameters[i]->value, a->parameters[i]->count * sizeof(float)) != 0)
            fail_msg("%s: %s differs", name, a->parameters[i]->name);
}

static void check_round_trip(const struct file *f, const struct network *plain, const char *folder)
{
    char path[512], safetensors[512];
    struct error error;
    struct darknet_header header, again;
    struct built b = build(FOLDER "layers.cfg", NULL), c = build(FOLDER "layers.cfg", NULL);
    load_file(f, &b, &header);
    assert_true(header.known && header.seen == 4711);
    if (plain) assert_same_parameters(plain, b.network, f->name);
    snprintf(safetensors, sizeof safetensors, "%s/a.safetensors", folder);
    snprintf(path, sizeof path, "%s/b.weights", folder);
    if (!checkpoint_save_weights(safetensors, b.network, "[net]\n", &header, &error) ||
        !checkpoint_load_weights(safetensors, c.network, &again, &error) || !darknet_weights_write(path, c.network, c.network->layer_count, &again, &error))
        fail_msg("%s: %s", f->name, error.message);
    assert_int_equal(b.network->batch_norm_epsilon, darknet_header_epsilon(&header));
    assert_int_equal(c.network->batch_norm_epsilon, b.network->batch_norm_epsilon);
    size_t size;
    uint8_t *bytes = read_bytes(path, &size);
    if (size != f->size || memcmp(bytes, f->bytes, size) != 0) fail_msg("%s: other bytes after the round trip", f->name);
    memory_release(bytes);
    release(&b);
    release(&c);
}

static void test_round_trip(void **state)
{
    (void)state;
    const char *folder = temporary_folder();
    struct file f;
    struct darknet_header header;
    struct built plain = build(FOLDER "layers.cfg", NULL);
    make_file(&f, "0.2.0", 0, 2, 0);
    load_file(&f, &plain, &header);
    check_round_trip(&f, NULL, folder);
    make_file(&f, "0.1.0", 0, 1, 0);
    check_round_trip(&f, plain.network, folder);
    make_file(&f, "0.2.4", 0, 2, 4);
    check_round_trip(&f, plain.network, folder);
    make_file(&f, "not yet transposed", 1000, 1000, 0);
    check_round_trip(&f, plain.network, folder);
    make_file(&f, "transposed by major", 1001, 0, 0);
    check_round_trip(&f, plain.network, folder);
    make_file(&f, "transposed by minor", 0, 1002, 0);
    check_round_trip(&f, plain.network, folder);
    release(&plain);
}

// 0.2.5: the [batchnorm] of the successors has biases, 8 of them; without, only zeros can be written.
static void test_batchnorm_bias(void **state)
{
    (void)state;
    char path[512];
    struct file f;
    struct error error;
    struct darknet_header header, old;
    struct built b = build(FOLDER "layers.cfg", NULL), c = build(FOLDER "layers.cfg", NULL);
    make_file(&f, "0.2.0", 0, 2, 0);
    load_file(&f, &b, &header);
    struct parameter *bias = network_find_parameter(b.network, "layers.10.batchnorm.bias");
    for (size_t i = 0; i < bias->count; i++) assert_true(bias->value[i] == 0);
    bias->value[3] = 1.25f;
    snprintf(path, sizeof path, "%s/a.weights", temporary_folder());
    assert_false(darknet_weights_write(path, b.network, b.network->layer_count, &header, &error));
    assert_contains(error.message, "layer 10 [batchnorm] has a bias");
    assert_true(darknet_header_from_text("0.2.5", &header) && darknet_header_from_text("0.1", &old));
    assert_true(darknet_header_epsilon(&header) == BATCH_NORM_EPSILON_VARIANCE && darknet_header_epsilon(&old) == BATCH_NORM_EPSILON_DEVIATION);
    assert_true(darknet_weights_write(path, b.network, b.network->layer_count, &header, &error));
    size_t size;
    uint8_t *bytes = read_bytes(path, &size);
    assert_int_equal(size, f.size + 8 * sizeof(float));
    memory_release(bytes);
    assert_true(checkpoint_load(path, c.network, NULL, &error));
    assert_same_parameters(b.network, c.network, "0.2.5");
    assert_int_equal(c.network->batch_norm_epsilon, BATCH_NORM_EPSILON_VARIANCE);
    release(&b);
    release(&c);
}

// Where the layers of the network end in a file with a header of 0.2.0.
static void find_ends(const struct network *network, size_t header, size_t ends[32])
{
    size_t at = header;
    for (int i = 0; i < network->layer_count; i++) {
        char prefix[32];
        int length = snprintf(prefix, sizeof prefix, "layers.%d.", i);
        for (int k = 0; k < network->parameter_count; k++) {
            const struct parameter *p = network->parameters[k];
            bool stored = strcmp(network->layers[i]->type->name, "batchnorm") != 0 || !strstr(p->name, "bias");
            if (stored && strncmp(p->name, prefix, (size_t)length) == 0) at += p->count * sizeof(float);
        }
        ends[i] = at;
    }
}

// Cut off anywhere: an error that names the layer that lacks bytes, and nothing is changed.
static void test_cut_off(void **state)
{
    (void)state;
    static struct file f;
    struct darknet_header header;
    struct built b = build(FOLDER "layers.cfg", NULL), untouched = build(FOLDER "layers.cfg", NULL);
    make_file(&f, "x.weights", 0, 2, 0);
    size_t ends[32] = {0};
    find_ends(b.network, f.header, ends);
    assert_int_equal(ends[b.network->layer_count - 1], f.size);
    for (size_t size = 0; size < f.size; size++) {
        struct error error = {""};
        char expected[64] = "not one of Darknet's";
        int layer = 0;
        while (size >= f.header && ends[layer] <= size) layer++;
        const char *where = size == (layer ? ends[layer - 1] : f.header) ? "before" : "within";
        if (size >= f.header) snprintf(expected, sizeof expected, "ends %s layer %d [%s]", where, layer, b.network->layers[layer]->type->name);
        uint8_t *copy = memory_allocate(size, 1, NULL);
        memcpy(copy, f.bytes, size);
        assert_false(darknet_weights_parse("x.weights", copy, size, b.network, b.network->layer_count, &header, &error));
        assert_contains(error.message, expected);
        memory_release(copy);
    }
    assert_same_parameters(untouched.network, b.network, "after failures");
    release(&b);
    release(&untouched);
}

static bool differs(const struct parameter *p, const struct parameter *q)
{
    return memcmp(p->value, q->value, p->count * sizeof(float)) != 0;
}

// The first layers alone, of a file that holds these or all: the others keep their values. Other lengths are refused.
static void test_first_layers(void **state)
{
    (void)state;
    static struct file f;
    struct darknet_header header;
    struct built whole = build(FOLDER "layers.cfg", NULL), fresh = build(FOLDER "layers.cfg", NULL);
    make_file(&f, "x.weights", 0, 2, 0);
    load_file(&f, &whole, &header);
    size_t ends[32] = {0};
    int count = whole.network->layer_count;
    find_ends(whole.network, f.header, ends);
    for (int layers = 1; layers <= count; layers++)
        for (size_t size = f.header; size <= f.size + 4; size += 4) {
            struct error error = {""};
            struct built b = build(FOLDER "layers.cfg", NULL);
            bool fits = size == ends[layers - 1] || size == f.size, good;
            good = darknet_weights_parse("x.weights", f.bytes, size, b.network, layers, &header, &error);
            if (good != fits) fail_msg("%d layers of %zu bytes: %s", layers, size, good ? "taken" : error.message);
            for (int i = 0; i < b.network->parameter_count; i++) {
                bool taken = good && atoi(b.network->parameters[i]->name + strlen("layers.")) < layers;
                if (differs(b.network->parameters[i], (taken ? whole : fresh).network->parameters[i]))
                    fail_msg("%d layers of %zu bytes: %s", layers, size, b.network->parameters[i]->name);
            }
            release(&b);
            if (size > f.header && size < ends[layers - 1] - 8) size = ends[layers - 1] - 8; // the others are like one another
        }
    release(&whole);
    release(&fresh);
}

static void expect_refused(const struct file *f, const char *message)
{
    struct darknet_header header;
    struct error error = {""};
    struct built b = build(FOLDER "layers.cfg", NULL);
    assert_false(darknet_weights_parse(f->name, f->bytes, f->size, b.network, b.network->layer_count, &header, &error));
    assert_contains(error.message, message);
    release(&b);
}

static void test_refused(void **state)
{
    (void)state;
    static struct file f;
    make_file(&f, "x.weights", 0, 2, 0);
    f.size += 3;
    expect_refused(&f, "x.weights: 3 bytes too many behind the last layer with weights, layer 16 [connected]");
    make_file(&f, "x.weights", 0, 2, 5); // needs 8 numbers more
    expect_refused(&f, "ends within layer 16 [connected]");
    make_file(&f, "x.weights", 0, 2, 0);
    const float negative = -1;
    memcpy(f.bytes + f.header + (3 * 6 + 2) * sizeof negative, &negative, sizeof negative); // a variance of layer 1
    expect_refused(&f, "layer 1 [convolutional]: a variance is -1");
    struct darknet_header header;
    assert_false(darknet_header_from_text("two", &header));
    assert_false(darknet_header_from_text("0.2.0x", &header));
    assert_false(darknet_weights_recognized((const uint8_t *)"[net]\nbatch=1\nheight=4\n", 23));
    assert_false(darknet_weights_recognized((const uint8_t *)"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}", 28));
}

// A .weights file has no state to resume from; flipped weights stand as [inputs][outputs].
static void test_flipped(void **state)
{
    (void)state;
    struct error error;
    struct darknet_header header;
    struct training_state training;
    static const char text[] = "[net]\nheight=4\nwidth=4\nchannels=3\n[conv]\nfilters=2\nflipped=1\n";
    struct diagnostics diagnostics = {.path = "x.cfg"};
    struct cfg *cfg = cfg_parse("x.cfg", text, sizeof text - 1, &diagnostics);
    struct thread_pool *pool = thread_pool_create(1, NULL);
    struct network_request request = {.max_images = 1};
    struct network *network = network_create(cfg, &request, pool, &diagnostics);
    char path[512];
    snprintf(path, sizeof path, "%s/flipped.weights", temporary_folder());
    const struct { int32_t numbers[4]; float values[8]; } file = {{0, 1, 0, 9}, {-1, -2, 1, 2, 3, 4, 5, 6}};
    write_file(path, &file, sizeof file);
    assert_false(checkpoint_load(path, network, &training, &error));
    assert_contains(error.message, "no training state");
    assert_true(checkpoint_load_weights(path, network, &header, &error));
    static const float expected[6] = {1, 3, 5, 2, 4, 6};
    assert_memory_equal(network_find_parameter(network, "layers.0.conv.weight")->value, expected, sizeof expected);
    assert_true(darknet_weights_write(path, network, 1, &header, &error));
    size_t size;
    uint8_t *bytes = read_bytes(path, &size);
    assert_int_equal(size, sizeof file);
    assert_memory_equal(bytes, &file, sizeof file);
    memory_release(bytes);
    network_destroy(network);
    cfg_release(cfg);
    thread_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),     cmocka_unit_test(test_golden_shapes), cmocka_unit_test(test_shapes),
                                       cmocka_unit_test(test_round_trip), cmocka_unit_test(test_batchnorm_bias), cmocka_unit_test(test_cut_off),
                                       cmocka_unit_test(test_refused),    cmocka_unit_test(test_flipped),
                                       cmocka_unit_test(test_first_layers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
