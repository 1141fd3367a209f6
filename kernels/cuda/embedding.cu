#include <string>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/primitives.h"
#include "kernels/cuda/runtime.cuh"

namespace shoal::cuda {
namespace {

// The row of position j, or -1 with a fault reported.
__device__ __forceinline__ int64_t RowAt(const int32_t* index, int64_t j,
                                         int64_t rows,
                                         const FaultSink& faults) {
  const int64_t row = index[j];
  if (row < 0 || row >= rows) {
    Report(faults, j, static_cast<double>(row), 0.0, static_cast<double>(rows));
    return -1;
  }
  return row;
}

// A row out of range is given as 0.
template <typename T>
__global__ void GatherKernel(const T* from, int64_t rows, int64_t width,
                             const int32_t* index, int64_t size, T* y,
                             FaultSink faults) {
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    const RowColumn at = Split(i, width);
    const int64_t row = RowAt(index, at.row, rows, faults);
    y[i] = row < 0 ? T{} : from[row * width + at.column];
  }
}

// The positions [begin, end) of a bag; none with a fault reported where the
// offsets do not rise within [0, n].
struct Bag {
  int64_t begin;
  int64_t end;
};

__device__ __forceinline__ Bag BagAt(const int32_t* offsets, int64_t s,
                                     int64_t n, const FaultSink& faults) {
  const int64_t begin = offsets[s];
  const int64_t end = offsets[s + 1];
  if (begin < 0 || begin > n) {
    // Other bags report what the end of the one before them is.
    if (s == 0) {
      Report(faults, 0, static_cast<double>(begin), 0.0,
             static_cast<double>(n + 1));
    }
    return {0, 0};
  }
  if (end < begin || end > n) {
    Report(faults, s + 1, static_cast<double>(end), static_cast<double>(begin),
           static_cast<double>(n + 1));
    return {0, 0};
  }
  return {begin, end};
}

struct Bags {
  const float* rows;
  int64_t num_rows;
  int64_t dim;
  const int32_t* index;
  int64_t num_positions;
  const int32_t* offsets;
  const float* weights;
  bool mean;
};

// A thread has one dimension of one bag: one chain over its positions.
__global__ void BagPoolKernel(Bags bags, int64_t size, float* y,
                              FaultSink bad_offsets, FaultSink bad_index) {
  constexpr int kAhead = 4;
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    const RowColumn at = Split(i, bags.dim);
    const Bag bag =
        BagAt(bags.offsets, at.row, bags.num_positions, bad_offsets);
    float sum = 0.0F;
    for (int64_t first = bag.begin; first < bag.end; first += kAhead) {
      float terms[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const int64_t j = first + u;
        const int64_t row =
            j < bag.end ? RowAt(bags.index, j, bags.num_rows, bad_index) : -1;
        terms[u] =
            row < 0 ? 0.0F
                    : bags.weights[j] * bags.rows[row * bags.dim + at.column];
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (first + u < bag.end) {
          sum += terms[u];
        }
      }
    }
    if (bags.mean && bag.end > bag.begin) {
      sum = sum / static_cast<float>(bag.end - bag.begin);
    }
    y[i] = sum;
  }
}

// Gradients of rows. Positions are sorted by row, stably, so that those of a
// row stand together in their order; a thread then adds up one dimension of
// one row. Positions to leave out have the row `rows`.
struct Sorting {
  uint32_t* keys;
  uint32_t* sorted_keys;
  int32_t* positions;
  int32_t* sorted_positions;
  int32_t* run_begin;  // of each row among the sorted
  int32_t* run_end;
  int32_t* segments;  // the bag of each position; null: itself
  float* weights;     // null: 1
  void* temporary;
  int64_t temporary_bytes;
};

