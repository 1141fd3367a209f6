// Endpoints of one process: messages pass from queue to queue, frames shared.

#include <deque>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/strcat.h"
#include "comm/endpoint.h"
#include "comm/transport.h"

namespace shoal::comm {
namespace {

constexpr std::string_view kInprocPrefix = "inproc:";

class InprocInbox;

// What joins two endpoints for one session. Either end may use it from its own
// thread.
struct InprocLink {
  struct End {
    EndpointId id;
    std::shared_ptr<InprocInbox> inbox;
  };
  End ends[2];

  Mutex mutex;
  bool open SHOAL_GUARDED_BY(mutex) = true;
  bool ended_by[2] SHOAL_GUARDED_BY(mutex) = {false, false};
  // Sent by ends[i] and not yet handed over.
  int64_t queued_bytes[2] SHOAL_GUARDED_BY(mutex) = {0, 0};
  bool wants_room[2] SHOAL_GUARDED_BY(mutex) = {false, false};

  int SideOf(EndpointId id) const { return ends[0].id == id ? 0 : 1; }
};

struct InprocEvent {
  enum class Kind { kOpened, kMessage, kDown, kSendable };
  Kind kind;
  std::shared_ptr<InprocLink> link;
  Message message;
  Status why;
};

// The queue that an endpoint reads. Thread-safe.
class InprocInbox {
 public:
  void Push(InprocEvent event) {
    bool wake = false;
    {
      const MutexLock lock(mutex_);
      if (ended_) {
        return;
      }
      events_.push_back(std::move(event));
      wake = waiting_;
    }
    if (wake) {
      changed_.NotifyOne();
    }
  }

  void Wake() {
    {
      const MutexLock lock(mutex_);
      woken_ = true;
    }
    changed_.NotifyOne();
  }

  // Drops what is there and what comes: events hold links, which hold inboxes.
  void End() {
    std::deque<InprocEvent> dropped;
    const MutexLock lock(mutex_);
    ended_ = true;
    dropped.swap(events_);
  }

  // All that is there; waits up to `timeout` for something.
  std::deque<InprocEvent> TakeAll(Duration timeout) {
    const Time end = std::chrono::steady_clock::now() + timeout;
    std::deque<InprocEvent> taken;
    const MutexLock lock(mutex_);
    waiting_ = true;
    while (events_.empty() && !woken_ && timeout > Duration(0)) {
      changed_.WaitFor(mutex_, timeout);
      timeout = end - std::chrono::steady_clock::now();
    }
    waiting_ = false;
    if (events_.empty()) {
      woken_ = false;
    }
    taken.swap(events_);
    return taken;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<InprocEvent> events_ SHOAL_GUARDED_BY(mutex_);
  bool waiting_ SHOAL_GUARDED_BY(mutex_) = false;
  bool woken_ SHOAL_GUARDED_BY(mutex_) = false;
  bool ended_ SHOAL_GUARDED_BY(mutex_) = false;
};

// The endpoints of this process by address. `links` is under the same lock so
// that two that connect to each other at once share one link.
struct InprocHub {
  struct Entry {
    EndpointId id;
    std::shared_ptr<InprocInbox> inbox;
    std::unordered_set<EndpointId> forgotten;  // by this endpoint
  };
  Mutex mutex;
  std::map<std::string, Entry, std::less<>> entries SHOAL_GUARDED_BY(mutex);
  std::map<std::pair<EndpointId, EndpointId>, std::weak_ptr<InprocLink>> links
      SHOAL_GUARDED_BY(mutex);
};

InprocHub& Hub() {
  static auto* const hub = new InprocHub;
  return *hub;
}

class InprocEndpoint : public Endpoint {
 public:
  InprocEndpoint(const Options& options, std::string address,
                 std::shared_ptr<InprocInbox> inbox)
      : self_(options.self),
        address_(std::move(address)),
        queue_bytes_max_(options.send_queue_bytes_max),
        inbox_(std::move(inbox)) {}
  ~InprocEndpoint() override { End(); }

  std::string address() const override { return address_; }
  Status Connect(EndpointId peer, const std::string& address) override;
  void Disconnect(EndpointId peer) override;
  Status Send(EndpointId peer, Lane lane, Message message) override;
  Status Poll(EndpointSink& sink, Duration timeout) override;
  void Wake() override { inbox_->Wake(); }
  Status Close(Time deadline) override;

