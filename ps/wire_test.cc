#include "ps/wire.h"

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "ps/protocol.pb.h"

namespace shoal::ps {
namespace {

wire::Model ModelWithRules(const RowRules& rules) {
  ModelSpec model;
  model.tables.push_back({.name = "t", .dim = 2, .rules = rules});
  model.groups = {{0}};
  wire::Model out;
  ToWire(model, out);
  return out;
}

TEST(WireTest, RulesOfATableComeBackAsTheyWere) {
  const auto read =
      FromWire(ModelWithRules({.min_count = 3,
                               .candidate_bytes = 5,
                               .max_age_steps = 7,
                               .row_budget_bytes = int64_t{1} << 40,
                               .policy = RowRules::Policy::kLfu}));
  ASSERT_TRUE(read.ok()) << read.status();
  const RowRules& rules = read->tables[0].rules;
  EXPECT_EQ(rules.min_count, 3);
  EXPECT_EQ(rules.candidate_bytes, 5);
  EXPECT_EQ(rules.probability, 1);
  EXPECT_EQ(rules.max_age_steps, 7);
  EXPECT_EQ(rules.row_budget_bytes, int64_t{1} << 40);
  EXPECT_EQ(rules.policy, RowRules::Policy::kLfu);
  const auto chance = FromWire(ModelWithRules({.probability = 0.1}));
  ASSERT_TRUE(chance.ok()) << chance.status();
  EXPECT_EQ(chance->tables[0].rules.probability, 0.1);
}

TEST(WireTest, WhatSpillsAndHowMuchMemoryThereIsComesBack) {
  ModelSpec model;
  model.tables.push_back({.name = "t", .dim = 2, .spills = true});
  model.groups = {{0}};
  wire::Model out;
  ToWire(model, out);
  const auto read = FromWire(out);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->tables[0].spills);
  wire::Plan wire;
  ToWire(ClusterPlan{.backup_workers = 3,
                     .memory_per_shard = int64_t{1} << 40,
                     .spill_folder = "/disk",
                     .incremental_checkpoints = true},
         wire);
  const auto plan = FromWire(wire);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->memory_per_shard, int64_t{1} << 40);
  EXPECT_EQ(plan->spill_folder, "/disk");
  EXPECT_TRUE(plan->incremental_checkpoints);
  EXPECT_EQ(plan->backup_workers, 3);
  wire.set_memory_per_shard(-1);
  EXPECT_EQ(FromWire(wire).status().code(), StatusCode::kInvalidArgument);
}

TEST(WireTest, RulesThatCantBeAreInvalidArgumentNamingTheTable) {
  const std::vector<std::function<void(wire::RowRules&)>> damages = {
      [](wire::RowRules& rules) { rules.Clear(); },
      [](wire::RowRules& rules) { rules.set_policy(2); },
      [](wire::RowRules& rules) { rules.set_policy(-1); },
      [](wire::RowRules& rules) { rules.set_probability(0); },
      [](wire::RowRules& rules) { rules.set_min_count(-5); },
      [](wire::RowRules& rules) { rules.set_row_budget_bytes(-1); },
  };
  for (const auto& damage : damages) {
    wire::Model model = ModelWithRules({});
    damage(*model.mutable_tables(0)->mutable_rules());
    const auto read = FromWire(model);
    EXPECT_EQ(read.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(read.status().message(), ::testing::HasSubstr("table 't'"));
  }
}

}  // namespace
}  // namespace shoal::ps
