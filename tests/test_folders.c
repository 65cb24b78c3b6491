// Picture files in folders and lists, Darknet's .data files, and the loader on them.
#include "testing.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "data/darknet.h"
#include "data/data.h"
#include "data/store.h"
#include "pictures.h"

static char root[300];

static void new_root(void)
{
    snprintf(root, sizeof root, "%s", temporary_folder());
}

// Path below the root; its folders are made.
static const char *below(const char *name)
{
    static char path[700];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0777);
        *p = '/';
    }
    return path;
}

static void put_text(const char *name, const char *text)
{
    write_file(below(name), text, strlen(text));
}

// A picture of noise, so that no two are alike; PNG for odd numbers, JPEG for even ones.
static void put_picture(const char *name, int width, int height, int number)
{
    uint8_t *pixels = malloc((size_t)(width * height * 3));
    for (int i = 0; i < width * height * 3; i++) pixels[i] = (uint8_t)((i * 7 + number * 31 + (i / 50) * number) % 251);
    struct file_bytes file = number % 2 ? make_png(pixels, (size_t)width * 3, width, height, (struct png_kind){.colour_type = PNG_COLOR_TYPE_RGB, .bits = 8})
                                        : make_jpeg(pixels, width, height, (struct jpeg_kind){.from = JCS_RGB, .to = JCS_YCbCr});
    write_file(below(name), file.data, file.size);
    free(file.data);
    free(pixels);
}

static struct data_settings settings_of(const char *type)
{
    return (struct data_settings){.type = data_source_find(type), .path = root, .channels = 3, .height = 16, .width = 16};
}

static struct dataset *open_data(const struct data_settings *settings)
{
    struct dataset *dataset = NULL;
    struct error error = {""};
    if (!dataset_open(settings, NULL, &dataset, &error)) fail_msg("%s", error.message);
    return dataset;
}

static void expect_failure(const struct data_settings *settings, const char *message)
{
    struct dataset *dataset = NULL;
    struct error error = {""};
    assert_false(dataset_open(settings, NULL, &dataset, &error));
    assert_contains(error.message, message);
    assert_null(strchr(error.message, '\n'));
}

static void assert_path(const struct split *split, int index, const char *name, int label)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", root, name);
    assert_true(index < split->count);
    assert_string_equal(split->paths[index], path);
    assert_int_equal(split->labels[index], label);
}

// ---------------------------------------------------------------------------------------------
// Folders

