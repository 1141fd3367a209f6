#ifndef SHOAL_WORKER_INPUT_ROW_FORMAT_H_
#define SHOAL_WORKER_INPUT_ROW_FORMAT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "worker/input/feature_plan.h"
#include "worker/input/raw_block.h"
#include "worker/input/text_block.h"

namespace shoal::worker {

class JobSpec;

// What the label of a job may be.
struct LabelRule {
  std::string task = "binary";
  int32_t classes = 2;
  bool may_be_missing = false;  // rows to predict: NaN then

  // What is wrong with a label, or null; binary also takes -1 for 0 with
  // `signs`.
  const char* Check(double value, bool signs, float* label) const;
};

// Where the columns of one CSV file are; nothing for other formats.
struct FileLayout {
  int num_columns = 0;
  std::vector<int> cell_of_column;  // -1: not needed
};

// One text format: how its rows are read into RawBlocks. Thread-safe once
// made.
class RowFormat {
 public:
  virtual ~RowFormat() = default;

  virtual BlockReader::Options block_options() const { return {}; }
  virtual const FeaturePlan& plan() const = 0;

  // Reads what stands before the rows and takes it off `first`, the first
  // block of the file at `path`.
  // Errors: kInvalidArgument (the header lacks a column).
  virtual StatusOr<FileLayout> ReadHeader(const std::string& path,
                                          TextBlock* first) const {
    (void)path;
    (void)first;
    return FileLayout{};
  }

  // Clears and fills `out`. Stops early after `bad_rows_max` bad rows.
  virtual void Parse(const TextBlock& block, const FileLayout& layout,
                     int64_t bad_rows_max, RawBlock* out) const = 0;
};

// `prediction`: labels may be missing, and there is no filter and no split.
// Errors: kInvalidArgument (a key of the job that can't be).
StatusOr<std::unique_ptr<RowFormat>> CreateRowFormat(const JobSpec& job,
                                                     bool prediction);

// One per text format; CreateRowFormat() chooses.
StatusOr<std::unique_ptr<RowFormat>> CreateCsvFormat(const JobSpec& job,
                                                     bool prediction);
StatusOr<std::unique_ptr<RowFormat>> CreateLibsvmFormat(const JobSpec& job,
                                                        bool with_fields,
                                                        bool prediction);
StatusOr<std::unique_ptr<RowFormat>> CreateCriteoFormat(const JobSpec& job,
                                                        bool prediction);

// A piece of the data for an error: in quotes, short, no control characters.
std::string Quoted(std::string_view text);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_ROW_FORMAT_H_
