// The picture of `mlsnet stats`, drawn by gnuplot: SNR, share of elements lost and cut off, spread of the group maxima, by layer.
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/gnuplot.h"
#include "cli/stats_report.h"

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), part = strlen(end);
    return length > part && strcmp(text + length - part, end) == 0;
}

bool stats_plot_check(const char *path, struct error *error)
{
    if (ends_with(path, ".png") || ends_with(path, ".svg")) return true;
    return error_set(error, "--plot %s: expected a name that ends with .png or .svg", path);
}

static void write_number(FILE *to, double value)
{
    isfinite(value) ? fprintf(to, " %g", value) : fputs(" ?", to);
}

// A data block of an operand: position on the axis and the figures that are drawn.
static void write_data(FILE *to, const struct stats_report *r, int operand)
{
    int position = 0;
    fprintf(to, "$%s << END\n", stats_operand_names[operand]);
    for (int i = 0; i < r->statistics->layer_count; i++) {
        const struct operand_statistics *s = &r->statistics->rows[i][operand];
        bool any = r->statistics->rows[i][0].seen || r->statistics->rows[i][1].seen || r->statistics->rows[i][2].seen;
        position += any;
        if (!s->seen) continue;
        const double figures[] = {position - 1, statistics_decibel(s), 100 * (double)s->underflows / (double)s->elements,
                                  100 * (double)s->at_largest / (double)s->elements, statistics_quantile(s, 0.05),
                                  statistics_quantile(s, 0.5), statistics_quantile(s, 0.95)};
        for (size_t f = 0; f < sizeof figures / sizeof figures[0]; f++) write_number(to, figures[f]);
        fputs("\n", to);
    }
    fputs("END\n", to);
}

// Every layer that has a row, or every few if there are many.
static void write_axis(FILE *to, const struct stats_report *r)
{
    int count = 0;
    for (int pass = 0; pass < 2; pass++) {
        int position = 0, step = count / 40 + 1;
        if (pass) fputs("set xtics (", to);
        for (int i = 0; i < r->statistics->layer_count; i++) {
            const struct operand_statistics *s = r->statistics->rows[i];
            if (!s[0].seen && !s[1].seen && !s[2].seen) continue;
            if (pass && position % step == 0) fprintf(to, "%s'%d' %d", position ? ", " : "", i, position);
            position++;
        }
        count = position;
    }
    fputs(")\n", to);
    fprintf(to, "set xrange [-0.5:%g]\n", count - 0.5);
}

static void write_panel(FILE *to, const char *title, const char *label, int column, bool last)
{
    fprintf(to, "set title '%s'\nset ylabel '%s'\nset xlabel '%s'\nplot ", title, label, last ? "layer" : "");
    for (int k = 0; k < 3; k++)
        fprintf(to, "%s$%s using 1:%d with linespoints ls %d title '%s'", k ? ", " : "", stats_operand_names[k], column, k + 1,
                stats_operand_names[k]);
    fputs("\n", to);
}

static void write_script(FILE *to, const struct stats_report *r, const char *path)
{
    static const char *const colors[3] = {"#0072b2", "#d55e00", "#009e73"}; // told apart by the colour-blind, too
    fprintf(to, "set terminal %s\nset output ", ends_with(path, ".png") ? "pngcairo size 1200,1300 font 'sans,12' background 'white'"
                                                                        : "svg size 1200,1300 font 'sans,14' background 'white'");
    gnuplot_quote(to, path);
    fputc('\n', to);
    for (int k = 0; k < 3; k++) {
        write_data(to, r, k);
        fprintf(to, "set style line %d lc rgb '%s' lw 2 pt %d ps 1\n", k + 1, colors[k], k == 0 ? 7 : k == 1 ? 5 : 9);
    }
    char title[512];
    snprintf(title, sizeof title, "%.200s, %.200s: %d batch%s of %d", r->cfg_path, r->checkpoint, r->batches, r->batches == 1 ? "" : "es",
             r->images);
    fputs("set multiplot layout 4,1 margins 0.08,0.86,0.05,0.93 spacing 0.07 title ", to);
    gnuplot_quote(to, title);
    fputs(" noenhanced\nset grid lt 1 lw 1 lc rgb '#dddddd'\nset key outside right top\n"
          "set border 3\nset tics nomirror\nset datafile missing '?'\n", to);
    write_axis(to, r);
    write_panel(to, "signal-to-noise ratio of quantization", "dB", 2, false);
    fputs("set yrange [0:*]\n", to);
    write_panel(to, "elements that underflow to zero", "% of all", 3, false);
    write_panel(to, "elements at the largest magnitude, Xmax", "% of all", 4, false);
    fputs("set yrange [*:0.5]\nset title 'maxima of the groups: median, 5 % to 95 %'\nset ylabel 'log2, to the tensor'\n"
          "set xlabel 'layer'\nplot ", to);
    for (int k = 0; k < 3; k++)
        fprintf(to, "%s$%s using ($1 + %g):6:5:7 with yerrorbars ls %d title '%s'", k ? ", " : "", stats_operand_names[k], 0.2 * (k - 1),
                k + 1, stats_operand_names[k]);
    fputs("\nunset multiplot\n", to);
}

bool stats_plot_available(struct error *error)
{
    if (system("command -v gnuplot >/dev/null 2>&1") == 0) return true;
    return error_set(error, "--plot needs gnuplot, which is not installed (Debian: apt-get install gnuplot-nox)");
}

bool stats_plot(const struct stats_report *r, const char *path, struct error *error)
{
    fflush(stdout);
    FILE *gnuplot = popen("gnuplot", "w");
    if (!gnuplot) return error_set(error, "cannot start gnuplot: %s", strerror(errno));
    write_script(gnuplot, r, path);
    int status = pclose(gnuplot);
    if (status == 0 && access(path, R_OK) == 0) return true;
    return error_set(error, "%s: gnuplot could not draw it", path);
}
