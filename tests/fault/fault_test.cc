// Jobs whose servers have replicas go on when processes are killed or stopped,
// and the model does not tell.
#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/storage.h"
#include "base/strcat.h"
#include "ps/checkpoint_format.h"
#include "tests/fault/fault_fixture.h"

namespace shoal::fault {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

Words Join(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// --- sync: the same bits ---------------------------------------------------

struct Kinds {
  bool servers = true;
  bool workers = false;
  int epochs = 0;  // usually enough for all kills
};

class SyncFaultTest : public FaultTest {
 protected:
  // Ten kills in each of two jobs; every night forty, over both transports
  // with both numbers of replicas.
  void ExpectSameBits(const Kinds& kinds) {
    for (const std::string transport : {"zmq", "shm"}) {
      for (const int replicas : {2, 3}) {
        if (!Nightly() && (replicas == 2) != (transport == "zmq")) {
          continue;
        }
        SCOPED_TRACE(StrCat(transport, ", ", replicas, " replicas"));
        ASSERT_NO_FATAL_FAILURE(KillDuring(
            {.kills = Nightly() ? 40 : 10,
             .servers = kinds.servers,
             .workers = kinds.workers,
             .seed = static_cast<uint64_t>(replicas)},
            Nightly() ? 4 * kinds.epochs : kinds.epochs,
            [&](int epochs, const Disturb& killer) {
              ASSERT_NO_FATAL_FAILURE(TrainUndisturbed("undisturbed", epochs));
              const RunOutcome run = Disturbed(
                  "out", Cluster(replicas, epochs, transport), killer);
              ASSERT_EQ(run.exit_code, 0) << run.output;
              EXPECT_EQ(Digest("out"), Digest("undisturbed"));
            }));
      }
    }
  }
};

TEST_F(SyncFaultTest, ServersKilled) {
  ExpectSameBits({.servers = true, .workers = false, .epochs = 60});
}

TEST_F(SyncFaultTest, WorkersKilled) {
  ExpectSameBits({.servers = false, .workers = true, .epochs = 50});
}

TEST_F(SyncFaultTest, AServerAndAWorkerKilledAtOnce) {
  ExpectSameBits({.servers = true, .workers = true, .epochs = 50});
}

// Where the workers hold the dense variables, servers are lost and replaced as
// elsewhere.
TEST_F(SyncFaultTest, ServersKilledBesideAllreduce) {
  KillDuring({}, 60, [this](int epochs, const Disturb& killer) {
    ASSERT_NO_FATAL_FAILURE(TrainUndisturbed("undisturbed", epochs));
    const RunOutcome run =
        Disturbed("out",
                  Join(Cluster(2, epochs, "zmq"),
                       integration::Sets({"consistency.dense=allreduce"})),
                  killer);
    ASSERT_EQ(run.exit_code, 0) << run.output;
    EXPECT_EQ(Digest("out"), Digest("undisturbed"));
  });
}

// What is decided of all gradients of a step: skips and scales, or ratios.
TEST_F(SyncFaultTest, ServersKilledWhereStepsHaveAGlobalPhase) {
  const Words skips = integration::Sets(
      {"data.features.3.standardize=false",
       "train.loss_scale={kind: dynamic, scale: 1e29, growth_factor: 1000, "
       "growth_interval: 3, backoff_factor: 0.01}",
       "train.clip_global_norm=0.1"});
  const Words layers = integration::Sets(
      {"dense={kind: lamb, learning_rate: 0.003, weight_decay: 0.01}"});
  for (const Words* settings : {&skips, &layers}) {
    KillDuring({.kills = Nightly() ? 20 : 5}, 30,
               [&](int epochs, const Disturb& killer) {
                 ASSERT_NO_FATAL_FAILURE(
                     TrainUndisturbed("undisturbed", epochs, *settings));
                 const RunOutcome run = Disturbed(
                     "out", Join(Cluster(2, epochs, "zmq"), *settings), killer);
                 ASSERT_EQ(run.exit_code, 0) << run.output;
                 EXPECT_EQ(Digest("out"), Digest("undisturbed"));
                 EXPECT_EQ(Count(run.output, "is skipped") > 0,
                           settings == &skips);
               });
  }
}

// Each step is followed by an evaluation of ten times as many examples.
TEST_F(SyncFaultTest, ServersKilledDuringEvaluations) {
  const Words evaluations = integration::Sets(
      {"data.split.n=2", "data.split.test=1", "train.eval.every_steps=1"});
  KillDuring({}, 8, [&](int epochs, const Disturb& killer) {
    ASSERT_NO_FATAL_FAILURE(
        TrainUndisturbed("undisturbed", epochs, evaluations));
    const RunOutcome run =
        Disturbed("out", Join(Cluster(2, epochs, "zmq"), evaluations), killer);
    ASSERT_EQ(run.exit_code, 0) << run.output;
    EXPECT_EQ(Digest("out"), Digest("undisturbed"));
    EXPECT_EQ(Count(run.output, ": test auc"), epochs * 24);
  });
}

class CheckpointFaultTest : public SyncFaultTest,
                            public ::testing::WithParamInterface<bool> {};

// Whenever one is begun and has no manifest yet. Where training waits none may
// be missing; where it goes on, those that were given up, and these are named.
TEST_P(CheckpointFaultTest, ServersKilledWhileItIsWritten) {
  const bool waits = GetParam();
  const Words checkpoints =
      integration::Sets({"checkpoint.every_steps=1", "checkpoint.keep=1000",
                         "train.eval.every_steps=5",
                         waits ? "checkpoint.asynchronous=false"
                               : "checkpoint.asynchronous=true"});
  const auto unfinished = [this](const JobView&) {
    std::error_code ignored;
    for (const auto& entry : integration::fs::directory_iterator(
             folder_ / "out" / "checkpoints", ignored)) {
      if (!exists(entry.path() / "manifest.json", ignored)) {
        return true;
      }
    }
    return false;
  };
  const auto attempt = [&](int epochs, const Disturb& killer) {
    ASSERT_NO_FATAL_FAILURE(
        TrainUndisturbed("undisturbed", epochs, checkpoints));
    const RunOutcome run =
        Disturbed("out", Join(Cluster(2, epochs, "zmq"), checkpoints), killer);
    ASSERT_EQ(run.exit_code, 0) << run.output;
    const std::unique_ptr<Storage> storage = CreateLocalStorage();
    const int last = epochs * 38;
    for (int step = 1; step <= last; ++step) {
      const std::string name = StrCat("/checkpoints/step-", step);
      if (!waits && step < last &&
          Count(run.output, StrCat("checkpoint of step ", step, " on ")) == 1) {
        ASSERT_FALSE(integration::fs::exists(Path("out" + name))) << name;
        continue;
      }
      const StatusOr<std::string> digest =
          ps::DigestCheckpoint(*storage, Path("out" + name));
      ASSERT_TRUE(digest.ok()) << digest.status().ToString();
      ASSERT_EQ(*digest,
                *ps::DigestCheckpoint(*storage, Path("undisturbed" + name)));
    }
  };
  KillDuring({.when = unfinished}, 3, attempt);
}

INSTANTIATE_TEST_SUITE_P(All, CheckpointFaultTest, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "TrainingWaits"
                                             : "TrainingGoesOn";
                         });

// The first at any time; the others while slots move to the server in the place
// of the last one, which takes long enough to be seen.
TEST_F(SyncFaultTest, ServersKilledWhileSlotsMove) {
  const Words large = integration::Sets({"model.dim=512"});
  const Words slow = integration::Sets(
      {"cluster.servers=3", "cluster.move_bytes_per_second=400000"});
  int while_moving = 0;
  const auto moving = [&](const JobView& job) {
    if (job.restarts() == 0) {
      return true;
    }
    const RunOutcome status = integration::RunProgram(
        {integration::Program(), "status", "--job", Path("out")});
    const bool moves = testing::Matches(testing::ContainsRegex(
        " 0 lack some, [1-9][0-9]* are being copied"))(status.output);
    while_moving += moves ? 1 : 0;
    return moves;
  };
  KillDuring(
      {.kills = 4, .when = moving}, 20, [&](int epochs, const Disturb& killer) {
        while_moving = 0;
        ASSERT_NO_FATAL_FAILURE(TrainUndisturbed("undisturbed", epochs, large));
        const RunOutcome run = Disturbed(
            "out", Join(Join(Cluster(2, epochs, "zmq"), large), slow), killer);
        ASSERT_EQ(run.exit_code, 0) << run.output;
        EXPECT_EQ(Digest("out"), Digest("undisturbed"));
      });
  EXPECT_GE(while_moving, 3);
}

TEST_F(SyncFaultTest, CheckpointsFitOtherServersAndReplicas) {
  constexpr int kEpochs = 60;
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed("undisturbed", kEpochs));
  Words first = Cluster(2, kEpochs / 2, "zmq");
  {
    Killer killer({.kills = 3});
    const RunOutcome run = Disturbed(
        "first", first, [&killer](const JobView& job) { killer(job); });
    ASSERT_EQ(run.exit_code, 0) << run.output;
    ASSERT_EQ(killer.kills(), 3);
  }
  const Words restore =
      integration::Sets({"checkpoint.restore=" + Path("first")});
  struct Shape {
    int servers;
    int replicas;
    int kills;
  };
  for (const Shape& shape : {Shape{4, 3, 3}, Shape{3, 2, 3}, Shape{1, 1, 0}}) {
    SCOPED_TRACE(StrCat(shape.servers, " servers, ", shape.replicas));
    Killer killer({.kills = shape.kills});
    const RunOutcome run = Disturbed(
        "rest",
        Join(Join(Cluster(shape.replicas, kEpochs, "shm"), restore),
             integration::Sets({StrCat("cluster.servers=", shape.servers)})),
        [&killer](const JobView& job) { killer(job); });
    ASSERT_EQ(run.exit_code, 0) << run.output;
    ASSERT_EQ(killer.kills(), shape.kills);
    EXPECT_EQ(Digest("rest"), Digest("undisturbed"));
  }
}

