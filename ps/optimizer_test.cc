#include "ps/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "kernels/simd.h"

namespace shoal::ps {
namespace {

using ::testing::HasSubstr;

constexpr int kOptimizerSteps = 50;

// One coordinate in double precision, written from the papers and sharing
// nothing with the sources under test. `t` counts from 1.
struct ReferenceCoordinate {
  double w = 0;
  double a = 0;  // what the optimizer remembers
  double b = 0;

  void Step(const OptimizerConfig& c, double g, double factor, int t) {
    const double rate = c.learning_rate * factor;
    if (c.kind == "sgd") {
      w = w - rate * g;
    } else if (c.kind == "momentum") {  // Polyak 1964
      a = c.momentum * a + g;
      w = w - rate * a;
    } else if (c.kind == "adagrad") {  // Duchi et al. 2011, figure 1
      a = a + g * g;
      w = w - rate * g / (std::sqrt(a) + c.epsilon);
    } else if (c.kind == "adam") {  // Kingma and Ba 2015, algorithm 1
      a = c.beta1 * a + (1 - c.beta1) * g;
      b = c.beta2 * b + (1 - c.beta2) * g * g;
      const double m_hat = a / (1 - std::pow(c.beta1, t));
      const double v_hat = b / (1 - std::pow(c.beta2, t));
      w = w - rate * m_hat / (std::sqrt(v_hat) + c.epsilon);
    } else {  // ftrl: McMahan et al. 2013, algorithm 1; a = z, b = n
      const double sigma = (std::sqrt(b + g * g) - std::sqrt(b)) / rate;
      a = a + g - sigma * w;
      b = b + g * g;
      if (std::fabs(a) <= c.l1) {
        w = 0;
      } else {
        const double sign = a < 0 ? -1 : 1;
        w = -(a - sign * c.l1) / ((c.beta + std::sqrt(b)) / rate + c.l2);
      }
    }
  }
};

// Numbers that make every term count: epsilon is no trifle, l1 cuts.
OptimizerConfig TestedConfig(const std::string& kind) {
  OptimizerConfig config;
  config.kind = kind;
  config.learning_rate = 0.05;
  config.momentum = 0.8;
  config.initial_accumulator = 0.25;
  config.epsilon = 0.01;
  config.beta1 = 0.85;
  config.beta2 = 0.97;
  config.l1 = 0.3;
  config.l2 = 0.2;
  config.beta = 0.7;
  return config;
}

double FirstMemory(const OptimizerConfig& config, bool second) {
  const bool starts = second ? config.kind == "ftrl" : config.kind == "adagrad";
  return starts ? config.initial_accumulator : 0;
}

// Rows as tables and dense chunks keep them: values, then state.
struct OptimizerRows {
  OptimizerRows(const Optimizer& optimizer, int64_t num_rows, int64_t dim,
                uint64_t seed)
      : dim(dim), stride(dim + optimizer.StateFloats(dim)) {
    memory.resize(static_cast<size_t>(num_rows * stride));
    Random random(seed);
    for (int64_t i = 0; i < num_rows; ++i) {
      float* row = memory.data() + i * stride;
      rows.push_back(row);
      for (int64_t j = 0; j < dim; ++j) {
        row[j] = static_cast<float>(random.Uniform() * 2 - 1);
      }
      optimizer.InitState(row + dim, dim);
    }
  }
  OptimizerRows(const OptimizerRows&) = delete;

  int64_t dim;
  int64_t stride;
  std::vector<float> memory;
  std::vector<float*> rows;
};

// Some gradients are zero, some large.
std::vector<float> OptimizerGradients(int64_t n, uint64_t seed) {
  std::vector<float> gradients(static_cast<size_t>(n));
  Random random(seed);
  for (float& g : gradients) {
    g = static_cast<float>(random.Uniform() * 2 - 1);
    const uint64_t dice = random.Below(8);
    g = dice == 0 ? 0 : dice == 1 ? g * 4 : g;
  }
  return gradients;
}

class OptimizerTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { path_ = ActiveSimdPath(); }
  void TearDown() override { ASSERT_TRUE(SetSimdPath(path_).ok()); }

  static std::unique_ptr<Optimizer> Make() {
    auto made = CreateOptimizer(TestedConfig(GetParam()));
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }

