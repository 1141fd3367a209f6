#ifndef SHOAL_PS_TABLE_SNAPSHOT_H_
#define SHOAL_PS_TABLE_SNAPSHOT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/function_ref.h"
#include "ps/changed_rows.h"
#include "ps/row_index.h"

namespace shoal::ps {

class SparseTable;

// The rows of a table as they were at one moment (the cut, when this was made),
// read piece by piece while the table goes on: a row is kept before its first
// change (copy on write) or before its slot goes, and what came later is passed
// over. Or of these rows only those that a ChangedSet has, and which went.
//
// Belongs to the thread of its table, which must outlive it; one per table.
class TableSnapshot {
 public:
  // Of the rows in `slots`; null: all. `changed`: of these, what changed up to
  // the cut; null: all.
  TableSnapshot(SparseTable& table, const std::vector<bool>* slots,
                std::shared_ptr<ChangedSet> changed = nullptr);
  ~TableSnapshot();
  TableSnapshot(const TableSnapshot&) = delete;
  TableSnapshot& operator=(const TableSnapshot&) = delete;

  // Visits the next rows in the order of IdHash(), as SparseTable::ForEach()
  // does, until visit() returns false or none is left; false: none is. One that
  // changed and has no row is visited among them without values. A table that
  // spills reads the disk for all of a part of its index at once; its status()
  // is to be asked after.
  bool Next(FunctionRef<bool(uint64_t, std::span<const std::byte>,
                             std::span<const float>)>
                visit);

  // Of rows that were kept, with what finds them.
  int64_t kept_bytes() const;

  // Whether rows of this part of the index are yet to be visited.
  bool Covers(int64_t part) const;
  // For the table, before it does so. `row` lies as in the table.
  void BeforeChange(uint64_t hash, uint64_t id, const float* row);
  void BeforeInsert(uint64_t hash, uint64_t id);
  void BeforeErase(int64_t slot);

 private:
  // Of kept_: the id had no row.
  static constexpr uint32_t kAbsent = RowIndex::kNone - 1;

  struct Pending {
    uint64_t hash;
    uint64_t id;
    uint32_t row;  // of the table, if it is not kept, or of copies_; kAbsent
  };

  // The next part that has rows; false: there is none.
  bool Gather();
  void GatherAll();
  void GatherChanged(int64_t slot);
  void Add(uint64_t id, const float* row, uint32_t number);
  // Whether the row is of what is to be visited.
  bool IsOf(int64_t part, uint64_t hash) const;
  const float* RowOf(const Pending& pending) const;
  float* KeptRow(uint32_t number) const;

  SparseTable& table_;
  const std::vector<bool>* const slots_;
  const std::shared_ptr<ChangedSet> changed_;
  const size_t row_size_;  // in floats

  int64_t part_ = -1;  // that pending_ is of: all before it were visited
  std::vector<Pending> pending_;
  size_t at_ = 0;
  // Of a table that spills: the rows of pending_, which may move.
  std::vector<float> copies_;

  RowIndex kept_;  // id -> number of its row, or kAbsent
  uint32_t num_kept_ = 0;
  std::vector<std::unique_ptr<float[]>> kept_rows_;  // in blocks
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_TABLE_SNAPSHOT_H_
