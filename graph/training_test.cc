// A whole model: DeepFM with shared lookups, a bag, dropout and penalties,
// trained by SGD that the test does itself.
#include <gtest/gtest.h>

#include "graph/gradients.h"
#include "graph/graph_testing.h"
#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

constexpr size_t kExamples = 256;
constexpr int64_t kFields = 3;
constexpr int64_t kIds = 20;
constexpr int64_t kDim = 4;

struct DeepFm {
  Graph graph;
  std::vector<NodeRef> fetches;  // the loss, then gradients of `trained`
  std::vector<std::string> trained;
};

NodeRef DeepFmLayer(GraphBuilder& b, NodeRef x, int64_t from, int64_t to) {
  return BiasAdd(b, MatMul(b, x, b.Variable("w", {from, to})),
                 b.Variable("bias", {to}));
}

// Keys of GraphBuilder::PlaceOps().
using Devices = std::map<std::string, std::string>;

StatusOr<DeepFm> MakeDeepFm(const Devices& devices) {
  GraphBuilder b;
  const Dim batch = b.Symbol("batch");
  const Dim values = b.Symbol("values");
  constexpr int64_t fields = kFields + 1;  // and the bag
  const NodeRef index = b.Placeholder("index", {batch, kFields}, DType::kI32);
  const NodeRef bag = b.Placeholder("bag", {values}, DType::kI32);
  const NodeRef offsets = b.Placeholder("offsets", {batch + 1}, DType::kI32);
  const NodeRef weights = b.Placeholder("weights", {values});
  const NodeRef labels = b.Placeholder("labels", {batch, 1});
  const NodeRef seed = b.Placeholder("seed", {1}, DType::kU64);
  const NodeRef scale = b.Placeholder("scale", {1});
  const auto lookup = [&](const char* table, int64_t dim) {
    const NodeRef rows = b.TableRows(table, "ids", dim);
    return Concat(b,
                  {Reshape(b, Gather(b, rows, index), {batch, kFields * dim}),
                   Reshape(b, BagPool(b, rows, bag, offsets, weights, 1, true),
                           {batch, dim})});
  };
  const NodeRef linear = RowSum(b, lookup("linear", 1));
  const NodeRef deep_in = lookup("embedding", kDim);
  const NodeRef fm =
      FmInteraction(b, Reshape(b, deep_in, {batch, fields, kDim}));
  NodeRef deep = deep_in;
  {
    const GraphBuilder::Scope scope(b, "deep/0");
    deep = Relu(b, DeepFmLayer(b, deep, fields * kDim, 16));
    deep = Dropout(b, deep, seed, 0.1);
  }
  {
    const GraphBuilder::Scope scope(b, "deep/1");
    deep = DeepFmLayer(b, deep, 16, 1);
  }
  const NodeRef logits = AddN(b, {linear, fm, deep});
  const NodeRef losses = SigmoidCrossEntropy(b, logits, labels);
  const NodeRef penalty = Scale(b, L2Penalty(b, deep_in), 1e-3);
  const NodeRef total =
      ScaleBy(b, Add(b, ReduceSum(b, losses), penalty), scale);
  DeepFm model;
  model.trained = {"linear",      "embedding", "deep/0/w",
                   "deep/0/bias", "deep/1/w",  "deep/1/bias"};
  std::vector<NodeRef> wrt;
  for (const std::string& name : model.trained) {
    for (const Feed& feed : b.graph().feeds()) {
      if (feed.name == name) {
        wrt.push_back(feed.ref);
      }
    }
  }
  if (const auto unknown = b.PlaceOps(devices); !unknown.empty()) {
    return InvalidArgumentError(unknown[0]);
  }
  model.fetches = Gradients(b, total, wrt);
  model.fetches.insert(model.fetches.begin(), ReduceSum(b, losses));
  SHOAL_ASSIGN_OR_RETURN(model.graph, b.Finish());
  return model;
}

// Examples whose label is a function of two of their ids, so that only
// interactions can tell.
TestFeeds DeepFmData() {
  Random random(7);
  std::vector<int32_t> index;
  std::vector<int32_t> bag;
  std::vector<int32_t> offsets = {0};
  std::vector<float> labels;
  for (size_t e = 0; e < kExamples; ++e) {
    for (int64_t f = 0; f < kFields; ++f) {
      index.push_back(static_cast<int32_t>(random.Below(kIds)));
    }
    const int32_t first = index[index.size() - kFields];
    const int32_t second = index[index.size() - kFields + 1];
    labels.push_back((first + second) % 2 == 0 ? 1.0F : 0.0F);
    for (uint64_t k = random.Below(3); k > 0; --k) {
      bag.push_back(static_cast<int32_t>(random.Below(kIds)));
    }
    offsets.push_back(static_cast<int32_t>(bag.size()));
  }
  return {{"index", index},
          {"bag", bag},
          {"offsets", offsets},
          {"weights", std::vector<float>(bag.size(), 1.0F)},
          {"labels", labels},
          {"seed", std::vector<uint64_t>{1}},
          {"scale", std::vector<float>{1.0F / kExamples}}};
}

struct Trained {
  std::vector<float> losses;
  std::map<std::string, std::vector<float>> parameters;
};

