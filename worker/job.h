#ifndef SHOAL_WORKER_JOB_H_
#define SHOAL_WORKER_JOB_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace shoal::worker {

// A job is one protobuf message, worker/job.proto; who touches its fields
// includes worker/job.pb.h in a .cc file.
class JobSpec;

// Reads a job file (YAML) and applies `overrides`, each KEY=VALUE with a dotted
// key (`cluster.servers=3`, `data.features.0.min_count=2`) and a YAML value. A
// scalar or a list replaces what the file says, a map is merged into it.
//
// Errors: kNotFound (no such file); kInvalidArgument (unknown key, wrong type,
// value out of bounds, keys that do not fit together ...). The text opens with
// `file:line: key` or `--set KEY=VALUE: key`.
StatusOr<std::unique_ptr<JobSpec>> LoadJob(
    const std::string& path, const std::vector<std::string>& overrides);

// The same from the text of a file; `file` names it in errors.
StatusOr<std::unique_ptr<JobSpec>> ParseJob(
    std::string_view text, const std::string& file,
    const std::vector<std::string>& overrides);

// Checks each value against its bounds in the schema, then the rules between
// keys. LoadJob() and ParseSerializedJob() have done so already.
// Errors: kInvalidArgument, naming the key.
Status ValidateJob(const JobSpec& job);

// For other processes: equal jobs give equal bytes.
std::string SerializeJob(const JobSpec& job);
// Errors: kInvalidArgument.
StatusOr<std::unique_ptr<JobSpec>> ParseSerializedJob(std::string_view bytes);

// The job as YAML with its defaults filled in; ParseJob() reads it back to a
// job of the same meaning.
std::string JobToYaml(const JobSpec& job);

// Whether the values of a checkpoint that job `then` wrote mean the same in job
// `now`: model, features and kinds of optimizer. Rates, penalties, data and
// cluster may differ. Errors: kFailedPrecondition, naming the first difference.
Status CheckSameModel(const JobSpec& then, const JobSpec& now);

// 16 hex digits over what makes the features of a job's examples: equal ones
// give equal columns from equal text.
std::string FeaturesDigest(const JobSpec& job);

// Where the job wants worker `worker` to compute: `devices.workers`, or else
// `device`.
const std::string& DeviceOf(const JobSpec& job, int worker);

// Every key with its type, default, allowed values and meaning; 80 columns.
std::string ExplainJob();

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_JOB_H_
