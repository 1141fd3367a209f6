#ifndef SHOAL_WORKER_METRICS_METRICS_H_
#define SHOAL_WORKER_METRICS_METRICS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace shoal::worker {

// How good a model is on `count` examples. What does not apply to the task, or
// is not defined for these labels, is absent.
struct EvalResult {
  int64_t count = 0;
  std::optional<double> auc;
  std::optional<double> log_loss;
  std::optional<double> accuracy;
  std::optional<double> rmse;
};

// The metrics there are, by the names that jobs and files use: "auc",
// "log_loss", "accuracy", "rmse".
std::vector<std::pair<std::string_view, double>> NamedMetrics(
    const EvalResult& result);

// Errors: kNotFound (no such name, or it is absent).
StatusOr<double> MetricOf(const EvalResult& result, std::string_view name);

// True for "auc" and "accuracy", whose greater values are better.
bool GreaterIsBetter(std::string_view name);

// The functions below see all examples of an evaluation at once, whoever
// computed them: parts are joined by appending. The result is a function of the
// set of rows, bit for bit: the order of rows does not matter. No rows give a
// count of zero and nothing else.
//
// Errors: kInvalidArgument (sizes that disagree, a score or label that is not
// finite or not one that the task allows; the row and the value are named).

// scores [n]: probabilities in [0, 1]; labels [n]: 0 or 1.
//   auc       the exact chance that a positive scores above a negative, ties
//             counting half; absent unless there are both
//   log_loss  the mean of -log p(label), p clipped to [1e-15, 1 - 1e-15]
//   accuracy  share of rows with (score > 0.5) == label
StatusOr<EvalResult> EvaluateBinary(std::span<const float> scores,
                                    std::span<const float> labels);

// scores [n], labels [n]: any finite numbers. rmse only.
StatusOr<EvalResult> EvaluateRegression(std::span<const float> scores,
                                        std::span<const float> labels);

// scores [n, classes]: probabilities in [0, 1]; labels [n]: 0 .. classes - 1.
// log_loss as above; accuracy: the first of the greatest scores is the label's.
StatusOr<EvalResult> EvaluateMulticlass(std::span<const float> scores,
                                        std::span<const float> labels,
                                        int64_t classes);

// By the job's name of the task: "binary", "regression", "multiclass" (the one
// that uses `classes`). Errors: kNotFound (no such task) too.
StatusOr<EvalResult> Evaluate(std::string_view task, int64_t classes,
                              std::span<const float> scores,
                              std::span<const float> labels);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_METRICS_METRICS_H_