// A server that says nothing is given up after half of the time limit; when it
// comes to itself, others have its place.
TEST_F(SyncFaultTest, StoppedServerIsLeftBehindAndEndsByItself) {
  constexpr int kEpochs = 100;
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed("undisturbed", kEpochs));
  pid_t stopped = 0;
  SteadyClock::time_point stopped_at;
  SteadyClock::time_point continued_at;
  int evaluations_then = 0;
  double left_behind_after = 0;
  double ended_after = 0;
  const RunOutcome run =
      Disturbed("out",
                Join(Cluster(2, kEpochs, "zmq"),
                     integration::Sets({"cluster.timeout_seconds=4"})),
                [&](const JobView& job) {
                  if (stopped == 0 && job.evaluations() > 0) {
                    stopped = job.servers().at(1);
                    kill(stopped, SIGSTOP);
                    stopped_at = SteadyClock::now();
                    evaluations_then = job.evaluations();
                  } else if (stopped != 0 && left_behind_after == 0 &&
                             job.evaluations() >= evaluations_then + 2) {
                    left_behind_after = SecondsSince(stopped_at);
                    EXPECT_TRUE(integration::IsRunning(stopped));
                    EXPECT_EQ(job.restarts(), 0);
                    kill(stopped, SIGCONT);
                    continued_at = SteadyClock::now();
                  } else if (left_behind_after != 0 && ended_after == 0 &&
                             job.repairs() > 0) {
                    ended_after = SecondsSince(continued_at);
                    EXPECT_FALSE(integration::IsRunning(stopped));
                  }
                });
  ASSERT_EQ(run.exit_code, 0) << run.output;
  // Silence is looked for each quarter of the limit.
  EXPECT_GT(left_behind_after, 1);
  EXPECT_LT(left_behind_after, 4);
  EXPECT_GT(ended_after, 0) << run.output;
  EXPECT_LT(ended_after, 2);
  EXPECT_THAT(run.output, Not(HasSubstr("killed by signal")));
  EXPECT_EQ(Digest("out"), Digest("undisturbed"));
}

