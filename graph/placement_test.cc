#include <gmock/gmock.h>

#include "graph/gradients.h"
#include "graph/graph_testing.h"
#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const Node& NodeCalled(const Graph& graph, const std::string& name) {
  for (const Node& node : graph.nodes()) {
    if (node.name == name) {
      return node;
    }
  }
  ADD_FAILURE() << "no node " << name << " in\n" << graph.ToString();
  return graph.nodes()[0];
}

TEST(PlaceOpsTest, TheLongestPathCountsThenTheOp) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {2});
  NodeRef y = Tanh(b, x);
  for (const char* layer : {"deep/0", "deep/1", "deeper/0"}) {
    const GraphBuilder::Scope scope(b, layer);
    y = Tanh(b, y);
  }
  EXPECT_THAT(b.PlaceOps({{"deep", "cpu"},
                          {"deep/1", ""},
                          {"Tanh", "shadow"},
                          {"relu", "cpu"},
                          {"eep", "cpu"}}),
              ElementsAre("eep", "relu"));
  EXPECT_THAT(b.PlaceableNames(), ElementsAre("deep", "deeper", "tanh"));
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(NodeCalled(*graph, "tanh").device, "shadow");
  EXPECT_EQ(NodeCalled(*graph, "deep/0/tanh").device, "cpu");
  EXPECT_EQ(NodeCalled(*graph, "deep/1/tanh").device, "");
  EXPECT_EQ(NodeCalled(*graph, "deeper/0/tanh").device, "shadow");
  EXPECT_THAT(graph->ToString(), HasSubstr(") on cpu"));
}

TEST(PlaceOpsTest, GradientsAreComputedWhereTheirOpsAre) {
  GraphBuilder b;
  const NodeRef w = b.Variable("w", {2});
  const NodeRef v = b.Variable("v", {2});
  const NodeRef y = Tanh(b, Square(b, w));
  const NodeRef loss = ReduceSum(b, Add(b, y, Square(b, v)));
  EXPECT_THAT(b.PlaceOps({{"tanh", "cpu"}}), IsEmpty());
  Gradients(b, loss, {w, v});
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  int on_cpu = 0;
  for (const Node& node : graph->nodes()) {
    const bool of_tanh = node.name.find("tanh") != std::string::npos;
    EXPECT_EQ(node.device, of_tanh ? "cpu" : "") << node.name;
    on_cpu += of_tanh ? 1 : 0;
  }
  EXPECT_GE(on_cpu, 2);
}

class PlacementTest : public ::testing::Test {
 protected:
  // Its kernels are there once it is.
  PlacementTest() { CreateShadowDevice({}); }

  static PlanOptions Options(std::vector<Fetch> fetches,
                             const std::string& device) {
    PlanOptions options;
    options.fetches = std::move(fetches);
    options.symbol_max = {{"n", 8}};
    options.device = device;
    return options;
  }
};

TEST_F(PlacementTest, SidesChangeSeldom) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {2});
  NodeRef host = x;
  NodeRef device = x;
  for (int i = 0; i < 4; ++i) {
    device = Tanh(b, device);
    host = Square(b, host);
  }
  const NodeRef y = Add(b, host, device);
  EXPECT_THAT(b.PlaceOps({{"square", "cpu"}}), IsEmpty());
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto plan = Plan::Create(*graph, Options({{y}}, "shadow"));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE((*plan)->mixed());
  std::vector<std::string> ops;
  for (const Plan::Step& step : (*plan)->steps()) {
    ops.push_back(step.op);
    EXPECT_FALSE(step.waits) << (*plan)->ToString();
  }
  EXPECT_THAT(ops, ElementsAre("Square", "Square", "Square", "Square",
                               "copy to the device", "Tanh", "Tanh", "Tanh",
                               "Tanh", "Add"));
}

