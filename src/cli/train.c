// mlsnet train: from a cfg to a trained network and its run folder.
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli/command.h"
#include "cli/resume.h"
#include "cli/session.h"
#include "kernels/kernels.h"
#include "train/trainer.h"

static volatile sig_atomic_t stop_requested; // set by the signal handler alone

static void request_stop(int signal_number)
{
    (void)signal_number;
    stop_requested = 1; // the handler is gone after the first signal: a second one ends the process
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = request_stop, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    struct sigaction hangup;
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, NULL); // but for nohup
}

struct options {
    int argc;
    char **argv;
    struct session_request session;
    const char *output, *weights;
    bool resume, quiet, json;
    int stop_after, layers; // layers: of `weights`; 0: all
    double save_minutes;
};

struct printer {
    const struct options *options;
    bool terminal;
    struct progress last;
    struct epoch_row row;
};

static void print_step(void *context, const struct progress *p)
{
    struct printer *printer = context;
    printer->last = *p;
    if (!printer->terminal || printer->options->quiet) return;
    int seconds = (int)p->seconds_left;
    fprintf(stderr, "\repoch %ld/%ld  batch %ld/%ld  loss %.4f  accuracy %5.2f %%  %.0f images/s  %d:%02d:%02d left \033[K", p->epoch + 1,
            p->epochs, p->batch, p->batches, p->loss, 100 * p->accuracy, p->images_per_second, seconds / 3600, seconds / 60 % 60,
            seconds % 60);
}

static void print_epoch(void *context, const struct epoch_row *row)
{
    struct printer *printer = context;
    printer->row = *row;
    if (printer->options->quiet || printer->options->json) return;
    if (printer->terminal) fputs("\r\033[K", stderr);
    printf("epoch %ld/%ld  step %ld  rate %.4g  train loss %.4f  accuracy %.2f %%  test loss %.4f  top-1 %.2f %%  top-5 %.2f %%  "
           "%.0f images/s  waited %.1f %%  %.0f s\n",
           row->epoch, printer->last.epochs, row->step, row->rate, row->train_loss, 100 * row->train_accuracy, row->test_loss,
           100 * row->top1, 100 * row->top5, row->images_per_second, 100 * row->waited, row->seconds);
    fflush(stdout);
}

// Pictures that could not be read.
static int count_skipped(const struct trainer *trainer)
{
    return split_skipped(&trainer->dataset->train) + split_skipped(&trainer->dataset->test);
}

static struct json_object *summary_of(const struct trainer *trainer, const struct printer *printer)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "finished", json_object_new_boolean(trainer->finished));
    json_object_object_add(o, "epochs", json_object_new_int64(trainer->state.epoch));
    json_object_object_add(o, "steps", json_object_new_int64(trainer->state.step));
    json_object_object_add(o, "seed", json_object_new_int64(trainer->state.seed));
    json_object_object_add(o, "kernel", json_object_new_string(trainer->network->kernels->name));
    json_object_object_add(o, "skipped", json_object_new_int(count_skipped(trainer)));
    json_object_object_add(o, "best_top1", json_object_new_double(trainer->state.best));
    if (printer->row.epoch) {
        json_object_object_add(o, "train_loss", json_object_new_double(printer->row.train_loss));
        json_object_object_add(o, "test_loss", json_object_new_double(printer->row.test_loss));
        json_object_object_add(o, "top1", json_object_new_double(printer->row.top1));
        json_object_object_add(o, "top5", json_object_new_double(printer->row.top5));
        json_object_object_add(o, "images_per_second", json_object_new_double(printer->row.images_per_second));
        json_object_object_add(o, "waited", json_object_new_double(printer->row.waited));
    }
    return o;
}

static int complain(const struct error *error, int status)
{
    fprintf(stderr, "mlsnet train: %s\n", error->message);
    return status;
}

static bool resume(const struct session *session, const struct run_folder *folder, const char *last, struct training_state *state,
                   struct error *error)
{
    const struct training_state now = *state;
    if (!file_exists(last)) return error_set(error, "--resume: %s is not there; train without --resume to begin", last);
    if (!checkpoint_load(last, session->network, state, error)) return false;
    if (state->seed != now.seed) return error_set(error, "--resume: %s was trained with seed=%ld, not %ld", last, state->seed, now.seed);
    if (!resume_fits(session, folder, error)) return false;
    if (*state->data && strcmp(state->data, now.data) != 0)
        return error_set(error, "--resume: %s was trained on other data (%s, now %s): name that data with --data", last, state->data, now.data);
    memcpy(state->data, now.data, sizeof now.data);
    return true;
}

// Where to begin. 0, or an exit status.
static int prepare(const struct options *options, const struct session *session, const struct run_folder *folder,
                   struct trainer *trainer, struct error *error)
{
    char last[4096];
    run_folder_file(folder, "last.safetensors", last);
    trainer->state = (struct training_state){.best = -1, .seed = session->training.seed};
    dataset_fingerprint(session->dataset, trainer->state.data);
    if (options->resume) {
        if (!resume(session, folder, last, &trainer->state, error)) return 1;
    } else if (file_exists(last)) {
        error_set(error, "%s is there already: go on with --resume, or choose another folder with --output", last);
        return 1;
    }
    struct darknet_header header;
    int layers = session_first_layers(session, options->layers, error);
    if (layers < 0) return 2;
    return !options->weights || checkpoint_load_first_layers(options->weights, session->network, layers, &header, error) ? 0 : 1;
}

