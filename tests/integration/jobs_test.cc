// The program as its users run it: real processes on data that the test makes.

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <netinet/in.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/socket.h>

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(JobsTest, OneDigestForEveryCluster) {
  const std::vector<std::vector<std::string>> clusters = {
      {"--in-process"},
      {"--in-process", "--set", "cluster.servers=2", "--set",
       "cluster.shards=3", "--set", "cluster.workers=2"},
      {"--in-process", "--set", "cluster.servers=5", "--set",
       "cluster.workers=4", "--set", "cluster.threads=2"},
      {"--set", "transport=shm", "--set", "cluster.servers=2", "--set",
       "cluster.workers=2"},
      {"--set", "transport=zmq", "--set", "cluster.servers=2", "--set",
       "cluster.workers=3"},
      {"--set", "cluster.shards=2", "--set", "cluster.threads=2"},
  };
  std::set<std::string> digests;
  for (const auto& cluster : clusters) {
    const RunOutcome run = Train("out", cluster);
    ASSERT_EQ(run.exit_code, 0) << run.output;
    digests.insert(Digest("out"));
    fs::remove_all(folder_ / "out");
  }
  EXPECT_EQ(digests.size(), 1U) << ::testing::PrintToString(digests);

  ASSERT_EQ(Train("out", {"--in-process", "--set", "seed=2"}).exit_code, 0);
  EXPECT_FALSE(digests.contains(Digest("out")));
}

// Rows of two bytes a value: what rounds them by chance is no matter of who
// holds or pushes them, nor of a stop on the way.
TEST_F(JobsTest, OneDigestForNarrowRowsOnEveryCluster) {
  const std::vector<std::string> narrow = {"--set",
                                           "tables.embedding.format=bf16",
                                           "--set", "tables.linear.format=f16"};
  const auto train = [&](const std::string& out,
                         std::vector<std::string> args) {
    args.insert(args.end(), narrow.begin(), narrow.end());
    const RunOutcome result = Train(out, args);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return Digest(out);
  };
  const std::string digest = train("one", {"--in-process"});
  for (const std::vector<std::string>& cluster :
       std::vector<std::vector<std::string>>{
           {"--in-process", "--set", "cluster.servers=3", "--set",
            "cluster.shards=2", "--set", "cluster.workers=2"},
           {"--in-process", "--set", "consistency.dense=allreduce", "--set",
            "cluster.servers=2", "--set", "cluster.workers=3"}}) {
    EXPECT_EQ(train("other", cluster), digest)
        << ::testing::PrintToString(cluster);
  }
  train("half", {"--in-process", "--set", "train.max_steps=20"});
  EXPECT_EQ(train("rest", {"--in-process", "--set", "cluster.servers=2",
                           "--set", "checkpoint.restore=" + Path("half")}),
            digest);
  // Another format is another model.
  const RunOutcome other = Train(
      "wide", {"--in-process", "--set", "checkpoint.restore=" + Path("half")});
  EXPECT_NE(other.exit_code, 0);
  EXPECT_THAT(other.output, HasSubstr("format"));
}

