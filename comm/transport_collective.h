#ifndef SHOAL_COMM_TRANSPORT_COLLECTIVE_H_
#define SHOAL_COMM_TRANSPORT_COLLECTIVE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/time.h"
#include "comm/node.h"
#include "comm/node_collective.h"
#include "comm/tree_sum.h"

namespace shoal::comm {

// A collective over the endpoint of a node. Bulk lane, chunks of a bounded
// size, frames that borrow the caller's memory.
//
// Belongs to the node's thread.
class TransportCollective : public NodeCollective {
 public:
  struct Options {
    Duration timeout = std::chrono::seconds(20);  // of each operation
    AllReduceAlgorithm algorithm = AllReduceAlgorithm::kAuto;
    // kAuto: vectors up to this go by kExchange.
    int64_t exchange_bytes_max = int64_t{16} << 10;
    int64_t chunk_bytes = int64_t{256} << 10;
  };

  // Connects to the other members. `context` must outlive it.
  // Errors: those of Connect(); kInvalidArgument (a group that makes no sense).
  static StatusOr<std::unique_ptr<TransportCollective>> Create(
      NodeContext& context, Group group, const Options& options);
  ~TransportCollective() override;

  bool OnMessage(EndpointId from, Message& message) override;
  void OnPeerDown(EndpointId peer, const Status& why) override;
  void OnSendable(EndpointId peer) override;

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
  enum class Kind : uint8_t {
    kAllReduce,
    kReduceScatter,
    kAllGather,
    kAllToAll,
    kBroadcast,
    kBarrier,
  };
  enum class Phase : uint8_t {
    kTerms = 0,   // of a chunk that the receiver sums
    kResult = 1,  // a chunk as it shall be
    kAbort = 2,   // the sender has given up; its text is frame 0
  };
  struct Operation;
  struct Link;
  struct Alive;

  TransportCollective(NodeContext& context, Group group,
                      const Options& options);

  const Group::Member& self() const {
    return group_.members[static_cast<size_t>(group_.rank)];
  }
  std::unique_ptr<Operation> NewOperation(Kind kind, DType dtype, int64_t count,
                                          Done done);
  int64_t NumChunks(const Operation& op, int64_t count) const;
  int64_t ChunkCount(const Operation& op) const;
  std::pair<int64_t, int64_t> Owned(const Operation& op, int owner) const;
  int64_t MessagesFrom(const Operation& op, int rank) const;

  void Start(std::unique_ptr<Operation> operation);
  void SendFirst(Operation& op);
  void SendTerms(const Operation& op, int to, int64_t chunk);
  void SendChunk(const Operation& op, Phase phase, const std::byte* data,
                 int owner, int to, int64_t chunk);
  void Send(int to, Message message);

  void Dispatch(Operation& op, int from, Message& message);
  Status Take(Operation& op, int from, Message& message);
  void SumChunk(Operation& op, int64_t chunk);

  std::shared_ptr<const void> MakeBorrowed(uint64_t sequence) const;
  void CheckDone(Operation& op);
  void OnReleased(uint64_t sequence);
  void Finish(uint64_t sequence);
  void OnDeadline(uint64_t sequence);
  void Fail(const Status& why, bool tell);

  Message MakeMessage(const Operation& op, Phase phase, int64_t chunk) const;
  std::string Describe(const Operation& op) const;

  NodeContext& context_;
  const Group group_;
  const Options options_;
  const TreeSum sum_;
  std::vector<Link> links_;  // by rank
  Status broken_;
  uint64_t next_sequence_ = 1;
  std::map<uint64_t, std::unique_ptr<Operation>> operations_;
  // Of operations that this rank has not started: rank and message.
  std::map<uint64_t, std::vector<std::pair<int, Message>>> early_;
  std::shared_ptr<Alive> alive_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORT_COLLECTIVE_H_
