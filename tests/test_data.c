// Data sources, loader and augmentation of pictures in memory, on small files made here.
#include "testing.h"

#include <math.h>
#include <unistd.h>
#include <zlib.h>

#include "base/memory.h"
#include "data/data.h"
#include "net/data_options.h"

#define IDX 2 // index in data_sources
#define TRAIN 37
#define TEST 11

static void write_idx(const char *folder, const char *name, int rank, const uint32_t *sizes, const uint8_t *data, size_t size, bool packed)
{
    char path[512];
    uint8_t header[16] = {0, 0, 8, (uint8_t)rank};
    for (int i = 0; i < rank; i++)
        for (int k = 0; k < 4; k++) header[4 + 4 * i + k] = (uint8_t)(sizes[i] >> (24 - 8 * k));
    snprintf(path, sizeof path, "%s/%s%s", folder, name, packed ? ".gz" : "");
    gzFile file = gzopen(path, packed ? "wb" : "wbT");
    gzwrite(file, header, (unsigned)(4 + 4 * rank));
    if (size) gzwrite(file, data, (unsigned)size);
    gzclose(file);
}

// 6 x 5 pictures; every pixel of picture i is i + 1, but the first, which is 200.
static const char *make_idx(bool packed)
{
    static char folder[256];
    snprintf(folder, sizeof folder, "%s", temporary_folder());
    static uint8_t pixels[TRAIN * 30], labels[TRAIN];
    for (int i = 0; i < TRAIN * 30; i++) pixels[i] = (uint8_t)(i % 30 ? i / 30 + 1 : 200);
    for (int i = 0; i < TRAIN; i++) labels[i] = (uint8_t)(i % 4);
    const uint32_t train[3] = {TRAIN, 6, 5}, test[3] = {TEST, 6, 5};
    write_idx(folder, "train-images-idx3-ubyte", 3, train, pixels, sizeof pixels, packed);
    write_idx(folder, "train-labels-idx1-ubyte", 1, train, labels, TRAIN, packed);
    write_idx(folder, "t10k-images-idx3-ubyte", 3, test, pixels, TEST * 30, packed);
    write_idx(folder, "t10k-labels-idx1-ubyte", 1, test, labels, TEST, packed);
    return folder;
}

static const float zero = 0, one = 1.0f / 255;

static struct dataset *open_idx(const char *folder, int pad_crop, int flip, int cutout)
{
    struct data_settings settings = {.type = IDX, .path = (char *)(uintptr_t)"/nowhere", .mean_count = 1, .std_count = 1, .mean = &zero,
                                     .std = &one, .pad_crop = pad_crop, .flip = flip, .cutout = cutout};
    struct dataset *dataset = NULL;
    struct error error = {""};
    if (!dataset_open(&settings, folder, &dataset, &error)) fail_msg("%s", error.message);
    return dataset;
}

static void test_idx(void **state)
{
    (void)state;
    for (int packed = 0; packed < 2; packed++) {
        struct dataset *d = open_idx(make_idx(packed), 0, 0, 0);
        assert_int_equal(d->train.count, TRAIN);
        assert_int_equal(d->test.count, TEST);
        assert_int_equal(d->picture_height, 6);
        assert_int_equal(d->height, 6);
        assert_int_equal(d->width, 5);
        assert_int_equal(d->classes, 4);
        assert_string_equal(d->names[3], "3");
        assert_int_equal(d->train.pixels[30 * 5 + 7], 6);
        dataset_close(d);
    }
}

static void expect_failure(const char *folder, int type, const char *message)
{
    struct data_settings settings = {.type = type, .path = (char *)(uintptr_t)"/nowhere"};
    struct dataset *dataset = NULL;
    struct error error = {""};
    assert_false(dataset_open(&settings, folder, &dataset, &error));
    assert_contains(error.message, message);
    assert_null(strchr(error.message, '\n'));
}

