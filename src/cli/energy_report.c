#include "cli/energy_report.h"

#include <json-c/json.h>
#include <stdio.h>

// pJ of all images -> microjoules of one.
static double microjoules(const struct energy_report *r, double picojoules)
{
    return picojoules / r->images / 1e6;
}

static double percent(double part, double whole)
{
    return whole > 0 ? 100 * part / whole : 0;
}

static double ratio(double other, double own)
{
    return own > 0 ? other / own : 0;
}

// ---------------------------------------------------------------------------------------------
// Text

static void print_layers(const struct energy_report *r, const struct energy_sums *all)
{
    printf("%4s  %-14s %-16s", "", "layer", "output");
    for (int p = 0; p < OPERATION_PASSES; p++) printf(" %*s", p == IN_WEIGHT_GRADIENT ? 15 : 11, operation_pass_names[p]);
    printf(" %11s %6s %11s  %s\n", "training", "%", "inference", "settings");
    for (int i = 0; i < r->network->layer_count; i++) {
        const struct layer *layer = r->network->layers[i];
        struct energy_sums training = energy_sum(r->prices, &r->own.training, i), inference = energy_sum(r->prices, &r->own.inference, i);
        char output[48], text[160] = "";
        struct shape shape = layer->output_shape;
        snprintf(output, sizeof output, "%d x %d x %d", shape.channels, shape.height, shape.width);
        if (layer->type->describe) layer->type->describe(layer, text, sizeof text);
        printf("%4d  %-14s %-16s", i, layer->type->name, output);
        for (int p = 0; p < OPERATION_PASSES; p++) printf(" %*.3f", p == IN_WEIGHT_GRADIENT ? 15 : 11, microjoules(r, training.passes[p]));
        printf(" %11.3f %6.2f %11.3f  %s\n", microjoules(r, training.total), percent(training.total, all[0].total),
               microjoules(r, inference.total), text);
    }
    printf("%4s  %-14s %-16s", "", "total", "");
    for (int p = 0; p < OPERATION_PASSES; p++) printf(" %*.3f", p == IN_WEIGHT_GRADIENT ? 15 : 11, microjoules(r, all[0].passes[p]));
    printf(" %11.3f %6s %11.3f\n", microjoules(r, all[0].total), "", microjoules(r, all[1].total));
}

static void print_kinds(const struct energy_report *r, const struct energy_sums *all)
{
    printf("\n%-22s %14s %12s %6s   %14s %12s %6s\n", "kind", "training, M", "uJ", "%", "inference, M", "uJ", "%");
    for (int k = 0; k < OPERATION_KINDS; k++) {
        if (all[0].counts[k] + all[1].counts[k] == 0) continue;
        printf("%-22s", operation_kind_names[k]);
        for (int i = 0; i < 2; i++)
            printf("%s %14.4f %12.3f %6.2f", i ? "  " : "", all[i].counts[k] / r->images / 1e6, microjoules(r, all[i].kinds[k]),
                   percent(all[i].kinds[k], all[i].total));
        puts("");
    }
}

static void print_against(const struct energy_report *r, const struct energy_sums *all)
{
    printf("\n%-14s %14s %7s   %22s %7s   %14s %7s\n", "", "training, uJ", "ratio", "low-bit convolutions", "ratio",
           "inference, uJ", "ratio");
    for (int i = -1; i < r->against_count; i++) {
        const struct energy_run *run = i < 0 ? &r->own : &r->against[i];
        struct energy_sums training = energy_sum(r->prices, &run->training, -1), inference = energy_sum(r->prices, &run->inference, -1);
        printf("%-14s %14.3f %7.2f   %22.3f %7.2f   %14.3f %7.2f  %s\n", run->name, microjoules(r, training.total),
               ratio(training.total, all[0].total),
               microjoules(r, training.low_bit), ratio(training.low_bit, all[0].low_bit), microjoules(r, inference.total),
               ratio(inference.total, all[1].total), run->help ? run->help : "");
    }
}

static void print_traffic(const struct energy_report *r, const char *name, const struct operations *operations)
{
    struct traffic_row rows[MOST_TRAFFIC_ROWS], total;
    int count = traffic_sum(operations, rows, &total);
    printf("\n%-14s %6s %14s %26s\n", name, "bits", "kB", "low-bit operands, kB");
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < count; i++)
            if ((int)rows[i].operand == k)
                printf("%-14s %6.4g %14.3f %26.3f\n", operand_names[k], rows[i].bits, rows[i].bytes / r->images / 1e3,
                       rows[i].operand_bytes / r->images / 1e3);
    printf("%-14s %6s %14.3f %26.3f   all on the chip %.3f uJ, all off the chip %.3f uJ\n", "total", "", total.bytes / r->images / 1e3,
           total.operand_bytes / r->images / 1e3, microjoules(r, 8 * total.bytes * (double)r->prices->sram_bit),
           microjoules(r, 8 * total.bytes * (double)r->prices->dram_bit));
}

