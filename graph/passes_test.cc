#include "graph/passes.h"

#include <gtest/gtest.h>

#include "graph/graph_testing.h"
#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

int NumOps(const Graph& graph) {
  int n = 0;
  for (const Node& node : graph.nodes()) {
    n += node.op != nullptr ? 1 : 0;
  }
  return n;
}

TEST(SimplifyTest, EqualNodesBecomeOneAndUnneededOnesGo) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {4});
  b.Placeholder("unused", {4});
  const NodeRef sum = Add(b, Square(b, x), Square(b, x));
  Relu(b, sum);
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  std::vector<NodeRef> keep = {sum};
  const Graph simple = Simplify(*graph, keep);
  EXPECT_EQ(NumOps(simple), 2);
  EXPECT_EQ(simple.feeds().size(), 2U);
  const Node& add = simple.node(keep[0]);
  EXPECT_EQ(add.op->name, "Add");
  EXPECT_EQ(add.inputs[0], add.inputs[1]);
}

TEST(SimplifyTest, AttributesAndSecondOutputsTellNodesApart) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {4, 2});
  const NodeRef z = b.Placeholder("z", {4, 2});
  const NodeRef zero = Scale(b, x, 0.0);
  const NodeRef minus_zero = Scale(b, x, -0.0);
  const NodeRef first = b.Op("CrossCombineGrad", {x, z, x});
  const NodeRef second = b.Op("CrossCombineGrad", {x, z, x});
  std::vector<NodeRef> keep = {zero, minus_zero, b.Output(first, 0),
                               b.Output(second, 1)};
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  const Graph simple = Simplify(*graph, keep);
  EXPECT_EQ(NumOps(simple), 3);
  EXPECT_NE(keep[0], keep[1]);
  EXPECT_EQ(keep[2].node, keep[3].node);
  EXPECT_EQ(keep[3].output, 1);
}

TEST(SimplifyTest, WhatChangesNoBitIsLeftOut) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {4, 2});
  const NodeRef same = Scale(b, AddN(b, {x}), 1.0);
  const NodeRef there = Reshape(b, Relu(b, same), {8});
  const NodeRef back = Reshape(b, there, {4, 2});
  const NodeRef other = Reshape(b, there, {2, 4});
  std::vector<NodeRef> keep = {back, other};
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  const Graph simple = Simplify(*graph, keep);
  EXPECT_EQ(NumOps(simple), 2);
  EXPECT_EQ(simple.node(keep[0]).op->name, "Relu");
  EXPECT_EQ(simple.node(keep[1]).op->name, "Reshape");
  EXPECT_EQ(simple.node(keep[1]).inputs[0], keep[0]);
}

// x w + bias, then the activation.
struct LayerNodes {
  NodeRef product;
  NodeRef sum;
  NodeRef y;
};
LayerNodes AddLayer(GraphBuilder& b, bool transpose = false) {
  LayerNodes nodes;
  const NodeRef x = b.Placeholder("x", {4, 4});
  nodes.product = MatMul(b, x, b.Variable("w", {4, 4}), transpose);
  nodes.sum = BiasAdd(b, nodes.product, b.Variable("bias", {4}));
  nodes.y = Relu(b, nodes.sum);
  return nodes;
}

std::string OpAfterFusion(GraphBuilder& b, NodeRef ref,
                          std::vector<NodeRef> keep) {
  StatusOr<Graph> graph = b.Finish();
  EXPECT_TRUE(graph.ok()) << graph.status();
  FuseLayers(*graph, keep);
  return graph->node(ref).op->name;
}

TEST(FuseLayersTest, ALayerBecomesOneNode) {
  GraphBuilder b;
  const LayerNodes nodes = AddLayer(b);
  StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  FuseLayers(*graph, {nodes.y});
  const Node& node = graph->node(nodes.y);
  EXPECT_EQ(node.op->name, "Dense");
  EXPECT_EQ(node.name, "relu");
  EXPECT_EQ(node.attributes.ints, std::vector<int64_t>{1});
  EXPECT_EQ(node.inputs,
            (std::vector<NodeRef>{graph->feeds()[0].ref, graph->feeds()[1].ref,
                                  graph->feeds()[2].ref}));
}

TEST(FuseLayersTest, WhatOthersNeedStays) {
  {
    GraphBuilder b;
    const LayerNodes nodes = AddLayer(b);
    EXPECT_EQ(OpAfterFusion(b, nodes.y, {nodes.y, nodes.sum}), "Relu");
  }
  {
    GraphBuilder b;
    const LayerNodes nodes = AddLayer(b);
    EXPECT_EQ(OpAfterFusion(b, nodes.sum, {nodes.y, nodes.sum}), "Dense");
  }
  {
    GraphBuilder b;
    const LayerNodes nodes = AddLayer(b);
    const NodeRef other = Square(b, nodes.product);
    EXPECT_EQ(OpAfterFusion(b, nodes.sum, {nodes.y, other}), "BiasAdd");
  }
}

TEST(FuseLayersTest, TranspositionsAndOtherDevicesAreLeftAlone) {
  {
    GraphBuilder b;
    const LayerNodes nodes = AddLayer(b, /*transpose=*/true);
    EXPECT_EQ(OpAfterFusion(b, nodes.y, {nodes.y}), "Relu");
  }
  for (const char* op : {"matmul", "biasadd", "relu"}) {
    GraphBuilder b;
    const LayerNodes nodes = AddLayer(b);
    b.PlaceOps({{op, "cpu"}});
    EXPECT_EQ(OpAfterFusion(b, nodes.y, {nodes.y}), "Relu") << op;
  }
}

}  // namespace
}  // namespace shoal::graph
