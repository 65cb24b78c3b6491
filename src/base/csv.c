#include "base/csv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

#define LARGEST_FILE ((size_t)1 << 28)

static int count_of(const char *text, char wanted)
{
    int count = 0;
    for (; *text; text++) count += *text == wanted;
    return count;
}

// Cuts a line at its commas. false: not `columns` cells.
static bool cut(char *line, char **cells, int columns)
{
    if (count_of(line, ',') != columns - 1) return false;
    for (int i = 0; i < columns; i++) cells[i] = strsep(&line, ",");
    return true;
}

// The next line without its end, CRLF or newline; NULL at the end of the whole lines.
static char *next_line(char **rest)
{
    char *line = *rest, *end = strchr(line, '\n');
    if (!end) return NULL;
    *end = 0;
    *rest = end + 1;
    if (end > line && end[-1] == '\r') end[-1] = 0;
    return line;
}

bool csv_read(const char *path, struct csv *csv, struct error *error)
{
    size_t size;
    *csv = (struct csv){0};
    csv->text = (char *)file_read(path, LARGEST_FILE, &size, error);
    if (!csv->text) return false;
    int lines = count_of(csv->text, '\n');
    char *rest = csv->text, *line = next_line(&rest);
    if (!line) return error_set(error, "%s: no line with the names of the columns", path);
    csv->columns = count_of(line, ',') + 1;
    csv->names = memory_allocate((size_t)csv->columns, sizeof *csv->names, error);
    csv->cells = memory_allocate((size_t)csv->columns * (size_t)lines, sizeof *csv->cells, error);
    if (!csv->names || !csv->cells) return false;
    cut(line, csv->names, csv->columns);
    while ((line = next_line(&rest))) {
        if (!cut(line, csv->cells + (size_t)csv->rows * (size_t)csv->columns, csv->columns))
            return error_set(error, "%s:%d: expected %d cells", path, csv->rows + 2, csv->columns);
        csv->rows++;
    }
    return true;
}

void csv_release(struct csv *csv)
{
    memory_release(csv->text);
    memory_release(csv->names);
    memory_release(csv->cells);
    *csv = (struct csv){0};
}

int csv_column(const struct csv *csv, const char *name)
{
    for (int i = 0; i < csv->columns; i++)
        if (strcmp(csv->names[i], name) == 0) return i;
    return -1;
}

const char *csv_text(const struct csv *csv, int row, int column)
{
    return column < 0 ? "" : csv->cells[(size_t)row * (size_t)csv->columns + (size_t)column];
}

double csv_number(const struct csv *csv, int row, int column)
{
    const char *text = csv_text(csv, row, column);
    char *end;
    double number = strtod(text, &end);
    return end == text || *end ? (double)NAN : number;
}

void csv_write_cell(FILE *file, const char *text)
{
    bool quoted = text[strcspn(text, ",\"\r\n")] != 0;
    if (quoted) fputc('"', file);
    for (; *text; text++) {
        if (*text == '"') fputc('"', file);
        fputc(*text, file);
    }
    if (quoted) fputc('"', file);
}
