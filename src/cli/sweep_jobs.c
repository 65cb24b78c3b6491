#include "cli/sweep_jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "base/csv.h"
#include "base/file.h"
#include "base/memory.h"
#include "train/run_folder.h"

#define LOG_NAME "output.log"
#define SECONDS_BETWEEN_LINES 300 // of progress, where stderr is not a terminal
#define MOST_ARGUMENTS (2 * MOST_LIST + 32)

static volatile sig_atomic_t stop_signals; // counted by the signal handler alone

static void count_signal(int signal_number)
{
    if (signal_number != SIGCHLD) stop_signals++; // SIGCHLD: ends the wait
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGCHLD, &action, NULL);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

struct jobs {
    struct sweep_plan *plan;
    int threads;    // of each run
    int signals;    // that the runs were told of
    bool terminal;
    double shown;   // when the progress was shown last
    int running;
    bool told_to_end;
};

static const char *name_of(const struct jobs *jobs, const struct sweep_run *run)
{
    return jobs->plan->table.rows[run->setting].name;
}

// ---------------------------------------------------------------------------------------------
// Progress

struct log_end {
    long epochs;
    double seconds, top1; // of all epochs; of the last
};

static struct log_end read_log(const struct sweep_run *run)
{
    char path[4096];
    struct csv csv = {0};
    struct log_end end = {.top1 = 0};
    if (!file_join(path, sizeof path, run->folder, "log.csv") || !file_exists(path)) return end;
    if (csv_read(path, &csv, NULL)) {
        end.epochs = csv.rows;
        for (int i = 0; i < csv.rows; i++) {
            double seconds = csv_number(&csv, i, csv_column(&csv, "seconds"));
            if (seconds > 0) end.seconds += seconds;
        }
        if (csv.rows) end.top1 = csv_number(&csv, csv.rows - 1, csv_column(&csv, "top1"));
    }
    csv_release(&csv);
    return end;
}

struct progress_count {
    int states[RUN_STOPPED + 1];
    double left; // seconds; below 0: not known yet
};

// Epochs' worth of the time that the run's present epoch has taken.
static double begun_part(const struct sweep_run *run, const struct log_end *end, double epoch_seconds)
{
    double part = (now() - run->started - (end->seconds - run->seconds_before)) / epoch_seconds;
    return run->state != RUN_RUNNING || part < 0 ? 0 : part > 1 ? 1 : part;
}

// Time left by the mean time of all epochs so far.
static struct progress_count count_progress(const struct jobs *jobs)
{
    const struct sweep_plan *plan = jobs->plan;
    struct progress_count count = {.left = -1};
    double seconds = 0, epochs = 0, left = 0;
    for (int i = 0; i < plan->run_count; i++) {
        struct log_end end = read_log(&plan->runs[i]);
        count.states[plan->runs[i].state]++;
        seconds += end.seconds;
        epochs += (double)end.epochs;
    }
    for (int i = 0; epochs > 0 && i < plan->run_count; i++) {
        const struct sweep_run *run = &plan->runs[i];
        struct log_end end = read_log(run);
        if (run->state == RUN_FINISHED || run->state == RUN_FAILED || end.epochs >= plan->epochs) continue;
        left += (double)(plan->epochs - end.epochs) - begun_part(run, &end, seconds / epochs);
    }
    int together = plan->request->jobs, open = count.states[RUN_WAITING] + count.states[RUN_RUNNING];
    if (open && open < together) together = open;
    if (epochs > 0) count.left = left * seconds / epochs / together;
    return count;
}

static void describe_progress(const struct progress_count *count, const struct sweep_plan *plan, char text[256])
{
    int length = snprintf(text, 256, "%d of %d runs finished", count->states[RUN_FINISHED], plan->run_count);
    if (count->states[RUN_FAILED]) length += snprintf(text + length, 256 - (size_t)length, ", %d failed", count->states[RUN_FAILED]);
    long left = (long)count->left;
    if (count->left >= 0)
        snprintf(text + length, 256 - (size_t)length, ", %ld:%02ld:%02ld left", left / 3600, left / 60 % 60, left % 60);
}

static void show_progress(struct jobs *jobs)
{
    double time = now(), wait = jobs->terminal ? 1 : SECONDS_BETWEEN_LINES;
    char text[256];
    if (time - jobs->shown < wait) return;
    jobs->shown = time;
    const struct progress_count count = count_progress(jobs);
    describe_progress(&count, jobs->plan, text);
    fprintf(stderr, jobs->terminal ? "\r%s" : "%s\n", text);
    for (int i = 0; jobs->terminal && i < jobs->plan->run_count; i++) {
        const struct sweep_run *run = &jobs->plan->runs[i];
        if (run->state != RUN_RUNNING) continue;
        fprintf(stderr, "; %s seed %d: epoch %ld/%ld", name_of(jobs, run), run->seed, read_log(run).epochs + 1, jobs->plan->epochs);
        break; // one is enough for a line
    }
    if (jobs->terminal) fputs("\033[K", stderr);
}

