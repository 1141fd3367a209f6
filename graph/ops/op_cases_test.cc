// Values and gradients of every op in the registry. Values are checked against
// references in double precision that share no code with the kernels, gradients
// against central differences of these references.
#include <cmath>
#include <functional>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/gradients.h"
#include "graph/graph_testing.h"
#include "graph/op.h"
#include "graph/ops.h"
#include "kernels/kernel.h"

namespace shoal::graph {
namespace {

struct CaseInput {
  Shape shape;
  TestValues values;
};
using Numbers = std::vector<double>;
// Inputs of any dtype as doubles -> the output.
using Reference = std::function<Numbers(const std::vector<Numbers>& in)>;

struct OpCase {
  std::string op;
  std::vector<CaseInput> inputs;
  Attributes attributes;
  Reference reference;
};

// Away from 0 by 0.1, where some ops have a kink.
CaseInput RandomInput(const Shape& shape, uint64_t seed) {
  std::vector<float> values =
      TestUniform(static_cast<size_t>(shape.num_elements()), seed);
  for (float& value : values) {
    value += value < 0 ? -0.1F : 0.1F;
  }
  return {shape, values};
}

Reference Each(double (*f)(double)) {
  return [f](const std::vector<Numbers>& in) {
    Numbers y;
    for (const double x : in[0]) {
      y.push_back(f(x));
    }
    return y;
  };
}

Reference EachPair(double (*f)(double, double)) {
  return [f](const std::vector<Numbers>& in) {
    Numbers y;
    for (size_t i = 0; i < in[0].size(); ++i) {
      y.push_back(f(in[0][i], in[1][i]));
    }
    return y;
  };
}

double SumOf(const Numbers& x) {
  double sum = 0;
  for (const double value : x) {
    sum += value;
  }
  return sum;
}

void AddElementwiseCases(std::vector<OpCase>& cases) {
  const auto one = [&](const char* op, double (*f)(double)) {
    cases.push_back({op, {RandomInput({3, 4}, 11)}, {}, Each(f)});
  };
  one("Relu", [](double x) { return x > 0 ? x : 0.0; });
  one("Sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); });
  one("Tanh", [](double x) { return std::tanh(x); });
  one("Square", [](double x) { return x * x; });
  cases.push_back({"Scale",
                   {RandomInput({3, 4}, 12)},
                   {.floats = {-1.75}},
                   Each([](double x) { return -1.75 * x; })});
  const auto two = [&](const char* op, double (*f)(double, double)) {
    cases.push_back({op,
                     {RandomInput({3, 4}, 13), RandomInput({3, 4}, 14)},
                     {},
                     EachPair(f)});
  };
  two("Add", [](double a, double b) { return a + b; });
  two("Sub", [](double a, double b) { return a - b; });
  two("Mul", [](double a, double b) { return a * b; });
  cases.push_back(
      {"AddN",
       {RandomInput({5}, 15), RandomInput({5}, 16), RandomInput({5}, 17)},
       {},
       [](const std::vector<Numbers>& in) {
         Numbers y;
         for (size_t i = 0; i < 5; ++i) {
           y.push_back(in[0][i] + in[1][i] + in[2][i]);
         }
         return y;
       }});
  cases.push_back({"ScaleBy",
                   {RandomInput({3, 4}, 18), RandomInput({1}, 19)},
                   {},
                   [](const std::vector<Numbers>& in) {
                     Numbers y;
                     for (const double x : in[0]) {
                       y.push_back(x * in[1][0]);
                     }
                     return y;
                   }});
  cases.push_back({"CrossCombine",
                   {RandomInput({3, 4}, 20), RandomInput({3, 4}, 21),
                    RandomInput({3, 4}, 22)},
                   {},
                   [](const std::vector<Numbers>& in) {
                     Numbers y;
                     for (size_t i = 0; i < in[0].size(); ++i) {
                       y.push_back(in[0][i] * in[1][i] + in[2][i]);
                     }
                     return y;
                   }});
  constexpr uint64_t kSeed = 123456789;
  cases.push_back(
      {"Dropout",
       {RandomInput({10, 4}, 23), {{1}, std::vector<uint64_t>{kSeed}}},
       {.floats = {0.3}},
       [](const std::vector<Numbers>& in) {
         Numbers y;
         for (size_t i = 0; i < in[0].size(); ++i) {
           const auto top = static_cast<float>(HashKey(kSeed, i) >> 40);
           const bool keep = top * 0x1.0p-24F >= 0.3F;
           y.push_back(keep ? in[0][i] / (1 - 0.3) : 0.0);
         }
         return y;
       }});
}

// op(a) [m, k] times op(b) [k, n].
Reference ProductReference(bool ta, bool tb, size_t m, size_t k, size_t n) {
  return [=](const std::vector<Numbers>& in) {
    Numbers y(m * n);
    for (size_t i = 0; i < m; ++i) {
      for (size_t j = 0; j < n; ++j) {
        for (size_t p = 0; p < k; ++p) {
          y[i * n + j] += in[0][ta ? p * m + i : i * k + p] *
                          in[1][tb ? j * k + p : p * n + j];
        }
      }
    }
    return y;
  };
}

void AddMatMulCases(std::vector<OpCase>& cases) {
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      cases.push_back({"MatMul",
                       {RandomInput(ta ? Shape{3, 2} : Shape{2, 3}, 31),
                        RandomInput(tb ? Shape{4, 3} : Shape{3, 4}, 32)},
                       {.ints = {ta ? 1 : 0, tb ? 1 : 0}},
                       ProductReference(ta, tb, 2, 3, 4)});
    }
  }
  for (const int64_t activation : {0, 1, 2, 3}) {
    cases.push_back(
        {"Dense",
         {RandomInput({2, 3}, 35), RandomInput({3, 4}, 36),
          RandomInput({4}, 37)},
         {.ints = {activation}},
         [activation](const std::vector<Numbers>& in) {
           Numbers y = ProductReference(false, false, 2, 3, 4)({in[0], in[1]});
           for (size_t i = 0; i < y.size(); ++i) {
             y[i] += in[2][i % 4];
             y[i] = activation == 1   ? std::max(0.0, y[i])
                    : activation == 2 ? 1 / (1 + std::exp(-y[i]))
                    : activation == 3 ? std::tanh(y[i])
                                      : y[i];
           }
           return y;
         }});
  }
  cases.push_back({"BiasAdd",
                   {RandomInput({3, 4}, 33), RandomInput({4}, 34)},
                   {},
                   [](const std::vector<Numbers>& in) {
                     Numbers y = in[0];
                     for (size_t i = 0; i < y.size(); ++i) {
                       y[i] += in[1][i % 4];
                     }
                     return y;
                   }});
}

void AddReduceCases(std::vector<OpCase>& cases) {
  const auto columns = [](const std::vector<Numbers>& in) {
    Numbers y(4);
    for (size_t i = 0; i < in[0].size(); ++i) {
      y[i % 4] += in[0][i];
    }
    return y;
  };
  cases.push_back({"ColumnSum", {RandomInput({3, 4}, 41)}, {}, columns});
  cases.push_back({"ColumnSum", {RandomInput({3, 2, 4}, 41)}, {}, columns});
  cases.push_back({"RowSum",
                   {RandomInput({3, 4}, 42)},
                   {},
                   [](const std::vector<Numbers>& in) {
                     Numbers y(3);
                     for (size_t i = 0; i < in[0].size(); ++i) {
                       y[i / 4] += in[0][i];
                     }
                     return y;
                   }});
  cases.push_back(
      {"ReduceSum",
       {RandomInput({2, 3, 4}, 43)},
       {},
       [](const std::vector<Numbers>& in) { return Numbers{SumOf(in[0])}; }});
  cases.push_back({"L2Penalty",
                   {RandomInput({2, 3, 4}, 44)},
                   {},
                   [](const std::vector<Numbers>& in) {
                     double sum = 0;
                     for (const double x : in[0]) {
                       sum += x * x;
                     }
                     return Numbers{sum / 2};
                   }});
  cases.push_back({"Dot",
                   {RandomInput({3, 4}, 45), RandomInput({3, 4}, 46)},
                   {},
                   [](const std::vector<Numbers>& in) {
                     double sum = 0;
                     for (size_t i = 0; i < in[0].size(); ++i) {
                       sum += in[0][i] * in[1][i];
                     }
                     return Numbers{sum};
                   }});
  const auto broadcast = [&](const char* op, const Shape& x, auto from) {
    cases.push_back({op,
                     {RandomInput(x, 47), RandomInput({3, 4}, 48)},
                     {},
                     [from](const std::vector<Numbers>& in) {
                       Numbers y;
                       for (size_t i = 0; i < 12; ++i) {
                         y.push_back(in[0][from(i)]);
                       }
                       return y;
                     }});
  };
  broadcast("BroadcastRow", {4}, [](size_t i) { return i % 4; });
  broadcast("BroadcastCol", {3, 1}, [](size_t i) { return i / 4; });
  broadcast("BroadcastScalar", {1}, [](size_t /*i*/) { return size_t{0}; });
}

void AddRearrangeCases(std::vector<OpCase>& cases) {
  cases.push_back(
      {"Concat",
       {RandomInput({3, 2}, 51), RandomInput({3, 1}, 52),
        RandomInput({3, 4}, 53)},
       {},
       [](const std::vector<Numbers>& in) {
         Numbers y;
         for (size_t i = 0; i < 3; ++i) {
           y.insert(y.end(), {in[0][2 * i], in[0][2 * i + 1], in[1][i]});
           for (size_t j = 0; j < 4; ++j) {
             y.push_back(in[2][4 * i + j]);
           }
         }
         return y;
       }});
  cases.push_back({"Slice",
                   {RandomInput({3, 5}, 54)},
                   {.ints = {1, 3}},
                   [](const std::vector<Numbers>& in) {
                     Numbers y;
                     for (size_t i = 0; i < 3; ++i) {
                       for (size_t j = 1; j < 4; ++j) {
                         y.push_back(in[0][5 * i + j]);
                       }
                     }
                     return y;
                   }});
  cases.push_back({"SliceGrad",
                   {RandomInput({3, 3}, 55), RandomInput({3, 5}, 56)},
                   {.ints = {1, 3}},
                   [](const std::vector<Numbers>& in) {
                     Numbers y(15);
                     for (size_t i = 0; i < 9; ++i) {
                       y[5 * (i / 3) + 1 + i % 3] = in[0][i];
                     }
                     return y;
                   }});
  cases.push_back({"Reshape",
                   {RandomInput({3, 4}, 57)},
                   {.shape = {2, 6}},
                   [](const std::vector<Numbers>& in) { return in[0]; }});
}

void AddEmbeddingCases(std::vector<OpCase>& cases) {
  // Row 2 comes up three times, row 3 never.
  const std::vector<int32_t> index = {2, 0, 2, 1, 4, 2};
  cases.push_back({"Gather",
                   {RandomInput({5, 3}, 61), {{3, 2}, index}},
                   {},
                   [](const std::vector<Numbers>& in) {
                     Numbers y;
                     for (const double row : in[1]) {
                       for (size_t k = 0; k < 3; ++k) {
                         y.push_back(in[0][static_cast<size_t>(row) * 3 + k]);
                       }
                     }
                     return y;
                   }});
  for (const int mean : {0, 1}) {
    // Four bags, the second of them empty.
    cases.push_back({"BagPool",
                     {RandomInput({5, 3}, 62),
                      {{6}, index},
                      {{5}, std::vector<int32_t>{0, 3, 3, 5, 6}},
                      RandomInput({6}, 63)},
                     {.ints = {2, mean}},
                     [mean](const std::vector<Numbers>& in) {
                       Numbers y(12);
                       for (size_t s = 0; s < 4; ++s) {
                         const auto begin = static_cast<size_t>(in[2][s]);
                         const auto end = static_cast<size_t>(in[2][s + 1]);
                         for (size_t j = begin; j < end; ++j) {
                           for (size_t k = 0; k < 3; ++k) {
                             const auto row = static_cast<size_t>(in[1][j]);
                             const double term = in[3][j] * in[0][row * 3 + k];
                             y[s * 3 + k] +=
                                 mean == 1
                                     ? term / static_cast<double>(end - begin)
                                     : term;
                           }
                         }
                       }
                       return y;
                     }});
  }
}

void AddInteractionCases(std::vector<OpCase>& cases) {
  // x_i . x_j of example e of x [2, 4, 3].
  const auto dot = [](const Numbers& x, size_t e, size_t i, size_t j) {
    double sum = 0;
    for (size_t k = 0; k < 3; ++k) {
      sum += x[(e * 4 + i) * 3 + k] * x[(e * 4 + j) * 3 + k];
    }
    return sum;
  };
  cases.push_back({"FmInteraction",
                   {RandomInput({2, 4, 3}, 71)},
                   {},
                   [dot](const std::vector<Numbers>& in) {
                     Numbers y(2);
                     for (size_t e = 0; e < 2; ++e) {
                       for (size_t i = 0; i < 4; ++i) {
                         for (size_t j = 0; j < i; ++j) {
                           y[e] += dot(in[0], e, i, j);
                         }
                       }
                     }
                     return y;
                   }});
  cases.push_back({"DotInteraction",
                   {RandomInput({2, 4, 3}, 72)},
                   {},
                   [dot](const std::vector<Numbers>& in) {
                     Numbers y;
                     for (size_t e = 0; e < 2; ++e) {
                       for (size_t i = 0; i < 4; ++i) {
                         for (size_t j = 0; j < i; ++j) {
                           y.push_back(dot(in[0], e, i, j));
                         }
                       }
                     }
                     return y;
                   }});
}

// log(sum of exp of row r), of c classes.
double LogSumExp(const Numbers& z, size_t r, size_t c) {
  double sum = 0;
  for (size_t k = 0; k < c; ++k) {
    sum += std::exp(z[r * c + k]);
  }
  return std::log(sum);
}

void AddLossCases(std::vector<OpCase>& cases) {
  cases.push_back({"SigmoidCrossEntropy",
                   {RandomInput({5, 1}, 81),
                    {{5, 1}, std::vector<float>{0, 1, 1, 0, 0.25}}},
                   {},
                   EachPair([](double z, double y) {
                     const double p = 1 / (1 + std::exp(-z));
                     return -y * std::log(p) - (1 - y) * std::log(1 - p);
                   })});
  cases.push_back(
      {"SquaredError",
       {RandomInput({5, 1}, 82), RandomInput({5, 1}, 83)},
       {},
       EachPair([](double p, double y) { return (p - y) * (p - y); })});
  cases.push_back(
      {"SoftmaxCrossEntropy",
       {RandomInput({4, 3}, 84), {{4, 1}, std::vector<float>{2, 0, 1, 2}}},
       {},
       [](const std::vector<Numbers>& in) {
         Numbers y;
         for (size_t r = 0; r < 4; ++r) {
           y.push_back(LogSumExp(in[0], r, 3) -
                       in[0][r * 3 + static_cast<size_t>(in[1][r])]);
         }
         return y;
       }});
  cases.push_back({"Softmax",
                   {RandomInput({4, 3}, 85)},
                   {},
                   [](const std::vector<Numbers>& in) {
                     Numbers y;
                     for (size_t i = 0; i < 12; ++i) {
                       y.push_back(
                           std::exp(in[0][i] - LogSumExp(in[0], i / 3, 3)));
                     }
                     return y;
                   }});
}

std::vector<OpCase> AllOpCases() {
  std::vector<OpCase> cases;
  AddElementwiseCases(cases);
  AddMatMulCases(cases);
  AddReduceCases(cases);
  AddRearrangeCases(cases);
  AddEmbeddingCases(cases);
  AddInteractionCases(cases);
  AddLossCases(cases);
  return cases;
}

SymbolicShape ConstantShape(const Shape& shape) {
  const std::vector<Dim> dims(shape.dims().begin(), shape.dims().end());
  return SymbolicShape(std::span<const Dim>(dims));
}

DType DTypeOfValues(const TestValues& values) {
  return std::visit(
      [](const auto& v) {
        return DTypeOf<std::remove_cvref_t<decltype(v[0])>>::kValue;
      },
      values);
}

// The op on its inputs, and the gradients of sum(weight * y) for each of them.
struct CaseGraph {
  Graph graph;
  NodeRef y;
  std::vector<NodeRef> gradients;  // by input; none for what has none
  int64_t output_size = 0;
};

// `doubled`: the inputs are half of what is fed, so that they lie in the arena
// and ops may work in place.
StatusOr<CaseGraph> BuildCase(const OpCase& c, bool doubled) {
  GraphBuilder b;
  std::vector<NodeRef> inputs;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const DType dtype = DTypeOfValues(c.inputs[i].values);
    NodeRef input =
        b.Placeholder(StrCat("in", i), ConstantShape(c.inputs[i].shape), dtype);
    inputs.push_back(doubled && dtype == DType::kF32 ? Scale(b, input, 0.5)
                                                     : input);
  }
  CaseGraph result;
  result.y = b.Op(c.op, inputs, c.attributes);
  SHOAL_RETURN_IF_ERROR(b.status());
  const OpDef& op = *b.graph().node(result.y).op;
  result.output_size = b.shape(result.y).NumElements()->offset();
  result.gradients.resize(inputs.size());
  if (op.has_gradient()) {
    const NodeRef weight = b.Placeholder("weight", b.shape(result.y));
    std::vector<NodeRef> wrt = inputs;
    result.gradients = Gradients(b, Dot(b, result.y, weight), wrt);
  }
  SHOAL_ASSIGN_OR_RETURN(result.graph, b.Finish());
  return result;
}

