// Kernel sets: the inner loops of training on packed (packed.h) and on fp32 maps (direct.h), chosen once at start and nameable
// by the user. What a kernel computes is defined by its scalar version (scalar.c), which in turn equals the plain definition
// in src/mls bit for bit.
//
// Names: OPERATION_INSTRUCTIONSET.c holds functions called WHAT_INSTRUCTIONSET, with the tile and what is special about it
// where there are several: convolve_8x2_run3_avx512vnni computes 8 pixels x 2 blocks of 16 outputs, three taps at a time.
// The set of an instruction set is at the end of convolve_INSTRUCTIONSET.c.
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/source.h"
#include "mls/format.h"
#include "mls/quantize.h"

#define GRADIENT_CHANNELS 8   // output channels of one weight-gradient tile
#define WINOGRAD_OFFSET 128   // of the rows that Winograd's way reads
#define WINOGRAD_COLUMNS 3    // dot products of a quad and row of the window where the input is not in planes; there it is 1
#define GRADIENT_TAPS 3       // most window positions of one weight-gradient tile, all of one row or one column of the window

// Constants of a format whose I fits int8 (then Q = 16): with l = clamp(floor(log2 Y), low, high),
// I = min((Y' >> (l - mantissa)) << (l - low), largest).
struct quantizer {
    int mantissa, low, high, largest;
    bool stochastic;
};

// One block of one image, fp32 -> bytes.
struct quantize_job {
    struct quantizer quantizer;
    struct source source;
    int height, width;
    float reciprocals[BLOCK_CHANNELS];              // 1 / (St * Sg); 0: the code is 0
    uint32_t first_keys[BLOCK_CHANNELS], second_keys[BLOCK_CHANNELS]; // struct mls_plane_keys, where the rounding is stochastic
    int zero_point;               // 0, or 128 for operands with a sign
    uint8_t *pixels;              // pixel (y, x) at pixels + y * row_bytes + x * 16: I + zero_point; or NULL
    size_t row_bytes;
    uint8_t *planes;              // channel c, pixel (y, x) at planes + c * plane_bytes + y * plane_pitch + x: I + zero_point;
    size_t plane_bytes;           // or NULL
    int plane_pitch;
    int8_t *quads;                // pixels (y, x .. x + 3), x % 4 = 0, of all channels at quads + (y * row_quads + x / 4) * 64:
    int row_quads;                // [16][4], I, 0 beyond the row's end; or NULL
};

// A row of neighbouring outputs of a forward or input-error convolution, for one or two blocks of 16 outputs. A dot product takes 4 bytes
// that lie side by side: 4 channels of a pixel in a packed block, or 4 pixels of a channel in planes. A quad is 4 channels in a packed
// block, a channel in planes. Groups G in ascending order; group k covers the quads quad_first[k] .. quad_last[k], with weights of what
// lies outside the group or the window set to 0.
struct convolve_job {
    int groups, taps, blocks;     // blocks of outputs: 1 or 2
    bool planar;                  // each group is one quad: a channel in planes
    int run;                      // 3: each three taps in turn lie pixel_bytes = 16 apart; else 1
    const int *quad_first, *quad_last;   // [groups]
    const size_t *quad_offsets;   // [quads], bytes
    const int32_t *tap_offsets;   // [taps], bytes
    size_t pixel_bytes;           // from one output's input to the next one's
    const int8_t *weights[2];     // of each block: [group][quad of the group][tap][16 outputs][4 bytes]
    const int32_t *starts[2];     // [group][16]: where P starts, - zero point * sum of the group's weights
    const float *scales[2];       // [group][16]: Sg_1 * Sg_2; the second block's behind the first one's
    int largest_input, largest_weight; // no byte of the input, no |weight| is larger
    float factor;                 // (St_1 * 2^-F_1) * (St_2 * 2^-F_2)
    bool accumulate;              // add to the outputs
    size_t output_step;           // floats from one output pixel to the next
    struct fetch *fetch;          // what to ask for meanwhile; a turn: an output pixel of a block
    size_t ahead;                 // floats from an output to one that will be written soon
};

