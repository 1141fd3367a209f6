#include "launch/process_trace.h"

#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/storage.h"
#include "base/strcat.h"
#include "base/trace.h"

namespace shoal::launch {

ProcessTrace::ProcessTrace(std::string folder, std::string role)
    : folder_(std::move(folder)), role_(std::move(role)) {
  if (!folder_.empty()) {
    StartTrace();
  }
}

ProcessTrace::~ProcessTrace() {
  if (folder_.empty()) {
    return;
  }
  StopTrace();
  const std::unique_ptr<Storage> storage = CreateLocalStorage();
  const Status status =
      WriteTrace(*storage, StrCat(folder_, "/", TraceFileName(role_)), role_);
  if (!status.ok()) {
    LogWarning("the timeline is lost: ", status.message());
  }
}

Status FinishTrace(const std::string& out, const std::string& trace_folder) {
  if (trace_folder.empty()) {
    return OkStatus();
  }
  const std::unique_ptr<Storage> storage = CreateLocalStorage();
  SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         storage->ListFolder(trace_folder));
  std::vector<std::string> paths;
  for (const std::string& name : names) {
    if (IsTraceFileName(name)) {
      paths.push_back(StrCat(trace_folder, "/", name));
    }
  }
  const std::string joined = StrCat(out, "/trace.json");
  SHOAL_RETURN_IF_ERROR(MergeTraces(*storage, paths, joined));
  // Not to standard output, which may be that of a prediction.
  std::fprintf(stderr, "timeline: %s (open it in ui.perfetto.dev)\n",
               joined.c_str());
  return OkStatus();
}

}  // namespace shoal::launch