// Lays out the workspace from `start`, which may be 0 to learn the size: the
// temporary memory is last and takes what is left.
Sorting LayOut(char* start, int64_t bytes, int64_t n, int64_t rows,
               bool weighted) {
  char* at = start;
  const auto take = [&at](int64_t count) {
    char* const part = at;
    at += AlignUp(4 * count);
    return static_cast<void*>(part);
  };
  Sorting s = {};
  s.keys = static_cast<uint32_t*>(take(n));
  s.sorted_keys = static_cast<uint32_t*>(take(n));
  s.positions = static_cast<int32_t*>(take(n));
  s.sorted_positions = static_cast<int32_t*>(take(n));
  s.run_begin = static_cast<int32_t*>(take(rows));
  s.run_end = static_cast<int32_t*>(take(rows));
  if (weighted) {
    s.segments = static_cast<int32_t*>(take(n));
    s.weights = static_cast<float*>(take(n));
  }
  s.temporary = at;
  s.temporary_bytes = bytes - (at - start);
  return s;
}

int64_t WorkspaceFor(int64_t n, int64_t rows, bool weighted) {
  const int64_t arrays = AlignUp(4 * n) * (weighted ? 6 : 4);
  return arrays + 2 * AlignUp(4 * rows) + AlignUp(SortPairsBytes(n));
}

__global__ void KeysOfIndexKernel(const int32_t* index, int64_t n, int64_t rows,
                                  Sorting s, FaultSink faults) {
  for (int64_t j = FirstItem(); j < n; j += ItemStep()) {
    const int64_t row = RowAt(index, j, rows, faults);
    s.keys[j] = static_cast<uint32_t>(row < 0 ? rows : row);
    s.positions[j] = static_cast<int32_t>(j);
  }
}

__global__ void CheckBagsKernel(const int32_t* offsets, int64_t num_bags,
                                int64_t n, FaultSink faults) {
  for (int64_t b = FirstItem(); b < num_bags; b += ItemStep()) {
    BagAt(offsets, b, n, faults);
  }
}

// The bag of each position, the last that begins at or before it.
__global__ void KeysOfBagsKernel(Bags bags, int64_t num_bags, Sorting s,
                                 FaultSink faults) {
  for (int64_t j = FirstItem(); j < bags.num_positions; j += ItemStep()) {
    int64_t bag = 0;
    for (int64_t after = num_bags; after - bag > 1;) {
      const int64_t middle = bag + (after - bag) / 2;
      if (bags.offsets[middle] <= j) {
        bag = middle;
      } else {
        after = middle;
      }
    }
    const int64_t begin = bags.offsets[bag];
    const int64_t end = bags.offsets[bag + 1];
    const bool used = j >= begin && j < end;
    const int64_t row = used ? RowAt(bags.index, j, bags.num_rows, faults) : -1;
    s.keys[j] = static_cast<uint32_t>(row < 0 ? bags.num_rows : row);
    s.positions[j] = static_cast<int32_t>(j);
    s.segments[j] = static_cast<int32_t>(bag);
    const auto count = bags.mean ? static_cast<float>(end - begin) : 1.0F;
    s.weights[j] = bags.weights[j] / count;
  }
}

__global__ void FindRunsKernel(Sorting s, int64_t n, int64_t rows) {
  for (int64_t i = FirstItem(); i < n; i += ItemStep()) {
    const int64_t row = s.sorted_keys[i];
    if (row >= rows) {
      continue;
    }
    if (i == 0 || s.sorted_keys[i - 1] != row) {
      s.run_begin[row] = static_cast<int32_t>(i);
    }
    if (i + 1 == n || s.sorted_keys[i + 1] != row) {
      s.run_end[row] = static_cast<int32_t>(i + 1);
    }
  }
}

template <bool kWeighted>
__device__ __forceinline__ float Contribution(const float* dy, int64_t dim,
                                              const Sorting& s, int64_t i,
                                              int64_t column) {
  const int64_t j = s.sorted_positions[i];
  if constexpr (kWeighted) {
    return s.weights[j] * dy[s.segments[j] * dim + column];
  } else {
    return dy[j * dim + column];
  }
}