// Two rows of neighbouring outputs of one block by Winograd's F(2, 3) over the rows of the window: with d the rows of the input from
// the first output's and g those of the window,
//   2 * output 0 = (d0 - d2) * 2 g0 + m1 + m2, 2 * output 1 = (d3 - d1) * 2 g2 + m1 - m2,
//   m1 = (d1 + d2) * (g0 + g1 + g2), m2 = (d2 - d1) * (g0 - g1 + g2),
// in integers, hence without an error, and 4 dot products where there were 6. That all sums are twice as large changes no rounding, since
// what is subnormal is a multiple of the smallest float and exact either way. A line is the contiguous part of a row: a channel in
// planes, or a packed block.
// A set whose winograd_bits is 16 sums modulo 2^16, bytes 0 and 1 of each 4 apart from bytes 2 and 3. That is exact as well, if the twofold
// outputs fit, whatever the products on the way are: of as many quads of a group as that allows (a chunk), then in 32 bits.
struct winograd_job {
    int groups, pixels;           // pixels: outputs of a row, a multiple of 8 or of 7
    bool planar;                  // each group is one quad, and that a line: as in struct convolve_job
    const int *quad_first, *quad_last;   // [groups]
    const size_t *quad_offsets;   // [quads], bytes
    const uint8_t *rows;          // [lines][4][pitch]: d0 - d2, d1 + d2, d2 - d1, d3 - d1, each + WINOGRAD_OFFSET
    size_t pitch;
    const int8_t *weights;        // [group][quad of the group][4][columns][16 outputs][4 bytes]: 2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2;
                                  // where it is planar g0 and g2 once, to be added to m1 + m2 and m1 - m2 halved
    int chunk;                    // quads; with 32 bits those of a group, or more
    const int32_t *starts;        // [group][chunk of the group][2][16]: where m1 and m2 start, so that the offsets cancel; with 16 bits
                                  // [16][2] numbers of 16 bits
    const float *scales;          // [groups][16]: Sg_1 * Sg_2
    float factor;                 // as in struct convolve_job
    bool accumulate;
    struct fetch *fetch;          // as in struct convolve_job
    size_t ahead;
};

// The rows that it reads, of `pairs` pairs of output rows.
struct winograd_input_job {
    int lines, pairs;
    const uint8_t *input;         // d0 of the first pair
    size_t line_bytes, row_bytes; // from one line to the next, from one row to the next
    size_t pitch;                 // a multiple of 16
    uint8_t *rows;                // [pairs][lines][4][pitch]
};

// Squares of 4 x 4 neighbouring outputs by Winograd's F(4x4, 3x3), for integers whose sums fit no byte: with d the 6 x 6 inputs of a square
// and g the window, 576 * outputs = A (B d B' .* G g G') A', where on a column
//   B: 4 d0 - 5 d2 + d4, d3 + d4 - 4 (d1 + d2), d4 - d3 + 4 (d1 - d2), d4 - d2 + 2 (d3 - d1), d4 - d2 - 2 (d3 - d1), 4 d1 - 5 d3 + d5
//   G: 6 g0, -4 (g0 + g1 + g2), -4 (g0 - g1 + g2), g0 + 2 g1 + 4 g2, g0 - 2 g1 + 4 g2, 6 g2
//   A: m0 + m1 + m2 + m3 + m4, m1 - m2 + 2 (m3 - m4), m1 + m2 + 4 (m3 + m4), m1 - m2 + 8 (m3 - m4) + 4 m5
// (Lavin and Gray, arXiv 1509.09308, G times 24). That is 36 products of 16 bits where there were 144 of 8, hence half as many dot products.
// All is summed modulo 2^32; there 9 has an inverse, so 64 * outputs come out, exact if they fit 32 bits. That the outputs' sums are 64 times
// as large changes no rounding (struct winograd_job). A dot product takes two channels: 0 and 2 of a quad, or 1 and 3 (its parity).
#define SQUARE 4                  // outputs along a side
#define SQUARE_INPUTS 6           // inputs along a side
#define SQUARES_OF_SET 4          // squares whose products one load of the weights serves
#define SET_NUMBERS (SQUARE_INPUTS * SQUARE_INPUTS * SQUARES_OF_SET * BLOCK_CHANNELS) // of a set's transformed input, for a block
#define SQUARE_WEIGHTS (SQUARE_INPUTS * SQUARE_INPUTS * 4 * BLOCK_CHANNELS)           // of the transformed weights of a quad
#define COLUMN_WEIGHTS (SQUARE_WEIGHTS / SQUARE_INPUTS) // of a column of those

