#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.cuh"
#include "kernels/functors/activation.h"
#include "kernels/functors/arithmetic.h"
#include "kernels/functors/dropout.h"
#include "kernels/functors/loss.h"

namespace shoal::cuda {
namespace {

// Up to 3 inputs and 2 outputs.
struct Streams {
  const float* in[3];
  float* out[2];
  // The argument that all elements share, or where it is.
  float uniform;
  const float* uniform_at;
};

enum class Uniform { kNone, kFloat, kScalar };

template <typename Fn, int kInputs, bool kUniform>
__device__ __forceinline__ auto Apply(const float (&x)[kInputs],
                                      float uniform) {
  const Fn fn;
  if constexpr (kInputs == 1 && kUniform) {
    return fn(x[0], uniform);
  } else if constexpr (kInputs == 1) {
    return fn(x[0]);
  } else if constexpr (kInputs == 2) {
    static_assert(!kUniform);
    return fn(x[0], x[1]);
  } else {
    static_assert(kInputs == 3 && !kUniform);
    return fn(x[0], x[1], x[2]);
  }
}

// Elements [i, i + kWidth) at once. Outputs may be inputs.
template <typename Fn, int kInputs, bool kUniform, int kOutputs, int kWidth>
__device__ __forceinline__ void ApplyAt(const Streams& s, float uniform,
                                        int64_t i) {
  struct alignas(kWidth * sizeof(float)) Group {
    float at[kWidth];
  };
  Group in[kInputs];
#pragma unroll
  for (int k = 0; k < kInputs; ++k) {
    in[k] = *reinterpret_cast<const Group*>(s.in[k] + i);
  }
  Group out[kOutputs];
#pragma unroll
  for (int l = 0; l < kWidth; ++l) {
    float x[kInputs];
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      x[k] = in[k].at[l];
    }
    const auto y = Apply<Fn, kInputs, kUniform>(x, uniform);
    if constexpr (kOutputs == 1) {
      out[0].at[l] = y;
    } else {
      out[0].at[l] = y.first;
      out[1].at[l] = y.second;
    }
  }
#pragma unroll
  for (int k = 0; k < kOutputs; ++k) {
    *reinterpret_cast<Group*>(s.out[k] + i) = out[k];
  }
}

// The first `grouped` elements are whole groups of 4 that lie aligned.
template <typename Fn, int kInputs, Uniform kUniform, int kOutputs>
__global__ void ElementwiseKernel(Streams s, int64_t grouped, int64_t n) {
  constexpr bool kHasUniform = kUniform != Uniform::kNone;
  const float uniform =
      kUniform == Uniform::kScalar ? *s.uniform_at : s.uniform;
  for (int64_t i = FirstItem(); i < grouped / 4; i += ItemStep()) {
    ApplyAt<Fn, kInputs, kHasUniform, kOutputs, 4>(s, uniform, 4 * i);
  }
  for (int64_t i = grouped + FirstItem(); i < n; i += ItemStep()) {
    ApplyAt<Fn, kInputs, kHasUniform, kOutputs, 1>(s, uniform, i);
  }
}

template <typename Fn, int kInputs, Uniform kUniform, int kOutputs>
int Elementwise(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  Streams s = {};
  uintptr_t addresses = 0;
  for (int i = 0; i < kInputs; ++i) {
    s.in[i] = As<const float>(args.inputs[i]);
    addresses |= reinterpret_cast<uintptr_t>(s.in[i]);
  }
  for (int i = 0; i < kOutputs; ++i) {
    s.out[i] = As<float>(args.outputs[i]);
    addresses |= reinterpret_cast<uintptr_t>(s.out[i]);
  }
  if constexpr (kUniform == Uniform::kFloat) {
    s.uniform = static_cast<float>(args.floats[0]);
  } else if constexpr (kUniform == Uniform::kScalar) {
    s.uniform_at = As<const float>(args.inputs[kInputs]);
  }
  const int64_t n = NumElements(args.outputs[0]);
  const int64_t grouped = addresses % 16 == 0 ? n / 4 * 4 : 0;
  return Launch(stream, Blocks(grouped / 4 + (n - grouped)), kThreads,
                &ElementwiseKernel<Fn, kInputs, kUniform, kOutputs>, s, grouped,
                n);
}

constexpr int kTermsMax = 64;

struct Terms {
  const float* x[kTermsMax];
  int count;
};

// y = x[0] + x[1] + ..., in order; y may be any of them.
__global__ void AddNKernel(Terms terms, int64_t n, float* y) {
  for (int64_t i = FirstItem(); i < n; i += ItemStep()) {
    float sum = terms.x[0][i];
#pragma unroll 4
    for (int k = 1; k < terms.count; ++k) {
      sum += terms.x[k][i];
    }
    y[i] = sum;
  }
}

__global__ void BiasAddKernel(const float* x, const float* bias, int64_t size,
                              int64_t n, float* y) {
  for (int64_t i = FirstItem(); i < size; i += ItemStep()) {
    y[i] = x[i] + bias[Split(i, n).column];
  }
}

__global__ void DropoutKernel(const float* x, const uint64_t* seed_at,
                              float rate, float scale, int64_t n, float* y) {
  const functors::DropoutFn fn;
  const uint64_t seed = *seed_at;
  for (int64_t i = FirstItem(); i < n; i += ItemStep()) {
    y[i] = fn(x[i], seed, static_cast<uint64_t>(i), rate, scale);
  }
}

}  // namespace

