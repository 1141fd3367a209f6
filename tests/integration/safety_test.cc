// What a user may not lose, nor be told wrongly: checkpoints, inputs, rows, and
// who is to blame.

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
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
using ::testing::Not;

class SafetyTest : public JobsTest {
 protected:
  RunOutcome Shoal(const Words& more) const {
    Words argv = {SHOAL_PROGRAM};
    argv.insert(argv.end(), more.begin(), more.end());
    return RunProgram(argv);
  }
  // The number behind "KEY": in a run's metrics.json.
  double Metric(const std::string& out, const std::string& key) const {
    const std::string json = Read(out + "/metrics.json");
    const size_t at = json.find('"' + key + "\":");
    return at == std::string::npos
               ? -1
               : std::atof(json.c_str() + at + key.size() + 3);
  }
  std::string FirstLines(const std::string& name, int lines) const {
    std::ifstream file(folder_ / name);
    std::string text;
    std::string line;
    for (int i = 0; i < lines && std::getline(file, line); ++i) {
      text += line + "\n";
    }
    return text;
  }
};

// Five steps an epoch, which no number of workers but 1 and 5 divides, with
// evaluations in between.
TEST_F(SafetyTest, EveryModeTrainsOnEveryRow) {
  for (const std::string mode :
       {"mode: sync", "mode: bounded", "mode: async",
        "mode: async, dense: allreduce",
        "mode: bounded, dense: allreduce, sharded_optimizer: true"}) {
    for (const char* workers : {"1", "2", "3", "5"}) {
      const std::string what = mode + " " + workers;
      const Words job = {"--in-process",
                         "--set",
                         "train.batch_size=500",
                         "--set",
                         "train.epochs=4",
                         "--set",
                         "train.eval.every_steps=3",
                         "--set",
                         "cluster.virtual_workers=5",
                         "--set",
                         "consistency={" + mode + "}",
                         "--set",
                         std::string("cluster.workers=") + workers};
      Words first = job;
      first.insert(first.end(), {"--set", "checkpoint.every_steps=7"});
      const RunOutcome run = Train("out", first);
      ASSERT_EQ(run.exit_code, 0) << what << run.output;
      EXPECT_EQ(Metric("out", "examples"), 4 * 2400) << what;
      Words second = job;
      second.insert(
          second.end(),
          {"--set", "checkpoint.restore=" + Path("out/checkpoints/step-7")});
      const RunOutcome restored = Train("rest", second);
      ASSERT_EQ(restored.exit_code, 0) << what << restored.output;
      EXPECT_EQ(Metric("rest", "examples"), 3 * 2400 - 2 * 500 + 0) << what;
      fs::remove_all(folder_ / "out");
      fs::remove_all(folder_ / "rest");
    }
  }
}

TEST_F(SafetyTest, CheckpointOfAnotherModelIsRefused) {
  ASSERT_EQ(Train("out", {"--in-process"}).exit_code, 0);
  const std::vector<std::pair<std::string, std::string>> others = {
      {"model.activation=tanh", "model.activation"},
      {"model.dim=8", "model.dim"},
      {"dense.kind=momentum", "dense.kind"},
      {"tables.linear.optimizer.kind=adagrad", "linear"},
      {"data.features.1.hash_buckets=100", "data.features[1]"}};
  for (const auto& [setting, named] : others) {
    const RunOutcome eval =
        Shoal({"eval", Path("job.yaml"), "--in-process", "--checkpoint",
               Path("out"), "--out", Path("eval"), "--set", setting});
    EXPECT_EQ(eval.exit_code, 1) << setting;
    EXPECT_THAT(eval.output, AllOf(HasSubstr(named), HasSubstr("step-")));
  }
  const RunOutcome rates =
      Shoal({"eval", Path("job.yaml"), "--in-process", "--checkpoint",
             Path("out"), "--out", Path("eval"), "--set",
             "dense.learning_rate=0.1", "--set", "model.dropout=0"});
  EXPECT_EQ(rates.exit_code, 0) << rates.output;
}

