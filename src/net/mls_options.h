// The number format options of a [convolutional] section and their defaults in [net]: mls, format, exponent, mantissa,
// group, group_size, scale_exponent, scale_mantissa, rounding; each also with the prefix weight_,
// activation_ or error_ for one operand alone.
#ifndef NET_MLS_OPTIONS_H
#define NET_MLS_OPTIONS_H

#include "mls/format.h"
#include "net/options.h"

struct mls_format_settings { // OPTION_UNSET where not given
    int format, exponent, mantissa, group, group_size, scale_exponent, scale_mantissa, rounding;
};

struct mls_settings {
    int mls;                                // 0, 1, OPTION_UNSET
    struct mls_format_settings all;
    struct mls_format_settings operand[3];  // by enum mls_operand
};

// The table for struct mls_settings, all defaults NULL.
extern const struct option_description mls_option_table[];

// The settings of one layer: its own section overrides [net]; within a section an operand's option overrides the plain one. `mls` is 1 by
// default. A format decides its fields (mls/presets.h) against what it goes before.
void mls_settings_resolve(const struct mls_settings *layer, const struct mls_settings *net, int *mls,
                          struct mls_format formats[3]);

// Reports options of a section that have no effect, because a format that overrides them, or stands beside them, fixes their value. `net`:
// the settings of [net], NULL for [net] itself.
bool mls_settings_check(const struct mls_settings *settings, const struct mls_settings *net, struct cfg_section *section,
                        struct diagnostics *diagnostics);

// For --set: if key=value sets a format, the options of the section's file that it decides are removed.
void mls_settings_make_way(struct cfg_section *section, const char *key, const char *value);

#endif
