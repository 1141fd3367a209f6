#ifndef SHOAL_WORKER_JOB_YAML_H_
#define SHOAL_WORKER_JOB_YAML_H_

#include <map>
#include <string>
#include <string_view>

#include "base/status.h"

namespace shoal::worker {

class JobSpec;

// The most bytes that a job file may have.
inline constexpr size_t kJobBytesMax = size_t{1} << 20;

// Where each key of a job was given: "job.yaml:3" or "--set seed=2".
class JobLocations {
 public:
  void Set(const std::string& key, const std::string& where);
  // Forgets `key` and all below it.
  void Erase(const std::string& key);
  // Of the key, else of what it lies in; empty if that was not given either.
  std::string Find(std::string key) const;

 private:
  std::map<std::string, std::string> where_;
};

// Reads YAML into `job`: names and types are checked, bounds are not (see
// ValidateJob()). Errors: kInvalidArgument, opening with file and line.
Status ReadJobYaml(std::string_view text, const std::string& file, JobSpec& job,
                   JobLocations& locations);

// Applies one KEY=VALUE. Errors: kInvalidArgument, opening with
// "--set KEY=VALUE".
Status ReadJobOverride(const std::string& override_text, JobSpec& job,
                       JobLocations& locations);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_JOB_YAML_H_
