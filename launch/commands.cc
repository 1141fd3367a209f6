#include "launch/commands.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "base/storage.h"
#include "base/strcat.h"
#include "comm/mpi_world.h"
#include "launch/cluster.h"
#include "launch/mpi_ranks.h"
#include "launch/process_trace.h"
#include "launch/restored_job.h"
#include "ps/checkpoint_format.h"
#include "worker/input/prepare.h"
#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/metrics/metrics.h"

namespace shoal::launch {

void PrintSummary(const JobRun& run, RunRequest::Kind kind) {
  const worker::TrainingSummary& summary = run.summary();
  if (summary.test.has_value()) {
    std::string text;
    for (const auto& [name, value] : worker::NamedMetrics(*summary.test)) {
      char part[64];
      std::snprintf(part, sizeof(part), " %s %.5f", std::string(name).c_str(),
                    value);
      text += part;
    }
    std::printf("test:%s (%lld examples)\n", text.c_str(),
                static_cast<long long>(summary.test->count));
  }
  if (kind == RunRequest::Kind::kTrain) {
    std::printf("trained on %lld examples in %.2f s (%.0f examples/s)\n",
                static_cast<long long>(summary.examples), summary.seconds,
                summary.examples_per_second());
    if (!summary.staleness.empty()) {
      std::printf("staleness of gradients in clocks: %s\n",
                  summary.staleness.ToString().c_str());
    }
    std::printf("checkpoint: %s\nreport:     %s/report.html\n",
                summary.checkpoint.c_str(), run.out().c_str());
  }
}

namespace {

// This process prepares the data and runs the coordinator with the members as
// processes or threads.
Status RunHere(JobRun& run) {
  SHOAL_ASSIGN_OR_RETURN(const ClusterShape shape,
                         run.Shape(/*one_host=*/true));
  {
    const ProcessTrace trace(shape.trace_folder, "coordinator");
    ps::Coordinator::Options options = run.CoordinatorOptions();
    SHOAL_RETURN_IF_ERROR(run.Finish(
        shape.in_process ? RunAsThreads(shape, std::move(options))
                         : RunAsProcesses(shape, std::move(options))));
  }
  return FinishTrace(run.out(), shape.trace_folder);
}

// Commands that are one process would do under mpirun what one does, as often
// as there are ranks.
Status RefuseMpirun(const char* command) {
  return comm::MpiWorld::ManyRanks()
             ? FailedPreconditionError(
                   StrCat("`shoal ", command,
                          "` does not spread over ranks; start it without "
                          "mpirun"))
             : OkStatus();
}

}  // namespace

Status RunJob(const RunRequest& request) {
  if (comm::MpiWorld::Present() && !request.in_process) {
    return RunAsRanks(request);
  }
  if (request.in_process) {
    SHOAL_RETURN_IF_ERROR(RefuseMpirun("train --in-process"));
  }
  if (request.expect_ranks > 0) {
    return FailedPreconditionError(
        StrCat("--expect-ranks ", request.expect_ranks,
               ", but mpirun did not start this process"));
  }
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<JobRun> run,
                         JobRun::Prepare(request));
  SHOAL_RETURN_IF_ERROR(RunHere(*run));
  PrintSummary(*run, request.kind);
  return OkStatus();
}

