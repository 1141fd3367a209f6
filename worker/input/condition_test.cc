#include "worker/input/condition.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "worker/input/test_files.h"

namespace shoal::worker::input_tests {
namespace {

using ::testing::HasSubstr;

// 't', 'f' or 'n' (no number) for a cell; the empty one is missing.
char Judge(std::string_view text, std::string_view cell) {
  StatusOr<std::optional<Condition>> condition = Condition::Parse(text);
  if (!condition.ok() || !condition->has_value()) {
    ADD_FAILURE() << text << ": " << ErrorOf(condition);
    return '?';
  }
  switch ((**condition).Holds(cell.empty() ? std::string_view() : cell)) {
    case Condition::Result::kTrue:
      return 't';
    case Condition::Result::kFalse:
      return 'f';
    default:
      return 'n';
  }
}

TEST(ConditionTest, OrderComparesNumbers) {
  EXPECT_EQ(Judge("arr_delay > 15", "15"), 'f');
  EXPECT_EQ(Judge("arr_delay > 15", "15.5"), 't');
  EXPECT_EQ(Judge("arr_delay>=15", "15"), 't');
  EXPECT_EQ(Judge("arr_delay < 15", "-3"), 't');
  EXPECT_EQ(Judge("arr_delay <= 15", "16"), 'f');
  EXPECT_EQ(Judge("arr_delay > 15", ""), 'f');
  EXPECT_EQ(Judge("arr_delay > 15", "late"), 'n');
}

TEST(ConditionTest, EqualityComparesTextOrNumbers) {
  EXPECT_EQ(Judge("income == >50K", ">50K"), 't');
  EXPECT_EQ(Judge("income == >50K", ">50K."), 'f');
  EXPECT_EQ(Judge("x == 1", "1.0"), 't');
  EXPECT_EQ(Judge("x == 1", "one"), 'f');
  EXPECT_EQ(Judge("origin != LGA", "JFK"), 't');
  EXPECT_EQ(Judge("origin != LGA", ""), 't');
  EXPECT_EQ(Judge("origin == LGA", ""), 'f');
  EXPECT_EQ(Judge("c == 'a b'", "a b"), 't');
}

TEST(ConditionTest, InTakesAList) {
  EXPECT_EQ(Judge("income in >50K,>50K.", ">50K."), 't');
  EXPECT_EQ(Judge("income in >50K, >50K.", ">50K"), 't');
  EXPECT_EQ(Judge("income in >50K,>50K.", "<=50K"), 'f');
  EXPECT_EQ(Judge("income in a,b", ""), 'f');
}

TEST(ConditionTest, PresenceLooksAtMissingValues) {
  EXPECT_EQ(Judge("arr_delay present", "1"), 't');
  EXPECT_EQ(Judge("arr_delay present", ""), 'f');
  EXPECT_EQ(Judge("arr_delay missing", ""), 't');
}

TEST(ConditionTest, ColumnNamesMayHoldBlanksMinusAndOperators) {
  const auto column = [](std::string_view text) {
    return Condition::Parse(text).value()->column();
  };
  EXPECT_EQ(column("hours-per-week >= 40"), "hours-per-week");
  EXPECT_EQ(column("my column in a,b"), "my column");
  EXPECT_EQ(column("`a > b` == 1"), "a > b");
  EXPECT_EQ(column("`a in b` present"), "a in b");
}

TEST(ConditionTest, ATextWithoutOperatorIsAColumn) {
  EXPECT_FALSE(Condition::Parse("rating").value().has_value());
  EXPECT_FALSE(Condition::Parse("inner presentation").value().has_value());
}

TEST(ConditionTest, WhatCannotBeComparedIsAnError) {
  EXPECT_THAT(ErrorOf(Condition::Parse("a > b")), HasSubstr("is no number"));
  EXPECT_THAT(ErrorOf(Condition::Parse("a == ")), HasSubstr("has no value"));
  EXPECT_THAT(ErrorOf(Condition::Parse(" > 3")), HasSubstr("no column"));
  EXPECT_THAT(ErrorOf(Condition::Parse("`a > 3")), HasSubstr("never closed"));
}

}  // namespace
}  // namespace shoal::worker::input_tests
