#include <cmath>

#include <gtest/gtest.h>

#include "kernels/kernel_testing.h"

namespace shoal {
namespace {

struct MatMulCase {
  int64_t m;
  int64_t n;
  int64_t k;
};

KernelCall MatMulCall(const MatMulCase& c, bool ta, bool tb, uint64_t seed) {
  return {.op = "MatMul",
          .inputs = {TestTensor::Uniform(ta ? Shape{c.k, c.m} : Shape{c.m, c.k},
                                         seed),
                     TestTensor::Uniform(tb ? Shape{c.n, c.k} : Shape{c.k, c.n},
                                         seed + 1)},
          .outputs = {Shape{c.m, c.n}},
          .ints = {ta ? 1 : 0, tb ? 1 : 0}};
}

// Every output against the one chain that the contract promises, bit by bit,
// and against double precision within the chain's own error bound.
void ExpectProduct(const MatMulCase& c, bool ta, bool tb) {
  SCOPED_TRACE(StrCat(c.m, "x", c.n, "x", c.k, " ", ta, tb));
  const KernelCall call = MatMulCall(c, ta, tb, 17);
  const std::vector<TestTensor> out = RunEverywhere(call);
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = 0; j < c.n; ++j) {
      float chain = 0.0F;
      double sum = 0.0;
      double size = 0.0;
      for (int64_t p = 0; p < c.k; ++p) {
        const float a = call.inputs[0][ta ? p * c.m + i : i * c.k + p];
        const float b = call.inputs[1][tb ? j * c.k + p : p * c.n + j];
        chain = std::fma(a, b, chain);
        sum += double{a} * b;
        size += std::abs(double{a} * b);
      }
      const float got = out[0][i * c.n + j];
      ASSERT_EQ(got, chain) << i << "," << j;
      const double bound =
          static_cast<double>(c.k + 1) * 0x1.0p-24 * size + 1e-300;
      ASSERT_TRUE(std::abs(got - sum) <= bound) << i << "," << j;
    }
  }
}

TEST(MatMulTest, AllTranspositionsOfAwkwardSizes) {
  const MatMulCase cases[] = {
      {1, 1, 1},    {1, 37, 19},  {37, 1, 19},   {1, 1, 300},  {2, 2, 2},
      {13, 29, 5},  {14, 32, 16}, {15, 33, 17},  {16, 13, 64}, {100, 31, 1},
      {5, 100, 43}, {29, 65, 33}, {85, 16, 257}, {3, 48, 520}};
  for (const MatMulCase& c : cases) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        ExpectProduct(c, ta, tb);
      }
    }
  }
}

TEST(MatMulTest, SizesBeyondOneBlockInEveryDirection) {
  ExpectProduct({200, 70, 600}, false, false);
  ExpectProduct({190, 45, 513}, true, false);
  ExpectProduct({90, 61, 300}, false, true);
  ExpectProduct({5, 2100, 20}, false, false);
  ExpectProduct({3, 2070, 270}, true, true);
  ExpectProduct({700, 1, 429}, false, false);
  ExpectProduct({429, 1, 300}, true, false);
}

// The bits of the three ops one after the other, with values that activations
// treat in their own ways.
TEST(DenseTest, HasTheBitsOfItsParts) {
  constexpr const char* kActivations[] = {"", "Relu", "Sigmoid", "Tanh"};
  const MatMulCase cases[] = {
      {0, 3, 2},     {3, 0, 2},     {4, 5, 0},     {1, 1, 1},    {1, 37, 19},
      {37, 1, 19},   {1, 700, 300}, {700, 1, 429}, {15, 33, 17}, {100, 31, 1},
      {5, 2100, 20}, {90, 61, 600}, {200, 70, 257}};
  for (const MatMulCase& c : cases) {
    KernelCall product = MatMulCall(c, false, false, 23);
    if (c.m > 2 && c.k > 0) {
      auto* const a = static_cast<float*>(product.inputs[0].view().data);
      a[0] = std::numeric_limits<float>::infinity();
      a[c.k] = std::numeric_limits<float>::quiet_NaN();
      a[2 * c.k] = -100.0F;
    }
    const TestTensor bias = TestTensor::Uniform({c.n}, 29, -2.0, 2.0);
    const Shape shape = {c.m, c.n};
    TestTensor want = RunEverywhere(product)[0];
    want = RunEverywhere(
        {.op = "BiasAdd", .inputs = {want, bias}, .outputs = {shape}})[0];
    for (int64_t activation = 0; activation < 4; ++activation) {
      SCOPED_TRACE(StrCat(c.m, "x", c.n, "x", c.k, " ", activation));
      const TestTensor got =
          RunEverywhere({.op = "Dense",
                         .inputs = {product.inputs[0], product.inputs[1], bias},
                         .outputs = {shape},
                         .ints = {activation}})[0];
      EXPECT_TRUE(SameBits(
          got, activation == 0 ? want
                               : RunEverywhere({.op = kActivations[activation],
                                                .inputs = {want},
                                                .outputs = {shape}})[0]));
    }
  }
}

TEST(MatMulTest, NoRowsAndNothingToSum) {
  RunEverywhere(MatMulCall({0, 5, 3}, false, false, 1));
  RunEverywhere(MatMulCall({5, 0, 3}, true, true, 1));
  const std::vector<TestTensor> out =
      RunEverywhere(MatMulCall({4, 5, 0}, false, false, 1));
  ExpectNear(out[0], std::vector<double>(20, 0.0), 0.0);
}

TEST(MatMulTest, InfinityStaysInItsRowAndNanPassesThrough) {
  KernelCall call = MatMulCall({40, 33, 21}, false, false, 5);
  auto* const a = static_cast<float*>(call.inputs[0].view().data);
  a[2 * 21 + 4] = std::numeric_limits<float>::infinity();
  a[39 * 21] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<TestTensor> out = RunEverywhere(call);
  for (int64_t i = 0; i < 40; ++i) {
    for (int64_t j = 0; j < 33; ++j) {
      const float y = out[0][i * 33 + j];
      ASSERT_EQ(std::isfinite(y), i != 2 && i != 39) << i << "," << j;
      ASSERT_EQ(std::isnan(y), i == 39) << i << "," << j;
    }
  }
}

TEST(MatMulTest, WorkspaceOfTheLargestShapesFitsSmallerOnes) {
  // 300 is summed in blocks of 150, 256 in one of 256.
  const StatusOr<const Kernel*> kernel = KernelRegistry().Find("cpu/MatMul");
  ASSERT_TRUE(kernel.ok());
  const auto bytes = [&](int64_t m, int64_t n, int64_t k) {
    KernelCall call = MatMulCall({m, n, k}, false, false, 1);
    const std::vector<TensorView> in = {call.inputs[0].view(),
                                        call.inputs[1].view()};
    return (*kernel)->workspace_bytes(in, {}, call.ints, 2);
  };
  EXPECT_GE(bytes(300, 40, 300), bytes(256, 40, 256));
  EXPECT_GE(bytes(300, 300, 300), bytes(299, 257, 255));
}

}  // namespace
}  // namespace shoal