// Values that cross both ways, twice and as aliases; feeds and constants that
// both sides read; fetches of both sides.
TEST_F(PlacementTest, WhatCrossesHasTheBitsOfTheCpu) {
  const auto run = [](const std::string& device, int64_t n,
                      bool reuse) -> StatusOr<std::vector<std::vector<float>>> {
    GraphBuilder b;
    const Dim rows = b.Symbol("n");
    const NodeRef x = b.Placeholder("x", {rows, 2});
    const NodeRef w = b.Variable("w", {2, 2});
    const NodeRef one = b.Constant(1.5F);
    NodeRef y = MatMul(b, x, w);  // device
    y = Tanh(b, y);               // cpu
    const NodeRef middle = y;
    y = ScaleBy(b, y, one);  // device
    y = Sigmoid(b, y);       // cpu
    y = Add(b, y, x);        // device
    const NodeRef flat = Reshape(b, middle, {rows * 2, 1});
    const NodeRef sums = ReduceSum(b, Reshape(b, flat, {rows, 2}));
    const NodeRef last = ScaleBy(b, Tanh(b, Square(b, y)), one);
    const NodeRef loss = Add(b, ReduceSum(b, last), sums);
    b.PlaceOps({{"tanh", "cpu"}, {"sigmoid", "cpu"}, {"scaleby_1", "cpu"}});
    const std::vector<NodeRef> gradients = Gradients(b, loss, {w, x});
    SHOAL_ASSIGN_OR_RETURN(const Graph graph, b.Finish());
    PlanOptions options = Options({{loss},
                                   {middle},
                                   {gradients[0], true},
                                   {gradients[1]},
                                   {last, true},
                                   {middle, true}},
                                  device);
    options.reuse_memory = reuse;
    SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<const Plan> plan,
                           Plan::Create(graph, options));
    EXPECT_EQ(plan->mixed(), device != "cpu") << plan->ToString();
    SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<TestExecutor> test,
                           TestExecutor::Create(plan));
    Executor& executor = **test;
    const TestValues xs = TestUniform(16, 1);
    const TestValues ws = TestUniform(4, 2);
    std::vector<float> dw(4);
    std::vector<float> tanh(16);
    std::vector<float> again(16);
    std::vector<std::vector<float>> all;
    // A run of another size first, and one that nobody wants.
    for (const int64_t size : {int64_t{8}, n, n}) {
      SHOAL_RETURN_IF_ERROR(executor.SetSymbol("n", size));
      SHOAL_RETURN_IF_ERROR(test->Feed("x", xs));
      SHOAL_RETURN_IF_ERROR(test->Feed("w", ws));
      SHOAL_RETURN_IF_ERROR(executor.BindFetch(2, std::span<float>(dw)));
      SHOAL_RETURN_IF_ERROR(executor.BindFetch(4, std::span<float>(tanh)));
      SHOAL_RETURN_IF_ERROR(executor.BindFetch(5, std::span<float>(again)));
      SHOAL_RETURN_IF_ERROR(executor.Start());
      SHOAL_RETURN_IF_ERROR(executor.Abandon());
      SHOAL_RETURN_IF_ERROR(executor.Run());
      for (const int fetch : {0, 1, 3}) {
        all.push_back(test->Fetched(fetch));
      }
      all.push_back(dw);
      all.emplace_back(tanh.begin(), tanh.begin() + size * 2);
      all.emplace_back(again.begin(), again.begin() + size * 2);
    }
    return all;
  };
  for (const int64_t n : {8, 3, 1, 0}) {
    for (const bool reuse : {true, false}) {
      const auto want = run("cpu", n, reuse);
      ASSERT_TRUE(want.ok()) << want.status();
      const auto got = run("shadow", n, reuse);
      ASSERT_TRUE(got.ok()) << got.status();
      ASSERT_EQ(got->size(), want->size());
      for (size_t i = 0; i < want->size(); ++i) {
        EXPECT_TRUE(SameBits((*got)[i], (*want)[i])) << i << " of size " << n;
      }
    }
  }
}

