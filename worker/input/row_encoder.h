#ifndef SHOAL_WORKER_INPUT_ROW_ENCODER_H_
#define SHOAL_WORKER_INPUT_ROW_ENCODER_H_

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "worker/input/feature_plan.h"
#include "worker/input/raw_block.h"
#include "worker/input/record_schema.h"

namespace shoal::worker {

// Records as RecordWriter::Append() takes them.
struct EncodedBlock {
  int64_t num_rows = 0;
  int64_t record_bytes = 0;
  std::vector<char> records;
  std::vector<uint64_t> bag_ids;
  std::vector<float> bag_weights;  // as long as `bag_ids`
  std::vector<size_t> bag_ends;    // per row, into `bag_ids`
  // Rows that can't be written, with why; rare.
  std::vector<std::pair<int64_t, std::string>> rejected;

  std::span<const char> record(int64_t row) const {
    return std::span(records).subspan(static_cast<size_t>(row * record_bytes),
                                      static_cast<size_t>(record_bytes));
  }
  std::span<const uint64_t> ids(int64_t row) const {
    const auto [begin, size] = Range(row);
    return std::span(bag_ids).subspan(begin, size);
  }
  std::span<const float> weights(int64_t row) const {
    const auto [begin, size] = Range(row);
    return std::span(bag_weights).subspan(begin, size);
  }

 private:
  std::pair<size_t, size_t> Range(int64_t row) const {
    if (bag_ends.empty()) {
      return {0, 0};
    }
    const size_t begin = row == 0 ? 0 : bag_ends[static_cast<size_t>(row) - 1];
    return {begin, bag_ends[static_cast<size_t>(row)] - begin};
  }
};

// Turns raw rows into records. Thread-safe.
class RowEncoder {
 public:
  // `plan` must outlive this object.
  RowEncoder(const FeaturePlan& plan, const FittedTransforms& fitted,
             const RecordSchema& schema);

  void Encode(const RawBlock& block, EncodedBlock* out) const;

 private:
  void EncodeFixed(const RawBlock& block, int64_t row, char* record,
                   EncodedBlock* out) const;
  void EncodeBags(const RawBlock& block, int64_t row, char* record,
                  EncodedBlock* out) const;
  void EncodeEntry(const RawEntry& entry, size_t bag, EncodedBlock* out) const;

  const FeaturePlan& plan_;
  RecordSchema schema_;
  FeatureTransforms transforms_;
  std::vector<int> numeric_;          // nodes
  std::vector<int> categorical_;      // nodes
  std::vector<int> bag_nodes_;        // by bag of the schema
  std::vector<uint32_t> raw_bags_;    // by bag of the schema
  std::vector<uint64_t> field_keys_;  // by field, with `bag_per_field`
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_ROW_ENCODER_H_
