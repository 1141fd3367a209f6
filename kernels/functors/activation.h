#ifndef SHOAL_KERNELS_FUNCTORS_ACTIVATION_H_
#define SHOAL_KERNELS_FUNCTORS_ACTIVATION_H_

#include "kernels/functors/host_device.h"
#include "kernels/functors/math.h"

namespace shoal::functors {

// NaN stays NaN.
struct ReluFn {
  SHOAL_HOST_DEVICE float operator()(float x) const {
    return x < 0.0F ? 0.0F : x;
  }
};

// Gradients take the output, which is kept anyway. At 0 the slope is 0.
struct ReluGradFn {
  SHOAL_HOST_DEVICE float operator()(float y, float dy) const {
    return y > 0.0F ? dy : 0.0F;
  }
};

struct SigmoidFn {
  SHOAL_HOST_DEVICE float operator()(float x) const { return Sigmoid(x); }
};

struct SigmoidGradFn {
  SHOAL_HOST_DEVICE float operator()(float y, float dy) const {
    return dy * (y * (1.0F - y));
  }
};

struct TanhFn {
  SHOAL_HOST_DEVICE float operator()(float x) const { return Tanh(x); }
};

struct TanhGradFn {
  SHOAL_HOST_DEVICE float operator()(float y, float dy) const {
    return dy * (1.0F - y * y);
  }
};

}  // namespace shoal::functors

#endif  // SHOAL_KERNELS_FUNCTORS_ACTIVATION_H_
