#ifndef SHOAL_KERNELS_FUNCTORS_DROPOUT_H_
#define SHOAL_KERNELS_FUNCTORS_DROPOUT_H_

#include <cstdint>

#include "kernels/functors/host_device.h"

namespace shoal::functors {

// base/random.h's Mix64 and HashKey again, with inlining forced; dropout_test
// checks that they are equal.
SHOAL_HOST_DEVICE uint64_t MixBits(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// x / (1 - rate) where the hash of (seed, index), as a number of 24 bits in
// [0, 1), is at least `rate`, else 0. The mask is a function of seed and index,
// so the gradient is the same functor.
struct DropoutFn {
  SHOAL_HOST_DEVICE float operator()(float x, uint64_t seed, uint64_t index,
                                     float rate, float scale) const {
    constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;
    const uint64_t hash = MixBits(seed ^ (MixBits(index + kGolden) + kGolden +
                                          (seed << 6) + (seed >> 2)));
    const auto top = static_cast<int32_t>(hash >> 40);
    const float uniform = static_cast<float>(top) * 0x1.0p-24F;
    return uniform < rate ? 0.0F : x * scale;
  }
};

}  // namespace shoal::functors

#endif  // SHOAL_KERNELS_FUNCTORS_DROPOUT_H_
