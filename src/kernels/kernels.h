// Kernel sets: the inner loops of MLS training on packed data (packed.h), one file an instruction set, chosen
// once at start and nameable by the user. What a kernel computes is defined by its scalar version (mls_scalar.c),
// which in turn equals the plain definition in src/mls bit for bit.
//
// File and set names: OPERATIONS_INSTRUCTIONSET.c holds the set called INSTRUCTIONSET; functions are called
// WHAT_INSTRUCTIONSET, with the tile where there are several: convolve_8x2_avx512vnni computes 8 pixels x 2 blocks.
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mls/format.h"
#include "mls/quantize.h"

#define BLOCK_CHANNELS 16     // channels in a packed block
#define GRADIENT_CHANNELS 8   // output channels of one weight-gradient tile
#define GRADIENT_TAPS 3       // most window positions of one weight-gradient tile

// Constants of a format whose I fits int8 (then Q = 16): with l = clamp(floor(log2 Y), low, high),
// I = min((Y' >> (l - mantissa)) << (l - low), largest).
struct quantizer {
    int mantissa, low, high, largest;
    bool stochastic;
};

// One block of up to 16 channels of one image, fp32 -> packed bytes.
struct quantize_job {
    struct quantizer quantizer;
    const float *x;               // channel c at x + c * plane
    int channels, height, width;  // channels <= 16; the rest of the block is written as zero
    size_t plane;
    float reciprocals[BLOCK_CHANNELS];              // 1 / (St * Sg); 0 for a tensor that counts as zero
    struct mls_plane_keys keys[BLOCK_CHANNELS];     // read where the rounding is stochastic
    int zero_point;               // 0, or 128 for operands with a sign
    uint8_t *pixels;              // pixel (y, x) at pixels + y * row_bytes + x * 16: I + zero_point; or NULL
    size_t row_bytes;
    uint8_t *planes;              // channel c, pixel (y, x) at planes + c * plane_bytes + y * plane_pitch + x: I + zero_point;
    size_t plane_bytes;           // or NULL
    int plane_pitch;
    int8_t *rows;                 // channel c, pixel (y, x) at rows + c * rows_plane + y * row_pitch + x: I; or NULL
    size_t rows_plane;
    int row_pitch;
};

// A row of neighbouring outputs of a forward or input-error convolution, for one or two blocks of 16 outputs.
// A dot product takes 4 bytes that lie side by side: 4 channels of a pixel in a packed block, or 4 pixels of a channel in
// planes. A quad is the first, a channel in planes. Groups G in ascending order; group k covers the quads quad_first[k] ..
// quad_last[k], with weights of what lies outside the group or the window set to 0.
struct convolve_job {
    int groups, taps, blocks;     // blocks of outputs: 1 or 2
    const int *quad_first, *quad_last;   // [groups]
    const size_t *quad_offsets;   // [quads], bytes
    const int32_t *tap_offsets;   // [taps], bytes
    size_t pixel_bytes;           // from one output's input to the next one's
    const int8_t *weights[2];     // of each block: [group][quad of the group][tap][16 outputs][4 bytes]
    const int32_t *corrections[2];// [group][16]: zero point times the sum of the group's weights, subtracted from P
    const float *scales[2];       // [group][16]: Sg_1 * Sg_2
};

// P of one image for the weight gradient: 16 input channels x up to 8 output channels x up to 3 taps.
struct gradient_job {
    int taps, out_channels;       // <= GRADIENT_TAPS, <= GRADIENT_CHANNELS
    int height, width;            // of the errors
    size_t tap_offsets[GRADIENT_TAPS];
    const uint8_t *pixels;        // activations: pixel of output (0, 0) and tap 0
    size_t pixel_bytes, row_bytes;// from one output's pixel to the next one's, to the next row's
    const int8_t *rows;           // errors of the first output channel
    size_t rows_plane;
    int row_pitch;
};

struct kernel_set {
    const char *name;             // "scalar", "avx512vnni"
    const char *help;
    bool (*supported)(void);      // by this processor
    void (*quantize_block)(const struct quantize_job *job);
    // codes[i] = I of x[i], rounded to nearest, one scale.
    void (*quantize_run)(const struct quantizer *quantizer, const float *x, int count, float reciprocal, int8_t *codes);
    // outputs[block][pixel][16] = sum over G of fma((float)P, scale, .): not yet times the tensor scales.
    void (*convolve_row)(const struct convolve_job *job, const uint8_t *input, int pixels, float *const outputs[2]);
    // sums[tap][out channel][16 input channels], of the bytes as they are (zero point included).
    void (*gradient_image)(const struct gradient_job *job, int32_t *sums);
    // totals[tap][out channel][i] = fma((float)(sums - corrections[out channel]), in_scales[i] * out_scales[out channel],
    // totals), over all GRADIENT_CHANNELS of `taps` taps.
    void (*add_gradient)(int taps, const int32_t *sums, const int32_t *corrections, const float *in_scales,
                         const float *out_scales, float *totals);
    // out[channel * plane + pixel] = (or +=) factor * strip[pixel][channel], for `channels` <= 16.
    void (*store_strip)(const float *strip, int pixels, int channels, float factor, float *out, size_t plane,
                        bool accumulate);
    // Peaks of one core: `rounds` rounds of independent operations on registers; return the multiply-adds done.
    double (*dot_product_rounds)(long rounds);   // of the integer products that this set uses
    double (*multiply_add_rounds)(long rounds);  // fp32
};

extern const struct kernel_set *const kernel_sets[]; // best first, ended by NULL; "scalar" is last and always supported
// By name, or the best supported for NULL; NULL if unknown or not supported here.
const struct kernel_set *kernel_set_find(const char *name);

#endif
