#include "train/run_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

#define HEADER "epoch,step,learning_rate,train_loss,train_accuracy,test_loss,top1,top5,images_per_second,seconds,waited\n"

void run_folder_file(const struct run_folder *folder, const char *name, char path[4096])
{
    snprintf(path, 4096, "%s/%s", folder->path, name);
}

static bool make_folders(char *path, struct error *error)
{
    for (char *p = path + 1;; p++) {
        char end = *p;
        if (end != '/' && end != 0) continue;
        *p = 0;
        if (mkdir(path, 0777) != 0 && errno != EEXIST) return error_set(error, "%s: cannot create: %s", path, strerror(errno));
        *p = end;
        if (end == 0) return true;
    }
}

bool run_folder_open(struct run_folder *folder, const char *path, const char *parent, const char *cfg_path, struct error *error)
{
    const char *slash = strrchr(cfg_path, '/'), *name = slash ? slash + 1 : cfg_path;
    size_t length = strlen(name);
    if (length > 4 && strcmp(name + length - 4, ".cfg") == 0) length -= 4;
    int written = path ? snprintf(folder->path, sizeof folder->path, "%s", path)
                       : snprintf(folder->path, sizeof folder->path, "%s/%.*s", parent ? parent : "results", (int)length, name);
    if (written == 0) return error_set(error, "--output: expected a folder's name, found an empty text");
    if (written < 0 || (size_t)written >= sizeof folder->path) return error_set(error, "--output: expected a shorter path");
    if (!make_folders(folder->path, error)) return false;
    char probe[4096];
    run_folder_file(folder, ".writable", probe);
    const struct file_piece piece = {"", 0};
    if (!file_write_atomically(probe, &piece, 1, error)) return error_prefix(error, "the run's folder is not writable: ");
    unlink(probe);
    return true;
}

// The folder itself is locked: nothing is left behind. The descriptor stays open as long as the process.
bool run_folder_lock(const struct run_folder *folder, struct error *error)
{
    int descriptor = open(folder->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return error_set(error, "%s: cannot open: %s", folder->path, strerror(errno));
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno == ENOLCK || errno == EOPNOTSUPP) return true; // some file systems have no locks
    int problem = errno;
    close(descriptor);
    return problem == EWOULDBLOCK ? error_set(error, "%s: another training is at work in this folder", folder->path)
                                  : error_set(error, "%s: cannot lock: %s", folder->path, strerror(problem));
}

bool run_folder_write_text(const struct run_folder *folder, const char *name, const char *text, struct error *error)
{
    char path[4096];
    run_folder_file(folder, name, path);
    const struct file_piece piece = {text, strlen(text)};
    return file_write_atomically(path, &piece, 1, error);
}

bool run_folder_start_log(const struct run_folder *folder, long epochs, struct error *error)
{
    char path[4096];
    run_folder_file(folder, "log.csv", path);
    size_t size = 0, kept = 0;
    const bool goes_on = epochs > 0 && file_exists(path);
    char *text = goes_on ? (char *)file_read(path, (size_t)1 << 28, &size, error) : NULL;
    if (goes_on && !text) return false;
    // Whole lines of finished epochs; the header is one whose number is 0.
    for (char *line = text; line && *line;) {
        char *end = strchr(line, '\n');
        if (!end || strtol(line, NULL, 10) > epochs) break;
        kept = (size_t)(end + 1 - text);
        line = end + 1;
    }
    const struct file_piece piece = {kept ? text : HEADER, kept ? kept : strlen(HEADER)};
    bool good = file_write_atomically(path, &piece, 1, error);
    memory_release(text);
    return good;
}

bool run_folder_append(const struct run_folder *folder, const struct epoch_row *row, struct error *error)
{
    char path[4096];
    run_folder_file(folder, "log.csv", path);
    FILE *file = fopen(path, "a");
    if (!file) return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    fprintf(file, "%ld,%ld,%.6g,%.6f,%.6f,%.6f,%.6f,%.6f,%.1f,%.1f,%.4f\n", row->epoch, row->step, row->rate, row->train_loss,
            row->train_accuracy, row->test_loss, row->top1, row->top5, row->images_per_second, row->seconds, row->waited);
    bool good = fflush(file) == 0 && fsync(fileno(file)) == 0;
    good &= fclose(file) == 0;
    return good || error_set(error, "%s: cannot write: %s", path, strerror(errno));
}

static bool has_line(const char *text, const char *line)
{
    size_t length = strlen(line);
    for (; text; text = (text = strchr(text, '\n')) ? text + 1 : NULL)
        if (strncmp(text, line, length) == 0 && text[length] == '\n') return true;
    return false;
}

bool run_folder_add_lines(const struct run_folder *folder, const char *name, const char *const *lines, int count, struct error *error)
{
    char path[4096];
    size_t size = 0;
    int used = 0;
    run_folder_file(folder, name, path);
    char *text = file_exists(path) ? (char *)file_read(path, (size_t)1 << 28, &size, error) : NULL;
    if (!text && file_exists(path)) return false;
    struct file_piece *pieces = memory_allocate(2 * (size_t)count + 1, sizeof *pieces, error);
    for (int i = 0; pieces && i < count; i++) {
        if (has_line(text, lines[i])) continue;
        pieces[++used] = (struct file_piece){lines[i], strlen(lines[i])};
        pieces[++used] = (struct file_piece){"\n", 1};
    }
    if (pieces) pieces[0] = (struct file_piece){text, size};
    bool good = pieces && (used == 0 || file_write_atomically(path, pieces, used + 1, error));
    memory_release(pieces);
    memory_release(text);
    return good;
}

bool run_folder_is_finished(const char *folder)
{
    char path[4096];
    size_t size;
    if (!file_join(path, sizeof path, folder, "summary.json") || !file_exists(path)) return false;
    char *text = (char *)file_read(path, 1 << 20, &size, NULL);
    struct json_object *summary = text ? json_tokener_parse(text) : NULL, *finished = NULL;
    bool yes = summary && json_object_object_get_ex(summary, "finished", &finished) && json_object_get_boolean(finished);
    json_object_put(summary);
    memory_release(text);
    return yes;
}