struct square {
    size_t input;                 // where it begins, bytes
    size_t output, scales;        // floats
    int rows, columns;            // outputs that there are: SQUARE or less
};

struct squares_input_job {
    int sets, blocks;
    const struct square *squares; // [sets][SQUARES_OF_SET]
    const uint8_t *input;
    size_t block_bytes, row_bytes;
    int zero_point;
    int16_t *transformed;         // [sets][blocks][6 columns][6 rows][parity][square][8]
};

// All squares of some sets, for one block of outputs.
struct squares_job {
    int groups, sets;
    const int *quad_first, *quad_last;   // [groups]
    const size_t *quad_offsets;   // [quads], numbers from a set's first one
    const struct square *squares; // [sets][SQUARES_OF_SET]
    const int16_t *input;         // struct squares_input_job
    size_t set_step;              // numbers from a set to the next one
    const int8_t *weights;        // [group][quad of the group][9 taps][16 outputs][4 bytes], as in struct convolve_job
    bool from_the_bottom;         // the taps' first row is that at the bottom of the window
    const int16_t *transformed;   // the same by squares_weights, group after group; NULL: to be made from them
    const float *scales;          // of the first image, [groups][16]: Sg_1 * Sg_2
    float *totals;                // scratch: [sets][SQUARES_OF_SET][16 outputs of a square][16]
    int16_t *group_weights;       // scratch: where `transformed` of a group is made
    float factor;                 // as in struct convolve_job
    bool accumulate;
    size_t output_row;            // floats from one row of outputs to the next
    struct fetch *fetch;          // a turn: a column of a set, for one group
};

// Any outputs of several images, for maps whose rows are shorter than a tile: where each is from the first one.
struct convolve_pixel {
    int32_t input;                // bytes
    int32_t output, scales;       // floats
};

// The weight gradient of some images: 16 input channels x up to 8 output channels x all taps.
struct gradient_job {
    int images;                   // one after the other, at these distances
    size_t image_pixels, image_quads, image_in_scales, image_out_scales, image_corrections;
    int taps, row_taps;           // positions of the window; of a row of it
    int height, width;            // of the errors
    const size_t *tap_offsets;    // [taps]
    const uint8_t *pixels;        // activations: pixel of output (0, 0) and tap 0
    size_t pixel_bytes, row_bytes;// from one output's pixel to the next one's, to the next row's
    const int8_t *quads;          // errors of the first output channel, as the quantizer wrote them
    int row_quads;
    int largest_input, largest_error;  // no byte of `pixels`, no |error| is larger
    const int32_t *corrections;   // [8]: what the activations' zero point adds to P of each output channel; NULL: nothing
    const float *in_scales;       // [16]
    const float *out_scales;      // [8]
    struct fetch *fetch;          // what to ask for meanwhile; a turn: a quad of errors with up to GRADIENT_TAPS taps
};

// The weight gradient of a 3x3 window by Winograd's F(3, 2): two rows of errors e0, e1 at once, with d the rows of the input from the first
// one's. With M0 = (d0 - d2) * e0, M1 = (d1 + d2) * (e0 + e1), M2 = (d2 - d1) * (e0 - e1), M3 = (d3 - d1) * e1, summed over the pairs,
//   row 0 of the window: M0 + (M1 + M2) / 2, row 1: (M1 - M2) / 2, row 2: M3 + (M1 + M2) / 2,
// in integers, hence without an error (what is halved is even), and 4 dot products where there were 6.
struct winograd_errors_job {      // sums and differences of the errors of one image and block
    int pairs, row_quads;
    const int8_t *quads;          // as the quantizer wrote them
    int8_t *mixed;                // [pairs][2][row_quads][16][4]: e0 + e1, e0 - e1
    int32_t *starts;              // [4][16]: where M0 to M3 start, so that the offsets of the input's rows cancel
};

