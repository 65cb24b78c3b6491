#include "kernels/fully_connected.h"

#include "base/integers.h"
#include "base/vector.h"

#define OUTPUTS_OF_TASK 4
#define INPUTS_AT_ONCE 512
#define ROWS_AT_ONCE 4   // in registers
#define TERMS_AT_ONCE 16 // so many rows of INPUTS_AT_ONCE numbers stay in a near cache, however far apart they are
#define HALVES 2         // of a block: base/vector.h
#define PART FULLY_CONNECTED_PART

struct work {
    const struct fully_connected_shape *shape;
    const float *weights, *input, *errors;
    float *result;
    bool accumulate;
};

// Half a block of which `count` numbers are left in the row, which may be less or more than there is room for.
VECTOR_INLINE half_float load(const float *from, int count)
{
    half_float v = {0};
    if (count >= HALF_LANES) return half_load(from);
    if (count > 0) memcpy(&v, from, (size_t)count * sizeof(float));
    return v;
}

VECTOR_INLINE void store(float *to, half_float v, int count)
{
    if (count > 0) memcpy(to, &v, (size_t)smaller(count, HALF_LANES) * sizeof(float));
}

// ---------------------------------------------------------------------------------------------
// Forward: products of rows with rows

// totals += x * w: sixteen numbers of two rows of each, or `count`.
VECTOR_INLINE void multiply_block(const float *const x[2], const float *const w[2], int i, int count, half_float totals[2][2][HALVES])
{
    for (int h = 0; h < HALVES; h++, i += HALF_LANES, count -= HALF_LANES) {
        const half_float a[2] = {load(x[0] + i, count), load(x[1] + i, count)}, b[2] = {load(w[0] + i, count), load(w[1] + i, count)};
        for (int n = 0; n < 2; n++)
            for (int o = 0; o < 2; o++) totals[n][o][h] += a[n] * b[o];
    }
}

// Sums of two rows of inputs with two rows of weights.
VECTOR_INLINE void multiply_rows(const float *const x[2], const float *const w[2], int count, float sums[2][2])
{
    half_float totals[2][2][HALVES] = {{{{0}}}};
    int i = 0;
    for (; i + VECTOR_LANES <= count; i += VECTOR_LANES) multiply_block(x, w, i, VECTOR_LANES, totals);
    if (i < count) multiply_block(x, w, i, count - i, totals);
    for (int n = 0; n < 2; n++)
        for (int o = 0; o < 2; o++) {
            vector_float all;
            memcpy(&all, totals[n][o], sizeof all);
            sums[n][o] = vector_sum(all);
        }
}

// All images with some outputs and inputs; the last row stands in for one that does not exist.
VECTORIZED static void forward_part(const struct work *work, int first_output, int end_output, int first_input, int count)
{
    const struct fully_connected_shape *s = work->shape;
    for (int n = 0; n < s->images; n += 2)
        for (int o = first_output; o < end_output; o += 2) {
            const int images = smaller(2, s->images - n), outputs = smaller(2, end_output - o);
            const float *x = work->input + (size_t)n * s->input_stride + first_input;
            const float *w = work->weights + (size_t)o * (size_t)s->inputs + first_input;
            float sums[2][2], *to = work->result + (size_t)n * s->output_stride + o;
            multiply_rows((const float *const[2]){x, x + (size_t)(images - 1) * s->input_stride},
                          (const float *const[2]){w, w + (size_t)(outputs - 1) * (size_t)s->inputs}, count, sums);
            for (int i = 0; i < images; i++)
                for (int k = 0; k < outputs; k++) {
                    float *one = to + (size_t)i * s->output_stride + k;
                    *one = first_input > 0 ? *one + sums[i][k] : sums[i][k];
                }
        }
}

static void forward_task(void *context, int task, int thread)
{
    (void)thread;
    const struct work *work = context;
    int first = task * OUTPUTS_OF_TASK, end = smaller(first + OUTPUTS_OF_TASK, work->shape->outputs);
    for (int i = 0; i < work->shape->inputs; i += PART) forward_part(work, first, end, i, smaller(PART, work->shape->inputs - i));
}

void fully_connected_forward(const struct fully_connected_shape *shape, struct thread_pool *pool, const float *weights, const float *input,
                             float *output)
{
    struct work work = {.shape = shape, .weights = weights, .input = input, .result = output};
    thread_pool_run(pool, ceil_of(shape->outputs, OUTPUTS_OF_TASK), forward_task, &work);
}

// ---------------------------------------------------------------------------------------------
// Backward: rows added up, each times a number

// totals[row][i] += factors[row * row_step + term * term_step] * rows[term][i], term by term.
struct row_sums {
    float *totals;
    size_t totals_stride;
    const float *factors;
    size_t row_step, term_step;
    const float *rows;
    size_t rows_stride;
    int terms;
};

