#include "ps/route.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "ps/rebalance.h"

namespace shoal::ps {
namespace {

const ShardPlace* FindPlace(std::span<const ShardPlace> places, int shard) {
  const auto it =
      std::find_if(places.begin(), places.end(),
                   [shard](const ShardPlace& p) { return p.shard == shard; });
  return it == places.end() ? nullptr : &*it;
}

// Places by server, in the order of their first appearance.
std::vector<std::vector<ShardPlace>> ByServer(
    std::span<const ShardPlace> places) {
  std::vector<std::vector<ShardPlace>> servers;
  for (const ShardPlace& place : places) {
    auto server = std::find_if(
        servers.begin(), servers.end(),
        [&](const auto& other) { return other[0].server == place.server; });
    if (server == servers.end()) {
      server = servers.emplace(servers.end());
    }
    server->push_back(place);
  }
  return servers;
}

// Who might be let into a chain; by preference.
class Candidates {
 public:
  Candidates(std::span<const ShardPlace> places,
             const std::vector<Chain>& chains, const MoveGoal& goal)
      : places_(places), goal_(goal) {
    for (const ShardPlace& place : places) {
      load_[place.shard] = 0;
    }
    for (size_t slot = 0; slot < chains.size(); ++slot) {
      for (const int member : chains[slot].members) {
        Count(member, slot);
      }
      Count(chains[slot].joining, slot);
    }
  }

  // Whether `shard` may be in a chain of all members but `without`, or -1.
  bool Eligible(const Chain& chain, int shard, int without) const {
    const ShardPlace* place = FindPlace(places_, shard);
    return place != nullptr &&
           std::none_of(chain.members.begin(), chain.members.end(),
                        [&](int member) {
                          const ShardPlace* other = FindPlace(places_, member);
                          return member == shard ||
                                 (member != without && other != nullptr &&
                                  other->server == place->server);
                        });
  }

  // The least loaded, on a host of its own where there is one; -1: none.
  int Best(const Chain& chain) const {
    int best = -1;
    std::pair<int, double> best_cost;
    for (const ShardPlace& place : places_) {
      if (!Eligible(chain, place.shard, -1)) {
        continue;
      }
      const bool shares_host = std::any_of(
          chain.members.begin(), chain.members.end(), [&](int member) {
            const ShardPlace* other = FindPlace(places_, member);
            return other != nullptr && other->host == place.host;
          });
      const std::pair<int, double> cost = {shares_host ? 1 : 0,
                                           load_.at(place.shard)};
      if (best < 0 || cost < best_cost) {
        best = place.shard;
        best_cost = cost;
      }
    }
    return best;
  }

  void Count(int shard, size_t slot) {
    const auto it = load_.find(shard);
    if (it != load_.end()) {
      it->second += goal_.slots.empty() ? 1 : goal_.slots[slot].weight;
    }
  }

 private:
  std::span<const ShardPlace> places_;
  const MoveGoal& goal_;
  std::map<int, double> load_;
};

// Of a chain. Where all that stay are away, those that are to leave keep what
// they have.
size_t LengthFor(std::span<const ShardPlace> places, int replicas) {
  return std::clamp<size_t>(ByServer(places).size(), 1,
                            static_cast<size_t>(replicas));
}

// How much of a plan is done at once.
class Portions {
 public:
  explicit Portions(const MoveGoal& goal) : goal_(goal) {}

  // Whether this move is in it too; of each giver one at least is.
  bool Take(const SlotMove& move) {
    double& given = given_[move.from];
    const double cost = goal_.slots.empty()
                            ? 1
                            : goal_.slots[static_cast<size_t>(move.slot)].cost;
    if (taken_ >= goal_.moves_max ||
        (given > 0 && given + cost > goal_.cost_max_per_giver)) {
      return false;
    }
    given += cost;
    ++taken_;
    return true;
  }

