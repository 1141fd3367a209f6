// Members of a job that come and go while it trains, by the command line.

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::ContainsRegex;
using ::testing::DoubleNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;

class ElasticTest : public JobsTest {
 protected:
  // Long enough for what is done meanwhile.
  static Words Keys(const Words& more) {
    Words keys = {"train.epochs=60", "train.eval.every_epoch=false"};
    keys.insert(keys.end(), more.begin(), more.end());
    return Sets(keys);
  }
  RunOutcome Shoal(Words argv) const {
    argv.insert(argv.begin(), Program());
    argv.insert(argv.end(), {"--job", Path("out")});
    return RunProgram(argv);
  }
  // Whether the job that writes to `out` says `text` of its state.
  bool Says(const std::string& regex) const {
    const RunOutcome status = Shoal({"status"});
    return status.exit_code == 0 &&
           ::testing::Matches(ContainsRegex(regex))(status.output);
  }
};

// Each command is given when what the one before asked for has come about.
TEST_F(ElasticTest, ScalesServersAndWorkersWithTheBitsOfTheUndisturbedRun) {
  const RunOutcome calm = Train("calm", Keys({}));
  ASSERT_EQ(calm.exit_code, 0) << calm.output;
  struct Step {
    std::string when;  // the status says
    Words command;
    std::string answer;
  };
  const std::vector<Step> steps = {
      {"head of.*worker 1", {"scale", "--servers", "5"}, "from 2 to 5 servers"},
      {"server 4 shard 0 .* [1-9][0-9]* +[1-9][0-9]* +0\n",
       {"scale", "--workers", "4"},
       "from 2 to 4 workers"},
      {"worker 3", {"scale", "--servers", "3"}, "2 servers go"},
      {" 0 are being copied.*server 2 shard 0 .*\nworker",
       {"drain", "--server", "0"},
       "3 servers go"},
      {" 0 are being copied.*holds +joins\nserver 1",
       {"scale", "--workers", "1", "--servers", "4"},
       "from 4 to 1 workers"}};
  size_t done = 0;
  std::string answers;
  const RunOutcome run = RunProgram(
      TrainCommand("out", Keys({"cluster.servers=2", "cluster.replicas=2",
                                "cluster.workers=2", "transport=zmq"})),
      [&](pid_t) {
        if (done < steps.size() && Says(steps[done].when)) {
          const RunOutcome answer = Shoal(steps[done].command);
          answers += answer.output;
          EXPECT_EQ(answer.exit_code, 0) << answer.output;
          EXPECT_THAT(answer.output, HasSubstr(steps[done].answer));
          ++done;
        }
      },
      std::chrono::seconds(120));
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_EQ(done, steps.size()) << "the job ended before: " << answers;
  EXPECT_EQ(Digest("out"), Digest("calm"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out" / "coordinator.txt"));
}

// A worker that is stopped for seconds holds nobody up where another stands in
// for it; what is reported counts each example once.
TEST_F(ElasticTest, BackupWorkerStandsInWithTheBitsOfTheUndisturbedRun) {
  const RunOutcome calm = Train("calm", Keys({"cluster.workers=2"}));
  ASSERT_EQ(calm.exit_code, 0) << calm.output;
  pid_t stopped = 0;
  int64_t stopped_at = 0;
  bool went_on = false;
  const RunOutcome run = RunProgram(
      TrainCommand("out", Keys({"cluster.workers=3", "cluster.backup_workers=1",
                                "cluster.servers=2", "transport=zmq"})),
      [&](pid_t launcher) {
        if (went_on) {
          return;
        }
        const RunOutcome status = Shoal({"status"});
        int64_t step = 0;
        if (std::sscanf(status.output.c_str(), "step %ld", &step) != 1) {
          return;
        }
        if (stopped == 0 && step > 0) {
          EXPECT_THAT(status.output, ContainsRegex("worker 2 .*backup\n"));
          stopped = ChildrenWith(launcher, "worker --index 1").at(0);
          stopped_at = step;
          kill(stopped, SIGSTOP);
        } else if (stopped != 0 && step > stopped_at + 100) {
          went_on = true;
          kill(stopped, SIGCONT);
        }
      },
      std::chrono::seconds(120));
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_TRUE(went_on) << "it ended before, or nobody stood in: " << run.output;
  EXPECT_EQ(Digest("out"), Digest("calm"));
  EXPECT_THAT(Losses("out"), Pointwise(DoubleNear(1e-9), Losses("calm")));
}

TEST_F(ElasticTest, RefusesWhatCanNotBe) {
  std::vector<std::pair<Words, std::string>> refusals = {
      {{"scale", "--servers", "1"}, "1 servers: there must be 2"},
      {{"scale", "--workers", "5"}, "1 to 4 \\(cluster.virtual_workers\\)"},
      {{"drain", "--server", "0"},
       "1 would be left, and cluster.replicas is 2"},
      {{"drain", "--server", "7"}, "no server 7"},
      {{"scale"}, "how many"},
      {{"mode", "--tables", "async"}, "give both the same"},
      {{"mode", "--dense", "allreduce"}, "dense variables are on the servers"},
      {{"mode", "--dense", "fast", "--tables", "fast"}, "'fast' is no mode"},
      {{"mode"}, "which"}};
  bool tried = false;
  const RunOutcome run = RunProgram(
      TrainCommand("out", Keys({"train.epochs=600", "cluster.servers=2",
                                "cluster.replicas=2"})),
      [&](pid_t launcher) {
        if (tried || !Says("worker 0")) {
          return;
        }
        tried = true;
        for (const auto& [command, why] : refusals) {
          const RunOutcome answer = Shoal(command);
          EXPECT_EQ(answer.exit_code, 1) << answer.output;
          EXPECT_THAT(answer.output, ContainsRegex(why));
        }
        kill(launcher, SIGINT);
      });
  EXPECT_TRUE(tried) << run.output;
  const RunOutcome nobody = Shoal({"status"});
  EXPECT_EQ(nobody.exit_code, 1);
  EXPECT_THAT(nobody.output, HasSubstr("no job that runs writes to"));
  tried = false;
  const RunOutcome async = RunProgram(
      TrainCommand("out", Keys({"consistency.mode=async"})),
      [&](pid_t launcher) {
        if (!tried && Says("worker 0")) {
          tried = true;
          const RunOutcome answer = Shoal({"scale", "--workers", "2"});
          EXPECT_THAT(answer.output, HasSubstr("in sync only"));
          kill(launcher, SIGINT);
        }
      });
  EXPECT_NE(async.exit_code, 0);
}

// Through all modes and back, a server lost on the way; and what was measured.
TEST_F(ElasticTest, ChangesTheModeWhileItTrains) {
  struct Step {
    std::string when;
    Words command;
    std::string answer;
  };
  const auto mode = [](const std::string& text) {
    return Words{"mode", "--tables", text, "--dense", text};
  };
  const std::vector<Step> steps = {
      {"consistency: sync\n.*worker 1", mode("bounded:1"),
       "from sync to bounded (staleness 1)"},
      {"bounded .staleness 1. since step [0-9]+\nstaleness", mode("async"),
       "to async"},
      {"consistency: async since", mode("async"), "nothing changes"},
      {"consistency: async since", mode("sync"), "from async to sync"},
      {"consistency: sync since", mode("bounded:0"), "to bounded"},
      {"bounded .staleness 0. since", mode("sync"), "to sync"},
      {"consistency: sync since", {"status"}, "staleness of gradients"}};
  size_t done = 0;
  std::string answers;
  const RunOutcome run = RunProgram(
      TrainCommand("out", Keys({"cluster.servers=2", "cluster.replicas=2",
                                "cluster.workers=2", "transport=zmq"})),
      [&](pid_t) {
        if (done < steps.size() && Says(steps[done].when)) {
          const RunOutcome answer = Shoal(steps[done].command);
          answers += answer.output;
          EXPECT_EQ(answer.exit_code, 0) << answer.output;
          EXPECT_THAT(answer.output, HasSubstr(steps[done].answer));
          ++done;
        }
      },
      std::chrono::seconds(120));
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_EQ(done, steps.size()) << "the job ended before: " << answers;
  EXPECT_THAT(run.output, ContainsRegex("staleness of gradients in clocks: "));
  EXPECT_THAT(run.output, ContainsRegex("from step [0-9]+ on: async"));
}

// `shoal plan` says before a job starts what it will hold at its end.
TEST_F(ElasticTest, PlanTellsTheRowsThatTrainingMakes) {
  const Words cluster =
      Sets({"cluster.servers=3", "cluster.replicas=2", "cluster.shards=2"});
  Words plan = {Program(), "plan", Path("job.yaml")};
  plan.insert(plan.end(), cluster.begin(), cluster.end());
  const RunOutcome planned = RunProgram(plan);
  ASSERT_EQ(planned.exit_code, 0) << planned.output;
  ASSERT_EQ(Train("out", cluster).exit_code, 0);
  const RunOutcome held =
      RunProgram({Program(), "checkpoint", "diff", Path("out"), Path("out")});
  int64_t of_tables = 0;
  for (const std::string table : {"linear", "embedding"}) {
    const std::string head = "table " + table + ": same (";
    const size_t at = held.output.find(head);
    ASSERT_NE(at, std::string::npos) << held.output;
    const int64_t rows = std::stoll(held.output.substr(at + head.size()));
    EXPECT_GT(rows, 100);
    EXPECT_THAT(planned.output, HasSubstr("table " + table + ": " +
                                          std::to_string(rows) + " rows of"));
    of_tables += rows;
  }
  // Two replicas, on three servers of about the same size.
  const size_t heading = planned.output.find("\nserver ");
  ASSERT_NE(heading, std::string::npos);
  std::istringstream lines(
      planned.output.substr(planned.output.find('\n', heading + 1)));
  int64_t of_servers = 0;
  for (int server = 0; server < 3; ++server) {
    int number = -1;
    int64_t rows = 0;
    std::string rest;
    ASSERT_TRUE(lines >> number >> rows) << planned.output;
    std::getline(lines, rest);
    EXPECT_EQ(number, server);
    EXPECT_NEAR(static_cast<double>(rows),
                static_cast<double>(of_tables) * 2 / 3,
                static_cast<double>(of_tables) / 10);
    of_servers += rows;
  }
  EXPECT_EQ(of_servers, 2 * of_tables);
}

TEST_F(ElasticTest, PlanRefusesWhatTheJobWouldBeRefusedFor) {
  const RunOutcome run = RunProgram(
      {Program(), "plan", Path("job.yaml"), "--set", "data.files=[none.csv]"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.output, HasSubstr("none.csv"));
}

}  // namespace
}  // namespace shoal::integration
