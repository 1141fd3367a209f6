#ifndef SHOAL_COMM_NODE_COLLECTIVE_H_
#define SHOAL_COMM_NODE_COLLECTIVE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/device.h"
#include "base/registry.h"
#include "base/status.h"
#include "base/time.h"
#include "comm/collective.h"
#include "comm/node.h"

namespace shoal::comm {

// The method of the messages between the members of a collective, which are
// one-way; nodes keep it free.
inline constexpr uint16_t kCollectiveMethod = 0xC011;

// `request` in the headers of these messages, which tells groups of a node and
// operations of a group apart.
uint64_t CollectiveRequest(const Group& group, uint64_t sequence);
bool IsOfGroup(const Message& message, const Group& group);
uint64_t SequenceOf(const Message& message);

// kAborted: what the message says with which `member` gave up, in frame 0.
Status GaveUpError(const Group::Member& member, const Message& message);

// A collective as a part of a node, which hands over the collective's messages
// and what becomes of the members. Belongs to the node's thread.
class NodeCollective : public Collective {
 public:
  // Takes messages of this group; false for others.
  virtual bool OnMessage(EndpointId from, Message& message) = 0;
  virtual void OnPeerDown(EndpointId peer, const Status& why) = 0;
  virtual void OnSendable(EndpointId peer) = 0;
};

struct CollectiveOptions {
  Duration timeout = std::chrono::seconds(20);  // of each operation
  // Of backend "transport", the same on all members; empty: DefaultSwitches().
  std::vector<AllReduceSwitch> switches = {};
  // The device that this member computes on, for backends that sum there; or
  // none. Runs on a thread of the backend's, and may block.
  std::function<StatusOr<std::shared_ptr<Device>>()> open_device;
};

// Makes this member's part of a collective. `context` must outlive it. What it
// needs may turn out to be missing only when it is used: the first operation
// then fails.
using CollectiveFactory = StatusOr<std::unique_ptr<NodeCollective>> (*)(
    NodeContext& context, Group group, const CollectiveOptions& options);

// The backends that are linked in, by name: "transport", over the endpoints of
// the members' nodes, "mpi", by MPI's own collectives, and "nccl", by those of
// the members' devices.
Registry<CollectiveFactory>& CollectiveRegistry();

}  // namespace shoal::comm

#define SHOAL_REGISTER_COLLECTIVE(name, factory)                     \
  [[maybe_unused]] static const bool SHOAL_CONCAT(shoal_collective_, \
                                                  __LINE__) =        \
      ::shoal::comm::CollectiveRegistry().Add(name, factory, __FILE__)

#endif  // SHOAL_COMM_NODE_COLLECTIVE_H_
