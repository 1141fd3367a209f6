#include "worker/metrics/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"

namespace shoal::worker {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// By the definition: over all pairs.
double AucByPairs(const std::vector<float>& scores,
                  const std::vector<float>& labels) {
  double wins = 0;
  double pairs = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    for (size_t j = 0; j < scores.size(); ++j) {
      if (labels[i] > labels[j]) {
        ++pairs;
        wins += scores[i] > scores[j] ? 1.0 : scores[i] == scores[j] ? 0.5 : 0;
      }
    }
  }
  return wins / pairs;
}

struct EvalRows {
  std::vector<float> scores;
  std::vector<float> labels;
};

// Scores on a grid of `levels`, so that few levels mean many ties.
EvalRows RandomRows(uint64_t seed, size_t count, uint64_t levels) {
  Random random(seed);
  EvalRows rows;
  for (size_t i = 0; i < count; ++i) {
    rows.scores.push_back(static_cast<float>(random.Below(levels + 1)) /
                          static_cast<float>(levels));
    rows.labels.push_back(
        static_cast<double>(rows.scores.back()) + random.Uniform() > 1 ? 1 : 0);
  }
  return rows;
}

EvalRows Shuffled(const EvalRows& rows, uint64_t seed) {
  std::vector<size_t> order(rows.labels.size());
  std::iota(order.begin(), order.end(), 0);
  Random random(seed);
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[random.Below(i)]);
  }
  const size_t width = rows.scores.size() / rows.labels.size();
  EvalRows shuffled;
  for (const size_t i : order) {
    for (size_t c = 0; c < width; ++c) {
      shuffled.scores.push_back(rows.scores[i * width + c]);
    }
    shuffled.labels.push_back(rows.labels[i]);
  }
  return shuffled;
}

TEST(MetricsTest, AucIsTheShareOfOrderedPairs) {
  for (const uint64_t levels : {1ULL, 3ULL, 20ULL, 1000ULL, 1000000ULL}) {
    for (uint64_t seed = 0; seed < 10; ++seed) {
      const EvalRows rows = RandomRows(seed, 150, levels);
      const StatusOr<EvalResult> result =
          EvaluateBinary(rows.scores, rows.labels);
      ASSERT_TRUE(result.ok()) << result.status();
      ASSERT_TRUE(result->auc.has_value());
      // Halves of at most 150^2 are exact: two roundings differ at most.
      EXPECT_NEAR(*result->auc, AucByPairs(rows.scores, rows.labels), 1e-15)
          << "levels " << levels << " seed " << seed;
    }
  }
}

TEST(MetricsTest, AucAtTheEndsAndWithTiesOnly) {
  const std::vector<float> labels = {0, 0, 1, 1};
  EXPECT_EQ(EvaluateBinary(std::vector<float>{.1F, .2F, .3F, .4F}, labels)->auc,
            1.0);
  EXPECT_EQ(EvaluateBinary(std::vector<float>{.4F, .3F, .2F, .1F}, labels)->auc,
            0.0);
  EXPECT_EQ(EvaluateBinary(std::vector<float>{.3F, .3F, .3F, .3F}, labels)->auc,
            0.5);
  // -0 and 0 are one score.
  EXPECT_EQ(EvaluateBinary(std::vector<float>{0, -0.0F, 0, -0.0F}, labels)->auc,
            0.5);
}

TEST(MetricsTest, BinaryLossAndAccuracyFollowTheirFormulas) {
  const EvalRows rows = RandomRows(7, 500, 100000);
  double loss = 0;
  double correct = 0;
  for (size_t i = 0; i < rows.labels.size(); ++i) {
    const double p = std::min(
        std::max(static_cast<double>(rows.scores[i]), 1e-15), 1 - 1e-15);
    loss -= rows.labels[i] == 1 ? std::log(p) : std::log(1 - p);
    correct += (rows.scores[i] > 0.5F) == (rows.labels[i] == 1) ? 1 : 0;
  }
  const StatusOr<EvalResult> result = EvaluateBinary(rows.scores, rows.labels);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->count, 500);
  // 500 roundings of a sum near 250.
  EXPECT_NEAR(*result->log_loss, loss / 500, 1e-13);
  EXPECT_EQ(*result->accuracy, correct / 500);
  EXPECT_FALSE(result->rmse.has_value());
}

