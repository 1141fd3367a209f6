#include "worker/input/batch.h"

#include <algorithm>
#include <cmath>

#include "base/strcat.h"

namespace shoal::worker {
namespace {

Status CheckPositions(const Examples& examples,
                      std::span<const int64_t> positions) {
  for (const int64_t position : positions) {
    if (position < 0 || position >= examples.num_rows()) {
      return InvalidArgumentError(StrCat("batch: position ", position,
                                         " is outside [0, ",
                                         examples.num_rows(), ")"));
    }
  }
  return OkStatus();
}

Status NotFinite(const Examples& examples, int64_t position,
                 std::string_view what) {
  return DataLossError(StrCat(examples.file().path(), ": row ",
                              examples.file_row(position), ": ", what,
                              " is not finite; the file is damaged"));
}

Status FillFixed(const Examples& examples, std::span<const int64_t> positions,
                 Batch& batch) {
  const RecordSchema& schema = examples.schema();
  float* numeric = batch.numeric.data();
  uint64_t* ids = batch.ids.data();
  for (size_t i = 0; i < positions.size(); ++i) {
    const RecordRow row = examples.Row(positions[i]);
    if (schema.labelled && !std::isfinite(row.label)) {
      return NotFinite(examples, positions[i], "the label");
    }
    batch.labels[i] = row.label;
    for (const float value : row.numeric) {
      if (!std::isfinite(value)) {
        return NotFinite(examples, positions[i], "a number");
      }
      *numeric++ = value;
    }
    ids = std::copy(row.ids.begin(), row.ids.end(), ids);
  }
  return OkStatus();
}

Status FillBag(const Examples& examples, std::span<const int64_t> positions,
               int64_t index, Batch::Bag& bag) {
  bag.ids.clear();
  bag.weights.clear();
  bag.offsets.clear();
  bag.offsets.push_back(0);
  for (const int64_t position : positions) {
    SHOAL_ASSIGN_OR_RETURN(const RecordBag entries,
                           examples.Bag(position, index));
    bag.ids.insert(bag.ids.end(), entries.ids.begin(), entries.ids.end());
    for (const float weight : entries.weights) {
      if (!std::isfinite(weight)) {
        return NotFinite(examples, position, "a weight");
      }
      bag.weights.push_back(weight);
    }
    bag.offsets.push_back(static_cast<int64_t>(bag.ids.size()));
  }
  return OkStatus();
}

}  // namespace

Status FillBatch(const Examples& examples, std::span<const int64_t> positions,
                 Batch& batch) {
  SHOAL_RETURN_IF_ERROR(CheckPositions(examples, positions));
  const size_t size = positions.size();
  batch.size = static_cast<int64_t>(size);
  if (size == 0) {
    // Examples without a file have no schema.
    batch.labels.clear();
    batch.numeric.clear();
    batch.ids.clear();
    for (Batch::Bag& bag : batch.bags) {
      bag.ids.clear();
      bag.weights.clear();
      bag.offsets.assign(1, 0);
    }
    return OkStatus();
  }
  const RecordSchema& schema = examples.schema();
  batch.labels.resize(size);
  batch.numeric.resize(size * schema.numeric.size());
  batch.ids.resize(size * schema.categorical.size());
  batch.bags.resize(schema.bags.size());
  SHOAL_RETURN_IF_ERROR(FillFixed(examples, positions, batch));
  for (size_t i = 0; i < batch.bags.size(); ++i) {
    SHOAL_RETURN_IF_ERROR(
        FillBag(examples, positions, static_cast<int64_t>(i), batch.bags[i]));
  }
  return OkStatus();
}

}  // namespace shoal::worker
