// mlsnet plot: pictures of runs and sweeps.
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/learning_curves.h"
#include "cli/sweep_pictures.h"
#include "train/run_folder.h"

#define MOST_SEEDS 100

static int fail(const struct error *error)
{
    fprintf(stderr, "mlsnet plot: %s\n", error->message);
    return 1;
}

static bool holds(const char *folder, const char *name)
{
    char path[4096];
    return file_join(path, sizeof path, folder, name) && file_exists(path);
}

static void print_front(const struct sweep_table *table, const char *folder)
{
    int count = 0;
    printf("%s: Pareto front:", folder);
    for (int i = 0; i < table->count; i++)
        if (table->rows[i].on_front) printf("%s %s", count++ ? ";" : "", table->rows[i].name);
    puts(count ? "" : " nothing yet");
}

static bool draw_sweep(const char *folder, struct error *error)
{
    struct sweep_table table;
    struct sweep_pictures drawn;
    bool good = sweep_table_read(&table, folder, error);
    if (good) print_front(&table, folder);
    good = good && sweep_pictures_draw(&table, folder, &drawn, error);
    if (good && drawn.points) printf("%s: accuracy-bits, accuracy-energy (.png, .svg)\n", folder);
    if (good && drawn.curves) printf("%s: learning-curves (.png, .svg)\n", folder);
    sweep_table_release(&table);
    return good;
}

static bool find_log(const char *folder, const char *run, char path[4096])
{
    char name[64];
    snprintf(name, sizeof name, "%slog.csv", run);
    return file_join(path, 4096, folder, name) && file_exists(path);
}

// A run, or a folder of runs seed1, seed2, ..., as one curve.
static bool add_curve(struct curves *curves, const char *name, const char *folder, struct error *error)
{
    char(*paths)[4096] = memory_allocate(MOST_SEEDS, sizeof *paths, error);
    const char *logs[MOST_SEEDS];
    int count = 0;
    if (!paths) return false;
    if (find_log(folder, "", paths[0])) logs[count++] = paths[0];
    for (int seed = 1, alone = count; !alone && seed <= MOST_SEEDS; seed++) {
        char run[32];
        snprintf(run, sizeof run, "seed%d/", seed);
        if (find_log(folder, run, paths[count])) logs[count] = paths[count], count++;
    }
    const char *slash = strrchr(folder, '/');
    bool fp32 = strcmp(slash ? slash + 1 : folder, "fp32") == 0; // as in a sweep
    bool good = count ? curves_add(curves, name, fp32, logs, count, error)
                      : error_set(error, "%s: neither a run (log.csv) nor a sweep (sweep.csv)", folder);
    memory_release(paths);
    return good;
}

// Letters that the names of all folders begin with, up to a slash.
static size_t common_start(const struct argument_list *runs)
{
    size_t common = 0;
    const char *first = runs->items[0];
    for (size_t length = 0; first[length]; length++) {
        for (int i = 1; i < runs->count; i++)
            if (runs->items[i][length] != first[length]) return common;
        if (first[length] == '/' && first[length + 1]) common = length + 1;
    }
    return common;
}

static bool draw_curves(const struct argument_list *runs, const char *output, struct error *error)
{
    struct curves curves = {0};
    struct run_folder folder;
    size_t common = common_start(runs);
    bool good = true;
    if (!output) output = runs->count == 1 ? runs->items[0] : ".";
    for (int i = 0; good && i < runs->count; i++) good = add_curve(&curves, runs->items[i] + common, runs->items[i], error);
    good = good && run_folder_open(&folder, output, NULL, "", error) && curves_draw(&curves, output, error);
    if (good) printf("%s: learning-curves (.png, .svg)\n", output);
    curves_release(&curves);
    return good;
}

int command_plot(int argc, char **argv)
{
    struct argument_list runs = {0}, single = {0};
    const char *output = NULL;
    struct error error;
    const struct argument table[] = {
        {"RUN", ARGUMENT_LIST, &runs, "folders: of a sweep; of a run, or of runs seed1, seed2, ... (their mean), all in one picture"},
        {"--output", ARGUMENT_TEXT, &output, "folder of the picture of runs (default: the run's, of several the present one)"},
        {0}};
    enum arguments_result result = arguments_parse(argc, argv, "RUN... [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    if (runs.count == 0) {
        fputs("mlsnet plot: an argument is missing: RUN; see mlsnet plot --help\n", stderr);
        return 2;
    }
    for (int i = 0; i < runs.count; i++) {
        if (!holds(runs.items[i], "sweep.csv"))
            single.items[single.count++] = runs.items[i];
        else if (!draw_sweep(runs.items[i], &error))
            return fail(&error);
    }
    return single.count == 0 || draw_curves(&single, output, &error) ? 0 : fail(&error);
}
