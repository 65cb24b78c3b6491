#include "cli/sweep_pictures.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/gnuplot.h"
#include "cli/learning_curves.h"
#include "train/run_folder.h"

#define PLOT_WIDTH 760

// Accuracy against something, a point for each setting that has an accuracy.
struct points {
    const struct sweep_table *table;
    const char *label;
    double (*x_of)(const struct sweep_row *row);
    bool beside; // equal x: drawn side by side
    bool front;  // the Pareto front is drawn
};

static double energy_percent(const struct sweep_row *row)
{
    return 100 * row->energy / row->fp32_energy;
}

static bool is_point(const struct sweep_row *row)
{
    return !isnan(row->top1) && !sweep_row_is_fp32(row);
}

static double x_at(const struct points *p, int i)
{
    return p->x_of(&p->table->rows[i]);
}

struct range {
    double least, most;
};

static void widen(struct range *range, double value)
{
    if (isnan(value)) return;
    range->least = fmin(range->least, value);
    range->most = fmax(range->most, value);
}

// With a margin.
static struct range padded(struct range range, double share, double least)
{
    double margin = fmax(share * (range.most - range.least), least);
    return (struct range){range.least - margin, range.most + margin};
}

static struct range x_range(const struct points *p)
{
    struct range range = {INFINITY, -INFINITY};
    for (int i = 0; i < p->table->count; i++)
        if (is_point(&p->table->rows[i])) widen(&range, x_at(p, i));
    return p->beside ? padded(range, 0.05, 0.6) : padded(range, 0.05, 0.02 * range.most);
}

// With the fp32 lines and the spread.
static struct range y_range(const struct sweep_table *table)
{
    struct range range = {INFINITY, -INFINITY};
    for (int i = 0; i < table->count; i++) {
        double spread = isnan(table->rows[i].spread) ? 0 : table->rows[i].spread;
        widen(&range, 100 * (table->rows[i].top1 - spread));
        widen(&range, 100 * (table->rows[i].top1 + spread));
    }
    return padded(range, 0.06, 0.1);
}

// How far row i is moved so that points of equal x stand side by side.
static double shift_of(const struct points *p, int i)
{
    double gap = 1;
    int before = 0, same = 0;
    for (int k = 0; p->beside && k < p->table->count; k++) {
        if (!is_point(&p->table->rows[k])) continue;
        double distance = fabs(x_at(p, k) - x_at(p, i));
        if (distance > 1e-6) gap = fmin(gap, distance);
        same += distance <= 1e-6;
        before += distance <= 1e-6 && k < i;
    }
    return same > 1 ? (before - 0.5 * (same - 1)) * fmin(0.12, 0.7 * gap / same) : 0;
}

static int next_on_front(const struct points *p, int last)
{
    int next = -1;
    for (int i = 0; i < p->table->count; i++) {
        const struct sweep_row *row = &p->table->rows[i];
        if (!row->on_front || !is_point(row)) continue;
        bool behind = last < 0 || x_at(p, i) > x_at(p, last) || (x_at(p, i) == x_at(p, last) && i > last);
        if (behind && (next < 0 || x_at(p, i) < x_at(p, next))) next = i;
    }
    return next;
}

static void write_data(FILE *script, const void *context)
{
    const struct points *p = context;
    fprintf(script, "# %s, test top-1 in percent, standard deviation\n", p->label);
    for (int i = 0; i < p->table->count; i++) {
        const struct sweep_row *row = &p->table->rows[i];
        if (!is_point(row)) continue;
        fprintf(script, "# %s\n$point%d << end\n%.6g %.6g %.6g\nend\n", row->name, i, x_at(p, i) + shift_of(p, i), 100 * row->top1,
                100 * (isnan(row->spread) ? 0 : row->spread));
    }
    if (!p->front) return;
    fputs("$front << end\n", script);
    for (int i = next_on_front(p, -1); i >= 0; i = next_on_front(p, i))
        fprintf(script, "%.6g %.6g\n", x_at(p, i), 100 * p->table->rows[i].top1);
    fputs("end\n", script);
}

static void write_fp32_lines(FILE *script, const struct sweep_table *table)
{
    int dashes = 2;
    for (int i = 0; i < table->count; i++) {
        char title[1100];
        const struct sweep_row *row = &table->rows[i];
        if (isnan(row->top1) || !sweep_row_is_fp32(row)) continue;
        snprintf(title, sizeof title, "%s: %.2f %%", row->name, 100 * row->top1);
        fprintf(script, "  %.6g with lines lc rgb '#000000' lw 1.5 dt %d title ", 100 * row->top1, dashes++);
        gnuplot_quote(script, title);
        fputs(", \\\n", script);
    }
}

static void write_points(FILE *script, const struct sweep_table *table)
{
    int style = 0;
    for (int i = 0; i < table->count; i++) {
        const struct sweep_row *row = &table->rows[i];
        // The style is that of the learning curve, which all settings that have one take in the same order.
        if (isnan(row->top1) || sweep_row_is_fp32(row)) continue;
        if (row->finished > 1 && row->spread > 0) {
            fprintf(script, "  $point%d using 1:2:3 with yerrorbars notitle", i);
            gnuplot_point_style(script, style, 0.01);
            fputs(", \\\n", script);
        }
        fprintf(script, "  $point%d using 1:2 with points", i);
        gnuplot_point_style(script, style++, 1.3);
        fputs(" title ", script);
        gnuplot_quote(script, row->name);
        fputs(", \\\n", script);
    }
}

