#include "cli/gnuplot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

#define LETTER_WIDTH 8 // pixels, of the font below
#define ENTRY_HEIGHT 21

// Told apart by people who see colours differently, too, and on white: Okabe and Ito's without yellow, and four more.
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#8c564b", "#7f7f00"};
static const int shapes[] = {7, 5, 9, 11, 13, 15, 6, 4, 8}; // filled circle, square, triangles, diamond, pentagon; then hollow
static const char *const dashes[] = {"solid", "'-'", "'.'", "'_. '"};
#define COUNT(array) ((int)(sizeof array / sizeof array[0]))

struct picture_layout picture_layout_of(int plots_width, int least_height, int legend_entries, size_t longest_entry)
{
    int legend = legend_entries * ENTRY_HEIGHT + 40;
    return (struct picture_layout){plots_width, legend > least_height ? legend : least_height, (int)longest_entry * LETTER_WIDTH + 70};
}

static const char *colour_of(int index)
{
    return index < 0 ? "#000000" : colours[index % COUNT(colours)];
}

void gnuplot_line_style(FILE *script, int index)
{
    int round = index < 0 ? 0 : index / COUNT(colours);
    fprintf(script, " lc rgb '%s' lw %s dt %s pt %d ps 0.7", colour_of(index), index < 0 ? "2.5" : "1.5", dashes[round % COUNT(dashes)],
            shapes[round % COUNT(shapes)]);
}

void gnuplot_point_style(FILE *script, int index, double size)
{
    int round = index < 0 ? 0 : index / COUNT(colours);
    fprintf(script, " lc rgb '%s' lw 1.5 pt %d ps %g", colour_of(index), shapes[round % COUNT(shapes)], size);
}

void gnuplot_quote(FILE *script, const char *text)
{
    fputc('\'', script);
    for (; *text; text++) {
        if (*text == '\'') fputc('\'', script);
        fputc((unsigned char)*text < ' ' ? ' ' : *text, script);
    }
    fputc('\'', script);
}

static bool write_script(const struct picture *picture, const char *path, struct error *error)
{
    char *text = NULL;
    size_t size = 0;
    FILE *script = open_memstream(&text, &size);
    if (!script) return error_set(error, "out of memory");
    const struct picture_layout *l = &picture->layout;
    int width = l->width + l->legend_width;
    fprintf(script, "# Draws %s.png and %s.svg in the present folder: gnuplot %s.gnuplot\n", picture->name, picture->name, picture->name);
    picture->data(script, picture->context);
    for (int svg = 0; svg < 2; svg++) {
        fprintf(script, "\nreset\nset terminal %s noenhanced size %d,%d font '%s'%s\nset output '%s.%s'\n", svg ? "svg" : "pngcairo", width,
                l->height, svg ? "sans-serif,11" : "sans,10", svg ? " background '#ffffff'" : "", picture->name, svg ? "svg" : "png");
        fprintf(script, "set grid lc rgb '#c0c0c0' lw 1 dt 1\nset key at screen %.4f,0.97 left top Left reverse maxcols 1 samplen 2.5 spacing 1.1\n",
                (double)(l->width + 5) / width);
        picture->plots(script, picture->context);
        fputs("unset output\n", script);
    }
    bool good = fclose(script) == 0;
    const struct file_piece piece = {text, size};
    good = good ? file_write_atomically(path, &piece, 1, error) : error_set(error, "out of memory");
    free(text);
    return good;
}

// The exit status, what gnuplot said going to `messages`; -1: no process.
static int run_gnuplot(const char *folder, const char *name, FILE *messages)
{
    char script[256];
    int status;
    snprintf(script, sizeof script, "%s.gnuplot", name);
    pid_t process = fork();
    if (process == 0) {
        if (dup2(fileno(messages), STDERR_FILENO) < 0 || dup2(fileno(messages), STDOUT_FILENO) < 0 || chdir(folder) != 0) _exit(126);
        execlp("gnuplot", "gnuplot", script, (char *)NULL);
        _exit(errno == ENOENT ? 127 : 126);
    }
    if (process < 0) return -1;
    while (waitpid(process, &status, 0) < 0)
        if (errno != EINTR) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// The last line that is not empty: the error itself, behind the commands that it quotes.
static void read_message(FILE *messages, char text[256])
{
    char line[256];
    *text = 0;
    rewind(messages);
    while (fgets(line, sizeof line, messages)) {
        line[strcspn(line, "\n")] = 0;
        if (*line) snprintf(text, 256, "%s", line);
    }
}

bool gnuplot_draw(const struct picture *picture, const char *folder, struct error *error)
{
    char path[4096], name[256], message[256];
    snprintf(name, sizeof name, "%s.gnuplot", picture->name);
    if (!file_join(path, sizeof path, folder, name)) return error_set(error, "%s: expected a shorter path", folder);
    if (!write_script(picture, path, error)) return false;
    FILE *messages = tmpfile();
    if (!messages) return error_set(error, "cannot make a temporary file: %s", strerror(errno));
    int status = run_gnuplot(folder, picture->name, messages);
    read_message(messages, message);
    fclose(messages);
    if (status == 127) return error_set(error, "gnuplot is not installed (Debian's package gnuplot-nox)");
    return status == 0 || error_set(error, "gnuplot %s failed: %s", path, message);
}
