// Rules about the `coordinator` of a job.
#include "base/etcd/client.h"
#include "base/strcat.h"
#include "worker/job.pb.h"
#include "worker/job_rules.h"

namespace shoal::worker {
namespace {

// Of cluster.timeout_seconds.
constexpr double kStandbySecondsMin = 6;

}  // namespace

std::optional<JobProblem> FindCoordinatorProblem(const JobSpec& job) {
  if (job.coordinator().empty()) {
    return std::nullopt;
  }
  const Status status = EtcdAddress::Parse(job.coordinator()).status();
  if (!status.ok()) {
    return JobProblem{"coordinator", status.message()};
  }
  if (job.cluster().timeout_seconds() < kStandbySecondsMin) {
    return JobProblem{
        "cluster.timeout_seconds",
        StrCat(job.cluster().timeout_seconds(),
               " leaves no time for another coordinator in place of a lost "
               "one, which keeps its place in etcd for 2 s; with "
               "`coordinator` it is at least ",
               kStandbySecondsMin)};
  }
  return std::nullopt;
}

}  // namespace shoal::worker
