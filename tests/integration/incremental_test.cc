// Incremental checkpoints of real processes: a run that is saved so ends with
// the bits of one that is not, whoever is killed, and goes on from them.

#include <csignal>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <sys/types.h>

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class IncrementalTest : public JobsTest {
 protected:
  static Words Incremental(const Words& more = {}) {
    Words keys = {"checkpoint.every_steps=10", "checkpoint.full_every=3",
                  "checkpoint.keep=1"};
    keys.insert(keys.end(), more.begin(), more.end());
    return Sets(keys);
  }
  RunOutcome Checkpoint(const std::string& command,
                        const std::string& path) const {
    return RunProgram({Program(), "checkpoint", command, Path(path)});
  }
};

// Steps 10, 40 and 70 are full, the last is 76.
TEST_F(IncrementalTest, RunEndsWithTheSameBitsAndGoesOnFromThem) {
  ASSERT_EQ(Train("full", {}).exit_code, 0);
  const RunOutcome run = Train("run", Incremental());
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_EQ(Digest("run"), Digest("full"));
  const RunOutcome all = Checkpoint("ls", "run");
  EXPECT_THAT(all.output, HasSubstr("step-70")) << "76 is based on it";
  EXPECT_THAT(all.output, HasSubstr("incremental, based on step-70"));
  EXPECT_THAT(all.output, Not(HasSubstr("step-60")));
  EXPECT_EQ(Checkpoint("verify", "run").exit_code, 0);

  // Cut short behind an incremental one, and on from it on other servers.
  ASSERT_EQ(Train("short", Incremental({"train.max_steps=30"})).exit_code, 0);
  EXPECT_THAT(Checkpoint("ls", "short/checkpoints/step-30").output,
              HasSubstr("incremental, based on step-20"));
  const RunOutcome rest =
      Train("rest", Incremental({"checkpoint.restore=" + Path("short"),
                                 "cluster.servers=3", "cluster.workers=2"}));
  ASSERT_EQ(rest.exit_code, 0) << rest.output;
  EXPECT_EQ(Digest("rest"), Digest("full"));

  // Without what it is based on it is nothing.
  fs::remove_all(folder_ / "short/checkpoints/step-10");
  EXPECT_THAT(Checkpoint("ls", "short").output,
              HasSubstr("based on step-20\n  can't be read: "));
  const RunOutcome broken =
      Train("broken", Sets({"checkpoint.restore=" + Path("short")}));
  ExpectRefused(broken, "broken");
  EXPECT_THAT(broken.output, HasSubstr("step-10, is missing"));
}

TEST_F(IncrementalTest, WhatIsSetAsideKeepsWhatItIsBasedOn) {
  const Words keep_all = {"checkpoint.every_steps=10",
                          "checkpoint.full_every=4", "checkpoint.keep=9"};
  Words first = Sets(keep_all);
  const Words until = Sets({"train.max_steps=40"});
  first.insert(first.end(), until.begin(), until.end());
  ASSERT_EQ(Train("run", first).exit_code, 0);
  Words again = Sets(keep_all);
  const Words from =
      Sets({"checkpoint.restore=" + Path("run/checkpoints/step-20"),
            "train.max_steps=50"});
  again.insert(again.end(), from.begin(), from.end());
  const RunOutcome run = Train("run", again);
  ASSERT_EQ(run.exit_code, 0) << run.output;
  for (const char* step : {"10", "20", "30", "40"}) {
    for (const char* folder : {"run/checkpoints", "run/checkpoints.old"}) {
      const RunOutcome verified =
          Checkpoint("verify", std::string(folder) + "/step-" + step);
      EXPECT_EQ(verified.exit_code, 0) << verified.output;
    }
  }
}

TEST_F(IncrementalTest, ServerThatIsKilledLeavesTheBits) {
  ASSERT_EQ(Train("full", Sets({"train.epochs=12"})).exit_code, 0);
  bool killed = false;
  const RunOutcome run = RunProgram(
      TrainCommand("run",
                   Incremental({"cluster.servers=2", "cluster.replicas=2",
                                "train.epochs=12"})),
      [&](pid_t launcher) {
        const std::vector<pid_t> servers = ChildrenWith(launcher, "server");
        if (!killed && !servers.empty() &&
            fs::exists(folder_ / "run/checkpoints/step-40/manifest.json")) {
          killed = kill(servers.front(), SIGKILL) == 0;
        }
      });
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_TRUE(killed);
  EXPECT_THAT(run.output, HasSubstr("replicas"));
  EXPECT_EQ(Digest("run"), Digest("full"));
}

// Workers write the dense variables, shards the rows.
TEST_F(IncrementalTest, GoesWithDenseVariablesOnWorkers) {
  ASSERT_EQ(Train("full", {}).exit_code, 0);
  const Words more = {"consistency.dense=allreduce",
                      "consistency.sharded_optimizer=true",
                      "cluster.workers=2"};
  const RunOutcome run = Train("run", Incremental(more));
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_EQ(Digest("run"), Digest("full"));
  Words again = more;
  again.insert(again.end(), {"train.max_steps=20"});
  ASSERT_EQ(Train("short", Incremental(again)).exit_code, 0);
  EXPECT_THAT(Checkpoint("ls", "short").output, HasSubstr("incremental"));
  again = more;
  again.push_back("checkpoint.restore=" + Path("short"));
  const RunOutcome rest = Train("rest", Incremental(again));
  ASSERT_EQ(rest.exit_code, 0) << rest.output;
  EXPECT_EQ(Digest("rest"), Digest("full"));
}

TEST_F(IncrementalTest, NoNumberOfCheckpointsIsRefused) {
  for (const char* value : {"0", "-1"}) {
    const RunOutcome run =
        Train("refused", Sets({std::string("checkpoint.full_every=") + value}));
    ExpectRefused(run, "refused");
    EXPECT_THAT(run.output, HasSubstr("checkpoint.full_every"));
    EXPECT_THAT(run.output, HasSubstr("1 to 100"));
  }
}

}  // namespace
}  // namespace shoal::integration
