// What the files of packed.h share: the layout of one packed convolution. Included by packed*.c only.
#ifndef KERNELS_PACKED_INTERNAL_H
#define KERNELS_PACKED_INTERNAL_H

#include <math.h>
#include <stdatomic.h>

#include "kernels/fetch.h"
#include "kernels/packed.h"

// One operand that is a feature map.
struct packed_map {
    int channels, height, width, blocks;
    int top, left, padded_height, padded_width; // halo above and to the left; whole padded size
    size_t row_bytes, block_bytes, image_bytes;
    int zero_point;
    bool shared;             // other convolutions write to the memory of `pixels`, too: the halo is written with each image
    bool passing;            // `pixels` are only those of the images at work, as `planes` always are: of a task, for each thread
    bool quads_passing;      // the same of `quads`
    uint8_t *pixels;         // [image][block][padded_height][padded_width][16]; NULL if nobody reads them
    uint8_t *planes;         // [image at work][blocks * 16][padded_height][padded_width]; NULL if nobody reads them
    size_t pixels_size, quads_size; // bytes of all images, 0 if nobody reads them
    size_t plane_bytes;
    int row_quads;
    size_t quads_block; // bytes of a block in `quads`
    int8_t *quads;      // NULL for activations
    struct mls_format format;
    struct mls_grouping grouping;
    float *maxima, *scales; // by group
    float *plane_maxima;    // [images][blocks * 16]
    float *image_bounds;    // [images]; see find_largest
    bool *image_seen;       // [images]: plane_maxima are there
    float *plane_scales;    // [images][blocks * 16]: the group scale of each plane, 1 where there is no channel
    int *plane_groups;      // [images][channels]: the group of each plane
    float tensor_scale;
};

// A set of outputs that share their window: all outputs of a forward convolution; of an input error with stride s,
// one of s * s phases; of a small map those that share what of their window lies inside of it. Output (j, i) of the phase is
// pixel (first_y + j * step, first_x + i * step) and reads, for each tap, map pixel (j * stride, i * stride) + offset.
struct phase {
    int first_y, first_x, step, rows, columns;
    int taps, run;          // run: struct convolve_job
    int32_t *tap_offsets;   // bytes
    int (*tap_weights)[4];  // window index ky * Kw + kx of each of a tap's 4 bytes (in planes), -1: none
    int8_t *weights;        // [output block][group][quad][tap][16][4]; depthwise: [output block][quad][16][4]
    int16_t *tap_codes;     // depthwise: [output block][tap][16]
    int quads;              // depthwise: runs of up to 4 taps that lie side by side
    int *quad_taps;         // [quads + 1]: the first tap of each
    size_t weights_block;   // bytes of one output block
    int32_t *starts;        // [output block][group][16]
};

// Two rows of outputs at a time (struct winograd_job; packed_winograd.c).
struct winograd {
    int8_t *weights;        // [output block][group][quad][4][columns][16][4]; NULL: not used here
    int chunk;              // struct winograd_job
    int32_t *starts;        // [output block][winograd_starts_block]
    int columns, lines;     // struct winograd_job
    size_t *quad_offsets;   // [quads], bytes, from the first of the transformed rows
    size_t pitch;           // bytes of a transformed row
    int band;               // pairs of rows that are transformed at a time
};

// Squares of 4 x 4 outputs at a time (struct squares_job; packed_squares.c).
struct squares {
    int rows, columns;      // squares of an image; 0: not used here
    int sets;               // at a time
    int group_quads;        // of the largest group
    int16_t *weights;       // struct squares_job, [output block][group]...; NULL: each group is transformed when it is needed
    size_t weights_block;   // numbers of an output block
    size_t *quad_offsets;   // struct squares_job
};

// Forward or input error: reduces over `reduced` channels into `outputs` channels.
struct direction {
    int reduced, outputs, output_blocks;
    int all_groups;                // G
    int *group_first, *group_last; // [all_groups]: channels
    // A block of outputs reduces over the channels of their convolution groups; the weights are 0 where an output's group is another.
    int *block_first, *block_groups; // [output_blocks]: the first G, and their number
    int groups, total_quads;         // the most of a block
    bool planar;            // reads planes: fewer dot products where groups are small
    int *quad_first, *quad_last; // [all_groups]
    size_t *quad_offsets;
    float *weight_scales;   // [output block][group][16]
    int stride;             // of the map's pixels between neighbouring outputs
    int phase_count;
    struct phase *phases;
    int together;           // images of a task: more than one where maps are small, so that they share what is read of the weights
    int output_height, output_width;
    struct winograd winograd;
    struct squares squares;
};

