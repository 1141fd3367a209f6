#include "launch/services.h"

#include <sysexits.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <functional>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/strcat.h"
#include "comm/listen.h"
#include "launch/cluster.h"
#include "launch/commands.h"
#include "launch/process_trace.h"
#include "launch/supervisor.h"

namespace shoal::launch {
namespace {

StatusOr<int> OrdinalOfHost() {
  char name[256] = "";
  (void)gethostname(name, sizeof(name) - 1);
  const std::string_view host(name);
  const size_t dash = host.rfind('-');
  int ordinal = -1;
  if (dash != std::string_view::npos) {
    const char* const end = host.data() + host.size();
    const auto [at, error] =
        std::from_chars(host.data() + dash + 1, end, ordinal);
    if (error == std::errc() && at == end && ordinal >= 0) {
      return ordinal;
    }
  }
  return InvalidArgumentError(
      StrCat("--index is not given, and this host's name, '", host,
             "', does not end with a number as that of a StatefulSet's pod "
             "does"));
}

// Runs a role on a thread of its own, while this one listens to signals.
Status RunUntilSignal(Role& role) {
  SHOAL_ASSIGN_OR_RETURN(
      const std::unique_ptr<Supervisor> supervisor,
      Supervisor::Create({.on_signal = [&role](int signal) {
        role.Interrupt(CancelledError(StrCat("stopped by signal ", signal)));
      }}));
  Status status;
  std::atomic<bool> done = false;
  std::thread thread([&] {
    status = role.Run();
    done = true;
  });
  while (!done) {
    supervisor->Wait(20ms);  // There are no children, but signals.
  }
  thread.join();
  return status;
}

Status FindCoordinator(RoleOptions& options) {
  const SystemClock clock;
  SHOAL_ASSIGN_OR_RETURN(
      options.coordinator_address,
      comm::ResolveAddress(options.coordinator_address,
                           clock.Now() + options.join_within));
  return OkStatus();
}

}  // namespace

Status RunCoordinatorService(const RunRequest& request, Duration join_within) {
  SetLogRole("coordinator");
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<JobRun> run,
                         JobRun::Prepare(request));
  SHOAL_ASSIGN_OR_RETURN(const ClusterShape shape,
                         run->Shape(/*one_host=*/false));
  if (shape.in_process) {
    return InvalidArgumentError(
        "transport: inproc joins threads of one process; services use auto, "
        "shm or zmq");
  }
  {
    const ProcessTrace trace(shape.trace_folder, "coordinator");
    ps::Coordinator::Options options = run->CoordinatorOptions();
    options.join_within = join_within;
    SHOAL_RETURN_IF_ERROR(run->Finish(RunCoordinator(
        shape, std::move(options), [&](const std::string& address) {
          std::fprintf(stderr,
                       "coordinator: %s waits for %d servers and %d workers\n",
                       address.c_str(), shape.servers, shape.workers);
        })));
  }
  PrintSummary(*run, request.kind);
  return OkStatus();
}

Status RunServerService(RoleOptions options, const std::string& trace_folder) {
  if (options.index < 0) {
    SHOAL_ASSIGN_OR_RETURN(options.index, OrdinalOfHost());
  }
  const std::string name = StrCat("server ", options.index);
  SetLogRole(name);
  const ProcessTrace trace(trace_folder, name);
  SHOAL_RETURN_IF_ERROR(FindCoordinator(options));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Role> role,
                         Role::CreateServer(options));
  return RunUntilSignal(*role);
}

Status RunWorkerService(RoleOptions options, const std::string& trace_folder) {
  const std::string name =
      options.index < 0 ? "worker" : StrCat("worker ", options.index);
  SetLogRole(name);
  const ProcessTrace trace(trace_folder, name);
  SHOAL_RETURN_IF_ERROR(FindCoordinator(options));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Role> role,
                         Role::CreateWorker(options));
  return RunUntilSignal(*role);
}

int ServiceExitCode(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return 0;
    case StatusCode::kUnavailable:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kCancelled:
    case StatusCode::kAborted:
    case StatusCode::kResourceExhausted:
      return EX_TEMPFAIL;
    default:
      return 1;
  }
}

}  // namespace shoal::launch
