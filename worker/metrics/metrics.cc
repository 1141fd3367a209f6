#include "worker/metrics/metrics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "base/strcat.h"

namespace shoal::worker {
namespace {

constexpr double kClip = 1e-15;

// Neumaier's sum: an error far below the last place of what is shown. Its bits
// depend on the order, so what goes in is sorted.
class CompensatedSum {
 public:
  void Add(double value) {
    const double sum = sum_ + value;
    error_ += std::abs(sum_) >= std::abs(value) ? (sum_ - sum) + value
                                                : (value - sum) + sum_;
    sum_ = sum;
  }
  double value() const { return sum_ + error_; }

 private:
  double sum_ = 0;
  double error_ = 0;
};

double MeanOfSorted(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  CompensatedSum sum;
  for (const double value : values) {
    sum.Add(value);
  }
  return sum.value() / static_cast<double>(values.size());
}

double ClippedLogLoss(double probability) {
  return -std::log(std::clamp(probability, kClip, 1 - kClip));
}

Status BadValue(std::string_view what, size_t row, float found,
                std::string_view expected) {
  return InvalidArgumentError(StrCat("evaluation: ", what, " of row ", row,
                                     " is ", found, ", expected ", expected));
}

Status CheckSizes(size_t num_scores, size_t num_labels, int64_t width) {
  if (num_scores != num_labels * static_cast<size_t>(width)) {
    return InvalidArgumentError(StrCat("evaluation: ", num_scores,
                                       " scores for ", num_labels,
                                       " labels, expected ", width, " each"));
  }
  return OkStatus();
}

bool IsProbability(float value) { return value >= 0 && value <= 1; }  // no NaN

// A probability and a label of 0 or 1 in 32 bits, ordered by the probability:
// the bits of floats that are not negative rise with their values, and the sign
// bit is free for the label.
uint32_t PackRow(float probability, float label) {
  return (std::bit_cast<uint32_t>(probability + 0.0F) << 1) |
         (label == 1 ? 1U : 0U);  // + 0 turns -0 into 0
}
float ProbabilityOf(uint32_t row) { return std::bit_cast<float>(row >> 1); }
bool IsPositive(uint32_t row) { return (row & 1U) != 0; }

EvalResult EvaluateSortedRows(const std::vector<uint32_t>& rows) {
  int64_t positives = 0;
  int64_t negatives = 0;
  int64_t correct = 0;
  // Twice the number of (positive, negative) pairs in order, a tie being half.
  unsigned __int128 twice_ordered = 0;
  CompensatedSum loss;
  for (size_t begin = 0; begin < rows.size();) {
    int64_t by_label[2] = {0, 0};
    size_t end = begin;
    while (end < rows.size() && rows[end] >> 1 == rows[begin] >> 1) {
      ++by_label[IsPositive(rows[end]) ? 1 : 0];
      ++end;
    }
    const double p = ProbabilityOf(rows[begin]);
    // Of rows that tie, so that a sum of equal terms is not rounded each time.
    if (by_label[0] > 0) {
      loss.Add(static_cast<double>(by_label[0]) * ClippedLogLoss(1 - p));
    }
    if (by_label[1] > 0) {
      loss.Add(static_cast<double>(by_label[1]) * ClippedLogLoss(p));
    }
    correct += by_label[p > 0.5 ? 1 : 0];
    twice_ordered +=
        static_cast<unsigned __int128>(by_label[1]) *
        static_cast<unsigned __int128>(2 * negatives + by_label[0]);
    negatives += by_label[0];
    positives += by_label[1];
    begin = end;
  }
  const double count = static_cast<double>(rows.size());
  EvalResult result;
  result.count = static_cast<int64_t>(rows.size());
  result.log_loss = loss.value() / count;
  result.accuracy = static_cast<double>(correct) / count;
  if (positives > 0 && negatives > 0) {
    const auto pairs = static_cast<unsigned __int128>(positives) *
                       static_cast<unsigned __int128>(negatives);
    result.auc =
        static_cast<double>(twice_ordered) / (2 * static_cast<double>(pairs));
  }
  return result;
}

}  // namespace

std::vector<std::pair<std::string_view, double>> NamedMetrics(
    const EvalResult& result) {
  std::vector<std::pair<std::string_view, double>> named;
  const auto add = [&](std::string_view name,
                       const std::optional<double>& value) {
    if (value.has_value()) {
      named.emplace_back(name, *value);
    }
  };
  add("auc", result.auc);
  add("log_loss", result.log_loss);
  add("accuracy", result.accuracy);
  add("rmse", result.rmse);
  return named;
}

StatusOr<double> MetricOf(const EvalResult& result, std::string_view name) {
  std::string known;
  for (const auto& [key, value] : NamedMetrics(result)) {
    if (key == name) {
      return value;
    }
    known += StrCat(known.empty() ? "" : ", ", key);
  }
  return NotFoundError(StrCat("the evaluation of ", result.count,
                              " examples has no metric '", name,
                              "'; it has: ", known.empty() ? "none" : known));
}

bool GreaterIsBetter(std::string_view name) {
  return name == "auc" || name == "accuracy";
}

StatusOr<EvalResult> EvaluateBinary(std::span<const float> scores,
                                    std::span<const float> labels) {
  SHOAL_RETURN_IF_ERROR(CheckSizes(scores.size(), labels.size(), 1));
  if (labels.empty()) {
    return EvalResult();
  }
  std::vector<uint32_t> rows(labels.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!IsProbability(scores[i])) {
      return BadValue("score", i, scores[i], "a probability in [0, 1]");
    }
    if (labels[i] != 0 && labels[i] != 1) {
      return BadValue("label", i, labels[i], "0 or 1");
    }
    rows[i] = PackRow(scores[i], labels[i]);
  }
  std::sort(rows.begin(), rows.end());
  return EvaluateSortedRows(rows);
}

