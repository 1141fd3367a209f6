#ifndef SHOAL_KERNELS_FUNCTORS_LOSS_H_
#define SHOAL_KERNELS_FUNCTORS_LOSS_H_

#include "kernels/functors/host_device.h"
#include "kernels/functors/math.h"

namespace shoal::functors {

// -y log s(z) - (1 - y) log(1 - s(z)) with s the sigmoid, written so that no
// logit overflows.
struct SigmoidCrossEntropyFn {
  SHOAL_HOST_DEVICE float operator()(float z, float label) const {
    const float positive = z < 0.0F ? 0.0F : z;
    return (positive - z * label) + Log1p(Exp(-Abs(z)));
  }
};

struct SigmoidCrossEntropyGradFn {
  SHOAL_HOST_DEVICE float operator()(float z, float label, float dloss) const {
    return (Sigmoid(z) - label) * dloss;
  }
};

struct SquaredErrorFn {
  SHOAL_HOST_DEVICE float operator()(float prediction, float label) const {
    const float error = prediction - label;
    return error * error;
  }
};

struct SquaredErrorGradFn {
  SHOAL_HOST_DEVICE float operator()(float prediction, float label,
                                     float dloss) const {
    return 2.0F * (prediction - label) * dloss;
  }
};

}  // namespace shoal::functors

#endif  // SHOAL_KERNELS_FUNCTORS_LOSS_H_
