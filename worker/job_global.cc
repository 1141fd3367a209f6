// Rules about what needs the gradients of a whole step at once: lamb, lars,
// train.clip_global_norm and train.loss_scale; and about what has a place only
// where steps are not shared: dense.delay_compensation.
#include <algorithm>
#include <string>
#include <vector>

#include "base/strcat.h"
#include "worker/consistency.h"
#include "worker/job.pb.h"
#include "worker/job_rules.h"
#include "worker/job_schema.h"

namespace shoal::worker {
namespace {

using Problem = std::optional<JobProblem>;

bool IsLayerwise(const std::string& kind) {
  return kind == "lamb" || kind == "lars";
}

Problem CheckLayerwise(const JobSpec& job) {
  for (const char* name : {"linear", "embedding"}) {
    const auto table = job.tables().find(name);
    const bool own =
        table != job.tables().end() && table->second.has_optimizer();
    if (own && IsLayerwise(table->second.optimizer().kind())) {
      return JobProblem{
          StrCat("tables.", name, ".optimizer.kind"),
          StrCat("'", table->second.optimizer().kind(),
                 "' goes by the norms of whole variables, and a step knows "
                 "few rows of a table; use it in dense, and adam or adagrad "
                 "here")};
    }
    // A table is called after the penalty that its models know.
    const std::vector<std::string> models =
        ReadBy(*ModelSpec::descriptor()->FindFieldByName(StrCat("l2_", name)));
    const bool has = std::find(models.begin(), models.end(),
                               job.model().kind()) != models.end();
    if (IsLayerwise(job.dense().kind()) && has && !own) {
      return JobProblem{
          "dense.kind",
          StrCat("'", job.dense().kind(), "' is not for tables, and table ",
                 name,
                 " would have it too; give that an optimizer of its own "
                 "in tables.",
                 name, ".optimizer")};
    }
  }
  if (!IsLayerwise(job.dense().kind())) {
    return std::nullopt;
  }
  if (job.dense().clip_value() > 0) {
    return JobProblem{"dense.clip_value",
                      StrCat(job.dense().kind(),
                             ": its steps go by norms, not by the size of "
                             "elements; leave it out")};
  }
  if (job.train().clip_global_norm() > 0) {
    return JobProblem{
        "train.clip_global_norm",
        StrCat("dense.kind ", job.dense().kind(),
               " needs its gradients before their norm is known, and bounds "
               "its steps itself; leave it out")};
  }
  return std::nullopt;
}

Problem CheckLossScale(const LossScaleSpec& scale) {
  const std::string key = "train.loss_scale";
  if (scale.growth_factor() <= 1) {
    return JobProblem{key + ".growth_factor", "1 never grows; give more"};
  }
  if (scale.backoff_factor() <= 0 || scale.backoff_factor() >= 1) {
    return JobProblem{key + ".backoff_factor",
                      StrCat(YamlNumber(scale.backoff_factor()),
                             " does not lower a scale; give more than 0 and "
                             "less than 1")};
  }
  return std::nullopt;
}

Problem CheckDelay(const JobSpec& job) {
  for (const auto& [name, table] : job.tables()) {
    if (table.optimizer().delay_compensation() > 0) {
      return JobProblem{
          StrCat("tables.", name, ".optimizer.delay_compensation"),
          "it is for dense variables, whose values go with a push; leave it "
          "out, or give it in dense"};
    }
  }
  const std::string dense = DenseText(job.consistency());
  if (job.dense().delay_compensation() > 0 && dense != "async" &&
      dense != "bounded") {
    return JobProblem{
        "dense.delay_compensation",
        StrCat("dense variables are in ", dense,
               ", where every gradient is of the values that it changes, so "
               "that no delay is to be compensated; set consistency.mode to "
               "async or bounded, or leave it out")};
  }
  if (job.dense().delay_compensation() == 0 && job.dense().has_delay_decay() &&
      !SaysTheDefault(
          job.dense(),
          *OptimizerSpec::descriptor()->FindFieldByName("delay_decay"))) {
    return JobProblem{"dense.delay_decay",
                      "it is for delay_compensation, which is 0; give that "
                      "too, or leave it out"};
  }
  return std::nullopt;
}

}  // namespace

Problem FindGlobalProblem(const JobSpec& job) {
  if (Problem problem = CheckDelay(job); problem.has_value()) {
    return problem;
  }
  if (Problem problem = CheckLayerwise(job); problem.has_value()) {
    return problem;
  }
  if (Problem problem = CheckLossScale(job.train().loss_scale());
      problem.has_value()) {
    return problem;
  }
  const std::string key = GlobalKey(job);
  const std::string tables = TablesText(job.consistency());
  const std::string dense = DenseText(job.consistency());
  if (!key.empty() &&
      (tables != "sync" || (dense != "sync" && dense != "auto"))) {
    const char* other = key == "dense.kind" ? "use adam here"
                        : key == "train.loss_scale.kind"
                            ? "leave it out"
                            : "bound each push by "
                              "dense.clip_value "
                              "and tables.NAME."
                              "optimizer.clip_norm";
    return JobProblem{
        key,
        StrCat("it needs all gradients of a step at once, which the "
               "servers have in sync alone, but consistency has tables in ",
               tables, " and dense variables in ", dense,
               "; set consistency.mode to sync, or ", other)};
  }
  return std::nullopt;
}

}  // namespace shoal::worker