static void test_bad_idx(void **state)
{
    (void)state;
    static uint8_t pixels[TRAIN * 30 + 1], labels[TRAIN + 1];
    const uint32_t train[3] = {TRAIN, 6, 5}, fewer[1] = {TRAIN - 1}, huge[3] = {0xffffffffu, 0xffffffffu, 5}, none[3] = {TRAIN, 0, 5};
    static const char images[] = "train-images-idx3-ubyte", classes[] = "train-labels-idx1-ubyte";
    char path[512];
    const char *folder = make_idx(false);
    unlink((snprintf(path, sizeof path, "%s/%s", folder, classes), path));
    expect_failure(folder, IDX, "train-labels-idx1-ubyte: no such file");
    folder = make_idx(false);
    write_idx(folder, images, 3, train, pixels, sizeof pixels - 2, false);
    expect_failure(folder, IDX, "1109 bytes behind the header: expected 1110");
    write_idx(folder, images, 3, train, pixels, sizeof pixels, false);
    expect_failure(folder, IDX, "1111 bytes behind the header: expected 1110");
    write_idx(folder, images, 3, huge, pixels, 30, false);
    expect_failure(folder, IDX, "dimension 0 is 4294967295: not possible");
    write_idx(folder, images, 3, none, pixels, 30, false);
    expect_failure(folder, IDX, "dimension 1 is 0");
    write_idx(folder, images, 1, train, pixels, 30, false);
    expect_failure(folder, IDX, "magic number");
    write_file((snprintf(path, sizeof path, "%s/%s", folder, images), path), "ab", 2);
    expect_failure(folder, IDX, "shorter than its header");
    folder = make_idx(false);
    write_idx(folder, classes, 1, fewer, labels, TRAIN - 1, false);
    expect_failure(folder, IDX, "but 36 labels");
    folder = make_idx(true); // damaged in the middle
    snprintf(path, sizeof path, "%s/%s.gz", folder, images);
    FILE *file = fopen(path, "r+b");
    fseek(file, 30, SEEK_SET);
    fwrite("xxxxxxxx", 1, 8, file);
    fclose(file);
    expect_failure(folder, IDX, "damaged gzip");
    expect_failure("/nonexistent", IDX, "Debian's package dataset-fashion-mnist");
}

static void test_cifar(void **state)
{
    (void)state;
    char path[512], folder[300];
    snprintf(folder, sizeof folder, "%s", temporary_folder());
    size_t size = 10000 * 3073;
    uint8_t *records = calloc(size + 1, 1);
    for (int i = 0; i < 10000; i++) records[(size_t)i * 3073] = (uint8_t)(i % 10);
    for (int i = 0; i < 5; i++) write_file((snprintf(path, sizeof path, "%s/data_batch_%d.bin", folder, i + 1), path), records, size);
    write_file((snprintf(path, sizeof path, "%s/test_batch.bin", folder), path), records, size);
    struct data_settings settings = {.type = 0, .path = folder};
    struct dataset *d = NULL;
    struct error error;
    assert_true(dataset_open(&settings, NULL, &d, &error));
    assert_int_equal(d->train.count, 50000);
    assert_int_equal(d->train.labels[40007], 7);
    dataset_close(d);
    settings.classes = 9;
    assert_false(dataset_open(&settings, NULL, &d, &error));
    assert_contains(error.message, "classes=9");
    records[3073 * 17] = 10;
    write_file(path, records, size);
    expect_failure(folder, 0, "record 17 has label 10: expected 0 to 9");
    write_file(path, records, size - 1);
    expect_failure(folder, 0, "30729999 bytes: expected 30730000");
    write_file(path, records, size + 1);
    expect_failure(folder, 0, "expected at most 30730000");
    free(records);
    snprintf(path, sizeof path, "rm -r '%s'", folder);
    assert_int_equal(system(path), 0);
}

// A permutation that differs from epoch to epoch and depends on the seed.
static void test_order(void **state)
{
    (void)state;
    int order[4][500];
    for (int k = 0; k < 4; k++) {
        bool seen[500] = {false};
        shuffle_order(order[k], 500, k == 3 ? 8 : 7, (uint64_t)(k % 3));
        for (int i = 0; i < 500; i++) {
            assert_false(seen[order[k][i]]);
            seen[order[k][i]] = true;
        }
        if (k) assert_memory_not_equal(order[k], order[0], sizeof order[0]);
    }
}

