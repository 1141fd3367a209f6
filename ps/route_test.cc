#include "ps/route.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "base/random.h"
#include "base/strcat.h"
#include "ps/rebalance.h"

namespace shoal::ps {
namespace {

std::vector<ShardPlace> PlacesOf(const std::set<int>& servers, int shards) {
  std::vector<ShardPlace> places;
  for (const int server : servers) {
    for (int shard = 0; shard < shards; ++shard) {
      places.push_back({server * shards + shard, server, StrCat("h", server)});
    }
  }
  return places;
}

// Members of every slot are distinct and on servers of their own.
void ExpectApart(const std::vector<Chain>& chains, int shards) {
  for (const Chain& chain : chains) {
    std::set<int> servers;
    for (const int member : chain.members) {
      ASSERT_TRUE(servers.insert(member / shards).second);
    }
  }
}

std::map<int, int64_t> LoadOf(const std::vector<Chain>& chains) {
  std::map<int, int64_t> load;
  for (const Chain& chain : chains) {
    for (const int member : chain.members) {
      ++load[member];
    }
  }
  return load;
}

// Evens out the number of slots.
MoveGoal CountOf(const std::vector<Chain>& chains) {
  MoveGoal goal;
  goal.slots.resize(chains.size());
  return goal;
}

// What the coordinator does when all that join have caught up; the number of
// slots that were sent to a shard.
int64_t Converge(const std::vector<ShardPlace>& places, int replicas,
                 int shards, std::vector<Chain>& chains) {
  int64_t joins = 0;
  for (int round = 0;; ++round) {
    if (round == 100) {
      ADD_FAILURE() << "does not converge";
      return joins;
    }
    const int64_t joined_before = joins;
    const bool planned = PlanJoins(places, replicas, CountOf(chains), chains);
    for (Chain& chain : chains) {
      if (chain.joining >= 0) {
        ++joins;
        FinishJoin(places, replicas, chain);
      }
      EXPECT_EQ(chain.joining, -1);
    }
    ExpectApart(chains, shards);
    if (!planned && joins == joined_before) {
      return joins;
    }
  }
}

TEST(RouteTest, FirstChainsAreEvenAndOnDistinctServers) {
  for (const int servers : {1, 2, 3, 5}) {
    for (const int shards : {1, 2, 3}) {
      for (const int replicas : {1, 2, 3}) {
        std::set<int> all;
        for (int server = 0; server < servers; ++server) {
          all.insert(server);
        }
        const std::vector<Chain> chains =
            FirstChains(1024, PlacesOf(all, shards), replicas);
        ASSERT_EQ(chains.size(), 1024U);
        ExpectApart(chains, shards);
        std::map<int, int64_t> heads;
        for (const Chain& chain : chains) {
          ASSERT_EQ(chain.members.size(),
                    static_cast<size_t>(std::min(servers, replicas)));
          ASSERT_EQ(chain.joining, -1);
          ++heads[chain.head()];
        }
        ASSERT_EQ(heads.size(), static_cast<size_t>(servers * shards));
        const auto [least, most] = std::minmax_element(
            heads.begin(), heads.end(),
            [](const auto& a, const auto& b) { return a.second < b.second; });
        EXPECT_LE(most->second - least->second, 1);
      }
    }
  }
}

TEST(RouteTest, DropShardsTakesThemOutAndEndsTheirJoins) {
  std::vector<Chain> chains = {{.members = {0, 2}, .joining = 4},
                               {.members = {2, 0}, .joining = 3},
                               {.members = {2}, .joining = 0}};
  DropShards([](int shard) { return shard == 2 || shard == 3; }, chains);
  EXPECT_EQ(chains[0], (Chain{.members = {0}, .joining = 4}));
  EXPECT_EQ(chains[1], (Chain{.members = {0}, .joining = -1}));
  EXPECT_EQ(chains[2], (Chain{.members = {}, .joining = -1}));
}

TEST(RouteTest, TwoServersBecomeFourWithFewMoves) {
  for (const int replicas : {1, 2}) {
    std::vector<Chain> chains =
        FirstChains(1024, PlacesOf({0, 1}, 2), replicas);
    const auto places = PlacesOf({0, 1, 2, 3}, 2);
    const int64_t joins = Converge(places, replicas, 2, chains);
    EXPECT_LE(static_cast<double>(joins), 1.1 * 512 * replicas);
    for (const auto& [shard, slots] : LoadOf(chains)) {
      EXPECT_NEAR(static_cast<double>(slots), 128.0 * replicas, 1)
          << "shard " << shard;
    }
  }
}

// Losses of servers that leave every slot a member, returns and additions.
TEST(RouteTest, RandomClustersConvergeAndLoseNoSlot) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    Random random(seed);
    const auto below = [&random](int n) {
      return static_cast<int>(random.Below(static_cast<uint64_t>(n)));
    };
    const int shards = 1 + below(3);
    const int replicas = 1 + below(3);
    std::set<int> servers = {0, 1, 2};
    std::vector<Chain> chains =
        FirstChains(256, PlacesOf(servers, shards), replicas);
    for (int change = 0; change < 12; ++change) {
      const int server = below(6);
      if (servers.contains(server) && replicas > 1 && servers.size() > 1) {
        servers.erase(server);
        // Half of the time while some are joining.
        if (below(2) == 0) {
          PlanJoins(PlacesOf(servers, shards), replicas, CountOf(chains),
                    chains);
        }
        DropShards([&](int shard) { return shard / shards == server; }, chains);
      } else {
        servers.insert(server);
      }
      const auto places = PlacesOf(servers, shards);
      Converge(places, replicas, shards, chains);
      for (const Chain& chain : chains) {
        ASSERT_EQ(chain.members.size(),
                  std::min(static_cast<size_t>(replicas), servers.size()));
      }
      // Twice is as once.
      const std::vector<Chain> before = chains;
      ASSERT_FALSE(PlanJoins(places, replicas, CountOf(chains), chains));
      ASSERT_EQ(chains, before);
      BalanceHeads({}, chains);
      for (size_t slot = 0; slot < chains.size(); ++slot) {
        std::vector<int> sorted = chains[slot].members;
        std::vector<int> sorted_before = before[slot].members;
        std::sort(sorted.begin(), sorted.end());
        std::sort(sorted_before.begin(), sorted_before.end());
        ASSERT_EQ(sorted, sorted_before);
      }
    }
  }
}

