#include "ps/memory_plan.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal::ps {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kMiB = int64_t{1} << 20;

// Tables of dim 1 and 16, and 1000 dense elements.
ModelSpec TwoTables() {
  ModelSpec model;
  model.variables.push_back({.name = "w", .dims = {1000}});
  model.dense_optimizer.kind = "sgd";
  for (const int64_t dim : {1, 16}) {
    model.tables.push_back({.name = dim == 1 ? "linear" : "embedding",
                            .dim = dim,
                            .spills = true});
    model.tables.back().optimizer.kind = "adagrad";
  }
  model.groups = {{0, 1}};
  return model;
}

TEST(MemoryPlanTest, TablesShareWhatIsLeftByTheSizeOfTheirRows) {
  const auto plan = PlanMemory(TwoTables(), {.memory_per_shard = 64 * kMiB});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->spills());
  const int64_t beside =
      plan->cache_bytes + 2 * plan->write_buffer_bytes + 4000;
  const int64_t tables = plan->table_bytes[0] + plan->table_bytes[1];
  EXPECT_LE(beside + tables, 64 * kMiB);
  EXPECT_GE(beside + tables, 64 * kMiB - 2);
  // 8 and 128 bytes, and what goes with a row.
  EXPECT_NEAR(static_cast<double>(plan->table_bytes[1]) /
                  static_cast<double>(plan->table_bytes[0]),
              176.0 / 56, 0.01);
}

TEST(MemoryPlanTest, WhatIsBoundedByItselfComesFirst) {
  ModelSpec model = TwoTables();
  model.tables[0].spills = false;
  model.tables[0].rules = {.row_budget_bytes = 10 * kMiB};
  model.tables[1].rules = {.min_count = 2, .candidate_bytes = 7 * kMiB};
  const auto plan = PlanMemory(model, {.memory_per_shard = 64 * kMiB});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->table_bytes[0], 0);
  EXPECT_EQ(plan->table_bytes[1], 47 * kMiB - 4000 - plan->cache_bytes -
                                      2 * plan->write_buffer_bytes);
  const auto less = PlanMemory(model, {.memory_per_shard = 16 * kMiB});
  EXPECT_EQ(less.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(
      less.status().message(),
      AllOf(HasSubstr("tables.linear.eviction.row_budget_bytes 10485760"),
            HasSubstr("tables.embedding.admission.candidate_bytes 7340032"),
            HasSubstr("the dense variables 4000"), HasSubstr("raise it")));
}

// Of what it is, table by table, tables with candidates twice.
TEST(MemoryPlanTest, MarksOfChangedRowsHaveAShare) {
  ModelSpec model = TwoTables();
  model.tables[1].rules = {.min_count = 2, .candidate_bytes = 7 * kMiB};
  const auto without = PlanMemory(model, {.memory_per_shard = 64 * kMiB});
  const auto with = PlanMemory(
      model, {.memory_per_shard = 64 * kMiB, .incremental_checkpoints = true});
  ASSERT_TRUE(with.ok()) << with.status();
  EXPECT_FALSE(without->marks_changes);
  EXPECT_TRUE(with->marks_changes);
  EXPECT_GT(with->mark_bytes, kMiB);
  const int64_t less = without->table_bytes[0] + without->table_bytes[1] -
                       with->table_bytes[0] - with->table_bytes[1];
  EXPECT_NEAR(static_cast<double>(less),
              3 * static_cast<double>(with->mark_bytes), 4);
}

TEST(MemoryPlanTest, SpillingWithoutABoundIsRefused) {
  const auto plan = PlanMemory(TwoTables(), {});
  EXPECT_EQ(plan.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(
      plan.status().message(),
      AllOf(HasSubstr("'linear'"), HasSubstr("cluster.memory_per_server")));
}

TEST(MemoryPlanTest, TooMuchMemoryIsResourceExhaustedNamingTheTable) {
  ModelSpec model = TwoTables();
  model.tables[0].spills = false;
  model.tables[1].spills = false;
  const auto plan = *PlanMemory(model, {.memory_per_shard = 2 * kMiB});
  EXPECT_FALSE(plan.spills());
  const auto tables = *MakeTables(model, 10, plan);
  const std::vector<float> values(16);
  const std::vector<float> state(16);
  Status status;
  uint64_t id = 0;
  while (status.ok() && id < 100000) {
    tables[1]->Load(id++, std::as_bytes(std::span(values)), state);
    status = CheckMemory(model, plan, tables, 4000, nullptr);
  }
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("table 'embedding'"), HasSubstr("2097152"),
                    HasSubstr("tables.embedding.tier to disk")));
  // Rows of 128 bytes and their index.
  EXPECT_GT(id, 9000U);
  EXPECT_LT(id, 16000U);
}

}  // namespace
}  // namespace shoal::ps