TEST_F(SafetyTest, RestoreBehindTheEndIsRefused) {
  ASSERT_EQ(
      Train("out", {"--in-process", "--set", "train.max_steps=20"}).exit_code,
      0);
  const RunOutcome run =
      Train("less", {"--in-process", "--set", "train.max_steps=10", "--set",
                     "checkpoint.restore=" + Path("out")});
  ExpectRefused(run, "less");
  EXPECT_THAT(run.output, AllOf(HasSubstr("step 20"), HasSubstr("step 10")));
}

TEST_F(SafetyTest, EarlyStoppingGoesOnAfterARestore) {
  const Words job = {"--in-process",
                     "--set",
                     "train.epochs=40",
                     "--set",
                     "train.early_stopping={metric: auc, patience: 3, "
                     "min_delta: 0.2}",
                     "--set",
                     "checkpoint.every_steps=40",
                     "--set",
                     "checkpoint.keep=100"};
  const RunOutcome whole = Train("whole", job);
  ASSERT_EQ(whole.exit_code, 0) << whole.output;
  EXPECT_THAT(Read("whole/metrics.json"), HasSubstr("stopped early"));
  Words more = job;
  more.insert(more.end(), {"--set", "checkpoint.restore=" +
                                        Path("whole/checkpoints/step-80")});
  const RunOutcome rest = Train("rest", more);
  ASSERT_EQ(rest.exit_code, 0) << rest.output;
  EXPECT_EQ(Metric("rest", "steps"), Metric("whole", "steps"));
  EXPECT_EQ(Digest("rest"), Digest("whole"));
}

TEST_F(SafetyTest, PredictionsKeepTheNumbersOfTheirRows) {
  ASSERT_EQ(Train("out", {"--in-process"}).exit_code, 0);
  Write("few.csv",
        "clicked,user,item,place,price\n1,u1,i1,p1,3\n0,u1,i1\n"
        "1,u2,i2,p2,nonsense\n,u1,i1,p1,3\nx\n");
  const RunOutcome run =
      Shoal({"predict", Path("job.yaml"), "--in-process", "--checkpoint",
             Path("out"), "--input", Path("few.csv"), "--csv", Path("p.csv"),
             "--out", Path("p"), "--set", "data.bad_rows.limit=9"});
  ASSERT_EQ(run.exit_code, 0) << run.output;
  const std::string csv = Read("p.csv");
  const size_t comma = csv.find("0,") + 2;
  const std::string first = csv.substr(comma, csv.find(',', comma) - comma);
  EXPECT_EQ(csv, "row,prediction,label\n0," + first + ",1\n1,,\n2,,\n3," +
                     first + ",\n4,,\n");
}

TEST_F(SafetyTest, WhatIsReadIsNotWrittenOver) {
  const std::string before = Read("rows.csv");
  const RunOutcome convert =
      Shoal({"data", "convert", Path("job.yaml"), Path("rows.csv")});
  EXPECT_EQ(convert.exit_code, 1);
  EXPECT_THAT(convert.output, HasSubstr("rows.csv"));
  ASSERT_EQ(Train("out", {"--in-process"}).exit_code, 0);
  for (const char* target : {"rows.csv", "job.yaml"}) {
    const RunOutcome predict =
        Shoal({"predict", Path("job.yaml"), "--in-process", "--checkpoint",
               Path("out"), "--input", "rows*.csv", "--csv", Path(target),
               "--out", Path("p")});
    EXPECT_EQ(predict.exit_code, 1);
    EXPECT_THAT(predict.output, HasSubstr("that file is read"));
  }
  EXPECT_EQ(Read("rows.csv"), before);
  EXPECT_TRUE(Read("job.yaml").starts_with("name: small"));
}