#define SHOAL_ELEMENTWISE_KIND(op, fn, inputs, uniform, outputs)              \
  int op(const ShoalCudaArgs& args, ShoalCudaStream& stream) {                \
    return Elementwise<functors::fn, inputs, uniform, outputs>(args, stream); \
  }
#define SHOAL_ELEMENTWISE(op, fn, inputs, outputs) \
  SHOAL_ELEMENTWISE_KIND(op, fn, inputs, Uniform::kNone, outputs)
#define SHOAL_ELEMENTWISE_FLOAT(op, fn, inputs) \
  SHOAL_ELEMENTWISE_KIND(op, fn, inputs, Uniform::kFloat, 1)
#define SHOAL_ELEMENTWISE_SCALAR(op, fn, inputs) \
  SHOAL_ELEMENTWISE_KIND(op, fn, inputs, Uniform::kScalar, 1)
#include "kernels/elementwise_ops.inc"
#undef SHOAL_ELEMENTWISE
#undef SHOAL_ELEMENTWISE_FLOAT
#undef SHOAL_ELEMENTWISE_SCALAR
#undef SHOAL_ELEMENTWISE_KIND

// More terms than a kernel takes: the sum waits in the workspace, since the
// output may be a term that is still to come.
int AddN(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t n = NumElements(args.outputs[0]);
  Terms terms = {};
  for (int i = 0; i < args.num_inputs; ++i) {
    terms.x[terms.count++] = As<const float>(args.inputs[i]);
    const bool last = i + 1 == args.num_inputs;
    if (terms.count == kTermsMax || last) {
      float* const y = last ? As<float>(args.outputs[0])
                            : static_cast<float*>(args.workspace);
      SHOAL_CUDA_TRY(
          Launch(stream, Blocks(n), kThreads, &AddNKernel, terms, n, y));
      terms.x[0] = y;
      terms.count = 1;
    }
  }
  return 0;
}

int64_t AddNWorkspace(const ShoalCudaArgs& args) {
  return args.num_inputs > kTermsMax ? 4 * NumElements(args.outputs[0]) : 0;
}

int BiasAdd(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t size = NumElements(args.outputs[0]);
  return Launch(stream, Blocks(size), kThreads, &BiasAddKernel,
                As<const float>(args.inputs[0]),
                As<const float>(args.inputs[1]), size, Last(args.outputs[0]),
                As<float>(args.outputs[0]));
}

int Dropout(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const int64_t n = NumElements(args.outputs[0]);
  const auto rate = static_cast<float>(args.floats[0]);
  return Launch(stream, Blocks(n), kThreads, &DropoutKernel,
                As<const float>(args.inputs[0]),
                As<const uint64_t>(args.inputs[1]), rate, 1.0F / (1.0F - rate),
                n, As<float>(args.outputs[0]));
}

int DropoutGrad(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  return Dropout(args, stream);
}

}  // namespace shoal::cuda
