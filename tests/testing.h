// What all test programs include before cmocka.h, and small helpers.
#ifndef TESTS_TESTING_H
#define TESTS_TESTING_H

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static inline void assert_contains(const char *text, const char *part)
{
    if (!text || !strstr(text, part)) fail_msg("expected '%s' in: %s", part, text ? text : "(nothing)");
}

static char temporary_root[200]; // of this program, once there is one

static inline int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status, (void)kind, (void)place;
    return remove(path);
}

static inline void remove_temporary_root(void)
{
    nftw(temporary_root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

// A new folder below TMPDIR, which goes with the program.
static inline const char *temporary_folder(void)
{
    static char path[256];
    const char *base = getenv("TMPDIR");
    if (temporary_root[0] == 0) {
        snprintf(temporary_root, sizeof temporary_root, "%s/mlsnet-test-XXXXXX", base ? base : "/tmp");
        assert_non_null(mkdtemp(temporary_root));
        assert_int_equal(atexit(remove_temporary_root), 0);
    }
    snprintf(path, sizeof path, "%s/XXXXXX", temporary_root);
    assert_non_null(mkdtemp(path));
    return path;
}

static inline void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

#endif
