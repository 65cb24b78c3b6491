#include "train/trainer.h"

#include <math.h>
#include <time.h>

#include "base/memory.h"
#include "train/schedule.h"
#include "train/sgd.h"

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// Scores of a batch in `scores`: of its only crop, or the mean of all in `sum`. The loss is the mean over the crops, too.
static bool score_batch(struct network *network, const struct batch *batch, bool first, float *sum, const float **scores, double *loss,
                        struct error *error)
{
    int classes;
    for (int k = 0; k < batch->crops; k++) {
        struct pass pass = {.pool = network->pool, .images = batch->images, .same_weights = !first || k > 0,
                            .labels = network->loss_layer ? batch->labels : NULL};
        if (!network_forward(network, batch->input + (size_t)k * batch->crop_stride, &pass, error)) return false;
        *scores = network_output(network, &classes);
        *loss += network->loss / batch->crops;
        if (batch->crops == 1) return true;
        size_t count = (size_t)batch->images * (size_t)classes;
        for (size_t i = 0; i < count; i++) sum[i] = (k ? sum[i] : 0) + (*scores)[i] / (float)batch->crops;
    }
    *scores = sum;
    return true;
}

bool evaluate(struct network *network, struct loader *test, struct metrics *metrics, evaluation_batch each, void *context,
              struct error *error)
{
    int classes;
    network_output(network, &classes);
    if (!metrics_create(metrics, classes, error)) return false;
    float *sum = memory_allocate((size_t)network->max_images * (size_t)classes, sizeof *sum, error);
    bool good = sum && loader_start(test, 0, 0, error);
    for (bool first = true; good; first = false) {
        struct batch batch;
        const float *scores;
        good = loader_next(test, &batch, error);
        if (!good || batch.images == 0) break;
        good = score_batch(network, &batch, first, sum, &scores, &metrics->loss_sum, error);
        if (!good) break;
        metrics_add(metrics, scores, batch.labels, batch.images);
        if (each) each(context, scores, &batch);
    }
    memory_release(sum);
    return good;
}

bool trainer_gradient(struct network *network, const struct training_settings *settings, const struct batch *batch, long step,
                      uint64_t rounding, double *loss_sum, long *correct, struct error *error)
{
    int parts = network->settings.subdivisions, images = batch->images / parts, classes;
    size_t size = shape_size(network->input_shape);
    for (int part = 0; part < parts; part++) {
        const int *labels = batch->labels + part * images;
        struct pass pass = {.pool = network->pool, .images = images, .training = true, .same_weights = part > 0,
                            .seed = (uint64_t)settings->seed, .step = (uint64_t)step * (uint64_t)parts + (uint64_t)part,
                            .part = (uint64_t)part, .rounding = rounding, .labels = labels,
                            .label_smoothing = settings->label_smoothing, .loss_scale = 1.0f / (float)batch->images};
        const float *input = batch->input + (size_t)part * (size_t)images * size;
        if (!network_forward(network, input, &pass, error) || !network_backward(network, &pass, error)) return false;
        *loss_sum += network->loss;
        const float *scores = network_output(network, &classes);
        for (int n = 0; n < images; n++)
            *correct += metrics_prediction(scores + (size_t)n * (size_t)classes, classes) == labels[n];
    }
    return true;
}

bool trainer_step(struct network *network, const struct training_settings *settings, const struct batch *batch, long step,
                  long total, double *loss_sum, long *correct, struct error *error)
{
    if (!trainer_gradient(network, settings, batch, step, 0, loss_sum, correct, error)) return false;
    const struct sgd sgd = {schedule_rate(settings, step, total), settings->momentum, settings->decay, settings->nesterov, settings->decay_all};
    bool good = sgd_step(&sgd, network, error);
    profile_lap(network->profile, network->layer_count, PART_OPTIMIZER, 0, 0, false);
    return good;
}

long trainer_total_steps(const struct trainer *trainer, struct error *error)
{
    const struct training_settings *s = trainer->settings;
    long per_epoch = trainer->dataset->train.count / trainer->network->settings.batch;
    long by_epochs = s->epochs * per_epoch, total = s->max_batches;
    if (s->epochs && (total == 0 || by_epochs < total)) total = by_epochs;
    if (per_epoch == 0)
        error_set(error, "[net] batch=%d, but there are only %d training pictures", trainer->network->settings.batch,
                  trainer->dataset->train.count);
    else if (total == 0)
        error_set(error, "[net] neither epochs nor max_batches is given: expected one of them above 0");
    return per_epoch ? total : 0;
}

// ---------------------------------------------------------------------------------------------
// The loop

struct run {
    struct trainer *trainer;
    struct loader *train, *test;
    long total, per_epoch, begun_at; // steps
    double started, epoch_started, saved, epoch_images; // epoch_images: computed by this process
    double epoch_waited; // what the loader said when the epoch began
    int listed[2];       // pictures in skipped.txt, of the training and the test split
};

static bool save(const struct run *run, const char *name, struct error *error)
{
    char path[4096];
    if (!run->trainer->folder) return true;
    run_folder_file(run->trainer->folder, name, path);
    return checkpoint_save(path, run->trainer->network, &run->trainer->state, run->trainer->cfg_text, error);
}

static void report_step(const struct run *run)
{
    const struct trainer *t = run->trainer;
    if (!t->on_step) return;
    double elapsed = now() - run->started;
    long done = t->state.step - run->begun_at;
    struct progress progress = {.epoch = t->state.epoch, .epochs = (run->total + run->per_epoch - 1) / run->per_epoch,
                                .batch = t->state.batch, .batches = run->per_epoch, .step = t->state.step, .steps = run->total};
    progress.loss = t->state.images ? t->state.loss_sum / (double)t->state.images : 0;
    progress.accuracy = t->state.images ? (double)t->state.correct / (double)t->state.images : 0;
    progress.images_per_second = (double)done * t->network->settings.batch / elapsed;
    progress.seconds_left = elapsed / (double)done * (double)(run->total - t->state.step);
    t->on_step(t->context, &progress);
}

