#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/kernel_testing.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

// Dimensions with loops of their own and others.
constexpr int64_t kDims[] = {1, 8, 13, 16, 24, 32, 40};

TEST(EmbeddingTest, GatherCopiesRows) {
  for (const int64_t dim : kDims) {
    for (const int64_t batch : {0, 1, 1500}) {
      KernelCall call{.op = "Gather",
                      .inputs = {TestTensor::Uniform({97, dim}, 1),
                                 TestTensor::Index({batch, 3}, 2, 97)},
                      .outputs = {Shape{batch, 3, dim}}};
      const TestTensor out = RunEverywhere(call)[0];
      const int32_t* const index = call.inputs[1].as<int32_t>();
      for (int64_t i = 0; i < out.size(); ++i) {
        ASSERT_EQ(out[i], call.inputs[0][index[i / dim] * dim + i % dim]);
      }
    }
  }
}

// Additions in f32 in the order of positions: bits, not a tolerance.
TEST(EmbeddingTest, GatherGradAddsDuplicatesInPositionOrder) {
  for (const int64_t dim : kDims) {
    for (const int64_t batch : {0, 1, 12000}) {
      // Fewer rows than positions, and some rows that nothing points to. The
      // largest batch is so large that threads share the rows.
      const Shape rows = {batch == 0 ? 0 : 211, dim};
      KernelCall call{.op = "GatherGrad",
                      .inputs = {TestTensor::Uniform({batch, 3, dim}, 1),
                                 TestTensor::Index({batch, 3}, 2, 200),
                                 TestTensor::Uniform(rows, 3)},
                      .outputs = {rows}};
      const TestTensor out = RunEverywhere(call)[0];
      std::vector<float> want(static_cast<size_t>(rows.num_elements()));
      const int32_t* const index = call.inputs[1].as<int32_t>();
      for (int64_t j = 0; j < batch * 3; ++j) {
        for (int64_t k = 0; k < dim; ++k) {
          want[static_cast<size_t>(index[j] * dim + k)] +=
              call.inputs[0][j * dim + k];
        }
      }
      for (int64_t i = 0; i < out.size(); ++i) {
        ASSERT_EQ(out[i], want[static_cast<size_t>(i)]) << dim << " " << i;
      }
    }
  }
}

struct BagInputs {
  TestTensor rows;
  TestTensor index;
  TestTensor offsets;
  TestTensor weights;
};

// Bags of 0 to 4 positions. The first offset may leave positions out.
BagInputs RandomBags(int64_t bags, int64_t dim, int64_t rows, int64_t first) {
  Random random(11);
  std::vector<int32_t> offsets = {static_cast<int32_t>(first)};
  for (int64_t s = 0; s < bags; ++s) {
    offsets.push_back(offsets.back() + static_cast<int32_t>(random.Below(5)));
  }
  const int64_t n = offsets.back() + 2;  // two more that no bag has
  return {TestTensor::Uniform({rows, dim}, 1), TestTensor::Index({n}, 2, rows),
          TestTensor::Of<int32_t>({bags + 1}, offsets),
          TestTensor::Uniform({n}, 3, 0.5, 2.0)};
}

TEST(EmbeddingTest, BagPoolMatchesDoubleOracle) {
  for (const int64_t dim : kDims) {
    for (const int64_t batch : {0, 1, 700}) {
      for (const bool mean : {false, true}) {
        const BagInputs bags = RandomBags(batch * 2, dim, 50, 1);
        const TestTensor out = RunEverywhere(
            {.op = "BagPool",
             .inputs = {bags.rows, bags.index, bags.offsets, bags.weights},
             .outputs = {Shape{batch, 2, dim}},
             .ints = {2, mean ? 1 : 0}})[0];
        std::vector<double> want(static_cast<size_t>(out.size()));
        const int32_t* const offset = bags.offsets.as<int32_t>();
        for (int64_t s = 0; s < batch * 2; ++s) {
          const double count = mean ? offset[s + 1] - offset[s] : 1.0;
          for (int64_t j = offset[s]; j < offset[s + 1]; ++j) {
            for (int64_t k = 0; k < dim; ++k) {
              want[static_cast<size_t>(s * dim + k)] +=
                  double{bags.weights[j]} / count *
                  bags.rows[bags.index.as<int32_t>()[j] * dim + k];
            }
          }
        }
        ExpectNear(out, want, 1e-5);
      }
    }
  }
}

