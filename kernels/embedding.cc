#include <algorithm>
#include <bit>

#include "base/strcat.h"
#include "base/thread_pool.h"
#include "kernels/kernel.h"
#include "kernels/loops.h"

namespace shoal {
namespace {

// Positions or bags so many that a task moves about 64 KiB.
int64_t PositionsPerTask(int64_t dim) {
  return std::max<int64_t>(16, 16384 / std::max<int64_t>(1, dim));
}

// Errors: kInvalidArgument, naming the first index outside [0, rows).
Status CheckIndex(const char* op, const int32_t* index, int64_t first,
                  int64_t n, int64_t rows) {
  if (n == 0 || ActiveLoops().max_index(index + first, n) < rows) {
    return OkStatus();
  }
  for (int64_t j = first; j < first + n; ++j) {
    if (index[j] < 0 || index[j] >= rows) {
      return InvalidArgumentError(StrCat(op, ": index[", j, "] is ", index[j],
                                         ", outside [0, ", rows, ")"));
    }
  }
  return OkStatus();
}

Status Gather(const KernelArgs& args, Stream& stream) {
  const Shape& rows = args.inputs[0].shape;
  const int64_t dim = rows.dim(1);
  const int64_t n = args.inputs[1].num_elements();
  const float* const from = args.inputs[0].as<const float>();
  const int32_t* const index = args.inputs[1].as<const int32_t>();
  float* const y = args.outputs[0].as<float>();
  SHOAL_RETURN_IF_ERROR(CheckIndex("Gather", index, 0, n, rows.dim(0)));
  const Loops& loops = ActiveLoops();
  stream.pool()->ParallelFor(
      n, PositionsPerTask(dim), [&](int64_t begin, int64_t end) {
        loops.gather(from, dim, index + begin, end - begin, y + begin * dim);
      });
  return OkStatus();
}

// Sets drows[rows, dim] to the sums of positions [0, n), each row's in the
// order of positions. Threads share out the rows and each goes through all
// positions, which costs little beside adding: the additions and their order
// are those of one thread.
void AddPositionsToRows(const RowGradients& g, int64_t n, int64_t rows,
                        float* drows, ThreadPool& pool) {
  const Loops& loops = ActiveLoops();
  constexpr int64_t kSerialMax = 262144;  // numbers to add
  const bool serial = pool.num_threads() == 1 || n * g.dim <= kSerialMax;
  const auto shares = static_cast<int64_t>(
      serial ? 1U : std::bit_ceil(static_cast<unsigned>(pool.num_threads())));
  pool.ParallelFor(shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      loops.scatter_add(g, {.number = s, .count = shares}, n, rows, drows);
    }
  });
}

Status GatherGrad(const KernelArgs& args, Stream& stream) {
  const Shape& rows = args.outputs[0].shape;
  const int64_t n = args.inputs[1].num_elements();
  const RowGradients g = {.dy = args.inputs[0].as<const float>(),
                          .dim = rows.dim(1),
                          .index = args.inputs[1].as<const int32_t>(),
                          .segments = nullptr,
                          .weights = nullptr};
  SHOAL_RETURN_IF_ERROR(CheckIndex("GatherGrad", g.index, 0, n, rows.dim(0)));
  AddPositionsToRows(g, n, rows.dim(0), args.outputs[0].as<float>(),
                     *stream.pool());
  return OkStatus();
}

// There are offsets for `bags` bags and one more; they rise within [0, n], and
// the indices between them are rows.
// Errors: kInvalidArgument, naming the first that is wrong.
Status CheckBags(const char* op, const TensorView& index,
                 const TensorView& offsets, int64_t bags, int64_t rows) {
  const int64_t n = index.num_elements();
  if (offsets.num_elements() <= bags) {
    return InvalidArgumentError(StrCat(op, ": offsets has ",
                                       offsets.num_elements(), " elements; ",
                                       bags, " bags need ", bags + 1));
  }
  const int32_t* const offset = offsets.as<const int32_t>();
  int64_t last = 0;
  for (int64_t s = 0; s <= bags; ++s) {
    if (offset[s] < last || offset[s] > n) {
      return InvalidArgumentError(StrCat(op, ": offsets[", s, "] is ",
                                         offset[s], ", outside [", last, ", ",
                                         n, "]"));
    }
    last = offset[s];
  }
  return CheckIndex(op, index.as<const int32_t>(), offset[0], last - offset[0],
                    rows);
}

