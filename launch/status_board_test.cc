#include "launch/status_board.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal::launch {
namespace {

TEST(StatusBoardTest, ReadyWhenAllPartsAre) {
  StatusBoard board;
  EXPECT_FALSE(board.ready());
  board.SetParts(2);
  board.SetReady(0, true);
  board.SetReady(0, true);
  EXPECT_FALSE(board.ready()) << "one part is not two";
  board.SetReady(1, true);
  EXPECT_TRUE(board.ready());
  board.SetReady(0, false);
  EXPECT_FALSE(board.ready());
}

TEST(StatusBoardTest, MetricsAreInPrometheusTextFormat) {
  StatusBoard board;
  board.Set("shoal_step", "shard=\"1\"", 3);
  board.Set("shoal_step", "shard=\"0\"", 2);
  board.Set("shoal_step", "shard=\"0\"", 4);
  board.Set("shoal_train_loss", "", 0.1);
  EXPECT_EQ(board.MetricsText(),
            "# HELP shoal_ready 1 when the service does its part of the job.\n"
            "# TYPE shoal_ready gauge\n"
            "shoal_ready 0\n"
            "# HELP shoal_step Steps done; of a shard outside sync: pushes.\n"
            "# TYPE shoal_step gauge\n"
            "shoal_step{shard=\"0\"} 4\n"
            "shoal_step{shard=\"1\"} 3\n"
            "# HELP shoal_train_loss Mean loss of the last steps.\n"
            "# TYPE shoal_train_loss gauge\n"
            "shoal_train_loss 0.10000000000000001\n");
}

TEST(StatusBoardTest, HistogramsCountUpToEachBound) {
  Histogram histogram;
  for (const int64_t value : {0, 0, 3, 5000}) {
    histogram.Add(value);
  }
  StatusBoard board;
  board.Set("shoal_staleness_clocks", "", histogram);
  const std::string text = board.MetricsText();
  EXPECT_THAT(text,
              testing::HasSubstr("# TYPE shoal_staleness_clocks "
                                 "histogram\n"
                                 "shoal_staleness_clocks_bucket{le=\"0\"} "
                                 "2\n"));
  EXPECT_THAT(
      text, testing::HasSubstr("shoal_staleness_clocks_bucket{le=\"2\"} 2\n"
                               "shoal_staleness_clocks_bucket{le=\"3\"} 3\n"));
  EXPECT_THAT(text,
              testing::EndsWith("shoal_staleness_clocks_bucket{le=\"1024\"} 3\n"
                                "shoal_staleness_clocks_bucket{le=\"+Inf\"} 4\n"
                                "shoal_staleness_clocks_sum 5003\n"
                                "shoal_staleness_clocks_count 4\n"));
  board.Set("shoal_staleness_clocks", "shard=\"1\"", histogram);
  EXPECT_THAT(board.MetricsText(),
              testing::HasSubstr(
                  "shoal_staleness_clocks_bucket{shard=\"1\",le=\"0\"} 2\n"));
}

}  // namespace
}  // namespace shoal::launch
