// Decoders on odd pictures made here, scaling against an independent filter, crops and colours.
#include "testing.h"

#include <math.h>

#include "base/random.h"
#include "data/augment.h"
#include "data/picture.h"
#include "pictures.h"

#define WIDTH 61
#define HEIGHT 47

// Smooth in every component, so that JPEG keeps it nearly.
static int smooth(int x, int y, int component)
{
    static const double phases[4] = {0.3, 1.7, 2.9, 4.4};
    return (int)(127.5 + 110 * sin(0.05 * x + 0.07 * y + phases[component]) + 0.5);
}

static const uint8_t *smooth_pixels(int components)
{
    static uint8_t pixels[WIDTH * HEIGHT * 4];
    for (int i = 0; i < WIDTH * HEIGHT; i++)
        for (int c = 0; c < components; c++) pixels[i * components + c] = (uint8_t)smooth(i % WIDTH, i / WIDTH, c);
    return pixels;
}

static struct picture decode(struct file_bytes file, int channels)
{
    struct picture picture;
    struct error error = {""};
    if (!picture_decode(file.data, file.size, channels, &picture, &error)) fail_msg("%s", error.message);
    assert_int_equal(picture.channels, channels);
    return picture;
}

// The mean and the largest difference from what is expected.
static void assert_near(const struct picture *picture, int (*expected)(int x, int y, int channel), double mean, int largest)
{
    double sum = 0;
    int worst = 0;
    assert_int_equal(picture->width, WIDTH);
    assert_int_equal(picture->height, HEIGHT);
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++)
            for (int c = 0; c < picture->channels; c++) {
                int difference = abs(picture->pixels[(y * WIDTH + x) * picture->channels + c] - expected(x, y, c));
                sum += difference;
                worst = difference > worst ? difference : worst;
            }
    sum /= WIDTH * HEIGHT * picture->channels;
    if (sum > mean || worst > largest) fail_msg("mean difference %g, largest %d: expected at most %g, %d", sum, worst, mean, largest);
}

static int first_only(int x, int y, int channel)
{
    (void)channel;
    return smooth(x, y, 0);
}

static int luminance(int x, int y, int channel)
{
    (void)channel;
    return (int)(0.299 * smooth(x, y, 0) + 0.587 * smooth(x, y, 1) + 0.114 * smooth(x, y, 2) + 0.5);
}

// Adobe writes inverted ink: 255 is none.
static int adobe_cmyk(int x, int y, int channel)
{
    return (smooth(x, y, channel) * smooth(x, y, 3) + 127) / 255;
}

static int plain_cmyk(int x, int y, int channel)
{
    return ((255 - smooth(x, y, channel)) * (255 - smooth(x, y, 3)) + 127) / 255;
}

static int grey_of(int (*colour)(int, int, int), int x, int y)
{
    return (int)(0.299 * colour(x, y, 0) + 0.587 * colour(x, y, 1) + 0.114 * colour(x, y, 2) + 0.5);
}

static int plain_cmyk_grey(int x, int y, int channel)
{
    (void)channel;
    return grey_of(plain_cmyk, x, y);
}

static int adobe_cmyk_grey(int x, int y, int channel)
{
    (void)channel;
    return grey_of(adobe_cmyk, x, y);
}

