#include "kernels/source.h"

VECTOR_INLINE void maxima(const struct source *source, size_t pixels, float *out, enum source_kind kind, enum piecewise activation)
{
    struct source_vectors s = source_open(source, kind);
    vector_int even = {0}, odd = {0};
    size_t p = 0;
    for (; p + 2 <= pixels; p += 2) {
        even = vector_maximum(even, source_value(&s, p, kind, activation));
        odd = vector_maximum(odd, source_value(&s, p + 1, kind, activation));
    }
    if (p < pixels) even = vector_maximum(even, source_value(&s, p, kind, activation));
    vector_int larger = odd > even;
    vector_store(out, (vector_float)((odd & larger) | (even & ~larger)));
}

VECTORIZED void source_maxima(const struct source *source, size_t pixels, float out[BLOCK_CHANNELS])
{
#define BODY(kind, activation) maxima(source, pixels, out, kind, activation)
    SOURCE_DISPATCH(source, BODY);
#undef BODY
}

VECTOR_INLINE void write(const struct source *source, size_t pixels, float *values, bool accumulate, enum source_kind kind,
                         enum piecewise activation)
{
    struct source_vectors s = source_open(source, kind);
    for (size_t p = 0; p < pixels; p++) {
        vector_float value = source_value(&s, p, kind, activation);
        if (accumulate) value = vector_load(values + p * BLOCK_CHANNELS) + value;
        vector_store(values + p * BLOCK_CHANNELS, value);
    }
}

VECTORIZED void source_write(const struct source *source, size_t pixels, float *values, bool accumulate)
{
#define BODY(kind, activation) write(source, pixels, values, accumulate, kind, activation)
    SOURCE_DISPATCH(source, BODY);
#undef BODY
}
