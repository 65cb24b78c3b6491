#include "cli/learning_curves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/memory.h"
#include "cli/gnuplot.h"

#define PLOT_WIDTH 460   // of each panel
#define FEW_EPOCHS 8     // so many have a mark each
#define LEAST_FOR_END 4  // epochs for a panel of the last ones

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

static bool read_log(const char *path, struct csv *log, struct error *error)
{
    static const char *const needed[] = {"train_loss", "top1"};
    if (!csv_read(path, log, error)) return false;
    for (int i = 0; i < 2; i++)
        if (csv_column(log, needed[i]) < 0) return error_set(error, "%s: no column %s: expected the log.csv of a run", path, needed[i]);
    return true;
}

bool curves_add(struct curves *curves, const char *name, bool fp32, const char *const *logs, int count, struct error *error)
{
    struct csv *read = memory_allocate((size_t)count, sizeof *read, error);
    if (!read) return false;
    bool good = true;
    for (int i = 0; good && i < count; i++) good = read_log(logs[i], &read[i], error);
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

static int most_epochs(const struct curves *curves)
{
    int most = 0;
    for (int i = 0; i < curves->count; i++)
        if (curves->items[i].epochs > most) most = curves->items[i].epochs;
    return most;
}

static double last_of(const double *values, int count)
{
    double last = (double)NAN;
    for (int e = 0; e < count; e++)
        if (!isnan(values[e])) last = values[e];
    return last;
}

static void name_curve(const struct curve *curve, char *text, size_t size)
{
    snprintf(text, size, "%s: %.2f %%", curve->name, last_of(curve->top1, curve->epochs));
}

static int panels_of(const struct curves *curves)
{
    return most_epochs(curves) >= LEAST_FOR_END ? 3 : 2;
}

static struct picture_layout layout_of(const struct curves *curves)
{
    size_t longest = 0;
    for (int i = 0; i < curves->count; i++)
        if (strlen(curves->items[i].name) > longest) longest = strlen(curves->items[i].name);
    return picture_layout_of(panels_of(curves) * PLOT_WIDTH, 480, curves->count, longest + strlen(": 00.00 %"));
}

// Marks of different curves stand at different epochs where there are many.
static void write_curve(FILE *script, int curve, int style, int column, int epochs)
{
    int every = epochs <= FEW_EPOCHS ? 1 : epochs / FEW_EPOCHS, first = (curve * 3) % every;
    fprintf(script, "  $curve%d using 1:%d with lines", curve, column);
    gnuplot_line_style(script, style);
    fprintf(script, " notitle, \\\n  $curve%d using 1:%d every %d::%d with points", curve, column, every, first);
    gnuplot_line_style(script, style);
    fputs(" notitle, \\\n", script);
}

static void write_panel(FILE *script, const struct curves *curves, int column, bool legend)
{
    int epochs = most_epochs(curves), style = 0;
    fputs("plot \\\n", script);
    for (int i = 0; i < curves->count; i++) {
        char name[1100];
        int own = curves->items[i].fp32 ? -1 : style++;
        write_curve(script, i, own, column, epochs);
        if (!legend) continue;
        name_curve(&curves->items[i], name, sizeof name);
        fputs("  NaN with linespoints", script);
        gnuplot_line_style(script, own);
        fputs(" title ", script);
        gnuplot_quote(script, name);
        fputs(", \\\n", script);
    }
    fputs("  NaN notitle\n", script);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The range of top-1 at the end. Of many curves from the best down to three times as far as three quarters of them are: with those
// below, which are seen beside it, nothing could be told apart. false: nothing is known there.
static bool end_range(const struct curves *curves, int first, double range[2])
{
    double *values = malloc(((size_t)curves->count + 1) * sizeof *values), least = INFINITY;
    int count = 0;
    range[1] = -INFINITY;
    for (int i = 0; values && i < curves->count; i++) {
        const struct curve *curve = &curves->items[i];
        double last = last_of(curve->top1, curve->epochs);
        if (isnan(last) || curve->epochs < first) continue;
        values[count++] = last;
        for (int e = first - 1; e < curve->epochs; e++) {
            range[1] = fmax(range[1], curve->top1[e]);
            least = fmin(least, curve->top1[e]);
        }
    }
    if (count) {
        qsort(values, (size_t)count, sizeof *values, by_size);
        double all = fmax(range[1] - least, 0.5), reach = count > 3 ? fmin(3 * (range[1] - values[(count - 1) / 4]), all) : all;
        reach = fmax(reach, 0.5);
        range[0] = range[1] - 1.05 * reach;
        range[1] += 0.05 * reach;
    }
    free(values);
    return count > 0;
}

static void write_plots(FILE *script, const void *context)
{
    static const char *const labels[] = {"train loss", "test top-1, %", "test top-1 of the last epochs, %"};
    const struct curves *curves = context;
    struct picture_layout layout = layout_of(curves);
    double width = layout.width + layout.legend_width, range[2];
    int epochs = most_epochs(curves), panels = panels_of(curves), first = epochs - epochs / 3;
    fprintf(script, "set xlabel 'epoch'\nset xrange [%g:%g]\nset multiplot\n", epochs > 1 ? 1.0 : 0.5, epochs > 1 ? (double)epochs : 1.5);
    fputs(epochs <= 2 * FEW_EPOCHS ? "set xtics 1\n" : "", script);
    fprintf(script, "set tmargin at screen 0.96\nset bmargin at screen %.4f\n", 60.0 / layout.height);
    for (int i = 0; i < panels; i++) {
        fprintf(script, "set lmargin at screen %.4f\nset rmargin at screen %.4f\n", (i * PLOT_WIDTH + 75) / width,
                ((i + 1) * PLOT_WIDTH - 15) / width);
        fprintf(script, "set ylabel '%s'\n", labels[i]);
        if (i == 2 && end_range(curves, first, range))
            fprintf(script, "set xrange [%d:%d]\nset yrange [%.6g:%.6g]\n", first, epochs, range[0], range[1]);
        write_panel(script, curves, i ? 3 : 2, i == panels - 1);
    }
    fputs("unset multiplot\n", script);
}

bool curves_draw(const struct curves *curves, const char *folder, struct error *error)
{
    const struct picture picture = {.name = "learning-curves", .layout = layout_of(curves), .data = write_data, .plots = write_plots,
                                    .context = curves};
    return most_epochs(curves) > 0 ? gnuplot_draw(&picture, folder, error) : error_set(error, "no run has finished an epoch: nothing to draw");
}
