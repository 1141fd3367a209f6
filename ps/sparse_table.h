#ifndef SHOAL_PS_SPARSE_TABLE_H_
#define SHOAL_PS_SPARSE_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/function_ref.h"
#include "base/status.h"
#include "ps/changed_rows.h"
#include "ps/initializer.h"
#include "ps/optimizer.h"
#include "ps/row_clock.h"
#include "ps/row_index.h"
#include "ps/row_rules.h"
#include "ps/spill_store.h"

namespace shoal::ps {

class TableSnapshot;

// The rows of one table that a shard holds: id -> dim values in the table's
// format, then optimizer state, f32, contiguous.
//
// Rows never move; they lie on huge pages. Look-ups come in batches and fetch
// ahead first the index (RowIndex, one part per slot), then the rows; ids that
// rise by IdHash() walk the index in order.
//
// A row that is not there has its first value, a function of (seed, table, id).
// Which rows are there is up to RowRules. Ids that their min_count keeps
// waiting are rows of a second table, which has one value each: the number of
// pushes.
//
// A table that spills has in memory the rows that were used last (RowClock);
// the others are on disk alone, where a row in memory may have a copy that does
// not count. Where a row lies changes nothing of what it is. What comes from
// disk is fetched by whole batches, in the calling thread.
//
// Belongs to its shard's thread; Pull() and ForEach() may run beside each
// other. What it holds at one moment is read while it goes on by a
// TableSnapshot.
class SparseTable {
 public:
  struct Options {
    std::string name;
    int64_t dim = 0;
    OptimizerConfig optimizer;
    Initializer initializer;
    uint64_t seed = 1;
    int slot_bits = 10;
    DType format = DType::kF32;  // of values, see IsRowFormat()
    RowRules rules;
    // Of rules that count: of CandidateOptions(), must outlive this one.
    SparseTable* candidates = nullptr;
    // Where it spills to, as which table, if it does; must outlive this one.
    SpillStore* spill = nullptr;
    int spill_table = 0;
    // Then: of rows in memory, with their index. (Without a store it is only
    // checked.)
    int64_t memory_bytes_max = 0;
    // It is asked by CutChanges(). `mark_bytes_max`: as in ChangedRows.
    bool marks_changes = false;
    int64_t mark_bytes_max = 0;
  };

  // Errors: those of CreateOptimizer(), CheckRules() and SharesOf();
  // kInvalidArgument (dim < 1, no row format, slot_bits outside [1, 24], or a
  // row of more than 2 MiB); kResourceExhausted (memory_bytes_max is too little
  // to work with).
  static StatusOr<std::unique_ptr<SparseTable>> Create(const Options& options);
  ~SparseTable();
  SparseTable(const SparseTable&) = delete;
  SparseTable& operator=(const SparseTable&) = delete;

  const std::string& name() const { return options_.name; }
  int64_t dim() const { return options_.dim; }
  DType format() const { return options_.format; }
  int64_t value_bytes() const { return dim() * SizeOf(format()); }
  // The optimizer's, then the words of RowRules.
  int64_t state_floats() const { return state_floats_; }
  int64_t num_rows() const { return rows_in_memory() + rows_away_; }
  int64_t rows_in_memory() const {
    return rows_made_ - static_cast<int64_t>(free_rows_.size());
  }
  // Of a table that spills.
  int64_t rows_in_memory_max() const { return rows_max_; }
  // Rows that came from disk.
  int64_t rows_fetched() const { return rows_fetched_; }
  // Not OK: reading or writing the disk failed, and what the table holds is not
  // to be used any more. To be asked after every other call.
  Status status() const {
    return options_.spill == nullptr ? OkStatus() : options_.spill->status();
  }
  int64_t num_rows_in(int64_t slot) const;
  // Since the table was made, by its rules.
  int64_t rows_evicted() const { return rows_evicted_; }
  int64_t rows_admitted() const { return rows_admitted_; }
  // Of a row budget: the rows that a part may have; 0: any.
  int64_t part_rows_max() const { return shares_.rows_max; }
  // Pages and indexes, without what the allocator adds; of first pages only
  // what is in use. Without the SpillStore.
  int64_t memory_bytes() const;
  // Of a row in memory, without its index.
  int64_t row_bytes() const {
    return stride_ * static_cast<int64_t>(sizeof(float));
  }

