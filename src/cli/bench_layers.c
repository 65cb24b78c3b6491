#include "cli/bench_layers.h"

#include <stdio.h>

struct report {
    const struct peaks *peaks;
    double steps, seconds;
    bool json;
    int rows; // printed
};

// The limit that counts for a row: multiply-adds/s where it multiplies, else bytes/s.
static double peak_of(const struct report *report, const struct profile_row *row)
{
    if (row->multiply_adds > 0) return row->integers ? report->peaks->dot_products : report->peaks->multiply_adds;
    return report->peaks->memory;
}

static void print_row(struct report *report, const char *layer, const char *part, const struct profile_row *row)
{
    double work = row->multiply_adds > 0 ? row->multiply_adds : row->bytes, rate = work / row->seconds;
    double percent = 100 * rate / peak_of(report, row), milliseconds = 1e3 * row->seconds / report->steps;
    const char *unit = row->multiply_adds > 0 ? "GMAC/s" : "GB/s";
    if (report->json) {
        printf("%s{\"layer\": \"%s\", \"part\": \"%s\", \"ms\": %.4f, \"rate\": %.2f, \"unit\": \"%s\", \"percent_of_peak\": %.1f}",
               report->rows ? ", " : "", layer, part, milliseconds, 1e-9 * rate, unit, percent);
    } else {
        printf("%-22s %-21s %9.3f %6.1f ", layer, part, milliseconds, 100 * row->seconds / report->seconds);
        if (work > 0)
            printf("%9.1f %-6s %5.0f %%\n", 1e-9 * rate, unit, percent);
        else
            printf("\n");
    }
    report->rows++;
}

static void add_row(struct profile_row *to, const struct profile_row *row)
{
    to->seconds += row->seconds;
    to->multiply_adds += row->multiply_adds;
    to->bytes += row->bytes;
    to->integers |= row->integers;
}

// Rows without work of their own are shown where they take time.
static bool is_shown(const struct report *report, const struct profile_row *row)
{
    return row->multiply_adds > 0 || row->bytes > 0 || row->seconds > 1e-3 * report->seconds;
}

static void print_sums(struct report *report, struct profile_row sums[2][PROFILE_PARTS])
{
    for (int part = 0; part < PROFILE_PARTS; part++)
        for (int integers = 1; integers >= 0; integers--)
            if (sums[integers][part].seconds > 0)
                print_row(report, integers ? "all MLS layers" : "all others", profile_part_names[part], &sums[integers][part]);
}

static double print_layers(struct report *report, const struct network *network, struct profile_row sums[2][PROFILE_PARTS])
{
    const struct profile *profile = network->profile;
    double total = 0;
    for (int i = 0; i <= profile->layers; i++)
        for (int part = 0; part < PROFILE_PARTS; part++) {
            const struct profile_row *row = &profile->rows[i][part];
            if (row->seconds <= 0) continue;
            char name[64] = "-";
            if (i < profile->layers) snprintf(name, sizeof name, "%d %s", i, network->layers[i]->type->name);
            if (is_shown(report, row)) print_row(report, name, profile_part_names[part], row);
            add_row(&sums[row->integers][part], row);
            total += row->seconds;
        }
    return total;
}

void bench_layers_print(const struct network *network, const struct peaks *peaks, double steps, double seconds, bool json)
{
    struct report report = {peaks, steps, seconds, json, 0};
    struct profile_row sums[2][PROFILE_PARTS] = {{{0}}};
    printf(json ? "\"peaks\": {\"integer_gmacs\": %.1f, \"fp32_gmacs\": %.1f, \"memory_gbs\": %.1f, \"exchange_ns\": %.0f}, \"layers\": ["
                : "peaks: integers %.0f GMAC/s, fp32 %.0f GMAC/s, memory %.1f GB/s (reading); from thread to thread %.0f ns\n\n",
           1e-9 * peaks->dot_products, 1e-9 * peaks->multiply_adds, 1e-9 * peaks->memory, 1e9 * peaks->exchange);
    if (!json) printf("%-22s %-21s %9s %6s %9s        %s\n", "layer", "part", "ms/step", "share", "rate", "of the peak");
    double total = print_layers(&report, network, sums);
    printf(json ? "], \"parts\": [" : "\n");
    report.rows = 0;
    print_sums(&report, sums);
    printf(json ? "], \"parts_percent\": %.2f, \"step_ms\": %.3f" : "sum of the parts: %.1f %% of the %.2f ms of a step\n",
           100 * total / seconds, 1e3 * seconds / steps);
}