// Every pair of settings on real data, as processes and as threads.
TEST_F(JobsTest, OneDigestForEveryClusterOnTheFlights) {
  if (std::getenv("SHOAL_NIGHTLY") == nullptr) {
    GTEST_SKIP() << "part of the nightly tests";
  }
  const char* named = std::getenv("SHOAL_SHARED_DATA");
  const fs::path flights =
      fs::path(named != nullptr ? named : SHOAL_SOURCE "/../shared/data") /
      "nycflights13";
  if (!fs::exists(flights)) {
    GTEST_SKIP() << "no shared data sets; SHOAL_SHARED_DATA can name them";
  }
  std::set<std::string> digests;
  for (const char* servers : {"1", "2", "5"}) {
    for (const char* shards : {"1", "3"}) {
      for (const char* workers : {"1", "2", "4"}) {
        for (const char* threads : {"1", "2"}) {
          for (const std::string transport : {"inproc", "shm", "zmq", "auto"}) {
            const RunOutcome run = RunProgram(
                {SHOAL_PROGRAM, "train",
                 SHOAL_SOURCE "/examples/flights/fm.yaml", "--out", Path("out"),
                 "--set", "data.root=" + flights.string(), "--set",
                 "train.max_steps=60", "--set", "transport=" + transport,
                 "--set", std::string("cluster.servers=") + servers, "--set",
                 std::string("cluster.shards=") + shards, "--set",
                 std::string("cluster.workers=") + workers, "--set",
                 std::string("cluster.threads=") + threads});
            ASSERT_EQ(run.exit_code, 0) << run.output;
            digests.insert(Digest("out"));
            ASSERT_EQ(digests.size(), 1U)
                << servers << " servers, " << shards << " shards, " << workers
                << " workers, " << threads << " threads, " << transport;
          }
        }
      }
    }
  }
}

// The workers hold the dense variables, or the servers do: the same bits, and
// each goes on from the other's checkpoints.
TEST_F(JobsTest, OneDigestForDenseVariablesByServersAndByAllReduce) {
  const std::vector<std::string> steps = {"--set", "train.max_steps=60"};
  const auto train = [&](const std::string& out,
                         std::vector<std::string> more) {
    more.insert(more.end(), steps.begin(), steps.end());
    const RunOutcome run = Train(out, more);
    EXPECT_EQ(run.exit_code, 0) << run.output;
    return run;
  };
  train("servers", {"--in-process"});
  const std::string digest = Digest("servers");
  const std::vector<std::string> allreduce = {"--set",
                                              "consistency.dense=allreduce"};
  const std::vector<std::vector<std::string>> clusters = {
      {"--in-process"},
      {"--in-process", "--set", "cluster.servers=2", "--set",
       "cluster.workers=2"},
      {"--in-process", "--set", "cluster.workers=3"},
      {"--set", "transport=shm", "--set", "cluster.workers=4"},
      {"--set", "transport=zmq", "--set", "cluster.shards=2", "--set",
       "cluster.workers=3", "--set", "cluster.threads=2"},
      {"--set", "transport=shm", "--set", "cluster.workers=4", "--set",
       "cluster.allreduce=[0 halving]"},
      {"--set", "transport=shm", "--set", "cluster.workers=3", "--set",
       "cluster.allreduce=[0 read]"},
      {"--set", "transport=zmq", "--set", "cluster.workers=2", "--set",
       "cluster.allreduce=[0 segments, 9999 exchange]"}};
  for (std::vector<std::string> cluster : clusters) {
    cluster.insert(cluster.end(), allreduce.begin(), allreduce.end());
    train("out", cluster);
    EXPECT_EQ(Digest("out"), digest) << ::testing::PrintToString(cluster);
    fs::remove_all(folder_ / "out");
  }

  const std::vector<std::string> from_allreduce = {"--in-process", "--set",
                                                   "cluster.workers=3", "--set",
                                                   "checkpoint.every_steps=25"};
  std::vector<std::string> first = from_allreduce;
  first.insert(first.end(), allreduce.begin(), allreduce.end());
  train("half", first);
  EXPECT_EQ(Digest("half"), digest);
  train("servers-again",
        {"--in-process", "--set",
         "checkpoint.restore=" + Path("half/checkpoints/step-25")});
  EXPECT_EQ(Digest("servers-again"), digest);
  train("quarter", {"--in-process", "--set", "checkpoint.every_steps=10",
                    "--set", "checkpoint.keep=9"});
  train("allreduce-again",
        {"--in-process", "--set", "cluster.workers=2", "--set",
         "consistency.dense=allreduce", "--set",
         "checkpoint.restore=" + Path("quarter/checkpoints/step-10")});
  EXPECT_EQ(Digest("allreduce-again"), digest);

  const auto eval = [&](const std::string& checkpoint,
                        const std::vector<std::string>& more) {
    std::vector<std::string> argv = {
        SHOAL_PROGRAM,  "eval",           Path("job.yaml"), "--in-process",
        "--checkpoint", Path(checkpoint), "--out",          Path("eval")};
    argv.insert(argv.end(), more.begin(), more.end());
    const RunOutcome run = RunProgram(argv);
    const size_t at = run.output.rfind("test: auc");
    return at == std::string::npos ? run.output : run.output.substr(at);
  };
  EXPECT_EQ(eval("half", allreduce), eval("servers", {}));
}

