// CSV files. Those that are read are of this program's own: a line with the names of the columns, no quoted cells.
#ifndef BASE_CSV_H
#define BASE_CSV_H

#include <stdio.h>

#include "base/error.h"

struct csv {
    char *text;
    int columns, rows;
    char **cells; // [rows][columns], without the names
    char **names;
};

// Whole lines alone: what stands behind the last newline is the beginning of a line that was not finished. A line with fewer or
// more cells than names is an error. Released in any case.
bool csv_read(const char *path, struct csv *csv, struct error *error);
void csv_release(struct csv *csv);

int csv_column(const struct csv *csv, const char *name); // -1: none
const char *csv_text(const struct csv *csv, int row, int column);
double csv_number(const struct csv *csv, int row, int column); // NAN: no such column (-1), an empty cell, no number

// A text as a cell: in quotes where it has what separates columns or lines, quotes in it doubled (RFC 4180).
void csv_write_cell(FILE *file, const char *text);

#endif
