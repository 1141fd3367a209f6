#ifndef SHOAL_KERNELS_CUDA_OPS_H_
#define SHOAL_KERNELS_CUDA_OPS_H_

#include "kernels/cuda/table.h"

// The launchers of all ops: they enqueue kernels with the bits of the CPU's
// (kernels/*.cc) and return 0 or an error of error_text().
namespace shoal::cuda {

#define SHOAL_CUDA_OP(op) \
  int op(const ShoalCudaArgs& args, ShoalCudaStream& stream);
#define SHOAL_CUDA_OP_WITH_WORKSPACE(op) \
  SHOAL_CUDA_OP(op)                      \
  int64_t op##Workspace(const ShoalCudaArgs& args);
#define SHOAL_ELEMENTWISE(op, fn, inputs, outputs) SHOAL_CUDA_OP(op)
#define SHOAL_ELEMENTWISE_FLOAT(op, fn, inputs) SHOAL_CUDA_OP(op)
#define SHOAL_ELEMENTWISE_SCALAR(op, fn, inputs) SHOAL_CUDA_OP(op)
#include "kernels/cuda/ops.inc"
#include "kernels/elementwise_ops.inc"
#undef SHOAL_CUDA_OP
#undef SHOAL_CUDA_OP_WITH_WORKSPACE
#undef SHOAL_ELEMENTWISE
#undef SHOAL_ELEMENTWISE_FLOAT
#undef SHOAL_ELEMENTWISE_SCALAR

}  // namespace shoal::cuda

#endif  // SHOAL_KERNELS_CUDA_OPS_H_
