// Gradients of every layer against central finite differences in fp32, and independence of the number of threads.
// To add a case: a row in `cases`: the layers between input and loss.
#include "testing.h"

#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "net/activations.h"
#include "net/batch_normalization.h"
#include "net/network.h"

#define IMAGES 3

struct built {
    struct cfg *cfg;
    struct thread_pool *pool;
    struct network *network;
    float *input;
    int labels[IMAGES];
};

static void build_for(struct built *b, const char *layers, int threads, bool for_training)
{
    char text[4096];
    snprintf(text, sizeof text, "[net]\nbatch=%d\nheight=6\nwidth=6\nchannels=2\nmls=0\n%s", IMAGES, layers);
    struct diagnostics diagnostics = {.path = "test.cfg"};
    struct network_request request = {.for_training = for_training, .seed = 5};
    b->pool = thread_pool_create(threads, NULL);
    b->cfg = cfg_parse("test.cfg", text, strlen(text), &diagnostics);
    b->network = b->cfg ? network_create(b->cfg, &request, b->pool, &diagnostics) : NULL;
    if (!b->network) fail_msg("%s", diagnostics.text);
    b->input = memory_allocate(IMAGES * 72 + 64, sizeof(float), NULL);
    struct random_stream stream = {99, 0};
    for (int i = 0; i < IMAGES * 72; i++) b->input[i] = random_normal(&stream);
    int classes;
    network_output(b->network, &classes);
    for (int i = 0; i < IMAGES; i++) b->labels[i] = (i * 2 + 1) % classes;
}

static void build(struct built *b, const char *layers, int threads)
{
    build_for(b, layers, threads, true);
}

static void release(struct built *b)
{
    network_destroy(b->network);
    cfg_release(b->cfg);
    thread_pool_destroy(b->pool);
    memory_release(b->input);
}

static double loss_of(struct built *b)
{
    struct error error = {""};
    struct pass pass = {.pool = b->pool, .images = IMAGES, .training = true, .seed = 3, .step = 4, .labels = b->labels,
                        .label_smoothing = 0.1f, .loss_scale = 1};
    if (!network_forward(b->network, b->input, &pass, &error)) fail_msg("%s", error.message);
    return b->network->loss;
}

static void backward(struct built *b)
{
    struct error error = {""};
    struct pass pass = {.pool = b->pool, .images = IMAGES, .training = true, .seed = 3, .step = 4, .labels = b->labels,
                        .label_smoothing = 0.1f, .loss_scale = 1};
    loss_of(b);
    if (!network_backward(b->network, &pass, &error)) fail_msg("%s", error.message);
}

#define CONV "[conv]\nfilters=4\nsize=3\npad=1\nactivation=tanh\n"
#define WIDE "[conv]\nfilters=20\nbatch_normalize=1\nactivation=relu\n"
#define END "[connected]\noutput=3\nactivation=linear\n[softmax]\n"

