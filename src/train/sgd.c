#include "train/sgd.h"

#include <stdatomic.h>
#include <string.h>

#include "base/vector.h"

// Whether all new weights are finite.
VECTORIZED static bool update(const struct sgd *sgd, float decay, float *weights, float *gradients, float *momentum, size_t count)
{
    const int32_t infinity = 0x7f800000; // no bit pattern of a finite number's magnitude is larger
    float rate = sgd->rate, keep = sgd->momentum;
    int32_t largest = 0;
    for (size_t i = 0; i < count; i++) {
        float g = gradients[i] + decay * weights[i];
        float v = keep * momentum[i] + g;
        momentum[i] = v;
        weights[i] -= rate * (sgd->nesterov ? g + keep * v : v);
        gradients[i] = 0;
        int32_t bits;
        memcpy(&bits, &weights[i], sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest < infinity;
}

struct work {
    const struct sgd *sgd;
    struct network *network;
    atomic_int failed; // the first parameter that did
};

static void update_task(void *context, int task, int thread)
{
    (void)thread;
    struct work *work = context;
    struct parameter *p = work->network->parameters[task];
    if (!p->gradient) return;
    float decay = p->decay || work->sgd->decay_all ? work->sgd->decay : 0;
    if (update(work->sgd, decay, p->value, p->gradient, p->momentum, p->count)) return;
    int first = work->failed;
    while (task < first && !atomic_compare_exchange_weak(&work->failed, &first, task)) continue;
}

bool sgd_step(const struct sgd *sgd, struct network *network, struct error *error)
{
    struct work work = {sgd, network, network->parameter_count};
    thread_pool_run(network->pool, network->parameter_count, update_task, &work);
    if (work.failed == network->parameter_count) return true;
    return error_set(error, "%s: a weight is not a finite number after the update", network->parameters[work.failed]->name);
}
