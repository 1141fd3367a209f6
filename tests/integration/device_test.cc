// Where workers compute, as users set it.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::integration {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(JobsTest, OneDigestForEveryDevice) {
  ASSERT_EQ(Train("cpu", {"--in-process", "--set", "device=cpu"}).exit_code, 0);
  const std::string digest = Digest("cpu");
  const std::vector<std::vector<std::string>> others = {
      {"--in-process", "--set", "device=shadow"},
      {"--in-process", "--set", "device=shadow", "--set", "cluster.workers=2",
       "--set", "cluster.threads=2"},
      {"--set", "device=shadow", "--set", "cluster.workers=4", "--set",
       "cluster.servers=2"},
      {"--set", "device=shadow", "--set", "cluster.workers=2", "--set",
       "consistency.dense=allreduce"},
      {"--in-process", "--set", "devices.workers=[shadow, cpu]", "--set",
       "cluster.workers=3"},
      {"--in-process", "--set", "device=shadow", "--set",
       "devices.per_worker=2"},
      {"--in-process", "--set", "device=shadow", "--set",
       "devices.per_worker=3"},
      {"--in-process", "--set", "device=shadow", "--set",
       "devices.per_worker=4"},
      {"--in-process", "--set", "device=shadow", "--set",
       "devices.per_worker=2", "--set", "cluster.workers=2"},
      // Parts of the model on the CPU: what is looked up, and the rest.
      {"--in-process", "--set", "device=shadow", "--set",
       "devices.ops={gather: cpu, fminteraction: cpu, rowsum: cpu}"},
      {"--in-process", "--set", "device=shadow", "--set",
       "devices.ops={deep: cpu}", "--set", "devices.per_worker=2"},
      {"--in-process", "--set", "device=shadow", "--set",
       "devices.ops={deep: cpu, deep/1: device}", "--set", "cluster.threads=2"},
      {"--set", "devices.workers=[shadow, cpu]", "--set", "cluster.workers=2",
       "--set", "devices.ops={gather: cpu}"},
      {"--in-process"},  // auto
  };
  for (const std::vector<std::string>& other : others) {
    const RunOutcome run = Train("out", other);
    ASSERT_EQ(run.exit_code, 0) << run.output;
    EXPECT_EQ(Digest("out"), digest) << ::testing::PrintToString(other);
    fs::remove_all(folder_ / "out");
  }
}

TEST_F(JobsTest, EveryModelHasTheCpusBitsOnTheShadowDevice) {
  for (const std::string model :
       {"{kind: lr}", "{kind: fm, dim: 4}",
        "{kind: wide_deep, dim: 4, hidden: [8]}",
        "{kind: dcn_v2, dim: 4, hidden: [8], cross_layers: 2}",
        "{kind: dlrm, dim: 4, bottom: [4], hidden: [8]}",
        "{kind: mlp, dim: 4, hidden: [8], activation: tanh}"}) {
    std::string text = Read("job.yaml");
    const size_t line = text.find("\nmodel: ") + 1;
    text = text.substr(0, line) + "model: " + model +
           "\ndense: {kind: adam}\ntrain: {epochs: 1, batch_size: 64}\n";
    Write("model.yaml", text);
    std::string digest;
    for (const std::string device : {"cpu", "shadow"}) {
      const RunOutcome run =
          RunProgram({SHOAL_PROGRAM, "train", Path("model.yaml"), "--out",
                      Path("out"), "--in-process", "--set", "device=" + device,
                      "--set", "train.max_steps=20"});
      ASSERT_EQ(run.exit_code, 0) << model << "\n" << run.output;
      if (device == "cpu") {
        digest = Digest("out");
      } else {
        EXPECT_EQ(Digest("out"), digest) << model;
      }
      fs::remove_all(folder_ / "out");
    }
  }
}

TEST_F(JobsTest, ADeviceThatIsNotThereSaysWhyAndWhatToDo) {
  const RunOutcome no_plugin =
      RunProgram({"/usr/bin/env", "SHOAL_CUDA_PLUGIN=/none/libshoal_cuda.so",
                  SHOAL_PROGRAM, "train", Path("job.yaml"), "--out",
                  Path("out"), "--set", "device=cuda"});
  EXPECT_NE(no_plugin.exit_code, 0);
  EXPECT_THAT(no_plugin.output, AllOf(HasSubstr("/none/libshoal_cuda.so"),
                                      HasSubstr("or set device: cpu")));
  const RunOutcome unknown = Train("out", {"--set", "device=gpu"});
  EXPECT_NE(unknown.exit_code, 0);
  EXPECT_THAT(unknown.output, AllOf(HasSubstr("'gpu' is no device"),
                                    HasSubstr("auto, cpu, cuda, cuda:0")));
  const RunOutcome bad_list = Train(
      "out",
      {"--set", "devices.workers=[cpu, cuda:x]", "--set", "cluster.workers=2"});
  EXPECT_NE(bad_list.exit_code, 0);
  EXPECT_THAT(bad_list.output, AllOf(HasSubstr("devices.workers.1"),
                                     HasSubstr("'cuda:x' is no device")));
  const RunOutcome no_op =
      Train("out", {"--set", "devices.ops={gathr: cpu, deep: cpu}"});
  EXPECT_NE(no_op.exit_code, 0);
  EXPECT_THAT(no_op.output,
              AllOf(HasSubstr("devices.ops: the model has no op or layer "
                              "'gathr'; there are: "),
                    HasSubstr(", deep, "), HasSubstr(", gather, ")));
  const RunOutcome no_side = Train("out", {"--set", "devices.ops.deep=cuda"});
  EXPECT_NE(no_side.exit_code, 0);
  EXPECT_THAT(no_side.output, AllOf(HasSubstr("devices.ops.deep"),
                                    HasSubstr("'cuda' is neither cpu nor")));
  const RunOutcome too_many =
      Train("out", {"--set", "devices.workers=[cpu, cpu]"});
  EXPECT_NE(too_many.exit_code, 0);
  EXPECT_THAT(too_many.output, HasSubstr("it names 2 devices, but "
                                         "cluster.workers is 1"));
}

