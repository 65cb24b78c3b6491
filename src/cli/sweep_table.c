#include "cli/sweep_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csv.h"
#include "base/file.h"
#include "base/memory.h"
#include "mls/format.h"

bool sweep_table_create(struct sweep_table *table, int count, struct error *error)
{
    *table = (struct sweep_table){0};
    table->rows = memory_allocate((size_t)count, sizeof *table->rows, error);
    if (!table->rows) return false;
    table->count = count;
    for (int i = 0; i < count; i++)
        table->rows[i] = (struct sweep_row){.reference = -1, .top1 = NAN, .spread = NAN, .least = NAN, .most = NAN, .lost = NAN,
                                            .images_per_second = NAN};
    return true;
}

void sweep_table_release(struct sweep_table *table)
{
    for (int i = 0; i < table->count; i++) {
        free(table->rows[i].name);
        free(table->rows[i].folder);
    }
    memory_release(table->rows);
    *table = (struct sweep_table){0};
}

bool sweep_row_is_fp32(const struct sweep_row *row)
{
    return strncmp(row->name, "fp32", 4) == 0 && (row->name[4] == 0 || row->name[4] == ' ');
}

double sweep_row_bits(const struct sweep_row *row)
{
    return (row->bits[0] + row->bits[1] + row->bits[2]) / 3;
}

double sweep_row_energy_ratio(const struct sweep_row *row)
{
    return row->energy > 0 ? row->fp32_energy / row->energy : (double)NAN;
}

// ---------------------------------------------------------------------------------------------
// What the runs say

struct samples {
    double *values;
    int count, room;
};

