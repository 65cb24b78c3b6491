#include "mls/elements.h"

VECTORIZED float largest_magnitude(const float *x, size_t count)
{
    vector_int maximum = {0};
    size_t i = 0;
    for (; i + VECTOR_LANES <= count; i += VECTOR_LANES) maximum = vector_maximum(maximum, vector_load(x + i), false);
    if (i < count) maximum = vector_maximum(maximum, vector_load_part(x + i, count - i), false);
    return vector_maximum_of_lanes(maximum);
}
