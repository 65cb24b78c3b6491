#include "mls/simulate.h"

#include "mls/quantize.h"
#include "mls/standard.h"

bool mls_simulate(const struct mls_format *format, enum mls_operand operand, const float *x, const int dims[4], int convolution_groups,
                  uint64_t tensor_key, struct thread_pool *pool, float *values, struct error *error)
{
    if (!mls_has_integers(format))
        return standard_quantize(format, operand, x, dims, convolution_groups, tensor_key, pool,
                                 &(struct standard_result){.values = values}, error);
    struct mls_tensor tensor;
    if (!mls_quantize(format, operand, x, dims, convolution_groups, tensor_key, &tensor, error)) return false;
    mls_dequantize(&tensor, values);
    mls_tensor_release(&tensor);
    return true;
}