// Sixteen numbers of some rows of totals, or `count`.
VECTOR_INLINE void add_block_times(const struct row_sums *s, int rows, int count)
{
    half_float totals[ROWS_AT_ONCE][HALVES];
    const float *factors[ROWS_AT_ONCE], *row = s->rows;
    for (int r = 0; r < ROWS_AT_ONCE; r++) { // the last row stands in for those that do not exist
        factors[r] = s->factors + (size_t)smaller(r, rows - 1) * s->row_step;
        for (int h = 0; h < HALVES; h++)
            totals[r][h] = load(s->totals + (size_t)smaller(r, rows - 1) * s->totals_stride + h * HALF_LANES, count - h * HALF_LANES);
    }
    for (size_t t = 0; t < (size_t)s->terms; t++, row += s->rows_stride)
        for (int h = 0; h < HALVES; h++) {
            const half_float x = load(row + h * HALF_LANES, count - h * HALF_LANES);
            for (int r = 0; r < ROWS_AT_ONCE; r++) totals[r][h] += x * factors[r][t * s->term_step];
        }
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < HALVES; h++) store(s->totals + (size_t)r * s->totals_stride + h * HALF_LANES, totals[r][h], count - h * HALF_LANES);
}

// `rows` rows of `count` numbers.
VECTORIZED static void add_all_times(const struct row_sums *sums, int rows, int count)
{
    for (int r = 0; r < rows; r += ROWS_AT_ONCE) {
        struct row_sums s = *sums;
        s.totals += (size_t)r * s.totals_stride;
        s.factors += (size_t)r * s.row_step;
        int i = 0;
        for (; i + VECTOR_LANES <= count; i += VECTOR_LANES, s.totals += VECTOR_LANES, s.rows += VECTOR_LANES)
            add_block_times(&s, smaller(ROWS_AT_ONCE, rows - r), VECTOR_LANES);
        if (i < count) add_block_times(&s, smaller(ROWS_AT_ONCE, rows - r), count - i);
    }
}

// The same for many terms, some at a time, in order.
static void add_terms(struct row_sums sums, int rows, int count, int terms)
{
    for (int t = 0; t < terms; t += TERMS_AT_ONCE) {
        sums.terms = smaller(TERMS_AT_ONCE, terms - t);
        add_all_times(&sums, rows, count);
        sums.factors += TERMS_AT_ONCE * sums.term_step;
        sums.rows += TERMS_AT_ONCE * sums.rows_stride;
    }
}

static void input_error_task(void *context, int task, int thread)
{
    (void)thread;
    const struct work *work = context;
    const struct fully_connected_shape *s = work->shape;
    int first = task * INPUTS_AT_ONCE, count = smaller(INPUTS_AT_ONCE, s->inputs - first);
    struct row_sums sums = {.totals = work->result + first, .totals_stride = s->input_stride, .factors = work->errors,
                            .row_step = s->output_stride, .term_step = 1, .rows = work->weights + first, .rows_stride = (size_t)s->inputs};
    for (int n = 0; !work->accumulate && n < s->images; n++) memset(sums.totals + (size_t)n * s->input_stride, 0, (size_t)count * sizeof(float));
    add_terms(sums, s->images, count, s->outputs);
}

void fully_connected_input_error(const struct fully_connected_shape *shape, struct thread_pool *pool, const float *weights,
                                 const float *errors, float *input_error, bool accumulate)
{
    struct work work = {.shape = shape, .weights = weights, .errors = errors, .result = input_error, .accumulate = accumulate};
    thread_pool_run(pool, ceil_of(shape->inputs, INPUTS_AT_ONCE), input_error_task, &work);
}

static void weight_gradient_task(void *context, int task, int thread)
{
    (void)thread;
    const struct work *work = context;
    const struct fully_connected_shape *s = work->shape;
    const size_t inputs = (size_t)s->inputs, first = (size_t)task * OUTPUTS_OF_TASK;
    for (int i = 0; i < s->inputs; i += INPUTS_AT_ONCE) {
        struct row_sums sums = {.totals = work->result + first * inputs + i, .totals_stride = inputs, .factors = work->errors + first,
                                .row_step = 1, .term_step = s->output_stride, .rows = work->input + i, .rows_stride = s->input_stride};
        add_terms(sums, smaller(OUTPUTS_OF_TASK, s->outputs - (int)first), smaller(INPUTS_AT_ONCE, s->inputs - i), s->images);
    }
}

void fully_connected_weight_gradient(const struct fully_connected_shape *shape, struct thread_pool *pool, const float *input,
                                     const float *errors, float *gradient)
{
    struct work work = {.shape = shape, .input = input, .errors = errors, .result = gradient};
    thread_pool_run(pool, ceil_of(shape->outputs, OUTPUTS_OF_TASK), weight_gradient_task, &work);
}