static void test_folders(void **state)
{
    (void)state;
    static const char *const empty_files[] = {"train/Zebra/1.jpg", "train/apple/b.JPEG", "train/apple/a.png", "train/apple/more/deep/0.jpg",
                                              "train/cat/x.jpeg", "train/cat/notes.txt", "train/cat/.hidden.jpg", "train/readme.jpg",
                                              "val/cat/v.jpg", "val/Zebra/w.png"};
    new_root();
    for (size_t i = 0; i < sizeof empty_files / sizeof empty_files[0]; i++) put_text(empty_files[i], "x");
    struct data_settings settings = settings_of("imagefolder");
    struct dataset *d = open_data(&settings);
    assert_int_equal(d->classes, 3); // bytes, so capitals first, as Python's sorted()
    assert_string_equal(d->names[0], "Zebra");
    assert_string_equal(d->names[1], "apple");
    assert_string_equal(d->names[2], "cat");
    assert_int_equal(d->train.count, 5);
    assert_path(&d->train, 0, "train/Zebra/1.jpg", 0);
    assert_path(&d->train, 1, "train/apple/a.png", 1);
    assert_path(&d->train, 2, "train/apple/b.JPEG", 1);
    assert_path(&d->train, 3, "train/apple/more/deep/0.jpg", 1);
    assert_path(&d->train, 4, "train/cat/x.jpeg", 2);
    assert_int_equal(d->test.count, 2);
    assert_path(&d->test, 0, "val/Zebra/w.png", 0);
    assert_path(&d->test, 1, "val/cat/v.jpg", 2);
    assert_true(d->mean[0] > 0.4849f && d->mean[0] < 0.4851f);
    dataset_close(d);
    put_text("names.txt", "the zebra\nthe apple\nthe cat\n");
    settings.names = strdup("names.txt"); // below the folder
    d = open_data(&settings);
    assert_string_equal(d->names[2], "the cat");
    dataset_close(d);
    free((char *)settings.names);
    settings.names = NULL;
    settings.classes = 4;
    expect_failure(&settings, "classes=4, but the data set has 3");
    settings.classes = 0;
    settings.channels = 2;
    expect_failure(&settings, "channels=2: pictures have 1 or 3");
    settings.channels = 3;
    settings.resize = 15;
    expect_failure(&settings, "resize=15: expected at least the network's 16 x 16");
    settings.resize = 0;
    put_text("val/dog/1.jpg", "x");
    expect_failure(&settings, "val/dog: no class of the training pictures has this name");
    new_root();
    put_text("train/cat/1.jpg", "x");
    expect_failure(&settings, "imagefolder data not found");
    put_text("val/cat/notes.txt", "x");
    expect_failure(&settings, "val: 0 pictures");
    new_root();
    put_text("val/dog/1.jpg", "x");
    put_text("val/cat/2.jpg", "x");
    expect_failure(&settings, "expected the folders train and val");
    settings.without_train = true; // then the classes are those of val
    d = open_data(&settings);
    assert_int_equal(d->classes, 2);
    assert_path(&d->test, 0, "val/cat/2.jpg", 0);
    assert_path(&d->test, 1, "val/dog/1.jpg", 1);
    dataset_close(d);
}

// ---------------------------------------------------------------------------------------------
// Lists

static void test_list(void **state)
{
    (void)state;
    new_root();
    put_text("a/1.jpg", "x");
    put_text("labels", "cat\r\ndog\r\ncatfish\r\n");
    put_text("train", "a/1.jpg 2\n/x/dog/2.jpg\n\n  /x/cat/dog/with space.png  \r\n/x/catfish/3.jpg\n/cat/y.jpg\tdog\n/somewhere/dog.png\n/a b/4.jpg cat\n");
    put_text("valid", "/x/cat/1.jpg");
    struct data_settings settings = settings_of("list");
    expect_failure(&settings, "expected train= and valid=");
    char train[] = "train", valid[] = "valid", labels[] = "labels";
    settings.train = train;
    settings.valid = valid;
    expect_failure(&settings, "expected labels= or names=");
    settings.labels = labels;
    struct dataset *d = open_data(&settings);
    assert_int_equal(d->classes, 3);
    assert_int_equal(d->train.count, 7);
    static const int expected[7] = {2, 1, 1, 2, 1, 1, 0};
    assert_memory_equal(d->train.labels, expected, sizeof expected);
    assert_path(&d->train, 0, "a/1.jpg", 2); // relative to the list, as it is there
    assert_string_equal(d->train.paths[2], "/x/cat/dog/with space.png");
    assert_string_equal(d->train.paths[4], "/cat/y.jpg");
    assert_string_equal(d->train.paths[6], "/a b/4.jpg");
    dataset_close(d);
    static const char *const refused[][2] = {{"/x/bobcat/1.jpg", "no folder of the path equals a class label"}, {"/x/cats/1.jpg", "no label behind a space"},
                                             {"/x/1.jpg 3", "not one of the classes 0 to 2"}, {"/x/1.jpg -1", "not one of the classes"},
                                             {"/x/1_cat.jpg", "no folder of the path"}, {"\n \n", "no line with text"},
                                             {"/x/cat/1.jpg\n\n \r\n/x/2.jpg\n", "train:4: /x/2.jpg: no label"}, {"/x/1.jpg 0\n/x/1.jpg 7", "train:2: "}};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        put_text("train", refused[i][0]);
        expect_failure(&settings, refused[i][1]);
    }
    write_file(below("train"), "/x/cat/1.jpg\n\0/x/dog/2.jpg", 27);
    expect_failure(&settings, "train: a zero byte: expected a text file");
    static char returns[14 * 200 + 1]; // a carriage return alone ends no line
    for (int i = 0; i < 200; i++) memcpy(returns + 14 * i, "/x/cat/01.jpg\r", 14);
    put_text("train", returns);
    d = open_data(&settings);
    assert_int_equal(d->train.count, 1);
    dataset_close(d);
    put_text("train", "/x/cat/1.jpg");
    put_text("labels", "cat\ndog\ncat\n");
    expect_failure(&settings, "the class label cat is there twice");
    put_text("labels", "cat\ndog\n");
    settings.classes = 3;
    expect_failure(&settings, "2 class labels: expected 3");
    settings.classes = 1;
    expect_failure(&settings, "2 class labels: expected 1");
}