// However the state of their optimizer is divided: the same bits, and
// checkpoints that go on elsewhere. Adam counts its steps per chunk.
TEST_F(JobsTest, SumsWithOtherWorkersBeginBeforeAllIsComputed) {
  // Two buckets: the second hidden layer's weights make the first one full.
  const RunOutcome run =
      Train("out", {"--in-process", "--trace", "--set", "cluster.workers=2",
                    "--set", "consistency.dense=allreduce", "--set",
                    "model.hidden=[256,256]", "--set", "train.batch_size=256"});
  ASSERT_EQ(run.exit_code, 0) << run.output;
  // When the work of a worker on a step began and ended, in us.
  struct Span {
    double compute_end = 0;
    double sum_begin = 0;
    double sum_end = 0;
  };
  std::map<std::pair<int, int64_t>, Span> spans;
  const auto trace = nlohmann::json::parse(Read("out/trace.json"));
  for (const auto& event : trace.is_array() ? trace : trace.at("traceEvents")) {
    const std::string name = event.at("name");
    if (name != "compute" && name != "allreduce") {
      continue;
    }
    Span& span = spans[{event.at("pid"), event.at("args").at("number")}];
    const double begin = event.at("ts");
    const double end = begin + event.at("dur").get<double>();
    if (name == "allreduce") {
      span.sum_begin = begin;
      span.sum_end = end;
    } else if (span.compute_end == 0) {  // Later ones are of evaluations.
      span.compute_end = end;
    }
  }
  int steps = 0;
  int early = 0;
  for (const auto& [key, span] : spans) {
    if (span.sum_end > 0) {
      ++steps;
      early += span.sum_begin < span.compute_end ? 1 : 0;
      EXPECT_GT(span.sum_end, span.compute_end)
          << "values have changed while they were used";
    }
  }
  EXPECT_GE(steps, 18);
  // A thread that is not scheduled in time may be late for some.
  EXPECT_GT(early, 0) << "of " << steps;
}

TEST_F(JobsTest, OneDigestForAShardedOptimizer) {
  const std::vector<std::string> wide = {
      "--set", "train.max_steps=30",        "--set", "model.hidden=[300, 200]",
      "--set", "checkpoint.every_steps=10", "--set", "checkpoint.keep=9"};
  const auto train = [&](const std::string& out,
                         std::vector<std::string> more) {
    more.insert(more.end(), wide.begin(), wide.end());
    const RunOutcome run = Train(out, more);
    EXPECT_EQ(run.exit_code, 0) << run.output;
    return Digest(out);
  };
  const std::vector<std::string> sharded = {
      "--set", "consistency={dense: allreduce, sharded_optimizer: true}"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), sharded.begin(), sharded.end());
    return more;
  };
  const std::string digest = train("servers", {"--in-process"});
  for (const char* workers : {"1", "2", "4"}) {
    const std::string set = std::string("cluster.workers=") + workers;
    EXPECT_EQ(train("out", with({"--in-process", "--set", set})), digest)
        << workers;
    fs::remove_all(folder_ / "out");
  }
  EXPECT_EQ(train("parts", with({"--set", "transport=shm", "--set",
                                 "cluster.workers=3"})),
            digest);
  EXPECT_EQ(train("on-servers",
                  {"--in-process", "--set",
                   "checkpoint.restore=" + Path("parts/checkpoints/step-10")}),
            digest);
  EXPECT_EQ(train("on-parts",
                  with({"--in-process", "--set", "cluster.workers=4", "--set",
                        "checkpoint.restore=" +
                            Path("servers/checkpoints/step-10")})),
            digest);
  EXPECT_EQ(
      train("on-other-parts",
            with({"--in-process", "--set", "cluster.workers=2", "--set",
                  "checkpoint.restore=" + Path("parts/checkpoints/step-20")})),
      digest);
}

