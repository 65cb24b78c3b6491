#include "net/activations.h"

#include <math.h>

// f(x) and f'(x) in terms of y = f(x), as Darknet's activations.h defines them.
static float value_of(enum activation activation, float x)
{
    switch (activation) {
    case ACTIVATION_LINEAR: return x;
    case ACTIVATION_RELU: return x > 0 ? x : 0;
    case ACTIVATION_LEAKY: return x > 0 ? x : 0.1f * x;
    case ACTIVATION_RELU6: return x > 0 ? (x < 6 ? x : 6) : 0;
    case ACTIVATION_LOGISTIC: return 1 / (1 + expf(-x));
    case ACTIVATION_TANH: return tanhf(x);
    case ACTIVATION_ELU: return x >= 0 ? x : expm1f(x);
    case ACTIVATION_SELU: return x >= 0 ? 1.0507f * x : 1.0507f * 1.6732f * expm1f(x);
    case ACTIVATION_LOGGY: return 2 / (1 + expf(-x)) - 1;
    case ACTIVATION_RELIE: return x > 0 ? x : 0.01f * x;
    case ACTIVATION_RAMP: return x * (float)(x > 0) + 0.1f * x;
    case ACTIVATION_PLSE: return x < -4 ? 0.01f * (x + 4) : x > 4 ? 0.01f * (x - 4) + 1 : 0.125f * x + 0.5f;
    case ACTIVATION_STAIR: {
        int n = (int)floorf(x);
        return n % 2 == 0 ? floorf(x / 2) : (x - (float)n) + floorf(x / 2);
    }
    case ACTIVATION_HARDTAN: return x < -1 ? -1 : x > 1 ? 1 : x;
    case ACTIVATION_LHTAN: return x < 0 ? 0.001f * x : x > 1 ? 0.001f * (x - 1) + 1 : x;
    }
    return x;
}

static float slope_of(enum activation activation, float y)
{
    switch (activation) {
    case ACTIVATION_LINEAR: return 1;
    case ACTIVATION_RELU: return y > 0;
    case ACTIVATION_LEAKY: return y > 0 ? 1 : 0.1f;
    case ACTIVATION_RELU6: return y > 0 && y < 6;
    case ACTIVATION_LOGISTIC: return (1 - y) * y;
    case ACTIVATION_TANH: return 1 - y * y;
    case ACTIVATION_ELU: return y >= 0 ? 1 : y + 1;
    case ACTIVATION_SELU: return y >= 0 ? 1.0507f : y + 1.0507f * 1.6732f;
    case ACTIVATION_LOGGY: return 2 * (1 - (y + 1) / 2) * ((y + 1) / 2);
    case ACTIVATION_RELIE: return y > 0 ? 1 : 0.01f;
    case ACTIVATION_RAMP: return y > 0 ? 1.1f : 0.1f;
    case ACTIVATION_PLSE: return y < 0 || y > 1 ? 0.01f : 0.125f;
    case ACTIVATION_STAIR: return floorf(y) == y ? 0 : 1;
    case ACTIVATION_HARDTAN: return y > -1 && y < 1;
    case ACTIVATION_LHTAN: return y > 0 && y < 1 ? 1 : 0.001f;
    }
    return 1;
}

void activation_apply(enum activation activation, float *values, size_t count)
{
    if (activation == ACTIVATION_LINEAR) return;
    if (activation == ACTIVATION_RELU) // a loop of its own, that the compiler turns into vectors; keeps a NaN
        for (size_t i = 0; i < count; i++) values[i] = values[i] <= 0 ? 0 : values[i];
    else
        for (size_t i = 0; i < count; i++) values[i] = isnan(values[i]) ? values[i] : value_of(activation, values[i]);
}

void activation_gradient(enum activation activation, const float *outputs, float *delta, size_t count)
{
    if (activation == ACTIVATION_LINEAR) return;
    if (activation == ACTIVATION_RELU)
        for (size_t i = 0; i < count; i++) delta[i] = outputs[i] > 0 ? delta[i] : 0;
    else
        for (size_t i = 0; i < count; i++) delta[i] *= slope_of(activation, outputs[i]);
}

bool activation_is_nonnegative(enum activation activation)
{
    return activation == ACTIVATION_RELU || activation == ACTIVATION_RELU6 || activation == ACTIVATION_LOGISTIC;
}

bool activation_piecewise(enum activation activation, enum piecewise *piecewise)
{
    switch (activation) {
    case ACTIVATION_LINEAR: *piecewise = PIECEWISE_LINEAR; return true;
    case ACTIVATION_RELU: *piecewise = PIECEWISE_RELU; return true;
    case ACTIVATION_LEAKY: *piecewise = PIECEWISE_LEAKY; return true;
    case ACTIVATION_RELU6: *piecewise = PIECEWISE_RELU6; return true;
    default: *piecewise = PIECEWISE_LINEAR; return false;
    }
}
