#ifndef SHOAL_COMM_NCCL_COLLECTIVE_H_
#define SHOAL_COMM_NCCL_COLLECTIVE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "comm/nccl_driver.h"
#include "comm/node_collective.h"
#include "comm/operation_watch.h"
#include "comm/transport_collective.h"

namespace shoal::comm {

// A collective by the library of the members' devices, which is NCCL for
// "cuda": memory of the host goes to the device, and comes back from it. Sums
// are the library's: a member's own terms are added first, those of the members
// in an order that depends on their number, the size and the machine, so that
// only sums of integers, and of two members, keep the bits of backend
// `transport`. All members get the same bits.
//
// Members find each other over their nodes' endpoints: rank 0's id of the
// library's group comes to all that way. Deadlines and names are
// OperationWatch's; at the end of one, and when a member is lost, the library
// is told to abort, so that nothing is left on the device. A thread of its own
// talks to the library.
//
// Belongs to the node's thread.
class NcclCollective : public NodeCollective {
 public:
  // Begins to open the device and to join; what is called meanwhile waits. An
  // operation fails with kFailedPrecondition where a member has no such device
  // or library, where two have the same device or different libraries.
  // Errors: those of TransportCollective::Create().
  static StatusOr<std::unique_ptr<NodeCollective>> Create(
      NodeContext& context, Group group, const CollectiveOptions& options);
  ~NcclCollective() override;

  bool OnMessage(EndpointId from, Message& message) override {
    return watch_.OnMessage(from, message) ||
           bootstrap_->OnMessage(from, message);
  }
  void OnPeerDown(EndpointId peer, const Status& why) override {
    watch_.OnPeerDown(peer, why);
    bootstrap_->OnPeerDown(peer, why);
  }
  void OnSendable(EndpointId peer) override { bootstrap_->OnSendable(peer); }

  const Group& group() const override { return group_; }
  void AllReduce(DType dtype, std::span<const void* const> terms, void* out,
                 int64_t count, Done done) override;
  void ReduceScatter(DType dtype, std::span<const void* const> terms, void* out,
                     int64_t count, Done done) override;
  void AllGather(DType dtype, void* data, int64_t count, Done done) override;
  void AllToAll(DType dtype, const void* from, void* to, int64_t count,
                Done done) override;
  void Broadcast(DType dtype, void* data, int64_t count, int root,
                 Done done) override;
  void Barrier(Done done) override;

 private:
  // What a member tells the others, as whole words.
  struct Greeting;

  NcclCollective(NodeContext& context, Group group,
                 const CollectiveOptions& options);

  std::shared_ptr<NcclOperation> NewOperation(
      const char* name, DeviceCollectiveCall::Kind kind, DType dtype,
      int64_t count, std::span<const void* const> terms, void* out, Done done);
  std::pair<int64_t, int64_t> OwnBytes(DType dtype, int64_t count) const;
  void Submit(std::shared_ptr<NcclOperation> operation);
  void OnOpen(const StatusOr<NcclDriver::Greeting>& greeting);
  void OnGreetings(const Status& status);
  Status CheckGreetings() const;
  void OnEnded(uint64_t sequence, const Status& status);
  void OnBroken();

  NodeContext& context_;
  const Group group_;
  OperationWatch watch_;
  std::unique_ptr<TransportCollective> bootstrap_;
  std::vector<Greeting> greetings_;  // by rank
  bool joined_ = false;
  // Called before it has joined.
  std::deque<std::shared_ptr<NcclOperation>> waiting_;
  std::map<uint64_t, std::shared_ptr<NcclOperation>> operations_;
  const std::shared_ptr<const bool> alive_ = std::make_shared<bool>(true);
  std::shared_ptr<NcclDriver> driver_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_NCCL_COLLECTIVE_H_
