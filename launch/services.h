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

// Prints its address to standard error, then waits for members.
Status RunCoordinatorService(const RunRequest& request, Duration join_within);

// The coordinator's address may be "tcp://NAME:PORT" with a name that is not
// known yet. With a trace folder they leave their timeline there.
// `index` -1 of a server: the number that this host's name ends with
// ("shoal-server-2"), as those of a StatefulSet do.
// Errors: kInvalidArgument (no such number) too.
Status RunServerService(RoleOptions options, const std::string& trace_folder);
Status RunWorkerService(RoleOptions options, const std::string& trace_folder);

// The exit code of a service: 0 if it is OK; 75 (EX_TEMPFAIL of sysexits.h) if
// starting the job again may help: a member was lost, late or stopped; else 1.
int ServiceExitCode(const Status& status);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_SERVICES_H_
