// A small CNN against PyTorch: loss, all gradients, running statistics, and two SGD steps, plain and Nesterov. The
// golden file and the network: scripts/make_pytorch_golden.py, tests/golden/small_cnn.cfg.
#include "testing.h"

#include <math.h>

#include "net/network.h"
#include "train/sgd.h"

struct array {
    char name[96];
    int count;
    float *values;
};

static struct array arrays[128];
static int array_count;

static const struct array *golden(const char *kind, const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", kind, name);
    for (int i = 0; i < array_count; i++)
        if (strcmp(arrays[i].name, full) == 0) return &arrays[i];
    fail_msg("%s is not in the golden file", full);
    return NULL;
}

static int read_golden(void **state)
{
    (void)state;
    FILE *file = fopen("tests/golden/small_cnn.txt", "r");
    if (!file) return -1;
    while (array_count < 128 && fscanf(file, "%95s %d", arrays[array_count].name, &arrays[array_count].count) == 2) {
        struct array *a = &arrays[array_count++];
        a->values = calloc((size_t)a->count + 64, sizeof(float));
        for (int i = 0; i < a->count; i++)
            if (fscanf(file, "%f", &a->values[i]) != 1) return -1;
    }
    fclose(file);
    return 0;
}

static int release_golden(void **state)
{
    (void)state;
    for (int i = 0; i < array_count; i++) free(arrays[i].values);
    return 0;
}

static void assert_close(const char *kind, const char *name, const float *found, size_t count)
{
    const struct array *expected = golden(kind, name);
    double largest = 1e-3;
    assert_int_equal(expected->count, count);
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)expected->values[i]));
    for (size_t i = 0; i < count; i++)
        if (!(fabs((double)found[i] - (double)expected->values[i]) <= 2e-5 * largest))
            fail_msg("%s%s[%zu]: %g, PyTorch has %g", kind, name, i, (double)found[i], (double)expected->values[i]);
}

struct built {
    struct cfg *cfg;
    struct thread_pool *pool;
    struct network *network;
};

// The network with PyTorch's weights, after forward and backward.
static struct built run(void)
{
    struct diagnostics diagnostics = {0};
    struct built b = {cfg_read("tests/golden/small_cnn.cfg", &diagnostics), thread_pool_create(2, NULL), NULL};
    struct network_request request = {.for_training = true};
    struct error error = {""};
    b.network = network_create(b.cfg, &request, b.pool, &diagnostics);
    if (!b.network) fail_msg("%s", diagnostics.text);
    for (int i = 0; i < b.network->parameter_count; i++) {
        struct parameter *p = b.network->parameters[i];
        if (p->gradient) memcpy(p->value, golden("value:", p->name)->values, p->count * sizeof(float));
    }
    int labels[4];
    for (int i = 0; i < 4; i++) labels[i] = (int)golden("labels", "")->values[i];
    struct pass pass = {.pool = b.pool, .images = 4, .training = true, .labels = labels, .label_smoothing = 0.1f, .loss_scale = 0.25f};
    if (!network_forward(b.network, golden("input", "")->values, &pass, &error) || !network_backward(b.network, &pass, &error))
        fail_msg("%s", error.message);
    return b;
}

static void release(struct built *b)
{
    network_destroy(b->network);
    cfg_release(b->cfg);
    thread_pool_destroy(b->pool);
}

static void test_loss_and_gradients(void **state)
{
    (void)state;
    struct built b = run();
    float loss = (float)(b.network->loss / 4);
    assert_close("loss", "", &loss, 1);
    for (int i = 0; i < b.network->parameter_count; i++) {
        struct parameter *p = b.network->parameters[i];
        assert_close(p->gradient ? "gradient:" : "running:", p->name, p->gradient ? p->gradient : p->value, p->count);
    }
    release(&b);
}

static void check_steps(const char *kind, bool nesterov)
{
    struct built b = run();
    struct error error;
    const struct sgd sgd = {0.1f, 0.9f, 0.01f, nesterov, false};
    for (int step = 0; step < 2; step++) {
        for (int i = 0; i < b.network->parameter_count; i++) {
            struct parameter *p = b.network->parameters[i];
            if (p->gradient) memcpy(p->gradient, golden("gradient:", p->name)->values, p->count * sizeof(float));
        }
        assert_true(sgd_step(&sgd, b.network, &error));
    }
    for (int i = 0; i < b.network->parameter_count; i++) {
        struct parameter *p = b.network->parameters[i];
        if (!p->gradient) continue;
        assert_close(kind, p->name, p->value, p->count);
        assert_true(p->gradient[0] == 0);
    }
    release(&b);
}

static void test_sgd(void **state)
{
    (void)state;
    check_steps("step:", false);
    check_steps("nesterov:", true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_loss_and_gradients), cmocka_unit_test(test_sgd)};
    return cmocka_run_group_tests(tests, read_golden, release_golden);
}
