#include "data/prepare.h"

#include <string.h>

#include "base/memory.h"
#include "data/augment.h"
#include "data/store.h"

struct preparer {
    const struct dataset *dataset;
    struct split *split;
    bool training;
    uint64_t seed;
    int crops;
    bool as_stored;       // pictures in memory that need no scaling and no colours
    float table[4][256];  // normalized value of each byte
    uint8_t *stored;      // a picture in memory, turned to [height][width][channels]
    uint8_t *view;        // [height][width][channels] of the network's input
    uint8_t *planes;      // [channels][height][width]
};

struct augmentation {
    int top, left;           // where the crop starts in the padded picture, less the padding
    bool mirror;
    int hole_top, hole_left; // of the cutout square; its side is in the settings
};

static struct augmentation draw(const struct dataset *d, struct random_stream *stream)
{
    const struct data_settings *s = &d->settings;
    struct augmentation a = {0, 0, false, 0, 0};
    uint32_t positions = 2 * (uint32_t)s->pad_crop + 1;
    a.top = (int)random_below(stream, positions) - s->pad_crop;
    a.left = (int)random_below(stream, positions) - s->pad_crop;
    a.mirror = random_below(stream, 2) && s->flip;
    a.hole_top = (int)random_below(stream, (uint32_t)d->height) - s->cutout / 2;
    a.hole_left = (int)random_below(stream, (uint32_t)d->width) - s->cutout / 2;
    return a;
}

// One row of the crop: table values inside the picture, black outside.
static void copy_row(const float *table, const uint8_t *row, int width, const struct augmentation *a, float *out)
{
    for (int x = 0; x < width; x++) {
        int column = x + a->left;
        uint8_t byte = row && column >= 0 && column < width ? row[column] : 0;
        out[a->mirror ? width - 1 - x : x] = table[byte];
    }
}

static void cut_out(const struct dataset *d, const struct augmentation *a, float *plane)
{
    int side = d->settings.cutout;
    for (int y = a->hole_top < 0 ? 0 : a->hole_top; y < a->hole_top + side && y < d->height; y++)
        for (int x = a->hole_left < 0 ? 0 : a->hole_left; x < a->hole_left + side && x < d->width; x++)
            plane[y * d->width + x] = 0;
}

// Bytes [channels][height][width] to the network's input: moved, mirrored, normalized, cut out.
static void finish(const struct preparer *p, const uint8_t *pixels, const struct augmentation *a, float *out)
{
    const struct dataset *d = p->dataset;
    size_t plane = (size_t)d->height * (size_t)d->width;
    for (int c = 0; c < d->channels; c++, pixels += plane, out += plane) {
        for (int y = 0; y < d->height; y++) {
            int r = y + a->top;
            const uint8_t *row = r >= 0 && r < d->height ? pixels + (size_t)r * (size_t)d->width : NULL;
            copy_row(p->table[c], row, d->width, a, out + (size_t)y * (size_t)d->width);
        }
        if (p->training && d->settings.cutout) cut_out(d, a, out);
    }
}

static void interleave(const uint8_t *planes, size_t plane, int channels, uint8_t *to)
{
    for (size_t i = 0; i < plane; i++)
        for (int c = 0; c < channels; c++) *to++ = planes[(size_t)c * plane + i];
}

static void separate(const uint8_t *from, size_t plane, int channels, uint8_t *planes)
{
    for (size_t i = 0; i < plane; i++)
        for (int c = 0; c < channels; c++) planes[(size_t)c * plane + i] = *from++;
}

// ---------------------------------------------------------------------------------------------
// One picture

static const uint8_t *stored_pixels(const struct preparer *p, int picture)
{
    const struct dataset *d = p->dataset;
    return p->split->pixels + (size_t)picture * (size_t)d->channels * (size_t)d->picture_height * (size_t)d->picture_width;
}

// As the source has it. `kept`: not to be released.
static bool get_picture(struct preparer *p, int index, struct picture *picture, bool *kept, struct error *error)
{
    const struct dataset *d = p->dataset;
    if (!p->split->pixels) return store_get(p->split, index, d->channels, picture, kept, error);
    interleave(stored_pixels(p, index), (size_t)d->picture_height * (size_t)d->picture_width, d->channels, p->stored);
    *picture = (struct picture){d->picture_width, d->picture_height, d->channels, p->stored};
    *kept = true;
    return true;
}

