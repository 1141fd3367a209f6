#ifndef SHOAL_PS_CHECKPOINT_PARTS_H_
#define SHOAL_PS_CHECKPOINT_PARTS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/function_ref.h"
#include "base/status.h"
#include "ps/safetensors.h"
#include "ps/slots.h"

namespace shoal::ps {

// What the files of a checkpoint hold (see ps/checkpoint_format.h), checked.
// Spans lie in the tensors that they were taken from.

// What the rows of a table have in common.
struct TableForm {
  int64_t dim = 0;
  int64_t state_floats = 0;  // of a row
  DType format = DType::kF32;

  int64_t value_bytes() const { return dim * SizeOf(format); }
  int64_t row_bytes() const { return 8 + value_bytes() + state_floats * 4; }
  bool operator==(const TableForm&) const = default;
};

// By slot, by the top bits of IdHash(); of no bits: false for all.
struct SlotFlags {
  int bits = 0;
  std::vector<bool> of;

  bool Has(uint64_t hash) const {
    return bits > 0 && of[static_cast<size_t>(SlotOfHash(hash, bits))];
  }
};

// The rows of a table in one file, in the order of IdHash().
struct TableTensors {
  TableForm form;
  std::span<const uint64_t> ids;
  std::span<const std::byte> values;
  std::span<const float> state;
  // Of an incremental checkpoint: ids that have no row any more, in the same
  // order; and, in a file without rows, bit by bit the slots all of whose rows
  // are here.
  std::span<const uint64_t> removed;
  std::span<const uint64_t> whole;

  // Adds its whole slots. False: it has flags of another number of slots.
  bool AddWholeTo(SlotFlags& flags) const;

  std::span<const std::byte> values_of(size_t row) const {
    const auto bytes = static_cast<size_t>(form.value_bytes());
    return values.subspan(row * bytes, bytes);
  }
  std::span<const float> state_of(size_t row) const {
    const auto floats = static_cast<size_t>(form.state_floats);
    return state.subspan(row * floats, floats);
  }
};

// "deep/0/w@16384": a piece of a dense variable, named by its first element.
struct ChunkName {
  std::string variable;
  int64_t first = 0;
};

// F32.
struct ChunkTensors {
  Buffer values;
  Buffer state;
};

// As safetensors calls them.
const char* FormatName(DType format);

// Rows of one table on their way into a file.
class GatheredRows {
 public:
  explicit GatheredRows(const TableForm& form) : form_(form) {}

  // Room for so many, so that Add() copies none of those before.
  void Reserve(int64_t rows);
  void Add(uint64_t id, std::span<const std::byte> values,
           std::span<const float> state);
  void AddRemoved(uint64_t id) { removed_.push_back(id); }

  const std::vector<uint64_t>& ids() const { return ids_; }
  bool empty() const { return ids_.empty() && removed_.empty(); }
  // Those of `slots` that they lie in or between; not if it is empty.
  SlotSet SlotsIn(SlotSet slots) const;
  // Whether one more would be beyond `bytes_max`.
  bool IsFull(int64_t bytes_max) const {
    return (static_cast<int64_t>(ids_.size()) + 1) * form_.row_bytes() +
               static_cast<int64_t>(removed_.size()) * 8 >
           bytes_max;
  }

  // Adds them as PREFIXids, PREFIXvalues, if `with_state` PREFIXstate, if there
  // are some PREFIXremoved, and starts anew.
  void MoveTo(TensorsWriter& writer, const std::string& prefix,
              bool with_state = true);

 private:
  const TableForm form_;
  std::vector<uint64_t> ids_;
  std::vector<std::byte> values_;
  std::vector<float> state_;
  std::vector<uint64_t> removed_;
};

// The tensors of table `name`, whose sizes agree and whose ids rise by
// IdHash(), so that none is there twice, nor both removed and there. Errors:
// kDataLoss, naming `file`.
StatusOr<TableTensors> TableOf(const Tensors& tensors, const std::string& file,
                               const std::string& name);

// Visits what a file holds: tables, then chunks.
// Errors: kDataLoss, naming `file`; whatever a visit returns.
Status VisitPart(
    const std::string& file, const Tensors& tensors,
    FunctionRef<Status(const std::string&, const TableTensors&)> on_table,
    FunctionRef<Status(const ChunkName&, const ChunkTensors&)> on_chunk);

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_PARTS_H_