// As Darknet's own lists: labels in parts of the file's name, lists of labels for more classes.
static void test_darknet_list(void **state)
{
    (void)state;
    new_root();
    put_text("labels", "frog\ntruck\nn01751748\nmore\n");
    put_text("train", "/d/cifar/train/0_frog.png\n/d/46275_truck.png\n/d/labelled/ILSVRC2012_val_00000001.n01751748.JPEG\n/truck/7_frog.png\n");
    char train[700], labels[700];
    snprintf(train, sizeof train, "%s", below("train"));
    snprintf(labels, sizeof labels, "%s", below("labels"));
    struct data_settings settings = settings_of("list");
    settings.train = settings.valid = train;
    settings.labels = labels;
    settings.classes = 3;
    settings.darknet = true;
    struct dataset *d = open_data(&settings);
    static const int expected[4] = {0, 1, 2, 1};
    assert_int_equal(d->classes, 3);
    assert_memory_equal(d->test.labels, expected, sizeof expected);
    assert_true(d->mean[0] == 0 && d->std[2] == 1);
    dataset_close(d);
    put_text("train", "/d/firetruck.png");
    expect_failure(&settings, "no folder of the path equals a class label");
    put_text("train", "/d/frog_truck.png");
    expect_failure(&settings, "several class labels in the path");
    settings.classes = 5;
    expect_failure(&settings, "4 class labels: expected 5");
    settings.classes = 3;
    settings.names = labels;
    put_text("train", "/truck/1.png\n");
    expect_failure(&settings, "4 names: expected 3");
    settings.more_names = true;
    d = open_data(&settings);
    assert_string_equal(d->names[2], "n01751748");
    dataset_close(d);
}

// For pictures that come from elsewhere.
static void test_without_pictures(void **state)
{
    (void)state;
    new_root();
    const float mean = 0.5f;
    struct data_settings settings = {.classes = 2, .channels = 3, .height = 4, .width = 5};
    struct dataset *d;
    struct error error;
    if (!dataset_open_without_pictures(&settings, &d, &error)) fail_msg("%s", error.message);
    assert_true(d->classes == 2 && d->height == 4 && d->width == 5 && d->mean[1] == 0 && d->std[2] == 1);
    assert_string_equal(d->names[1], "1");
    dataset_close(d);
    put_text("names", "cat\ndog\nmore\n");
    settings.names = below("names");
    settings.mean = &mean;
    settings.mean_count = 1;
    assert_false(dataset_open_without_pictures(&settings, &d, &error));
    assert_non_null(strstr(error.message, "3 names: expected 2"));
    settings.more_names = true;
    settings.names = below("names");
    if (!dataset_open_without_pictures(&settings, &d, &error)) fail_msg("%s", error.message);
    assert_string_equal(d->names[1], "dog");
    assert_true(d->mean[2] == mean);
    dataset_close(d);
    settings.channels = 2;
    assert_false(dataset_open_without_pictures(&settings, &d, &error));
    assert_non_null(strstr(error.message, "channels=2: pictures have 1 or 3"));
}

