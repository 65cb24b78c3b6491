#include "energy/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PRICE(name, help) {#name, OPTION_FLOAT, offsetof(struct energy_prices, name), 0, 1e6, NULL, NULL, help}

// clang-format off
const struct option_description energy_option_table[] = {
    {"name", OPTION_STRING, offsetof(struct energy_prices, name), 0, 0, "unnamed", NULL, "of the technology"},
    PRICE(integer_add_8, "pJ of an 8-bit integer addition"),
    PRICE(integer_add_32, "pJ of a 32-bit integer addition"),
    PRICE(integer_multiply_8, "pJ of an 8 x 8-bit integer multiplication"),
    PRICE(integer_multiply_32, "pJ of a 32 x 32-bit integer multiplication"),
    PRICE(float_add_16, "pJ of an addition of <5,10> floats"),
    PRICE(float_add_32, "pJ of an addition of <8,23> floats"),
    PRICE(float_multiply_16, "pJ of a multiplication of <5,10> floats"),
    PRICE(float_multiply_32, "pJ of a multiplication of <8,23> floats"),
    PRICE(float_function, "pJ of an fp32 division, root or exponential"),
    PRICE(multiplexer_bit, "pJ of a bit in one stage of a shifter"),
    PRICE(random_bit, "pJ of a random bit"),
    PRICE(sram_bit, "pJ of a bit read or written on the chip"),
    PRICE(dram_bit, "pJ of a bit read or written off the chip"),
    {0},
};

struct operand_settings {
    int exponent, mantissa;
};

struct format_settings {
    char *name, *help;
    struct operand_settings all, operand[3];
    int sum, sum_exponent, sum_mantissa, product, scale, group, group_size, each_pixel, scale_exponent, scale_mantissa, rounding;
    int error_rounding;
};

#define AT(field) offsetof(struct format_settings, field)
#define BITS(prefix, at, whose) \
    {prefix "exponent", OPTION_INT, AT(at.exponent), 0, 8, NULL, NULL, "exponent bits of an element; 0: fixed point" whose}, \
    {prefix "mantissa", OPTION_INT, AT(at.mantissa), 0, 31, NULL, NULL, "mantissa bits of an element" whose}

const struct option_description energy_format_option_table[] = {
    {"name", OPTION_STRING, AT(name), 0, 0, NULL, NULL, "for --against"},
    {"help", OPTION_STRING, AT(help), 0, 0, NULL, NULL, "one line"},
    BITS("", all, ""),
    BITS("weight_", operand[MLS_WEIGHT], ", weights only"),
    BITS("activation_", operand[MLS_ACTIVATION], ", activations only"),
    BITS("error_", operand[MLS_ERROR], ", errors only"),
    {"sum", OPTION_CHOICE, AT(sum), 0, 0, "float", "integer float", "what products are summed in; integer: exact, as wide as it must be"},
    {"sum_exponent", OPTION_INT, AT(sum_exponent), 1, 8, "8", NULL, "sum=float: exponent bits"},
    {"sum_mantissa", OPTION_INT, AT(sum_mantissa), 1, 23, "23", NULL, "sum=float: mantissa bits"},
    {"product", OPTION_CHOICE, AT(product), 0, 0, "rounded", "rounded exact",
     "sum=float: a whole multiplier, or significands and exponents alone"},
    {"scale", OPTION_CHOICE, AT(scale), 0, 0, "none", "none tensor group block",
     "none; one fp32 scale; one fp32 scale and group scales; group scales alone"},
    {"group", OPTION_CHOICE, AT(group), 0, 0, "nc", "none n c nc", "dimensions that have scales of their own"},
    {"group_size", OPTION_INT, AT(group_size), 1, 1048576, "16", NULL, "neighbouring channels that share a scale"},
    {"each_pixel", OPTION_BOOL, AT(each_pixel), 0, 1, "0", NULL, "1: a group is of one pixel (or window position)"},
    {"scale_exponent", OPTION_INT, AT(scale_exponent), 0, 8, "8", NULL, "exponent bits of a group scale"},
    {"scale_mantissa", OPTION_INT, AT(scale_mantissa), 0, 7, "0", NULL, "mantissa bits of a group scale"},
    {"rounding", OPTION_CHOICE, AT(rounding), 0, 0, "nearest", "nearest stochastic", "rounding in training"},
    {"error_rounding", OPTION_CHOICE, AT(error_rounding), 0, 0, NULL, "nearest stochastic", "that of errors (as rounding)"},
    {0},
};
// clang-format on

