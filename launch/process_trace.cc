#include "launch/process_trace.h"

#include <memory>
#include <utility>

#include "base/log.h"
#include "base/status.h"
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

}  // namespace shoal::launch