static struct loader *create_loader(const struct dataset *dataset, bool training, int batch, uint64_t seed)
{
    const struct loader_request request = {.dataset = dataset, .training = training, .batch = batch, .seed = seed};
    struct loader *loader = NULL;
    struct error error = {""};
    if (!loader_create(&request, &loader, &error)) fail_msg("%s", error.message);
    return loader;
}

static struct batch next(struct loader *loader)
{
    struct batch batch = {0};
    struct error error = {""};
    if (!loader_next(loader, &batch, &error)) fail_msg("%s", error.message);
    return batch;
}

// Wherever it starts, the loader gives the same batches.
static void test_loader_positions(void **state)
{
    (void)state;
    struct dataset *d = open_idx(make_idx(false), 2, 1, 2);
    struct error error;
    struct loader *loader = create_loader(d, true, 5, 77);
    assert_int_equal(loader_batches_per_epoch(loader), 7);
    static float all[21][150];
    assert_true(loader_start(loader, 0, 0, &error));
    for (int i = 0; i < 21; i++) memcpy(all[i], next(loader).input, sizeof all[i]);
    for (int start = 0; start < 14; start++) {
        assert_true(loader_start(loader, (uint64_t)(start / 7), start % 7, &error));
        for (int i = start; i < start + 3; i++) assert_memory_equal(next(loader).input, all[i], sizeof all[i]);
    }
    assert_false(loader_start(loader, 0, 8, &error));
    loader_destroy(loader);
    const struct loader_request too_many = {.dataset = d, .training = true, .batch = TRAIN + 1, .seed = 1};
    assert_false(loader_create(&too_many, &loader, &error));
    dataset_close(d);
}

// Pictures in memory that are changed go another way than those that are taken as they are: to where scaling changes nothing.
static void test_colour_in_memory(void **state)
{
    (void)state;
    enum { SIZE = 3 * 6 * 6 };
    static uint8_t pixels[4 * SIZE];
    static int labels[4] = {0, 1, 0, 1};
    for (int i = 0; i < 4 * SIZE; i++) pixels[i] = (uint8_t)(i * 5 % 251);
    for (int resize = 0; resize <= 6; resize += 6) {
        struct dataset d = {.channels = 3, .height = 6, .width = 6, .picture_height = 6, .picture_width = 6, .classes = 2, .std = {1, 1, 1},
                            .settings = {.resize = resize}, .test = {.count = 4, .labels = labels, .pixels = pixels}};
        struct loader *loader = create_loader(&d, false, 4, 1);
        assert_true(loader_start(loader, 0, 0, NULL));
        struct batch b = next(loader);
        assert_int_equal(b.images, 4);
        for (int i = 0; i < 4 * SIZE; i++) assert_true(b.input[i] == (float)pixels[i] / 255);
        loader_destroy(loader);
    }
}

// All pictures once, in order, the last batch short, then nothing.
static void test_loader_test_split(void **state)
{
    (void)state;
    struct dataset *d = open_idx(make_idx(false), 2, 1, 2);
    struct loader *loader = create_loader(d, false, 4, 1);
    for (int pass = 0; pass < 2; pass++) {
        int seen = 0;
        assert_true(loader_start(loader, 0, 0, NULL));
        for (struct batch b = next(loader); b.images; b = next(loader))
            for (int i = 0; i < b.images; i++, seen++) {
                for (int p = 0; p < 30; p++) assert_true(fabsf(b.input[i * 30 + p] - (float)(p ? seen + 1 : 200)) < 0.01f); // unchanged
                assert_int_equal(b.labels[i], seen % 4);
            }
        assert_int_equal(seen, TEST);
        assert_int_equal(next(loader).images, 0);
    }
    loader_destroy(loader);
    dataset_close(d);
}

// Where each picture of an epoch has its bright pixel; -1: outside.
static void find_marks(uint64_t seed, uint64_t epoch, int marks[TRAIN])
{
    struct dataset *d = open_idx(make_idx(false), 2, 1, 0);
    struct loader *loader = create_loader(d, true, TRAIN, seed);
    assert_true(loader_start(loader, epoch, 0, NULL));
    struct batch b = next(loader);
    for (int i = 0; i < b.images; i++) {
        int place = 29;
        while (place >= 0 && b.input[i * 30 + place] < 199) place--;
        marks[b.pictures[i]] = place;
    }
    loader_destroy(loader);
    dataset_close(d);
}

