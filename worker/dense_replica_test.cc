#include "worker/dense_replica.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"
#include "base/step_tree.h"
#include "base/strcat.h"
#include "comm/sim.h"
#include "ps/checkpoint_format.h"

namespace shoal::worker {
namespace {

using ::testing::HasSubstr;

constexpr int kVirtualWorkers = 6;
constexpr int64_t kSteps = 4;

// Chunks of very different sizes, which no number of workers divides.
ps::ModelSpec Model() {
  ps::ModelSpec model;
  model.variables = {{"a/w", {70000}, {ps::Initializer::Kind::kNormal, 0.1}},
                     {"a/b", {7}, {ps::Initializer::Kind::kConstant, 0.5}},
                     {"b/w", {3, 30000}, {ps::Initializer::Kind::kNormal, 0.1}},
                     {"b/b", {1}, {ps::Initializer::Kind::kConstant, 0}}};
  model.dense_optimizer.kind = "adam";  // Its state has a number per chunk.
  model.seed = 3;
  return model;
}

float GradientAt(int64_t step, int leaf, size_t i) {
  const uint64_t key = HashKey(
      HashKey(static_cast<uint64_t>(step), static_cast<uint64_t>(leaf)), i);
  return static_cast<float>(key % 2001) / 1000 - 1;
}

// The gradient of a node of the step tree, added as the tree says.
std::vector<float> GradientOf(const StepTree& tree, int64_t step, int64_t node,
                              size_t size) {
  const auto [begin, end] = tree.Range(node);
  std::vector<float> sum(size);
  if (node == tree.Leaf(begin)) {
    for (size_t i = 0; i < size; ++i) {
      sum[i] = GradientAt(step, begin, i);
    }
    return sum;
  }
  sum = GradientOf(tree, step, 2 * node, size);
  if (tree.IsNode(2 * node + 1)) {
    const std::vector<float> right = GradientOf(tree, step, 2 * node + 1, size);
    for (size_t i = 0; i < size; ++i) {
      sum[i] += right[i];
    }
  }
  return sum;
}

// Applies steps one after another, as a worker does.
class ReplicaNode : public comm::Node {
 public:
  ReplicaNode(ps::JoinResult joined, int64_t until)
      : joined_(std::move(joined)), until_(until) {}

  void OnStart(comm::NodeContext& context) override {
    context_ = &context;
    auto made = DenseReplica::Create(context, joined_);
    ASSERT_TRUE(made.ok()) << made.status();
    replica = *std::move(made);
    Next();
  }
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    replica->OnMessage(from, message);
  }
  void OnPeerDown(comm::EndpointId peer, const Status& why) override {
    replica->OnPeerDown(peer, why);
  }
  void OnSendable(comm::EndpointId peer) override { replica->OnSendable(peer); }

  void Go(int64_t until) {
    until_ = until;
    done = false;
    Next();
  }

  std::unique_ptr<DenseReplica> replica;
  bool done = false;
  Status status;
  int bad_rank = -1;  // whose gradients are not finite

 private:
  void Next() {
    if (replica->step() == until_) {
      done = true;
      return;
    }
    const StepTree tree(kVirtualWorkers);
    terms_.clear();
    std::vector<const float*> pointers;
    const auto size =
        static_cast<size_t>(ps::DenseLayout(joined_.model).size());
    const auto [begin, end] =
        ps::VirtualRange(joined_.plan, joined_.index, joined_.num_workers);
    gradients_.clear();
    for (const int64_t node : tree.Cover(begin, end)) {
      gradients_.push_back(GradientOf(tree, replica->step(), node, size));
      if (joined_.index == bad_rank) {
        gradients_.back()[3] = 1.0F / 0.0F;
      }
      terms_.emplace_back(size, std::nanf(""));
      pointers.push_back(terms_.back().data());
    }
    replica->Begin(pointers, 0.5, [this](const Status& applied) {
      status = applied;
      done = !applied.ok();
      if (applied.ok()) {
        Next();
      }
    });
    Come(replica->step(), 0);
  }

