#include "net/observer.h"

#include "base/memory.h"

bool observer_show(const struct observer *observer, struct observation *seen, const struct source *map, struct error *error)
{
    if (!map) return observer->see(observer->context, seen, error);
    const int *dims = seen->dims, blocks = blocked_count(dims[1]);
    size_t pixels = (size_t)dims[2] * (size_t)dims[3], image_size = (size_t)dims[1] * pixels;
    float *values = memory_allocate((size_t)dims[0] * image_size, sizeof *values, error);
    float *image = memory_allocate(blocked_channels(dims[1]) * pixels, sizeof *image, error);
    bool good = values && image;
    for (int n = 0; good && n < dims[0]; n++) {
        for (int block = 0; block < blocks; block++) {
            struct source source = source_of_block(map, n, block, blocks, pixels);
            source_write(&source, pixels, image + (size_t)block * pixels * BLOCK_CHANNELS, false);
        }
        blocked_to_planar(image, dims[1], pixels, values + (size_t)n * image_size);
    }
    seen->values = values;
    good = good && observer->see(observer->context, seen, error);
    memory_release(image);
    memory_release(values);
    return good;
}
