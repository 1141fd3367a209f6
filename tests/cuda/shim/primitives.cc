// What the plug-in has from CUB and from cuBLASLt, written plainly.
#include "kernels/cuda/primitives.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cuda/blas.h"
#include "tests/cuda/shim/cuda_runtime.h"

namespace shoal::cuda {

// Not what is needed, so that layouts with temporary memory are tried out.
int64_t SortPairsBytes(int64_t count) { return 64 + 3 * count; }

int SortPairs(CUstream_st* stream, const Pairs& pairs, void* temporary,
              int64_t temporary_bytes) {
  if (temporary_bytes < SortPairsBytes(pairs.count)) {
    return cudaErrorInvalidValue;
  }
  return shim::Enqueue(stream, [=] {
    // CUB may write all of it.
    std::fill_n(static_cast<char*>(temporary), temporary_bytes, '\xff');
    const auto count = static_cast<size_t>(pairs.count);
    const uint32_t mask = pairs.num_bits >= 32
                              ? 0xffffffffU
                              : (uint32_t{1} << pairs.num_bits) - 1;
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return (pairs.keys[a] & mask) < (pairs.keys[b] & mask);
    });
    for (size_t i = 0; i < count; ++i) {
      pairs.sorted_keys[i] = pairs.keys[order[i]];
      pairs.sorted_values[i] = pairs.values[order[i]];
    }
    return cudaSuccess;
  });
}

struct Blas {};

int CreateBlas(Blas** blas) {
  *blas = new Blas;
  return 0;
}

void DestroyBlas(Blas* blas) { delete blas; }

int Multiply(Blas& /*blas*/, CUstream_st* stream, const Product& p) {
  return shim::Enqueue(stream, [p] {
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        float sum = 0.0F;
        for (int64_t q = 0; q < p.k; ++q) {
          const float a = p.transpose_a ? p.a[q * p.m + i] : p.a[i * p.k + q];
          const float b = p.transpose_b ? p.b[j * p.k + q] : p.b[q * p.n + j];
          sum = std::fma(a, b, sum);
        }
        sum += p.bias == nullptr ? 0.0F : p.bias[j];
        p.c[i * p.n + j] = p.relu && sum < 0.0F ? 0.0F : sum;
      }
    }
    return cudaSuccess;
  });
}

const char* BlasErrorText(int /*status*/) { return "no cuBLASLt here"; }

}  // namespace shoal::cuda
