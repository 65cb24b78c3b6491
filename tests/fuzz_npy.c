// libFuzzer: the .npy reader.
#include "base/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct npy array;
    struct error error;
    npy_parse("fuzz.npy", data, size, &array, &error);
    npy_release(&array);
    return 0;
}