 private:
  void Handle(EndpointSink& sink, InprocEvent event);
  void HandOver(EndpointSink& sink, EndpointId from, InprocEvent event);
  void Cut(const std::shared_ptr<InprocLink>& link);
  void End();

  const EndpointId self_;
  const std::string address_;
  const int64_t queue_bytes_max_;
  const std::shared_ptr<InprocInbox> inbox_;
  std::unordered_map<EndpointId, std::shared_ptr<InprocLink>> peers_;
  bool closed_ = false;
};

StatusOr<std::unique_ptr<Endpoint>> CreateInproc(
    const Endpoint::Options& options) {
  std::string address = options.listen;
  if (address.empty()) {
    std::ostringstream out;
    out << kInprocPrefix << std::hex << options.self.value;
    address = out.str();
  }
  if (!address.starts_with(kInprocPrefix)) {
    return InvalidArgumentError(StrCat("listen: '", address,
                                       "' is not an address of inproc, as "
                                       "'inproc:name' is"));
  }
  auto inbox = std::make_shared<InprocInbox>();
  {
    InprocHub& hub = Hub();
    const MutexLock lock(hub.mutex);
    if (!hub.entries.emplace(address, InprocHub::Entry{options.self, inbox, {}})
             .second) {
      return UnavailableError(StrCat(
          "listen: '", address,
          "' is taken by another endpoint of this process: choose another"));
    }
  }
  return std::unique_ptr<Endpoint>(std::make_unique<InprocEndpoint>(
      options, std::move(address), std::move(inbox)));
}

Status InprocEndpoint::Connect(EndpointId peer, const std::string& address) {
  if (closed_) {
    return FailedPreconditionError("connect: the endpoint is closed");
  }
  if (!address.starts_with(kInprocPrefix)) {
    return InvalidArgumentError(
        StrCat("connect: '", address, "' is not an address of inproc"));
  }
  if (peers_.contains(peer)) {
    return OkStatus();
  }
  auto link = std::make_shared<InprocLink>();
  std::shared_ptr<InprocInbox> other;
  {
    InprocHub& hub = Hub();
    const MutexLock lock(hub.mutex);
    hub.entries.find(address_)->second.forgotten.erase(peer);
    const auto entry = hub.entries.find(address);
    if (entry != hub.entries.end() && entry->second.id == peer &&
        !entry->second.forgotten.contains(self_)) {
      auto& known = hub.links[std::minmax(self_, peer)];
      if (std::shared_ptr<InprocLink> open = known.lock(); open != nullptr) {
        const MutexLock link_lock(open->mutex);
        if (open->open) {
          peers_[peer] = std::move(open);
          return OkStatus();
        }
      }
      other = entry->second.inbox;
      known = link;
    }
    link->ends[0] = {self_, inbox_};
    link->ends[1] = {peer, other};
  }
  peers_[peer] = link;
  if (other == nullptr) {
    inbox_->Push({InprocEvent::Kind::kDown,
                  link,
                  {},
                  UnavailableError(
                      StrCat("nobody listens at '", address, "' as ", peer))});
    const MutexLock link_lock(link->mutex);
    link->open = false;
    return OkStatus();
  }
  other->Push({InprocEvent::Kind::kOpened, std::move(link), {}, {}});
  return OkStatus();
}

void InprocEndpoint::Disconnect(EndpointId peer) {
  if (closed_) {
    return;
  }
  std::shared_ptr<InprocLink> link;
  {
    InprocHub& hub = Hub();
    const MutexLock lock(hub.mutex);
    hub.entries.find(address_)->second.forgotten.insert(peer);
    // Also one that the peer made and that this end has not seen yet.
    const auto known = hub.links.find(std::minmax(self_, peer));
    if (known != hub.links.end()) {
      link = known->second.lock();
    }
  }
  peers_.erase(peer);
  if (link != nullptr) {
    Cut(link);
  }
}

// Ends a session for the other end; this one does not hear of it.
void InprocEndpoint::Cut(const std::shared_ptr<InprocLink>& link) {
  {
    const MutexLock lock(link->mutex);
    link->ended_by[link->SideOf(self_)] = true;
    if (!std::exchange(link->open, false)) {
      return;
    }
  }
  const InprocLink::End& other = link->ends[1 - link->SideOf(self_)];
  other.inbox->Push({InprocEvent::Kind::kDown,
                     link,
                     {},
                     UnavailableError(StrCat(self_, " ended its connection"))});
}

Status InprocEndpoint::Send(EndpointId peer, Lane /*lane*/, Message message) {
  if (closed_) {
    return FailedPreconditionError("send: the endpoint is closed");
  }
  SHOAL_RETURN_IF_ERROR(CheckMessageSize(message));
  const auto it = peers_.find(peer);
  if (it == peers_.end()) {
    return NotConnectedError(peer);
  }
  const std::shared_ptr<InprocLink>& link = it->second;
  const int side = link->SideOf(self_);
  const int64_t size = message.size_bytes();
  {
    const MutexLock lock(link->mutex);
    if (!link->open) {
      return UnavailableError(StrCat("send: ", peer, " is down"));
    }
    if (!HasRoom(link->queued_bytes[side], size, queue_bytes_max_)) {
      link->wants_room[side] = true;
      return QueueFullError(peer);
    }
    link->queued_bytes[side] += size;
  }
  // One queue for both lanes: nothing is slow here that could be passed.
  link->ends[1 - side].inbox->Push(
      {InprocEvent::Kind::kMessage, link, std::move(message), {}});
  return OkStatus();
}

Status InprocEndpoint::Poll(EndpointSink& sink, Duration timeout) {
  if (closed_) {
    return FailedPreconditionError("poll: the endpoint is closed");
  }
  std::deque<InprocEvent> events = inbox_->TakeAll(timeout);
  while (!events.empty() && !closed_) {
    InprocEvent event = std::move(events.front());
    events.pop_front();
    Handle(sink, std::move(event));
  }
  return OkStatus();
}

void InprocEndpoint::Handle(EndpointSink& sink, InprocEvent event) {
  const int side = event.link->SideOf(self_);
  const EndpointId peer = event.link->ends[1 - side].id;
  auto it = peers_.find(peer);
  if (event.kind == InprocEvent::Kind::kOpened) {
    // One that the peer has ended meanwhile too: what it sent before comes.
    const MutexLock lock(event.link->mutex);
    if (!event.link->ended_by[side] && it == peers_.end()) {
      peers_[peer] = event.link;
    }
    return;
  }
  if (it == peers_.end() || it->second != event.link) {
    return;  // Of a session that this end has left.
  }
  switch (event.kind) {
    case InprocEvent::Kind::kMessage:
      HandOver(sink, peer, std::move(event));
      return;
    case InprocEvent::Kind::kDown:
      peers_.erase(it);
      sink.OnPeerDown(peer, event.why);
      return;
    case InprocEvent::Kind::kSendable:
      sink.OnSendable(peer);
      return;
    case InprocEvent::Kind::kOpened:
      return;
  }
}

void InprocEndpoint::HandOver(EndpointSink& sink, EndpointId from,
                              InprocEvent event) {
  InprocLink& link = *event.link;
  const int sender = 1 - link.SideOf(self_);
  bool tell = false;
  {
    const MutexLock lock(link.mutex);
    link.queued_bytes[sender] -= event.message.size_bytes();
    // Half of it free, so that sender and receiver do not take turns.
    if (link.wants_room[sender] &&
        link.queued_bytes[sender] <= queue_bytes_max_ / 2) {
      link.wants_room[sender] = false;
      tell = link.open;
    }
  }
  if (tell) {
    link.ends[sender].inbox->Push(
        {InprocEvent::Kind::kSendable, event.link, {}, {}});
  }
  sink.OnMessage(from, std::move(event.message));
}

Status InprocEndpoint::Close(Time /*deadline*/) {
  End();
  return OkStatus();
}

void InprocEndpoint::End() {
  if (std::exchange(closed_, true)) {
    return;
  }
  std::vector<std::shared_ptr<InprocLink>> links;
  {
    InprocHub& hub = Hub();
    const MutexLock lock(hub.mutex);
    hub.entries.erase(address_);
    for (auto it = hub.links.begin(); it != hub.links.end();) {
      const bool mine = it->first.first == self_ || it->first.second == self_;
      if (mine) {
        if (auto link = it->second.lock(); link != nullptr) {
          links.push_back(std::move(link));
        }
      }
      it = mine ? hub.links.erase(it) : std::next(it);
    }
  }
  for (const std::shared_ptr<InprocLink>& link : links) {
    Cut(link);
  }
  peers_.clear();
  inbox_->End();
}

SHOAL_REGISTER_TRANSPORT("inproc", &CreateInproc);

}  // namespace
}  // namespace shoal::comm
