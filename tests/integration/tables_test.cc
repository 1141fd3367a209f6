// Tables that admit and drop rows, in whole jobs: which rows there are, and
// what was counted, is no matter of who holds or pushes them, nor of a stop on
// the way.

#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Some 3000 ids, 1000 rows in embedding and 2000 candidates.
class TablesTest : public JobsTest {
 protected:
  const Words kRules = Sets(
      {"data.features=[{column: user}, {column: item}, {name: user_x_item, "
       "cross: [user, item]}, {column: price, kind: numeric}]",
       "tables.linear.admission={probability: 0.5}",
       "tables.linear.eviction={max_age_steps: 12}",
       "tables.embedding.admission={min_count: 2, candidate_bytes: 49152}",
       "tables.embedding.eviction={row_budget_bytes: 90000, policy: lfu, "
       "max_age_steps: 16}"});

  static constexpr const char* kTables[] = {"linear", "embedding",
                                            "embedding/candidates"};

  // Of a table in the checkpoint of a run, read as any reader of safetensors
  // would.
  std::set<uint64_t> IdsOf(const std::string& out, const std::string& table) {
    std::set<uint64_t> ids;
    for (const auto& entry :
         fs::recursive_directory_iterator(folder_ / out / "checkpoints")) {
      if (entry.path().extension() != ".safetensors") {
        continue;
      }
      const std::string file =
          Read(fs::relative(entry.path(), folder_).string());
      uint64_t head = 0;
      std::memcpy(&head, file.data(), sizeof(head));
      const auto tensors = nlohmann::json::parse(file.substr(8, head));
      if (!tensors.contains(table + "/ids")) {
        continue;
      }
      const auto offsets = tensors.at(table + "/ids").at("data_offsets");
      for (auto at = offsets[0].get<size_t>(); at < offsets[1].get<size_t>();
           at += 8) {
        uint64_t id = 0;
        std::memcpy(&id, file.data() + 8 + head + at, sizeof(id));
        ids.insert(id);
      }
    }
    return ids;
  }

  std::string TrainedDigest(const std::string& out, Words args,
                            const Words& rules) {
    args.emplace_back("--in-process");
    args.insert(args.end(), rules.begin(), rules.end());
    const RunOutcome run = Train(out, args);
    EXPECT_EQ(run.exit_code, 0) << run.output;
    return Digest(out);
  }
};

TEST_F(TablesTest, OneDigestForEveryClusterAndAcrossCheckpoints) {
  const std::string digest = TrainedDigest("one", {}, kRules);
  const std::vector<Words> clusters = {
      Sets({"cluster.servers=2", "cluster.workers=3"}),
      Sets({"cluster.servers=5", "cluster.shards=3", "cluster.workers=2"}),
      Sets({"cluster.servers=2", "cluster.workers=2",
            "consistency.dense=allreduce"}),
      Sets({"cluster.servers=2", "cluster.workers=2",
            "consistency.dense="
            "allreduce",
            "consistency.tables=bounded", "consistency.staleness=0"}),
  };
  for (const Words& cluster : clusters) {
    EXPECT_EQ(TrainedDigest("other", cluster, kRules), digest)
        << ::testing::PrintToString(cluster);
    fs::remove_all(folder_ / "other");
  }
  TrainedDigest("half", Sets({"train.max_steps=41", "cluster.servers=3"}),
                kRules);
  EXPECT_EQ(TrainedDigest("rest",
                          Sets({"cluster.servers=2",
                                "checkpoint.restore=" + Path("half")}),
                          kRules),
            digest);
  // Each rule had something to decide.
  std::set<std::string> digests = {digest};
  for (size_t left_out = 2; left_out < kRules.size(); left_out += 2) {
    Words rules = kRules;
    rules.erase(rules.begin() + static_cast<std::ptrdiff_t>(left_out),
                rules.begin() + static_cast<std::ptrdiff_t>(left_out) + 2);
    digests.insert(TrainedDigest("without", {}, rules));
    fs::remove_all(folder_ / "without");
  }
  EXPECT_EQ(digests.size(), 5U);
}

// A row that is not there is its first value to an evaluation, which leaves no
// trace.
TEST_F(TablesTest, EvaluationReadsWhatIsNotThereAndChangesNothing) {
  const std::string digest = TrainedDigest("one", {}, kRules);
  EXPECT_EQ(TrainedDigest("often", Sets({"train.eval.every_steps=7"}), kRules),
            digest);
  Words command = {Program(),   "eval",  Path("job.yaml"), "--checkpoint",
                   Path("one"), "--out", Path("scores")};
  command.insert(command.end(), kRules.begin(), kRules.end());
  const RunOutcome eval = RunProgram(command);
  EXPECT_EQ(eval.exit_code, 0) << eval.output;
  EXPECT_THAT(eval.output, HasSubstr("auc"));
  EXPECT_EQ(Digest("one"), digest);
}

// What one worker pushes has an order, so that the rules, which see ids and
// steps alone, leave the same ids on every number of servers. With two workers
// the budget holds.
TEST_F(TablesTest, OtherModesGoByTheirPushes) {
  for (const std::string mode : {"bounded", "async"}) {
    const auto train = [&](const char* servers, const char* workers) {
      fs::remove_all(folder_ / mode);
      TrainedDigest(mode,
                    Sets({"consistency.mode=" + mode,
                          std::string("cluster.servers=") + servers,
                          std::string("cluster.workers=") + workers}),
                    kRules);
    };
    train("1", "1");
    std::map<std::string, std::set<uint64_t>> want;
    for (const char* table : kTables) {
      want[table] = IdsOf(mode, table);
      EXPECT_GT(want[table].size(), 100U) << table;
    }
    train("3", "1");
    for (const char* table : kTables) {
      EXPECT_EQ(IdsOf(mode, table), want[table]) << mode << " " << table;
    }
    train("3", "2");
    // One in each of 1024 parts.
    EXPECT_LE(IdsOf(mode, "embedding").size(), 1024U);
    EXPECT_LE(IdsOf(mode, "embedding/candidates").size(), 1024U);
  }
}

TEST_F(TablesTest, BudgetThatCantBeDividedIsRefusedBeforeAnythingStarts) {
  const RunOutcome small = Train(
      "small", Sets({"tables.embedding.eviction={row_budget_bytes: 1000}"}));
  ExpectRefused(small, "small");
  EXPECT_THAT(small.output,
              AllOf(HasSubstr("'embedding'"), HasSubstr("or more")));
  const RunOutcome many = Train(
      "many", Sets({"tables.embedding.eviction={row_budget_bytes: 100000}",
                    "cluster.servers=17"}));
  ExpectRefused(many, "many");
  EXPECT_THAT(many.output, HasSubstr("fewer shards"));
}

TEST_F(TablesTest, CheckpointOfOtherRulesIsRefusedNamingThem) {
  TrainedDigest("one", Sets({"train.max_steps=10"}), {});
  for (const char* set : {"tables.embedding.admission={min_count: 2}",
                          "tables.embedding.eviction={max_age_steps: 9}"}) {
    const RunOutcome other =
        Train("other", Sets({set, "checkpoint.restore=" + Path("one")}));
    EXPECT_NE(other.exit_code, 0) << set;
    EXPECT_THAT(other.output,
                AllOf(HasSubstr("another model"), HasSubstr("embedding")));
  }
}

}  // namespace
}  // namespace shoal::integration
