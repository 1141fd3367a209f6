// Data errors: the CPU's kernels return them, those of the GPU report one of
// the places, and neither touches memory that is not theirs.
#include <gmock/gmock.h>

#include "tests/cuda/plugin.h"

namespace shoal {
namespace {

using testing::HasSubstr;

struct Fault {
  std::string op;
  std::string what;
  int64_t position;
  double value;
  double low;
  double bound;
};

void ExpectFault(const KernelCall& call, const Fault& want) {
  ThreadPool pool(1);
  KernelCall on_cpu = call;
  std::vector<TestTensor> outputs;
  EXPECT_EQ(RunKernelOnce(on_cpu, pool, &outputs).code(),
            StatusCode::kInvalidArgument);
  const GpuResult got = RunOnGpu(call);
  ASSERT_EQ(got.error, 0) << got.text;
  ASSERT_NE(got.fault.op, nullptr) << call.op << " has not noticed";
  EXPECT_EQ(got.fault.op, want.op);
  EXPECT_EQ(got.fault.what, want.what);
  EXPECT_EQ(got.fault.position, want.position);
  EXPECT_EQ(std::isnan(got.fault.value), std::isnan(want.value));
  if (!std::isnan(want.value)) {
    EXPECT_EQ(got.fault.value, want.value);
  }
  EXPECT_EQ(got.fault.low, want.low);
  EXPECT_EQ(got.fault.bound, want.bound);

  // Forgotten once it was handed over.
  ShoalCudaFault again;
  const Plugin& plugin = Plugin::Get();
  ASSERT_EQ(plugin.table().synchronize(plugin.stream(), &again), 0);
  EXPECT_EQ(again.op, nullptr);
}

constexpr int64_t kRows = 40;

TestTensor IndexWith(int64_t n, int64_t position, int32_t bad) {
  std::vector<int32_t> index(static_cast<size_t>(n), 7);
  index[static_cast<size_t>(position)] = bad;
  return TestTensor::Of({n}, index);
}

TEST(CudaFaultsTest, IndexOutOfRange) {
  constexpr int64_t kN = 300;
  for (const int64_t dim : {3, 16}) {
    for (const int32_t bad : {-1, 40, INT32_MAX, INT32_MIN}) {
      for (const int64_t position : {0, 17, 299}) {
        const TestTensor index = IndexWith(kN, position, bad);
        const double value = bad;
        ExpectFault({.op = "Gather",
                     .inputs = {TestTensor::Uniform({kRows, dim}, 1), index},
                     .outputs = {Shape{kN, dim}}},
                    {"Gather", "index", position, value, 0.0, kRows});
        ExpectFault({.op = "GatherGrad",
                     .inputs = {TestTensor::Uniform({kN, dim}, 2), index},
                     .outputs = {Shape{kRows, dim}}},
                    {"GatherGrad", "index", position, value, 0.0, kRows});
      }
    }
  }
}

// BagPool or BagPoolGrad of 4 examples with 2 fields.
KernelCall BagCall(const std::string& op, const TestTensor& index,
                   const std::vector<int32_t>& offsets) {
  constexpr int64_t kDim = 5;
  const Shape bags = {4, 2, kDim};
  const Shape rows = {kRows, kDim};
  const bool grad = op == "BagPoolGrad";
  return {.op = op,
          .inputs = {TestTensor::Uniform(grad ? bags : rows, 3), index,
                     TestTensor::Of({static_cast<int64_t>(offsets.size())},
                                    offsets),
                     TestTensor::Uniform({index.size()}, 4)},
          .outputs = {grad ? rows : bags},
          .ints = {2, 1}};
}

TEST(CudaFaultsTest, BagsWithBadIndexOrOffsets) {
  constexpr int64_t kN = 20;
  const std::vector<int32_t> good = {1, 3, 3, 6, 9, 12, 13, 15, 18};
  for (const char* op : {"BagPool", "BagPoolGrad"}) {
    for (const int32_t bad : {-5, 40, INT32_MAX}) {
      ExpectFault(BagCall(op, IndexWith(kN, 12, bad), good),
                  {op, "index", 12, static_cast<double>(bad), 0.0, kRows});
    }
    // What no bag has is not looked at.
    const GpuResult unused =
        RunOnGpu(BagCall(op, IndexWith(kN, 18, INT32_MIN), good));
    EXPECT_EQ(unused.error, 0);
    EXPECT_EQ(unused.fault.op, nullptr) << op;

    const TestTensor index = IndexWith(kN, 0, 7);
    const auto with = [&](size_t at, int32_t value) {
      std::vector<int32_t> offsets = good;
      offsets[at] = value;
      return BagCall(op, index, offsets);
    };
    ExpectFault(with(0, -1), {op, "offsets", 0, -1.0, 0.0, kN + 1});
    ExpectFault(with(8, 21), {op, "offsets", 8, 21.0, 15.0, kN + 1});
    ExpectFault(with(8, INT32_MAX),
                {op, "offsets", 8, INT32_MAX, 15.0, kN + 1});
    ExpectFault(with(4, 5), {op, "offsets", 4, 5.0, 6.0, kN + 1});
    ExpectFault(with(4, INT32_MIN), {op, "offsets", 4, INT32_MIN, 6.0, kN + 1});
    ExpectFault(with(4, 1000), {op, "offsets", 4, 1000.0, 6.0, kN + 1});
  }
}

TEST(CudaFaultsTest, TooFewOffsetsAreBadArguments) {
  for (const char* op : {"BagPool", "BagPoolGrad"}) {
    const GpuResult got = RunOnGpu(BagCall(op, IndexWith(20, 0, 7), {0, 1, 2}));
    EXPECT_NE(got.error, 0);
    EXPECT_THAT(got.text, HasSubstr(StrCat(
                              op, ": offsets has 3 elements; 8 bags need 9")));
  }
}

TEST(CudaFaultsTest, LabelsThatAreNoClass) {
  constexpr int64_t kN = 33;
  constexpr int64_t kClasses = 18;
  for (const float bad : {-1.0F, 18.0F, 2.5F, 1e30F, std::nanf(""),
                          std::numeric_limits<float>::infinity()}) {
    std::vector<float> values(static_cast<size_t>(kN), 3.0F);
    values[32] = bad;
    const TestTensor labels = TestTensor::Of({kN, 1}, values);
    const TestTensor z = TestTensor::Uniform({kN, kClasses}, 5);
    ExpectFault({.op = "SoftmaxCrossEntropy",
                 .inputs = {z, labels},
                 .outputs = {Shape{kN, 1}}},
                {"SoftmaxCrossEntropy", "labels", 32, bad, 0.0, kClasses});
    ExpectFault({.op = "SoftmaxCrossEntropyGrad",
                 .inputs = {z, labels, TestTensor::Uniform({kN, 1}, 6)},
                 .outputs = {Shape{kN, kClasses}}},
                {"SoftmaxCrossEntropyGrad", "labels", 32, bad, 0.0, kClasses});
  }
  ExpectFault({.op = "SoftmaxCrossEntropy",
               .inputs = {TestTensor(Shape{1, 0}, DType::kF32),
                          TestTensor::Of<float>({1, 1}, {0.0F})},
               .outputs = {Shape{1, 1}}},
              {"SoftmaxCrossEntropy", "labels", 0, 0.0, 0.0, 0.0});
}

// The first kernel's is kept, whatever comes after it.
TEST(CudaFaultsTest, TheFirstKernelOfTheStreamIsNamed) {
  const Plugin& plugin = Plugin::Get();
  const GpuCall good(
      {.op = "Gather",
       .inputs = {TestTensor::Uniform({kRows, 3}, 1), IndexWith(50, 0, 1)},
       .outputs = {Shape{50, 3}}},
      {});
  const GpuCall first(
      {.op = "GatherGrad",
       .inputs = {TestTensor::Uniform({50, 3}, 1), IndexWith(50, 30, 99)},
       .outputs = {Shape{kRows, 3}}},
      {});
  const GpuCall second(
      {.op = "Gather",
       .inputs = {TestTensor::Uniform({kRows, 3}, 1), IndexWith(50, 10, 77)},
       .outputs = {Shape{50, 3}}},
      {});
  for (const GpuCall* call : {&good, &first, &second, &good}) {
    ASSERT_EQ(call->Enqueue(plugin.stream()), 0);
  }
  ShoalCudaFault fault;
  ASSERT_EQ(plugin.table().synchronize(plugin.stream(), &fault), 0);
  ASSERT_NE(fault.op, nullptr);
  EXPECT_STREQ(fault.op, "GatherGrad");
  EXPECT_EQ(fault.position, 30);
  EXPECT_EQ(fault.value, 99.0);
}

}  // namespace
}  // namespace shoal