// Some images: 16 input channels x 8 output channels x 9 taps, as struct gradient_job.
struct winograd_gradient_job {
    int images;                   // one after the other, at these distances
    size_t image_rows, image_quads, image_mixed, image_starts, image_in_scales, image_out_scales;
    int pairs, row_quads;
    const uint8_t *rows;          // [pairs][4][pitch], by winograd_input; 64 bytes behind the last one may be read
    size_t pitch;
    const int8_t *quads, *mixed;  // errors of the first output channel, and what winograd_errors made of them
    const int32_t *starts;        // of the first output channel, [4] at 16
    const float *in_scales;       // [16]
    const float *out_scales;      // [8]
    struct fetch *fetch;          // as in struct gradient_job; a turn: a quad of one of the four M
};

// The weight gradient of a small map, whose pixels are packed for it: a quad is 4 outputs in the order of the raster, of as many rows as it
// takes. 16 input channels x 8 output channels x taps.
struct raster_job {
    int images;                   // one after the other, at these distances
    size_t image_pixels, image_errors, image_in_scales, image_out_scales, image_corrections;
    int rows, quads;              // rows of a window that has 3 columns
    size_t row_bytes, column_bytes; // from the pixels of one tap to those of the tap below, to the right
    const uint8_t *pixels;        // of tap 0, [quads][16][4]
    const int8_t *errors;         // of the first output channel, [quads][16][4]; 0 where there is no pixel
    const int32_t *corrections;   // as in struct gradient_job
    const float *in_scales;       // [16]
    const float *out_scales;      // [8]
    struct fetch *fetch;          // as in struct gradient_job; a turn: a quad with 3 taps
};

// The weight gradient of a 3x3 window in squares of 4 x 4 errors by Winograd's F(3x3, 4x4), as struct squares_job: 576 * P = A (sum over the
// squares of B d B' .* G e G') A', where on a column B is as there and
//   G: 6 e0, -4 (e0 + e1 + e2 + e3), -4 (e0 - e1 + e2 - e3), e0 + 2 e1 + 4 e2 + 8 e3, e0 - 2 e1 + 4 e2 - 8 e3, 6 e3
//   A: m0 + m1 + m2 + m3 + m4, m1 - m2 + 2 (m3 - m4), m1 + m2 + 4 (m3 + m4 + m5)
// A dot product takes two squares, a pair. Transformed: [6 columns][pairs][6 rows][16 channels][2 squares].
#define PAIR_NUMBERS (SQUARE_INPUTS * SQUARE_INPUTS * BLOCK_CHANNELS * 2)

struct squares_pixels_job {       // of a block of one image
    int rows, columns;            // squares
    const uint8_t *pixels;        // pixel of output (0, 0) and tap 0
    size_t row_bytes;
    int zero_point;
    int16_t *transformed;
};

struct squares_errors_job {       // of a block of one image
    int rows, columns;            // squares
    int height;                   // of the errors
    const int8_t *quads;          // as the quantizer wrote them, as many to a row as there are columns
    int16_t *transformed;         // 0 where there are no errors
};

// 16 input channels x 8 output channels x 9 taps, as struct gradient_job.
struct squares_gradient_job {
    int images;                   // one after the other, at these distances
    size_t image_pixels, image_errors, image_in_scales, image_out_scales;
    int pairs;
    const int16_t *pixels, *errors; // transformed; errors from the first output channel on
    const float *in_scales;       // [16]
    const float *out_scales;      // [8]
    struct fetch *fetch;          // as in struct gradient_job; a turn: a pair of a column of the products
};

// The pixels of a block for struct raster_job.
struct raster_pixels_job {
    int quads;
    const uint8_t *pixels;
    const size_t *offsets;        // [quads][4], bytes: where the pixels are
    uint8_t *raster;              // [quads][16][4]
};

// A tile of the weight gradient: what the images add to it, where P of each is known. 16 input channels x 8 output channels.
struct products_job {
    int images;                   // one after the other, at these distances
    size_t image_products, image_in_scales, image_out_scales;
    int taps;
    const float *products;        // (float)P, [taps][8][16]
    const float *in_scales;       // [16]
    const float *out_scales;      // [8]
};

