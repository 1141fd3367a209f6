// Workers that end or stand still while the others sum gradients with them.

#include <chrono>
#include <csignal>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

constexpr size_t kWorkers = 4;
constexpr double kTimeoutSeconds = 3;  // cluster.timeout_seconds
// Of the launcher, for a stopped child that does not end when told to, and for
// a busy machine.
constexpr double kGraceSeconds = 10;

struct Fault {
  int signal;
  const char* transport;
  const char* algorithm;
};

class CollectiveFaultTest : public JobsTest,
                            public ::testing::WithParamInterface<Fault> {};

// The tables are async, so that nothing but the sums binds the workers: where
// one stops, the rest wait for it in a sum. (Beside sync tables a pull may be
// what runs out of time first.)
TEST_P(CollectiveFaultTest, EndsTheJobInTimeNamingTheWorker) {
  const Fault& fault = GetParam();
  const Words command = TrainCommand(
      "out",
      Sets({"train.epochs=100000", "train.eval.every_epoch=false",
            "consistency.dense=allreduce", "consistency.tables=async",
            "cluster.timeout_seconds=" +
                std::to_string(static_cast<int>(kTimeoutSeconds)),
            "cluster.workers=" + std::to_string(kWorkers),
            std::string("transport=") + fault.transport,
            std::string("cluster.allreduce=[0 ") + fault.algorithm + "]"}));
  std::set<pid_t> children;
  pid_t victim = 0;
  int rounds = 0;
  Clock::time_point struck_at;
  const RunOutcome run = RunProgram(command, [&](pid_t launcher) {
    if (victim != 0) {
      return;
    }
    const std::vector<pid_t> workers = ChildrenWith(launcher, "worker --index");
    for (const pid_t server : ChildrenWith(launcher, "server --index")) {
      children.insert(server);
    }
    // About half a second after all are there, training goes on.
    if (workers.size() == kWorkers && ++rounds > 25) {
      children.insert(workers.begin(), workers.end());
      victim = ChildrenWith(launcher, "worker --index 2").at(0);
      struck_at = Clock::now();
      kill(victim, fault.signal);
    }
  });
  const double seconds =
      std::chrono::duration<double>(Clock::now() - struck_at).count();
  ASSERT_NE(victim, 0) << run.output;
  EXPECT_EQ(run.exit_code, 1) << run.output;
  EXPECT_LT(seconds, kTimeoutSeconds + kGraceSeconds) << run.output;
  EXPECT_THAT(run.output, HasSubstr("worker 2"));
  if (fault.signal == SIGKILL) {
    EXPECT_THAT(run.output, HasSubstr("killed by signal 9"));
  } else {
    // A member may blame one that itself waits (halving); the job may not.
    EXPECT_THAT(run.output,
                ContainsRegex("shoal: worker 2 .* has said nothing for .*"
                              "allreduce [0-9]+ of [0-9]+ f32: waited 3 s"));
  }
  // They have process groups of their own, which RunProgram() leaves alone.
  EXPECT_GT(children.size(), kWorkers);
  for (const pid_t child : children) {
    EXPECT_FALSE(IsRunning(child)) << child;
  }
}

std::vector<Fault> AllFaults() {
  std::vector<Fault> faults;
  for (const int signal : {SIGKILL, SIGSTOP}) {
    for (const char* transport : {"shm", "zmq"}) {
      for (const char* algorithm :
           {"exchange", "segments", "halving", "read", "hierarchical"}) {
        faults.push_back({signal, transport, algorithm});
      }
    }
  }
  return faults;
}

INSTANTIATE_TEST_SUITE_P(Ways, CollectiveFaultTest,
                         ::testing::ValuesIn(AllFaults()), [](const auto& one) {
                           return std::string(one.param.signal == SIGKILL
                                                  ? "Killed_"
                                                  : "Stopped_") +
                                  one.param.transport + "_" +
                                  one.param.algorithm;
                         });

}  // namespace
}  // namespace shoal::integration
