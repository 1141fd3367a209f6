#include "launch/status_board.h"

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "base/status.h"
#include "base/strcat.h"

namespace shoal::launch {
namespace {

struct Description {
  std::string_view name;
  std::string_view type;
  std::string_view help;
};

constexpr Description kMetrics[] = {
    {"shoal_ready", "gauge", "1 when the service does its part of the job."},
    {"shoal_step", "gauge", "Steps done; of a shard outside sync: pushes."},
    {"shoal_steps_planned", "gauge", "Steps of the whole training."},
    {"shoal_examples_total", "counter", "Examples trained on."},
    {"shoal_steps_stood_in_total", "counter",
     "Steps of which a backup worker's gradients came before those of the "
     "worker that it stood for."},
    {"shoal_train_loss", "gauge", "Mean loss of the last steps."},
    {"shoal_test_metric", "gauge", "The last evaluation on the test part."},
    {"shoal_checkpoint_step", "gauge", "Step of the last checkpoint."},
    {"shoal_table_rows", "gauge", "Rows of all tables of a shard."},
    {"shoal_rows_on_disk", "gauge",
     "Of shoal_table_rows, those that are on disk alone."},
    {"shoal_rows_fetched_total", "counter",
     "Rows that came from disk since the shard started."},
    {"shoal_table_bytes", "gauge", "Memory of all tables of a shard."},
    {"shoal_table_candidates", "gauge",
     "Ids that a table's admission counts, but gave no row yet."},
    {"shoal_rows_admitted_total", "counter",
     "Rows that pushes made since the shard started."},
    {"shoal_rows_evicted_total", "counter",
     "Rows that eviction dropped since the shard started."},
    {"shoal_dense_bytes", "gauge",
     "Memory of the dense variables that a worker holds, with what their "
     "optimizer and their sums need."},
    {"shoal_staleness_clocks", "histogram",
     "Outside sync, of each gradient: clocks that were missing in the values "
     "that it was computed from."},
};

void CheckKnown(std::string_view metric) {
  SHOAL_CHECK(
      std::any_of(std::begin(kMetrics), std::end(kMetrics),
                  [metric](const Description& d) { return d.name == metric; }));
}

std::string Braced(const std::string& labels) {
  return labels.empty() ? "" : StrCat("{", labels, "}");
}

std::string HistogramText(std::string_view metric, const std::string& labels,
                          const Histogram& histogram) {
  std::string text;
  int64_t up_to = 0;
  for (size_t i = 0; i < Histogram::kBuckets; ++i) {
    up_to += histogram.buckets()[i];
    const std::string bound =
        i < Histogram::kBounds.size() ? StrCat(Histogram::kBounds[i]) : "+Inf";
    text += StrCat(metric, "_bucket{", labels, labels.empty() ? "" : ",",
                   "le=\"", bound, "\"} ", up_to, "\n");
  }
  return StrCat(text, metric, "_sum", Braced(labels), " ", histogram.sum(),
                "\n", metric, "_count", Braced(labels), " ", up_to, "\n");
}

}  // namespace

void StatusBoard::SetParts(int parts) {
  const MutexLock lock(mutex_);
  parts_ = parts;
}

void StatusBoard::SetReady(int part, bool ready) {
  const MutexLock lock(mutex_);
  ready_[part] = ready;
}

bool StatusBoard::ready() const {
  const MutexLock lock(mutex_);
  return std::count_if(ready_.begin(), ready_.end(),
                       [](const auto& part) { return part.second; }) >= parts_;
}

void StatusBoard::SetStandby(bool standby) {
  const MutexLock lock(mutex_);
  standby_ = standby;
}

bool StatusBoard::standby() const {
  const MutexLock lock(mutex_);
  return standby_;
}

void StatusBoard::Set(std::string_view metric, std::string_view labels,
                      double value) {
  CheckKnown(metric);
  const MutexLock lock(mutex_);
  values_[std::string(metric)][std::string(labels)] = value;
}

void StatusBoard::Set(std::string_view metric, std::string_view labels,
                      const Histogram& histogram) {
  CheckKnown(metric);
  const MutexLock lock(mutex_);
  histograms_[std::string(metric)][std::string(labels)] = histogram;
}

std::string StatusBoard::MetricsText() const {
  const bool now_ready = ready();
  const MutexLock lock(mutex_);
  std::string text;
  for (const Description& metric : kMetrics) {
    std::map<std::string, double> values;
    if (metric.name == "shoal_ready") {
      values[""] = now_ready ? 1 : 0;
    } else if (const auto it = values_.find(metric.name); it != values_.end()) {
      values = it->second;
    }
    const auto histograms = histograms_.find(metric.name);
    if (values.empty() && histograms == histograms_.end()) {
      continue;
    }
    text += StrCat("# HELP ", metric.name, " ", metric.help, "\n# TYPE ",
                   metric.name, " ", metric.type, "\n");
    for (const auto& [labels, value] : values) {
      char number[32];
      std::snprintf(number, sizeof(number), "%.17g", value);
      text += StrCat(metric.name, Braced(labels), " ", number, "\n");
    }
    if (histograms != histograms_.end()) {
      for (const auto& [labels, histogram] : histograms->second) {
        text += HistogramText(metric.name, labels, histogram);
      }
    }
  }
  return text;
}

}  // namespace shoal::launch
