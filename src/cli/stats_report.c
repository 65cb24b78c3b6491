#include "cli/stats_report.h"

#include <json-c/json.h>
#include <math.h>
#include <string.h>

#include "mls/presets.h"

const char *const stats_operand_names[3] = {"weights", "activations", "errors"};

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

static const struct operand_statistics *row_of(const struct stats_report *r, int layer, int operand)
{
    const struct operand_statistics *row = &r->statistics->rows[layer][operand];
    return row->seen ? row : NULL;
}

// ---------------------------------------------------------------------------------------------
// Text

static void print_row(int layer, int operand, const struct operand_statistics *s)
{
    static const char *const groups[] = {"none", "n", "c", "nc"};
    const struct mls_format *f = &s->format;
    char element[32], group[32] = "", format[80];
    mls_format_describe(f, element, sizeof element);
    if (!mls_preset_decides(f->family, MLS_FIELD_GROUP)) snprintf(group, sizeof group, " %s %d", groups[f->group], f->group_size);
    snprintf(format, sizeof format, "%s%s %s", element, group, f->rounding == MLS_STOCHASTIC ? "stochastic" : "nearest");
    printf("%5d  %-11s  %-24s %4d %7.3f  %8.4f %7.2f  %6.2f %9.2f %7.2f %9.2f", layer, stats_operand_names[operand], format,
           statistics_element_bits(s), statistics_stored_bits(s), statistics_relative_error(s), statistics_decibel(s),
           100 * share(s->zeros, s->elements), 100 * share(s->underflows, s->elements), 100 * share(s->at_largest, s->elements),
           100 * share(s->above_largest, s->elements));
    printf("  %9.2f %7.2f %6.2f %6.2f %6.2f\n", statistics_deviation(s), statistics_quantile(s, 0.05), statistics_quantile(s, 0.5),
           statistics_quantile(s, 0.95), 100 * share(s->zero_groups, s->groups));
}

// The mean of each operand over the layers, and its worst layer.
static void print_summary(const struct stats_report *r)
{
    puts("");
    for (int k = 0; k < 3; k++) {
        double sum = 0, lowest = INFINITY;
        int count = 0, worst = -1;
        for (int i = 0; i < r->statistics->layer_count; i++) {
            const struct operand_statistics *s = row_of(r, i, k);
            double decibel = s ? statistics_decibel(s) : NAN;
            if (!isfinite(decibel)) continue;
            count++;
            sum += decibel;
            if (decibel < lowest) {
                lowest = decibel;
                worst = i;
            }
        }
        if (count) printf("%-11s  mean SNR %6.2f dB, lowest %6.2f dB in layer %d\n", stats_operand_names[k], sum / count, lowest, worst);
    }
}

void stats_print_text(const struct stats_report *r)
{
    printf("what quantization does in training: %d batch%s of %d; %s of %s\n"
           "bits: of an element; stored: with its share of the scales. error: relative, root of the sums of squares; SNR in dB. Then %%\n"
           "of the elements: zero before, zero only afterwards (underflow), at the largest value (Xmax), above it before. Maxima of the\n"
           "groups, log2 below the tensor's: standard deviation, quantiles; %% of the groups that are all zero\n\n"
           "%5s  %-11s  %-24s %4s %7s  %8s %7s  %6s %9s %7s %9s  %9s %7s %6s %6s %6s\n",
           r->batches, r->batches == 1 ? "" : "es", r->images, r->checkpoint, r->cfg_path, "layer", "operand", "format", "bits", "stored",
           "error", "SNR", "zero", "underflow", "at Xmax", "above it", "deviation", "5 %", "50 %", "95 %", "empty");
    for (int i = 0; i < r->statistics->layer_count; i++)
        for (int k = 0; k < 3; k++)
            if (row_of(r, i, k)) print_row(i, k, row_of(r, i, k));
    print_summary(r);
}

// ---------------------------------------------------------------------------------------------
// Figures by name, for CSV and JSON

enum { FIGURES = 19 };
struct figure {
    const char *name;
    double value;
};

