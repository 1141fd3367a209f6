#include "ps/train_plan.h"

#include <cmath>

#include "gtest/gtest.h"

namespace shoal::ps {
namespace {

TEST(TrainPlanTest, BoundariesAreTheNextOfAll) {
  TrainPlan plan{.total_steps = 100, .steps_per_epoch = 40};
  EXPECT_EQ(plan.NextBoundary(0), 40);
  EXPECT_EQ(plan.NextBoundary(40), 80);
  EXPECT_EQ(plan.NextBoundary(80), 100);
  plan.eval_every_steps = 15;
  EXPECT_EQ(plan.NextBoundary(30), 40);
  EXPECT_EQ(plan.NextBoundary(40), 45);
  plan.checkpoint_every_steps = 7;
  EXPECT_EQ(plan.NextBoundary(40), 42);
  EXPECT_TRUE(plan.SavesAt(42));
  EXPECT_FALSE(plan.SavesAt(43));
  EXPECT_TRUE(plan.SavesAt(100));
  EXPECT_TRUE(plan.EvaluatesAt(45));
  EXPECT_TRUE(plan.EvaluatesAt(80));
  EXPECT_TRUE(plan.EvaluatesAt(100));
  EXPECT_FALSE(plan.EvaluatesAt(42));
  plan.has_test = false;
  EXPECT_FALSE(plan.EvaluatesAt(100));
  EXPECT_EQ(plan.NextBoundary(91), 98);
}

TEST(TrainPlanTest, SchedulesBeginAndEndWhereTheySay) {
  TrainPlan plan{.total_steps = 11, .steps_per_epoch = 5};
  EXPECT_EQ(plan.LearningRateFactor(7), 1);
  plan.schedule = {.kind = Schedule::Kind::kPolynomial, .final_factor = 0.2};
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(0), 1);
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(5), 0.6);
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(10), 0.2);
  plan.schedule.kind = Schedule::Kind::kCosine;
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(0), 1);
  EXPECT_NEAR(plan.LearningRateFactor(5), 0.6, 1e-12);
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(10), 0.2);
  plan.schedule = {.kind = Schedule::Kind::kStep, .gamma = 0.5};
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(4), 1);
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(5), 0.5);
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(10), 0.25);
  plan.schedule.every_steps = 2;
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(1), 1);
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(4), 0.25);
  plan.schedule.kind = Schedule::Kind::kExponential;
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(0), 1);
  EXPECT_NEAR(plan.LearningRateFactor(1), 0.70710678118654752, 1e-12);
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(4), 0.25);
  plan.schedule = {
      .kind = Schedule::Kind::kPolynomial, .final_factor = 0.2, .power = 3};
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(0), 1);
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(5), 0.2 + 0.8 / 8);
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(10), 0.2);
  plan.schedule = {.warmup_steps = 4};
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(0), 0.25);
  EXPECT_DOUBLE_EQ(plan.LearningRateFactor(3), 1);
}

}  // namespace
}  // namespace shoal::ps