static bool prepare_views(struct preparer *p, uint64_t epoch, int index, const struct picture *picture, float *out, size_t crop_stride,
                          struct error *error)
{
    const struct dataset *d = p->dataset;
    const struct data_settings *s = &d->settings;
    size_t plane = (size_t)d->height * (size_t)d->width;
    struct random_stream stream = {random_key(p->seed, 3, epoch, (uint64_t)index), 0};
    struct augmentation a = {0, 0, false, 0, 0};
    if (p->training) a = draw(d, &stream);
    for (int k = 0; k < p->crops; k++, out += crop_stride) {
        bool good = p->training ? augment_random(s, picture, &stream, d->width, d->height, p->view, error)
                                : augment_centre(s, picture, p->crops == 1 ? CROP_CENTRE : k, d->width, d->height, p->view, error);
        if (!good) return false;
        if (p->training && augment_is_coloured(s)) augment_colours(s, &stream, p->view, plane, d->channels);
        separate(p->view, plane, d->channels, p->planes);
        finish(p, p->planes, &a, out);
    }
    return true;
}

// false: the picture is bad.
static bool prepare_one(struct preparer *p, uint64_t epoch, int index, float *out, size_t crop_stride, struct error *error)
{
    if (p->as_stored) {
        struct random_stream stream = {random_key(p->seed, 3, epoch, (uint64_t)index), 0};
        struct augmentation a = {0, 0, false, 0, 0};
        if (p->training) a = draw(p->dataset, &stream);
        finish(p, stored_pixels(p, index), &a, out);
        return true;
    }
    struct picture picture;
    bool kept;
    if (!get_picture(p, index, &picture, &kept, error)) return false;
    bool good = prepare_views(p, epoch, index, &picture, out, crop_stride, error);
    if (!good && p->split->paths) error_prefix(error, "%s: ", p->split->paths[index]);
    if (!good && p->split->store) store_mark_bad(p->split, index, error);
    if (!kept) picture_release(&picture);
    return good;
}

// Whether the run may go on without the picture of which `error` tells.
static bool may_skip(const struct preparer *p, struct error *error)
{
    if (!p->split->store) return false;
    if (p->dataset->settings.on_bad_image == BAD_IMAGE_STOP) return false;
    long skipped = split_skipped(p->split);
    if (100 * skipped <= p->split->count) return true;
    return error_prefix(error, "%ld of %d pictures cannot be read, more than 1 %%; the last: ", skipped, p->split->count);
}

bool prepare_picture(struct preparer *p, uint64_t epoch, int *picture, const struct place *place, int slot, struct error *error)
{
    float *out = place->input + (size_t)slot * place->picture_floats;
    struct random_stream others = {random_key(p->seed, 4, epoch, (uint64_t)*picture), 0};
    while (!prepare_one(p, epoch, *picture, out, place->crop_stride, error)) {
        if (!may_skip(p, error)) return false;
        if (!p->training) {
            *picture = -1;
            return true;
        }
        *picture = (int)random_below(&others, (uint32_t)p->split->count);
    }
    return true;
}

// ---------------------------------------------------------------------------------------------

struct preparer *preparer_create(const struct loader_request *request, struct split *split, struct error *error)
{
    const struct dataset *d = request->dataset;
    struct preparer *p = memory_allocate(1, sizeof *p, error);
    if (!p) return NULL;
    *p = (struct preparer){.dataset = d, .split = split, .training = request->training, .seed = request->seed, .crops = request->crops};
    bool same_size = d->height == d->picture_height && d->width == d->picture_width && !d->settings.resize;
    bool changed = p->training && (augment_is_geometric(&d->settings) || augment_is_coloured(&d->settings));
    p->as_stored = split->pixels && same_size && !changed && p->crops == 1;
    for (int c = 0; c < d->channels; c++)
        for (int v = 0; v < 256; v++) p->table[c][v] = ((float)v / 255.0f - d->mean[c]) / d->std[c];
    size_t view = (size_t)d->height * (size_t)d->width, stored = (size_t)d->picture_height * (size_t)d->picture_width;
    p->view = memory_allocate(view, (size_t)d->channels, error);
    p->planes = memory_allocate(view, (size_t)d->channels, error);
    p->stored = memory_allocate(stored, (size_t)d->channels, error);
    if (p->view && p->planes && p->stored) return p;
    preparer_destroy(p);
    return NULL;
}

void preparer_destroy(struct preparer *preparer)
{
    if (!preparer) return;
    memory_release(preparer->view);
    memory_release(preparer->planes);
    memory_release(preparer->stored);
    memory_release(preparer);
}
