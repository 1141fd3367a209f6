#include <cstring>
#include <limits>

#include "base/strcat.h"
#include "worker/input/number.h"
#include "worker/input/row_format.h"
#include "worker/job.pb.h"

namespace shoal::worker {
namespace {

constexpr int kNumbers = 13;
constexpr int kCategories = 26;
constexpr size_t kHexDigitsMax = 16;

// `label \t 13 numbers \t 26 ids`, all but the label may be missing. Ids of up
// to 16 digits are read as hexadecimal, be they meant so or not: different
// texts stay different, and that is all an id is for.
class CriteoFormat : public RowFormat {
 public:
  CriteoFormat(LabelRule rule, int64_t hash_buckets) : rule_(std::move(rule)) {
    for (int i = 0; i < kNumbers; ++i) {
      FeatureNode node;
      node.name = StrCat("I", i + 1);
      node.value = FeatureNode::Value::kNumber;
      node.slot = i;
      plan_.nodes.push_back(node);
    }
    for (int i = 0; i < kCategories; ++i) {
      FeatureNode node;
      node.name = StrCat("C", i + 1);
      node.slot = i;
      node.hash_buckets = hash_buckets;
      plan_.nodes.push_back(node);
    }
    plan_.numbers_per_row = kNumbers;
    plan_.keys_per_row = kCategories;
  }

  const FeaturePlan& plan() const override { return plan_; }

  void Parse(const TextBlock& block, const FileLayout& layout,
             int64_t bad_rows_max, RawBlock* out) const override {
    (void)layout;
    out->Clear();
    std::string_view text = block.text;
    std::string reason;
    for (int64_t line = block.first_line; !text.empty(); ++line) {
      const size_t newline = std::min(text.find('\n'), text.size());
      std::string_view row = text.substr(0, newline);
      text.remove_prefix(std::min(newline + 1, text.size()));
      if (row.ends_with('\r')) {
        row.remove_suffix(1);
      }
      if (row.empty()) {
        continue;
      }
      if (ParseRow(row, out, &reason)) {
        out->lines.push_back(line);
        ++out->num_rows;
        continue;
      }
      const auto rows = static_cast<size_t>(out->num_rows);
      out->numbers.resize(rows * kNumbers);
      out->keys.resize(rows * kCategories);
      out->bad_rows.push_back({line, reason});
      if (static_cast<int64_t>(out->bad_rows.size()) > bad_rows_max) {
        return;
      }
    }
  }

 private:
  static int Split(std::string_view row, std::string_view* cells, int max) {
    int count = 0;
    for (;;) {
      const size_t tab = row.find('\t');
      if (count < max) {
        cells[count] = row.substr(0, tab);
      }
      ++count;
      if (tab == std::string_view::npos) {
        return count;
      }
      row.remove_prefix(tab + 1);
    }
  }

  bool ParseRow(std::string_view row, RawBlock* out,
                std::string* reason) const {
    constexpr int kColumns = 1 + kNumbers + kCategories;
    std::string_view cells[kColumns];
    const int count = Split(row, cells, kColumns);
    const bool unlabelled = rule_.may_be_missing && count == kColumns - 1;
    if (count != kColumns && !unlabelled) {
      *reason = StrCat("has ", count, " columns, expected ", kColumns,
                       ": label, 13 numbers, 26 ids, with tabs between");
      return false;
    }
    const std::string_view* cell = cells;
    float label = std::numeric_limits<float>::quiet_NaN();
    if (!unlabelled) {
      const std::string_view text = *cell++;
      const char* wrong = ParseLabel(text, &label);
      if (wrong != nullptr) {
        *reason = StrCat("column 1 (label): ", Quoted(text), " ", wrong);
        return false;
      }
    }
    return ParseNumbers(cell, out, reason) &&
           ParseIds(cell + kNumbers, out, reason) &&
           (out->labels.push_back(label), true);
  }

  const char* ParseLabel(std::string_view text, float* label) const {
    double value = 0;
    if (text.empty() && rule_.may_be_missing) {
      return nullptr;
    }
    if (!ParseNumber(text, &value)) {
      return "is no finite number";
    }
    return rule_.Check(value, true, label);
  }

  static bool ParseNumbers(const std::string_view* cells, RawBlock* out,
                           std::string* reason) {
    for (int i = 0; i < kNumbers; ++i) {
      double number = std::numeric_limits<double>::quiet_NaN();
      float as_float = 0;
      if (!cells[i].empty()) {
        if (!ParseFloat(cells[i], &as_float)) {
          *reason = StrCat("column I", i + 1, ": ", Quoted(cells[i]),
                           " is no finite number");
          return false;
        }
        number = as_float;
      }
      out->numbers.push_back(number);
    }
    return true;
  }

  static bool ParseIds(const std::string_view* cells, RawBlock* out,
                       std::string* reason) {
    for (int i = 0; i < kCategories; ++i) {
      uint64_t key = kMissingKey;
      const std::string_view cell = cells[i];
      const bool good = cell.empty() || (cell.size() <= kHexDigitsMax
                                             ? ParseHexadecimal(cell, &key)
                                             : ParseDecimal(cell, &key));
      if (!good) {
        *reason = StrCat("column C", i + 1, ": ", Quoted(cell),
                         " is no id of 64 bits: up to 16 hexadecimal digits, "
                         "or a decimal number below 2^64");
        return false;
      }
      out->keys.push_back(key);
    }
    return true;
  }

  LabelRule rule_;
  FeaturePlan plan_;
};

}  // namespace

StatusOr<std::unique_ptr<RowFormat>> CreateCriteoFormat(const JobSpec& job,
                                                        bool prediction) {
  return std::unique_ptr<RowFormat>(std::make_unique<CriteoFormat>(
      LabelRule{job.model().task(), job.model().classes(), prediction},
      job.data().hash_buckets()));
}

}  // namespace shoal::worker
