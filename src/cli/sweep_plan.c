#include "cli/sweep_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/energy_prices.h"
#include "energy/account.h"
#include "net/operations.h"
#include "train/trainer.h"

#define LONGEST_FOLDER 200

static int complain(const char *text, int status)
{
    fprintf(stderr, "mlsnet sweep: %s\n", text);
    return status;
}

// ---------------------------------------------------------------------------------------------
// Settings

static bool add_set(struct argument_list *set, const char *text)
{
    if (set->count == MOST_LIST) return false;
    set->items[set->count++] = text;
    return true;
}

// The plan owns the text.
static char *keep(struct sweep_plan *plan, const char *text)
{
    char *copy = strdup(text), **grown = realloc(plan->texts, ((size_t)plan->text_count + 1) * sizeof *grown);
    if (grown) plan->texts = grown;
    if (grown && copy) return plan->texts[plan->text_count++] = copy;
    free(copy);
    return NULL;
}

// A folder's name that needs no quotes: "exponent=2 mantissa=1" is exponent=2_mantissa=1.
static void make_folder_name(const char *name, char folder[LONGEST_FOLDER + 1])
{
    size_t length = strlen(name);
    if (length > LONGEST_FOLDER) length = LONGEST_FOLDER;
    for (size_t i = 0; i < length; i++) {
        bool plain = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') || (name[i] >= '0' && name[i] <= '9');
        folder[i] = plain || (name[i] && strchr("=.+-", name[i])) ? name[i] : '_';
    }
    folder[length] = 0;
}

// The index of the new row, whose setting is without arguments; -1 after a message.
static int add_row(struct sweep_plan *plan, const char *name)
{
    char folder[LONGEST_FOLDER + 1];
    make_folder_name(name, folder);
    if (strlen(name) > LONGEST_FOLDER) return complain("--over: a combination with a name of more than 200 letters", -1);
    for (int i = 0; i < plan->table.count; i++)
        if (strcmp(plan->table.rows[i].folder, folder) == 0) {
            fprintf(stderr, "mlsnet sweep: --over: two combinations would have the folder %s\n", folder);
            return -1;
        }
    struct sweep_row *row = &plan->table.rows[plan->table.count++];
    row->name = strdup(name);
    row->folder = strdup(folder);
    row->seeds = plan->request->seeds;
    return row->name && row->folder ? plan->table.count - 1 : complain("out of memory", -1);
}

// The fp32 setting that this combination is compared with: the same but for the format. Added if it is new. -1: a message.
static int add_fp32(struct sweep_plan *plan, int combination, bool layers_have_own)
{
    char name[1024] = "fp32";
    size_t length = 4;
    struct sweep_setting setting = {.fp32 = true};
    bool good = add_set(&setting.set, "mls=0") && (!layers_have_own || add_set(&setting.set, "convolutional.mls=0"));
    for (int k = 0; k < plan->combinations.key_count; k++) {
        const char *assignment = combination_assignment(&plan->combinations, combination, k);
        if (over_is_of_format(&plan->combinations.keys[k])) continue;
        good = good && add_set(&setting.set, assignment);
        if (length < sizeof name) length += (size_t)snprintf(name + length, sizeof name - length, " %s", assignment);
    }
    if (!good) return complain("--over, --set: too many", -1);
    for (int i = 0; i < plan->table.count; i++)
        if (plan->settings[i].fp32 && strcmp(plan->table.rows[i].name, name) == 0) return i;
    int index = add_row(plan, name);
    if (index >= 0) plan->settings[index] = setting;
    return index;
}

static bool layers_have_own_mls(const struct cfg *cfg)
{
    const struct layer_type *convolutional = layer_type_find("convolutional");
    for (int i = 0; i < cfg->section_count; i++) {
        const struct cfg_option *option = cfg_find_option(&cfg->sections[i], "mls");
        if (layer_type_find(cfg->sections[i].name) == convolutional && option && strcmp(option->value, "0") != 0) return true;
    }
    return false;
}

// A run's --set are those in common and those of its setting.
static bool fits_command_line(const struct sweep_plan *plan)
{
    for (int i = 0; i < plan->table.count; i++)
        if (plan->request->session.set.count + plan->settings[i].set.count > MOST_LIST) return false;
    return true;
}

