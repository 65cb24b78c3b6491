#include "kernels/source.h"

VECTOR_INLINE void maxima(const struct source *source, size_t pixels, float *out, enum source_kind kind, enum piecewise activation,
                          const bool native)
{
    struct source_vectors s = source_open(source, kind);
    vector_int even = {0}, odd = {0};
    size_t p = 0;
    for (; p + 2 <= pixels; p += 2) {
        even = vector_maximum(even, source_value(&s, p, kind, activation, native), native);
        odd = vector_maximum(odd, source_value(&s, p + 1, kind, activation, native), native);
    }
    if (p < pixels) even = vector_maximum(even, source_value(&s, p, kind, activation, native), native);
    vector_store(out, (vector_float)vector_maximum(even, (vector_float)odd, native));
}

VECTOR_INLINE void source_maxima_body(const struct source *source, size_t pixels, float *out, const bool native)
{
#define BODY(kind, activation) maxima(source, pixels, out, kind, activation, native)
    SOURCE_DISPATCH(source, BODY);
#undef BODY
}
VECTORIZED_VERSIONS(, source_maxima, (const struct source *source, size_t pixels, float out[BLOCK_CHANNELS]), source, pixels, out)

VECTOR_INLINE void write(const struct source *source, size_t pixels, float *values, bool accumulate, enum source_kind kind,
                         enum piecewise activation, const bool native)
{
    struct source_vectors s = source_open(source, kind);
    for (size_t p = 0; p < pixels; p++) {
        vector_float value = source_value(&s, p, kind, activation, native);
        if (accumulate) value = vector_load(values + p * BLOCK_CHANNELS) + value;
        vector_store(values + p * BLOCK_CHANNELS, value);
    }
}

VECTOR_INLINE void source_write_body(const struct source *source, size_t pixels, float *values, bool accumulate, const bool native)
{
#define BODY(kind, activation) write(source, pixels, values, accumulate, kind, activation, native)
    SOURCE_DISPATCH(source, BODY);
#undef BODY
}
VECTORIZED_VERSIONS(, source_write, (const struct source *source, size_t pixels, float *values, bool accumulate), source, pixels, values, accumulate)
