#include "net/planar.h"

struct copy_work {
    const float *from;
    float *to;
    struct shape shape;
    bool accumulate;
};

static void to_planar_task(void *context, int n, int thread)
{
    (void)thread;
    const struct copy_work *w = context;
    const float *from = w->from + (size_t)n * shape_stored(w->shape);
    blocked_to_planar(from, w->shape.channels, shape_pixels(w->shape), w->to + (size_t)n * shape_size(w->shape));
}

static void from_planar_task(void *context, int n, int thread)
{
    (void)thread;
    const struct copy_work *w = context;
    const float *from = w->from + (size_t)n * shape_size(w->shape);
    float *to = w->to + (size_t)n * shape_stored(w->shape);
    size_t pixels = shape_pixels(w->shape);
    if (!w->accumulate) {
        blocked_from_planar(from, w->shape.channels, pixels, to);
        return;
    }
    for (int k = 0; k < w->shape.channels; k++)
        for (size_t p = 0; p < pixels; p++) to[blocked_at(pixels, k, p)] += *from++;
}

void planar_from_map(const struct pass *pass, const float *map, struct shape shape, float *planar)
{
    thread_pool_run(pass->pool, pass->images, to_planar_task, &(struct copy_work){map, planar, shape, false});
}

void planar_to_map(const struct pass *pass, const float *planar, struct shape shape, float *map, bool accumulate)
{
    thread_pool_run(pass->pool, pass->images, from_planar_task, &(struct copy_work){planar, map, shape, accumulate});
}