StatusOr<EvalResult> EvaluateRegression(std::span<const float> scores,
                                        std::span<const float> labels) {
  SHOAL_RETURN_IF_ERROR(CheckSizes(scores.size(), labels.size(), 1));
  if (labels.empty()) {
    return EvalResult();
  }
  std::vector<double> squares(labels.size());
  for (size_t i = 0; i < squares.size(); ++i) {
    if (!std::isfinite(scores[i])) {
      return BadValue("score", i, scores[i], "a finite number");
    }
    if (!std::isfinite(labels[i])) {
      return BadValue("label", i, labels[i], "a finite number");
    }
    const double error =
        static_cast<double>(scores[i]) - static_cast<double>(labels[i]);
    squares[i] = error * error;
  }
  EvalResult result;
  result.count = static_cast<int64_t>(labels.size());
  result.rmse = std::sqrt(MeanOfSorted(squares));
  return result;
}

StatusOr<EvalResult> EvaluateMulticlass(std::span<const float> scores,
                                        std::span<const float> labels,
                                        int64_t classes) {
  if (classes < 2) {
    return InvalidArgumentError(
        StrCat("evaluation: ", classes, " classes, expected 2 or more"));
  }
  SHOAL_RETURN_IF_ERROR(CheckSizes(scores.size(), labels.size(), classes));
  if (labels.empty()) {
    return EvalResult();
  }
  const auto width = static_cast<size_t>(classes);
  int64_t correct = 0;
  std::vector<double> losses(labels.size());
  for (size_t i = 0; i < losses.size(); ++i) {
    const std::span<const float> row = scores.subspan(i * width, width);
    const auto bad = std::find_if_not(row.begin(), row.end(), &IsProbability);
    if (bad != row.end()) {
      return BadValue(StrCat("score ", bad - row.begin()), i, *bad,
                      "a probability in [0, 1]");
    }
    const float label = labels[i];
    if (!(label >= 0 && label < static_cast<float>(classes)) ||
        std::floor(label) != label) {
      return BadValue("label", i, label,
                      StrCat("a whole number in [0, ", classes, ")"));
    }
    const auto wanted = static_cast<size_t>(label);
    losses[i] = ClippedLogLoss(row[wanted]);
    const auto guess = std::max_element(row.begin(), row.end()) - row.begin();
    correct += static_cast<size_t>(guess) == wanted ? 1 : 0;
  }
  EvalResult result;
  result.count = static_cast<int64_t>(labels.size());
  result.log_loss = MeanOfSorted(losses);
  result.accuracy =
      static_cast<double>(correct) / static_cast<double>(labels.size());
  return result;
}

StatusOr<EvalResult> Evaluate(std::string_view task, int64_t classes,
                              std::span<const float> scores,
                              std::span<const float> labels) {
  if (task == "binary") {
    return EvaluateBinary(scores, labels);
  }
  if (task == "regression") {
    return EvaluateRegression(scores, labels);
  }
  if (task == "multiclass") {
    return EvaluateMulticlass(scores, labels, classes);
  }
  return NotFoundError(StrCat("no task is called '", task,
                              "'; there are: binary, regression, multiclass"));
}

}  // namespace shoal::worker
