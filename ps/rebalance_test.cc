#include "ps/rebalance.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "base/random.h"
#include "base/strcat.h"

namespace shoal::ps {
namespace {

int Below(Random& random, int n) {
  return static_cast<int>(random.Below(static_cast<uint64_t>(n)));
}

// One shard a server; `hosts` of them, in turn.
std::vector<ShardPlace> EvenPlaces(int servers, int hosts) {
  std::vector<ShardPlace> places;
  for (int server = 0; server < servers; ++server) {
    places.push_back({server, server, StrCat("h", server % hosts)});
  }
  return places;
}

MoveGoal::Slot Heavy(double weight) {
  return {.weight = weight, .cost = weight};
}

std::vector<double> WeightsOf(int shards, const std::vector<Chain>& chains,
                              const std::vector<MoveGoal::Slot>& slots) {
  std::vector<double> weights(static_cast<size_t>(shards));
  for (size_t slot = 0; slot < chains.size(); ++slot) {
    for (const int member : chains[slot].members) {
      weights[static_cast<size_t>(member)] += slots[slot].weight;
    }
  }
  return weights;
}

double SpreadOf(const std::vector<double>& weights) {
  const auto [least, most] =
      std::minmax_element(weights.begin(), weights.end());
  return *most - *least;
}

double Mean(const std::vector<double>& weights) {
  double sum = 0;
  for (const double weight : weights) {
    sum += weight;
  }
  return sum / static_cast<double>(weights.size());
}

void Do(const SlotMove& move, std::vector<Chain>& chains) {
  std::vector<int>& members = chains[static_cast<size_t>(move.slot)].members;
  const auto from = std::find(members.begin(), members.end(), move.from);
  ASSERT_NE(from, members.end());
  *from = move.to;
}

double CostOf(const std::vector<SlotMove>& moves, const MoveGoal& goal) {
  double cost = 0;
  for (const SlotMove& move : moves) {
    cost += goal.slots[static_cast<size_t>(move.slot)].cost;
  }
  return cost;
}

// The least that any choice of owners costs by which no two shards differ by
// more than `spread`; infinite: there is none. Tries them all.
double LeastCost(int shards, const std::vector<Chain>& chains,
                 const MoveGoal& goal, double spread) {
  double best = std::numeric_limits<double>::infinity();
  std::vector<int> owners(chains.size(), 0);
  while (true) {
    std::vector<double> weights(static_cast<size_t>(shards));
    double cost = 0;
    for (size_t slot = 0; slot < owners.size(); ++slot) {
      weights[static_cast<size_t>(owners[slot])] += goal.slots[slot].weight;
      cost += owners[slot] == chains[slot].head() ? 0 : goal.slots[slot].cost;
    }
    if (SpreadOf(weights) <= spread) {
      best = std::min(best, cost);
    }
    size_t at = 0;
    while (at < owners.size() && ++owners[at] == shards) {
      owners[at++] = 0;
    }
    if (at == owners.size()) {
      return best;
    }
  }
}

TEST(RebalanceTest, MovesCostLittleMoreThanTheBestOfAllChoices) {
  int feasible = 0;
  int reached = 0;
  double cost = 0;
  double least = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    Random random(seed);
    const int shards = 2 + Below(random, 3);
    const int slots = shards == 4 ? 7 : 9;
    MoveGoal goal{.tolerance = 0.6};
    std::vector<Chain> chains;
    for (int slot = 0; slot < slots; ++slot) {
      goal.slots.push_back(Heavy(1 + Below(random, 9)));
      // Mostly on the first.
      chains.push_back(
          {.members = {std::max(0, Below(random, 2 * shards) - shards)}});
    }
    const std::vector<double> before = WeightsOf(shards, chains, goal.slots);
    const double mean = Mean(before);
    const std::vector<SlotMove> moves =
        PlanMoves(EvenPlaces(shards, shards), 1, chains, goal);
    if (SpreadOf(before) <= goal.tolerance * mean) {
      ASSERT_TRUE(moves.empty());
      continue;
    }
    const double enough = goal.tolerance / 2 * mean;
    const double best = LeastCost(shards, chains, goal, enough);
    std::vector<Chain> after = chains;
    for (const SlotMove& move : moves) {
      Do(move, after);
    }
    if (!std::isfinite(best)) {
      continue;
    }
    ++feasible;
    if (SpreadOf(WeightsOf(shards, after, goal.slots)) > enough) {
      continue;  // It tries no two moves at once; near to it is tested below.
    }
    ++reached;
    cost += CostOf(moves, goal);
    least += best;
    ASSERT_GE(CostOf(moves, goal), best);
    ASSERT_LE(CostOf(moves, goal), best + 9);  // The heaviest of all slots.
  }
  EXPECT_GT(feasible, 100);
  EXPECT_GT(reached, feasible / 2);
  EXPECT_LE(cost, 1.1 * least);
}

struct World {
  std::vector<ShardPlace> places;
  size_t length = 1;
  std::vector<Chain> chains;
  MoveGoal goal;
};

// Many slots, a few of them far heavier than the others.
World RandomWorld(uint64_t seed) {
  Random random(seed);
  World world;
  const int servers = 3 + Below(random, 6);
  world.places = EvenPlaces(servers, 2 + Below(random, servers - 1));
  const int replicas = 1 + Below(random, 3);
  world.length = static_cast<size_t>(replicas);
  // Of the last servers some are new.
  const int old = std::max(replicas, servers - Below(random, 3));
  world.chains = FirstChains(
      256, std::span(world.places).first(static_cast<size_t>(old)), replicas);
  for (size_t slot = 0; slot < world.chains.size(); ++slot) {
    world.goal.slots.push_back(Heavy(random.Uniform() < 0.1
                                         ? 20 * random.Uniform() + 1
                                         : random.Uniform() + 0.1));
  }
  world.goal.tolerance = kRebalanceTolerance;
  return world;
}

TEST(RebalanceTest, NothingBecomesWorseAndReplicasStayApart) {
  int planned = 0;
  int converged = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    World world = RandomWorld(seed);
    const auto shards = static_cast<int>(world.places.size());
    const std::vector<double> before =
        WeightsOf(shards, world.chains, world.goal.slots);
    const std::vector<SlotMove> moves =
        PlanMoves(world.places, world.length, world.chains, world.goal);
    planned += moves.empty() ? 0 : 1;
    // As far as a shard has more than its share it must give, and no more, but
    // for the last slot.
    double excess = 0;
    double heaviest = 0;
    for (const double weight : before) {
      excess += std::max(0.0, weight - Mean(before));
    }
    for (const MoveGoal::Slot& slot : world.goal.slots) {
      heaviest = std::max(heaviest, slot.weight);
    }
    EXPECT_LE(CostOf(moves, world.goal), excess + heaviest);
    const auto hosts = [&](const Chain& chain) {
      std::set<std::string> names;
      for (const int member : chain.members) {
        names.insert(world.places[static_cast<size_t>(member)].host);
      }
      return names.size();
    };
    for (const SlotMove& move : moves) {
      Chain& chain = world.chains[static_cast<size_t>(move.slot)];
      const size_t hosts_before = hosts(chain);
      Do(move, world.chains);
      ASSERT_GE(hosts(chain), hosts_before);
      const std::set<int> apart(chain.members.begin(), chain.members.end());
      ASSERT_EQ(apart.size(), world.length);
      // Also if it ends here.
      const std::vector<double> now =
          WeightsOf(shards, world.chains, world.goal.slots);
      EXPECT_LE(*std::max_element(now.begin(), now.end()),
                *std::max_element(before.begin(), before.end()) + 1e-9);
      EXPECT_GE(*std::min_element(now.begin(), now.end()),
                *std::min_element(before.begin(), before.end()) - 1e-9);
    }
    // Twice is as once, but where slots that are too heavy were in the way.
    int again = 0;
    for (std::vector<SlotMove> more = moves; !more.empty(); ++again) {
      ASSERT_LT(again, 4);
      more = PlanMoves(world.places, world.length, world.chains, world.goal);
      for (const SlotMove& move : more) {
        Do(move, world.chains);
      }
    }
    converged += again <= 1 ? 1 : 0;
  }
  EXPECT_GT(converged, 180);
  EXPECT_GT(planned, 100);
}

