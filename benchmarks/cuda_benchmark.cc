// Kernels on a GPU, beside what bounds them: products beside cuBLASLt's (which
// `math:fast` is) and memory-bound ops beside a copy within the GPU.
//
// Sketch: an H100 or H200 adds and multiplies at 60 TFLOP/s in f32 and moves
// 3 to 4.8 TB/s. A product of [2048, 400] and [400, 400] is 0.66 GFLOP: 11 us
// at that rate, and 16 tiles of 128 x 64 for each of which there are 8
// multiprocessors, so that it can't fill the chip; Relu over 64 MiB moves 128
// MiB: 30 to 45 us. Each figure is of 20 calls enqueued at once.
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include "base/random.h"
#include "kernels/cuda_device.h"
#include "kernels/kernel.h"

namespace {

using shoal::Buffer;
using shoal::DType;
using shoal::Shape;
using shoal::Status;
using shoal::StatusOr;
using shoal::TensorView;

constexpr int kCalls = 20;

struct Input {
  Shape shape;
  int64_t index_below = 0;  // > 0: i32 in [0, index_below), skewed
};

// A device and the memory of one call, filled with random numbers.
class Call {
 public:
  static StatusOr<std::unique_ptr<Call>> Create(
      const std::string& op, bool fast, const std::vector<Input>& inputs,
      const std::vector<Shape>& outputs, std::vector<int64_t> ints) {
    std::unique_ptr<Call> call(new Call);
    SHOAL_ASSIGN_OR_RETURN(call->device_,
                           shoal::OpenCudaDevice({.fast_math = fast}));
    SHOAL_ASSIGN_OR_RETURN(call->stream_, call->device_->CreateStream());
    SHOAL_ASSIGN_OR_RETURN(call->kernel_, shoal::FindKernel("cuda", op));
    call->ints_ = std::move(ints);
    for (const Input& input : inputs) {
      SHOAL_ASSIGN_OR_RETURN(const TensorView view,
                             call->Add(input.shape, input.index_below));
      call->inputs_.push_back(view);
    }
    for (const Shape& shape : outputs) {
      SHOAL_ASSIGN_OR_RETURN(const TensorView view, call->Add(shape, 0));
      call->outputs_.push_back(view);
    }
    if (call->kernel_->workspace_bytes) {
      const int64_t bytes = call->kernel_->workspace_bytes(
          call->inputs_, call->outputs_, call->ints_, 1);
      SHOAL_ASSIGN_OR_RETURN(call->workspace_, call->device_->Allocate(bytes));
    }
    return call;
  }

  Status Run() {
    for (int i = 0; i < kCalls; ++i) {
      SHOAL_RETURN_IF_ERROR(
          kernel_->run({.inputs = inputs_,
                        .outputs = outputs_,
                        .ints = ints_,
                        .floats = {},
                        .workspace = {workspace_.data(),
                                      static_cast<size_t>(workspace_.size())}},
                       *stream_));
    }
    return stream_->Synchronize();
  }

  Status RunCopies() {
    for (int i = 0; i < kCalls; ++i) {
      SHOAL_RETURN_IF_ERROR(device_->Copy(outputs_[0].data, inputs_[0].data,
                                          4 * inputs_[0].num_elements(),
                                          *stream_));
    }
    return stream_->Synchronize();
  }

 private:
  StatusOr<TensorView> Add(const Shape& shape, int64_t index_below) {
    const int64_t bytes = 4 * shape.num_elements();
    SHOAL_ASSIGN_OR_RETURN(Buffer host, device_->AllocateHost(bytes));
    SHOAL_ASSIGN_OR_RETURN(Buffer device, device_->Allocate(bytes));
    shoal::Random random(memory_.size() + 1);
    for (int64_t i = 0; i < shape.num_elements(); ++i) {
      // Squares crowd at 0, as ids of a batch crowd at few rows.
      const double u = random.Uniform();
      const auto index =
          static_cast<int32_t>(u * u * static_cast<double>(index_below));
      const auto value = static_cast<float>(u - 0.5);
      std::memcpy(host.data() + 4 * i,
                  index_below > 0 ? static_cast<const void*>(&index) : &value,
                  4);
    }
    SHOAL_RETURN_IF_ERROR(
        device_->Copy(device.data(), host.data(), bytes, *stream_));
    SHOAL_RETURN_IF_ERROR(stream_->Synchronize());
    memory_.push_back(device);
    return TensorView{device.data(), shape,
                      index_below > 0 ? DType::kI32 : DType::kF32};
  }

