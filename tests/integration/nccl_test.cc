// Jobs whose gradients are summed by collective nccl, on the stand-in GPU and
// with the stand-in NCCL of tests/nccl.
#include <chrono>
#include <cmath>
#include <csignal>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class NcclJobTest : public JobsTest {
 protected:
  // Of a machine with four GPUs and NCCL; `variables` come last.
  static Words Machine(const Words& variables) {
    Words argv = {"/usr/bin/env",
                  std::string("SHOAL_CUDA_PLUGIN=") + SHOAL_CUDA_SHIM,
                  std::string("SHOAL_NCCL=") + SHOAL_NCCL_STANDIN,
                  "SHOAL_SHIM_DEVICES=4"};
    argv.insert(argv.end(), variables.begin(), variables.end());
    return argv;
  }
  Words JobCommand(const Words& variables, const Words& keys) const {
    Words argv = Machine(variables);
    Words more = Sets({"device=cuda", "consistency.dense=allreduce",
                       "cluster.collective=nccl", "train.max_steps=40",
                       "train.log_every_steps=5"});
    const Words sets = Sets(keys);
    more.insert(more.end(), sets.begin(), sets.end());
    const Words train = TrainCommand("out", more);
    argv.insert(argv.end(), train.begin(), train.end());
    return argv;
  }
  RunOutcome RunJob(const Words& variables, const Words& keys) const {
    fs::remove_all(folder_ / "out");
    return RunProgram(JobCommand(variables, keys));
  }
  void ExpectNoStep(const RunOutcome& run) const {
    EXPECT_EQ(run.exit_code, 1) << run.output;
    EXPECT_LT(run.seconds, 10);
    if (fs::exists(folder_ / "out/metrics.json")) {
      EXPECT_TRUE(Losses("out").empty());
    }
  }
};

// Sums of two keep their bits in every order; of more, NCCL orders them.
TEST_F(NcclJobTest, TrainsAsTheOthersDo) {
  Words threads = {"--in-process"};
  const Words same = Sets({"train.max_steps=40", "train.log_every_steps=5"});
  threads.insert(threads.end(), same.begin(), same.end());
  ASSERT_EQ(Train("threads", threads).exit_code, 0);
  const std::string digest = Digest("threads");
  const std::vector<double> want = Losses("threads");
  ASSERT_GE(want.size(), 8U);
  const std::vector<std::pair<int, Words>> clusters = {
      {1, {}},
      {2, {"cluster.servers=2"}},
      {2, {"consistency.sharded_optimizer=true"}},
      {2, {"transport=zmq"}},
      {3, {}},
      {4, {"cluster.servers=2"}},
      {4, {"consistency.sharded_optimizer=true"}}};
  for (auto [workers, keys] : clusters) {
    keys.push_back("cluster.workers=" + std::to_string(workers));
    const std::string what = ::testing::PrintToString(keys);
    const RunOutcome run = RunJob({}, keys);
    ASSERT_EQ(run.exit_code, 0) << what << run.output;
    const std::vector<double> got = Losses("out");
    ASSERT_EQ(got.size(), want.size()) << what;
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LT(std::abs(got[i] - want[i]), 1e-6) << what << " point " << i;
    }
    if (workers <= 2) {
      EXPECT_EQ(Digest("out"), digest) << what;
    }
  }
}

// What the first worker writes of the model, and what each writes of its part
// of it, is the same, and the same again: all hold one model. (NCCL itself may
// order the sums of a reduce-scatter in another way than those of an
// allreduce; the stand-in does not.)
TEST_F(NcclJobTest, FourWorkersHaveOneModelEveryTime) {
  std::string digest;
  for (const char* const sharded : {"false", "true", "true"}) {
    const RunOutcome run =
        RunJob({}, {"cluster.workers=4",
                    std::string("consistency.sharded_optimizer=") + sharded});
    ASSERT_EQ(run.exit_code, 0) << run.output;
    digest = digest.empty() ? Digest("out") : digest;
    EXPECT_EQ(Digest("out"), digest);
  }
}