TEST(RebalanceTest, NoMoveCouldBeLeftOut) {
  int tried = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    const World world = RandomWorld(seed);
    const auto shards = static_cast<int>(world.places.size());
    const std::vector<SlotMove> moves =
        PlanMoves(world.places, world.length, world.chains, world.goal);
    std::vector<Chain> all = world.chains;
    for (const SlotMove& move : moves) {
      Do(move, all);
    }
    const std::vector<double> weights =
        WeightsOf(shards, all, world.goal.slots);
    const double enough = world.goal.tolerance / 2 * Mean(weights);
    if (SpreadOf(weights) > enough) {
      continue;
    }
    for (const SlotMove& without : moves) {
      std::vector<Chain> chains = world.chains;
      for (const SlotMove& move : moves) {
        if (!(move == without)) {
          Do(move, chains);
        }
      }
      EXPECT_GT(SpreadOf(WeightsOf(shards, chains, world.goal.slots)), enough);
      ++tried;
    }
  }
  EXPECT_GT(tried, 500);
}

// What is measured varies: by less than a quarter of the tolerance, nothing
// moves to and fro, whatever it is that can't be evened.
TEST(RebalanceTest, NoiseMovesNothingToAndFro) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(StrCat("seed ", seed));
    World world = RandomWorld(seed);
    Random random(HashKey(seed, 1));
    if (seed % 2 == 0) {  // More than a shard's share, and alone too much.
      world.goal.slots[0] = Heavy(1000);
    }
    const std::vector<MoveGoal::Slot> slots = world.goal.slots;
    for (int round = 0; round < 100; ++round) {
      // All slots of a shard vary together, which is the worst.
      std::vector<double> factors;
      for (size_t i = 0; i < world.places.size(); ++i) {
        factors.push_back(1 + 0.01 * (random.Uniform() * 2 - 1));
      }
      for (size_t slot = 0; slot < slots.size(); ++slot) {
        world.goal.slots[slot].weight =
            slots[slot].weight *
            factors[static_cast<size_t>(world.chains[slot].head())];
      }
      const std::vector<SlotMove> moves =
          PlanMoves(world.places, world.length, world.chains, world.goal);
      ASSERT_TRUE(moves.empty() || round < 4) << "in round " << round;
      for (const SlotMove& move : moves) {
        Do(move, world.chains);
      }
    }
  }
}

