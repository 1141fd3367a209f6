#ifndef SHOAL_LAUNCH_MPI_LAUNCH_H_
#define SHOAL_LAUNCH_MPI_LAUNCH_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "launch/job_run.h"

namespace shoal::launch {

struct MpiLaunchOptions {
  RunRequest run;  // a training
  std::string mpirun = "mpirun";
  std::vector<std::string> mpirun_args;  // put before the program
  int restarts = 0;  // how often a job that failed is started again
  bool dry_run = false;
};

// Trains a job under `mpirun` (Open MPI's) on the hosts of its `placement`, on
// this host if it names none, or where a batch system says; blocks until it has
// ended. A run that was lost (a member or a host killed, late, stopped or not
// reached) is started again up to `restarts` times, from the newest checkpoint
// that it left; one that fails for a reason that stays is not. What rank 0 said
// decides, and mpirun's exit code where it said nothing. `exit_code` is
// mpirun's, of the last run, but 75 where mpirun says 0 of a job that was lost.
// With `dry_run`, prints what it would run, and what each rank is. Errors: what
// is wrong with the job or its placement; kNotFound (no mpirun); kUnavailable
// (the job failed).
Status RunMpiLaunch(const MpiLaunchOptions& options, int* exit_code);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_MPI_LAUNCH_H_