Numbers ToDoubles(const TestValues& values) {
  return std::visit([](const auto& v) { return Numbers(v.begin(), v.end()); },
                    values);
}

std::vector<float> WeightsOf(const CaseGraph& graph) {
  return TestUniform(static_cast<size_t>(graph.output_size), 99);
}

TestFeeds FeedsOf(const OpCase& c, const CaseGraph& graph, bool doubled) {
  TestFeeds feeds;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    TestValues values = c.inputs[i].values;
    if (auto* const floats = std::get_if<std::vector<float>>(&values);
        floats != nullptr && doubled) {
      for (float& value : *floats) {
        value *= 2;
      }
    }
    feeds[StrCat("in", i)] = values;
  }
  if (graph.graph.FindFeed("weight").ok()) {
    feeds["weight"] = WeightsOf(graph);
  }
  return feeds;
}

// The results of a case: y, then the gradients that there are.
std::vector<NodeRef> FetchesOf(const CaseGraph& graph) {
  std::vector<NodeRef> fetches = {graph.y};
  for (const NodeRef gradient : graph.gradients) {
    if (gradient.valid()) {
      fetches.push_back(gradient);
    }
  }
  return fetches;
}

// Inputs are of size about 1 and no sum here has more than 64 terms: that many
// roundings of numbers as large as the terms added up.
constexpr double kRoundings = 64 * 0x1.0p-24;

