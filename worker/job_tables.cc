// Rules about the `tables` of a job.
#include <algorithm>
#include <string>
#include <vector>

#include <google/protobuf/descriptor.h>

#include "base/strcat.h"
#include "worker/job.pb.h"
#include "worker/job_rules.h"
#include "worker/job_schema.h"

namespace shoal::worker {
namespace {

using google::protobuf::FieldDescriptor;
using Problem = std::optional<JobProblem>;

// Whether `key` of `message` is given and says something else than without it.
// (A checkpoint's job may have its defaults filled in.)
template <typename Message>
bool Says(const Message& message, const char* key) {
  const FieldDescriptor& field = *Message::descriptor()->FindFieldByName(key);
  return message.GetReflection()->HasField(message, &field) &&
         !SaysTheDefault(message, field);
}

Problem CheckRowRules(const TableSpec& table, const std::string& key) {
  const AdmissionSpec& admission = table.admission();
  const EvictionSpec& eviction = table.eviction();
  if (admission.probability() == 0) {
    return JobProblem{key + ".admission.probability",
                      "0 never makes a row, so the table would learn nothing; "
                      "give more"};
  }
  if (admission.min_count() > 1 && admission.probability() < 1) {
    return JobProblem{key + ".admission.probability",
                      "rows are made by count or by chance; leave out "
                      "min_count or probability"};
  }
  if (Says(admission, "candidate_bytes") && admission.min_count() == 1) {
    return JobProblem{key + ".admission.candidate_bytes",
                      "it is for the counts of min_count, which is 1; give "
                      "more, or leave it out"};
  }
  if (Says(eviction, "policy") && eviction.row_budget_bytes() == 0) {
    return JobProblem{key + ".eviction.policy",
                      "it says which rows go when they need more than "
                      "row_budget_bytes; give that, or leave it out"};
  }
  return std::nullopt;
}

}  // namespace

Problem FindTableProblem(const JobSpec& job) {
  const FieldDescriptor* l2[] = {
      ModelSpec::descriptor()->FindFieldByName("l2_linear"),
      ModelSpec::descriptor()->FindFieldByName("l2_embedding")};
  bool spills = false;
  for (const auto& [name, table] : job.tables()) {
    // A table has the penalty that is called after it.
    const std::vector<std::string> kinds =
        ReadBy(*l2[name == "linear" ? 0 : 1]);
    const std::string key = StrCat("tables.", name);
    const bool known = std::find(kinds.begin(), kinds.end(),
                                 job.model().kind()) != kinds.end();
    if (!known && table.ByteSizeLong() > 0) {
      return JobProblem{key, StrCat(job.model().kind(), " has no such table (",
                                    JoinOr(kinds), " have); leave it out")};
    }
    const std::string init = table.has_init() || name != "linear"
                                 ? table.init()
                                 : std::string("zero");
    if (table.has_init_scale() && init == "zero") {
      return JobProblem{key + ".init_scale",
                        "the first values are zero; set init to uniform or "
                        "normal, or leave the scale out"};
    }
    spills = spills || table.tier() == "disk";
    if (Problem problem = CheckRowRules(table, key); problem.has_value()) {
      return problem;
    }
  }
  if (spills && job.cluster().memory_per_server() == 0) {
    return JobProblem{"cluster.memory_per_server",
                      "a table has tier disk, for its rows beyond this, so it "
                      "can't be 0; give the bytes that a server may use"};
  }
  if (!spills && Says(job.cluster(), "spill_folder")) {
    return JobProblem{"cluster.spill_folder",
                      "no table has rows there; set tables.embedding.tier to "
                      "disk, or leave it out"};
  }
  return std::nullopt;
}

}  // namespace shoal::worker
