#include <algorithm>

#include "base/thread_pool.h"
#include "kernels/kernel.h"
#include "kernels/loops.h"

namespace shoal {
namespace {

// A reduction to one number: blocks of this many elements are summed apart and
// their sums combined by halves, so that threads do not show in the bits.
constexpr int64_t kBlock = 4096;

int64_t NumBlocks(int64_t n) { return (n + kBlock - 1) / kBlock; }

float SumByHalves(const float* x, int64_t n) {
  if (n <= 1) {
    return n == 0 ? 0.0F : x[0];
  }
  const int64_t half = (n + 1) / 2;
  return SumByHalves(x, half) + SumByHalves(x + half, n - half);
}

// `block(begin, end)` gives the sum of one block.
template <typename Block>
float SumBlocks(int64_t n, std::span<std::byte> workspace, ThreadPool& pool,
                const Block& block) {
  if (n <= kBlock) {
    return block(0, n);
  }
  auto* const sums = reinterpret_cast<float*>(workspace.data());
  constexpr int64_t kBlocksPerTask = 8;
  pool.ParallelFor(
      NumBlocks(n), kBlocksPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          sums[b] = block(b * kBlock, std::min(n, (b + 1) * kBlock));
        }
      });
  return SumByHalves(sums, NumBlocks(n));
}

int64_t SumWorkspace(std::span<const TensorView> inputs,
                     std::span<const TensorView> /*outputs*/,
                     std::span<const int64_t> /*ints*/, int /*num_threads*/) {
  return NumBlocks(inputs[0].num_elements()) *
         static_cast<int64_t>(sizeof(float));
}

Status ReduceSum(const KernelArgs& args, Stream& stream) {
  const float* const x = args.inputs[0].as<const float>();
  const Loops& loops = ActiveLoops();
  *args.outputs[0].as<float>() =
      SumBlocks(args.inputs[0].num_elements(), args.workspace, *stream.pool(),
                [&](int64_t begin, int64_t end) {
                  return loops.sum(x + begin, end - begin);
                });
  return OkStatus();
}

float DotOf(const float* a, const float* b, const KernelArgs& args,
            Stream& stream) {
  const Loops& loops = ActiveLoops();
  return SumBlocks(args.inputs[0].num_elements(), args.workspace,
                   *stream.pool(), [&](int64_t begin, int64_t end) {
                     return loops.dot(a + begin, b + begin, end - begin);
                   });
}

Status Dot(const KernelArgs& args, Stream& stream) {
  *args.outputs[0].as<float>() =
      DotOf(args.inputs[0].as<const float>(), args.inputs[1].as<const float>(),
            args, stream);
  return OkStatus();
}

Status L2Penalty(const KernelArgs& args, Stream& stream) {
  const float* const x = args.inputs[0].as<const float>();
  *args.outputs[0].as<float>() = 0.5F * DotOf(x, x, args, stream);
  return OkStatus();
}

Status ColumnSum(const KernelArgs& args, Stream& stream) {
  const Shape& shape = args.inputs[0].shape;
  const int64_t n = shape.last();
  const int64_t m = shape.num_rows();
  const float* const x = args.inputs[0].as<const float>();
  float* const y = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  // Whole tiles of the loop; small matrices stay on one thread.
  constexpr int64_t kColumns = 64;
  const int64_t grain = m * n < 32768 ? std::max<int64_t>(1, n) : kColumns;
  stream.pool()->ParallelFor(n, grain, [&](int64_t begin, int64_t end) {
    loops.column_sum(x, m, n, begin, end, y);
  });
  return OkStatus();
}

Status RowSum(const KernelArgs& args, Stream& stream) {
  const int64_t m = args.inputs[0].shape.dim(0);
  const int64_t n = args.inputs[0].shape.dim(1);
  const float* const x = args.inputs[0].as<const float>();
  float* const y = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  stream.pool()->ParallelFor(
      m, std::max<int64_t>(1, 32768 / std::max<int64_t>(1, n)),
      [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          y[r] = loops.sum(x + r * n, n);
        }
      });
  return OkStatus();
}

SHOAL_REGISTER_KERNEL("cpu", ReduceSum, .run = &ReduceSum,
                      .workspace_bytes = &SumWorkspace);
SHOAL_REGISTER_KERNEL("cpu", Dot, .run = &Dot,
                      .workspace_bytes = &SumWorkspace);
SHOAL_REGISTER_KERNEL("cpu", L2Penalty, .run = &L2Penalty,
                      .workspace_bytes = &SumWorkspace);
SHOAL_REGISTER_KERNEL("cpu", ColumnSum, .run = &ColumnSum);
SHOAL_REGISTER_KERNEL("cpu", RowSum, .run = &RowSum);

}  // namespace
}  // namespace shoal