TEST_F(JobsTest, AutoSaysWhatItChoseAndTrainsTheSame) {
  const std::vector<std::string> job = {"--in-process", "--set",
                                        "train.max_steps=20", "--set",
                                        "cluster.workers=4"};
  const auto train = [&](const std::string& out,
                         std::vector<std::string> more) {
    more.insert(more.end(), job.begin(), job.end());
    const RunOutcome run = Train(out, more);
    EXPECT_EQ(run.exit_code, 0) << run.output;
    return run.output;
  };
  EXPECT_THAT(train("out", {}), Not(HasSubstr("auto is")));
  EXPECT_THAT(Read("out/metrics.json"), HasSubstr("\"dense\": \"sync\""));
  for (const auto& [servers, choice] :
       {std::pair<std::string, std::string>{"1", "allreduce"}, {"5", "sync"}}) {
    const std::string out = "auto-" + servers;
    const std::string line = "consistency.dense: auto is " + choice + ": with";
    EXPECT_THAT(
        train(out, {"--set", "consistency={tables: auto, dense: auto}", "--set",
                    "cluster.servers=" + servers}),
        AllOf(HasSubstr(line), HasSubstr("consistency.tables: auto is sync")));
    EXPECT_EQ(Digest(out), Digest("out"));
    EXPECT_THAT(Read(out + "/metrics.json"),
                HasSubstr("\"dense\": \"" + choice + "\""));
    EXPECT_THAT(Read(out + "/report.html"), HasSubstr("auto is " + choice));
  }
}

// Rows that may be behind by no step are those of sync; behind by some, the
// model learns as in the other modes.
TEST_F(JobsTest, TablesOutsideSyncBesideAllReduce) {
  const std::vector<std::string> beside = {
      "--set", "consistency.dense=allreduce", "--set", "train.epochs=6"};
  const auto train = [&](const std::string& out,
                         std::vector<std::string> more) {
    more.insert(more.end(), beside.begin(), beside.end());
    const RunOutcome run = Train(out, more);
    EXPECT_EQ(run.exit_code, 0) << run.output;
    const size_t at = run.output.rfind("test: auc ");
    return at == std::string::npos ? 0
                                   : std::atof(run.output.c_str() + at + 10);
  };
  const double auc = train("sync", {"--in-process"});
  for (const char* workers : {"1", "2", "4"}) {
    train("fresh", {"--set", "transport=shm", "--set",
                    "consistency={tables: bounded, staleness: 0}", "--set",
                    std::string("cluster.workers=") + workers});
    EXPECT_EQ(Digest("fresh"), Digest("sync")) << workers;
    fs::remove_all(folder_ / "fresh");
    EXPECT_NEAR(
        train("async", {"--set", "transport=shm", "--set",
                        "consistency={tables: async, sharded_optimizer: true}",
                        "--set", std::string("cluster.workers=") + workers}),
        auc, 0.03)
        << workers;
    EXPECT_THAT(Read("async/metrics.json"),
                AllOf(HasSubstr("\"mode\": \"async\""),
                      HasSubstr("\"dense\": \"allreduce\"")));
  }
}

