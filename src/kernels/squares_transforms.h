// The matrices of struct squares_job and struct squares_gradient_job on columns of numbers, a lane each, for the instruction sets: VECTOR and
// the operations on it stand before the #include, for lanes of 16 and of 32 bits.
INLINE VECTOR times_4(VECTOR x)
{
    return SHIFT_16(x, 2);
}

INLINE VECTOR times_6(VECTOR x)
{
    return ADD_16(ADD_16(x, x), times_4(x));
}

// B, for the input.
INLINE void transform_input(const VECTOR d[SQUARE_INPUTS], VECTOR to[SQUARE_INPUTS])
{
    const VECTOR a = SUBTRACT_16(d[4], d[2]), b = SUBTRACT_16(d[3], d[1]), twice = ADD_16(b, b);
    const VECTOR even = SUBTRACT_16(d[4], times_4(d[2])), odd = SUBTRACT_16(d[3], times_4(d[1]));
    to[0] = ADD_16(times_4(SUBTRACT_16(d[0], d[2])), a);
    to[1] = ADD_16(even, odd);
    to[2] = SUBTRACT_16(even, odd);
    to[3] = ADD_16(a, twice);
    to[4] = SUBTRACT_16(a, twice);
    to[5] = SUBTRACT_16(SUBTRACT_16(d[5], d[3]), ADD_16(twice, twice));
}

// G, for weights.
INLINE void transform_weights(const VECTOR g[3], VECTOR to[SQUARE_INPUTS])
{
    const VECTOR outer = ADD_16(g[0], g[2]), weighted = ADD_16(g[0], times_4(g[2])), twice = ADD_16(g[1], g[1]);
    to[0] = times_6(g[0]);
    to[1] = SUBTRACT_16(ZERO, times_4(ADD_16(outer, g[1])));
    to[2] = times_4(SUBTRACT_16(g[1], outer));
    to[3] = ADD_16(weighted, twice);
    to[4] = SUBTRACT_16(weighted, twice);
    to[5] = times_6(g[2]);
}

// G, for errors.
INLINE void transform_errors(const VECTOR e[SQUARE], VECTOR to[SQUARE_INPUTS])
{
    const VECTOR even = ADD_16(e[0], e[2]), odd = ADD_16(e[1], e[3]);
    const VECTOR near = ADD_16(e[0], times_4(e[2])), far = ADD_16(e[1], times_4(e[3])), twice = ADD_16(far, far);
    to[0] = times_6(e[0]);
    to[1] = SUBTRACT_16(ZERO, times_4(ADD_16(even, odd)));
    to[2] = times_4(SUBTRACT_16(odd, even));
    to[3] = ADD_16(near, twice);
    to[4] = SUBTRACT_16(near, twice);
    to[5] = times_6(e[3]);
}

// A, for outputs.
INLINE void transform_products(const VECTOR m[SQUARE_INPUTS], VECTOR to[SQUARE])
{
    const VECTOR s = ADD_32(m[1], m[2]), d = SUBTRACT_32(m[1], m[2]), outer = ADD_32(m[3], m[4]), difference = SUBTRACT_32(m[3], m[4]);
    const VECTOR twice = ADD_32(difference, difference);
    to[0] = ADD_32(ADD_32(m[0], s), outer);
    to[1] = ADD_32(d, twice);
    to[2] = ADD_32(s, SHIFT_32(outer, 2));
    to[3] = ADD_32(d, SHIFT_32(ADD_32(twice, m[5]), 2));
}

// A, for the weight gradient.
INLINE void transform_sums(const VECTOR m[SQUARE_INPUTS], VECTOR to[3])
{
    const VECTOR s = ADD_32(m[1], m[2]), outer = ADD_32(m[3], m[4]), difference = SUBTRACT_32(m[3], m[4]);
    to[0] = ADD_32(ADD_32(m[0], s), outer);
    to[1] = ADD_32(SUBTRACT_32(m[1], m[2]), ADD_32(difference, difference));
    to[2] = ADD_32(s, SHIFT_32(ADD_32(outer, m[5]), 2));
}

// The taps of a quad, two channels of as many outputs as there are lanes of 32 bits, `column_step` numbers from one column to the next.
INLINE void transform_taps(const int8_t *taps, bool from_the_bottom, int16_t *to, size_t column_step,
                                                                 const int PARITY)
{
    VECTOR columns[3][SQUARE_INPUTS];
#pragma GCC unroll 3
    for (int c = 0; c < 3; c++) {
        VECTOR g[3];
#pragma GCC unroll 3
        for (int r = 0; r < 3; r++) {
            const VECTOR fours = LOAD(taps + ((from_the_bottom ? 2 - r : r) * 3 + c) * 64);
            g[r] = SHIFT_RIGHT_16(PARITY ? fours : SHIFT_16(fours, 8), 8);
        }
        transform_weights(g, columns[c]);
    }
#pragma GCC unroll 6
    for (int r = 0; r < SQUARE_INPUTS; r++) {
        const VECTOR row[3] = {columns[0][r], columns[1][r], columns[2][r]};
        VECTOR all[SQUARE_INPUTS];
        transform_weights(row, all);
#pragma GCC unroll 6
        for (size_t c = 0; c < SQUARE_INPUTS; c++) STORE(to + c * column_step + (PARITY * SQUARE_INPUTS + r) * 32, all[c]);
    }
}
