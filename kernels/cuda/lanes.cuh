#ifndef SHOAL_KERNELS_CUDA_LANES_CUH_
#define SHOAL_KERNELS_CUDA_LANES_CUH_

#include "kernels/cuda/runtime.cuh"

// Reductions over the 16 lanes of kernels/lanes_impl.h: a lane is a thread, and
// half a warp is a row. All threads of a warp must take part.
namespace shoal::cuda {

inline constexpr int kLanes = 16;
inline constexpr unsigned kWholeWarp = 0xffffffffU;
// Rows that a block works on side by side.
inline constexpr int kRowsPerBlock = kThreads / kLanes;

__device__ __forceinline__ int64_t FirstRow() {
  return int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kLanes;
}
__device__ __forceinline__ int64_t RowStep() {
  return int64_t{gridDim.x} * kRowsPerBlock;
}
// Rows up to which a loop must go so that whole warps stay in it.
__device__ __forceinline__ int64_t RowsOfWholeWarps(int64_t rows) {
  return CeilDiv(rows, 2) * 2;
}
__device__ __forceinline__ int Lane() {
  return static_cast<int>(threadIdx.x) % kLanes;
}

// The tree by halves; every lane gets the sum.
__device__ __forceinline__ float SumOfLanes(float acc) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    acc = acc + __shfl_xor_sync(kWholeWarp, acc, width, kLanes);
  }
  return acc;
}

// This lane's part of the sum of term(i) for i in [0, n). Loads go ahead of the
// additions, which are one chain.
template <typename Term>
__device__ __forceinline__ float LaneSum(int64_t n, const Term& term) {
  constexpr int kAhead = 8;
  float acc = 0.0F;
  int64_t i = Lane();
  for (; i + (kAhead - 1) * kLanes < n; i += kAhead * kLanes) {
    float terms[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      terms[u] = term(i + u * kLanes);
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      acc += terms[u];
    }
  }
  for (; i < n; i += kLanes) {
    acc += term(i);
  }
  return acc;
}

}  // namespace shoal::cuda

#endif  // SHOAL_KERNELS_CUDA_LANES_CUH_