// One that is not started again leaves its replicas to the others.
TEST_F(SyncFaultTest, ServersKilledAndNotStartedAgain) {
  constexpr int kEpochs = 30;
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed("undisturbed", kEpochs));
  Killer killer({.kills = 3});
  const RunOutcome run = Disturbed(
      "out",
      Join(Cluster(2, kEpochs, "shm"),
           integration::Sets({"cluster.servers=4", "cluster.restarts=1"})),
      [&killer](const JobView& job) { killer(job); });
  ASSERT_EQ(run.exit_code, 0) << run.output;
  ASSERT_EQ(killer.kills(), 3);
  EXPECT_EQ(Count(run.output, "the job goes on without it"), 2);
  EXPECT_EQ(Digest("out"), Digest("undisturbed"));
}

TEST_F(SyncFaultTest, StoppedServerThatNeverComesBackIsNotMissed) {
  if (!Nightly()) {
    GTEST_SKIP() << "only every night (SHOAL_NIGHTLY)";
  }
  constexpr int kEpochs = 40;
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed("undisturbed", kEpochs));
  pid_t stopped = 0;
  const RunOutcome run =
      Disturbed("out",
                Join(Cluster(3, kEpochs, "zmq"),
                     integration::Sets(
                         {"cluster.timeout_seconds=4", "cluster.replicas=2"})),
                [&stopped](const JobView& job) {
                  if (stopped == 0 && job.evaluations() > 0) {
                    stopped = job.servers().at(0);
                    kill(stopped, SIGSTOP);
                  }
                });
  ASSERT_EQ(run.exit_code, 0) << run.output;
  ASSERT_NE(stopped, 0);
  EXPECT_FALSE(integration::IsRunning(stopped));
  EXPECT_THAT(run.output, Not(HasSubstr("started again")));
  EXPECT_EQ(Digest("out"), Digest("undisturbed"));
}