TEST(EmbeddingTest, BagPoolGradMatchesDoubleOracle) {
  for (const int64_t dim : kDims) {
    for (const int64_t batch : {0, 1, 9000}) {
      for (const bool mean : {false, true}) {
        const BagInputs bags = RandomBags(batch * 2, dim, 600, 1);
        const TestTensor dy = TestTensor::Uniform({batch, 2, dim}, 9);
        const TestTensor out = RunEverywhere(
            {.op = "BagPoolGrad",
             .inputs = {dy, bags.index, bags.offsets, bags.weights, bags.rows},
             .outputs = {bags.rows.shape()},
             .ints = {2, mean ? 1 : 0}})[0];
        std::vector<double> want(static_cast<size_t>(out.size()));
        const int32_t* const offset = bags.offsets.as<int32_t>();
        for (int64_t s = 0; s < batch * 2; ++s) {
          const double count = mean ? offset[s + 1] - offset[s] : 1.0;
          for (int64_t j = offset[s]; j < offset[s + 1]; ++j) {
            for (int64_t k = 0; k < dim; ++k) {
              const int64_t row = bags.index.as<int32_t>()[j];
              want[static_cast<size_t>(row * dim + k)] +=
                  double{bags.weights[j]} / count * dy[s * dim + k];
            }
          }
        }
        // About 60 terms a row and at most 100, each below 2.
        ExpectNear(out, want, 100 * 200 * 0x1.0p-24);
      }
    }
  }
}

// Runs once and gives the error.
Status ErrorOf(KernelCall call) {
  ThreadPool pool(2);
  std::vector<TestTensor> outputs;
  return RunKernelOnce(call, pool, &outputs);
}

TEST(EmbeddingTest, AnIndexOutsideTheRowsIsInvalidArgumentNamingIt) {
  for (const int32_t bad : {-1, 5, 2147483647}) {
    const TestTensor rows = TestTensor::Uniform({5, 4}, 1);
    const TestTensor index = TestTensor::Of<int32_t>({2, 2}, {0, 4, bad, 1});
    const Status gather = ErrorOf(
        {.op = "Gather", .inputs = {rows, index}, .outputs = {Shape{2, 2, 4}}});
    EXPECT_EQ(gather.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(gather.message(),
                HasSubstr(StrCat("index[2] is ", bad, ", outside [0, 5)")));
    const Status grad =
        ErrorOf({.op = "GatherGrad",
                 .inputs = {TestTensor::Uniform({2, 2, 4}, 1), index, rows},
                 .outputs = {Shape{5, 4}}});
    EXPECT_EQ(grad.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(grad.message(), HasSubstr("index[2]"));
    const Status bag =
        ErrorOf({.op = "BagPool",
                 .inputs = {rows, TestTensor::Of<int32_t>({4}, {0, 4, bad, 1}),
                            TestTensor::Of<int32_t>({3}, {0, 1, 3}),
                            TestTensor::Uniform({4}, 1)},
                 .outputs = {Shape{2, 1, 4}},
                 .ints = {1, 0}});
    EXPECT_EQ(bag.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(bag.message(), HasSubstr("index[2]"));
  }
}

TEST(EmbeddingTest, OffsetsThatFallOrLeaveTheBagsAreInvalidArgument) {
  const std::vector<std::vector<int32_t>> broken = {
      {0, 2, 1}, {-1, 0, 1}, {0, 1, 5}, {0, 1}};
  for (const std::vector<int32_t>& offsets : broken) {
    const TestTensor rows = TestTensor::Uniform({5, 4}, 1);
    const TestTensor index = TestTensor::Index({4}, 1, 5);
    const TestTensor weights = TestTensor::Uniform({4}, 2);
    const TestTensor offset = TestTensor::Of<int32_t>(
        Shape{static_cast<int64_t>(offsets.size())}, offsets);
    const Status pool = ErrorOf({.op = "BagPool",
                                 .inputs = {rows, index, offset, weights},
                                 .outputs = {Shape{2, 1, 4}},
                                 .ints = {1, 0}});
    EXPECT_EQ(pool.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(pool.message(), HasSubstr("offsets"));
    const Status grad = ErrorOf({.op = "BagPoolGrad",
                                 .inputs = {TestTensor::Uniform({2, 1, 4}, 1),
                                            index, offset, weights, rows},
                                 .outputs = {Shape{5, 4}},
                                 .ints = {1, 0}});
    EXPECT_EQ(grad.code(), StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace shoal