// ---------------------------------------------------------------------------------------------
// Reading

static int given(int value, int otherwise)
{
    return value == OPTION_UNSET ? otherwise : value;
}

static bool set_operand(const struct format_settings *s, enum mls_operand k, struct operand_format *format)
{
    int exponent = given(s->operand[k].exponent, s->all.exponent), mantissa = given(s->operand[k].mantissa, s->all.mantissa);
    bool known = exponent != OPTION_UNSET && mantissa != OPTION_UNSET && exponent + mantissa > 0;
    *format = (struct operand_format){
        .exponent = exponent, .mantissa = mantissa, .always_signed = s->sum != 0 || s->each_pixel, .scale = (enum scale_kind)s->scale,
        .group = (enum mls_group)s->group, .group_size = s->group_size, .each_pixel = s->each_pixel, .scale_exponent = s->scale_exponent,
        .scale_mantissa = s->scale_mantissa,
        .rounding = (enum mls_rounding)(k == MLS_ERROR ? given(s->error_rounding, s->rounding) : s->rounding)};
    return known;
}

// Takes over name and help.
static void set_format(struct format_settings *s, struct energy_format *format, const struct cfg_section *section,
                       struct diagnostics *diagnostics)
{
    struct arithmetic *a = &format->arithmetic;
    *a = (struct arithmetic){.integer_sum = s->sum == 0, .sum_exponent = s->sum_exponent, .sum_mantissa = s->sum_mantissa,
                             .exact_product = s->product == 1};
    bool known = true;
    for (int k = 0; k < 3; k++) known = set_operand(s, (enum mls_operand)k, &a->operands[k]) && known;
    if (!known) diagnostics_add(diagnostics, section->line, section->name, "exponent and mantissa: expected for all operands, not both 0");
    if (!s->name) diagnostics_add(diagnostics, section->line, section->name, "name is missing");
    // An exact sum over many exponents would be wider than any adder: fp16 has 5 exponent bits and sums of 80 bits.
    for (int k = 0; known && k < 3; k++)
        if (a->integer_sum && a->operands[k].exponent > 5)
            diagnostics_add(diagnostics, section->line, section->name, "sum=integer with exponent=%d: expected at most 5",
                            a->operands[k].exponent);
    format->name = s->name;
    format->help = s->help;
    s->name = s->help = NULL;
}

static void read_format(struct energy_table *table, struct cfg_section *section, struct diagnostics *diagnostics)
{
    const struct option_description *const tables[] = {energy_format_option_table, NULL};
    struct format_settings settings = {0};
    bool good = options_read(energy_format_option_table, section, &settings, diagnostics);
    if (good) {
        if (settings.name && energy_table_find(table, settings.name))
            diagnostics_add(diagnostics, section->line, section->name, "a second format with name=%s", settings.name);
        set_format(&settings, &table->formats[table->format_count++], section, diagnostics);
    }
    options_report_unknown(section, tables, diagnostics);
    options_release(energy_format_option_table, &settings);
}

static void read_prices(struct energy_table *table, struct cfg_section *section, struct diagnostics *diagnostics)
{
    const struct option_description *const tables[] = {energy_option_table, NULL};
    if (!options_read(energy_option_table, section, &table->prices, diagnostics)) return;
    for (const struct option_description *row = energy_option_table; row->name; row++) {
        float value;
        memcpy(&value, (const char *)&table->prices + row->offset, sizeof value);
        if (row->type == OPTION_FLOAT && isnan(value))
            diagnostics_add(diagnostics, section->line, section->name, "%s is missing: %s", row->name, row->help);
    }
    options_report_unknown(section, tables, diagnostics);
}

// Returns the number of [energy] sections.
static int read_sections(struct energy_table *table, struct cfg *cfg, bool with_prices, struct diagnostics *diagnostics)
{
    int prices = 0;
    for (int i = 0; i < cfg->section_count; i++) {
        struct cfg_section *section = &cfg->sections[i];
        if (strcmp(section->name, "format") == 0) {
            read_format(table, section, diagnostics);
        } else if (!with_prices || strcmp(section->name, "energy") != 0) {
            diagnostics_add(diagnostics, section->line, section->name, "unknown section: expected %s[format]",
                            with_prices ? "[energy] or " : "");
        } else if (prices++) {
            diagnostics_add(diagnostics, section->line, section->name, "a second [energy] section");
        } else {
            read_prices(table, section, diagnostics);
        }
    }
    return prices;
}