  // Writes the values of `ids` to out[ids.size(), dim], f32. Changes nothing.
  void Pull(std::span<const uint64_t> ids, float* out) const;
  // The same, and keeps in memory what came from disk, since it is likely to be
  // used again. Not beside any other call.
  void PullAndKeep(std::span<const uint64_t> ids, float* out);

  // Updates the rows of `ids`, all distinct, with gradients[ids.size(), dim];
  // inserts those that are not there, and drops rows, as the rules have it.
  // With rules, `ids` rise by IdHash(), and every step calls it, with ids or
  // without. `step`: as in ApplyBatch. Values are rounded to the format by
  // chance, drawn from (seed, table, id, step): another `step` each time.
  // `slots`: of which this is, so that nothing of others changes; null: all.
  void Apply(std::span<const uint64_t> ids, const float* gradients,
             double learning_rate_factor, int64_t step,
             const std::vector<bool>* slots = nullptr);

  // Inserts rows whatever the rules, or replaces them; per id value_bytes() of
  // the format and state_floats().
  void Load(std::span<const uint64_t> ids, std::span<const std::byte> values,
            std::span<const float> states);
  void Load(uint64_t id, std::span<const std::byte> values,
            std::span<const float> state) {
    Load({&id, 1}, values, state);
  }

  // Drops all rows of a slot; their memory is used again by later rows.
  void EraseSlot(int64_t slot);
  // Drops those of `ids` that have a row.
  void Erase(std::span<const uint64_t> ids);

  // Of a table that marks changes; see ChangedRows::Cut().
  std::shared_ptr<ChangedSet> CutChanges(int64_t step,
                                         std::optional<int64_t> base) {
    return changes_->Cut(step, base);
  }
  // What of a slot changed is not known.
  void ForgetChanges(int64_t slot) { changes_->Forget(slot); }

  // Calls visit(id, values, state) for all rows, in the order of IdHash(), with
  // value_bytes() of values in the format and state_floats() of state.
  void ForEach(FunctionRef<void(uint64_t, std::span<const std::byte>,
                                std::span<const float>)>
                   visit) const;
  // Those of one slot.
  void ForEachInSlot(int64_t slot,
                     FunctionRef<void(uint64_t, std::span<const std::byte>,
                                      std::span<const float>)>
                         visit) const;

 private:
  friend class TableSnapshot;

  SparseTable(const Options& options, int index_bits);

  // The rows of up to kBlock ids, those that are missing inserted, or null
  // where the rules have none.
  void RowsFor(std::span<const uint64_t> ids, int64_t step, float** rows);
  float* Insert(uint64_t hash, uint64_t id);
  // Of a row that is in memory.
  void BeforeChange(uint64_t hash, uint64_t id, uint32_t row);
  void Mark(uint64_t hash, uint64_t id, uint32_t row);
  void Update(std::span<const uint64_t> ids, std::span<float*> rows,
              const float* gradients, double learning_rate_factor,
              int64_t step);
  // The parts of the index that a slot has; they follow each other.
  int64_t parts_per_slot() const {
    return index_.num_parts() >> options_.slot_bits;
  }
  uint32_t NewRow();
  float* RowAt(uint32_t row) const;
  // As the table has them when widened.
  void InitValues(uint64_t id, float* out) const;
  void ApplyInF32(std::span<const uint64_t> ids, std::span<float*> rows,
                  const ApplyBatch& batch, int64_t step);
  // Of values of an id that are rounded at `step`.
  uint64_t RoundingKey(uint64_t id, int64_t step) const;