  // The gradients of a step come one by one, in another order on each rank and
  // with pauses of another length; those that are not there are not finite.
  void Come(int64_t step, int variables) {
    const auto all = static_cast<int>(joined_.model.variables.size());
    if (variables == all) {
      EXPECT_EQ(replica->step(), step) << "applied while it is computed";
      replica->ReadyAll();
      return;
    }
    const int variable = (variables + joined_.index) % all;
    const ps::DenseLayout layout(joined_.model);
    const int64_t begin = layout.offset(variable);
    for (size_t i = 0; i < terms_.size(); ++i) {
      std::copy_n(
          gradients_[i].begin() + begin,
          joined_.model.variables[static_cast<size_t>(variable)].num_elements(),
          terms_[i].begin() + begin);
    }
    replica->Ready(variable);
    context_->SetTimer(
        context_->Now() + std::chrono::milliseconds(10 + 3 * joined_.index),
        [this, step, variables] { Come(step, variables + 1); });
  }

  const ps::JoinResult joined_;
  int64_t until_;
  comm::NodeContext* context_ = nullptr;
  std::vector<std::vector<float>> gradients_;
  std::vector<std::vector<float>> terms_;
};

class Replicas {
 public:
  Replicas(int workers, ps::DensePlace place, int64_t until, int bad_rank = -1)
      : world_(static_cast<uint64_t>(workers)) {
    ps::JoinResult joined;
    joined.model = Model();
    joined.num_workers = workers;
    joined.plan = {.dense = place, .virtual_workers = kVirtualWorkers};
    for (int i = 0; i < workers; ++i) {
      const comm::EndpointId id{static_cast<uint64_t>(i) + 1};
      joined.route.workers.push_back(
          {id, StrCat("sim:", id.value), StrCat("worker ", i)});
    }
    for (int i = 0; i < workers; ++i) {
      joined.index = i;
      world_.AddNode(
          StrCat("worker ", i),
          [&] {
            auto node = std::make_unique<ReplicaNode>(joined, until);
            node->bad_rank = bad_rank;
            nodes.push_back(node.get());
            return node;
          },
          comm::EndpointId{static_cast<uint64_t>(i) + 1});
    }
    Run();
  }

  void Run() {
    const Status ran = world_.Run(
        [this] {
          for (const ReplicaNode* node : nodes) {
            if (!node->done) {
              return false;
            }
          }
          return true;
        },
        60s);
    ASSERT_TRUE(ran.ok()) << ran;
  }

  // The digest of what the workers that the coordinator would ask save.
  std::string Save(MemoryStorage& storage, bool parts) {
    std::vector<std::string> entries;
    for (size_t i = 0; i < (parts ? nodes.size() : 1); ++i) {
      const auto saved = ps::SaveParts(storage, "out", StrCat("part-", i),
                                       nodes[i]->replica->state());
      EXPECT_TRUE(saved.ok()) << saved.status();
      entries.insert(entries.end(), saved->begin(), saved->end());
    }
    EXPECT_TRUE(ps::PublishManifest(storage, "out", nodes[0]->replica->step(),
                                    entries, {})
                    .ok());
    const StatusOr<std::string> digest = ps::DigestCheckpoint(storage, "out");
    EXPECT_TRUE(digest.ok()) << digest.status();
    return digest.ok() ? *digest : "";
  }

  std::vector<ReplicaNode*> nodes;

