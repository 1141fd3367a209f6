#include "graph/dim.h"

#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace shoal::graph {
namespace {

TEST(DimTest, ArithmeticFollowsTheSymbol) {
  const Dim batch = Dim::Symbol(1);
  const std::vector<int64_t> values = {100, 7};
  EXPECT_EQ((batch * 26 + 1).Eval(values), 183);
  EXPECT_EQ((Dim(3) * batch).Eval(values), 21);
  EXPECT_EQ((batch + batch).Eval(values), 14);
  EXPECT_EQ(batch * 0, Dim(0));
  EXPECT_EQ(Dim::Quotient(batch * 26, 13), batch * 2);
}

TEST(DimTest, ResultsThatDoNotExistAreNone) {
  constexpr int64_t kBig = std::numeric_limits<int64_t>::max();
  const Dim a = Dim::Symbol(0);
  const Dim b = Dim::Symbol(1);
  EXPECT_FALSE(Dim::Product(a, b).has_value());
  EXPECT_FALSE(Dim::Sum(a, b).has_value());
  EXPECT_FALSE(Dim::Quotient(a + 1, 2).has_value());
  EXPECT_FALSE(Dim::Product(Dim(kBig), Dim(2)).has_value());
  EXPECT_FALSE(Dim::Sum(Dim(kBig), Dim(1)).has_value());
  const std::vector<int64_t> values = {kBig / 2, 1};
  EXPECT_FALSE((a * 3).EvalChecked(values).has_value());
  EXPECT_LT((a * b).offset(), 0);  // what the builder refuses
}

TEST(DimTest, TextNamesTheSymbols) {
  const std::vector<std::string> names = {"batch", "rows:x"};
  EXPECT_EQ((SymbolicShape{Dim::Symbol(0) * 26 + 1, Dim::Symbol(1), 13})
                .ToString(names),
            "[26*batch+1,rows:x,13]");
}

}  // namespace
}  // namespace shoal::graph
