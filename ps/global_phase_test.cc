#include "ps/global_phase.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal::ps {
namespace {

using ::testing::DoubleNear;
using ::testing::HasSubstr;

std::unique_ptr<GlobalPhase> Phase(const GlobalSettings& settings,
                                   const std::string& optimizer = "adagrad") {
  ModelSpec model;
  model.variables = {{.name = "a", .dims = {2}}, {.name = "b", .dims = {3}}};
  model.dense_optimizer.kind = optimizer;
  auto made = GlobalPhase::Create(model, {.global = settings});
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

StepNorms NormsOf(const std::vector<double>& squares) {
  StepNorms norms;
  for (const double square : squares) {
    norms.gradients.Add(square);
  }
  return norms;
}

StepNorms NotFinite() { return {.finite = false}; }

GlobalSettings Dynamic(double scale, int64_t interval) {
  return {.loss_scale = scale,
          .dynamic_scale = true,
          .growth_factor = 4,
          .backoff_factor = 0.25,
          .growth_interval = interval};
}

TEST(GlobalPhaseTest, WhereNothingIsSetACommitHasTheRateAlone) {
  const auto phase = Phase({});
  const auto decision = phase->Decide(7, 0.5, StepNorms());
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->step, 7);
  EXPECT_EQ(decision->learning_rate_factor, 0.5);
  EXPECT_FALSE(decision->skip);
  EXPECT_EQ(decision->gradient_scale, 1);
  EXPECT_TRUE(decision->trust_ratios.empty());
  EXPECT_EQ(decision->next_loss_scale, 1);
}

TEST(GlobalPhaseTest, NormsBeyondTheBoundAreScaledDownToIt) {
  const auto phase = Phase({.clip_norm = 2});
  // |g| = 4.
  const auto large = phase->Decide(0, 1, NormsOf({7, 9}));
  ASSERT_TRUE(large.ok());
  EXPECT_EQ(large->gradient_scale, 0.5);
  const auto small = phase->Decide(1, 1, NormsOf({1, 3}));
  ASSERT_TRUE(small.ok());
  EXPECT_EQ(small->gradient_scale, 1);
  const auto none = phase->Decide(2, 1, StepNorms());
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->gradient_scale, 1);
}

TEST(GlobalPhaseTest, TheBoundIsOnGradientsWithoutTheLossScale) {
  const auto phase = Phase({.clip_norm = 2, .loss_scale = 8});
  // |8 g| = 32, so that g is twice too long.
  const auto decision = phase->Decide(0, 1, NormsOf({1024}));
  ASSERT_TRUE(decision.ok());
  EXPECT_EQ(decision->gradient_scale, 0.5 / 8);
  EXPECT_EQ(decision->next_loss_scale, 8);
}

TEST(GlobalPhaseTest, EveryVariableHasARatioOfItsOwn) {
  const auto phase = Phase({}, "lamb");
  StepNorms norms;
  norms.layers.resize(2);
  norms.layers[0].values.Add(9);
  norms.layers[0].updates.Add(16);
  norms.layers[1].updates.Add(1);  // It begins at zero.
  StepNorms other;
  other.layers.resize(2);
  other.layers[0].updates.Add(20);
  norms.Add(other);
  const auto decision = phase->Decide(0, 1, norms);
  ASSERT_TRUE(decision.ok());
  EXPECT_THAT(decision->trust_ratios,
              ::testing::ElementsAre(DoubleNear(0.5, 1e-15), 1));
}

// As torch.cuda.amp.GradScaler has it.
TEST(GlobalPhaseTest, ScaleFallsWhenAStepIsSkippedAndRisesAfterGoodOnes) {
  const auto phase = Phase(Dynamic(64, 3));
  EXPECT_EQ(phase->loss_scale(), 64);
  std::vector<double> scales;
  std::vector<bool> skips;
  for (const bool good : {true, true, false, true, true, true, false, false}) {
    const double before = phase->loss_scale();
    const auto decision =
        phase->Decide(0, 1, good ? NormsOf({1}) : NotFinite());
    ASSERT_TRUE(decision.ok());
    scales.push_back(decision->next_loss_scale);
    skips.push_back(decision->skip);
    if (good) {
      EXPECT_EQ(decision->gradient_scale, 1 / before);
    }
  }
  EXPECT_THAT(scales, ::testing::ElementsAre(64, 64, 16, 16, 16, 64, 16, 4));
  EXPECT_THAT(skips, ::testing::ElementsAre(false, false, true, false, false,
                                            false, true, true));
  EXPECT_EQ(phase->steps_skipped(), 3);
}

