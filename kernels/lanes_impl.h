#ifndef SHOAL_KERNELS_LANES_IMPL_H_
#define SHOAL_KERNELS_LANES_IMPL_H_

#include <cstdint>

#include "kernels/functors/host_device.h"

// Says of the next loop that no iteration needs what an earlier one stored.
#if defined(__clang__)
#define SHOAL_INDEPENDENT_ITERATIONS \
  _Pragma("clang loop vectorize(assume_safety)")
#else
#define SHOAL_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#endif

// 16 accumulators that an instruction set may keep in 1, 2, 4 or 16 registers
// with the same result. Included by loops_impl.h alone.
namespace shoal {
namespace {

constexpr int kLanes = 16;

struct Lanes {
  float lane[kLanes];
};

// The same as a type of the compiler's, where it would not keep an array in
// registers. Never passed by value: how depends on the instruction set.
using LaneVector __attribute__((vector_size(kLanes * sizeof(float)))) = float;

SHOAL_HOST_DEVICE int64_t Smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

SHOAL_HOST_DEVICE void Clear(Lanes& acc) {
  for (int l = 0; l < kLanes; ++l) {
    acc.lane[l] = 0.0F;
  }
}

// The one tree that ends every reduction over lanes: halves are added.
SHOAL_HOST_DEVICE float SumOfLanes(Lanes acc) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) {
      acc.lane[l] = acc.lane[l] + acc.lane[l + width];
    }
  }
  return acc.lane[0];
}

// Calls body(first dimension, count) so that inner loops have a count that the
// compiler knows: 16s, then an 8, then what is left.
template <int kWidth>
struct Width {
  SHOAL_HOST_DEVICE constexpr int64_t count() const { return kWidth; }
};
struct AnyWidth {
  int64_t width;
  SHOAL_HOST_DEVICE int64_t count() const { return width; }
};

// to[i] += weight * from[i]. Short rows of a known size are unrolled before the
// compiler looks for vectors, so these are spelled out.
template <int kWidth>
SHOAL_HOST_DEVICE void AddScaled(Width<kWidth> /*width*/, float weight,
                                 const float* from, float* to) {
  static_assert(kWidth == 8 || kWidth % kLanes == 0);
  constexpr int kPart = kWidth < kLanes ? kWidth : kLanes;
  using Part __attribute__((vector_size(kPart * sizeof(float)))) = float;
#pragma GCC unroll 4
  for (int i = 0; i < kWidth; i += kPart) {
    Part x;
    Part sum;
    __builtin_memcpy(&x, from + i, sizeof(x));
    __builtin_memcpy(&sum, to + i, sizeof(sum));
    sum += weight * x;
    __builtin_memcpy(to + i, &sum, sizeof(sum));
  }
}

SHOAL_HOST_DEVICE void AddScaled(AnyWidth width, float weight,
                                 const float* from, float* to) {
  const int64_t n = width.count();
  SHOAL_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < n; ++i) {
    to[i] += weight * from[i];
  }
}

template <typename Body>
SHOAL_HOST_DEVICE void ForChunks(int64_t dim, const Body& body) {
  int64_t k = 0;
  for (; k + kLanes <= dim; k += kLanes) {
    body(k, Width<kLanes>{});
  }
  if (k + 8 <= dim) {
    body(k, Width<8>{});
    k += 8;
  }
  if (k < dim) {
    body(k, AnyWidth{dim - k});
  }
}

}  // namespace
}  // namespace shoal

#endif  // SHOAL_KERNELS_LANES_IMPL_H_
