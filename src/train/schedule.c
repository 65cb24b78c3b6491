#include "train/schedule.h"

#include <math.h>

static double onecycle(double highest, long step, long total)
{
    double rise = 0.3 * (double)total, first = highest / 25, last = first / 1e4;
    if ((double)step < rise) return first + (highest - first) * (double)step / rise;
    double share = ((double)step - rise) / ((double)total - rise);
    return last + (highest - last) * 0.5 * (1 + cos(3.14159265358979323846 * share));
}

static double stepped(const struct training_settings *s, long step)
{
    double rate = (double)s->learning_rate;
    for (int i = 0; i < s->steps.count && i < s->scales.count; i++)
        if (s->steps.integers[i] <= step) rate *= (double)s->scales.floats[i];
    return rate;
}

float schedule_rate(const struct training_settings *s, long step, long total)
{
    double rate = (double)s->learning_rate, share = total > 0 ? (double)step / (double)total : 0;
    if (step < s->burn_in) return (float)(rate * pow((double)step / s->burn_in, (double)s->power));
    switch ((enum learning_rate_policy)s->policy) {
    case POLICY_CONSTANT: break;
    case POLICY_STEP: rate *= pow((double)s->scale, (double)(step / s->step)); break;
    case POLICY_STEPS: rate = stepped(s, step); break;
    case POLICY_EXP: rate *= pow((double)s->gamma, (double)step); break;
    case POLICY_POLY: rate *= pow(1 - share, (double)s->power); break;
    case POLICY_SIGMOID: rate *= 1 / (1 + exp((double)s->gamma * (double)(step - s->step))); break;
    case POLICY_COSINE: rate *= 0.5 * (1 + cos(3.14159265358979323846 * share)); break;
    case POLICY_ONECYCLE: rate = onecycle(rate, step, total); break;
    }
    return (float)rate;
}