// How the weight gradient is cut into tasks (packed_gradient.c).
struct gradient_plan {
    int blocks, tiles;  // of a task: blocks of input channels, tiles of each
    int rows, columns;  // tasks
    int images;         // at a time
    bool winograd;      // two rows of errors at a time (struct winograd_gradient_job)
    size_t pitch;       // there: bytes of a transformed row
    bool squares;       // squares of errors (struct squares_gradient_job)
    bool raster;        // pixels are packed for it (struct raster_job)
};

struct packed_convolution {
    struct packed_request request;
    struct convolution_shape shape;
    bool depthwise;                  // packed_depthwise.c
    struct packed_map activations, errors;
    struct direction forward, backward;
    // Weights: codes [Co][Ci][Kh * Kw], the same as [Kh * Kw][Co][Ci], and scales of their groups. Ci: of a convolution group.
    struct mls_grouping weight_grouping;
    int *out_blocks, *in_blocks;     // block of each output and each of Ci (mls_group_index, without its divisions)
    int *in_ends;                    // [Ci]: where the block of each ends
    float *row_maxima;               // [Co][blocks of Ci]: max |weight|
    float *weight_maxima, *weight_scales;
    int8_t *weight_codes, *weight_planes; // in the workspace, while weights are quantized
    float weight_tensor_scale;
    size_t *gradient_offsets; // [Kh * Kw], bytes
    struct gradient_plan gradient;
    int threads;              // of the pool that the plan and the scratch are for
    bool gradient_one_group;  // all images are one group
    bool gradient_by_image;   // P of each image by itself (packed_gradient.c)
    float *products;          // there, in the workspace: P, [images][blocks][tiles][taps][8][16]
    float *scratch;           // per thread: struct packed_scratch
    uint8_t *workspace;       // if it is our own
    size_t memory;
};

#define TOGETHER_PIXELS 32 // output pixels of a task that takes several images,
#define LEAST_TOGETHER 8   // and images at least where outputs have phases of their own: they fill a tile with one output each

struct gradient_work {
    struct packed_convolution *packed;
    int images;
    float factor;
    float *gradient;
};

// What a thread has for itself.
struct packed_scratch {
    float *scales;   // Sg_1 * Sg_2 of two output blocks, [images of a task][2][groups][16]
    float *totals;   // weight gradient, [tiles of a task][taps][8][16]
    int64_t *sums;   // the same, where all images are one group; else NULL
    uint8_t *rows;   // struct squares_job, its input, totals and weights of a group; struct winograd_job, [pairs of a band][lines][4][pitch];
                     // weight gradient, [images][pairs][4][pitch], the pixels of struct squares_gradient_job, [images], or struct raster_job,
                     // [images][taps][quads][16][4]; NULL: not used
    int8_t *mixed;   // struct winograd_errors_job, [images][blocks of a task's outputs][errors of a block]; the same for struct raster_job and,
                     // in 16 bits, struct squares_gradient_job; NULL: not used
    int32_t *starts; // [images][blocks of a task's outputs][4][16]
    int32_t *corrections; // struct gradient_job, [images][blocks of a task's outputs][16]; NULL: not used
};
struct packed_scratch packed_scratch_of(const struct packed_convolution *packed, int thread);
// Before all work: plan and scratch for the threads of this pool.
bool packed_meet_pool(struct packed_convolution *packed, struct thread_pool *pool, struct error *error);
void gradient_plan(struct packed_convolution *packed, int threads);
size_t gradient_floats(const struct packed_convolution *packed); // totals of a task
size_t gradient_correction_floats(const struct packed_convolution *packed); // of the images at work
size_t gradient_output_blocks(const struct packed_convolution *packed); // of 16, in which the outputs of a task lie
size_t gradient_turns(const struct packed_convolution *packed, int images); // struct fetch: of a task
bool gradient_by_image_fits(const struct packed_convolution *packed);
size_t gradient_product_bytes(const struct packed_convolution *packed); // of all images, by image
// P of an image whose errors have just been quantized. place: among the images at work.
void gradient_image_products(const struct packed_convolution *packed, int image, int place, const struct packed_scratch *scratch,
                             struct fetch *fetch);

// Images that the weight gradient takes at a time.
struct gradient_images {
    int first, count;
    const int8_t *quads; // the errors of the first one
    bool unscaled;       // P itself is asked for, of one image
};

static inline const int8_t *gradient_errors(const struct packed_convolution *packed, const struct gradient_images *images, int n, int block)
{
    return images->quads + ((size_t)n * (size_t)packed->errors.blocks + (size_t)block) * packed->errors.quads_block;
}