static void clear_line(const struct jobs *jobs)
{
    if (jobs->terminal) fputs("\r\033[K", stderr);
}

// The last line of the run's output that is not empty.
static void last_line(const struct sweep_run *run, char line[512])
{
    char path[4096];
    size_t size = 0;
    *line = 0;
    char *text = file_join(path, sizeof path, run->folder, LOG_NAME) ? (char *)file_read(path, (size_t)1 << 28, &size, NULL) : NULL;
    while (text && size && (text[size - 1] == '\n' || text[size - 1] == '\r')) text[--size] = 0;
    const char *last = text ? strrchr(text, '\n') : NULL;
    if (text) snprintf(line, 512, "%s", last ? last + 1 : text);
    memory_release(text);
}

static void report_end(const struct jobs *jobs, const struct sweep_run *run, int wait_status)
{
    char text[256], line[512];
    const struct progress_count count = count_progress(jobs);
    describe_progress(&count, jobs->plan, text);
    clear_line(jobs);
    if (run->state == RUN_FINISHED) {
        printf("%s seed %d: top-1 %.2f %%, %.0f s; %s\n", name_of(jobs, run), run->seed, 100 * read_log(run).top1, now() - run->started, text);
        fflush(stdout);
    } else if (run->state == RUN_STOPPED) {
        fprintf(stderr, "%s seed %d: stopped\n", name_of(jobs, run), run->seed);
    } else {
        last_line(run, line);
        if (WIFSIGNALED(wait_status)) snprintf(line, sizeof line, "ended by signal %d", WTERMSIG(wait_status));
        fprintf(stderr, "mlsnet sweep: failed: %s seed %d: %s; see %s/" LOG_NAME "; %s\n", name_of(jobs, run), run->seed, line, run->folder, text);
    }
}

// ---------------------------------------------------------------------------------------------
// Processes

struct command_line {
    int count;
    char *items[MOST_ARGUMENTS];
};

static void add(struct command_line *line, const char *text)
{
    if (line->count < MOST_ARGUMENTS - 1) line->items[line->count++] = (char *)(size_t)text; // execv changes nothing
}

static void add_pair(struct command_line *line, const char *name, const char *value)
{
    if (!value) return;
    add(line, name);
    add(line, value);
}

// What the child does until it is another program. Only calls that are safe behind fork.
static void become_run(const struct command_line *line, int log, const sigset_t *mask, pid_t parent)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGTERM); // a sweep that is killed leaves no run at work
#endif
    if (getppid() != parent) _exit(130);
    setpgid(0, 0); // Ctrl-C reaches the sweep alone, which tells its runs
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    sigprocmask(SIG_SETMASK, mask, NULL);
    int nothing = open("/dev/null", O_RDONLY);
    if (nothing < 0 || dup2(nothing, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0) _exit(127);
    execv("/proc/self/exe", line->items); // this very program, even if the file was built anew meanwhile
    _exit(127);
}

static bool start_process(struct sweep_run *run, const struct command_line *line, struct error *error)
{
    char path[4096];
    if (!file_join(path, sizeof path, run->folder, LOG_NAME)) return error_set(error, "--output: expected a shorter path");
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log < 0) return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old); // no handler of ours runs in the child
    pid_t parent = getpid(), process = fork();
    if (process == 0) become_run(line, log, &old, parent);
    sigprocmask(SIG_SETMASK, &old, NULL);
    close(log);
    if (process < 0) return error_set(error, "cannot begin a process: %s", strerror(errno));
    run->process = process;
    run->state = RUN_RUNNING;
    run->started = now();
    run->seconds_before = read_log(run).seconds;
    return true;
}

