// What the step leader decides of all gradients of a step is the same whoever
// is lost on the way, and a replica or a new route that decided otherwise would
// be found.

#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "ps/protocol.pb.h"
#include "ps/wire.h"
#include "tests/simulation/cluster_world.h"
#include "tests/simulation/forwarding.h"

namespace shoal::simulation {
namespace {

using ps::Method;

// Some of its steps are skipped, some are scaled down.
const std::vector<std::string> kSkips = {
    "data.features.3.standardize=false",
    "train.loss_scale={kind: dynamic, scale: 1e29, growth_factor: 1000, "
    "growth_interval: 3, backoff_factor: 0.01}",
    "train.clip_global_norm=0.5"};
const std::vector<std::string> kLamb = {
    "dense={kind: lamb, learning_rate: 0.01, weight_decay: 0.01}"};

std::unique_ptr<SimulatedJob> Job(const std::vector<std::string>& overrides) {
  auto made = SimulatedJob::Create(overrides);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

std::string UndisturbedDigest(const SimulatedJob& job) {
  const RunResult calm = RunJob(job, {.faults = false, .crashes = 0});
  EXPECT_TRUE(calm.status.ok()) << calm.status;
  EXPECT_EQ(calm.digest.size(), 32U);
  return calm.digest;
}

RunPlan Disturbed(uint64_t seed) {
  const int replicas = 1 + static_cast<int>(seed % 3);
  return {.seed = seed,
          .crashes = 1,
          .replicas = replicas,
          .server_crashes = replicas > 1 ? 2 : 0,
          .coordinator_crashes = static_cast<int>(seed % 4),
          .scales = static_cast<int>(seed % 2) * 2};
}

TEST(GlobalPhaseSimulationTest, LostAndNewMembersLeaveTheBits) {
  std::string before;
  for (const auto& overrides : {kSkips, kLamb}) {
    const auto job = Job(overrides);
    const std::string digest = UndisturbedDigest(*job);
    EXPECT_NE(digest, before);
    before = digest;
    int crashed = 0;
    for (uint64_t seed = 1; seed <= 15; ++seed) {
      const RunResult result = RunJob(*job, Disturbed(seed));
      ASSERT_TRUE(result.status.ok())
          << "seed " << seed << ": " << result.status;
      ASSERT_EQ(result.digest, digest) << "seed " << seed;
      crashed += result.crashed;
    }
    EXPECT_GT(crashed, 10);
  }
}

// A shard to which routes come changed.
class ChangedRoutes : public ForwardingNode {
 public:
  using Change = std::function<void(ps::wire::Commit&)>;
  ChangedRoutes(std::unique_ptr<comm::Node> to, Change change)
      : ForwardingNode(std::move(to)), change_(std::move(change)) {}
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    ps::wire::RouteChange route;
    if (message.header.method == static_cast<uint16_t>(Method::kRouteChange) &&
        message.header.kind == comm::MessageKind::kRequest &&
        ps::Decode(message, route).ok()) {
      change_(*route.mutable_last());
      message.frames[0] = ps::Encode(route);
    }
    ForwardingNode::OnMessage(from, std::move(message));
  }

 private:
  Change change_;
};

// Whether a run shows what a route tells of the last commit.
bool FindsInRoutes(const std::vector<std::string>& overrides,
                   const ChangedRoutes::Change& change, uint64_t seeds = 150) {
  const auto job = Job(overrides);
  const std::string digest = UndisturbedDigest(*job);
  const Decorate decorate =
      [&](const std::string& name,
          std::unique_ptr<comm::Node> node) -> std::unique_ptr<comm::Node> {
    if (!name.starts_with("server")) {
      return node;
    }
    return std::make_unique<ChangedRoutes>(std::move(node), change);
  };
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    RunPlan plan = {.seed = seed, .replicas = 2, .server_crashes = 6};
    plan.decorate = decorate;
    const RunResult result = RunJob(*job, plan);
    if (!result.status.ok() || result.digest != digest) {
      std::cout << "found with seed " << seed << "\n";
      return true;
    }
  }
  return false;
}

TEST(GlobalPhaseSimulationTest, FindsNothingInRoutesAsTheyAre) {
  EXPECT_FALSE(FindsInRoutes(
      kLamb, [](ps::wire::Commit&) {}, kShare > 1 ? 3 : 15));
  EXPECT_FALSE(FindsInRoutes(
      kSkips, [](ps::wire::Commit&) {}, kShare > 1 ? 3 : 15));
}

TEST(GlobalPhaseSimulationTest, FindsARouteThatForgetsTheRatios) {
  EXPECT_TRUE(FindsInRoutes(
      kLamb, [](ps::wire::Commit& last) { last.clear_trust_ratios(); }));
}

TEST(GlobalPhaseSimulationTest, FindsARouteThatForgetsTheGradientsScale) {
  EXPECT_TRUE(FindsInRoutes(
      kSkips, [](ps::wire::Commit& last) { last.set_gradient_scale(1e-30); }));
}

TEST(GlobalPhaseSimulationTest, FindsARouteThatForgetsTheLossScale) {
  EXPECT_TRUE(FindsInRoutes(
      kSkips, [](ps::wire::Commit& last) { last.set_next_loss_scale(1); }));
}

}  // namespace
}  // namespace shoal::simulation
