#include "data/augment.h"

#include <math.h>
#include <stdlib.h>

#include "base/integers.h"

static float uniform(struct random_stream *stream, float low, float high)
{
    return low + (high - low) * random_uniform(stream);
}

// Darknet's rand_scale: between 1 and s or its inverse.
static float random_scale(struct random_stream *stream, float s)
{
    float scale = uniform(stream, 1, s);
    return random_below(stream, 2) ? scale : 1 / scale;
}

// ---------------------------------------------------------------------------------------------
// Evaluation

static void mirror(uint8_t *view, int width, int height, int channels)
{
    for (int y = 0; y < height; y++, view += (size_t)width * (size_t)channels)
        for (int left = 0, right = width - 1; left < right; left++, right--)
            for (int c = 0; c < channels; c++) {
                uint8_t swap = view[left * channels + c];
                view[left * channels + c] = view[right * channels + c];
                view[right * channels + c] = swap;
            }
}

// The scaled picture covers width x height; with `resize` its shorter side is that long (torchvision's rounding).
static void scaled_size(const struct picture *from, int resize, int width, int height, int *scaled_width, int *scaled_height)
{
    long columns = from->width, rows = from->height;
    *scaled_width = width;
    *scaled_height = height;
    if (resize > 0) {
        *scaled_width = columns <= rows ? resize : (int)(resize * columns / rows);
        *scaled_height = columns <= rows ? (int)(resize * rows / columns) : resize;
    } else if (columns * height > rows * width) {
        *scaled_width = (int)((columns * height + rows / 2) / rows);
    } else {
        *scaled_height = (int)((rows * width + columns / 2) / columns);
    }
}

bool augment_centre(const struct data_settings *settings, const struct picture *from, int crop, int width, int height, uint8_t *view,
                    struct error *error)
{
    int scaled_width, scaled_height, corner = crop % 5;
    scaled_size(from, settings->resize, width, height, &scaled_width, &scaled_height);
    int right = scaled_width - width, bottom = scaled_height - height;
    struct rectangle part = {corner == CROP_CENTRE ? (int)lrint(right / 2.0) : corner % 2 ? right : 0,
                             corner == CROP_CENTRE ? (int)lrint(bottom / 2.0) : corner / 2 ? bottom : 0, width, height};
    if (!picture_part_of_scaled(from, scaled_width, scaled_height, part, view, error)) return false;
    if (crop >= 5) mirror(view, width, height, from->channels);
    return true;
}

// ---------------------------------------------------------------------------------------------
// Random crops

// torchvision's RandomResizedCrop: ten tries, then the largest centre part of an allowed ratio.
static struct rectangle area_part(const struct data_settings *s, const struct picture *from, struct random_stream *stream)
{
    double area = (double)from->width * from->height, low = log((double)s->crop_ratio[0]), high = log((double)s->crop_ratio[1]);
    for (int i = 0; i < 10; i++) {
        double target = area * (double)uniform(stream, s->crop_scale[0], s->crop_scale[1]);
        double ratio = exp(low + (high - low) * (double)random_uniform(stream));
        int width = (int)lrint(sqrt(target * ratio)), height = (int)lrint(sqrt(target / ratio));
        if (width < 1 || width > from->width || height < 1 || height > from->height) continue;
        int top = (int)random_below(stream, (uint32_t)(from->height - height) + 1);
        int left = (int)random_below(stream, (uint32_t)(from->width - width) + 1);
        return (struct rectangle){left, top, width, height};
    }
    double ratio = (double)from->width / from->height;
    struct rectangle part = {0, 0, from->width, from->height};
    if (ratio < (double)s->crop_ratio[0])
        part.height = smaller(from->height, (int)lrint(from->width / (double)s->crop_ratio[0]));
    else if (ratio > (double)s->crop_ratio[1])
        part.width = smaller(from->width, (int)lrint(from->height * (double)s->crop_ratio[1]));
    if (part.height < 1) part.height = 1;
    if (part.width < 1) part.width = 1;
    part.left = (from->width - part.width) / 2;
    part.top = (from->height - part.height) / 2;
    return part;
}

// The picture made smaller first where Darknet's bilinear sampling alone would skip pixels.
static bool shrink(const struct picture *from, float scale, struct picture *to, struct error *error)
{
    *to = *from;
    if (scale >= 1) return true;
    to->width = (int)lrintf((float)from->width * scale);
    to->height = (int)lrintf((float)from->height * scale);
    if (to->width < 1) to->width = 1;
    if (to->height < 1) to->height = 1;
    to->pixels = malloc((size_t)to->width * (size_t)to->height * (size_t)to->channels);
    if (!to->pixels) return error_set(error, "out of memory");
    const struct rectangle whole = {0, 0, from->width, from->height};
    if (picture_scale_part(from, whole, to->width, to->height, to->pixels, error)) return true;
    picture_release(to);
    return false;
}

