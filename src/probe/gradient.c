#include "probe/gradient.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "train/trainer.h"

struct gradient_probe {
    const struct training_settings *settings;
    struct loader *loader;
    int batches, rows, layers, max_images, subdivisions;
    const bool *counted;  // not owned
    size_t weights;       // of all rows together
    float *gradients;     // [batches][weights]
    double *losses;       // [batches], an image's
};

// Sums of one batch over the weights of a row, or of all that are counted.
struct sums {
    double reference;         // |G|^2
    double error;             // sum over the seeds of |g - G|^2
    double spread;            // sum over the seeds of |g - mean over the seeds|^2
    double cosine, product;   // sums over the seeds
    double square, along;     // of the present seed: |g|^2, (g, G)
};

static bool is_weights(const struct parameter *parameter)
{
    return parameter->trainable && parameter->decay;
}

static int layer_of(const struct parameter *parameter)
{
    int layer = 0;
    sscanf(parameter->name, "layers.%d.", &layer);
    return layer;
}

// ---------------------------------------------------------------------------------------------
// Running statistics are put back

static float *statistics_save(const struct network *network, struct error *error)
{
    size_t count = 0;
    for (int i = 0; i < network->parameter_count; i++)
        if (!network->parameters[i]->trainable) count += network->parameters[i]->count;
    float *saved = memory_allocate(count, sizeof *saved, error), *to = saved;
    for (int i = 0; saved && i < network->parameter_count; i++) {
        const struct parameter *p = network->parameters[i];
        if (p->trainable) continue;
        memcpy(to, p->value, p->count * sizeof *to);
        to += p->count;
    }
    return saved;
}

static void statistics_restore(struct network *network, float *saved)
{
    const float *from = saved;
    for (int i = 0; saved && i < network->parameter_count; i++) {
        struct parameter *p = network->parameters[i];
        if (p->trainable) continue;
        memcpy(p->value, from, p->count * sizeof *from);
        from += p->count;
    }
    memory_release(saved);
}

// ---------------------------------------------------------------------------------------------
// The reference

static bool take_gradient(const struct gradient_probe *probe, struct network *network, const struct batch *batch, int index,
                          uint64_t rounding, double *loss, struct error *error)
{
    long correct = 0;
    double sum = 0;
    network_clear_gradients(network);
    if (!trainer_gradient(network, probe->settings, batch, index, rounding, &sum, &correct, error)) return false;
    *loss += sum / batch->images;
    return true;
}

static bool take_reference(struct gradient_probe *probe, struct network *fp32, struct error *error)
{
    struct batch batch;
    if (!loader_start(probe->loader, 0, 0, error)) return false;
    for (int b = 0; b < probe->batches; b++) {
        if (!loader_next(probe->loader, &batch, error) || !take_gradient(probe, fp32, &batch, b, 0, &probe->losses[b], error)) return false;
        float *to = probe->gradients + (size_t)b * probe->weights;
        for (int i = 0; i < fp32->parameter_count; i++) {
            const struct parameter *p = fp32->parameters[i];
            if (!is_weights(p)) continue;
            memcpy(to, p->gradient, p->count * sizeof *to);
            to += p->count;
        }
    }
    return true;
}

struct gradient_probe *gradient_probe_create(struct network *fp32, const struct training_settings *settings, struct loader *loader,
                                             int batches, const bool *counted, struct error *error)
{
    struct gradient_probe *probe = memory_allocate(1, sizeof *probe, error);
    if (!probe) return NULL;
    *probe = (struct gradient_probe){.settings = settings, .loader = loader, .batches = batches, .layers = fp32->layer_count,
                                     .max_images = fp32->max_images, .subdivisions = fp32->settings.subdivisions, .counted = counted};
    for (int i = 0; i < fp32->parameter_count; i++) {
        if (!is_weights(fp32->parameters[i])) continue;
        probe->rows++;
        probe->weights += fp32->parameters[i]->count;
    }
    probe->gradients = memory_allocate((size_t)batches * probe->weights, sizeof *probe->gradients, error);
    probe->losses = memory_allocate((size_t)batches, sizeof *probe->losses, error);
    float *saved = statistics_save(fp32, error);
    bool good = probe->gradients && probe->losses && saved && take_reference(probe, fp32, error);
    statistics_restore(fp32, saved);
    if (good) return probe;
    gradient_probe_destroy(probe);
    return NULL;
}

