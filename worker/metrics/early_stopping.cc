#include "worker/metrics/early_stopping.h"

#include "nlohmann/json.hpp"

#include "base/strcat.h"

namespace shoal::worker {

StatusOr<bool> EarlyStopping::Add(int64_t step, const EvalResult& result) {
  if (options_.patience == 0 || step <= last_step_) {
    return false;
  }
  last_step_ = step;
  SHOAL_ASSIGN_OR_RETURN(const double value, MetricOf(result, options_.metric));
  const double sign = GreaterIsBetter(options_.metric) ? 1 : -1;
  if (!best_.has_value() || sign * (value - *best_) > options_.min_delta) {
    best_ = value;
    without_better_ = 0;
    return false;
  }
  return ++without_better_ >= options_.patience;
}

std::string EarlyStopping::Reason() const {
  return StrCat("test ", options_.metric, " was not better than ",
                best_.value_or(0), " in ", without_better_, " evaluations");
}

std::string EarlyStopping::ToJson() const {
  nlohmann::json json = {{"metric", options_.metric},
                         {"evaluations_without_better", without_better_},
                         {"step", last_step_}};
  if (best_.has_value()) {
    json["best"] = *best_;
  }
  return json.dump();
}

Status EarlyStopping::Restore(std::string_view json) {
  const nlohmann::json read = nlohmann::json::parse(json, nullptr, false);
  if (!read.is_object() || !read.contains("metric") ||
      !read["metric"].is_string() ||
      !read.contains("evaluations_without_better") ||
      !read["evaluations_without_better"].is_number_unsigned() ||
      !read.contains("step") || !read["step"].is_number_integer() ||
      (read.contains("best") && !read["best"].is_number())) {
    return InvalidArgumentError("the state of early stopping can't be read");
  }
  if (read["metric"] != options_.metric || !read.contains("best")) {
    return OkStatus();
  }
  best_ = read["best"].get<double>();
  without_better_ = read["evaluations_without_better"].get<int>();
  last_step_ = read["step"].get<int64_t>();
  return OkStatus();
}

}  // namespace shoal::worker
