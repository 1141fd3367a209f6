#include "ps/rebalancer.h"

#include <algorithm>
#include <cmath>

#include "ps/protocol.pb.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

constexpr Duration kLookEvery = std::chrono::seconds(1);

// What was asked so long ago counts for 1/e of what is asked now; a slot must
// have been watched as long before its load counts.
constexpr double kDecaySeconds = 2;

// Of each slot beside what it holds, or what is asked of it: small tables are
// even when their slots are.
constexpr double kSlotBytes = 4096;
constexpr double kSlotLoad = 1024;

// By load no shard gets more than this part of the mean of all shards' bytes.
constexpr double kBytesShareMax = 1.5;

// How long nothing is evened for shards that are missing.
constexpr Duration kMissingFor = std::chrono::seconds(5);

constexpr int64_t kBytesMax = int64_t{1} << 50;  // more is no honest report

}  // namespace

void Rebalancer::Take(const comm::Message& report, int shard,
                      const RouteTable& route) {
  wire::SlotLoads loads;
  if (!Decode(report, loads).ok() || loads.period_ns() < 1 ||
      loads.sent() < 0 || loads.sent() > kBytesMax) {
    return;
  }
  sent_bytes_ += loads.sent();
  if (version_ != route.version) {
    version_ = route.version;
    headed_.assign(route.shards.size(), {});
    for (int64_t slot = 0; slot < route.num_slots(); ++slot) {
      headed_[static_cast<size_t>(route.HeadOf(slot))].push_back(
          static_cast<size_t>(slot));
    }
  }
  if (static_cast<size_t>(shard) >= headed_.size()) {
    return;  // The route does not know it yet.
  }
  const std::vector<size_t>& headed = headed_[static_cast<size_t>(shard)];
  const auto n = static_cast<int>(headed.size());
  const auto honest = [](int64_t bytes) {
    return bytes >= 0 && bytes <= kBytesMax;
  };
  if (loads.version() != route.version || loads.bytes_size() != n ||
      loads.pulled_size() != n || loads.pushed_size() != n ||
      !std::all_of(loads.bytes().begin(), loads.bytes().end(), honest) ||
      !std::all_of(loads.pulled().begin(), loads.pulled().end(), honest) ||
      !std::all_of(loads.pushed().begin(), loads.pushed().end(), honest)) {
    return;
  }
  num_slots_ = route.num_slots();
  slots_.resize(static_cast<size_t>(num_slots_));
  const double seconds = ToSeconds(Duration(loads.period_ns()));
  const double needed = by_ == RebalanceBy::kLoad ? kDecaySeconds : 0;
  for (int i = 0; i < n; ++i) {
    Slot& slot = slots_[headed[static_cast<size_t>(i)]];
    // The first time it is all that is known.
    const double share =
        slot.watched == 0 ? 1 : 1 - std::exp(-seconds / kDecaySeconds);
    const auto blend = [&](int64_t bytes, double& rate) {
      rate += share * (static_cast<double>(bytes) / seconds - rate);
    };
    blend(loads.pulled(i), slot.pulled);
    blend(loads.pushed(i), slot.pushed);
    slot.bytes = loads.bytes(i);
    const bool was_known = slot.watched > needed;
    slot.watched += seconds;
    known_slots_ += !was_known && slot.watched > needed ? 1 : 0;
  }
}

MoveGoal Rebalancer::Goal(Time now, int64_t num_slots, const Shards& shards) {
  MoveGoal goal;
  if (shards.places.size() >= shards.wanted) {
    missing_since_.reset();
  } else if (!missing_since_.has_value()) {
    missing_since_ = now;
  }
  goal.evens =
      !missing_since_.has_value() || now >= *missing_since_ + kMissingFor;
  put_off_ = !goal.evens;
  if (by_ != RebalanceBy::kOff && !known()) {
    return goal;
  }
  goal.tolerance = by_ == RebalanceBy::kOff ? 0 : kRebalanceTolerance;
  goal.cost_share_max = by_ == RebalanceBy::kLoad ? kBytesShareMax : 0;
  goal.slots.resize(static_cast<size_t>(num_slots));
  for (size_t i = 0; i < goal.slots.size(); ++i) {
    const Slot slot = i < slots_.size() ? slots_[i] : Slot();
    MoveGoal::Slot& of = goal.slots[i];
    of.cost = kSlotBytes + static_cast<double>(slot.bytes);
    switch (by_) {
      case RebalanceBy::kOff:
        of.weight = 1;
        break;
      case RebalanceBy::kBytes:
        of.weight = of.cost;
        break;
      case RebalanceBy::kLoad:
        // Every replica takes what is pushed; who answers pulls may change.
        of.weight = kSlotLoad + slot.pushed + slot.pulled / shards.replicas;
        break;
    }
  }
  return goal;
}

std::vector<double> Rebalancer::HeadWeights() const {
  std::vector<double> weights;
  if (by_ == RebalanceBy::kLoad && known()) {
    for (const Slot& slot : slots_) {
      weights.push_back(kSlotLoad + slot.pulled);
    }
  }
  return weights;
}

bool Rebalancer::IsDue(Time now, const RouteTable& route, const Shards& shards,
                       bool turns_heads) {
  const bool looks = by_ == RebalanceBy::kOff ? put_off_ : known();
  if (!looks || now < looked_at_ + kLookEvery) {
    return false;
  }
  looked_at_ = now;
  std::vector<Chain> chains = route.ChainsOfSlots();
  if (std::any_of(chains.begin(), chains.end(),
                  [](const Chain& chain) { return chain.joining >= 0; })) {
    return false;
  }
  if (PlanJoins(shards.places, shards.replicas,
                Goal(now, route.num_slots(), shards), chains)) {
    return true;
  }
  const std::vector<double> weights = HeadWeights();
  if (!turns_heads || weights.empty() || shards.replicas < 2) {
    return false;
  }
  const auto heaviest = [&](double* mean) {
    std::vector<double> heads(route.shards.size());
    for (size_t slot = 0; slot < chains.size(); ++slot) {
      heads[static_cast<size_t>(chains[slot].head())] += weights[slot];
      *mean += weights[slot] / static_cast<double>(shards.places.size());
    }
    return *std::max_element(heads.begin(), heads.end());
  };
  double mean = 0;
  double ignored = 0;
  const double before = heaviest(&mean);
  BalanceHeads(weights, chains);
  return before - heaviest(&ignored) > kRebalanceTolerance * mean;
}

void Rebalancer::Moved(int64_t slot) {
  if (static_cast<size_t>(slot) < slots_.size()) {
    moved_bytes_ += slots_[static_cast<size_t>(slot)].bytes;
  }
}

std::vector<Rebalancer::ShardLoad> Rebalancer::LoadsOf(
    const RouteTable& route) const {
  std::vector<ShardLoad> loads(route.shards.size());
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Chain& chain = route.ChainOf(static_cast<int64_t>(i));
    const Slot& slot = slots_[i];
    for (const int member : chain.members) {
      ShardLoad& load = loads[static_cast<size_t>(member)];
      load.bytes += slot.bytes;
      load.load += slot.pushed + (member == chain.head() ? slot.pulled : 0);
    }
    if (chain.joining >= 0) {
      loads[static_cast<size_t>(chain.joining)].to_come += slot.bytes;
    }
  }
  return loads;
}

}  // namespace shoal::ps
