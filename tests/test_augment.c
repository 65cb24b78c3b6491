// Crops and colours of training and evaluation.
#include "testing.h"

#include <math.h>

#include "data/augment.h"

// Channel 0 grows by 2 a column, channel 1 by 2 a row: what a view shows tells where it is from.
static struct picture ramps(int width, int height)
{
    struct picture picture = {width, height, 3, malloc((size_t)(width * height * 3))};
    for (int i = 0; i < width * height; i++) {
        picture.pixels[3 * i] = (uint8_t)(2 * (i % width));
        picture.pixels[3 * i + 1] = (uint8_t)(2 * (i / width));
        picture.pixels[3 * i + 2] = 200;
    }
    return picture;
}

// Place and size of the view in the picture, in its pixels, from two pixels inside.
static void locate(const uint8_t *view, int side, double *left, double *top, double *width, double *height)
{
    int a = side / 4, b = 3 * side / 4;
    double step_x = (view[(a * side + b) * 3] - view[(a * side + a) * 3]) / 2.0 / (b - a);
    double step_y = (view[(b * side + a) * 3 + 1] - view[(a * side + a) * 3 + 1]) / 2.0 / (b - a);
    *width = step_x * side;
    *height = step_y * side;
    *left = view[(a * side + a) * 3] / 2.0 - (a + 0.5) * step_x + 0.5;
    *top = view[(a * side + a) * 3 + 1] / 2.0 - (a + 0.5) * step_y + 0.5;
}

#define SIDE 32

static void test_centre(void **state)
{
    (void)state;
    struct picture from = ramps(100, 60);
    struct data_settings settings = {.resize = 0};
    uint8_t view[SIDE * SIDE * 3], mirrored[SIDE * SIDE * 3];
    static const double lefts[5] = {0, 100, 0, 100, 50}, tops[5] = {0, 0, 60, 60, 30}; // of the corner that the crop touches
    for (int resize = 0; resize <= 40; resize += 40) {
        settings.resize = resize;
        double scale = resize ? 40 / 60.0 : 32 / 60.0, size = SIDE / scale, left, top, width, height;
        for (int crop = 0; crop < 5; crop++) {
            assert_true(augment_centre(&settings, &from, crop, SIDE, SIDE, view, NULL));
            locate(view, SIDE, &left, &top, &width, &height);
            assert_true(fabs(width - size) < 1.5 && fabs(height - size) < 1.5);
            assert_true(fabs(left - lefts[crop] * (100 - size) / 100) < 2 && fabs(top - tops[crop] * (60 - size) / 60) < 2);
            assert_true(augment_centre(&settings, &from, crop + 5, SIDE, SIDE, mirrored, NULL));
            for (int i = 0; i < SIDE * SIDE; i++)
                assert_memory_equal(mirrored + 3 * i, view + 3 * (i / SIDE * SIDE + SIDE - 1 - i % SIDE), 3);
        }
    }
    picture_release(&from);
}

// The longest pictures there are, at the largest size: one pixel of them is what the network sees.
static void test_longest(void **state)
{
    (void)state;
    uint8_t view[SIDE * SIDE * 3];
    for (int upright = 0; upright < 2; upright++)
        for (int resize = 0; resize <= 16384; resize += 16384) {
            struct picture from = {upright ? 1 : 65535, upright ? 65535 : 1, 3, calloc(65535, 3)};
            const struct data_settings settings = {.resize = resize};
            memset(from.pixels + 3 * 32767 - 60, 77, 123); // the middle
            assert_true(augment_centre(&settings, &from, CROP_CENTRE, SIDE, SIDE, view, NULL));
            for (int i = 0; i < SIDE * SIDE * 3; i++) assert_int_equal(view[i], 77);
            for (int crop = 0; crop < 4; crop++) {
                assert_true(augment_centre(&settings, &from, crop, SIDE, SIDE, view, NULL));
                for (int i = 0; i < SIDE * SIDE * 3; i++) assert_int_equal(view[i], 0);
            }
            picture_release(&from);
        }
}

struct extent {
    double least, most, sum;
};

static void extend(struct extent *extent, double value)
{
    extent->least = fmin(extent->least, value);
    extent->most = fmax(extent->most, value);
    extent->sum += value;
}

#define DRAWS 2000