static void test_jpeg(void **state)
{
    (void)state;
    static const struct {
        struct jpeg_kind kind;
        int (*colour)(int, int, int), (*grey)(int, int, int);
    } rows[] = {
        {{.from = JCS_RGB, .to = JCS_YCbCr}, smooth, luminance},
        {{.from = JCS_RGB, .to = JCS_YCbCr, .subsampled = true}, smooth, luminance},
        {{.from = JCS_RGB, .to = JCS_YCbCr, .progressive = true}, smooth, luminance},
        {{.from = JCS_RGB, .to = JCS_YCbCr, .progressive = true, .subsampled = true, .restart_interval = 3}, smooth, luminance},
        {{.from = JCS_RGB, .to = JCS_RGB}, smooth, luminance},
        {{.from = JCS_GRAYSCALE, .to = JCS_GRAYSCALE}, first_only, first_only},
        {{.from = JCS_GRAYSCALE, .to = JCS_GRAYSCALE, .progressive = true}, first_only, first_only},
        {{.from = JCS_CMYK, .to = JCS_CMYK}, adobe_cmyk, adobe_cmyk_grey},
        {{.from = JCS_CMYK, .to = JCS_YCCK}, adobe_cmyk, adobe_cmyk_grey},
        {{.from = JCS_CMYK, .to = JCS_CMYK, .without_adobe = true}, plain_cmyk, plain_cmyk_grey},
        {{.from = JCS_CMYK, .to = JCS_CMYK, .without_adobe = true, .progressive = true}, plain_cmyk, plain_cmyk_grey},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int components = rows[i].kind.from == JCS_GRAYSCALE ? 1 : rows[i].kind.from == JCS_CMYK ? 4 : 3;
        struct file_bytes file = make_jpeg(smooth_pixels(components), WIDTH, HEIGHT, rows[i].kind);
        struct picture colour = decode(file, 3), grey = decode(file, 1);
        assert_near(&colour, rows[i].colour, 1.0, 9);
        assert_near(&grey, rows[i].grey, 1.0, 9);
        picture_release(&colour);
        picture_release(&grey);
        free(file.data);
    }
}

// ---------------------------------------------------------------------------------------------
// PNG

#define SIDE 16

static int png_value(int x, int y, int channel)
{
    return (x * 16 + y * 7 + channel * 50) % 256;
}

// The lower byte of a sample of 16 bits.
static uint8_t low_byte(int value)
{
    return (uint8_t)(value * 37 + 200);
}

// Rows as PNG stores them, of `channels` samples a pixel, each png_value >> (8 - bits), or with 16 bits png_value and a low_byte.
static const uint8_t *png_rows(int channels, int bits, size_t *row_bytes)
{
    static uint8_t rows[SIDE * SIDE * 8];
    *row_bytes = (size_t)(SIDE * channels * bits / 8);
    memset(rows, 0, sizeof rows);
    for (int y = 0; y < SIDE; y++)
        for (int i = 0; i < SIDE * channels; i++) {
            uint8_t *row = rows + (size_t)y * *row_bytes, value = (uint8_t)png_value(i / channels, y, i % channels);
            if (bits == 16)
                row[2 * i] = value, row[2 * i + 1] = low_byte(value);
            else
                row[i * bits / 8] |= (uint8_t)(value >> (8 - bits) << (8 - bits - i * bits % 8));
        }
    return rows;
}

static void test_png(void **state)
{
    (void)state;
    static const struct {
        int type, bits, channels;
    } rows[] = {{PNG_COLOR_TYPE_GRAY, 1, 1}, {PNG_COLOR_TYPE_GRAY, 2, 1}, {PNG_COLOR_TYPE_GRAY, 4, 1}, {PNG_COLOR_TYPE_GRAY, 8, 1},
                {PNG_COLOR_TYPE_GRAY, 16, 1}, {PNG_COLOR_TYPE_GRAY_ALPHA, 8, 2}, {PNG_COLOR_TYPE_GRAY_ALPHA, 16, 2},
                {PNG_COLOR_TYPE_RGB, 8, 3}, {PNG_COLOR_TYPE_RGB, 16, 3}, {PNG_COLOR_TYPE_RGB_ALPHA, 8, 4}, {PNG_COLOR_TYPE_RGB_ALPHA, 16, 4}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int interlaced = 0; interlaced < 2; interlaced++) {
            size_t row_bytes;
            const uint8_t *pixels = png_rows(rows[i].channels, rows[i].bits, &row_bytes);
            const struct png_kind kind = {.colour_type = rows[i].type, .bits = rows[i].bits, .interlaced = interlaced};
            struct file_bytes file = make_png(pixels, row_bytes, SIDE, SIDE, kind);
            struct picture colour = decode(file, 3), grey = decode(file, 1);
            for (int p = 0; p < SIDE * SIDE; p++) {
                int values[3];
                for (int c = 0; c < 3; c++) {
                    int value = png_value(p % SIDE, p / SIDE, rows[i].channels > 2 ? c : 0), levels = (1 << (rows[i].bits < 8 ? rows[i].bits : 8)) - 1;
                    values[c] = levels == 255 ? value : (value >> (8 - rows[i].bits)) * 255 / levels;
                    if (rows[i].bits == 16) values[c] = (int)lrint((value * 256 + low_byte(value)) / 257.0);
                    assert_int_equal(colour.pixels[3 * p + c], values[c]);
                }
                int luminance_of = (int)(0.299 * values[0] + 0.587 * values[1] + 0.114 * values[2] + 0.5);
                assert_in_range(grey.pixels[p] + 1, luminance_of, luminance_of + 2);
            }
            picture_release(&colour);
            picture_release(&grey);
            free(file.data);
        }
}