static const struct { const char *name, *layers; } cases[] = {
    {"connected", "[connected]\noutput=5\nactivation=logistic\n" END},
    {"connected with batch norm", "[connected]\noutput=5\nbatch_normalize=1\nactivation=tanh\n" END},
    {"convolutional", CONV END},
    {"convolutional, stride 2, 5x5", "[conv]\nfilters=3\nsize=5\nstride=2\npadding=2\nactivation=elu\n" END},
    {"convolutional, 1x1", CONV "[conv]\nfilters=3\nsize=1\nactivation=logistic\n" END},
    {"convolutional, grouped", CONV "[conv]\nfilters=6\nsize=3\npad=1\ngroups=2\nactivation=loggy\n" END},
    {"convolutional, depthwise, stride 2", CONV "[conv]\nfilters=4\nsize=3\npad=1\nstride=2\ngroups=4\nactivation=tanh\n" END},
    {"convolutional, batch norm, linear", "[conv]\nfilters=3\nsize=3\nbatch_normalize=1\nactivation=linear\n" END},
    {"convolutional, batch norm, tanh", "[conv]\nfilters=3\nsize=3\nbatch_normalize=1\nactivation=tanh\n" END},
    {"convolutional, batch norm, leaky", "[conv]\nfilters=3\nsize=3\nbatch_normalize=1\nactivation=leaky\n" END},
    {"convolutional, batch norm, wide before narrow", "[conv]\nfilters=20\nbatch_normalize=1\nactivation=leaky\n"
     "[conv]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n" END},
    {"batchnorm", CONV "[batchnorm]\n" END},
    {"shortcut", CONV CONV "[shortcut]\nfrom=-2\nactivation=tanh\n" END},
    {"shortcut, relu", CONV CONV "[shortcut]\nfrom=-2\nactivation=relu\n" END},
    {"shortcut, fewer pixels, more channels", CONV "[conv]\nfilters=6\nsize=3\nstride=2\npad=1\nactivation=tanh\n[shortcut]\nfrom=-2\nactivation=linear\n" END},
    {"shortcut, more pixels", CONV "[conv]\nfilters=6\nsize=3\nstride=2\npad=1\nactivation=tanh\n[conv]\nfilters=2\nsize=1\nactivation=linear\n[route]\nlayers=0\n[shortcut]\nfrom=-3\nactivation=linear\n" END},
    {"shortcut, more pixels, no whole ratio", CONV "[maxpool]\nsize=2\nstride=2\npadding=0\n[conv]\nfilters=2\nsize=2\nactivation=linear\n[conv]\nfilters=5\nsize=2\npadding=2\nactivation=tanh\n[shortcut]\nfrom=-3\nactivation=linear\n" END},
    {"shortcut, fewer pixels, no whole ratio", CONV "[conv]\nfilters=5\nsize=3\nactivation=tanh\n[shortcut]\nfrom=-2\nactivation=relu\n" END},
    {"shortcut, no whole ratio, of normalized layers", "[conv]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n"
     "[conv]\nfilters=5\nsize=3\nbatch_normalize=1\nactivation=linear\n[shortcut]\nfrom=-2\nactivation=relu\n" END},
    {"shortcut, relu, its errors passed on image by image", "[conv]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n"
     "[conv]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\nactivation=linear\n[shortcut]\nfrom=-2\nactivation=relu\n[avgpool]\nsize=2\nstride=1\n" END},
    {"shortcut, fewer channels, of which not all lanes are written", WIDE WIDE "[conv]\nfilters=4\nsize=3\npad=1\n"
     "batch_normalize=1\nactivation=relu\n[shortcut]\nfrom=-3\nactivation=relu\n[route]\nlayers=-1,-2\n" END},
    {"shortcut, twice the same layer", CONV "[shortcut]\nfrom=-1\nactivation=tanh\n" END},
    {"shortcut, another reader between its inputs", "[conv]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n"
     "[conv]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\nactivation=linear\n[route]\nlayers=0\n" CONV
     "[route]\nlayers=1\n[shortcut]\nfrom=0\nactivation=leaky\n[route]\nlayers=5,3\n" END},
    {"route, parts of blocks, read by others too", CONV "[conv]\nfilters=21\nsize=3\npad=1\nactivation=tanh\n[conv]\nfilters=9\nactivation=tanh\n"
     "[route]\nlayers=0,1,2\n[conv]\nfilters=16\nactivation=tanh\n[route]\nlayers=4,4,1,3\n" END},
    {"route", CONV "[conv]\nfilters=3\nsize=3\npad=1\nactivation=tanh\n[route]\nlayers=-1,0\n" END},
    {"maxpool", CONV "[maxpool]\nsize=2\nstride=2\n" END},
    {"maxpool, overlapping, padded", CONV "[maxpool]\nsize=3\nstride=2\npadding=2\n" END},
    {"maxpool, windows of one pixel, padded", CONV "[maxpool]\nsize=1\nstride=1\npadding=1\n" END},
    {"avgpool", CONV "[avgpool]\n" END},
    {"avgpool, windows", CONV "[avgpool]\nsize=3\nstride=2\npadding=1\n" END},
    {"dropout", CONV "[dropout]\nprobability=0.3\n" END},
    {"crop", "[crop]\ncrop_height=4\ncrop_width=5\nflip=1\n" CONV END},
    {"cost behind softmax", CONV END "[cost]\n"},
    {"local", CONV "[local]\nfilters=3\nsize=2\nstride=2\nactivation=tanh\n" END},
    {"local, padded", "[local]\nfilters=3\nsize=3\nstride=2\npad=1\nactivation=elu\n[conv]\nfilters=2\nactivation=linear\n" END},
    {"softmax, groups", CONV "[connected]\noutput=6\nactivation=linear\n[softmax]\ngroups=2\n"},
    {"softmax, tree", CONV "[connected]\noutput=7\nactivation=linear\n[softmax]\ntree=tests/golden/classes.tree\n"},
    {"cost, absolute error", CONV "[connected]\noutput=3\nactivation=tanh\n[cost]\ntype=L1\nscale=0.5\n"},
    {"cost, smooth", CONV "[connected]\noutput=3\nactivation=ramp\n[cost]\ntype=smooth\n"},
    {"cost, squared error", CONV "[connected]\noutput=3\nactivation=tanh\n[cost]\ntype=sse\n"},
};