// Two replicas of four slots on the first two of four servers; 0 and 1 move.
TEST(RouteTest, RepairsComeFirstAndEndMoves) {
  const auto places = PlacesOf({0, 1, 2}, 1);
  const MoveGoal none;
  std::vector<Chain> chains = {{.members = {0, 1}, .joining = 2, .leaving = 0},
                               {.members = {0, 3}, .joining = 1, .leaving = 0},
                               {.members = {1, 3}},
                               {.members = {0, 1}}};
  std::vector<Chain> same = chains;
  EXPECT_FALSE(PlanJoins(PlacesOf({0, 1, 2, 3}, 1), 2, none, same));
  DropShards([](int shard) { return shard == 3; }, chains);
  EXPECT_TRUE(PlanJoins(places, 2, none, chains));
  EXPECT_EQ(chains[0], (Chain{.members = {0, 1}}));
  // Who was to take the place of another repairs now.
  EXPECT_EQ(chains[1], (Chain{.members = {0}, .joining = 1}));
  EXPECT_EQ(chains[2].members, (std::vector<int>{1}));
  EXPECT_GE(chains[2].joining, 0);
  EXPECT_EQ(chains[2].leaving, -1);
  EXPECT_EQ(chains[3], (Chain{.members = {0, 1}}));
  EXPECT_FALSE(PlanJoins(places, 2, none, chains)) << "they are under way";
}

TEST(RouteTest, MovesWithinAServerEndWhenTheirSlotIsShort) {
  std::vector<Chain> chains = {{.members = {0, 2}, .joining = 1, .leaving = 0}};
  DropShards([](int shard) { return shard == 2; }, chains);
  PlanJoins(PlacesOf({0, 2}, 2), 2, {}, chains);
  ASSERT_EQ(chains[0].members, (std::vector<int>{0}));
  EXPECT_GE(chains[0].joining, 4) << "shard 1 is on the server of shard 0";
}