// Darknet's random_augment_args and rotate_crop_image (src/image.c): the shorter side becomes min_crop to max_crop pixels long,
// with the aspect changed, the picture turned and moved; black outside.
static bool darknet_view(const struct data_settings *s, const struct picture *from, struct random_stream *stream, int width,
                         int height, uint8_t *view, struct error *error)
{
    float aspect = random_scale(stream, s->aspect);
    int low = smaller(s->min_crop, s->max_crop), high = s->min_crop + s->max_crop - low;
    float side = (float)(low + (int)random_below(stream, (uint32_t)(high - low) + 1));
    float shorter = fminf((float)from->height, (float)from->width * aspect), scale = side / fmaxf(shorter, 1);
    float turn = uniform(stream, -s->angle, s->angle) * 0.017453293f, cosine = cosf(turn), sine = sinf(turn);
    float right = ((float)from->width * scale / aspect - (float)width) / 2, down = ((float)from->height * scale - (float)height) / 2;
    float x = uniform(stream, -right, right), y = uniform(stream, -down, down);
    struct picture picture;
    if (!shrink(from, scale, &picture, error)) return false;
    // From the pixel's place relative to the centre, to that in the picture, relative to its centre.
    float horizontal = (float)picture.width / (float)from->width / scale, vertical = (float)picture.height / (float)from->height / scale;
    float m[6] = {horizontal * cosine * aspect, -horizontal * sine, 0, vertical * sine * aspect, vertical * cosine, 0};
    float first_x = 0.5f - (float)width / 2 + x, first_y = 0.5f - (float)height / 2 + y;
    m[2] = m[0] * first_x + m[1] * first_y + (float)picture.width / 2 - 0.5f;
    m[5] = m[3] * first_x + m[4] * first_y + (float)picture.height / 2 - 0.5f;
    picture_sample(&picture, m, width, height, view);
    if (picture.pixels != from->pixels) picture_release(&picture);
    return true;
}

bool augment_random(const struct data_settings *settings, const struct picture *from, struct random_stream *stream, int width,
                    int height, uint8_t *view, struct error *error)
{
    if (settings->darknet_crop) return darknet_view(settings, from, stream, width, height, view, error);
    if (!settings->area_crop) return augment_centre(settings, from, CROP_CENTRE, width, height, view, error);
    return picture_scale_part(from, area_part(settings, from, stream), width, height, view, error);
}

bool augment_is_geometric(const struct data_settings *settings)
{
    return settings->darknet_crop || settings->area_crop;
}

// ---------------------------------------------------------------------------------------------
// Colours: Darknet's distort_image (src/image.c), which scales S and V of HSV and turns H.

bool augment_is_coloured(const struct data_settings *s)
{
    return s->hue > 0 || (s->saturation > 0 && s->saturation != 1) || (s->exposure > 0 && s->exposure != 1);
}

static float hue_of(const float rgb[3], float largest, float range)
{
    float hue = rgb[0] == largest ? (rgb[1] - rgb[2]) / range : rgb[1] == largest ? 2 + (rgb[2] - rgb[0]) / range : 4 + (rgb[0] - rgb[1]) / range;
    return hue < 0 ? hue + 6 : hue;
}

// How far below the largest component each one is, in units of the range, for a hue of 0 to 6.
static float below_largest(float hue, int component)
{
    float distance = fabsf(hue - 2 * (float)component);
    if (distance > 3) distance = 6 - distance;
    return distance <= 1 ? 0 : distance >= 2 ? 1 : distance - 1;
}

static uint8_t byte_of(float value)
{
    return value <= 0 ? 0 : value >= 255 ? 255 : (uint8_t)(value + 0.5f);
}

static void distort_pixel(uint8_t *pixel, float turn, float saturation, float exposure)
{
    const float rgb[3] = {pixel[0], pixel[1], pixel[2]};
    float largest = fmaxf(rgb[0], fmaxf(rgb[1], rgb[2])), range = largest - fminf(rgb[0], fminf(rgb[1], rgb[2]));
    float hue = range > 0 && turn != 0 ? hue_of(rgb, largest, range) + turn : 0;
    hue = hue < 0 ? hue + 6 : hue >= 6 ? hue - 6 : hue;
    for (int c = 0; c < 3; c++) {
        float below = turn != 0 ? range * below_largest(hue, c) : largest - rgb[c];
        pixel[c] = byte_of(exposure * (largest - saturation * below));
    }
}

void augment_colours(const struct data_settings *s, struct random_stream *stream, uint8_t *view, size_t pixels, int channels)
{
    float turn = 6 * uniform(stream, -s->hue, s->hue);
    float saturation = random_scale(stream, s->saturation > 0 ? s->saturation : 1);
    float exposure = random_scale(stream, s->exposure > 0 ? s->exposure : 1);
    if (channels == 3)
        for (size_t i = 0; i < pixels; i++) distort_pixel(view + 3 * i, turn, saturation, exposure);
    else
        for (size_t i = 0; i < pixels * (size_t)channels; i++) view[i] = byte_of(exposure * view[i]);
}
