#include "graph/gradients.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/graph_testing.h"
#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// loss = sum(3 x + x * x), so x is used three times.
TEST(GradientsTest, SeveralUsesAddUp) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {3});
  const NodeRef loss = ReduceSum(b, Add(b, Scale(b, x, 3.0), Mul(b, x, x)));
  const std::vector<NodeRef> grads = Gradients(b, loss, {x});
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(graph->node(grads[0]).op->name, "AddN");
  EXPECT_EQ(graph->node(grads[0]).inputs.size(), 3U);
  const auto plan = Plan::Create(*graph, OptionsFor(grads));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto results = RunPlan(*plan, {{"x", std::vector<float>{1, -2, 0.5}}});
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_THAT((*results)[0], ElementsAre(5.0F, -1.0F, 4.0F));
}

TEST(GradientsTest, IntermediateTensorsHaveGradientsToo) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {2});
  const NodeRef z = Scale(b, x, 5.0);
  const NodeRef loss = L2Penalty(b, z);
  const std::vector<NodeRef> grads = Gradients(b, loss, {z, x, loss});
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto plan = Plan::Create(*graph, OptionsFor(grads));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto results = RunPlan(*plan, {{"x", std::vector<float>{1, -2}}});
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_THAT((*results)[0], ElementsAre(5.0F, -10.0F));
  EXPECT_THAT((*results)[1], ElementsAre(25.0F, -50.0F));
  EXPECT_THAT((*results)[2], ElementsAre(1.0F));
}

TEST(GradientsTest, WhatTheLossDoesNotNeedHasNone) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {2});
  const NodeRef unused = b.Placeholder("unused", {2});
  const NodeRef labels = b.Placeholder("labels", {2, 1});
  const NodeRef seed = b.Placeholder("seed", {1}, DType::kU64);
  const NodeRef loss = ReduceSum(
      b, SquaredError(b, Reshape(b, Dropout(b, x, seed, 0.5), {2, 1}), labels));
  const NodeRef later = Scale(b, x, 2.0);  // after the loss
  const std::vector<NodeRef> grads =
      Gradients(b, loss, {x, unused, labels, later});
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_TRUE(grads[0].valid());
  EXPECT_FALSE(grads[1].valid());
  EXPECT_FALSE(grads[2].valid());
  EXPECT_FALSE(grads[3].valid());
}

TEST(GradientsTest, ErrorsNameTheNode) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {2, 3});
  {
    const GraphBuilder::Scope scope(b, "head");
    const NodeRef loss = ReduceSum(b, Softmax(b, x));
    EXPECT_FALSE(Gradients(b, loss, {x})[0].valid());
  }
  EXPECT_EQ(b.status().code(), StatusCode::kUnimplemented);
  EXPECT_THAT(b.status().message(),
              AllOf(HasSubstr("'head/softmax'"), HasSubstr("no gradient")));

  GraphBuilder c;
  Gradients(c, c.Placeholder("x", {2}), {});
  EXPECT_EQ(c.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(c.status().message(),
              AllOf(HasSubstr("'x'"), HasSubstr("[2] f32")));

  GraphBuilder d;
  Gradients(d, d.Constant(1), {NodeRef{17, 0}});
  EXPECT_EQ(d.status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::graph