static int differences(const int *a, const int *b)
{
    int count = 0;
    for (int i = 0; i < TRAIN; i++) count += a[i] != b[i];
    return count;
}

// Augmentation is a function of seed, epoch and picture: each of them matters.
static void test_augmentation_key(void **state)
{
    (void)state;
    int marks[TRAIN], again[TRAIN], epoch[TRAIN], seed[TRAIN], first[TRAIN];
    find_marks(7, 0, marks);
    find_marks(7, 0, again);
    find_marks(7, 1, epoch);
    find_marks(8, 0, seed);
    for (int i = 0; i < TRAIN; i++) first[i] = marks[0];
    assert_int_equal(differences(marks, again), 0); // a third of the marks is inside
    assert_true(differences(marks, epoch) > TRAIN / 4);
    assert_true(differences(marks, seed) > TRAIN / 4);
    assert_true(differences(marks, first) > TRAIN / 4);
}

// Padding is black, a crop moves by at most pad_crop, flips happen, a cutout zeroes a square.
static void test_augmentation(void **state)
{
    (void)state;
    struct dataset *d = open_idx(make_idx(false), 1, 1, 0);
    struct loader *loader = create_loader(d, true, TRAIN, 3);
    assert_true(loader_start(loader, 0, 0, NULL));
    int seen[6][5] = {{0}}, missing = 0;
    for (int epoch = 0; epoch < 30; epoch++) {
        struct batch b = next(loader);
        for (int i = 0; i < b.images; i++) {
            int marks = 0;
            for (int p = 0; p < 30; p++)
                if (b.input[i * 30 + p] > 199) seen[p / 5][p % 5]++, marks++;
            missing += marks == 0;
        }
    }
    for (int y = 0; y < 6; y++)
        for (int x = 0; x < 5; x++) assert_int_equal(seen[y][x] > 0, y <= 1 && (x <= 1 || x >= 3)); // the corner, moved and mirrored
    assert_true(missing > 0);
    loader_destroy(loader);
    dataset_close(d);
    d = open_idx(make_idx(false), 0, 0, 2);
    loader = create_loader(d, true, TRAIN, 3);
    assert_true(loader_start(loader, 0, 0, NULL));
    int holes[30] = {0};
    for (int epoch = 0; epoch < 30; epoch++) {
        struct batch b = next(loader);
        for (int i = 0; i < b.images; i++) {
            int zeros = 0;
            for (int p = 0; p < 30; p++) {
                zeros += b.input[i * 30 + p] == 0;
                holes[p] += b.input[i * 30 + p] == 0;
            }
            assert_in_range(zeros, 1, 4);
        }
    }
    // Its middle, the lower right of its four pixels, is anywhere: upper left two rows and two columns come to lie in each pixel, but
    // for those at the lower and at the right edge.
    const int all = 30 * TRAIN / 30;
    for (int p = 0; p < 30; p++) {
        int expected = all * (p / 5 < 5 ? 2 : 1) * (p % 5 < 4 ? 2 : 1);
        assert_in_range(holes[p], expected * 6 / 10, expected * 14 / 10);
    }
    loader_destroy(loader);
    dataset_close(d);
}

// type= is an index of data_sources[], so both lists have one order.
static void test_names(void **state)
{
    (void)state;
    char names[512] = "";
    for (int i = 0; data_sources[i]; i++) snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? " " : "", data_sources[i]->name);
    assert_string_equal(names, DATA_TYPE_NAMES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_idx), cmocka_unit_test(test_bad_idx), cmocka_unit_test(test_cifar),
                                       cmocka_unit_test(test_order), cmocka_unit_test(test_loader_positions),
                                       cmocka_unit_test(test_loader_test_split), cmocka_unit_test(test_augmentation),
                                       cmocka_unit_test(test_augmentation_key), cmocka_unit_test(test_colour_in_memory),
                                       cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
