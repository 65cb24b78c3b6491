// NumPy's .npy files: fp32 in, fp32 and int32 out, C order.
#ifndef BASE_NPY_H
#define BASE_NPY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct npy {
    int rank, dims[8];
    size_t count;
    float *values;
};

// Versions 1 to 3, little-endian fp32, C order, length exactly as the header says; anything else is refused by name.
// Values may be NaN or infinite. Released with npy_release.
bool npy_read(const char *path, struct npy *array, struct error *error);
bool npy_parse(const char *name, const uint8_t *bytes, size_t size, struct npy *array, struct error *error);
void npy_release(struct npy *array);
bool npy_write_float(const char *path, int rank, const int *dims, const float *values, struct error *error);
bool npy_write_int(const char *path, int rank, const int *dims, const int32_t *values, struct error *error);

#endif
