#ifndef SHOAL_COMM_MPI_COLLECTIVE_H_
#define SHOAL_COMM_MPI_COLLECTIVE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/time.h"
#include "comm/node_collective.h"
#include "comm/operation_watch.h"

struct ShoalMpiGroup;

namespace shoal::comm {

class MpiWorld;

// A collective by MPI's own, among the ranks of MpiWorld::JoinGroup(). Sums are
// MPI's: the members' terms are added in an order that depends on their number,
// the size and the MPI, so that only sums of integers, and of two members, keep
// the bits of backend `transport`. All members get the same bits, as far as the
// MPI does what its standard advises.
//
// Deadlines and names are OperationWatch's. MPI works on memory of its own, so
// that one that is given up leaves the caller's free. A thread asks MPI for
// progress while an operation goes on.
//
// Belongs to the node's thread.
class MpiCollective : public NodeCollective {
 public:
  // Connects to the other members. Errors: those of Connect();
  // kFailedPrecondition (not under mpirun, or the group is not the one that MPI
  // was told).
  static StatusOr<std::unique_ptr<NodeCollective>> Create(
      NodeContext& context, Group group, const CollectiveOptions& options);
  ~MpiCollective() override;

  bool OnMessage(EndpointId from, Message& message) override {
    return watch_.OnMessage(from, message);
  }
  void OnPeerDown(EndpointId peer, const Status& why) override {
    watch_.OnPeerDown(peer, why);
  }
  void OnSendable(EndpointId /*peer*/) override {}

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
  struct Operation;
  class Progress;

  MpiCollective(const MpiWorld& world, NodeContext& context, Group group,
                Duration timeout);

  std::shared_ptr<Operation> NewOperation(const char* name, DType dtype,
                                          int64_t count, int rows, Done done);
  Buffer SumOfTerms(DType dtype, std::span<const void* const> terms,
                    int64_t count);
  Buffer Take(int64_t bytes);
  void Start(std::shared_ptr<Operation> op);
  void OnEnded(uint64_t sequence, const Status& status);

  const MpiWorld& world_;
  NodeContext& context_;
  const Group group_;
  OperationWatch watch_;
  std::map<uint64_t, std::shared_ptr<Operation>> operations_;
  std::vector<Buffer> spare_;  // memory of operations that have ended
  const std::shared_ptr<const bool> alive_ = std::make_shared<bool>(true);
  std::unique_ptr<Progress> progress_;  // last: ends first
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_MPI_COLLECTIVE_H_
