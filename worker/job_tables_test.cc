#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/model.h"
#include "worker/open_worker.h"

namespace shoal::worker {
namespace {

using ::testing::HasSubstr;

StatusOr<std::unique_ptr<JobSpec>> JobWithTables(
    const std::vector<std::string>& overrides) {
  return ParseJob(
      "data: {files: [a.csv], label: late, features: [{column: origin}]}\n"
      "model: {kind: fm}\n",
      "job.yaml", overrides);
}

TEST(JobTablesTest, RulesThatDoNothingOrContradictAreRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"linear.admission={min_count: 0}",
       "linear.admission.min_count: 0 is too small"},
      {"linear.admission={min_count: 16777217}", "min_count: 16777217 is too"},
      {"linear.admission={probability: 0}",
       "linear.admission.probability: 0 never makes a row"},
      {"linear.admission={probability: 1.5}", "probability: 1.5 is too large"},
      {"linear.admission={min_count: 2, probability: 0.5}",
       "linear.admission.probability: rows are made by count or by chance"},
      {"linear.admission={candidate_bytes: 1000000}",
       "linear.admission.candidate_bytes: it is for the counts"},
      {"linear.admission={count: 2}",
       "unknown key 'count' under tables.linear"},
      {"linear.eviction={policy: lfu}",
       "linear.eviction.policy: it says which rows go"},
      {"linear.eviction={row_budget_bytes: 1000000, policy: fifo}",
       "linear.eviction.policy: 'fifo' is not known"},
      {"linear.eviction={max_age_steps: -1}", "max_age_steps: -1 is too small"},
      {"linear.eviction={max_age_steps: 2147483648}",
       "max_age_steps: 2147483648 is too large"},
  };
  for (const auto& [set, error] : cases) {
    const auto job = JobWithTables({"tables." + set});
    EXPECT_EQ(job.status().code(), StatusCode::kInvalidArgument) << set;
    EXPECT_THAT(job.status().message(), HasSubstr(error)) << set;
  }
}

TEST(JobTablesTest, DiskAndMemoryGoTogether) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"tables.linear.tier=disk"}, "cluster.memory_per_server: a table has"},
      {{"cluster.spill_folder=/disk"}, "cluster.spill_folder: no table has"},
      {{"tables.linear.tier=memory", "cluster.spill_folder=/disk",
        "cluster.memory_per_server=1000000"},
       "cluster.spill_folder: no table has"},
      {{"tables.linear.tier=tape"}, "linear.tier: 'tape' is not known"},
      {{"cluster.memory_per_server=-1"}, "memory_per_server: -1 is too small"},
  };
  for (const auto& [sets, error] : cases) {
    const auto job = JobWithTables(sets);
    EXPECT_EQ(job.status().code(), StatusCode::kInvalidArgument) << sets[0];
    EXPECT_THAT(job.status().message(), HasSubstr(error)) << sets[0];
  }
  const auto job =
      JobWithTables({"tables.linear.tier=disk", "cluster.spill_folder=/disk",
                     "cluster.memory_per_server=9000000", "cluster.shards=3"});
  ASSERT_TRUE(job.ok()) << job.status();
  RecordSchema schema;
  schema.categorical = {"origin"};
  const auto model = BuildModel(**job, schema, 0.5);
  ASSERT_TRUE(model.ok()) << model.status();
  for (const ps::TableSpec& table : model->spec.tables) {
    EXPECT_EQ(table.spills, table.name == "linear");
  }
  const ps::ClusterPlan plan = MakeClusterPlan(**job, model->spec);
  EXPECT_EQ(plan.memory_per_shard, 3000000);
  EXPECT_EQ(plan.spill_folder, "/disk");
}

TEST(JobTablesTest, RulesReachTheTablesOfTheModel) {
  const auto job = JobWithTables(
      {"tables.linear.admission={probability: 0.25}",
       "tables.linear.eviction={max_age_steps: 9}",
       "tables.embedding.admission={min_count: 3, candidate_bytes: 77}",
       "tables.embedding.eviction={row_budget_bytes: 5000, policy: lfu}"});
  ASSERT_TRUE(job.ok()) << job.status();
  RecordSchema schema;
  schema.categorical = {"origin"};
  const auto model = BuildModel(**job, schema, 0.5);
  ASSERT_TRUE(model.ok()) << model.status();
  int found = 0;
  for (const ps::TableSpec& table : model->spec.tables) {
    const ps::RowRules& rules = table.rules;
    if (table.name == "linear") {
      ++found;
      EXPECT_EQ(rules.min_count, 1);
      EXPECT_EQ(rules.probability, 0.25);
      EXPECT_EQ(rules.max_age_steps, 9);
      EXPECT_EQ(rules.row_budget_bytes, 0);
    } else {
      ++found;
      EXPECT_EQ(rules.min_count, 3);
      EXPECT_EQ(rules.candidate_bytes, 77);
      EXPECT_EQ(rules.probability, 1);
      EXPECT_EQ(rules.max_age_steps, 0);
      EXPECT_EQ(rules.row_budget_bytes, 5000);
      EXPECT_EQ(rules.policy, ps::RowRules::Policy::kLfu);
    }
  }
  EXPECT_EQ(found, 2);
}

// What goes with the rows must be there; how much of it may change.
TEST(JobTablesTest, CheckpointFitsJobsWithTheSameKindsOfRules) {
  const auto check = [](const std::string& then, const std::string& now) {
    const auto before = JobWithTables({"tables.embedding=" + then});
    const auto after = JobWithTables({"tables.embedding=" + now});
    EXPECT_TRUE(before.ok()) << before.status();
    EXPECT_TRUE(after.ok()) << after.status();
    // As a checkpoint keeps it.
    const auto kept = ParseJob(JobToYaml(**before), "kept", {});
    EXPECT_TRUE(kept.ok()) << kept.status();
    return CheckSameModel(**kept, **after).message();
  };
  const std::string lru = "{eviction: {row_budget_bytes: 1000000}}";
  const std::string lfu =
      "{eviction: {row_budget_bytes: 1000000, policy: lfu}}";
  const std::string age = "{eviction: {max_age_steps: 5}}";
  const std::string count = "{admission: {min_count: 2}}";
  const std::vector<std::pair<std::string, std::string>> same = {
      {"{}", "{admission: {min_count: 1}, eviction: {max_age_steps: 0}}"},
      {"{}", "{admission: {probability: 0.5}}"},
      {lru, age},
      {lru, "{eviction: {row_budget_bytes: 7, max_age_steps: 1}}"},
      {count, "{admission: {min_count: 9, candidate_bytes: 1}}"},
  };
  for (const auto& [a, b] : same) {
    EXPECT_EQ(check(a, b), "") << b;
    EXPECT_EQ(check(b, a), "") << b;
  }
  const std::vector<std::pair<std::string, std::string>> others = {
      {"{}", lru}, {"{}", age}, {lru, lfu}, {lfu, age}, {"{}", count},
  };
  for (const auto& [a, b] : others) {
    EXPECT_THAT(check(a, b), HasSubstr("tables")) << b;
    EXPECT_THAT(check(b, a), HasSubstr("tables")) << b;
  }
}

}  // namespace
}  // namespace shoal::worker