// --- async and bounded: nothing lost, nothing twice ------------------------

class DealtFaultTest : public FaultTest {
 protected:
  // Adam counts the updates of a chunk, lazy_adam those of a row, and which
  // rows a step has does not depend on the mode.
  static Words Counting() {
    return integration::Sets(
        {"dense={kind: adam, learning_rate: 0.001}",
         "tables={linear: {optimizer: {kind: lazy_adam, learning_rate: "
         "0.001}}, embedding: {optimizer: {kind: lazy_adam, learning_rate: "
         "0.001}}}"});
  }
};

TEST_F(DealtFaultTest, EveryPushIsAppliedOnceWhenServersAreKilled) {
  for (const char* mode : {"bounded", "async"}) {
    for (const int replicas : {2, 3}) {
      const char* transport = replicas == 2 ? "zmq" : "shm";
      SCOPED_TRACE(StrCat(mode, ", ", replicas, " replicas, ", transport));
      ASSERT_NO_FATAL_FAILURE(KillDuring(
          {.seed = static_cast<uint64_t>(replicas)}, 60,
          [&](int epochs, const Disturb& killer) {
            ASSERT_NO_FATAL_FAILURE(
                TrainUndisturbed("undisturbed", epochs, Counting()));
            const std::vector<std::string> counts = UpdateCounts("undisturbed");
            ASSERT_THAT(counts,
                        testing::Contains(StrCat("bias@0 ", epochs * 38)));
            const RunOutcome run = Disturbed(
                "out",
                Join(Join(Cluster(replicas, epochs, transport), Counting()),
                     integration::Sets({StrCat("consistency.mode=", mode)})),
                killer);
            ASSERT_EQ(run.exit_code, 0) << run.output;
            EXPECT_EQ(UpdateCounts("out"), counts);
          }));
    }
  }
}