// The gradient of sum(weight * y) for input `i` by central differences, and how
// far f32 may be from it: `terms` is the sum of the terms' magnitudes.
void ExpectGradient(const OpCase& c, size_t i, const std::vector<float>& weight,
                    const std::vector<float>& got) {
  constexpr double kStep = 1e-5;
  std::vector<Numbers> in;
  for (const CaseInput& input : c.inputs) {
    in.push_back(ToDoubles(input.values));
  }
  ASSERT_EQ(got.size(), in[i].size());
  for (size_t k = 0; k < in[i].size(); ++k) {
    const double x = in[i][k];
    in[i][k] = x + kStep;
    const Numbers above = c.reference(in);
    in[i][k] = x - kStep;
    const Numbers below = c.reference(in);
    in[i][k] = x;
    double want = 0;
    double terms = 1;
    for (size_t m = 0; m < above.size(); ++m) {
      const double term = weight[m] * (above[m] - below[m]) / (2 * kStep);
      want += term;
      terms += std::abs(term);
    }
    // The differences are off by kStep^2 f''' and by rounding, 1e-16 / kStep.
    EXPECT_LE(std::abs(got[k] - want), kRoundings * terms + 1e-9)
        << c.op << ": gradient of input " << i << " at " << k << " is "
        << got[k] << ", not " << want;
  }
}

