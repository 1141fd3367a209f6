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

// The rows of a table in one file, in the order of IdHash().
struct TableTensors {
  TableForm form;
  std::span<const uint64_t> ids;
  std::span<const std::byte> values;
  std::span<const float> state;

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

  const std::vector<uint64_t>& ids() const { return ids_; }
  // Whether one more would be beyond `bytes_max`.
  bool IsFull(int64_t bytes_max) const {
    return (static_cast<int64_t>(ids_.size()) + 1) * form_.row_bytes() >
           bytes_max;
  }

  // Adds them as PREFIXids, PREFIXvalues and, if `with_state`, PREFIXstate, and
  // starts anew.
  void MoveTo(TensorsWriter& writer, const std::string& prefix,
              bool with_state = true);

 private:
  const TableForm form_;
  std::vector<uint64_t> ids_;
  std::vector<std::byte> values_;
  std::vector<float> state_;
};

// The tensors of table `name`, whose sizes agree and whose ids rise by
// IdHash(), so that none is there twice. Errors: kDataLoss, naming `file`.
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
