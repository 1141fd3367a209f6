// Endpoints of processes of one host.
//
// A session has a socket, over which memory and doorbells are exchanged and
// which shows when the peer dies, and the memory with its rings, over which
// everything else goes. A reader that sleeps says so in the memory; only then
// does the writer ring its doorbell, so that busy peers make no system calls.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <sys/socket.h>

#include "base/random.h"
#include "base/strcat.h"
#include "comm/endpoint.h"
#include "comm/transport.h"
#include "comm/transports/event_inbox.h"
#include "comm/transports/event_loop.h"
#include "comm/transports/message_stream.h"
#include "comm/transports/shm_session.h"

namespace shoal::comm {
namespace {

constexpr std::string_view kShmPrefix = "shm:";

// How long a peer that is not there yet is called again, and how often.
constexpr Duration kDialWithin = std::chrono::seconds(3);
constexpr Duration kDialPause = std::chrono::milliseconds(10);
// How long a caller may take to say who it is, and how many such there may be.
constexpr Duration kHelloWithin = std::chrono::seconds(5);
constexpr size_t kGuestsMax = 256;
// At most so much is taken out of one ring before others have their turn; more
// than a ring, so that one of a dead peer is read to its end.
constexpr int64_t kReadAtOnce = int64_t{4} << 20;

// One peer that this endpoint is connected to, or on the way to.
struct ShmPeer {
  enum class State {
    kDialing,   // nobody took the call yet
    kGreeting,  // called, waits for the welcome
    kAwaiting,  // gave way to the call that the peer makes itself
    kOpen,
  };
  EndpointId id;
  std::string name;  // of its socket; empty when it called
  State state = State::kDialing;
  Time dial_at;
  Time give_up_at = Time::max();
  UniqueFd socket;
  ShmMemory memory;
  UniqueFd bell;
  int side = 0;  // of this endpoint in the memory
  ShmRingWriter writers[kNumLanes];
  ShmRingReader readers[kNumLanes];
  MessageReader parsers[kNumLanes];
  std::deque<MessageWriter> queues[kNumLanes];
  int64_t queued_bytes = 0;
  bool wants_room = false;
  bool bell_due = false;
  bool said_bye = false;
  Status broken;  // the session is over; why

  bool open() const { return state == State::kOpen; }
};

class ShmEndpoint : public LoopEndpoint {
 public:
  ShmEndpoint(EventLoop& loop, const Options& options, std::string name,
              UniqueFd listener)
      : loop_(loop),
        self_(options.self),
        name_(std::move(name)),
        queue_bytes_max_(options.send_queue_bytes_max),
        listener_(std::move(listener)) {}
  ~ShmEndpoint() override { End(); }

  Status Listen() {
    return loop_.Watch(listener_.get(), [this] { Accept(); });
  }

  std::string address() const override { return StrCat(kShmPrefix, name_); }
  Status Connect(EndpointId peer, const std::string& address) override;
  void Disconnect(EndpointId peer) override;
  Status Send(EndpointId peer, Lane lane, Message message) override;
  Status Poll(EndpointSink& sink, Duration timeout) override;
  void Wake() override { loop_.Wake(); }
  Status Close(Time deadline) override;

  bool Deliver(EndpointSink& sink) override;
  bool PrepareSleep() override;
  void EndSleep() override;
  Time NextDue() const override;
  bool Knows(EndpointId peer) const override { return peers_.contains(peer); }

 private:
  struct Guest {
    UniqueFd socket;
    Time until;
  };

  void Dial(ShmPeer& peer, Time now);
  Status Greet(ShmPeer& peer);
  void Accept();
  void ReadHello(int fd);
  void Welcome(EndpointId from, UniqueFd socket, std::vector<UniqueFd> fds);
  ShmPeer* MakeRoomFor(EndpointId from, int fd);
  void ReadSocket(EndpointId id);
  void OnRecord(ShmPeer& peer, const ShmRecord& record,
                std::vector<UniqueFd> fds);
  void Open(ShmPeer& peer, int side);
  void Service(ShmPeer& peer, Time now);
  void ReadRings(ShmPeer& peer);
  void WriteQueues(ShmPeer& peer);
  void ServiceAll();
  void Drop(EndpointId id, const Status& why);
  void HangUp(ShmPeer& peer);
  void RingIfAsleep(ShmPeer& peer);
  void RingDue();
  void Answer(int fd, EndpointId to, ShmRecord::Kind kind) {
    ShmRecord record;
    record.kind = kind;
    record.from = self_;
    record.to = to;
    SendRecord(fd, record);
  }
  void End();

