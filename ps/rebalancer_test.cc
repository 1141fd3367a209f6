#include "ps/rebalancer.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "base/strcat.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

constexpr int64_t kMega = 1 << 20;

// Two shards, of a server each, and four slots of which each heads two.
class RebalancerTest : public ::testing::Test {
 protected:
  RebalancerTest() {
    for (int shard = 0; shard < 2; ++shard) {
      places_.push_back({shard, shard, StrCat("h", shard)});
    }
    route_.version = 3;
    route_.slot_bits = 2;
    route_.shards.resize(2);
    SetChains({{.members = {0}},
               {.members = {0}},
               {.members = {1}},
               {.members = {1}}});
  }

  void SetChains(const std::vector<Chain>& chains) { route_.SetChains(chains); }

  static comm::Message Report(std::vector<int64_t> bytes,
                              std::vector<int64_t> pulled = {0, 0},
                              std::vector<int64_t> pushed = {0, 0},
                              Duration period = 1s, uint64_t version = 3) {
    wire::SlotLoads loads;
    loads.set_version(version);
    loads.set_period_ns(period.count());
    loads.mutable_bytes()->Add(bytes.begin(), bytes.end());
    loads.mutable_pulled()->Add(pulled.begin(), pulled.end());
    loads.mutable_pushed()->Add(pushed.begin(), pushed.end());
    loads.set_sent(7);
    comm::Message message;
    message.frames.push_back(Encode(loads));
    return message;
  }
  bool IsDue(Rebalancer& rebalancer, bool turns_heads = true,
             int replicas = 1) {
    now_ += 1s;
    return rebalancer.IsDue(now_, route_, {places_, 2, replicas}, turns_heads);
  }

  std::vector<ShardPlace> places_;
  RouteTable route_;
  Time now_{3600s};
};

TEST_F(RebalancerTest, UnevenBytesAreDueWhenAllIsKnown) {
  Rebalancer rebalancer(RebalanceBy::kBytes);
  rebalancer.Take(Report({10 * kMega, 10 * kMega}), 0, route_);
  EXPECT_FALSE(IsDue(rebalancer)) << "of half of the slots nothing is known";
  EXPECT_TRUE(rebalancer.Goal(now_, 4, {places_, 2, 1}).slots.empty());
  rebalancer.Take(Report({2 * kMega, 2 * kMega}), 1, route_);
  EXPECT_TRUE(IsDue(rebalancer));
  EXPECT_FALSE(rebalancer.IsDue(now_ + 999ms, route_, {places_, 2, 1}, true))
      << "once a second";
  const MoveGoal goal = rebalancer.Goal(now_, 4, {places_, 2, 1});
  ASSERT_EQ(goal.slots.size(), 4U);
  EXPECT_EQ(goal.slots[0].weight, goal.slots[0].cost);
  EXPECT_NEAR(goal.slots[0].cost / goal.slots[3].cost, 5, 0.1);
  const auto loads = rebalancer.LoadsOf(route_);
  EXPECT_EQ(loads[0].bytes, 20 * kMega);
  EXPECT_EQ(loads[1].bytes, 4 * kMega);
  EXPECT_EQ(rebalancer.sent_bytes(), 14);
  // What is on its way comes first.
  SetChains({{.members = {0}, .joining = 1, .leaving = 0},
             {.members = {0}},
             {.members = {1}},
             {.members = {1}}});
  EXPECT_FALSE(IsDue(rebalancer));
  EXPECT_EQ(rebalancer.LoadsOf(route_)[1].to_come, 10 * kMega);
  rebalancer.Moved(0);
  EXPECT_EQ(rebalancer.moved_bytes(), 10 * kMega);
}

TEST_F(RebalancerTest, SmallTablesAreEvenWhenTheirSlotsAre) {
  Rebalancer rebalancer(RebalanceBy::kBytes);
  rebalancer.Take(Report({300, 300}), 0, route_);
  rebalancer.Take(Report({10, 10}), 1, route_);
  EXPECT_FALSE(IsDue(rebalancer));
}

TEST_F(RebalancerTest, OffMovesByNumberAndOnlyWhenAsked) {
  Rebalancer rebalancer(RebalanceBy::kOff);
  rebalancer.Take(Report({10 * kMega, 10 * kMega}), 0, route_);
  rebalancer.Take(Report({0, 0}), 1, route_);
  EXPECT_FALSE(IsDue(rebalancer));
  const MoveGoal goal = rebalancer.Goal(now_, 4, {places_, 2, 1});
  ASSERT_EQ(goal.slots.size(), 4U);
  EXPECT_EQ(goal.tolerance, 0);
  EXPECT_EQ(goal.slots[0].weight, goal.slots[2].weight);
  EXPECT_LT(goal.slots[2].cost, goal.slots[0].cost);
}

