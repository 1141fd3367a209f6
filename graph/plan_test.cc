#include "graph/plan.h"

#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/gradients.h"
#include "graph/graph_testing.h"
#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Plays a plan on an arena of labels instead of numbers: each step checks that
// its inputs still carry the label of the node that they come from, as the
// graph says, and labels its outputs. Knows nothing of how plans are made.
// The plan must have been made without passes, so that names agree.
class ArenaPlay {
 public:
  ArenaPlay(const Graph& graph, const Plan& plan)
      : graph_(graph),
        plan_(plan),
        labels_(static_cast<size_t>(plan.arena_bytes() / 64 + 1)) {
    for (const Node& node : graph.nodes()) {
      by_name_[node.name] = &node;
    }
  }

  void Run(const std::vector<NodeRef>& fetches) {
    for (const Plan::Step& step : plan_.steps()) {
      const bool copy = by_name_.count(step.name) == 0;
      for (size_t k = 0; k < step.inputs.size(); ++k) {
        if (!step.shape_only[k]) {
          const size_t fetch = copy ? std::stoul(step.name.substr(6)) : 0;
          Check(step.inputs[k],
                copy ? fetches[fetch] : by_name_[step.name]->inputs[k],
                step.name);
        }
      }
      CheckApart(step);
      for (size_t k = 0; k < step.outputs.size(); ++k) {
        Label(step.outputs[k], step.name + ":" + std::to_string(k));
      }
    }
    for (size_t i = 0; i < fetches.size(); ++i) {
      // What was copied carries the name of the copy.
      const int value = plan_.fetches()[i].value;
      if (LabelAt(value) != "fetch:" + std::to_string(i) + ":0") {
        Check(value, fetches[i], "the end");
      }
    }
  }

 private:
  // Where a value lies in the arena, in units of 64 bytes; empty if elsewhere.
  std::pair<size_t, size_t> Place(int number) const {
    const Plan::Value& value = plan_.values()[static_cast<size_t>(number)];
    if (value.storage < 0) {
      return {0, 0};  // of no step's interest but its shape
    }
    const Plan::Storage& storage =
        plan_.storages()[static_cast<size_t>(value.storage)];
    if (storage.kind != Plan::Storage::Kind::kArena) {
      return {0, 0};
    }
    EXPECT_EQ(storage.offset % 64, 0);
    const int64_t bytes =
        value.type.shape.Eval(plan_.symbol_max()).num_elements() *
        SizeOf(value.type.dtype);
    const auto first = static_cast<size_t>(storage.offset / 64);
    EXPECT_LE(storage.offset + bytes, plan_.workspace_offset());
    return {first, first + static_cast<size_t>((bytes + 63) / 64)};
  }

  // Outputs lie apart from each other and from what is read, but for a first
  // output in the very place of an input where the op allows it.
  void CheckApart(const Plan::Step& step) const {
    for (size_t k = 0; k < step.outputs.size(); ++k) {
      const auto [begin, end] = Place(step.outputs[k]);
      for (size_t j = 0; j < k; ++j) {
        const auto [other, other_end] = Place(step.outputs[j]);
        EXPECT_TRUE(end <= other || other_end <= begin) << step.name;
      }
      for (size_t i = 0; i < step.inputs.size(); ++i) {
        const auto [other, other_end] = Place(step.inputs[i]);
        const auto op = OpRegistry().Find(step.op);
        const bool same_place =
            k == 0 && (*op)->in_place && begin == other && end == other_end;
        EXPECT_TRUE(step.shape_only[i] || same_place || end <= other ||
                    other_end <= begin)
            << step.name;
      }
    }
  }

  std::string LabelAt(int number) const {
    const auto [begin, end] = Place(number);
    return begin == end ? "" : labels_[begin];
  }

  void Label(int number, const std::string& label) {
    const auto [begin, end] = Place(number);
    for (size_t i = begin; i < end; ++i) {
      labels_[i] = label;
    }
  }

  void Check(int number, NodeRef from, const std::string& reader) const {
    while (graph_.node(from).op != nullptr && graph_.node(from).op->alias) {
      from = graph_.node(from).inputs[0];
    }
    const std::string want =
        graph_.node(from).name + ":" + std::to_string(from.output);
    const auto [begin, end] = Place(number);
    for (size_t i = begin; i < end; ++i) {
      ASSERT_EQ(labels_[i], want) << "read by " << reader;
    }
  }

  const Graph& graph_;
  const Plan& plan_;
  std::vector<std::string> labels_;
  std::map<std::string, const Node*> by_name_;
};

// A graph of random ops on [batch, 4] tensors, with its gradients.
struct RandomGraph {
  Graph graph;
  std::vector<NodeRef> fetches;
};

