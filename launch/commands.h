#ifndef SHOAL_LAUNCH_COMMANDS_H_
#define SHOAL_LAUNCH_COMMANDS_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "launch/job_run.h"

namespace shoal::launch {

// The commands of the `shoal` program. Each prints its results to standard
// output, progress to standard error, and blocks until it is done.

// train, eval: as processes, threads, or ranks of mpirun.
Status RunJob(const RunRequest& request);

// predict: a CSV file `csv_path` with a row per example ("-": standard output);
// bad rows have an empty prediction.
Status RunPredict(const RunRequest& request, const std::string& csv_path);

// data convert: a job's text files to record files, with what was fitted by the
// training that wrote `checkpoint` if it is not empty.
Status RunConvert(const std::string& job_path,
                  const std::vector<std::string>& overrides,
                  const std::string& checkpoint, const std::string& out_path);

// What a run has come to, on standard output.
void PrintSummary(const JobRun& run, RunRequest::Kind kind);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_COMMANDS_H_
