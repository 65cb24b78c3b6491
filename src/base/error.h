// An error that travels up the call stack: a function that can fail returns false (or NULL) and
// leaves one line of text here. The text names the file, line, key or layer, what was found and
// what was expected.
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdbool.h>

struct error {
    char message[2048];
};

// Stores the formatted text (any earlier text is replaced) and returns false, so that a caller can
// write `return error_set(error, "...")`. `error` may be NULL.
__attribute__((format(printf, 2, 3)))
bool error_set(struct error *error, const char *format, ...);

// Puts the formatted text in front of the message that is already there and returns false.
__attribute__((format(printf, 2, 3)))
bool error_prefix(struct error *error, const char *format, ...);

#endif