TEST_F(JobsTest, EachDeviceOfAWorkerHasShares) {
  const RunOutcome run =
      Train("out", {"--in-process", "--trace", "--set", "device=shadow",
                    "--set", "devices.per_worker=3"});
  ASSERT_EQ(run.exit_code, 0) << run.output;
  const std::string trace = Read("out/trace.json");
  for (const char* device :
       {"share on device 0", "share on device 1", "share on device 2"}) {
    EXPECT_THAT(trace, HasSubstr(device));
  }
  EXPECT_THAT(trace, Not(HasSubstr("share on device 3")));
}

TEST_F(JobsTest, DevicesOfAWorkerThatWouldIdleAreRefused) {
  const auto expect = [this](const std::vector<std::string>& more,
                             const testing::Matcher<std::string>& text) {
    std::vector<std::string> all = {"--in-process"};
    all.insert(all.end(), more.begin(), more.end());
    const RunOutcome run = Train("out", all);
    EXPECT_NE(run.exit_code, 0);
    EXPECT_THAT(run.output, text);
    fs::remove_all(folder_ / "out");
  };
  expect({"--set", "device=shadow", "--set", "devices.per_worker=5"},
         AllOf(HasSubstr("devices.per_worker"),
               HasSubstr("5 is more than a worker has shares of a batch "
                         "(cluster.virtual_workers is 4)")));
  expect({"--set", "device=shadow", "--set", "devices.per_worker=3", "--set",
          "cluster.workers=2"},
         ContainsRegex("devices.per_worker is 3, but worker [01] has 2 share"));
  expect({"--set", "device=cpu", "--set", "devices.per_worker=2"},
         HasSubstr("2 devices for each worker, but all workers are on the "
                   "CPU"));
  // Steps are dealt to workers as wholes there, so each has all shares.
  EXPECT_EQ(Train("out", {"--in-process", "--set", "device=shadow", "--set",
                          "devices.per_worker=3", "--set", "cluster.workers=2",
                          "--set", "consistency.mode=async"})
                .exit_code,
            0);
}

// On the stand-in GPU that g++ makes of the CUDA kernels' sources.
class GpuTest : public JobsTest {
 protected:
  RunOutcome TrainOnGpu(const std::string& variable,
                        const std::vector<std::string>& more) const {
    std::vector<std::string> argv = {
        "/usr/bin/env", std::string("SHOAL_CUDA_PLUGIN=") + SHOAL_CUDA_SHIM,
        variable};
    const std::vector<std::string> train = TrainCommand("out", more);
    argv.insert(argv.end(), train.begin(), train.end());
    argv.insert(argv.end(), {"--set", "device=cuda", "--set",
                             "train.max_steps=8", "--set", "data.limit=400"});
    return RunProgram(argv);
  }
};

TEST_F(GpuTest, HasTheCpusBits) {
  ASSERT_EQ(Train("cpu", {"--in-process", "--set", "train.max_steps=8", "--set",
                          "data.limit=400"})
                .exit_code,
            0);
  const std::string digest = Digest("cpu");
  const std::vector<std::vector<std::string>> clusters = {
      {"--in-process"},
      {"--set", "cluster.workers=2", "--set", "cluster.servers=2"},
      {"--set", "cluster.workers=2", "--set", "consistency.dense=allreduce"},
      {"--set", "cluster.workers=2", "--set", "devices.workers=[cuda:1, cpu]"},
      {"--in-process", "--set", "devices.ops={gather: cpu}"},
      {"--in-process", "--set", "devices.ops={deep: cpu}"},
      {"--set", "devices.per_worker=2"},
      {"--in-process", "--set", "devices.per_worker=3"},
      {"--in-process", "--set", "devices.workers=[cuda:1]", "--set",
       "devices.per_worker=2"},
      {"--set", "cluster.workers=2", "--set", "devices.per_worker=2"}};
  for (const std::vector<std::string>& cluster : clusters) {
    const RunOutcome run = TrainOnGpu("SHOAL_SHIM_DEVICES=3", cluster);
    ASSERT_EQ(run.exit_code, 0) << run.output;
    EXPECT_EQ(Digest("out"), digest) << ::testing::PrintToString(cluster);
    fs::remove_all(folder_ / "out");
  }
}