 private:
  const MoveGoal& goal_;
  std::map<int, double> given_;
  size_t taken_ = 0;
};

// Lets others into chains that are short; whether any are being repaired.
bool PlanRepairs(size_t length, Candidates& candidates,
                 std::vector<Chain>& chains) {
  bool repairs = false;
  for (size_t slot = 0; slot < chains.size(); ++slot) {
    Chain& chain = chains[slot];
    if (chain.members.empty() || chain.members.size() >= length) {
      continue;
    }
    if (chain.leaving >= 0 && !candidates.Eligible(chain, chain.joining, -1)) {
      chain.joining = -1;  // It would share the server of who is to stay now.
    }
    chain.leaving = -1;
    if (chain.joining < 0) {
      chain.joining = candidates.Best(chain);
      candidates.Count(chain.joining, slot);
    }
    repairs = repairs || chain.joining >= 0;
  }
  return repairs;
}

// Away from who has left the places.
void PlanDrains(std::span<const ShardPlace> places, Candidates& candidates,
                const MoveGoal& goal, std::vector<Chain>& chains) {
  Portions portions(goal);
  for (size_t slot = 0; slot < chains.size(); ++slot) {
    Chain& chain = chains[slot];
    const auto leaves = std::find_if(
        chain.members.begin(), chain.members.end(),
        [&](int member) { return FindPlace(places, member) == nullptr; });
    if (leaves == chain.members.end()) {
      continue;
    }
    const SlotMove move = {static_cast<int64_t>(slot), *leaves,
                           candidates.Best(chain)};
    if (move.to >= 0 && portions.Take(move)) {
      chain.leaving = move.from;
      chain.joining = move.to;
      candidates.Count(move.to, slot);
    }
  }
}

}  // namespace

bool Chain::HasMember(int shard) const {
  return std::find(members.begin(), members.end(), shard) != members.end();
}

int Chain::NextOf(int shard) const {
  const auto it = std::find(members.begin(), members.end(), shard);
  return it == members.end() || it + 1 == members.end() ? -1 : *(it + 1);
}

void RouteTable::SetChains(const std::vector<Chain>& of_slots) {
  std::map<std::tuple<std::vector<int>, int, int>, int32_t> known;
  chains.clear();
  chain_of_slot.clear();
  for (const Chain& chain : of_slots) {
    const auto [it, is_new] =
        known.emplace(std::tuple(chain.members, chain.joining, chain.leaving),
                      static_cast<int32_t>(chains.size()));
    if (is_new) {
      chains.push_back(chain);
    }
    chain_of_slot.push_back(it->second);
  }
}

std::vector<Chain> RouteTable::ChainsOfSlots() const {
  std::vector<Chain> of_slots;
  of_slots.reserve(chain_of_slot.size());
  for (const int32_t chain : chain_of_slot) {
    of_slots.push_back(chains[static_cast<size_t>(chain)]);
  }
  return of_slots;
}

std::vector<Chain> FirstChains(int64_t num_slots,
                               std::span<const ShardPlace> places,
                               int replicas) {
  const std::vector<std::vector<ShardPlace>> servers = ByServer(places);
  const size_t length = LengthFor(places, replicas);
  // By head, since all slots with the same head have the same chain: then a
  // shard hands all that it heads on to one other.
  std::vector<Chain> of_head;
  for (const ShardPlace& head : places) {
    const auto own = static_cast<size_t>(
        std::find_if(
            servers.begin(), servers.end(),
            [&](const auto& other) { return other[0].server == head.server; }) -
        servers.begin());
    const auto local = static_cast<size_t>(
        std::find_if(servers[own].begin(), servers[own].end(),
                     [&](const ShardPlace& other) {
                       return other.shard == head.shard;
                     }) -
        servers[own].begin());
    Chain chain;
    for (size_t i = 0; i < length; ++i) {
      const auto& server = servers[(own + i) % servers.size()];
      chain.members.push_back(server[local % server.size()].shard);
    }
    of_head.push_back(std::move(chain));
  }
  std::vector<Chain> chains;
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    chains.push_back(of_head[static_cast<size_t>(slot) % of_head.size()]);
  }
  return chains;
}

