// Arithmetic of sizes and counts.
#ifndef BASE_INTEGERS_H
#define BASE_INTEGERS_H

static inline int smaller(int a, int b)
{
    return a < b ? a : b;
}

// Parts of `each` (the last one may be smaller) that `count` makes.
static inline int ceil_of(int count, int each)
{
    return (count + each - 1) / each;
}

#endif