TEST_F(RebalancerTest, LoadIsDecayedAndDueWhenItWasWatchedForAWhile) {
  Rebalancer rebalancer(RebalanceBy::kLoad);
  const auto both = [&](int64_t first, int64_t second) {
    rebalancer.Take(Report({0, 0}, {first, 0}, {0, first}), 0, route_);
    rebalancer.Take(Report({0, 0}, {0, second}, {0, 0}), 1, route_);
  };
  both(10 * kMega, kMega);
  both(10 * kMega, kMega);
  EXPECT_FALSE(IsDue(rebalancer));
  both(10 * kMega, kMega);
  EXPECT_TRUE(IsDue(rebalancer));
  EXPECT_NEAR(rebalancer.LoadsOf(route_)[0].load, 20.0 * kMega, 1);
  // Two seconds later a third of it is left.
  both(0, kMega);
  both(0, kMega);
  EXPECT_NEAR(rebalancer.LoadsOf(route_)[0].load, 20.0 * kMega / 2.718, 1000);
}

TEST_F(RebalancerTest, HeadsAreTurnedWhereThatEvensTheLoad) {
  SetChains({{.members = {0, 1}},
             {.members = {0, 1}},
             {.members = {1, 0}},
             {.members = {1, 0}}});
  for (const bool turns : {true, false}) {
    Rebalancer rebalancer(RebalanceBy::kLoad);
    for (int i = 0; i < 3; ++i) {
      rebalancer.Take(Report({0, 0}, {10 * kMega, 10 * kMega}), 0, route_);
      rebalancer.Take(Report({0, 0}), 1, route_);
    }
    EXPECT_EQ(IsDue(rebalancer, turns, 2), turns);
    std::vector<Chain> chains = route_.ChainsOfSlots();
    BalanceHeads(rebalancer.HeadWeights(), chains);
    EXPECT_NE(chains[0].head(), chains[1].head());
  }
  Rebalancer even(RebalanceBy::kLoad);
  for (int i = 0; i < 3; ++i) {
    even.Take(Report({0, 0}, {10 * kMega, 10 * kMega}), 0, route_);
    even.Take(Report({0, 0}, {10 * kMega, 9 * kMega}), 1, route_);
  }
  EXPECT_FALSE(IsDue(even, true, 2));
}

TEST_F(RebalancerTest, ForShardsThatAreMissingEvenMovesWaitAWhile) {
  for (const RebalanceBy by : {RebalanceBy::kOff, RebalanceBy::kBytes}) {
    SCOPED_TRACE(static_cast<int>(by));
    Rebalancer rebalancer(by);
    rebalancer.Take(Report({10 * kMega, 10 * kMega}), 0, route_);
    rebalancer.Take(Report({2 * kMega, 2 * kMega}), 1, route_);
    SetChains({{.members = {0}},
               {.members = {0}},
               {.members = {0}},
               {.members = {1}}});
    const Rebalancer::Shards missing = {places_, 3, 1};
    EXPECT_FALSE(rebalancer.Goal(now_, 4, missing).evens);
    EXPECT_FALSE(rebalancer.IsDue(now_ + 4s, route_, missing, false));
    EXPECT_TRUE(rebalancer.IsDue(now_ + 6s, route_, missing, false));
    EXPECT_TRUE(rebalancer.Goal(now_ + 6s, 4, missing).evens);
    EXPECT_TRUE(rebalancer.Goal(now_ + 7s, 4, {places_, 2, 1}).evens);
    EXPECT_FALSE(rebalancer.Goal(now_ + 8s, 4, missing).evens);
    SetChains({{.members = {0}},
               {.members = {0}},
               {.members = {1}},
               {.members = {1}}});
  }
}

TEST_F(RebalancerTest, ReportsThatDoNotFitSayNothing) {
  Rebalancer rebalancer(RebalanceBy::kBytes);
  rebalancer.Take(Report({0, 0}), 1, route_);
  rebalancer.Take(Report({1, 1}, {0, 0}, {0, 0}, 1s, 2), 0, route_);
  rebalancer.Take(Report({1, 1, 1}), 0, route_);
  rebalancer.Take(Report({1, 1}, {0}), 0, route_);
  rebalancer.Take(Report({1, 1}, {0, 0}, {0, -1}), 0, route_);
  rebalancer.Take(Report({1, int64_t{1} << 60}), 0, route_);
  rebalancer.Take(Report({1, 1}, {0, 0}, {0, 0}, 0s), 0, route_);
  rebalancer.Take(comm::Message(), 0, route_);
  EXPECT_FALSE(rebalancer.known());
  rebalancer.Take(Report({1, 1}), 0, route_);
  EXPECT_TRUE(rebalancer.known());
}

}  // namespace
}  // namespace shoal::ps
