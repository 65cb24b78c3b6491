// The table of kernel sets: one row an instruction set.
#include "kernels/kernels.h"

#include <string.h>

#ifdef MLSNET_X86
extern const struct kernel_set kernels_avx512vnni, kernels_avx2;
#endif

const struct kernel_set *const kernel_sets[] = {
#ifdef MLSNET_X86
    &kernels_avx512vnni,
    &kernels_avx2,
#endif
    &kernels_scalar,
    NULL,
};

const struct kernel_set *kernel_set_find(const char *name)
{
    for (int i = 0; kernel_sets[i]; i++) {
        const struct kernel_set *set = kernel_sets[i];
        if ((!name || strcmp(name, set->name) == 0) && set->supported()) return set;
    }
    return NULL;
}
