// Products of fully connected layers: bit for bit the sums that kernels/fully_connected.h writes down, for any number of threads.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "kernels/fully_connected.h"

#define LANES 16

struct arrays {
    float *weights, *input, *output; // output: also the errors
};

static float *random_array(size_t count, uint64_t key)
{
    float *values = memory_allocate(count + 1, sizeof(float), NULL);
    struct random_stream stream = {random_key(key, 1, 2, 3), 0};
    for (size_t i = 0; i < count; i++) values[i] = random_normal(&stream);
    return values;
}

static struct arrays create(const struct fully_connected_shape *s, uint64_t key)
{
    return (struct arrays){random_array((size_t)s->inputs * (size_t)s->outputs, key), random_array((size_t)s->images * s->input_stride, key + 1),
                           random_array((size_t)s->images * s->output_stride, key + 2)};
}

static void release(struct arrays *a)
{
    memory_release(a->weights);
    memory_release(a->input);
    memory_release(a->output);
}

static float *copy_of(const float *values, size_t count)
{
    float *copy = memory_allocate(count + 1, sizeof(float), NULL);
    for (size_t i = 0; i < count; i++) copy[i] = values[i];
    return copy;
}

// Whole arrays: what does not belong to a row must be left alone.
static void assert_same(const char *what, const float *expected, const float *found, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (expected[i] != found[i]) fail_msg("%s, number %zu: expected %.9g, found %.9g", what, i, (double)expected[i], (double)found[i]);
}

static float part_of_dot(const float *x, const float *w, int count)
{
    float sums[LANES] = {0};
    for (int i = 0; i < count; i++) sums[i % LANES] += x[i] * w[i];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

static void define_forward(const struct fully_connected_shape *s, const struct arrays *a, float *output)
{
    for (int n = 0; n < s->images; n++)
        for (int o = 0; o < s->outputs; o++) {
            const float *x = a->input + (size_t)n * s->input_stride, *w = a->weights + (size_t)o * (size_t)s->inputs;
            float total = 0;
            for (int i = 0; i < s->inputs; i += FULLY_CONNECTED_PART) {
                int count = s->inputs - i < FULLY_CONNECTED_PART ? s->inputs - i : FULLY_CONNECTED_PART;
                total = i > 0 ? total + part_of_dot(x + i, w + i, count) : part_of_dot(x, w, count);
            }
            output[(size_t)n * s->output_stride + (size_t)o] = total;
        }
}

static void define_input_error(const struct fully_connected_shape *s, const struct arrays *a, bool accumulate, float *input_error)
{
    for (int n = 0; n < s->images; n++)
        for (int i = 0; i < s->inputs; i++) {
            float *total = &input_error[(size_t)n * s->input_stride + (size_t)i];
            if (!accumulate) *total = 0;
            for (int o = 0; o < s->outputs; o++)
                *total += a->output[(size_t)n * s->output_stride + (size_t)o] * a->weights[(size_t)o * (size_t)s->inputs + (size_t)i];
        }
}

static void define_weight_gradient(const struct fully_connected_shape *s, const struct arrays *a, float *gradient)
{
    for (int o = 0; o < s->outputs; o++)
        for (int i = 0; i < s->inputs; i++)
            for (int n = 0; n < s->images; n++)
                gradient[(size_t)o * (size_t)s->inputs + (size_t)i] +=
                    a->output[(size_t)n * s->output_stride + (size_t)o] * a->input[(size_t)n * s->input_stride + (size_t)i];
}

static void check(const struct fully_connected_shape *s, struct thread_pool *pool, uint64_t key)
{
    const size_t weights = (size_t)s->inputs * (size_t)s->outputs, inputs = (size_t)s->images * s->input_stride,
                 outputs = (size_t)s->images * s->output_stride;
    struct arrays a = create(s, key);
    float *expected = copy_of(a.output, outputs), *found = copy_of(a.output, outputs);
    define_forward(s, &a, expected);
    fully_connected_forward(s, pool, a.weights, a.input, found);
    assert_same("forward", expected, found, outputs);
    memory_release(expected);
    memory_release(found);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        expected = copy_of(a.input, inputs);
        found = copy_of(a.input, inputs);
        define_input_error(s, &a, accumulate, expected);
        fully_connected_input_error(s, pool, a.weights, a.output, found, accumulate);
        assert_same("input error", expected, found, inputs);
        memory_release(expected);
        memory_release(found);
    }
    expected = copy_of(a.weights, weights);
    found = copy_of(a.weights, weights);
    define_weight_gradient(s, &a, expected);
    fully_connected_weight_gradient(s, pool, a.input, a.output, found);
    assert_same("weight gradient", expected, found, weights);
    memory_release(expected);
    memory_release(found);
    release(&a);
}

static int pick(uint64_t key, int most)
{
    return 1 + (int)(random_mix64(key) % (uint64_t)most);
}

static void test_random_shapes(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 60; round++) {
        struct thread_pool *pool = thread_pool_create(1 + (int)(round % 3), NULL);
        struct fully_connected_shape s = {pick(7 * round, 21), pick(7 * round + 1, 90), pick(7 * round + 2, 40), 0, 0};
        s.input_stride = (size_t)s.inputs + round % 4;
        s.output_stride = (size_t)s.outputs + round % 5;
        check(&s, pool, 100 * round);
        thread_pool_destroy(pool);
    }
}

// More inputs than a part has, more terms than are added at once, and what is left over.
static void test_large_shapes(void **state)
{
    (void)state;
    struct thread_pool *pool = thread_pool_create(2, NULL);
    const struct fully_connected_shape shapes[] = {
        {3, 2 * FULLY_CONNECTED_PART + 37, 19, 2 * FULLY_CONNECTED_PART + 48, 32}, {2, FULLY_CONNECTED_PART, 5, FULLY_CONNECTED_PART, 16},
        {131, 529, 133, 544, 144}, {1, 1, 1, 16, 16}, {64, 512, 64, 512, 64}, {65, 1040, 10, 1040, 16}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) check(&shapes[i], pool, 31 * i);
    thread_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_shapes), cmocka_unit_test(test_large_shapes)};
    return cmocka_run_group_tests_name("fully_connected", tests, NULL, NULL);
}
