#include <algorithm>
#include <array>

#include "base/thread_pool.h"
#include "kernels/kernel.h"
#include "kernels/loops.h"

namespace shoal {
namespace {

// Below this many elements waking a thread costs more than it saves.
constexpr int64_t kGrain = 32768;

// Elements that an op keeps in the first-level cache on their way.
constexpr int64_t kPiece = 1024;

enum class Uniform { kNone, kFloat, kScalar };

// The launcher of all elementwise ops: gathers the pointers, splits the range.
template <ElementwiseOp kOp, int kInputs, Uniform kUniform, int kOutputs>
Status Elementwise(const KernelArgs& args, Stream& stream) {
  std::array<const float*, kInputs> inputs = {};
  std::array<float*, kOutputs> outputs = {};
  for (size_t i = 0; i < kInputs; ++i) {
    inputs[i] = args.inputs[i].as<const float>();
  }
  for (size_t i = 0; i < kOutputs; ++i) {
    outputs[i] = args.outputs[i].as<float>();
  }
  float uniform = 0.0F;
  if constexpr (kUniform == Uniform::kFloat) {
    uniform = static_cast<float>(args.floats[0]);
  } else if constexpr (kUniform == Uniform::kScalar) {
    uniform = *args.inputs[kInputs].template as<float>();
  }
  const ElementwiseLoop loop = ActiveLoops().elementwise[static_cast<int>(kOp)];
  stream.pool()->ParallelFor(
      args.outputs[0].num_elements(), kGrain, [&](int64_t begin, int64_t end) {
        loop(inputs.data(), uniform, outputs.data(), begin, end);
      });
  return OkStatus();
}

#define SHOAL_ELEMENTWISE(op, fn, inputs, outputs)                        \
  SHOAL_REGISTER_KERNEL("cpu", op,                                        \
                        .run = &Elementwise<ElementwiseOp::k##op, inputs, \
                                            Uniform::kNone, outputs>);
#define SHOAL_ELEMENTWISE_FLOAT(op, fn, inputs) \
  SHOAL_REGISTER_KERNEL(                        \
      "cpu", op,                                \
      .run = &Elementwise<ElementwiseOp::k##op, inputs, Uniform::kFloat, 1>);
#define SHOAL_ELEMENTWISE_SCALAR(op, fn, inputs) \
  SHOAL_REGISTER_KERNEL(                         \
      "cpu", op,                                 \
      .run = &Elementwise<ElementwiseOp::k##op, inputs, Uniform::kScalar, 1>);
#include "kernels/elementwise_ops.inc"
#undef SHOAL_ELEMENTWISE
#undef SHOAL_ELEMENTWISE_FLOAT
#undef SHOAL_ELEMENTWISE_SCALAR

// One piece of a sum of any number of tensors. It is kept apart until it is
// complete, so that the output may be the memory of any input.
void AddPiece(const KernelArgs& args, const Loops& loops, int64_t begin,
              int64_t n) {
  constexpr size_t kInputsMax = 16;
  std::array<const float*, kInputsMax> inputs = {};
  std::array<float, kPiece> sum;
  size_t used = 0;
  for (size_t i = 0; i < args.inputs.size(); ++i) {
    inputs[used++] = args.inputs[i].as<const float>() + begin;
    if (used == kInputsMax || i + 1 == args.inputs.size()) {
      loops.add_n(inputs.data(), static_cast<int64_t>(used), n, sum.data());
      inputs[0] = sum.data();
      used = 1;
    }
  }
  std::copy_n(sum.begin(), n, args.outputs[0].as<float>() + begin);
}

Status AddN(const KernelArgs& args, Stream& stream) {
  const Loops& loops = ActiveLoops();
  stream.pool()->ParallelFor(
      args.outputs[0].num_elements(), kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i += kPiece) {
          AddPiece(args, loops, i, std::min(kPiece, end - i));
        }
      });
  return OkStatus();
}

SHOAL_REGISTER_KERNEL("cpu", AddN, .run = &AddN);

Status BiasAdd(const KernelArgs& args, Stream& stream) {
  const int64_t m = args.outputs[0].shape.dim(0);
  const int64_t n = args.outputs[0].shape.dim(1);
  const float* const x = args.inputs[0].as<const float>();
  const float* const bias = args.inputs[1].as<const float>();
  float* const y = args.outputs[0].as<float>();
  const Loops& loops = ActiveLoops();
  stream.pool()->ParallelFor(
      m, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n)),
      [&](int64_t begin, int64_t end) {
        loops.bias_add(x + begin * n, bias, end - begin, n, y + begin * n);
      });
  return OkStatus();
}

SHOAL_REGISTER_KERNEL("cpu", BiasAdd, .run = &BiasAdd);

// Dropout and its gradient: the mask is a function of the seed and the place.
Status Dropout(const KernelArgs& args, Stream& stream) {
  const float* const x = args.inputs[0].as<const float>();
  const uint64_t seed = *args.inputs[1].as<const uint64_t>();
  float* const y = args.outputs[0].as<float>();
  const auto rate = static_cast<float>(args.floats[0]);
  const float scale = 1.0F / (1.0F - rate);
  const Loops& loops = ActiveLoops();
  stream.pool()->ParallelFor(args.outputs[0].num_elements(), kGrain / 4,
                             [&](int64_t begin, int64_t end) {
                               loops.dropout(x, seed, rate, scale, begin, end,
                                             y);
                             });
  return OkStatus();
}

SHOAL_REGISTER_KERNEL("cpu", Dropout, .run = &Dropout);
SHOAL_REGISTER_KERNEL("cpu", DropoutGrad, .run = &Dropout);

}  // namespace
}  // namespace shoal