// A few elements of every parameter, each by (loss(w + h) - loss(w - h)) / 2h.
static void check_gradients(const char *name, struct built *b)
{
    backward(b);
    for (int i = 0; i < b->network->parameter_count; i++) {
        struct parameter *p = b->network->parameters[i];
        if (!p->gradient) continue;
        double largest = 1e-3;
        for (size_t k = 0; k < p->count; k++) largest = fmax(largest, fabs((double)p->gradient[k]));
        for (size_t k = 0; k < p->count; k += 1 + p->count / 12) {
            float old = p->value[k], h = 2e-4f;
            p->value[k] = old + h;
            double above = loss_of(b);
            p->value[k] = old - h;
            double below = loss_of(b);
            p->value[k] = old;
            double expected = (above - below) / (2 * (double)h), found = (double)p->gradient[k];
            if (fabs(expected - found) > 0.03 * largest + 2e-3)
                fail_msg("%s: %s[%zu]: finite difference %g, gradient %g", name, p->name, k, expected, found);
        }
    }
}

static void test_gradients(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct built b;
        build(&b, cases[i].layers, 1);
        check_gradients(cases[i].name, &b);
        release(&b);
    }
}

static void compare_gradients(const char *name, const struct built *a, const struct built *b)
{
    for (int k = 0; k < a->network->parameter_count; k++) {
        const struct parameter *p = a->network->parameters[k], *q = b->network->parameters[k];
        if (p->gradient && memcmp(p->gradient, q->gradient, p->count * sizeof(float)) != 0) fail_msg("%s: %s differs", name, p->name);
    }
}

static void test_threads(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct built one;
        build(&one, cases[i].layers, 1);
        backward(&one);
        for (int threads = 2; threads <= 3; threads++) {
            struct built b;
            build(&b, cases[i].layers, threads);
            backward(&b);
            assert_true(b.network->loss == one.network->loss);
            compare_gradients(cases[i].name, &b, &one);
            release(&b);
        }
        release(&one);
    }
}

// What other pictures left in the memory that layers share, in places that stand for no channel too, has no effect.
static void test_nothing_is_left(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct built fresh, used;
        build(&fresh, cases[i].layers, 1);
        build(&used, cases[i].layers, 1);
        backward(&fresh);
        for (int k = 0; k < IMAGES * 72; k++) used.input[k] = 2 - 3 * used.input[k];
        for (int round = 0; round < 2; round++) {
            backward(&used);
            memcpy(used.input, fresh.input, IMAGES * 72 * sizeof(float));
            for (int k = 0; round == 0 && k < used.network->parameter_count; k++) {
                struct parameter *p = used.network->parameters[k];
                if (p->gradient) memset(p->gradient, 0, p->count * sizeof(float));
            }
        }
        compare_gradients(cases[i].name, &fresh, &used);
        release(&fresh);
        release(&used);
    }
}

