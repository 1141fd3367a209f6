#include <gtest/gtest.h>

#include "kernels/kernel_testing.h"

namespace shoal {
namespace {

TEST(RearrangeTest, BroadcastsRepeatTheirInput) {
  for (const Shape& shape : {Shape{0, 4}, Shape{3, 1}, Shape{701, 53}}) {
    const int64_t m = shape.dim(0);
    const int64_t n = shape.dim(1);
    const TestTensor like = TestTensor::Uniform(shape, 9);
    const TestTensor row = TestTensor::Uniform({n}, 1);
    const TestTensor column = TestTensor::Uniform({m, 1}, 2);
    const TestTensor scalar = TestTensor::Uniform({1}, 3);
    const auto run = [&](const char* op, const TestTensor& x) {
      return RunEverywhere(
          {.op = op, .inputs = {x, like}, .outputs = {shape}})[0];
    };
    const TestTensor rows = run("BroadcastRow", row);
    const TestTensor columns = run("BroadcastCol", column);
    const TestTensor scalars = run("BroadcastScalar", scalar);
    for (int64_t i = 0; i < shape.num_elements(); ++i) {
      ASSERT_EQ(rows[i], row[i % n]);
      ASSERT_EQ(columns[i], column[i / n]);
      ASSERT_EQ(scalars[i], scalar[0]);
    }
  }
}

TEST(RearrangeTest, ConcatPutsInputsSideBySide) {
  for (const int64_t m : {0, 1, 903}) {
    const int64_t widths[] = {3, 0, 64, 1};
    KernelCall call{
        .op = "Concat", .inputs = {}, .outputs = {Shape{m, 3 + 64 + 1}}};
    for (const int64_t width : widths) {
      call.inputs.push_back(
          TestTensor::Uniform({m, width}, static_cast<uint64_t>(width)));
    }
    const TestTensor out = RunEverywhere(call)[0];
    for (int64_t r = 0; r < m; ++r) {
      int64_t column = 0;
      for (size_t k = 0; k < 4; ++k) {
        for (int64_t j = 0; j < widths[k]; ++j, ++column) {
          ASSERT_EQ(out[r * 68 + column], call.inputs[k][r * widths[k] + j]);
        }
      }
    }
  }
}

TEST(RearrangeTest, SliceAndItsGradientKeepTheSameColumns) {
  for (const int64_t m : {0, 1, 1201}) {
    const TestTensor x = TestTensor::Uniform({m, 41}, 1);
    const TestTensor y = RunEverywhere({.op = "Slice",
                                        .inputs = {x},
                                        .outputs = {Shape{m, 17}},
                                        .ints = {5, 17}})[0];
    const TestTensor dx = RunEverywhere({.op = "SliceGrad",
                                         .inputs = {y, x},
                                         .outputs = {Shape{m, 41}},
                                         .ints = {5, 17}})[0];
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t j = 0; j < 41; ++j) {
        const bool kept = j >= 5 && j < 22;
        if (kept) {
          ASSERT_EQ(y[r * 17 + j - 5], x[r * 41 + j]);
        }
        ASSERT_EQ(dx[r * 41 + j], kept ? x[r * 41 + j] : 0.0F);
      }
    }
  }
}

}  // namespace
}  // namespace shoal
