#ifndef SHOAL_WORKER_MODE_CHANGE_H_
#define SHOAL_WORKER_MODE_CHANGE_H_

#include <string>

#include "base/status.h"
#include "ps/model_spec.h"

namespace shoal::worker {

class JobSpec;

// The plan of a job that runs by `now` with other modes: `tables` and `dense`
// are what consistency.tables and consistency.dense may be, but for `auto`;
// "bounded:2" names the staleness too. An empty one stays as it is.
//
// Errors: kInvalidArgument (no such mode; or the job's file would be refused
// with them, by the rule that it names), kFailedPrecondition (dense variables
// would move between workers and servers).
StatusOr<ps::ClusterPlan> PlanWithModes(const JobSpec& job,
                                        const ps::ModelSpec& model,
                                        const ps::ClusterPlan& now,
                                        const std::string& tables,
                                        const std::string& dense);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_MODE_CHANGE_H_
