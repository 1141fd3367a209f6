#include "worker/metrics/early_stopping.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal::worker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

EvalResult Auc(double auc) { return {.count = 10, .auc = auc}; }

TEST(EarlyStoppingTest, EndsWhenPatienceIsUsedUp) {
  EarlyStopping stopping({.metric = "auc", .patience = 2, .min_delta = 0.01});
  EXPECT_FALSE(*stopping.Add(1, Auc(0.7)));
  EXPECT_FALSE(*stopping.Add(2, Auc(0.705))) << "less than min_delta better";
  EXPECT_FALSE(*stopping.Add(3, Auc(0.72))) << "better: counted anew";
  EXPECT_FALSE(*stopping.Add(4, Auc(0.72)));
  EXPECT_TRUE(*stopping.Add(5, Auc(0.72)));
  EXPECT_THAT(stopping.Reason(),
              AllOf(HasSubstr("auc"), HasSubstr("0.72"), HasSubstr("2")));
}

TEST(EarlyStoppingTest, LessIsBetterForALoss) {
  EarlyStopping stopping({.metric = "log_loss", .patience = 1});
  EXPECT_FALSE(*stopping.Add(6, {.count = 10, .log_loss = 0.7}));
  EXPECT_FALSE(*stopping.Add(7, {.count = 10, .log_loss = 0.6}));
  EXPECT_TRUE(*stopping.Add(8, {.count = 10, .log_loss = 0.65}));
}

TEST(EarlyStoppingTest, NoPatienceNeverEndsNorAsksForTheMetric) {
  EarlyStopping stopping({.metric = "auc", .patience = 0});
  EXPECT_FALSE(*stopping.Add(9, {.count = 10}));
  EXPECT_FALSE(*stopping.Add(10, {.count = 10}));
}

TEST(EarlyStoppingTest, MetricThatIsNotThereIsAnError) {
  EarlyStopping stopping({.metric = "auc", .patience = 1});
  EXPECT_EQ(stopping.Add(11, {.count = 10}).status().code(),
            StatusCode::kNotFound);
}

TEST(EarlyStoppingTest, RestoredItEndsWhereTheWholeTrainingWould) {
  const EarlyStopping::Options options{.metric = "auc", .patience = 2};
  EarlyStopping first(options);
  EXPECT_FALSE(*first.Add(12, Auc(1 / 3.0)));
  EXPECT_FALSE(*first.Add(13, Auc(0.3)));
  EarlyStopping second(options);
  ASSERT_TRUE(second.Restore(first.ToJson()).ok());
  EXPECT_TRUE(*second.Add(14, Auc(1 / 3.0)))
      << "as good, to the bit, is no better";
}

TEST(EarlyStoppingTest, EvaluationRepeatedByARestoreCountsOnce) {
  const EarlyStopping::Options options{.metric = "auc", .patience = 2};
  EarlyStopping first(options);
  EXPECT_FALSE(*first.Add(10, Auc(0.7)));
  EXPECT_FALSE(*first.Add(20, Auc(0.6)));
  EarlyStopping second(options);
  ASSERT_TRUE(second.Restore(first.ToJson()).ok());
  EXPECT_FALSE(*second.Add(20, Auc(0.6)));
  EXPECT_TRUE(*second.Add(30, Auc(0.6)));
}

TEST(EarlyStoppingTest, AnotherMetricStartsAnew) {
  EarlyStopping first({.metric = "accuracy", .patience = 1});
  EXPECT_FALSE(*first.Add(15, {.count = 10, .accuracy = 0.9}));
  EarlyStopping second({.metric = "auc", .patience = 1});
  ASSERT_TRUE(second.Restore(first.ToJson()).ok());
  EXPECT_FALSE(*second.Add(16, Auc(0.7)));
}

TEST(EarlyStoppingTest, WhatIsNoStateIsRefused) {
  EarlyStopping stopping({.metric = "auc", .patience = 1});
  for (const char* text :
       {"", "[]", "{}", R"({"metric": "auc"})",
        R"({"metric": "auc", "evaluations_without_better": -1})",
        R"({"metric": 1, "evaluations_without_better": 1, "step": 1})",
        R"({"metric": "auc", "evaluations_without_better": 1})",
        R"({"metric": "auc", "evaluations_without_better": 1, "step": 1,
            "best": "x"})"}) {
    EXPECT_FALSE(stopping.Restore(text).ok()) << text;
  }
}

}  // namespace
}  // namespace shoal::worker
