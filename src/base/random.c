#include "base/random.h"

#include <math.h>

float random_normal(struct random_stream *stream)
{
    double u = ((double)(random_next(stream) >> 11) + 1.0) * 0x1p-53;
    double v = (double)(random_next(stream) >> 11) * 0x1p-53;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}