// The ways in which [convolutional] computes: each with batch normalization whose output is left to the next layer, trained
// for a step. The kernels are compared with each other elsewhere; here nothing may be missing on the way.
static void test_modes(void **state)
{
    (void)state;
#define NORMALIZED "[conv]\nfilters=4\nsize=3\npad=1\nbatch_normalize=1\nactivation=relu\n"
#define PLAIN_C "[conv]\nfilters=4\nsize=1\npadding=1\nbatch_normalize=1\nactivation=relu\nmls=1\n"
#define MODE(options) NORMALIZED options NORMALIZED options NORMALIZED "mls=1\n" "[shortcut]\nfrom=-2\nactivation=relu\n" END
    static const char *const modes[] = {MODE("mls=0\n"), MODE("mls=0\ngroups=2\n"), MODE("mls=1\n"), MODE("mls=1\ngroups=2\n"),
                                        MODE("mls=1\nexponent=3\nmantissa=6\n"), MODE("mls=1\ngroup=none\n"),
                                        MODE("mls=1\nformat=mxfp4\ngroups=2\n"), NORMALIZED PLAIN_C NORMALIZED END,
                                        NORMALIZED NORMALIZED "groups=4\n" MODE("mls=1\n"), NORMALIZED NORMALIZED "groups=4\nmls=1\n" MODE("mls=1\n")};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        struct built b;
        build(&b, modes[i], 2);
        backward(&b);
        for (int k = 0; k < b.network->parameter_count; k++) {
            const struct parameter *p = b.network->parameters[k];
            double sum = 0;
            for (size_t j = 0; p->gradient && j < p->count; j++) sum += fabs((double)p->gradient[j]);
            if (p->gradient && !(sum > 0 && isfinite(sum))) fail_msg("mode %zu: the gradient of %s sums to %g", i, p->name, sum);
        }
        release(&b);
    }
}

// The bounds from which the errors' tensor scale is found: never below the largest |dL/dx| of a plane, and not far above.
static void test_error_bounds(void **state)
{
    (void)state;
    for (int seed = 0; seed < 20; seed++) {
        struct built b;
        build(&b, "[conv]\nfilters=20\nsize=3\npad=1\nactivation=linear\n[batchnorm]\n[maxpool]\nsize=2\nstride=2\n" END, 1);
        struct layer *layer = b.network->layers[1];
        struct batch_normalization *norm = layer->state;
        struct random_stream stream = {(uint64_t)seed, 0};
        for (int i = 0; i < IMAGES * 72; i++) b.input[i] = random_normal(&stream) * (seed % 2 ? 1 : 100) + (float)(seed % 3 * 30);
        for (int c = 0; c < 20; c++) norm->scale->value[c] = random_normal(&stream);
        backward(&b);
        float bounds[IMAGES * 32];
        batch_normalization_error_bounds(norm, IMAGES, bounds);
        struct source map = batch_normalization_error_source(norm, b.network->layers[0]->output, layer->delta, PIECEWISE_LINEAR);
        for (int n = 0; n < IMAGES; n++)
            for (int c = 0; c < 20; c++) {
                float maxima[BLOCK_CHANNELS];
                struct source source = source_of_block(&map, n, c / BLOCK_CHANNELS, 2, 36);
                source_maxima(&source, 36, maxima);
                float largest = maxima[c % BLOCK_CHANNELS], bound = bounds[n * 32 + c];
                if (!(bound >= largest && bound <= 4 * largest + 1e-6f))
                    fail_msg("image %d, channel %d: bound %g of errors up to %g", n, c, (double)bound, (double)largest);
            }
        release(&b);
    }
}

// f' in terms of y against finite differences of f, away from the kinks.
static void test_activations(void **state)
{
    (void)state;
    static const float points[] = {-5.3f, -2.2f, -0.7f, -0.3f, 0.4f, 0.8f, 1.7f, 5.1f, 7.2f};
    for (int a = ACTIVATION_LINEAR; a <= ACTIVATION_LHTAN; a++)
        for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
            float values[3] = {points[i] - 1e-2f, points[i], points[i] + 1e-2f}, slope = 1;
            activation_apply((enum activation)a, values, 3);
            activation_gradient((enum activation)a, &values[1], &slope, 1);
            float expected = (values[2] - values[0]) / 2e-2f;
            if (a == ACTIVATION_PLSE && fabsf(points[i]) > 4) continue; // Darknet's slope is told from y alone
            if (fabsf(expected - slope) > 0.01f) fail_msg("activation %d at %g: %g, expected %g", a, (double)points[i], (double)slope, (double)expected);
        }
}