// All settings, fp32 first. 0 or an exit status.
static int add_settings(struct sweep_plan *plan, bool layers_have_own)
{
    int most = 2 * plan->combinations.count, *references = NULL;
    struct error error;
    bool good = sweep_table_create(&plan->table, most, &error) && (plan->settings = memory_allocate((size_t)most, sizeof *plan->settings, &error)) &&
                (references = memory_allocate((size_t)most, sizeof *references, &error));
    plan->table.count = 0; // rows are counted as they are added
    if (!good) return complain(error.message, 1);
    for (int i = 0; good && i < plan->combinations.count; i++) {
        references[i] = plan->request->without_fp32 ? -1 : add_fp32(plan, i, layers_have_own);
        good = plan->request->without_fp32 || references[i] >= 0;
    }
    for (int i = 0; good && i < plan->combinations.count; i++) {
        char name[1024];
        combination_name(&plan->combinations, i, name, sizeof name);
        int index = add_row(plan, name);
        good = index >= 0;
        for (int k = 0; good && k < plan->combinations.key_count; k++)
            good = add_set(&plan->settings[index].set, combination_assignment(&plan->combinations, i, k));
        if (good) plan->table.rows[index].reference = references[i];
    }
    memory_release(references);
    if (good && !fits_command_line(plan)) return complain("--over, --set: too many together", 2);
    return good ? 0 : 2;
}

// ---------------------------------------------------------------------------------------------
// What a setting means for the network

static struct cfg *read_cfg(const struct sweep_plan *plan, const struct argument_list *more, int seed, struct error *error)
{
    struct diagnostics diagnostics = {0};
    char text[32];
    struct cfg *cfg = cfg_read(plan->request->session.cfg_path, &diagnostics);
    bool good = cfg || error_set(error, "%.*s", (int)strcspn(diagnostics.text ? diagnostics.text : "out of memory", "\n"),
                                 diagnostics.text ? diagnostics.text : "out of memory");
    const struct argument_list *lists[] = {&plan->request->session.set, more};
    for (int k = 0; k < 2; k++)
        for (int i = 0; good && lists[k] && i < lists[k]->count; i++) good = cfg_set(cfg, lists[k]->items[i], error);
    snprintf(text, sizeof text, "seed=%d", seed);
    good = good && (seed < 0 || cfg_set(cfg, text, error));
    diagnostics_release(&diagnostics);
    if (good) return cfg;
    cfg_release(cfg);
    return NULL;
}

static bool measure(const struct network *network, const struct training_settings *training, const struct energy_table *table,
                    struct sweep_row *row, struct diagnostics *diagnostics)
{
    int images = network->settings.batch;
    const struct energy_format *fp32 = energy_table_find(table, "fp32");
    struct operations own = {.images = images, .training = true};
    struct operations other = {.images = images, .training = true, .instead = fp32 ? &fp32->arithmetic : NULL};
    bool good = network_operations(network, training, &own) && network_operations(network, training, &other);
    if (good) {
        bits_of_elements(&own, row->bits);
        row->energy = energy_sum(&table->prices, &own, -1).total / images / 1e6;
        row->fp32_energy = energy_sum(&table->prices, &other, -1).total / images / 1e6;
    } else {
        diagnostics_add(diagnostics, 1, NULL, "out of memory");
    }
    operations_release(&own);
    operations_release(&other);
    return good;
}

// Builds the network; all that is wrong goes to diagnostics.
static bool check_cfg(struct cfg *cfg, const struct energy_table *table, struct thread_pool *pool, struct sweep_row *row,
                      struct diagnostics *diagnostics)
{
    const struct option_description *const data_tables[] = {data_option_table, NULL};
    struct cfg_section *data = cfg_find_section(cfg, "data");
    struct training_settings training = {0};
    struct data_options data_options = {0};
    training_settings_read(cfg, &training, diagnostics);
    options_read(data_option_table, data, &data_options, diagnostics);
    if (data) options_report_unknown(data, data_tables, diagnostics);
    const struct network_request wanted = {.max_images = 1};
    struct network *network = network_create(cfg, &wanted, pool, diagnostics);
    bool good = network && diagnostics->count == 0 && measure(network, &training, table, row, diagnostics);
    network_destroy(network);
    options_release(training_option_table, &training);
    options_release(data_option_table, &data_options);
    return good;
}

// One line of what is wrong with the setting, or an empty text.
static void check_setting(const struct sweep_plan *plan, int index, const struct energy_table *table, struct thread_pool *pool, char problem[512])
{
    struct error error;
    struct diagnostics diagnostics = {.path = plan->request->session.cfg_path};
    struct cfg *cfg = read_cfg(plan, &plan->settings[index].set, -1, &error);
    *problem = 0;
    if (!cfg)
        snprintf(problem, 512, "%.511s", error.message);
    else if (!check_cfg(cfg, table, pool, &plan->table.rows[index], &diagnostics))
        snprintf(problem, 512, "%.*s", diagnostics.text ? (int)strcspn(diagnostics.text, "\n") : 13, diagnostics.text ? diagnostics.text : "out of memory");
    diagnostics_release(&diagnostics);
    cfg_release(cfg);
}