Status BagPool(const KernelArgs& args, Stream& stream) {
  const Shape& rows = args.inputs[0].shape;
  const TensorView& index = args.inputs[1];
  const TensorView& offsets = args.inputs[2];
  const Shape& out = args.outputs[0].shape;
  const int64_t num_bags = out.dim(0) * out.dim(1);
  SHOAL_RETURN_IF_ERROR(
      CheckBags("BagPool", index, offsets, num_bags, rows.dim(0)));
  const Bags bags = {.rows = args.inputs[0].as<const float>(),
                     .dim = rows.dim(1),
                     .index = index.as<const int32_t>(),
                     .offsets = offsets.as<const int32_t>(),
                     .weights = args.inputs[3].as<const float>(),
                     .mean = args.ints[1] != 0};
  float* const y = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  stream.pool()->ParallelFor(
      num_bags, PositionsPerTask(bags.dim),
      [&](int64_t begin, int64_t end) { loops.bag_pool(bags, begin, end, y); });
  return OkStatus();
}

Status BagPoolGrad(const KernelArgs& args, Stream& stream) {
  const TensorView& index = args.inputs[1];
  const TensorView& offsets = args.inputs[2];
  const Shape& rows = args.outputs[0].shape;
  const Shape& dy = args.inputs[0].shape;
  const int64_t bags = dy.dim(0) * dy.dim(1);
  SHOAL_RETURN_IF_ERROR(
      CheckBags("BagPoolGrad", index, offsets, bags, rows.dim(0)));
  const int32_t* const offset = offsets.as<const int32_t>();
  const float* const weight = args.inputs[3].as<const float>();
  const int64_t begin = offset[0];
  const int64_t n = offset[bags] - begin;
  // The bag of each position and what its gradient is scaled by.
  auto* const segments = reinterpret_cast<int32_t*>(args.workspace.data());
  auto* const scales = reinterpret_cast<float*>(segments + n);
  stream.pool()->ParallelFor(bags, 4096, [&](int64_t first, int64_t last) {
    for (int64_t s = first; s < last; ++s) {
      const auto count = args.ints[1] != 0
                             ? static_cast<float>(offset[s + 1] - offset[s])
                             : 1.0F;
      for (int64_t j = offset[s]; j < offset[s + 1]; ++j) {
        segments[j - begin] = static_cast<int32_t>(s);
        scales[j - begin] = weight[j] / count;
      }
    }
  });
  const RowGradients g = {.dy = args.inputs[0].as<const float>(),
                          .dim = rows.dim(1),
                          .index = index.as<const int32_t>() + begin,
                          .segments = segments,
                          .weights = scales};
  AddPositionsToRows(g, n, rows.dim(0), args.outputs[0].as<float>(),
                     *stream.pool());
  return OkStatus();
}

int64_t BagPoolGradWorkspace(std::span<const TensorView> inputs,
                             std::span<const TensorView> /*outputs*/,
                             std::span<const int64_t> /*ints*/,
                             int /*num_threads*/) {
  return 8 * inputs[1].num_elements();
}

SHOAL_REGISTER_KERNEL("cpu", Gather, .run = &Gather);
SHOAL_REGISTER_KERNEL("cpu", GatherGrad, .run = &GatherGrad);
SHOAL_REGISTER_KERNEL("cpu", BagPool, .run = &BagPool);
SHOAL_REGISTER_KERNEL("cpu", BagPoolGrad, .run = &BagPoolGrad,
                      .workspace_bytes = &BagPoolGradWorkspace);

}  // namespace
}  // namespace shoal
