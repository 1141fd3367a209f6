#include "worker/input/column_features.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "base/strcat.h"
#include "worker/input/number.h"
#include "worker/input/row_format.h"
#include "worker/job.pb.h"

namespace shoal::worker {
namespace {

Status FeatureError(std::string_view name, std::string_view what) {
  return InvalidArgumentError(
      StrCat("data.features: feature '", name, "': ", what));
}

// The name that a feature has when the job file gives none.
std::string DefaultName(const FeatureSpec& spec) {
  if (spec.cross_size() > 0) {
    std::string name;
    for (const std::string& part : spec.cross()) {
      name += name.empty() ? part : "*" + part;
    }
    return name;
  }
  if (spec.has_when()) {
    return spec.when().column().empty()
               ? spec.when().part()
               : StrCat(spec.when().column(), ".", spec.when().part());
  }
  return spec.column();
}

uint64_t KeyOfWhole(int value) {
  char text[16];
  const auto [end, error] = std::to_chars(text, text + sizeof(text), value);
  (void)error;  // any int fits
  return HashText({text, static_cast<size_t>(end - text)});
}

}  // namespace

int ColumnSet::Add(std::string_view name, bool required) {
  const auto found = cells_.find(name);
  if (found != cells_.end()) {
    Column& column = columns_[static_cast<size_t>(found->second)];
    column.required = column.required || required;
    return found->second;
  }
  const int cell = size();
  columns_.push_back({std::string(name), required});
  cells_.emplace(name, cell);
  return cell;
}

StatusOr<ColumnFeatures> ColumnFeatures::Create(const DataSpec& data,
                                                ColumnSet* columns) {
  if (data.features_size() == 0) {
    return InvalidArgumentError(
        "data.features is empty; name the columns that the model reads");
  }
  ColumnFeatures features;
  std::set<std::string, std::less<>> names;
  for (const FeatureSpec& spec : data.features()) {
    SHOAL_RETURN_IF_ERROR(features.AddFeature(spec, columns));
    const std::string& name = features.plan_.nodes.back().name;
    if (!names.insert(name).second) {
      return FeatureError(name, "is there twice; give one another `name`");
    }
  }
  features.num_features_ = features.plan_.nodes.size();
  for (int i = 0; i < data.features_size(); ++i) {
    const auto& cross = data.features(i).cross();
    SHOAL_RETURN_IF_ERROR(features.ResolveCross(
        static_cast<size_t>(i), {cross.begin(), cross.end()}, columns));
  }
  std::vector<int> state(features.plan_.nodes.size(), 0);
  for (size_t i = 0; i < features.plan_.nodes.size(); ++i) {
    if (features.IsOnCycle(static_cast<int>(i), &state)) {
      return FeatureError(features.plan_.nodes[i].name,
                          "is a cross that holds itself");
    }
  }
  features.AssignSlots();
  return features;
}

Status ColumnFeatures::AddFeature(const FeatureSpec& spec, ColumnSet* columns) {
  FeatureNode node;
  Reader reader;
  node.name = spec.name().empty() ? DefaultName(spec) : spec.name();
  if (node.name.empty()) {
    return InvalidArgumentError(
        "data.features: a feature has no `column`, `when` or `cross`");
  }
  SHOAL_RETURN_IF_ERROR(AddSource(spec, columns, &node, &reader));
  SHOAL_RETURN_IF_ERROR(AddTransforms(spec, &node));
  plan_.nodes.push_back(std::move(node));
  readers_.push_back(std::move(reader));
  return OkStatus();
}

Status ColumnFeatures::AddSource(const FeatureSpec& spec, ColumnSet* columns,
                                 FeatureNode* node, Reader* reader) {
  const int sources = (spec.column().empty() ? 0 : 1) +
                      (spec.has_when() ? 1 : 0) +
                      (spec.cross_size() > 0 ? 1 : 0);
  if (sources != 1) {
    return FeatureError(node->name,
                        "needs one of `column`, `when` and `cross`");
  }
  if (!spec.column().empty()) {
    reader->cell = columns->Add(spec.column(), true);
  } else if (spec.has_when()) {
    StatusOr<When> when = CreateWhen(spec.when(), columns);
    if (!when.ok()) {
      return FeatureError(node->name, when.status().message());
    }
    reader->when = *std::move(when);
  }
  const bool numeric = spec.kind() == "numeric";
  if (!numeric && spec.kind() != "categorical") {
    return FeatureError(node->name, StrCat("kind is '", spec.kind(),
                                           "'; expected categorical or "
                                           "numeric"));
  }
  if (numeric && spec.has_buckets()) {
    return FeatureError(node->name,
                        "`buckets` make it categorical, but kind is numeric");
  }
  if (numeric && spec.cross_size() > 0) {
    return FeatureError(node->name, "a cross is categorical, not numeric");
  }
  if (spec.cross_size() > 0) {
    node->value = FeatureNode::Value::kCross;
  } else if (numeric) {
    node->value = FeatureNode::Value::kNumber;
  } else if (spec.has_buckets()) {
    node->value = FeatureNode::Value::kBucket;
  } else if (!spec.separator().empty()) {
    node->value = FeatureNode::Value::kList;
    reader->separator = spec.separator();
  }
  const bool list = node->value == FeatureNode::Value::kList;
  if (!spec.separator().empty() && (!list || spec.has_when())) {
    return FeatureError(node->name,
                        "`separator` is for a categorical column of texts");
  }
  return OkStatus();
}

Status ColumnFeatures::AddTransforms(const FeatureSpec& spec,
                                     FeatureNode* node) {
  const bool numeric = node->value == FeatureNode::Value::kNumber;
  if (!numeric && (spec.log() || spec.standardize())) {
    return FeatureError(node->name,
                        "`log` and `standardize` need `kind: numeric`");
  }
  if (numeric && (spec.min_count() != 0 || spec.hash_buckets() != 0)) {
    return FeatureError(
        node->name, "`min_count` and `hash_buckets` need `kind: categorical`");
  }
  if (numeric && spec.cross_only()) {
    return FeatureError(node->name, "`cross_only` needs `kind: categorical`");
  }
  if (spec.min_count() < 0 || spec.hash_buckets() < 0) {
    return FeatureError(node->name,
                        "`min_count` and `hash_buckets` must be at least 0");
  }
  if (spec.has_buckets()) {
    node->edges = {spec.buckets().edges().begin(),
                   spec.buckets().edges().end()};
    node->quantiles = spec.buckets().quantiles();
    if (node->edges.empty() == (node->quantiles < 2)) {
      return FeatureError(node->name,
                          "`buckets` needs either `edges` or `quantiles` >= 2");
    }
  }
  for (size_t i = 0; i < node->edges.size(); ++i) {
    if (!std::isfinite(node->edges[i]) ||
        (i > 0 && node->edges[i - 1] >= node->edges[i])) {
      return FeatureError(node->name, "`buckets.edges` must rise");
    }
  }
  if (spec.pooling() != "sum" && spec.pooling() != "mean") {
    return FeatureError(node->name, StrCat("pooling is '", spec.pooling(),
                                           "'; expected sum or mean"));
  }
  node->is_input = !spec.cross_only();
  node->log = spec.log();
  node->standardize = spec.standardize();
  node->missing_value = static_cast<float>(spec.missing_value());
  if (!std::isfinite(node->missing_value)) {
    return FeatureError(node->name, "`missing_value` must be finite");
  }
  node->min_count = spec.min_count();
  node->hash_buckets = spec.hash_buckets();
  node->pooling = spec.pooling();
  return OkStatus();
}

StatusOr<ColumnFeatures::DateField> ColumnFeatures::CreateDateField(
    const std::string& text, ColumnSet* columns) {
  DateField field;
  double number = 0;
  if (text.empty()) {
    return field;
  }
  if (!ParseNumber(text, &number)) {
    field.cell = columns->Add(text, true);
    return field;
  }
  if (number < 1 || number > 9999 || number != std::floor(number)) {
    return InvalidArgumentError(
        StrCat("`when`: '", text, "' is no year, month or day"));
  }
  field.constant = static_cast<int>(number);
  return field;
}

StatusOr<ColumnFeatures::When> ColumnFeatures::CreateWhen(const WhenSpec& spec,
                                                          ColumnSet* columns) {
  When when;
  SHOAL_ASSIGN_OR_RETURN(when.part, ParseMomentPart(spec.part()));
  when.format = spec.format();
  const bool parts =
      !spec.year().empty() || !spec.month().empty() || !spec.day().empty();
  if (spec.column().empty() == !parts) {
    return InvalidArgumentError(
        "`when` needs either `column` or some of `year`, `month`, `day`");
  }
  if (!parts) {
    if (when.format != "iso" && when.format != "unix" &&
        when.format != "hhmm") {
      return InvalidArgumentError(StrCat("when.format is '", when.format,
                                         "'; expected iso, unix or hhmm"));
    }
    if (when.format == "hhmm" && !NeedsTime(when.part)) {
      return InvalidArgumentError(
          StrCat("`when`: a time hhmm has no ", spec.part()));
    }
    when.cell = columns->Add(spec.column(), true);
    return when;
  }
  SHOAL_ASSIGN_OR_RETURN(when.year, CreateDateField(spec.year(), columns));
  SHOAL_ASSIGN_OR_RETURN(when.month, CreateDateField(spec.month(), columns));
  SHOAL_ASSIGN_OR_RETURN(when.day, CreateDateField(spec.day(), columns));
  // Asked once here with a day that exists, so that no row can fail for it.
  const Moment known = {
      .year = when.year.given() ? std::optional(2000) : std::nullopt,
      .month = when.month.given() ? std::optional(1) : std::nullopt,
      .day = when.day.given() ? std::optional(1) : std::nullopt,
      .minute_of_day = std::nullopt};
  int ignored = 0;
  const char* wrong = TakePart(known, when.part, &ignored);
  if (wrong != nullptr) {
    return InvalidArgumentError(
        StrCat("`when`, which gives ", spec.part(), ", ", wrong));
  }
  return when;
}

Status ColumnFeatures::ResolveCross(size_t node,
                                    const std::vector<std::string>& names,
                                    ColumnSet* columns) {
  if (names.empty()) {
    return OkStatus();
  }
  const std::string name = plan_.nodes[node].name;
  if (names.size() < 2) {
    return FeatureError(name, "a cross needs two parts or more");
  }
  for (const std::string& part : names) {
    StatusOr<int> found = FindPart(part, columns);
    if (!found.ok()) {
      return FeatureError(name, found.status().message());
    }
    plan_.nodes[node].parts.push_back(*found);
  }
  return OkStatus();
}

// The feature called so, else the column called so as a text.
StatusOr<int> ColumnFeatures::FindPart(const std::string& name,
                                       ColumnSet* columns) {
  for (size_t i = 0; i < plan_.nodes.size(); ++i) {
    const FeatureNode& node = plan_.nodes[i];
    if (node.name != name) {
      continue;
    }
    if (node.value == FeatureNode::Value::kNumber) {
      return InvalidArgumentError(
          StrCat("`cross` names '", name,
                 "', which is numeric; give it `buckets` instead"));
    }
    if (node.value == FeatureNode::Value::kList) {
      return InvalidArgumentError(
          StrCat("`cross` names '", name, "', which is a list"));
    }
    return static_cast<int>(i);
  }
  FeatureNode node;
  node.name = name;
  node.is_input = false;
  Reader reader;
  reader.cell = columns->Add(name, true);
  plan_.nodes.push_back(std::move(node));
  readers_.push_back(std::move(reader));
  return static_cast<int>(plan_.nodes.size()) - 1;
}

// `state`: 0 not seen, 1 on the way, 2 done.
bool ColumnFeatures::IsOnCycle(int node, std::vector<int>* state) const {
  int& at = (*state)[static_cast<size_t>(node)];
  if (at != 0) {
    return at == 1;
  }
  at = 1;
  for (const int part : plan_.nodes[static_cast<size_t>(node)].parts) {
    if (IsOnCycle(part, state)) {
      return true;
    }
  }
  (*state)[static_cast<size_t>(node)] = 2;
  return false;
}

void ColumnFeatures::AssignSlots() {
  int bags = 0;
  for (FeatureNode& node : plan_.nodes) {
    switch (node.value) {
      case FeatureNode::Value::kKey:
        node.slot = plan_.keys_per_row++;
        break;
      case FeatureNode::Value::kNumber:
      case FeatureNode::Value::kBucket:
        node.slot = plan_.numbers_per_row++;
        break;
      case FeatureNode::Value::kList:
        node.slot = bags++;
        break;
      case FeatureNode::Value::kCross:
        break;
    }
  }
}

bool ColumnFeatures::ParseRow(const std::vector<std::string_view>& cells,
                              const ColumnSet& columns, RawBlock* out,
                              std::string* reason) const {
  for (size_t i = 0; i < plan_.nodes.size(); ++i) {
    if (!ReadNode(i, cells, columns, out, reason)) {
      return false;
    }
  }
  return true;
}

bool ColumnFeatures::ReadNode(size_t index,
                              const std::vector<std::string_view>& cells,
                              const ColumnSet& columns, RawBlock* out,
                              std::string* reason) const {
  const FeatureNode& node = plan_.nodes[index];
  const Reader& reader = readers_[index];
  if (node.value == FeatureNode::Value::kCross) {
    return true;
  }
  const bool as_key = node.value == FeatureNode::Value::kKey;
  if (reader.when.has_value()) {
    std::optional<int> part;
    if (!ReadWhen(*reader.when, cells, columns, &part, reason)) {
      return false;
    }
    if (as_key) {
      out->keys.push_back(part.has_value() ? KeyOfWhole(*part) : kMissingKey);
    } else {
      out->numbers.push_back(
          part.has_value() ? *part : std::numeric_limits<double>::quiet_NaN());
    }
    return true;
  }
  const std::string_view cell = cells[static_cast<size_t>(reader.cell)];
  const bool missing = cell.data() == nullptr;
  if (as_key) {
    out->keys.push_back(missing ? kMissingKey : HashText(cell));
    return true;
  }
  if (node.value == FeatureNode::Value::kList) {
    ReadList(cell, reader.separator, node.slot, out);
    return true;
  }
  double number = std::numeric_limits<double>::quiet_NaN();
  if (!missing && !ParseNumber(cell, &number)) {
    *reason = StrCat("column '", columns.name(reader.cell), "': ", Quoted(cell),
                     " is no finite number");
    return false;
  }
  if (std::abs(number) > std::numeric_limits<float>::max()) {
    *reason = StrCat("column '", columns.name(reader.cell), "': ", Quoted(cell),
                     " is outside the range of f32");
    return false;
  }
  out->numbers.push_back(number);
  return true;
}

bool ColumnFeatures::ReadWhen(const When& when,
                              const std::vector<std::string_view>& cells,
                              const ColumnSet& columns,
                              std::optional<int>* value,
                              std::string* reason) const {
  Moment moment;
  std::string_view cell;
  const char* wrong = nullptr;
  int wrong_cell = when.cell;
  if (when.cell >= 0) {
    cell = cells[static_cast<size_t>(when.cell)];
    if (cell.data() == nullptr) {
      return true;
    }
    wrong = when.format == "iso"    ? ParseIsoMoment(cell, &moment)
            : when.format == "unix" ? ParseUnixMoment(cell, &moment)
                                    : ParseHhmmMoment(cell, &moment);
  }
  const std::pair<const DateField*, std::optional<int>*> fields[] = {
      {&when.year, &moment.year},
      {&when.month, &moment.month},
      {&when.day, &moment.day}};
  constexpr int kLast[] = {9999, 12, 31};
  for (int i = 0; i < 3 && when.cell < 0 && wrong == nullptr; ++i) {
    const auto [field, out] = fields[i];
    *out = field->constant;
    if (field->cell < 0) {
      continue;
    }
    cell = cells[static_cast<size_t>(field->cell)];
    wrong_cell = field->cell;
    if (cell.data() == nullptr) {
      return true;
    }
    double number = 0;
    if (!ParseNumber(cell, &number) || number < 1 || number > kLast[i] ||
        number != std::floor(number)) {
      wrong = i == 0 ? "is no year" : i == 1 ? "is no month" : "is no day";
    } else {
      *out = static_cast<int>(number);
    }
  }
  int part = 0;
  if (wrong == nullptr) {
    wrong = TakePart(moment, when.part, &part);
  }
  if (wrong != nullptr) {
    *reason = StrCat("column '", wrong_cell < 0 ? "" : columns.name(wrong_cell),
                     "': ", Quoted(cell), " ", wrong);
    return false;
  }
  *value = part;
  return true;
}

void ColumnFeatures::ReadList(std::string_view cell,
                              const std::string& separator, int bag,
                              RawBlock* out) {
  const auto add = [&](uint64_t key) {
    out->entries.push_back({key, 1.0F, static_cast<uint32_t>(bag)});
  };
  bool any = false;
  while (!cell.empty()) {
    const size_t at = std::min(cell.find(separator), cell.size());
    std::string_view item = cell.substr(0, at);
    cell.remove_prefix(std::min(at + separator.size(), cell.size()));
    while (!item.empty() && item.front() == ' ') {
      item.remove_prefix(1);
    }
    while (!item.empty() && item.back() == ' ') {
      item.remove_suffix(1);
    }
    if (!item.empty()) {
      add(HashText(item));
      any = true;
    }
  }
  if (!any) {
    add(kMissingKey);
  }
}

}  // namespace shoal::worker
