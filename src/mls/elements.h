// Rounding of one element, for loops that the compiler makes vectors of: mls_quantize_element (mls/quantize.h) without branches, and
// the elements of mls/standard.h.
#ifndef MLS_ELEMENTS_H
#define MLS_ELEMENTS_H

#include <math.h>

#include "base/vector.h"
#include "mls/quantize.h"
#include "mls/standard.h"

VECTOR_INLINE uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

VECTOR_INLINE float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// |x| as bits, which are in the same order as the numbers, with a NaN above all.
VECTOR_INLINE int32_t magnitude_bits(float x)
{
    return (int32_t)(bits_of(x) & 0x7fffffff);
}

#define NOT_FINITE 0x7f800000 // magnitude_bits from here on

// max |x| of `count` numbers; a NaN is above all.
float largest_magnitude(const float *x, size_t count);

// 2^e, -127 <= e <= 127.
VECTOR_INLINE float power_of_two(int e)
{
    return float_of(e > -127 ? (uint32_t)(e + 127) << 23 : 0x400000);
}

// ---------------------------------------------------------------------------------------------
// Elements of a standard. The bits of a number without its fraction are the power of two below it; one step of the format is that
// times 2^-fraction, and below 2^emin that of 2^emin.

struct standard_rounding {
    float smallest, to_steps, fraction, step, largest;
};

static inline struct standard_rounding standard_rounding_of(const struct standard_element *e)
{
    return (struct standard_rounding){power_of_two(e->emin), power_of_two(23 - e->fraction), power_of_two(e->fraction),
                                      power_of_two(-e->fraction), e->largest};
}

// FP8: one scale for the tensor, from its largest |x|; 0 where it counts as zero.
static inline float fp8_tensor_scale(const struct standard_element *e, float largest)
{
    return largest < 0x1p-60f ? 0 : largest / e->largest;
}

// Of a Microscaling block with this maximum (magnitude_bits, finite): e of its scale 2^e.
VECTOR_INLINE int microscaling_exponent(int emax, int32_t maximum)
{
    int e = (maximum >> 23) - 127 - emax; // zero and subnormal maxima end up at the lower limit in any case
    return e < -127 ? -127 : e;
}

// x * reciprocal as an element. `stochastic`, a constant: with the upper 24 bits of `hash`.
VECTOR_INLINE float round_standard(const struct standard_rounding *r, float x, float reciprocal, const bool stochastic, uint32_t hash)
{
    float v = fabsf(x) * reciprocal, rounded;
    uint32_t power = bits_of(v > r->smallest ? v : r->smallest) & 0x7f800000;
    if (stochastic) {
        float steps = v * float_of(0x7f000000 - power) * r->fraction, whole = (float)(int32_t)steps;
        float random = (float)(int32_t)(hash >> 8) * 0x1p-24f;
        rounded = (whole + (steps - whole > random ? 1.0f : 0.0f)) * (float_of(power) * r->step);
    } else { // v + 2^23 steps has no bits below a step: the addition rounds, to nearest with ties to even
        float offset = float_of(power) * r->to_steps;
        rounded = (v + offset) - offset;
    }
    return copysignf(rounded < r->largest ? rounded : r->largest, x);
}

// ---------------------------------------------------------------------------------------------
// MLS integers

struct integer_rounding {
    int bits, exponent, mantissa, lowest, largest;
    float unit; // 2^-F
};

static inline struct integer_rounding integer_rounding_of(const struct mls_format *format)
{
    return (struct integer_rounding){.bits = mls_quantizer_bits(format), .exponent = format->exponent, .mantissa = format->mantissa,
                                     .lowest = format->exponent ? 1 - (1 << format->exponent) : 0,
                                     .largest = mls_largest_integer(format), .unit = ldexpf(1.0f, -mls_fraction_bits(format))};
}

// The counter of mls_random_hash for an element of a plane, and which bits of the hash are its own (mls_random_bits).
VECTOR_INLINE uint32_t random_counter(int bits, uint32_t position)
{
    return bits > 16 ? position : position / 32 * 16 + position % 16;
}

VECTOR_INLINE uint32_t random_part(int bits, uint32_t position, uint32_t hash)
{
    return bits > 16 ? hash >> 8 : hash >> (position & 16) & 0xffff;
}

// The signed integer of x. `stochastic`: a constant.
VECTOR_INLINE int32_t round_integer(const struct integer_rounding *r, float x, float reciprocal, const bool stochastic, uint32_t random)
{
    float scaled = rintf((fabsf(x) * reciprocal) * (float)(1 << r->bits)), limit = (float)((1 << r->bits) - 1);
    int32_t y = (int32_t)(scaled < limit ? scaled : limit), lowest = r->lowest;
    int32_t e = (int32_t)(bits_of((float)y) >> 23) - 127 - r->bits; // floor(log2 y) - Q; y < 2^24 is exact
    e = e < lowest ? lowest : e > -1 ? -1 : e;
    if (r->exponent == 0) e = 0;
    int32_t dropped = r->bits + e - r->mantissa; // at least Q - F, which is 8 or more
    y += stochastic ? (int32_t)(random & ((1u << dropped) - 1)) : 1 << (dropped - 1);
    int32_t integer = (y >> dropped) << (e - lowest);
    integer = integer > r->largest ? r->largest : integer;
    return x < 0 ? -integer : integer;
}

#endif
