// Ops that move numbers without computing any.
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.cuh"

namespace shoal::cuda {
namespace {

// A part of the columns of a matrix whose rows are `stride` apart.
template <typename T>
struct Columns {
  T* first;
  int64_t stride;
};

__global__ void CopyColumnsKernel(Columns<const float> from, Columns<float> to,
                                  int64_t width, int64_t size) {
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    const RowColumn at = Split(i, width);
    to.first[at.row * to.stride + at.column] =
        from.first[at.row * from.stride + at.column];
  }
}

int CopyColumns(ShoalCudaStream& stream, Columns<const float> from,
                Columns<float> to, int64_t rows, int64_t width) {
  return Launch(stream, Blocks(rows * width), kThreads, &CopyColumnsKernel,
                from, to, width, rows * width);
}

__global__ void BroadcastRowKernel(const float* x, int64_t n, int64_t size,
                                   float* y) {
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    y[i] = x[Split(i, n).column];
  }
}

__global__ void BroadcastColKernel(const float* x, int64_t n, int64_t size,
                                   float* y) {
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    y[i] = x[Split(i, n).row];
  }
}

__global__ void BroadcastScalarKernel(const float* x, int64_t size, float* y) {
  const float value = *x;
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    y[i] = value;
  }
}

__global__ void SliceGradKernel(const float* dy, int64_t first, int64_t width,
                                int64_t n, int64_t size, float* dx) {
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    const RowColumn at = Split(i, n);
    const int64_t column = at.column - first;
    dx[i] = column >= 0 && column < width ? dy[at.row * width + column] : 0.0F;
  }
}

}  // namespace

int BroadcastRow(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t size = NumElements(args.outputs[0]);
  return Launch(stream, Blocks(size), kThreads, &BroadcastRowKernel,
                As<const float>(args.inputs[0]), Last(args.outputs[0]), size,
                As<float>(args.outputs[0]));
}

int BroadcastCol(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t size = NumElements(args.outputs[0]);
  return Launch(stream, Blocks(size), kThreads, &BroadcastColKernel,
                As<const float>(args.inputs[0]), args.outputs[0].dims[1], size,
                As<float>(args.outputs[0]));
}

int BroadcastScalar(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t size = NumElements(args.outputs[0]);
  return Launch(stream, Blocks(size), kThreads, &BroadcastScalarKernel,
                As<const float>(args.inputs[0]), size,
                As<float>(args.outputs[0]));
}

int Concat(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t rows = args.outputs[0].dims[0];
  const int64_t n = args.outputs[0].dims[1];
  auto* to = As<float>(args.outputs[0]);
  for (int i = 0; i < args.num_inputs; ++i) {
    const int64_t width = args.inputs[i].dims[1];
    SHOAL_CUDA_TRY(CopyColumns(stream, {As<const float>(args.inputs[i]), width},
                               {to, n}, rows, width));
    to += width;
  }
  return 0;
}

int Slice(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t width = args.ints[1];
  return CopyColumns(
      stream,
      {As<const float>(args.inputs[0]) + args.ints[0], args.inputs[0].dims[1]},
      {As<float>(args.outputs[0]), width}, args.outputs[0].dims[0], width);
}

int SliceGrad(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t size = NumElements(args.outputs[0]);
  return Launch(stream, Blocks(size), kThreads, &SliceGradKernel,
                As<const float>(args.inputs[0]), args.ints[0], args.ints[1],
                args.outputs[0].dims[1], size, As<float>(args.outputs[0]));
}

}  // namespace shoal::cuda
