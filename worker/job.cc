#include "worker/job.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "base/strcat.h"
#include "worker/job.pb.h"
#include "worker/job_rules.h"
#include "worker/job_yaml.h"

namespace shoal::worker {
namespace {

// One byte more than a job may have, at most.
StatusOr<std::string> ReadJobFile(const std::string& path) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    return NotFoundError(
        StrCat(path, ": the job file can't be opened: ", std::strerror(errno)));
  }
  std::string text(kJobBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad() || (in.fail() && !in.eof())) {
    return InvalidArgumentError(
        StrCat(path, ": can't be read; expected a job file, is it a folder?"));
  }
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

Status ToStatus(const JobProblem& problem, const std::string& where) {
  return InvalidArgumentError(StrCat(where, where.empty() ? "" : ": ",
                                     problem.key, ": ", problem.text));
}

}  // namespace

StatusOr<std::unique_ptr<JobSpec>> LoadJob(
    const std::string& path, const std::vector<std::string>& overrides) {
  SHOAL_ASSIGN_OR_RETURN(const std::string text, ReadJobFile(path));
  return ParseJob(text, path, overrides);
}

StatusOr<std::unique_ptr<JobSpec>> ParseJob(
    std::string_view text, const std::string& file,
    const std::vector<std::string>& overrides) {
  auto job = std::make_unique<JobSpec>();
  JobLocations locations;
  SHOAL_RETURN_IF_ERROR(ReadJobYaml(text, file, *job, locations));
  for (const std::string& item : overrides) {
    SHOAL_RETURN_IF_ERROR(ReadJobOverride(item, *job, locations));
  }
  if (const auto problem = FindJobProblem(*job); problem.has_value()) {
    const std::string where = locations.Find(problem->key);
    return ToStatus(*problem, where.empty() ? file : where);
  }
  return job;
}

const std::string& DeviceOf(const JobSpec& job, int worker) {
  return worker < job.devices().workers_size() ? job.devices().workers(worker)
                                               : job.device();
}

Status ValidateJob(const JobSpec& job) {
  const std::optional<JobProblem> problem = FindJobProblem(job);
  return problem.has_value() ? ToStatus(*problem, "") : OkStatus();
}

std::string SerializeJob(const JobSpec& job) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream sink(&bytes);
    google::protobuf::io::CodedOutputStream out(&sink);
    out.SetSerializationDeterministic(true);  // the order of maps
    job.SerializeToCodedStream(&out);
  }
  return bytes;
}

StatusOr<std::unique_ptr<JobSpec>> ParseSerializedJob(std::string_view bytes) {
  auto job = std::make_unique<JobSpec>();
  if (bytes.size() > 4 * kJobBytesMax ||
      !job->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return InvalidArgumentError(
        StrCat("job: ", bytes.size(), " bytes are no job of this program"));
  }
  SHOAL_RETURN_IF_ERROR(ValidateJob(*job).WithPrefix("job"));
  return job;
}

}  // namespace shoal::worker
