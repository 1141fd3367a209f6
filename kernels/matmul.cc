#include "base/thread_pool.h"
#include "kernels/gemm.h"
#include "kernels/kernel.h"

namespace shoal {
namespace {

GemmSize SizeOfProduct(const Shape& a, const Shape& b,
                       std::span<const int64_t> ints) {
  const bool transpose_a = ints[0] != 0;
  const bool transpose_b = ints[1] != 0;
  return {a.dim(transpose_a ? 1 : 0), b.dim(transpose_b ? 0 : 1),
          a.dim(transpose_a ? 0 : 1)};
}

Status MatMul(const KernelArgs& args, Stream& stream) {
  const TensorView& a = args.inputs[0];
  const TensorView& b = args.inputs[1];
  const bool transpose_a = args.ints[0] != 0;
  const bool transpose_b = args.ints[1] != 0;
  const GemmFactor left = {a.as<float>(), transpose_a ? 1 : a.shape.dim(1),
                           transpose_a ? a.shape.dim(1) : 1};
  const GemmFactor right = {b.as<float>(), transpose_b ? b.shape.dim(1) : 1,
                            transpose_b ? 1 : b.shape.dim(1)};
  Gemm(SizeOfProduct(a.shape, b.shape, args.ints), left, right,
       args.outputs[0].as<float>(), args.workspace, *stream.pool());
  return OkStatus();
}

// y = activation(a b + bias).
Status Dense(const KernelArgs& args, Stream& stream) {
  const TensorView& a = args.inputs[0];
  const TensorView& b = args.inputs[1];
  const GemmEpilogue epilogue = {args.inputs[2].as<const float>(),
                                 static_cast<Activation>(args.ints[0])};
  Gemm({a.shape.dim(0), b.shape.dim(1), a.shape.dim(1)},
       {a.as<float>(), a.shape.dim(1), 1}, {b.as<float>(), 1, b.shape.dim(1)},
       args.outputs[0].as<float>(), args.workspace, *stream.pool(), &epilogue);
  return OkStatus();
}

int64_t DenseWorkspace(std::span<const TensorView> inputs,
                       std::span<const TensorView> /*outputs*/,
                       std::span<const int64_t> /*ints*/, int /*num_threads*/) {
  return GemmWorkspaceBytes(
      {inputs[0].shape.dim(0), inputs[1].shape.dim(1), inputs[0].shape.dim(1)});
}

int64_t MatMulWorkspace(std::span<const TensorView> inputs,
                        std::span<const TensorView> /*outputs*/,
                        std::span<const int64_t> ints, int /*num_threads*/) {
  return GemmWorkspaceBytes(
      SizeOfProduct(inputs[0].shape, inputs[1].shape, ints));
}

SHOAL_REGISTER_KERNEL("cpu", MatMul, .run = &MatMul,
                      .workspace_bytes = &MatMulWorkspace);
SHOAL_REGISTER_KERNEL("cpu", Dense, .run = &Dense,
                      .workspace_bytes = &DenseWorkspace);

}  // namespace
}  // namespace shoal
