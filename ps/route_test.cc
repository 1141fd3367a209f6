#include "ps/route.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "base/random.h"
#include "base/strcat.h"

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
    const bool planned = PlanJoins(places, replicas, chains);
    std::vector<int64_t> load(1000);
    for (const auto& [shard, slots] : LoadOf(chains)) {
      load[static_cast<size_t>(shard)] = slots;
    }
    for (Chain& chain : chains) {
      if (chain.joining >= 0) {
        ++joins;
        FinishJoin(places, replicas, chain, load);
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
          PlanJoins(PlacesOf(servers, shards), replicas, chains);
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
      ASSERT_FALSE(PlanJoins(places, replicas, chains));
      ASSERT_EQ(chains, before);
      BalanceHeads(chains);
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

TEST(RouteTest, SetChainsKeepsTheDistinctOnes) {
  const std::vector<Chain> chains = {{.members = {0, 1}},
                                     {.members = {1, 0}},
                                     {.members = {0, 1}},
                                     {.members = {0, 1}, .joining = 2}};
  RouteTable route;
  route.SetChains(chains);
  EXPECT_EQ(route.chains.size(), 3U);
  EXPECT_EQ(route.ChainsOfSlots(), chains);
}

TEST(RouteTest, HeadsAreSpreadAndWhoSendsToAJoiningShardStaysTail) {
  std::vector<Chain> chains(100, Chain{.members = {0, 1}});
  chains[7].joining = 2;
  BalanceHeads(chains);
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
  EXPECT_FALSE(PlanJoins({}, 2, chains));
  EXPECT_EQ(chains, before);
}

}  // namespace
}  // namespace shoal::ps
