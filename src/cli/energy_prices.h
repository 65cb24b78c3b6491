// The energy tables that come with the program.
#ifndef CLI_ENERGY_PRICES_H
#define CLI_ENERGY_PRICES_H

#include "energy/table.h"

#define DEFAULT_ENERGY_TABLE "cfg/energy/horowitz-45nm.cfg"
#define DEFAULT_ENERGY_FORMATS "cfg/energy/formats.cfg"

// A file that comes with the program: here, or where the program is; or `name` if it is in neither place.
const char *own_file(const char *name, char *path, size_t size);
// The prices of `table` and the formats of `formats`; NULL: the defaults. NULL after messages on stderr.
struct energy_table *energy_prices_open(const char *table, const char *formats);

#endif
