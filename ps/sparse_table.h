#ifndef SHOAL_PS_SPARSE_TABLE_H_
#define SHOAL_PS_SPARSE_TABLE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/function_ref.h"
#include "base/status.h"
#include "ps/initializer.h"
#include "ps/optimizer.h"

namespace shoal::ps {

// The rows of one table that a shard holds: id -> dim values, then optimizer
// state, f32, contiguous.
//
// Each slot has a small open-addressing index of its own (linear probing, in
// the order of IdHash(), 16 bytes an entry), which grows alone: no growth ever
// copies more than one slot's entries, and rows never move. Lookups come in
// batches and prefetch first the index, then the rows; ids that rise by
// IdHash() walk the index in order.
//
// A row that is not there has its first value, a function of (seed, table, id).
// Belongs to its shard's thread; Pull() and ForEach() may run beside each
// other.
class SparseTable {
 public:
  struct Options {
    std::string name;
    int64_t dim = 0;
    OptimizerConfig optimizer;
    Initializer initializer;
    uint64_t seed = 1;
    int slot_bits = 10;
  };

  // Errors: those of CreateOptimizer(); kInvalidArgument (dim < 1, slot_bits
  // outside [1, 24], or a row that does not fit a page of 2 MiB).
  static StatusOr<std::unique_ptr<SparseTable>> Create(const Options& options);
  ~SparseTable();
  SparseTable(const SparseTable&) = delete;
  SparseTable& operator=(const SparseTable&) = delete;

  const std::string& name() const { return options_.name; }
  int64_t dim() const { return options_.dim; }
  int64_t state_floats() const { return state_floats_; }
  int64_t num_rows() const {
    return rows_made_ - static_cast<int64_t>(free_rows_.size());
  }
  // Pages and indexes, without what the allocator adds; of the first page only
  // what is in use.
  int64_t memory_bytes() const;

  // Writes the values of `ids` to out[ids.size(), dim]. Changes nothing.
  void Pull(std::span<const uint64_t> ids, float* out) const;

  // Updates the rows of `ids`, all distinct, with gradients[ids.size(), dim];
  // inserts those that are not there. `step`: as in ApplyBatch.
  void Apply(std::span<const uint64_t> ids, const float* gradients,
             double learning_rate_factor, int64_t step = 0);

  // Inserts a row, or replaces it.
  void Load(uint64_t id, std::span<const float> values,
            std::span<const float> state);

  // Drops all rows of a slot; their memory is used again by later rows.
  void EraseSlot(int64_t slot);

  // Calls visit(id, row) for all rows, in the order of IdHash(); a row is dim
  // values and then state_floats() of state.
  void ForEach(FunctionRef<void(uint64_t, const float*)> visit) const;

 private:
  struct Entry {
    uint64_t id;
    uint32_t row;  // kNoRow: free
    uint32_t unused;
  };
  static constexpr uint32_t kNoRow = 0xffffffffU;
  struct Index {
    std::unique_ptr<Entry[]> entries;
    uint32_t capacity_bits = 0;
    uint32_t count = 0;
  };

  explicit SparseTable(const Options& options);

  // Where the search for `hash` begins.
  const Entry* Home(const Index& index, uint64_t hash) const;
  const Entry* Find(const Index& index, uint64_t hash, uint64_t id) const;
  uint32_t Insert(Index& index, uint64_t hash, uint64_t id);
  void Grow(Index& index);
  uint32_t NewRow();
  float* RowAt(uint32_t row) const;
  void InitValues(uint64_t id, float* out) const;

  Options options_;
  uint64_t key_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t state_floats_ = 0;
  int64_t stride_ = 0;  // floats from row to row
  uint32_t page_row_bits_ = 0;
  std::vector<Index> slots_;
  std::vector<float*> pages_;
  int64_t rows_made_ = 0;
  std::vector<uint32_t> free_rows_;  // made, but of no id now
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_SPARSE_TABLE_H_
