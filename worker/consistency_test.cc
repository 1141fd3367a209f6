#include "worker/consistency.h"

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/strcat.h"
#include "worker/job.h"
#include "worker/job.pb.h"

namespace shoal::worker {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

// Of a job with a million dense elements, 4 MB.
Consistency Choose(const std::string& consistency, int servers = 1,
                   int workers = 1, const std::string& transport = "auto",
                   int backups = 0) {
  const auto job = ParseJob(
      StrCat("data: {files: [a.csv], label: l, features: [{column: a}]}\n"
             "train: {batch_size: 64}\ntransport: ",
             transport, "\ncluster: {virtual_workers: 8, servers: ", servers,
             ", workers: ", workers, ", backup_workers: ", backups,
             "}\nconsistency: {", consistency, "}\n"),
      "job.yaml", {});
  EXPECT_TRUE(job.ok()) << job.status();
  ps::ModelSpec model;
  model.variables = {{"w", {1000, 1000}, {}}};
  return job.ok() ? ChooseConsistency(**job, model) : Consistency();
}

TEST(ConsistencyTest, ModeSetsBothAndEachKeyItsOwn) {
  const std::vector<
      std::tuple<std::string, ps::Mode, ps::DensePlace, std::string>>
      cases = {
          {"", ps::Mode::kSync, ps::DensePlace::kShards, "sync"},
          {"mode: async", ps::Mode::kAsync, ps::DensePlace::kShards, "async"},
          {"tables: bounded, dense: bounded", ps::Mode::kBounded,
           ps::DensePlace::kShards, "bounded"},
          {"dense: allreduce", ps::Mode::kSync, ps::DensePlace::kWorkers,
           "allreduce"},
          {"mode: async, dense: allreduce", ps::Mode::kAsync,
           ps::DensePlace::kWorkers, "allreduce"},
          {"tables: async, dense: allreduce", ps::Mode::kAsync,
           ps::DensePlace::kWorkers, "allreduce"},
          {"tables: bounded, dense: allreduce, sharded_optimizer: true",
           ps::Mode::kBounded, ps::DensePlace::kWorkerParts, "allreduce"},
          {"mode: bounded, tables: auto", ps::Mode::kBounded,
           ps::DensePlace::kShards, "bounded"},
          {"mode: async, tables: auto, dense: allreduce", ps::Mode::kSync,
           ps::DensePlace::kWorkers, "allreduce"},
          {"mode: async, tables: sync, dense: sync", ps::Mode::kSync,
           ps::DensePlace::kShards, "sync"}};
  for (const auto& [keys, tables, dense, text] : cases) {
    const Consistency chosen = Choose(keys);
    EXPECT_EQ(chosen.tables, tables) << keys;
    EXPECT_EQ(chosen.dense, dense) << keys;
    EXPECT_EQ(chosen.dense_text, text) << keys;
    EXPECT_EQ(chosen.choices.empty(), keys.find("auto") == std::string::npos)
        << keys;
  }
  EXPECT_THAT(Choose("mode: async, tables: auto").choices,
              ElementsAre("consistency.tables: auto is async, the strictest "
                          "beside consistency.dense: async"));
}

// Two servers and four workers of which each has one node of the step tree: a
// server gets and sends 8 / 2 of them, a worker of allreduce 3 / 4 of them four
// times.
TEST(ConsistencyTest, AutoCountsWhatTheBusiestProcessSendsAndGets) {
  const auto choice = [](int servers, int workers,
                         const std::string& transport) {
    return Choose("dense: auto", servers, workers, transport);
  };
  const Consistency two = choice(2, 4, "zmq");
  EXPECT_EQ(two.dense_text, "allreduce");
  ASSERT_EQ(two.choices.size(), 1U);
  EXPECT_EQ(two.choices[0],
            "consistency.dense: auto is allreduce: with 4 workers, 4.00 MB of "
            "dense variables put 16.00 MB a step through 2 servers and 12.00 "
            "MB through allreduce (the busiest process, as transport zmq may "
            "cross hosts); both train the same model");
  // A third one makes 10.67 of it.
  const Consistency three = choice(3, 4, "zmq");
  EXPECT_EQ(three.dense, ps::DensePlace::kShards);
  EXPECT_EQ(three.dense_text, "sync");
  EXPECT_THAT(three.choices[0],
              AllOf(HasSubstr("auto is sync"), HasSubstr("10.67 MB a step")));
  // What servers there are matters nothing to memory that all share.
  const Consistency one_host = choice(3, 4, "shm");
  EXPECT_EQ(one_host.dense_text, "allreduce");
  EXPECT_THAT(one_host.choices[0],
              AllOf(HasSubstr("32.00 MB a step through 3 servers"),
                    HasSubstr("24.00 MB through allreduce (all processes")));
  // Alone, a worker sends nothing.
  EXPECT_THAT(choice(8, 1, "zmq").choices[0],
              AllOf(StartsWith("consistency.dense: auto is allreduce: with 1 "
                               "worker,"),
                    HasSubstr("0.0 KB through allreduce")));
  // Of 8 virtual workers 3 run [0, 2), [2, 5) and [5, 8): 1, 2 and 2 nodes.
  EXPECT_THAT(choice(1, 3, "zmq").choices[0],
              AllOf(HasSubstr("32.00 MB a step through 1 server"),
                    HasSubstr("14.67 MB through allreduce")));
}

TEST(ConsistencyTest, AutoIsAFunctionOfJobAndModel) {
  EXPECT_EQ(Choose("dense: auto", 3, 4, "zmq").choices,
            Choose("dense: auto", 3, 4, "zmq").choices);
  EXPECT_THAT(Choose("dense: allreduce", 3, 4, "zmq").choices, IsEmpty());
}

TEST(ConsistencyTest, AutoKeepsToWhatBackupWorkersNeed) {
  const Consistency chosen = Choose("dense: auto", 1, 4, "auto", 1);
  EXPECT_EQ(chosen.dense, ps::DensePlace::kShards);
  EXPECT_THAT(chosen.choices,
              ElementsAre("consistency.dense: auto is sync, which "
                          "cluster.backup_workers needs"));
}

}  // namespace
}  // namespace shoal::worker
