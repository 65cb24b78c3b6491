// mlsnet sweep: every combination of some options as a run of its own, resumable, with tables and pictures.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/command.h"
#include "cli/sweep_jobs.h"
#include "cli/sweep_pictures.h"
#include "train/run_folder.h"

#define SECONDS_FOR_LOCK 20

static int fail(const struct error *error, int status)
{
    fprintf(stderr, "mlsnet sweep: %s\n", error->message);
    return status;
}

// One sweep at a time in a folder. The runs inherit the lock, so that it is held until the last run of a sweep that was killed
// has saved and ended.
static bool lock_folder(const char *folder, int *lock, struct error *error)
{
    char path[4096];
    if (!file_join(path, sizeof path, folder, "sweep.lock")) return error_set(error, "--output: expected a shorter path");
    *lock = open(path, O_RDWR | O_CREAT, 0666);
    if (*lock < 0) return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    for (int tenths = 0; flock(*lock, LOCK_EX | LOCK_NB) != 0; tenths++) {
        if (errno != EWOULDBLOCK && errno != EINTR) return error_set(error, "%s: cannot lock: %s", path, strerror(errno));
        if (tenths == 10 * SECONDS_FOR_LOCK) return error_set(error, "%s: another sweep is at work in this folder", folder);
        if (tenths == 5) fprintf(stderr, "waiting for the runs of another sweep in %s\n", folder);
        const struct timespec wait = {0, 100000000};
        nanosleep(&wait, NULL);
    }
    return true;
}

static void print_plan(const struct sweep_plan *plan)
{
    int finished = 0;
    for (int i = 0; i < plan->run_count; i++) finished += plan->runs[i].state == RUN_FINISHED;
    fprintf(stderr, "%d settings, %d seeds: %d runs of %ld epochs, %d of them finished; folder: %s\n", plan->table.count, plan->request->seeds,
            plan->run_count, plan->epochs, finished, plan->folder);
}

static void print_end(const struct sweep_plan *plan, int status)
{
    int counts[RUN_STOPPED + 1] = {0};
    for (int i = 0; i < plan->run_count; i++) counts[plan->runs[i].state]++;
    if (status == 130)
        fprintf(stderr, "stopped: %d of %d runs finished; the same command goes on\n", counts[RUN_FINISHED], plan->run_count);
    if (counts[RUN_FAILED])
        fprintf(stderr, "mlsnet sweep: %d of %d runs failed; the same command tries them again\n", counts[RUN_FAILED], plan->run_count);
    printf("%d of %d runs finished; see %s/sweep.md, sweep.csv\n", counts[RUN_FINISHED], plan->run_count, plan->folder);
}

static int sweep(const struct sweep_request *request, struct sweep_plan *plan)
{
    struct error error;
    struct run_folder folder;
    int lock = -1, status = 0;
    if (!run_folder_open(&folder, plan->folder, NULL, request->session.cfg_path, &error) || !lock_folder(plan->folder, &lock, &error))
        return fail(&error, 1);
    // What was finished may have changed while it waited for the lock.
    for (int i = 0; i < plan->run_count; i++) plan->runs[i].state = run_folder_is_finished(plan->runs[i].folder) ? RUN_FINISHED : RUN_WAITING;
    print_plan(plan);
    bool good = sweep_jobs_run(plan, &status, &error);
    if (!good) fail(&error, 1);
    if (good) print_end(plan, status);
    if (good && !request->without_pictures && !sweep_pictures_draw(&plan->table, plan->folder, NULL, &error))
        fprintf(stderr, "mlsnet sweep: the pictures are missing: %s\n", error.message);
    close(lock);
    return good ? status : 1;
}

// The number of epochs as --set. `text` is kept by the caller.
static bool set_epochs(struct sweep_request *request, char text[32])
{
    if (request->epochs == 0) return true;
    if (request->session.set.count + 2 > MOST_LIST) return false;
    snprintf(text, 32, "epochs=%d", request->epochs);
    request->session.set.items[request->session.set.count++] = text;
    request->session.set.items[request->session.set.count++] = "max_batches=0";
    return true;
}

// Runs have a --seed of their own, which goes before all else.
static bool sets_seed(const struct sweep_request *r)
{
    const struct argument_list *lists[] = {&r->over, &r->session.set};
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < lists[k]->count; i++)
            if (strncmp(lists[k]->items[i], "seed=", 5) == 0 || strncmp(lists[k]->items[i], "net.seed=", 9) == 0) return true;
    return false;
}

static int check_request(const struct sweep_request *r)
{
    struct error error;
    if (r->over.count == 0) error_set(&error, "--over is missing: --over KEY=V1,V2,...");
    else if (sets_seed(r)) error_set(&error, "--over seed=, --set seed=: the seeds are 1 to N of --seeds N");
    else if (r->seeds < 1 || r->seeds > 100) error_set(&error, "--seeds %d: expected 1 to 100", r->seeds);
    else if (r->jobs < 1 || r->jobs > 256) error_set(&error, "--jobs %d: expected 1 to 256", r->jobs);
    else if (r->epochs < 0 || r->epochs > 1000000) error_set(&error, "--epochs %d: expected 1 to 1000000", r->epochs);
    else return 0;
    return fail(&error, 2);
}

int command_sweep(int argc, char **argv)
{
    struct sweep_request request = {.session = SESSION_REQUEST_DEFAULTS, .seeds = 1, .jobs = 1};
    const struct argument table[] = {
        SESSION_ARGUMENTS(request.session),
        OVER_ARGUMENT(request.over),
        {"--seeds", ARGUMENT_INT, &request.seeds, "runs of each setting, with the seeds 1 to N (default: 1)"},
        {"--epochs", ARGUMENT_INT, &request.epochs, "length of the runs (default: as the cfg says)"},
        {"--jobs", ARGUMENT_INT, &request.jobs, "runs at once, which share the threads (default: 1)"},
        {"--output", ARGUMENT_TEXT, &request.output, "folder of the sweep (default: results/NAME-sweep, NAME of the cfg)"},
        {"--no-fp32", ARGUMENT_FLAG, &request.without_fp32, "without the run in fp32 (mls=0) that the others are compared with"},
        {"--skip-invalid", ARGUMENT_FLAG, &request.skip_invalid, "leave out combinations that cannot be run, and run the others"},
        {"--no-pictures", ARGUMENT_FLAG, &request.without_pictures, "tables alone"},
        {0}};
    char epochs[32];
    enum arguments_result result = arguments_parse(argc, argv, "CFG --over KEY=V1,V2,... [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    int status = check_request(&request);
    if (status) return status;
    if (!set_epochs(&request, epochs)) return fail(&(struct error){"--set: too many"}, 2);
    struct sweep_plan plan;
    status = sweep_plan_make(&request, &plan);
    if (status == 0) status = sweep(&request, &plan);
    sweep_plan_release(&plan);
    return status;
}
