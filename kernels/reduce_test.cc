#include <cmath>

#include <gtest/gtest.h>

#include "kernels/kernel_testing.h"

namespace shoal {
namespace {

const std::vector<Shape>& ReduceShapes() {
  static const std::vector<Shape> shapes = {
      {0, 3},    {1, 1},    {3, 0},     {7, 5},     {64, 64},  {65, 129},
      {2048, 1}, {130, 16}, {1029, 67}, {3, 40000}, {200, 400}};
  return shapes;
}

// f32 sums by blocks and lanes: far fewer additions than this in a row.
double SumBound(int64_t n) {
  return (64.0 + static_cast<double>(n) / 16.0) * 0x1.0p-24 *
         std::sqrt(static_cast<double>(n) + 1.0);
}

TEST(ReduceTest, SumsToOneNumberMatchDoubleOracle) {
  for (const Shape& shape : ReduceShapes()) {
    SCOPED_TRACE(shape.ToString());
    const TestTensor a = TestTensor::Uniform(shape, 3);
    const TestTensor b = TestTensor::Uniform(shape, 4);
    double sum = 0.0;
    double dot = 0.0;
    double squares = 0.0;
    for (int64_t i = 0; i < a.size(); ++i) {
      sum += a[i];
      dot += double{a[i]} * b[i];
      squares += double{a[i]} * a[i];
    }
    const double bound = SumBound(a.size()) + 0x1.0p-23 * squares;
    const Shape one = {1};
    ExpectNear(
        RunEverywhere({.op = "ReduceSum", .inputs = {a}, .outputs = {one}})[0],
        {sum}, bound);
    ExpectNear(
        RunEverywhere({.op = "Dot", .inputs = {a, b}, .outputs = {one}})[0],
        {dot}, bound);
    ExpectNear(
        RunEverywhere({.op = "L2Penalty", .inputs = {a}, .outputs = {one}})[0],
        {0.5 * squares}, bound);
  }
}

TEST(ReduceTest, RowAndColumnSumsMatchDoubleOracle) {
  for (const Shape& shape : ReduceShapes()) {
    SCOPED_TRACE(shape.ToString());
    const int64_t m = shape.dim(0);
    const int64_t n = shape.dim(1);
    const TestTensor x = TestTensor::Uniform(shape, 5);
    std::vector<double> rows(static_cast<size_t>(m));
    std::vector<double> columns(static_cast<size_t>(n));
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        rows[static_cast<size_t>(i)] += x[i * n + j];
        columns[static_cast<size_t>(j)] += x[i * n + j];
      }
    }
    ExpectNear(
        RunEverywhere(
            {.op = "RowSum", .inputs = {x}, .outputs = {Shape{m, 1}}})[0],
        rows, SumBound(n));
    ExpectNear(
        RunEverywhere(
            {.op = "ColumnSum", .inputs = {x}, .outputs = {Shape{n}}})[0],
        columns, SumBound(m));
  }
}

TEST(ReduceTest, ColumnSumTakesLeadingAxesAsRows) {
  const TestTensor x = TestTensor::Uniform({3, 5, 7}, 6);
  std::vector<double> want(7);
  for (int64_t i = 0; i < x.size(); ++i) {
    want[static_cast<size_t>(i % 7)] += x[i];
  }
  ExpectNear(RunEverywhere(
                 {.op = "ColumnSum", .inputs = {x}, .outputs = {Shape{7}}})[0],
             want, 1e-5);
}

// The promised order, written out: blocks of 64 rows, then the binary tree.
TEST(ReduceTest, ColumnSumFollowsTheTreeOverBlocksOfRows) {
  constexpr int64_t kRows = 64 * 5 + 9;
  const TestTensor x = TestTensor::Uniform({kRows, 1}, 7);
  std::vector<float> blocks;
  for (int64_t r = 0; r < kRows; r += 64) {
    float sum = 0.0F;
    for (int64_t i = r; i < std::min(kRows, r + 64); ++i) {
      sum += x[i];
    }
    blocks.push_back(sum);
  }
  ASSERT_EQ(blocks.size(), 6U);
  const float four = (blocks[0] + blocks[1]) + (blocks[2] + blocks[3]);
  const float want = four + ((blocks[4] + blocks[5]) + 0.0F);
  const std::vector<TestTensor> out =
      RunEverywhere({.op = "ColumnSum", .inputs = {x}, .outputs = {Shape{1}}});
  EXPECT_EQ(out[0][0], want);
}

}  // namespace
}  // namespace shoal