 private:
  comm::SimWorld world_;
};

// One store that is given the sums.
std::unique_ptr<ps::DenseStore> Oracle(int64_t steps) {
  const ps::ModelSpec model = Model();
  const ps::DenseLayout layout(model);
  std::unique_ptr<ps::DenseStore> store =
      *ps::DenseStore::Create(model, layout.chunks());
  for (int64_t step = 0; step < steps; ++step) {
    const std::vector<float> sum = GradientOf(
        StepTree(kVirtualWorkers), step, 1, static_cast<size_t>(layout.size()));
    store->ApplyFlat(sum.data(), 0.5);
  }
  return store;
}

TEST(DenseReplicaTest, AllPlacesAndNumbersOfWorkersHaveTheSameBits) {
  const ps::ModelSpec model = Model();
  const ps::DenseLayout layout(model);
  const std::unique_ptr<ps::DenseStore> oracle = Oracle(kSteps);
  std::vector<float> want(static_cast<size_t>(layout.size()));
  oracle->CopyFlat(want.data());
  MemoryStorage storage;
  const auto entries = ps::SaveParts(
      storage, "want", "part",
      {.model = &model, .dense = oracle.get(), .chunks = oracle->chunks()});
  ASSERT_TRUE(entries.ok());
  ASSERT_TRUE(ps::PublishManifest(storage, "want", kSteps, *entries, {}).ok());
  const std::string digest = *ps::DigestCheckpoint(storage, "want");

  for (const bool parts : {false, true}) {
    for (const int workers : {1, 2, 3, 4, 6}) {
      SCOPED_TRACE(StrCat(workers, " workers, parts ", parts));
      Replicas replicas(
          workers,
          parts ? ps::DensePlace::kWorkerParts : ps::DensePlace::kWorkers,
          kSteps);
      for (const ReplicaNode* node : replicas.nodes) {
        ASSERT_TRUE(node->status.ok()) << node->status;
        for (const ps::DenseChunk& chunk : layout.chunks()) {
          for (int64_t i = 0; i < chunk.count; ++i) {
            const auto at = static_cast<size_t>(chunk.offset + i);
            ASSERT_EQ(node->replica->values()[at], want[at]) << "at " << at;
          }
        }
      }
      MemoryStorage out;
      EXPECT_EQ(replicas.Save(out, parts), digest);
    }
  }
}

TEST(DenseReplicaTest, CheckpointsFitOtherPlacesAndNumbersOfWorkers) {
  MemoryStorage whole_storage;
  const std::string want = Replicas(1, ps::DensePlace::kWorkers, 2 * kSteps)
                               .Save(whole_storage, false);
  for (const bool from_parts : {false, true}) {
    MemoryStorage storage;
    Replicas from(
        3, from_parts ? ps::DensePlace::kWorkerParts : ps::DensePlace::kWorkers,
        kSteps);
    (void)from.Save(storage, from_parts);
    for (const int workers : {1, 2, 4}) {
      SCOPED_TRACE(StrCat("from parts ", from_parts, " to ", workers));
      Replicas to(workers, ps::DensePlace::kWorkerParts, 0);
      for (ReplicaNode* node : to.nodes) {
        const Status loaded = node->replica->Load(storage, "out", kSteps);
        ASSERT_TRUE(loaded.ok()) << loaded;
      }
      for (ReplicaNode* node : to.nodes) {
        node->Go(2 * kSteps);
      }
      to.Run();
      MemoryStorage out;
      EXPECT_EQ(to.Save(out, true), want);
    }
  }
}

TEST(DenseReplicaTest, BucketsAreOfABoundedSize) {
  const Replicas replicas(2, ps::DensePlace::kWorkers, 1);
  const DenseReplica& replica = *replicas.nodes[0]->replica;
  EXPECT_EQ(replica.num_buckets(), 2);  // b/b and b/w; a/b and a/w
  const Replicas parts(2, ps::DensePlace::kWorkerParts, 1);
  EXPECT_EQ(parts.nodes[0]->replica->num_buckets(), 1);
}

std::vector<comm::AllReduceSwitch>& SwitchesSeen() {
  static std::vector<comm::AllReduceSwitch> seen;
  return seen;
}

StatusOr<std::unique_ptr<comm::NodeCollective>> SeeSwitches(
    comm::NodeContext& /*context*/, comm::Group /*group*/,
    const comm::CollectiveOptions& options) {
  SwitchesSeen() = options.switches;
  return UnavailableError("only looks");
}

SHOAL_REGISTER_COLLECTIVE("seer", &SeeSwitches);

// Creates a replica with the plan's collective and keeps what came of it.
class CreatingNode : public comm::Node {
 public:
  explicit CreatingNode(ps::JoinResult joined) : joined_(std::move(joined)) {}
  void OnStart(comm::NodeContext& context) override {
    status = DenseReplica::Create(context, joined_).status();
    done = true;
  }
  void OnMessage(comm::EndpointId /*from*/, comm::Message /*m*/) override {}
  void OnPeerDown(comm::EndpointId /*peer*/, const Status& /*why*/) override {}