static bool begin(struct jobs *jobs, struct sweep_run *run, struct error *error)
{
    const struct sweep_request *request = jobs->plan->request;
    const struct argument_list *lists[] = {&request->session.set, &jobs->plan->settings[run->setting].set};
    struct command_line line = {0};
    struct run_folder folder;
    char seed[16], threads[16], last[4096];
    if (!run_folder_open(&folder, run->folder, NULL, request->session.cfg_path, error)) return false;
    run_folder_file(&folder, "last.safetensors", last);
    snprintf(seed, sizeof seed, "%d", run->seed);
    snprintf(threads, sizeof threads, "%d", jobs->threads);
    add(&line, "mlsnet");
    add(&line, "train");
    add(&line, request->session.cfg_path);
    add_pair(&line, "--output", run->folder);
    add_pair(&line, "--seed", seed);
    add_pair(&line, "--threads", threads);
    add_pair(&line, "--data", request->session.data);
    add_pair(&line, "--kernel", request->session.kernel);
    if (file_exists(last)) add(&line, "--resume");
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < lists[k]->count; i++) add_pair(&line, "--set", lists[k]->items[i]);
    if (!start_process(run, &line, error)) return false;
    jobs->running++;
    if (!jobs->terminal) fprintf(stderr, "%s seed %d: %s\n", name_of(jobs, run), run->seed, file_exists(last) ? "goes on" : "begins");
    return true;
}

// Takes a process that has ended; false if there is none.
static bool collect(struct jobs *jobs, bool *changed)
{
    int status;
    pid_t process = waitpid(-1, &status, WNOHANG);
    if (process <= 0) return false;
    for (int i = 0; i < jobs->plan->run_count; i++) {
        struct sweep_run *run = &jobs->plan->runs[i];
        if (run->state != RUN_RUNNING || run->process != process) continue;
        bool ended_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        bool stopped = (WIFEXITED(status) && WEXITSTATUS(status) == 130) || (WIFSIGNALED(status) && jobs->told_to_end);
        run->state = ended_well ? RUN_FINISHED : stopped ? RUN_STOPPED : RUN_FAILED;
        jobs->running--;
        *changed = true;
        report_end(jobs, run, status);
    }
    return true;
}

static void tell_all(struct jobs *jobs, int signal_number)
{
    jobs->told_to_end = true;
    for (int i = 0; i < jobs->plan->run_count; i++)
        if (jobs->plan->runs[i].state == RUN_RUNNING) kill(jobs->plan->runs[i].process, signal_number);
}

// A run that cannot be begun has failed.
static void begin_some(struct jobs *jobs)
{
    struct error error;
    for (int i = 0; i < jobs->plan->run_count && jobs->running < jobs->plan->request->jobs; i++) {
        struct sweep_run *run = &jobs->plan->runs[i];
        if (run->state != RUN_WAITING || begin(jobs, run, &error)) continue;
        run->state = RUN_FAILED;
        clear_line(jobs);
        fprintf(stderr, "mlsnet sweep: failed: %s seed %d: %s\n", name_of(jobs, run), run->seed, error.message);
    }
}

// A train process ends at its second signal; so does it when the sweep has got a second one.
static void pass_signals(struct jobs *jobs)
{
    if (stop_signals == jobs->signals) return;
    if (jobs->signals == 0) {
        clear_line(jobs);
        fprintf(stderr, "stopping: %d runs save and end\n", jobs->running);
    }
    jobs->signals = stop_signals;
    tell_all(jobs, SIGTERM);
}

static bool loop(struct jobs *jobs, struct error *error)
{
    bool changed = true;
    for (;;) {
        pass_signals(jobs);
        while (collect(jobs, &changed)) {}
        if (changed && !sweep_plan_write_table(jobs->plan, error)) return false;
        changed = false;
        if (!jobs->signals) begin_some(jobs);
        if (jobs->running == 0) return true;
        show_progress(jobs);
        const struct timespec wait = {0, 100000000};
        nanosleep(&wait, NULL);
    }
}

static void wait_for_all(struct jobs *jobs)
{
    bool changed;
    tell_all(jobs, SIGTERM);
    while (jobs->running) {
        const struct timespec wait = {0, 100000000};
        if (!collect(jobs, &changed)) nanosleep(&wait, NULL);
    }
}

bool sweep_jobs_run(struct sweep_plan *plan, int *status, struct error *error)
{
    int threads = plan->request->session.threads ? plan->request->session.threads : threads_available();
    struct jobs jobs = {.plan = plan, .threads = threads / plan->request->jobs, .terminal = isatty(STDERR_FILENO), .shown = now()};
    if (jobs.threads < 1) jobs.threads = 1;
    catch_signals();
    bool good = loop(&jobs, error);
    if (!good) wait_for_all(&jobs);
    clear_line(&jobs);
    *status = 0;
    for (int i = 0; i < plan->run_count; i++)
        if (plan->runs[i].state == RUN_FAILED && *status == 0)
            *status = 1;
        else if (plan->runs[i].state == RUN_WAITING || plan->runs[i].state == RUN_STOPPED)
            *status = 130;
    return good;
}
