#include "cli/predictions.h"

#include <errno.h>
#include <string.h>

#include "base/csv.h"
#include "base/memory.h"
#include "train/metrics.h"

bool predictions_open(struct predictions *p, const char *path, const struct dataset *dataset, int top, struct error *error)
{
    *p = (struct predictions){.path = path, .dataset = dataset, .top = top < dataset->classes ? top : dataset->classes};
    if (!(p->classes = memory_allocate((size_t)p->top, sizeof *p->classes, error))) return false;
    if (!(p->file = fopen(path, "w"))) {
        memory_release(p->classes);
        return error_set(error, "%s: cannot create: %s", path, strerror(errno));
    }
    fputs("path,label", p->file);
    for (int r = 1; r <= p->top; r++) fprintf(p->file, ",class%d,probability%d", r, r);
    fputc('\n', p->file);
    return true;
}

void predictions_add(void *context, const float *scores, const struct batch *batch)
{
    const struct predictions *p = context;
    const struct dataset *d = p->dataset;
    for (int i = 0; i < batch->images; i++, scores += d->classes) {
        if (d->test.paths)
            csv_write_cell(p->file, d->test.paths[batch->pictures[i]]);
        else
            fprintf(p->file, "%d", batch->pictures[i]); // its place in the test split
        fputc(',', p->file);
        csv_write_cell(p->file, d->names[batch->labels[i]]);
        metrics_top(scores, d->classes, p->top, p->classes);
        for (int r = 0; r < p->top; r++) {
            fputc(',', p->file);
            csv_write_cell(p->file, d->names[p->classes[r]]);
            fprintf(p->file, ",%.6f", (double)scores[p->classes[r]]);
        }
        fputc('\n', p->file);
    }
}

bool predictions_close(struct predictions *p, struct error *error)
{
    bool good = !ferror(p->file);
    good &= fclose(p->file) == 0;
    memory_release(p->classes);
    return good || error_set(error, "%s: cannot write", p->path);
}