static bool add_sample(struct samples *samples, double value)
{
    if (samples->count == samples->room) {
        int room = 2 * samples->room + 64;
        double *grown = realloc(samples->values, (size_t)room * sizeof *grown);
        if (!grown) return false;
        samples->values = grown;
        samples->room = room;
    }
    samples->values[samples->count++] = value;
    return true;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(struct samples *samples)
{
    if (samples->count == 0) return (double)NAN;
    qsort(samples->values, (size_t)samples->count, sizeof *samples->values, by_size);
    int middle = samples->count / 2;
    return samples->count % 2 ? samples->values[middle] : (samples->values[middle - 1] + samples->values[middle]) / 2;
}

// Top-1 of the last epoch; the rates of all.
static bool read_log(const char *path, struct samples *top1, struct samples *rates, struct error *error)
{
    struct csv csv;
    bool good = csv_read(path, &csv, error);
    if (good && csv.rows == 0) good = error_set(error, "%s: no epoch", path);
    for (int row = 0; good && row < csv.rows; row++)
        good = add_sample(rates, csv_number(&csv, row, csv_column(&csv, "images_per_second"))) || error_set(error, "out of memory");
    double last = good ? csv_number(&csv, csv.rows - 1, csv_column(&csv, "top1")) : 0;
    if (good && isnan(last)) good = error_set(error, "%s:%d: top1: expected a number", path, csv.rows + 1);
    if (good) good = add_sample(top1, last) || error_set(error, "out of memory");
    csv_release(&csv);
    return good;
}

static void set_accuracy(struct sweep_row *row, const struct samples *top1)
{
    double sum = 0, squares = 0;
    row->least = row->most = top1->values[0];
    for (int i = 0; i < top1->count; i++) {
        sum += top1->values[i];
        row->least = fmin(row->least, top1->values[i]);
        row->most = fmax(row->most, top1->values[i]);
    }
    row->top1 = sum / top1->count;
    for (int i = 0; i < top1->count; i++) squares += (top1->values[i] - row->top1) * (top1->values[i] - row->top1);
    row->spread = top1->count > 1 ? sqrt(squares / (top1->count - 1)) : 0;
}

bool sweep_row_measure(struct sweep_row *row, const char *const *logs, int count, struct error *error)
{
    struct samples top1 = {0}, rates = {0};
    bool good = true;
    for (int i = 0; good && i < count; i++) good = read_log(logs[i], &top1, &rates, error);
    if (good && count) {
        set_accuracy(row, &top1);
        row->images_per_second = median(&rates);
    }
    row->finished = good ? count : 0;
    free(top1.values);
    free(rates.values);
    return good;
}

static bool dominates(const struct sweep_row *a, const struct sweep_row *b)
{
    return a->top1 >= b->top1 && a->energy <= b->energy && (a->top1 > b->top1 || a->energy < b->energy);
}

void sweep_table_compare(struct sweep_table *table)
{
    for (int i = 0; i < table->count; i++) {
        struct sweep_row *row = &table->rows[i];
        row->lost = row->reference >= 0 ? table->rows[row->reference].top1 - row->top1 : (double)NAN;
        row->on_front = !isnan(row->top1) && row->energy > 0;
        for (int k = 0; k < table->count; k++) row->on_front = row->on_front && !dominates(&table->rows[k], row);
    }
}

// ---------------------------------------------------------------------------------------------
// Files

static const char *const columns[] = {"setting", "folder", "reference", "weight_bits", "activation_bits", "error_bits", "bits", "seeds", "finished",
                                      "failed", "top1", "top1_spread", "top1_least", "top1_most", "top1_lost", "energy_uj", "fp32_energy_uj",
                                      "energy_ratio", "images_per_second", "pareto"};
#define COLUMNS ((int)(sizeof columns / sizeof columns[0]))

// A cell, empty for what is not known.
static void print_number(FILE *file, const char *format, double number)
{
    fputc(',', file);
    if (!isnan(number)) fprintf(file, format, number);
}

static void print_csv(const struct sweep_table *table, FILE *file)
{
    for (int i = 0; i < COLUMNS; i++) fprintf(file, "%s%s", i ? "," : "", columns[i]);
    fputc('\n', file);
    for (int i = 0; i < table->count; i++) {
        const struct sweep_row *r = &table->rows[i];
        fprintf(file, "%s,%s,%s", r->name, r->folder, r->reference < 0 ? "" : table->rows[r->reference].name);
        for (int k = 0; k < 3; k++) print_number(file, "%.6g", r->bits[k]);
        print_number(file, "%.6g", sweep_row_bits(r));
        fprintf(file, ",%d,%d,%d", r->seeds, r->finished, r->failed);
        const double accuracies[] = {r->top1, r->spread, r->least, r->most, r->lost};
        for (int k = 0; k < 5; k++) print_number(file, "%.6f", accuracies[k]);
        const double energies[] = {r->energy, r->fp32_energy, sweep_row_energy_ratio(r)};
        for (int k = 0; k < 3; k++) print_number(file, "%.6g", energies[k]);
        print_number(file, "%.1f", r->images_per_second);
        fprintf(file, ",%s\n", isnan(r->top1) ? "" : r->on_front ? "1" : "0");
    }
}

static void print_markdown_row(const struct sweep_row *r, FILE *file)
{
    char top1[64] = "", lost[32] = "", rate[32] = "", runs[64];
    if (!isnan(r->top1) && r->finished > 1)
        snprintf(top1, sizeof top1, "%.2f ± %.2f", 100 * r->top1, 100 * r->spread);
    else if (!isnan(r->top1))
        snprintf(top1, sizeof top1, "%.2f", 100 * r->top1);
    if (!isnan(r->lost) && !sweep_row_is_fp32(r)) snprintf(lost, sizeof lost, "%.2f", 100 * r->lost);
    if (!isnan(r->images_per_second)) snprintf(rate, sizeof rate, "%.0f", r->images_per_second);
    snprintf(runs, sizeof runs, "%d of %d", r->finished, r->seeds);
    if (r->failed) snprintf(runs + strlen(runs), sizeof runs - strlen(runs), ", %d failed", r->failed);
    fprintf(file, "| %s | %.3g / %.3g / %.3g | %s | %s | %.2f | %s | %s | %s |\n", r->name, r->bits[MLS_WEIGHT], r->bits[MLS_ACTIVATION],
            r->bits[MLS_ERROR], top1, lost, sweep_row_energy_ratio(r), r->on_front ? "yes" : "", rate, runs);
}

static void print_markdown(const struct sweep_table *table, FILE *file)
{
    fputs("| setting | bits: weights / activations / errors | test top-1, % | lost, points | energy, fp32 / this | Pareto | images/s | runs |\n"
          "| --- | --- | --- | --- | --- | --- | --- | --- |\n", file);
    for (int i = 0; i < table->count; i++) print_markdown_row(&table->rows[i], file);
    fputs("\nBits of an element (a sign only where the operand can be negative) in the low-bit convolutions. Top-1 of the last epoch: mean "
          "± standard deviation over the seeds. Energy of the operations of a training step. Pareto: no other setting has as much top-1 for "
          "less energy, or more for as much.\n", file);
}

static bool write_file(const struct sweep_table *table, void (*print)(const struct sweep_table *, FILE *), const char *folder,
                       const char *name, struct error *error)
{
    char path[4096], *text = NULL;
    size_t size = 0;
    if (!file_join(path, sizeof path, folder, name)) return error_set(error, "%s: expected a shorter path", folder);
    FILE *file = open_memstream(&text, &size);
    if (file) print(table, file);
    if (!file || fclose(file) != 0 || !text) {
        free(text);
        return error_set(error, "out of memory");
    }
    const struct file_piece piece = {text, size};
    bool good = file_write_atomically(path, &piece, 1, error);
    free(text);
    return good;
}

bool sweep_table_write(const struct sweep_table *table, const char *folder, struct error *error)
{
    return write_file(table, print_csv, folder, "sweep.csv", error) && write_file(table, print_markdown, folder, "sweep.md", error);
}

static int count_cell(const struct csv *csv, int row, const char *name)
{
    double number = csv_number(csv, row, csv_column(csv, name));
    return number > 0 && number < 1e6 ? (int)number : 0;
}

// Row `row` of the file. The energies are needed; what else is missing is unknown.
static bool read_row(const struct csv *csv, int row, struct sweep_row *r)
{
#define NUMBER(name) csv_number(csv, row, csv_column(csv, name))
    r->name = strdup(csv_text(csv, row, csv_column(csv, "setting")));
    r->folder = strdup(csv_text(csv, row, csv_column(csv, "folder")));
    r->bits[MLS_WEIGHT] = NUMBER("weight_bits");
    r->bits[MLS_ACTIVATION] = NUMBER("activation_bits");
    r->bits[MLS_ERROR] = NUMBER("error_bits");
    r->seeds = count_cell(csv, row, "seeds");
    r->finished = count_cell(csv, row, "finished");
    r->failed = count_cell(csv, row, "failed");
    r->top1 = NUMBER("top1");
    r->spread = NUMBER("top1_spread");
    r->least = NUMBER("top1_least");
    r->most = NUMBER("top1_most");
    r->energy = NUMBER("energy_uj");
    r->fp32_energy = NUMBER("fp32_energy_uj");
    r->images_per_second = NUMBER("images_per_second");
#undef NUMBER
    return r->name && r->folder;
}

static void find_references(struct sweep_table *table, const struct csv *csv)
{
    for (int i = 0; i < table->count; i++) {
        const char *name = csv_text(csv, i, csv_column(csv, "reference"));
        for (int k = 0; k < table->count; k++)
            if (strcmp(table->rows[k].name, name) == 0) table->rows[i].reference = k;
    }
}

bool sweep_table_read(struct sweep_table *table, const char *folder, struct error *error)
{
    static const char *const needed[] = {"setting", "weight_bits", "activation_bits", "error_bits", "top1", "energy_uj", "fp32_energy_uj"};
    char path[4096];
    struct csv csv;
    *table = (struct sweep_table){0};
    if (!file_join(path, sizeof path, folder, "sweep.csv")) return error_set(error, "%s: expected a shorter path", folder);
    bool good = csv_read(path, &csv, error);
    for (int i = 0; good && i < (int)(sizeof needed / sizeof needed[0]); i++)
        if (csv_column(&csv, needed[i]) < 0) good = error_set(error, "%s: no column %s: expected the sweep.csv of a sweep", path, needed[i]);
    good = good && sweep_table_create(table, csv.rows, error);
    for (int i = 0; good && i < csv.rows; i++) good = read_row(&csv, i, &table->rows[i]) || error_set(error, "out of memory");
    if (good) {
        find_references(table, &csv);
        sweep_table_compare(table);
    }
    csv_release(&csv);
    return good;
}
