// Ops that move numbers without computing any.
#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"
#include "kernels/kernel.h"

namespace shoal {
namespace {

void CopyFloats(float* to, const float* from, int64_t n) {
  if (n > 0) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
  }
}

// Rows so many that a task moves 128 KiB.
int64_t RowsPerTask(int64_t row_size) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, row_size));
}

// y[m, n] from x[n].
Status BroadcastRow(const KernelArgs& args, Stream& stream) {
  const Shape& shape = args.outputs[0].shape;
  const int64_t n = shape.last();
  const float* const x = args.inputs[0].as<const float>();
  float* const y = args.outputs[0].as<float>();
  stream.pool()->ParallelFor(shape.num_rows(), RowsPerTask(n),
                             [&](int64_t begin, int64_t end) {
                               for (int64_t r = begin; r < end; ++r) {
                                 CopyFloats(y + r * n, x, n);
                               }
                             });
  return OkStatus();
}

// y[m, n] from x[m, 1].
Status BroadcastCol(const KernelArgs& args, Stream& stream) {
  const int64_t n = args.outputs[0].shape.dim(1);
  const float* const x = args.inputs[0].as<const float>();
  float* const y = args.outputs[0].as<float>();
  stream.pool()->ParallelFor(args.outputs[0].shape.dim(0), RowsPerTask(n),
                             [&](int64_t begin, int64_t end) {
                               for (int64_t r = begin; r < end; ++r) {
                                 std::fill_n(y + r * n, n, x[r]);
                               }
                             });
  return OkStatus();
}

Status BroadcastScalar(const KernelArgs& args, Stream& stream) {
  const float x = *args.inputs[0].as<const float>();
  float* const y = args.outputs[0].as<float>();
  stream.pool()->ParallelFor(
      args.outputs[0].num_elements(), RowsPerTask(1),
      [&](int64_t begin, int64_t end) { std::fill(y + begin, y + end, x); });
  return OkStatus();
}

Status Concat(const KernelArgs& args, Stream& stream) {
  const int64_t n = args.outputs[0].shape.dim(1);
  float* const y = args.outputs[0].as<float>();
  stream.pool()->ParallelFor(args.outputs[0].shape.dim(0), RowsPerTask(n),
                             [&](int64_t begin, int64_t end) {
                               int64_t column = 0;
                               for (const TensorView& input : args.inputs) {
                                 const int64_t width = input.shape.dim(1);
                                 const float* const x = input.as<const float>();
                                 for (int64_t r = begin; r < end; ++r) {
                                   CopyFloats(y + r * n + column, x + r * width,
                                              width);
                                 }
                                 column += width;
                               }
                             });
  return OkStatus();
}

Status Slice(const KernelArgs& args, Stream& stream) {
  const int64_t n = args.inputs[0].shape.dim(1);
  const int64_t first = args.ints[0];
  const int64_t size = args.ints[1];
  const float* const x = args.inputs[0].as<const float>();
  float* const y = args.outputs[0].as<float>();
  stream.pool()->ParallelFor(args.outputs[0].shape.dim(0), RowsPerTask(size),
                             [&](int64_t begin, int64_t end) {
                               for (int64_t r = begin; r < end; ++r) {
                                 CopyFloats(y + r * size, x + r * n + first,
                                            size);
                               }
                             });
  return OkStatus();
}

Status SliceGrad(const KernelArgs& args, Stream& stream) {
  const int64_t n = args.outputs[0].shape.dim(1);
  const int64_t first = args.ints[0];
  const int64_t size = args.ints[1];
  const float* const dy = args.inputs[0].as<const float>();
  float* const dx = args.outputs[0].as<float>();
  stream.pool()->ParallelFor(args.outputs[0].shape.dim(0), RowsPerTask(n),
                             [&](int64_t begin, int64_t end) {
                               for (int64_t r = begin; r < end; ++r) {
                                 float* const row = dx + r * n;
                                 std::fill_n(row, first, 0.0F);
                                 CopyFloats(row + first, dy + r * size, size);
                                 std::fill(row + first + size, row + n, 0.0F);
                               }
                             });
  return OkStatus();
}

SHOAL_REGISTER_KERNEL("cpu", BroadcastRow, .run = &BroadcastRow);
SHOAL_REGISTER_KERNEL("cpu", BroadcastCol, .run = &BroadcastCol);
SHOAL_REGISTER_KERNEL("cpu", BroadcastScalar, .run = &BroadcastScalar);
SHOAL_REGISTER_KERNEL("cpu", Concat, .run = &Concat);
SHOAL_REGISTER_KERNEL("cpu", Slice, .run = &Slice);
SHOAL_REGISTER_KERNEL("cpu", SliceGrad, .run = &SliceGrad);

}  // namespace
}  // namespace shoal
