// How members of one host read each other's memory: see kRead.
//
// Only the owner of a vector ever writes it. A member that has given up may
// therefore use its memory again at once: who still reads there gets nonsense,
// but needs a message that never comes to be done with it.

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/strcat.h"
#include "comm/transport_collective.h"
#include "comm/transport_operation.h"

namespace shoal::comm {
namespace {

// What is said at once, and what a turn on the node's thread moves.
constexpr int64_t kPortionBytes = int64_t{2} << 20;
constexpr int64_t kTurnBytes = int64_t{2} << 20;
// All terms of a piece lie in the second cache while they are summed.
constexpr int64_t kScratchBytes = int64_t{512} << 10;
constexpr int64_t kPieceBytesMin = int64_t{16} << 10;
// Gathering and scattering go by messages below this: those need fewer.
constexpr int64_t kReadBytesMin = int64_t{256} << 10;

bool AllOf(const std::vector<bool>& came) {
  return std::all_of(came.begin(), came.end(), [](bool b) { return b; });
}

}  // namespace

// --- Whether they may ------------------------------------------------------

void TransportCollective::StartSettling() {
  const std::string& host = self().host;
  if (group_.size() == 1 || host.empty() ||
      !std::all_of(group_.members.begin(), group_.members.end(),
                   [&](const Group::Member& m) { return m.host == host; })) {
    return;
  }
  settled_ = false;
  peers_.resize(links_.size());
  passes_.assign(links_.size(), false);
  verdicts_.assign(links_.size(), false);
  passes_[static_cast<size_t>(group_.rank)] = true;
  can_read_ = options_.read_peers;
  if (!can_read_) {
    cannot_read_ = UnavailableError("it is told not to");
  }
  Message message = MakeMessage(Phase::kPass);
  const MemoryPass pass = OwnMemoryPass();
  message.frames.push_back(Buffer::CopyOf(&pass, sizeof(pass)));
  SendToAll(message);
}

void TransportCollective::OnSettling(int rank, Phase phase,
                                     const Message& message) {
  const auto r = static_cast<size_t>(rank);
  std::vector<bool>& came = phase == Phase::kPass ? passes_ : verdicts_;
  const std::string& name = group_.members[r].name;
  if (settled_ || came[r]) {
    Fail(InvalidArgumentError(
             StrCat(name,
                    " says again whether members may read each other, or knows "
                    "other hosts")),
         true);
    return;
  }
  came[r] = true;
  if (phase == Phase::kPass) {
    MemoryPass pass;
    if (message.frames.size() != 1 ||
        message.frames[0].size() != sizeof(pass)) {
      Fail(InvalidArgumentError(StrCat(name, " sent no pass")), true);
      return;
    }
    std::memcpy(&pass, message.frames[0].data(), sizeof(pass));
    if (options_.read_peers) {
      StatusOr<PeerMemory> opened = PeerMemory::Open(pass);
      if (opened.ok()) {
        peers_[r] = *std::move(opened);
      } else {
        can_read_ = false;
        cannot_read_ = opened.status().WithPrefix(name);
      }
    }
    if (AllOf(passes_)) {
      SendVerdict();
    }
  } else if (message.header.reserved == 0) {
    can_read_ = false;
    if (cannot_read_.ok()) {
      cannot_read_ = UnavailableError(StrCat(name, " cannot"));
    }
  }
  if (AllOf(verdicts_)) {
    Settle();
  }
}

void TransportCollective::SendVerdict() {
  Message message = MakeMessage(Phase::kVerdict);
  message.header.reserved = can_read_ ? 1 : 0;
  verdicts_[static_cast<size_t>(group_.rank)] = true;
  SendToAll(message);
}

void TransportCollective::Settle() {
  settled_ = true;
  if (!can_read_) {
    LogInfo("collective ", group_.id,
            ": its members do not read each other's memory, vectors go by "
            "messages (",
            cannot_read_.message(), ")");
  }
  for (const auto& [sequence, op] : operations_) {
    if (!broken_.ok()) {
      return;
    }
    Begin(*op);
  }
}

void TransportCollective::SendToAll(const Message& message) {
  for (int k = 1; k < group_.size(); ++k) {
    Send((group_.rank + k) % group_.size(), message);
  }
}

// --- How they do -----------------------------------------------------------

// A function of what all members know.
bool TransportCollective::Reading(const Operation& op) const {
  switch (op.kind) {
    case Kind::kAllReduce:
      return op.how == AllReduceAlgorithm::kRead;
    case Kind::kReduceScatter:
    case Kind::kAllGather:
      return can_read_ && op.count * op.size() >= kReadBytesMin;
    default:
      return false;
  }
}

// In which the sums of `owner` are announced. A scatter's one says that it has
// read the others.
int64_t TransportCollective::NumPortions(const Operation& op, int owner) const {
  if (op.kind != Kind::kAllReduce) {
    return op.kind == Kind::kReduceScatter ? 1 : 0;
  }
  const auto [begin, end] = Owned(op, owner);
  const int64_t bytes = (end - begin) * op.size();
  return std::max<int64_t>(1, (bytes + kPortionBytes - 1) / kPortionBytes);
}

int64_t TransportCollective::ReadMessages(const Operation& op, int rank) const {
  return 1 + NumPortions(op, rank) + (op.kind == Kind::kReduceScatter ? 0 : 1);
}

void TransportCollective::BeginReads(Operation& op) {
  op.reads = std::make_unique<Reads>();
  op.reads->peers.resize(links_.size());
  op.reads->offers_missing = group_.size() - 1;
  op.working = true;
  Message message = MakeMessage(op, Phase::kOffer, 0);
  std::vector<uint64_t> offer = {static_cast<uint64_t>(op.count),
                                 static_cast<uint64_t>(op.dtype),
                                 reinterpret_cast<uint64_t>(op.to)};
  for (const std::byte* term : op.terms) {
    offer.push_back(reinterpret_cast<uint64_t>(term));
  }
  message.frames.push_back(Buffer::CopyOf(
      offer.data(), static_cast<int64_t>(offer.size() * sizeof(uint64_t))));
  SendToAll(message);
}

Status TransportCollective::TakeRead(Operation& op, int from, Phase phase,
                                     const Message& message) {
  Reads::Peer& peer = op.reads->peers[static_cast<size_t>(from)];
  switch (phase) {
    case Phase::kOffer:
      SHOAL_RETURN_IF_ERROR(TakeOffer(op, from, message));
      break;
    case Phase::kReady:
      if (!peer.offered || peer.ready == NumPortions(op, from)) {
        return InvalidArgumentError("sent a portion that is not of it");
      }
      ++peer.ready;
      break;
    case Phase::kTaken:
      if (std::exchange(peer.acknowledged, true)) {
        return InvalidArgumentError("took the result twice");
      }
      break;
    default:
      return InvalidArgumentError("goes another way");
  }
  ScheduleReads(op);
  return OkStatus();
}

Status TransportCollective::TakeOffer(Operation& op, int from,
                                      const Message& message) {
  Reads::Peer& peer = op.reads->peers[static_cast<size_t>(from)];
  const size_t nodes =
      op.sums() ? group_.members[static_cast<size_t>(from)].nodes.size() : 0;
  const std::span<const uint64_t> offer = message.frames.size() == 1
                                              ? message.frames[0].As<uint64_t>()
                                              : std::span<const uint64_t>();
  if (peer.offered || offer.size() != 3 + nodes) {
    return InvalidArgumentError("sent an offer that is not of it");
  }
  if (offer[0] != static_cast<uint64_t>(op.count) ||
      offer[1] != static_cast<uint64_t>(op.dtype)) {
    return InvalidArgumentError(
        StrCat("has ", offer[0], " elements of type ", offer[1], ", this one ",
               op.count, " of type ", static_cast<int>(op.dtype)));
  }
  peer.offered = true;
  peer.out = offer[2];
  peer.terms.assign(offer.begin() + 3, offer.end());
  --op.reads->offers_missing;
  return OkStatus();
}

// The work goes in turns, between which the node gets on with its other things.
void TransportCollective::ScheduleReads(Operation& op) {
  if (!op.working || std::exchange(op.reads->scheduled, true)) {
    return;
  }
  context_.Post([alive = alive_, sequence = op.sequence] {
    if (alive->collective != nullptr) {
      alive->collective->RunReads(sequence);
    }
  });
}

void TransportCollective::RunReads(uint64_t sequence) {
  const auto it = operations_.find(sequence);
  if (it == operations_.end() || !broken_.ok()) {
    return;
  }
  Operation& op = *it->second;
  op.reads->scheduled = false;
  int64_t moved = 0;
  while (moved < kTurnBytes) {
    // What others have just summed may still lie in a cache.
    StatusOr<int64_t> bytes = TakeResults(op);
    if (bytes.ok() && *bytes == 0) {
      bytes = SumPortion(op);
    }
    if (!bytes.ok()) {
      Fail(bytes.status().WithPrefix(Describe(op)), true);
      return;
    }
    if (*bytes == 0) {
      break;
    }
    moved += *bytes;
  }
  const auto taken = [&](int rank) {
    return rank == group_.rank || op.kind == Kind::kReduceScatter ||
           op.reads->peers[static_cast<size_t>(rank)].told;
  };
  op.working = op.reads->announced < NumPortions(op, group_.rank);
  for (int rank = 0; rank < group_.size(); ++rank) {
    op.working |= !taken(rank);
  }
  if (moved >= kTurnBytes) {
    ScheduleReads(op);
  }
  context_.LookUntil(context_.Now() + options_.look);
  CheckDone(op);
}

// Sums the next portion of this rank's segment and says so. The bytes that it
// moved, at least 1; 0 when there is none to sum, or not yet.
StatusOr<int64_t> TransportCollective::SumPortion(Operation& op) {
  Reads& reads = *op.reads;
  const int64_t portions = NumPortions(op, group_.rank);
  if (reads.offers_missing > 0 || reads.announced == portions) {
    return 0;
  }
  const auto [begin, end] = Owned(op, group_.rank);
  const int64_t each = portions == 1 ? end - begin : kPortionBytes / op.size();
  int64_t at = begin + reads.announced * each;
  const int64_t until = std::min(end, at + each);
  int64_t remote = 0;
  for (const Reads::Peer& peer : reads.peers) {
    remote += static_cast<int64_t>(peer.terms.size());
  }
  const int64_t piece =
      std::max(kPieceBytesMin, kScratchBytes / std::max<int64_t>(remote, 1)) /
      op.size();
  scratch_.resize(static_cast<size_t>(remote * piece * op.size()));
  const int64_t moved = 1 + (until - at) * op.size() * (remote + 1);
  std::vector<const std::byte*> terms;
  for (; at < until; at += piece) {
    const int64_t count = std::min(piece, until - at);
    std::byte* to = scratch_.data();
    terms.clear();
    for (size_t rank = 0; rank < reads.peers.size(); ++rank) {
      if (static_cast<int>(rank) == group_.rank) {
        for (const std::byte* term : op.terms) {
          terms.push_back(term + at * op.size());
        }
        continue;
      }
      for (const uint64_t term : reads.peers[rank].terms) {
        SHOAL_RETURN_IF_ERROR(
            peers_[rank]
                .Read(term + static_cast<uint64_t>(at * op.size()), to,
                      count * op.size())
                .WithPrefix(StrCat(group_.members[rank].name, " is lost")));
        terms.push_back(to);
        to += piece * op.size();
      }
    }
    sum_.Run(op.dtype, terms, count, op.to + at * op.size());
  }
  SendToAll(MakeMessage(op, Phase::kReady, reads.announced));
  ++reads.announced;
  return moved;
}

// Takes a portion that another member has summed, or gathers; as SumPortion().
StatusOr<int64_t> TransportCollective::TakeResults(Operation& op) {
  if (op.kind == Kind::kReduceScatter) {
    return 0;
  }
  for (int k = 1; k < group_.size(); ++k) {
    const int rank = (group_.rank + k) % group_.size();
    Reads::Peer& peer = op.reads->peers[static_cast<size_t>(rank)];
    const auto [begin, end] = Owned(op, rank);
    const int64_t portions = NumPortions(op, rank);
    const int64_t ready =
        !peer.offered ? 0
        : peer.ready == portions
            ? end - begin
            : std::min(end - begin, peer.ready * (kPortionBytes / op.size()));
    const int64_t count =
        std::min(ready - peer.taken, kPortionBytes / op.size());
    if (count > 0) {
      const int64_t at = (begin + peer.taken) * op.size();
      SHOAL_RETURN_IF_ERROR(
          peers_[static_cast<size_t>(rank)]
              .Read(peer.out + static_cast<uint64_t>(at), op.to + at,
                    count * op.size())
              .WithPrefix(StrCat(group_.members[static_cast<size_t>(rank)].name,
                                 " is lost")));
      peer.taken += count;
    }
    if (!peer.told && peer.offered && peer.ready == portions &&
        peer.taken == end - begin) {
      peer.told = true;
      Send(rank, MakeMessage(op, Phase::kTaken, 0));
      return count * op.size() + 1;
    }
    if (count > 0) {
      return count * op.size();
    }
  }
  return 0;
}

}  // namespace shoal::comm