// Depthwise convolution: a row of neighbouring outputs of one block. A lane is a channel. A quad is a run of up to 4 taps that lie
// side by side in the input.
struct depthwise_job {
    int taps, quads;
    const int *quad_taps;         // [quads + 1]: the first tap of each quad
    const int32_t *tap_offsets;   // [taps], bytes, from the input of the first output
    const int16_t *tap_codes;     // [taps][16]: I of the weights
    const int8_t *quad_codes;     // [quads][16][4]: the same, 0 where a quad has less than 4 taps
    const int32_t *starts;        // [16]: - zero point * sum of the weights
    int zero_point;               // of the input's bytes
    int run;                      // products of I of that many taps add up in 16 bits
    size_t pixel_bytes;           // from one output's input to the next one's
    const float *scales;          // [16]: Sg_1 * Sg_2
    float factor;                 // (St_1 * 2^-F_1) * (St_2 * 2^-F_2)
    bool accumulate;              // add to the outputs
    size_t output_step;           // floats from one output pixel to the next
};

// Depthwise convolution: the weight gradient of one image and block.
struct depthwise_gradient_job {
    int taps;
    const size_t *tap_offsets;    // [taps], bytes
    const uint8_t *inputs;        // input of output (0, 0) and tap 0
    size_t pixel_bytes, row_bytes;// from one output's input to the next one's, to the next row's
    int input_zero_point;
    const uint8_t *errors;        // I + 128 of pixel (y, x) at errors + y * error_row_bytes + x * 16
    size_t error_row_bytes;
    int height, width;            // of the errors
    int run;                      // products of I of that many pixels add up in 16 bits
};

// fp32: a row of neighbouring outputs of a convolution, for one or two blocks of 16 outputs. A term is one window position of
// one channel.
struct direct_job {
    int terms, blocks;
    const size_t *offsets;        // [terms], floats, from the input of the first output
    size_t pixel_step;            // floats from one output's input to the next one's
    const float *weights[2];      // [terms][16]
    bool accumulate;
    size_t output_step;           // floats from one output pixel to the next
    struct fetch *fetch;          // as in struct convolve_job
    size_t ahead;
};

// fp32: the weight gradient of images that lie side by side, 16 outputs x `terms`. Numbers are floats.
struct direct_gradient_job {
    int terms;
    int images;                   // input and errors of the next one 16 further; depthwise: 1
    int height, width;            // of the errors
    const size_t *offsets;        // [terms], from the input of output (0, 0)
    size_t pixel_step, row_step;  // of the input
    const float *input;
    const float *errors;          // pixel (y, x) at errors + y * error_row_step + x * error_pixel_step
    size_t error_pixel_step, error_row_step;
    struct fetch *fetch;          // what to ask for meanwhile; a turn: a term
};

// Points the job at its next image.
static inline void gradient_next_image(struct gradient_job *job)
{
    job->pixels += job->image_pixels;
    job->quads += job->image_quads;
    job->in_scales += job->image_in_scales;
    job->out_scales += job->image_out_scales;
    if (job->corrections) job->corrections += job->image_corrections;
}

static inline void winograd_next_image(struct winograd_gradient_job *job)
{
    job->rows += job->image_rows;
    job->quads += job->image_quads;
    job->mixed += job->image_mixed;
    job->starts += job->image_starts;
    job->in_scales += job->image_in_scales;
    job->out_scales += job->image_out_scales;
}

static inline void squares_next_image(struct squares_gradient_job *job)
{
    job->pixels += job->image_pixels;
    job->errors += job->image_errors;
    job->in_scales += job->image_in_scales;
    job->out_scales += job->image_out_scales;
}

static inline void raster_next_image(struct raster_job *job)
{
    job->pixels += job->image_pixels;
    job->errors += job->image_errors;
    job->in_scales += job->image_in_scales;
    job->out_scales += job->image_out_scales;
    if (job->corrections) job->corrections += job->image_corrections;
}

// Taps of the tile that begins with `tap`.
static inline int gradient_tile_taps(const struct gradient_job *job, int tap)
{
    int left = job->row_taps - tap % job->row_taps;
    return left < GRADIENT_TAPS ? left : GRADIENT_TAPS;
}