TEST(OpCasesTest, ValuesAndGradientsMatchReferences) {
  for (const OpCase& c : AllOpCases()) {
    SCOPED_TRACE(c.op);
    const StatusOr<CaseGraph> graph = BuildCase(c, false);
    ASSERT_TRUE(graph.ok()) << graph.status();
    const auto plan = Plan::Create(graph->graph, OptionsFor(FetchesOf(*graph)));
    ASSERT_TRUE(plan.ok()) << plan.status();
    const auto results = RunPlan(*plan, FeedsOf(c, *graph, false));
    ASSERT_TRUE(results.ok()) << results.status();

    std::vector<Numbers> in;
    for (const CaseInput& input : c.inputs) {
      in.push_back(ToDoubles(input.values));
    }
    const Numbers want = c.reference(in);
    ASSERT_EQ((*results)[0].size(), want.size());
    for (size_t k = 0; k < want.size(); ++k) {
      EXPECT_LE(std::abs((*results)[0][k] - want[k]),
                kRoundings * (1 + std::abs(want[k])))
          << "element " << k << " is " << (*results)[0][k];
    }
    const OpDef& op = *graph->graph.node(graph->y).op;
    size_t next = 1;
    for (size_t i = 0; i < c.inputs.size(); ++i) {
      const bool differentiated =
          op.has_gradient() && !op.IsConstantInput(static_cast<int>(i));
      ASSERT_EQ(graph->gradients[i].valid(), differentiated) << "input " << i;
      if (differentiated) {
        ExpectGradient(c, i, WeightsOf(*graph), (*results)[next++]);
      }
    }
  }
}

