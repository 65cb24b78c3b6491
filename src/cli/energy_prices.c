#include "cli/energy_prices.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

const char *own_file(const char *name, char *path, size_t size)
{
    char folder[512];
    if (file_exists(name)) return name;
    ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
    folder[length > 0 ? length : 0] = 0;
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    return slash && file_join(path, size, folder, name) && file_exists(path) ? path : name;
}

struct energy_table *energy_prices_open(const char *table_path, const char *formats_path)
{
    char buffers[2][1024];
    if (!table_path) table_path = own_file(DEFAULT_ENERGY_TABLE, buffers[0], sizeof buffers[0]);
    if (!formats_path) formats_path = own_file(DEFAULT_ENERGY_FORMATS, buffers[1], sizeof buffers[1]);
    struct diagnostics diagnostics = {.path = table_path};
    struct energy_table *table = energy_table_read(table_path, &diagnostics);
    if (table) {
        diagnostics.path = formats_path;
        energy_table_read_formats(table, formats_path, &diagnostics);
    }
    if (table && !diagnostics.count) return table;
    fputs(diagnostics.text ? diagnostics.text : "mlsnet: out of memory\n", stderr);
    diagnostics_release(&diagnostics);
    energy_table_release(table);
    return NULL;
}