StatusOr<Trained> TrainDeepFm(int num_threads, bool reuse_memory, int steps,
                              const std::string& device = TestDeviceName(),
                              const Devices& devices = {}) {
  SHOAL_ASSIGN_OR_RETURN(const DeepFm model, MakeDeepFm(devices));
  TestFeeds feeds = DeepFmData();
  const auto num_values =
      static_cast<int64_t>(std::get<1>(feeds["bag"]).size());
  PlanOptions options = OptionsFor(
      model.fetches,
      {{"batch", kExamples}, {"values", 2 * kExamples}, {"rows:ids", kIds}});
  options.device = device;
  options.num_threads = num_threads;
  options.reuse_memory = reuse_memory;
  SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<const Plan> plan,
                         Plan::Create(model.graph, options));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<TestExecutor> test,
                         TestExecutor::Create(plan));
  SHOAL_RETURN_IF_ERROR((*test)->SetSymbol("values", num_values));
  uint64_t number = 0;
  for (const std::string& name : model.trained) {
    SHOAL_ASSIGN_OR_RETURN(const int feed, model.graph.FindFeed(name));
    const Shape shape =
        plan->feeds()[static_cast<size_t>(feed)].type.shape.Eval(
            plan->symbol_max());
    feeds[name] = TestUniform(static_cast<size_t>(shape.num_elements()),
                              ++number, -0.3, 0.3);
  }
  for (const auto& [name, values] : feeds) {
    SHOAL_RETURN_IF_ERROR(test->Feed(name, values));
  }
  Trained result;
  for (int step = 0; step < steps; ++step) {
    std::get<2>(feeds["seed"])[0] = static_cast<uint64_t>(step);
    test->Poison();
    SHOAL_RETURN_IF_ERROR((*test)->Run());
    result.losses.push_back(test->Fetched(0)[0] / kExamples);
    for (size_t i = 0; i < model.trained.size(); ++i) {
      const std::vector<float> grad = test->Fetched(static_cast<int>(i) + 1);
      std::vector<float>& values = std::get<0>(feeds[model.trained[i]]);
      for (size_t k = 0; k < values.size(); ++k) {
        values[k] -= 1.0F * grad[k];
      }
    }
  }
  for (const std::string& name : model.trained) {
    result.parameters[name] = std::get<0>(feeds[name]);
  }
  return result;
}

TEST(TrainingTest, DeepFmLearnsAnInteraction) {
  const StatusOr<Trained> trained = TrainDeepFm(1, true, 300);
  ASSERT_TRUE(trained.ok()) << trained.status();
  // log 2 is what knows nothing gets; labels of one id alone are even.
  EXPECT_GT(trained->losses.front(), 0.6F);
  EXPECT_LT(trained->losses.back(), 0.3F);
}

TEST(TrainingTest, ThreadsAndReuseOfMemoryDoNotChangeTheModel) {
  const StatusOr<Trained> want = TrainDeepFm(1, false, 10);
  ASSERT_TRUE(want.ok()) << want.status();
  for (const int threads : {1, 2, 3}) {
    const StatusOr<Trained> got = TrainDeepFm(threads, true, 10);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(SameBits(got->losses, want->losses));
    for (const auto& [name, values] : want->parameters) {
      EXPECT_TRUE(SameBits(got->parameters.at(name), values))
          << name << ", " << threads << " threads";
    }
  }
}

TEST(TrainingTest, PartsOnTheCpuDoNotChangeTheModel) {
  const StatusOr<Trained> want = TrainDeepFm(1, true, 5, "cpu");
  ASSERT_TRUE(want.ok()) << want.status();
  CreateShadowDevice({});  // Its kernels are there once it is.
  for (const Devices& devices :
       {Devices{
            {"gather", "cpu"}, {"BagPool", "cpu"}, {"fminteraction", "cpu"}},
        Devices{{"deep", "cpu"}}, Devices{{"deep", "cpu"}, {"deep/0", ""}},
        Devices{{"relu", "cpu"}, {"sigmoidcrossentropy", "cpu"}}}) {
    const StatusOr<Trained> got = TrainDeepFm(2, true, 5, "shadow", devices);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(SameBits(got->losses, want->losses));
    for (const auto& [name, values] : want->parameters) {
      EXPECT_TRUE(SameBits(got->parameters.at(name), values)) << name;
    }
  }
}

// Every op by itself, here or there.
TEST(TrainingTest, AnyPlacementHasTheBitsOfTheCpu) {
  const StatusOr<Trained> want = TrainDeepFm(1, true, 2, "cpu");
  ASSERT_TRUE(want.ok()) << want.status();
  const StatusOr<DeepFm> model = MakeDeepFm({});
  ASSERT_TRUE(model.ok()) << model.status();
  CreateShadowDevice({});  // Its kernels are there once it is.
  const uint64_t first_seed = 1;
  for (uint64_t seed = first_seed; seed < first_seed + 25; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    Random random(seed);
    Devices devices;
    for (const Node& node : model->graph.nodes()) {
      if (node.op != nullptr && !node.op->alias &&
          !node.name.starts_with("grad/") && random.Below(2) == 0) {
        devices[node.name] = "cpu";
      }
    }
    devices.erase("reducesum_1");  // made after the gradients
    const StatusOr<Trained> got = TrainDeepFm(1, true, 2, "shadow", devices);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(SameBits(got->losses, want->losses));
    for (const auto& [name, values] : want->parameters) {
      EXPECT_TRUE(SameBits(got->parameters.at(name), values)) << name;
    }
  }
}

}  // namespace
}  // namespace shoal::graph
