// Jobs as ranks of mpirun: transport and collective mpi, `shoal launch mpi`,
// several hosts as network namespaces.

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Not;

class MpiTest : public JobsTest {
 protected:
  void SetUp() override {
    if (RunProgram({"mpirun", "--version"}).exit_code != 0) {
      GTEST_SKIP() << "there is no mpirun";
    }
    if (!fs::exists(Built("libshoal_mpi.so"))) {
      GTEST_SKIP() << "the MPI plug-in was not built";
    }
    JobsTest::SetUp();
  }

  static std::string Built(const std::string& name) {
    return fs::path(Program()).parent_path() / name;
  }

  // `shoal launch mpi` of the small job with 60 steps.
  Words LaunchCommand(const std::string& out, const Words& more) const {
    Words argv = {Program(), "launch",  "mpi",   Path("job.yaml"),
                  "--out",   Path(out), "--set", "train.max_steps=60"};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  RunOutcome Launch(const std::string& out, const Words& more) const {
    return RunProgram(LaunchCommand(out, more));
  }
  std::string Reference() const {
    EXPECT_EQ(Train("threads", {"--in-process", "--set", "train.max_steps=60"})
                  .exit_code,
              0);
    return Digest("threads");
  }
};

// The tests of comm that need ranks; what they are is in their files.
TEST_F(MpiTest, TransportAndCollectiveKeepTheirContracts) {
  ASSERT_TRUE(fs::exists(Built("comm_test")));
  const auto run = [&](const Words& before, const std::string& ranks,
                       const std::string& filter) {
    // This program's own results file is not theirs.
    Words argv = {"env", "-u", "GTEST_OUTPUT"};
    argv.insert(argv.end(), before.begin(), before.end());
    argv.insert(argv.end(), {"mpirun", "-np", ranks, Built("comm_test"),
                             "--gtest_brief=1", "--gtest_filter=" + filter});
    const RunOutcome outcome = RunProgram(argv, {}, std::chrono::seconds(120));
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("PASSED"));
    EXPECT_THAT(outcome.output, Not(HasSubstr("not under mpirun")));
  };
  run({}, "2", "*/mpi:MpiRanksTest.*:MpiCollectiveTest.*");
  // Where MPI takes one call at a time.
  run({"SHOAL_TEST_SERIALIZED=1"}, "2", "*/mpi:MpiRanksTest.*");
  run({}, "4", "MpiCollectiveTest.All*:MpiCollectiveTest.Operations*");
}

TEST_F(MpiTest, TransportMpiGivesTheDigestOfTheOthers) {
  const std::string digest = Reference();
  for (const char* workers : {"1", "2", "4"}) {
    for (const char* dense : {"sync", "allreduce"}) {
      const Words cluster =
          Sets({"transport=mpi", std::string("cluster.workers=") + workers,
                "cluster.servers=2", "cluster.shards=2",
                std::string("consistency.dense=") + dense});
      const RunOutcome run = Launch("out", cluster);
      ASSERT_EQ(run.exit_code, 0) << run.output;
      EXPECT_EQ(Digest("out"), digest) << ::testing::PrintToString(cluster);
      fs::remove_all(folder_ / "out");
    }
  }
}

// MPI orders its sums as it likes.
TEST_F(MpiTest, CollectiveMpiTrainsAsTheOthersDo) {
  const Words log = Sets({"train.log_every_steps=5"});
  Words threads = {"--in-process", "--set", "train.max_steps=60"};
  threads.insert(threads.end(), log.begin(), log.end());
  ASSERT_EQ(Train("threads", threads).exit_code, 0);
  const std::vector<double> want = Losses("threads");
  ASSERT_GE(want.size(), 10U);
  for (const char* transport : {"mpi", "auto"}) {
    for (const char* workers : {"2", "3"}) {
      Words cluster =
          Sets({std::string("transport=") + transport,
                std::string("cluster.workers=") + workers,
                "consistency.dense=allreduce", "cluster.collective=mpi"});
      cluster.insert(cluster.end(), log.begin(), log.end());
      const RunOutcome run = Launch("out", cluster);
      ASSERT_EQ(run.exit_code, 0) << run.output;
      const std::vector<double> got = Losses("out");
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_LT(std::abs(got[i] - want[i]), 1e-6) << "point " << i;
      }
      fs::remove_all(folder_ / "out");
    }
  }
}

TEST_F(MpiTest, WithoutMpirunBothSayWhatToDo) {
  RunOutcome run = Train("out", Sets({"transport=mpi"}));
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("transport: mpi"), HasSubstr("shoal launch mpi"),
                    HasSubstr("--set transport=auto")));
  run = Train("out",
              Sets({"cluster.collective=mpi", "consistency.dense=allreduce"}));
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output, HasSubstr("cluster.collective: mpi"));
}