TEST_F(NcclJobTest, WhatIsMissingIsSaidBeforeTheFirstStep) {
  const auto refused = [this](const Words& variables, const Words& keys) {
    Words all = {"cluster.workers=2"};
    all.insert(all.end(), keys.begin(), keys.end());
    const RunOutcome run = RunJob(variables, all);
    ExpectNoStep(run);
    return run.output;
  };
  EXPECT_THAT(refused({"SHOAL_NCCL=/none/libnccl.so.2"}, {}),
              AllOf(HasSubstr("cluster.collective: nccl: NCCL does not load"),
                    HasSubstr("/none/libnccl.so.2"),
                    HasSubstr("let SHOAL_NCCL name its libnccl.so.2")));
  EXPECT_THAT(refused({"SHOAL_NCCL_STANDIN_VERSION=21703"}, {}),
              AllOf(HasSubstr("NCCL 2.17.3"), HasSubstr("is too old"),
                    HasSubstr("install NCCL 2.18.0 or later")));
  EXPECT_THAT(refused({std::string("SHOAL_NCCL=") + SHOAL_CUDA_SHIM}, {}),
              HasSubstr("has no ncclGetVersion, so it is no NCCL"));
  EXPECT_THAT(refused({"SHOAL_SHIM_DEVICES=1"}, {}),
              AllOf(HasSubstr("worker 0 and worker 1 have the same GPU"),
                    HasSubstr("set cluster.collective: transport")));
  EXPECT_THAT(refused({}, {"device=cpu"}),
              AllOf(HasSubstr("cluster.collective"),
                    HasSubstr("worker 0 computes on cpu; set device: cuda")));
  EXPECT_THAT(refused({"SHOAL_NCCL_STANDIN=error:1:0"}, {}),
              HasSubstr("joining NCCL's group: NCCL: "));
  EXPECT_THAT(
      refused({"SHOAL_NCCL_STANDIN=hang:1:0"}, {"cluster.timeout_seconds=2"}),
      HasSubstr("joining NCCL's group: waited 2 s for NCCL"));
}

TEST_F(NcclJobTest, WhatNcclFindsWrongEndsTheJobSayingIt) {
  RunOutcome run =
      RunJob({"SHOAL_NCCL_STANDIN=error:1:7"}, {"cluster.workers=2"});
  EXPECT_EQ(run.exit_code, 1) << run.output;
  EXPECT_LT(run.seconds, 8);
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("worker 1: allreduce 7 of"),
                    HasSubstr("NCCL: working: remote process exited"),
                    HasSubstr("no member has lost its connection")));
  run = RunJob({"SHOAL_NCCL_STANDIN=hang:1:7"},
               {"cluster.workers=2", "cluster.timeout_seconds=2"});
  EXPECT_EQ(run.exit_code, 1) << run.output;
  EXPECT_LT(run.seconds, 10);
  EXPECT_THAT(run.output, HasSubstr("waited 2 s for NCCL, though all 2 members "
                                    "have called it"));
}

TEST_F(NcclJobTest, WorkerKilledInACollectiveEndsTheJobNamingIt) {
  bool struck = false;
  int rounds = 0;
  std::vector<pid_t> workers;
  std::chrono::steady_clock::time_point at;
  // Worker 1's seventh operation hangs, so that it is killed in the middle.
  const RunOutcome run = RunProgram(
      JobCommand({"SHOAL_NCCL_STANDIN=hang:1:7"}, {"cluster.workers=3"}),
      [&](pid_t pid) {
        const std::vector<pid_t> now = ChildrenWith(pid, "worker --index");
        workers = now.size() > workers.size() ? now : workers;
        if (!struck && workers.size() == 3 && ++rounds > 50) {
          struck = true;
          at = std::chrono::steady_clock::now();
          for (const pid_t child : ChildrenWith(pid, "worker --index 1")) {
            kill(child, SIGKILL);
          }
        }
      });
  EXPECT_TRUE(struck);
  EXPECT_LT(std::chrono::steady_clock::now() - at, std::chrono::seconds(5));
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("worker 1"), HasSubstr("killed by signal 9")));
  for (const pid_t worker : workers) {
    EXPECT_FALSE(IsRunning(worker));
  }
}

TEST_F(NcclJobTest, DoctorSaysWhetherNcclLoads) {
  const auto doctor = [](const Words& variables) {
    Words argv = Machine(variables);
    argv.insert(argv.end(), {SHOAL_PROGRAM, "doctor"});
    return RunProgram(argv).output;
  };
  EXPECT_THAT(doctor({}), HasSubstr("nccl     NCCL 2.28.9 loads"));
  EXPECT_THAT(doctor({"SHOAL_NCCL=/none/libnccl.so.2"}),
              AllOf(HasSubstr("nccl     no: NCCL does not load"),
                    HasSubstr("needed for cluster.collective: nccl alone")));
}

// As far as NVIDIA's own library goes without a GPU: it has what is used, joins
// members by its id, and refuses where its driver is missing.
TEST_F(NcclJobTest, RealNcclTakesTheCallsUntilItNeedsADriver) {
  Words doctor = Machine({"SHOAL_NCCL=libnccl.so.2"});
  doctor.insert(doctor.end(), {SHOAL_PROGRAM, "doctor"});
  if (RunProgram(doctor).output.find("nccl     NCCL 2.") == std::string::npos) {
    GTEST_SKIP() << "there is no libnccl.so.2";
  }
  if (RunProgram({SHOAL_PROGRAM, "doctor", "--need-gpu"}).exit_code == 0) {
    GTEST_SKIP() << "there is a GPU, which the stand-in is not";
  }
  const RunOutcome run =
      RunJob({"SHOAL_NCCL=libnccl.so.2"}, {"cluster.workers=2"});
  ExpectNoStep(run);
  EXPECT_THAT(run.output, AllOf(HasSubstr("joining NCCL's group: NCCL: "),
                                HasSubstr("unhandled cuda error")));
}

}  // namespace
}  // namespace shoal::integration