// Transparency is dropped: the palette's colour stays.
static void test_png_palette(void **state)
{
    (void)state;
    static const png_color palette[4] = {{10, 20, 30}, {200, 100, 50}, {0, 255, 0}, {255, 255, 255}};
    static const uint8_t alpha[4] = {0, 128, 255, 0};
    static const uint8_t rows[2][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}};
    for (int transparent = 0; transparent < 2; transparent++) {
        const struct png_kind kind = {.colour_type = PNG_COLOR_TYPE_PALETTE, .bits = 8, .palette = palette, .palette_size = 4,
                                      .palette_alpha = transparent ? alpha : NULL};
        struct file_bytes file = make_png(rows[0], 4, 4, 2, kind);
        struct picture picture = decode(file, 3);
        for (int p = 0; p < 8; p++) {
            const png_color *colour = &palette[rows[p / 4][p % 4]];
            const uint8_t *found = picture.pixels + 3 * p;
            assert_true(found[0] == colour->red && found[1] == colour->green && found[2] == colour->blue);
        }
        picture_release(&picture);
        free(file.data);
    }
}

// ---------------------------------------------------------------------------------------------
// What is refused, by name

static void refused_bytes(const void *data, size_t size, const char *message)
{
    struct picture picture;
    struct error error = {""};
    uint8_t *copy = malloc(size ? size : 1); // so that the sanitizer sees a read behind the end
    memcpy(copy, data, size);
    for (int channels = 1; channels <= 3; channels += 2) {
        assert_false(picture_decode(copy, size, channels, &picture, &error));
        assert_contains(error.message, message);
        assert_null(picture.pixels);
    }
    free(copy);
}