TEST_F(MpiTest, TooFewRanksSayWhatWasAskedAndWhatIsThere) {
  Words argv = {"mpirun", "-np", "2"};
  const Words train =
      TrainCommand("out", Sets({"cluster.workers=3", "transport=mpi"}));
  argv.insert(argv.end(), train.begin(), train.end());
  const RunOutcome run = RunProgram(argv);
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("mpirun started 2 ranks"),
                    HasSubstr("the job needs 4"), HasSubstr("mpirun -np 4")));
}

// As the MPI operator's launcher finds it: no -np, a host file by a variable.
TEST_F(MpiTest, HostFileThatIsNotReadIsAnErrorAndNoSmallerTraining) {
  Write("hostfile", "localhost slots=5\n");
  const std::string orte = "OMPI_MCA_orte_default_hostfile=" + Path("hostfile");
  const std::string prte = "PRTE_MCA_prte_default_hostfile=" + Path("hostfile");
  const bool five =
      RunProgram({"mpirun", "--version"}).output.find("Open MPI) 5.") !=
      std::string::npos;
  const auto run = [&](const std::string& out, const Words& variables) {
    Words argv = {"env"};
    argv.insert(argv.end(), variables.begin(), variables.end());
    argv.insert(argv.end(), {"mpirun", "--bind-to", "none"});
    const Words train =
        TrainCommand(out, {"--expect-ranks=5", "--set", "cluster.workers=3",
                           "--set", "cluster.servers=2"});
    argv.insert(argv.end(), train.begin(), train.end());
    return RunProgram(argv);
  };
  RunOutcome outcome = run("out", {orte, prte});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  outcome = run("wrong", {five ? orte : prte});
  ExpectRefused(outcome, "wrong");
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("but --expect-ranks says 5"),
                    HasSubstr(five ? "PRTE_MCA_prte_default_hostfile"
                                   : "OMPI_MCA_orte_default_hostfile")));
}

TEST_F(MpiTest, DryRunPrintsRanksAndLineAndRunsNothing) {
  const RunOutcome run = Launch(
      "out", {"--set",
              "placement={hosts: [{name: a, slots: 2}, {name: b, slots: 4}], "
              "servers: [a], workers: [b]}",
              "--set", "cluster.workers=2", "--mpirun-arg", "--report-bindings",
              "--dry-run"});
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("# rank 0: server 0 and the coordinator, on a\n"),
                    HasSubstr("# rank 2: worker 1, on b\n"),
                    HasSubstr("mpirun -np 3 --host a:1,b:2 "),
                    HasSubstr(" --report-bindings " + Program() + " train "),
                    HasSubstr("'placement={hosts: [{name: a")));
  EXPECT_FALSE(fs::exists(folder_ / "out"));

  const RunOutcome full =
      Launch("out", {"--set", "placement={hosts: [{name: a, slots: 2}]}",
                     "--set", "cluster.workers=2", "--dry-run"});
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_THAT(full.output, HasSubstr("a has 2"));
  const RunOutcome missing = Launch("out", {"--mpirun", "mpirun-of-nobody"});
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.output, HasSubstr("no mpirun-of-nobody in PATH"));
}

