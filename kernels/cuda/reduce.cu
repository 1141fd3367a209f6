#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.cuh"

namespace shoal::cuda {
namespace {

// The blocks of kernels/reduce.cc and kernels/reduce_impl.h, which are part of
// what the sums are.
constexpr int64_t kBlock = 4096;
constexpr int64_t kRowBlock = 64;

// One block of a sum; `b` null: of x alone.
struct Summed {
  const float* a;
  const float* b;
};

__device__ __forceinline__ float BlockSum(const Summed& x, int64_t begin,
                                          int64_t n) {
  const float* const a = x.a + begin;
  if (x.b == nullptr) {
    return SumOfLanes(LaneSum(n, [&](int64_t i) { return a[i]; }));
  }
  const float* const b = x.b + begin;
  return SumOfLanes(LaneSum(n, [&](int64_t i) { return a[i] * b[i]; }));
}

// y[r] of row r of `width` elements, the last of which may be short.
__global__ void SumRowsKernel(Summed x, int64_t size, int64_t width,
                              int64_t rows, float scale, float* y) {
  for (int64_t r = FirstRow(); r < RowsOfWholeWarps(rows); r += RowStep()) {
    const int64_t begin = r * width;
    const int64_t n =
        r < rows ? (size - begin < width ? size - begin : width) : 0;
    const float sum = BlockSum(x, r < rows ? begin : 0, n);
    if (Lane() == 0 && r < rows) {
      y[r] = scale * sum;
    }
  }
}

// x[0, n) by halves: the first half is the longer one. Goes through the leaves
// in order and adds up what is complete.
__device__ float SumByHalves(const float* x, int64_t n) {
  constexpr int kLevelsMax = 64;
  float waiting[kLevelsMax] = {};
  int num_waiting = 0;
  for (int64_t leaf = 0; leaf < n; ++leaf) {
    int64_t begin = 0;
    int64_t size = n;
    // Halves of which this leaf is the end.
    int completed = 0;
    while (size > 1) {
      const int64_t half = (size + 1) / 2;
      if (leaf - begin < half) {
        size = half;
        completed = 0;
      } else {
        begin += half;
        size -= half;
        ++completed;
      }
    }
    float sum = x[leaf];
    for (; completed > 0; --completed) {
      sum = waiting[--num_waiting] + sum;
    }
    waiting[num_waiting++] = sum;
  }
  return waiting[0];
}

// y = scale * (x[0, n) by halves), n > 0. One block: each thread sums a part
// of the tree, then they meet.
__global__ void SumByHalvesKernel(const float* x, int64_t n, float scale,
                                  float* y) {
  __shared__ float sums[kThreads];
  int levels = 0;
  while (levels < 8 && (int64_t{2} << levels) <= n) {
    ++levels;
  }
  static_assert(kThreads == 1 << 8);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < 1 << levels) {
    int64_t begin = 0;
    int64_t size = n;
    for (int level = levels - 1; level >= 0; --level) {
      const int64_t half = (size + 1) / 2;
      if (((thread >> level) & 1) == 0) {
        size = half;
      } else {
        begin += half;
        size -= half;
      }
    }
    sums[thread] = SumByHalves(x + begin, size);
  }
  for (int count = (1 << levels) / 2; count > 0; count /= 2) {
    __syncthreads();
    const float sum =
        thread < count ? sums[2 * thread] + sums[2 * thread + 1] : 0.0F;
    __syncthreads();
    if (thread < count) {
      sums[thread] = sum;
    }
  }
  if (thread == 0) {
    *y = scale * sums[0];
  }
}

__global__ void FillKernel(float value, int64_t n, float* y) {
  for (int64_t i = FirstItem(); i < n; i += ItemStep()) {
    y[i] = value;
  }
}

int Sum(const ShoalCudaArgs& args, const Summed& x, float scale,
        ShoalCudaStream& stream) {
  const int64_t n = NumElements(args.inputs[0]);
  const int64_t blocks = CeilDiv(n, kBlock);
  float* const y = As<float>(args.outputs[0]);
  if (blocks <= 1) {
    return Launch(stream, 1, kThreads, &SumRowsKernel, x, n, kBlock, 1, scale,
                  y);
  }
  auto* const sums = static_cast<float*>(args.workspace);
  SHOAL_CUDA_TRY(Launch(stream, Blocks(blocks, kRowsPerBlock), kThreads,
                        &SumRowsKernel, x, n, kBlock, blocks, 1.0F, sums));
  return Launch(stream, 1, kThreads, &SumByHalvesKernel, sums, blocks, scale,
                y);
}

// sums[block, n] of blocks of rows of x[m, n].
__global__ void ColumnBlocksKernel(const float* x, int64_t m, int64_t n,
                                   int64_t size, float* sums) {
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    const RowColumn at = Split(i, n);
    const int64_t begin = at.row * kRowBlock;
    const int64_t rows = m - begin < kRowBlock ? m - begin : kRowBlock;
    const float* const column = x + begin * n + at.column;
    float acc = 0.0F;
#pragma unroll 8
    for (int64_t r = 0; r < rows; ++r) {
      acc += column[r * n];
    }
    sums[i] = acc;
  }
}