static void test_data_file(void **state)
{
    (void)state;
    new_root();
    struct darknet_data data;
    struct error error;
    put_text("x.data", "classes=1000\r\ntrain  = /data/imagenet/train.list\n# comment\n\nvalid=v\nbackup = /home/x/backup/\nlabels = l\n names  = n \ntop=5\ntree=whatever\n");
    if (!darknet_data_read(below("x.data"), &data, &error)) fail_msg("%s", error.message);
    assert_int_equal(data.classes, 1000);
    assert_int_equal(data.top, 5);
    assert_string_equal(data.train, "/data/imagenet/train.list");
    assert_string_equal(data.backup, "/home/x/backup/");
    assert_string_equal(data.names, "n");
    darknet_data_release(&data);
    static const char *const refused[][2] = {{"train=a\nvalid=b\nlabels=c\nclasses=many", "x.data:4: classes=many: expected an integer from 1"},
                                             {"train=a\nvalid\n", "x.data:2: valid: expected KEY=VALUE"}, {"train=\n", "x.data:1: train=: expected a value"},
                                             {"train=a\nlabels=b\n", "expected the keys train, valid and labels"}};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        put_text("x.data", refused[i][0]);
        assert_false(darknet_data_read(below("x.data"), &data, &error));
        assert_contains(error.message, refused[i][1]);
        darknet_data_release(&data);
    }
}

// ---------------------------------------------------------------------------------------------
// The loader

#define TRAIN 210
#define TEST 23
#define BATCH 13
#define SIZE (3 * 16 * 16)

static void make_pictures(void)
{
    char name[64];
    new_root();
    for (int i = 0; i < TRAIN + TEST; i++) {
        bool train = i < TRAIN;
        snprintf(name, sizeof name, "%s/%c/%03d.JPEG", train ? "train" : "val", "abc"[i % 3], i);
        put_picture(name, 20 + i % 5, 18 + i % 7, i);
    }
}

static struct data_settings loader_settings(int threads, int cache)
{
    struct data_settings settings = settings_of("imagefolder");
    settings.area_crop = true;
    settings.crop_scale[0] = settings.crop_ratio[0] = 0.5f;
    settings.crop_scale[1] = settings.crop_ratio[1] = 1;
    settings.flip = settings.pad_crop = 1;
    settings.hue = 0.1f;
    settings.saturation = 1.5f;
    settings.threads = threads;
    settings.cache = cache;
    return settings;
}

struct result {
    int batches, images;
    float *input;
    int *pictures;
    char problem[512], skipped[512];
};

static void result_release(struct result *result)
{
    free(result->input);
    free(result->pictures);
}

// The batches of `count` from the first of an epoch on, or all of the test split.
static struct result load(const struct data_settings *settings, bool training, uint64_t epoch, int first, int count, int crops)
{
    struct dataset *d = open_data(settings);
    const struct loader_request request = {.dataset = d, .training = training, .batch = BATCH, .seed = 5, .crops = crops};
    struct loader *loader = NULL;
    struct error error = {""};
    struct result result = {.input = calloc((size_t)(count * BATCH * SIZE * 10), sizeof(float)), .pictures = calloc((size_t)(count * BATCH), sizeof(int))};
    assert_true(loader_create(&request, &loader, &error) && loader_start(loader, epoch, first, &error));
    for (int i = 0; i < count; i++) {
        struct batch batch;
        if (!loader_next(loader, &batch, &error)) {
            snprintf(result.problem, sizeof result.problem, "%.500s", error.message);
            break;
        }
        if (batch.images == 0) break;
        for (int k = 0; k < batch.images; k++) {
            const struct split *split = training ? &d->train : &d->test;
            assert_int_equal(batch.labels[k], split->labels[batch.pictures[k]]);
            for (int c = 0; c < batch.crops; c++)
                memcpy(result.input + ((result.images + k) * batch.crops + c) * SIZE, batch.input + (size_t)c * batch.crop_stride + k * SIZE, SIZE * sizeof(float));
            result.pictures[result.images + k] = batch.pictures[k];
        }
        result.images += batch.images;
        result.batches++;
    }
    const struct split *split = training ? &d->train : &d->test;
    for (int i = 0; i < split_skipped(split); i++) snprintf(result.skipped + strlen(result.skipped), 200, "%.150s\n", split_skipped_text(split, i) + strlen(root));
    loader_destroy(loader);
    dataset_close(d);
    return result;
}

