#include "graph/executor.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/gradients.h"
#include "graph/graph_testing.h"
#include "graph/ops.h"

namespace {
std::atomic<int64_t> num_allocations{0};
}  // namespace

// Counts what the steady state must not do. The sanitizers bring their own.
// Not inlined, or the compiler sees new and free() as a mismatch.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
[[gnu::noinline]] void* operator new(size_t size) {
  num_allocations.fetch_add(1, std::memory_order_relaxed);
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) {
    std::abort();
  }
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t /*n*/) noexcept {
  std::free(memory);
}
#endif

namespace shoal::graph {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Mlp {
  Graph graph;
  std::vector<NodeRef> fetches;
};

// One hidden layer, its loss and the gradients of both matrices.
StatusOr<Mlp> MakeMlp(int64_t width) {
  GraphBuilder b;
  const Dim batch = b.Symbol("batch");
  const NodeRef x = b.Placeholder("x", {batch, 20});
  const NodeRef labels = b.Placeholder("labels", {batch, 1});
  const NodeRef w0 = b.Variable("w0", {20, width});
  const NodeRef bias = b.Variable("bias", {width});
  const NodeRef w1 = b.Variable("w1", {width, 1});
  const NodeRef hidden = Relu(b, BiasAdd(b, MatMul(b, x, w0), bias));
  const NodeRef loss =
      ReduceSum(b, SigmoidCrossEntropy(b, MatMul(b, hidden, w1), labels));
  Mlp mlp;
  mlp.fetches = Gradients(b, loss, {w0, bias, w1});
  mlp.fetches.push_back(loss);
  SHOAL_ASSIGN_OR_RETURN(mlp.graph, b.Finish());
  return mlp;
}

TestFeeds MlpFeeds(size_t batch, size_t width) {
  return {{"x", TestUniform(batch * 20, 1)},
          {"labels", TestUniform(batch, 2, 0, 1)},
          {"w0", TestUniform(20 * width, 3)},
          {"bias", TestUniform(width, 4)},
          {"w1", TestUniform(width, 5)}};
}

TEST(ExecutorTest, ThreadsDoNotChangeBits) {
  const StatusOr<Mlp> mlp = MakeMlp(150);
  ASSERT_TRUE(mlp.ok()) << mlp.status();
  const TestFeeds feeds = MlpFeeds(700, 150);
  std::vector<std::vector<float>> first;
  for (const int threads : {1, 2, 3}) {
    PlanOptions options = OptionsFor(mlp->fetches, {{"batch", 700}});
    options.num_threads = threads;
    const auto plan = Plan::Create(mlp->graph, options);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const auto results = RunPlan(*plan, feeds);
    ASSERT_TRUE(results.ok()) << results.status();
    if (first.empty()) {
      first = *results;
    }
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_TRUE(SameBits((*results)[i], first[i]))
          << "fetch " << i << ", " << threads << " threads";
    }
  }
}

TEST(ExecutorTest, SmallerBatchGivesTheBitsOfAPlanMadeForIt) {
  const StatusOr<Mlp> mlp = MakeMlp(33);
  ASSERT_TRUE(mlp.ok()) << mlp.status();
  const TestFeeds feeds = MlpFeeds(300, 33);
  const auto large =
      Plan::Create(mlp->graph, OptionsFor(mlp->fetches, {{"batch", 300}}));
  ASSERT_TRUE(large.ok()) << large.status();
  // One executor for all sizes, as a trainer uses it.
  const auto test = TestExecutor::Create(*large);
  ASSERT_TRUE(test.ok()) << test.status();
  for (const auto& [name, values] : feeds) {
    ASSERT_TRUE((*test)->Feed(name, values).ok());
  }
  for (const int64_t batch : {300, 1, 299, 64, 0, 300}) {
    const auto exact =
        Plan::Create(mlp->graph, OptionsFor(mlp->fetches, {{"batch", batch}}));
    ASSERT_TRUE(exact.ok()) << exact.status();
    const auto want = RunPlan(*exact, feeds);
    ASSERT_TRUE(want.ok()) << want.status();
    ASSERT_TRUE((**test)->SetSymbol("batch", batch).ok());
    (*test)->Poison();
    const Status status = (**test)->Run();
    ASSERT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < want->size(); ++i) {
      EXPECT_TRUE(SameBits((*test)->Fetched(static_cast<int>(i)), (*want)[i]))
          << "batch " << batch << ", fetch " << i;
    }
  }
}

