#include <cuda_runtime.h>

#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/primitives.h"

namespace shoal::cuda {

int64_t SortPairsBytes(int64_t count) {
  size_t bytes = 0;
  // Asks for the size; fails only where there is no GPU to sort on, which the
  // sort itself reports.
  const cudaError_t error = cub::DeviceRadixSort::SortPairs(
      nullptr, bytes, static_cast<const uint32_t*>(nullptr),
      static_cast<uint32_t*>(nullptr), static_cast<const int32_t*>(nullptr),
      static_cast<int32_t*>(nullptr), count);
  return error == cudaSuccess ? static_cast<int64_t>(bytes) : 0;
}

int SortPairs(CUstream_st* stream, const Pairs& pairs, void* temporary,
              int64_t temporary_bytes) {
  if (pairs.count == 0) {
    return 0;
  }
  auto bytes = static_cast<size_t>(temporary_bytes);
  return cub::DeviceRadixSort::SortPairs(
      temporary, bytes, pairs.keys, pairs.sorted_keys, pairs.values,
      pairs.sorted_values, pairs.count, 0, pairs.num_bits, stream);
}

}  // namespace shoal::cuda
