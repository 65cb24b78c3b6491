// mlsnet eval: figures of a checkpoint over the test set.
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/csv.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/predictions.h"
#include "cli/session.h"
#include "train/trainer.h"

struct options {
    struct session_request session;
    const char *checkpoint, *confusion, *predictions;
    int top;
    bool json;
};

static struct json_object *json_of(const struct metrics *m, const struct dataset *dataset)
{
    struct json_object *o = json_object_new_object(), *classes = json_object_new_array();
    json_object_object_add(o, "images", json_object_new_int64(m->images));
    json_object_object_add(o, "skipped", json_object_new_int(split_skipped(&dataset->test)));
    json_object_object_add(o, "loss", json_object_new_double(m->loss_sum / (double)m->images));
    json_object_object_add(o, "top1", json_object_new_double((double)m->top1 / (double)m->images));
    json_object_object_add(o, "top5", json_object_new_double((double)m->top5 / (double)m->images));
    for (int c = 0; c < m->classes; c++) {
        struct json_object *row = json_object_new_object();
        json_object_object_add(row, "name", json_object_new_string(dataset->names[c]));
        json_object_object_add(row, "precision", json_object_new_double(metrics_precision(m, c)));
        json_object_object_add(row, "recall", json_object_new_double(metrics_recall(m, c)));
        json_object_array_add(classes, row);
    }
    json_object_object_add(o, "classes", classes);
    return o;
}

static void print_figures(const struct metrics *m, const struct dataset *dataset)
{
    printf("%ld images: top-1 %.2f %%  top-5 %.2f %%  loss %.4f\n\n", m->images, 100 * (double)m->top1 / (double)m->images,
           100 * (double)m->top5 / (double)m->images, m->loss_sum / (double)m->images);
    printf("%-20s %10s %10s\n", "class", "precision", "recall");
    for (int c = 0; c < m->classes; c++)
        printf("%-20s %9.2f%% %9.2f%%\n", dataset->names[c], 100 * metrics_precision(m, c), 100 * metrics_recall(m, c));
}

// Rows: labels, columns: predictions. `counts`: [classes][classes].
static bool write_confusion(const char *path, const long *counts, const struct dataset *dataset, struct error *error)
{
    FILE *file = fopen(path, "w");
    if (!file) return error_set(error, "%s: cannot create: %s", path, strerror(errno));
    fputs("label", file);
    for (int r = -1; r < dataset->classes; r++) {
        if (r >= 0) csv_write_cell(file, dataset->names[r]);
        for (int c = 0; c < dataset->classes; c++) {
            fputc(',', file);
            if (r < 0)
                csv_write_cell(file, dataset->names[c]);
            else
                fprintf(file, "%ld", *counts++);
        }
        fputc('\n', file);
    }
    bool good = !ferror(file);
    good &= fclose(file) == 0;
    return good || error_set(error, "%s: cannot write", path);
}

// What is kept of each picture.
struct record {
    struct predictions predictions; // file NULL: not asked for
    long *confusion;                // [classes][classes], by label and prediction; NULL: not asked for
    int classes;
};

static void add_batch(void *context, const float *scores, const struct batch *batch)
{
    struct record *record = context;
    if (record->predictions.file) predictions_add(&record->predictions, scores, batch);
    for (int i = 0; record->confusion && i < batch->images; i++, scores += record->classes)
        record->confusion[(size_t)batch->labels[i] * (size_t)record->classes + (size_t)metrics_prediction(scores, record->classes)]++;
}

static bool open_record(const struct options *o, const struct session *session, struct record *record, struct error *error)
{
    int classes = session->dataset->classes, top = o->top ? o->top : session->darknet.top ? session->darknet.top : 5;
    *record = (struct record){.classes = classes};
    if (o->confusion && !(record->confusion = memory_allocate((size_t)classes * (size_t)classes, sizeof(long), error))) return false;
    return !o->predictions || predictions_open(&record->predictions, o->predictions, session->dataset, top, error);
}

static bool measure(const struct options *o, struct session *session, struct metrics *metrics, struct error *error)
{
    const struct loader_request request = {.dataset = session->dataset, .batch = session->network->max_images, .seed = 1,
                                           .crops = session->data.crops};
    struct record record;
    struct loader *loader = NULL;
    if (!session_load_weights(session, o->checkpoint, error) || !loader_create(&request, &loader, error)) return false;
    bool good = open_record(o, session, &record, error) && evaluate(session->network, loader, metrics, add_batch, &record, error);
    if (record.predictions.file && !predictions_close(&record.predictions, good ? error : NULL)) good = false;
    loader_destroy(loader);
    if (good && metrics->images == 0) good = error_set(error, "no picture could be read");
    if (good && o->confusion) good = write_confusion(o->confusion, record.confusion, session->dataset, error);
    memory_release(record.confusion);
    return good;
}

static int run(const struct options *o, struct session *session)
{
    struct error error;
    struct metrics metrics = {0};
    const struct split *test = &session->dataset->test;
    bool good = measure(o, session, &metrics, &error);
    for (int i = 0; i < split_skipped(test); i++) fprintf(stderr, "mlsnet eval: skipped %s\n", split_skipped_text(test, i));
    if (!good) {
        fprintf(stderr, "mlsnet eval: %s\n", error.message);
    } else if (o->json) {
        struct json_object *figures = json_of(&metrics, session->dataset);
        puts(json_object_to_json_string_ext(figures, JSON_C_TO_STRING_PRETTY));
        json_object_put(figures);
    } else {
        print_figures(&metrics, session->dataset);
    }
    metrics_release(&metrics);
    return good ? 0 : 1;
}

int command_eval(int argc, char **argv)
{
    struct options o = {.session = SESSION_REQUEST_DEFAULTS};
    const struct argument table[] = {
        SESSION_ARGUMENTS(o.session),
        {"CHECKPOINT", ARGUMENT_POSITIONAL, &o.checkpoint, "a .safetensors or .weights file of the network"},
        {"--confusion", ARGUMENT_TEXT, &o.confusion, "write the confusion matrix to this CSV file (default: do not)"},
        {"--predictions", ARGUMENT_TEXT, &o.predictions, "write each picture's path, label, likely classes, probabilities to this CSV file"},
        {"--top", ARGUMENT_INT, &o.top, "classes of a picture there (default: 5, or top= of the .data file)"},
        {"--json", ARGUMENT_FLAG, &o.json, "print as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "CFG CHECKPOINT [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    if (o.top < 0) {
        fprintf(stderr, "mlsnet eval: --top: expected at least 1\n");
        return 2;
    }
    struct session session;
    o.session.needs_data = o.session.without_train = true;
    int status = session_open(&session, &o.session);
    if (status == 0) status = run(&o, &session);
    session_close(&session);
    return status;
}
