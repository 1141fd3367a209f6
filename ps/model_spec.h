#ifndef SHOAL_PS_MODEL_SPEC_H_
#define SHOAL_PS_MODEL_SPEC_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/time.h"
#include "ps/initializer.h"
#include "ps/optimizer.h"
#include "ps/row_rules.h"

namespace shoal::ps {

struct VariableSpec {
  std::string name;
  std::vector<int64_t> dims;
  Initializer initializer;

  int64_t num_elements() const {
    int64_t n = 1;
    for (const int64_t dim : dims) {
      n *= dim;
    }
    return n;
  }
};

struct TableSpec {
  std::string name;
  int64_t dim = 0;
  OptimizerConfig optimizer;
  Initializer initializer;
  DType format = DType::kF32;  // of values, see IsRowFormat()
  RowRules rules;
  // Rows beyond the shards' memory are on their disks; else they are an error.
  bool spills = false;
};

// What the servers hold for a job, in an order that all members share.
struct ModelSpec {
  std::vector<VariableSpec> variables;
  std::vector<TableSpec> tables;
  // Groups of tables that are always looked up with the same ids, so that the
  // ids travel once. Every table is in exactly one.
  std::vector<std::vector<int>> groups;
  OptimizerConfig dense_optimizer;
  uint64_t seed = 1;

  // A push has the dense values that its gradients were computed from.
  bool pushes_values() const { return dense_optimizer.delay_compensation > 0; }

  int64_t num_dense_elements() const {
    int64_t n = 0;
    for (const VariableSpec& variable : variables) {
      n += variable.num_elements();
    }
    return n;
  }
};

enum class Mode : uint8_t { kSync = 0, kBounded = 1, kAsync = 2 };

// Who holds the dense variables.
enum class DensePlace : uint8_t {
  kShards = 0,
  // Every worker, and a collective of them sums the gradients of each step.
  kWorkers = 1,
  // The same, but each has the optimizer's state of its own part only.
  kWorkerParts = 2,
};

// What is done with all gradients of a step at once, see GlobalPhase.
struct GlobalSettings {
  // The most that the norm of all gradients together may be, of dense variables
  // and of rows; they are scaled down to it. 0: any.
  double clip_norm = 0;
  // What losses are multiplied by before gradients are computed, which are
  // divided by it again at the optimizers; and steps with a gradient that is
  // not finite are skipped. 0: not scaled, and such a step ends the job.
  double loss_scale = 0;
  // loss_scale is the first: a step that is skipped multiplies it by the
  // backoff factor, growth_interval others in turn by the growth factor.
  bool dynamic_scale = false;
  double growth_factor = 2;
  double backoff_factor = 0.5;
  int64_t growth_interval = 2000;

  bool NeedsNorms() const { return clip_norm > 0 || loss_scale > 0; }
};

// What every member must know of how the job runs.
struct ClusterPlan {
  Mode mode = Mode::kSync;  // of what the shards hold
  DensePlace dense = DensePlace::kShards;
  // kBounded: clocks that the fastest worker may be ahead of the slowest; with
  // dense variables on the workers, steps that rows may be behind those.
  int64_t staleness = 0;
  int virtual_workers = 1;
  // Of the workers, where steps are shared: they have no virtual workers of
  // their own, and compute those of a worker that is late beside it.
  int backup_workers = 0;
  // The longest that any wait for another member may take.
  Duration timeout = std::chrono::seconds(20);
  // The backend that sums what the workers hold, see comm::CollectiveRegistry.
  std::string collective = "transport";
  // Of that backend, see comm::ParseSwitches().
  std::vector<std::string> allreduce = {};
  // Bytes that rows and variables may take in a shard; 0: any.
  int64_t memory_per_shard = 0;
  // Of every server, for tables that spill; empty: one that OpenStore() knows.
  std::string spill_folder = {};
  // Of slots that a shard sends to another, where they move and where a chain
  // is repaired; 0: any.
  int64_t move_bytes_per_second = 0;
  int64_t repair_bytes_per_second = 0;
  GlobalSettings global = {};
  // Checkpoints may have the rows alone that changed since the one before.
  bool incremental_checkpoints = false;

  bool dense_on_workers() const { return dense != DensePlace::kShards; }
  // Each worker runs its part of every step, and a step changes a row once, by
  // the sum of all parts. Otherwise whole steps are dealt to them in turn.
  bool shares_steps() const {
    return mode == Mode::kSync || dense_on_workers();
  }
};

// Of `num_workers`, those that are not backups: the first ones.
inline int PrimaryWorkers(const ClusterPlan& plan, int num_workers) {
  return std::max(1, num_workers - plan.backup_workers);
}

// The virtual workers [begin, end) of worker `index` of `num_workers`, where
// steps are shared; of a backup, those that it begins with.
inline std::pair<int, int> VirtualRange(const ClusterPlan& plan, int index,
                                        int num_workers) {
  const int64_t v = plan.virtual_workers;
  const int64_t primaries = PrimaryWorkers(plan, num_workers);
  const int64_t i = index % primaries;
  return {static_cast<int>(i * v / primaries),
          static_cast<int>((i + 1) * v / primaries)};
}

}  // namespace shoal::ps

#endif  // SHOAL_PS_MODEL_SPEC_H_