struct kernel_set {
    const char *name;             // "scalar", "avx2", "avx512vnni"
    const char *help;
    bool (*supported)(void);      // by this processor
    void (*quantize_block)(const struct quantize_job *job);
    // codes[i] = I of x[i], rounded to nearest, one scale.
    void (*quantize_run)(const struct quantizer *quantizer, const float *x, int count, float reciprocal, int8_t *codes);
    // outputs[block] + pixel * output_step [16]: = or += factor * (sum over G of fma((float)P, scale, .)).
    void (*convolve_row)(const struct convolve_job *job, const uint8_t *input, int pixels, float *const outputs[2]);
    // The same for pixels that need not be neighbours; not planar. NULL: there is none, rows are to be used.
    void (*convolve_pixels)(const struct convolve_job *job, const uint8_t *input, const struct convolve_pixel *pixels, int count,
                            float *const outputs[2]);
    int winograd_bits;            // of the sums of winograd_rows: 32 or 16
    bool winograd_planar;         // it takes planes, too
    // outputs[row] + pixel * 16: as convolve_row. NULL: there is none, nor a winograd_input.
    void (*winograd_input)(const struct winograd_input_job *job);
    void (*winograd_rows)(const struct winograd_job *job, float *const outputs[2]);
    int squares_blocks;           // blocks of outputs, from which on squares are faster than rows: their inputs are transformed once for all
    // Of a group: [quads][9 taps][16 outputs][4] -> [6 columns][quads][parity][6 rows][16 outputs][2].
    void (*squares_weights)(const int8_t *taps, int quads, bool from_the_bottom, int16_t *transformed);
    // outputs + square.output ...: as convolve_row. NULL: there is none, nor a squares_input and squares_weights.
    void (*squares_input)(const struct squares_input_job *job);
    void (*convolve_squares)(const struct squares_job *job, float *outputs);
    // totals[tap][out channel][16] = fma((float)P, in_scales[i] * out_scales[out channel], totals), image by image.
    void (*gradient_images)(const struct gradient_job *job, float *totals);
    // The same for 9 taps. NULL: there is none, nor a winograd_errors.
    void (*winograd_errors)(const struct winograd_errors_job *job);
    void (*winograd_gradient)(const struct winograd_gradient_job *job, float *totals);
    // The same in squares. NULL: there is none, nor squares_pixels and squares_errors.
    void (*squares_pixels)(const struct squares_pixels_job *job);
    void (*squares_errors)(const struct squares_errors_job *job);
    void (*gradient_squares)(const struct squares_gradient_job *job, float *totals);
    // The same of small maps. NULL: there is none, nor a raster_pixels.
    void (*raster_pixels)(const struct raster_pixels_job *job);
    void (*gradient_raster)(const struct raster_job *job, float *totals);
    // The same from (float)P.
    void (*add_image_products)(const struct products_job *job, float *totals);
    // sums[tap][out channel][16] += P
    void (*gradient_images_sums)(const struct gradient_job *job, int64_t *sums);
    // output + pixel * output_step [16]: = or += factor * ((float)P * scale).
    void (*depthwise_row)(const struct depthwise_job *job, const uint8_t *input, int pixels, float *output);
    // sums[taps][16] = P
    void (*depthwise_gradient)(const struct depthwise_gradient_job *job, int32_t *sums);
    // outputs[block] + pixel * output_step [16]: = or += sum over the terms, in their order, of fma(input, weight, .) from 0.
    void (*direct_row)(const struct direct_job *job, const float *input, int pixels, float *const outputs[2]);
    // totals[terms][16] = fma(input, error, totals) over the images and their pixels in raster order.
    void (*direct_gradient)(const struct direct_gradient_job *job, float *totals);
    // Peaks of one core: `rounds` rounds of independent operations on registers; return the multiply-adds done.
    double (*dot_product_rounds)(long rounds);   // of the integer products that this set uses
    double (*multiply_add_rounds)(long rounds);  // fp32
};

extern const struct kernel_set kernels_scalar; // the reference, to which other sets leave what is rare

extern const struct kernel_set *const kernel_sets[]; // best first, ended by NULL; "scalar" is last and always supported
// By name, or the best supported for NULL; NULL if unknown or not supported here.
const struct kernel_set *kernel_set_find(const char *name);

#endif
