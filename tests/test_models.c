// The shipped cfg files: each builds, has the published size, and trains.
#include "testing.h"

#include <math.h>

#include "base/memory.h"
#include "base/random.h"
#include "net/network.h"
#include "train/sgd.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

// Published: ResNet-20 0.27 M and 41 M multiply-adds (He et al.); for the ImageNet networks torchvision's list of models (1.814, 3.664,
// 4.089, 15.47, 1.498, 0.301 G multiply-adds); Darknet-19 20.8 M, 5.58 G operations (Redmon and Farhadi); for CIFAR-10
// github.com/kuangliu/pytorch-cifar. Its GoogLeNet has 6,166,250 parameters: 7,904 more, the
// biases of convolutions before batch normalization, which do nothing.
static const struct model {
    const char *name;
    double parameters, multiply_adds;
} models[] = {
    {"quickstart", 75002, 9145216},
    {"resnet20", 269722, 40551040},
    {"resnet56", 853018, 125485696},
    {"vgg16-cifar", 14724042, 313201664},
    {"resnet18", 11689512, 1814073344},
    {"resnet34", 21797672, 3663761408},
    {"resnet50", 25557032, 4089184256},
    {"vgg16", 138357544, 15470264320},
    {"googlenet", 6624904, 1498376192},
    {"mobilenetv2", 3504872, 300774272},
    {"darknet19", 20842376, 2790989824},
    {"resnet18-cifar", 11173962, 555422720},
    {"googlenet-cifar", 6166250 - 7904, 1521756160},
    {"googlenet-cifar-narrow", 476474, 127928832},
    {"mobilenetv2-cifar", 2296922, 91154944},
    {"resnet18-imagenette", 11181642, 592188416},
    {"resnet18-tiny-imagenet", 2846440, 139347968},
};

struct built {
    struct cfg *cfg;
    struct network *network;
};

// `small`: pictures of at most 64 x 64 pixels.
static struct built build(const struct model *model, struct thread_pool *pool, bool for_training, bool small)
{
    char path[128];
    snprintf(path, sizeof path, "cfg/%s.cfg", model->name);
    struct diagnostics diagnostics = {.path = path};
    struct built built = {.cfg = cfg_read(path, &diagnostics)};
    assert_non_null(built.cfg);
    struct cfg_section *net = cfg_find_section(built.cfg, "net");
    for (int i = 0; small && i < net->option_count; i++) {
        bool side = strcmp(net->options[i].key, "height") == 0 || strcmp(net->options[i].key, "width") == 0;
        if (side && atoi(net->options[i].value) > 64) strcpy(net->options[i].value, "64");
    }
    struct network_request request = {.for_training = for_training, .max_images = small ? 2 : 1, .seed = 1};
    built.network = network_create(built.cfg, &request, pool, &diagnostics);
    if (!built.network) fail_msg("%s", diagnostics.text);
    return built;
}

static void release(struct built built)
{
    network_destroy(built.network);
    cfg_release(built.cfg);
}

static void test_sizes(void **state)
{
    (void)state;
    struct thread_pool *pool = thread_pool_create(1, NULL);
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        if (SANITIZED && models[i].parameters > 1e8) continue; // takes long to initialize
        struct built built = build(&models[i], pool, false, false);
        double parameters = 0, multiply_adds = 0;
        for (int p = 0; p < built.network->parameter_count; p++)
            if (!strstr(built.network->parameters[p]->name, "running_")) parameters += (double)built.network->parameters[p]->count;
        for (int l = 0; l < built.network->layer_count; l++) multiply_adds += built.network->layers[l]->multiply_adds;
        if (parameters != models[i].parameters || multiply_adds != models[i].multiply_adds)
            fail_msg("%s: %.0f parameters, %.0f multiply-adds", models[i].name, parameters, multiply_adds);
        release(built);
    }
    thread_pool_destroy(pool);
}

static void step(const struct model *model, struct network *network, struct thread_pool *pool)
{
    struct error error = {""};
    int labels[2] = {1, 7}, classes;
    size_t count = 2 * shape_size(network->input_shape);
    float *input = memory_allocate(count, sizeof(float), &error);
    assert_non_null(input);
    struct random_stream stream = {9, 0};
    for (size_t i = 0; i < count; i++) input[i] = random_normal(&stream);
    struct pass pass = {.pool = pool, .images = 2, .training = true, .seed = 1, .labels = labels, .loss_scale = 0.5f};
    const struct sgd sgd = {.rate = 0.01f, .momentum = 0.9f, .decay = 1e-4f, .decay_all = true};
    if (!network_forward(network, input, &pass, &error)) fail_msg("%s: %s", model->name, error.message);
    network_output(network, &classes);
    // Before training the classes are about equally likely.
    double chance = log(classes);
    if (!(network->loss / 2 > 0.3 * chance && network->loss / 2 < 4 * chance)) fail_msg("%s: loss %g", model->name, network->loss / 2);
    if (!network_backward(network, &pass, &error) || !sgd_step(&sgd, network, &error)) fail_msg("%s: %s", model->name, error.message);
    pass.training = false;
    if (!network_forward(network, input, &pass, &error)) fail_msg("%s: %s", model->name, error.message);
    memory_release(input);
}

