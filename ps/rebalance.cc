#include "ps/rebalance.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>

namespace shoal::ps {
namespace {

class Planner {
 public:
  Planner(std::span<const ShardPlace> places, size_t length,
          const std::vector<Chain>& chains, const MoveGoal& goal)
      : chains_(chains), goal_(goal), moved_(chains.size()) {
    for (const ShardPlace& place : places) {
      index_[place.shard] = shards_.size();
      shards_.push_back({.place = &place});
      rising_.push_back(rising_.size());
    }
    for (size_t slot = 0; slot < chains.size(); ++slot) {
      const Chain& chain = chains[slot];
      const bool stays = chain.joining >= 0 || chain.members.size() < length;
      for (const int member : chain.members) {
        const auto it = index_.find(member);
        if (it == index_.end()) {
          continue;  // It is to leave, and gives to others anyway.
        }
        Shard& shard = shards_[it->second];
        shard.weight += goal.slots[slot].weight;
        shard.cost += goal.slots[slot].cost;
        if (!stays) {
          shard.slots.push_back(slot);
        }
      }
    }
    const auto n = static_cast<double>(shards_.size());
    double cost = 0;
    for (const Shard& shard : shards_) {
      mean_ += shard.weight / n;
      cost += shard.cost / n;
    }
    cost_max_ = goal.cost_share_max * cost;
  }

  std::vector<SlotMove> Plan() {
    const double enough = goal_.tolerance / 2 * mean_;
    double differ = goal_.tolerance * mean_;
    while (moves_.size() < goal_.moves_max) {
      const std::optional<SlotMove> move = Next(differ, enough);
      if (!move.has_value()) {
        LeaveOut(enough);
        break;
      }
      Do(*move, 1);
      moves_.push_back(*move);
      differ = enough;
    }
    return moves_;
  }

 private:
  struct Shard {
    const ShardPlace* place = nullptr;
    double weight = 0;
    double cost = 0;
    std::vector<size_t> slots = {};  // that may move
  };

  Shard& ShardOf(int shard) { return shards_[index_.at(shard)]; }

  void Do(const SlotMove& move, double sign) {
    const auto slot = static_cast<size_t>(move.slot);
    const MoveGoal::Slot& of = goal_.slots[slot];
    ShardOf(move.from).weight -= sign * of.weight;
    ShardOf(move.from).cost -= sign * of.cost;
    ShardOf(move.to).weight += sign * of.weight;
    ShardOf(move.to).cost += sign * of.cost;
    moved_[slot] = sign > 0;
  }

  // Between the two that differ the most and have something to move.
  std::optional<SlotMove> Next(double differ, double enough) {
    std::stable_sort(rising_.begin(), rising_.end(),
                     [this](size_t a, size_t b) {
                       return shards_[a].weight < shards_[b].weight;
                     });
    for (auto giver = rising_.rbegin(); giver != rising_.rend(); ++giver) {
      for (const size_t taker : rising_) {
        const Shard& from = shards_[*giver];
        const Shard& to = shards_[taker];
        if (from.weight - to.weight <= differ) {
          break;
        }
        const std::optional<size_t> slot = BestSlot(from, to, enough);
        if (slot.has_value()) {
          return SlotMove{static_cast<int64_t>(*slot), from.place->shard,
                          to.place->shard};
        }
      }
    }
    return std::nullopt;
  }

  // What brings neither beyond the mean, at the least cost for its weight; else
  // the cheapest that leaves them nearer to each other.
  std::optional<size_t> BestSlot(const Shard& from, const Shard& to,
                                 double enough) const {
    const double difference = from.weight - to.weight;
    double room = std::min(from.weight - mean_, mean_ - to.weight);
    if (room <= 0) {
      room = difference / 2;
    }
    std::optional<size_t> best;
    const auto better = [&](const MoveGoal::Slot& a, const MoveGoal::Slot& b) {
      const bool a_fits = a.weight <= room;
      const bool b_fits = b.weight <= room;
      if (a_fits != b_fits || !a_fits) {
        return a_fits || (!b_fits && a.cost < b.cost);
      }
      const double a_worth = a.weight / a.cost;
      const double b_worth = b.weight / b.cost;
      return a_worth != b_worth ? a_worth > b_worth : a.weight > b.weight;
    };
    for (const size_t slot : from.slots) {
      const MoveGoal::Slot& of = goal_.slots[slot];
      if (!moved_[slot] && of.weight > 0 && of.weight < difference &&
          of.weight <= difference - enough &&
          (cost_max_ == 0 || to.cost + of.cost <= cost_max_) &&
          (!best.has_value() || better(of, goal_.slots[*best])) &&
          MayMove(chains_[slot], *from.place, *to.place)) {
        best = slot;
      }
    }
    return best;
  }

  bool MayMove(const Chain& chain, const ShardPlace& from,
               const ShardPlace& to) const {
    std::set<std::string> before;
    std::set<std::string> after = {to.host};
    for (const int member : chain.members) {
      const auto it = index_.find(member);
      const ShardPlace* place =
          it == index_.end() ? nullptr : shards_[it->second].place;
      if (member == to.shard || (place != nullptr && member != from.shard &&
                                 place->server == to.server)) {
        return false;
      }
      if (place != nullptr) {
        before.insert(place->host);
        if (member != from.shard) {
          after.insert(place->host);
        }
      }
    }
    return after.size() >= before.size();
  }

  double Spread() const {
    const auto [least, most] = std::minmax_element(
        shards_.begin(), shards_.end(),
        [](const Shard& a, const Shard& b) { return a.weight < b.weight; });
    return most->weight - least->weight;
  }

  // Moves without which all would still be even, the dearest first.
  void LeaveOut(double enough) {
    if (moves_.empty() || Spread() > enough) {
      return;
    }
    std::vector<SlotMove> dearest = moves_;
    std::stable_sort(dearest.begin(), dearest.end(),
                     [this](const SlotMove& a, const SlotMove& b) {
                       return CostOf(a) > CostOf(b);
                     });
    for (const SlotMove& move : dearest) {
      Do(move, -1);
      if (Spread() > enough) {
        Do(move, 1);
      } else {
        std::erase(moves_, move);
      }
    }
  }
  double CostOf(const SlotMove& move) const {
    return goal_.slots[static_cast<size_t>(move.slot)].cost;
  }

  const std::vector<Chain>& chains_;
  const MoveGoal& goal_;
  std::unordered_map<int, size_t> index_;  // by the shard's number
  std::vector<Shard> shards_;
  std::vector<size_t> rising_;  // by weight
  double mean_ = 0;
  double cost_max_ = 0;
  std::vector<bool> moved_;
  std::vector<SlotMove> moves_;
};

}  // namespace

std::vector<SlotMove> PlanMoves(std::span<const ShardPlace> places,
                                size_t length, const std::vector<Chain>& chains,
                                const MoveGoal& goal) {
  if (goal.slots.size() != chains.size() || places.empty()) {
    return {};
  }
  return Planner(places, length, chains, goal).Plan();
}

}  // namespace shoal::ps