TEST_F(JobsTest, RanksOfMpirunGiveTheSameDigest) {
  if (RunProgram({"mpirun", "--version"}).exit_code != 0) {
    GTEST_SKIP() << "there is no mpirun";
  }
  if (!fs::exists(fs::path(SHOAL_PROGRAM).parent_path() / "libshoal_mpi.so")) {
    GTEST_SKIP() << "the MPI plug-in was not built";
  }
  ASSERT_EQ(Train("threads", {"--in-process"}).exit_code, 0);
  for (const char* ranks : {"4", "5"}) {
    std::vector<std::string> argv = {"mpirun", "-np", ranks};
    const std::vector<std::string> train = TrainCommand(
        "ranks", {"--set", "cluster.servers=2", "--set", "cluster.workers=2"});
    argv.insert(argv.end(), train.begin(), train.end());
    const RunOutcome run = RunProgram(argv);
    ASSERT_EQ(run.exit_code, 0) << run.output;
    EXPECT_EQ(Digest("ranks"), Digest("threads")) << ranks << " ranks";
    fs::remove_all(folder_ / "ranks");
  }
}

TEST_F(JobsTest, EvalPredictAndResumeAgreeWithTraining) {
  ASSERT_EQ(
      Train("whole", {"--in-process", "--set", "train.max_steps=60"}).exit_code,
      0);
  ASSERT_EQ(Train("half", {"--in-process", "--set", "train.max_steps=60",
                           "--set", "checkpoint.every_steps=25"})
                .exit_code,
            0);
  EXPECT_EQ(Digest("half"), Digest("whole"));
  const RunOutcome resumed =
      Train("rest", {"--in-process", "--set", "train.max_steps=60", "--set",
                     "cluster.servers=3", "--set",
                     "checkpoint.restore=" + Path("half/checkpoints/step-25")});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_EQ(Digest("rest"), Digest("whole"));

  const RunOutcome eval =
      RunProgram({SHOAL_PROGRAM, "eval", Path("job.yaml"), "--in-process",
                  "--checkpoint", Path("whole"), "--out", Path("eval")});
  ASSERT_EQ(eval.exit_code, 0) << eval.output;
  const auto result = [](const std::string& output) {
    const size_t at = output.rfind("test: auc");
    return at == std::string::npos ? "" : output.substr(at, 40);
  };
  const RunOutcome again =
      Train("again", {"--in-process", "--set", "train.max_steps=60"});
  ASSERT_NE(result(eval.output), "");
  EXPECT_EQ(result(eval.output), result(again.output));

  const RunOutcome predict =
      RunProgram({SHOAL_PROGRAM, "predict", Path("job.yaml"), "--in-process",
                  "--checkpoint", Path("whole"), "--input", "rows.csv", "--csv",
                  Path("predictions.csv"), "--out", Path("predict")});
  ASSERT_EQ(predict.exit_code, 0) << predict.output;
  std::ifstream csv(folder_ / "predictions.csv");
  int lines = 0;
  for (std::string line; std::getline(csv, line);) {
    ++lines;
  }
  EXPECT_EQ(lines, 3001);
}

TEST_F(JobsTest, AnEarlierRunsCheckpointsMakeRoomAndAreKept) {
  const auto train = [&](const std::vector<std::string>& more) {
    std::vector<std::string> argv = {"--in-process", "--set",
                                     "checkpoint.every_steps=10"};
    argv.insert(argv.end(), more.begin(), more.end());
    const RunOutcome run = Train("out", argv);
    EXPECT_EQ(run.exit_code, 0) << run.output;
  };
  const auto has = [&](const std::string& folder) {
    return fs::exists(folder_ / "out" / folder / "manifest.json");
  };
  train({"--set", "train.max_steps=20"});
  const std::string digest = Digest("out");

  // A shorter one in the same folder is what the folder now stands for.
  train({"--set", "train.max_steps=10"});
  EXPECT_NE(Digest("out"), digest);
  EXPECT_TRUE(has("checkpoints/step-10"));
  EXPECT_FALSE(has("checkpoints/step-20"));
  EXPECT_TRUE(has("checkpoints.old/step-10"));
  EXPECT_TRUE(has("checkpoints.old/step-20"));

  // Going on in place keeps what it went on from; a repeat changes nothing.
  for (int i = 0; i < 2; ++i) {
    train({"--set", "train.max_steps=20", "--set",
           "checkpoint.restore=" + Path("out")});
    EXPECT_EQ(Digest("out"), digest);
    EXPECT_TRUE(has("checkpoints/step-10"));
    EXPECT_TRUE(has("checkpoints.old/step-20"));
  }
  train({"--set", "train.max_steps=20", "--set",
         "checkpoint.restore=" + Path("out/checkpoints/step-10")});
  EXPECT_EQ(Digest("out"), digest);
  EXPECT_TRUE(has("checkpoints.old-2/step-20")) << "none is ever lost";
  EXPECT_TRUE(has("checkpoints.old/step-10"));
}

