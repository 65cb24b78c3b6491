// The picture of `mlsnet stats`, drawn by gnuplot: SNR, share of elements lost and cut off, spread of the group maxima, by layer.
#include <math.h>
#include <string.h>

#include "cli/gnuplot.h"
#include "cli/stats_report.h"

#define LONGEST_NAME 64 // of a file in the title

static void write_number(FILE *to, double value)
{
    isfinite(value) ? fprintf(to, " %g", value) : fputs(" ?", to);
}

static bool is_seen(const struct stats_report *r, int layer)
{
    const struct operand_statistics *s = r->statistics->rows[layer];
    return s[0].seen || s[1].seen || s[2].seen;
}

// A data block of an operand: position on the axis and the figures that are drawn.
static void write_operand(FILE *to, const struct stats_report *r, int operand)
{
    int position = 0;
    fprintf(to, "# position, SNR in dB, %% underflow, %% at Xmax, maxima of the groups: quantiles 0.05, 0.5, 0.95\n$%s << end\n",
            stats_operand_names[operand]);
    for (int i = 0; i < r->statistics->layer_count; i++) {
        const struct operand_statistics *s = &r->statistics->rows[i][operand];
        position += is_seen(r, i);
        if (!s->seen) continue;
        const double figures[] = {position - 1, statistics_decibel(s), 100 * (double)s->underflows / (double)s->elements,
                                  100 * (double)s->at_largest / (double)s->elements, statistics_quantile(s, 0.05),
                                  statistics_quantile(s, 0.5), statistics_quantile(s, 0.95)};
        for (size_t f = 0; f < sizeof figures / sizeof figures[0]; f++) write_number(to, figures[f]);
        fputs("\n", to);
    }
    fputs("end\n", to);
}

static void write_data(FILE *to, const void *context)
{
    for (int k = 0; k < 3; k++) write_operand(to, context, k);
}

// Every layer that has a row, or every few if there are many.
static void write_axis(FILE *to, const struct stats_report *r)
{
    int count = 0, position = 0;
    for (int i = 0; i < r->statistics->layer_count; i++) count += is_seen(r, i);
    fputs("set xtics (", to);
    for (int i = 0; i < r->statistics->layer_count; i++) {
        if (!is_seen(r, i)) continue;
        if (position % (count / 40 + 1) == 0) fprintf(to, "%s'%d' %d", position ? ", " : "", i, position);
        position++;
    }
    fprintf(to, ")\nset xrange [-0.5:%g]\n", count - 0.5);
}

// The legend stands beside the first panel.
static void write_title(FILE *to, int operand, bool legend)
{
    legend ? fprintf(to, " title '%s'", stats_operand_names[operand]) : fputs(" notitle", to);
}

static void write_panel(FILE *to, const char *title, const char *label, int column, bool legend)
{
    fprintf(to, "set title '%s'\nset ylabel '%s'\nplot ", title, label);
    for (int k = 0; k < 3; k++) {
        fprintf(to, "%s$%s using 1:%d with linespoints", k ? ", \\\n  " : "", stats_operand_names[k], column);
        gnuplot_line_style(to, k);
        write_title(to, k, legend);
    }
    fputs("\n", to);
}

static void write_maxima(FILE *to)
{
    fputs("set yrange [*:0.5]\nset title 'maxima of the groups, log2 to the tensor maximum: median, 5 % to 95 %'\nset ylabel 'log2'\n"
          "set xlabel 'layer'\nplot ", to);
    for (int k = 0; k < 3; k++) {
        fprintf(to, "%s$%s using ($1 + %g):6:5:7 with yerrorbars", k ? ", \\\n  " : "", stats_operand_names[k], 0.2 * (k - 1));
        gnuplot_point_style(to, k, 1);
        write_title(to, k, false);
    }
    fputs("\n", to);
}

// The end of a path, which tells more than its beginning.
static void shorten(const char *path, char text[LONGEST_NAME + 4])
{
    size_t length = strlen(path);
    if (length <= LONGEST_NAME)
        snprintf(text, LONGEST_NAME + 4, "%s", path);
    else
        snprintf(text, LONGEST_NAME + 4, "...%s", path + length - LONGEST_NAME);
}

static struct picture_layout layout(void)
{
    return picture_layout_of(1000, 1250, 3, strlen("activations"));
}

static void write_plots(FILE *to, const void *context)
{
    const struct stats_report *r = context;
    const struct picture_layout l = layout();
    double width = l.width + l.legend_width;
    char title[256], cfg[LONGEST_NAME + 4], checkpoint[LONGEST_NAME + 4];
    shorten(r->cfg_path, cfg);
    shorten(r->checkpoint, checkpoint);
    snprintf(title, sizeof title, "%s, %s: %d batch%s of %d", cfg, checkpoint, r->batches, r->batches == 1 ? "" : "es", r->images);
    fprintf(to, "set multiplot layout 4,1 margins %.4f,%.4f,0.05,0.93 spacing 0.07 title ", 80 / width, (l.width - 15) / width);
    gnuplot_quote(to, title);
    fputs("\nset border 3\nset tics nomirror\nset datafile missing '?'\n", to);
    write_axis(to, r);
    write_panel(to, "signal-to-noise ratio of quantization", "SNR, dB", 2, true);
    fputs("set yrange [0:*]\n", to);
    write_panel(to, "elements that underflow to zero", "% of all elements", 3, false);
    write_panel(to, "elements at the largest value, Xmax", "% of all elements", 4, false);
    write_maxima(to);
    fputs("unset multiplot\n", to);
}

bool stats_plot(const struct stats_report *r, const char *path, struct error *error)
{
    const struct picture picture = {.layout = layout(), .data = write_data, .plots = write_plots, .context = r};
    return gnuplot_draw_file(&picture, path, error);
}
