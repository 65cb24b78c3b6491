// .npy files, safetensors and checkpoints: round trips, damage, other networks, no space.
#include "testing.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/npy.h"
#include "base/random.h"
#include "train/checkpoint.h"
#include "train/safetensors.h"

static void test_npy_round_trip(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/a.npy", temporary_folder());
    const int dims[3] = {2, 3, 4};
    float values[24];
    for (int i = 0; i < 24; i++) values[i] = (float)i - 11.5f;
    assert_true(npy_write_float(path, 3, dims, values, NULL));
    struct npy array;
    assert_true(npy_read(path, &array, NULL));
    assert_int_equal(array.rank, 3);
    assert_int_equal(array.dims[2], 4);
    assert_memory_equal(array.values, values, sizeof values);
    npy_release(&array);
}

// A header as given, 8 bytes of data.
static void expect_npy(const char *header, int version, size_t data, const char *message)
{
    uint8_t bytes[600] = "\x93NUMPY";
    size_t length = strlen(header);
    bytes[6] = (uint8_t)version;
    bytes[8] = (uint8_t)length;
    size_t start = version == 1 ? 10 : 12;
    memcpy(bytes + start, header, length);
    struct npy array;
    struct error error = {""};
    bool good = npy_parse("x.npy", bytes, start + length + data, &array, &error);
    assert_int_equal(good, message == NULL);
    if (message) assert_contains(error.message, message);
    npy_release(&array);
}

static void test_npy_refused(void **state)
{
    (void)state;
    expect_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 1, 8, NULL);
    expect_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n", 2, 8, NULL);
    expect_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n", 3, 4, NULL);
    expect_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", 1, 8, "dtype '<f8'");
    expect_npy("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", 1, 8, "dtype");
    expect_npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }", 1, 8, "Fortran order");
    expect_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", 1, 8, "8 bytes of data: expected 12");
    expect_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 1, 8, "expected 4");
    expect_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", 1, 8, "bad shape");
    expect_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2147483647, 2147483647, 99), }", 1, 8, "too large");
    expect_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", 1, 4, "more than 8");
    expect_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2", 1, 8, "bad shape");
    expect_npy("{}", 1, 8, "dtype missing");
    expect_npy("{}", 9, 8, "version 9");
}

// ---------------------------------------------------------------------------------------------

static const char small[] = "[net]\nbatch=2\nheight=4\nwidth=4\nchannels=1\n[conv]\nfilters=2\nbatch_normalize=1\nactivation=relu\n"
                            "[connected]\noutput=3\nactivation=linear\n[softmax]\n";
static const char wider[] = "[net]\nbatch=2\nheight=4\nwidth=4\nchannels=1\n[conv]\nfilters=3\nbatch_normalize=1\nactivation=relu\n"
                            "[connected]\noutput=3\nactivation=linear\n[softmax]\n";

struct built {
    struct cfg *cfg;
    struct thread_pool *pool;
    struct network *network;
};

static struct built build(const char *text, uint64_t seed)
{
    struct diagnostics diagnostics = {.path = "x.cfg"};
    struct built b = {.cfg = cfg_parse("x.cfg", text, strlen(text), &diagnostics), .pool = thread_pool_create(1, NULL)};
    struct network_request request = {.for_training = true, .seed = seed};
    b.network = network_create(b.cfg, &request, b.pool, &diagnostics);
    assert_non_null(b.network);
    return b;
}

static void release(struct built *b)
{
    network_destroy(b->network);
    cfg_release(b->cfg);
    thread_pool_destroy(b->pool);
}

static const struct training_state some_state = {.step = 5, .epoch = 1, .batch = 2, .loss_sum = 0.1, .correct = 3, .images = 4, .best = 0.7, .seed = 9};

