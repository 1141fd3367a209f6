#ifndef SHOAL_KERNELS_CUDA_PRIMITIVES_H_
#define SHOAL_KERNELS_CUDA_PRIMITIVES_H_

#include <cstdint>

struct CUstream_st;

namespace shoal::cuda {

// What CUB does for us, behind functions that tests can write without it.

struct Pairs {
  const uint32_t* keys;
  const int32_t* values;
  uint32_t* sorted_keys;
  int32_t* sorted_values;
  int64_t count;
  int num_bits;  // of the keys that count; the others are 0
};

// Bytes of temporary memory for SortPairs() of up to `count`.
int64_t SortPairsBytes(int64_t count);

// Enqueues a stable sort by rising keys. Returns 0 or an error of error_text().
int SortPairs(CUstream_st* stream, const Pairs& pairs, void* temporary,
              int64_t temporary_bytes);

}  // namespace shoal::cuda

#endif  // SHOAL_KERNELS_CUDA_PRIMITIVES_H_