static int already_finished(const struct options *options, const struct run_folder *folder, const struct trainer *trainer, long total)
{
    char path[4096];
    size_t size;
    struct error error;
    if (!options->json) {
        if (!options->quiet) printf("already finished: %ld of %ld steps; give more epochs or max_batches to go on\n", trainer->state.step, total);
        return 0;
    }
    run_folder_file(folder, "summary.json", path);
    char *text = (char *)file_read(path, 1 << 20, &size, &error);
    if (!text) return complain(&error, 1);
    puts(text);
    memory_release(text);
    return 0;
}

static int finish(const struct options *options, const struct run_folder *folder, const struct trainer *trainer,
                  const struct printer *printer, struct error *error)
{
    struct json_object *summary = summary_of(trainer, printer);
    const char *text = json_object_to_json_string_ext(summary, JSON_C_TO_STRING_PRETTY);
    bool good = !printer->row.epoch || run_folder_write_text(folder, "summary.json", text, error);
    if (options->json) puts(text);
    json_object_put(summary);
    if (!good) return complain(error, 1);
    if (printer->terminal && !trainer->finished) fputc('\n', stderr);
    if (count_skipped(trainer) && !options->quiet)
        fprintf(stderr, "%d pictures could not be read: see %s/skipped.txt\n", count_skipped(trainer), folder->path);
    if (!trainer->finished) {
        fprintf(stderr, "stopped after step %ld; saved. Go on with: ", trainer->state.step);
        resume_print_command(options->argc, options->argv);
    } else if (!options->quiet && !options->json) {
        printf("finished; best top-1 %.2f %%; see %s\n", 100 * trainer->state.best, folder->path);
    }
    return trainer->finished ? 0 : 130;
}

static int train(const struct options *options, struct session *session)
{
    struct error error;
    struct run_folder folder;
    struct printer printer = {.options = options, .terminal = isatty(STDERR_FILENO)};
    struct trainer trainer = {.network = session->network, .dataset = session->dataset, .settings = &session->training,
                              .folder = &folder, .cfg_text = session->cfg_text, .save_seconds = 60 * options->save_minutes,
                              .stop_after = options->stop_after, .stop_flag = &stop_requested, .on_step = print_step,
                              .on_epoch = print_epoch, .context = &printer};
    long total = trainer_total_steps(&trainer, &error);
    if (total == 0) return complain(&error, 2);
    if (!run_folder_open(&folder, options->output, session->darknet.backup, options->session.cfg_path, &error)) {
        if (!options->output && session->darknet.backup) error_prefix(&error, "backup= of the .data file (--output goes before it): ");
        return complain(&error, 1);
    }
    if (!run_folder_lock(&folder, &error)) return complain(&error, 1);
    int status = prepare(options, session, &folder, &trainer, &error);
    if (status) return complain(&error, status);
    if (trainer.state.step >= total) return already_finished(options, &folder, &trainer, total);
    if (!run_folder_write_text(&folder, "config.cfg", session->cfg_text, &error) || !run_folder_start_log(&folder, trainer.state.epoch, &error))
        return complain(&error, 1);
    if (!options->quiet)
        fprintf(stderr, "kernels: %s (%s); threads: %d; folder: %s\n", session->network->kernels->name,
                session->network->kernels->help, thread_pool_size(session->pool), folder.path);
    catch_signals();
    if (!trainer_run(&trainer, &error)) return complain(&error, 1);
    return finish(options, &folder, &trainer, &printer, &error);
}

int command_train(int argc, char **argv)
{
    struct options o = {.argc = argc, .argv = argv, .session = SESSION_REQUEST_DEFAULTS, .save_minutes = 10};
    const struct argument table[] = {
        SESSION_ARGUMENTS(o.session),
        {"--seed", ARGUMENT_INT, &o.session.seed, "seed of the run (default: as the cfg says)"},
        {"--output", ARGUMENT_TEXT, &o.output, "folder of the run (default: results/NAME of the cfg)"},
        {"--resume", ARGUMENT_FLAG, &o.resume, "go on from last.safetensors in the folder"},
        {"--weights", ARGUMENT_TEXT, &o.weights, "begin with these weights, .safetensors or Darknet's .weights (default: random ones)"},
        {"--layers", ARGUMENT_INT, &o.layers, "take the first N layers of --weights alone, the others are as initialized (default: all)"},
        {"--save-minutes", ARGUMENT_FLOAT, &o.save_minutes, "save within an epoch this often (default: 10)"},
        {"--stop-after", ARGUMENT_INT, &o.stop_after, "save and stop after this many steps (default: 0, do not)"},
        {"--quiet", ARGUMENT_FLAG, &o.quiet, "print nothing but errors"},
        {"--json", ARGUMENT_FLAG, &o.json, "print the summary as JSON"},
        {0},
    };
    enum arguments_result result = arguments_parse(argc, argv, "CFG [options]", table);
    if (result != ARGUMENTS_GO_ON) return (int)result;
    if (o.stop_after < 0 || !(o.save_minutes >= 0)) {
        fprintf(stderr, "mlsnet train: --stop-after %d --save-minutes %g: expected 0 or more\n", o.stop_after, o.save_minutes);
        return 2;
    }
    if (o.resume && o.weights) {
        fprintf(stderr, "mlsnet train: --weights begins a run, --resume goes on with one: expected only one of them\n");
        return 2;
    }
    if (o.layers && !o.weights) {
        fprintf(stderr, "mlsnet train: --layers is about --weights: expected both\n");
        return 2;
    }
    struct session session;
    o.session.for_training = o.session.needs_data = true;
    int status = session_open(&session, &o.session);
    if (status == 0) status = train(&o, &session);
    session_close(&session);
    return status;
}
