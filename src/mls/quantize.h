// Dynamic quantization, fp32 tensor -> MLS (mls-format.md section 3), in plain scalar C: this is
// the definition that every fast kernel is compared with. Compiled without contraction of
// floating-point expressions and without fast math, so that all machines agree.
#ifndef MLS_QUANTIZE_H
#define MLS_QUANTIZE_H

#include <math.h>
#include <stdint.h>

#include "base/error.h"
#include "base/random.h"
#include "mls/format.h"

// A tensor in MLS: value = tensor_scale * group_scales[group] * integers[i] / 2^F.
struct mls_tensor {
    int dims[4];
    struct mls_format format;
    struct mls_grouping grouping;
    float tensor_scale;   // St; 0 where the tensor counts as zero
    float *group_scales;  // Sg, [grouping.blocks[0]][grouping.blocks[1]]
    int32_t *integers;    // signed I, [dims[0]][dims[1]][dims[2]][dims[3]]
};

// What the reference executed, by kind of operation: the functions that end in _counted add to it.
struct mls_counts {
    uint64_t element_multiply, element_accumulate; // products of integers and their sums within a group pair
    uint64_t group_scale, group_accumulate;        // sums times the scales of their groups; sums of those in fp32
    uint64_t tensor_scale;                         // results times St_1 * St_2
    uint64_t maximum;                              // comparisons for Sr and St
    uint64_t division;                             // Sr / St and 1 / (St * Sg), of each group
    uint64_t scaling, rounding;                    // elements times 1 / (St * Sg); elements rounded
    uint64_t random_bits;                          // drawn
};

// The random bits of stochastic rounding. Key of one tensor: random_key(seed, step, layer, operand).
// A plane is one (d0, d1), plane number d0 * D1 + d1, and has two 32-bit keys; one hash of the
// position serves two elements of the plane, 16 elements apart, with 16 bits each:
//   element p of the plane: block b = p / 32, lane j = p % 16, half = (p / 16) % 2,
//   bits = (half ? hash >> 16 : hash & 0xffff), hash = mls_random_hash(keys, 16 * b + j)
// where Q is 16. Where Q is 24: bits = mls_random_hash(keys, p) >> 8.
struct mls_plane_keys {
    uint32_t first, second;
};

static inline struct mls_plane_keys mls_plane_keys_of(uint64_t tensor_key, uint64_t plane)
{
    uint64_t mixed = random_mix64(tensor_key ^ random_mix64(plane));
    return (struct mls_plane_keys){(uint32_t)mixed, (uint32_t)(mixed >> 32)};
}

static inline uint32_t mls_random_hash(struct mls_plane_keys keys, uint32_t counter)
{
    uint32_t h = counter * 0x9e3779b9u + keys.first;
    h = (h ^ (h >> 16)) * 0x21f0aaadu;
    h += keys.second;
    h = (h ^ (h >> 15)) * 0x735a2d97u;
    return h ^ (h >> 15);
}

// The random bits of element `position` (h * W + w) of a plane, as many as the quantizer of the
// format may need (Q of them).
uint32_t mls_random_bits(struct mls_plane_keys keys, uint32_t position, int quantizer_bits);

// Steps 2 and 4: from the maximum |x| of each group, St (0 where the tensor counts as zero) and all
// group scales. Returns false if a maximum is NaN or infinite (then nothing else is defined).
bool mls_scales(const struct mls_format *format, const float *maxima, int count, float *tensor_scale,
                float *group_scales);

// Step 2 from the largest |x|: St. Block floating point: the next power of two, at most 2^127 (what is larger saturates).
float mls_tensor_scale(const struct mls_format *format, float largest);

// Step 4 for one f = Sr / St in [0, 1]; more counts as 1.
float mls_group_scale(const struct mls_format *format, float f);

// Steps 5 to 8 for one element: the signed integer I. reciprocal = 1 / (St * Sg) of its group; random
// is not read where the rounding is to nearest. St must not be 0.
int32_t mls_quantize_element(const struct mls_format *format, float x, float reciprocal, uint32_t random);

// Whole tensor x[dims] (C order); tensor_key as above (not read for nearest rounding). Allocates the
// arrays of `out`; released with mls_tensor_release. false with a message on a NaN or an infinity
// (its position is named) or without memory.
bool mls_quantize(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4],
                  int convolution_groups, uint64_t tensor_key, struct mls_tensor *out, struct error *error);
bool mls_quantize_counted(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4],
                          int convolution_groups, uint64_t tensor_key, struct mls_tensor *out, struct mls_counts *counts,
                          struct error *error);
void mls_tensor_release(struct mls_tensor *tensor);

// Returns false; the message names the first element of x[dims] that is NaN or infinite.
bool mls_report_not_finite(const float *x, const int dims[4], struct error *error);

// values[dims] = St * Sg * I / 2^F, computed as (St * Sg) * (I * 2^-F) in fp32.
void mls_dequantize(const struct mls_tensor *tensor, float *values);

#endif
