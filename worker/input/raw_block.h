#ifndef SHOAL_WORKER_INPUT_RAW_BLOCK_H_
#define SHOAL_WORKER_INPUT_RAW_BLOCK_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace shoal::worker {

struct BadRow {
  int64_t line = 0;
  std::string reason;
  bool fatal = false;  // what follows in the file can't be read either
};

// An element of a list, before its transformations.
struct RawEntry {
  uint64_t key = 0;
  float weight = 1;
  uint32_t bag = 0;
};

// The rows of a text block, parsed but not yet transformed: what a fit looks
// at and an encoder writes. How many numbers and keys a row has, the
// FeaturePlan says; a missing number is NaN, a missing key kMissingKey.
struct RawBlock {
  int64_t num_rows = 0;
  std::vector<int64_t> lines;  // where each row begins in its file
  std::vector<float> labels;
  std::vector<uint8_t> in_test;  // split by hash or range; else empty
  std::vector<double> numbers;
  std::vector<uint64_t> keys;
  std::vector<RawEntry> entries;
  std::vector<size_t> entry_ends;  // per row, into `entries`
  std::vector<BadRow> bad_rows;    // left out above

  void Clear() {
    num_rows = 0;
    lines.clear();
    labels.clear();
    in_test.clear();
    numbers.clear();
    keys.clear();
    entries.clear();
    entry_ends.clear();
    bad_rows.clear();
  }

  size_t entries_begin(int64_t row) const {
    return row == 0 || entry_ends.empty()
               ? 0
               : entry_ends[static_cast<size_t>(row) - 1];
  }
  size_t entries_end(int64_t row) const {
    return entry_ends.empty() ? 0 : entry_ends[static_cast<size_t>(row)];
  }
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_RAW_BLOCK_H_