TEST_F(PlacementTest, ADeviceThatIsNotThePlansIsRefused) {
  GraphBuilder b;
  const NodeRef y = Tanh(b, b.Placeholder("x", {2}));
  b.PlaceOps({{"tanh", "cuda"}});
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto plan = Plan::Create(*graph, Options({{y}}, "shadow"));
  EXPECT_EQ(plan.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(plan.status().message(),
              AllOf(HasSubstr("node 'tanh' is placed on 'cuda'"),
                    HasSubstr("'shadow'")));
}

TEST_F(PlacementTest, AMixedPlanNeedsTheHost) {
  GraphBuilder b;
  const NodeRef y = Square(b, Tanh(b, b.Placeholder("x", {2})));
  b.PlaceOps({{"tanh", "cpu"}});
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto plan = Plan::Create(*graph, Options({{y}}, "shadow"));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::unique_ptr<Device> device = CreateShadowDevice({});
  EXPECT_THAT(Executor::Create(*plan, *device).status().message(),
              HasSubstr("give it a device 'cpu'"));
  ThreadPool two(2);
  const std::unique_ptr<Device> host = CreateCpuDevice(two);
  EXPECT_THAT(Executor::Create(*plan, *device, host.get()).status().message(),
              HasSubstr("the host has 2"));
}

TEST_F(PlacementTest, AnErrorOfEitherSideNamesTheNode) {
  for (const bool gather_on_cpu : {false, true}) {
    GraphBuilder b;
    const NodeRef rows = b.TableRows("t", "g", 2);
    const NodeRef index = b.Placeholder("index", {2, 1}, DType::kI32);
    const NodeRef y = Square(b, Gather(b, Tanh(b, rows), index));
    b.PlaceOps({{gather_on_cpu ? "gather" : "tanh", "cpu"}});
    const StatusOr<Graph> graph = b.Finish();
    ASSERT_TRUE(graph.ok()) << graph.status();
    PlanOptions options = Options({{y}}, "shadow");
    options.symbol_max["rows:g"] = 2;
    const auto plan = Plan::Create(*graph, options);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const auto test = TestExecutor::Create(*plan);
    ASSERT_TRUE(test.ok()) << test.status();
    const TestValues values = std::vector<float>{1, 2, 3, 4};
    const TestValues bad = std::vector<int32_t>{1, 2};
    const TestValues good = std::vector<int32_t>{1, 0};
    ASSERT_TRUE((*test)->Feed("t", values).ok());
    ASSERT_TRUE((*test)->Feed("index", bad).ok());
    EXPECT_THAT((**test)->Run().message(), HasSubstr("node 'gather'"));
    // It works again afterwards.
    ASSERT_TRUE((*test)->Feed("index", good).ok());
    EXPECT_TRUE((**test)->Run().ok());
  }
}

// What crosses and what is fetched, in order: feeds to the device, a product
// to the host, its tanh back, and results in pieces.
Status RunForgettingWait(int64_t forget_wait) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {300, 300});
  const NodeRef first = Square(b, MatMul(b, x, x));
  const NodeRef second = Square(b, Tanh(b, first));
  const NodeRef third = ReduceSum(b, Square(b, second));
  b.PlaceOps({{"tanh", "cpu"}});
  SHOAL_ASSIGN_OR_RETURN(const Graph graph, b.Finish());
  PlanOptions options;
  options.fetches = {{third}, {second, true}, {first, true}};
  options.device = "shadow";
  SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<const Plan> plan,
                         Plan::Create(graph, options));
  ThreadPool pool(1);
  const std::unique_ptr<Device> device =
      CreateShadowDevice({.forget_wait = forget_wait});
  const std::unique_ptr<Device> host = CreateCpuDevice(pool);
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Executor> executor,
                         Executor::Create(plan, *device, host.get()));
  const std::vector<float> values = TestUniform(90000, 1);
  std::vector<float> out(180000);
  SHOAL_RETURN_IF_ERROR(executor->BindFeed(0, std::span<const float>(values)));
  const std::span<float> all = out;
  SHOAL_RETURN_IF_ERROR(executor->BindFetch(1, all.first(90000)));
  SHOAL_RETURN_IF_ERROR(executor->BindFetch(2, all.last(90000)));
  return executor->Run();
}

using PlacementDeathTest = PlacementTest;

// The kernels wait for the feeds; copies out for the kernels; whoever waits for
// the kernels, for those; the kernels for what the host computed; copies out
// for the second kernels and for the last; and whoever waits for all.
TEST_F(PlacementDeathTest, EveryWaitIsNeeded) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  constexpr int64_t kWaits = 7;
  for (int64_t wait = 0; wait < kWaits; ++wait) {
    // An error of the shadow device, or a touch of memory that a copy uses.
    EXPECT_DEATH(SHOAL_CHECK(RunForgettingWait(wait).ok()), "") << wait;
  }
  const Status right = RunForgettingWait(kWaits);
  EXPECT_TRUE(right.ok()) << right;
}

}  // namespace
}  // namespace shoal::graph
