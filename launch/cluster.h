#ifndef SHOAL_LAUNCH_CLUSTER_H_
#define SHOAL_LAUNCH_CLUSTER_H_

#include <functional>
#include <string>

#include "base/status.h"
#include "ps/coordinator.h"

namespace shoal::launch {

// The members of a job and how they are reached.
struct ClusterShape {
  std::string transport = "auto";
  std::string listen;  // the coordinator's Endpoint::Options::listen
  comm::EndpointId coordinator = comm::kCoordinator;
  Storage* storage = nullptr;  // the coordinator's, outlives it; null: its own
  int servers = 1;
  int shards = 1;  // per server
  int workers = 1;
  bool in_process = false;
  int restarts = 0;  // of processes, in all
  // Where how to reach the coordinator is kept while the job runs, for
  // CallCoordinator(); empty: nowhere.
  std::string address_file;
  std::string trace_folder;  // every process leaves its timeline here; or empty
};

// Each runs a whole job on a cluster of its own and blocks until it has ended:
// OK, or the first failure, naming who failed. Nothing of it is left running.

// Servers and workers as child processes of this one, which holds the
// coordinator. Ctrl-C ends the job in order.
Status RunAsProcesses(const ClusterShape& shape,
                      ps::Coordinator::Options options);

// Everything as threads of this process. Ctrl-C as above.
Status RunAsThreads(const ClusterShape& shape,
                    ps::Coordinator::Options options);

// The coordinator on a thread beside `here`, which gets its address and runs on
// the calling thread what else this process is; others start the rest.
Status RunCoordinatorBeside(
    const ClusterShape& shape, ps::Coordinator::Options options,
    const std::function<Status(const std::string& address)>& here);

// The coordinator alone; others start the members. `started` gets its address;
// its error ends the run. Ctrl-C and SIGTERM end the job in order. When `lost`
// gives an error, which it is asked for now and again, the run ends with it,
// but not the job: another coordinator has it.
Status RunCoordinator(
    const ClusterShape& shape, ps::Coordinator::Options options,
    const std::function<Status(const std::string& address)>& started,
    const std::function<Status()>& lost);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_CLUSTER_H_
