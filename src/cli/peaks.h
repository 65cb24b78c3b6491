// What this machine can do at most, measured: the limits that `mlsnet bench --layers` compares with.
#ifndef CLI_PEAKS_H
#define CLI_PEAKS_H

#include "base/threads.h"
#include "kernels/kernels.h"

struct peaks {
    double dot_products;  // multiply-adds/s of the kernel set's integer product, all threads
    double multiply_adds; // the same in fp32
    double memory;        // bytes/s, read from an array far larger than the caches
    double exchange;      // seconds from one thread's writing to another's seeing it, which tells cores that share a cache; 0: one thread
};

// About half a second. false without memory.
bool peaks_measure(struct thread_pool *pool, const struct kernel_set *kernels, struct peaks *peaks, struct error *error);

#endif
