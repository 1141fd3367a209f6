#include "ps/route.h"

#include <algorithm>
#include <map>
#include <utility>

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

// Who might be let into a chain, if `without` (or -1) left it; by preference.
class Candidates {
 public:
  Candidates(std::span<const ShardPlace> places,
             const std::vector<Chain>& chains)
      : places_(places) {
    for (const ShardPlace& place : places) {
      load_[place.shard] = 0;
    }
    for (const Chain& chain : chains) {
      for (const int member : chain.members) {
        Count(member, 1);
      }
      Count(chain.joining, 1);
    }
  }

  bool Eligible(const Chain& chain, const ShardPlace& place,
                int without) const {
    return std::none_of(chain.members.begin(), chain.members.end(),
                        [&](int member) {
                          const ShardPlace* other = FindPlace(places_, member);
                          return member == place.shard ||
                                 (member != without && other != nullptr &&
                                  other->server == place.server);
                        });
  }

  // The least loaded, on a host of its own where there is one; -1: none.
  int Best(const Chain& chain) const {
    int best = -1;
    std::pair<int64_t, int64_t> best_cost;
    for (const ShardPlace& place : places_) {
      if (!Eligible(chain, place, -1)) {
        continue;
      }
      const bool shares_host = std::any_of(
          chain.members.begin(), chain.members.end(), [&](int member) {
            const ShardPlace* other = FindPlace(places_, member);
            return other != nullptr && other->host == place.host;
          });
      const std::pair<int64_t, int64_t> cost = {shares_host ? 1 : 0,
                                                load(place.shard)};
      if (best < 0 || cost < best_cost) {
        best = place.shard;
        best_cost = cost;
      }
    }
    return best;
  }

  void Count(int shard, int64_t slots) {
    const auto it = load_.find(shard);
    if (it != load_.end()) {
      it->second += slots;
    }
  }
  int64_t load(int shard) const { return load_.at(shard); }

 private:
  std::span<const ShardPlace> places_;
  std::map<int, int64_t> load_;
};

// Of a chain. Where all that stay are away, those that are to leave keep what
// they have.
size_t LengthFor(std::span<const ShardPlace> places, int replicas) {
  return std::clamp<size_t>(ByServer(places).size(), 1,
                            static_cast<size_t>(replicas));
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
  std::map<std::pair<std::vector<int>, int>, int32_t> known;
  chains.clear();
  chain_of_slot.clear();
  for (const Chain& chain : of_slots) {
    const auto [it, is_new] =
        known.emplace(std::pair(chain.members, chain.joining),
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
  }
}

bool PlanJoins(std::span<const ShardPlace> places, int replicas,
               std::vector<Chain>& chains) {
  const size_t length = LengthFor(places, replicas);
  Candidates candidates(places, chains);
  const auto leaves = [&](int member) {
    return FindPlace(places, member) == nullptr;
  };
  bool planned = false;
  const auto join = [&](Chain& chain, int shard) {
    chain.joining = shard;
    candidates.Count(shard, 1);
    planned = true;
  };
  // First what is short, or has members that are to leave.
  for (Chain& chain : chains) {
    const auto leaving = static_cast<size_t>(
        std::count_if(chain.members.begin(), chain.members.end(), leaves));
    if (chain.joining >= 0 || chain.members.empty()) {
      continue;
    }
    if (chain.members.size() - leaving >= length) {
      planned |= std::erase_if(chain.members, leaves) > 0;
    } else {
      const int best = candidates.Best(chain);
      if (best >= 0) {
        join(chain, best);
      }
    }
  }
  // When all that is done, from who has the most to who has the fewest.
  if (planned || std::any_of(chains.begin(), chains.end(),
                             [](const Chain& c) { return c.joining >= 0; })) {
    return planned;
  }
  int64_t total = 0;
  for (const ShardPlace& place : places) {
    total += candidates.load(place.shard);
  }
  const auto n = static_cast<int64_t>(places.size());
  // No more than its share: what is beyond it would have to move again.
  const int64_t share = n > 0 ? (total + n - 1) / n : 0;
  for (const ShardPlace& place : places) {
    for (Chain& chain : chains) {
      if (chain.joining >= 0 || chain.members.size() < length ||
          candidates.load(place.shard) >= share) {
        continue;
      }
      const int giver = *std::max_element(
          chain.members.begin(), chain.members.end(), [&](int a, int b) {
            return (leaves(a) ? -1 : candidates.load(a)) <
                   (leaves(b) ? -1 : candidates.load(b));
          });
      if (leaves(giver) ||
          candidates.load(giver) <= candidates.load(place.shard) + 1 ||
          !candidates.Eligible(chain, place, giver)) {
        continue;
      }
      join(chain, place.shard);
      candidates.Count(giver, -1);
    }
  }
  return planned;
}

void FinishJoin(std::span<const ShardPlace> places, int replicas, Chain& chain,
                std::span<int64_t> load) {
  const size_t length = LengthFor(places, replicas);
  const auto weight = [&](int member) {
    return FindPlace(places, member) == nullptr
               ? INT64_MAX
               : load[static_cast<size_t>(member)];
  };
  const int joined = chain.joining;
  chain.joining = -1;
  const ShardPlace* place = FindPlace(places, joined);
  // One that shares its server with the new one goes in any case.
  const auto crowds = [&](int member) {
    const ShardPlace* other = FindPlace(places, member);
    return place != nullptr && other != nullptr &&
           other->server == place->server;
  };
  while (!chain.members.empty() && chain.members.size() + 1 > length) {
    auto out = std::find_if(chain.members.begin(), chain.members.end(), crowds);
    if (out == chain.members.end()) {
      out =
          std::max_element(chain.members.begin(), chain.members.end(),
                           [&](int a, int b) { return weight(a) < weight(b); });
    }
    --load[static_cast<size_t>(*out)];
    chain.members.erase(out);
  }
  chain.members.push_back(joined);
  ++load[static_cast<size_t>(joined)];
}

void BalanceHeads(std::vector<Chain>& chains) {
  std::map<int, int64_t> heads;
  for (Chain& chain : chains) {
    if (chain.members.empty() || chain.joining >= 0) {
      continue;  // Its tail is to stay, which sends.
    }
    // The first of the least: who is head already, if it is among them.
    const auto least =
        std::min_element(chain.members.begin(), chain.members.end(),
                         [&](int a, int b) { return heads[a] < heads[b]; });
    std::rotate(chain.members.begin(), least, chain.members.end());
    ++heads[chain.head()];
  }
}

}  // namespace shoal::ps