// The size in the frame header (SOF) of a JPEG, or in the IHDR of a PNG. The PNG's checksum is made right.
static void set_size(struct file_bytes file, int width, int height)
{
    const uint8_t big_endian[4] = {(uint8_t)(height >> 8), (uint8_t)height, (uint8_t)(width >> 8), (uint8_t)width};
    if (file.data[0] == 0xff) {
        for (size_t i = 2; i + 9 < file.size; i++)
            if (file.data[i] == 0xff && (file.data[i + 1] == 0xc0 || file.data[i + 1] == 0xc2)) {
                memcpy(file.data + i + 5, big_endian, 4);
                return;
            }
        fail_msg("no frame header");
    }
    memcpy(file.data + 18, big_endian + 2, 2);
    memcpy(file.data + 22, big_endian, 2);
    uint32_t crc = 0xffffffff;
    for (int i = 12; i < 29; i++) {
        crc ^= file.data[i];
        for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
    for (int k = 0; k < 4; k++) file.data[29 + k] = (uint8_t)(~crc >> (24 - 8 * k));
}

// stb_image writes behind its tables for one of more than 256 codes: the first DHT segment is made so.
static void test_huffman_tables(void **state)
{
    (void)state;
    for (int progressive = 0; progressive < 2; progressive++) {
        struct file_bytes file = make_jpeg(smooth_pixels(3), WIDTH, HEIGHT, (struct jpeg_kind){.from = JCS_RGB, .to = JCS_YCbCr, .progressive = progressive});
        size_t at = 2;
        while (file.data[at + 1] != 0xc4) at += 2 + (size_t)(file.data[at + 2] << 8 | file.data[at + 3]);
        file.data[at + 5 + 7] = 255; // codes of 8 bits
        file.data[at + 5 + 8] = 2;
        refused_bytes(file.data, file.size, "cannot decode the JPEG: a Huffman table of more than 256 codes");
        free(file.data);
    }
}

static void test_refused(void **state)
{
    (void)state;
    size_t row_bytes;
    const uint8_t *rows = png_rows(3, 8, &row_bytes);
    const struct png_kind rgb = {.colour_type = PNG_COLOR_TYPE_RGB, .bits = 8};
    const struct jpeg_kind baseline = {.from = JCS_RGB, .to = JCS_YCbCr}, progressive = {.from = JCS_RGB, .to = JCS_YCbCr, .progressive = true};
    struct file_bytes files[] = {make_jpeg(smooth_pixels(3), WIDTH, HEIGHT, baseline), make_jpeg(smooth_pixels(3), WIDTH, HEIGHT, progressive),
                                 make_png(rows, row_bytes, SIDE, SIDE, rgb)};
    for (int i = 0; i < 3; i++) {
        for (size_t size = 8; size < files[i].size - (i == 2 ? 17 : 2); size += 1 + files[i].size / 50) // the PNG's last chunk is not missed
            refused_bytes(files[i].data, size, i == 2 ? "cannot decode the PNG: the file is cut off" : "cannot decode the JPEG: the file is cut off");
        set_size(files[i], 20000, 20000);
        refused_bytes(files[i].data, files[i].size, "20000 x 20000 pixels: expected at most 67108864 pixels");
        set_size(files[i], 0, 10);
        refused_bytes(files[i].data, files[i].size, i == 2 ? "cannot decode the PNG" : "cannot decode the JPEG");
        free(files[i].data);
    }
    uint8_t *line = calloc(65536, 1);
    const struct png_kind grey = {.colour_type = PNG_COLOR_TYPE_GRAY, .bits = 8};
    for (int upright = 0; upright < 2; upright++) {
        struct file_bytes file = make_png(line, upright ? 1 : 65536, upright ? 1 : 65536, upright ? 65536 : 1, grey);
        refused_bytes(file.data, file.size, upright ? "1 x 65536 pixels: expected at most 67108864 pixels, 65535 a side" : "65536 x 1 pixels: ");
        free(file.data);
    }
    free(line);
    refused_bytes("", 0, "an empty file");
    refused_bytes("GIF89a not a picture", 20, "GIF, not a JPEG or PNG");
    refused_bytes("BM......", 8, "BMP, not a JPEG or PNG");
    refused_bytes("RIFF\1\1\1\1WEBPVP8 ", 16, "WebP, not a JPEG or PNG");
    refused_bytes("II*\0........", 12, "TIFF, not a JPEG or PNG");
    refused_bytes("\0\0\0\x1c" "ftypavif", 12, "HEIF or AVIF, not");
    refused_bytes("<html>404</html>", 16, "HTML or XML, not");
    refused_bytes("\0\0\0\0\0\0\0\0", 8, "not a JPEG or PNG picture");
    refused_bytes("\x89PNG\r\n\x1a\n", 8, "cut off");
    refused_bytes("\xff\xd8", 2, "cut off");
    struct picture picture;
    struct error error = {""};
    assert_false(picture_load("/nonexistent.png", 3, &picture, &error));
    assert_contains(error.message, "/nonexistent.png: No such file");
    assert_false(picture_load("/tmp", 3, &picture, &error));
    assert_contains(error.message, "/tmp: not a file");
}

// The content decides; the smallest picture there is.
static void test_suffix(void **state)
{
    (void)state;
    char path[512];
    static const uint8_t red[3] = {250, 0, 0};
    const struct png_kind rgb = {.colour_type = PNG_COLOR_TYPE_RGB, .bits = 8};
    const struct jpeg_kind baseline = {.from = JCS_RGB, .to = JCS_YCbCr};
    for (int is_jpeg = 0; is_jpeg < 2; is_jpeg++) {
        struct file_bytes file = is_jpeg ? make_jpeg(red, 1, 1, baseline) : make_png(red, 3, 1, 1, rgb);
        struct picture picture;
        struct error error = {""};
        snprintf(path, sizeof path, "%s/picture.%s", temporary_folder(), is_jpeg ? "png" : "JPEG");
        write_file(path, file.data, file.size);
        if (!picture_load(path, 3, &picture, &error)) fail_msg("%s", error.message);
        assert_true(picture.width == 1 && picture.height == 1 && picture.pixels[0] > 245 && picture.pixels[1] < 5 && picture.pixels[2] < 5);
        picture_release(&picture);
        free(file.data);
    }
}

// ---------------------------------------------------------------------------------------------
// Scaling

// The triangle filter in double precision, one output pixel: weights 1 - |distance| / support around its centre.
static double filtered(const struct picture *from, double scale_x, double scale_y, double x, double y, int c)
{
    double support_x = scale_x < 1 ? 1 / scale_x : 1, support_y = scale_y < 1 ? 1 / scale_y : 1, sum = 0, weights = 0;
    double centre_x = (x + 0.5) / scale_x - 0.5, centre_y = (y + 0.5) / scale_y - 0.5;
    for (int row = (int)floor(centre_y - support_y); row <= centre_y + support_y; row++)
        for (int column = (int)floor(centre_x - support_x); column <= centre_x + support_x; column++) {
            double weight = fmax(0, 1 - fabs(column - centre_x) / support_x) * fmax(0, 1 - fabs(row - centre_y) / support_y);
            int r = row < 0 ? 0 : row >= from->height ? from->height - 1 : row, k = column < 0 ? 0 : column >= from->width ? from->width - 1 : column;
            sum += weight * from->pixels[(r * from->width + k) * from->channels + c];
            weights += weight;
        }
    return sum / weights;
}

static struct picture random_picture(int width, int height, int channels, uint64_t seed)
{
    struct picture picture = {width, height, channels, malloc((size_t)(width * height * channels))};
    struct random_stream stream = {seed, 0};
    for (int i = 0; i < width * height * channels; i++) picture.pixels[i] = (uint8_t)random_below(&stream, 256);
    return picture;
}

static void test_scaling(void **state)
{
    (void)state;
    static const int sizes[][4] = {{50, 40, 20, 16}, {50, 40, 23, 31}, {17, 9, 40, 44}, {64, 64, 64, 64}, {200, 3, 12, 30}, {1, 1, 5, 7}, {500, 375, 33, 25}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int channels = 1; channels <= 3; channels += 2) {
            int width = sizes[i][2], height = sizes[i][3];
            struct picture from = random_picture(sizes[i][0], sizes[i][1], channels, i);
            uint8_t *to = malloc((size_t)(width * height * channels));
            struct rectangle part = {width / 3, height / 4, width - width / 3, height - height / 4}, whole = {0, 0, from.width, from.height};
            double scale_x = (double)width / from.width, scale_y = (double)height / from.height;
            struct error error = {""};
            for (int partly = 0; partly < 2; partly++) {
                int columns = partly ? part.width : width, rows = partly ? part.height : height;
                bool good = partly ? picture_part_of_scaled(&from, width, height, part, to, &error) : picture_scale_part(&from, whole, width, height, to, &error);
                if (!good) fail_msg("%s", error.message);
                for (int p = 0; p < columns * rows * channels; p++) {
                    int x = p / channels % columns + (partly ? part.left : 0), y = p / channels / columns + (partly ? part.top : 0);
                    double expected = filtered(&from, scale_x, scale_y, x, y, p % channels);
                    if (fabs(to[p] - expected) > 0.6) fail_msg("size %zu, pixel %d, %d: %d, expected %.2f", i, x, y, to[p], expected);
                }
            }
            free(to);
            picture_release(&from);
        }
}

// stb_image_resize would count its memory in 32 bits.
static void test_scaling_too_far(void **state)
{
    (void)state;
    struct picture from = {1, 65535, 3, calloc(65535, 3)};
    struct error error = {""};
    uint8_t *to = malloc(4096 * 3);
    assert_false(picture_scale_part(&from, (struct rectangle){0, 0, 1, 65535}, 4096, 1, to, &error));
    assert_contains(error.message, "65535 rows cannot be scaled down that far");
    assert_false(picture_part_of_scaled(&from, 4096, 1, (struct rectangle){0, 0, 4096, 1}, to, &error));
    assert_true(picture_scale_part(&from, (struct rectangle){0, 0, 1, 65535}, 64, 1, to, &error));
    free(to);
    picture_release(&from);
}

// Pixels outside of the part do not count.
static void test_scaling_of_a_part(void **state)
{
    (void)state;
    struct picture from = random_picture(60, 50, 3, 9), cut = {31, 22, 3, malloc(31 * 22 * 3)};
    for (int y = 0; y < 22; y++) memcpy(cut.pixels + y * 31 * 3, from.pixels + ((y + 11) * 60 + 7) * 3, 31 * 3);
    uint8_t a[13 * 17 * 3], b[13 * 17 * 3];
    assert_true(picture_scale_part(&from, (struct rectangle){7, 11, 31, 22}, 13, 17, a, NULL));
    assert_true(picture_scale_part(&cut, (struct rectangle){0, 0, 31, 22}, 13, 17, b, NULL));
    assert_memory_equal(a, b, sizeof a);
    picture_release(&from);
    picture_release(&cut);
}

// A fine pattern becomes even grey: no aliasing.
static void test_antialiasing(void **state)
{
    (void)state;
    struct picture from = {400, 400, 1, malloc(160000)};
    for (int i = 0; i < 160000; i++) from.pixels[i] = (i % 400 + i / 400) % 2 ? 255 : 0;
    uint8_t to[90 * 90];
    assert_true(picture_scale_part(&from, (struct rectangle){0, 0, 400, 400}, 90, 90, to, NULL));
    for (int y = 1; y < 89; y++)
        for (int x = 1; x < 89; x++) assert_in_range(to[y * 90 + x], 120, 135);
    picture_release(&from);
}

static void test_sampling(void **state)
{
    (void)state;
    struct picture from = random_picture(20, 20, 3, 5);
    uint8_t to[20 * 20 * 3];
    const float same[6] = {1, 0, 0, 0, 1, 0}, turned[6] = {0, -1, 19, 1, 0, 0}, between[6] = {1, 0, 0.5f, 0, 1, 0}, beyond[6] = {1, 0, 20, 0, 1, 0};
    picture_sample(&from, same, 20, 20, to);
    assert_memory_equal(to, from.pixels, sizeof to);
    picture_sample(&from, turned, 20, 20, to); // pixel (x, y) is the picture's (19 - y, x)
    for (int y = 0; y < 20; y++)
        for (int x = 0; x < 20; x++) assert_memory_equal(to + (y * 20 + x) * 3, from.pixels + (x * 20 + 19 - y) * 3, 3);
    picture_sample(&from, between, 20, 20, to);
    for (int x = 0; x < 20; x++) assert_int_equal(to[x * 3], (from.pixels[x * 3] + (x < 19 ? from.pixels[x * 3 + 3] : 0) + 1) / 2); // black outside
    picture_sample(&from, beyond, 20, 20, to);
    for (size_t i = 0; i < sizeof to; i++) assert_int_equal(to[i], 0);
    picture_release(&from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_jpeg), cmocka_unit_test(test_png), cmocka_unit_test(test_png_palette),
                                       cmocka_unit_test(test_huffman_tables), cmocka_unit_test(test_refused), cmocka_unit_test(test_suffix), cmocka_unit_test(test_scaling),
                                       cmocka_unit_test(test_scaling_too_far), cmocka_unit_test(test_scaling_of_a_part), cmocka_unit_test(test_antialiasing),
                                       cmocka_unit_test(test_sampling)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