static void assert_same(const struct result *a, const struct result *b)
{
    assert_int_equal(a->images, b->images);
    assert_memory_equal(a->pictures, b->pictures, (size_t)a->images * sizeof(int));
    assert_memory_equal(a->input, b->input, (size_t)a->images * SIZE * sizeof(float));
}

static double seconds_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// The time in which the next batch is not ready is counted, and from loader_start on. One start may be lucky: where the consumer is
// not scheduled for long enough, the threads are always ahead of it.
static void test_waited(void **state)
{
    (void)state;
    make_pictures();
    struct data_settings settings = loader_settings(1, 0);
    struct dataset *d = open_data(&settings);
    const struct loader_request request = {.dataset = d, .training = true, .batch = BATCH, .seed = 5, .crops = 1};
    struct loader *loader = NULL;
    struct error error = {""};
    double waited = 0;
    assert_true(loader_create(&request, &loader, &error));
    for (int start = 0; start < 100 && waited == 0; start++) {
        double begin = seconds_now();
        assert_true(loader_start(loader, 0, 0, &error));
        assert_true(loader_waited_seconds(loader) == 0);
        for (int i = 0; i < 8; i++) {
            struct batch batch;
            assert_true(loader_next(loader, &batch, &error));
        }
        waited = loader_waited_seconds(loader);
        assert_true(waited <= seconds_now() - begin);
    }
    assert_true(waited > 0);
    assert_true(loader_start(loader, 0, 0, &error));
    assert_true(loader_waited_seconds(loader) == 0);
    loader_destroy(loader);
    dataset_close(d);
}

// The same for any number of threads, with and without memory, and from wherever it starts.
static void test_loader(void **state)
{
    (void)state;
    make_pictures();
    struct data_settings settings = loader_settings(1, 0);
    struct result whole = load(&settings, true, 0, 0, 40, 1); // 16 batches an epoch
    assert_int_equal(whole.images, 40 * BATCH);
    assert_memory_not_equal(whole.input, whole.input + SIZE, SIZE * sizeof(float));
    for (int threads = 1; threads <= 7; threads += 3)
        for (int cache = 0; cache <= 1; cache++) {
            settings = loader_settings(threads, cache);
            struct result again = load(&settings, true, 0, 0, 40, 1);
            assert_same(&whole, &again);
            result_release(&again);
        }
    settings = loader_settings(3, 1);
    struct result later = load(&settings, true, 1, 5, 3, 1);
    assert_memory_equal(later.input, whole.input + 21 * BATCH * SIZE, 3 * BATCH * SIZE * sizeof(float));
    result_release(&later);
    settings.cache = 0;
    struct result test = load(&settings, false, 0, 0, 9, 1);
    assert_int_equal(test.images, TEST);
    for (int i = 0; i < TEST; i++) assert_int_equal(test.pictures[i], i);
    result_release(&test);
    result_release(&whole);
}