TEST(MetricsTest, CertainAndWrongIsClipped) {
  const StatusOr<EvalResult> result =
      EvaluateBinary(std::vector<float>{1, 0}, std::vector<float>{0, 1});
  ASSERT_TRUE(result.ok());
  EXPECT_NEAR(*result->log_loss, -std::log(1e-15), 0.15);  // 1 - (1 - 1e-15)
  const StatusOr<EvalResult> right =
      EvaluateBinary(std::vector<float>{1, 0}, std::vector<float>{1, 0});
  EXPECT_NEAR(*right->log_loss, 1e-15, 2e-16);
}

TEST(MetricsTest, OrderOfRowsDoesNotChangeABit) {
  const EvalRows rows = RandomRows(3, 3000, 700);
  EvalRows many = RandomRows(4, 1000, 100);
  for (float& label : many.labels) {
    label = static_cast<float>(static_cast<int>(label) + 1);  // 1 or 2
  }
  many.scores.resize(3000);
  for (size_t i = 1000; i < 3000; ++i) {
    many.scores[i] = many.scores[i - 1000];
  }
  const EvalResult first = *EvaluateBinary(rows.scores, rows.labels);
  const EvalResult first_rmse = *EvaluateRegression(rows.scores, rows.labels);
  const EvalResult first_many =
      *EvaluateMulticlass(many.scores, many.labels, 3);
  for (uint64_t seed = 1; seed < 6; ++seed) {
    const EvalRows other = Shuffled(rows, seed);
    const EvalResult result = *EvaluateBinary(other.scores, other.labels);
    EXPECT_EQ(*result.auc, *first.auc);
    EXPECT_EQ(*result.log_loss, *first.log_loss);
    EXPECT_EQ(*result.accuracy, *first.accuracy);
    EXPECT_EQ(*EvaluateRegression(other.scores, other.labels)->rmse,
              *first_rmse.rmse);
    const EvalRows other_many = Shuffled(many, seed);
    EXPECT_EQ(
        *EvaluateMulticlass(other_many.scores, other_many.labels, 3)->log_loss,
        *first_many.log_loss);
  }
}

TEST(MetricsTest, OneClassOnlyHasNoAuc) {
  for (const float label : {0.0F, 1.0F}) {
    const StatusOr<EvalResult> result = EvaluateBinary(
        std::vector<float>{.2F, .9F}, std::vector<float>{label, label});
    ASSERT_TRUE(result.ok());
    EXPECT_FALSE(result->auc.has_value());
    EXPECT_TRUE(result->log_loss.has_value());
  }
}

TEST(MetricsTest, NoRowsHaveNoMetrics) {
  for (const char* task : {"binary", "regression", "multiclass"}) {
    const StatusOr<EvalResult> result = Evaluate(task, 3, {}, {});
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->count, 0);
    EXPECT_THAT(NamedMetrics(*result), IsEmpty());
  }
}

TEST(MetricsTest, RmseOfKnownErrors) {
  const StatusOr<EvalResult> result = EvaluateRegression(
      std::vector<float>{1, 2, 3, -4}, std::vector<float>{1, 4, 2, -2});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(*result->rmse, 1.5);  // sqrt((0 + 4 + 1 + 4) / 4)
  EXPECT_THAT(NamedMetrics(*result), ElementsAre(Pair("rmse", 1.5)));
}

