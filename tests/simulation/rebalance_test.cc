// Slots that move because servers hold uneven amounts, while servers and the
// coordinator are killed and all else goes wrong: `sync` keeps its bits.

#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"

#include "ps/protocol.pb.h"
#include "ps/wire.h"
#include "tests/simulation/cluster_world.h"

namespace shoal::simulation {
namespace {

constexpr uint64_t kSeeds = 40 / kShare;

// Counts the routes by which slots move that a shard is told of.
class CountsMoves : public ForwardingNode {
 public:
  CountsMoves(std::unique_ptr<comm::Node> to, int& moves)
      : ForwardingNode(std::move(to)), moves_(moves) {}
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    ps::wire::RouteChange change;
    if (message.header.method ==
            static_cast<uint16_t>(ps::Method::kRouteChange) &&
        ps::Decode(message, change).ok()) {
      bool moves = false;
      for (const auto& chain : change.route().chains()) {
        moves = moves || chain.leaving() >= 0;
      }
      moves_ += moves ? 1 : 0;
    }
    ForwardingNode::OnMessage(from, std::move(message));
  }

 private:
  int& moves_;
};

Decorate Counting(int& moves) {
  return [&moves](
             const std::string& name,
             std::unique_ptr<comm::Node> node) -> std::unique_ptr<comm::Node> {
    if (name != "server 0 shard 0") {
      return node;
    }
    return std::make_unique<CountsMoves>(std::move(node), moves);
  };
}

// A hundred rows of 16 KiB on six shards, which are never even by chance; with
// checkpoints while slots move.
StatusOr<std::unique_ptr<SimulatedJob>> UnevenJob() {
  return SimulatedJob::Create(
      {"model.dim=2048", "checkpoint.every_steps=4", "checkpoint.keep=100"});
}

TEST(RebalanceSimulationTest, MovesAmongFaultsLeaveTheBitsAlone) {
  const auto job = UnevenJob();
  ASSERT_TRUE(job.ok()) << job.status();
  const RunResult calm = RunJob(
      **job,
      {.faults = false, .crashes = 0, .rebalance = ps::RebalanceBy::kOff});
  ASSERT_TRUE(calm.status.ok()) << calm.status;
  int moves = 0;
  int crashed = 0;
  int64_t saved = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const int replicas = 1 + static_cast<int>(seed % 3);
    const RunResult result =
        RunJob(**job, {.seed = seed,
                       .crashes = 1,
                       .replicas = replicas,
                       .server_crashes = replicas > 1 ? 2 : 0,
                       .coordinator_crashes = seed % 5 == 0 ? 1 : 0,
                       .rebalance = seed % 2 == 0 ? ps::RebalanceBy::kBytes
                                                  : ps::RebalanceBy::kLoad,
                       .scales = seed % 4 == 0 ? 1 : 0,
                       .digests = calm.digests,
                       .decorate = Counting(moves)});
    ASSERT_TRUE(result.status.ok()) << "seed " << seed << ": " << result.status;
    ASSERT_EQ(result.violation, "") << "seed " << seed;
    ASSERT_EQ(result.digest, calm.digest) << "seed " << seed;
    saved += static_cast<int64_t>(result.digests.size());
    crashed += result.crashed;
  }
  EXPECT_GT(moves, static_cast<int>(kSeeds));
  EXPECT_GT(crashed, static_cast<int>(kSeeds) / 2);
  EXPECT_GT(saved, static_cast<int64_t>(kSeeds) * 8);
}

// By itself, and then it is quiet.
TEST(RebalanceSimulationTest, UnevenRowsMoveAndStayWhereTheyAre) {
  const auto job = UnevenJob();
  ASSERT_TRUE(job.ok()) << job.status();
  for (const ps::RebalanceBy by :
       {ps::RebalanceBy::kOff, ps::RebalanceBy::kBytes}) {
    int moves = 0;
    const RunResult result = RunJob(**job, {.faults = false,
                                            .crashes = 0,
                                            .rebalance = by,
                                            .decorate = Counting(moves)});
    ASSERT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(moves > 0, by == ps::RebalanceBy::kBytes);
    EXPECT_LE(moves, 5);
  }
}

}  // namespace
}  // namespace shoal::simulation
