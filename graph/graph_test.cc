#include "graph/graph.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/ops.h"

namespace shoal::graph {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(GraphBuilderTest, NodesGetNamesShapesAndFeedsTheirNumbers) {
  GraphBuilder b;
  const Dim batch = b.Symbol("batch");
  const NodeRef x = b.Placeholder("x", {batch, 13});
  NodeRef y;
  {
    const GraphBuilder::Scope mlp(b, "mlp");
    const GraphBuilder::Scope layer(b, "0");
    const NodeRef w = b.Variable("w", {13, 4}, Initializer::Normal(0.1));
    y = MatMul(b, x, w);
    MatMul(b, x, w);
  }
  EXPECT_EQ(b.shape(y), (SymbolicShape{batch, 4}));
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(graph->node(y).name, "mlp/0/matmul");
  EXPECT_EQ(graph->nodes().back().name, "mlp/0/matmul_1");
  EXPECT_EQ(*graph->FindFeed("x"), 0);
  EXPECT_EQ(*graph->FindFeed("mlp/0/w"), 1);
  EXPECT_EQ(graph->feeds()[1].initializer.scale, 0.1);
  EXPECT_EQ(*graph->FindSymbol("batch"), 0);
  EXPECT_THAT(graph->FindFeed("z").status().message(),
              AllOf(HasSubstr("'z'"), HasSubstr("mlp/0/w")));
  EXPECT_EQ(graph->FindSymbol("z").status().code(), StatusCode::kNotFound);
}

TEST(GraphBuilderTest, TablesOfAGroupShareTheirRows) {
  GraphBuilder b;
  const NodeRef linear = b.TableRows("linear", "ids", 1);
  const NodeRef embedding = b.TableRows("embedding", "ids", 8);
  const NodeRef other = b.TableRows("other", "more", 8);
  EXPECT_EQ(b.shape(linear).dim(0), b.shape(embedding).dim(0));
  EXPECT_FALSE(b.shape(other).dim(0) == b.shape(embedding).dim(0));
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_TRUE(graph->FindSymbol("rows:ids").ok());
}

TEST(GraphBuilderTest, FirstErrorStaysAndNamesNodeAndShapes) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {b.Symbol("batch"), 13});
  const NodeRef w = b.Variable("w", {429, 400});
  NodeRef y;
  {
    const GraphBuilder::Scope scope(b, "mlp/0");
    y = MatMul(b, x, w);
  }
  EXPECT_FALSE(y.valid());
  EXPECT_FALSE(Relu(b, y).valid());
  b.Placeholder("x", {1});
  const StatusOr<Graph> graph = b.Finish();
  EXPECT_EQ(graph.status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(graph.status().message(),
            "node 'mlp/0/matmul': a is [batch,13] but b is [429,400]; inner "
            "sizes must agree");
}

// What `build` does wrong, in the words of Finish().
template <typename Build>
std::string BuilderError(const Build& build) {
  GraphBuilder b;
  build(b);
  const StatusOr<Graph> graph = b.Finish();
  return graph.ok() ? "no error" : graph.status().ToString();
}

TEST(GraphBuilderTest, MistakesAreErrors) {
  EXPECT_THAT(
      BuilderError([](GraphBuilder& b) { b.Op("Foo", {}); }),
      AllOf(HasSubstr("NOT_FOUND"), HasSubstr("'Foo'"), HasSubstr("MatMul")));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) { Relu(b, NodeRef()); }),
              AllOf(HasSubstr("'relu'"), HasSubstr("is no node")));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) {
                b.Placeholder("x", {1});
                b.Placeholder("x", {1});
              }),
              HasSubstr("'x': the name is taken"));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) {
                Relu(b, b.Placeholder("i", {1}, DType::kI32));
              }),
              AllOf(HasSubstr("'i'"), HasSubstr("i32"), HasSubstr("f32")));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) {
                b.Op("Add", {b.Placeholder("x", {1})});
              }),
              HasSubstr("has 1 inputs; Add takes 2"));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) {
                b.Op("Scale", {b.Placeholder("x", {1})});
              }),
              HasSubstr("Scale takes 0 and 1"));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) {
                Scale(b, b.Placeholder("x", {1}), std::nan(""));
              }),
              HasSubstr("alpha is nan"));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) {
                b.Variable("w", {3, 0});
              }),
              HasSubstr("[3,0]; sizes are at least 1"));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) {
                b.Variable("w", {1, 2, 3, 4, 5});
              }),
              HasSubstr("5 axes"));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) { b.TableRows("t", "g", 0); }),
              HasSubstr("'t': rows of 0"));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) {
                b.Placeholder("x", {b.Symbol("a") * b.Symbol("b")});
              }),
              HasSubstr("negative or none"));
  EXPECT_THAT(BuilderError([](GraphBuilder& b) {
                b.Output(Relu(b, b.Placeholder("x", {1})), 1);
              }),
              HasSubstr("'relu' has no output 1"));
}

}  // namespace
}  // namespace shoal::graph