  EventLoop& loop_;
  const EndpointId self_;
  const std::string name_;
  const int64_t queue_bytes_max_;
  UniqueFd listener_;
  std::unordered_map<EndpointId, std::unique_ptr<ShmPeer>> peers_;
  std::unordered_map<int, Guest> guests_;  // called and not yet known
  std::unordered_set<EndpointId> forgotten_;
  std::unordered_set<std::string> met_;  // names that were reached once
  EventInbox inbox_;
  std::vector<EndpointId> bells_due_;
  bool delivering_ = false;
  bool closed_ = false;
};

StatusOr<std::string> ParseShmAddress(std::string_view doing,
                                      std::string_view address) {
  if (!address.starts_with(kShmPrefix) || address.size() == kShmPrefix.size() ||
      address.size() > kShmPrefix.size() + kAbstractNameMax) {
    return InvalidArgumentError(StrCat(doing, ": '", address,
                                       "' is not an address of shm, as "
                                       "'shm:name' is"));
  }
  return std::string(address.substr(kShmPrefix.size()));
}

}  // namespace

StatusOr<std::unique_ptr<LoopEndpoint>> CreateShmIn(
    EventLoop& loop, const Endpoint::Options& options) {
  std::string name;
  if (options.listen.empty()) {
    std::ostringstream out;
    out << "shoal-" << std::hex << options.self.value << "-" << EntropySeed();
    name = out.str();
  } else {
    SHOAL_ASSIGN_OR_RETURN(name, ParseShmAddress("listen", options.listen));
  }
  SHOAL_ASSIGN_OR_RETURN(UniqueFd listener, ListenAbstract(name));
  auto endpoint = std::make_unique<ShmEndpoint>(loop, options, std::move(name),
                                                std::move(listener));
  SHOAL_RETURN_IF_ERROR(endpoint->Listen());
  return std::unique_ptr<LoopEndpoint>(std::move(endpoint));
}

namespace {

StatusOr<std::unique_ptr<Endpoint>> CreateShm(
    const Endpoint::Options& options) {
  return CreateAlone(options, &CreateShmIn);
}

SHOAL_REGISTER_TRANSPORT("shm", &CreateShm);

// --- What the node calls. ---

Status ShmEndpoint::Connect(EndpointId id, const std::string& address) {
  if (closed_) {
    return FailedPreconditionError("connect: the endpoint is closed");
  }
  if (peers_.contains(id)) {
    return OkStatus();
  }
  SHOAL_ASSIGN_OR_RETURN(std::string name, ParseShmAddress("connect", address));
  forgotten_.erase(id);
  const Time now = std::chrono::steady_clock::now();
  auto peer = std::make_unique<ShmPeer>();
  peer->id = id;
  // One that was there and is not any more does not come late but is gone.
  peer->give_up_at = met_.contains(name) ? now : now + kDialWithin;
  peer->name = std::move(name);
  peer->dial_at = now;
  ShmPeer& added = *(peers_[id] = std::move(peer));
  Dial(added, now);
  return OkStatus();
}

void ShmEndpoint::Disconnect(EndpointId id) {
  forgotten_.insert(id);
  const auto it = peers_.find(id);
  if (it != peers_.end()) {
    HangUp(*it->second);
    peers_.erase(it);
  }
  inbox_.Forget(id);
}

Status ShmEndpoint::Send(EndpointId id, Lane lane, Message message) {
  if (closed_) {
    return FailedPreconditionError("send: the endpoint is closed");
  }
  SHOAL_RETURN_IF_ERROR(CheckMessageSize(message));
  const auto it = peers_.find(id);
  if (it == peers_.end()) {
    return NotConnectedError(id);
  }
  ShmPeer& peer = *it->second;
  if (!peer.broken.ok()) {
    return peer.broken.WithPrefix(StrCat("send: ", id, " is down"));
  }
  const int64_t size = message.size_bytes();
  if (!HasRoom(peer.queued_bytes, size, queue_bytes_max_)) {
    peer.wants_room = true;
    return QueueFullError(id);
  }
  peer.queues[static_cast<int>(lane)].emplace_back(std::move(message));
  peer.queued_bytes += size;
  if (peer.open()) {
    WriteQueues(peer);
    if (!delivering_) {
      RingDue();
    }
  }
  return OkStatus();
}

Status ShmEndpoint::Poll(EndpointSink& sink, Duration timeout) {
  if (closed_) {
    return FailedPreconditionError("poll: the endpoint is closed");
  }
  LoopEndpoint* const endpoints[] = {this};
  PollTogether(loop_, endpoints, sink, timeout);
  return OkStatus();
}

bool ShmEndpoint::Deliver(EndpointSink& sink) {
  if (closed_) {
    return false;
  }
  ServiceAll();
  RingDue();
  delivering_ = true;
  // One ring for all that a callback sent to a peer.
  const bool any = inbox_.Deliver(sink, [this] { RingDue(); });
  delivering_ = false;
  return any;
}

bool ShmEndpoint::PrepareSleep() {
  bool idle = inbox_.empty();
  for (const auto& [id, peer] : peers_) {
    if (!peer->open()) {
      continue;
    }
    peer->memory.sleeping(peer->side).store(1);
    idle &= peer->broken.ok();
    for (int lane = 0; lane < kNumLanes; ++lane) {
      idle &= peer->readers[lane].Available() == 0;
      idle &= peer->queues[lane].empty() || !peer->writers[lane].WaitForRoom();
    }
  }
  return idle;
}

void ShmEndpoint::EndSleep() {
  for (const auto& [id, peer] : peers_) {
    if (peer->open()) {
      peer->memory.sleeping(peer->side).store(0, std::memory_order_relaxed);
    }
  }
}

Time ShmEndpoint::NextDue() const {
  Time due = Time::max();
  for (const auto& [id, peer] : peers_) {
    if (peer->state == ShmPeer::State::kDialing) {
      due = std::min(due, peer->dial_at);
    } else if (peer->state == ShmPeer::State::kAwaiting) {
      due = std::min(due, peer->give_up_at);
    }
  }
  for (const auto& [fd, guest] : guests_) {
    due = std::min(due, guest.until);
  }
  return due;
}

Status ShmEndpoint::Close(Time deadline) {
  if (closed_) {
    return OkStatus();
  }
  // What lies in a ring can be read after this endpoint is gone.
  int64_t rest = 0;
  while (true) {
    ServiceAll();
    RingDue();
    inbox_.Clear();
    rest = 0;
    for (const auto& [id, peer] : peers_) {
      rest += peer->queued_bytes;
    }
    const Time now = std::chrono::steady_clock::now();
    if (rest == 0 || now >= deadline) {
      break;
    }
    const bool idle = PrepareSleep();
    loop_.Wait(idle ? std::min(deadline, NextDue()) - now : Duration(0));
    EndSleep();
  }
  End();
  if (rest > 0) {
    return DeadlineExceededError(StrCat(
        "close: ", rest, " bytes were not taken by their peers in time"));
  }
  return OkStatus();
}

void ShmEndpoint::End() {
  if (std::exchange(closed_, true)) {
    return;
  }
  for (const auto& [id, peer] : peers_) {
    HangUp(*peer);
  }
  peers_.clear();
  for (const auto& [fd, guest] : guests_) {
    loop_.Unwatch(fd);
  }
  guests_.clear();
  inbox_.Clear();
  bells_due_.clear();
  loop_.Unwatch(listener_.get());
  listener_.Reset();
}

// --- How sessions begin. ---

void ShmEndpoint::Dial(ShmPeer& peer, Time now) {
  int error = 0;
  peer.socket = ConnectAbstract(peer.name, &error);
  if (error != 0) {
    if (now >= peer.give_up_at) {
      peer.broken = UnavailableError(
          StrCat("nobody takes calls at 'shm:", peer.name,
                 "': ", std::system_category().message(error)));
    }
    peer.dial_at = now + kDialPause;
    return;
  }
  peer.broken = Greet(peer);
}

Status ShmEndpoint::Greet(ShmPeer& peer) {
  if (!SameUser(peer.socket.get())) {
    return UnavailableError(
        StrCat("'shm:", peer.name, "' belongs to another user"));
  }
  SHOAL_ASSIGN_OR_RETURN(peer.memory, ShmMemory::Create());
  ShmRecord hello;
  hello.kind = ShmRecord::kHello;
  hello.from = self_;
  hello.to = peer.id;
  const int fds[] = {peer.memory.fd(), loop_.doorbell_fd()};
  if (!SendRecord(peer.socket.get(), hello, fds)) {
    return UnavailableError(StrCat("'shm:", peer.name, "' hung up"));
  }
  peer.memory.CloseFd();
  peer.state = ShmPeer::State::kGreeting;
  return loop_.Watch(peer.socket.get(),
                     [this, id = peer.id] { ReadSocket(id); });
}

void ShmEndpoint::Accept() {
  while (true) {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr,
                              SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.valid()) {
      return;
    }
    const int fd = socket.get();
    if (guests_.size() >= kGuestsMax || !SameUser(fd) ||
        !loop_.Watch(fd, [this, fd] { ReadHello(fd); }).ok()) {
      continue;
    }
    guests_[fd] = {std::move(socket),
                   std::chrono::steady_clock::now() + kHelloWithin};
  }
}

void ShmEndpoint::ReadHello(int fd) {
  ShmRecord hello;
  std::vector<UniqueFd> fds;
  const ReceiveResult result = ReceiveRecord(fd, &hello, &fds);
  if (result == ReceiveResult::kNothing) {
    return;
  }
  loop_.Unwatch(fd);
  UniqueFd socket = std::move(guests_[fd].socket);
  guests_.erase(fd);
  if (result == ReceiveResult::kEnd || hello.kind != ShmRecord::kHello ||
      hello.from == self_ || fds.size() != 2 || !IsEventFd(fds[1].get())) {
    return;
  }
  if (hello.to != self_ || forgotten_.contains(hello.from)) {
    Answer(fd, hello.from, ShmRecord::kRefuse);
    return;
  }
  Welcome(hello.from, std::move(socket), std::move(fds));
}

void ShmEndpoint::Welcome(EndpointId from, UniqueFd socket,
                          std::vector<UniqueFd> fds) {
  // A call that the peer has given up for one of this endpoint's.
  if (IsHungUp(socket.get())) {
    return;
  }
  StatusOr<ShmMemory> memory = ShmMemory::Adopt(std::move(fds[0]));
  if (!memory.ok()) {
    return;
  }
  ShmPeer* const peer = MakeRoomFor(from, socket.get());
  if (peer == nullptr) {
    return;
  }
  ShmRecord record;
  record.kind = ShmRecord::kWelcome;
  record.from = self_;
  record.to = from;
  const int bell[] = {loop_.doorbell_fd()};
  peer->socket = std::move(socket);
  peer->memory = *std::move(memory);
  peer->memory.CloseFd();
  peer->bell = std::move(fds[1]);
  if (!SendRecord(peer->socket.get(), record, bell)) {
    peer->broken = UnavailableError("the peer hung up");
    return;
  }
  peer->broken =
      loop_.Watch(peer->socket.get(), [this, from] { ReadSocket(from); });
  Open(*peer, /*side=*/1);
}

// The entry for a peer that calls; null when its call is refused.
ShmPeer* ShmEndpoint::MakeRoomFor(EndpointId from, int fd) {
  const auto it = peers_.find(from);
  if (it != peers_.end()) {
    ShmPeer& known = *it->second;
    switch (known.state) {
      case ShmPeer::State::kGreeting:
        // Both called at once: the call of the smaller id is the one.
        if (self_ < from) {
          Answer(fd, from, ShmRecord::kYield);
          return nullptr;
        }
        loop_.Unwatch(known.socket.get());
        known.socket.Reset();
        known.broken = OkStatus();
        return &known;
      case ShmPeer::State::kDialing:
      case ShmPeer::State::kAwaiting:
        known.broken = OkStatus();
        return &known;
      case ShmPeer::State::kOpen:
        // It would not call if the session were still up for it.
        ReadRings(known);
        Drop(from, UnavailableError(StrCat(from, " began a new connection")));
        break;
    }
  }
  auto peer = std::make_unique<ShmPeer>();
  peer->id = from;
  return (peers_[from] = std::move(peer)).get();
}

void ShmEndpoint::ReadSocket(EndpointId id) {
  const auto it = peers_.find(id);
  if (it == peers_.end()) {
    return;
  }
  ShmPeer& peer = *it->second;
  while (peer.broken.ok() && peer.socket.valid()) {
    ShmRecord record;
    std::vector<UniqueFd> fds;
    switch (ReceiveRecord(peer.socket.get(), &record, &fds)) {
      case ReceiveResult::kNothing:
        return;
      case ReceiveResult::kRecord:
        OnRecord(peer, record, std::move(fds));
        break;
      case ReceiveResult::kEnd:
        loop_.Unwatch(peer.socket.get());
        peer.broken = UnavailableError(
            peer.said_bye ? StrCat(id, " ended its connection")
                          : StrCat(id,
                                   " is gone: its process was killed or "
                                   "it ended without a farewell"));
        return;
    }
  }
}

void ShmEndpoint::OnRecord(ShmPeer& peer, const ShmRecord& record,
                           std::vector<UniqueFd> fds) {
  switch (record.kind) {
    case ShmRecord::kWelcome:
      if (peer.state == ShmPeer::State::kGreeting && fds.size() == 1 &&
          IsEventFd(fds[0].get())) {
        peer.bell = std::move(fds[0]);
        Open(peer, /*side=*/0);
        return;
      }
      break;
    case ShmRecord::kYield:
      if (peer.state == ShmPeer::State::kGreeting) {
        loop_.Unwatch(peer.socket.get());
        peer.socket.Reset();
        peer.state = ShmPeer::State::kAwaiting;
        peer.give_up_at = std::chrono::steady_clock::now() + kHelloWithin;
        return;
      }
      break;
    case ShmRecord::kBye:
      peer.said_bye = true;
      return;
    case ShmRecord::kRefuse:
      peer.broken =
          UnavailableError(StrCat("'shm:", peer.name, "' is not ", peer.id,
                                  ", or does not want to be called"));
      return;
    default:
      break;
  }
  peer.broken = UnavailableError(StrCat(peer.id, " broke the protocol"));
}

void ShmEndpoint::Open(ShmPeer& peer, int side) {
  peer.state = ShmPeer::State::kOpen;
  peer.side = side;
  if (!peer.name.empty()) {
    met_.insert(peer.name);
  }
  for (int lane = 0; lane < kNumLanes; ++lane) {
    peer.writers[lane] = peer.memory.Writer(side, lane);
    peer.readers[lane] = peer.memory.Reader(1 - side, lane);
  }
  WriteQueues(peer);
}

// --- While sessions last. ---

void ShmEndpoint::ServiceAll() {
  const Time now = std::chrono::steady_clock::now();
  for (const auto& [id, peer] : peers_) {
    Service(*peer, now);
  }
  // The dead are rare; whoever they are is looked up only then.
  std::vector<EndpointId> dead;
  for (const auto& [id, peer] : peers_) {
    if (!peer->broken.ok()) {
      dead.push_back(id);
    }
  }
  for (const EndpointId id : dead) {
    const Status why = peers_[id]->broken;
    Drop(id, why);
  }
  for (auto it = guests_.begin(); it != guests_.end();) {
    if (now < it->second.until) {
      ++it;
      continue;
    }
    loop_.Unwatch(it->first);
    it = guests_.erase(it);
  }
}

void ShmEndpoint::Service(ShmPeer& peer, Time now) {
  switch (peer.state) {
    case ShmPeer::State::kDialing:
      if (now >= peer.dial_at && peer.broken.ok()) {
        Dial(peer, now);
      }
      return;
    case ShmPeer::State::kAwaiting:
      if (now >= peer.give_up_at) {
        peer.broken =
            UnavailableError(StrCat(peer.id, " did not call back as it said"));
      }
      return;
    case ShmPeer::State::kGreeting:
      return;
    case ShmPeer::State::kOpen:
      ReadRings(peer);
      WriteQueues(peer);
      return;
  }
}

void ShmEndpoint::ReadRings(ShmPeer& peer) {
  for (int lane = 0; lane < kNumLanes; ++lane) {
    ShmRingReader& ring = peer.readers[lane];
    int64_t budget = kReadAtOnce;
    while (true) {
      StatusOr<std::optional<Message>> next =
          peer.parsers[lane].Next(ring, &budget);
      if (!next.ok() || ring.broken()) {
        peer.broken =
            next.ok()
                ? UnavailableError(StrCat(peer.id, " broke the shared memory"))
                : next.status();
        return;
      }
      if (!next->has_value()) {
        break;
      }
      inbox_.PushMessage(peer.id, **std::move(next));
    }
    if (ring.TakeWriterWaits()) {
      peer.bell_due = true;
      bells_due_.push_back(peer.id);
    }
  }
}

void ShmEndpoint::WriteQueues(ShmPeer& peer) {
  bool wrote = false;
  for (int lane = 0; lane < kNumLanes; ++lane) {
    std::deque<MessageWriter>& queue = peer.queues[lane];
    while (!queue.empty()) {
      wrote = true;
      if (!queue.front().WriteSome(peer.writers[lane],
                                   [&] { RingIfAsleep(peer); })) {
        if (peer.writers[lane].broken() && peer.broken.ok()) {
          peer.broken =
              UnavailableError(StrCat(peer.id, " broke the shared memory"));
        }
        break;
      }
      peer.queued_bytes -= queue.front().size_bytes();
      queue.pop_front();
    }
  }
  if (wrote && !peer.bell_due) {
    peer.bell_due = true;
    bells_due_.push_back(peer.id);
  }
  // Half of it free, so that sender and receiver do not take turns.
  if (peer.wants_room && peer.queued_bytes <= queue_bytes_max_ / 2) {
    peer.wants_room = false;
    inbox_.PushSendable(peer.id);
  }
}

void ShmEndpoint::RingIfAsleep(ShmPeer& peer) {
  std::atomic<uint32_t>& sleeping = peer.memory.sleeping(1 - peer.side);
  if (sleeping.load() != 0 && sleeping.exchange(0) != 0) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n =
        ::write(peer.bell.get(), &one, sizeof(one));
  }
}

void ShmEndpoint::RingDue() {
  for (const EndpointId id : bells_due_) {
    const auto it = peers_.find(id);
    if (it != peers_.end() && it->second->open() && it->second->bell_due) {
      it->second->bell_due = false;
      RingIfAsleep(*it->second);
    }
  }
  bells_due_.clear();
}

// --- How sessions end. ---

void ShmEndpoint::Drop(EndpointId id, const Status& why) {
  const auto it = peers_.find(id);
  HangUp(*it->second);
  peers_.erase(it);
  inbox_.PushDown(id, why);
}

void ShmEndpoint::HangUp(ShmPeer& peer) {
  if (peer.socket.valid()) {
    if (peer.open() && peer.broken.ok()) {
      Answer(peer.socket.get(), peer.id, ShmRecord::kBye);
    }
    loop_.Unwatch(peer.socket.get());
    peer.socket.Reset();
  }
}

}  // namespace
}  // namespace shoal::comm