// The ranks of a launch that are workers.
std::vector<pid_t> Ranks(pid_t launch) {
  std::vector<pid_t> ranks;
  for (const pid_t mpirun : ChildrenWith(launch, " -np ")) {
    for (const pid_t rank : ChildrenWith(mpirun, " train ")) {
      ranks.push_back(rank);
    }
  }
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

TEST_F(MpiTest, KilledRankIsNamedAndRestartsGoOnFromTheLastCheckpoint) {
  WriteRows("rows.csv", 30'000);
  const Words job =
      Sets({"train.max_steps=400", "transport=mpi", "checkpoint.every_steps=20",
            "cluster.workers=2", "consistency.dense=allreduce"});
  const RunOutcome undisturbed =
      Train("threads", {"--in-process", "--set", "train.max_steps=400"});
  ASSERT_EQ(undisturbed.exit_code, 0) << undisturbed.output;

  // An earlier training in the same folder is not what a restart goes on from.
  ASSERT_EQ(Train("out", {"--in-process", "--set", "train.max_steps=60",
                          "--set", "seed=9"})
                .exit_code,
            0);
  int kills = 0;
  const auto kill_worker = [&](pid_t launch) {
    const fs::path step20 = folder_ / "out/checkpoints/step-20/manifest.json";
    if (kills == 0 && fs::exists(step20)) {
      const std::vector<pid_t> ranks = Ranks(launch);
      if (ranks.size() == 3) {
        kills += kill(ranks[2], SIGKILL) == 0 ? 1 : 0;
      }
    }
  };
  Words restarts = {"--restarts", "2"};
  restarts.insert(restarts.end(), job.begin(), job.end());
  RunOutcome run = RunProgram(LaunchCommand("out", restarts), kill_worker);
  ASSERT_EQ(kills, 1) << run.output;
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("rank 2"), HasSubstr("# rank 2: worker 1"),
                    HasSubstr("exit code 137 (a rank was ended by signal 9); "
                              "restart 1 of 2, from "),
                    HasSubstr("checkpoints/step-")));
  EXPECT_EQ(Digest("out"), Digest("threads"));

  // One that is lost before it has saved anything begins anew: what lies there
  // is still the earlier training's.
  fs::remove_all(folder_ / "out");
  ASSERT_EQ(Train("out", {"--in-process", "--set", "train.max_steps=60",
                          "--set", "seed=9"})
                .exit_code,
            0);
  kills = 0;
  // Once rank 0 prepares the data, all ranks are past MPI_Init(): one that is
  // killed inside it can leave Open MPI's mpirun waiting for ever.
  const auto prepares = [this] {
    for (const auto& entry : fs::directory_iterator(folder_ / "out")) {
      if (entry.path().filename().string().starts_with("shoal-data-")) {
        return true;
      }
    }
    return false;
  };
  Words unsaved = restarts;
  unsaved.insert(unsaved.end(), {"--set", "checkpoint.every_steps=100000"});
  run = RunProgram(LaunchCommand("out", unsaved), [&](pid_t launch) {
    const std::vector<pid_t> ranks = Ranks(launch);
    if (kills == 0 && ranks.size() == 3 && prepares()) {
      kills += kill(ranks[2], SIGKILL) == 0 ? 1 : 0;
    }
  });
  ASSERT_EQ(kills, 1) << run.output;
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_THAT(run.output,
              AnyOf(HasSubstr("restart 1 of 2, as it began"),
                    // before all ranks were there
                    HasSubstr("restart 1 of 2 in 1 s, as it began")));
  EXPECT_EQ(Digest("out"), Digest("threads"));

  // The limit, and the exit code.
  fs::remove_all(folder_ / "out");
  kills = 0;
  run = RunProgram(LaunchCommand("out", job), kill_worker);
  ASSERT_EQ(kills, 1) << run.output;
  EXPECT_EQ(run.exit_code, 137) << run.output;
  EXPECT_THAT(run.output, HasSubstr("go on with --set checkpoint.restore="));
}

TEST_F(MpiTest, RankThatHangsIsEndedAndTheJobStartedAgain) {
  int stops = 0;
  const auto stop_worker = [&](pid_t launch) {
    if (stops == 0 &&
        fs::exists(folder_ / "out/checkpoints/step-20/manifest.json")) {
      const std::vector<pid_t> ranks = Ranks(launch);
      if (ranks.size() == 3) {
        stops += kill(ranks[2], SIGSTOP) == 0 ? 1 : 0;
      }
    }
  };
  Words words = {"--restarts", "1"};
  const Words sets =
      Sets({"transport=mpi", "cluster.workers=2", "cluster.timeout_seconds=2",
            "checkpoint.every_steps=20", "train.max_steps=3000",
            "train.epochs=100"});
  words.insert(words.end(), sets.begin(), sets.end());
  const RunOutcome run = RunProgram(LaunchCommand("out", words), stop_worker,
                                    std::chrono::seconds(90));
  ASSERT_EQ(stops, 1) << run.output;
  EXPECT_EQ(run.exit_code, 0) << run.output;
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("mpirun ended with exit code 75; restart 1 of 1, "
                              "from "),
                    HasSubstr("trained on ")));
}

TEST_F(MpiTest, WhatWouldFailAgainIsNotStartedAgain) {
  const auto expect = [this](const Words& more, const char* said) {
    Words words = {"--restarts", "3"};
    words.insert(words.end(), more.begin(), more.end());
    const RunOutcome run = Launch("out", words);
    EXPECT_THAT(run.exit_code, AllOf(Gt(0), Not(75))) << run.output;
    EXPECT_THAT(run.output,
                AllOf(HasSubstr(said), HasSubstr("it is not started again"),
                      Not(HasSubstr("restart 1"))));
  };
  expect({"--set", "data.files=[nothing.csv]"}, "nothing.csv");
  expect({"--mpirun-arg=--no-such-option"}, "no-such-option");
  expect({"--mpirun-arg=--app", "--mpirun-arg=/none"}, "/none");
  // The launcher leaves nothing of its own behind.
  for (const auto& entry : fs::directory_iterator(folder_)) {
    EXPECT_THAT(entry.path().filename().string(), Not(HasSubstr(".mpi-")));
  }
}

