#include "cli/format_arguments.h"

#include <stdlib.h>
#include <string.h>

#include "mls/presets.h"

static bool read_int(const char *name, const char *text, int *value, struct error *error)
{
    if (!text) return true;
    char *end;
    long number = strtol(text, &end, 10);
    if (end == text || *end || number < -2147483647L || number > 2147483647L)
        return error_set(error, "--%s %s: expected an integer", name, text);
    *value = (int)number;
    return true;
}

static bool read_choice(const char *name, const char *text, const char *const *choices, int count, int *value, struct error *error)
{
    if (!text) return true;
    for (int i = 0; i < count; i++)
        if (strcmp(text, choices[i]) == 0) {
            *value = i;
            return true;
        }
    return error_set(error, "--%s %s: expected one of %s, %s%s", name, text, choices[0], choices[1], count > 2 ? ", c, nc" : "");
}

// The format by name, and no text beside it that it decides.
static bool read_preset(const struct format_texts *t, struct mls_format *format, struct error *error)
{
    const char *const texts[MLS_FIELDS] = {t->exponent, t->mantissa, t->group, t->group_size, t->scale_exponent, t->scale_mantissa};
    if (t->format && !mls_preset(t->format, MLS_WEIGHT, format))
        return error_set(error, "--format %s: expected one of: " MLS_FORMAT_NAMES, t->format);
    for (int field = 0; field < MLS_FIELDS; field++) {
        char name[32];
        mls_format_describe(format, name, sizeof name);
        if (texts[field] && mls_preset_decides(format->family, (enum mls_field)field))
            return error_set(error, "%s %s contradicts the format %s, which decides it", mls_field_names[field], texts[field], name);
    }
    return true;
}

bool format_from_texts(const struct format_texts *t, struct mls_format *format, struct error *error)
{
    static const char *const groups[] = {"none", "n", "c", "nc"}, *const roundings[] = {"nearest", "stochastic"};
    if (!read_preset(t, format, error)) return false;
    int group = (int)format->group, rounding = (int)format->rounding;
    bool good = read_int("exponent", t->exponent, &format->exponent, error) && read_int("mantissa", t->mantissa, &format->mantissa, error) &&
                read_int("group-size", t->group_size, &format->group_size, error) &&
                read_int("scale-exponent", t->scale_exponent, &format->scale_exponent, error) &&
                read_int("scale-mantissa", t->scale_mantissa, &format->scale_mantissa, error) &&
                read_choice("group", t->group, groups, 4, &group, error) &&
                read_choice("rounding", t->rounding, roundings, 2, &rounding, error);
    format->group = (enum mls_group)group;
    format->rounding = (enum mls_rounding)rounding;
    return good && mls_format_check(format, error);
}