  // What the rules need, in ps/sparse_table_rules.cc.
  // Whether a push to an id without a row makes one; its pushes so far, if they
  // are counted, go to `seen`.
  bool Admits(uint64_t hash, uint64_t id, int64_t step, uint32_t* seen);
  // Counts the ids that Admits() refused, forgets those that it let in.
  void CountCandidates(int64_t step, const std::vector<bool>* slots);
  void EraseIds(std::span<const uint64_t> ids);
  // Out of the index already.
  void FreeRow(uint64_t id, uint32_t row);
  void SetWords(float* row, uint32_t step, uint32_t pushes) const;
  void CountPush(float* row, uint32_t step) const;
  struct Standing;  // of a row among those of its part
  Standing StandingOf(uint64_t id, const float* row, uint32_t step) const;
  // Down to its share, if it has more.
  void ShrinkPart(int64_t part, uint32_t step);
  void Sweep(int64_t step, const std::vector<bool>* slots);
  void DropRow(uint64_t id, uint32_t row) {
    FreeRow(id, row);
    ++rows_evicted_;
  }
  bool IsOld(const float* row, uint32_t step) const;

  // Of a table that spills, in ps/sparse_table_spill.cc.
  Status PlanMemory();
  // Marks those of `ids` that are in memory as used and fetches the others, so
  // that room is left for those that are nowhere if they are `to_be_made`. Up
  // to batch_max_ ids.
  void Bring(std::span<const uint64_t> ids, bool to_be_made);
  // For so many rows more, in memory.
  void MakeRoom(size_t rows);
  bool Spill(size_t rows);
  // As Pull(), but those that are not in memory have their first values. Where
  // they are in `ids` is added to `missing`, if it is not null.
  void PullFromMemory(std::span<const uint64_t> ids, float* out,
                      std::vector<size_t>* missing) const;
  // visit(id, row) for the rows of a part that are on disk alone.
  void ForEachAway(int64_t part,
                   FunctionRef<void(uint64_t, const float*)> visit) const;
  // visit(i, row) for those of `ids`, which rise by IdHash(), that are on disk.
  void GetAway(std::span<const uint64_t> ids,
               FunctionRef<void(size_t, const float*)> visit) const;
  // Rows that the rules drop.
  void DropAway(int64_t part, std::span<const uint64_t> ids);
  void EraseStale();
  void EraseOnDisk(int64_t slot);
  // Of a part: in memory and on disk.
  int64_t CountIn(int64_t part) const {
    return index_.count(part) +
           (away_.empty() ? 0 : away_[static_cast<size_t>(part)]);
  }
  bool spills() const { return options_.spill != nullptr; }
  size_t row_size() const {  // in floats, of what is on disk
    return static_cast<size_t>(value_words_ + state_floats_);
  }

  Options options_;
  uint64_t key_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t state_floats_ = 0;
  int64_t value_words_ = 0;  // floats that a row's values take the room of
  int64_t words_at_ = 0;     // floats before the words of the rules
  RowShares shares_;
  std::vector<float> widened_;  // rows while they are updated
  int64_t stride_ = 0;          // floats from row to row
  uint32_t segment_row_bits_ = 0;
  RowIndex index_;  // by slot, or parts of slots
  std::vector<float*> segments_;
  int64_t rows_made_ = 0;
  std::vector<uint32_t> free_rows_;  // made, but of no id now
  int64_t rows_evicted_ = 0;
  TableSnapshot* snapshot_ = nullptr;     // or none; told before rows change
  std::unique_ptr<ChangedRows> changes_;  // or null
  int64_t rows_admitted_ = 0;
  // Of the command under way, in its order.
  std::vector<uint64_t> admitted_;
  std::vector<uint64_t> waiting_;

  // Of a table that spills.
  int64_t rows_max_ = 0;  // in memory
  size_t batch_max_ = 0;  // ids that are brought together
  RowClock clock_;
  std::vector<uint32_t> away_;  // by part: rows on disk alone
  int64_t rows_away_ = 0;
  int64_t rows_fetched_ = 0;
  std::vector<uint64_t> stale_;  // on disk, to be erased there
};

// Of the table that counts the pushes to ids that `options.rules` keep waiting.
SparseTable::Options CandidateOptions(const SparseTable::Options& options);

}  // namespace shoal::ps

#endif  // SHOAL_PS_SPARSE_TABLE_H_
