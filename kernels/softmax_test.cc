#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/kernel_testing.h"

namespace shoal {
namespace {

struct SoftmaxCase {
  int64_t rows;
  int64_t classes;
};

TEST(SoftmaxTest, ValuesLossAndGradientMatchDoubleOracle) {
  for (const auto [b, c] :
       {SoftmaxCase{0, 3}, SoftmaxCase{1, 1}, SoftmaxCase{5, 2},
        SoftmaxCase{1000, 10}, SoftmaxCase{77, 16}, SoftmaxCase{20, 1003}}) {
    SCOPED_TRACE(StrCat(b, "x", c));
    const TestTensor z = TestTensor::Uniform({b, c}, 1, -9.0, 9.0);
    const TestTensor dloss = TestTensor::Uniform({b, 1}, 2);
    std::vector<float> labels;
    std::vector<double> y;
    std::vector<double> loss;
    std::vector<double> dz;
    for (int64_t r = 0; r < b; ++r) {
      const int64_t label = r * 7 % c;
      labels.push_back(static_cast<float>(label));
      double sum = 0.0;
      for (int64_t j = 0; j < c; ++j) {
        sum += std::exp(double{z[r * c + j]});
      }
      for (int64_t j = 0; j < c; ++j) {
        y.push_back(std::exp(double{z[r * c + j]}) / sum);
        dz.push_back((y.back() - (j == label ? 1.0 : 0.0)) * dloss[r]);
      }
      loss.push_back(std::log(sum) - z[r * c + label]);
    }
    const TestTensor label = TestTensor::Of<float>({b, 1}, labels);
    ExpectNear(RunEverywhere(
                   {.op = "Softmax", .inputs = {z}, .outputs = {z.shape()}})[0],
               y, 1e-6);
    ExpectNear(RunEverywhere({.op = "SoftmaxCrossEntropy",
                              .inputs = {z, label},
                              .outputs = {Shape{b, 1}}})[0],
               loss, 4e-6);
    ExpectNear(RunEverywhere({.op = "SoftmaxCrossEntropyGrad",
                              .inputs = {z, label, dloss},
                              .outputs = {z.shape()}})[0],
               dz, 1e-6);
  }
}

TEST(SoftmaxTest, HugeLogitsDoNotOverflow) {
  const TestTensor z =
      TestTensor::Of<float>({2, 3}, {1e30F, 0.F, -1e30F, -3e38F, 3e38F, 0.F});
  ExpectNear(RunEverywhere(
                 {.op = "Softmax", .inputs = {z}, .outputs = {z.shape()}})[0],
             {1.0, 0.0, 0.0, 0.0, 1.0, 0.0}, 0.0);
}

TEST(SoftmaxTest, ALabelThatIsNoClassIsInvalidArgumentNamingIt) {
  const float nan = std::nanf("");
  for (const float bad : {-1.0F, 3.0F, 0.5F, 1e30F, nan}) {
    for (const char* op : {"SoftmaxCrossEntropy", "SoftmaxCrossEntropyGrad"}) {
      KernelCall call{.op = op,
                      .inputs = {TestTensor::Uniform({2, 3}, 1),
                                 TestTensor::Of<float>({2, 1}, {2.0F, bad}),
                                 TestTensor::Uniform({2, 1}, 2)},
                      .outputs = {Shape{2, 3}}};
      ThreadPool pool(1);
      std::vector<TestTensor> outputs;
      const Status status = RunKernelOnce(call, pool, &outputs);
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
      EXPECT_THAT(status.message(), ::testing::HasSubstr("labels[1]"));
    }
  }
}

}  // namespace
}  // namespace shoal
