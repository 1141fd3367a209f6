#ifndef SHOAL_PS_ROUTE_H_
#define SHOAL_PS_ROUTE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "comm/message.h"

namespace shoal::ps {

// The replicas of a slot, as numbers of shards: the head takes pushes and
// answers pulls; each hands what it takes on to the next.
struct Chain {
  std::vector<int> members;  // head first; empty: the slot is lost
  // Gets the slot's state from the tail and then what the tail gets, but does
  // not count as a replica yet; -1: none.
  int joining = -1;
  // Which member it takes the place of; -1: none, it repairs the chain.
  int leaving = -1;

  int head() const { return members.front(); }
  int tail() const { return members.back(); }
  bool HasMember(int shard) const;
  // Who `shard` hands commands on to, if it is a member and not the tail; -1.
  int NextOf(int shard) const;

  friend bool operator==(const Chain&, const Chain&) = default;
};

// Which shards hold a slot, and where they are. Only the coordinator makes
// versions; who gets a message that was sent under another one refuses it.
struct RouteTable {
  struct Peer {
    comm::EndpointId endpoint;
    std::string address;
    std::string name;  // "server 1 shard 0"

    friend bool operator==(const Peer&, const Peer&) = default;
  };
  uint64_t version = 0;
  int slot_bits = 10;
  // By number. One that was lost keeps its number and is in no chain.
  std::vector<Peer> shards;
  // If there are any, each holds all dense variables instead of the shards, and
  // their gradients are summed by a collective of these.
  std::vector<Peer> workers;
  // The distinct chains, and by slot the one that it has.
  std::vector<Chain> chains;
  std::vector<int32_t> chain_of_slot;

  bool dense_on_workers() const { return !workers.empty(); }
  int64_t num_slots() const { return int64_t{1} << slot_bits; }

  const Chain& ChainOf(int64_t slot) const {
    return chains[static_cast<size_t>(
        chain_of_slot[static_cast<size_t>(slot)])];
  }
  int HeadOf(int64_t slot) const { return ChainOf(slot).head(); }

  // By slot; `chains` becomes the distinct ones of these.
  void SetChains(const std::vector<Chain>& of_slots);
  std::vector<Chain> ChainsOfSlots() const;
};

struct MoveGoal;  // ps/rebalance.h

// A shard as the planning of chains sees it.
struct ShardPlace {
  int shard = 0;
  int server = 0;    // replicas of a slot never share one
  std::string host;  // and avoid to share one
};

// Slots dealt to `places` in turn, so that neighbouring slots (the chunks of
// one variable) lie on different shards; each with as many replicas as
// `replicas` and the number of servers allow.
std::vector<Chain> FirstChains(int64_t num_slots,
                               std::span<const ShardPlace> places,
                               int replicas);

// Takes out of all chains those that are gone.
void DropShards(const std::function<bool(int)>& gone,
                std::vector<Chain>& chains);

// One step towards chains of `replicas` members on `places`, even by `goal`:
// lets one shard join each chain that is to get another member. What is short
// comes first, and moves under way end for that; then what is on shards that
// have left the `places` moves; then what is uneven (PlanMoves); and as much at
// once as the goal says. False: nothing is to be done now. Deterministic.
bool PlanJoins(std::span<const ShardPlace> places, int replicas,
               const MoveGoal& goal, std::vector<Chain>& chains);

// Makes the joining one of `chain` its tail, and takes out whose place it
// takes; where it is then still longer than `replicas`, who has left the
// `places` or shares a server with the new one.
void FinishJoin(std::span<const ShardPlace> places, int replicas, Chain& chain);

// Turns chains so that shards are heads evenly, by the `weights` of heading
// each slot; none: all the same. Only where all members of a chain have the
// same state: in `sync`, between two steps.
void BalanceHeads(std::span<const double> weights, std::vector<Chain>& chains);

}  // namespace shoal::ps

#endif  // SHOAL_PS_ROUTE_H_