NodeRef RandomOp(GraphBuilder& b, const std::vector<NodeRef>& nodes,
                 Random& random) {
  const NodeRef x = nodes[random.Below(nodes.size())];
  const NodeRef y = nodes[random.Below(nodes.size())];
  const Dim batch = b.Symbol("batch");
  switch (random.Below(9)) {
    case 0:
      return Add(b, x, y);
    case 1:
      return Mul(b, Tanh(b, x), y);
    case 2:
      return Sigmoid(b, x);
    case 3:
      return MatMul(b, x, b.graph().feeds()[1].ref);
    case 4:
      return Reshape(b, Relu(b, Reshape(b, x, {batch * 4})), {batch, 4});
    case 5:
      return Slice(b, Concat(b, {x, y}), 2, 4);
    case 6:
      return Scale(b, x, 0.5);
    case 7:
      return CrossCombine(b, x, Tanh(b, y), nodes[0]);
    default:
      return b.Op("BroadcastCol", {RowSum(b, Tanh(b, x)), x});
  }
}

StatusOr<RandomGraph> MakeRandomGraph(uint64_t seed) {
  GraphBuilder b;
  Random random(seed);
  const Dim batch = b.Symbol("batch");
  std::vector<NodeRef> nodes = {b.Placeholder("x", {batch, 4})};
  const NodeRef w = b.Variable("w", {4, 4});
  for (int i = 0; i < 30; ++i) {
    nodes.push_back(RandomOp(b, nodes, random));
  }
  RandomGraph result;
  const NodeRef loss = ReduceSum(b, Square(b, nodes.back()));
  result.fetches = {loss, nodes[random.Below(nodes.size())]};
  for (const NodeRef grad : Gradients(b, loss, {nodes[0], w})) {
    if (grad.valid()) {
      result.fetches.push_back(grad);
    }
  }
  SHOAL_ASSIGN_OR_RETURN(result.graph, b.Finish());
  return result;
}

TEST(PlanTest, NothingIsOverwrittenWhileItIsNeeded) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    const StatusOr<RandomGraph> random = MakeRandomGraph(seed);
    ASSERT_TRUE(random.ok()) << random.status();
    PlanOptions options = OptionsFor(random->fetches, {{"batch", 50}});
    options.simplify = false;
    options.fetches[0].external = seed % 2 == 0;
    const auto plan = Plan::Create(random->graph, options);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_LE((*plan)->arena_bytes(), (*plan)->arena_bytes_without_reuse());
    ArenaPlay(random->graph, **plan).Run(random->fetches);
  }
}

// With a poisoned arena, with and without passes and reuse, at the maximum and
// below it.
TEST(PlanTest, ReuseAndPassesDoNotChangeBits) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    const StatusOr<RandomGraph> random = MakeRandomGraph(seed);
    ASSERT_TRUE(random.ok()) << random.status();
    const TestFeeds feeds = {{"x", TestUniform(200, seed)},
                             {"w", TestUniform(16, seed + 1)}};
    std::vector<std::vector<float>> first;
    for (const bool reuse : {false, true}) {
      for (const bool simplify : {false, true}) {
        for (const int64_t max : {37, 50}) {
          PlanOptions options = OptionsFor(random->fetches, {{"batch", max}});
          options.reuse_memory = reuse;
          options.simplify = simplify;
          const auto plan = Plan::Create(random->graph, options);
          ASSERT_TRUE(plan.ok()) << plan.status();
          const auto results = RunPlan(*plan, feeds, {{"batch", 37}});
          ASSERT_TRUE(results.ok()) << results.status();
          if (first.empty()) {
            first = *results;
            EXPECT_FALSE(std::isnan(first[0][0]));
          }
          for (size_t i = 0; i < first.size(); ++i) {
            EXPECT_TRUE(SameBits((*results)[i], first[i])) << "fetch " << i;
          }
        }
      }
    }
  }
}

TEST(PlanTest, ElementwiseChainStaysInPlace) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {b.Symbol("batch"), 16});
  NodeRef y = Square(b, x);
  for (int i = 0; i < 10; ++i) {
    y = Reshape(b, Tanh(b, Scale(b, y, 1.5)), {b.Symbol("batch"), 4, 4});
    y = Reshape(b, y, {b.Symbol("batch"), 16});
  }
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto plan = Plan::Create(*graph, OptionsFor({y}, {{"batch", 10}}));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ((*plan)->arena_bytes(), 640);
  EXPECT_EQ((*plan)->arena_bytes_without_reuse(), 21 * 640);
  EXPECT_EQ((*plan)->steps().size(), 21U);  // a Reshape is no step
}