  Status status;
  bool done = false;

 private:
  const ps::JoinResult joined_;
};

TEST(DenseReplicaTest, CollectiveGetsThePlansAlgorithms) {
  ps::JoinResult joined;
  joined.model = Model();
  joined.num_workers = 1;
  joined.plan = {.dense = ps::DensePlace::kWorkers,
                 .virtual_workers = kVirtualWorkers,
                 .collective = "seer",
                 .allreduce = {"0 exchange", "77 halving"}};
  joined.route.workers.push_back({comm::EndpointId{1}, "sim:1", "worker 0"});
  comm::SimWorld world(1);
  CreatingNode* node = nullptr;
  world.AddNode(
      "worker 0",
      [&] {
        auto made = std::make_unique<CreatingNode>(joined);
        node = made.get();
        return made;
      },
      comm::EndpointId{1});
  ASSERT_TRUE(world.Run([&] { return node->done; }, 1s).ok());
  EXPECT_THAT(node->status.message(), HasSubstr("only looks"));
  EXPECT_EQ(comm::FormatSwitches(SwitchesSeen()), joined.plan.allreduce);
}

TEST(DenseReplicaTest, PartsOfTheOptimizersStateTakeLessMemory) {
  const auto bytes = [](int workers, ps::DensePlace place) {
    int64_t most = 0;
    const Replicas replicas(workers, place, 1);
    for (const ReplicaNode* node : replicas.nodes) {
      most = std::max(most, node->replica->memory_bytes());
    }
    return static_cast<double>(most);
  };
  // In numbers of values: the values themselves, what is summed, and the
  // optimizer's rows: the value and Adam's two moments.
  const double values = static_cast<double>(Model().num_dense_elements()) * 4;
  for (const int workers : {1, 2, 3}) {
    EXPECT_NEAR(bytes(workers, ps::DensePlace::kWorkers) / values, 5, 0.01);
  }
  EXPECT_NEAR(bytes(1, ps::DensePlace::kWorkerParts) / values, 5, 0.01);
  // Uneven by a chunk of 16,384 values, a tenth of all, and the longest counts.
  // Of 2 workers each has two nodes of the step tree, and the second one's
  // gradient is laid out too.
  EXPECT_NEAR(bytes(2, ps::DensePlace::kWorkerParts) / values, 3 + 3.0 / 2,
              3.0 / 6);
  EXPECT_NEAR(bytes(3, ps::DensePlace::kWorkerParts) / values, 2 + 3.0 / 3,
              3.0 / 6);
}

TEST(DenseReplicaTest, SumThatIsNotFiniteIsRefusedNamingVariableAndStep) {
  for (const ps::DensePlace place :
       {ps::DensePlace::kWorkers, ps::DensePlace::kWorkerParts}) {
    // With parts, who has the first one finds it, and the others wait for it.
    Replicas replicas(2, place, 1, /*bad_rank=*/1);
    EXPECT_EQ(replicas.nodes[0]->status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(replicas.nodes[0]->status.message(),
                HasSubstr("'a/w' in step 0 is not finite"));
    EXPECT_FALSE(replicas.nodes[1]->status.ok());
    EXPECT_EQ(replicas.nodes[1]->replica->step(), 0);
  }
}

}  // namespace
}  // namespace shoal::worker