TEST_F(JobsTest, OneTrainingAtATimePerFolder) {
  bool tried = false;
  const RunOutcome first = RunProgram(
      TrainCommand("out", {"--set", "train.epochs=100000"}), [&](pid_t pid) {
        if (tried || !fs::exists(folder_ / "out" / "tensorboard")) {
          return;
        }
        tried = true;
        const RunOutcome second = Train("out", {"--in-process"});
        EXPECT_EQ(second.exit_code, 1);
        EXPECT_THAT(second.output, HasSubstr("another training"));
        kill(pid, SIGINT);
      });
  EXPECT_THAT(first.output, HasSubstr("Ctrl-C"));
  for (const auto& entry : fs::directory_iterator(folder_ / "out")) {
    EXPECT_FALSE(entry.path().filename().string().starts_with("shoal-data"));
  }
  EXPECT_EQ(Train("out", {"--in-process"}).exit_code, 0);
}

TEST_F(JobsTest, EveryModeLearnsAndLeavesItsReports) {
  for (const char* mode : {"sync", "bounded", "async"}) {
    const std::string out = mode;
    const RunOutcome run =
        Train(out, {"--in-process", "--set", "train.epochs=6", "--set",
                    "consistency.mode=" + out, "--set", "cluster.workers=3"});
    ASSERT_EQ(run.exit_code, 0) << run.output;
    const size_t at = run.output.rfind("test: auc ");
    ASSERT_NE(at, std::string::npos) << run.output;
    EXPECT_GT(std::atof(run.output.c_str() + at + 10), 0.6) << mode;
    EXPECT_THAT(
        Read(out + "/metrics.json"),
        AllOf(HasSubstr("\"examples\""), HasSubstr("\"seconds\""),
              HasSubstr("\"examples_per_second\""), HasSubstr("\"auc\""),
              HasSubstr("\"log_loss\""), HasSubstr("\"accuracy\"")));
    EXPECT_TRUE(fs::exists(folder_ / out / "report.html"));
    EXPECT_FALSE(fs::is_empty(folder_ / out / "tensorboard"));
  }
}

// --- Killing things --------------------------------------------------------

class KillTest : public JobsTest {
 protected:
  // Trains without end in sight, and once training goes on, calls `strike`
  // with the launcher's process id.
  RunOutcome Strike(const std::function<void(pid_t)>& strike) {
    bool struck = false;
    int rounds = 0;
    std::vector<std::string> settings = {
        "--set", "train.epochs=100000",
        "--set", "cluster.servers=2",
        "--set", "cluster.workers=2",
        "--set", "train.eval.every_epoch=false"};
    settings.insert(settings.end(), more_.begin(), more_.end());
    RunOutcome run = RunProgram(TrainCommand("out", settings), [&](pid_t pid) {
      for (const char* role : {"server --index", "worker --index"}) {
        for (const pid_t child : ChildrenWith(pid, role)) {
          children_.insert(child);
        }
      }
      // About half a second after all are there.
      if (!struck && children_.size() == 4 && ++rounds > 25) {
        struck = true;
        struck_at_ = std::chrono::steady_clock::now();
        strike(pid);
      }
    });
    seconds_after_ = std::chrono::duration<double>(
                         std::chrono::steady_clock::now() - struck_at_)
                         .count();
    return run;
  }
  // The same, killing the child whose command line has `words`.
  RunOutcome StrikeChild(const std::string& words) {
    return Strike([&words](pid_t pid) {
      for (const pid_t child : ChildrenWith(pid, words)) {
        kill(child, SIGKILL);
      }
    });
  }
  void ExpectNothingLeft() {
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::seconds(5);
    bool any = true;
    while (any && std::chrono::steady_clock::now() < until) {
      any = false;
      for (const pid_t child : children_) {
        any |= IsRunning(child);
      }
    }
    EXPECT_FALSE(any);
    EXPECT_EQ(children_.size(), 4U);
  }

