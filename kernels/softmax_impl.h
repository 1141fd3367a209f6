#ifndef SHOAL_KERNELS_SOFTMAX_IMPL_H_
#define SHOAL_KERNELS_SOFTMAX_IMPL_H_

#include <cstdint>

#include "kernels/functors/math.h"
#include "kernels/lanes_impl.h"

// Included by loops_impl.h alone.
namespace shoal {
namespace {

// At least one class. A NaN may be passed over: the exponentials find it.
SHOAL_HOST_DEVICE float LargestLogit(const float* z, int64_t classes) {
  float largest = z[0];
  for (int64_t c = 1; c < classes; ++c) {
    largest = z[c] > largest ? z[c] : largest;
  }
  return largest;
}

// The sum of e^(z - largest).
SHOAL_HOST_DEVICE float SumOfExp(const float* z, int64_t classes,
                                 float largest) {
  Lanes acc;
  Clear(acc);
  int64_t c = 0;
  for (; c + kLanes <= classes; c += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      acc.lane[l] += functors::Exp(z[c + l] - largest);
    }
  }
  for (int64_t l = 0; c + l < classes; ++l) {
    acc.lane[l] += functors::Exp(z[c + l] - largest);
  }
  return SumOfLanes(acc);
}

void SoftmaxRows(const float* logits, int64_t classes, int64_t begin,
                 int64_t end, float* y) {
  if (classes == 0) {
    return;
  }
  for (int64_t r = begin; r < end; ++r) {
    const float* const z = logits + r * classes;
    float* const out = y + r * classes;
    const float largest = LargestLogit(z, classes);
    const float sum = SumOfExp(z, classes, largest);
    SHOAL_INDEPENDENT_ITERATIONS
    for (int64_t c = 0; c < classes; ++c) {
      out[c] = functors::Exp(z[c] - largest) / sum;
    }
  }
}

void SoftmaxLossRows(const float* logits, const float* labels, int64_t classes,
                     int64_t begin, int64_t end, float* loss) {
  for (int64_t r = begin; r < end; ++r) {
    const float* const z = logits + r * classes;
    const float largest = LargestLogit(z, classes);
    const float log_sum = functors::Log(SumOfExp(z, classes, largest));
    loss[r] = log_sum + (largest - z[static_cast<int64_t>(labels[r])]);
  }
}

void SoftmaxLossGradRows(const float* logits, const float* labels,
                         const float* dloss, int64_t classes, int64_t begin,
                         int64_t end, float* dlogits) {
  for (int64_t r = begin; r < end; ++r) {
    const float* const z = logits + r * classes;
    float* const out = dlogits + r * classes;
    const float largest = LargestLogit(z, classes);
    const float sum = SumOfExp(z, classes, largest);
    const auto label = static_cast<int64_t>(labels[r]);
    const float slope = dloss[r];
    SHOAL_INDEPENDENT_ITERATIONS
    for (int64_t c = 0; c < classes; ++c) {
      const float target = c == label ? 1.0F : 0.0F;
      out[c] = (functors::Exp(z[c] - largest) / sum - target) * slope;
    }
  }
}

}  // namespace
}  // namespace shoal

#endif  // SHOAL_KERNELS_SOFTMAX_IMPL_H_
