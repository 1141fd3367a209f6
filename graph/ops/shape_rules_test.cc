#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A builder with tensors of many shapes; `b` is the batch.
class ShapeRulesTest : public ::testing::Test {
 protected:
  NodeRef In(const SymbolicShape& shape, DType dtype = DType::kF32) {
    return builder_.Placeholder(StrCat("in", number_++), shape, dtype);
  }

  std::string Error() {
    const StatusOr<Graph> graph = builder_.Finish();
    return graph.ok() ? "no error" : graph.status().ToString();
  }

  GraphBuilder builder_;
  Dim b_ = builder_.Symbol("b");
  Dim u_ = builder_.Symbol("u");
  int number_ = 0;
};

TEST_F(ShapeRulesTest, SymbolsPassThrough) {
  GraphBuilder& b = builder_;
  const NodeRef rows = In({u_, 8});
  const NodeRef x = Gather(b, rows, In({b_, 26}, DType::kI32));
  EXPECT_EQ(b.shape(x), (SymbolicShape{b_, 26, 8}));
  EXPECT_EQ(b.shape(Reshape(b, x, {b_, 208})), (SymbolicShape{b_, 208}));
  EXPECT_EQ(b.shape(Reshape(b, x, {b_ * 26, 8})), (SymbolicShape{b_ * 26, 8}));
  EXPECT_EQ(b.shape(DotInteraction(b, x)), (SymbolicShape{b_, 325}));
  EXPECT_EQ(b.shape(FmInteraction(b, x)), (SymbolicShape{b_, 1}));
  const Dim n = b.Symbol("values");
  const NodeRef bags = BagPool(b, rows, In({n}, DType::kI32),
                               In({b_ * 3 + 1}, DType::kI32), In({n}), 3, true);
  EXPECT_EQ(b.shape(bags), (SymbolicShape{b_, 3, 8}));
  const NodeRef wide = Concat(b, {In({b_, 2}), In({b_, 3})});
  EXPECT_EQ(b.shape(wide), (SymbolicShape{b_, 5}));
  EXPECT_EQ(b.shape(MatMul(b, wide, In({b_, 7}), true)), (SymbolicShape{5, 7}));
  EXPECT_EQ(Error(), "no error");
}

TEST_F(ShapeRulesTest, DenseChecksSizesAndActivation) {
  GraphBuilder& b = builder_;
  EXPECT_EQ(
      b.shape(b.Op("Dense", {In({b_, 7}), In({7, 5}), In({5})}, {.ints = {3}})),
      (SymbolicShape{b_, 5}));
  b.Op("Dense", {In({b_, 7}), In({7, 5}), In({7})}, {.ints = {0}});
  EXPECT_THAT(b.status().message(), HasSubstr("inner sizes must agree"));
}

TEST_F(ShapeRulesTest, DenseKnowsFourActivations) {
  builder_.Op("Dense", {In({b_, 7}), In({7, 5}), In({5})}, {.ints = {4}});
  EXPECT_THAT(builder_.status().message(),
              HasSubstr("activation 4 is outside [0, 4)"));
}

TEST_F(ShapeRulesTest, MatMulNeedsEqualInnerSizes) {
  MatMul(builder_, In({b_, 13}), In({13, 4}), false, true);
  EXPECT_THAT(Error(), AllOf(HasSubstr("node 'matmul'"), HasSubstr("[b,13]"),
                             HasSubstr("[13,4] transposed")));
}

TEST_F(ShapeRulesTest, RankIsNamed) {
  MatMul(builder_, In({b_, 13, 2}), In({13, 4}));
  EXPECT_THAT(Error(), HasSubstr("a is [b,13,2]; it must have 2 axes"));
}

TEST_F(ShapeRulesTest, ElementwiseNeedsEqualShapes) {
  Add(builder_, In({b_, 3}), In({u_, 3}));
  EXPECT_THAT(Error(), HasSubstr("a is [b,3] but b is [u,3]"));
}

TEST_F(ShapeRulesTest, AddNNamesTheInput) {
  AddN(builder_, {In({2}), In({2}), In({3})});
  EXPECT_THAT(Error(), HasSubstr("x[0] is [2] but x[2] is [3]"));
}

TEST_F(ShapeRulesTest, BiasNeedsTheLengthOfARow) {
  BiasAdd(builder_, In({b_, 3}), In({4}));
  EXPECT_THAT(Error(), AllOf(HasSubstr("[b,3]"), HasSubstr("[4]")));
}

TEST_F(ShapeRulesTest, ConcatNeedsEqualRows) {
  Concat(builder_, {In({b_, 3}), In({u_, 4})});
  EXPECT_THAT(Error(),
              AllOf(HasSubstr("x[0] is [b,3]"), HasSubstr("x[1] is [u,4]")));
}

TEST_F(ShapeRulesTest, SliceStaysInside) {
  Slice(builder_, In({b_, 5}), 3, 3);
  EXPECT_THAT(Error(), AllOf(HasSubstr("[b,5]"), HasSubstr("from 3, 3")));
}

TEST_F(ShapeRulesTest, SliceOfHugeNumbersIsAnErrorToo) {
  Slice(builder_, In({b_, 5}), 1, std::numeric_limits<int64_t>::max());
  EXPECT_THAT(Error(), HasSubstr("must lie inside"));
}

TEST_F(ShapeRulesTest, ReshapeKeepsTheNumberOfElements) {
  Reshape(builder_, In({b_, 6}), {b_, 2, 4});
  EXPECT_THAT(Error(), AllOf(HasSubstr("[b,6]"), HasSubstr("[b,2,4]")));
}

TEST_F(ShapeRulesTest, BagOffsetsFitTheFields) {
  BagPool(builder_, In({u_, 8}), In({b_}, DType::kI32),
          In({b_ * 3}, DType::kI32), In({b_}), 3, false);
  EXPECT_THAT(Error(), AllOf(HasSubstr("offsets is [3*b]"), HasSubstr("3")));
}

TEST_F(ShapeRulesTest, BagWeightsAreAsManyAsTheIndex) {
  BagPool(builder_, In({u_, 8}), In({b_}, DType::kI32),
          In({b_ + 1}, DType::kI32), In({u_}), 1, false);
  EXPECT_THAT(Error(),
              AllOf(HasSubstr("index is [b]"), HasSubstr("weights is [u]")));
}

TEST_F(ShapeRulesTest, DropoutRateIsBelowOne) {
  Dropout(builder_, In({b_}), In({1}, DType::kU64), 1.0);
  EXPECT_THAT(Error(), HasSubstr("rate is 1"));
}

TEST_F(ShapeRulesTest, LossesTakeColumns) {
  SigmoidCrossEntropy(builder_, In({b_, 1}), In({b_, 2}));
  EXPECT_THAT(Error(), HasSubstr("labels is [b,2]; it must be [b,1]"));
}

TEST_F(ShapeRulesTest, PairsNeedAConstantNumberOfFields) {
  DotInteraction(builder_, In({4, b_, 8}));
  EXPECT_THAT(Error(), HasSubstr("must be a constant"));
}

}  // namespace
}  // namespace shoal::graph
