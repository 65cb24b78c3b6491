#include "cli/learning_curves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/memory.h"
#include "cli/gnuplot.h"

#define PLOT_WIDTH 560 // of each of the two
#define FEW_EPOCHS 20  // so many have a mark each

void curves_release(struct curves *curves)
{
    for (int i = 0; i < curves->count; i++) {
        free(curves->items[i].name);
        memory_release(curves->items[i].loss);
        memory_release(curves->items[i].top1);
    }
    free(curves->items);
    *curves = (struct curves){0};
}

static int longest_of(const struct csv *logs, int count)
{
    int longest = 0;
    for (int i = 0; i < count; i++)
        if (logs[i].rows > longest) longest = logs[i].rows;
    return longest;
}

static double mean_at(const struct csv *logs, int count, int epoch, const char *column)
{
    double sum = 0;
    int used = 0;
    for (int i = 0; i < count; i++) {
        double value = epoch < logs[i].rows ? csv_number(&logs[i], epoch, csv_column(&logs[i], column)) : (double)NAN;
        if (isnan(value)) continue;
        sum += value;
        used++;
    }
    return used ? sum / used : (double)NAN;
}

static bool fill(struct curve *curve, const struct csv *logs, int count, struct error *error)
{
    curve->epochs = longest_of(logs, count);
    curve->loss = memory_allocate((size_t)curve->epochs, sizeof *curve->loss, error);
    curve->top1 = curve->loss ? memory_allocate((size_t)curve->epochs, sizeof *curve->top1, error) : NULL;
    for (int e = 0; curve->top1 && e < curve->epochs; e++) {
        curve->loss[e] = mean_at(logs, count, e, "train_loss");
        curve->top1[e] = 100 * mean_at(logs, count, e, "top1");
    }
    return curve->top1 != NULL;
}

bool curves_add(struct curves *curves, const char *name, bool fp32, const char *const *logs, int count, struct error *error)
{
    struct csv *read = memory_allocate((size_t)count, sizeof *read, error);
    if (!read) return false;
    bool good = true;
    for (int i = 0; good && i < count; i++) good = csv_read(logs[i], &read[i], error);
    struct curve *grown = good ? realloc(curves->items, ((size_t)curves->count + 1) * sizeof *grown) : NULL;
    if (grown) {
        curves->items = grown;
        struct curve *curve = &grown[curves->count++];
        *curve = (struct curve){.name = strdup(name), .fp32 = fp32};
        good = curve->name ? fill(curve, read, count, error) : error_set(error, "out of memory");
    } else if (good) {
        good = error_set(error, "out of memory");
    }
    for (int i = 0; i < count; i++) csv_release(&read[i]);
    memory_release(read);
    return good;
}

// ---------------------------------------------------------------------------------------------
// The picture

static void write_data(FILE *script, const void *context)
{
    const struct curves *curves = context;
    for (int i = 0; i < curves->count; i++) {
        fprintf(script, "# epoch, train loss, test top-1 in percent\n$curve%d << end\n", i);
        for (int e = 0; e < curves->items[i].epochs; e++)
            fprintf(script, "%d %.6g %.6g\n", e + 1, curves->items[i].loss[e], curves->items[i].top1[e]);
        fputs("end\n", script);
    }
}

static struct picture_layout layout_of(const struct curves *curves)
{
    size_t longest = 0;
    for (int i = 0; i < curves->count; i++)
        if (strlen(curves->items[i].name) > longest) longest = strlen(curves->items[i].name);
    return picture_layout_of(2 * PLOT_WIDTH, 480, curves->count, longest);
}

static int most_epochs(const struct curves *curves)
{
    int most = 0;
    for (int i = 0; i < curves->count; i++)
        if (curves->items[i].epochs > most) most = curves->items[i].epochs;
    return most;
}

static void write_plot(FILE *script, const struct curves *curves, int column, bool legend)
{
    int epochs = most_epochs(curves), style = 0, every = epochs <= FEW_EPOCHS ? 1 : epochs / 8;
    for (int i = 0; i < curves->count; i++) {
        fprintf(script, "%s$curve%d using 1:%d with linespoints", i ? ", \\\n  " : "plot ", i, column);
        gnuplot_line_style(script, curves->items[i].fp32 ? -1 : style++);
        // Marks of different curves stand at different epochs where there are many.
        fprintf(script, " pi %d", every);
        if (legend) {
            fputs(" title ", script);
            gnuplot_quote(script, curves->items[i].name);
        } else {
            fputs(" notitle", script);
        }
    }
    fputc('\n', script);
}

static void write_plots(FILE *script, const void *context)
{
    const struct curves *curves = context;
    struct picture_layout layout = layout_of(curves);
    double width = layout.width + layout.legend_width;
    int epochs = most_epochs(curves);
    fprintf(script, "set xlabel 'epoch'\nset xrange [%g:%g]\nset multiplot\n", epochs > 1 ? 1.0 : 0.5, epochs > 1 ? (double)epochs : 1.5);
    fputs(epochs <= FEW_EPOCHS ? "set xtics 1\n" : "", script);
    fprintf(script, "set tmargin at screen 0.96\nset bmargin at screen %.4f\n", 60.0 / layout.height);
    for (int i = 0; i < 2; i++) {
        fprintf(script, "set lmargin at screen %.4f\nset rmargin at screen %.4f\n", (i * PLOT_WIDTH + 75) / width, ((i + 1) * PLOT_WIDTH - 15) / width);
        fprintf(script, "set ylabel '%s'\n", i ? "test top-1, %" : "train loss");
        write_plot(script, curves, i + 2, i == 1);
    }
    fputs("unset multiplot\n", script);
}

bool curves_draw(const struct curves *curves, const char *folder, struct error *error)
{
    const struct picture picture = {.name = "learning-curves", .layout = layout_of(curves), .data = write_data, .plots = write_plots,
                                    .context = curves};
    return most_epochs(curves) > 0 ? gnuplot_draw(&picture, folder, error) : error_set(error, "no run has finished an epoch: nothing to draw");
}