void gradient_probe_destroy(struct gradient_probe *probe)
{
    if (!probe) return;
    memory_release(probe->gradients);
    memory_release(probe->losses);
    memory_release(probe);
}

// ---------------------------------------------------------------------------------------------
// Figures

static const struct gradient_figures unknown = {NAN, NAN, NAN, NAN, NAN};

// One seed's gradient of a row: `means` holds the mean of g - G over the seeds so far (Welford's method, so that equal gradients have
// no spread at all).
static void add_gradient(struct sums *s, const float *g, const float *reference, double *means, size_t count, int seed)
{
    s->square = s->along = 0;
    double squares = 0, error = 0, spread = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)g[i] - (double)reference[i], step = difference - means[i];
        means[i] += step / (seed + 1);
        spread += step * (difference - means[i]);
        error += difference * difference;
        squares += (double)reference[i] * (double)reference[i];
        s->square += (double)g[i] * (double)g[i];
        s->along += (double)g[i] * (double)reference[i];
    }
    s->reference = squares;
    s->error += error;
    s->spread += spread;
}

static void finish_seed(struct sums *s)
{
    s->product += s->along;
    s->cosine += s->square > 0 ? s->along / sqrt(s->square * s->reference) : 0;
}

// The batch's sums as figures, added to those of the batches before.
static void add_figures(struct gradient_figures *f, const struct sums *s, int seeds)
{
    double noise = seeds > 1 ? s->spread / (seeds - 1) : NAN;
    if (s->reference == 0) {
        *f = unknown;
        return;
    }
    f->error += s->error / seeds / s->reference;
    f->noise += noise / s->reference;
    f->bias += (s->error / seeds - noise) / s->reference;
    f->cosine += s->cosine / seeds;
    f->slope += s->product / seeds / s->reference;
}

static void scale_figures(struct gradient_figures *f, double factor)
{
    f->error *= factor;
    f->bias *= factor;
    f->noise *= factor;
    f->cosine *= factor;
    f->slope *= factor;
}

// Over the counted rows whose reference is not 0.
static struct gradient_figures mean_of_rows(const struct gradient_result *result)
{
    struct gradient_figures mean = {0};
    int count = 0;
    for (int i = 0; i < result->count; i++) {
        const struct gradient_figures *f = &result->rows[i].figures;
        if (!result->rows[i].counted || isnan(f->error)) continue;
        count++;
        mean.error += f->error;
        mean.bias += f->bias;
        mean.noise += f->noise;
        mean.cosine += f->cosine;
        mean.slope += f->slope;
    }
    if (count == 0) return unknown;
    scale_figures(&mean, 1.0 / count);
    return mean;
}

// ---------------------------------------------------------------------------------------------
// Measuring

struct measurement {
    const struct gradient_probe *probe;
    struct network *network;
    struct gradient_result *result;
    int seeds;
    double *means;         // [weights]
    const struct parameter **weights; // [rows]
    struct sums *sums;     // [rows], and those of all that are counted
};

static void add_seed(struct measurement *m, int batch, int seed)
{
    const float *reference = m->probe->gradients + (size_t)batch * m->probe->weights;
    double *means = m->means;
    struct sums *all = &m->sums[m->result->count];
    all->reference = all->square = all->along = all->error = all->spread = 0;
    for (int i = 0; i < m->result->count; i++) {
        const struct parameter *weights = m->weights[i];
        struct sums *s = &m->sums[i];
        add_gradient(s, weights->gradient, reference, means, weights->count, seed);
        finish_seed(s);
        reference += weights->count;
        means += weights->count;
        if (!m->result->rows[i].counted) continue;
        all->reference += s->reference;
        all->square += s->square;
        all->along += s->along;
        all->error += s->error; // these two are sums over the seeds in s already
        all->spread += s->spread;
    }
    finish_seed(all);
}

