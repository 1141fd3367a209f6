#include "worker/report/metrics_json.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include <nlohmann/json.hpp>

namespace shoal::worker {
namespace {

using nlohmann::json;

TrainingSummary BinarySummary() {
  TrainingSummary summary;
  summary.job = "flights";
  summary.examples = 538840;
  summary.seconds = 4;
  summary.steps = 1053;
  summary.epochs = 2;
  summary.bad_rows = 3;
  summary.train_loss = 0.375;
  EvalResult test;
  test.count = 67355;
  test.auc = 0.8125;
  test.log_loss = 0.375;
  test.accuracy = 0.85;
  summary.test = test;
  summary.history = {{.step = 527, .epoch = 1, .seconds = 2, .result = test},
                     {.step = 1053, .epoch = 2, .seconds = 4, .result = test}};
  summary.losses = {{100, 0.5}, {200, 0.25}};
  summary.digest = "0123456789abcdef";
  return summary;
}

TEST(MetricsJsonTest, HasWhatTheDocumentsPromise) {
  const json read = json::parse(MetricsJson(BinarySummary()));
  EXPECT_EQ(read["examples"], 538840);
  EXPECT_EQ(read["seconds"], 4.0);
  EXPECT_EQ(read["examples_per_second"], 134710.0);
  EXPECT_EQ(read["steps"], 1053);
  EXPECT_EQ(read["epochs"], 2.0);
  EXPECT_EQ(read["bad_rows"], 3);
  EXPECT_EQ(read["train_loss"], 0.375);
  EXPECT_EQ(read["test"]["auc"], 0.8125);
  EXPECT_EQ(read["test"]["log_loss"], 0.375);
  EXPECT_EQ(read["test"]["accuracy"], 0.85);
  EXPECT_FALSE(read["test"].contains("rmse"));
  EXPECT_EQ(read["history"].size(), 2U);
  EXPECT_EQ(read["history"][0]["step"], 527);
  EXPECT_EQ(read["history"][0]["test"]["auc"], 0.8125);
  EXPECT_EQ(read["losses"][1]["loss"], 0.25);
  EXPECT_EQ(read["digest"], "0123456789abcdef");
  EXPECT_FALSE(read.contains("checkpoint"));
}

TEST(MetricsJsonTest, HasHowStaleGradientsWere) {
  TrainingSummary summary = BinarySummary();
  EXPECT_FALSE(json::parse(MetricsJson(summary)).contains("staleness"));
  for (const int64_t clocks : {0, 0, 3, 2000}) {
    summary.staleness.Add(clocks);
  }
  const json staleness = json::parse(MetricsJson(summary))["staleness"];
  EXPECT_EQ(staleness["gradients"], 4);
  EXPECT_EQ(staleness["max"], 2000);
  EXPECT_EQ(staleness["mean"], 500.75);
  ASSERT_EQ(staleness["buckets"].size(), 3U);
  EXPECT_EQ(staleness["buckets"][1]["at_most"], 3);
  EXPECT_EQ(staleness["buckets"][1]["gradients"], 1);
  EXPECT_FALSE(staleness["buckets"][2].contains("at_most"));
}

TEST(MetricsJsonTest, NothingTrainedIsStillJson) {
  const json read = json::parse(MetricsJson({}));
  EXPECT_EQ(read["examples"], 0);
  EXPECT_EQ(read["examples_per_second"], 0.0);
  EXPECT_FALSE(read.contains("test"));
  EXPECT_FALSE(read.contains("train_loss"));
}

TEST(MetricsJsonTest, NumbersThatAreNoneAndBytesThatAreNoText) {
  TrainingSummary summary;
  summary.train_loss = std::nan("");
  summary.losses = {{1, INFINITY}};
  summary.checkpoint = "/tmp/\xff\"x\"";
  const json read = json::parse(MetricsJson(summary));
  EXPECT_TRUE(read["train_loss"].is_null());
  EXPECT_TRUE(read["losses"][0]["loss"].is_null());
  EXPECT_EQ(read["checkpoint"], "/tmp/\xef\xbf\xbd\"x\"");
}

TEST(MetricsJsonTest, IsPublishedWholeOrNotAtAll) {
  MemoryStorage storage;
  ASSERT_TRUE(
      WriteMetricsJson(storage, "out/metrics.json", BinarySummary()).ok());
  const StatusOr<Buffer> file = storage.ReadFile("out/metrics.json");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->text(), MetricsJson(BinarySummary()));

  MemoryStorage full;
  full.SetCapacity(100);
  EXPECT_EQ(WriteMetricsJson(full, "metrics.json", BinarySummary()).code(),
            StatusCode::kResourceExhausted);
  EXPECT_FALSE(full.ReadFile("metrics.json").ok());
}

}  // namespace
}  // namespace shoal::worker
