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
#include "comm/peer_memory.h"
#include "comm/tree_sum.h"

namespace shoal::comm {

class Hierarchy;

// A collective over the endpoint of a node. Bulk lane, chunks of a bounded
// size, frames that borrow the caller's memory. Members of one host
// read each other's memory where the system lets them: they try it once, when
// the group is made, and all go by messages if one of them can't.
//
// Belongs to the node's thread. What moves memory takes at most about a
// millisecond of it at a time.
class TransportCollective : public NodeCollective {
 public:
  // The same on all members but for `read_peers` and `look`.
  struct Options {
    Duration timeout = std::chrono::seconds(20);  // of each operation
    AllReduceAlgorithm algorithm = AllReduceAlgorithm::kAuto;
    std::vector<AllReduceSwitch> switches = DefaultSwitches();  // rising
    int64_t chunk_bytes = int64_t{256} << 10;
    // Of kHierarchical: a block is inside its host while another is between.
    int64_t block_bytes = int64_t{4} << 20;
    bool read_peers = true;  // of one host
    // How long the node's thread looks for the next message of an operation
    // before it sleeps, see NodeContext::LookUntil().
    Duration look = std::chrono::microseconds(50);
  };

  // Connects to the other members. `context` must outlive it.
  // Errors: those of Connect(); kInvalidArgument (a group that makes no sense).
  static StatusOr<std::unique_ptr<TransportCollective>> Create(
      NodeContext& context, Group group, const Options& options);
  ~TransportCollective() override;

  bool OnMessage(EndpointId from, Message& message) override;
  void OnPeerDown(EndpointId peer, const Status& why) override;
  void OnSendable(EndpointId peer) override;

  // How an allreduce of so many bytes goes; members that may read each other
  // know that only after their first operation.
  AllReduceAlgorithm Choose(int64_t bytes) const;
  // For what starts from now on; all members must do so at the same place.
  void SetAlgorithm(AllReduceAlgorithm algorithm) { algorithm_ = algorithm; }

  // Ends all operations with `why`, here alone, and takes no more.
  void Abandon(const Status& why) { Fail(why, /*tell=*/false); }
  // Who is waited for, in words; empty: nobody.
  std::string Awaited() const;

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
    kTerms = 0,    // of a chunk that the receiver sums
    kResult = 1,   // a chunk as it shall be
    kAbort = 2,    // the sender has given up; its text is frame 0
    kPass = 3,     // its MemoryPass is frame 0
    kVerdict = 4,  // whether it can read all others
    kOffer = 5,    // where the sender's vectors lie
    kReady = 6,    // a portion of its segment is summed
    kTaken = 7,    // all of the receiver's segment is read
    kHalf = 8,     // of a vector, see Halving
  };
  struct Operation;
  struct Reads;
  struct Halving;
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
  void Begin(Operation& op);
  void BeginChunks(Operation& op);
  void SendFirst(Operation& op);
  void SendTerms(const Operation& op, int to, int64_t chunk);
  void SendChunk(const Operation& op, Phase phase, const std::byte* data,
                 int owner, int to, int64_t chunk);
  static Buffer Lend(const Operation& op, const std::byte* data, int64_t bytes);
  void Send(int to, Message message);

  void Dispatch(Operation& op, int from, Message& message);
  Status Take(Operation& op, int from, Message& message);
  void SumChunk(Operation& op, int64_t chunk);

  // Whether members may read each other, transport_collective_read.cc; and how
  // they do.
  void StartSettling();
  void OnSettling(int rank, Phase phase, const Message& message);
  void SendVerdict();
  void Settle();
  bool Reading(const Operation& op) const;
  int64_t ReadMessages(const Operation& op, int rank) const;
  int64_t NumPortions(const Operation& op, int owner) const;
  void BeginReads(Operation& op);
  Status TakeRead(Operation& op, int from, Phase phase, const Message& message);
  Status TakeOffer(Operation& op, int from, const Message& message);
  void ScheduleReads(Operation& op);
  void RunReads(uint64_t sequence);
  StatusOr<int64_t> SumPortion(Operation& op);
  StatusOr<int64_t> TakeResults(Operation& op);
  void SendToAll(const Message& message);

  // kHalving, transport_collective_halving.cc.
  bool MayHalve() const;
  std::pair<int64_t, int64_t> HalvingRegion(const Operation& op, int rank,
                                            int level) const;
  int64_t HalvingMessages(const Operation& op, int rank) const;
  void BeginHalving(Operation& op);
  Status TakeHalf(Operation& op, int from, Message& message);
  void AddHalf(Operation& op, int from, const Message& message);
  void StartHalvingStep(Operation& op);
  void AdvanceHalving(Operation& op);

  void StartHierarchical(Operation& op);

  std::shared_ptr<const void> MakeBorrowed(uint64_t sequence) const;
  void CheckDone(Operation& op);
  void OnReleased(uint64_t sequence);
  void Finish(uint64_t sequence);
  void OnDeadline(uint64_t sequence);
  void Fail(const Status& why, bool tell);

  Message MakeMessage(Phase phase) const;
  Message MakeMessage(const Operation& op, Phase phase, int64_t chunk) const;
  std::string Describe(const Operation& op) const;

  NodeContext& context_;
  const Group group_;
  const Options options_;
  AllReduceAlgorithm algorithm_;
  const TreeSum sum_;
  std::vector<Link> links_;               // by rank
  std::unique_ptr<Hierarchy> hierarchy_;  // null: the group has none
  // Whether members read each other: asked at first, then known.
  bool settled_ = true;
  bool can_read_ = false;
  std::vector<PeerMemory> peers_;  // by rank
  std::vector<bool> passes_;       // came, by rank
  std::vector<bool> verdicts_;     // the same
  Status cannot_read_;             // why not
  std::vector<std::byte> scratch_;
  Status broken_;
  uint64_t next_sequence_ = 1;
  std::map<uint64_t, std::unique_ptr<Operation>> operations_;
  // Of operations that this rank has not started: rank and message.
  std::map<uint64_t, std::vector<std::pair<int, Message>>> early_;
  std::shared_ptr<Alive> alive_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORT_COLLECTIVE_H_