void DropShards(const std::function<bool(int)>& gone,
                std::vector<Chain>& chains) {
  for (Chain& chain : chains) {
    std::erase_if(chain.members, gone);
    if (chain.joining >= 0 && (gone(chain.joining) || chain.members.empty())) {
      chain.joining = -1;
    }
    if (chain.joining < 0 || !chain.HasMember(chain.leaving)) {
      chain.leaving = -1;
    }
  }
}

bool PlanJoins(std::span<const ShardPlace> places, int replicas,
               const MoveGoal& goal, std::vector<Chain>& chains) {
  const size_t length = LengthFor(places, replicas);
  const std::vector<Chain> before = chains;
  Candidates candidates(places, chains, goal);
  const bool repairs = PlanRepairs(length, candidates, chains);
  bool under_way = false;
  for (Chain& chain : chains) {
    const auto leaves = [&](int member) {
      return FindPlace(places, member) == nullptr;
    };
    const auto leaving = static_cast<size_t>(
        std::count_if(chain.members.begin(), chain.members.end(), leaves));
    if (repairs && chain.leaving >= 0) {
      chain.joining = -1;
      chain.leaving = -1;
    }
    // The last replica stays until there is somewhere to go.
    if (chain.joining < 0 && chain.members.size() >= length + leaving) {
      std::erase_if(chain.members, leaves);
    }
    under_way = under_way || chain.joining >= 0;
  }
  if (!under_way) {
    PlanDrains(places, candidates, goal, chains);
    under_way = std::any_of(chains.begin(), chains.end(),
                            [](const Chain& c) { return c.joining >= 0; });
  }
  if (!under_way && goal.evens) {
    Portions portions(goal);
    for (const SlotMove& move : PlanMoves(places, length, chains, goal)) {
      Chain& chain = chains[static_cast<size_t>(move.slot)];
      if (portions.Take(move)) {
        chain.leaving = move.from;
        chain.joining = move.to;
      }
    }
  }
  return chains != before;
}

void FinishJoin(std::span<const ShardPlace> places, int replicas,
                Chain& chain) {
  const size_t length = LengthFor(places, replicas);
  const int joined = chain.joining;
  std::erase(chain.members, chain.leaving);
  chain.joining = -1;
  chain.leaving = -1;
  const ShardPlace* place = FindPlace(places, joined);
  const auto has_left = [&](int member) {
    return FindPlace(places, member) == nullptr;
  };
  const auto crowds = [&](int member) {
    const ShardPlace* other = FindPlace(places, member);
    return place != nullptr && other != nullptr &&
           other->server == place->server;
  };
  while (!chain.members.empty() && chain.members.size() + 1 > length) {
    auto out = std::find_if(chain.members.begin(), chain.members.end(), crowds);
    if (out == chain.members.end()) {
      out = std::find_if(chain.members.begin(), chain.members.end(), has_left);
    }
    chain.members.erase(out == chain.members.end() ? chain.members.begin()
                                                   : out);
  }
  chain.members.push_back(joined);
}

void BalanceHeads(std::span<const double> weights, std::vector<Chain>& chains) {
  const auto weight = [&](size_t slot) {
    return weights.empty() ? 1.0 : weights[slot];
  };
  std::map<int, double> heads;
  std::vector<size_t> heaviest;
  for (size_t slot = 0; slot < chains.size(); ++slot) {
    if (!chains[slot].members.empty() && chains[slot].joining < 0) {
      heaviest.push_back(slot);
    } else if (!chains[slot].members.empty()) {
      heads[chains[slot].head()] += weight(slot);  // Its tail stays, and sends.
    }
  }
  std::stable_sort(heaviest.begin(), heaviest.end(),
                   [&](size_t a, size_t b) { return weight(a) > weight(b); });
  for (const size_t slot : heaviest) {
    std::vector<int>& members = chains[slot].members;
    // The first of the least: who is head already, if it is among them.
    const auto least =
        std::min_element(members.begin(), members.end(),
                         [&](int a, int b) { return heads[a] < heads[b]; });
    std::rotate(members.begin(), least, members.end());
    heads[chains[slot].head()] += weight(slot);
  }
}

}  // namespace shoal::ps
