#include "ps/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "kernels/simd.h"

namespace shoal::ps {
namespace {

using ::testing::HasSubstr;

constexpr int kOptimizerSteps = 50;

// One row in double precision, written from the papers and sharing nothing with
// the sources under test. `t` counts from 1.
struct ReferenceRow {
  std::vector<double> w;
  std::vector<double> a;  // what the optimizer remembers
  std::vector<double> b;
  std::vector<double> c;
  std::vector<double> squares;  // of gradients that come late

  ReferenceRow(const OptimizerConfig& config, std::vector<double> values)
      : w(std::move(values)), a(w.size()), b(w.size()), c(w.size()) {
    if (config.kind == "adagrad" || config.kind == "rowwise_adagrad") {
      a.assign(w.size(), config.initial_accumulator);
    } else if (config.kind == "ftrl" || config.kind == "group_ftrl") {
      b.assign(w.size(), config.initial_accumulator);
    }
  }

  static double Norm(const std::vector<double>& x) {
    double sum = 0;
    for (const double value : x) {
      sum += value * value;
    }
    return std::sqrt(sum);
  }

  // `b` are the values that `g` was computed from.
  void StepDelayed(const OptimizerConfig& config, std::vector<double> g,
                   const std::vector<double>& b, double factor, int t) {
    squares.resize(w.size());
    for (size_t i = 0; i < w.size(); ++i) {  // Zheng et al. 2017
      squares[i] = config.delay_decay * squares[i] +
                   (1 - config.delay_decay) * g[i] * g[i];
      const double lambda =
          config.delay_compensation / std::sqrt(squares[i] + 1e-7);
      g[i] += lambda * g[i] * g[i] * (w[i] - b[i]);
    }
    Step(config, std::move(g), factor, t);
  }

  void Step(const OptimizerConfig& config, std::vector<double> g, double factor,
            int t) {
    const double rate = config.learning_rate * factor;
    if (config.kind == "lamb" || config.kind == "lars") {
      StepLayer(config, g, rate, t);
      return;
    }
    for (double& x : g) {
      x = config.clip_value > 0
              ? std::max(-config.clip_value, std::min(config.clip_value, x))
              : x;
    }
    const double norm = Norm(g);
    for (size_t i = 0; i < w.size(); ++i) {
      if (config.clip_norm > 0 && norm > config.clip_norm) {
        g[i] *= config.clip_norm / norm;
      }
      if (config.decoupled) {
        w[i] = (1 - rate * config.weight_decay) * w[i];
      } else {
        g[i] += config.weight_decay * w[i];
      }
    }
    if (config.kind == "rowwise_adagrad") {  // Gupta et al. 2014
      const double square = Norm(g) * Norm(g) / static_cast<double>(g.size());
      for (size_t i = 0; i < w.size(); ++i) {
        a[i] += square;
        w[i] -= rate * g[i] / (std::sqrt(a[i]) + config.epsilon);
      }
      return;
    }
    for (size_t i = 0; i < w.size(); ++i) {
      StepOne(config, g[i], rate, t, w[i], a[i], b[i], c[i]);
    }
    if (config.kind == "group_ftrl") {  // Yue et al. 2020, algorithm 2
      std::vector<double> soft;
      for (const double z : a) {
        soft.push_back(std::fabs(z) <= config.l1
                           ? 0
                           : (z < 0 ? -config.l1 : config.l1) - z);
      }
      const double group =
          std::sqrt(static_cast<double>(w.size())) * config.l21;
      const double share = Norm(soft) > group ? 1 - group / Norm(soft) : 0;
      for (size_t i = 0; i < w.size(); ++i) {
        w[i] = share * soft[i] /
               ((config.beta + std::sqrt(b[i])) / rate + config.l2);
      }
    }
  }

