// Pictures by gnuplot: a script with its data in it, kept beside the pictures so that they can be altered and drawn again.
#ifndef CLI_GNUPLOT_H
#define CLI_GNUPLOT_H

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"

// Of the area of the plots and of the legend on their right, in pixels.
struct picture_layout {
    int width, height, legend_width;
};
struct picture_layout picture_layout_of(int plots_width, int least_height, int legend_entries, size_t longest_entry);

// The pens of curve or point set `index`, told apart by colour and shape, then by dashes or another pair of both. Index -1: black,
// for fp32.
void gnuplot_line_style(FILE *script, int index);
void gnuplot_point_style(FILE *script, int index, double size);
// A text as gnuplot reads it.
void gnuplot_quote(FILE *script, const char *text);

// What a picture is made of: `data` writes data blocks ($name << end), `plots` the commands that draw them.
struct picture {
    const char *name; // of the files: NAME.png, NAME.svg, NAME.gnuplot
    struct picture_layout layout;
    void (*data)(FILE *script, const void *context);
    void (*plots)(FILE *script, const void *context);
    const void *context;
};
// Writes the three files in the folder. false with a message that says how to install gnuplot if it is not there.
bool gnuplot_draw(const struct picture *picture, const char *folder, struct error *error);
// One picture, PNG or SVG by the end of its path, and its script beside it; picture->name is not read.
bool gnuplot_draw_file(const struct picture *picture, const char *path, struct error *error);

// To be asked before long work: whether gnuplot is installed, and whether the path can be that of a picture.
bool gnuplot_available(struct error *error);
bool gnuplot_path_check(const char *path, struct error *error);

#endif
