// Every kernel of the plug-in against the CPU's, bit for bit.
#include <set>

#include "tests/cuda/plugin.h"

namespace shoal {
namespace {

TEST(CudaOpsTest, EveryCpuKernelHasOneAndThereAreNoOthers) {
  std::set<std::string> cpu;
  for (const std::string& name : KernelRegistry().Names()) {
    constexpr std::string_view kPrefix = "cpu/";
    if (name.starts_with(kPrefix)) {
      cpu.insert(name.substr(kPrefix.size()));
    }
  }
  std::set<std::string> cuda;
  const ShoalCudaTable& table = Plugin::Get().table();
  for (int i = 0; i < table.num_kernels; ++i) {
    EXPECT_TRUE(cuda.insert(table.kernels[i].op).second)
        << table.kernels[i].op << " is there twice";
  }
  EXPECT_GT(cpu.size(), 40U);
  EXPECT_EQ(cuda, cpu);
}

const std::vector<Shape>& Shapes() {
  static const std::vector<Shape> shapes = {
      {0, 3},   {3, 0},   {1, 1},    {1, 7},   {5, 3},    {16, 4},   {31, 33},
      {255, 1}, {257, 1}, {1, 1025}, {64, 64}, {130, 66}, {1029, 67}};
  return shapes;
}

// With what is special about f32: zeros of both signs, infinities, NaN,
// subnormals, and what overflows.
TestTensor Numbers(const Shape& shape, uint64_t seed) {
  Random random(seed);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kSpecial[] = {
      0.0F,  -0.0F,  kInfinity, -kInfinity, std::nanf(""), 1e-40F, -1e-40F,
      3e38F, -3e38F, 88.8F,     -103.0F,    1.0F,          1e-20F, -1e-20F};
  std::vector<float> values(static_cast<size_t>(shape.num_elements()));
  for (float& value : values) {
    value = random.Below(8) == 0
                ? kSpecial[random.Below(std::size(kSpecial))]
                : static_cast<float>(20.0 * (random.Uniform() - 0.5));
  }
  return TestTensor::Of(shape, values);
}

struct ElementwiseKind {
  const char* op;
  int inputs;
  int outputs;
  bool has_float;
  bool has_scalar;
};

const std::vector<ElementwiseKind>& ElementwiseKinds() {
  static const std::vector<ElementwiseKind> kinds = {
#define SHOAL_ELEMENTWISE(op, fn, inputs, outputs) \
  {#op, inputs, outputs, false, false},
#define SHOAL_ELEMENTWISE_FLOAT(op, fn, inputs) {#op, inputs, 1, true, false},
#define SHOAL_ELEMENTWISE_SCALAR(op, fn, inputs) {#op, inputs, 1, false, true},
#include "kernels/elementwise_ops.inc"
#undef SHOAL_ELEMENTWISE
#undef SHOAL_ELEMENTWISE_FLOAT
#undef SHOAL_ELEMENTWISE_SCALAR
  };
  return kinds;
}

KernelCall ElementwiseCall(const ElementwiseKind& kind, const Shape& shape) {
  KernelCall call = {.op = kind.op};
  for (int i = 0; i < kind.inputs; ++i) {
    call.inputs.push_back(Numbers(shape, 11 + static_cast<uint64_t>(i)));
  }
  if (kind.has_scalar) {
    call.inputs.push_back(TestTensor::Of<float>({1}, {-1.7F}));
  }
  if (kind.has_float) {
    call.floats = {0.3};
  }
  call.outputs.assign(static_cast<size_t>(kind.outputs), shape);
  return call;
}

TEST(CudaOpsTest, ElementwiseAlignedAndNot) {
  for (const ElementwiseKind& kind : ElementwiseKinds()) {
    for (const Shape& shape : Shapes()) {
      const KernelCall call = ElementwiseCall(kind, shape);
      ExpectBitsOfCpu(call);
      ExpectBitsOfCpu(call, {.offset_bytes = 4});
    }
  }
}

TEST(CudaOpsTest, ElementwiseInPlace) {
  for (const ElementwiseKind& kind : ElementwiseKinds()) {
    for (const Shape& shape : {Shape{31, 33}, Shape{64, 64}}) {
      const KernelCall call = ElementwiseCall(kind, shape);
      for (int input = 0; input < kind.inputs; ++input) {
        std::vector<int> in_place = {input};
        if (kind.outputs == 2) {
          in_place.push_back((input + 1) % kind.inputs);
        }
        ExpectBitsOfCpu(call, {.in_place = in_place});
      }
    }
  }
}

// 150: more than one kernel takes.
TEST(CudaOpsTest, AddNOfManyInPlaceOfAny) {
  for (const int count : {1, 2, 3, 17, 64, 65, 150}) {
    for (const Shape& shape : {Shape{0, 3}, Shape{7, 5}, Shape{64, 65}}) {
      KernelCall call = {.op = "AddN", .outputs = {shape}};
      for (int i = 0; i < count; ++i) {
        call.inputs.push_back(Numbers(shape, static_cast<uint64_t>(i)));
      }
      ExpectBitsOfCpu(call);
      ExpectBitsOfCpu(call, {.in_place = {0}});
      ExpectBitsOfCpu(call, {.in_place = {count - 1}});
    }
  }
}

TEST(CudaOpsTest, BiasAddDropoutAndBroadcasts) {
  for (const Shape& shape : Shapes()) {
    const TestTensor x = Numbers(shape, 1);
    const Shape row = {shape.dim(1)};
    const Shape column = {shape.dim(0), 1};
    const std::vector<Shape> like = {shape};
    ExpectBitsOfCpu(
        {.op = "BiasAdd", .inputs = {x, Numbers(row, 2)}, .outputs = like});
    ExpectBitsOfCpu(
        {.op = "BiasAdd", .inputs = {x, Numbers(row, 2)}, .outputs = like},
        {.in_place = {0}});
    const TestTensor seed = TestTensor::Of<uint64_t>({1}, {0x1234567890abcdef});
    for (const char* op : {"Dropout", "DropoutGrad"}) {
      ExpectBitsOfCpu(
          {.op = op, .inputs = {x, seed}, .outputs = like, .floats = {0.3}});
    }
    ExpectBitsOfCpu(
        {.op = "BroadcastRow", .inputs = {Numbers(row, 3)}, .outputs = like});
    ExpectBitsOfCpu({.op = "BroadcastCol",
                     .inputs = {Numbers(column, 4)},
                     .outputs = like});
    ExpectBitsOfCpu({.op = "BroadcastScalar",
                     .inputs = {TestTensor::Of<float>({1}, {2.5F})},
                     .outputs = like});
  }
  ExpectBitsOfCpu({.op = "BroadcastRow",
                   .inputs = {Numbers({7}, 3)},
                   .outputs = {Shape{3, 5, 7}}});
}

TEST(CudaOpsTest, ConcatAndSlices) {
  for (const int64_t rows : {0, 1, 3, 300}) {
    KernelCall concat = {.op = "Concat"};
    int64_t width = 0;
    for (const int64_t w : {1, 16, 0, 7, 300}) {
      concat.inputs.push_back(
          Numbers({rows, w}, static_cast<uint64_t>(w + rows)));
      width += w;
      concat.outputs = {Shape{rows, width}};
      ExpectBitsOfCpu(concat);
    }
    for (const int64_t n : {1, 5, 64, 130}) {
      for (const int64_t size : {int64_t{0}, int64_t{1}, n / 2, n}) {
        for (const int64_t first : {int64_t{0}, n - size}) {
          ExpectBitsOfCpu({.op = "Slice",
                           .inputs = {Numbers({rows, n}, 5)},
                           .outputs = {Shape{rows, size}},
                           .ints = {first, size}});
          ExpectBitsOfCpu(
              {.op = "SliceGrad",
               .inputs = {Numbers({rows, size}, 6), Numbers({rows, n}, 7)},
               .outputs = {Shape{rows, n}},
               .ints = {first, size}});
        }
      }
    }
  }
}

// Around the blocks of 4096 elements and of 64 rows, and trees over many.
TEST(CudaOpsTest, Sums) {
  std::vector<Shape> shapes = Shapes();
  shapes.insert(shapes.end(), {{4096, 1},
                               {1, 4097},
                               {3, 40000},
                               {2048, 1},
                               {64 * 5 + 9, 1},
                               {64 * 64, 33},
                               {64 * 37 + 1, 40},
                               {300, 4111}});
  for (const Shape& shape : shapes) {
    const TestTensor x = TestTensor::Uniform(shape, 1, -100.0, 100.0);
    const TestTensor y = TestTensor::Uniform(shape, 2);
    const Shape one = {1};
    const Shape rows = {shape.dim(0), 1};
    const Shape columns = {shape.dim(1)};
    ExpectBitsOfCpu({.op = "ReduceSum", .inputs = {x}, .outputs = {one}});
    ExpectBitsOfCpu({.op = "Dot", .inputs = {x, y}, .outputs = {one}});
    ExpectBitsOfCpu({.op = "L2Penalty", .inputs = {x}, .outputs = {one}});
    ExpectBitsOfCpu({.op = "RowSum", .inputs = {x}, .outputs = {rows}});
    ExpectBitsOfCpu({.op = "ColumnSum", .inputs = {x}, .outputs = {columns}});
  }
  ExpectBitsOfCpu({.op = "ColumnSum",
                   .inputs = {TestTensor::Uniform({30, 50, 7}, 3)},
                   .outputs = {Shape{7}}});
  // A single -0, which a sum that begins at 0 does not keep, and NaN.
  for (const float value : {-0.0F, std::nanf("")}) {
    const TestTensor x = TestTensor::Of<float>({1, 1}, {value});
    for (const char* op : {"ReduceSum", "L2Penalty", "RowSum"}) {
      ExpectBitsOfCpu({.op = op, .inputs = {x}, .outputs = {Shape{1, 1}}});
    }
    ExpectBitsOfCpu({.op = "ColumnSum", .inputs = {x}, .outputs = {Shape{1}}});
  }
}

// More blocks than a thread sums by itself: the trees within threads.
TEST(CudaOpsTest, SumsOfMoreBlocksThanThreads) {
  const TestTensor x = TestTensor::Uniform({2'500'003}, 4, -1e3, 1e3);
  ExpectBitsOfCpu({.op = "ReduceSum", .inputs = {x}, .outputs = {Shape{1}}});
}

// Half of the positions go to three hot rows; many rows get none.
TestTensor SkewedIndex(int64_t n, int64_t rows, uint64_t seed) {
  Random random(seed);
  std::vector<int32_t> index(static_cast<size_t>(n));
  for (int32_t& row : index) {
    const auto hot = random.Below(2) == 0;
    row = static_cast<int32_t>(random.Below(
        static_cast<uint64_t>(hot ? std::min<int64_t>(3, rows) : rows)));
  }
  return TestTensor::Of({n}, index);
}

TEST(CudaOpsTest, GatherAndItsGradient) {
  for (const int64_t dim : {1, 3, 8, 16, 20, 33}) {
    for (const auto& [n, rows] : std::vector<std::pair<int64_t, int64_t>>{
             {0, 5}, {1, 1}, {7, 300}, {257, 40}, {1000, 1}, {3001, 700}}) {
      const TestTensor index = SkewedIndex(n, rows, 21);
      for (const int64_t offset : {0, 4}) {
        ExpectBitsOfCpu({.op = "Gather",
                         .inputs = {Numbers({rows, dim}, 22), index},
                         .outputs = {Shape{n, dim}}},
                        {.offset_bytes = offset});
      }
      ExpectBitsOfCpu(
          {.op = "GatherGrad",
           .inputs = {TestTensor::Uniform({n, dim}, 23, -50.0, 50.0), index},
           .outputs = {Shape{rows, dim}}});
    }
  }
}

// Bags of 0 to 6 positions that begin at `first` and end before the last one.
std::vector<int32_t> Offsets(int64_t bags, int32_t first) {
  Random random(31);
  std::vector<int32_t> offsets = {first};
  for (int64_t s = 0; s < bags; ++s) {
    offsets.push_back(offsets.back() + static_cast<int32_t>(random.Below(7)));
  }
  return offsets;
}

TEST(CudaOpsTest, BagPoolAndItsGradient) {
  for (const int64_t dim : {1, 8, 16, 19}) {
    for (const int64_t examples : {0, 1, 50, 333}) {
      for (const int64_t mean : {0, 1}) {
        constexpr int64_t kFields = 3;
        constexpr int64_t kRows = 90;
        const std::vector<int32_t> offsets = Offsets(examples * kFields, 2);
        const int64_t n = offsets.back() + 3;
        const auto num_offsets = static_cast<int64_t>(offsets.size());
        const TestTensor index = SkewedIndex(n, kRows, 32);
        const TestTensor at = TestTensor::Of({num_offsets}, offsets);
        const TestTensor weights = TestTensor::Uniform({n}, 33);
        const Shape out = {examples, kFields, dim};
        ExpectBitsOfCpu({.op = "BagPool",
                         .inputs = {TestTensor::Uniform({kRows, dim}, 34),
                                    index, at, weights},
                         .outputs = {out},
                         .ints = {kFields, mean}});
        ExpectBitsOfCpu({.op = "BagPoolGrad",
                         .inputs = {TestTensor::Uniform(out, 35, -9.0, 9.0),
                                    index, at, weights},
                         .outputs = {Shape{kRows, dim}},
                         .ints = {kFields, mean}});
      }
    }
  }
}

TEST(CudaOpsTest, Interactions) {
  for (const Shape& shape :
       {Shape{0, 3, 4}, Shape{3, 1, 4}, Shape{1, 2, 1}, Shape{2, 5, 0},
        Shape{5, 4, 7}, Shape{33, 27, 16}, Shape{9, 8, 27}, Shape{3, 40, 65},
        Shape{2, 70, 130}, Shape{300, 6, 8}}) {
    const int64_t b = shape.dim(0);
    const int64_t pairs = shape.dim(1) * (shape.dim(1) - 1) / 2;
    const TestTensor x = TestTensor::Uniform(shape, 41, -3.0, 3.0);
    ExpectBitsOfCpu(
        {.op = "FmInteraction", .inputs = {x}, .outputs = {Shape{b, 1}}});
    ExpectBitsOfCpu({.op = "FmInteractionGrad",
                     .inputs = {x, TestTensor::Uniform({b, 1}, 42)},
                     .outputs = {shape}});
    ExpectBitsOfCpu(
        {.op = "DotInteraction", .inputs = {x}, .outputs = {Shape{b, pairs}}});
    ExpectBitsOfCpu({.op = "DotInteractionGrad",
                     .inputs = {x, TestTensor::Uniform({b, pairs}, 43)},
                     .outputs = {shape}});
  }
}

TestTensor Labels(int64_t n, int64_t classes) {
  Random random(51);
  std::vector<float> labels(static_cast<size_t>(n));
  for (float& label : labels) {
    label = static_cast<float>(random.Below(static_cast<uint64_t>(classes)));
  }
  return TestTensor::Of({n, 1}, labels);
}

TEST(CudaOpsTest, Softmaxes) {
  for (const int64_t rows : {0, 1, 2, 33, 301}) {
    for (const int64_t classes : {1, 2, 10, 16, 17, 300}) {
      const Shape shape = {rows, classes};
      const Shape column = {rows, 1};
      const TestTensor labels = Labels(rows, classes);
      for (const TestTensor& z :
           {TestTensor::Uniform(shape, 52, -30.0, 30.0), Numbers(shape, 53)}) {
        ExpectBitsOfCpu({.op = "Softmax", .inputs = {z}, .outputs = {shape}});
        ExpectBitsOfCpu({.op = "SoftmaxCrossEntropy",
                         .inputs = {z, labels},
                         .outputs = {column}});
        ExpectBitsOfCpu({.op = "SoftmaxCrossEntropyGrad",
                         .inputs = {z, labels, TestTensor::Uniform(column, 54)},
                         .outputs = {shape}});
      }
    }
  }
  ExpectBitsOfCpu({.op = "Softmax",
                   .inputs = {Numbers({3, 0}, 1)},
                   .outputs = {Shape{3, 0}}});
}

KernelCall MatMulCall(int64_t m, int64_t n, int64_t k, bool ta, bool tb) {
  const Shape a = ta ? Shape{k, m} : Shape{m, k};
  const Shape b = tb ? Shape{n, k} : Shape{k, n};
  return {.op = "MatMul",
          .inputs = {TestTensor::Uniform(a, 61), TestTensor::Uniform(b, 62)},
          .outputs = {Shape{m, n}},
          .ints = {ta, tb}};
}

template <typename Body>
void ForProducts(const Body& body) {
  // Tiles of every kind on the stand-in, which has 2 multiprocessors, and
  // edges on all sides of them.
  constexpr int64_t kSizes[][3] = {
      {0, 3, 4},      {3, 0, 4},    {3, 4, 0},      {1, 1, 1},
      {1, 1, 300},    {5, 7, 3},    {2, 300, 65},   {300, 1, 400},
      {1, 300, 77},   {8, 130, 33}, {130, 8, 64},   {33, 31, 32},
      {64, 64, 64},   {65, 130, 9}, {129, 257, 17}, {256, 128, 8},
      {132, 260, 20}, {17, 20, 500}};
  for (const auto& [m, n, k] : kSizes) {
    for (const int transposes : {0, 1, 2, 3}) {
      body(MatMulCall(m, n, k, (transposes & 1) != 0, (transposes & 2) != 0));
    }
  }
}

TEST(CudaOpsTest, ExactProductsAreTheChainsOfTheCpu) {
  ForProducts([](const KernelCall& call) {
    ExpectBitsOfCpu(call);
    ExpectBitsOfCpu(call, {.offset_bytes = 4});
  });
}

// The largest tiles also where there are many multiprocessors.
TEST(CudaOpsTest, ExactProductsOfLargeMatrices) {
  ExpectBitsOfCpu(MatMulCall(1600, 1450, 36, false, false));
  ExpectBitsOfCpu(MatMulCall(700, 1030, 40, true, true));
}

KernelCall DenseCall(const KernelCall& product, int64_t activation) {
  const Shape shape = product.outputs[0];
  return {.op = "Dense",
          .inputs = {product.inputs[0], product.inputs[1],
                     TestTensor::Uniform({shape.dim(1)}, 63, -2.0, 2.0)},
          .outputs = {shape},
          .ints = {activation}};
}

TEST(CudaOpsTest, ExactLayersAreThoseOfTheCpu) {
  ForProducts([](const KernelCall& call) {
    if (call.ints[0] == 0 && call.ints[1] == 0) {
      for (const int64_t activation : {0, 1, 2, 3}) {
        ExpectBitsOfCpu(DenseCall(call, activation));
        ExpectBitsOfCpu(DenseCall(call, activation), {.offset_bytes = 4});
      }
    }
  });
  ExpectBitsOfCpu(DenseCall(MatMulCall(1600, 1450, 36, false, false), 1));
}

// Products that round to -0 and sums that a stray + 0 would turn to +0.
TEST(CudaOpsTest, ExactProductsKeepMinusZeroAndSpecialNumbers) {
  for (const int64_t k : {1, 3, 8, 13}) {
    const auto fill = [](const Shape& shape, float value) {
      return TestTensor::Of(
          shape,
          std::vector<float>(static_cast<size_t>(shape.num_elements()), value));
    };
    for (const int64_t n : {1, 40, 300}) {
      ExpectBitsOfCpu({.op = "MatMul",
                       .inputs = {fill({n, k}, -1e-30F), fill({k, n}, 1e-30F)},
                       .outputs = {Shape{n, n}},
                       .ints = {0, 0}});
      ExpectBitsOfCpu({.op = "MatMul",
                       .inputs = {Numbers({n, k}, 1), Numbers({k, n}, 2)},
                       .outputs = {Shape{n, n}},
                       .ints = {0, 0}});
    }
  }
}

// The epilogues of cuBLASLt, and the activations that it has none for.
TEST(CudaOpsTest, FastLayersAreF32) {
  for (const int64_t activation : {0, 1, 2, 3}) {
    KernelCall call =
        DenseCall(MatMulCall(64, 130, 33, false, false), activation);
    ThreadPool pool(1);
    std::vector<TestTensor> want;
    ASSERT_TRUE(RunKernelOnce(call, pool, &want).ok());
    const GpuResult got = RunOnGpu(call, {.math = SHOAL_CUDA_FAST});
    ASSERT_EQ(got.error, 0) << got.text;
    // No activation is steeper than 1.
    constexpr double kBound = 2.0 * 0x1.0p-24 * 35 * 6;
    for (int64_t i = 0; i < want[0].size(); ++i) {
      ASSERT_TRUE(std::abs(got.outputs[0][i] - want[0][i]) <= kBound)
          << activation << ", element " << i << ": " << got.outputs[0][i]
          << " instead of " << want[0][i];
    }
  }
}

// |error| of f32 sums of k products of numbers below 1, in any order.
TEST(CudaOpsTest, FastProductsAreF32) {
  ForProducts([](KernelCall call) {
    ThreadPool pool(1);
    std::vector<TestTensor> want;
    ASSERT_TRUE(RunKernelOnce(call, pool, &want).ok());
    for (const int64_t offset : {0, 4}) {
      const GpuResult got =
          RunOnGpu(call, {.math = SHOAL_CUDA_FAST, .offset_bytes = offset});
      ASSERT_EQ(got.error, 0) << got.text;
      const auto k = static_cast<double>(
          call.inputs[0].shape().dim(call.ints[0] != 0 ? 0 : 1));
      const double bound = 2.0 * 0x1.0p-24 * k * std::sqrt(k + 1.0);
      for (int64_t i = 0; i < want[0].size(); ++i) {
        ASSERT_TRUE(std::abs(got.outputs[0][i] - want[0][i]) <= bound)
            << call.inputs[0].shape().ToString() << " x "
            << call.inputs[1].shape().ToString() << ", element " << i << ": "
            << got.outputs[0][i] << " instead of " << want[0][i] << " +- "
            << bound;
      }
    }
  });
}

}  // namespace
}  // namespace shoal
