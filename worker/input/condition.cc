#include "worker/input/condition.h"

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "worker/input/number.h"

namespace shoal::worker {
namespace {

std::string_view TrimBlanks(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) {
    text.remove_prefix(1);
  }
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) {
    text.remove_suffix(1);
  }
  return text;
}

std::string_view Unquote(std::string_view text) {
  text = TrimBlanks(text);
  if (text.size() >= 2 && text.front() == text.back() &&
      (text.front() == '"' || text.front() == '\'')) {
    return text.substr(1, text.size() - 2);
  }
  return text;
}

}  // namespace

// If `*text` begins with an operator, takes it off.
bool Condition::ParseOperator(std::string_view* text) {
  struct Form {
    std::string_view text;
    Op op;
  };
  // Longer ones first.
  static constexpr Form kForms[] = {
      {"==", Op::kEqual},     {"!=", Op::kNotEqual}, {">=", Op::kGreaterEqual},
      {"<=", Op::kLessEqual}, {">", Op::kGreater},   {"<", Op::kLess}};
  for (const Form& form : kForms) {
    if (text->starts_with(form.text)) {
      op_ = form.op;
      text->remove_prefix(form.text.size());
      return true;
    }
  }
  if (text->starts_with(" in ")) {
    op_ = Op::kIn;
    text->remove_prefix(4);
    return true;
  }
  for (const auto& [word, op] :
       {Form{" present", Op::kPresent}, Form{" missing", Op::kMissing}}) {
    if (*text == word) {
      op_ = op;
      *text = {};
      return true;
    }
  }
  return false;
}

Status Condition::ParseValues(std::string_view text, std::string_view whole) {
  if (asks_presence()) {
    return OkStatus();
  }
  const bool list = op_ == Op::kIn;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = list ? text.find(',', begin) : std::string_view::npos;
    const size_t end = std::min(comma, text.size());
    Value value{std::string(Unquote(text.substr(begin, end - begin))), {}};
    double number = 0;
    if (ParseNumber(value.text, &number)) {
      value.number = number;
    }
    values_.push_back(std::move(value));
    begin = end + 1;
  }
  const bool ordered = op_ != Op::kEqual && op_ != Op::kNotEqual && !list;
  if (ordered && !values_[0].number.has_value()) {
    return InvalidArgumentError(
        StrCat("comparison '", whole, "': '", values_[0].text,
               "' is no number; texts can be compared with ==, != and in"));
  }
  if (TrimBlanks(text).empty()) {
    return InvalidArgumentError(
        StrCat("comparison '", whole,
               "' has no value; `COLUMN missing` asks for the empty one"));
  }
  return OkStatus();
}

StatusOr<std::optional<Condition>> Condition::Parse(std::string_view whole) {
  std::string_view text = TrimBlanks(whole);
  Condition condition;
  size_t at = 0;
  const bool quoted = text.starts_with('`');
  if (quoted) {
    const size_t close = text.find('`', 1);
    if (close == std::string_view::npos) {
      return InvalidArgumentError(
          StrCat("comparison '", whole, "': the ` is never closed"));
    }
    condition.column_ = text.substr(1, close - 1);
    at = close + 1;
    while (at + 1 < text.size() && text[at] == ' ' && text[at + 1] == ' ') {
      ++at;
    }
  }
  for (; at < text.size(); ++at) {
    std::string_view rest = text.substr(at);
    if (!condition.ParseOperator(&rest)) {
      if (quoted && text[at] != ' ') {
        break;
      }
      continue;
    }
    if (!quoted) {
      condition.column_ = TrimBlanks(text.substr(0, at));
    }
    if (condition.column_.empty()) {
      return InvalidArgumentError(
          StrCat("comparison '", whole, "' names no column"));
    }
    SHOAL_RETURN_IF_ERROR(condition.ParseValues(rest, whole));
    return std::optional<Condition>(std::move(condition));
  }
  return std::optional<Condition>();
}

bool Condition::IsOneOf(std::string_view cell) const {
  double number = 0;
  const bool is_number = ParseNumber(cell, &number);
  return std::any_of(values_.begin(), values_.end(), [&](const Value& value) {
    return value.text == cell ||
           (is_number && value.number.has_value() && *value.number == number);
  });
}

Condition::Result Condition::Holds(std::string_view cell) const {
  const auto result = [](bool holds) {
    return holds ? Result::kTrue : Result::kFalse;
  };
  const bool missing = cell.data() == nullptr;
  switch (op_) {
    case Op::kPresent:
      return result(!missing);
    case Op::kMissing:
      return result(missing);
    case Op::kEqual:
    case Op::kIn:
      return result(!missing && IsOneOf(cell));
    case Op::kNotEqual:
      return result(missing || !IsOneOf(cell));
    default:
      break;
  }
  if (missing) {
    return Result::kFalse;
  }
  double number = 0;
  if (!ParseNumber(cell, &number)) {
    return Result::kNotANumber;
  }
  const double value = *values_[0].number;
  return result(op_ == Op::kGreater        ? number > value
                : op_ == Op::kGreaterEqual ? number >= value
                : op_ == Op::kLess         ? number < value
                                           : number <= value);
}

}  // namespace shoal::worker
