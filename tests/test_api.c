// The public interface, through include/mlsnet.h alone.
#include "testing.h"

#include "mlsnet.h"

static void test_quantize(void **state)
{
    (void)state;
    const int dims[4] = {1, 1, 1, 4};
    const float x[4] = {8, -4, 1, 0.1f};
    float values[4], tensor_scale, scales[1];
    int32_t integers[4];
    int blocks[2];
    mlsnet_error error;
    mlsnet_format format = mlsnet_format_default(MLSNET_ACTIVATION);
    assert_int_equal(mlsnet_quantize(&format, MLSNET_ACTIVATION, x, dims, 1, values, integers, &tensor_scale, scales, blocks, &error), 0);
    const int32_t expected[4] = {12, -8, 2, 0};
    assert_memory_equal(integers, expected, sizeof expected);
    assert_true(tensor_scale == 8 && scales[0] == 1 && blocks[0] == 1 && blocks[1] == 1);
    assert_true(values[0] == 6 && values[1] == -4 && values[2] == 1 && values[3] == 0);
    const int many[4] = {65536, 65536, 65536, 65536};
    assert_int_not_equal(mlsnet_quantize(&format, MLSNET_ACTIVATION, x, many, 1, values, NULL, NULL, NULL, NULL, &error), 0);
    assert_contains(error.message, "elements: expected at most");
    assert_int_not_equal(mlsnet_quantize(&format, 9, x, dims, 1, values, NULL, NULL, NULL, NULL, &error), 0);
    assert_contains(error.message, "operand 9: expected 0 to 2");
    format.mantissa = 9;
    assert_int_not_equal(mlsnet_quantize(&format, MLSNET_ACTIVATION, x, dims, 1, values, NULL, NULL, NULL, NULL, &error), 0);
    assert_contains(error.message, "mantissa=9");
}

static void test_convolve(void **state)
{
    (void)state;
    const mlsnet_convolution shape = {1, 2, 3, 3, 1, 3, 3, 1, 1, 1};
    float a[18], w[18], fast[9], reference[9];
    for (int i = 0; i < 18; i++) a[i] = (float)(i % 5) / 4, w[i] = (float)(i % 7) / 6 - 0.5f;
    mlsnet_format formats[3] = {mlsnet_format_default(0), mlsnet_format_default(1), mlsnet_format_default(2)};
    mlsnet_error error;
    assert_int_equal(mlsnet_convolve(&shape, MLSNET_FORWARD, formats, NULL, a, w, fast, &error), 0);
    assert_int_equal(mlsnet_convolve(&shape, MLSNET_FORWARD, formats, "reference", a, w, reference, &error), 0);
    assert_memory_equal(fast, reference, sizeof fast);
    assert_int_not_equal(mlsnet_convolve(&shape, MLSNET_FORWARD, formats, "nothing", a, w, fast, &error), 0);
    assert_contains(error.message, "kernel nothing");
}

static void test_network(void **state)
{
    (void)state;
    mlsnet_error error;
    const char *settings[] = {"mls=1", "learning_rate=0.05", "1.mantissa=2"};
    mlsnet_network *network = mlsnet_network_open("tests/golden/small_cnn.cfg", settings, 3, 2, 0, &error);
    if (!network) fail_msg("%s", error.message);
    int channels, height, width, classes, batch;
    mlsnet_network_shape(network, &channels, &height, &width, &classes, &batch);
    assert_int_equal(channels * 1000 + height * 100 + classes * 10 + batch, 3854);
    float input[4 * 192], scores[2][20];
    const int labels[4] = {0, 1, 2, 3}, wrong[4] = {0, 1, 77, 3};
    for (int i = 0; i < 4 * 192; i++) input[i] = (float)((i * 37 + i / 192 * 11) % 101) / 50 - 1;
    double first = 0, last = 0;
    for (int step = 0; step < 60; step++)
        assert_int_equal(mlsnet_network_train_step(network, input, labels, step, 60, step ? &last : &first, &error), 0);
    assert_true(last < 0.7 * first);
    assert_int_not_equal(mlsnet_network_train_step(network, input, wrong, 0, 60, &last, &error), 0);
    assert_contains(error.message, "label 77 of image 2: expected 0 to 4");
    char path[512];
    snprintf(path, sizeof path, "%s/a.safetensors", temporary_folder());
    assert_int_equal(mlsnet_network_save(network, path, &error), 0);
    assert_int_equal(mlsnet_network_predict(network, input, 4, scores[0], &error), 0);
    assert_int_not_equal(mlsnet_network_predict(network, input, 5, scores[0], &error), 0);
    mlsnet_network_close(network);
    network = mlsnet_network_open("tests/golden/small_cnn.cfg", settings, 3, 1, 0, &error);
    assert_int_equal(mlsnet_network_load(network, path, &error), 0);
    assert_int_equal(mlsnet_network_predict(network, input, 4, scores[1], &error), 0);
    assert_memory_equal(scores[0], scores[1], sizeof scores[0]);
    mlsnet_network_close(network);
    assert_null(mlsnet_network_open("/nonexistent.cfg", NULL, 0, 1, 0, &error));
    assert_contains(error.message, "/nonexistent.cfg");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_quantize), cmocka_unit_test(test_convolve), cmocka_unit_test(test_network)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
