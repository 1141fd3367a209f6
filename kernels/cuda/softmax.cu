#include "kernels/cuda/lanes.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/runtime.cuh"
#include "kernels/functors/math.h"

namespace shoal::cuda {
namespace {

__device__ __forceinline__ float Larger(float largest, float z) {
  return z > largest ? z : largest;
}

// Every lane starts at the first logit, so that a NaN there stays and others
// are passed over, as on the CPU. Without classes there is nothing to read.
__device__ __forceinline__ float LargestLogit(const float* z, int64_t classes) {
  float largest = classes > 0 ? z[0] : 0.0F;
  for (int64_t c = Lane(); c < classes; c += kLanes) {
    largest = Larger(largest, z[c]);
  }
  for (int width = kLanes / 2; width > 0; width /= 2) {
    largest =
        Larger(largest, __shfl_xor_sync(kWholeWarp, largest, width, kLanes));
  }
  return largest;
}

__device__ __forceinline__ float SumOfExp(const float* z, int64_t classes,
                                          float largest) {
  return SumOfLanes(LaneSum(
      classes, [&](int64_t c) { return functors::Exp(z[c] - largest); }));
}

// A class, or -1 with a fault reported.
__device__ __forceinline__ int64_t LabelOf(const float* labels, int64_t r,
                                           int64_t classes,
                                           const FaultSink& faults) {
  const float label = labels[r];
  const auto bound = static_cast<float>(classes);
  // NaN fails the first comparison; what passes fits an int64.
  if (!(label >= 0.0F && label < bound) ||
      static_cast<float>(static_cast<int64_t>(label)) != label) {
    if (Lane() == 0) {
      Report(faults, r, label, 0.0, static_cast<double>(classes));
    }
    return -1;
  }
  return static_cast<int64_t>(label);
}

struct Logits {
  const float* z;  // [rows, classes]
  int64_t rows;
  int64_t classes;

  // Half a warp that has no row works on the first one for nothing.
  __device__ const float* Row(int64_t r) const {
    return z + (r < rows ? r : 0) * classes;
  }
};

__global__ void SoftmaxKernel(Logits logits, float* y) {
  const int64_t classes = logits.classes;
  for (int64_t r = FirstRow(); r < RowsOfWholeWarps(logits.rows);
       r += RowStep()) {
    const float* const z = logits.Row(r);
    const float largest = LargestLogit(z, classes);
    const float sum = SumOfExp(z, classes, largest);
    if (r < logits.rows) {
      for (int64_t c = Lane(); c < classes; c += kLanes) {
        y[r * classes + c] = functors::Exp(z[c] - largest) / sum;
      }
    }
  }
}

__global__ void SoftmaxLossKernel(Logits logits, const float* labels,
                                  float* loss, FaultSink faults) {
  const int64_t classes = logits.classes;
  for (int64_t r = FirstRow(); r < RowsOfWholeWarps(logits.rows);
       r += RowStep()) {
    const float* const z = logits.Row(r);
    const float largest = LargestLogit(z, classes);
    const float log_sum = functors::Log(SumOfExp(z, classes, largest));
    if (r < logits.rows && Lane() == 0) {
      const int64_t label = LabelOf(labels, r, classes, faults);
      loss[r] = label < 0 ? 0.0F : log_sum + (largest - z[label]);
    }
  }
}

__global__ void SoftmaxLossGradKernel(Logits logits, const float* labels,
                                      const float* dloss, float* dlogits,
                                      FaultSink faults) {
  const int64_t classes = logits.classes;
  for (int64_t r = FirstRow(); r < RowsOfWholeWarps(logits.rows);
       r += RowStep()) {
    const float* const z = logits.Row(r);
    const float largest = LargestLogit(z, classes);
    const float sum = SumOfExp(z, classes, largest);
    if (r < logits.rows) {
      const int64_t label = LabelOf(labels, r, classes, faults);
      const float slope = dloss[r];
      for (int64_t c = Lane(); c < classes; c += kLanes) {
        const float target = c == label ? 1.0F : 0.0F;
        dlogits[r * classes + c] =
            (functors::Exp(z[c] - largest) / sum - target) * slope;
      }
    }
  }
}

Logits LogitsOf(const ShoalCudaArgs& args) {
  return {As<const float>(args.inputs[0]), args.inputs[0].dims[0],
          args.inputs[0].dims[1]};
}

}  // namespace

int Softmax(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const Logits logits = LogitsOf(args);
  return Launch(stream, Blocks(logits.rows, kRowsPerBlock), kThreads,
                &SoftmaxKernel, logits, As<float>(args.outputs[0]));
}

int SoftmaxCrossEntropy(const ShoalCudaArgs& args, ShoalCudaStream& stream) {
  const Logits logits = LogitsOf(args);
  return Launch(stream, Blocks(logits.rows, kRowsPerBlock), kThreads,
                &SoftmaxLossKernel, logits, As<const float>(args.inputs[1]),
                As<float>(args.outputs[0]), Sink(stream, "labels"));
}

int SoftmaxCrossEntropyGrad(const ShoalCudaArgs& args,
                            ShoalCudaStream& stream) {
  const Logits logits = LogitsOf(args);
  return Launch(stream, Blocks(logits.rows, kRowsPerBlock), kThreads,
                &SoftmaxLossGradKernel, logits, As<const float>(args.inputs[1]),
                As<const float>(args.inputs[2]), As<float>(args.outputs[0]),
                Sink(stream, "labels"));
}

}  // namespace shoal::cuda