TEST(OpCasesTest, WorkingInPlaceDoesNotChangeBits) {
  int shared = 0;
  for (const OpCase& c : AllOpCases()) {
    SCOPED_TRACE(c.op);
    const StatusOr<CaseGraph> graph = BuildCase(c, true);
    ASSERT_TRUE(graph.ok()) << graph.status();
    // With and without gradients: without, more inputs die at the op.
    for (const bool all : {true, false}) {
      std::vector<NodeRef> fetches = FetchesOf(*graph);
      fetches.resize(all ? fetches.size() : 1);
      PlanOptions options = OptionsFor(fetches);
      const auto tight = Plan::Create(graph->graph, options);
      ASSERT_TRUE(tight.ok()) << tight.status();
      options.reuse_memory = false;
      const auto loose = Plan::Create(graph->graph, options);
      ASSERT_TRUE(loose.ok()) << loose.status();
      shared += (*tight)->arena_bytes() < (*loose)->arena_bytes() ? 1 : 0;
      const TestFeeds feeds = FeedsOf(c, *graph, true);
      const auto got = RunPlan(*tight, feeds);
      const auto want = RunPlan(*loose, feeds);
      ASSERT_TRUE(got.ok()) << got.status();
      ASSERT_TRUE(want.ok()) << want.status();
      for (size_t i = 0; i < want->size(); ++i) {
        EXPECT_TRUE(SameBits((*got)[i], (*want)[i])) << "fetch " << i;
      }
    }
  }
  EXPECT_GT(shared, 20);
}

