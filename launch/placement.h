#ifndef SHOAL_LAUNCH_PLACEMENT_H_
#define SHOAL_LAUNCH_PLACEMENT_H_

#include <string>
#include <vector>

#include "base/status.h"

namespace shoal::worker {
class JobSpec;
}  // namespace shoal::worker

namespace shoal::launch {

// What a rank of `mpirun` is for. Rank 0 runs the coordinator too.
struct RankRole {
  enum class Kind { kCoordinator, kServer, kWorker };
  Kind kind = Kind::kCoordinator;
  int index = 0;  // which server or worker

  // "server 0".
  std::string ToString() const;
};

// A host of the job's `placement` and what runs there.
struct PlacedHost {
  std::string name;
  std::vector<RankRole> roles;
};

// Deals servers, then workers, in turn to the hosts that may have them, in the
// order in which `placement` names them; empty if it names none.
// Errors: kInvalidArgument (they do not fit; names hosts and slots).
StatusOr<std::vector<PlacedHost>> PlaceRoles(const worker::JobSpec& job);

// The role of each rank, whose hosts are `hosts`, by rank. With a placement by
// host; else ranks 0 .. servers - 1 are the servers and the next ones the
// workers, and with one more than these, rank 0 is the coordinator alone.
// Errors: kInvalidArgument (too few or too many ranks, on all hosts or on one,
// or a host that the placement does not name: what was asked and what is
// there).
StatusOr<std::vector<RankRole>> DealRanks(
    const worker::JobSpec& job, const std::vector<std::string>& hosts);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_PLACEMENT_H_