// Whether the crop's output for an image is this part of its input, 2 x - 1.
static bool is_part(const struct built *b, int image, int top, int left, bool mirrored)
{
    const float *output = b->network->layers[0]->output + (size_t)image * shape_stored(b->network->layers[0]->output_shape);
    for (int c = 0; c < 2; c++)
        for (int y = 0; y < 4; y++)
            for (int x = 0; x < 5; x++) {
                float value = b->input[image * 72 + c * 36 + (top + y) * 6 + left + (mirrored ? 4 - x : x)];
                if (output[blocked_at(20, c, (size_t)(y * 5 + x))] != 2 * value - 1) return false;
            }
    return true;
}

// [crop] in training: every place, and mirrored ones with flip=1; in evaluation the centre.
static void test_crop(void **state)
{
    (void)state;
    for (int flip = 0; flip < 2; flip++) {
        struct built b;
        struct error error;
        int seen[3][2][2] = {{{0}}}, parts = 0;
        build(&b, flip ? "[crop]\ncrop_height=4\ncrop_width=5\nflip=1\n" END : "[crop]\ncrop_height=4\ncrop_width=5\n" END, 2);
        for (uint64_t step = 0; step < 100; step++) {
            struct pass pass = {.pool = b.pool, .images = IMAGES, .training = true, .seed = 3, .step = step, .labels = b.labels, .loss_scale = 1};
            assert_true(network_forward(b.network, b.input, &pass, &error));
            for (int i = 0; i < IMAGES * 12; i++) seen[i / 4 % 3][i / 2 % 2][i % 2] += is_part(&b, i / 12, i / 4 % 3, i / 2 % 2, i % 2);
        }
        for (int i = 0; i < 12; i++) {
            int count = seen[i / 4][i / 2 % 2][i % 2];
            assert_in_range(count, flip ? 10 : i % 2 ? 0 : 20, flip ? 45 : i % 2 ? 0 : 90); // of 300
            parts += count;
        }
        assert_int_equal(parts, 100 * IMAGES);
        struct pass pass = {.pool = b.pool, .images = IMAGES};
        assert_true(network_forward(b.network, b.input, &pass, &error));
        for (int i = 0; i < IMAGES; i++) assert_true(is_part(&b, i, 1, 0, false));
        release(&b);
    }
}

// By the definition, one number after the other: output of a channel, and the error of its input, to which is added.
static void pool_plainly(const float *in, const float *delta, int channel, int size, int stride, int padding, struct shape out, float *output,
                         float *in_delta)
{
    for (int y = 0; y < out.height; y++)
        for (int x = 0; x < out.width; x++) {
            const size_t at = blocked_at(shape_pixels(out), channel, (size_t)(y * out.width + x));
            long winner = -1;
            for (int k = 0; k < size * size; k++) {
                const int r = y * stride + k / size - padding / 2, c = x * stride + k % size - padding / 2;
                if (r < 0 || r >= 6 || c < 0 || c >= 6) continue;
                const size_t position = blocked_at(36, channel, (size_t)(r * 6 + c));
                if (winner < 0 || in[position] > in[winner]) winner = (long)position;
            }
            output[at] = winner < 0 ? 0 : in[winner];
            if (winner >= 0) in_delta[winner] += delta[at];
        }
}