  // The row is the whole variable.
  void StepLayer(const OptimizerConfig& k, const std::vector<double>& g,
                 double rate, int t) {
    if (k.kind == "lars") {  // You et al. 2017, algorithm 1
      const double divisor = Norm(g) + k.weight_decay * Norm(w);
      const double local = Norm(w) > 0 && divisor > 0
                               ? k.trust_coefficient * Norm(w) / divisor
                               : 1;
      for (size_t i = 0; i < w.size(); ++i) {
        a[i] =
            k.momentum * a[i] + rate * local * (g[i] + k.weight_decay * w[i]);
        w[i] -= a[i];
      }
      return;
    }
    std::vector<double> update;  // You et al. 2020, algorithm 2
    for (size_t i = 0; i < w.size(); ++i) {
      a[i] = k.beta1 * a[i] + (1 - k.beta1) * g[i];
      b[i] = k.beta2 * b[i] + (1 - k.beta2) * g[i] * g[i];
      const double r =
          a[i] / (1 - std::pow(k.beta1, t)) /
          (std::sqrt(b[i] / (1 - std::pow(k.beta2, t))) + k.epsilon);
      update.push_back(r + k.weight_decay * w[i]);
    }
    const double ratio =
        Norm(w) > 0 && Norm(update) > 0 ? Norm(w) / Norm(update) : 1;
    for (size_t i = 0; i < w.size(); ++i) {
      w[i] -= rate * ratio * update[i];
    }
  }