// Of copies of one picture all are seen otherwise, in each epoch and with each seed.
static void test_augmentation_key(void **state)
{
    (void)state;
    char name[64];
    new_root();
    for (int i = 0; i < 4; i++) put_picture((snprintf(name, sizeof name, "%s/a/%d.png", i ? "train" : "val", i), name), 40, 40, 1);
    struct data_settings settings = loader_settings(1, 1);
    struct dataset *d = open_data(&settings);
    float *views = calloc(12 * SIZE, sizeof *views); // [seed, epoch][picture]
    for (int k = 0; k < 4; k++) {
        const struct loader_request request = {.dataset = d, .training = true, .batch = 3, .seed = (uint64_t)(k / 2)};
        struct loader *loader;
        struct batch batch;
        assert_true(loader_create(&request, &loader, NULL) && loader_start(loader, (uint64_t)(k % 2), 0, NULL));
        assert_true(loader_next(loader, &batch, NULL));
        for (int i = 0; i < 3; i++) memcpy(views + (3 * k + batch.pictures[i]) * SIZE, batch.input + i * SIZE, SIZE * sizeof *views);
        loader_destroy(loader);
    }
    for (int i = 0; i < 12; i++)
        for (int k = 0; k < i; k++) assert_memory_not_equal(views + i * SIZE, views + k * SIZE, SIZE * sizeof *views);
    free(views);
    dataset_close(d);
}

// What evaluation sees is what predict sees; the fifth of ten crops is the centre.
static void test_crops(void **state)
{
    (void)state;
    make_pictures();
    struct data_settings settings = loader_settings(2, 1);
    struct result centre = load(&settings, false, 0, 0, 9, 1), ten = load(&settings, false, 0, 0, 9, 10);
    struct dataset *d = open_data(&settings);
    assert_int_equal(ten.images, TEST);
    for (int i = 0; i < TEST; i++) {
        float read[SIZE];
        struct error error = {""};
        if (!dataset_read_picture(d, d->test.paths[i], read, &error)) fail_msg("%s", error.message);
        assert_memory_equal(read, centre.input + i * SIZE, sizeof read);
        const float *crops = ten.input + i * 10 * SIZE;
        assert_memory_equal(crops + 4 * SIZE, read, sizeof read);
        for (int p = 0; p < SIZE; p++) assert_true(crops[9 * SIZE + p] == read[p / 16 * 16 + 15 - p % 16]);
    }
    dataset_close(d);
    result_release(&centre);
    result_release(&ten);
}

// The first batch of epoch 0 that one of two pictures is in.
static int first_batch_with(int a, int b)
{
    int order[TRAIN], i = 0;
    shuffle_order(order, TRAIN, 5, 0);
    while (order[i] != a && order[i] != b) i++;
    return i / BATCH;
}

static void test_bad_pictures(void **state)
{
    (void)state;
    make_pictures();
    put_text("train/a/003.JPEG", "no picture");
    put_text("train/b/100.JPEG", "");
    struct data_settings settings = loader_settings(1, 0);
    struct result one = load(&settings, true, 0, 0, 40, 1);
    assert_int_equal(one.images, 40 * BATCH);
    for (int i = 0; i < one.images; i++) assert_true(one.pictures[i] != 1 && one.pictures[i] != 103);
    assert_contains(one.skipped, "/train/a/003.JPEG: not a JPEG or PNG picture");
    assert_contains(one.skipped, "/train/b/100.JPEG: an empty file");
    int replacements[4], order[TRAIN], found = 0; // of both in the first two epochs
    for (uint64_t epoch = 0; epoch < 2; epoch++) {
        shuffle_order(order, TRAIN, 5, epoch);
        for (int i = 0; i < 16 * BATCH; i++)
            if (order[i] == 1 || order[i] == 103) replacements[found++] = one.pictures[(int)epoch * 16 * BATCH + i];
    }
    assert_true(found >= 3);
    for (int i = 1; i < found; i++) assert_int_not_equal(replacements[i], replacements[0]);
    settings = loader_settings(4, 1);
    struct result other = load(&settings, true, 0, 0, 40, 1);
    assert_same(&one, &other);
    result_release(&other);
    struct result later = load(&settings, true, 1, 5, 3, 1); // a resumed run does not know them yet
    assert_memory_equal(later.input, one.input + 21 * BATCH * SIZE, 3 * BATCH * SIZE * sizeof(float));
    result_release(&later);
    settings.on_bad_image = BAD_IMAGE_STOP;
    for (int threads = 1; threads <= 7; threads += 3) {
        settings.threads = threads;
        other = load(&settings, true, 0, 0, 40, 1);
        assert_int_equal(other.batches, first_batch_with(1, 103));
        assert_memory_equal(other.input, one.input, (size_t)other.images * SIZE * sizeof(float));
        assert_contains(other.problem, "JPEG: ");
        assert_null(strstr(other.problem, "1 %"));
        result_release(&other);
    }
    result_release(&one);
    put_text("train/c/005.JPEG", "GIF89a");
    settings.on_bad_image = BAD_IMAGE_SKIP;
    other = load(&settings, true, 0, 0, 40, 1); // 3 of 210 are more than 1 %
    assert_contains(other.problem, "3 of 210 pictures cannot be read, more than 1 %; the last: ");
    result_release(&other);
}