// One training step of each on pictures of at most 64 pixels; every weight gets a gradient.
static void test_steps(void **state)
{
    (void)state;
    struct thread_pool *pool = thread_pool_create(2, NULL);
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        struct built built = build(&models[i], pool, true, true);
        step(&models[i], built.network, pool);
        for (int p = 0; p < built.network->parameter_count; p++) {
            const struct parameter *parameter = built.network->parameters[p];
            bool moved = !parameter->momentum;
            for (size_t k = 0; !moved && k < parameter->count; k++) moved = parameter->momentum[k] != 0;
            if (!moved) fail_msg("%s: %s did not move", models[i].name, parameter->name);
        }
        release(built);
    }
    thread_pool_destroy(pool);
}

// Root mean square of a parameter that is `index`, `role` of a network.
static double magnitude(const struct network *network, int index, const char *role)
{
    char name[64];
    snprintf(name, sizeof name, "layers.%d.%s", index, role);
    const struct parameter *p = network_find_parameter(network, name);
    assert_non_null(p);
    double sum = 0;
    for (size_t i = 0; i < p->count; i++) sum += (double)p->value[i] * (double)p->value[i];
    return sqrt(sum / (double)p->count);
}

// Initial weights as torchvision's: He by fan-out (convolution groups do not count there), uniform within 1 / sqrt(inputs), or normal.
static void test_initial(void **state)
{
    (void)state;
    static const char text[] = "[net]\nheight=4\nwidth=4\nchannels=64\n[conv]\nfilters=64\nsize=3\npad=1\ngroups=64\n"
                               "[conv]\nfilters=64\nsize=3\npad=1\n[conv]\nfilters=64\nsize=3\npad=1\ninitial_deviation=0.02\n[avgpool]\n"
                               "[connected]\noutput=64\n[connected]\noutput=64\ninitial_deviation=0.01\n[softmax]\n";
    static const struct { int layer; const char *role; double expected; } rows[] = {
        {0, "conv.weight", 0.0589}, {1, "conv.weight", 0.0589}, {2, "conv.weight", 0.02}, {4, "connected.weight", 0.0722},
        {4, "connected.bias", 0.0722}, {5, "connected.weight", 0.01}, {5, "connected.bias", 0}};
    struct diagnostics diagnostics = {.path = "test.cfg"};
    struct thread_pool *pool = thread_pool_create(1, NULL);
    struct built built = {.cfg = cfg_parse("test.cfg", text, strlen(text), &diagnostics)};
    built.network = network_create(built.cfg, &(struct network_request){.seed = 3}, pool, &diagnostics);
    if (!built.network) fail_msg("%s", diagnostics.text);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double found = magnitude(built.network, rows[i].layer, rows[i].role);
        if (fabs(found - rows[i].expected) > 0.15 * rows[i].expected) fail_msg("%d %s: %g", rows[i].layer, rows[i].role, found);
    }
    release(built);
    thread_pool_destroy(pool);
}

// Weight decay shrinks weights, and with decay_all the scales of batch normalization too.
static void test_decay_all(void **state)
{
    (void)state;
    struct thread_pool *pool = thread_pool_create(1, NULL);
    struct built built = build(&models[0], pool, true, true);
    struct parameter *scale = network_find_parameter(built.network, "layers.0.batchnorm.scale");
    struct error error;
    for (int all = 0; all < 2; all++) {
        const struct sgd sgd = {.rate = 0.5f, .decay = 0.25f, .decay_all = all};
        assert_true(sgd_step(&sgd, built.network, &error)); // all gradients are 0
        assert_true(scale->value[0] == (all ? 0.875f : 1));
    }
    release(built);
    thread_pool_destroy(pool);
}

// The files are what the script writes.
static void test_generated(void **state)
{
    (void)state;
    assert_int_equal(system("python3 scripts/make-cfgs --check"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes), cmocka_unit_test(test_steps), cmocka_unit_test(test_initial),
                                       cmocka_unit_test(test_decay_all), cmocka_unit_test(test_generated)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