// Every window, to the bit. Backward is called twice: the second time the errors are added.
static void check_maxpool(int size, int stride, int padding)
{
    char layers[256];
    struct built b;
    struct error error;
    struct random_stream stream = {7, 0};
    snprintf(layers, sizeof layers, "[conv]\nfilters=20\nsize=1\nactivation=linear\n[maxpool]\nsize=%d\nstride=%d\npadding=%d\n" END, size,
             stride, padding);
    build(&b, layers, 2);
    struct layer *conv = b.network->layers[0], *pool = b.network->layers[1];
    const struct pass pass = {.pool = b.pool, .images = IMAGES, .training = true, .labels = b.labels, .loss_scale = 1};
    assert_true(network_forward(b.network, b.input, &pass, &error));
    const size_t in_size = shape_stored(conv->output_shape), out_size = shape_stored(pool->output_shape);
    for (size_t i = 0; i < IMAGES * in_size; i++) conv->output[i] = roundf(random_normal(&stream)); // so that there are equals
    for (size_t i = 0; i < IMAGES * out_size; i++) pool->delta[i] = random_normal(&stream);
    conv->delta_written = false;
    assert_true(pool->type->forward(pool, &pass, &error));
    assert_true(pool->type->backward(pool, &pass, &error) && pool->type->backward(pool, &pass, &error));
    float *output = memory_allocate(out_size, sizeof *output, NULL), *delta = memory_allocate(in_size, sizeof *delta, NULL);
    for (int n = 0; n < IMAGES; n++) {
        memset(delta, 0, in_size * sizeof *delta);
        for (int c = 0; c < 40; c++)
            pool_plainly(conv->output + (size_t)n * in_size, pool->delta + (size_t)n * out_size, c % 20, size, stride, padding,
                         pool->output_shape, output, delta);
        for (int c = 0; c < 20; c++)
            for (size_t p = 0; p < shape_pixels(pool->output_shape); p++)
                if (output[blocked_at(shape_pixels(pool->output_shape), c, p)] !=
                    pool->output[(size_t)n * out_size + blocked_at(shape_pixels(pool->output_shape), c, p)])
                    fail_msg("size %d, stride %d, padding %d: output of channel %d, pixel %zu", size, stride, padding, c, p);
        for (int c = 0; c < 20; c++)
            for (size_t p = 0; p < 36; p++)
                if (delta[blocked_at(36, c, p)] != conv->delta[(size_t)n * in_size + blocked_at(36, c, p)])
                    fail_msg("size %d, stride %d, padding %d: error of channel %d, pixel %zu", size, stride, padding, c, p);
    }
    memory_release(output);
    memory_release(delta);
    release(&b);
}

static void test_maxpool(void **state)
{
    (void)state;
    for (int size = 1; size <= 5; size++)
        for (int stride = 1; stride <= 4; stride++)
            for (int padding = 0; padding < 2 * size; padding++) check_maxpool(size, stride, padding);
}

// An evaluation of fewer images than the network is made for gives the same scores for each image.
static void test_part_of_a_batch(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct built b;
        struct error error;
        int classes;
        build(&b, cases[i].layers, 2);
        struct pass pass = {.pool = b.pool, .images = IMAGES};
        assert_true(network_forward(b.network, b.input, &pass, &error));
        float scores[IMAGES * 8];
        const float *output = network_output(b.network, &classes);
        memcpy(scores, output, (size_t)(IMAGES * classes) * sizeof(float));
        pass.images = 1;
        for (int n = 0; n < IMAGES; n++) {
            assert_true(network_forward(b.network, b.input + n * 72, &pass, &error));
            for (int k = 0; k < classes; k++)
                if (fabsf(output[k] - scores[n * classes + k]) > 1e-5f) fail_msg("%s: image %d", cases[i].name, n);
        }
        release(&b);
    }
}

static void check_evaluation(struct built *b, bool same_weights, const float *expected, const char *name, const char *what)
{
    int classes;
    struct error error;
    struct pass pass = {.pool = b->pool, .images = IMAGES, .same_weights = same_weights};
    if (!network_forward(b->network, b->input, &pass, &error)) fail_msg("%s: %s", name, error.message);
    const float *scores = network_output(b->network, &classes);
    if (memcmp(scores, expected, (size_t)(IMAGES * classes) * sizeof(float)) != 0) fail_msg("%s: %s gives other scores", name, what);
}