// torchvision's crop: share of the area uniform, ratio of its sides log-uniform, anywhere in the picture.
static void test_area_crop(void **state)
{
    (void)state;
    struct picture from = ramps(110, 100);
    const struct data_settings settings = {.area_crop = true, .crop_scale = {0.1f, 0.5f}, .crop_ratio = {0.5f, 2}};
    struct extent area = {9, 0, 0}, ratio = {9, 0, 0}, x = {999, 0, 0}, y = {999, 0, 0};
    for (int i = 0; i < DRAWS; i++) {
        struct random_stream stream = {random_key(1, 2, 3, (uint64_t)i), 0};
        uint8_t view[64 * 64 * 3];
        double left, top, width, height;
        assert_true(augment_random(&settings, &from, &stream, 64, 64, view, NULL));
        locate(view, 64, &left, &top, &width, &height);
        extend(&area, width * height / 11000);
        extend(&ratio, width / height);
        extend(&x, left + width / 2);
        extend(&y, top + height / 2);
        assert_true(left > -2 && top > -2 && left + width < 112 && top + height < 102);
    }
    assert_true(area.least > 0.08 && area.least < 0.13 && area.most > 0.46 && area.most < 0.55);
    assert_true(fabs(area.sum / DRAWS - 0.3) < 0.02);
    assert_true(ratio.least > 0.44 && ratio.least < 0.56 && ratio.most > 1.8 && ratio.most < 2.25);
    assert_true(fabs(x.sum / DRAWS - 55) < 2 && fabs(y.sum / DRAWS - 50) < 2 && x.least < 25 && x.most > 85);
    const struct data_settings wide = {.area_crop = true, .crop_scale = {0.2f, 0.4f}, .crop_ratio = {1.8f, 2}};
    for (uint64_t i = 0; i < 50; i++) { // the ratio is that of width to height
        struct random_stream stream = {random_key(i, 0, 0, 0), 0};
        uint8_t view[64 * 64 * 3];
        double left, top, width, height;
        assert_true(augment_random(&wide, &from, &stream, 64, 64, view, NULL));
        locate(view, 64, &left, &top, &width, &height);
        assert_true(width / height > 1.6 && width / height < 2.25);
    }
    picture_release(&from);
}

// A picture too long for the ratio: its centre.
static void test_area_crop_of_a_strip(void **state)
{
    (void)state;
    struct picture from = ramps(120, 4);
    const struct data_settings settings = {.area_crop = true, .crop_scale = {0.9f, 1}, .crop_ratio = {0.5f, 2}};
    struct random_stream stream = {1, 0};
    uint8_t view[SIDE * SIDE * 3];
    double left, top, width, height;
    assert_true(augment_random(&settings, &from, &stream, SIDE, SIDE, view, NULL));
    locate(view, SIDE, &left, &top, &width, &height);
    assert_true(fabs(width - 8) < 1.5 && fabs(left - 56) < 1.5);
    picture_release(&from);
}

static struct data_settings darknet(int least, int most, float aspect, float angle)
{
    return (struct data_settings){.darknet_crop = true, .min_crop = least, .max_crop = most, .aspect = aspect, .angle = angle};
}

// Darknet's crop: the shorter side scaled to min_crop..max_crop, a random position inside.
static void test_darknet_crop(void **state)
{
    (void)state;
    struct picture from = ramps(120, 90);
    const struct data_settings settings = darknet(48, 90, 1, 0);
    struct extent size = {999, 0, 0}, x = {999, 0, 0}, y = {999, 0, 0};
    for (int i = 0; i < DRAWS; i++) {
        struct random_stream stream = {random_key(4, 2, 3, (uint64_t)i), 0};
        uint8_t view[SIDE * SIDE * 3];
        double left, top, width, height;
        assert_true(augment_random(&settings, &from, &stream, SIDE, SIDE, view, NULL));
        locate(view, SIDE, &left, &top, &width, &height);
        assert_true(fabs(width - height) < 3);
        assert_true(left > -2.5 && top > -2.5 && left + width < 122.5 && top + height < 92.5);
        extend(&size, width);
        extend(&x, left);
        extend(&y, top);
    }
    assert_true(fabs(size.least - 32) < 2.5 && fabs(size.most - 60) < 2.5); // 32 of 90 to 32 of 48, times 90
    assert_true(x.least < 2 && x.most > 84 && y.least < 2 && y.most > 54);
    picture_release(&from);
}

