#ifndef SHOAL_WORKER_INPUT_COLUMN_FEATURES_H_
#define SHOAL_WORKER_INPUT_COLUMN_FEATURES_H_

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "worker/input/feature_plan.h"
#include "worker/input/raw_block.h"
#include "worker/input/when.h"

namespace shoal::worker {

class DataSpec;
class FeatureSpec;
class WhenSpec;

// The columns that a job reads; a cell is a column of these.
class ColumnSet {
 public:
  // The cell of a column, new or not. One that is not `required` may lack in a
  // file and is missing there.
  int Add(std::string_view name, bool required);

  int size() const { return static_cast<int>(columns_.size()); }
  const std::string& name(int cell) const {
    return columns_[static_cast<size_t>(cell)].name;
  }
  bool required(int cell) const {
    return columns_[static_cast<size_t>(cell)].required;
  }

 private:
  struct Column {
    std::string name;
    bool required;
  };
  std::vector<Column> columns_;
  std::map<std::string, int, std::less<>> cells_;
};

// Compiles `data.features` and reads the raw values from a row's cells.
// Thread-safe once made.
class ColumnFeatures {
 public:
  // Adds to `columns` what is needed. Errors: kInvalidArgument (names the
  // feature and the key).
  static StatusOr<ColumnFeatures> Create(const DataSpec& data,
                                         ColumnSet* columns);

  const FeaturePlan& plan() const { return plan_; }

  // Appends the numbers, keys and entries of one row; a cell without data is
  // missing. False with `reason` if a cell can't be read: then what was
  // appended is for the caller to take back.
  bool ParseRow(const std::vector<std::string_view>& cells,
                const ColumnSet& columns, RawBlock* out,
                std::string* reason) const;

 private:
  // A part of a date that a job gives as a number or as a column.
  struct DateField {
    int cell = -1;
    std::optional<int> constant;
    bool given() const { return cell >= 0 || constant.has_value(); }
  };
  struct When {
    int cell = -1;  // of a whole date or time; -1: from the three below
    std::string format;
    DateField year, month, day;
    MomentPart part = MomentPart::kYear;
  };
  // How the raw value of the node of the same index is read.
  struct Reader {
    int cell = -1;
    std::optional<When> when;
    std::string separator;  // of lists
  };

  ColumnFeatures() = default;
  Status AddFeature(const FeatureSpec& spec, ColumnSet* columns);
  Status AddSource(const FeatureSpec& spec, ColumnSet* columns,
                   FeatureNode* node, Reader* reader);
  Status AddTransforms(const FeatureSpec& spec, FeatureNode* node);
  StatusOr<When> CreateWhen(const WhenSpec& spec, ColumnSet* columns);
  StatusOr<DateField> CreateDateField(const std::string& text,
                                      ColumnSet* columns);
  Status ResolveCross(size_t node, const std::vector<std::string>& names,
                      ColumnSet* columns);
  StatusOr<int> FindPart(const std::string& name, ColumnSet* columns);
  bool IsOnCycle(int node, std::vector<int>* state) const;
  void AssignSlots();

  bool ReadWhen(const When& when, const std::vector<std::string_view>& cells,
                const ColumnSet& columns, std::optional<int>* value,
                std::string* reason) const;
  bool ReadNode(size_t index, const std::vector<std::string_view>& cells,
                const ColumnSet& columns, RawBlock* out,
                std::string* reason) const;
  static void ReadList(std::string_view cell, const std::string& separator,
                       int bag, RawBlock* out);

  FeaturePlan plan_;
  std::vector<Reader> readers_;
  size_t num_features_ = 0;  // nodes that job files name; then raw columns
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_COLUMN_FEATURES_H_