// What is loaded next does not depend on what was added, so loads of one group
// are under way while the group before it is added up.
template <bool kWeighted>
__global__ void AddRunsKernel(const float* __restrict__ dy, int64_t dim,
                              Sorting s, int64_t size,
                              float* __restrict__ drows) {
  constexpr int kAhead = 8;
  for (int64_t t = FirstItem(); t < size; t += ItemStep()) {
    const RowColumn at = Split(t, dim);
    const int64_t end = s.run_end[at.row];
    int64_t i = s.run_begin[at.row];
    float sum = 0.0F;
    if (end - i >= kAhead) {
      float next[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        next[u] = Contribution<kWeighted>(dy, dim, s, i + u, at.column);
      }
      i += kAhead;
      for (; end - i >= kAhead; i += kAhead) {
        float terms[kAhead];
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
          terms[u] = next[u];
          next[u] = Contribution<kWeighted>(dy, dim, s, i + u, at.column);
        }
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
          sum += terms[u];
        }
      }
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        sum += next[u];
      }
    }
    for (; i < end; ++i) {
      sum += Contribution<kWeighted>(dy, dim, s, i, at.column);
    }
    drows[t] = sum;
  }
}

int NumBits(int64_t value) {
  int bits = 0;
  for (; value > 0; value >>= 1) {
    ++bits;
  }
  return bits;
}

int CheckSizes(ShoalCudaStream& stream, int64_t n, int64_t rows) {
  constexpr int64_t kMax = INT32_MAX;
  if (n > kMax || rows > kMax) {
    return Fail(kArgumentsError, std::string(stream.op) + ": " +
                                     std::to_string(n) + " positions and " +
                                     std::to_string(rows) +
                                     " rows; neither may exceed 2^31 - 1");
  }
  return 0;
}

// Sets drows[rows, dim] from the keys of `s`.
int AddSorted(ShoalCudaStream& stream, const float* dy, int64_t n, int64_t rows,
              int64_t dim, const Sorting& s, float* drows) {
  SHOAL_CUDA_TRY(SortPairs(stream.stream,
                           {.keys = s.keys,
                            .values = s.positions,
                            .sorted_keys = s.sorted_keys,
                            .sorted_values = s.sorted_positions,
                            .count = n,
                            .num_bits = NumBits(rows)},
                           s.temporary, s.temporary_bytes));
  SHOAL_CUDA_TRY(cudaMemsetAsync(s.run_begin, 0, static_cast<size_t>(4 * rows),
                                 stream.stream));
  SHOAL_CUDA_TRY(cudaMemsetAsync(s.run_end, 0, static_cast<size_t>(4 * rows),
                                 stream.stream));
  SHOAL_CUDA_TRY(
      Launch(stream, Blocks(n), kThreads, &FindRunsKernel, s, n, rows));
  const int64_t size = rows * dim;
  return s.weights == nullptr
             ? Launch(stream, Blocks(size), kThreads, &AddRunsKernel<false>, dy,
                      dim, s, size, drows)
             : Launch(stream, Blocks(size), kThreads, &AddRunsKernel<true>, dy,
                      dim, s, size, drows);
}

// Errors: kArgumentsError, for what the shapes show.
int CheckOffsets(ShoalCudaStream& stream, const ShoalCudaTensor& offsets,
                 int64_t num_bags) {
  if (NumElements(offsets) <= num_bags) {
    return Fail(kArgumentsError, std::string(stream.op) + ": offsets has " +
                                     std::to_string(NumElements(offsets)) +
                                     " elements; " + std::to_string(num_bags) +
                                     " bags need " +
                                     std::to_string(num_bags + 1));
  }
  return 0;
}

}  // namespace

int Gather(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t rows = args.inputs[0].dims[0];
  const int64_t dim = args.inputs[0].dims[1];
  const int64_t n = NumElements(args.inputs[1]);
  const auto* const from = As<const float>(args.inputs[0]);
  const auto* const index = As<const int32_t>(args.inputs[1]);
  auto* const y = As<float>(args.outputs[0]);
  const FaultSink faults = Sink(stream, "index");
  const auto addresses =
      reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(y);
  if (dim % 4 == 0 && addresses % 16 == 0) {
    return Launch(stream, Blocks(n * dim / 4), kThreads, &GatherKernel<float4>,
                  reinterpret_cast<const float4*>(from), rows, dim / 4, index,
                  n * dim / 4, reinterpret_cast<float4*>(y), faults);
  }
  return Launch(stream, Blocks(n * dim), kThreads, &GatherKernel<float>, from,
                rows, dim, index, n * dim, y, faults);
}