TEST(MetricsTest, MulticlassTakesTheFirstOfTheGreatest) {
  const std::vector<float> scores = {.5F,  .5F, 0,    //
                                     .1F,  .2F, .7F,  //
                                     .25F, .5F, .25F};
  const StatusOr<EvalResult> result =
      EvaluateMulticlass(scores, std::vector<float>{1, 2, 1}, 3);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(*result->accuracy, 2.0 / 3);
  const double want =
      -(std::log(0.5) + std::log(static_cast<double>(.7F)) + std::log(0.5)) / 3;
  EXPECT_NEAR(*result->log_loss, want, 1e-15);
  EXPECT_FALSE(result->auc.has_value());
}

TEST(MetricsTest, BadScoresAndLabelsAreNamed) {
  const std::vector<float> good = {0, 1};
  for (const float bad : {kNan, kInf, -kInf, -0.5F, 1.5F}) {
    const std::vector<float> values = {.5F, bad};
    for (const Status& status :
         {EvaluateBinary(values, good).status(),
          EvaluateMulticlass(std::vector<float>{.5F, .5F, .5F, bad}, good, 2)
              .status()}) {
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
      EXPECT_THAT(status.message(),
                  AllOf(HasSubstr("score"), HasSubstr("row 1"),
                        HasSubstr(std::to_string(bad).substr(0, 3))));
    }
    const Status label =
        EvaluateBinary(good, std::vector<float>{0, bad}).status();
    EXPECT_THAT(label.message(), HasSubstr("label of row 1"));
  }
  EXPECT_THAT(
      EvaluateRegression(std::vector<float>{kNan}, std::vector<float>{1})
          .status()
          .message(),
      HasSubstr("score of row 0 is nan"));
  EXPECT_THAT(
      EvaluateRegression(std::vector<float>{1}, std::vector<float>{kInf})
          .status()
          .message(),
      HasSubstr("label of row 0 is inf"));
  for (const float bad : {kNan, kInf, -1.0F, 0.5F, 2.0F}) {
    const Status status =
        EvaluateMulticlass(good, std::vector<float>{bad}, 2).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("label of row 0"));
  }
}

TEST(MetricsTest, SizesThatDisagreeAreRefused) {
  const std::vector<float> three(3, 0.0F);
  const std::vector<float> two(2, 0.0F);
  for (const Status& status : {EvaluateBinary(three, two).status(),
                               EvaluateRegression(two, three).status(),
                               EvaluateMulticlass(three, two, 2).status(),
                               EvaluateMulticlass(two, two, 1).status()}) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(Evaluate("ranking", 2, two, two).status().code(),
            StatusCode::kNotFound);
}

TEST(MetricsTest, MetricsAreFoundByName) {
  EvalResult result;
  result.count = 5;
  result.auc = 0.75;
  result.log_loss = 0.5;
  EXPECT_EQ(*MetricOf(result, "auc"), 0.75);
  const Status status = MetricOf(result, "rmse").status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("auc, log_loss"));
  EXPECT_TRUE(GreaterIsBetter("auc"));
  EXPECT_TRUE(GreaterIsBetter("accuracy"));
  EXPECT_FALSE(GreaterIsBetter("log_loss"));
  EXPECT_FALSE(GreaterIsBetter("rmse"));
}

// 2^20 rows of each class: products beyond 32 bits, and every row a tie.
TEST(MetricsTest, ManyRowsDoNotOverflow) {
  constexpr size_t kRows = size_t{1} << 21;
  std::vector<float> scores(kRows, 0.25F);
  std::vector<float> labels(kRows, 0.0F);
  std::fill(labels.begin(), labels.begin() + kRows / 2, 1.0F);
  scores[0] = 0.5F;
  const StatusOr<EvalResult> result = EvaluateBinary(scores, labels);
  ASSERT_TRUE(result.ok());
  // One of 2^20 positives is above all negatives, the others tie.
  EXPECT_EQ(*result->auc, 0.5 + 0.5 / (1 << 20));
}

}  // namespace
}  // namespace shoal::worker