// A test picture that cannot be read leaves its batch, the others stay.
static void test_bad_test_pictures(void **state)
{
    (void)state;
    char name[64];
    new_root();
    put_picture("train/a/1.png", 16, 16, 1);
    for (int i = 0; i < 100; i++) put_picture((snprintf(name, sizeof name, "val/a/%03d.png", i), name), 16, 16, i);
    put_text("val/a/020.png", "x");
    struct data_settings settings = loader_settings(3, 0);
    struct result result = load(&settings, false, 0, 0, 20, 10);
    assert_int_equal(result.images, 99); // 1 % may be bad
    for (int i = 0; i < 99; i++) assert_int_equal(result.pictures[i], i < 20 ? i : i + 1);
    struct dataset *d = open_data(&settings);
    float read[SIZE];
    for (int i = 0; i < 99; i += 7) {
        assert_true(dataset_read_picture(d, d->test.paths[result.pictures[i]], read, NULL));
        assert_memory_equal(result.input + (i * 10 + 4) * SIZE, read, sizeof read);
    }
    dataset_close(d);
    result_release(&result);
    put_text("val/a/021.png", "x");
    result = load(&settings, false, 0, 0, 20, 1);
    assert_contains(result.problem, "2 of 100 pictures");
    result_release(&result);
}

// Pictures are kept only as far as the bound says.
static void test_cache_bound(void **state)
{
    (void)state;
    char name[64];
    new_root();
    for (int i = 0; i < 6; i++) put_picture((snprintf(name, sizeof name, "%s/a/%d.png", i ? "train" : "val", i), name), 400, 300, 1);
    struct data_settings settings = settings_of("imagefolder");
    settings.cache = 1; // MiB: two of 360000 bytes
    struct dataset *d = open_data(&settings);
    int kept_count = 0;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 5; i++) {
            struct picture picture;
            bool kept;
            assert_true(store_get(&d->train, i, 3, &picture, &kept, NULL));
            assert_int_equal(picture.width, 400);
            kept_count += kept;
            if (!kept) picture_release(&picture);
        }
    assert_int_equal(kept_count, 4);
    dataset_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_folders), cmocka_unit_test(test_list), cmocka_unit_test(test_darknet_list),
                                       cmocka_unit_test(test_without_pictures), cmocka_unit_test(test_data_file),
                                       cmocka_unit_test(test_waited), cmocka_unit_test(test_loader), cmocka_unit_test(test_augmentation_key),
                                       cmocka_unit_test(test_crops),
                                       cmocka_unit_test(test_bad_pictures), cmocka_unit_test(test_bad_test_pictures),
                                       cmocka_unit_test(test_cache_bound)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
