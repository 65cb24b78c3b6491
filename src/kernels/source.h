// What a quantizer reads: one block (16 channels) of one image, fp32 [pixels][16], where work may still be owed to the
// numbers ("pending"), which is done as they are read instead of by a pass over memory of its own:
//
//   plain        value = x
//   normalized   value = f(multiplier * x + offset)                          the output of a batch normalization
//   error        value = c0 * d + (c1 * x + c2), d = delta * f'(multiplier * x + offset)   its error; x as in forward
//
// with f a piecewise linear activation and the factors constants of the channel (lane). Plain fp32 without contraction,
// so every instruction set gets the same values.
#ifndef KERNELS_SOURCE_H
#define KERNELS_SOURCE_H

#include <stdbool.h>

#include "base/blocked.h"
#include "base/vector.h"

enum piecewise { PIECEWISE_LINEAR, PIECEWISE_RELU, PIECEWISE_LEAKY, PIECEWISE_RELU6 };
enum source_kind { SOURCE_PLAIN, SOURCE_NORMALIZED, SOURCE_ERROR };

struct source {
    enum source_kind kind;
    enum piecewise activation;
    const float *x;
    const float *delta;
    const float *multiplier, *offset;  // [16]
    const float *coefficients[3];      // c0, c1, c2, each [16]
};

// One block of one image of a source that is a whole map of `blocks` blocks.
static inline struct source source_of_block(const struct source *map, int image, int block, int blocks, size_t pixels)
{
    struct source s = *map;
    size_t at = ((size_t)image * (size_t)blocks + (size_t)block) * pixels * BLOCK_CHANNELS, lane = (size_t)block * BLOCK_CHANNELS;
    s.x += at;
    if (s.kind == SOURCE_PLAIN) return s;
    s.multiplier += lane;
    s.offset += lane;
    if (s.kind == SOURCE_NORMALIZED) return s;
    s.delta += at;
    for (int k = 0; k < 3; k++) s.coefficients[k] += lane;
    return s;
}

VECTOR_INLINE vector_float piecewise_value(enum piecewise activation, vector_float z, const bool native)
{
    if (activation == PIECEWISE_LINEAR) return z;
    if (activation == PIECEWISE_LEAKY) {
        vector_int positive = vector_positive(z, native);
        return vector_where(positive, z) + vector_where(~positive, z * 0.1f);
    }
    vector_float y = vector_rectify(z, native);
    if (activation == PIECEWISE_RELU6) {
        vector_int over = vector_positive(y - 6, native);
        y = vector_where(~over, y) + vector_where(over, vector_set(6));
    }
    return y;
}

// delta * f'(z)
VECTOR_INLINE vector_float piecewise_error(enum piecewise activation, vector_float z, vector_float delta, const bool native)
{
    if (activation == PIECEWISE_LINEAR) return delta;
    vector_int positive = vector_positive(z, native);
    if (activation == PIECEWISE_RELU) return vector_where(positive, delta);
    if (activation == PIECEWISE_RELU6) return vector_where(positive & vector_positive(6 - z, native), delta);
    return vector_where(positive, delta) + vector_where(~positive, delta * 0.1f);
}

// A source with its constants in registers. `kind` and `activation` are given apart, as constants of the caller's code;
// `native`: base/vector.h.
struct source_vectors {
    const float *x, *delta;
    vector_float multiplier, offset, c0, c1, c2;
};

VECTOR_INLINE struct source_vectors source_open(const struct source *s, enum source_kind kind)
{
    struct source_vectors v = {.x = s->x, .delta = s->delta};
    if (kind == SOURCE_PLAIN) return v;
    v.multiplier = vector_load(s->multiplier);
    v.offset = vector_load(s->offset);
    if (kind == SOURCE_NORMALIZED) return v;
    v.c0 = vector_load(s->coefficients[0]);
    v.c1 = vector_load(s->coefficients[1]);
    v.c2 = vector_load(s->coefficients[2]);
    return v;
}

VECTOR_INLINE vector_float source_value(const struct source_vectors *s, size_t pixel, enum source_kind kind, enum piecewise activation,
                                        const bool native)
{
    vector_float x = vector_load(s->x + pixel * BLOCK_CHANNELS);
    if (kind == SOURCE_PLAIN) return x;
    if (kind == SOURCE_NORMALIZED) return piecewise_value(activation, x * s->multiplier + s->offset, native);
    vector_float d = vector_load(s->delta + pixel * BLOCK_CHANNELS);
    if (activation != PIECEWISE_LINEAR) d = piecewise_error(activation, x * s->multiplier + s->offset, d, native);
    return d * s->c0 + (x * s->c1 + s->c2);
}

// Calls body(kind, activation) with constants: the kinds that are worth code of their own, and the rest.
#define SOURCE_DISPATCH(s, body)                                                                                    \
    do {                                                                                                            \
        if ((s)->kind == SOURCE_PLAIN)                                                                              \
            body(SOURCE_PLAIN, PIECEWISE_LINEAR);                                                                   \
        else if ((s)->kind == SOURCE_NORMALIZED && (s)->activation == PIECEWISE_RELU)                               \
            body(SOURCE_NORMALIZED, PIECEWISE_RELU);                                                                \
        else if ((s)->kind == SOURCE_NORMALIZED)                                                                    \
            body(SOURCE_NORMALIZED, (s)->activation);                                                               \
        else if ((s)->activation == PIECEWISE_RELU)                                                                 \
            body(SOURCE_ERROR, PIECEWISE_RELU);                                                                     \
        else if ((s)->activation == PIECEWISE_LINEAR)                                                               \
            body(SOURCE_ERROR, PIECEWISE_LINEAR);                                                                   \
        else                                                                                                        \
            body(SOURCE_ERROR, (s)->activation);                                                                    \
    } while (0)

// maxima[16] = max |value| of each lane over `pixels`, compared as bit patterns: a NaN comes out on top.
void source_maxima(const struct source *source, size_t pixels, float maxima[BLOCK_CHANNELS]);
// values[pixels][16] = (or +=) the source's values; source->x, source->delta may be `values` itself.
void source_write(const struct source *source, size_t pixels, float *values, bool accumulate);

#endif