// A fetch of a feed, of the same tensor twice, and of a tensor that is used
// again, bound and in the arena.
TEST(PlanTest, FetchesMayOverlap) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {2});
  const NodeRef y = Scale(b, x, 2.0);
  const NodeRef z = Scale(b, y, 3.0);
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  PlanOptions options = OptionsFor({x, y, y, y, y, z, x});
  options.fetches[1].external = true;
  options.fetches[2].external = true;
  options.fetches[6].external = true;
  const auto plan = Plan::Create(*graph, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto test = TestExecutor::Create(*plan);
  ASSERT_TRUE(test.ok()) << test.status();
  Executor& executor = ***test;
  const TestValues values = std::vector<float>{1, 2};
  ASSERT_TRUE((*test)->Feed("x", values).ok());
  std::vector<std::vector<float>> bound(7, std::vector<float>(2));
  for (const int i : {1, 2, 6}) {
    ASSERT_TRUE(
        executor.BindFetch(i, std::span<float>(bound[static_cast<size_t>(i)]))
            .ok());
  }
  (*test)->Poison();
  const Status status = executor.Run();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT((*test)->Fetched(0), ElementsAre(1, 2));
  for (const int i : {1, 2, 3, 4}) {
    EXPECT_THAT((*test)->Fetched(i), ElementsAre(2, 4)) << i;
  }
  for (const int i : {3, 4}) {  // stays when the caller's memory is gone
    EXPECT_NE(executor.fetch(i).data, bound[1].data());
    EXPECT_NE(executor.fetch(i).data, bound[2].data());
  }
  EXPECT_THAT(bound[1], ElementsAre(2, 4));
  EXPECT_THAT(bound[2], ElementsAre(2, 4));
  EXPECT_THAT((*test)->Fetched(5), ElementsAre(6, 12));
  EXPECT_THAT(bound[6], ElementsAre(1, 2));
}

// d sum(relu(x)^2) / d relu(x) needs relu(x), but that of its sum needs no more
// than its shape.
TEST(PlanTest, WhatIsNeededForItsShapeAloneDoesNotRun) {
  GraphBuilder b;
  const Dim batch = b.Symbol("batch");
  const NodeRef x = b.Placeholder("x", {batch, 4});
  const NodeRef y = Relu(b, x);
  const NodeRef loss = ReduceSum(b, y);
  const std::vector<NodeRef> grads = Gradients(b, loss, {y});
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto plan = Plan::Create(*graph, OptionsFor(grads, {{"batch", 4}}));
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ((*plan)->steps().size(), 1U);
  EXPECT_FALSE((*plan)->FeedIsUsed(0));
  const auto results = RunPlan(*plan, {}, {{"batch", 2}});
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_THAT((*results)[0], ElementsAre(1, 1, 1, 1, 1, 1, 1, 1));
}

Graph SmallGraph(NodeRef* y) {
  GraphBuilder b;
  *y = Relu(b, b.Placeholder("x", {b.Symbol("batch"), 1024}));
  StatusOr<Graph> graph = b.Finish();
  SHOAL_CHECK(graph.ok());
  return *std::move(graph);
}

TEST(PlanTest, ErrorsSayWhatIsMissing) {
  NodeRef y;
  const Graph graph = SmallGraph(&y);
  const auto error = [&](const PlanOptions& options) {
    return Plan::Create(graph, options).status().ToString();
  };
  EXPECT_THAT(error(OptionsFor({NodeRef()}, {{"batch", 1}})),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("fetch 0")));
  EXPECT_THAT(error(OptionsFor({y})),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("[batch,1024]"),
                    HasSubstr("no maximum")));
  EXPECT_THAT(error(OptionsFor({y}, {{"batch", -1}})),
              HasSubstr("negative maximum"));
  EXPECT_THAT(error(OptionsFor({y}, {{"batch", int64_t{1} << 60}})),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("node 'x'"),
                    HasSubstr("[batch,1024]")));
  PlanOptions small = OptionsFor({y}, {{"batch", 10}});
  small.arena_bytes_max = 1 << 12;
  EXPECT_THAT(error(small), HasSubstr("RESOURCE_EXHAUSTED"));
  PlanOptions elsewhere = OptionsFor({y}, {{"batch", 10}});
  elsewhere.device = "abacus";
  EXPECT_THAT(error(elsewhere),
              AllOf(HasSubstr("NOT_FOUND"), HasSubstr("'relu'"),
                    HasSubstr("abacus/Relu")));
  PlanOptions threads = OptionsFor({y}, {{"batch", 10}});
  threads.num_threads = 0;
  EXPECT_THAT(error(threads), HasSubstr("num_threads is 0"));
}

TEST(PlanTest, OnlyF32CanBeFetched) {
  GraphBuilder b;
  const NodeRef index = b.Placeholder("index", {2}, DType::kI32);
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(Plan::Create(*graph, OptionsFor({index})).status().code(),
            StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace shoal::graph
