#include "worker/input/row_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/strcat.h"

namespace shoal::worker {

RowEncoder::RowEncoder(const FeaturePlan& plan, const FittedTransforms& fitted,
                       const RecordSchema& schema)
    : plan_(plan), schema_(schema), transforms_(plan, fitted) {
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    const FeatureNode& node = plan.nodes[i];
    const int index = static_cast<int>(i);
    if (!node.is_input) {
      continue;
    }
    if (node.value == FeatureNode::Value::kNumber) {
      numeric_.push_back(index);
    } else if (node.value != FeatureNode::Value::kList) {
      categorical_.push_back(index);
    } else if (!plan.bag_per_field) {
      bag_nodes_.push_back(index);
      raw_bags_.push_back(static_cast<uint32_t>(node.slot));
    } else {
      for (const BagField& bag : schema.bags) {
        raw_bags_.push_back(static_cast<uint32_t>(bag_nodes_.size()));
        bag_nodes_.push_back(index);
        field_keys_.push_back(HashText(bag.name));
      }
    }
  }
}

void RowEncoder::Encode(const RawBlock& block, EncodedBlock* out) const {
  out->num_rows = block.num_rows;
  out->record_bytes = schema_.record_bytes();
  out->records.assign(static_cast<size_t>(block.num_rows * out->record_bytes),
                      0);
  out->bag_ids.clear();
  out->bag_weights.clear();
  out->bag_ends.clear();
  out->rejected.clear();
  for (int64_t row = 0; row < block.num_rows; ++row) {
    char* record = out->records.data() + row * out->record_bytes;
    EncodeFixed(block, row, record, out);
    if (!schema_.bags.empty() || plan_.bag_per_field) {
      EncodeBags(block, row, record, out);
    }
  }
}

void RowEncoder::EncodeFixed(const RawBlock& block, int64_t row, char* record,
                             EncodedBlock* out) const {
  std::memcpy(record, &block.labels[static_cast<size_t>(row)], sizeof(float));
  char* at = record + sizeof(float);
  for (const int node : numeric_) {
    const FeatureNode& feature = plan_.nodes[static_cast<size_t>(node)];
    const double raw = block.numbers[static_cast<size_t>(
        row * plan_.numbers_per_row + feature.slot)];
    const float number = transforms_.NumberOf(node, raw);
    if (std::isnan(number)) {
      out->rejected.emplace_back(row,
                                 StrCat("feature '", feature.name, "': ", raw,
                                        " is too large; try `log: true`"));
    }
    std::memcpy(at, &number, sizeof(number));
    at += sizeof(number);
  }
  at = record + schema_.ids_offset();
  for (const int node : categorical_) {
    const uint64_t id =
        transforms_.IdOf(node, transforms_.KeyOf(node, block, row));
    std::memcpy(at, &id, sizeof(id));
    at += sizeof(id);
  }
}

void RowEncoder::EncodeBags(const RawBlock& block, int64_t row, char* record,
                            EncodedBlock* out) const {
  const size_t begin = out->bag_ids.size();
  const std::span<const RawEntry> entries =
      std::span(block.entries)
          .subspan(block.entries_begin(row),
                   block.entries_end(row) - block.entries_begin(row));
  // Files mostly list the fields in order: then one walk finds them all.
  const bool in_order = std::is_sorted(
      entries.begin(), entries.end(),
      [](const RawEntry& a, const RawEntry& b) { return a.bag < b.bag; });
  char* ends = record + schema_.bags_offset() + sizeof(uint64_t);
  size_t at = 0;
  for (size_t bag = 0; bag < raw_bags_.size(); ++bag) {
    at = in_order ? at : 0;
    for (; at < entries.size(); ++at) {
      if (entries[at].bag == raw_bags_[bag]) {
        EncodeEntry(entries[at], bag, out);
      } else if (in_order && entries[at].bag > raw_bags_[bag]) {
        break;
      }
    }
    const auto end = static_cast<uint32_t>(out->bag_ids.size() - begin);
    std::memcpy(ends + bag * sizeof(end), &end, sizeof(end));
  }
  out->bag_ends.push_back(out->bag_ids.size());
  for (const RawEntry& entry : entries) {
    if (plan_.bag_per_field && entry.bag >= raw_bags_.size()) {
      out->rejected.emplace_back(
          row, StrCat("field ", entry.bag, " is outside the ", raw_bags_.size(),
                      " fields seen in training"));
      break;
    }
  }
}

void RowEncoder::EncodeEntry(const RawEntry& entry, size_t bag,
                             EncodedBlock* out) const {
  const int node = bag_nodes_[bag];
  uint64_t id = transforms_.IdOf(node, entry.key);
  if (plan_.bag_per_field &&
      plan_.nodes[static_cast<size_t>(node)].hash_buckets > 0) {
    // Taken modulo per field, so fields must not share what is left.
    id = HashKey(field_keys_[bag], id);
  }
  out->bag_ids.push_back(id);
  out->bag_weights.push_back(entry.weight);
}

}  // namespace shoal::worker
