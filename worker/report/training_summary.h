#ifndef SHOAL_WORKER_REPORT_TRAINING_SUMMARY_H_
#define SHOAL_WORKER_REPORT_TRAINING_SUMMARY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/histogram.h"
#include "worker/metrics/metrics.h"

namespace shoal::worker {

// The mean loss of the steps up to and including `step` since the point before.
struct LossPoint {
  int64_t step = 0;
  double loss = 0;
};

// One evaluation of the test part.
struct EvalPoint {
  int64_t step = 0;
  double epoch = 0;    // epochs trained by then
  double seconds = 0;  // since training started
  EvalResult result;
};

// What a finished (or stopped) training did. metrics.json and report.html both
// tell it.
struct TrainingSummary {
  using Rows = std::vector<std::pair<std::string, std::string>>;

  std::string job;      // its name
  std::string model;    // "deepfm"
  std::string task;     // "binary"
  std::string mode;     // "sync", of the tables
  std::string dense;    // "allreduce"; empty: as `mode`
  std::string started;  // wall time as people read it, or empty
  std::string outcome;  // "finished", "stopped early: ...", or empty

  int64_t examples = 0;  // trained on, those of repeated epochs counted again
  int64_t steps = 0;
  int64_t steps_per_epoch = 0;  // 0: not known
  double epochs = 0;
  double seconds = 0;  // of training, without evaluations and checkpoints
  int64_t bad_rows = 0;

  // Of gradients outside sync, in clocks; see ps/staleness.h.
  Histogram staleness;
  std::optional<double> train_loss;  // of the last steps
  std::optional<EvalResult> test;    // of the final model
  std::vector<LossPoint> losses;     // by rising step
  std::vector<EvalPoint> history;    // by rising step

  std::string digest;      // of the final checkpoint, or empty
  std::string checkpoint;  // its folder, or empty
  Rows cluster;            // "servers" -> "2", for the report
  Rows timings;            // "start" -> "0.8 s", for the report
  std::string job_yaml;    // with defaults filled in, or empty

  // 0 when nothing was trained or no time passed.
  double examples_per_second() const {
    return seconds > 0 ? static_cast<double>(examples) / seconds : 0;
  }
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_REPORT_TRAINING_SUMMARY_H_
