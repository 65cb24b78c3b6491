// Counter-based random numbers: every number is a pure function of a key and a position, so a
// resumed run, or one with another number of threads, draws the same.
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stdint.h>

// The finalizer of splitmix64: a bijection of 64-bit integers that mixes all bits.
static inline uint64_t random_mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

// One key from a seed and up to three further coordinates (step, layer, operand; epoch, image; ...).
static inline uint64_t random_key(uint64_t seed, uint64_t a, uint64_t b, uint64_t c)
{
    return random_mix64(random_mix64(random_mix64(random_mix64(seed) ^ a) ^ b) ^ c);
}

// A sequence of numbers from one key.
struct random_stream {
    uint64_t key, counter;
};

static inline uint64_t random_next(struct random_stream *stream)
{
    return random_mix64(stream->key ^ random_mix64(stream->counter++));
}

// Uniform in [0, 1), a multiple of 2^-24.
static inline float random_uniform(struct random_stream *stream)
{
    return (float)(random_next(stream) >> 40) * 0x1p-24f;
}

// Uniform in [0, bound), bound >= 1, without bias that could be measured (64-bit multiply-shift).
static inline uint32_t random_below(struct random_stream *stream, uint32_t bound)
{
    return (uint32_t)(((random_next(stream) >> 32) * bound) >> 32);
}

// Normal with mean 0 and standard deviation 1 (Box-Muller).
float random_normal(struct random_stream *stream);

#endif
