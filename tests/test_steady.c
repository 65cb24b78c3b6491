// Training allocates nothing once it runs: malloc and its like are counted over some steps. Layers in the modes "reference" and
// "rounded" of [convolutional] are not covered.
#include "testing.h"

#include <errno.h>

#include "base/memory.h"
#include "base/random.h"
#include "net/network.h"
#include "train/sgd.h"

static long allocations;

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTED 1
// glibc's own functions under the names that it keeps for such replacements.
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *pointer, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    allocations++;
    return __libc_calloc(count, size);
}

void *realloc(void *pointer, size_t size)
{
    allocations++;
    return __libc_realloc(pointer, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    allocations++;
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **pointer, size_t alignment, size_t size)
{
    allocations++;
    *pointer = __libc_memalign(alignment, size);
    return *pointer ? 0 : ENOMEM;
}
#else
#define COUNTED 0
#endif

static const char layers[] =
    "[net]\nbatch=8\nheight=12\nwidth=12\nchannels=3\n"
    "[conv]\nbatch_normalize=1\nfilters=16\nsize=3\npad=1\nactivation=relu\nmls=0\n"
    "[conv]\nbatch_normalize=1\nfilters=16\nsize=3\npad=1\nactivation=relu\n"
    "[conv]\nbatch_normalize=1\nfilters=16\nsize=3\npad=1\nactivation=linear\ngroup_size=1\n"
    "[shortcut]\nfrom=-3\nactivation=relu\n"
    "[conv]\nbatch_normalize=1\nfilters=24\nsize=3\nstride=2\npad=1\nactivation=leaky\nmls=0\n"
    "[conv]\nbatch_normalize=1\nfilters=24\nsize=3\npad=1\ngroups=24\nactivation=relu6\n"
    "[conv]\nbatch_normalize=1\nfilters=24\nsize=3\npad=1\ngroups=4\nactivation=relu6\n"
    "[conv]\nbatch_normalize=1\nfilters=24\nsize=3\npad=1\ngroups=24\nactivation=relu6\nmls=0\n"
    "[conv]\nbatch_normalize=1\nfilters=24\nsize=3\npad=1\ngroups=3\nactivation=relu6\nmls=0\n"
    "[conv]\nfilters=20\nsize=1\nactivation=tanh\nmantissa=4\n"
    "[maxpool]\nsize=2\nstride=2\n[dropout]\n[avgpool]\n[connected]\noutput=5\nactivation=linear\n[softmax]\n";

struct training {
    struct thread_pool *pool;
    struct network *network;
    float *input;
    int labels[8];
};

static void one_step(struct training *t, uint64_t step)
{
    struct error error = {""};
    struct pass pass = {.pool = t->pool, .images = 8, .training = true, .seed = 1, .step = step, .labels = t->labels, .loss_scale = 0.125f};
    const struct sgd sgd = {.rate = 0.01f, .momentum = 0.9f, .decay = 1e-4f};
    if (!network_forward(t->network, t->input, &pass, &error) || !network_backward(t->network, &pass, &error) ||
        !sgd_step(&sgd, t->network, &error))
        fail_msg("%s", error.message);
}

static void test_steady_state(void **state)
{
    (void)state;
    if (!COUNTED) {
        print_message("skipped: allocations are counted with glibc and without sanitizers only\n");
        skip();
    }
    struct training t = {.labels = {0, 1, 2, 3, 4, 0, 1, 2}};
    struct diagnostics diagnostics = {.path = "test.cfg"};
    struct network_request request = {.for_training = true, .seed = 5};
    t.pool = thread_pool_create(2, NULL);
    struct cfg *cfg = cfg_parse("test.cfg", layers, strlen(layers), &diagnostics);
    t.network = cfg ? network_create(cfg, &request, t.pool, &diagnostics) : NULL;
    if (!t.network) fail_msg("%s", diagnostics.text);
    t.input = memory_allocate(8 * 3 * 144, sizeof(float), NULL);
    struct random_stream stream = {9, 0};
    for (int i = 0; i < 8 * 3 * 144; i++) t.input[i] = random_normal(&stream);
    one_step(&t, 0);
    one_step(&t, 1);
    long before = allocations;
    assert_true(before > 0);
    for (uint64_t step = 2; step < 6; step++) one_step(&t, step);
    assert_int_equal(allocations, before);
    network_destroy(t.network);
    cfg_release(cfg);
    thread_pool_destroy(t.pool);
    memory_release(t.input);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steady_state)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