  std::vector<std::string> more_;  // settings
  std::set<pid_t> children_;
  std::chrono::steady_clock::time_point struck_at_;
  double seconds_after_ = 0;
};

// fault_tests kill those that are replaced.
TEST_F(KillTest, KilledWorkerEndsTheJobNamingIt) {
  more_ = {"--set", "cluster.restarts=0"};
  const RunOutcome run = StrikeChild("worker --index 1");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_LT(seconds_after_, 5);
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("worker 1"), HasSubstr("killed by signal 9")));
  ExpectNothingLeft();
}

TEST_F(KillTest, WorkerKilledInACollectiveEndsTheJobNamingIt) {
  more_ = {"--set", "consistency.dense=allreduce"};
  const RunOutcome run = StrikeChild("worker --index 1");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_LT(seconds_after_, 5);
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("worker 1"), HasSubstr("killed by signal 9")));
  ExpectNothingLeft();
}

TEST_F(KillTest, KilledServerEndsTheJobNamingIt) {
  const RunOutcome run = StrikeChild("server --index 0");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_LT(seconds_after_, 5);
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("server 0"), HasSubstr("killed by signal 9")));
  ExpectNothingLeft();
}

TEST_F(KillTest, KilledLauncherLeavesNothingRunning) {
  const RunOutcome run = Strike([](pid_t pid) { kill(pid, SIGKILL); });
  EXPECT_EQ(run.exit_code, -1);
  ExpectNothingLeft();
}

TEST_F(KillTest, InterruptEndsTheJobInOrder) {
  const RunOutcome run = Strike([](pid_t pid) { kill(pid, SIGINT); });
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_LT(seconds_after_, 5);
  EXPECT_THAT(run.output, HasSubstr("Ctrl-C"));
  ExpectNothingLeft();
}

// --- Bad input -------------------------------------------------------------

class BadInputTest : public JobsTest {};

TEST_F(BadInputTest, UnknownKeyNamesLineAndTheNearest) {
  Write("job.yaml", std::string(kJobText) + "clutser: {workers: 2}\n");
  const RunOutcome run = Train("out", {});
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output, AllOf(HasSubstr("job.yaml:18"), HasSubstr("clutser"),
                                HasSubstr("cluster")));
}

TEST_F(BadInputTest, ImpossibleValueIsRefused) {
  const RunOutcome run = Train("out", {"--set", "cluster.workers=0"});
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output, HasSubstr("cluster.workers"));
}

TEST_F(BadInputTest, PairsThatHaveNoMeaningAreRefusedWithTheReason) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{tables: async}", "sync does not go with tables in async: a worker "},
      {"{dense: bounded}", "a step in sync ends with one commit"},
      {"{tables: bounded, dense: async}", "the stricter would count for both"},
      {"{mode: bounded, dense: auto}", "say allreduce or bounded"},
      {"{sharded_optimizer: true}", "consistency.sharded_optimizer"},
      {"{tables: allreduce}", "allowed: sync, bounded, async or auto"},
      {"{sharded_optimizer: maybe}", "expected true or false"}};
  for (const auto& [consistency, reason] : cases) {
    const RunOutcome run =
        Train("out", {"--set", "consistency=" + consistency});
    ExpectRefused(run, "out");
    EXPECT_THAT(run.output,
                AllOf(HasSubstr("consistency."), HasSubstr(reason)));
  }
}