TEST(ExecutorTest, AnEmptyBatchHasZeroGradients) {
  const StatusOr<Mlp> mlp = MakeMlp(3);
  ASSERT_TRUE(mlp.ok()) << mlp.status();
  const auto plan =
      Plan::Create(mlp->graph, OptionsFor(mlp->fetches, {{"batch", 8}}));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto results = RunPlan(*plan, MlpFeeds(0, 3), {{"batch", 0}});
  ASSERT_TRUE(results.ok()) << results.status();
  for (const std::vector<float>& result : *results) {
    EXPECT_THAT(result, ::testing::Each(0.0F));
  }
}

TEST(ExecutorTest, FetchesAreWrittenIntoBoundMemoryAndNoFurther) {
  const StatusOr<Mlp> mlp = MakeMlp(7);
  ASSERT_TRUE(mlp.ok()) << mlp.status();
  PlanOptions options = OptionsFor(mlp->fetches, {{"batch", 16}});
  const auto inside = Plan::Create(mlp->graph, options);
  ASSERT_TRUE(inside.ok()) << inside.status();
  for (Fetch& fetch : options.fetches) {
    fetch.external = true;
  }
  const auto outside = Plan::Create(mlp->graph, options);
  ASSERT_TRUE(outside.ok()) << outside.status();
  EXPECT_LT((*outside)->arena_bytes(), (*inside)->arena_bytes());

  const TestFeeds feeds = MlpFeeds(16, 7);
  const auto want = RunPlan(*inside, feeds);
  ASSERT_TRUE(want.ok()) << want.status();
  const auto test = TestExecutor::Create(*outside);
  ASSERT_TRUE(test.ok()) << test.status();
  for (const auto& [name, values] : feeds) {
    ASSERT_TRUE((*test)->Feed(name, values).ok());
  }
  std::vector<std::vector<float>> bound;
  for (size_t i = 0; i < want->size(); ++i) {
    bound.emplace_back((*want)[i].size() + 1, 77.0F);
    ASSERT_TRUE((**test)
                    ->BindFetch(static_cast<int>(i), bound[i].data(),
                                static_cast<int64_t>(bound[i].size()) * 4)
                    .ok());
  }
  (*test)->Poison();
  ASSERT_TRUE((**test)->Run().ok());
  for (size_t i = 0; i < want->size(); ++i) {
    EXPECT_EQ(bound[i].back(), 77.0F);
    bound[i].pop_back();
    EXPECT_TRUE(SameBits(bound[i], (*want)[i])) << i;
  }
}