constexpr int kTreeColumns = 32;
constexpr int kTreeRows = kThreads / kTreeColumns;

// The binary tree over blocks of rows, in place: whole subtrees level by level,
// then those that a counter of the blocks would have left.
__global__ void ColumnTreeKernel(float* sums, int64_t blocks, int64_t n,
                                 float* y) {
  const int64_t row = threadIdx.x / kTreeColumns;
  for (int64_t first = int64_t{blockIdx.x} * kTreeColumns; first < n;
       first += int64_t{gridDim.x} * kTreeColumns) {
    const int64_t column = first + threadIdx.x % kTreeColumns;
    float* const at = sums + column;
    for (int64_t stride = 1; 2 * stride <= blocks; stride *= 2) {
      for (int64_t b = row * 2 * stride; b + 2 * stride <= blocks;
           b += kTreeRows * 2 * stride) {
        if (column < n) {
          at[b * n] = at[b * n] + at[(b + stride) * n];
        }
      }
      __syncthreads();
    }
    if (row == 0 && column < n) {
      float sum = 0.0F;
      for (int level = 0; (blocks >> level) != 0; ++level) {
        if (((blocks >> level) & 1) != 0) {
          sum = at[((blocks >> (level + 1)) << (level + 1)) * n] + sum;
        }
      }
      y[column] = sum;
    }
  }
}

}  // namespace

int ReduceSum(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  return Sum(args, {As<const float>(args.inputs[0]), nullptr}, 1.0F, stream);
}

int64_t ReduceSumWorkspace(const ShoalCudaArgs& args) {
  return 4 * CeilDiv(NumElements(args.inputs[0]), kBlock);
}

int Dot(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  return Sum(args,
             {As<const float>(args.inputs[0]), As<const float>(args.inputs[1])},
             1.0F, stream);
}

int64_t DotWorkspace(const ShoalCudaArgs& args) {
  return ReduceSumWorkspace(args);
}

int L2Penalty(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const auto* const x = As<const float>(args.inputs[0]);
  return Sum(args, {x, x}, 0.5F, stream);
}

int64_t L2PenaltyWorkspace(const ShoalCudaArgs& args) {
  return ReduceSumWorkspace(args);
}

int ColumnSum(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t n = Last(args.inputs[0]);
  const int64_t m = NumRows(args.inputs[0]);
  float* const y = As<float>(args.outputs[0]);
  const int64_t blocks = CeilDiv(m, kRowBlock);
  if (blocks == 0) {
    return Launch(stream, Blocks(n), kThreads, &FillKernel, 0.0F, n, y);
  }
  auto* const sums = static_cast<float*>(args.workspace);
  SHOAL_CUDA_TRY(Launch(stream, Blocks(blocks * n), kThreads,
                        &ColumnBlocksKernel, As<const float>(args.inputs[0]), m,
                        n, blocks * n, sums));
  return Launch(stream, Blocks(n, kTreeColumns), kThreads, &ColumnTreeKernel,
                sums, blocks, n, y);
}

int64_t ColumnSumWorkspace(const ShoalCudaArgs& args) {
  return 4 * CeilDiv(NumRows(args.inputs[0]), kRowBlock) * Last(args.inputs[0]);
}

int RowSum(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t rows = args.inputs[0].dims[0];
  const int64_t width = args.inputs[0].dims[1];
  return Launch(stream, Blocks(rows, kRowsPerBlock), kThreads, &SumRowsKernel,
                Summed{As<const float>(args.inputs[0]), nullptr}, rows * width,
                width, rows, 1.0F, As<float>(args.outputs[0]));
}

}  // namespace shoal::cuda
