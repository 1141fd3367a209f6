// The network of a SimWorld.

#include <charconv>
#include <cmath>
#include <cstring>
#include <sstream>
#include <string_view>

#include "base/strcat.h"
#include "comm/sim_world.h"
#include "comm/transport.h"

namespace shoal::comm {
namespace {

// What a node that is slow by a factor of 1 takes for a message.
constexpr Duration kSlowMessage = 50us;

uint64_t HashBytes(uint64_t hash, const std::byte* data, int64_t size) {
  for (; size >= 8; data += 8, size -= 8) {
    uint64_t word = 0;
    std::memcpy(&word, data, 8);
    hash = Mix64(hash ^ word) + 1;
  }
  uint64_t word = 0;
  if (size > 0) {
    std::memcpy(&word, data, static_cast<size_t>(size));
  }
  return HashKey(hash, word + static_cast<uint64_t>(size));
}

uint64_t HashMessage(const Message& message) {
  uint64_t hash =
      HashBytes(1, reinterpret_cast<const std::byte*>(&message.header),
                sizeof(message.header));
  for (const Buffer& frame : message.frames) {
    hash = HashBytes(HashKey(hash, static_cast<uint64_t>(frame.size())),
                     frame.data(), frame.size());
  }
  return hash;
}

StatusOr<EndpointId> ParseSimAddress(std::string_view address) {
  constexpr std::string_view kPrefix = "sim:";
  EndpointId id;
  if (address.starts_with(kPrefix)) {
    const char* const begin = address.data() + kPrefix.size();
    const char* const end = address.data() + address.size();
    const auto [stop, error] = std::from_chars(begin, end, id.value, 16);
    if (error == std::errc() && stop == end) {
      return id;
    }
  }
  return InvalidArgumentError(
      StrCat("connect: '", address, "' is not an address of sim"));
}

}  // namespace

void OwnFrames(Message& message) {
  for (Buffer& frame : message.frames) {
    frame = Buffer::CopyOf(frame.data(), frame.size());
  }
}

std::string SimAddress(EndpointId id) {
  std::ostringstream out;
  out << "sim:" << std::hex << id.value;
  return out.str();
}

void SimWorld::Impl::CutAll(EndpointId id) {
  const std::string name = nodes[id].name;
  for (auto& [ends, link] : links) {
    if (!link.open || (ends.first != id && ends.second != id)) {
      continue;
    }
    link.open = false;
    const EndpointId peer = ends.first == id ? ends.second : ends.first;
    ScheduleDown(peer, id, link.session,
                 now + Between(options.detect_min, options.detect_max),
                 UnavailableError(StrCat(name, " crashed")));
  }
}

void SimWorld::Impl::Lose(const Ends& ends) {
  Link& link = links[ends];
  if (!link.open) {
    return;
  }
  link.open = false;
  ++num_losses;
  const Status why = UnavailableError("the connection was lost");
  Duration late[2] = {};
  if (options.late_chance > 0 && random.Uniform() < options.late_chance) {
    late[random.Below(2)] = Between(Duration(0), options.late_max);
  }
  for (const auto& [whom, peer] : {ends, Ends(ends.second, ends.first)}) {
    ScheduleDown(whom, peer, link.session,
                 now + Between(options.detect_min, options.detect_max) +
                     late[SideOf(whom, peer)],
                 why);
  }
}

void SimWorld::Impl::Partition(EndpointId from, EndpointId to,
                               Duration length) {
  Time& until = blocked[{from, to}];
  until = std::max(until, now + length);
  const Ends ends = EndsOf(from, to);
  const auto link = links.find(ends);
  if (link == links.end() || !link->second.open) {
    return;
  }
  Schedule(
      now + Between(options.silence_min, options.silence_max), EventKind::kLoss,
      EndpointId{}, 0,
      [this, ends, session = link->second.session] {
        const Link& lost = links[ends];
        if (lost.session == session && lost.open && Blocked(ends)) {
          Lose(ends);
        }
      },
      /*background=*/true);
}

void SimWorld::Impl::ScheduleDown(EndpointId whom, EndpointId peer,
                                  uint64_t session, Time time,
                                  const Status& why) {
  Schedule(time, EventKind::kPeerDown, whom, HashKey(peer.value, session),
           [this, whom, peer, session, why] {
             NodeState& state = nodes[whom];
             const auto it = state.sessions.find(peer);
             if (it != state.sessions.end() && it->second == session) {
               TellDown(state, peer, why);
             }
           });
}

void SimWorld::Impl::TellDown(NodeState& state, EndpointId peer,
                              const Status& why) {
  Link& link = links[EndsOf(state.id, peer)];
  if (link.session == state.sessions[peer]) {
    link.open = false;
  }
  state.sessions.erase(peer);
  state.node->OnPeerDown(peer, why);
}

Status SimWorld::Impl::Connect(NodeState& state, EndpointId peer,
                               const std::string& address) {
  SHOAL_ASSIGN_OR_RETURN(const EndpointId named, ParseSimAddress(address));
  if (named != peer) {
    return InvalidArgumentError(
        StrCat("connect: ", address, " is not the address of ", peer));
  }
  state.forgotten.erase(peer);
  if (state.sessions.contains(peer)) {
    return OkStatus();
  }
  const Ends ends = EndsOf(state.id, peer);
  Link& link = links[ends];
  const bool refused = !link.open && Blocked(ends);
  if (!link.open) {
    link = Link();
    link.session = next_session++;
    link.open = true;
  }
  state.sessions[peer] = link.session;
  const NodeState* const other = FindAlive(peer);
  if (other == nullptr || other->forgotten.contains(state.id) || refused) {
    link.open = false;
    ScheduleDown(state.id, peer, link.session,
                 now + Between(options.detect_min, options.detect_max),
                 UnavailableError(StrCat("nobody listens at ", address)));
  }
  return OkStatus();
}

Status SimWorld::Impl::Send(NodeState& state, EndpointId peer, Lane lane,
                            Message message) {
  SHOAL_RETURN_IF_ERROR(CheckMessageSize(message));
  const auto it = state.sessions.find(peer);
  if (it == state.sessions.end()) {
    return UnavailableError(
        StrCat("send: ", peer, " is not connected to ", state.name));
  }
  const uint64_t session = it->second;
  Link& link = links[EndsOf(state.id, peer)];
  if (!link.open || link.session != session) {
    return OkStatus();  // Into the void: this end does not know it yet.
  }
  const int side = SideOf(state.id, peer);
  const int64_t size = message.size_bytes();
  if (!HasRoom(link.bytes_under_way[side], size,
               options.send_queue_bytes_max)) {
    link.wants_room[side] = true;
    return QueueFullError(peer);
  }
  link.bytes_under_way[side] += size;
  Time& last = link.last_arrival[side][static_cast<int>(lane)];
  last = std::max(now + Delay(), last + 1ns);
  if (const Time open = BlockedUntil(state.id, peer); open > now) {
    last = std::max(last, open + Delay());
  }
  const auto shared = std::make_shared<Message>(std::move(message));
  while (!state.under_way.empty() && state.under_way.front().expired()) {
    state.under_way.pop_front();
  }
  state.under_way.push_back(shared);
  const uint64_t detail =
      HashKey(HashKey(state.id.value, static_cast<uint64_t>(lane)),
              HashMessage(*shared));
  Schedule(last, EventKind::kMessage, peer, detail,
           [this, from = state.id, peer, session, shared] {
             Arrive(from, peer, session, shared);
           });
  return OkStatus();
}

void SimWorld::Impl::Arrive(EndpointId from, EndpointId to, uint64_t session,
                            const std::shared_ptr<Message>& message) {
  Link& link = links[EndsOf(from, to)];
  if (link.session != session || !link.open) {
    return;  // Lost on the way.
  }
  NodeState& state = nodes[to];
  if (now < state.busy_until || !state.backlog.empty()) {
    state.backlog.emplace_back([this, &state, from, session, message] {
      Handle(state, from, session, message);
    });
    if (state.backlog.size() == 1) {
      Schedule(state.busy_until, EventKind::kBacklog, to, 0,
               [this, &state] { HandleBacklog(state); });
    }
    return;
  }
  Handle(state, from, session, message);
}

void SimWorld::Impl::HandleBacklog(NodeState& state) {
  const std::function<void()> handle = std::move(state.backlog.front());
  state.backlog.pop_front();
  handle();
  if (!state.backlog.empty()) {
    Schedule(std::max(state.busy_until, now + 1ns), EventKind::kBacklog,
             state.id, 0, [this, &state] { HandleBacklog(state); });
  }
}

void SimWorld::Impl::Handle(NodeState& state, EndpointId from, uint64_t session,
                            const std::shared_ptr<Message>& message) {
  const EndpointId to = state.id;
  Link& link = links[EndsOf(from, to)];
  if (link.session != session || !link.open || state.forgotten.contains(from)) {
    return;
  }
  if (const double factor = SlowFactor(state); factor > 1) {
    state.busy_until = now + FromSeconds(ToSeconds(kSlowMessage) * factor);
  }
  ReturnRoom(link, from, to, message->size_bytes());
  const auto it = state.sessions.find(from);
  if (it != state.sessions.end() && it->second != session) {
    // The peer knew of the loss first and is back already.
    TellDown(state, from, UnavailableError("the connection was lost"));
    if (state.stopping || crash_running || !link.open ||
        link.session != session) {
      return;  // It ended all, or this connection, when it was told.
    }
  }
  state.sessions[from] = session;
  OwnFrames(*message);
  state.node->OnMessage(from, std::move(*message));
}

void SimWorld::Impl::ReturnRoom(Link& link, EndpointId from, EndpointId to,
                                int64_t bytes) {
  const int side = SideOf(from, to);
  link.bytes_under_way[side] -= bytes;
  if (link.wants_room[side] &&
      link.bytes_under_way[side] <= options.send_queue_bytes_max / 2) {
    link.wants_room[side] = false;
    Schedule(now + options.delay_min, EventKind::kSendable, from, to.value,
             [this, from, to, session = link.session] {
               NodeState& state = nodes[from];
               const auto it = state.sessions.find(to);
               if (it != state.sessions.end() && it->second == session) {
                 state.node->OnSendable(to);
               }
             });
  }
}

bool SimWorld::Impl::LoseAny() {
  std::vector<Ends> open;
  for (const auto& [ends, link] : links) {
    if (link.open) {
      open.push_back(ends);
    }
  }
  if (!open.empty()) {
    Lose(open[random.Below(open.size())]);
  }
  return !open.empty();
}

void SimWorld::Impl::ScheduleNextLoss() {
  // Exponential gaps: losses come in bunches too.
  const double mean = ToSeconds(options.loss_every);
  const Duration gap = FromSeconds(-mean * std::log1p(-random.Uniform()));
  Schedule(
      now + gap, EventKind::kLoss, EndpointId{}, 0,
      [this] {
        (void)LoseAny();
        ScheduleNextLoss();
      },
      /*background=*/true);
}

}  // namespace shoal::comm
