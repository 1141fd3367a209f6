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
  EXPECT_FALSE(*stopping.Add(Auc(0.7)));
  EXPECT_FALSE(*stopping.Add(Auc(0.705))) << "less than min_delta better";
  EXPECT_FALSE(*stopping.Add(Auc(0.72))) << "better: counted anew";
  EXPECT_FALSE(*stopping.Add(Auc(0.72)));
  EXPECT_TRUE(*stopping.Add(Auc(0.72)));
  EXPECT_THAT(stopping.Reason(),
              AllOf(HasSubstr("auc"), HasSubstr("0.72"), HasSubstr("2")));
}

TEST(EarlyStoppingTest, LessIsBetterForALoss) {
  EarlyStopping stopping({.metric = "log_loss", .patience = 1});
  EXPECT_FALSE(*stopping.Add({.count = 10, .log_loss = 0.7}));
  EXPECT_FALSE(*stopping.Add({.count = 10, .log_loss = 0.6}));
  EXPECT_TRUE(*stopping.Add({.count = 10, .log_loss = 0.65}));
}

TEST(EarlyStoppingTest, NoPatienceNeverEndsNorAsksForTheMetric) {
  EarlyStopping stopping({.metric = "auc", .patience = 0});
  EXPECT_FALSE(*stopping.Add({.count = 10}));
  EXPECT_FALSE(*stopping.Add({.count = 10}));
}

TEST(EarlyStoppingTest, MetricThatIsNotThereIsAnError) {
  EarlyStopping stopping({.metric = "auc", .patience = 1});
  EXPECT_EQ(stopping.Add({.count = 10}).status().code(), StatusCode::kNotFound);
}

TEST(EarlyStoppingTest, RestoredItEndsWhereTheWholeTrainingWould) {
  const EarlyStopping::Options options{.metric = "auc", .patience = 2};
  EarlyStopping first(options);
  EXPECT_FALSE(*first.Add(Auc(1 / 3.0)));
  EXPECT_FALSE(*first.Add(Auc(0.3)));
  EarlyStopping second(options);
  ASSERT_TRUE(second.Restore(first.ToJson()).ok());
  EXPECT_TRUE(*second.Add(Auc(1 / 3.0))) << "as good, to the bit, is no better";
}

TEST(EarlyStoppingTest, AnotherMetricStartsAnew) {
  EarlyStopping first({.metric = "accuracy", .patience = 1});
  EXPECT_FALSE(*first.Add({.count = 10, .accuracy = 0.9}));
  EarlyStopping second({.metric = "auc", .patience = 1});
  ASSERT_TRUE(second.Restore(first.ToJson()).ok());
  EXPECT_FALSE(*second.Add(Auc(0.7)));
}

TEST(EarlyStoppingTest, WhatIsNoStateIsRefused) {
  EarlyStopping stopping({.metric = "auc", .patience = 1});
  for (const char* text :
       {"", "[]", "{}", R"({"metric": "auc"})",
        R"({"metric": "auc", "evaluations_without_better": -1})",
        R"({"metric": 1, "evaluations_without_better": 1})",
        R"({"metric": "auc", "evaluations_without_better": 1, "best": "x"})"}) {
    EXPECT_FALSE(stopping.Restore(text).ok()) << text;
  }
}

}  // namespace
}  // namespace shoal::worker
