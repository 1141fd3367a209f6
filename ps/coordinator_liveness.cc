// The part of the coordinator that sees members come to their end.

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "ps/coordinator.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

// A lost connection is not yet a lost member: the launcher, which sees
// processes end, is given this long to say what really happened.
constexpr Duration kGrace = std::chrono::seconds(1);

// A shard of which there are replicas: a connection that only broke is back
// within this. (Of a process that ends, the launcher tells at once.)
constexpr Duration kFailoverGrace = std::chrono::milliseconds(400);

// Longer: a lost connection of the coordinator's own says more.
constexpr Duration kNeighbourGrace = std::chrono::milliseconds(1500);

comm::Message SignOfLife() {
  comm::Message message;
  message.header.method = static_cast<uint16_t>(Method::kAlive);
  message.frames.push_back(Encode(wire::Alive()));
  return message;
}

}  // namespace

void Coordinator::Watch() {
  const Time now = context_->Now();
  const Duration timeout = options_.plan.timeout;
  // Where others can take over, before those who wait for it give up.
  const auto silent_for = [&](const Member& member) {
    const Duration silent = now - member.last_heard;
    const bool spare = !member.is_worker && CanDrop(member.server);
    return silent >= (spare ? timeout / 2 : timeout) ? silent
                                                     : Duration::zero();
  };
  std::vector<comm::EndpointId> silent;
  for (const auto& [id, member] : members_) {
    if (silent_for(member) > Duration::zero()) {
      silent.push_back(id);
      continue;
    }
    // A lost sign of life is made up for by the next.
    (void)context_->Send(id, comm::Lane::kUrgent, SignOfLife());
  }
  for (const comm::EndpointId id : silent) {
    // Asked again: with one that is gone, another may be needed.
    const auto member = members_.find(id);
    const Duration length = member == members_.end()
                                ? Duration::zero()
                                : silent_for(member->second);
    if (length > Duration::zero()) {
      Lost(id, UnavailableError(StrCat("said nothing for ", ToString(length))));
    }
  }
  context_->SetTimer(now + timeout / 4, [this] { Watch(); });
}

// A member can't go on. Who has lost a neighbour is the first to say so, not
// the one who knows what became of it.
void Coordinator::OnCalledOff(comm::EndpointId from, const Status& why) {
  const bool waited = why.code() == StatusCode::kDeadlineExceeded ||
                      why.code() == StatusCode::kUnavailable;
  const Member& member = members_.at(from);
  const bool may_be_only_here = why.code() != StatusCode::kInvalidArgument &&
                                why.code() != StatusCode::kDataLoss &&
                                why.code() != StatusCode::kInternal;
  if (!member.is_worker && may_be_only_here && CanDrop(member.server)) {
    DropShardsOf(member.server, why);
    return;
  }
  const Status named = why.WithPrefix(
      StrCat(waited ? Suspects(from) : "", members_.at(from).name));
  if (why.code() != StatusCode::kUnavailable &&
      why.code() != StatusCode::kAborted) {
    Abort(named);
    return;
  }
  context_->SetTimer(context_->Now() + kNeighbourGrace, [this, named, from] {
    if (members_.contains(from)) {
      Abort(named);
    }
  });
}

// Who is behind what `reporter` waited for in vain, if that shows already: one
// that hangs is blamed on its neighbours, whose deadlines pass first.
std::string Coordinator::Suspects(comm::EndpointId reporter) const {
  std::string text;
  const Time now = context_->Now();
  for (const auto& [id, member] : members_) {
    const Duration silent = now - member.last_heard;
    if (id != reporter && silent >= options_.plan.timeout / 2) {
      text += StrCat(member.name, " (host ", member.host, ", pid ", member.pid,
                     ") has said nothing for ", ToString(silent), "; ");
    }
  }
  for (const auto& shard : shards_) {
    if (text.empty() && !prepared_.empty() && shard.has_value() &&
        !prepared_.contains(*shard)) {
      return StrCat(members_.at(*shard).name, " has not prepared step ",
                    committed_, "; ");
    }
  }
  if (text.empty() && options_.plan.mode == Mode::kBounded &&
      !options_.plan.shares_steps()) {
    const int64_t last = MinimumClock();
    for (const WorkerState& worker : workers_) {
      if (worker.endpoint.has_value() && *worker.endpoint != reporter &&
          worker.clock == last) {
        text += StrCat(members_.at(*worker.endpoint).name, " is at clock ",
                       worker.clock, ", the last; ");
      }
    }
  }
  return text;
}

void Coordinator::OnPeerDown(comm::EndpointId peer, const Status& why) {
  caller_->OnPeerDown(peer, why);
  const auto it = members_.find(peer);
  if (it == members_.end() || ending_ ||
      std::exchange(it->second.suspect, true)) {
    return;
  }
  it->second.suspect_since = context_->Now();
  if (recovering_) {
    // Where it was, nobody takes calls: as if its connection had been lost now.
    context_->SetTimer(context_->Now() + kFailoverGrace, [this, peer, why] {
      const auto found = members_.find(peer);
      if (found == members_.end() || !found->second.suspect) {
        return;
      }
      const bool needed = !found->second.is_worker && started_ &&
                          order_.kind != OrderKind::kStop &&
                          !CanDrop(found->second.server);
      if (!needed) {
        GiveUp(peer, why);  // Else it is asked until that takes too long.
      }
    });
    return;
  }
  // One that never noticed says so now.
  (void)context_->Connect(peer, it->second.address);
  (void)context_->Send(peer, comm::Lane::kUrgent, SignOfLife());
  WaitForSuspect(peer, why);
}

void Coordinator::WaitForSuspect(comm::EndpointId peer, const Status& why) {
  const Member& member = members_.at(peer);
  const Time since = member.suspect_since;
  const Duration grace = !member.is_worker && CanDrop(member.server)
                             ? kFailoverGrace
                             : std::max(kGrace, options_.replace_within);
  if (context_->Now() >= since + grace) {
    Lost(peer, why);
    return;
  }
  context_->SetTimer(since + grace, [this, peer, why, since] {
    const auto found = members_.find(peer);
    if (!ending_ && found != members_.end() && found->second.suspect &&
        found->second.suspect_since == since) {
      WaitForSuspect(peer, why);  // It may be needed now.
    }
  });
}

void Coordinator::Lost(comm::EndpointId peer, const Status& why) {
  const Member& member = members_.at(peer);
  if (member.leaves ||
      (member.is_worker && member.index >= options_.num_workers)) {
    if (!member.leaves) {
      workers_[static_cast<size_t>(member.index)] = WorkerState();
    }
    CutDone(peer);
    members_.erase(peer);  // Nothing is lost with it.
    return;
  }
  if (!member.is_worker && CanDrop(member.server)) {
    DropShardsOf(member.server, why);
    return;
  }
  Abort(UnavailableError(StrCat(member.name, " (host ", member.host, ", pid ",
                                member.pid, ") was lost: ", why.message())));
}

void Coordinator::Abort(const Status& why) {
  if (context_ == nullptr) {
    called_off_ = why;
    return;
  }
  if (std::exchange(ending_, true)) {
    return;
  }
  if (!state_->leads()) {
    context_->Stop(why);  // It is not its job any more, or it can't tell.
    return;
  }
  const comm::Message abort =
      AbortMessage(StatusCode::kCancelled,
                   StrCat("the job was called off: ", why.message()));
  for (const auto& [id, member] : members_) {
    // One that can't be reached ends by itself when it hears nothing more.
    (void)context_->Send(id, comm::Lane::kUrgent, abort);
  }
  End(why);
}

}  // namespace shoal::ps