// So many shares that several in a row have one shape: their steps, and copies
// beside them on other streams, are recorded and begun at once.
TEST_F(GpuTest, WhatIsRecordedHasTheCpusBits) {
  const std::vector<std::string> shares = {"--in-process", "--set",
                                           "cluster.virtual_workers=16"};
  std::vector<std::string> cpu = shares;
  cpu.insert(cpu.end(), {"--set", "train.max_steps=8", "--set",
                         "data.limit=400", "--set", "device=cpu"});
  ASSERT_EQ(Train("cpu", cpu).exit_code, 0);
  for (const char* ops : {"{}", "{gather: cpu}", "{deep/0: cpu}"}) {
    std::vector<std::string> gpu = shares;
    gpu.insert(gpu.end(), {"--set", std::string("devices.ops=") + ops});
    const RunOutcome run = TrainOnGpu("SHOAL_SHIM_DEVICES=1", gpu);
    ASSERT_EQ(run.exit_code, 0) << run.output;
    EXPECT_EQ(Digest("out"), Digest("cpu")) << ops;
    fs::remove_all(folder_ / "out");
  }
}

TEST_F(GpuTest, WhatIsWrongWithAGpuIsSaid) {
  const RunOutcome none = TrainOnGpu("SHOAL_SHIM_DRIVER=0", {});
  EXPECT_NE(none.exit_code, 0);
  EXPECT_THAT(none.output,
              AllOf(HasSubstr("no GPU can be used"), HasSubstr("error 35"),
                    HasSubstr("or set device: cpu")));
  const RunOutcome old = TrainOnGpu("SHOAL_SHIM_DRIVER=12040", {});
  EXPECT_NE(old.exit_code, 0);
  EXPECT_THAT(old.output,
              AllOf(HasSubstr("no GPU can be used"), HasSubstr("driver")));
  const RunOutcome small = TrainOnGpu("SHOAL_SHIM_MEMORY_BYTES=4096", {});
  EXPECT_NE(small.exit_code, 0);
  EXPECT_THAT(small.output, AllOf(HasSubstr("out of memory"),
                                  HasSubstr("the memory of GPU 0"),
                                  HasSubstr("lower train.batch_size")));
  const RunOutcome missing =
      TrainOnGpu("SHOAL_SHIM_DEVICES=1", {"--set", "devices.workers=[cuda:1]"});
  EXPECT_NE(missing.exit_code, 0);
  EXPECT_THAT(missing.output,
              HasSubstr("there is no GPU 1; this machine has 1"));
  const RunOutcome few =
      TrainOnGpu("SHOAL_SHIM_DEVICES=2", {"--set", "devices.per_worker=3"});
  EXPECT_NE(few.exit_code, 0);
  EXPECT_THAT(few.output,
              HasSubstr("3 GPUs are asked for, but this machine has 2"));
  const RunOutcome past = TrainOnGpu(
      "SHOAL_SHIM_DEVICES=2",
      {"--set", "devices.workers=[cuda:1]", "--set", "devices.per_worker=2"});
  EXPECT_NE(past.exit_code, 0);
  EXPECT_THAT(past.output, HasSubstr("there is no GPU 2; this machine has 2"));
}

TEST_F(GpuTest, TheDoctorTriesEveryGpu) {
  const RunOutcome run = RunProgram(
      {"/usr/bin/env", std::string("SHOAL_CUDA_PLUGIN=") + SHOAL_CUDA_SHIM,
       "SHOAL_SHIM_DEVICES=3", SHOAL_PROGRAM, "doctor", "--need-gpu"});
  EXPECT_EQ(run.exit_code, 0) << run.output;
  for (const char* gpu : {"GPU 0: ", "GPU 1: ", "GPU 2: "}) {
    EXPECT_THAT(run.output, HasSubstr(gpu));
  }
}

TEST_F(JobsTest, DoctorSaysWhatIsMissing) {
  const std::vector<std::string> doctor = {
      "/usr/bin/env", "SHOAL_CUDA_PLUGIN=/none/libshoal_cuda.so", SHOAL_PROGRAM,
      "doctor"};
  const RunOutcome run = RunProgram(doctor);
  EXPECT_EQ(run.exit_code, 0) << run.output;
  EXPECT_THAT(run.output,
              AllOf(HasSubstr("cpu "), HasSubstr("shared memory"),
                    HasSubstr("mpi "), HasSubstr("/none/libshoal_cuda.so")));
  std::vector<std::string> need = doctor;
  need.emplace_back("--need-gpu");
  EXPECT_NE(RunProgram(need).exit_code, 0);
}

}  // namespace
}  // namespace shoal::integration
