#ifndef SHOAL_WORKER_JOB_RULES_H_
#define SHOAL_WORKER_JOB_RULES_H_

#include <optional>
#include <string>

namespace shoal::worker {

class JobSpec;

// What is wrong with a job: "4 is more than ..." about "cluster.workers".
struct JobProblem {
  std::string key;
  std::string text;
};

// The first value outside its bounds, else the first broken rule between keys.
std::optional<JobProblem> FindJobProblem(const JobSpec& job);
// Of those, the ones about processes, their devices and their hosts.
std::optional<JobProblem> FindClusterProblem(const JobSpec& job);
// And about `tables`.
std::optional<JobProblem> FindTableProblem(const JobSpec& job);
// And about what needs the gradients of a whole step at once.
std::optional<JobProblem> FindGlobalProblem(const JobSpec& job);
// And about coordinators that keep their state in etcd.
std::optional<JobProblem> FindCoordinatorProblem(const JobSpec& job);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_JOB_RULES_H_
