#ifndef SHOAL_WORKER_INPUT_CONDITION_H_
#define SHOAL_WORKER_INPUT_CONDITION_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace shoal::worker {

// One comparison of a column, as `data.label` and `data.filter` have it:
//
//   COLUMN ==|!= VALUE, COLUMN >|>=|<|<= NUMBER, COLUMN in VALUE,VALUE...,
//   COLUMN present, COLUMN missing
//
// `==`, `!=` and `in` compare numbers where both sides are some, else text. A
// column whose name holds an operator stands in backquotes, a value may stand
// in quotes.
class Condition {
 public:
  // Nothing if `text` holds no operator: then it names a column.
  // Errors: kInvalidArgument.
  static StatusOr<std::optional<Condition>> Parse(std::string_view text);

  const std::string& column() const { return column_; }
  bool asks_presence() const {
    return op_ == Op::kPresent || op_ == Op::kMissing;
  }

  enum class Result { kFalse, kTrue, kNotANumber };

  // `cell` without data is a missing value: it is not equal to any value, and
  // no order holds for it.
  Result Holds(std::string_view cell) const;

 private:
  enum class Op {
    kEqual,
    kNotEqual,
    kGreater,
    kGreaterEqual,
    kLess,
    kLessEqual,
    kIn,
    kPresent,
    kMissing
  };
  struct Value {
    std::string text;
    std::optional<double> number;
  };
  Condition() = default;
  bool ParseOperator(std::string_view* text);
  Status ParseValues(std::string_view text, std::string_view whole);
  bool IsOneOf(std::string_view cell) const;

  std::string column_;
  Op op_ = Op::kEqual;
  std::vector<Value> values_;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_CONDITION_H_