static int count_entries(const struct points *p, size_t *longest)
{
    int count = p->front ? 2 : 0;
    *longest = 16;
    for (int i = 0; i < p->table->count; i++) {
        const struct sweep_row *row = &p->table->rows[i];
        if (isnan(row->top1)) continue;
        size_t length = strlen(row->name) + (sweep_row_is_fp32(row) ? 9 : 0);
        if (length > *longest) *longest = length;
        count++;
    }
    return count;
}

static struct picture_layout layout_of(const struct points *p)
{
    size_t longest;
    int entries = count_entries(p, &longest);
    return picture_layout_of(PLOT_WIDTH, 520, entries, longest);
}

static void write_plots(FILE *script, const void *context)
{
    const struct points *p = context;
    struct range x = x_range(p), y = y_range(p->table);
    struct picture_layout layout = layout_of(p);
    double width = layout.width + layout.legend_width;
    fprintf(script, "set lmargin at screen %.4f\nset rmargin at screen %.4f\nset tmargin at screen 0.96\nset bmargin at screen %.4f\n", 85 / width,
            (layout.width - 15) / width, 60.0 / layout.height);
    fprintf(script, "set xlabel '%s'\nset ylabel 'test top-1, %%'\nset xrange [%.6g:%.6g]\nset yrange [%.6g:%.6g]\n", p->label, x.least, x.most,
            y.least, y.most);
    fputs("plot \\\n", script);
    write_fp32_lines(script, p->table);
    if (p->front) fputs("  $front using 1:2 with steps lc rgb '#909090' lw 1.5 dt 1 title 'Pareto front', \\\n", script);
    write_points(script, p->table);
    fputs(p->front ? "  $front using 1:2 with points pt 6 ps 2.6 lw 1.5 lc rgb '#000000' title 'on the front'\n" : "  NaN notitle\n", script);
}

static bool draw_points(const struct sweep_table *table, const char *folder, struct error *error)
{
    const struct points bits = {.table = table, .label = "bits of an element, mean of weights, activations and errors", .x_of = sweep_row_bits,
                                .beside = true};
    const struct points energy = {.table = table, .label = "energy of a training step, % of that in fp32", .x_of = energy_percent, .front = true};
    const struct picture pictures[] = {
        {.name = "accuracy-bits", .layout = layout_of(&bits), .data = write_data, .plots = write_plots, .context = &bits},
        {.name = "accuracy-energy", .layout = layout_of(&energy), .data = write_data, .plots = write_plots, .context = &energy}};
    return gnuplot_draw(&pictures[0], folder, error) && gnuplot_draw(&pictures[1], folder, error);
}

// ---------------------------------------------------------------------------------------------
// Learning curves

// Or kept as the repository keeps runs, without summary and checkpoint.
static bool is_finished_or_kept(const char *run)
{
    char log[4096], checkpoint[4096];
    return run_folder_is_finished(run) || (file_join(log, sizeof log, run, "log.csv") && file_exists(log) &&
                                           file_join(checkpoint, sizeof checkpoint, run, "last.safetensors") && !file_exists(checkpoint));
}

// The logs of the row's finished runs.
static bool add_curve(struct curves *curves, const struct sweep_row *row, const char *folder, struct error *error)
{
    const char **logs = memory_allocate((size_t)row->seeds, sizeof *logs, error);
    char(*paths)[4096] = logs ? memory_allocate((size_t)row->seeds, sizeof *paths, error) : NULL;
    int count = 0;
    for (int seed = 1; paths && seed <= row->seeds; seed++) {
        char run[3072];
        int length = snprintf(run, sizeof run, "%s/%s/seed%d", folder, row->folder, seed);
        if (length < 0 || (size_t)length >= sizeof run || !is_finished_or_kept(run)) continue;
        if (file_join(paths[count], sizeof paths[count], run, "log.csv")) logs[count] = paths[count], count++;
    }
    bool good = paths && (count == 0 || curves_add(curves, row->name, sweep_row_is_fp32(row), logs, count, error));
    memory_release(paths);
    memory_release(logs);
    return good;
}

static bool draw_curves(const struct sweep_table *table, const char *folder, bool *drawn, struct error *error)
{
    struct curves curves = {0};
    bool good = true;
    for (int i = 0; good && i < table->count; i++)
        if (!isnan(table->rows[i].top1)) good = add_curve(&curves, &table->rows[i], folder, error);
    *drawn = curves.count > 0;
    good = good && (!*drawn || curves_draw(&curves, folder, error));
    curves_release(&curves);
    return good;
}

bool sweep_pictures_draw(const struct sweep_table *table, const char *folder, struct sweep_pictures *drawn, struct error *error)
{
    struct sweep_pictures pictures = {false, false};
    for (int i = 0; i < table->count; i++) pictures.points |= is_point(&table->rows[i]);
    bool good = (!pictures.points || draw_points(table, folder, error)) && draw_curves(table, folder, &pictures.curves, error);
    if (drawn) *drawn = pictures;
    return good;
}