TEST_F(SafetyTest, RecordFilesOfAnotherFitAreRefused) {
  const std::string record = "data.format=record";
  const std::string none = "data.features=[]";
  const auto eval = [&](const std::string& file) {
    return Shoal({"eval", Path("job.yaml"), "--in-process", "--checkpoint",
                  Path("out"), "--out", Path("eval"), "--set", record, "--set",
                  none, "--set", "data.label=''", "--set",
                  "data.files=[" + file + "]"});
  };
  ASSERT_EQ(Train("out", {"--in-process"}).exit_code, 0);
  Write("later.csv", FirstLines("rows.csv", 1000));
  const Words convert = {"data",        "convert", Path("job.yaml"),
                         Path("l.rec"), "--set",   "data.files=[later.csv]"};
  ASSERT_EQ(Shoal(convert).exit_code, 0);
  const RunOutcome refused = eval("l.rec");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.output, AllOf(HasSubstr("l.rec"), HasSubstr("fitted")));

  Words with = convert;
  with.insert(with.end(), {"--checkpoint", Path("out")});
  ASSERT_EQ(Shoal(with).exit_code, 0);
  const RunOutcome good = eval("l.rec");
  EXPECT_EQ(good.exit_code, 0) << good.output;
  const RunOutcome text = Shoal(
      {"eval", Path("job.yaml"), "--in-process", "--checkpoint", Path("out"),
       "--out", Path("eval"), "--set", "data.files=[later.csv]"});
  const auto result = [](const std::string& output) {
    const size_t at = output.rfind("test: auc");
    return at == std::string::npos ? "none" : output.substr(at);
  };
  EXPECT_EQ(result(good.output), result(text.output));
}

// What a record file's columns were made of is not what they are called.
TEST_F(SafetyTest, RecordFilesOfOtherFeaturesAreRefused) {
  const Words as_record = {"--set", "data.format=record",
                           "--set", "data.features=[]",
                           "--set", "data.label=''"};
  const auto record_run = [&](const std::string& command,
                              const std::string& file, const Words& more) {
    Words argv = {command, Path("job.yaml"), "--in-process", "--set",
                  "data.files=[" + file + "]"};
    argv.insert(argv.end(), as_record.begin(), as_record.end());
    argv.insert(argv.end(), more.begin(), more.end());
    return Shoal(argv);
  };
  const Words log = {"--set", "data.features.3.log=true"};
  const auto convert = [&](const std::string& out, const Words& more) {
    Words argv = {"data", "convert", Path("job.yaml"), Path(out)};
    argv.insert(argv.end(), more.begin(), more.end());
    return Shoal(argv);
  };
  ASSERT_EQ(convert("plain.rec", {}).exit_code, 0);
  const RunOutcome trained =
      record_run("train", "plain.rec", {"--out", Path("out")});
  ASSERT_EQ(trained.exit_code, 0) << trained.output;

  Words with = log;
  with.insert(with.end(), {"--checkpoint", Path("out")});
  const RunOutcome refused = convert("log.rec", with);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.output, HasSubstr("other data.features"));
  ASSERT_EQ(convert("log.rec", log).exit_code, 0);
  const Words evaluate = {"--checkpoint", Path("out"), "--out", Path("eval")};
  const RunOutcome other = record_run("eval", "log.rec", evaluate);
  EXPECT_EQ(other.exit_code, 1);
  const RunOutcome same = record_run("eval", "plain.rec", evaluate);
  EXPECT_EQ(same.exit_code, 0) << same.output;
}

TEST_F(SafetyTest, SplitsByColumnsAndFilesConvertToTwoFiles) {
  Write("test.csv", FirstLines("rows.csv", 500));
  const std::vector<Words> splits = {
      {"--set", "data.split={by: hash, column: user}"},
      {"--set", "data.split.by=files", "--set", "data.test_files=[test.csv]"}};
  for (const Words& split : splits) {
    Words argv = {"data", "convert", Path("job.yaml"), Path("a.rec")};
    argv.insert(argv.end(), split.begin(), split.end());
    const RunOutcome convert = Shoal(argv);
    ASSERT_EQ(convert.exit_code, 0) << convert.output;
    EXPECT_THAT(convert.output, HasSubstr("a.test.rec"));
    Words text_job = {"--in-process"};
    text_job.insert(text_job.end(), split.begin(), split.end());
    const RunOutcome text = Train("text", text_job);
    Words record_job = {"--in-process",
                        "--set",
                        "data.format=record",
                        "--set",
                        "data.features=[]",
                        "--set",
                        "data.label=''",
                        "--set",
                        "data.files=[a.rec]",
                        "--set",
                        "data.test_files=[a.test.rec]",
                        "--set",
                        "data.split={by: files}"};
    const RunOutcome record = Train("record", record_job);
    ASSERT_EQ(text.exit_code, 0) << text.output;
    ASSERT_EQ(record.exit_code, 0) << record.output;
    EXPECT_EQ(Digest("record"), Digest("text"));
    record_job[10] = "data.test_files=[a.rec]";
    const RunOutcome both = Train("both", record_job);
    EXPECT_EQ(both.exit_code, 1);
    EXPECT_THAT(both.output, HasSubstr("of both"));
  }
}

