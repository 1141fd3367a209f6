#ifndef SHOAL_PS_REBALANCER_H_
#define SHOAL_PS_REBALANCER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/time.h"
#include "comm/message.h"
#include "ps/rebalance.h"
#include "ps/route.h"

namespace shoal::ps {

// What the coordinator knows of how much slots hold and how much is asked of
// them, from what the shards report, and when that is a reason to move some.
//
// Belongs to the coordinator's thread.
class Rebalancer {
 public:
  struct ShardLoad {
    int64_t bytes = 0;
    double load = 0;      // bytes/s
    int64_t to_come = 0;  // bytes of slots that it joins
  };

  explicit Rebalancer(RebalanceBy by) : by_(by) {}

  // What `shard` reports of the slots that it is head of; one of another
  // version, or that does not fit, says nothing of them.
  void Take(const comm::Message& report, int shard, const RouteTable& route);

  // `wanted` shards are to be there. While some are missing nothing is evened
  // for a few seconds, so that nothing moves twice when they come.
  struct Shards {
    std::span<const ShardPlace> places;
    size_t wanted = 0;
    int replicas = 1;
  };

  // Whether slots are to move now, or heads to be turned, where they may be
  // (`turns_heads`). Looks once a second.
  bool IsDue(Time now, const RouteTable& route, const Shards& shards,
             bool turns_heads);

  // For PlanJoins(); without slots while not enough is known.
  MoveGoal Goal(Time now, int64_t num_slots, const Shards& shards);
  // For BalanceHeads().
  std::vector<double> HeadWeights() const;

  // A slot has been moved.
  void Moved(int64_t slot);

  // By shard.
  std::vector<ShardLoad> LoadsOf(const RouteTable& route) const;
  bool known() const { return known_slots_ > 0 && known_slots_ == num_slots_; }
  int64_t moved_bytes() const { return moved_bytes_; }
  int64_t sent_bytes() const { return sent_bytes_; }

 private:
  struct Slot {
    int64_t bytes = 0;
    double pulled = 0;  // bytes/s, decayed
    double pushed = 0;
    double watched = 0;  // s
  };

  RebalanceBy by_;
  std::vector<Slot> slots_;
  uint64_t version_ = 0;                     // of the route, and under it by
  std::vector<std::vector<size_t>> headed_;  // shard: what it is head of
  int64_t num_slots_ = 0;
  int64_t known_slots_ = 0;  // for as long as needs be
  Time looked_at_;
  std::optional<Time> missing_since_;
  bool put_off_ = false;  // something was, for what is missing
  int64_t moved_bytes_ = 0;
  int64_t sent_bytes_ = 0;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_REBALANCER_H_
