#include "cli/resume.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"

static bool has_row(const struct option_description *table, const char *key)
{
    for (; table->name; table++)
        if (strcmp(table->name, key) == 0) return true;
    return false;
}

// Of the first `length` letters of a name.
static bool is_one_of(const char *const *names, const char *name, size_t length)
{
    for (; *names; names++)
        if (strlen(*names) == length && strncmp(*names, name, length) == 0) return true;
    return false;
}

static bool may_differ(const char *section, const char *key)
{
    static const char *const of_data[] = {"path", "names", "cache", "loader_threads", NULL};
    if (strcmp(section, "data") == 0) return is_one_of(of_data, key, strlen(key));
    if (strcmp(section, "net") != 0 && strcmp(section, "network") != 0) return false;
    return strcmp(key, "kernel") == 0 || (has_row(training_option_table, key) && strcmp(key, "seed") != 0);
}

// The first option of `a` that `b` has otherwise, or not at all.
static const struct cfg_option *difference(const struct cfg_section *a, const struct cfg_section *b)
{
    for (int i = 0; i < a->option_count; i++) {
        const struct cfg_option *option = &a->options[i], *other = cfg_find_option(b, option->key);
        if (!may_differ(a->name, option->key) && (!other || strcmp(other->value, option->value) != 0)) return option;
    }
    return NULL;
}

#define WHAT_TO_DO "give the options that it was begun with, or begin another run with --weights"

static bool sections_fit(const struct cfg_section *was, const struct cfg_section *now, const char *path, struct error *error)
{
    if (strcmp(was->name, now->name) != 0)
        return error_set(error, "--resume: %s:%d: [%s], now [%s]: " WHAT_TO_DO, path, was->line, was->name, now->name);
    const struct cfg_option *option = difference(was, now), *other = option ? cfg_find_option(now, option->key) : NULL;
    if (option)
        return error_set(error, "--resume: %s:%d: [%s] %s=%s, now %s: " WHAT_TO_DO, path, option->line, was->name, option->key, option->value,
                         other ? other->value : "not given");
    option = difference(now, was);
    return !option || error_set(error, "--resume: %s:%d: [%s] has no %s, now %s=%s: " WHAT_TO_DO, path, was->line, was->name, option->key,
                                option->key, option->value);
}

static bool cfgs_fit(const struct cfg *was, const struct cfg *now, const char *path, struct error *error)
{
    for (int i = 0; i < was->section_count && i < now->section_count; i++)
        if (!sections_fit(&was->sections[i], &now->sections[i], path, error)) return false;
    return was->section_count == now->section_count ||
           error_set(error, "--resume: %s has %d sections, now there are %d: " WHAT_TO_DO, path, was->section_count, now->section_count);
}

bool resume_fits(const struct session *session, const struct run_folder *folder, struct error *error)
{
    char path[4096];
    run_folder_file(folder, "config.cfg", path);
    if (!file_exists(path)) return true;
    struct diagnostics diagnostics = {.path = path};
    struct cfg *was = cfg_read(path, &diagnostics);
    bool good = was && cfgs_fit(was, session->cfg, path, error);
    const char *problem = diagnostics.text ? diagnostics.text : "out of memory";
    if (!was) error_set(error, "--resume: %.*s", (int)strcspn(problem, "\n"), problem);
    diagnostics_release(&diagnostics);
    cfg_release(was);
    return good;
}

static void print_argument(const char *text)
{
    const char *plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+./,:@%";
    if (*text && strspn(text, plain) == strlen(text)) {
        fprintf(stderr, " %s", text);
        return;
    }
    fputs(" '", stderr);
    for (; *text; text++) fputs(*text == '\'' ? "'\\''" : (char[]){*text, 0}, stderr);
    fputc('\'', stderr);
}

void resume_print_command(int argc, char **argv)
{
    static const char *const of_the_beginning[] = {"--weights", "--layers", "--stop-after", NULL};
    fprintf(stderr, "mlsnet %s --resume", argv[0]);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--resume") == 0) continue;
        const size_t name = strcspn(argv[i], "=");
        if (!is_one_of(of_the_beginning, argv[i], name))
            print_argument(argv[i]);
        else if (!argv[i][name]) // the value is the next argument
            i++;
    }
    fputc('\n', stderr);
}