// The pictures that were skipped, once each, in skipped.txt.
static bool list_skipped(struct run *run, struct error *error)
{
    const struct split *splits[] = {&run->trainer->dataset->train, &run->trainer->dataset->test};
    for (int k = 0; k < 2 && run->trainer->folder; k++) {
        int first = run->listed[k], count = split_skipped(splits[k]) - first;
        if (count == 0) continue;
        const char **lines = memory_allocate((size_t)count, sizeof *lines, error);
        for (int i = 0; lines && i < count; i++) lines[i] = split_skipped_text(splits[k], first + i);
        bool good = lines && run_folder_add_lines(run->trainer->folder, "skipped.txt", lines, count, error);
        memory_release(lines);
        if (!good) return false;
        run->listed[k] += count;
    }
    return true;
}

// Evaluates, keeps the best, logs the row, saves. The order makes a run that is killed anywhere in it go on right:
// what was written too early is written again with the same content.
static bool end_epoch(struct run *run, struct error *error)
{
    struct trainer *t = run->trainer;
    struct training_state *s = &t->state;
    double seconds = now() - run->epoch_started;
    struct metrics metrics = {0};
    double waited = loader_waited_seconds(run->train) - run->epoch_waited;
    bool good = evaluate(t->network, run->test, &metrics, NULL, NULL, error);
    struct epoch_row row = {.epoch = s->epoch + 1, .step = s->step, .rate = (double)schedule_rate(t->settings, s->step - 1, run->total),
                            .train_loss = s->loss_sum / (double)s->images, .train_accuracy = (double)s->correct / (double)s->images,
                            .images_per_second = run->epoch_images / seconds, .waited = waited / seconds};
    if (good) {
        row.test_loss = metrics.loss_sum / (double)metrics.images;
        row.top1 = (double)metrics.top1 / (double)metrics.images;
        row.top5 = (double)metrics.top5 / (double)metrics.images;
    }
    metrics_release(&metrics);
    row.seconds = now() - run->epoch_started;
    if (!good) return false;
    bool better = row.top1 > s->best;
    s->epoch++;
    s->batch = s->correct = s->images = 0;
    s->loss_sum = 0;
    if (better) s->best = row.top1;
    if (better && !save(run, "best.safetensors", error)) return false;
    if (t->folder && !run_folder_append(t->folder, &row, error)) return false;
    if (!list_skipped(run, error)) return false;
    if (t->on_epoch) t->on_epoch(t->context, &row);
    run->epoch_started = run->saved = now();
    run->epoch_images = 0;
    run->epoch_waited = loader_waited_seconds(run->train);
    return save(run, "last.safetensors", error);
}

static bool one_step(struct run *run, struct error *error)
{
    struct trainer *t = run->trainer;
    struct training_state *s = &t->state;
    struct batch batch;
    if (!loader_next(run->train, &batch, error)) return false;
    double loss_before = s->loss_sum;
    if (!trainer_step(t->network, t->settings, &batch, s->step, run->total, &s->loss_sum, &s->correct, error))
        return error_prefix(error, "step %ld: ", s->step);
    if (!isfinite(s->loss_sum - loss_before)) return error_set(error, "step %ld: the loss is not a finite number", s->step);
    s->step++;
    s->batch++;
    s->images += batch.images;
    run->epoch_images += batch.images;
    report_step(run);
    return true;
}

static bool loop(struct run *run, struct error *error)
{
    struct trainer *t = run->trainer;
    struct training_state *s = &t->state;
    while (s->step < run->total) {
        if (!one_step(run, error)) return false;
        bool stop = (t->stop_flag && *t->stop_flag) || (t->stop_after && s->step - run->begun_at >= t->stop_after);
        if (s->batch == run->per_epoch || s->step == run->total) {
            if (!end_epoch(run, error)) return false;
        } else if (stop || now() - run->saved > t->save_seconds) {
            run->saved = now();
            if (!save(run, "last.safetensors", error)) return false;
        }
        if (stop && s->step < run->total) return true;
    }
    t->finished = true;
    return true;
}

bool trainer_run(struct trainer *t, struct error *error)
{
    struct run run = {.trainer = t, .total = trainer_total_steps(t, error), .begun_at = t->state.step};
    t->finished = false;
    if (run.total == 0) return false;
    uint64_t seed = (uint64_t)t->settings->seed;
    const struct loader_request train = {.dataset = t->dataset, .training = true, .batch = t->network->settings.batch, .seed = seed};
    const struct loader_request test = {.dataset = t->dataset, .batch = t->network->max_images, .seed = seed};
    bool good = loader_create(&train, &run.train, error) && loader_create(&test, &run.test, error);
    run.per_epoch = good ? loader_batches_per_epoch(run.train) : 0;
    if (good && t->state.batch >= run.per_epoch)
        good = error_set(error, "the training to go on with is at batch %ld of an epoch, which has %ld now: other pictures, or another batch",
                         t->state.batch, run.per_epoch);
    good = good && loader_start(run.train, (uint64_t)t->state.epoch, (int)t->state.batch, error);
    run.started = run.epoch_started = run.saved = now();
    good = good && loop(&run, error);
    struct error problem;
    if (!list_skipped(&run, &problem) && good) good = error_set(error, "%s", problem.message); // an older error stays
    loader_destroy(run.train);
    loader_destroy(run.test);
    return good;
}
