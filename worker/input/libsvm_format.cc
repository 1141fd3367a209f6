#include <cmath>
#include <limits>

#include "base/strcat.h"
#include "worker/input/number.h"
#include "worker/input/row_format.h"
#include "worker/job.pb.h"

namespace shoal::worker {
namespace {

// More would make one bag each; no data has so many.
constexpr uint64_t kFieldsMax = 10000;
constexpr int64_t kEntriesMax = int64_t{1} << 24;  // of one row

// `label index:value ...`, and with fields `label field:index:value ...`.
class LibsvmFormat : public RowFormat {
 public:
  LibsvmFormat(LabelRule rule, bool with_fields, int64_t hash_buckets)
      : rule_(std::move(rule)), with_fields_(with_fields) {
    FeatureNode node;
    node.name = with_fields ? "field" : "features";
    node.value = FeatureNode::Value::kList;
    node.slot = 0;
    node.weighted = true;
    node.own_ids = true;
    node.hash_buckets = hash_buckets;
    plan_.nodes.push_back(node);
    plan_.bag_per_field = with_fields;
  }

  const FeaturePlan& plan() const override { return plan_; }

  void Parse(const TextBlock& block, const FileLayout& layout,
             int64_t bad_rows_max, RawBlock* out) const override {
    (void)layout;
    out->Clear();
    std::string_view text = block.text;
    int64_t line = block.first_line;
    std::string reason;
    for (; !text.empty(); ++line) {
      const size_t newline = std::min(text.find('\n'), text.size());
      const std::string_view row = text.substr(0, newline);
      text.remove_prefix(std::min(newline + 1, text.size()));
      const size_t entries = out->entries.size();
      switch (ParseRow(row, out, &reason)) {
        case RowKind::kGood:
          out->entry_ends.push_back(out->entries.size());
          out->lines.push_back(line);
          ++out->num_rows;
          break;
        case RowKind::kEmpty:
          break;
        case RowKind::kBad:
          out->entries.resize(entries);
          out->bad_rows.push_back({line, reason});
          if (static_cast<int64_t>(out->bad_rows.size()) > bad_rows_max) {
            return;
          }
      }
    }
  }

 private:
  enum class RowKind { kGood, kEmpty, kBad };

  static std::string_view NextToken(std::string_view* row) {
    while (!row->empty() && IsSpace(row->front())) {
      row->remove_prefix(1);
    }
    size_t size = 0;
    while (size < row->size() && !IsSpace((*row)[size])) {
      ++size;
    }
    const std::string_view token = row->substr(0, size);
    row->remove_prefix(size);
    return token;
  }

  static bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\r'; }

  RowKind ParseRow(std::string_view row, RawBlock* out,
                   std::string* reason) const {
    std::string_view rest = row.substr(0, row.find('#'));
    std::string_view token = NextToken(&rest);
    if (token.empty()) {
      return RowKind::kEmpty;
    }
    float label = std::numeric_limits<float>::quiet_NaN();
    const bool unlabelled =
        rule_.may_be_missing && token.find(':') != std::string_view::npos;
    if (!unlabelled) {
      const char* wrong = ParseLabel(token, &label);
      if (wrong != nullptr) {
        *reason = StrCat("label ", Quoted(token), " ", wrong);
        return RowKind::kBad;
      }
      token = NextToken(&rest);
    }
    const size_t first = out->entries.size();
    for (; !token.empty(); token = NextToken(&rest)) {
      RawEntry entry;
      const char* wrong = ParseEntry(token, &entry);
      if (wrong == nullptr &&
          out->entries.size() - first >= static_cast<size_t>(kEntriesMax)) {
        wrong = "is one feature too many for a row";
      }
      if (wrong != nullptr) {
        *reason = StrCat("feature ", Quoted(token), " ", wrong);
        return RowKind::kBad;
      }
      out->entries.push_back(entry);
    }
    out->labels.push_back(label);
    return RowKind::kGood;
  }

  const char* ParseLabel(std::string_view token, float* label) const {
    double value = 0;
    if (!ParseNumber(token, &value)) {
      return "is no finite number";
    }
    return rule_.Check(value, true, label);
  }

  const char* ParseEntry(std::string_view token, RawEntry* entry) const {
    const char* form =
        with_fields_ ? "is not field:index:value" : "is not index:value";
    if (with_fields_) {
      const size_t colon = token.find(':');
      if (colon == std::string_view::npos) {
        return form;
      }
      uint64_t field = 0;
      if (!ParseDecimal(token.substr(0, colon), &field) ||
          field >= kFieldsMax) {
        return "has a field outside [0, 10000)";
      }
      entry->bag = static_cast<uint32_t>(field);
      token.remove_prefix(colon + 1);
    }
    const size_t colon = token.find(':');
    if (colon == std::string_view::npos) {
      return form;
    }
    if (!ParseDecimal(token.substr(0, colon), &entry->key)) {
      return "has an index outside [0, 2^64)";
    }
    return ParseFloat(token.substr(colon + 1), &entry->weight)
               ? nullptr
               : "has a value that is no finite number";
  }

  LabelRule rule_;
  bool with_fields_;
  FeaturePlan plan_;
};

}  // namespace

StatusOr<std::unique_ptr<RowFormat>> CreateLibsvmFormat(const JobSpec& job,
                                                        bool with_fields,
                                                        bool prediction) {
  return std::unique_ptr<RowFormat>(std::make_unique<LibsvmFormat>(
      LabelRule{job.model().task(), job.model().classes(), prediction},
      with_fields, job.data().hash_buckets()));
}

}  // namespace shoal::worker
