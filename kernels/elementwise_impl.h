#ifndef SHOAL_KERNELS_ELEMENTWISE_IMPL_H_
#define SHOAL_KERNELS_ELEMENTWISE_IMPL_H_

#include <cstdint>

#include "kernels/functors/activation.h"
#include "kernels/functors/arithmetic.h"
#include "kernels/functors/dropout.h"
#include "kernels/functors/loss.h"
#include "kernels/lanes_impl.h"

// Included by loops_impl.h alone.
namespace shoal {
namespace {

template <typename Fn, int kInputs, bool kUniform>
SHOAL_HOST_DEVICE auto Apply(const float* const* in, float uniform, int64_t i) {
  const Fn fn;
  if constexpr (kInputs == 1 && kUniform) {
    return fn(in[0][i], uniform);
  } else if constexpr (kInputs == 1) {
    return fn(in[0][i]);
  } else if constexpr (kInputs == 2) {
    static_assert(!kUniform);
    return fn(in[0][i], in[1][i]);
  } else {
    static_assert(kInputs == 3 && !kUniform);
    return fn(in[0][i], in[1][i], in[2][i]);
  }
}

template <typename Fn, int kInputs, bool kUniform, int kOutputs>
void ElementwiseRange(const float* const* inputs, float uniform,
                      float* const* outputs, int64_t begin, int64_t end) {
  const float* in[kInputs];
  for (int i = 0; i < kInputs; ++i) {
    in[i] = inputs[i];
  }
  if constexpr (kOutputs == 1) {
    float* const y = outputs[0];
    // An output is at the same place as an input or apart from it, so no
    // element depends on an earlier one.
    SHOAL_INDEPENDENT_ITERATIONS
    for (int64_t i = begin; i < end; ++i) {
      y[i] = Apply<Fn, kInputs, kUniform>(in, uniform, i);
    }
  } else {
    float* const first = outputs[0];
    float* const second = outputs[1];
    SHOAL_INDEPENDENT_ITERATIONS
    for (int64_t i = begin; i < end; ++i) {
      const Pair<float> y = Apply<Fn, kInputs, kUniform>(in, uniform, i);
      first[i] = y.first;
      second[i] = y.second;
    }
  }
}

// y may be inputs[0].
void AddNRange(const float* const* inputs, int64_t count, int64_t n, float* y) {
  const float* const first = inputs[0];
  SHOAL_INDEPENDENT_ITERATIONS
  for (int64_t i = 0; i < n; ++i) {
    y[i] = first[i];
  }
  for (int64_t k = 1; k < count; ++k) {
    const float* const x = inputs[k];
    SHOAL_INDEPENDENT_ITERATIONS
    for (int64_t i = 0; i < n; ++i) {
      y[i] += x[i];
    }
  }
}

void BiasAddRows(const float* x, const float* bias, int64_t rows, int64_t n,
                 float* y) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* const from = x + r * n;
    float* const to = y + r * n;
    SHOAL_INDEPENDENT_ITERATIONS
    for (int64_t i = 0; i < n; ++i) {
      to[i] = from[i] + bias[i];
    }
  }
}

void DropoutRange(const float* x, uint64_t seed, float rate, float scale,
                  int64_t begin, int64_t end, float* y) {
  const functors::DropoutFn fn;
  SHOAL_INDEPENDENT_ITERATIONS
  for (int64_t i = begin; i < end; ++i) {
    y[i] = fn(x[i], seed, static_cast<uint64_t>(i), rate, scale);
  }
}

}  // namespace
}  // namespace shoal

#endif  // SHOAL_KERNELS_ELEMENTWISE_IMPL_H_