namespace {

std::string PredictionsText(const JobRun& run) {
  const size_t rows = run.labels().size();
  const size_t width = rows == 0 ? 1 : run.scores().size() / rows;
  const auto number = [](float value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.9g", static_cast<double>(value));
    return std::string(text);
  };
  std::string text = "row";
  for (size_t c = 0; c < width; ++c) {
    text += width == 1 ? ",prediction" : StrCat(",class_", c);
  }
  text += ",label\n";
  const std::vector<int64_t>& bad = run.data().bad_row_numbers;
  size_t next_bad = 0;
  for (size_t row = 0; row < rows || next_bad < bad.size();) {
    const auto line = static_cast<int64_t>(row + next_bad);
    text += std::to_string(line);
    if (next_bad < bad.size() && bad[next_bad] == line) {
      text.append(width + 1, ',');
      text += '\n';
      ++next_bad;
      continue;
    }
    for (size_t c = 0; c < width; ++c) {
      text += ',' + number(run.scores()[row * width + c]);
    }
    const float label = run.labels()[row++];
    text += std::isnan(label) ? "," : ',' + number(label);
    text += '\n';
  }
  return text;
}

// Whether `path` is one of `others`, by whatever name.
bool IsOneOf(const std::string& path, const std::vector<std::string>& others) {
  std::error_code error;
  return std::any_of(others.begin(), others.end(),
                     [&](const std::string& other) {
                       return std::filesystem::equivalent(path, other, error);
                     });
}

// Devices and pipes are written to, files replaced when all is written.
Status WriteText(const std::string& path, const std::string& text) {
  std::error_code error;
  const std::filesystem::file_status there =
      std::filesystem::status(path, error);
  if (!std::filesystem::exists(there) ||
      std::filesystem::is_regular_file(there)) {
    const std::unique_ptr<Storage> storage = CreateStorage();
    const Buffer bytes = Buffer::CopyOf(text);
    return storage->PublishFile(path, {&bytes, 1});
  }
  std::FILE* file = std::fopen(path.c_str(), "we");
  bool good = file != nullptr &&
              std::fwrite(text.data(), 1, text.size(), file) == text.size();
  good = (file == nullptr || std::fclose(file) == 0) && good;
  return good ? OkStatus()
              : UnavailableError(
                    StrCat("write '", path, "': ", std::strerror(errno)));
}

}  // namespace

Status RunPredict(const RunRequest& request, const std::string& csv_path) {
  SHOAL_RETURN_IF_ERROR(RefuseMpirun("predict"));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<JobRun> run,
                         JobRun::Prepare(request));
  const std::string csv_folder =
      std::filesystem::absolute(csv_path).parent_path().string();
  std::vector<std::string> read = run->data().files;
  read.push_back(request.job_path);
  if (csv_path != "-" && (IsOneOf(csv_path, read) ||
                          IsOneOf(csv_folder, {run->restored().folder}))) {
    return InvalidArgumentError(
        StrCat("--csv ", csv_path, ": that file is read; choose another"));
  }
  SHOAL_RETURN_IF_ERROR(RunHere(*run));
  const std::string text = PredictionsText(*run);
  if (csv_path == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return OkStatus();
  }
  SHOAL_RETURN_IF_ERROR(WriteText(csv_path, text));
  std::printf("%zu predictions: %s\n", run->labels().size(), csv_path.c_str());
  return OkStatus();
}

Status RunConvert(const std::string& job_path,
                  const std::vector<std::string>& overrides,
                  const std::string& checkpoint, const std::string& out_path) {
  SHOAL_RETURN_IF_ERROR(RefuseMpirun("data convert"));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<worker::JobSpec> job,
                         worker::LoadJob(job_path, overrides));
  std::optional<worker::FittedTransforms> fitted;
  if (!checkpoint.empty()) {
    const std::unique_ptr<Storage> storage = CreateStorage();
    SHOAL_ASSIGN_OR_RETURN(const RestoredJob restored,
                           OpenCheckpoint(*storage, checkpoint, *job));
    fitted = restored.fitted;
  }
  SHOAL_ASSIGN_OR_RETURN(
      const worker::PreparedData data,
      worker::ConvertToRecord(*job, out_path,
                              fitted.has_value() ? &*fitted : nullptr, 2));
  const bool two = data.test.path != data.train.path;
  std::printf("%s: %lld training%s", out_path.c_str(),
              static_cast<long long>(data.train.num_rows),
              two ? " examples\n" : "");
  std::printf("%s%lld test examples, %lld bad rows left out (%.2f s)\n",
              two ? StrCat(data.test.path, ": ").c_str() : " and ",
              static_cast<long long>(data.test.num_rows),
              static_cast<long long>(data.bad_rows), data.seconds);
  if (two) {
    std::printf("read them with data.split.by: files\n");
  }
  return OkStatus();
}

}  // namespace shoal::launch