TEST_F(MpiTest, HostThatIsNotReachedIsTriedAgainAfterAPause) {
  const Words command = LaunchCommand(
      "out", {"--restarts", "1", "--set",
              "placement={hosts: [{name: host.invalid, slots: 8}]}"});
  // As ssh does.
  Write("agent", "#!/bin/sh\nexit 255\n");
  fs::permissions(folder_ / "agent", fs::perms::owner_all);
  Words argv = {"env", "OMPI_MCA_plm_rsh_agent=" + Path("agent"),
                "PRTE_MCA_plm_ssh_agent=" + Path("agent")};
  argv.insert(argv.end(), command.begin(), command.end());
  const RunOutcome run = RunProgram(argv);
  EXPECT_EQ(run.exit_code, 255) << run.output;
  EXPECT_GE(run.seconds, 1);
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("exit code 255 (the ranks were never all there); "
                              "restart 1 of 1 in 1 s, as it began"),
                    HasSubstr("after 1 restarts (--restarts)")));
}

// --- Several hosts ----------------------------------------------------------

// Network namespaces joined by a bridge, each with a name as a host of its own,
// and an agent that mpirun reaches them by. All have names of this process, and
// go with this object.
class Hosts {
 public:
  explicit Hosts(int count) : folder_(fs::temp_directory_path() / Name("d")) {
    fs::create_directories(folder_);
    std::string hosts = "127.0.0.1 localhost\n";
    ok_ = Ip({"netns", "add", Name("s")}) &&
          Ip({"-n", Name("s"), "link", "add", "br0", "type", "bridge"}) &&
          Ip({"-n", Name("s"), "link", "set", "br0", "up"});
    for (int i = 0; i < count && ok_; ++i) {
      const std::string name = this->name(i);
      const std::string port = "p" + std::to_string(i);
      const std::string address = "10.213.7." + std::to_string(i + 1);
      ok_ = Ip({"netns", "add", name}) &&
            Ip({"-n", Name("s"), "link", "add", port, "type", "veth", "peer",
                "name", "eth0", "netns", name}) &&
            Ip({"-n", Name("s"), "link", "set", port, "master", "br0"}) &&
            Ip({"-n", Name("s"), "link", "set", port, "up"}) &&
            Ip({"-n", name, "addr", "add", address + "/24", "dev", "eth0"}) &&
            Ip({"-n", name, "link", "set", "eth0", "up"}) &&
            Ip({"-n", name, "link", "set", "lo", "up"});
      hosts += address + " " + name + "\n";
      ++count_;
    }
    std::ofstream(folder_ / "hosts") << hosts;
    std::ofstream(agent())
        << "#!/bin/sh\nhost=$1\nshift\nexec ip netns exec \"$host\" unshare -u "
           "sh -c 'hostname \"$1\" && mount --bind "
        << (folder_ / "hosts").string()
        << " /etc/hosts && shift && exec sh -c \"$*\"' agent \"$host\" "
           "\"$@\"\n";
    fs::permissions(agent(), fs::perms::owner_all);
  }
  ~Hosts() {
    for (int i = 0; i < count_; ++i) {
      Kill(i, "");
      Ip({"netns", "del", name(i)});
    }
    Ip({"netns", "del", Name("s")});
    fs::remove_all(folder_);
  }
  Hosts(const Hosts&) = delete;
  Hosts& operator=(const Hosts&) = delete;

  bool ok() const { return ok_; }
  std::string name(int i) const { return Name(std::to_string(i)); }
  std::string agent() const { return folder_ / "agent"; }

  // Runs a command on host 0, with mpirun (Open MPI 4's, then 5's
  // variables) told how to reach the others.
  RunOutcome Run(const Words& command,
                 const std::function<void(pid_t)>& meanwhile = {}) const {
    std::string line;
    for (const std::string& word : command) {
      line += " '" + word + "'";
    }
    return RunProgram(
        {"env", "OMPI_MCA_plm_rsh_agent=" + agent(),
         "OMPI_MCA_oob_tcp_if_include=10.213.7.0/24",
         "PRTE_MCA_plm_ssh_agent=" + agent(),
         "PRTE_MCA_prte_if_include=10.213.7.0/24",
         "OMPI_MCA_btl_tcp_if_include=10.213.7.0/24", agent(), name(0), line},
        meanwhile);
  }
  // Kills those of a host's processes that have this name; empty: all.
  void Kill(int host, const std::string& process) const {
    RunProgram({"sh", "-c",
                "for p in $(ip netns pids " + name(host) + "); do case $(cat " +
                    "/proc/$p/comm) in " + (process.empty() ? "*" : process) +
                    ") kill -9 $p;; esac; done"});
  }