// Takes over cfg.
static bool add_sections(struct energy_table *table, struct cfg *cfg, bool with_prices, struct diagnostics *diagnostics)
{
    if (!cfg) return false;
    int before = diagnostics->count;
    size_t most = (size_t)table->format_count + (size_t)cfg->section_count;
    struct energy_format *grown = realloc(table->formats, (most + 1) * sizeof *grown);
    if (!grown) {
        diagnostics_add(diagnostics, 1, NULL, "out of memory");
    } else {
        table->formats = grown;
        if (!read_sections(table, cfg, with_prices, diagnostics) && with_prices)
            diagnostics_add(diagnostics, 1, "energy", "missing: an energy table has a section [energy] with its prices");
    }
    cfg_release(cfg);
    return diagnostics->count == before;
}

static struct energy_table *table_of(struct cfg *cfg, struct diagnostics *diagnostics)
{
    struct energy_table *table = cfg ? calloc(1, sizeof *table) : NULL;
    if (table && add_sections(table, cfg, true, diagnostics)) return table;
    if (cfg && !table) diagnostics_add(diagnostics, 1, NULL, "out of memory");
    energy_table_release(table);
    return NULL;
}

struct energy_table *energy_table_read(const char *path, struct diagnostics *diagnostics)
{
    return table_of(cfg_read(path, diagnostics), diagnostics);
}

struct energy_table *energy_table_parse(const char *path, const char *text, size_t length, struct diagnostics *diagnostics)
{
    return table_of(cfg_parse(path, text, length, diagnostics), diagnostics);
}

bool energy_table_read_formats(struct energy_table *table, const char *path, struct diagnostics *diagnostics)
{
    return add_sections(table, cfg_read(path, diagnostics), false, diagnostics);
}

void energy_table_release(struct energy_table *table)
{
    if (!table) return;
    for (int i = 0; i < table->format_count; i++) {
        free(table->formats[i].name);
        free(table->formats[i].help);
    }
    free(table->formats);
    options_release(energy_option_table, &table->prices);
    free(table);
}

const struct energy_format *energy_table_find(const struct energy_table *table, const char *name)
{
    for (int i = 0; i < table->format_count; i++)
        if (table->formats[i].name && strcmp(table->formats[i].name, name) == 0) return &table->formats[i];
    return NULL;
}

// ---------------------------------------------------------------------------------------------
// Pricing

// The line through (x1, y1) and (x2, y2) at x; not below 0.
static double line(double x, double x1, float y1, double x2, float y2)
{
    return fmax(0, (double)y1 + ((double)y2 - (double)y1) * (x - x1) / (x2 - x1));
}

static double one_unit(const struct energy_prices *p, const struct unit *unit)
{
    double width = unit->width, second = unit->second, significand = second + 1;
    switch (unit->type) {
    case INTEGER_ADD: return line(width, 8, p->integer_add_8, 32, p->integer_add_32);
    case INTEGER_MULTIPLY: return line(width * second, 8 * 8, p->integer_multiply_8, 32 * 32, p->integer_multiply_32);
    case FLOAT_ADD: return line(significand, 11, p->float_add_16, 24, p->float_add_32);
    case FLOAT_MULTIPLY: return line(significand * significand, 11 * 11, p->float_multiply_16, 24 * 24, p->float_multiply_32);
    case FLOAT_FUNCTION: return (double)p->float_function;
    case SHIFT: return (double)p->multiplexer_bit * width * ceil(log2(second + 1));
    case RANDOM_BIT: return (double)p->random_bit;
    case NO_UNIT: break;
    }
    return 0;
}

double unit_energy(const struct energy_prices *prices, const struct unit *unit)
{
    return unit->times > 0 ? unit->times * one_unit(prices, unit) : 0;
}

double operation_energy(const struct energy_prices *prices, const struct operation *operation)
{
    double sum = 0;
    for (int i = 0; i < MOST_UNITS && operation->units[i].type != NO_UNIT; i++) sum += unit_energy(prices, &operation->units[i]);
    return sum;
}
