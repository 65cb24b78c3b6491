#include "net/mls_options.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "mls/presets.h"

#define ROW(prefix, field, at, type, low, high, choices, help)                                                     \
    {prefix #field, type, offsetof(struct mls_settings, at.field), low, high, NULL, choices, help}

#define FORMAT_ROWS(prefix, at, whose)                                                                             \
    ROW(prefix, format, at, OPTION_CHOICE, 0, 0, MLS_FORMAT_NAMES, "number format by name (mls)" whose),             \
    ROW(prefix, exponent, at, OPTION_INT, 0, 3, NULL, "exponent bits of an element (2)" whose),                        \
    ROW(prefix, mantissa, at, OPTION_INT, 0, 7, NULL, "mantissa bits of an element (1)" whose),                        \
    ROW(prefix, group, at, OPTION_CHOICE, 0, 0, "none n c nc", "dimensions that have scales of their own (nc)" whose),  \
    ROW(prefix, group_size, at, OPTION_INT, 1, 1048576, NULL, "neighbouring channels that share a scale (16)" whose),   \
    ROW(prefix, scale_exponent, at, OPTION_INT, 1, 8, NULL, "exponent bits of a group scale (8)" whose),               \
    ROW(prefix, scale_mantissa, at, OPTION_INT, 0, 1, NULL, "mantissa bits of a group scale (1)" whose),               \
    ROW(prefix, rounding, at, OPTION_CHOICE, 0, 0, "nearest stochastic",                                               \
        "rounding in training (errors stochastic, others and mx*, fp8_* nearest)" whose)

// An option that is not set is as in [net], or else as the help says in brackets (mls_format_default).
// clang-format off
const struct option_description mls_option_table[] = {
    {"mls", OPTION_BOOL, offsetof(struct mls_settings, mls), 0, 1, NULL, NULL, "1: convolutions in the number format, 0: in fp32 (1)"},
    FORMAT_ROWS("", all, ""),
    FORMAT_ROWS("weight_", operand[MLS_WEIGHT], ", weights only"),
    FORMAT_ROWS("activation_", operand[MLS_ACTIVATION], ", activations only"),
    FORMAT_ROWS("error_", operand[MLS_ERROR], ", errors only"),
    {0},
};
// clang-format on

static const char *const prefixes[] = {"weight_", "activation_", "error_", ""};
enum { ALL = 3 };

// ---------------------------------------------------------------------------------------------
// What holds. Settings in the order in which they go before each other:

struct order {
    const struct mls_format_settings *settings[4];
};

static struct order order_of(const struct mls_settings *layer, const struct mls_settings *net, int operand)
{
    return (struct order){{&layer->operand[operand], &layer->all, &net->operand[operand], &net->all}};
}

// The place of the format that holds, 4: none is set. *format is the choice.
static int place_of_format(const struct order *order, int *format)
{
    *format = 0;
    for (int i = 0; i < 4; i++)
        if (order->settings[i]->format != OPTION_UNSET) {
            *format = order->settings[i]->format;
            return i;
        }
    return 4;
}

static int first_set(int a, int b, int c, int d, int otherwise)
{
    return a != OPTION_UNSET ? a : b != OPTION_UNSET ? b : c != OPTION_UNSET ? c : d != OPTION_UNSET ? d : otherwise;
}

void mls_settings_resolve(const struct mls_settings *layer, const struct mls_settings *net, int *mls,
                          struct mls_format formats[3])
{
    *mls = first_set(layer->mls, net->mls, OPTION_UNSET, OPTION_UNSET, 1);
    for (int k = 0; k < 3; k++) {
        struct order order = order_of(layer, net, k);
        int choice;
        place_of_format(&order, &choice);
        struct mls_format d = mls_preset_at(choice, (enum mls_operand)k), *f = &formats[k];
        *f = d;
#define RESOLVE(field, NUMBER)                                                                                     \
    mls_preset_decides(d.family, NUMBER) ? (int)d.field                                                            \
        : first_set(layer->operand[k].field, layer->all.field, net->operand[k].field, net->all.field, (int)d.field)
        f->exponent = RESOLVE(exponent, MLS_FIELD_EXPONENT);
        f->mantissa = RESOLVE(mantissa, MLS_FIELD_MANTISSA);
        f->group = (enum mls_group)(RESOLVE(group, MLS_FIELD_GROUP));
        f->group_size = RESOLVE(group_size, MLS_FIELD_GROUP_SIZE);
        f->scale_exponent = RESOLVE(scale_exponent, MLS_FIELD_SCALE_EXPONENT);
        f->scale_mantissa = RESOLVE(scale_mantissa, MLS_FIELD_SCALE_MANTISSA);
#undef RESOLVE
        f->rounding = (enum mls_rounding)first_set(layer->operand[k].rounding, layer->all.rounding, net->operand[k].rounding,
                                                   net->all.rounding, (int)d.rounding);
    }
}

// ---------------------------------------------------------------------------------------------
// Contradictions

static int value_of(const struct mls_format_settings *s, int field)
{
    const int values[MLS_FIELDS] = {s->exponent, s->mantissa, s->group, s->group_size, s->scale_exponent, s->scale_mantissa};
    return values[field];
}

// Whether an option at `place` of the order would change a field that the format decides.
static bool contradicts(const struct order *order, int place, int field, int *format)
{
    bool unheard = place_of_format(order, format) >= place;
    return unheard && mls_preset_decides(mls_preset_at(*format, MLS_ERROR).family, (enum mls_field)field);
}

static void report(struct cfg_section *section, int set, int field, int format, struct diagnostics *diagnostics)
{
    char key[64], name[32];
    snprintf(key, sizeof key, "%s%s", prefixes[set], mls_field_names[field]);
    mls_preset_name(format, name, sizeof name);
    const struct cfg_option *option = cfg_find_option(section, key);
    diagnostics_add(diagnostics, option ? option->line : section->line, section->name,
                    "%s=%s contradicts format=%s, which decides it; expected format=mls, or no %s", key, option ? option->value : "",
                    name, key);
}

#define NO_SETTINGS {OPTION_UNSET, OPTION_UNSET, OPTION_UNSET, OPTION_UNSET, OPTION_UNSET, OPTION_UNSET, OPTION_UNSET, OPTION_UNSET}

bool mls_settings_check(const struct mls_settings *settings, const struct mls_settings *net, struct cfg_section *section,
                        struct diagnostics *diagnostics)
{
    static const struct mls_settings nothing = {OPTION_UNSET, NO_SETTINGS, {NO_SETTINGS, NO_SETTINGS, NO_SETTINGS}};
    bool good = true;
    for (int set = 0; set <= ALL; set++)
        for (int field = 0; field < MLS_FIELDS; field++) {
            int first = set == ALL ? 0 : set, last = set == ALL ? 2 : set, format = 0;
            bool contradiction = value_of(set == ALL ? &settings->all : &settings->operand[set], field) != OPTION_UNSET;
            for (int k = first; k <= last; k++) {
                struct order order = order_of(settings, net ? net : &nothing, k);
                contradiction = contradiction && contradicts(&order, set == ALL, field, &format);
            }
            if (!contradiction) continue;
            report(section, set, field, format, diagnostics);
            good = false;
        }
    return good;
}

void mls_settings_make_way(struct cfg_section *section, const char *key, const char *value)
{
    struct mls_format format;
    int set = 0;
    char name[64];
    while (set <= ALL && (snprintf(name, sizeof name, "%sformat", prefixes[set]), strcmp(name, key) != 0)) set++;
    if (set > ALL || !mls_preset(value, MLS_WEIGHT, &format)) return;
    for (int whose = set == ALL ? 0 : set; whose <= set; whose++)
        for (int field = 0; field < MLS_FIELDS; field++) {
            if (!mls_preset_decides(format.family, (enum mls_field)field)) continue;
            snprintf(name, sizeof name, "%s%s", prefixes[whose], mls_field_names[field]);
            const struct cfg_option *option = cfg_find_option(section, name);
            if (option && option->line > 0) cfg_remove_option(section, option);
        }
}