 private:
  static std::string Name(const std::string& end) {
    return "shoal" + std::to_string(getpid()) + "-" + end;
  }
  static bool Ip(Words argv) {
    argv.insert(argv.begin(), "ip");
    return RunProgram(argv).exit_code == 0;
  }

  const fs::path folder_;
  int count_ = 0;
  bool ok_ = false;
};

TEST_F(MpiTest, FourHostsGiveTheDigestOfOne) {
  if (geteuid() != 0 || RunProgram({"ip", "netns"}).exit_code != 0) {
    GTEST_SKIP() << "network namespaces need root and ip";
  }
  const Hosts hosts(4);
  if (!hosts.ok()) {
    GTEST_SKIP() << "no network namespaces can be made here";
  }
  const std::string digest = Reference();
  const std::string placement =
      "placement={hosts: [{name: " + hosts.name(0) +
      ", slots: 2}, {name: " + hosts.name(1) +
      ", slots: 2}, {name: " + hosts.name(2) +
      ", slots: 2}, {name: " + hosts.name(3) + ", slots: 2}], servers: [" +
      hosts.name(0) + ", " + hosts.name(1) + "], workers: [" + hosts.name(1) +
      ", " + hosts.name(2) + ", " + hosts.name(3) + "]}";
  for (const char* transport : {"mpi", "auto"}) {
    const RunOutcome run = hosts.Run(LaunchCommand(
        "out", Sets({placement, "cluster.servers=2", "cluster.workers=3",
                     std::string("transport=") + transport})));
    ASSERT_EQ(run.exit_code, 0) << run.output;
    EXPECT_EQ(Digest("out"), digest) << transport;
    fs::remove_all(folder_ / "out");
  }
  // A host that the placement does not name.
  const RunOutcome wrong = hosts.Run(
      {"mpirun", "-np", "2", "--map-by", "slot", "--host",
       hosts.name(0) + "," + hosts.name(1), Program(), "train",
       Path("job.yaml"), "--out", Path("wrong"), "--set",
       "placement={hosts: [{name: " + hosts.name(0) + ", slots: 2}]}"});
  EXPECT_NE(wrong.exit_code, 0);
  EXPECT_THAT(wrong.output, HasSubstr("rank 1 runs on host '" + hosts.name(1)));
}

// mpirun's exit code is then whatever its agent's was, and Open MPI 5's is 0;
// what rank 0 said counts.
TEST_F(MpiTest, JobOfALostHostIsStartedAgain) {
  if (geteuid() != 0 || RunProgram({"ip", "netns"}).exit_code != 0) {
    GTEST_SKIP() << "network namespaces need root and ip";
  }
  const Hosts hosts(2);
  if (!hosts.ok()) {
    GTEST_SKIP() << "no network namespaces can be made here";
  }
  const Words steps = Sets({"train.max_steps=1500", "train.epochs=100",
                            "checkpoint.every_steps=20"});
  Words threads = {"--in-process"};
  threads.insert(threads.end(), steps.begin(), steps.end());
  ASSERT_EQ(Train("threads", threads).exit_code, 0);
  Words words = {"--restarts", "1", "--set",
                 "placement={hosts: [{name: " + hosts.name(0) +
                     ", slots: 1}, {name: " + hosts.name(1) +
                     ", slots: 1}], servers: [" + hosts.name(0) +
                     "], workers: [" + hosts.name(1) + "]}"};
  words.insert(words.end(), steps.begin(), steps.end());
  for (const char* lost : {"", "orted|prted"}) {
    bool killed = false;
    const RunOutcome run =
        hosts.Run(LaunchCommand("out", words), [&](pid_t /*launch*/) {
          if (!killed &&
              fs::exists(folder_ / "out/checkpoints/step-20/manifest.json")) {
            hosts.Kill(1, lost);
            killed = true;
          }
        });
    ASSERT_TRUE(killed) << run.output;
    EXPECT_EQ(run.exit_code, 0) << run.output;
    EXPECT_THAT(run.output, HasSubstr("; restart 1 of 1, from "));
    EXPECT_EQ(Digest("out"), Digest("threads")) << lost;
    fs::remove_all(folder_ / "out");
  }
}

}  // namespace
}  // namespace shoal::integration