static void print_memory(const struct energy_report *r)
{
    struct traffic_row rows[MOST_TRAFFIC_ROWS], own, total;
    puts("\nMemory traffic, not in the energies above: each pass reads and writes every tensor that it uses once.");
    print_traffic(r, "training", &r->own.training);
    print_traffic(r, "inference", &r->own.inference);
    traffic_sum(&r->own.training, rows, &own);
    printf("\n%-14s %14s %7s %26s %7s\n", "", "training, kB", "ratio", "low-bit operands, kB", "ratio");
    for (int i = 0; i < r->against_count; i++) {
        traffic_sum(&r->against[i].training, rows, &total);
        printf("%-14s %14.3f %7.2f %26.3f %7.2f\n", r->against[i].name, total.bytes / r->images / 1e3, ratio(total.bytes, own.bytes),
               total.operand_bytes / r->images / 1e3, ratio(total.operand_bytes, own.operand_bytes));
    }
}

void energy_print_text(const struct energy_report *r)
{
    struct energy_sums all[2] = {energy_sum(r->prices, &r->own.training, -1), energy_sum(r->prices, &r->own.inference, -1)};
    printf("microjoules of one image, in a training step of %d images; prices: %s, %s\n\n", r->images, r->prices->name, r->table_path);
    print_layers(r, all);
    print_kinds(r, all);
    print_against(r, all);
    if (r->memory) print_memory(r);
}

// ---------------------------------------------------------------------------------------------
// CSV

static void print_csv_rows(const struct energy_report *r, const char *name, const struct operations *operations)
{
    for (size_t i = 0; i < operations->count; i++) {
        const struct operation *o = &operations->items[i];
        double energy = o->count * operation_energy(r->prices, o);
        printf("%s,%d,%s,%s,%s,%.10g,%.10g\n", name, o->layer, r->network->layers[o->layer]->type->name, operation_pass_names[o->pass],
               operation_kind_names[o->kind], o->count / r->images, energy / r->images);
    }
}

static void print_csv_traffic(const struct energy_report *r, const char *name, const struct operations *operations)
{
    for (size_t i = 0; i < operations->traffic_count; i++) {
        const struct traffic *t = &operations->traffic[i];
        printf("%s,%d,%s,%s,memory: %s of %.4g bits,%.10g,%.10g\n", name, t->layer, r->network->layers[t->layer]->type->name,
               operation_pass_names[t->pass], operand_names[t->operand], t->bits, t->elements / r->images,
               t->elements * t->bits * (double)r->prices->dram_bit / r->images);
    }
}

void energy_print_csv(const struct energy_report *r)
{
    puts("run,layer,type,pass,kind,operations,picojoules");
    print_csv_rows(r, "training", &r->own.training);
    print_csv_rows(r, "inference", &r->own.inference);
    if (!r->memory) return;
    print_csv_traffic(r, "training", &r->own.training);
    print_csv_traffic(r, "inference", &r->own.inference);
}

// ---------------------------------------------------------------------------------------------
// JSON

static void add_number(struct json_object *object, const char *key, double value)
{
    json_object_object_add(object, key, json_object_new_double(value));
}

static void add_text(struct json_object *object, const char *key, const char *text)
{
    json_object_object_add(object, key, json_object_new_string(text));
}

static struct json_object *units_json(const struct energy_report *r, const struct operation *o)
{
    struct json_object *units = json_object_new_array();
    for (int i = 0; i < MOST_UNITS && o->units[i].type != NO_UNIT; i++) {
        if (o->units[i].times <= 0) continue;
        struct json_object *unit = json_object_new_object();
        add_text(unit, "unit", unit_names[o->units[i].type]);
        add_number(unit, "times", o->units[i].times);
        json_object_object_add(unit, "width", json_object_new_int(o->units[i].width));
        json_object_object_add(unit, "second", json_object_new_int(o->units[i].second));
        add_number(unit, "pj", unit_energy(r->prices, &o->units[i]));
        json_object_array_add(units, unit);
    }
    return units;
}

