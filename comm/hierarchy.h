#ifndef SHOAL_COMM_HIERARCHY_H_
#define SHOAL_COMM_HIERARCHY_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>

#include "comm/transport_collective.h"

namespace shoal::comm {

// Allreduce of a group whose members share hosts: inside each host every member
// sums one segment, members with the same place sum theirs between the hosts,
// and spread them inside. So a vector crosses to another host once for all of
// a host. A vector goes in blocks, so that one is between hosts while others
// are inside.
//
// A part of the TransportCollective of the group. Belongs to the node's thread.
class Hierarchy {
 public:
  // Null when the group has none: one host, or hosts of different sizes, or one
  // whose members' nodes are not all that is under one node of the tree.
  // Errors: those of TransportCollective::Create().
  static StatusOr<std::unique_ptr<Hierarchy>> Create(
      NodeContext& context, const Group& group,
      const TransportCollective::Options& options);

  // See Collective::AllReduce().
  void AllReduce(DType dtype, std::span<const std::byte* const> terms,
                 std::byte* out, int64_t count, Collective::Done done);

  bool OnMessage(EndpointId from, Message& message);
  void OnPeerDown(EndpointId peer, const Status& why);
  void OnSendable(EndpointId peer);
  void Abandon(const Status& why);
  std::string Awaited() const;

 private:
  // A piece of a vector on its way.
  struct Block {
    enum class State {
      kInside,
      kSummed,
      kBetween,
      kCrossed,
      kSpreading,
      kDone
    };
    State state = State::kInside;
    DType dtype = DType::kF32;
    std::byte* out = nullptr;
    int64_t count = 0;
    Collective::Done done;  // of the last of a vector
  };

  explicit Hierarchy(int64_t block_bytes) : block_bytes_(block_bytes) {}
  Collective::Done Then(Block::State next, const std::shared_ptr<Block>& block);
  void Advance();

  const int64_t block_bytes_;
  // Inside the host, between hosts, inside again; an own collective each, so
  // that each has its operations in the order of the blocks on all members.
  std::unique_ptr<TransportCollective> inside_;
  std::unique_ptr<TransportCollective> between_;
  std::unique_ptr<TransportCollective> spread_;
  std::deque<std::shared_ptr<Block>> blocks_;  // in order, until they are done
  bool lost_ = false;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_HIERARCHY_H_
