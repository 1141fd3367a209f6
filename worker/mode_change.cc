#include "worker/mode_change.h"

#include <charconv>
#include <cstdint>
#include <optional>

#include "base/strcat.h"
#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/open_worker.h"

namespace shoal::worker {
namespace {

constexpr char kAllReduce[] = "allreduce";

struct NamedMode {
  std::string name;
  std::optional<int32_t> staleness;
};

StatusOr<NamedMode> ParseMode(const std::string& text) {
  const size_t colon = text.find(':');
  NamedMode mode{.name = text.substr(0, colon)};
  const bool known = mode.name == "sync" || mode.name == "bounded" ||
                     mode.name == "async" || mode.name == kAllReduce;
  bool ok = known;
  if (known && colon != std::string::npos) {
    int32_t staleness = -1;
    const char* const end = text.data() + text.size();
    const auto [at, error] =
        std::from_chars(text.data() + colon + 1, end, staleness);
    ok = mode.name == "bounded" && error == std::errc() && at == end &&
         staleness >= 0;
    mode.staleness = staleness;
  }
  if (!ok) {
    return InvalidArgumentError(
        StrCat("'", text.substr(0, 100),
               "' is no mode; give sync, bounded, bounded:CLOCKS or async"));
  }
  return mode;
}

std::string NameOf(ps::Mode mode) {
  return mode == ps::Mode::kSync      ? "sync"
         : mode == ps::Mode::kBounded ? "bounded"
                                      : "async";
}

}  // namespace

StatusOr<ps::ClusterPlan> PlanWithModes(const JobSpec& job,
                                        const ps::ModelSpec& model,
                                        const ps::ClusterPlan& now,
                                        const std::string& tables,
                                        const std::string& dense) {
  const std::string is_now = NameOf(now.mode);
  const std::string dense_now = now.dense_on_workers() ? kAllReduce : is_now;
  SHOAL_ASSIGN_OR_RETURN(const NamedMode of_tables,
                         ParseMode(tables.empty() ? is_now : tables));
  SHOAL_ASSIGN_OR_RETURN(const NamedMode of_dense,
                         ParseMode(dense.empty() ? dense_now : dense));
  if (of_tables.name == kAllReduce) {
    return InvalidArgumentError(
        "tables are on the servers and are not reduced; give sync, bounded or "
        "async");
  }
  if ((of_dense.name == kAllReduce) != now.dense_on_workers()) {
    return FailedPreconditionError(StrCat(
        "the dense variables are on the ",
        now.dense_on_workers() ? "workers (consistency.dense: allreduce)"
                               : "servers",
        " for as long as the job runs; save a checkpoint and start it again "
        "with consistency.dense: ",
        of_dense.name));
  }
  if (of_tables.staleness.has_value() && of_dense.staleness.has_value() &&
      of_tables.staleness != of_dense.staleness) {
    return InvalidArgumentError(StrCat(
        "a job has one staleness, but tables are "
        "to have ",
        *of_tables.staleness, " and dense variables ", *of_dense.staleness));
  }
  JobSpec changed = job;
  ConsistencySpec& consistency = *changed.mutable_consistency();
  consistency.set_tables(of_tables.name);
  consistency.set_dense(of_dense.name);
  const auto staleness = of_tables.staleness.has_value() ? of_tables.staleness
                                                         : of_dense.staleness;
  if (staleness.has_value()) {
    consistency.set_staleness(*staleness);
  } else if (of_tables.name != "bounded") {
    consistency.clear_staleness();
  } else if (now.mode == ps::Mode::kBounded) {
    consistency.set_staleness(static_cast<int32_t>(now.staleness));
  }
  SHOAL_RETURN_IF_ERROR(
      ValidateJob(changed).WithPrefix("a job file that says so is refused"));
  return MakeClusterPlan(changed, model);
}

}  // namespace shoal::worker