static void list_figures(const struct operand_statistics *s, struct figure figures[FIGURES])
{
    const struct mls_format *f = &s->format;
    const struct figure all[FIGURES] = {
        {"exponent", f->exponent},
        {"mantissa", f->mantissa},
        {"group_size", f->group_size},
        {"element_bits", statistics_element_bits(s)},
        {"stored_bits", statistics_stored_bits(s)},
        {"relative_error", statistics_relative_error(s)},
        {"snr_db", statistics_decibel(s)},
        {"elements", (double)s->elements},
        {"zeros", share(s->zeros, s->elements)},
        {"underflows", share(s->underflows, s->elements)},
        {"at_xmax", share(s->at_largest, s->elements)},
        {"above_xmax", share(s->above_largest, s->elements)},
        {"groups", (double)s->groups},
        {"zero_groups", share(s->zero_groups, s->groups)},
        {"maxima_deviation", statistics_deviation(s)},
        {"maxima_q05", statistics_quantile(s, 0.05)},
        {"maxima_q50", statistics_quantile(s, 0.5)},
        {"maxima_q95", statistics_quantile(s, 0.95)},
        {"maxima_lowest", statistics_quantile(s, 0)},
    };
    memcpy(figures, all, sizeof all);
}

// The word of the cfg option format.
static void name_format(const struct mls_format *format, char *text, size_t size)
{
    if (format->family == MLS_FAMILY_MLS)
        snprintf(text, size, "mls");
    else
        mls_format_describe(format, text, size);
}

static struct json_object *row_json(const struct stats_report *r, int layer, int operand)
{
    struct figure figures[FIGURES];
    struct json_object *o = json_object_new_object();
    char format[32];
    list_figures(row_of(r, layer, operand), figures);
    name_format(&row_of(r, layer, operand)->format, format, sizeof format);
    json_object_object_add(o, "layer", json_object_new_int(layer));
    json_object_object_add(o, "type", json_object_new_string(r->network->layers[layer]->type->name));
    json_object_object_add(o, "operand", json_object_new_string(stats_operand_names[operand]));
    json_object_object_add(o, "format", json_object_new_string(format));
    for (int i = 0; i < FIGURES; i++)
        json_object_object_add(o, figures[i].name, isfinite(figures[i].value) ? json_object_new_double(figures[i].value) : NULL);
    return o;
}

void stats_print_json(const struct stats_report *r)
{
    struct json_object *all = json_object_new_object(), *rows = json_object_new_array();
    json_object_object_add(all, "cfg", json_object_new_string(r->cfg_path));
    json_object_object_add(all, "checkpoint", json_object_new_string(r->checkpoint));
    json_object_object_add(all, "batch", json_object_new_int(r->images));
    json_object_object_add(all, "batches", json_object_new_int(r->batches));
    for (int i = 0; i < r->statistics->layer_count; i++)
        for (int k = 0; k < 3; k++)
            if (row_of(r, i, k)) json_object_array_add(rows, row_json(r, i, k));
    json_object_object_add(all, "operands", rows);
    puts(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY));
    json_object_put(all);
}

void stats_write_csv(const struct stats_report *r, FILE *file)
{
    struct figure figures[FIGURES];
    list_figures(&r->statistics->rows[0][0], figures);
    fputs("layer,type,operand,format", file);
    for (int i = 0; i < FIGURES; i++) fprintf(file, ",%s", figures[i].name);
    fputc('\n', file);
    for (int i = 0; i < r->statistics->layer_count; i++)
        for (int k = 0; k < 3; k++) {
            if (!row_of(r, i, k)) continue;
            char format[32];
            list_figures(row_of(r, i, k), figures);
            name_format(&row_of(r, i, k)->format, format, sizeof format);
            fprintf(file, "%d,%s,%s,%s", i, r->network->layers[i]->type->name, stats_operand_names[k], format);
            for (int f = 0; f < FIGURES; f++) isnan(figures[f].value) ? fputc(',', file) : fprintf(file, ",%.9g", figures[f].value);
            fputc('\n', file);
        }
}
