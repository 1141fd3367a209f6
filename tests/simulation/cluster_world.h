#ifndef SHOAL_TESTS_SIMULATION_CLUSTER_WORLD_H_
#define SHOAL_TESTS_SIMULATION_CLUSTER_WORLD_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/histogram.h"
#include "base/status.h"
#include "base/storage.h"
#include "comm/node.h"
#include "ps/coordinator.h"

namespace shoal::simulation {

// Under sanitizers all takes more than ten times as long, so fewer are run.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr uint64_t kShare = 20;
#else
inline constexpr uint64_t kShare = 1;
#endif

// A real job (its data prepared once, its model real) that a simulated cluster
// of 3 servers x 2 shards and 3 workers trains for 50 steps, with evaluations
// and checkpoints on the way.
class SimulatedJob {
 public:
  static constexpr int kServers = 3;
  static constexpr int kShards = 2;
  static constexpr int kWorkers = 3;
  static constexpr int64_t kSteps = 50;

  // Writes the data into a folder of its own below the temporary folder.
  // `overrides`: KEY=VALUE of the job.
  static StatusOr<std::unique_ptr<SimulatedJob>> Create(
      const std::vector<std::string>& overrides = {});
  virtual ~SimulatedJob() = default;

  virtual ps::Coordinator::Options CoordinatorOptions() const = 0;
};

// A key of the job: so many crosses, of which most rows have ids of their own,
// that there are some 6000 ids.
std::string FeaturesOfManyIds();

// Puts something around a node: to watch it, or to plant a bug in it.
using Decorate = std::function<std::unique_ptr<comm::Node>(
    const std::string& name, std::unique_ptr<comm::Node> node)>;

struct RunPlan {
  uint64_t seed = 1;
  ps::Mode mode = ps::Mode::kSync;
  int64_t staleness = 0;  // bounded
  int servers = SimulatedJob::kServers;
  int workers = SimulatedJob::kWorkers;
  int backup_workers = 0;  // of these
  ps::DensePlace dense = ps::DensePlace::kShards;
  // Lost connections, five at least (of some, one end learns late), long delays
  // and clocks that differ.
  bool faults = true;
  int crashes = 2;              // of workers, at times drawn from the seed
  bool crash_a_server = false;  // for good
  int replicas = 1;
  int server_crashes = 0;  // one after another, each repaired before the next
  int coordinator_crashes = 0;
  // That stand by for each other with etcd; 0: one, which has a file.
  int coordinators = 0;
  int cut_offs = 0;           // of the one that leads, from etcd
  bool always_leads = false;  // a planted bug of coordinators
  bool loses_state = false;   // the coordinator, its file, with each crash
  ps::RebalanceBy rebalance = ps::RebalanceBy::kBytes;
  int scales = 0;      // to other numbers of servers and workers
  int partitions = 0;  // of two processes, or of one and all, one way or both
  int slow_processes = 0;   // for a while
  double slows_worker = 1;  // worker 1, all the time, by this factor
  int full_disks = 0;       // times in which nothing can be written
  // All processes die at once, for good, after so many seconds; 0: never.
  double power_fails_after = 0;
  std::string restore_folder = {};  // of `files`
  int64_t restore_step = 0;
  // What is there already; checkpoints.
  std::shared_ptr<MemoryStorage> files = {};
  // Digests that checkpoints must have, by step; none: any.
  std::map<int64_t, std::string> digests = {};
  bool reports = false;  // of shards, for `rows_on_disk`
  // To these in turn, at times drawn from the seed.
  std::vector<std::string> modes = {};
  Decorate decorate = {};
};

struct RunResult {
  Status status;       // of the coordinator, or why the world came to no end
  bool ended = false;  // the coordinator stopped within the time limit
  std::string digest;  // of the checkpoint at the end
  // Of every checkpoint that is there, by step.
  std::map<int64_t, std::string> digests;
  // The first thing seen that must not be, whatever goes wrong; empty: none.
  // A checkpoint whose manifest is there and that can't be read, or has other
  // bits; chains that are not repaired.
  std::string violation;
  std::shared_ptr<MemoryStorage> files;  // as they are at the end
  uint64_t trace_hash = 0;
  int64_t num_events = 0;
  int faults = 0;   // of all kinds
  int crashed = 0;  // servers that were
  int coordinators_crashed = 0;
  int leaders_changed = 0;
  int scaled = 0;    // commands that were taken
  int switched = 0;  // the same, of modes
  int partitioned = 0;
  int slowed = 0;
  int stood_in = 0;  // steps, of backup workers
  int disks_filled = 0;
  int64_t rows_on_disk = 0;   // alone, of a shard, when it had most
  double repair_seconds = 0;  // the longest repair, once all processes ran
  double seconds = 0;         // of the virtual clock
  Histogram staleness;        // of gradients, as the coordinator was told
};

inline constexpr char kCheckpoints[] = "checkpoints";

RunResult RunJob(const SimulatedJob& job, const RunPlan& plan);

// Another job, on another cluster, where the one of `seed` has ended: over the
// files that it left.
RunPlan PlanOfRest(const RunResult& ended, uint64_t seed,
                   const std::map<int64_t, std::string>& digests);
// It goes on from the checkpoint of `step`, which is there.
void RestoreFrom(int64_t step, RunPlan& plan);

}  // namespace shoal::simulation

#endif  // SHOAL_TESTS_SIMULATION_CLUSTER_WORLD_H_
