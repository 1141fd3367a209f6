#ifndef SHOAL_PS_OPTIMIZERS_UPDATE_COUNT_H_
#define SHOAL_PS_OPTIMIZERS_UPDATE_COUNT_H_

#include <cstdint>
#include <cstring>

// The time that the moments of Adam and its kin are corrected by.

namespace shoal::ps {

// base^n by squaring, n >= 1: plain multiplications, so that it has the same
// bits everywhere, which std::pow() promises nobody.
[[gnu::always_inline]] inline double WholePower(double base, uint64_t n) {
  double power = 1;
  for (; n > 0; n >>= 1) {
    power = (n & 1) != 0 ? power * base : power;
    base *= base;
  }
  return power;
}

// The number of a row's updates. It is kept as bits, not as a float: it stays
// exact however long a job runs.
[[gnu::always_inline]] inline uint64_t UpdateCount(const float* at) {
  uint32_t count;
  std::memcpy(&count, at, sizeof(count));
  return count;
}

// Counts an update of a row. The time of it: `step`, or if that is 0 the row's
// own number of updates, from 1.
[[gnu::always_inline]] inline uint64_t CountUpdate(float* at, uint64_t step) {
  const auto count = static_cast<uint32_t>(UpdateCount(at) + 1);
  std::memcpy(at, &count, sizeof(count));
  return step > 0 ? step : count;
}

}  // namespace shoal::ps

#endif  // SHOAL_PS_OPTIMIZERS_UPDATE_COUNT_H_
