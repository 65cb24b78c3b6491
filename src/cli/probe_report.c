#include "cli/probe_report.h"

#include <json-c/json.h>
#include <math.h>
#include <string.h>

// ---------------------------------------------------------------------------------------------
// Text

static void print_number(double value, int width, int digits)
{
    if (isnan(value))
        printf(" %*s", width, "-");
    else
        printf(" %*.*f", width, digits, value);
}

static void print_figures(const struct gradient_figures *f)
{
    print_number(f->error, 8, 4);
    print_number(f->bias, 8, 4);
    print_number(f->noise, 8, 4);
    print_number(f->cosine, 7, 4);
    print_number(f->slope, 7, 4);
}

static int setting_width(const struct probe_report *r)
{
    int width = (int)strlen("setting");
    for (int i = 0; i < r->count; i++)
        if ((int)strlen(r->settings[i].setting) > width) width = (int)strlen(r->settings[i].setting);
    return width;
}

#define FIGURES_HEAD "    error     bias    noise  cosine   slope"

static void print_layers(const struct probed *p)
{
    printf("\n%s, %s\n%5s  %-28s%s\n", p->setting, p->operand, "layer", "", FIGURES_HEAD);
    for (int i = 0; i < p->result.count; i++) {
        const struct gradient_row *row = &p->result.rows[i];
        printf("%5d  %-28s", row->layer, row->name);
        print_figures(&row->figures);
        puts(row->low_bit ? "" : "  fp32");
    }
}

void probe_print_text(const struct probe_report *r)
{
    int width = setting_width(r);
    printf("weight gradient against fp32's: %d batch%s of %d, %d rounding seed%s; %s of %s\n"
           "error: squared relative error = bias + noise; slope: projection on the fp32 gradient. \"mean\": over the %d%s layers;\n"
           "\"network\": their weights as one vector. loss: less that of fp32\n\n",
           r->batches, r->batches == 1 ? "" : "es", r->images, r->seeds, r->seeds == 1 ? "" : "s", r->checkpoint, r->cfg_path,
           r->counted, r->low_bit ? " low-bit" : "");
    printf("%*s   %-43s   %-43s\n", width + 13, "", "mean", "network");
    printf("%-*s  %-11s" FIGURES_HEAD "  " FIGURES_HEAD "     loss\n", width, "setting", "quantized");
    for (int i = 0; i < r->count; i++) {
        const struct probed *p = &r->settings[i];
        printf("%-*s  %-11s", width, p->setting, p->operand);
        print_figures(&p->result.mean);
        printf("  ");
        print_figures(&p->result.whole);
        print_number(p->result.loss_difference, 8, 4);
        puts("");
    }
    for (int i = 0; i < r->count && r->layers; i++) print_layers(&r->settings[i]);
}

// ---------------------------------------------------------------------------------------------
// JSON

static void add_number(struct json_object *o, const char *key, double value)
{
    json_object_object_add(o, key, isfinite(value) ? json_object_new_double(value) : NULL);
}

static void add_figures(struct json_object *o, const struct gradient_figures *f)
{
    add_number(o, "error", f->error);
    add_number(o, "bias", f->bias);
    add_number(o, "noise", f->noise);
    add_number(o, "cosine", f->cosine);
    add_number(o, "slope", f->slope);
}

static struct json_object *figures_json(const struct gradient_figures *f)
{
    struct json_object *o = json_object_new_object();
    add_figures(o, f);
    return o;
}

static struct json_object *layers_json(const struct gradient_result *result)
{
    struct json_object *layers = json_object_new_array();
    for (int i = 0; i < result->count; i++) {
        const struct gradient_row *row = &result->rows[i];
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "layer", json_object_new_int(row->layer));
        json_object_object_add(o, "tensor", json_object_new_string(row->name));
        json_object_object_add(o, "low_bit", json_object_new_boolean(row->low_bit));
        json_object_object_add(o, "counted", json_object_new_boolean(row->counted));
        add_figures(o, &row->figures);
        json_object_array_add(layers, o);
    }
    return layers;
}

void probe_print_json(const struct probe_report *r)
{
    struct json_object *all = json_object_new_object(), *settings = json_object_new_array();
    json_object_object_add(all, "cfg", json_object_new_string(r->cfg_path));
    json_object_object_add(all, "checkpoint", json_object_new_string(r->checkpoint));
    json_object_object_add(all, "batch", json_object_new_int(r->images));
    json_object_object_add(all, "batches", json_object_new_int(r->batches));
    json_object_object_add(all, "seeds", json_object_new_int(r->seeds));
    for (int i = 0; i < r->count; i++) {
        const struct probed *p = &r->settings[i];
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "setting", json_object_new_string(p->setting));
        json_object_object_add(o, "quantized", json_object_new_string(p->operand));
        json_object_object_add(o, "mean", figures_json(&p->result.mean));
        json_object_object_add(o, "network", figures_json(&p->result.whole));
        add_number(o, "loss", p->result.loss);
        add_number(o, "loss_difference", p->result.loss_difference);
        json_object_object_add(o, "layers", layers_json(&p->result));
        json_object_array_add(settings, o);
    }
    json_object_object_add(all, "settings", settings);
    puts(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY));
    json_object_put(all);
}

// ---------------------------------------------------------------------------------------------
// CSV

static void write_numbers(FILE *file, const struct gradient_figures *f, const struct gradient_result *losses)
{
    const double numbers[] = {f->error, f->bias, f->noise, f->cosine, f->slope, losses ? losses->loss : NAN,
                              losses ? losses->loss_difference : NAN};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        isnan(numbers[i]) ? fputc(',', file) : fprintf(file, ",%.9g", numbers[i]);
    fputc('\n', file);
}

void probe_write_csv(const struct probe_report *r, FILE *file)
{
    fputs("setting,quantized,layer,tensor,low_bit,counted,error,bias,noise,cosine,slope,loss,loss_difference\n", file);
    for (int i = 0; i < r->count; i++) {
        const struct probed *p = &r->settings[i];
        for (int k = 0; k < p->result.count; k++) {
            const struct gradient_row *row = &p->result.rows[k];
            fprintf(file, "\"%s\",%s,%d,%s,%d,%d", p->setting, p->operand, row->layer, row->name, row->low_bit, row->counted);
            write_numbers(file, &row->figures, NULL);
        }
        fprintf(file, "\"%s\",%s,mean,,,", p->setting, p->operand);
        write_numbers(file, &p->result.mean, &p->result);
        fprintf(file, "\"%s\",%s,network,,,", p->setting, p->operand);
        write_numbers(file, &p->result.whole, &p->result);
    }
}
