// Endpoints of processes of any hosts, over TCP by ZeroMQ.
//
// An endpoint receives with one router and sends with two dealers per peer, one
// for each lane. libzmq hides lost connections, so that sessions are built on
// top: a dealer never connects twice, every message carries its session and its
// number in it, and a session that has ended for one side is ended for the
// other. A session has a number for each direction; who is called calls back.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
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
#include "comm/transports/event_inbox.h"
#include "comm/transports/event_loop.h"
#include "comm/transports/tcp_address.h"
#include "comm/transports/zmq_envelope.h"
#include "comm/transports/zmq_socket.h"

namespace shoal::comm {
namespace {

// How long a peer that is not there yet is called again, and how often.
constexpr Duration kDialWithin = std::chrono::seconds(3);
constexpr Duration kDialPause = std::chrono::milliseconds(50);
// How long the last words of a peer may take to be read after its connection
// ended: they come over another one.
constexpr Duration kLastWordsWithin = std::chrono::milliseconds(200);
// How long a notice to a peer that is left may take.
constexpr Duration kNoticeWithin = std::chrono::milliseconds(500);
// At most so many messages are received before others have their turn.
constexpr int kReceiveAtOnce = 64;

struct ZmqPeer {
  enum class State { kDialing, kConnecting, kUp };
  EndpointId id;
  std::string address;
  State state = State::kDialing;
  Time dial_at;
  Time give_up_at;

  // What this endpoint sends.
  uint64_t session = 0;
  uint64_t answers = 0;
  ZmqSocket lanes[kNumLanes];
  bool lane_up[kNumLanes] = {};
  uint64_t next_sequence[kNumLanes] = {};
  std::shared_ptr<ZmqQueue> queue = std::make_shared<ZmqQueue>();
  std::deque<std::pair<Lane, Message>> waiting;  // for kUp
  bool sent_data = false;
  bool said_bye = false;
  bool bye_acked = false;

  // What the peer sends; 0 until it calls back.
  uint64_t in_session = 0;
  uint64_t in_next[kNumLanes] = {};
  bool in_bye[kNumLanes] = {};

  bool lost = false;  // a dealer has lost its connection
  Time lost_at;
  Status broken;  // the session is over; why
};

class ZmqEndpoint : public LoopEndpoint {
 public:
  ZmqEndpoint(EventLoop& loop, const Options& options)
      : loop_(loop),
        waker_(std::make_shared<ZmqWaker>(loop)),
        self_(options.self),
        queue_bytes_max_(options.send_queue_bytes_max),
        context_(SharedZmqContext()) {}
  ~ZmqEndpoint() override { End(Duration(0)); }

  Status Listen(const std::string& listen);

  std::string address() const override { return address_; }
  Status Connect(EndpointId peer, const std::string& address) override;
  void Disconnect(EndpointId peer) override;
  Status Send(EndpointId peer, Lane lane, Message message) override;
  Status Poll(EndpointSink& sink, Duration timeout) override;
  void Wake() override { loop_.Wake(); }
  Status Close(Time deadline) override;

  bool Deliver(EndpointSink& sink) override;
  bool PrepareSleep() override { return drained_ && inbox_.empty(); }
  void EndSleep() override {}
  Time NextDue() const override;
  bool Knows(EndpointId peer) const override { return peers_.contains(peer); }

 private:
  Envelope MakeEnvelope(Envelope::Kind kind, EndpointId to,
                        uint64_t session) const;
  ZmqPeer& AddPeer(EndpointId id, const std::string& address);
  void Dial(ZmqPeer& peer, Time now);
  Status OpenLane(ZmqPeer& peer, int lane);
  void SendNow(ZmqPeer& peer, Lane lane, Message message);
  void SendBye(ZmqPeer& peer);

  void ServiceAll();
  void Service(ZmqPeer& peer, Time now);
  void ReadLinks(ZmqPeer& peer, Time now);
  void OnLinkFailed(ZmqPeer& peer, int error, Time now);
  void OnUp(ZmqPeer& peer);

  void Receive();
  void OnParts();
  void OnHello(const Envelope& envelope);
  void OnData(const Envelope& envelope);
  void OnBye(const Envelope& envelope);
  void OnNotice(const Envelope& envelope);

  void Refuse(EndpointId from, uint64_t session);
  void SendNotice(Envelope::Kind kind, EndpointId to,
                  const std::string& address, uint64_t session, EndpointId as);
  void CloseLanes(ZmqPeer& peer, Duration linger);
  void Drop(EndpointId id, const Status& why);
  void End(Duration linger);