 private:
  SimdPath path_ = SimdPath::kScalar;
};

TEST_P(OptimizerTest, FiftyStepsMatchTheDoubleReference) {
  const OptimizerConfig config = TestedConfig(GetParam());
  const auto optimizer = Make();
  for (const int64_t dim : {1, 5, 16, 37}) {
    constexpr int64_t kRows = 11;  // more than are fetched ahead
    OptimizerRows rows(*optimizer, kRows, dim, 7);
    std::vector<ReferenceCoordinate> want;
    for (int64_t i = 0; i < kRows * dim; ++i) {
      want.push_back({.w = rows.rows[static_cast<size_t>(i / dim)][i % dim],
                      .a = FirstMemory(config, false),
                      .b = FirstMemory(config, true)});
    }
    std::vector<double> largest(want.size(), 1);
    for (int t = 1; t <= kOptimizerSteps; ++t) {
      const double factor = 1.0 - 0.01 * t;
      const auto gradients = OptimizerGradients(
          kRows * dim, HashKey(static_cast<uint64_t>(dim), t));
      optimizer->Apply({.rows = rows.rows.data(),
                        .gradients = gradients.data(),
                        .num_rows = kRows,
                        .dim = dim,
                        .learning_rate_factor = factor});
      for (size_t i = 0; i < want.size(); ++i) {
        want[i].Step(config, static_cast<double>(gradients[i]), factor, t);
        const double got = rows.rows[i / static_cast<size_t>(dim)]
                                    [static_cast<int64_t>(i) % dim];
        // Each step rounds the value once and its change about a dozen times;
        // changes are below a quarter of the largest value so far (at least
        // 1), so that together they are 4 units in its last place.
        largest[i] = std::max(largest[i], std::fabs(want[i].w));
        const double tolerance = t * 4 * 0x1.0p-24 * largest[i];
        ASSERT_TRUE(std::fabs(got - want[i].w) <= tolerance)
            << "dim " << dim << " step " << t << " coordinate " << i << ": "
            << got << " is not " << want[i].w;
      }
    }
  }
}

TEST_P(OptimizerTest, SimdPathsGiveTheSameBits) {
  const auto optimizer = Make();
  for (const int64_t dim : {1, 3, 8, 16, 17, 100}) {
    constexpr int64_t kRows = 20;
    std::vector<std::vector<float>> results;
    for (int p = 0; p < kNumSimdPaths; ++p) {
      const auto path = static_cast<SimdPath>(p);
      if (!IsSupported(path)) {
        continue;
      }
      ASSERT_TRUE(SetSimdPath(path).ok());
      OptimizerRows rows(*optimizer, kRows, dim, 3);
      for (uint64_t t = 0; t < 20; ++t) {
        const auto gradients = OptimizerGradients(kRows * dim, t);
        optimizer->Apply({.rows = rows.rows.data(),
                          .gradients = gradients.data(),
                          .num_rows = kRows,
                          .dim = dim,
                          .learning_rate_factor = 0.3});
      }
      results.push_back(std::move(rows.memory));
      EXPECT_EQ(0, std::memcmp(results[0].data(), results.back().data(),
                               results[0].size() * sizeof(float)))
          << Name(path) << " dim " << dim;
    }
  }
}

TEST_P(OptimizerTest, BitsDoNotDependOnHowRowsAreBatched) {
  const auto optimizer = Make();
  constexpr int64_t kDim = 16;
  constexpr int64_t kRows = 21;
  OptimizerRows together(*optimizer, kRows, kDim, 3);
  OptimizerRows alone(*optimizer, kRows, kDim, 3);
  for (uint64_t t = 0; t < 5; ++t) {
    const auto gradients = OptimizerGradients(kRows * kDim, t);
    optimizer->Apply({.rows = together.rows.data(),
                      .gradients = gradients.data(),
                      .num_rows = kRows,
                      .dim = kDim});
    for (int64_t i = kRows - 1; i >= 0; --i) {
      optimizer->Apply({.rows = &alone.rows[static_cast<size_t>(i)],
                        .gradients = gradients.data() + i * kDim,
                        .num_rows = 1,
                        .dim = kDim});
    }
  }
  EXPECT_EQ(0, std::memcmp(together.memory.data(), alone.memory.data(),
                           alone.memory.size() * sizeof(float)));
}

TEST_P(OptimizerTest, RateOfZeroKeepsTheValues) {
  const auto optimizer = Make();
  OptimizerRows rows(*optimizer, 1, 16, 3);
  const std::vector<float> before(rows.memory.begin(),
                                  rows.memory.begin() + 16);
  const auto gradients = OptimizerGradients(16, 1);
  optimizer->Apply({.rows = rows.rows.data(),
                    .gradients = gradients.data(),
                    .num_rows = 1,
                    .dim = 16,
                    .learning_rate_factor = 0});
  EXPECT_THAT(std::vector<float>(rows.memory.begin(), rows.memory.begin() + 16),
              ::testing::ElementsAreArray(before));
}

INSTANTIATE_TEST_SUITE_P(All, OptimizerTest,
                         ::testing::ValuesIn(OptimizerRegistry().Names()),
                         [](const auto& tested) { return tested.param; });

TEST(AdamTest, RowsAreCorrectedByTheirOwnNumberOfUpdates) {
  const auto optimizer = CreateOptimizer(TestedConfig("adam"));
  ASSERT_TRUE(optimizer.ok());
  OptimizerRows rows(**optimizer, 2, 1, 3);
  const double before = rows.rows[1][0];
  const float g = 0.5F;
  for (int t = 0; t < 30; ++t) {
    (*optimizer)
        ->Apply(
            {.rows = &rows.rows[0], .gradients = &g, .num_rows = 1, .dim = 1});
  }
  // The other row's first update is a first update, whatever came before:
  // m_hat = g, v_hat = g^2.
  (*optimizer)
      ->Apply(
          {.rows = &rows.rows[1], .gradients = &g, .num_rows = 1, .dim = 1});
  EXPECT_NEAR(rows.rows[1][0], before - 0.05 * 0.5 / (0.5 + 0.01), 1e-6);
}

TEST(AdamTest, ManyUpdatesOverflowNothing) {
  OptimizerConfig config = TestedConfig("adam");
  const auto optimizer = CreateOptimizer(config);
  ASSERT_TRUE(optimizer.ok());
  OptimizerRows rows(**optimizer, 1, 1, 3);
  const uint32_t count = 4'000'000'000U;
  std::memcpy(rows.rows[0] + 3, &count, sizeof(count));
  rows.rows[0][0] = 1;
  const float g = 1;
  (*optimizer)
      ->Apply(
          {.rows = rows.rows.data(), .gradients = &g, .num_rows = 1, .dim = 1});
  // No correction is left: m = 0.15, v = 0.03.
  EXPECT_NEAR(rows.rows[0][0], 1 - 0.05 * 0.15 / (std::sqrt(0.03) + 0.01),
              1e-6);
}

TEST(FtrlTest, WeakCoordinatesBecomeZero) {
  const auto optimizer = CreateOptimizer(TestedConfig("ftrl"));
  ASSERT_TRUE(optimizer.ok());
  OptimizerRows rows(**optimizer, 1, 1, 3);
  rows.rows[0][0] = 0;
  const float g = 0.2F;  // below l1
  (*optimizer)
      ->Apply(
          {.rows = rows.rows.data(), .gradients = &g, .num_rows = 1, .dim = 1});
  EXPECT_EQ(rows.rows[0][0], 0);
}

TEST(CreateOptimizerTest, UnknownNameListsTheKnown) {
  const auto made = CreateOptimizer({.kind = "adagard"});
  EXPECT_EQ(made.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(made.status().message(),
              HasSubstr("adagrad, adam, ftrl, momentum, sgd"));
}

TEST(CreateOptimizerTest, ImpossibleNumbersAreRefused) {
  std::vector<OptimizerConfig> bad(7);
  bad[0].learning_rate = std::nan("");
  bad[1].learning_rate = -0.1;
  bad[2].epsilon = INFINITY;
  bad[3].initial_accumulator = bad[3].epsilon = 0;
  bad[4].kind = "adam";
  bad[4].beta2 = 1;
  bad[5].kind = "adam";
  bad[5].epsilon = 0;
  bad[6].kind = "ftrl";
  bad[6].beta = bad[6].l2 = bad[6].initial_accumulator = 0;
  for (const OptimizerConfig& config : bad) {
    const auto made = CreateOptimizer(config);
    EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(made.status().message(), HasSubstr("'" + config.kind + "'"));
  }
}

}  // namespace
}  // namespace shoal::ps