// A worker in place of a lost one does again what that one had not told: in
// `bounded` the steps under way, in `async` up to all since the last boundary.
TEST_F(DealtFaultTest, NoPushIsLostWhenWorkersAreKilledToo) {
  constexpr int kKills = 5;
  struct Case {
    const char* mode;
    int again_max;  // steps, by each kill
  };
  for (const Case& c : {Case{"bounded", 3}, Case{"async", 38 / 2}}) {
    SCOPED_TRACE(c.mode);
    const auto attempt = [&](int epochs, const Disturb& killer) {
      const RunOutcome run = Disturbed(
          "out",
          Join(Join(Cluster(2, epochs, "zmq"), Counting()),
               integration::Sets({StrCat("consistency.mode=", c.mode)})),
          killer);
      ASSERT_EQ(run.exit_code, 0) << run.output;
      const std::string bias = "bias@0 ";
      int64_t pushes = 0;
      for (const std::string& count : UpdateCounts("out")) {
        if (count.starts_with(bias)) {
          pushes = std::stoll(count.substr(bias.size()));
        }
      }
      EXPECT_GE(pushes, epochs * 38);
      EXPECT_LE(pushes, epochs * 38 + kKills * c.again_max);
    };
    ASSERT_NO_FATAL_FAILURE(
        KillDuring({.kills = kKills, .workers = true}, 60, attempt));
  }
}

// --- The coordinator -------------------------------------------------------

// It is killed as soon as it goes on where the last one was lost, and every
// other time a server with it. Its launcher is a script that starts again what
// was killed.
class CoordinatorFaultTest : public DealtFaultTest {
 protected:
  static constexpr int kKills = 6;

  // Gives whether all were killed.
  bool TrainWithKills(const Words& settings) {
    int kills = 0;
    int servers_killed = 0;
    int evaluations_then = 0;
    const RunOutcome run = DisturbedServices(
        "out", settings, [&](const JobView& job, const std::string& at) {
          if (kills == kKills || job.evaluations() <= evaluations_then ||
              Count(job.output, "goes on with the job") < kills ||
              !AllReplicasAreThere(at)) {
            return;
          }
          const std::vector<pid_t> coordinators =
              ServicesWith(at, "coordinator");
          const std::vector<pid_t> servers = ServicesWith(at, "server");
          if (coordinators.size() != 1 || servers.size() != 1) {
            return;
          }
          evaluations_then = job.evaluations();
          kill(coordinators[0], SIGKILL);
          if (++kills % 2 == 0) {
            ++servers_killed;
            kill(servers[0], SIGKILL);
          }
        });
    EXPECT_EQ(run.exit_code, 0) << run.output;
    EXPECT_FALSE(exists(folder_ / "out" / "coordinator.state"));
    return kills == kKills && servers_killed == kKills / 2;
  }
};

TEST_F(CoordinatorFaultTest, SyncEndsWithTheBitsOfTheUndisturbedRun) {
  for (const char* transport : {"zmq", "auto"}) {
    SCOPED_TRACE(transport);
    UntilLongEnough(60, [&](int epochs) {
      const bool all = TrainWithKills(Cluster(2, epochs, transport));
      TrainUndisturbed("undisturbed", epochs);
      EXPECT_EQ(Digest("out"), Digest("undisturbed"));
      return all;
    });
  }
}

TEST_F(CoordinatorFaultTest, OtherModesApplyEveryPushOnce) {
  for (const char* mode : {"bounded", "async"}) {
    SCOPED_TRACE(mode);
    UntilLongEnough(60, [&](int epochs) {
      const bool all = TrainWithKills(
          Join(Join(Cluster(2, epochs, "auto"), Counting()),
               integration::Sets({StrCat("consistency.mode=", mode)})));
      TrainUndisturbed("undisturbed", epochs, Counting());
      EXPECT_EQ(UpdateCounts("out"), UpdateCounts("undisturbed"));
      return all;
    });
  }
}

// --- What ends a job -------------------------------------------------------