  EventLoop& loop_;
  const std::shared_ptr<ZmqWaker> waker_;
  const EndpointId self_;
  const int64_t queue_bytes_max_;
  std::shared_ptr<void> context_;
  ZmqSocket router_;
  std::string address_;
  bool drained_ = false;  // the router had nothing more
  // Later than those of a process that had the same id before, as a coordinator
  // that is started again has: peers refuse sessions that they have seen end.
  uint64_t next_session_ = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(
          std::chrono::system_clock::now().time_since_epoch())
          .count());
  std::unordered_map<EndpointId, std::unique_ptr<ZmqPeer>> peers_;
  std::unordered_set<EndpointId> forgotten_;
  std::unordered_set<std::string> met_;  // addresses that were reached once
  // The last session of each peer that is over, and the last one refused.
  std::unordered_map<EndpointId, uint64_t> dead_sessions_;
  std::unordered_map<EndpointId, uint64_t> refused_;
  std::unordered_map<EndpointId, std::string> addresses_;  // as peers said
  std::vector<Buffer> parts_;
  EventInbox inbox_;
  bool closed_ = false;
};

}  // namespace

StatusOr<std::unique_ptr<LoopEndpoint>> CreateZmqIn(
    EventLoop& loop, const Endpoint::Options& options) {
  auto endpoint = std::make_unique<ZmqEndpoint>(loop, options);
  SHOAL_RETURN_IF_ERROR(endpoint->Listen(
      options.listen.empty() ? "tcp://127.0.0.1:0" : options.listen));
  return std::unique_ptr<LoopEndpoint>(std::move(endpoint));
}

