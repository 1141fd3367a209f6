// The kernels beside the matrix product, on the shapes of a DeepFM or DLRM step
// of 2048 examples: 26 fields of 16 numbers, layers of 400.
//
// Sketch: all move memory. 2048 x 26 x 16 f32 are 3.4 MB; at 10 GB/s from the
// third-level cache or memory a pass that reads and writes them takes 0.7 ms.
// Dot interaction does 2048 x 351 x 16 multiplications, 23 MFLOP: below 1 ms.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "base/random.h"
#include "base/thread_pool.h"
#include "kernels/kernel.h"

namespace {

using shoal::DType;
using shoal::Shape;
using shoal::TensorView;

constexpr int64_t kBatch = 2048;
constexpr int64_t kFields = 26;
constexpr int64_t kDim = 16;
constexpr int64_t kRows = 20000;
constexpr int64_t kWidth = 400;

// What one input holds.
enum class Fill { kNumbers, kIndex, kOffsets, kLabels };

struct Input {
  Shape shape;
  Fill fill = Fill::kNumbers;
};

struct Tensor {
  explicit Tensor(const Input& input)
      : memory(static_cast<size_t>(input.shape.num_elements())),
        view{memory.data(), input.shape,
             input.fill == Fill::kIndex || input.fill == Fill::kOffsets
                 ? DType::kI32
                 : DType::kF32} {
    shoal::Random random(7);
    for (int64_t i = 0; i < input.shape.num_elements(); ++i) {
      switch (input.fill) {
        case Fill::kNumbers:
          view.as<float>()[i] = static_cast<float>(random.Uniform() - 0.5);
          break;
        case Fill::kIndex:
          view.as<int32_t>()[i] = static_cast<int32_t>(random.Below(kRows));
          break;
        case Fill::kOffsets:
          view.as<int32_t>()[i] = static_cast<int32_t>(i);
          break;
        case Fill::kLabels:
          view.as<float>()[i] = static_cast<float>(random.Below(2));
          break;
      }
    }
  }

  std::vector<float> memory;
  TensorView view;
};

void RunKernel(benchmark::State& state, const std::string& op,
               const std::vector<Input>& inputs,
               const std::vector<Shape>& outputs,
               const std::vector<int64_t>& ints) {
  const auto kernel = shoal::KernelRegistry().Find("cpu/" + op);
  if (!kernel.ok()) {
    return state.SkipWithError(kernel.status().message().c_str());
  }
  shoal::ThreadPool pool(static_cast<int>(state.range(0)));
  const auto device = shoal::CreateCpuDevice(pool);
  const std::unique_ptr<shoal::Stream> stream = *device->CreateStream();
  std::vector<Tensor> tensors;
  tensors.reserve(inputs.size() + outputs.size());
  std::vector<TensorView> in;
  std::vector<TensorView> out;
  int64_t bytes = 0;
  for (const Input& input : inputs) {
    in.push_back(tensors.emplace_back(input).view);
    bytes += 4 * input.shape.num_elements();
  }
  for (const Shape& shape : outputs) {
    out.push_back(tensors.emplace_back(Input{shape}).view);
    bytes += 4 * shape.num_elements();
  }
  std::vector<std::byte> workspace;
  if ((*kernel)->workspace_bytes != nullptr) {
    workspace.resize(static_cast<size_t>(
        (*kernel)->workspace_bytes(in, out, ints, pool.num_threads())));
  }
  for (auto _ : state) {
    const shoal::Status status = (*kernel)->run({.inputs = in,
                                                 .outputs = out,
                                                 .ints = ints,
                                                 .floats = {},
                                                 .workspace = workspace},
                                                *stream);
    if (!status.ok()) {
      return state.SkipWithError(status.message().c_str());
    }
    benchmark::ClobberMemory();
  }
  // Values are the tests' business; here none may be missing.
  for (int64_t i = 0; i < out[0].num_elements(); ++i) {
    if (!std::isfinite(out[0].as<float>()[i])) {
      return state.SkipWithError("an output is not finite");
    }
  }
  state.SetBytesProcessed(state.iterations() * bytes);
}

void Register(const std::string& op, const std::vector<Input>& inputs,
              const std::vector<Shape>& outputs,
              const std::vector<int64_t>& ints = {}) {
  benchmark::RegisterBenchmark(("BM_" + op).c_str(),
                               [=](benchmark::State& state) {
                                 RunKernel(state, op, inputs, outputs, ints);
                               })
      ->ArgName("threads")
      ->Arg(1)
      ->Arg(2)
      ->MinTime(0.05)
      ->Unit(benchmark::kMicrosecond)
      ->UseRealTime();
}

const bool registered = [] {
  const Shape layer = {kBatch, kWidth};
  const Shape fields = {kBatch, kFields, kDim};
  const Shape with_dense = {kBatch, kFields + 1, kDim};
  const Shape pairs = {kBatch, (kFields + 1) * kFields / 2};
  const Shape rows = {kRows, kDim};
  const Shape column = {kBatch, 1};
  const Shape index = {kBatch, kFields};
  const Shape positions = {kBatch * kFields};
  const Shape offsets = {kBatch * kFields + 1};
  Register("BiasAdd", {{layer}, {{kWidth}}}, {layer});
  Register("Relu", {{layer}}, {layer});
  Register("ReluGrad", {{layer}, {layer}}, {layer});
  Register("Sigmoid", {{layer}}, {layer});
  Register("Tanh", {{layer}}, {layer});
  Register("ColumnSum", {{layer}}, {{kWidth}});
  Register("ReduceSum", {{layer}}, {{1}});
  Register("CrossCombine", {{layer}, {layer}, {layer}}, {layer});
  Register("Gather", {{rows}, {index, Fill::kIndex}}, {fields});
  Register("GatherGrad", {{fields}, {index, Fill::kIndex}, {rows}}, {rows});
  Register("BagPool",
           {{rows},
            {positions, Fill::kIndex},
            {offsets, Fill::kOffsets},
            {positions}},
           {fields}, {kFields, 0});
  Register("BagPoolGrad",
           {{fields},
            {positions, Fill::kIndex},
            {offsets, Fill::kOffsets},
            {positions},
            {rows}},
           {rows}, {kFields, 0});
  Register("FmInteraction", {{fields}}, {column});
  Register("FmInteractionGrad", {{fields}, {column}}, {fields});
  Register("DotInteraction", {{with_dense}}, {pairs});
  Register("DotInteractionGrad", {{with_dense}, {pairs}}, {with_dense});
  Register("SigmoidCrossEntropy", {{column}, {column, Fill::kLabels}},
           {column});
  Register("Softmax", {{{kBatch, 10}}}, {{kBatch, 10}});
  return true;
}();

}  // namespace