TEST(ExecutorTest, FetchesAreWholeWhenTheyAreSaidToBe) {
  const StatusOr<Mlp> mlp = MakeMlp(7);
  ASSERT_TRUE(mlp.ok()) << mlp.status();
  PlanOptions options = OptionsFor(mlp->fetches, {{"batch", 16}});
  for (size_t i = 0; i < 3; ++i) {  // The loss stays inside.
    options.fetches[i].external = true;
  }
  const auto plan = Plan::Create(mlp->graph, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto test = TestExecutor::Create(*plan);
  ASSERT_TRUE(test.ok()) << test.status();
  for (const auto& [name, values] : MlpFeeds(16, 7)) {
    ASSERT_TRUE((*test)->Feed(name, values).ok());
  }
  std::vector<std::vector<float>> bound(3);
  for (size_t i = 0; i < bound.size(); ++i) {
    bound[i].resize(20 * 7);
    ASSERT_TRUE((**test)
                    ->BindFetch(static_cast<int>(i), std::span<float>(bound[i]))
                    .ok());
  }
  std::vector<std::string> events;
  std::vector<std::vector<float>> when_said(bound.size());
  (**test)->SetFetched([&](int fetch) {
    events.push_back(StrCat("fetch ", fetch));
    when_said[static_cast<size_t>(fetch)] = bound[static_cast<size_t>(fetch)];
  });
  SystemClock clock;
  (**test)->SetTrace(
      [&](std::string_view node, std::string_view /*op*/, Time /*begin*/,
          Time /*end*/) { events.emplace_back(node); },
      &clock);
  for (int run = 0; run < 4; ++run) {
    events.clear();
    for (std::vector<float>& fetch : bound) {
      std::fill(fetch.begin(), fetch.end(), std::nanf(""));
    }
    ASSERT_TRUE((**test)->Run().ok());
    EXPECT_EQ(std::count_if(
                  events.begin(), events.end(),
                  [](const auto& event) { return event.starts_with("fetch"); }),
              3);
    for (size_t i = 0; i < bound.size(); ++i) {
      EXPECT_TRUE(SameBits(when_said[i], bound[i])) << i;
    }
    // The last layer's gradient is there before the first one's is computed.
    if (TestDeviceName() == "cpu") {
      EXPECT_GT(std::find(events.begin(), events.end(), "fetch 0") -
                    std::find(events.begin(), events.end(), "fetch 2"),
                1);
    }
  }
}

TEST(ExecutorTest, SteadyStateDoesNotAllocate) {
  if (TestDeviceName() == "shadow") {
    GTEST_SKIP() << "the shadow device allocates";
  }
  const StatusOr<Mlp> mlp = MakeMlp(64);
  ASSERT_TRUE(mlp.ok()) << mlp.status();
  PlanOptions options = OptionsFor(mlp->fetches, {{"batch", 256}});
  options.num_threads = 2;
  options.fetches[0].external = true;
  const auto plan = Plan::Create(mlp->graph, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto test = TestExecutor::Create(*plan);
  ASSERT_TRUE(test.ok()) << test.status();
  const TestFeeds feeds = MlpFeeds(256, 64);
  for (const auto& [name, values] : feeds) {
    ASSERT_TRUE((*test)->Feed(name, values).ok());
  }
  Executor& executor = ***test;
  std::vector<float> gradient(20 * 64);
  const auto& x = std::get<std::vector<float>>(feeds.at("x"));
  ASSERT_TRUE(executor.BindFetch(0, std::span<float>(gradient)).ok());
  ASSERT_TRUE(executor.Run().ok());
  const int64_t before = num_allocations.load();
  bool ok = true;
  for (const int64_t batch : {256, 100, 256, 0, 3}) {
    ok = ok && executor.SetSymbol(0, batch).ok() &&
         executor.BindFeed(0, std::span<const float>(x)).ok() &&
         executor.BindFetch(0, std::span<float>(gradient)).ok() &&
         executor.Run().ok();
  }
  EXPECT_EQ(num_allocations.load(), before);
  EXPECT_TRUE(ok);
}

TEST(ExecutorTest, WhatIsNotBoundIsNamed) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {b.Symbol("batch"), 2});
  const NodeRef y = Add(b, x, Scale(b, x, 2.0));
  b.Constant(1.0F);
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  PlanOptions options = OptionsFor({y, y}, {{"batch", 4}});
  options.fetches[1].external = true;
  const auto plan = Plan::Create(*graph, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto test = TestExecutor::Create(*plan);
  ASSERT_TRUE(test.ok()) << test.status();
  Executor& executor = ***test;

  Status status = executor.Run();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("'x'"), HasSubstr("[4,2]"), HasSubstr("32")));
  std::vector<float> values(8, 1.0F);
  ASSERT_TRUE(executor.BindFeed(0, values.data(), 28).ok());
  EXPECT_THAT(executor.Run().message(), HasSubstr("28 bytes are bound"));
  ASSERT_TRUE(executor.SetSymbol("batch", 3).ok());
  status = executor.Run();  // 24 bytes are enough now
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("fetch '1'"));
  std::vector<float> result(6);
  ASSERT_TRUE(executor.BindFetch(1, std::span<float>(result)).ok());
  EXPECT_TRUE(executor.Run().ok());
  EXPECT_THAT(result, ElementsAre(3, 3, 3, 3, 3, 3));

  const auto* bytes = reinterpret_cast<const char*>(values.data());
  EXPECT_THAT(executor.BindFeed(0, bytes + 1, 16).message(),
              HasSubstr("x is not aligned for f32"));
  for (const Status& error :
       {executor.BindFeed(2, bytes, 4), executor.BindFeed(-1, bytes, 4),
        executor.BindFeed(1, bytes, 4), executor.BindFeed(0, nullptr, 4),
        executor.BindFeed(0, bytes, -4), executor.BindFetch(2, &values[0], 4),
        executor.BindFetch(0, &values[0], 4), executor.SetSymbol(1, 0),
        executor.SetSymbol("rows", 0), executor.SetSymbol(0, 5),
        executor.SetSymbol(0, -1)}) {
    EXPECT_EQ(error.code(), StatusCode::kInvalidArgument) << error;
  }
  EXPECT_THAT(executor.SetSymbol("batch", 5).message(),
              AllOf(HasSubstr("'batch' is 5"), HasSubstr("[0, 4]")));
}

