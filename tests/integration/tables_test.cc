// Tables that admit and drop rows, in whole jobs: which rows there are, and
// what was counted, is no matter of who holds or pushes them, nor of a stop on
// the way.

#include <chrono>
#include <csignal>
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
using ::testing::ContainsRegex;
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

// --- Tables on disk --------------------------------------------------------

// So little that most rows of both tables are on disk.
class DiskTablesTest : public TablesTest {
 protected:
  Words Disk(const Words& more, int memory = 700000) const {
    Words keys = {"tables.linear.tier=disk", "tables.embedding.tier=disk",
                  "cluster.memory_per_server=" + std::to_string(memory),
                  "cluster.spill_folder=" + spill_.string(),
                  "data.features=[{column: user}, {column: item}, {name: "
                  "user_x_item, cross: [user, item]}, {column: price, kind: "
                  "numeric}]"};
    keys.insert(keys.end(), more.begin(), more.end());
    return Sets(keys);
  }
  void SetUp() override {
    TablesTest::SetUp();
    spill_ = fs::path("/var/tmp") / folder_.filename();
  }
  void TearDown() override {
    // Each run has removed what was there.
    EXPECT_TRUE(!fs::exists(spill_) || fs::is_empty(spill_));
    std::error_code ignored;
    fs::remove_all(spill_, ignored);
    TablesTest::TearDown();
  }
  // Of the same job in memory.
  Words Memory(const Words& more) const {
    Words keys = {
        "data.features=[{column: user}, {column: item}, {name: "
        "user_x_item, cross: [user, item]}, {column: price, kind: "
        "numeric}]"};
    keys.insert(keys.end(), more.begin(), more.end());
    return Sets(keys);
  }

  fs::path spill_;
};

TEST_F(DiskTablesTest, OneDigestWhereverRowsLie) {
  const std::vector<Words> models = {
      {},
      {"tables.linear.admission={probability: 0.5}",
       "tables.linear.eviction={max_age_steps: 12}",
       "tables.embedding.admission={min_count: 2, candidate_bytes: 49152}",
       "tables.embedding.eviction={row_budget_bytes: 90000, policy: lfu, "
       "max_age_steps: 16}",
       "tables.embedding.format=bf16"}};
  for (const Words& model : models) {
    const std::string digest = TrainedDigest("memory", {}, Memory(model));
    const int more = model.empty() ? 0 : 80000;
    EXPECT_EQ(TrainedDigest("disk", {}, Disk(model, 700000 + more)), digest);
    Words cluster = model;
    cluster.insert(cluster.end(), {"cluster.servers=3", "cluster.shards=2",
                                   "cluster.replicas=2", "cluster.workers=2"});
    EXPECT_EQ(TrainedDigest("many", {}, Disk(cluster, 2 * (650000 + more))),
              digest);
    // Across checkpoints, either way.
    Words half = model;
    half.emplace_back("train.max_steps=41");
    TrainedDigest("half_disk", {}, Disk(half, 700000 + more));
    TrainedDigest("half_memory", {}, Memory(half));
    Words from_disk = model;
    from_disk.push_back("checkpoint.restore=" + Path("half_disk"));
    EXPECT_EQ(TrainedDigest("to_memory", {}, Memory(from_disk)), digest);
    Words from_memory = model;
    from_memory.push_back("checkpoint.restore=" + Path("half_memory"));
    EXPECT_EQ(TrainedDigest("to_disk", {}, Disk(from_memory, 700000 + more)),
              digest);
    for (const char* out : {"memory", "disk", "many", "half_disk",
                            "half_memory", "to_memory", "to_disk"}) {
      fs::remove_all(folder_ / out);
    }
  }
}

TEST_F(DiskTablesTest, OtherModesTrainFromDisk) {
  for (const char* mode : {"bounded", "async"}) {
    const RunOutcome run =
        Train(mode, Disk({std::string("consistency.mode=") + mode,
                          "cluster.servers=2", "cluster.workers=2"}));
    EXPECT_EQ(run.exit_code, 0) << run.output;
  }
}

// A server that is killed leaves its rows on disk to nobody; the next one there
// clears them away.
TEST_F(DiskTablesTest, KilledServerIsReplacedWithTheBitsOfTheRunInMemory) {
  const Words longer = {"train.epochs=40", "train.eval.every_epoch=false"};
  const std::string digest = TrainedDigest("memory", {}, Memory(longer));
  Words keys = longer;
  keys.insert(keys.end(),
              {"cluster.servers=3", "cluster.replicas=2", "transport=zmq"});
  bool killed = false;
  const RunOutcome run = RunProgram(
      TrainCommand("disk", Disk(keys)),
      [&](pid_t launcher) {
        if (killed) {
          return;
        }
        const RunOutcome status =
            RunProgram({Program(), "status", "--job", Path("disk")});
        const auto servers = ChildrenWith(launcher, "server --index 1");
        if (status.exit_code == 0 && !servers.empty() &&
            ::testing::Matches(ContainsRegex("step [1-9]"))(status.output)) {
          killed = kill(servers.front(), SIGKILL) == 0;
        }
      },
      std::chrono::seconds(120));
  EXPECT_TRUE(killed);
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_EQ(Digest("disk"), digest);
}

TEST_F(DiskTablesTest, FullMemoryWithoutDiskEndsTheJobSayingWhatToDo) {
  const RunOutcome run =
      Train("out", Memory({"cluster.memory_per_server=100000"}));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("server 0 shard 0"), HasSubstr("'embedding'"),
                    HasSubstr("100000"), HasSubstr("tier to disk")));
}

TEST_F(DiskTablesTest, TooLittleForTheDiskIsRefusedBeforeAnythingStarts) {
  for (const int memory : {300000, 500000}) {
    const RunOutcome run = Train("out", Disk({}, memory));
    ExpectRefused(run, "out");
    EXPECT_THAT(run.output, HasSubstr("cluster.memory_per_server"));
    EXPECT_FALSE(fs::exists(spill_));
  }
  Write("file", "");
  const RunOutcome run =
      Train("out", Disk({"cluster.spill_folder=" + Path("file") + "/below"}));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("server 0 shard 0"), HasSubstr("can't use"),
                    HasSubstr(Path("file"))));
}

// The system refuses to write more of a file than the data has, as a full disk
// would.
TEST_F(DiskTablesTest, DiskThatCantBeWrittenEndsTheJobNamingIt) {
  std::string command = "trap '' XFSZ; ulimit -f 200; exec";
  for (const std::string& word :
       TrainCommand("out", Disk({"tables.linear.tier=memory", "train.epochs=40",
                                 "train.eval.every_epoch=false",
                                 "model.dim=1024", "transport=zmq"},
                                16000000))) {
    command += " '" + word + "'";
  }
  const RunOutcome run = RunProgram({"/bin/bash", "-c", command});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.output, AllOf(HasSubstr("rows on disk: " + spill_.string()),
                                HasSubstr("File too large")));
  // A server that is stopped at once leaves its rows to the next to clear away.
  fs::remove_all(spill_);
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