TEST_F(BadInputTest, MissingFileIsNamed) {
  const RunOutcome run = Train("out", {"--set", "data.files=[nothing*.csv]"});
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output, HasSubstr("nothing*.csv"));
}

TEST_F(BadInputTest, EmptyFileIsRefused) {
  Write("rows.csv", "");
  ExpectRefused(Train("out", {}), "out");
}

TEST_F(BadInputTest, WrongColumnCountNamesFileAndLine) {
  Write("rows.csv", "clicked,user,item,place,price\n1,u,i,p,3\n0,u,i,p\n");
  const RunOutcome run = Train("out", {});
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output, HasSubstr("rows.csv:3"));
}

TEST_F(BadInputTest, LabelThatIsNoNumberNamesFileAndLine) {
  Write("rows.csv", "clicked,user,item,place,price\n1,u,i,p,3\nnan,u,i,p,3\n");
  const RunOutcome run = Train("out", {});
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output, HasSubstr("rows.csv:3"));
}

TEST_F(BadInputTest, TruncatedArchiveIsRefused) {
  if (RunProgram({"gzip", Path("rows.csv")}).exit_code != 0) {
    GTEST_SKIP() << "there is no gzip";
  }
  fs::resize_file(folder_ / "rows.csv.gz", 4000);
  const RunOutcome run = Train("out", {"--set", "data.files=[rows.csv.gz]"});
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output, HasSubstr("rows.csv.gz"));
}

TEST_F(BadInputTest, IdOver64BitsNamesFileAndLine) {
  Write("rows.svm", "1 3:1 5:2\n0 18446744073709551616:1\n");
  Write("job.yaml", "data: {root: " + folder_.string() +
                        ", format: libsvm, files: [rows.svm], split: {by: "
                        "none}}\nmodel: {kind: lr}\n");
  const RunOutcome run = Train("out", {});
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output, HasSubstr("rows.svm:2"));
}

TEST_F(BadInputTest, MoreWorkersThanRowsIsRefused) {
  WriteRows("rows.csv", 8);
  const RunOutcome run = Train("out", {"--set", "cluster.workers=9", "--set",
                                       "cluster.virtual_workers=9"});
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output, HasSubstr("cluster.workers"));
}

TEST_F(BadInputTest, TakenPortIsNamed) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_GE(fd, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  const std::string port = std::to_string(ntohs(address.sin_port));
  const RunOutcome taken =
      Train("out", {"--set", "transport=zmq", "--set", "cluster.port=" + port});
  ExpectRefused(taken, "out");
  EXPECT_THAT(taken.output, AllOf(HasSubstr(port), HasSubstr("taken")));
  close(fd);
  const RunOutcome free =
      Train("out", {"--set", "transport=zmq", "--set", "cluster.port=" + port,
                    "--set", "cluster.listen=lo"});
  EXPECT_EQ(free.exit_code, 0) << free.output;
}

TEST_F(BadInputTest, FullDiskAtACheckpointLeavesNone) {
  // Files may not grow beyond this, which the data fits and the part does not.
  std::vector<std::string> argv = {
      "bash", "-c", "ulimit -f 150; trap '' XFSZ; exec \"$@\"", "bash"};
  const std::vector<std::string> train =
      TrainCommand("out", {"--in-process", "--set", "model.dim=400"});
  argv.insert(argv.end(), train.begin(), train.end());
  const RunOutcome run = RunProgram(argv);
  EXPECT_EQ(run.exit_code, 1) << run.output;
  EXPECT_THAT(run.output, HasSubstr("checkpoint"));
  EXPECT_TRUE(fs::is_empty(folder_ / "out" / "checkpoints"));
  EXPECT_THAT(Read("out/metrics.json"), HasSubstr("failed: "));
}

}  // namespace
}  // namespace shoal::integration
