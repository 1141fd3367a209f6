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
using ::testing::HasSubstr;

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
  const RunOutcome too_many =
      Train("out", {"--set", "devices.workers=[cpu, cpu]"});
  EXPECT_NE(too_many.exit_code, 0);
  EXPECT_THAT(too_many.output, HasSubstr("it names 2 devices, but "
                                         "cluster.workers is 1"));
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
      {"--set", "cluster.workers=2", "--set", "devices.workers=[cuda:1, cpu]"}};
  for (const std::vector<std::string>& cluster : clusters) {
    const RunOutcome run = TrainOnGpu("SHOAL_SHIM_DEVICES=2", cluster);
    ASSERT_EQ(run.exit_code, 0) << run.output;
    EXPECT_EQ(Digest("out"), digest) << ::testing::PrintToString(cluster);
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
                                  HasSubstr("lower train.batch_size")));
  const RunOutcome missing =
      TrainOnGpu("SHOAL_SHIM_DEVICES=1", {"--set", "devices.workers=[cuda:1]"});
  EXPECT_NE(missing.exit_code, 0);
  EXPECT_THAT(missing.output,
              HasSubstr("there is no GPU 1; this machine has 1"));
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
