#include "mls/presets.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mls/standard.h"

const char *const mls_field_names[MLS_FIELDS] = {"exponent", "mantissa", "group", "group_size", "scale_exponent", "scale_mantissa"};

void mls_preset_name(int index, char *name, size_t size)
{
    const char *p = MLS_FORMAT_NAMES;
    for (; index > 0 && *p; index--) {
        p += strcspn(p, " ");
        p += *p == ' ';
    }
    snprintf(name, size, "%.*s", (int)strcspn(p, " "), p);
}

struct mls_format mls_preset_at(int index, enum mls_operand operand)
{
    struct mls_format format = mls_format_default(operand);
    char name[32];
    mls_preset_name(index, name, sizeof name);
    const struct standard_element *element = NULL;
    for (int i = 0; (element = standard_element_at(i)) && strcmp(element->name, name) != 0;) i++;
    bool fixed = strncmp(name, "fixed", 5) == 0, block_float = strncmp(name, "bfp", 3) == 0;
    if (!element && !fixed && !block_float) return format; // mls
    format.family = element ? element->family : fixed ? MLS_FAMILY_FIXED : MLS_FAMILY_BLOCK_FLOAT;
    format.exponent = element ? element->exponent : 0;
    format.mantissa = element ? element->mantissa : atoi(name + (fixed ? 5 : 3)) - 1;
    format.scale_mantissa = 0;
    if (element) format.rounding = MLS_NEAREST;
    if (block_float) return format;
    bool blocks = format.family == MLS_FAMILY_MICROSCALING;
    format.group = blocks ? MLS_GROUP_NC : MLS_GROUP_NONE;
    format.group_size = blocks ? MICROSCALING_BLOCK : 1;
    return format;
}

bool mls_preset(const char *name, enum mls_operand operand, struct mls_format *format)
{
    char word[32];
    for (int i = 0;; i++) {
        mls_preset_name(i, word, sizeof word);
        if (!*word) return false;
        if (strcmp(word, name) != 0) continue;
        *format = mls_preset_at(i, operand);
        return true;
    }
}

bool mls_preset_decides(enum mls_family family, enum mls_field field)
{
    bool grouping = field == MLS_FIELD_GROUP || field == MLS_FIELD_GROUP_SIZE;
    return family != MLS_FAMILY_MLS && !(family == MLS_FAMILY_BLOCK_FLOAT && grouping);
}

void mls_format_describe(const struct mls_format *format, char *text, size_t size)
{
    const struct standard_element *element = standard_element_of(format);
    if (element)
        snprintf(text, size, "%s", element->name);
    else if (format->family == MLS_FAMILY_MLS)
        snprintf(text, size, "<%d,%d>", format->exponent, format->mantissa);
    else
        snprintf(text, size, "%s%d", format->family == MLS_FAMILY_FIXED ? "fixed" : "bfp", format->mantissa + 1);
}

static bool has_groups(const struct mls_format *format)
{
    return format->family == MLS_FAMILY_MLS || format->family == MLS_FAMILY_BLOCK_FLOAT;
}

// The grouping of the activations, or of another operand if theirs is not a setting.
static void describe_groups(const struct mls_format formats[3], char *text, size_t size)
{
    static const char *const groups[] = {"none", "n", "c", "nc"};
    static const enum mls_operand order[] = {MLS_ERROR, MLS_WEIGHT, MLS_ACTIVATION};
    const struct mls_format *shown = NULL;
    bool same = true;
    for (int k = 0; k < 3; k++) {
        const struct mls_format *f = &formats[order[k]];
        if (!has_groups(f)) continue;
        same = same && (!shown || (shown->group == f->group && shown->group_size == f->group_size));
        shown = f;
    }
    *text = 0;
    if (shown) snprintf(text, size, " %s %d%s", groups[shown->group], shown->group_size, same ? "" : " (differ)");
}

void mls_formats_describe(const struct mls_format formats[3], char *text, size_t size)
{
    char element[3][32], groups[48];
    bool mls = false, all_mls = true;
    for (int k = 0; k < 3; k++) {
        mls_format_describe(&formats[k], element[k], sizeof element[k]);
        mls = mls || formats[k].family == MLS_FAMILY_MLS;
        all_mls = all_mls && formats[k].family == MLS_FAMILY_MLS;
    }
    bool same = strcmp(element[0], element[1]) == 0 && strcmp(element[0], element[2]) == 0;
    describe_groups(formats, groups, sizeof groups);
    const char *colon = all_mls ? "" : ":";
    if (same)
        snprintf(text, size, "%s%s%s", mls ? "MLS " : "", element[0], groups);
    else
        snprintf(text, size, "%sw%s%s a%s%s e%s%s%s", mls ? "MLS " : "", colon, element[MLS_WEIGHT], colon, element[MLS_ACTIVATION], colon,
                 element[MLS_ERROR], groups);
}