  static void StepOne(const OptimizerConfig& k, double g, double rate, int t,
                      double& w, double& a, double& b, double& c) {
    if (k.kind == "sgd") {
      w = w - rate * g;
    } else if (k.kind == "momentum") {  // Polyak 1964
      a = k.momentum * a + g;
      w = w - rate * a;
    } else if (k.kind == "nesterov") {
      // Sutskever et al. 2013, for the point where the gradient is taken, with
      // the rate outside of the velocity as in PyTorch; a step in one piece.
      w = w - rate * ((1 + k.momentum) * g + k.momentum * k.momentum * a);
      a = k.momentum * a + g;
    } else if (k.kind == "adagrad") {  // Duchi et al. 2011, figure 1
      a = a + g * g;
      w = w - rate * g / (std::sqrt(a) + k.epsilon);
    } else if (k.kind == "adadelta") {  // Zeiler 2012, algorithm 1
      a = k.rho * a + (1 - k.rho) * g * g;
      const double change =
          -std::sqrt(b + k.epsilon) / std::sqrt(a + k.epsilon) * g;
      b = k.rho * b + (1 - k.rho) * change * change;
      w = w + rate * change;
    } else if (k.kind == "rmsprop") {  // Graves 2013, epsilon as in PyTorch
      a = k.rho * a + (1 - k.rho) * g * g;
      b = k.rho * b + (1 - k.rho) * g;
      const double square = k.centered ? a - b * b : a;
      c = k.momentum * c + g / (std::sqrt(square) + k.epsilon);
      w = w - rate * c;
    } else if (k.kind == "adamax") {  // Kingma and Ba 2015, algorithm 2
      a = k.beta1 * a + (1 - k.beta1) * g;
      b = std::max(k.beta2 * b, std::fabs(g) + k.epsilon);
      w = w - rate / (1 - std::pow(k.beta1, t)) * a / b;
    } else if (k.kind == "adam" || k.kind == "lazy_adam" ||
               k.kind == "amsgrad") {
      // Kingma and Ba 2015, algorithm 1; Reddi et al. 2018, algorithm 2
      a = k.beta1 * a + (1 - k.beta1) * g;
      b = k.beta2 * b + (1 - k.beta2) * g * g;
      c = std::max(c, b);
      const double v = k.kind == "amsgrad" ? c : b;
      const double m_hat = a / (1 - std::pow(k.beta1, t));
      const double v_hat = v / (1 - std::pow(k.beta2, t));
      w = w - rate * m_hat / (std::sqrt(v_hat) + k.epsilon);
    } else if (k.kind == "ftrl" || k.kind == "group_ftrl") {
      // McMahan et al. 2013, algorithm 1; a = z, b = n
      const double sigma = (std::sqrt(b + g * g) - std::sqrt(b)) / rate;
      a = a + g - sigma * w;
      b = b + g * g;
      if (std::fabs(a) <= k.l1) {
        w = 0;
      } else {
        const double sign = a < 0 ? -1 : 1;
        w = -(a - sign * k.l1) / ((k.beta + std::sqrt(b)) / rate + k.l2);
      }
    } else {
      FAIL() << "no reference for optimizer '" << k.kind << "'";
    }
  }
};

// Numbers that make every term count: epsilon is no trifle, l1 cuts.
OptimizerConfig TestedConfig(const std::string& name) {
  OptimizerConfig config;
  config.kind = name.substr(0, name.find("__"));
  config.learning_rate = 0.05;
  config.momentum = 0.8;
  config.initial_accumulator = 0.25;
  config.epsilon = 0.01;
  config.beta1 = 0.85;
  config.beta2 = 0.97;
  config.l1 = 0.3;
  config.l2 = 0.2;
  config.beta = 0.7;
  config.rho = 0.8;
  config.l21 = 0.25;
  const auto has = [&](std::string_view setting) {
    return name.find(setting) != std::string::npos;
  };
  config.trust_coefficient = 0.4;
  config.momentum = has("__plain") ? 0 : config.momentum;
  config.centered = has("__centered");
  config.weight_decay = has("__decay") || has("__decoupled") ? 0.3 : 0;
  config.decoupled = has("__decoupled");
  config.clip_value = has("__value") ? 0.7 : 0;
  config.clip_norm = has("__norm") ? 0.9 : 0;
  config.delay_compensation = has("__delayed") ? 0.3 : 0;
  config.delay_decay = 0.9;
  return config;
}

// Every kind as it is, and settings, each of which changes what comes out.
std::vector<std::string> TestedNames() {
  std::vector<std::string> names = OptimizerRegistry().Names();
  for (const char* name :
       {"rmsprop__plain", "rmsprop__centered", "rmsprop__plain__centered",
        "sgd__decay", "sgd__decoupled", "sgd__value", "sgd__norm",
        "adam__decoupled", "nesterov__decay__value__norm",
        "adagrad__decoupled__value__norm", "group_ftrl__value__norm",
        "rowwise_adagrad__decay__norm", "lamb__decay", "lars__decay",
        "sgd__delayed", "adagrad__delayed", "adam__delayed__decay__value"}) {
    names.emplace_back(name);
  }
  return names;
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

// Apply(), of rows that are variables of their own.
void ApplyRows(const Optimizer& optimizer, const ApplyBatch& batch) {
  const NormPhase* const phase = optimizer.norm_phase();
  for (int64_t i = 0; phase != nullptr && i < batch.num_rows; ++i) {
    ApplyBatch row = batch;
    row.rows = batch.rows + i;
    row.gradients = batch.gradients + i * batch.dim;
    row.num_rows = 1;
    const RowNorms norms =
        phase->Norms(batch.rows[i], row.gradients, batch.dim);
    row.trust_ratio =
        phase->TrustRatio(std::sqrt(norms.values), std::sqrt(norms.updates));
    optimizer.Apply(row);
  }
  if (phase == nullptr) {
    optimizer.Apply(batch);
  }
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
    std::vector<ReferenceRow> want;
    for (const float* row : rows.rows) {
      want.emplace_back(config, std::vector<double>(row, row + dim));
    }
    std::vector<double> largest(static_cast<size_t>(kRows * dim), 1);
    for (int t = 1; t <= kOptimizerSteps; ++t) {
      const double factor = 1.0 - 0.01 * t;
      const auto gradients = OptimizerGradients(
          kRows * dim, HashKey(static_cast<uint64_t>(dim), t));
      // Of values that are as far from these as gradients are long.
      const auto before = OptimizerGradients(
          kRows * dim, HashKey(static_cast<uint64_t>(dim), 1000 + t));
      ApplyRows(*optimizer, {.rows = rows.rows.data(),
                             .gradients = gradients.data(),
                             .num_rows = kRows,
                             .dim = dim,
                             .learning_rate_factor = factor,
                             .computed_from = before.data()});
      for (size_t r = 0; r < want.size(); ++r) {
        const float* g = gradients.data() + static_cast<int64_t>(r) * dim;
        const float* b = before.data() + static_cast<int64_t>(r) * dim;
        if (config.delay_compensation > 0) {
          want[r].StepDelayed(config, std::vector<double>(g, g + dim),
                              std::vector<double>(b, b + dim), factor, t);
        } else {
          want[r].Step(config, std::vector<double>(g, g + dim), factor, t);
        }
      }
      for (int64_t i = 0; i < kRows * dim; ++i) {
        const auto r = static_cast<size_t>(i / dim);
        const double expected = want[r].w[static_cast<size_t>(i % dim)];
        const double got = rows.rows[r][i % dim];
        // Each step rounds the value once and its change about a dozen times;
        // changes are below a quarter of the largest value so far (at least
        // 1), so that together they are 4 units in its last place.
        double& high = largest[static_cast<size_t>(i)];
        high = std::max(high, std::fabs(expected));
        const double tolerance = t * 4 * 0x1.0p-24 * high;
        ASSERT_TRUE(std::fabs(got - expected) <= tolerance)
            << "dim " << dim << " step " << t << " element " << i << ": " << got
            << " is not " << expected;
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
        ApplyRows(*optimizer, {.rows = rows.rows.data(),
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

INSTANTIATE_TEST_SUITE_P(All, OptimizerTest, ::testing::ValuesIn(TestedNames()),
                         [](const auto& tested) { return tested.param; });

struct TorchCase {
  std::string name;
  OptimizerConfig config;
  std::vector<double> after;  // the row's values after each step
};

#include "ps/optimizer_torch_cases.inc"

TEST(TorchTest, StepsAreThoseOfPyTorch) {
  for (const TorchCase& tested : kTorchCases) {
    SCOPED_TRACE(tested.name);
    const auto made = CreateOptimizer(tested.config);
    ASSERT_TRUE(made.ok()) << made.status();
    OptimizerRows rows(**made, 1, kTorchDim, 1);
    std::copy(std::begin(kTorchFirst), std::end(kTorchFirst), rows.rows[0]);
    for (int64_t t = 0; t < kTorchSteps; ++t) {
      (*made)->Apply({.rows = rows.rows.data(),
                      .gradients = kTorchGradients + t * kTorchDim,
                      .num_rows = 1,
                      .dim = kTorchDim});
      for (int64_t j = 0; j < kTorchDim; ++j) {
        const double want =
            tested.after[static_cast<size_t>(t * kTorchDim + j)];
        // As in FiftyStepsMatchTheDoubleReference.
        const double tolerance = static_cast<double>(t + 1) * 4 * 0x1.0p-24 *
                                 std::max(1.0, std::fabs(want));
        EXPECT_TRUE(std::fabs(rows.rows[0][j] - want) <= tolerance)
            << "step " << t << " element " << j << ": " << rows.rows[0][j]
            << " is not " << want;
      }
    }
  }
}

TEST(AdamTest, RowsOfTablesGoByTheJobsStepUnlessLazy) {
  for (const bool lazy : {false, true}) {
    const auto optimizer =
        CreateOptimizer(TestedConfig(lazy ? "lazy_adam" : "adam"));
    ASSERT_TRUE(optimizer.ok());
    OptimizerRows rows(**optimizer, 1, 1, 3);
    rows.rows[0][0] = 1;
    const float g = 0.5F;
    (*optimizer)
        ->Apply({.rows = rows.rows.data(),
                 .gradients = &g,
                 .num_rows = 1,
                 .dim = 1,
                 .step = 20});
    const double t = lazy ? 1 : 20;
    const double m = 0.15 * 0.5 / (1 - std::pow(0.85, t));
    const double v = 0.03 * 0.25 / (1 - std::pow(0.97, t));
    EXPECT_NEAR(rows.rows[0][0], 1 - 0.05 * m / (std::sqrt(v) + 0.01), 1e-6);
  }
}

TEST(GroupFtrlTest, WeakRowsBecomeZeroAsAWhole) {
  OptimizerConfig config = TestedConfig("group_ftrl");
  config.l1 = 0;
  const auto optimizer = CreateOptimizer(config);
  ASSERT_TRUE(optimizer.ok());
  OptimizerRows rows(**optimizer, 2, 2, 3);
  std::fill_n(rows.rows[0], 2, 0.0F);
  std::fill_n(rows.rows[1], 2, 0.0F);
  // sqrt(2) l21 is 0.354: the norm of the first is below it.
  const float gradients[] = {0.34F, -0.01F, 0.36F, -0.01F};
  (*optimizer)
      ->Apply({.rows = rows.rows.data(),
               .gradients = gradients,
               .num_rows = 2,
               .dim = 2});
  EXPECT_EQ(rows.rows[0][0], 0);
  EXPECT_EQ(rows.rows[0][1], 0);
  EXPECT_LT(rows.rows[1][0], 0);
  EXPECT_GT(rows.rows[1][1], 0);
}

TEST(RmspropTest, CenteredStaysFiniteWhereTheVarianceIsNone) {
  OptimizerConfig config = TestedConfig("rmsprop__centered");
  config.epsilon = 1e-8;
  const auto optimizer = CreateOptimizer(config);
  ASSERT_TRUE(optimizer.ok());
  // v - m^2 comes down to rounding alone, which is below zero for some.
  constexpr int64_t kDim = 100;
  OptimizerRows rows(**optimizer, 1, kDim, 3);
  std::vector<float> gradients;
  for (int64_t j = 0; j < kDim; ++j) {
    gradients.push_back(0.01F * static_cast<float>(j + 1));
  }
  for (int t = 0; t < 300; ++t) {
    (*optimizer)
        ->Apply({.rows = rows.rows.data(),
                 .gradients = gradients.data(),
                 .num_rows = 1,
                 .dim = kDim});
  }
  for (int64_t j = 0; j < kDim; ++j) {
    EXPECT_TRUE(std::isfinite(rows.rows[0][j])) << j;
  }
}

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

TEST(LayerwiseTest, WhatBeginsAtZeroLearnsAtTheRate) {
  for (const char* kind : {"lamb", "lars"}) {
    const auto optimizer = CreateOptimizer(TestedConfig(kind));
    ASSERT_TRUE(optimizer.ok());
    const NormPhase& phase = *(*optimizer)->norm_phase();
    EXPECT_EQ(phase.TrustRatio(0, 3), 1) << kind;
    EXPECT_EQ(phase.TrustRatio(3, 0), 1) << kind;
    EXPECT_EQ(phase.TrustRatio(0, 0), 1) << kind;
  }
}

TEST(LayerwiseTest, NormsAreOfTheUpdateThatFollowsAndChangeNothing) {
  // With a ratio and rate of 1 the change is the update: LAMB's own, of the
  // moments that come, and of LARS without velocity the gradient.
  for (const char* kind : {"lamb__decay", "lars"}) {
    OptimizerConfig config = TestedConfig(kind);
    config.learning_rate = 1;
    const auto optimizer = CreateOptimizer(config);
    ASSERT_TRUE(optimizer.ok());
    constexpr int64_t kDim = 21;
    OptimizerRows rows(**optimizer, 1, kDim, 3);
    const int steps = config.kind == "lamb" ? 5 : 1;
    for (int t = 0; t < steps; ++t) {
      const auto gradients = OptimizerGradients(kDim, static_cast<uint64_t>(t));
      const std::vector<float> before = rows.memory;
      const RowNorms norms = (*optimizer)
                                 ->norm_phase()
                                 ->Norms(rows.rows[0], gradients.data(), kDim);
      EXPECT_EQ(rows.memory, before);
      (*optimizer)
          ->Apply({.rows = rows.rows.data(),
                   .gradients = gradients.data(),
                   .num_rows = 1,
                   .dim = kDim});
      double values = 0;
      double updates = 0;
      for (size_t j = 0; j < kDim; ++j) {
        const double change = before[j] - rows.rows[0][j];
        values += static_cast<double>(before[j]) * before[j];
        updates += change * change;
      }
      EXPECT_NEAR(norms.values / values, 1, 1e-14) << kind;
      EXPECT_NEAR(norms.updates / updates, 1, 1e-5) << kind;
    }
  }
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
              HasSubstr("adadelta, adagrad, adam, adamax"));
}

TEST(CreateOptimizerTest, ImpossibleNumbersAreRefused) {
  std::vector<OptimizerConfig> bad(15);
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
  bad[7].kind = "rmsprop";
  bad[7].rho = 1;
  bad[8].kind = "adadelta";
  bad[8].epsilon = 0;
  bad[9].kind = "group_ftrl";
  bad[9].weight_decay = 0.1;
  bad[10].clip_norm = -1;
  bad[11].kind = "rowwise_adagrad";
  bad[11].initial_accumulator = bad[11].epsilon = 0;
  bad[12].kind = "lamb";
  bad[12].beta1 = 1;
  bad[13].kind = "lars";
  bad[13].clip_value = 1;
  bad[14].kind = "lars";
  bad[14].trust_coefficient = -1;
  for (const OptimizerConfig& config : bad) {
    const auto made = CreateOptimizer(config);
    EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(made.status().message(), HasSubstr("'" + config.kind + "'"));
  }
}

}  // namespace
}  // namespace shoal::ps