TEST(RouteTest, AsMuchMovesAtOnceAsTheGoalSays) {
  for (const bool drains : {true, false}) {
    std::vector<Chain> chains(8, Chain{.members = {0}});
    MoveGoal goal = CountOf(chains);
    for (MoveGoal::Slot& slot : goal.slots) {
      slot.cost = 10;
    }
    goal.cost_max_per_giver = 25;
    const auto places = drains ? PlacesOf({1, 2}, 1) : PlacesOf({0, 1, 2}, 1);
    EXPECT_TRUE(PlanJoins(places, 1, goal, chains));
    int joining = 0;
    for (Chain& chain : chains) {
      joining += chain.joining >= 0 ? 1 : 0;
      EXPECT_EQ(chain.leaving, chain.joining >= 0 ? 0 : -1);
    }
    EXPECT_EQ(joining, 2);
    EXPECT_FALSE(PlanJoins(places, 1, goal, chains));
    for (Chain& chain : chains) {
      if (chain.joining >= 0) {
        const int joined = chain.joining;
        FinishJoin(places, 1, chain);
        EXPECT_EQ(chain, (Chain{.members = {joined}}));
      }
    }
    EXPECT_TRUE(PlanJoins(places, 1, goal, chains));
    // One at least, however much it is.
    goal.cost_max_per_giver = 5;
    chains.assign(8, Chain{.members = {0}});
    EXPECT_TRUE(PlanJoins(places, 1, goal, chains));
  }
}

TEST(RouteTest, WhoLeavesIsTakenOutThoughOthersCouldBe) {
  Chain chain = {.members = {0, 1}, .joining = 2, .leaving = 1};
  FinishJoin(PlacesOf({0, 1, 2}, 1), 2, chain);
  EXPECT_EQ(chain, (Chain{.members = {0, 2}}));
}

// All others have been lost and are being started again.
TEST(RouteTest, LastOneThatLeavesStaysUntilThereIsSomewhereToGo) {
  const std::vector<Chain> before = {{.members = {4}}, {.members = {5}}};
  std::vector<Chain> chains = before;
  EXPECT_FALSE(PlanJoins({}, 2, {}, chains));
  EXPECT_EQ(chains, before);
  EXPECT_TRUE(PlanJoins(PlacesOf({0}, 2), 2, {}, chains));
  for (const Chain& chain : chains) {
    EXPECT_EQ(chain.members.size(), 1U);
    EXPECT_EQ(chain.leaving, chain.members[0]);
  }
}

TEST(RouteTest, SetChainsKeepsTheDistinctOnes) {
  const std::vector<Chain> chains = {
      {.members = {0, 1}},
      {.members = {1, 0}},
      {.members = {0, 1}},
      {.members = {0, 1}, .joining = 2},
      {.members = {0, 1}, .joining = 2, .leaving = 0}};
  RouteTable route;
  route.SetChains(chains);
  EXPECT_EQ(route.chains.size(), 4U);
  EXPECT_EQ(route.ChainsOfSlots(), chains);
}

TEST(RouteTest, HeadsAreSpreadAndWhoSendsToAJoiningShardStaysTail) {
  std::vector<Chain> chains(100, Chain{.members = {0, 1}});
  chains[7].joining = 2;
  BalanceHeads({}, chains);
  EXPECT_EQ(chains[7], (Chain{.members = {0, 1}, .joining = 2}));
  int64_t heads = 0;
  for (const Chain& chain : chains) {
    heads += chain.head() == 0 ? 1 : 0;
  }
  EXPECT_GE(heads, 50);
  EXPECT_LE(heads, 51);
}

// The servers that stay are away, and the one that is to go has it all.
TEST(RouteTest, WhatIsToLeaveKeepsItsSlotsWhereNobodyElseIsThere) {
  const std::vector<Chain> before = {{.members = {4}}, {.members = {5, 4}}};
  std::vector<Chain> chains = before;
  EXPECT_FALSE(PlanJoins({}, 2, CountOf(chains), chains));
  EXPECT_EQ(chains, before);
}

}  // namespace
}  // namespace shoal::ps