// Takes the setting out of the table.
static void drop(struct sweep_plan *plan, int index)
{
    struct sweep_table *table = &plan->table;
    free(table->rows[index].name);
    free(table->rows[index].folder);
    table->count--;
    for (int i = index; i < table->count; i++) {
        table->rows[i] = table->rows[i + 1];
        plan->settings[i] = plan->settings[i + 1];
    }
    table->rows[table->count] = (struct sweep_row){0};
    for (int i = 0; i < table->count; i++)
        if (table->rows[i].reference >= index) table->rows[i].reference = table->rows[i].reference == index ? -1 : table->rows[i].reference - 1;
}

// The same problem of several settings is told once.
static int check_settings(struct sweep_plan *plan, const struct energy_table *table, struct thread_pool *pool)
{
    char problem[512], last[512] = "";
    int wrong = 0;
    for (int i = 0; i < plan->table.count;) {
        check_setting(plan, i, table, pool, problem);
        if (*problem) {
            if (strcmp(problem, last) != 0) fprintf(stderr, "mlsnet sweep: %s: %s\n", plan->table.rows[i].name, problem);
            snprintf(last, sizeof last, "%s", problem);
            wrong++;
        }
        if (*problem && plan->request->skip_invalid)
            drop(plan, i);
        else
            i++;
    }
    if (!wrong) return 0;
    int left = plan->table.count;
    if (!plan->request->skip_invalid)
        fprintf(stderr, "mlsnet sweep: %d of %d settings cannot be run; nothing was begun; --skip-invalid leaves them out\n", wrong, left);
    else if (left == 0)
        return complain("no setting can be run", 2);
    else
        fprintf(stderr, "mlsnet sweep: %d of %d settings are left out\n", wrong, wrong + left);
    return plan->request->skip_invalid ? 0 : 2;
}

// Whether an option of [data] is among the keys, so that there may be several data sets.
static bool over_data(const struct combinations *combinations)
{
    for (int k = 0; k < combinations->key_count; k++) {
        const char *key = combinations->keys[k].key;
        if (strncmp(key, "data.", 5) == 0) return true;
        for (const struct option_description *row = data_option_table; row->name; row++)
            if (strcmp(row->name, key) == 0) return true;
    }
    return false;
}

// The data set is there and fits, and how many epochs a run has.
static int check_data(struct sweep_plan *plan)
{
    struct session_request request = plan->request->session;
    struct session session;
    struct error error;
    request.for_training = request.needs_data = true;
    request.max_images = 1;
    for (int i = 0; i < plan->settings[0].set.count; i++)
        if (!add_set(&request.set, plan->settings[0].set.items[i])) return complain("--over, --set: too many", 2);
    int status = session_open(&session, &request);
    if (status == 0) {
        const struct trainer trainer = {.network = session.network, .dataset = session.dataset, .settings = &session.training};
        long total = trainer_total_steps(&trainer, &error), each = session.dataset->train.count / session.network->settings.batch;
        if (total == 0) status = complain(error.message, 2);
        plan->epochs = total ? (total + each - 1) / each : 0;
        if (!over_data(&plan->combinations)) dataset_fingerprint(session.dataset, plan->data);
    }
    session_close(&session);
    return status;
}

// ---------------------------------------------------------------------------------------------
// Runs

static bool run_file(const struct sweep_run *run, const char *name, char path[4096])
{
    return file_join(path, 4096, run->folder, name);
}

// Whether the run's folder is empty or holds this very run.
static bool folder_fits(const struct sweep_plan *plan, const struct sweep_run *run, struct error *error)
{
    char path[4096];
    size_t size;
    if (!run_file(run, "config.cfg", path)) return error_set(error, "--output: expected a shorter path");
    if (!file_exists(path)) return true;
    char *there = (char *)file_read(path, (size_t)1 << 26, &size, error);
    struct cfg *cfg = there ? read_cfg(plan, &plan->settings[run->setting].set, run->seed, error) : NULL;
    char *wanted = cfg ? cfg_to_text(cfg) : NULL;
    bool good = wanted && strcmp(there, wanted) == 0;
    if (wanted && !good)
        error_set(error, "%s: the run there is another (its config.cfg differs from what would be run): choose another --output, or delete it",
                  run->folder);
    else if (cfg && !wanted)
        error_set(error, "out of memory");
    free(wanted);
    cfg_release(cfg);
    memory_release(there);
    return good;
}

// Whether a run that was begun there has the data of this sweep.
static bool data_fits(const struct sweep_plan *plan, const struct sweep_run *run, struct error *error)
{
    char path[4096];
    char *there = run_file(run, "last.safetensors", path) ? checkpoint_text(path, "data") : NULL;
    bool good = !there || !*plan->data || strcmp(there, plan->data) == 0 ||
                error_set(error, "%s: the run there is of other data (%s, now %s): choose another --output, or delete it", run->folder, there,
                          plan->data);
    free(there);
    return good;
}