static void test_checkpoint_round_trip(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/a.safetensors", temporary_folder());
    struct built a = build(small, 1), b = build(small, 2);
    a.network->parameters[0]->momentum[1] = 0.25f;
    struct error error = {""};
    assert_true(checkpoint_save(path, a.network, &some_state, "[net] \"text\"\n", &error));
    struct training_state found;
    if (!checkpoint_load(path, b.network, &found, &error)) fail_msg("%s", error.message);
    assert_memory_equal(&found, &some_state, sizeof found);
    for (int i = 0; i < a.network->parameter_count; i++) {
        struct parameter *p = a.network->parameters[i], *q = b.network->parameters[i];
        assert_memory_equal(p->value, q->value, p->count * sizeof(float));
        if (p->momentum) assert_memory_equal(p->momentum, q->momentum, p->count * sizeof(float));
    }
    struct safetensors file;
    assert_true(safetensors_read(path, &file, NULL));
    assert_string_equal(safetensors_metadata(&file, "cfg"), "[net] \"text\"\n");
    assert_non_null(safetensors_find(&file, "layers.0.conv.weight"));
    assert_non_null(safetensors_find(&file, "layers.0.batchnorm.running_mean"));
    safetensors_release(&file);
    release(&a);
    release(&b);
}

// Every byte flipped in turn, in three ways, and every length: always refused, and the network keeps its weights.
static void test_checkpoint_damage(void **state)
{
    (void)state;
    char path[512], damaged[512];
    const char *folder = temporary_folder();
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    snprintf(damaged, sizeof damaged, "%s/b.safetensors", folder);
    struct built a = build(small, 1), b = build(small, 2);
    assert_true(checkpoint_save(path, a.network, &some_state, "text", NULL));
    size_t size = 0;
    uint8_t *bytes = file_read(path, 1 << 20, &size, NULL);
    float before = b.network->parameters[0]->value[0];
    struct training_state found;
    for (size_t i = 0; i < size; i++)
        for (int k = 0; k < 3; k++) {
            static const uint8_t flips[3] = {1, 0x20, 0xff};
            uint8_t *copy = memory_allocate(size, 1, NULL);
            memcpy(copy, bytes, size);
            copy[i] ^= flips[k];
            struct safetensors file;
            struct error error = {""};
            if (safetensors_parse("b", copy, size, &file, &error)) fail_msg("byte %zu changed by %02x: not found", i, flips[k]);
            assert_true(error.message[0]);
            safetensors_release(&file);
        }
    for (size_t length = 0; length < size; length += 7) {
        struct error error = {""};
        write_file(damaged, bytes, length);
        assert_false(checkpoint_load(damaged, b.network, &found, &error));
        assert_contains(error.message, "b.safetensors");
    }
    assert_true(b.network->parameters[0]->value[0] == before);
    memory_release(bytes);
    release(&a);
    release(&b);
}

static void test_checkpoint_of_another_network(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/a.safetensors", temporary_folder());
    struct built a = build(small, 1), b = build(wider, 2);
    struct error error = {""};
    struct training_state found;
    assert_true(checkpoint_save(path, a.network, &some_state, "text", NULL));
    assert_false(checkpoint_load(path, b.network, &found, &error));
    assert_contains(error.message, "layers.0.conv.weight has shape [2, 1, 1, 1], the network needs [3, 1, 1, 1]");
    assert_false(checkpoint_load("/nonexistent", b.network, &found, &error));
    assert_contains(error.message, "/nonexistent: No such file");
    release(&a);
    release(&b);
}

// A write that finds no space leaves the old checkpoint as it was.
static void test_no_space(void **state)
{
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/a.safetensors", temporary_folder());
    struct built a = build(small, 1);
    struct error error = {""};
    assert_true(checkpoint_save(path, a.network, &some_state, "old", NULL));
    struct rlimit old, little = {600, RLIM_INFINITY};
    getrlimit(RLIMIT_FSIZE, &old);
    little.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    bool good = checkpoint_save(path, a.network, &some_state, "new", &error);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_false(good);
    assert_contains(error.message, "cannot write");
    struct safetensors file;
    assert_true(safetensors_read(path, &file, NULL));
    assert_string_equal(safetensors_metadata(&file, "cfg"), "old");
    safetensors_release(&file);
    char temporary[600];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    assert_false(file_exists(temporary));
    release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_npy_round_trip), cmocka_unit_test(test_npy_refused),
                                       cmocka_unit_test(test_checkpoint_round_trip), cmocka_unit_test(test_checkpoint_damage),
                                       cmocka_unit_test(test_checkpoint_of_another_network), cmocka_unit_test(test_no_space)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
