#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "base/strcat.h"
#include "worker/input/column_features.h"
#include "worker/input/condition.h"
#include "worker/input/csv.h"
#include "worker/input/number.h"
#include "worker/input/row_format.h"
#include "worker/job.pb.h"

namespace shoal::worker {
namespace {

constexpr size_t kColumnsShown = 30;

std::string Join(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kColumnsShown); ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  return names.size() > kColumnsShown ? text + ", ..." : text;
}

// Rows of columns with names, as the job file's `data.csv`, `label`, `filter`,
// `split` and `features` describe them.
class CsvFormat : public RowFormat {
 public:
  explicit CsvFormat(LabelRule rule) : rule_(std::move(rule)) {}

  Status Init(const DataSpec& data, bool prediction);

  BlockReader::Options block_options() const override {
    BlockReader::Options options;
    options.quoted_newlines = true;
    options.delimiter = delimiter_;
    options.skip_prefixes = skip_prefixes_;
    return options;
  }
  const FeaturePlan& plan() const override { return features_->plan(); }

  StatusOr<FileLayout> ReadHeader(const std::string& path,
                                  TextBlock* first) const override;
  void Parse(const TextBlock& block, const FileLayout& layout,
             int64_t bad_rows_max, RawBlock* out) const override;

 private:
  enum class SplitBy { kOther, kHash, kRange };
  enum class RowKind { kGood, kFiltered, kBad };
  struct CellCondition {
    Condition condition;
    int cell;
  };

  Status InitForm(const DataSpec& data);
  void InitCriteo();
  Status InitLabel(const std::string& label, bool prediction);
  Status InitSplit(const SplitSpec& split);
  StatusOr<FileLayout> LayoutOf(const std::string& path,
                                const std::vector<std::string>& names) const;
  void Project(const std::vector<std::string_view>& fields,
               const FileLayout& layout,
               std::vector<std::string_view>* cells) const;
  bool IsMissing(std::string_view cell) const {
    return cell.empty() ||
           std::find(missing_.begin(), missing_.end(), cell) != missing_.end();
  }
  RowKind ParseRow(const std::vector<std::string_view>& cells, RawBlock* out,
                   std::string* reason) const;
  bool ParseLabel(const std::vector<std::string_view>& cells, float* label,
                  std::string* reason) const;
  bool ParseSplit(const std::vector<std::string_view>& cells, RawBlock* out,
                  std::string* reason) const;
  void TakeBack(size_t entries, RawBlock* out) const;

  LabelRule rule_;
  char delimiter_ = ',';
  bool header_ = true;
  std::vector<std::string> names_;  // when there is no header
  std::vector<std::string> missing_;
  std::vector<std::string> skip_prefixes_;
  std::map<std::string, std::string> aliases_;