// Less than the network's size leaves a black frame, a turn turns, the aspect changes width against height.
static void test_darknet_frame_and_turn(void **state)
{
    (void)state;
    struct picture from = ramps(100, 100);
    struct data_settings settings = darknet(16, 16, 1, 0);
    uint8_t view[SIDE * SIDE * 3];
    struct random_stream stream = {7, 0};
    assert_true(augment_random(&settings, &from, &stream, SIDE, SIDE, view, NULL));
    int black = 0, bright = 0;
    for (int i = 0; i < SIDE * SIDE; i++) black += view[3 * i + 2] == 0, bright += view[3 * i + 2] == 200;
    assert_true(bright >= 14 * 14 && bright <= 17 * 17 && black > 700);
    settings = darknet(100, 100, 1, 180);
    int upright = 0, turned = 0;
    for (uint64_t i = 0; i < 200; i++) {
        stream = (struct random_stream){random_key(i, 0, 0, 0), 0};
        assert_true(augment_random(&settings, &from, &stream, SIDE, SIDE, view, NULL));
        int across = view[(16 * SIDE + 20) * 3] - view[(16 * SIDE + 12) * 3]; // 16 if upright, -16 upside down
        upright += across > 13;
        turned += across < -13;
        assert_in_range(across + 18, 0, 36);
    }
    assert_true(upright > 20 && turned > 20);
    settings = darknet(100, 100, 0.5f, 0);
    struct extent ratio = {99, 0, 0};
    for (uint64_t i = 0; i < 500; i++) {
        double left, top, width, height;
        stream = (struct random_stream){random_key(i, 0, 0, 0), 0};
        assert_true(augment_random(&settings, &from, &stream, SIDE, SIDE, view, NULL));
        locate(view, SIDE, &left, &top, &width, &height);
        if (height > 4) extend(&ratio, width / height);
    }
    assert_true(ratio.least > 0.4 && ratio.least < 0.6 && ratio.most > 1.7 && ratio.most < 2.4);
    picture_release(&from);
}

// Darknet's random numbers: rand_uniform and rand_scale.
static double draw_uniform(struct random_stream *stream, double most)
{
    return most * (2 * (double)random_uniform(stream) - 1);
}

static double draw_scale(struct random_stream *stream, double s)
{
    double scale = 1 + (s - 1) * (double)random_uniform(stream);
    return random_below(stream, 2) ? scale : 1 / scale;
}

static double pixel_or_black(const struct picture *from, int x, int y, int c)
{
    return x < 0 || x >= from->width || y < 0 || y >= from->height ? 0 : from->pixels[(y * from->width + x) * from->channels + c];
}

// Darknet's random_augment_image (src/image.c) written anew, but that pixels are squares with their centres between whole numbers.
static void darknet_view(const struct picture *from, const struct data_settings *s, struct random_stream *stream, double *view)
{
    double aspect = draw_scale(stream, (double)s->aspect);
    double side = s->min_crop + (int)random_below(stream, (uint32_t)(s->max_crop - s->min_crop) + 1);
    double scale = side / fmin(from->height, from->width * aspect), angle = draw_uniform(stream, (double)s->angle) * 3.14159265 / 180;
    double dx = draw_uniform(stream, (from->width * scale / aspect - SIDE) / 2), dy = draw_uniform(stream, (from->height * scale - SIDE) / 2);
    for (int i = 0; i < SIDE * SIDE; i++) {
        double across = (i % SIDE + 0.5 - SIDE / 2.0 + dx) / scale * aspect, down = (i / SIDE + 0.5 - SIDE / 2.0 + dy) / scale;
        double x = cos(angle) * across - sin(angle) * down + from->width / 2.0 - 0.5;
        double y = sin(angle) * across + cos(angle) * down + from->height / 2.0 - 0.5;
        int left = (int)floor(x), top = (int)floor(y);
        for (int c = 0; c < 3; c++)
            view[3 * i + c] = (1 - x + left) * (1 - y + top) * pixel_or_black(from, left, top, c) + (x - left) * (1 - y + top) * pixel_or_black(from, left + 1, top, c) +
                              (1 - x + left) * (y - top) * pixel_or_black(from, left, top + 1, c) + (x - left) * (y - top) * pixel_or_black(from, left + 1, top + 1, c);
    }
}

// Pixel by pixel where nothing is made smaller first; and a fine pattern that is made smaller becomes grey.
static void test_darknet_pixels(void **state)
{
    (void)state;
    struct picture from = ramps(46, 33), fine = {400, 400, 1, malloc(160000)};
    for (int i = 0; i < 46 * 33; i++) from.pixels[3 * i + 2] = (uint8_t)(i % 46 * 5 + i / 46);
    struct data_settings settings = darknet(40, 90, 0.6f, 30);
    uint8_t view[SIDE * SIDE * 3];
    double expected[SIDE * SIDE * 3];
    for (uint64_t i = 0; i < 100; i++) {
        struct random_stream stream = {random_key(i, 8, 0, 0), 0}, again = stream;
        assert_true(augment_random(&settings, &from, &stream, SIDE, SIDE, view, NULL));
        darknet_view(&from, &settings, &again, expected);
        for (int p = 0; p < SIDE * SIDE * 3; p++)
            if (fabs(view[p] - expected[p]) > 0.6) fail_msg("draw %d, pixel %d: %d, expected %g", (int)i, p / 3, view[p], expected[p]);
    }
    for (int i = 0; i < 160000; i++) fine.pixels[i] = (i % 400 + i / 400) % 2 ? 255 : 0;
    settings = darknet(90, 120, 1, 0);
    for (uint64_t i = 0; i < 10; i++) {
        struct random_stream stream = {random_key(i, 9, 0, 0), 0};
        assert_true(augment_random(&settings, &fine, &stream, 16, 16, view, NULL));
        int even = 0;
        for (int p = 0; p < 256; p++) even += view[p] >= 115 && view[p] <= 140;
        assert_true(even >= 15 * 15); // an edge may touch the black outside
    }
    picture_release(&from);
    picture_release(&fine);
}

