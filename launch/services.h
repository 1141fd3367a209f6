#ifndef SHOAL_LAUNCH_SERVICES_H_
#define SHOAL_LAUNCH_SERVICES_H_

#include <string>

#include "base/status.h"
#include "base/time.h"
#include "launch/job_run.h"
#include "launch/roles.h"

namespace shoal::launch {

// The roles of a job as services that others start, in any order and on any
// host: a coordinator that reads the job and prepares the data, and members
// that look for it. SIGTERM and Ctrl-C end each in order. All block until the
// job is done or called off, and return why.

// What all services have in common.
struct ServiceOptions {
  int http_port = -1;  // of a StatusServer; 0: any, printed; -1: none
  std::string trace_folder;
};

// Prints its address to standard error, then waits for members. It is ready
// when members can come.
Status RunCoordinatorService(RunRequest request, Duration join_within,
                             const ServiceOptions& options);

// The coordinator's address may be "tcp://NAME:PORT" with a name that is not
// known yet. With a trace folder they leave their timeline there. A server is
// ready when it holds its variables, a worker when it has opened its data.
// `index` -1 of a server: the number that this host's name ends with
// ("shoal-server-2"), as those of a StatefulSet do.
// Errors: kInvalidArgument (no such number) too.
Status RunServerService(RoleOptions role, const ServiceOptions& options);
Status RunWorkerService(RoleOptions role, const ServiceOptions& options);

// The exit code of a service: 0 if it is OK; 75 (EX_TEMPFAIL of sysexits.h) if
// starting the job again may help: a member was lost, late or stopped; else 1.
int ServiceExitCode(const Status& status);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_SERVICES_H_
