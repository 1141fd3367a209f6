#ifndef SHOAL_KERNELS_FUNCTORS_ARITHMETIC_H_
#define SHOAL_KERNELS_FUNCTORS_ARITHMETIC_H_

#include "kernels/functors/host_device.h"

namespace shoal::functors {

struct CopyFn {
  SHOAL_HOST_DEVICE float operator()(float x) const { return x; }
};

struct AddFn {
  SHOAL_HOST_DEVICE float operator()(float a, float b) const { return a + b; }
};

struct SubFn {
  SHOAL_HOST_DEVICE float operator()(float a, float b) const { return a - b; }
};

struct MulFn {
  SHOAL_HOST_DEVICE float operator()(float a, float b) const { return a * b; }
};

// The last argument is the same for all elements.
struct ScaleFn {
  SHOAL_HOST_DEVICE float operator()(float x, float alpha) const {
    return alpha * x;
  }
};

struct SquareFn {
  SHOAL_HOST_DEVICE float operator()(float x) const { return x * x; }
};

struct SquareGradFn {
  SHOAL_HOST_DEVICE float operator()(float x, float dy) const {
    return 2.0F * x * dy;
  }
};

// DCN v2 (Wang et al., 2021), eq. 1: x0 * (W xl + bias) + xl, with z the
// bracket.
struct CrossCombineFn {
  SHOAL_HOST_DEVICE float operator()(float x0, float z, float xl) const {
    return x0 * z + xl;
  }
};

// {dx0, dz}; dxl is dy.
struct CrossCombineGradFn {
  SHOAL_HOST_DEVICE Pair<float> operator()(float x0, float z, float dy) const {
    return {z * dy, x0 * dy};
  }
};

}  // namespace shoal::functors

#endif  // SHOAL_KERNELS_FUNCTORS_ARITHMETIC_H_
