#ifndef SHOAL_PS_REBALANCE_H_
#define SHOAL_PS_REBALANCE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ps/route.h"

namespace shoal::ps {

// What shards are to have evenly of.
enum class RebalanceBy : uint8_t {
  kOff = 0,    // slots, and only when servers come or go
  kBytes = 1,  // of rows and dense variables, with the optimizer's state
  kLoad = 2,   // bytes/s that are pulled and pushed
};

// Two shards that differ by no more than this part of the mean are even.
inline constexpr double kRebalanceTolerance = 0.1;

// What moves are to bring about, and what they may take.
struct MoveGoal {
  struct Slot {
    double weight = 1;  // what shards are to have evenly of, 0 or more
    double cost = 1;    // bytes of moving it, above 0
  };
  std::vector<Slot> slots;  // by slot; none: nothing is known, nothing moves
  // Of the mean weight of a shard: moves begin where two shards differ by more,
  // and end when none do by more than half of it, so that what varies by less
  // than a quarter of it moves nothing to and fro.
  double tolerance = 0;
  // No shard gets more than this part of the mean cost of all by a move; 0:
  // any.
  double cost_share_max = 0;
  bool evens = true;  // else only what must move does
  // Of one plan; the next goes on from there.
  size_t moves_max = 1024;
  double cost_max_per_giver = 128 << 20;
};

struct SlotMove {
  int64_t slot = 0;
  int from = 0;  // shards
  int to = 0;

  friend bool operator==(const SlotMove&, const SlotMove&) = default;
};

// The moves that even out `places`, in the order in which they are to be done:
// each from who has more to who has less, so that neither passes the other, of
// the slots that cost least for their weight; none that could be left out.
// Chains that have fewer than `length` members or someone joining stay as they
// are. Replicas of a slot stay on servers of their own, and on as many hosts as
// before. None: all is even, or no move would make it more so. Deterministic.
std::vector<SlotMove> PlanMoves(std::span<const ShardPlace> places,
                                size_t length, const std::vector<Chain>& chains,
                                const MoveGoal& goal);

}  // namespace shoal::ps

#endif  // SHOAL_PS_REBALANCE_H_
