#include "launch/mpi_state.h"

#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"

namespace shoal::launch {
namespace {

TEST(MpiStateTest, IsReadAsWrittenWhereTheLauncherMadeTheFile) {
  const std::string path = testing::TempDir() + "shoal-mpi-state";
  std::filesystem::remove(path);
  const MpiState ended{.begun = true, .ended = StatusCode::kUnavailable};
  ended.WriteTo(path);
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_FALSE(MpiState::ReadFrom(path).begun);
  ended.WriteTo("");

  std::ofstream(path).close();
  EXPECT_FALSE(MpiState::ReadFrom(path).begun);
  ended.WriteTo(path);
  EXPECT_TRUE(MpiState::ReadFrom(path).begun);
  EXPECT_EQ(MpiState::ReadFrom(path).ended, StatusCode::kUnavailable);
  MpiState{.begun = true}.WriteTo(path);
  EXPECT_TRUE(MpiState::ReadFrom(path).begun);
  EXPECT_FALSE(MpiState::ReadFrom(path).ended.has_value());

  // A line of which a part came over, and one that is none.
  for (const char* text : {"1", "1 2", "1 10", "x 10 .\n", "1 x ."}) {
    std::ofstream(path) << text;
    EXPECT_FALSE(MpiState::ReadFrom(path).begun) << text;
    EXPECT_FALSE(MpiState::ReadFrom(path).ended.has_value()) << text;
  }
  std::filesystem::remove(path);
}

TEST(MpiStateTest, AnotherTryHelpsWhereSomethingWasLost) {
  const MpiState nothing;
  const MpiState begun{.begun = true};
  const MpiState lost{.begun = true, .ended = StatusCode::kUnavailable};
  const MpiState fatal{.begun = true, .ended = StatusCode::kInvalidArgument};
  // What rank 0 said goes before mpirun's own codes, which also are those of
  // bad arguments and missing programs: 1, 132, 183, 213.
  for (const int code : {1, 9, 132, 183, 213}) {
    EXPECT_FALSE(AnotherTryMayHelp(code, nothing)) << code;
    EXPECT_FALSE(AnotherTryMayHelp(code, fatal)) << code;
    EXPECT_TRUE(AnotherTryMayHelp(code, begun)) << code;
    EXPECT_TRUE(AnotherTryMayHelp(code, lost)) << code;
  }
  // Signals, lost and unreachable hosts, a rank's own 75: whatever rank 0
  // thought of it.
  for (const int code : {75, 137, 139, 143, 205, 255}) {
    EXPECT_TRUE(AnotherTryMayHelp(code, nothing)) << code;
    EXPECT_TRUE(AnotherTryMayHelp(code, fatal)) << code;
  }
  EXPECT_EQ(SignalOf(137), 9);
  EXPECT_EQ(SignalOf(132), 0);
  EXPECT_EQ(SignalOf(128), 0);
  EXPECT_EQ(SignalOf(205), 0);
}

}  // namespace
}  // namespace shoal::launch