static bool measure_batch(struct measurement *m, int index, struct error *error)
{
    struct batch batch;
    struct gradient_result *r = m->result;
    if (!loader_next(m->probe->loader, &batch, error)) return false;
    memset(m->means, 0, m->probe->weights * sizeof *m->means);
    memset(m->sums, 0, ((size_t)r->count + 1) * sizeof *m->sums);
    for (int seed = 0; seed < m->seeds; seed++) {
        double loss = 0;
        if (!take_gradient(m->probe, m->network, &batch, index, (uint64_t)seed, &loss, error)) return false;
        r->loss += loss;
        r->loss_difference += loss - m->probe->losses[index];
        add_seed(m, index, seed);
    }
    for (int i = 0; i < r->count; i++) add_figures(&r->rows[i].figures, &m->sums[i], m->seeds);
    add_figures(&r->whole, &m->sums[r->count], m->seeds);
    return true;
}

static bool measure(struct measurement *m, struct error *error)
{
    struct gradient_result *r = m->result;
    int batches = m->probe->batches;
    if (!loader_start(m->probe->loader, 0, 0, error)) return false;
    for (int b = 0; b < batches; b++)
        if (!measure_batch(m, b, error)) return false;
    for (int i = 0; i < r->count; i++) scale_figures(&r->rows[i].figures, 1.0 / batches);
    scale_figures(&r->whole, 1.0 / batches);
    r->loss /= (double)batches * m->seeds;
    r->loss_difference /= (double)batches * m->seeds;
    r->mean = mean_of_rows(r);
    return true;
}

static void list_rows(struct measurement *m)
{
    const struct network *network = m->network;
    struct gradient_result *result = m->result;
    for (int i = 0; i < network->parameter_count; i++) {
        const struct parameter *p = network->parameters[i];
        if (!is_weights(p)) continue;
        int layer = layer_of(p);
        struct gradient_row *row = &result->rows[result->count];
        *row = (struct gradient_row){.layer = layer, .low_bit = network->layers[layer]->low_bit, .counted = m->probe->counted[layer]};
        memcpy(row->name, p->name, sizeof row->name);
        m->weights[result->count++] = p;
    }
}

static bool same_weights(const struct gradient_probe *probe, const struct network *network)
{
    size_t weights = 0;
    for (int i = 0; i < network->parameter_count; i++)
        if (is_weights(network->parameters[i])) weights += network->parameters[i]->count;
    return network->for_training && network->layer_count == probe->layers && weights == probe->weights &&
           network->max_images == probe->max_images && network->settings.subdivisions == probe->subdivisions;
}

bool gradient_probe_measure(const struct gradient_probe *probe, struct network *network, int seeds, struct gradient_result *result,
                            struct error *error)
{
    *result = (struct gradient_result){0};
    if (!same_weights(probe, network)) return error_set(error, "the network differs from the fp32 one in layers, weights or batch");
    struct measurement m = {.probe = probe, .network = network, .result = result, .seeds = seeds};
    m.means = memory_allocate(probe->weights, sizeof *m.means, error);
    m.sums = memory_allocate((size_t)probe->rows + 1, sizeof *m.sums, error);
    result->rows = memory_allocate((size_t)probe->rows, sizeof *result->rows, error);
    float *saved = statistics_save(network, error);
    m.weights = memory_allocate((size_t)probe->rows, sizeof *m.weights, error);
    bool good = m.means && m.sums && m.weights && result->rows && saved;
    if (good) {
        list_rows(&m);
        good = measure(&m, error);
    }
    statistics_restore(network, saved);
    memory_release(m.means);
    memory_release(m.sums);
    memory_release(m.weights);
    if (good) return true;
    memory_release(result->rows);
    result->rows = NULL;
    return false;
}
