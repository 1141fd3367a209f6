#ifndef SHOAL_LAUNCH_MPI_RANKS_H_
#define SHOAL_LAUNCH_MPI_RANKS_H_

#include "base/status.h"
#include "launch/job_run.h"

namespace shoal::launch {

// Trains or evaluates a job as one of the ranks that `mpirun` started: all of
// them call it. Roles as DealRanks() deals them; rank 0 prepares the data, runs
// the coordinator beside its role and prints what PrintSummary() does. Blocks
// until the job has ended, and fails on all ranks alike.
Status RunAsRanks(const RunRequest& request);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_MPI_RANKS_H_