TEST(ExecutorTest, TheNextRunSeesWhatWasBoundAnew) {
  GraphBuilder b;
  const NodeRef y = Scale(b, b.Placeholder("x", {2}), 2.0);
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  PlanOptions options = OptionsFor({y});
  options.fetches[0].external = true;
  const auto plan = Plan::Create(*graph, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  // Two executors of one plan do not know of each other.
  const auto first = TestExecutor::Create(*plan);
  const auto second = TestExecutor::Create(*plan);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(second.ok()) << second.status();
  const std::vector<std::vector<float>> values = {{1, 2}, {3, 4}, {5, 6}};
  std::vector<std::vector<float>> results(3, std::vector<float>(2));
  const auto feed = [&](TestExecutor& test, size_t i) {
    ASSERT_TRUE(test->BindFeed(0, std::span<const float>(values[i])).ok());
  };
  const auto fetch = [&](TestExecutor& test, size_t i) {
    ASSERT_TRUE(test->BindFetch(0, std::span<float>(results[i])).ok());
  };
  feed(**first, 0);
  fetch(**first, 0);
  feed(**second, 1);
  fetch(**second, 1);
  ASSERT_TRUE((**first)->Run().ok());
  ASSERT_TRUE((**second)->Run().ok());
  EXPECT_THAT(results[0], ElementsAre(2, 4));
  EXPECT_THAT(results[1], ElementsAre(6, 8));
  feed(**first, 2);
  ASSERT_TRUE((**first)->Run().ok());
  EXPECT_THAT(results[0], ElementsAre(10, 12));
  fetch(**first, 2);
  ASSERT_TRUE((**first)->Run().ok());
  EXPECT_THAT(results[2], ElementsAre(10, 12));
}

TEST(ExecutorTest, AKernelsErrorNamesTheNode) {
  GraphBuilder b;
  const NodeRef rows = b.TableRows("t", "ids", 2);
  const NodeRef index = b.Placeholder("index", {2, 1}, DType::kI32);
  NodeRef y;
  {
    const GraphBuilder::Scope scope(b, "lookup");
    y = Gather(b, rows, index);
  }
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto plan = Plan::Create(*graph, OptionsFor({y}, {{"rows:ids", 5}}));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto results = RunPlan(*plan, {{"t", std::vector<float>(10)},
                                       {"index", std::vector<int32_t>{0, 7}}});
  EXPECT_EQ(results.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(results.status().message(),
              AllOf(HasSubstr("node 'lookup/gather'"), HasSubstr("7")));
}

TEST(ExecutorTest, ADeviceThatIsNotThePlansIsRefused) {
  const StatusOr<Mlp> mlp = MakeMlp(3);
  ASSERT_TRUE(mlp.ok()) << mlp.status();
  PlanOptions options = OptionsFor(mlp->fetches, {{"batch", 8}});
  options.device = "cpu";
  options.num_threads = 2;
  const auto plan = Plan::Create(mlp->graph, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ThreadPool pool(1);
  const auto device = CreateCpuDevice(pool);
  const auto executor = Executor::Create(*plan, *device);
  EXPECT_THAT(executor.status().message(),
              AllOf(HasSubstr("2 threads"), HasSubstr("has 1")));
}

// A clock that shows how often it was looked at.
class CountingClock : public Clock {
 public:
  Time Now() const override { return Time(Duration(++looks_)); }

 private:
  mutable int64_t looks_ = 0;
};

TEST(ExecutorTest, TraceSeesEveryStepInOrder) {
  GraphBuilder b;
  const NodeRef x = b.Placeholder("x", {2});
  const NodeRef y = Tanh(b, Square(b, x));
  const StatusOr<Graph> graph = b.Finish();
  ASSERT_TRUE(graph.ok()) << graph.status();
  const auto plan = Plan::Create(*graph, OptionsFor({y}));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto test = TestExecutor::Create(*plan);
  ASSERT_TRUE(test.ok()) << test.status();
  const TestValues values = std::vector<float>{1, 2};
  ASSERT_TRUE((*test)->Feed("x", values).ok());
  const CountingClock clock;
  std::vector<std::string> seen;
  (**test)->SetTrace(
      [&](std::string_view node, std::string_view op, Time begin, Time end) {
        seen.push_back(StrCat(node, " ", op, " ",
                              begin.time_since_epoch().count(), "-",
                              end.time_since_epoch().count()));
      },
      &clock);
  ASSERT_TRUE((**test)->Run().ok());
  EXPECT_THAT(seen, ElementsAre("square Square 1-2", "tanh Tanh 3-4"));
  (**test)->SetTrace({}, nullptr);
  ASSERT_TRUE((**test)->Run().ok());
  EXPECT_EQ(seen.size(), 2U);
}

}  // namespace
}  // namespace shoal::graph
