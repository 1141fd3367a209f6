#include "comm/transport_collective.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "base/mutex.h"
#include "base/strcat.h"
#include "comm/hierarchy.h"
#include "comm/transport_operation.h"

namespace shoal::comm {
namespace {

// A member may run ahead of us by as many operations; more is no collective.
constexpr uint64_t kAheadMax = 4096;

// Bytes of a frame that is not worth lending.
constexpr int64_t kCopiedMax = 1024;

std::vector<int64_t> AllNodes(const Group& group) {
  std::vector<int64_t> nodes;
  for (const Group::Member& member : group.members) {
    nodes.insert(nodes.end(), member.nodes.begin(), member.nodes.end());
  }
  return nodes;
}

StatusOr<std::unique_ptr<NodeCollective>> CreateTransport(
    NodeContext& context, Group group, const CollectiveOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(
      std::unique_ptr<NodeCollective> made,
      TransportCollective::Create(
          context, std::move(group),
          {.timeout = options.timeout,
           .switches = options.switches.empty() ? DefaultSwitches()
                                                : options.switches}));
  return made;
}

SHOAL_REGISTER_COLLECTIVE("transport", &CreateTransport);

}  // namespace

TransportCollective::TransportCollective(NodeContext& context, Group group,
                                         const Options& options)
    : context_(context),
      group_(std::move(group)),
      options_(options),
      algorithm_(options.algorithm),
      sum_(StepTree(group_.num_leaves), AllNodes(group_), group_.root),
      links_(group_.members.size()),
      alive_(std::make_shared<Alive>()) {
  MutexLock lock(alive_->mutex);
  alive_->context = &context;
  alive_->collective = this;
}

TransportCollective::~TransportCollective() {
  for (const auto& [sequence, op] : operations_) {
    context_.CancelTimer(op->timer);
  }
  alive_->collective = nullptr;
  {
    MutexLock lock(alive_->mutex);
    alive_->context = nullptr;
  }
}

StatusOr<std::unique_ptr<TransportCollective>> TransportCollective::Create(
    NodeContext& context, Group group, const Options& options) {
  if (group.rank < 0 || group.rank >= group.size() || group.num_leaves < 1 ||
      !StepTree(group.num_leaves).IsNode(group.root)) {
    return InvalidArgumentError(StrCat("a group of ", group.size(),
                                       " members has no rank ", group.rank,
                                       " or no leaf"));
  }
  const StepTree tree(group.num_leaves);
  std::set<int> leaves;
  for (const Group::Member& member : group.members) {
    for (const int64_t node : member.nodes) {
      if (!tree.IsNode(node)) {
        return InvalidArgumentError(StrCat("a group of ", group.num_leaves,
                                           " leaves has no node ", node));
      }
      const auto [begin, end] = tree.Range(node);
      for (int leaf = begin; leaf < end; ++leaf) {
        if (!leaves.insert(leaf).second) {
          return InvalidArgumentError(
              StrCat("leaf ", leaf, " of the group belongs to two members"));
        }
      }
    }
  }
  const auto [first, last] = tree.Range(group.root);
  if (static_cast<int>(leaves.size()) != last - first ||
      *leaves.begin() != first) {
    return InvalidArgumentError("a leaf of the group belongs to no member");
  }
  std::unique_ptr<TransportCollective> collective(
      new TransportCollective(context, std::move(group), options));
  const Group& made = collective->group_;
  for (int rank = 0; rank < made.size(); ++rank) {
    const Group::Member& member = made.members[static_cast<size_t>(rank)];
    if (rank != made.rank) {
      SHOAL_RETURN_IF_ERROR(context.Connect(member.endpoint, member.address)
                                .WithPrefix(member.name));
    }
  }
  SHOAL_ASSIGN_OR_RETURN(collective->hierarchy_,
                         Hierarchy::Create(context, made, options));
  collective->StartSettling();
  return collective;
}

// --- Operations ------------------------------------------------------------

void TransportCollective::AllReduce(DType dtype,
                                    std::span<const void* const> terms,
                                    void* out, int64_t count, Done done) {
  auto op = NewOperation(Kind::kAllReduce, dtype, count, std::move(done));
  op->to = static_cast<std::byte*>(out);
  for (const void* term : terms) {
    op->terms.push_back(static_cast<const std::byte*>(term));
  }
  Start(std::move(op));
}

void TransportCollective::ReduceScatter(DType dtype,
                                        std::span<const void* const> terms,
                                        void* out, int64_t count, Done done) {
  auto op = NewOperation(Kind::kReduceScatter, dtype, count, std::move(done));
  op->to = static_cast<std::byte*>(out);
  for (const void* term : terms) {
    op->terms.push_back(static_cast<const std::byte*>(term));
  }
  Start(std::move(op));
}

void TransportCollective::AllGather(DType dtype, void* data, int64_t count,
                                    Done done) {
  auto op = NewOperation(Kind::kAllGather, dtype, count, std::move(done));
  op->to = static_cast<std::byte*>(data);
  Start(std::move(op));
}

void TransportCollective::AllToAll(DType dtype, const void* from, void* to,
                                   int64_t count, Done done) {
  auto op = NewOperation(Kind::kAllToAll, dtype, count, std::move(done));
  op->from = static_cast<const std::byte*>(from);
  op->to = static_cast<std::byte*>(to);
  Start(std::move(op));
}

void TransportCollective::Broadcast(DType dtype, void* data, int64_t count,
                                    int root, Done done) {
  SHOAL_CHECK(root >= 0 && root < group_.size());
  auto op = NewOperation(Kind::kBroadcast, dtype, count, std::move(done));
  op->to = static_cast<std::byte*>(data);
  op->root = root;
  Start(std::move(op));
}

void TransportCollective::Barrier(Done done) {
  Start(NewOperation(Kind::kBarrier, DType::kF32, 0, std::move(done)));
}

std::unique_ptr<TransportCollective::Operation>
TransportCollective::NewOperation(Kind kind, DType dtype, int64_t count,
                                  Done done) {
  auto op = std::make_unique<Operation>();
  op->sequence = next_sequence_++;
  op->kind = kind;
  op->dtype = dtype;
  op->count = count;
  op->done = std::move(done);
  return op;
}

// Chunks of a vector; one, if empty, that says that its sender got there.
int64_t TransportCollective::NumChunks(const Operation& op,
                                       int64_t count) const {
  const int64_t each = ChunkCount(op);
  return std::max<int64_t>(1, (count + each - 1) / each);
}

int64_t TransportCollective::ChunkCount(const Operation& op) const {
  return op.exchange() ? std::max<int64_t>(op.count, 1)
                       : std::max<int64_t>(options_.chunk_bytes / op.size(), 1);
}

// Elements of the vector whose sum rank `owner` makes, or spreads.
std::pair<int64_t, int64_t> TransportCollective::Owned(const Operation& op,
                                                       int owner) const {
  if (op.kind == Kind::kAllToAll) {
    return {owner * op.count, (owner + 1) * op.count};
  }
  if (op.exchange()) {
    return {0, op.count};
  }
  return SegmentOf(op.count, owner, group_.size());
}

void TransportCollective::Start(std::unique_ptr<Operation> operation) {
  Operation& op = *operation;
  SHOAL_CHECK(op.terms.empty() || op.terms.size() == self().nodes.size());
  for (size_t r = 0; broken_.ok() && r < links_.size(); ++r) {
    if (!links_[r].down.ok()) {
      Fail(UnavailableError(StrCat(Describe(op), ": ", group_.members[r].name,
                                   " is lost: ", links_[r].down.message())),
           true);
    }
  }
  if (!broken_.ok()) {
    context_.Post([done = std::move(op.done), why = broken_] { done(why); });
    return;
  }
  op.missing.assign(links_.size(), 1);  // Waited for, until it is known how.
  op.missing[static_cast<size_t>(group_.rank)] = 0;
  op.timer = context_.SetTimer(
      context_.Now() + options_.timeout,
      [this, sequence = op.sequence] { OnDeadline(sequence); });
  operations_.emplace(op.sequence, std::move(operation));
  context_.LookUntil(context_.Now() + options_.look);
  if (settled_) {
    Begin(op);
  }
}

void TransportCollective::Begin(Operation& op) {
  op.begun = true;
  op.borrowed = MakeBorrowed(op.sequence);
  if (op.kind == Kind::kAllReduce) {
    op.how = Choose(op.count * op.size());
  }
  for (int rank = 0; rank < group_.size(); ++rank) {
    if (rank != group_.rank) {
      op.missing[static_cast<size_t>(rank)] = MessagesFrom(op, rank);
    }
  }
  if (op.kind == Kind::kAllReduce &&
      op.how == AllReduceAlgorithm::kHierarchical) {
    StartHierarchical(op);
  } else if (Reading(op)) {
    BeginReads(op);
  } else if (op.how == AllReduceAlgorithm::kHalving) {
    BeginHalving(op);
  } else {
    BeginChunks(op);
  }
  const auto early = early_.find(op.sequence);
  if (early != early_.end()) {
    std::vector<std::pair<int, Message>> messages = std::move(early->second);
    early_.erase(early);
    for (auto& [rank, message] : messages) {
      if (broken_.ok()) {
        Dispatch(op, rank, message);
      }
    }
  }
  if (!broken_.ok()) {
    return;
  }
  op.sent = true;  // Not earlier: it would end inside the call.
  if (op.complete()) {
    // The last borrower is this one, or a frame: its end is told.
    op.borrowed.reset();
  }
}

void TransportCollective::BeginChunks(Operation& op) {
  const auto [begin, end] = Owned(op, group_.rank);
  const int64_t bytes = op.count * op.size();
  const auto overlaps = [&](const std::byte* term) {
    return term < op.to + bytes && op.to < term + bytes;
  };
  if (op.exchange() &&
      std::any_of(op.terms.begin(), op.terms.end(), overlaps)) {
    // The sum is there as soon as the others' terms are, which may be before
    // they have this one's.
    for (const std::byte* term : op.terms) {
      op.copies.push_back(Buffer::CopyOf(term, bytes));
    }
  }
  if (op.sums()) {
    op.chunks.resize(static_cast<size_t>(NumChunks(op, end - begin)));
    for (Operation::Chunk& chunk : op.chunks) {
      chunk.terms.resize(links_.size());
      chunk.missing = group_.size() - 1;
    }
  }
  SendFirst(op);
  if (op.sums() && group_.size() == 1) {
    for (size_t chunk = 0; chunk < op.chunks.size(); ++chunk) {
      SumChunk(op, static_cast<int64_t>(chunk));
    }
  }
  if (op.kind == Kind::kAllToAll && op.count > 0) {
    const int64_t bytes = op.count * op.size();
    std::memcpy(op.to + group_.rank * bytes, op.from + group_.rank * bytes,
                static_cast<size_t>(bytes));
  }
}

// How many messages `rank` sends to this one for an operation.
int64_t TransportCollective::MessagesFrom(const Operation& op, int rank) const {
  if (op.how == AllReduceAlgorithm::kHierarchical) {
    return 0;  // Others' operations wait.
  }
  if (op.how == AllReduceAlgorithm::kHalving) {
    return HalvingMessages(op, rank);
  }
  if (Reading(op)) {
    return ReadMessages(op, rank);
  }
  const auto chunks_of = [&](int owner) {
    const auto [begin, end] = Owned(op, owner);
    return NumChunks(op, end - begin);
  };
  switch (op.kind) {
    case Kind::kAllReduce:
      return chunks_of(group_.rank) + (op.exchange() ? 0 : chunks_of(rank));
    case Kind::kReduceScatter:
      return chunks_of(group_.rank);
    case Kind::kAllGather:
    case Kind::kBarrier:
      return chunks_of(rank);
    case Kind::kAllToAll:
      return NumChunks(op, op.count);
    case Kind::kBroadcast:
      if (group_.rank == op.root) {
        return 0;
      }
      return chunks_of(rank) + (rank == op.root ? chunks_of(group_.rank) : 0);
  }
  return 0;
}

// Sends what waits for nobody: terms, own rows and segments; one chunk to each
// member in turn, so that all can begin.
void TransportCollective::SendFirst(Operation& op) {
  const int n = group_.size();
  const auto to_each = [&](const auto& chunks, const auto& send) {
    int64_t most = 0;
    for (int k = 1; k < n; ++k) {
      most = std::max(most, chunks((group_.rank + k) % n));
    }
    for (int64_t chunk = 0; chunk < most; ++chunk) {
      for (int k = 1; k < n; ++k) {
        const int to = (group_.rank + k) % n;
        if (chunk < chunks(to)) {
          send(to, chunk);
        }
      }
    }
  };
  const auto owned_chunks = [&](int rank) {
    const auto [begin, end] = Owned(op, rank);
    return NumChunks(op, end - begin);
  };
  switch (op.kind) {
    case Kind::kAllReduce:
    case Kind::kReduceScatter:
      to_each(owned_chunks,
              [&](int to, int64_t chunk) { SendTerms(op, to, chunk); });
      return;
    case Kind::kAllToAll:
      to_each([&](int) { return NumChunks(op, op.count); },
              [&](int to, int64_t chunk) {
                SendChunk(op, Phase::kResult, op.from, to, to, chunk);
              });
      return;
    case Kind::kAllGather:
    case Kind::kBarrier:
      to_each([&](int) { return owned_chunks(group_.rank); },
              [&](int to, int64_t chunk) {
                SendChunk(op, Phase::kResult, op.to, group_.rank, to, chunk);
              });
      return;
    case Kind::kBroadcast:
      if (group_.rank == op.root) {
        // Each gets its segment, to pass on, and everyone the root's.
        to_each(owned_chunks, [&](int to, int64_t chunk) {
          SendChunk(op, Phase::kTerms, op.to, to, to, chunk);
        });
        to_each([&](int) { return owned_chunks(group_.rank); },
                [&](int to, int64_t chunk) {
                  SendChunk(op, Phase::kResult, op.to, group_.rank, to, chunk);
                });
      }
      return;
  }
}

// This rank's terms of a chunk of what `to` owns.
void TransportCollective::SendTerms(const Operation& op, int to,
                                    int64_t chunk) {
  const auto [begin, end] = Owned(op, to);
  const int64_t first = begin + chunk * ChunkCount(op);
  const int64_t count = std::min(ChunkCount(op), end - first);
  Message message = MakeMessage(op, Phase::kTerms, chunk);
  if (!op.copies.empty()) {
    message.frames = op.copies;  // An exchange has one chunk.
    Send(to, std::move(message));
    return;
  }
  for (const std::byte* term : op.terms) {
    message.frames.push_back(
        Lend(op, term + first * op.size(), count * op.size()));
  }
  Send(to, std::move(message));
}

// A chunk, that lies in `data`, of what `owner` owns.
void TransportCollective::SendChunk(const Operation& op, Phase phase,
                                    const std::byte* data, int owner, int to,
                                    int64_t chunk) {
  const auto [begin, end] = Owned(op, owner);
  const int64_t first = begin + chunk * ChunkCount(op);
  const int64_t count = std::min(ChunkCount(op), end - first);
  Message message = MakeMessage(op, phase, chunk);
  message.frames.push_back(
      Lend(op, data + first * op.size(), count * op.size()));
  Send(to, std::move(message));
}

// The caller's memory as a frame, whose end is waited for. Small ones are
// copied all the same: their sender may give up, and leave with its memory,
// while they are on their way.
Buffer TransportCollective::Lend(const Operation& op, const std::byte* data,
                                 int64_t bytes) {
  std::shared_ptr<const void> owner = op.borrowed;
  if (bytes <= kCopiedMax) {
    Buffer copy = Buffer::CopyOf(data, bytes);
    data = copy.data();
    owner = std::make_shared<std::pair<Buffer, std::shared_ptr<const void>>>(
        std::move(copy), std::move(owner));
  }
  return Buffer::Wrap(const_cast<std::byte*>(data), bytes, std::move(owner));
}

void TransportCollective::StartHierarchical(Operation& op) {
  op.working = true;
  hierarchy_->AllReduce(op.dtype, op.terms, op.to, op.count,
                        [this, sequence = op.sequence](const Status& why) {
                          const auto it = operations_.find(sequence);
                          if (!broken_.ok() || it == operations_.end()) {
                            return;
                          }
                          if (!why.ok()) {
                            Fail(why, true);
                            return;
                          }
                          it->second->working = false;
                          CheckDone(*it->second);
                        });
}

AllReduceAlgorithm TransportCollective::Choose(int64_t bytes) const {
  AllReduceAlgorithm how = algorithm_;
  for (const AllReduceSwitch& from : options_.switches) {
    if (algorithm_ == AllReduceAlgorithm::kAuto && bytes >= from.from_bytes) {
      how = from.algorithm;
    }
  }
  if (how == AllReduceAlgorithm::kHierarchical && hierarchy_ == nullptr) {
    how = AllReduceAlgorithm::kRead;
  }
  if ((how == AllReduceAlgorithm::kRead && !can_read_) ||
      (how == AllReduceAlgorithm::kHalving && !MayHalve()) ||
      how == AllReduceAlgorithm::kAuto) {
    how = AllReduceAlgorithm::kSegments;
  }
  return how;
}

// --- Messages --------------------------------------------------------------

bool TransportCollective::OnMessage(EndpointId from, Message& message) {
  if (!IsOfGroup(message, group_)) {
    return hierarchy_ != nullptr && hierarchy_->OnMessage(from, message);
  }
  const int rank = group_.RankOf(from);
  if (rank < 0 || !broken_.ok()) {
    return true;  // Nobody waits for it.
  }
  const Group::Member& member = group_.members[static_cast<size_t>(rank)];
  const auto phase = static_cast<Phase>(message.header.status & 0xf);
  if (phase == Phase::kPass || phase == Phase::kVerdict) {
    OnSettling(rank, phase, message);
    return true;
  }
  if (phase == Phase::kAbort) {
    Fail(GaveUpError(member, message), /*tell=*/false);
    return true;
  }
  const uint64_t sequence = SequenceOf(message);
  const auto it = operations_.find(sequence);
  if (it != operations_.end() && it->second->begun) {
    Dispatch(*it->second, rank, message);
  } else if (it != operations_.end() ||
             (sequence >= next_sequence_ &&
              sequence < next_sequence_ + kAheadMax)) {
    early_[sequence].emplace_back(rank, std::move(message));
  } else {
    Fail(InvalidArgumentError(StrCat(member.name,
                                     " is at collective operation ", sequence,
                                     ", this one at ", next_sequence_ - 1)),
         true);
  }
  return true;
}

void TransportCollective::Dispatch(Operation& op, int from, Message& message) {
  const auto kind = static_cast<Kind>(message.header.status >> 4);
  int64_t& missing = op.missing[static_cast<size_t>(from)];
  const Status status = kind != op.kind || missing == 0
                            ? InvalidArgumentError("calls another operation")
                            : Take(op, from, message);
  if (!status.ok()) {
    Fail(InvalidArgumentError(StrCat(
             Describe(op), ": ", group_.members[static_cast<size_t>(from)].name,
             " ", status.message(),
             "; all members must call the same operations in the same "
             "order with the same sizes")),
         true);
    return;
  }
  --missing;
  context_.LookUntil(context_.Now() + options_.look);
  CheckDone(op);
}

Status TransportCollective::Take(Operation& op, int from, Message& message) {
  const auto chunk = static_cast<int64_t>(message.header.reserved);
  const auto phase = static_cast<Phase>(message.header.status & 0xf);
  if (Reading(op)) {
    return TakeRead(op, from, phase, message);
  }
  if (op.halving != nullptr && phase == Phase::kHalf) {
    return TakeHalf(op, from, message);
  }
  if (op.halving != nullptr || phase > Phase::kResult) {
    return InvalidArgumentError("goes another way");
  }
  const bool terms = phase == Phase::kTerms;
  const bool sums = terms && !op.chunks.empty();
  // Whose the chunk is.
  const int owner = terms ? group_.rank : from;
  const auto [begin, end] = Owned(op, owner);
  const int64_t first = begin + chunk * ChunkCount(op);
  const int64_t count = std::min(ChunkCount(op), end - first);
  const size_t frames =
      sums ? group_.members[static_cast<size_t>(from)].nodes.size() : 1;
  if (chunk >= NumChunks(op, end - begin) || message.frames.size() != frames ||
      (terms && !sums && from != op.root)) {
    return InvalidArgumentError("sent a chunk that is not of it");
  }
  for (const Buffer& frame : message.frames) {
    if (frame.size() != count * op.size()) {
      return InvalidArgumentError(StrCat("sent ", frame.size(), " bytes where ",
                                         count * op.size(), " were expected"));
    }
  }
  if (sums) {
    Operation::Chunk& to = op.chunks[static_cast<size_t>(chunk)];
    Message& place = to.terms[static_cast<size_t>(from)];
    if (!place.frames.empty()) {
      return InvalidArgumentError("sent a chunk twice");
    }
    place = std::move(message);
    if (--to.missing == 0) {
      SumChunk(op, chunk);
    }
    return OkStatus();
  }
  if (count > 0) {
    std::memcpy(op.to + first * op.size(), message.frames[0].data(),
                static_cast<size_t>(count * op.size()));
  }
  if (terms) {  // This rank's segment of a broadcast.
    for (int k = 1; k < group_.size(); ++k) {
      const int to = (group_.rank + k) % group_.size();
      if (to != op.root) {
        SendChunk(op, Phase::kResult, op.to, group_.rank, to, chunk);
      }
    }
  }
  return OkStatus();
}

void TransportCollective::SumChunk(Operation& op, int64_t chunk) {
  const auto [begin, end] = Owned(op, group_.rank);
  const int64_t first = begin + chunk * ChunkCount(op);
  const int64_t count = std::min(ChunkCount(op), end - first);
  std::vector<const std::byte*> terms;
  Operation::Chunk& from = op.chunks[static_cast<size_t>(chunk)];
  for (int rank = 0; rank < group_.size(); ++rank) {
    if (rank == group_.rank) {
      for (const std::byte* term : op.terms) {
        terms.push_back(term + first * op.size());
      }
      continue;
    }
    for (const Buffer& frame : from.terms[static_cast<size_t>(rank)].frames) {
      terms.push_back(frame.data());
    }
  }
  if (count > 0) {
    sum_.Run(op.dtype, terms, count, op.to + first * op.size());
  }
  from.terms.clear();  // A transport may wait for its memory.
  if (op.kind != Kind::kAllReduce || op.exchange()) {
    return;
  }
  for (int k = 1; k < group_.size(); ++k) {
    SendChunk(op, Phase::kResult, op.to, group_.rank,
              (group_.rank + k) % group_.size(), chunk);
  }
}

// --- Ends ------------------------------------------------------------------

// Shared by the frames that borrow an operation's memory.
std::shared_ptr<const void> TransportCollective::MakeBorrowed(
    uint64_t sequence) const {
  // The pointer is only something that is not null.
  return {static_cast<const void*>(alive_.get()),
          [alive = alive_, sequence](const void*) {
            MutexLock lock(alive->mutex);
            if (alive->context != nullptr) {
              alive->context->Post([alive, sequence] {
                if (alive->collective != nullptr) {
                  alive->collective->OnReleased(sequence);
                }
              });
            }
          }};
}

void TransportCollective::CheckDone(Operation& op) {
  if (!broken_.ok() || !op.complete()) {
    return;
  }
  if (op.borrowed.use_count() == 1) {
    Finish(op.sequence);
  } else {
    op.borrowed.reset();
  }
}

void TransportCollective::OnReleased(uint64_t sequence) {
  const auto it = operations_.find(sequence);
  if (it != operations_.end() && broken_.ok() && it->second->complete()) {
    Finish(sequence);
  }
}

void TransportCollective::Finish(uint64_t sequence) {
  const auto it = operations_.find(sequence);
  context_.CancelTimer(it->second->timer);
  const std::unique_ptr<Operation> op = std::move(it->second);
  operations_.erase(it);
  op->done(OkStatus());
}

void TransportCollective::OnDeadline(uint64_t sequence) {
  const auto it = operations_.find(sequence);
  if (it == operations_.end()) {
    return;
  }
  const Operation& op = *it->second;
  const std::string late = Awaited();
  Fail(
      DeadlineExceededError(StrCat(
          Describe(op), ": waited ", ToString(options_.timeout),
          late.empty() ? " for its messages to leave" : StrCat(" for ", late))),
      true);
}

// Those that the oldest operation lacks something of: later ones may lack
// others only because these hold them up.
std::string TransportCollective::Awaited() const {
  if (operations_.empty()) {
    return "";
  }
  const Operation& op = *operations_.begin()->second;
  if (op.how == AllReduceAlgorithm::kHierarchical) {
    return hierarchy_->Awaited();
  }
  std::string names;
  for (size_t rank = 0; rank < op.missing.size(); ++rank) {
    const bool late =
        settled_ ? op.missing[rank] > 0 : !passes_[rank] || !verdicts_[rank];
    if (late) {
      names += StrCat(names.empty() ? "" : ", ", group_.members[rank].name);
    }
  }
  return names;
}

void TransportCollective::OnPeerDown(EndpointId peer, const Status& why) {
  if (hierarchy_ != nullptr) {
    hierarchy_->OnPeerDown(peer, why);
  }
  if (group_.RankOf(peer) < 0 || peer == self().endpoint) {
    return;
  }
  const auto rank = static_cast<size_t>(group_.RankOf(peer));
  links_[rank].down = why;
  links_[rank].waiting.clear();
  for (const auto& [sequence, op] : operations_) {
    // One that has sent all it had to may well end before us.
    if (op->missing[rank] > 0) {
      Fail(UnavailableError(StrCat(Describe(*op), ": ",
                                   group_.members[rank].name,
                                   " is lost: ", why.message())),
           true);
      return;
    }
  }
}

void TransportCollective::OnSendable(EndpointId peer) {
  if (hierarchy_ != nullptr) {
    hierarchy_->OnSendable(peer);
  }
  for (size_t rank = 0; rank < links_.size(); ++rank) {
    if (group_.members[rank].endpoint != peer) {
      continue;
    }
    std::deque<Message> waiting = std::exchange(links_[rank].waiting, {});
    for (Message& message : waiting) {
      Send(static_cast<int>(rank), std::move(message));
    }
  }
}

void TransportCollective::Send(int to, Message message) {
  Link& link = links_[static_cast<size_t>(to)];
  if (!link.down.ok()) {
    return;  // It needed nothing any more, or it is found out.
  }
  if (!link.waiting.empty()) {
    link.waiting.push_back(std::move(message));
    return;
  }
  const EndpointId peer = group_.members[static_cast<size_t>(to)].endpoint;
  const Status status = context_.Send(peer, Lane::kBulk, message);
  if (status.code() == StatusCode::kResourceExhausted) {
    link.waiting.push_back(std::move(message));
  }
  // Otherwise it is down, of which OnPeerDown() tells.
}

void TransportCollective::Fail(const Status& why, bool tell) {
  if (!broken_.ok()) {
    return;
  }
  broken_ = why;
  if (hierarchy_ != nullptr) {
    hierarchy_->Abandon(why);
  }
  for (int rank = 0; tell && rank < group_.size(); ++rank) {
    if (rank != group_.rank) {
      Message message = MakeMessage(Phase::kAbort);
      message.frames.push_back(Buffer::CopyOf(why.message()));
      // One that does not get it has its own deadline.
      (void)context_.Send(group_.members[static_cast<size_t>(rank)].endpoint,
                          Lane::kUrgent, std::move(message));
    }
  }
  early_.clear();
  for (Link& link : links_) {
    link.waiting.clear();
  }
  for (auto& [sequence, op] : std::exchange(operations_, {})) {
    context_.CancelTimer(op->timer);
    context_.Post([done = std::move(op->done), why] { done(why); });
  }
}

// Of no operation.
Message TransportCollective::MakeMessage(Phase phase) const {
  Message message;
  message.header.method = kCollectiveMethod;
  message.header.request = CollectiveRequest(group_, 0);
  message.header.status = static_cast<uint8_t>(phase);
  return message;
}

Message TransportCollective::MakeMessage(const Operation& op, Phase phase,
                                         int64_t chunk) const {
  Message message;
  message.header.method = kCollectiveMethod;
  message.header.request = CollectiveRequest(group_, op.sequence);
  message.header.status = static_cast<uint8_t>(
      static_cast<uint8_t>(phase) | (static_cast<uint8_t>(op.kind) << 4));
  message.header.reserved = static_cast<uint32_t>(chunk);
  return message;
}

std::string TransportCollective::Describe(const Operation& op) const {
  static constexpr const char* kNames[] = {"allreduce",  "reduce-scatter",
                                           "all-gather", "all-to-all",
                                           "broadcast",  "barrier"};
  return StrCat(kNames[static_cast<size_t>(op.kind)], " ", op.sequence, " of ",
                op.count, " ", Name(op.dtype));
}

}  // namespace shoal::comm
