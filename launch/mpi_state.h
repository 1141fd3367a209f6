#ifndef SHOAL_LAUNCH_MPI_STATE_H_
#define SHOAL_LAUNCH_MPI_STATE_H_

#include <optional>
#include <string>

#include "base/status.h"

namespace shoal::launch {

// What rank 0 of a job under `mpirun` tells `shoal launch mpi` in a file that
// the launcher has made: mpirun's exit code alone does not say whether a member
// was lost or the job can't work. Where the launcher's file is not that of rank
// 0's host, nothing is told.
struct MpiState {
  bool begun = false;  // all ranks were there
  std::optional<StatusCode> ended;

  // Nothing if `path` is empty or there is no such file. Never fails: a launch
  // can do without.
  void WriteTo(const std::string& path) const;
  static MpiState ReadFrom(const std::string& path);
};

// The signal that ended a rank, as mpirun's exit code has it; 0: none.
int SignalOf(int exit_code);

// Whether another try of a job may succeed that ended with this exit code of
// mpirun, other than 0.
bool AnotherTryMayHelp(int exit_code, const MpiState& state);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_MPI_STATE_H_
