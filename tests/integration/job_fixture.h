#ifndef SHOAL_TESTS_INTEGRATION_JOB_FIXTURE_H_
#define SHOAL_TESTS_INTEGRATION_JOB_FIXTURE_H_

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "tests/integration/program.h"

namespace shoal::integration {

namespace fs = std::filesystem;

inline constexpr char kJobText[] = R"(name: small
data:
  root: ROOT
  files: [rows.csv]
  label: clicked
  split: {by: mod, n: 5, test: 4}
  features:
    - {column: user, min_count: 2}
    - {column: item}
    - {name: user_x_place, cross: [user, place]}
    - {column: price, kind: numeric, standardize: true}
model: {kind: deepfm, dim: 4, hidden: [16, 8], dropout: 0.2}
tables:
  linear: {optimizer: {kind: ftrl, learning_rate: 0.1}}
  embedding: {optimizer: {kind: adagrad, learning_rate: 0.1}}
dense: {kind: adam, learning_rate: 0.003}
train: {epochs: 2, batch_size: 64}
)";

// --set before each key.
inline Words Sets(const Words& keys) {
  Words words;
  for (const std::string& key : keys) {
    words.insert(words.end(), {"--set", key});
  }
  return words;
}

// A small job on 3000 rows in a folder of its own.
class JobsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("shoal-jobs-" + std::to_string(getpid()) + "-" +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
    WriteRows("rows.csv", 3000);
    std::string text = kJobText;
    text.replace(text.find("ROOT"), 4, folder_.string());
    Write("job.yaml", text);
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  void WriteRows(const std::string& name, int rows) const {
    std::ostringstream out;
    out << "clicked,user,item,place,price\n";
    uint64_t state = 1;
    const auto next = [&state](uint64_t below) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      return (state >> 33) % below;
    };
    for (int i = 0; i < rows; ++i) {
      const uint64_t user = next(50);
      const uint64_t item = next(80);
      const bool label = (user * 7 + item * 5) % 10 < 4 || next(10) == 0;
      out << (label ? 1 : 0) << ",u" << user << ",i" << item << ",p" << next(4)
          << "," << next(1000) << "\n";
    }
    Write(name, out.str());
  }

  std::string Read(const std::string& name) const {
    std::ifstream file(folder_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file),
            std::istreambuf_iterator<char>()};
  }
  std::string Path(const std::string& name) const {
    return (folder_ / name).string();
  }

  std::vector<std::string> TrainCommand(
      const std::string& out, const std::vector<std::string>& more) const {
    std::vector<std::string> argv = {Program(), "train", Path("job.yaml"),
                                     "--out", Path(out)};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  RunOutcome Train(const std::string& out,
                   const std::vector<std::string>& more) const {
    return RunProgram(TrainCommand(out, more));
  }
  std::string Digest(const std::string& out) const {
    const RunOutcome run =
        RunProgram({Program(), "checkpoint", "digest", Path(out)});
    return run.exit_code == 0 ? run.output : "no digest: " + run.output;
  }
  // The points of the curve of a run's loss.
  std::vector<double> Losses(const std::string& out) const {
    return LossesOf(Read(out + "/metrics.json"));
  }
  // A refused run leaves nothing that looks like a result.
  void ExpectRefused(const RunOutcome& run, const std::string& out) const {
    EXPECT_EQ(run.exit_code, 1) << run.output;
    EXPECT_FALSE(fs::exists(folder_ / out / "metrics.json"));
    if (fs::exists(folder_ / out / "checkpoints")) {
      EXPECT_TRUE(fs::is_empty(folder_ / out / "checkpoints"));
    }
  }

  fs::path folder_;
};

}  // namespace shoal::integration

#endif  // SHOAL_TESTS_INTEGRATION_JOB_FIXTURE_H_