namespace {

StatusOr<std::unique_ptr<Endpoint>> CreateZmq(
    const Endpoint::Options& options) {
  return CreateAlone(options, &CreateZmqIn);
}

SHOAL_REGISTER_TRANSPORT("zmq", &CreateZmq);

// --- What the node calls. ---

Status ZmqEndpoint::Listen(const std::string& listen) {
  std::string_view host;
  int port = 0;
  const Status invalid =
      InvalidArgumentError(StrCat("listen: '", listen,
                                  "' is not an address of this host, as "
                                  "'tcp://127.0.0.1:7000' is"));
  if (!SplitTcpAddress(listen, &host, &port)) {
    return invalid;
  }
  if (host == "*" || host == "0.0.0.0" || host == "[::]") {
    return InvalidArgumentError(
        StrCat("listen: '", listen,
               "' stands for all addresses of this host; peers need one"));
  }
  SHOAL_ASSIGN_OR_RETURN(router_,
                         ZmqSocket::Open(context_, ZmqSocket::Kind::kRouter));
  switch (const int error = router_.Bind(listen)) {
    case 0:
      break;
    case EINVAL:
    case ENODEV:
      return invalid;
    case EADDRINUSE:
      return UnavailableError(
          StrCat("listen: '", listen,
                 "' is taken: choose another port, or 0 for a free one"));
    default:
      return UnavailableError(
          StrCat("listen: '", listen, "': ", ZmqErrorText(error)));
  }
  address_ = router_.bound_endpoint();
  return loop_.Watch(router_.wait_fd(), [this] { drained_ = false; });
}

Status ZmqEndpoint::Connect(EndpointId id, const std::string& address) {
  if (closed_) {
    return FailedPreconditionError("connect: the endpoint is closed");
  }
  if (peers_.contains(id)) {
    return OkStatus();
  }
  std::string_view host;
  int port = 0;
  if (!SplitTcpAddress(address, &host, &port) || port == 0) {
    return InvalidArgumentError(StrCat("connect: '", address,
                                       "' is not an address of zmq, as "
                                       "'tcp://10.0.0.1:7000' is"));
  }
  forgotten_.erase(id);
  ZmqPeer& peer = AddPeer(id, address);
  Dial(peer, peer.dial_at);
  return OkStatus();
}

void ZmqEndpoint::Disconnect(EndpointId id) {
  forgotten_.insert(id);
  const auto it = peers_.find(id);
  if (it != peers_.end()) {
    ZmqPeer& peer = *it->second;
    if (peer.in_session != 0) {
      dead_sessions_[id] = peer.in_session;
      SendNotice(Envelope::kReset, id, peer.address, peer.in_session, self_);
    }
    CloseLanes(peer, Duration(0));
    peers_.erase(it);
  }
  inbox_.Forget(id);
}

Status ZmqEndpoint::Send(EndpointId id, Lane lane, Message message) {
  if (closed_) {
    return FailedPreconditionError("send: the endpoint is closed");
  }
  SHOAL_RETURN_IF_ERROR(CheckMessageSize(message));
  const auto it = peers_.find(id);
  if (it == peers_.end()) {
    return NotConnectedError(id);
  }
  ZmqPeer& peer = *it->second;
  if (peer.lost || !peer.broken.ok()) {
    return UnavailableError(StrCat("send: ", id, " is down"));
  }
  const int64_t size = message.size_bytes();
  if (!HasRoom(peer.queue->bytes.load(), size, queue_bytes_max_)) {
    peer.queue->wants_room.store(true);
    return QueueFullError(id);
  }
  peer.queue->bytes.fetch_add(size);
  if (peer.state == ZmqPeer::State::kUp) {
    SendNow(peer, lane, std::move(message));
  } else {
    peer.waiting.emplace_back(lane, std::move(message));
  }
  return OkStatus();
}

Status ZmqEndpoint::Poll(EndpointSink& sink, Duration timeout) {
  if (closed_) {
    return FailedPreconditionError("poll: the endpoint is closed");
  }
  LoopEndpoint* const endpoints[] = {this};
  PollTogether(loop_, endpoints, sink, timeout);
  return OkStatus();
}

bool ZmqEndpoint::Deliver(EndpointSink& sink) {
  if (closed_) {
    return false;
  }
  Receive();
  ServiceAll();
  return inbox_.Deliver(sink);
}

Time ZmqEndpoint::NextDue() const {
  Time due = Time::max();
  for (const auto& [id, peer] : peers_) {
    if (peer->lost) {
      due = std::min(due, peer->lost_at + kLastWordsWithin);
    } else if (peer->state == ZmqPeer::State::kDialing) {
      due = std::min(due, peer->dial_at);
    }
  }
  return due;
}

Status ZmqEndpoint::Close(Time deadline) {
  if (closed_) {
    return OkStatus();
  }
  // A peer acknowledges the farewell when it has received all before it.
  bool all_arrived = false;
  while (true) {
    Receive();
    ServiceAll();
    inbox_.Clear();
    all_arrived = true;
    for (const auto& [id, peer] : peers_) {
      if (peer->state == ZmqPeer::State::kUp && !peer->said_bye) {
        SendBye(*peer);
      }
      const bool up = peer->state == ZmqPeer::State::kUp;
      all_arrived &= peer->lost || (up ? peer->bye_acked || !peer->sent_data
                                       : peer->waiting.empty());
    }
    const Time now = std::chrono::steady_clock::now();
    if (all_arrived || now >= deadline) {
      break;
    }
    if (drained_) {
      loop_.Wait(std::min(deadline, NextDue()) - now);
    }
  }
  End(all_arrived ? kNoticeWithin : Duration(0));
  if (!all_arrived) {
    return DeadlineExceededError(
        "close: a peer did not acknowledge what was sent in time");
  }
  return OkStatus();
}

void ZmqEndpoint::End(Duration linger) {
  if (std::exchange(closed_, true)) {
    return;
  }
  waker_->Detach();
  for (const auto& [id, peer] : peers_) {
    CloseLanes(*peer, linger);
  }
  peers_.clear();
  inbox_.Clear();
  if (router_.valid()) {
    loop_.Unwatch(router_.wait_fd());
    router_.Close(Duration(0));
  }
  context_.reset();
}

// --- How sessions begin. ---

Envelope ZmqEndpoint::MakeEnvelope(Envelope::Kind kind, EndpointId to,
                                   uint64_t session) const {
  Envelope envelope;
  envelope.kind = kind;
  envelope.from = self_;
  envelope.to = to;
  envelope.session = session;
  return envelope;
}

ZmqPeer& ZmqEndpoint::AddPeer(EndpointId id, const std::string& address) {
  auto peer = std::make_unique<ZmqPeer>();
  peer->id = id;
  peer->address = address;
  peer->dial_at = std::chrono::steady_clock::now();
  // One that was there and is not any more does not come late but is gone.
  peer->give_up_at =
      peer->dial_at + (met_.contains(address) ? Duration(0) : kDialWithin);
  return *(peers_[id] = std::move(peer));
}

void ZmqEndpoint::Dial(ZmqPeer& peer, Time now) {
  peer.session = next_session_++;
  peer.state = ZmqPeer::State::kConnecting;
  for (int lane = 0; lane < kNumLanes; ++lane) {
    peer.lane_up[lane] = false;
    peer.next_sequence[lane] = 0;
    const Status status = OpenLane(peer, lane);
    if (!status.ok()) {
      peer.broken = status;
      return;
    }
  }
  peer.dial_at = now;
}

Status ZmqEndpoint::OpenLane(ZmqPeer& peer, int lane) {
  ZmqSocket& socket = peer.lanes[lane];
  SHOAL_ASSIGN_OR_RETURN(socket,
                         ZmqSocket::Open(context_, ZmqSocket::Kind::kDealer));
  SHOAL_RETURN_IF_ERROR(socket.WatchLink());
  // Events are read with the next Deliver(); here they only end the wait.
  SHOAL_RETURN_IF_ERROR(loop_.Watch(socket.link_fd(), [] {}));
  if (const int error = socket.Connect(peer.address); error != 0) {
    return UnavailableError(
        StrCat("connect to '", peer.address, "': ", ZmqErrorText(error)));
  }
  Envelope hello = MakeEnvelope(Envelope::kHello, peer.id, peer.session);
  hello.lane = static_cast<uint32_t>(lane);
  hello.answers = peer.answers;
  socket.Send(Buffer::CopyOf(&hello, sizeof(hello)), {Buffer::CopyOf(address_)},
              nullptr);
  return OkStatus();
}

void ZmqEndpoint::ReadLinks(ZmqPeer& peer, Time now) {
  for (int lane = 0; lane < kNumLanes; ++lane) {
    int error = 0;
    while (peer.lanes[lane].valid()) {
      const ZmqSocket::Link event = peer.lanes[lane].NextLinkEvent(&error);
      if (event == ZmqSocket::Link::kNothing) {
        break;
      }
      if (event == ZmqSocket::Link::kUp) {
        peer.lane_up[lane] = true;
        continue;
      }
      OnLinkFailed(peer, error, now);
      return;
    }
  }
  if (peer.state == ZmqPeer::State::kConnecting &&
      std::all_of(std::begin(peer.lane_up), std::end(peer.lane_up),
                  [](bool up) { return up; })) {
    OnUp(peer);
  }
}

void ZmqEndpoint::OnLinkFailed(ZmqPeer& peer, int error, Time now) {
  if (peer.state == ZmqPeer::State::kUp) {
    CloseLanes(peer, Duration(0));
    peer.lost = true;
    peer.lost_at = now;
    return;
  }
  CloseLanes(peer, Duration(0));
  if (now >= peer.give_up_at) {
    peer.broken =
        UnavailableError(StrCat("nobody takes calls at '", peer.address, "'",
                                error != 0 ? ": " + ZmqErrorText(error) : ""));
    return;
  }
  peer.state = ZmqPeer::State::kDialing;
  peer.dial_at = now + kDialPause;
}

void ZmqEndpoint::OnUp(ZmqPeer& peer) {
  peer.state = ZmqPeer::State::kUp;
  met_.insert(peer.address);
  for (auto& [lane, message] : peer.waiting) {
    SendNow(peer, lane, std::move(message));
  }
  peer.waiting.clear();
}

void ZmqEndpoint::SendNow(ZmqPeer& peer, Lane lane, Message message) {
  const int index = static_cast<int>(lane);
  Envelope envelope = MakeEnvelope(Envelope::kData, peer.id, peer.session);
  envelope.lane = static_cast<uint32_t>(index);
  envelope.sequence = peer.next_sequence[index]++;
  envelope.header = message.header;
  peer.sent_data = true;
  const int64_t size = message.size_bytes();
  const auto on_taken = [queue = peer.queue, waker = waker_, size,
                         half = queue_bytes_max_ / 2] {
    const int64_t left = queue->bytes.fetch_sub(size) - size;
    if (queue->wants_room.load() && left <= half) {
      waker->Wake();
    }
  };
  if (!peer.lanes[index].Send(Buffer::CopyOf(&envelope, sizeof(envelope)),
                              message.frames, on_taken) &&
      !peer.lost) {
    // Its event is on the way; the loss is reported like any other.
    peer.lost = true;
    peer.lost_at = std::chrono::steady_clock::now();
  }
}

void ZmqEndpoint::SendBye(ZmqPeer& peer) {
  peer.said_bye = true;
  for (int lane = 0; lane < kNumLanes; ++lane) {
    Envelope bye = MakeEnvelope(Envelope::kBye, peer.id, peer.session);
    bye.lane = static_cast<uint32_t>(lane);
    bye.sequence = peer.next_sequence[lane]++;
    if (!peer.lanes[lane].Send(Buffer::CopyOf(&bye, sizeof(bye)), {},
                               nullptr)) {
      peer.lost = true;
      peer.lost_at = std::chrono::steady_clock::now();
    }
  }
}

// --- While sessions last. ---

void ZmqEndpoint::ServiceAll() {
  const Time now = std::chrono::steady_clock::now();
  std::vector<EndpointId> dead;
  for (const auto& [id, peer] : peers_) {
    Service(*peer, now);
    if (!peer->broken.ok()) {
      dead.push_back(id);
    }
  }
  for (const EndpointId id : dead) {
    const Status why = peers_[id]->broken;
    Drop(id, why);
  }
}

void ZmqEndpoint::Service(ZmqPeer& peer, Time now) {
  if (!peer.broken.ok()) {
    return;
  }
  if (peer.state == ZmqPeer::State::kDialing && now >= peer.dial_at) {
    Dial(peer, now);
  }
  if (!peer.lost) {
    ReadLinks(peer, now);
  }
  if (peer.lost &&
      (peer.in_session == 0 || now >= peer.lost_at + kLastWordsWithin)) {
    peer.broken = UnavailableError(
        StrCat("the connection to ", peer.id, " at '", peer.address,
               "' was lost: its process or host ended, or the network did"));
  }
  // Half of it free, so that sender and receiver do not take turns.
  if (peer.queue->wants_room.load() &&
      peer.queue->bytes.load() <= queue_bytes_max_ / 2) {
    peer.queue->wants_room.store(false);
    inbox_.PushSendable(peer.id);
  }
}

void ZmqEndpoint::Receive() {
  if (drained_) {
    return;
  }
  for (int i = 0; i < kReceiveAtOnce; ++i) {
    if (!router_.ReceiveParts(&parts_)) {
      drained_ = true;
      return;
    }
    OnParts();
  }
}

// `parts_` are who sent it (libzmq's name, of no use here), the envelope, and
// what belongs to it.
void ZmqEndpoint::OnParts() {
  Envelope envelope;
  if (parts_.size() < 2 ||
      parts_[1].size() != static_cast<int64_t>(sizeof(envelope))) {
    return;
  }
  std::memcpy(&envelope, parts_[1].data(), sizeof(envelope));
  if (envelope.magic != Envelope::kMagic || envelope.lane >= kNumLanes ||
      envelope.from == self_ || envelope.session == 0) {
    return;
  }
  switch (envelope.kind) {
    case Envelope::kHello:
      return OnHello(envelope);
    case Envelope::kData:
      return OnData(envelope);
    case Envelope::kBye:
      return OnBye(envelope);
    case Envelope::kByeAck:
    case Envelope::kReset:
      return OnNotice(envelope);
    default:
      return;
  }
}

void ZmqEndpoint::OnHello(const Envelope& envelope) {
  const EndpointId from = envelope.from;
  if (parts_.size() != 3 || closed_) {
    return;
  }
  const std::string address(parts_[2].text());
  std::string_view host;
  int port = 0;
  if (!SplitTcpAddress(address, &host, &port) || port == 0) {
    return;
  }
  addresses_[from] = address;
  const auto dead = dead_sessions_.find(from);
  if (envelope.to != self_) {
    // Said in the name of whom it called: it knows this endpoint by no other.
    SendNotice(Envelope::kReset, from, address, envelope.session, envelope.to);
    return;
  }
  if (forgotten_.contains(from) ||
      (dead != dead_sessions_.end() && envelope.session <= dead->second)) {
    Refuse(from, envelope.session);
    return;
  }
  auto it = peers_.find(from);
  if (it != peers_.end() && it->second->in_session != 0) {
    if (it->second->in_session == envelope.session) {
      return;  // The other lane.
    }
    // It would not call if the session were still up for it.
    Drop(from, UnavailableError(StrCat(from, " began a new connection")));
    it = peers_.end();
  }
  if (envelope.answers != 0 &&
      (it == peers_.end() || it->second->session != envelope.answers)) {
    // It answers a session that is over.
    dead_sessions_[from] = envelope.session;
    Refuse(from, envelope.session);
    return;
  }
  ZmqPeer& peer = it == peers_.end() ? AddPeer(from, address) : *it->second;
  peer.in_session = envelope.session;
  // It has called, so it listens: one that can't be called back is gone.
  peer.give_up_at = std::chrono::steady_clock::now();
  if (peer.state == ZmqPeer::State::kDialing) {
    peer.answers = envelope.session;
    Dial(peer, std::chrono::steady_clock::now());
  }
}

void ZmqEndpoint::OnData(const Envelope& envelope) {
  const auto it = peers_.find(envelope.from);
  if (it == peers_.end() || it->second->in_session != envelope.session) {
    Refuse(envelope.from, envelope.session);
    return;
  }
  ZmqPeer& peer = *it->second;
  if (!peer.broken.ok()) {
    return;
  }
  if (envelope.sequence != peer.in_next[envelope.lane]++) {
    peer.broken = UnavailableError(
        StrCat("messages of ", peer.id, " were lost on the way"));
    return;
  }
  Message message;
  message.header = envelope.header;
  message.frames.assign(std::make_move_iterator(parts_.begin() + 2),
                        std::make_move_iterator(parts_.end()));
  if (!CheckMessageSize(message).ok()) {
    peer.broken = UnavailableError(
        StrCat(peer.id, " sent a message that is over the limits"));
    return;
  }
  inbox_.PushMessage(peer.id, std::move(message));
}

void ZmqEndpoint::OnBye(const Envelope& envelope) {
  const auto it = peers_.find(envelope.from);
  if (it == peers_.end() || it->second->in_session != envelope.session) {
    return;
  }
  ZmqPeer& peer = *it->second;
  if (envelope.sequence != peer.in_next[envelope.lane]++) {
    peer.broken = UnavailableError(
        StrCat("messages of ", peer.id, " were lost on the way"));
    return;
  }
  peer.in_bye[envelope.lane] = true;
  if (!std::all_of(std::begin(peer.in_bye), std::end(peer.in_bye),
                   [](bool bye) { return bye; })) {
    return;
  }
  SendNotice(Envelope::kByeAck, peer.id, peer.address, envelope.session, self_);
  // What this endpoint sent may still be on the way there, and this end may be
  // saying farewell too: then it waits for its own acknowledgement.
  const EndpointId id = peer.id;
  dead_sessions_[id] = peer.in_session;
  peer.in_session = 0;
  if (!peer.said_bye) {
    peer.broken = UnavailableError(StrCat(id, " ended its connection"));
  }
}

void ZmqEndpoint::OnNotice(const Envelope& envelope) {
  const auto it = peers_.find(envelope.from);
  if (it == peers_.end() || it->second->session != envelope.session) {
    return;
  }
  ZmqPeer& peer = *it->second;
  if (envelope.kind == Envelope::kByeAck) {
    peer.bye_acked = true;
  } else if (peer.broken.ok()) {
    peer.broken = UnavailableError(
        StrCat(peer.id, " ended its connection, or does not want one"));
  }
}

// --- How sessions end. ---

// Tells who still sends in a session that it is over, once.
void ZmqEndpoint::Refuse(EndpointId from, uint64_t session) {
  const auto address = addresses_.find(from);
  if (address == addresses_.end() || refused_[from] == session) {
    return;
  }
  refused_[from] = session;
  SendNotice(Envelope::kReset, from, address->second, session, self_);
}

void ZmqEndpoint::SendNotice(Envelope::Kind kind, EndpointId to,
                             const std::string& address, uint64_t session,
                             EndpointId as) {
  // By a socket of its own: the session's may be what is broken.
  StatusOr<ZmqSocket> socket =
      ZmqSocket::Open(context_, ZmqSocket::Kind::kDealer);
  if (!socket.ok() || socket->Connect(address) != 0) {
    return;
  }
  Envelope notice = MakeEnvelope(kind, to, session);
  notice.from = as;
  socket->Send(Buffer::CopyOf(&notice, sizeof(notice)), {}, nullptr);
  socket->Close(kNoticeWithin);
}

void ZmqEndpoint::CloseLanes(ZmqPeer& peer, Duration linger) {
  for (ZmqSocket& socket : peer.lanes) {
    if (socket.valid()) {
      loop_.Unwatch(socket.link_fd());
      socket.Close(linger);
    }
  }
}

void ZmqEndpoint::Drop(EndpointId id, const Status& why) {
  const auto it = peers_.find(id);
  ZmqPeer& peer = *it->second;
  CloseLanes(peer, Duration(0));
  if (peer.in_session != 0) {
    dead_sessions_[id] = peer.in_session;
    SendNotice(Envelope::kReset, id, peer.address, peer.in_session, self_);
  }
  peers_.erase(it);
  inbox_.PushDown(id, why);
}

}  // namespace
}  // namespace shoal::comm