TEST(OpRegistryTest, EveryOpIsCheckedAbove) {
  std::set<std::string> seen;
  for (const OpCase& c : AllOpCases()) {
    const StatusOr<CaseGraph> graph = BuildCase(c, false);
    ASSERT_TRUE(graph.ok()) << graph.status();
    for (const Node& node : graph->graph.nodes()) {
      if (node.op != nullptr && node.op->has_gradient() &&
          node.op->name != c.op) {
        continue;  // needs a case of its own
      }
      seen.insert(node.op == nullptr ? "" : node.op->name);
    }
  }
  for (const std::string& name : OpRegistry().Names()) {
    EXPECT_EQ(seen.count(name), 1U) << name << " has no case";
  }
}

TEST(OpRegistryTest, EveryOpHasAKernelAndTheOtherWayRound) {
  for (const std::string& name : OpRegistry().Names()) {
    EXPECT_TRUE(KernelRegistry().Find("cpu/" + name).ok()) << name;
  }
  for (const std::string& name : KernelRegistry().Names()) {
    if (name.starts_with("cpu/")) {
      EXPECT_TRUE(OpRegistry().Find(name.substr(4)).ok()) << name;
    }
  }
}

TEST(OpRegistryTest, GradientRulesNameWhatExists) {
  for (const std::string& name : OpRegistry().Names()) {
    const OpDef& op = **OpRegistry().Find(name);
    if (op.gradient_rule.op.empty()) {
      continue;
    }
    const auto gradient = OpRegistry().Find(op.gradient_rule.op);
    ASSERT_TRUE(gradient.ok()) << gradient.status();
    EXPECT_EQ((*gradient)->inputs.size(), op.gradient_rule.args.size()) << name;
    EXPECT_EQ((*gradient)->outputs.size(), op.gradient_rule.returns.size());
    EXPECT_EQ((*gradient)->ints, op.ints) << name;
    EXPECT_EQ((*gradient)->floats, op.floats) << name;
  }
}

}  // namespace
}  // namespace shoal::graph