static struct json_object *operations_json(const struct energy_report *r, const struct operations *operations)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < operations->count; i++) {
        const struct operation *o = &operations->items[i];
        struct json_object *row = json_object_new_object();
        json_object_object_add(row, "layer", json_object_new_int(o->layer));
        add_text(row, "type", r->network->layers[o->layer]->type->name);
        add_text(row, "pass", operation_pass_names[o->pass]);
        add_text(row, "kind", operation_kind_names[o->kind]);
        add_number(row, "count", o->count / r->images);
        add_number(row, "pj", o->count * operation_energy(r->prices, o) / r->images);
        json_object_object_add(row, "units", units_json(r, o));
        json_object_array_add(list, row);
    }
    return list;
}

static struct json_object *kinds_json(const struct energy_report *r, const struct energy_sums *sums)
{
    struct json_object *kinds = json_object_new_object();
    for (int k = 0; k < OPERATION_KINDS; k++) {
        if (sums->counts[k] == 0) continue;
        struct json_object *row = json_object_new_object();
        add_number(row, "count", sums->counts[k] / r->images);
        add_number(row, "pj", sums->kinds[k] / r->images);
        add_number(row, "share", ratio(sums->kinds[k], sums->total));
        json_object_object_add(kinds, operation_kind_names[k], row);
    }
    return kinds;
}

static struct json_object *traffic_json(const struct energy_report *r, const struct operations *operations)
{
    struct traffic_row rows[MOST_TRAFFIC_ROWS], total;
    int count = traffic_sum(operations, rows, &total);
    struct json_object *memory = json_object_new_object(), *list = json_object_new_array();
    for (int i = 0; i < count; i++) {
        struct json_object *row = json_object_new_object();
        add_text(row, "operand", operand_names[rows[i].operand]);
        add_number(row, "bits", rows[i].bits);
        add_number(row, "bytes", rows[i].bytes / r->images);
        add_number(row, "low_bit_operand_bytes", rows[i].operand_bytes / r->images);
        json_object_array_add(list, row);
    }
    json_object_object_add(memory, "traffic", list);
    add_number(memory, "bytes", total.bytes / r->images);
    add_number(memory, "low_bit_operand_bytes", total.operand_bytes / r->images);
    add_number(memory, "sram_pj", 8 * total.bytes / r->images * (double)r->prices->sram_bit);
    add_number(memory, "dram_pj", 8 * total.bytes / r->images * (double)r->prices->dram_bit);
    return memory;
}

static struct json_object *bits_json(const struct operations *operations)
{
    struct json_object *object = json_object_new_object();
    double bits[3];
    bits_of_elements(operations, bits);
    for (int k = 0; k < 3; k++) add_number(object, operand_names[k], bits[k]);
    return object;
}

// With `all` also each operation.
static struct json_object *run_json(const struct energy_report *r, const struct operations *operations, bool all)
{
    struct energy_sums sums = energy_sum(r->prices, operations, -1);
    struct json_object *run = json_object_new_object();
    add_number(run, "pj", sums.total / r->images);
    add_number(run, "low_bit_convolutions_pj", sums.low_bit / r->images);
    json_object_object_add(run, "bits", bits_json(operations));
    json_object_object_add(run, "kinds", kinds_json(r, &sums));
    if (r->memory) json_object_object_add(run, "memory", traffic_json(r, operations));
    if (all) json_object_object_add(run, "operations", operations_json(r, operations));
    return run;
}

static struct json_object *against_json(const struct energy_report *r, const struct energy_run *run)
{
    struct energy_sums own = energy_sum(r->prices, &r->own.training, -1), other = energy_sum(r->prices, &run->training, -1);
    struct energy_sums own_inference = energy_sum(r->prices, &r->own.inference, -1), inference = energy_sum(r->prices, &run->inference, -1);
    struct json_object *row = json_object_new_object();
    add_text(row, "name", run->name);
    if (run->help) add_text(row, "help", run->help);
    add_number(row, "training_ratio", ratio(other.total, own.total));
    add_number(row, "low_bit_convolutions_ratio", ratio(other.low_bit, own.low_bit));
    add_number(row, "inference_ratio", ratio(inference.total, own_inference.total));
    json_object_object_add(row, "training", run_json(r, &run->training, false));
    json_object_object_add(row, "inference", run_json(r, &run->inference, false));
    return row;
}

void energy_print_json(const struct energy_report *r)
{
    struct json_object *root = json_object_new_object(), *against = json_object_new_array();
    add_text(root, "prices", r->prices->name);
    json_object_object_add(root, "batch", json_object_new_int(r->images));
    add_text(root, "figures", "per image");
    json_object_object_add(root, "training", run_json(r, &r->own.training, true));
    json_object_object_add(root, "inference", run_json(r, &r->own.inference, true));
    for (int i = 0; i < r->against_count; i++) json_object_array_add(against, against_json(r, &r->against[i]));
    json_object_object_add(root, "against", against);
    puts(json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY));
    json_object_put(root);
}