  ColumnSet columns_;
  int label_cell_ = -1;
  std::optional<Condition> label_condition_;
  std::vector<CellCondition> filters_;
  SplitBy split_by_ = SplitBy::kOther;
  int split_cell_ = -1;
  uint64_t split_parts_ = 1;
  uint64_t split_test_ = 0;
  double split_from_ = 0;
  double split_to_ = 0;
  std::optional<ColumnFeatures> features_;
};

Status CsvFormat::Init(const DataSpec& data, bool prediction) {
  SHOAL_RETURN_IF_ERROR(InitForm(data));
  std::string label = data.label();
  if (data.format() == "criteo") {
    InitCriteo();
    label = label.empty() ? "label" : label;
  }
  SHOAL_RETURN_IF_ERROR(InitLabel(label, prediction));
  for (const std::string& text : data.filter()) {
    SHOAL_ASSIGN_OR_RETURN(std::optional<Condition> condition,
                           Condition::Parse(text));
    if (!condition.has_value()) {
      return InvalidArgumentError(
          StrCat("data.filter: '", text,
                 "' is no comparison; expected one "
                 "like `arr_delay present` or `distance >= 100`"));
    }
    if (!prediction) {
      const int cell = columns_.Add(condition->column(), true);
      filters_.push_back({*std::move(condition), cell});
    }
  }
  if (!prediction) {
    SHOAL_RETURN_IF_ERROR(InitSplit(data.split()));
  }
  SHOAL_ASSIGN_OR_RETURN(features_, ColumnFeatures::Create(data, &columns_));
  return OkStatus();
}

Status CsvFormat::InitForm(const DataSpec& data) {
  const CsvSpec& csv = data.csv();
  const std::string& delimiter = csv.delimiter();
  if (delimiter == "\\t" || delimiter == "tab") {
    delimiter_ = '\t';
  } else if (delimiter.size() == 1 && delimiter[0] != '"' &&
             delimiter[0] != '\n' && delimiter[0] != '\r') {
    delimiter_ = delimiter[0];
  } else {
    return InvalidArgumentError(
        StrCat("data.csv.delimiter is ", Quoted(delimiter),
               "; expected one character (\\t for a tab), no quote or line "
               "end"));
  }
  header_ = csv.header();
  names_ = {csv.columns().begin(), csv.columns().end()};
  missing_ = {csv.missing().begin(), csv.missing().end()};
  skip_prefixes_ = {csv.skip_prefixes().begin(), csv.skip_prefixes().end()};
  aliases_ = {csv.aliases().begin(), csv.aliases().end()};
  if (!header_ && names_.empty() && data.format() != "criteo") {
    return InvalidArgumentError(
        "data.csv.header is false, so data.csv.columns must name the columns");
  }
  return OkStatus();
}

void CsvFormat::InitCriteo() {
  delimiter_ = '\t';
  header_ = false;
  names_ = {"label"};
  for (int i = 1; i <= 13; ++i) {
    names_.push_back(StrCat("I", i));
  }
  for (int i = 1; i <= 26; ++i) {
    names_.push_back(StrCat("C", i));
  }
}

Status CsvFormat::InitLabel(const std::string& label, bool prediction) {
  if (label.empty()) {
    if (prediction) {
      return OkStatus();
    }
    return InvalidArgumentError(
        "data.label is empty; name the column or comparison to learn");
  }
  SHOAL_ASSIGN_OR_RETURN(label_condition_, Condition::Parse(label));
  label_cell_ = columns_.Add(
      label_condition_.has_value() ? label_condition_->column() : label,
      !prediction);
  return OkStatus();
}

Status CsvFormat::InitSplit(const SplitSpec& split) {
  if (split.by() != "hash" && split.by() != "range") {
    return OkStatus();
  }
  if (split.column().empty()) {
    return InvalidArgumentError(
        StrCat("data.split.by: ", split.by(), " needs data.split.column"));
  }
  split_cell_ = columns_.Add(split.column(), true);
  if (split.by() == "hash") {
    split_by_ = SplitBy::kHash;
    split_parts_ = static_cast<uint64_t>(split.n());
    split_test_ = static_cast<uint64_t>(split.test());
    return OkStatus();
  }
  split_by_ = SplitBy::kRange;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  split_from_ = split.has_from() ? split.from() : -kInfinity;
  split_to_ = split.has_to() ? split.to() : kInfinity;
  if (!(split_from_ <= split_to_) || (!split.has_from() && !split.has_to())) {
    return InvalidArgumentError(
        "data.split.by: range needs data.split.from <= data.split.to");
  }
  return OkStatus();
}

StatusOr<FileLayout> CsvFormat::ReadHeader(const std::string& path,
                                           TextBlock* first) const {
  if (!header_) {
    return LayoutOf(path, names_);
  }
  CsvTokenizer tokenizer(first->text, first->first_line, delimiter_,
                         skip_prefixes_);
  if (!tokenizer.Next()) {
    return InvalidArgumentError(StrCat(
        path, ": is empty, expected a header line with the names of columns"));
  }
  if (!tokenizer.error().empty()) {
    return InvalidArgumentError(
        StrCat(path, ":", tokenizer.line(),
               ": the header is no CSV: ", tokenizer.error()));
  }
  const std::vector<std::string> names(tokenizer.fields().begin(),
                                       tokenizer.fields().end());
  const auto size =
      static_cast<size_t>(tokenizer.position() - first->text.data());
  first->first_line +=
      std::count(first->text.begin(),
                 first->text.begin() + static_cast<ptrdiff_t>(size), '\n');
  first->text.erase(0, size);
  return LayoutOf(path, names);
}

StatusOr<FileLayout> CsvFormat::LayoutOf(
    const std::string& path, const std::vector<std::string>& names) const {
  FileLayout layout;
  layout.num_columns = static_cast<int>(names.size());
  layout.cell_of_column.assign(names.size(), -1);
  for (int cell = 0; cell < columns_.size(); ++cell) {
    const std::string& name = columns_.name(cell);
    auto found = std::find(names.begin(), names.end(), name);
    const auto alias = aliases_.find(name);
    if (found == names.end() && alias != aliases_.end()) {
      found = std::find(names.begin(), names.end(), alias->second);
    }
    if (found == names.end()) {
      if (!columns_.required(cell)) {
        continue;
      }
      return InvalidArgumentError(StrCat(path, ": has no column '", name,
                                         "'; it has: ", Join(names),
                                         " (data.csv.aliases can rename one)"));
    }
    int& taken =
        layout.cell_of_column[static_cast<size_t>(found - names.begin())];
    if (taken >= 0 ||
        std::find(found + 1, names.end(), *found) != names.end()) {
      return InvalidArgumentError(
          StrCat(path, ": column '", *found,
                 taken >= 0 ? "' is meant by two names of the job file"
                            : "' is there twice"));
    }
    taken = cell;
  }
  return layout;
}

void CsvFormat::Project(const std::vector<std::string_view>& fields,
                        const FileLayout& layout,
                        std::vector<std::string_view>* cells) const {
  for (size_t i = 0; i < fields.size(); ++i) {
    const int cell = layout.cell_of_column[i];
    if (cell >= 0) {
      (*cells)[static_cast<size_t>(cell)] =
          IsMissing(fields[i]) ? std::string_view() : fields[i];
    }
  }
}

void CsvFormat::Parse(const TextBlock& block, const FileLayout& layout,
                      int64_t bad_rows_max, RawBlock* out) const {
  out->Clear();
  std::vector<std::string_view> cells(static_cast<size_t>(columns_.size()));
  std::string reason;
  CsvTokenizer tokenizer(block.text, block.first_line, delimiter_,
                         skip_prefixes_);
  while (tokenizer.Next()) {
    const size_t entries = out->entries.size();
    const std::vector<std::string_view>& fields = tokenizer.fields();
    RowKind kind = RowKind::kBad;
    if (!tokenizer.error().empty()) {
      reason = tokenizer.error();
    } else if (static_cast<int>(fields.size()) != layout.num_columns) {
      reason = StrCat("has ", fields.size(), " columns, expected ",
                      layout.num_columns);
    } else {
      Project(fields, layout, &cells);
      kind = ParseRow(cells, out, &reason);
    }
    if (kind == RowKind::kGood) {
      out->entry_ends.push_back(out->entries.size());
      out->lines.push_back(tokenizer.line());
      ++out->num_rows;
      continue;
    }
    TakeBack(entries, out);
    if (kind == RowKind::kBad) {
      out->bad_rows.push_back({.line = tokenizer.line(),
                               .reason = reason,
                               .fatal = tokenizer.unclosed()});
      if (static_cast<int64_t>(out->bad_rows.size()) > bad_rows_max) {
        return;
      }
    }
  }
}

// Takes back what a row appended before it turned out bad.
void CsvFormat::TakeBack(size_t entries, RawBlock* out) const {
  const auto rows = static_cast<size_t>(out->num_rows);
  const FeaturePlan& plan = features_->plan();
  out->labels.resize(rows);
  out->in_test.resize(split_by_ == SplitBy::kOther ? 0 : rows);
  out->numbers.resize(rows * static_cast<size_t>(plan.numbers_per_row));
  out->keys.resize(rows * static_cast<size_t>(plan.keys_per_row));
  out->entries.resize(entries);
}

CsvFormat::RowKind CsvFormat::ParseRow(
    const std::vector<std::string_view>& cells, RawBlock* out,
    std::string* reason) const {
  for (const CellCondition& filter : filters_) {
    const std::string_view cell = cells[static_cast<size_t>(filter.cell)];
    switch (filter.condition.Holds(cell)) {
      case Condition::Result::kFalse:
        return RowKind::kFiltered;
      case Condition::Result::kNotANumber:
        *reason = StrCat("column '", filter.condition.column(),
                         "': ", Quoted(cell), " is no finite number");
        return RowKind::kBad;
      case Condition::Result::kTrue:
        break;
    }
  }
  float label = std::numeric_limits<float>::quiet_NaN();
  if (!ParseLabel(cells, &label, reason) || !ParseSplit(cells, out, reason)) {
    return RowKind::kBad;
  }
  out->labels.push_back(label);
  return features_->ParseRow(cells, columns_, out, reason) ? RowKind::kGood
                                                           : RowKind::kBad;
}

bool CsvFormat::ParseLabel(const std::vector<std::string_view>& cells,
                           float* label, std::string* reason) const {
  if (label_cell_ < 0) {
    return true;
  }
  const std::string_view cell = cells[static_cast<size_t>(label_cell_)];
  const bool presence =
      label_condition_.has_value() && label_condition_->asks_presence();
  if (cell.data() == nullptr && !presence) {
    if (rule_.may_be_missing) {
      return true;
    }
    *reason = StrCat("column '", columns_.name(label_cell_),
                     "': the label is missing; data.filter can leave such "
                     "rows out");
    return false;
  }
  double value = 0;
  bool number = true;
  if (label_condition_.has_value()) {
    const Condition::Result result = label_condition_->Holds(cell);
    number = result != Condition::Result::kNotANumber;
    value = result == Condition::Result::kTrue ? 1 : 0;
  } else {
    number = ParseNumber(cell, &value);
  }
  const char* wrong =
      number ? rule_.Check(value, false, label) : "is no finite number";
  if (wrong != nullptr) {
    *reason = StrCat("column '", columns_.name(label_cell_), "': label ",
                     Quoted(cell), " ", wrong);
  }
  return wrong == nullptr;
}

bool CsvFormat::ParseSplit(const std::vector<std::string_view>& cells,
                           RawBlock* out, std::string* reason) const {
  if (split_by_ == SplitBy::kOther) {
    return true;
  }
  const std::string_view cell = cells[static_cast<size_t>(split_cell_)];
  if (split_by_ == SplitBy::kHash) {
    out->in_test.push_back(HashText(cell) % split_parts_ == split_test_ ? 1
                                                                        : 0);
    return true;
  }
  double number = 0;
  if (cell.data() == nullptr || !ParseNumber(cell, &number)) {
    *reason =
        StrCat("column '", columns_.name(split_cell_), "': ", Quoted(cell),
               " is no finite number, and the rows are split by it");
    return false;
  }
  out->in_test.push_back(number >= split_from_ && number <= split_to_ ? 1 : 0);
  return true;
}

}  // namespace

StatusOr<std::unique_ptr<RowFormat>> CreateCsvFormat(const JobSpec& job,
                                                     bool prediction) {
  auto format = std::make_unique<CsvFormat>(
      LabelRule{job.model().task(), job.model().classes(), prediction});
  SHOAL_RETURN_IF_ERROR(format->Init(job.data(), prediction));
  return std::unique_ptr<RowFormat>(std::move(format));
}

}  // namespace shoal::worker
