#ifndef SHOAL_WORKER_METRICS_EARLY_STOPPING_H_
#define SHOAL_WORKER_METRICS_EARLY_STOPPING_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "worker/metrics/metrics.h"

namespace shoal::worker {

// Ends a training whose test metric no longer improves. Thread-compatible.
class EarlyStopping {
 public:
  struct Options {
    std::string metric = "auc";  // a name of NamedMetrics()
    int patience = 0;            // evaluations without a better one; 0: never
    double min_delta = 0;        // what counts as better
  };

  explicit EarlyStopping(Options options) : options_(std::move(options)) {}

  // Takes the evaluation at `step`; whether the training is to end. One that it
  // has taken already, before a restore, does not count again.
  // Errors: those of MetricOf().
  StatusOr<bool> Add(int64_t step, const EvalResult& result);

  // "test auc was not better than 0.8 in 3 evaluations".
  std::string Reason() const;

  // What a training that goes on from a checkpoint must know.
  std::string ToJson() const;
  // Of a training that watched another metric nothing is taken.
  // Errors: kInvalidArgument (not ToJson()'s).
  Status Restore(std::string_view json);

 private:
  Options options_;
  std::optional<double> best_;
  int without_better_ = 0;
  int64_t last_step_ = -1;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_METRICS_EARLY_STOPPING_H_