TEST(RebalanceTest, LoadMovesWhatIsSmallAndKeepsBytesWithinTheirBound) {
  // Shard 0 has two hot slots, of which one is a hundred times as large.
  std::vector<Chain> chains = {
      {.members = {0}}, {.members = {0}}, {.members = {1}}, {.members = {2}}};
  MoveGoal goal{.slots = {{.weight = 10, .cost = 100},
                          {.weight = 10, .cost = 1},
                          {.weight = 1, .cost = 50},
                          {.weight = 1, .cost = 50}},
                .tolerance = 0.1};
  EXPECT_EQ(PlanMoves(EvenPlaces(3, 3), 1, chains, goal).at(0),
            (SlotMove{.slot = 1, .from = 0, .to = 1}));
  goal.cost_share_max = 0.7;  // 47; what it would be is 51.
  EXPECT_TRUE(PlanMoves(EvenPlaces(3, 3), 1, chains, goal).empty());
}

TEST(RebalanceTest, WhatIsShortOrOnItsWayStays) {
  MoveGoal goal{.slots = std::vector<MoveGoal::Slot>(4), .tolerance = 0.1};
  std::vector<Chain> chains(4, Chain{.members = {0}});
  EXPECT_EQ(PlanMoves(EvenPlaces(2, 2), 1, chains, goal).size(), 2U);
  EXPECT_TRUE(PlanMoves(EvenPlaces(2, 2), 2, chains, goal).empty());
  chains.assign(4, Chain{.members = {0}, .joining = 1, .leaving = 0});
  EXPECT_TRUE(PlanMoves(EvenPlaces(2, 2), 1, chains, goal).empty());
  chains.assign(4, Chain{.members = {0}});
  goal.slots.clear();  // Nothing is known.
  EXPECT_TRUE(PlanMoves(EvenPlaces(2, 2), 1, chains, goal).empty());
}

}  // namespace
}  // namespace shoal::ps