static int add_runs(struct sweep_plan *plan)
{
    struct error error;
    int settings = plan->table.count, seeds = plan->request->seeds;
    plan->runs = memory_allocate((size_t)settings * (size_t)seeds, sizeof *plan->runs, &error);
    if (!plan->runs) return complain(error.message, 1);
    for (int seed = 1; seed <= seeds; seed++)
        for (int i = 0; i < settings; i++) {
            char folder[3072];
            struct sweep_run *run = &plan->runs[plan->run_count++];
            int length = snprintf(folder, sizeof folder, "%s/%s/seed%d", plan->folder, plan->table.rows[i].folder, seed);
            if (length < 0 || (size_t)length >= sizeof folder) return complain("--output: expected a shorter path", 2);
            *run = (struct sweep_run){.setting = i, .seed = seed, .folder = keep(plan, folder)};
            if (!run->folder) return complain("out of memory", 1);
            if (!folder_fits(plan, run, &error) || !data_fits(plan, run, &error)) return complain(error.message, 1);
            if (run_folder_is_finished(run->folder)) run->state = RUN_FINISHED;
        }
    return 0;
}

static int set_folder(struct sweep_plan *plan)
{
    char folder[2048];
    const char *path = plan->request->session.cfg_path, *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t length = strlen(name);
    if (length > 4 && strcmp(name + length - 4, ".cfg") == 0) length -= 4;
    int written = plan->request->output ? snprintf(folder, sizeof folder, "%s", plan->request->output)
                                        : snprintf(folder, sizeof folder, "results/%.*s-sweep", (int)length, name);
    if (written <= 0 || (size_t)written >= sizeof folder) return complain("--output: expected a shorter path", 2);
    return (plan->folder = keep(plan, folder)) ? 0 : complain("out of memory", 1);
}

// ---------------------------------------------------------------------------------------------

static int make_settings(struct sweep_plan *plan)
{
    struct error error;
    struct cfg *cfg = read_cfg(plan, NULL, -1, &error);
    if (!cfg) return complain(error.message, 2);
    int status = combination_apply(&plan->combinations, 0, cfg, &error) ? 0 : complain(error.message, 2);
    if (status == 0) status = add_settings(plan, layers_have_own_mls(cfg));
    cfg_release(cfg);
    return status;
}

static int check_all(struct sweep_plan *plan)
{
    struct error error;
    struct energy_table *table = energy_prices_open(NULL, NULL);
    struct thread_pool *pool = table ? thread_pool_create(1, &error) : NULL;
    int status = !table ? 2 : !pool ? complain(error.message, 1) : check_settings(plan, table, pool);
    thread_pool_destroy(pool);
    energy_table_release(table);
    return status ? status : check_data(plan);
}

int sweep_plan_make(const struct sweep_request *request, struct sweep_plan *plan)
{
    struct error error;
    *plan = (struct sweep_plan){.request = request};
    if (!combinations_parse(&request->over, &plan->combinations, &error)) return complain(error.message, 2);
    int status = make_settings(plan);
    if (status == 0) status = check_all(plan);
    if (status == 0) status = set_folder(plan);
    return status ? status : add_runs(plan);
}

void sweep_plan_release(struct sweep_plan *plan)
{
    combinations_release(&plan->combinations);
    sweep_table_release(&plan->table);
    memory_release(plan->settings);
    memory_release(plan->runs);
    for (int i = 0; i < plan->text_count; i++) free(plan->texts[i]);
    free(plan->texts);
    *plan = (struct sweep_plan){0};
}

static bool measure_setting(struct sweep_plan *plan, int index, const char **logs, char (*paths)[4096], struct error *error)
{
    int count = 0;
    struct sweep_row *row = &plan->table.rows[index];
    row->failed = 0;
    for (int i = 0; i < plan->run_count; i++) {
        const struct sweep_run *run = &plan->runs[i];
        if (run->setting != index) continue;
        row->failed += run->state == RUN_FAILED;
        if (run->state != RUN_FINISHED) continue;
        if (!run_file(run, "log.csv", paths[count])) return error_set(error, "--output: expected a shorter path");
        logs[count] = paths[count];
        count++;
    }
    return sweep_row_measure(row, logs, count, error);
}

bool sweep_plan_write_table(struct sweep_plan *plan, struct error *error)
{
    size_t seeds = (size_t)plan->request->seeds;
    const char **logs = memory_allocate(seeds, sizeof *logs, error);
    char(*paths)[4096] = logs ? memory_allocate(seeds, sizeof *paths, error) : NULL;
    bool good = paths != NULL;
    for (int i = 0; good && i < plan->table.count; i++) good = measure_setting(plan, i, logs, paths, error);
    if (good) sweep_table_compare(&plan->table);
    good = good && sweep_table_write(&plan->table, plan->folder, error);
    memory_release(paths);
    memory_release(logs);
    return good;
}
