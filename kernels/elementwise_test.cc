#include <cmath>
#include <functional>

#include <gtest/gtest.h>

#include "kernels/kernel_testing.h"

namespace shoal {
namespace {

using Oracle = std::function<double(const std::vector<double>&)>;

struct ElementwiseCase {
  std::string op;
  int inputs;
  Oracle want;
  double bound;  // on the error, for inputs in [-1, 1)
  std::vector<double> floats = {};
};

double SigmoidOf(double x) { return 1.0 / (1.0 + std::exp(-x)); }

std::vector<ElementwiseCase> ElementwiseCases() {
  using V = const std::vector<double>&;
  constexpr double kUlp = 0x1.0p-23;
  return {
      {"Reshape", 1, [](V v) { return v[0]; }, 0.0},
      {"Add", 2, [](V v) { return v[0] + v[1]; }, kUlp},
      {"Sub", 2, [](V v) { return v[0] - v[1]; }, kUlp},
      {"Mul", 2, [](V v) { return v[0] * v[1]; }, kUlp},
      {"AddN", 3, [](V v) { return v[0] + v[1] + v[2]; }, 4 * kUlp},
      {"Scale", 1, [](V v) { return 0.3 * v[0]; }, kUlp, {0.3}},
      {"Square", 1, [](V v) { return v[0] * v[0]; }, kUlp},
      {"SquareGrad", 2, [](V v) { return 2 * v[0] * v[1]; }, 2 * kUlp},
      {"Relu", 1, [](V v) { return std::max(v[0], 0.0); }, 0.0},
      {"ReluGrad", 2, [](V v) { return v[0] > 0 ? v[1] : 0.0; }, 0.0},
      {"Sigmoid", 1, [](V v) { return SigmoidOf(v[0]); }, 2 * kUlp},
      {"SigmoidGrad", 2, [](V v) { return v[1] * v[0] * (1 - v[0]); },
       8 * kUlp},
      {"Tanh", 1, [](V v) { return std::tanh(v[0]); }, 4 * kUlp},
      {"TanhGrad", 2, [](V v) { return v[1] * (1 - v[0] * v[0]); }, 4 * kUlp},
      {"CrossCombine", 3, [](V v) { return v[0] * v[1] + v[2]; }, 4 * kUlp},
      {"SigmoidCrossEntropy", 2,
       [](V v) {
         return -v[1] * std::log(SigmoidOf(v[0])) -
                (1 - v[1]) * std::log(1 - SigmoidOf(v[0]));
       },
       8 * kUlp},
      {"SigmoidCrossEntropyGrad", 3,
       [](V v) { return v[2] * (SigmoidOf(v[0]) - v[1]); }, 8 * kUlp},
      {"SquaredError", 2, [](V v) { return (v[0] - v[1]) * (v[0] - v[1]); },
       8 * kUlp},
      {"SquaredErrorGrad", 3, [](V v) { return 2 * (v[0] - v[1]) * v[2]; },
       8 * kUlp},
  };
}

KernelCall ElementwiseCall(const ElementwiseCase& c, int64_t n) {
  KernelCall call{.op = c.op, .inputs = {}, .outputs = {Shape{n, 1}}};
  for (int i = 0; i < c.inputs; ++i) {
    call.inputs.push_back(
        TestTensor::Uniform({n, 1}, static_cast<uint64_t>(100 + i)));
  }
  call.floats = c.floats;
  return call;
}

TEST(ElementwiseTest, ValuesMatchDoubleOracleForOddSizes) {
  for (const ElementwiseCase& c : ElementwiseCases()) {
    // The last is split over threads.
    for (const int64_t n : {0, 1, 7, 16, 33, 70001}) {
      SCOPED_TRACE(StrCat(c.op, " ", n));
      const KernelCall call = ElementwiseCall(c, n);
      const std::vector<TestTensor> out = RunEverywhere(call);
      std::vector<double> want;
      for (int64_t i = 0; i < n; ++i) {
        std::vector<double> x;
        for (const TestTensor& input : call.inputs) {
          x.push_back(input[i]);
        }
        want.push_back(c.want(x));
      }
      ExpectNear(out[0], want, c.bound);
    }
  }
}

TEST(ElementwiseTest, TheOutputMayBeTheMemoryOfAnyInput) {
  for (const ElementwiseCase& c : ElementwiseCases()) {
    constexpr int64_t kSize = 1999;
    KernelCall call = ElementwiseCall(c, kSize);
    const std::vector<TestTensor> want = RunEverywhere(call);
    const StatusOr<const Kernel*> kernel =
        KernelRegistry().Find(StrCat("cpu/", c.op));
    ASSERT_TRUE(kernel.ok());
    ThreadPool pool(2);
    const auto device = CreateCpuDevice(pool);
    const std::unique_ptr<Stream> stream = *device->CreateStream();
    for (size_t shared = 0; shared < call.inputs.size(); ++shared) {
      std::vector<TestTensor> inputs = call.inputs;
      std::vector<TensorView> in;
      for (TestTensor& input : inputs) {
        in.push_back(input.view());
      }
      const std::vector<TensorView> out = {in[shared]};
      ASSERT_TRUE((*kernel)
                      ->run({.inputs = in,
                             .outputs = out,
                             .ints = {},
                             .floats = call.floats,
                             .workspace = {}},
                            *stream)
                      .ok());
      EXPECT_TRUE(SameBits(inputs[shared], want[0])) << c.op << " " << shared;
    }
  }
}

TEST(ElementwiseTest, AddNOfMoreInputsThanOnePassTakes) {
  KernelCall call{.op = "AddN", .inputs = {}, .outputs = {Shape{2100}}};
  for (uint64_t i = 0; i < 40; ++i) {
    call.inputs.push_back(TestTensor::Uniform({2100}, i));
  }
  const std::vector<TestTensor> out = RunEverywhere(call);
  for (int64_t i = 0; i < 2100; ++i) {
    float sum = call.inputs[0][i];
    for (size_t k = 1; k < 40; ++k) {
      sum += call.inputs[k][i];
    }
    ASSERT_EQ(out[0][i], sum) << i;
  }
}

TEST(ElementwiseTest, CrossCombineGradHasTwoOutputs) {
  KernelCall call{
      .op = "CrossCombineGrad",
      .inputs = {TestTensor::Uniform({5, 7}, 1), TestTensor::Uniform({5, 7}, 2),
                 TestTensor::Uniform({5, 7}, 3)},
      .outputs = {Shape{5, 7}, Shape{5, 7}}};
  const std::vector<TestTensor> out = RunEverywhere(call);
  for (int64_t i = 0; i < 35; ++i) {
    EXPECT_EQ(out[0][i], call.inputs[1][i] * call.inputs[2][i]);
    EXPECT_EQ(out[1][i], call.inputs[0][i] * call.inputs[2][i]);
  }
}

TEST(ElementwiseTest, ScaleByTakesItsFactorFromATensor) {
  KernelCall call{.op = "ScaleBy",
                  .inputs = {TestTensor::Uniform({19}, 1),
                             TestTensor::Of<float>({1}, {-2.5F})},
                  .outputs = {Shape{19}}};
  const std::vector<TestTensor> out = RunEverywhere(call);
  for (int64_t i = 0; i < 19; ++i) {
    EXPECT_EQ(out[0][i], -2.5F * call.inputs[0][i]);
  }
}

TEST(ElementwiseTest, BiasAddAddsTheSameRowToEach) {
  for (const Shape& shape : {Shape{0, 5}, Shape{3, 1}, Shape{301, 217}}) {
    const int64_t n = shape.dim(1);
    KernelCall call{
        .op = "BiasAdd",
        .inputs = {TestTensor::Uniform(shape, 1), TestTensor::Uniform({n}, 2)},
        .outputs = {shape}};
    const std::vector<TestTensor> out = RunEverywhere(call);
    for (int64_t i = 0; i < shape.num_elements(); ++i) {
      ASSERT_EQ(out[0][i], call.inputs[0][i] + call.inputs[1][i % n]);
    }
  }
}

TEST(ElementwiseTest, CrossEntropyOfHugeLogitsIsFinite) {
  const std::vector<TestTensor> out = RunEverywhere(
      {.op = "SigmoidCrossEntropy",
       .inputs = {TestTensor::Of<float>({4, 1}, {1e30F, -1e30F, 500.F, -500.F}),
                  TestTensor::Of<float>({4, 1}, {1.F, 0.F, 0.F, 1.F})},
       .outputs = {Shape{4, 1}}});
  ExpectNear(out[0], {0.0, 0.0, 500.0, 500.0}, 0.0);
}

TEST(ElementwiseTest, NanPassesThroughActivations) {
  for (const char* op : {"Relu", "Sigmoid", "Tanh", "Square"}) {
    // Long enough to go through vectors as well as remainders.
    const std::vector<TestTensor> out =
        RunEverywhere({.op = op,
                       .inputs = {TestTensor::Of<float>(
                           {37}, std::vector<float>(37, std::nanf("")))},
                       .outputs = {Shape{37}}});
    for (int64_t i = 0; i < 37; ++i) {
      EXPECT_TRUE(std::isnan(out[0][i])) << op << " " << i;
    }
  }
}

TEST(ElementwiseTest, DropoutMaskIsAFunctionOfSeedAndPlace) {
  constexpr int64_t kSize = 20011;
  constexpr uint64_t kSeed = 0xfedcba9876543210ULL;
  for (const char* op : {"Dropout", "DropoutGrad"}) {
    KernelCall call{.op = op,
                    .inputs = {TestTensor::Uniform({kSize}, 1, 0.5, 1.0),
                               TestTensor::Of<uint64_t>({1}, {kSeed})},
                    .outputs = {Shape{kSize}},
                    .floats = {0.25}};
    const std::vector<TestTensor> out = RunEverywhere(call);
    int64_t kept = 0;
    for (int64_t i = 0; i < kSize; ++i) {
      const uint64_t top = HashKey(kSeed, static_cast<uint64_t>(i)) >> 40;
      const bool keep = std::ldexp(static_cast<double>(top), -24) >= 0.25;
      kept += keep ? 1 : 0;
      const float want = keep ? call.inputs[0][i] * (1.0F / 0.75F) : 0.0F;
      ASSERT_EQ(out[0][i], want) << i;
    }
    // Five standard deviations of a binomial are 306.
    EXPECT_NEAR(static_cast<double>(kept), 0.75 * kSize, 306.0);
  }
}

}  // namespace
}  // namespace shoal