static const float unit_scales[BLOCK_CHANNELS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static inline const float *gradient_in_scales(const struct packed_convolution *packed, const struct gradient_images *images, int block)
{
    const struct packed_map *a = &packed->activations;
    return images->unscaled ? unit_scales : a->plane_scales + ((size_t)images->first * (size_t)a->blocks + (size_t)block) * BLOCK_CHANNELS;
}

static inline const float *gradient_out_scales(const struct packed_convolution *packed, const struct gradient_images *images, int first_out)
{
    const struct packed_map *e = &packed->errors;
    return images->unscaled ? unit_scales : e->plane_scales + (size_t)images->first * (size_t)e->blocks * BLOCK_CHANNELS + (size_t)first_out;
}

// (St_1 * 2^-F_1) * (St_2 * 2^-F_2)
static inline float tensor_factor(float scale1, const struct mls_format *format1, float scale2, const struct mls_format *format2)
{
    return ldexpf(scale1, -mls_fraction_bits(format1)) * ldexpf(scale2, -mls_fraction_bits(format2));
}

// What depthwise convolutions do otherwise (packed_depthwise.c).
bool depthwise_finish_phase(struct packed_convolution *packed, const struct direction *direction, struct phase *phase, struct error *error);
bool depthwise_quantize_weights(struct packed_convolution *packed, const float *weights, const struct quantizer *quantizer,
                                uint64_t tensor_key, struct error *error);
void depthwise_convolve_image(const struct packed_convolution *packed, const struct direction *direction, const struct packed_map *map,
                              int image, const uint8_t *bytes, float factor, float *output, bool accumulate);
void depthwise_gradient_task(void *context, int block, int thread); // context: struct gradient_work

// A phase with room for a window of that many taps, all else is 0. It is released with all of its direction.
bool phase_create(struct packed_convolution *packed, const struct direction *direction, struct phase *phase, int window, struct error *error);
void phases_destroy(struct direction *direction);

// Small maps (packed_small.c). Images of a task:
int images_together(const struct packed_convolution *packed, const struct direction *direction);
// Parts the phases of a direction by the taps that lie inside of the map, where that saves enough.
bool small_create(struct packed_convolution *packed, struct direction *direction, struct error *error);

// Winograd's way (packed_winograd.c): taken where it fits, once the direction has its phases.
bool winograd_create(struct packed_convolution *packed, struct direction *direction, struct error *error);
size_t winograd_bytes(const struct direction *direction); // of the transformed rows of a band; 0 where it is not used
// Bytes of the weights of an output block.
static inline size_t winograd_weights_block(const struct direction *direction)
{
    return (size_t)direction->total_quads * 4 * (size_t)direction->winograd.columns * 64;
}
// Starts of an output block: of its groups' chunks, [2][16] each.
static inline size_t winograd_starts_block(const struct direction *direction)
{
    return (size_t)(direction->groups + direction->total_quads / direction->winograd.chunk) * 2 * BLOCK_CHANNELS;
}
void winograd_pack_block(const struct packed_convolution *packed, const struct direction *direction, int block); // from the weights of the phase
// The rows for `pairs` pairs of output rows of one image, whose bytes are given, from row 2 * first on.
void winograd_transform(const struct packed_convolution *packed, const struct packed_map *map, const struct direction *direction,
                        const uint8_t *bytes, int first, int pairs, uint8_t *rows);

// The same in squares, where that is not taken (packed_squares.c). What forward, input error and weight gradient ask for:
#define MAP_SPARE 4096            // bytes behind a map that may be read
#define SQUARES_LIMIT (1 << 25)   // of P: 64 times as much must fit 32 bits
bool squares_cover(int height, int width, size_t row_bytes); // whether they have little to spare; row_bytes: of the map that is read
#define SQUARES_SETS 16 // most at a time
bool squares_create(struct packed_convolution *packed, struct direction *direction, struct error *error);
void squares_plan(const struct packed_convolution *packed, struct direction *direction, int threads);
void squares_pack_block(const struct packed_convolution *packed, const struct direction *direction, int block); // from the weights of the phase
// Scratch: the inputs of all sets at a time, their totals, the weights of a group.
size_t squares_input_numbers(const struct direction *direction);
size_t squares_total_numbers(const struct direction *direction);
size_t squares_scratch_bytes(const struct direction *direction);
// `count` squares of a task from number `first` on, image by image; what the last set lacks is the last one again, without outputs.
void squares_list(const struct direction *direction, const struct packed_map *map, int first, int count, int sets, struct square *squares);
// Their inputs. bytes: from those of the first image of the task on.
void squares_transform(const struct packed_convolution *packed, const struct packed_map *map, const struct direction *direction,
                       const uint8_t *bytes, const struct square *squares, int sets, int16_t *to);

// The same for the weight gradient: whether it is taken, for the plan; the scratch that it needs, in bytes.
bool winograd_gradient_fits(const struct packed_convolution *packed);
size_t winograd_gradient_row_bytes(const struct packed_convolution *packed);
size_t winograd_gradient_mixed_bytes(const struct packed_convolution *packed);
size_t winograd_gradient_start_bytes(const struct packed_convolution *packed);
// Of some images: the errors of all output channels of a task, which begin with first_out; the rows of a block of activations.
void winograd_gradient_errors(const struct packed_convolution *packed, const struct gradient_images *images, int first_out, int end_out,
                              const struct packed_scratch *scratch);
void winograd_gradient_rows(const struct packed_convolution *packed, const struct gradient_images *images, int block,
                            const struct packed_scratch *scratch);
// A tile: the outputs from `out` of a task that begins with first_out.
void winograd_gradient_tile(const struct packed_convolution *packed, const struct gradient_images *images, int block, int first_out, int out,
                            const struct packed_scratch *scratch, struct fetch *fetch, float *totals);

// The weight gradient in squares (packed_squares_gradient.c): likewise. Turns: struct fetch, of a tile and image.
bool squares_gradient_fits(const struct packed_convolution *packed);
size_t squares_gradient_pixel_bytes(const struct packed_convolution *packed);
size_t squares_gradient_error_bytes(const struct packed_convolution *packed);
size_t squares_gradient_turns(const struct packed_convolution *packed);
void squares_gradient_errors(const struct packed_convolution *packed, const struct gradient_images *images, int first_out, int end_out,
                             const struct packed_scratch *scratch);
void squares_gradient_pixels(const struct packed_convolution *packed, const struct gradient_images *images, int block,
                             const struct packed_scratch *scratch);
void squares_gradient_tile(const struct packed_convolution *packed, const struct gradient_images *images, int block, int first_out, int out,
                           const struct packed_scratch *scratch, struct fetch *fetch, float *totals);

// The weight gradient of small maps (packed_raster.c): as by Winograd's way.
bool raster_gradient_fits(const struct packed_convolution *packed);
int raster_gradient_quads(const struct packed_convolution *packed);  // of a map
int raster_gradient_images(const struct packed_convolution *packed); // at a time
size_t raster_gradient_pixel_bytes(const struct packed_convolution *packed);
size_t raster_gradient_error_bytes(const struct packed_convolution *packed);
void raster_gradient_errors(const struct packed_convolution *packed, const struct gradient_images *images, int first_out, int end_out,
                            const struct packed_scratch *scratch);
void raster_gradient_pixels(const struct packed_convolution *packed, const struct gradient_images *images, int block,
                            const struct packed_scratch *scratch);
void raster_gradient_tile(const struct packed_convolution *packed, const struct gradient_images *images, int block, int first_out, int out,
                          const struct packed_scratch *scratch, struct fetch *fetch, float *totals);

// The taps of a phase with one window from the top of that down: an input error's go upwards.
static inline bool from_the_bottom(const struct direction *direction)
{
    const struct phase *phase = direction->phases;
    return phase->tap_offsets[0] > phase->tap_offsets[phase->taps - 1];
}

// The largest byte of a map, zero point included.
static inline int largest_byte(const struct packed_map *map)
{
    return map->zero_point + (int)mls_largest_integer(&map->format);
}

static inline int inputs_of_group(const struct convolution_shape *s)
{
    return s->in_channels / s->groups;
}

// in: within its convolution group.
static inline int weight_group(const struct packed_convolution *packed, int out, int in)
{
    return packed->out_blocks[out] * packed->weight_grouping.blocks[1] + packed->in_blocks[in];
}

static inline int minimum(int a, int b)
{
    return a < b ? a : b;
}

static inline int divide_up(int a, int b)
{
    return (a + b - 1) / b;
}

// The quantization of one map: the tensor scale first, then each image by itself.
struct map_quantization {
    struct packed_convolution *packed;
    struct packed_map *map;
    const struct packed_input *input;
    const float *maxima;         // of all planes, or NULL: plane_maxima, as far as image_seen
    struct quantizer quantizer;
    float largest;               // of the tensor
    bool by_image;               // no group holds planes of two images
    bool nearest;                // overrules the format
    const int *list;             // images of a pass over some of them
    atomic_bool failed;          // a value was not finite
};
bool map_quantization_begin(struct map_quantization *q, struct thread_pool *pool, int images, struct error *error);
void map_quantization_image(struct map_quantization *q, int image, int place); // place: among the images at work
// false with a message where a value was not finite.
bool map_quantization_end(const struct map_quantization *q, struct error *error);

#endif