  std::unique_ptr<shoal::Device> device_;
  std::unique_ptr<shoal::Stream> stream_;
  const shoal::Kernel* kernel_ = nullptr;
  std::vector<Buffer> memory_;
  Buffer workspace_;
  std::vector<TensorView> inputs_;
  std::vector<TensorView> outputs_;
  std::vector<int64_t> ints_;
};

// `work` per call, in the unit that the counter is named for.
void RunCalls(benchmark::State& state, StatusOr<std::unique_ptr<Call>> call,
              const std::string& counter, double work, bool copies = false) {
  if (!call.ok()) {
    return state.SkipWithError(call.status().message().c_str());
  }
  for (auto _ : state) {
    const Status status = copies ? (*call)->RunCopies() : (*call)->Run();
    if (!status.ok()) {
      return state.SkipWithError(status.message().c_str());
    }
  }
  state.counters[counter] = benchmark::Counter(
      work * kCalls * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate);
  state.counters["us_per_call"] = benchmark::Counter(
      kCalls * static_cast<double>(state.iterations()) / 1e6,
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// y[m, n] of a sum over k; ints: math (1: fast), transpose a, transpose b.
void Product(benchmark::State& state) {
  const int64_t m = state.range(0);
  const int64_t n = state.range(1);
  const int64_t k = state.range(2);
  const int64_t ta = state.range(4);
  const int64_t tb = state.range(5);
  RunCalls(state,
           Call::Create("MatMul", state.range(3) != 0,
                        {{ta != 0 ? Shape{k, m} : Shape{m, k}},
                         {tb != 0 ? Shape{n, k} : Shape{k, n}}},
                        {Shape{m, n}}, {ta, tb}),
           "FLOPS", 2.0 * static_cast<double>(m * n * k));
}
BENCHMARK(Product)
    ->UseRealTime()
    ->ArgNames({"m", "n", "k", "fast", "ta", "tb"})
    ->ArgsProduct({{2048}, {400}, {429, 400}, {0, 1}, {0}, {0}})
    ->ArgsProduct({{400}, {400}, {2048}, {0, 1}, {1}, {0}})  // of weights
    ->ArgsProduct({{2048}, {429}, {400}, {0, 1}, {0}, {1}})  // of inputs
    ->ArgsProduct({{2048}, {1}, {400}, {0, 1}, {0}, {0}})
    ->ArgsProduct({{16384}, {1024}, {1024}, {0, 1}, {0}, {0}})
    ->ArgsProduct({{4096}, {4096}, {4096}, {0, 1}, {0}, {0}});

// The same with bias and Relu: what their epilogue costs.
void Layer(benchmark::State& state) {
  const int64_t m = state.range(0);
  const int64_t n = state.range(1);
  const int64_t k = state.range(2);
  RunCalls(state,
           Call::Create("Dense", state.range(3) != 0,
                        {{Shape{m, k}}, {Shape{k, n}}, {Shape{n}}},
                        {Shape{m, n}}, {1}),
           "FLOPS", 2.0 * static_cast<double>(m * n * k));
}
BENCHMARK(Layer)
    ->UseRealTime()
    ->ArgNames({"m", "n", "k", "fast"})
    ->ArgsProduct({{2048}, {400}, {429, 400}, {0, 1}})
    ->ArgsProduct({{2048}, {1}, {400}, {0, 1}})
    ->ArgsProduct({{16384}, {1024}, {1024}, {0, 1}});

constexpr int64_t kMany = int64_t{16} << 20;

void CopyInMemory(benchmark::State& state) {
  RunCalls(state, Call::Create("Relu", false, {{{kMany}}}, {Shape{kMany}}, {}),
           "bytes", 8.0 * kMany, /*copies=*/true);
}
BENCHMARK(CopyInMemory)->UseRealTime();

void ReluOfMany(benchmark::State& state) {
  RunCalls(state, Call::Create("Relu", false, {{{kMany}}}, {Shape{kMany}}, {}),
           "bytes", 8.0 * kMany);
}
BENCHMARK(ReluOfMany)->UseRealTime();

void LossOfMany(benchmark::State& state) {
  RunCalls(state,
           Call::Create("SigmoidCrossEntropy", false, {{{kMany}}, {{kMany}}},
                        {Shape{kMany}}, {}),
           "bytes", 12.0 * kMany);
}
BENCHMARK(LossOfMany)->UseRealTime();

void SumOfMany(benchmark::State& state) {
  RunCalls(state, Call::Create("ReduceSum", false, {{{kMany}}}, {Shape{1}}, {}),
           "bytes", 4.0 * kMany);
}
BENCHMARK(SumOfMany)->UseRealTime();

void ColumnSum(benchmark::State& state) {
  RunCalls(
      state,
      Call::Create("ColumnSum", false, {{{16384, 1024}}}, {Shape{1024}}, {}),
      "bytes", 4.0 * 16384 * 1024);
}
BENCHMARK(ColumnSum)->UseRealTime();

// 26 fields of a batch, rows of 16.
void Gather(benchmark::State& state) {
  const int64_t batch = state.range(0);
  const int64_t rows = batch * 9;
  RunCalls(state,
           Call::Create("Gather", false, {{{rows, 16}}, {{batch, 26}, rows}},
                        {Shape{batch, 26, 16}}, {}),
           "bytes", static_cast<double>(batch) * 26 * (16 * 8 + 4));
}
BENCHMARK(Gather)->UseRealTime()->Arg(2048)->Arg(65536);

void GatherGrad(benchmark::State& state) {
  const int64_t batch = state.range(0);
  const int64_t rows = batch * 9;
  RunCalls(state,
           Call::Create("GatherGrad", false,
                        {{{batch, 26, 16}}, {{batch, 26}, rows}, {{rows, 16}}},
                        {Shape{rows, 16}}, {}),
           "bytes",
           static_cast<double>(batch) * 26 * (16 * 4 + 4) +
               static_cast<double>(rows) * 16 * 4);
}
BENCHMARK(GatherGrad)->UseRealTime()->Arg(2048)->Arg(65536);

void DotInteraction(benchmark::State& state) {
  RunCalls(state,
           Call::Create("DotInteraction", false, {{{16384, 27, 16}}},
                        {Shape{16384, 351}}, {}),
           "bytes", 4.0 * 16384 * (27 * 16 + 351));
}
BENCHMARK(DotInteraction)->UseRealTime();

void FmInteraction(benchmark::State& state) {
  RunCalls(state,
           Call::Create("FmInteraction", false, {{{16384, 26, 16}}},
                        {Shape{16384, 1}}, {}),
           "bytes", 4.0 * 16384 * 26 * 16);
}
BENCHMARK(FmInteraction)->UseRealTime();

}  // namespace