TEST_F(SafetyTest, UnclosedQuoteIsNoBadRowThatMayBeLeftOut) {
  Write("rows.csv", Read("rows.csv") + "1,\"u,i,p,3\n" + "0,u1,i1,p1,5\n");
  const RunOutcome run =
      Train("out", {"--in-process", "--set", "data.bad_rows.limit=10"});
  ExpectRefused(run, "out");
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("rows.csv:3002"), HasSubstr("never closed")));
}

TEST_F(SafetyTest, OutFolderKeepsWhatIsNotItsOwn) {
  fs::create_directories(folder_ / "out/data");
  fs::create_directories(folder_ / "out/trace");
  Write("out/data/mine.csv", "1\n");
  Write("out/trace/mine.txt", "1\n");
  const RunOutcome run = Train("out", {"--in-process", "--trace"});
  ASSERT_EQ(run.exit_code, 0) << run.output;
  EXPECT_EQ(Read("out/data/mine.csv"), "1\n");
  EXPECT_EQ(Read("out/trace/mine.txt"), "1\n");
  EXPECT_TRUE(fs::exists(folder_ / "out/trace.json"));
}

TEST_F(SafetyTest, FailedRunDoesNotPassForTheOneBefore) {
  ASSERT_EQ(Train("out", {"--in-process"}).exit_code, 0);
  EXPECT_THAT(Read("out/metrics.json"), HasSubstr("\"finished\""));
  const RunOutcome run = Train(
      "out", {"--in-process", "--set", "dense={kind: sgd, learning_rate: 1e30}",
              "--set", "model.dropout=0"});
  EXPECT_EQ(run.exit_code, 1) << run.output;
  EXPECT_THAT(Read("out/metrics.json"),
              AllOf(HasSubstr("failed: "), Not(HasSubstr("\"finished\""))));
  EXPECT_TRUE(fs::exists(folder_ / "out/checkpoints.old"));
}

TEST_F(SafetyTest, RunThatCannotStartLeavesTheOneBeforeInPlace) {
  ASSERT_EQ(Train("out", {"--in-process"}).exit_code, 0);
  const std::string digest = Digest("out");
  const RunOutcome run = Train(
      "out", {"--set", "transport=zmq", "--set", "cluster.listen=nowhere0"});
  EXPECT_EQ(run.exit_code, 1) << run.output;
  EXPECT_EQ(Digest("out"), digest);
  EXPECT_THAT(Read("out/metrics.json"), HasSubstr("\"finished\""));
}

TEST_F(SafetyTest, ThreadsEndInOrderAtCtrlC) {
  bool struck = false;
  const RunOutcome run = RunProgram(
      TrainCommand("out", {"--in-process", "--set", "train.epochs=100000"}),
      [&](pid_t pid) {
        if (!struck && fs::exists(folder_ / "out" / "tensorboard")) {
          kill(pid, SIGINT);
          struck = true;
        }
      });
  EXPECT_EQ(run.exit_code, 1) << run.output;
  EXPECT_THAT(run.output, HasSubstr("Ctrl-C"));
  EXPECT_THAT(Read("out/metrics.json"), HasSubstr("failed: stopped by signal"));
}

// Its neighbours' deadlines pass first; the culprit is named all the same.
TEST_F(SafetyTest, HungServerIsNamed) {
  bool stopped = false;
  int rounds = 0;
  const RunOutcome run = RunProgram(
      TrainCommand("out", {"--set", "train.epochs=100000", "--set",
                           "cluster.servers=2", "--set", "cluster.workers=2",
                           "--set", "cluster.timeout_seconds=2"}),
      [&](pid_t pid) {
        const auto servers = ChildrenWith(pid, "server --index 1");
        if (!stopped && !servers.empty() &&
            fs::exists(folder_ / "out" / "tensorboard") && ++rounds > 25) {
          kill(servers.front(), SIGSTOP);
          stopped = true;
        }
      });
  EXPECT_EQ(run.exit_code, 1) << run.output;
  EXPECT_THAT(run.output, HasSubstr("server 1 shard 0 (host "));
}