class LostFaultTest : public FaultTest {
 protected:
  // A job without end in sight, and the seconds that it outlived `disturb`,
  // which returns true once it is done.
  RunOutcome RunUntilLost(const Words& settings,
                          const std::function<bool(const JobView&)>& disturb) {
    bool done = false;
    SteadyClock::time_point at;
    RunOutcome run = Disturbed("out", settings, [&](const JobView& job) {
      if (!done && disturb(job)) {
        done = true;
        at = SteadyClock::now();
      }
    });
    EXPECT_TRUE(done) << run.output;
    seconds_after_ = SecondsSince(at);
    return run;
  }

  double seconds_after_ = 0;
};

TEST_F(LostFaultTest, AllReplicasKilledAtOnceEndTheJobNamingThem) {
  for (const int servers : {2, 3}) {
    const RunOutcome run = RunUntilLost(
        Join(Cluster(2, 100000, "zmq"),
             integration::Sets({StrCat("cluster.servers=", servers)})),
        [](const JobView& job) {
          const std::vector<pid_t> all = job.servers();
          if (job.evaluations() == 0) {
            return false;
          }
          kill(all.at(0), SIGKILL);
          kill(all.at(1), SIGKILL);
          return true;
        });
    EXPECT_EQ(run.exit_code, 1) << run.output;
    EXPECT_LT(seconds_after_, 5);
    EXPECT_THAT(run.output,
                AllOf(HasSubstr("server 0 (pid"), HasSubstr("server 1 (pid"),
                      HasSubstr("killed by signal 9")));
    EXPECT_FALSE(integration::AnyRunningWith(Path("out")));
  }
}

TEST_F(LostFaultTest, ServersThatAreNotStartedAgainEndTheJobWithTheLast) {
  int killed = 0;
  int evaluations_then = 0;
  const RunOutcome run =
      RunUntilLost(Join(Cluster(2, 100000, "zmq"),
                        integration::Sets({"cluster.restarts=0"})),
                   [&](const JobView& job) {
                     if (job.evaluations() < evaluations_then + 3) {
                       return false;
                     }
                     evaluations_then = job.evaluations();
                     const std::vector<pid_t> servers = job.servers();
                     EXPECT_EQ(servers.size(), 2U - killed);
                     kill(servers.at(0), SIGKILL);
                     return ++killed == 2;
                   });
  EXPECT_EQ(run.exit_code, 1) << run.output;
  EXPECT_LT(seconds_after_, 5);
  EXPECT_THAT(run.output, AllOf(HasSubstr("killed by signal 9 (Killed); not "
                                          "started again"),
                                HasSubstr("the job goes on without it"),
                                HasSubstr("shoal: server 1 (pid")));
}

TEST_F(LostFaultTest, TooManyRestartsOfWorkersEndTheJobSayingSo) {
  Killer killer({.kills = 3, .servers = false, .workers = true});
  const RunOutcome run =
      RunUntilLost(Join(Cluster(2, 100000, "shm"),
                        integration::Sets({"cluster.restarts=2"})),
                   [&killer](const JobView& job) {
                     killer(job);
                     return killer.kills() == 3;
                   });
  EXPECT_EQ(run.exit_code, 1) << run.output;
  EXPECT_LT(seconds_after_, 5);
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("killed by signal 9 (Killed); 2 processes were "
                              "started again before"),
                    HasSubstr("cluster.restarts")));
}

TEST_F(LostFaultTest, ReplicasThatCannotBeAreRefused) {
  const RunOutcome few =
      Train("out", integration::Sets({"cluster.replicas=2"}));
  ExpectRefused(few, "out");
  EXPECT_THAT(few.output, AllOf(HasSubstr("cluster.replicas"),
                                HasSubstr("cluster.servers is 1")));
  for (const char* mode : {"bounded", "async"}) {
    const RunOutcome mixed = Train(
        "out", integration::Sets({"cluster.replicas=2", "cluster.servers=2",
                                  "consistency.dense=allreduce",
                                  StrCat("consistency.tables=", mode)}));
    ExpectRefused(mixed, "out");
    EXPECT_THAT(mixed.output, AllOf(HasSubstr("cluster.replicas"),
                                    HasSubstr("in sync only")));
  }
}

}  // namespace
}  // namespace shoal::fault
