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

// Each round over the colours pairs them with other shapes.
static int shape_of(int index)
{
    return index < 0 ? shapes[0] : shapes[(index + index / COUNT(colours)) % COUNT(shapes)];
}

void gnuplot_line_style(FILE *script, int index)
{
    int round = index < 0 ? 0 : index / COUNT(colours);
    fprintf(script, " lc rgb '%s' lw %s dt %s pt %d ps 0.8", colour_of(index), index < 0 ? "2.5" : "1.5", dashes[round % COUNT(dashes)],
            shape_of(index));
}

void gnuplot_point_style(FILE *script, int index, double size)
{
    fprintf(script, " lc rgb '%s' lw 1.5 pt %d ps %g", colour_of(index), shape_of(index), size);
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

// ---------------------------------------------------------------------------------------------
// Scripts

// What to draw, in the folder in which gnuplot runs.
struct job {
    const struct picture *picture;
    char folder[4096], name[256];
    bool kinds[2]; // PNG, SVG
};
static const char *const endings[2] = {".png", ".svg"};
static const char *const terminals[2] = {"pngcairo noenhanced font 'sans,10'", "svg noenhanced font 'sans-serif,11' background '#ffffff'"};

// A path of a file beside the script. In front of the name stands ./: gnuplot takes |NAME for a command, -NAME for an option.
static void write_output(FILE *script, const struct job *job, int kind)
{
    char path[300];
    snprintf(path, sizeof path, "./%s%s", job->name, endings[kind]);
    fputs("set output ", script);
    gnuplot_quote(script, path);
    fputc('\n', script);
}

static void write_commands(FILE *script, const struct job *job)
{
    const struct picture_layout *l = &job->picture->layout;
    int width = l->width + l->legend_width;
    fprintf(script, "# gnuplot draws the picture into the present folder: gnuplot %s.gnuplot\n", job->name);
    job->picture->data(script, job->picture->context);
    for (int kind = 0; kind < 2; kind++) {
        if (!job->kinds[kind]) continue;
        fprintf(script, "\nreset\nset terminal %s size %d,%d\n", terminals[kind], width, l->height);
        write_output(script, job, kind);
        fprintf(script, "set grid lc rgb '#c0c0c0' lw 1 dt 1\n"
                "set key at screen %.4f,0.97 left top Left reverse maxcols 1 samplen 2.5 spacing 1.1\n", (double)(l->width + 5) / width);
        job->picture->plots(script, job->picture->context);
        fputs("unset output\n", script);
    }
}

static bool write_script(const struct job *job, const char *path, struct error *error)
{
    char *text = NULL;
    size_t size = 0;
    FILE *script = open_memstream(&text, &size);
    if (!script) return error_set(error, "out of memory");
    write_commands(script, job);
    bool good = fclose(script) == 0;
    const struct file_piece piece = {text, size};
    good = good ? file_write_atomically(path, &piece, 1, error) : error_set(error, "out of memory");
    free(text);
    return good;
}

// ---------------------------------------------------------------------------------------------
// The program

// Runs it in the folder. The exit status, what gnuplot said going to `messages`; -1: no process.
static int run_gnuplot(const char *folder, const char *argument, FILE *messages)
{
    int status;
    pid_t process = fork();
    if (process == 0) {
        if (dup2(fileno(messages), STDERR_FILENO) < 0 || dup2(fileno(messages), STDOUT_FILENO) < 0 || chdir(folder) != 0) _exit(126);
        execlp("gnuplot", "gnuplot", "--default-settings", argument, (char *)NULL);
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

// `what` is for messages.
static bool run(const char *folder, const char *argument, const char *what, struct error *error)
{
    char message[256];
    FILE *messages = tmpfile();
    if (!messages) return error_set(error, "cannot make a temporary file: %s", strerror(errno));
    int status = run_gnuplot(folder, argument, messages);
    read_message(messages, message);
    fclose(messages);
    if (status == 127) return error_set(error, "gnuplot is not installed (Debian's package gnuplot-nox)");
    return status == 0 || error_set(error, "gnuplot %s failed: %s", what, *message ? message : "it could not be run");
}

bool gnuplot_available(struct error *error)
{
    return run(".", "--version", "--version", error);
}

static bool draw(const struct job *job, struct error *error)
{
    char path[4096], script[300];
    snprintf(script, sizeof script, "./%s.gnuplot", job->name);
    if (!file_join(path, sizeof path, job->folder, script + 2)) return error_set(error, "%s: expected a shorter path", job->folder);
    return write_script(job, path, error) && run(job->folder, script, path, error);
}

bool gnuplot_draw(const struct picture *picture, const char *folder, struct error *error)
{
    struct job job = {.picture = picture, .kinds = {true, true}};
    snprintf(job.name, sizeof job.name, "%s", picture->name);
    if ((size_t)snprintf(job.folder, sizeof job.folder, "%s", folder) >= sizeof job.folder)
        return error_set(error, "%s: expected a shorter path", folder);
    return draw(&job, error);
}

// ---------------------------------------------------------------------------------------------
// A picture by its path

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// The kind that the path ends with; -1: neither.
static int kind_of(const char *path)
{
    size_t length = strlen(base_of(path));
    for (int kind = 0; kind < 2; kind++)
        if (length > 4 && strcmp(base_of(path) + length - 4, endings[kind]) == 0) return kind;
    return -1;
}

bool gnuplot_path_check(const char *path, struct error *error)
{
    for (const char *p = path; *p; p++)
        if ((unsigned char)*p < ' ') return error_set(error, "the picture's path has a control character: expected a plain name");
    if (strlen(path) >= 4000 || strlen(base_of(path)) > 240) return error_set(error, "%.100s...: expected a shorter path", path);
    return kind_of(path) >= 0 || error_set(error, "%s: expected a name that ends with .png or .svg", path);
}

bool gnuplot_draw_file(const struct picture *picture, const char *path, struct error *error)
{
    if (!gnuplot_path_check(path, error)) return false;
    struct job job = {.picture = picture, .folder = "."};
    int before = (int)(base_of(path) - path);
    if (before) snprintf(job.folder, sizeof job.folder, "%.*s", before > 1 ? before - 1 : 1, path); // without the slash, but for the root
    snprintf(job.name, sizeof job.name, "%.*s", (int)strlen(base_of(path)) - 4, base_of(path));
    job.kinds[kind_of(path)] = true;
    return draw(&job, error);
}