TEST(GlobalPhaseTest, StaticScaleStaysAndScaleStaysInF32) {
  const auto fixed = Phase({.loss_scale = 3});
  EXPECT_EQ(fixed->Decide(0, 1, NotFinite())->next_loss_scale, 3);
  const auto high = Phase(Dynamic(0x1.0p119, 1));
  for (int i = 0; i < 5; ++i) {
    EXPECT_LE(high->Decide(i, 1, NormsOf({1}))->next_loss_scale, 0x1.0p120);
  }
}

TEST(GlobalPhaseTest, GradientsThatAreNotFiniteEndTheJobNamingTheStep) {
  const auto plain = Phase({.clip_norm = 1});
  const auto failed = plain->Decide(5, 1, NotFinite());
  EXPECT_EQ(failed.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(failed.status().message(), HasSubstr("step 5"));

  const auto skips = Phase(Dynamic(65536, 10));
  for (int step = 0; step < 100; ++step) {
    ASSERT_TRUE(skips->Decide(step, 1, NotFinite()).ok());
  }
  EXPECT_EQ(skips->Decide(100, 1, NotFinite()).status().code(),
            StatusCode::kInvalidArgument);
}

TEST(GlobalPhaseTest, SkipsThatAreNotInTurnGoOn) {
  const auto skips = Phase({.loss_scale = 2});
  for (int step = 0; step < 400; ++step) {
    ASSERT_TRUE(
        skips->Decide(step, 1, step % 99 == 0 ? NormsOf({1}) : NotFinite())
            .ok());
  }
}

TEST(GlobalPhaseTest, StateComesBackFromItsText) {
  const auto phase = Phase(Dynamic(64, 3));
  ASSERT_TRUE(phase->Decide(0, 1, NotFinite()).ok());
  ASSERT_TRUE(phase->Decide(1, 1, NormsOf({1})).ok());
  ASSERT_TRUE(phase->Decide(2, 1, NormsOf({1})).ok());
  const auto restored = Phase(Dynamic(1, 3));
  ASSERT_TRUE(restored->Restore(phase->ToText()).ok());
  EXPECT_EQ(restored->loss_scale(), 16);
  EXPECT_EQ(restored->steps_skipped(), 1);
  EXPECT_EQ(restored->Decide(3, 1, NormsOf({1}))->next_loss_scale, 64);
  // A scale that does not change is the job's.
  const auto fixed = Phase({.loss_scale = 5});
  ASSERT_TRUE(fixed->Restore(phase->ToText()).ok());
  EXPECT_EQ(fixed->loss_scale(), 5);
  for (const char* bad :
       {"", "{}", "[1]", R"({"loss_scale":"x","good_steps":0})",
        R"({"loss_scale":0,"good_steps":0,"skipped_in_turn":0,)"
        R"("steps_skipped":0})",
        R"({"loss_scale":1,"good_steps":-1,"skipped_in_turn":0,)"
        R"("steps_skipped":0})"}) {
    EXPECT_EQ(Phase(Dynamic(1, 3))->Restore(bad).code(), StatusCode::kDataLoss)
        << bad;
  }
}

TEST(GlobalPhaseTest, WhatDoesNotGoTogetherIsRefused) {
  ModelSpec model;
  ModelSpec layers;
  layers.dense_optimizer.kind = "lamb";
  ModelSpec table;
  table.tables = {{.name = "t", .dim = 1, .optimizer = {.kind = "lars"}}};
  const GlobalSettings clip = {.clip_norm = 1};
  const auto refused = [](const ModelSpec& model, const ClusterPlan& plan) {
    return GlobalPhase::Create(model, plan).status().code() ==
           StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(GlobalPhase::Create(layers, {}).ok());
  EXPECT_TRUE(refused(layers, {.global = clip}));
  EXPECT_TRUE(refused(layers, {.mode = Mode::kAsync}));
  EXPECT_TRUE(refused(layers, {.dense = DensePlace::kWorkers}));
  EXPECT_TRUE(refused(model, {.mode = Mode::kBounded, .global = clip}));
  EXPECT_TRUE(refused(model, {.global = {.clip_norm = std::nan("")}}));
  EXPECT_TRUE(refused(model, {.global = {.loss_scale = -1}}));
  EXPECT_TRUE(refused(model, {.global = {.loss_scale = 1,
                                         .dynamic_scale = true,
                                         .growth_factor = 1}}));
  ModelSpec delayed;
  delayed.dense_optimizer.delay_compensation = 1;
  EXPECT_TRUE(refused(delayed, {}));
  EXPECT_TRUE(
      refused(delayed, {.mode = Mode::kAsync, .dense = DensePlace::kWorkers}));
  EXPECT_TRUE(GlobalPhase::Create(delayed, {.mode = Mode::kAsync}).ok());
  EXPECT_TRUE(refused(table, {}));
  EXPECT_THAT(GlobalPhase::Create(table, {}).status().message(),
              HasSubstr("table 't'"));
}

}  // namespace
}  // namespace shoal::ps