int GatherGrad(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t rows = args.outputs[0].dims[0];
  const int64_t dim = args.outputs[0].dims[1];
  const int64_t n = NumElements(args.inputs[1]);
  SHOAL_CUDA_TRY(CheckSizes(stream, n, rows));
  const Sorting s = LayOut(static_cast<char*>(args.workspace),
                           args.workspace_bytes, n, rows, false);
  SHOAL_CUDA_TRY(Launch(stream, Blocks(n), kThreads, &KeysOfIndexKernel,
                        As<const int32_t>(args.inputs[1]), n, rows, s,
                        Sink(stream, "index")));
  return AddSorted(stream, As<const float>(args.inputs[0]), n, rows, dim, s,
                   As<float>(args.outputs[0]));
}

int64_t GatherGradWorkspace(const ShoalCudaArgs& args) {
  return WorkspaceFor(NumElements(args.inputs[1]), args.outputs[0].dims[0],
                      false);
}

int BagPool(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const ShoalCudaTensor& out = args.outputs[0];
  const int64_t num_bags = out.dims[0] * out.dims[1];
  SHOAL_CUDA_TRY(CheckOffsets(stream, args.inputs[2], num_bags));
  const Bags bags = {.rows = As<const float>(args.inputs[0]),
                     .num_rows = args.inputs[0].dims[0],
                     .dim = args.inputs[0].dims[1],
                     .index = As<const int32_t>(args.inputs[1]),
                     .num_positions = NumElements(args.inputs[1]),
                     .offsets = As<const int32_t>(args.inputs[2]),
                     .weights = As<const float>(args.inputs[3]),
                     .mean = args.ints[1] != 0};
  const int64_t size = num_bags * bags.dim;
  return Launch(stream, Blocks(size), kThreads, &BagPoolKernel, bags, size,
                As<float>(out), Sink(stream, "offsets"), Sink(stream, "index"));
}

int BagPoolGrad(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t num_bags = args.inputs[0].dims[0] * args.inputs[0].dims[1];
  SHOAL_CUDA_TRY(CheckOffsets(stream, args.inputs[2], num_bags));
  const Bags bags = {.rows = nullptr,
                     .num_rows = args.outputs[0].dims[0],
                     .dim = args.outputs[0].dims[1],
                     .index = As<const int32_t>(args.inputs[1]),
                     .num_positions = NumElements(args.inputs[1]),
                     .offsets = As<const int32_t>(args.inputs[2]),
                     .weights = As<const float>(args.inputs[3]),
                     .mean = args.ints[1] != 0};
  // Without bags no position is used.
  const int64_t n = num_bags == 0 ? 0 : bags.num_positions;
  SHOAL_CUDA_TRY(CheckSizes(stream, n, bags.num_rows));
  const Sorting s = LayOut(static_cast<char*>(args.workspace),
                           args.workspace_bytes, n, bags.num_rows, true);
  SHOAL_CUDA_TRY(Launch(stream, Blocks(num_bags), kThreads, &CheckBagsKernel,
                        bags.offsets, num_bags, bags.num_positions,
                        Sink(stream, "offsets")));
  SHOAL_CUDA_TRY(Launch(stream, Blocks(n), kThreads, &KeysOfBagsKernel, bags,
                        num_bags, s, Sink(stream, "index")));
  return AddSorted(stream, As<const float>(args.inputs[0]), n, bags.num_rows,
                   bags.dim, s, As<float>(args.outputs[0]));
}

int64_t BagPoolGradWorkspace(const ShoalCudaArgs& args) {
  return WorkspaceFor(NumElements(args.inputs[1]), args.outputs[0].dims[0],
                      true);
}

}  // namespace shoal::cuda