TEST_F(SafetyTest, LostOutputIsNoSuccess) {
  ASSERT_EQ(Train("out", {"--in-process"}).exit_code, 0);
  const RunOutcome run =
      RunProgram({"bash", "-c",
                  std::string(SHOAL_PROGRAM) + " checkpoint digest " +
                      Path("out") + " > /dev/full"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.output, HasSubstr("standard output"));
}

TEST_F(SafetyTest, OneCheckpointIsListedHoweverItIsSpelled) {
  ASSERT_EQ(Train("out", {"--in-process", "--set", "train.max_steps=20",
                          "--set", "checkpoint.every_steps=10"})
                .exit_code,
            0);
  for (const std::string path :
       {"out/checkpoints/step-10", "out/checkpoints/step-10/"}) {
    const RunOutcome run = Shoal({"checkpoint", "ls", Path(path)});
    EXPECT_THAT(run.output,
                AllOf(HasSubstr("step-10"), Not(HasSubstr("step-20"))));
  }
  const RunOutcome here =
      RunProgram({"bash", "-c",
                  "cd " + Path("out/checkpoints") + " && " + SHOAL_PROGRAM +
                      " checkpoint ls step-10"});
  EXPECT_THAT(here.output, HasSubstr("step-10"));
  const RunOutcome all = Shoal({"checkpoint", "ls", Path("out/")});
  EXPECT_THAT(all.output, AllOf(HasSubstr("step-10"), HasSubstr("step-20")));
}

TEST_F(SafetyTest, RoleThatCannotRunIsRefusedAtOnce) {
  const RunOutcome shards =
      Shoal({"server", "--coordinator", "tcp://127.0.0.1:1", "--shards", "0"});
  EXPECT_NE(shards.exit_code, 0);
  EXPECT_THAT(shards.output, HasSubstr("--shards"));
  const RunOutcome address = Shoal({"worker", "--coordinator", "nonsense"});
  EXPECT_EQ(address.exit_code, 1);
  EXPECT_THAT(address.output, HasSubstr("nonsense"));
  EXPECT_LT(address.seconds, 20) << "not the deadline for joining";
}

TEST_F(SafetyTest, MpirunLeavesOneTimelineAndRunsNothingTwice) {
  if (RunProgram({"mpirun", "--version"}).exit_code != 0) {
    GTEST_SKIP() << "there is no mpirun";
  }
  if (!fs::exists(fs::path(SHOAL_PROGRAM).parent_path() / "libshoal_mpi.so")) {
    GTEST_SKIP() << "the MPI plug-in was not built";
  }
  const auto under = [](const char* ranks, const Words& command) {
    Words argv = {"mpirun", "-np", ranks};
    argv.insert(argv.end(), command.begin(), command.end());
    return RunProgram(argv);
  };
  for (const char* ranks : {"2", "3"}) {
    fs::remove_all(folder_ / "out");
    const RunOutcome run = under(ranks, TrainCommand("out", {"--trace"}));
    ASSERT_EQ(run.exit_code, 0) << run.output;
    EXPECT_THAT(Read("out/trace.json"),
                AllOf(HasSubstr("server 0"), HasSubstr("worker 0")));
    EXPECT_EQ(fs::exists(folder_ / "out/trace/trace-coordinator.json"),
              std::string(ranks) == "3");
  }
  const RunOutcome predict =
      under("2", {SHOAL_PROGRAM, "predict", Path("job.yaml"), "--checkpoint",
                  Path("out"), "--input", Path("rows.csv"), "--csv",
                  Path("p.csv"), "--out", Path("p")});
  EXPECT_NE(predict.exit_code, 0);
  EXPECT_THAT(predict.output, HasSubstr("without mpirun"));
  EXPECT_FALSE(fs::exists(folder_ / "p.csv"));
}

}  // namespace
}  // namespace shoal::integration