// Grey pictures know exposure alone.
static void test_grey_exposure(void **state)
{
    (void)state;
    const struct data_settings settings = {.hue = 0.5f, .saturation = 2, .exposure = 1.5f};
    int changed = 0;
    for (uint64_t i = 0; i < 50; i++) {
        struct random_stream stream = {random_key(i, 1, 2, 3), 0}, again = stream;
        uint8_t pixels[256];
        for (int p = 0; p < 256; p++) pixels[p] = (uint8_t)p;
        augment_colours(&settings, &stream, pixels, 256, 1);
        draw_uniform(&again, 1);
        draw_scale(&again, 2);
        double exposure = draw_scale(&again, 1.5);
        for (int p = 0; p < 256; p++) assert_true(fabs(pixels[p] - fmin(255, exposure * p)) < 0.51);
        changed += pixels[100] != 100;
    }
    assert_true(changed > 40);
}

// ---------------------------------------------------------------------------------------------
// Colours: Darknet's formulas (rgb_to_hsv, scale, turn, hsv_to_rgb) written anew.

static void distorted(const uint8_t *from, double turn, double saturation, double exposure, double *to)
{
    double r = from[0] / 255.0, g = from[1] / 255.0, b = from[2] / 255.0, v = fmax(r, fmax(g, b)), range = v - fmin(r, fmin(g, b)), h = 0;
    if (range > 0) h = r == v ? fmod((g - b) / range + 6, 6) : g == v ? 2 + (b - r) / range : 4 + (r - g) / range;
    double s = (v > 0 ? range / v : 0) * saturation;
    h = fmod(h + 6 * turn + 6, 6);
    v *= exposure;
    int sector = (int)h;
    double f = h - sector, p = v * (1 - s), q = v * (1 - s * f), t = v * (1 - s * (1 - f));
    const double table[6][3] = {{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}};
    for (int c = 0; c < 3; c++) to[c] = 255 * fmin(1, fmax(0, table[sector][c]));
}

static void test_colours(void **state)
{
    (void)state;
    static const float settings_of[][3] = {{0.1f, 0.75f, 0.75f}, {0, 1.5f, 1.3f}, {0.5f, 0, 0}, {0.3f, 2, 1}};
    for (int k = 0; k < 4; k++)
        for (uint64_t i = 0; i < 60; i++) {
            const struct data_settings s = {.hue = settings_of[k][0], .saturation = settings_of[k][1], .exposure = settings_of[k][2]};
            struct random_stream stream = {random_key(i, 1, 1, 1), 0}, again = stream, colours = {i, 0};
            uint8_t pixels[50 * 3], before[50 * 3];
            for (int p = 0; p < 150; p++) pixels[p] = (uint8_t)random_below(&colours, p < 60 ? 3 : 256);
            memset(pixels + 60, 128, 3); // grey
            memcpy(before, pixels, sizeof pixels);
            augment_colours(&s, &stream, pixels, 50, 3);
            double turn = (double)s.hue * (2 * (double)random_uniform(&again) - 1);
            double saturation = draw_scale(&again, s.saturation > 0 ? (double)s.saturation : 1), exposure = draw_scale(&again, s.exposure > 0 ? (double)s.exposure : 1);
            for (int p = 0; p < 50; p++) {
                double expected[3];
                distorted(before + 3 * p, turn, saturation, exposure, expected);
                for (int c = 0; c < 3; c++) assert_true(fabs(pixels[3 * p + c] - expected[c]) < 0.51);
            }
        }
    assert_true(augment_is_coloured(&(struct data_settings){.hue = 0.1f}));
    assert_false(augment_is_coloured(&(struct data_settings){.saturation = 1, .exposure = 1}));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_centre), cmocka_unit_test(test_longest), cmocka_unit_test(test_area_crop), cmocka_unit_test(test_area_crop_of_a_strip),
                                       cmocka_unit_test(test_darknet_crop), cmocka_unit_test(test_darknet_frame_and_turn),
                                       cmocka_unit_test(test_darknet_pixels), cmocka_unit_test(test_colours),
                                       cmocka_unit_test(test_grey_exposure)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
