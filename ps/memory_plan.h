#ifndef SHOAL_PS_MEMORY_PLAN_H_
#define SHOAL_PS_MEMORY_PLAN_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "ps/model_spec.h"
#include "ps/sparse_table.h"
#include "ps/spill_store.h"

namespace shoal::ps {

// How a shard divides its part of ClusterPlan::memory_per_shard. Where tables
// spill, what has a bound of its own gets that (the dense variables, counts of
// candidates, row budgets in memory: as if all of it were here, as it may be
// when servers are lost; marks of what changed since a checkpoint), the store
// takes a share for its cache and writes, and the other tables share the rest
// as if they had equally many rows.
struct MemoryPlan {
  int64_t bytes_max = 0;  // 0: any
  int64_t cache_bytes = 0;
  int64_t write_buffer_bytes = 0;
  // By table of the model: of rows in memory, of one that spills; others: 0.
  std::vector<int64_t> table_bytes;
  // For incremental checkpoints; and of each table's marks, where tables spill.
  bool marks_changes = false;
  int64_t mark_bytes = 0;

  bool spills() const { return cache_bytes > 0; }
};

// Errors: kInvalidArgument (a table is to spill, but there is no bound),
// kResourceExhausted (the bound leaves nothing to share; says what would do).
StatusOr<MemoryPlan> PlanMemory(const ModelSpec& model,
                                const ClusterPlan& cluster, int slot_bits = 10);

// Opens what the tables spill to, or null if none does. Blocks.
// Errors: those of OpenSpillStore().
StatusOr<std::unique_ptr<SpillStore>> OpenStore(const MemoryPlan& plan,
                                                const ClusterPlan& cluster);

// The tables of a model, in its order, then those of their candidates. `store`
// must outlive them; null: none spills, but that their memory suffices is
// checked. Errors: those of SparseTable::Create().
StatusOr<std::vector<std::unique_ptr<SparseTable>>> MakeTables(
    const ModelSpec& model, int slot_bits, const MemoryPlan& plan = {},
    SpillStore* store = nullptr);

// Whether what a shard holds is all there and within bounds; to be asked after
// whatever reads or changes its tables.
// Errors: those of SparseTable::status(); kResourceExhausted (more memory than
// the plan has, naming the table to blame and what to do).
Status CheckMemory(const ModelSpec& model, const MemoryPlan& plan,
                   const std::vector<std::unique_ptr<SparseTable>>& tables,
                   int64_t dense_bytes, const SpillStore* store);

}  // namespace shoal::ps

#endif  // SHOAL_PS_MEMORY_PLAN_H_