// Evaluation takes short cuts: a [shortcut] that does each image as soon as its input is there, and in a network that is not for
// training in the same place; weights that are quantized once. The plain way gives the same bits.
static void test_evaluation(void **state)
{
    (void)state;
    static const char *const more[] = {MODE("mls=0\n"), MODE("mls=1\n"), MODE("mls=1\ngroup_size=1\n"), MODE("mls=1\nexponent=3\nmantissa=6\n"),
                                       MODE("mls=1\ngroups=2\n"), NORMALIZED PLAIN_C "[shortcut]\nfrom=-2\n" END, NORMALIZED "mls=1\n" NORMALIZED "groups=4\nmls=1\n[shortcut]\nfrom=-2\n" END,
                                       NORMALIZED NORMALIZED "[shortcut]\nfrom=-2\n[route]\nlayers=1,2\n" END,
                                       NORMALIZED NORMALIZED "[shortcut]\nfrom=-2\n[conv]\nfilters=40\nactivation=tanh\n" END,
                                       WIDE NORMALIZED WIDE "[shortcut]\nfrom=0\n[route]\nlayers=2\n[shortcut]\nfrom=3\n" END,
                                       NORMALIZED NORMALIZED "[shortcut]\nfrom=-2\n[route]\nlayers=1\n[shortcut]\nfrom=0\n[route]\nlayers=2,4\n" END,
                                       NORMALIZED NORMALIZED NORMALIZED "[route]\nlayers=1\n[shortcut]\nfrom=2\n" END};
    size_t count = sizeof cases / sizeof cases[0], followed = 0;
    for (size_t i = 0; i < count + sizeof more / sizeof more[0]; i++) {
        struct built b, other;
        char name[64];
        int classes;
        struct error error;
        const char *layers = i < count ? cases[i].layers : more[i - count];
        snprintf(name, sizeof name, "%s %zu", i < count ? cases[i].name : "mode", i < count ? i : i - count);
        build(&b, layers, 2);
        loss_of(&b); // running statistics
        struct pass pass = {.pool = b.pool, .images = IMAGES};
        struct layer *followers[32] = {0};
        for (int k = 0; k < b.network->layer_count; k++) {
            followers[k] = b.network->layers[k]->output_follower;
            followed += followers[k] != NULL;
            b.network->layers[k]->output_follower = NULL;
        }
        if (!network_forward(b.network, b.input, &pass, &error)) fail_msg("%s: %s", name, error.message);
        float expected[IMAGES * 8];
        const float *scores = network_output(b.network, &classes);
        memcpy(expected, scores, (size_t)(IMAGES * classes) * sizeof(float));
        for (int k = 0; k < b.network->layer_count; k++) b.network->layers[k]->output_follower = followers[k];
        check_evaluation(&b, false, expected, name, "following");
        check_evaluation(&b, true, expected, name, "keeping the weights");
        build_for(&other, layers, 2, false);
        for (int k = 0; k < other.network->parameter_count; k++)
            memcpy(other.network->parameters[k]->value, b.network->parameters[k]->value, other.network->parameters[k]->count * sizeof(float));
        check_evaluation(&other, false, expected, name, "a network for inference");
        check_evaluation(&other, true, expected, name, "a network for inference, keeping the weights,");
        release(&other);
        release(&b);
    }
    assert_true(followed >= 6);
}

// A NaN in the input is a failure that names the layer, never a number.
static void test_not_finite(void **state)
{
    (void)state;
    static const char *const layers[] = {CONV END, "[conv]\nfilters=3\nbatch_normalize=1\nactivation=relu\n" END,
                                         "[conv]\nfilters=3\nbatch_normalize=1\nactivation=relu\nmls=1\n" END,
                                         "[conv]\nfilters=3\nactivation=relu\nmls=1\nmantissa=6\nexponent=3\n" END};
    for (size_t i = 0; i < 4; i++) {
        struct built b;
        struct error error = {""};
        build(&b, layers[i], 2);
        b.input[77] = NAN;
        struct pass pass = {.pool = b.pool, .images = IMAGES, .training = true, .labels = b.labels, .loss_scale = 1};
        assert_false(network_forward(b.network, b.input, &pass, &error));
        assert_contains(error.message, "layer ");
        assert_contains(error.message, "finite");
        release(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_activations), cmocka_unit_test(test_threads), cmocka_unit_test(test_nothing_is_left),
                                       cmocka_unit_test(test_error_bounds),
                                       cmocka_unit_test(test_modes), cmocka_unit_test(test_maxpool), cmocka_unit_test(test_crop),
                                       cmocka_unit_test(test_evaluation),
                                       cmocka_unit_test(test_part_of_a_batch), cmocka_unit_test(test_not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
