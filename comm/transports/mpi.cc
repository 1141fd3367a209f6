// Endpoints in ranks of `mpirun`, over MPI's messages, for clusters whose
// fabric MPI knows best.
//
// MPI knows ranks and tags, not connections: an address is a rank and the
// number of an endpoint in it. A session begins with a call and its answer and
// ends with a goodbye, so that an orderly end is no loss. There is nothing to
// wait for in MPI but by asking again: an endpoint asks often while there is
// traffic and seldom when there is none. A rank that dies takes all others with
// it, by mpirun's hand.

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/strcat.h"
#include "comm/endpoint.h"
#include "comm/mpi_table.h"
#include "comm/mpi_world.h"
#include "comm/transport.h"
#include "comm/transports/event_inbox.h"
#include "comm/transports/mpi_hub.h"
#include "comm/transports/mpi_wire.h"

namespace shoal::comm {
namespace {

constexpr std::string_view kMpiPrefix = "mpi:";

// For a call to be answered. Who is there answers when it polls next; one that
// is gone by whoever is left in its process.
constexpr Duration kAnswerWithin = std::chrono::seconds(20);
// Given to MPI at a time, per peer: more would only delay what is urgent.
constexpr size_t kSendsMax = 32;
constexpr int64_t kBulkBytesMax = int64_t{4} << 20;
// Taken from MPI before the node has its turn, per lane.
constexpr size_t kReceivesMax = 32;
constexpr int64_t kReceiveBytesMax = int64_t{4} << 20;
// After the last message an endpoint asks again and again, giving way to other
// threads, then sleeps in between, for half the time that it has been quiet.
constexpr Duration kAskFor = 20us;
constexpr Duration kPauseMin = 20us;
constexpr Duration kPauseMax = 1ms;
constexpr Duration kPauseMaxBusy = 100us;  // something is on its way

struct MpiAddress {
  int rank = 0;
  int number = 0;
};

struct MpiPeer {
  EndpointId id;
  MpiAddress address;
  uint64_t session = 0;  // drawn by this end
  uint64_t theirs = 0;   // 0: has not answered yet
  Time answer_by = Time::max();
  struct Waiting {
    Message message;
    int64_t size_bytes;
  };
  std::deque<Waiting> waiting[kNumLanes];
  std::deque<MpiTransfer> started[kNumLanes];
  std::deque<int64_t> started_bytes[kNumLanes];  // of the messages
  int64_t queued_bytes = 0;                      // waiting and started
  int64_t bulk_bytes = 0;                        // of those, started bulk
  bool wants_room = false;
  uint64_t num_bulk_sent = 0;
  uint64_t num_bulk_received = 0;
  uint64_t num_bulk_said = 0;  // by its goodbye
  bool said_bye = false;
  Status broken;  // the session is over; why

  bool open() const { return theirs != 0; }
};

class MpiEndpoint : public Endpoint {
 public:
  MpiEndpoint(const MpiWorld& world, const Options& options, int number,
              std::shared_ptr<MpiBell> bell)
      : world_(world),
        hub_(MpiHub::Get()),
        self_(options.self),
        number_(number),
        queue_bytes_max_(options.send_queue_bytes_max),
        bell_(std::move(bell)),
        quiet_since_(std::chrono::steady_clock::now()) {}
  ~MpiEndpoint() override { End(); }

  std::string address() const override {
    return StrCat(kMpiPrefix, world_.rank(), "/", number_);
  }
  Status Connect(EndpointId id, const std::string& address) override;
  void Disconnect(EndpointId id) override;
  Status Send(EndpointId id, Lane lane, Message message) override;
  Status Poll(EndpointSink& sink, Duration timeout) override;
  void Wake() override { bell_->Ring(); }
  Status Close(Time deadline) override;

 private:
  struct Receiving {
    int rank = 0;
    MpiTransfer transfer;
    bool done = false;
  };

  Status Progress();
  Status ReceiveFrom(Lane lane);
  void Handle(int rank, Lane lane, const Buffer& bytes);
  void OnHello(int rank, const MpiEnvelope& hello);
  void OnAnswer(const MpiEnvelope& answer);
  void OnSession(const MpiEnvelope& envelope, Lane lane, Message message);
  void Service(MpiPeer& peer, Time now);
  void StartSends(MpiPeer& peer);
  void TestSends(MpiPeer& peer);
  void SendSignal(MpiEnvelope::Kind kind, EndpointId to, MpiAddress address,
                  uint64_t session, uint64_t theirs, uint64_t num_bulk = 0);
  void Rest(Time now, Time end);
  void HangUp(MpiPeer& peer, bool say_bye);
  void End();

  const MpiWorld& world_;
  MpiHub& hub_;
  const EndpointId self_;
  const int number_;
  const int64_t queue_bytes_max_;
  const std::shared_ptr<MpiBell> bell_;
  std::unordered_map<EndpointId, std::unique_ptr<MpiPeer>> peers_;
  std::unordered_set<EndpointId> forgotten_;
  std::deque<Receiving> receiving_[kNumLanes];
  EventInbox inbox_;
  Time quiet_since_;
  bool closed_ = false;
};

StatusOr<MpiAddress> ParseMpiAddress(std::string_view doing,
                                     std::string_view address, int num_ranks) {
  MpiAddress parsed;
  const auto number = [](std::string_view text, int& to) {
    const auto [at, error] =
        std::from_chars(text.data(), text.data() + text.size(), to);
    return error == std::errc() && at == text.data() + text.size() && to >= 0;
  };
  const size_t slash = address.find('/');
  if (!address.starts_with(kMpiPrefix) || slash == std::string_view::npos ||
      !number(address.substr(kMpiPrefix.size(), slash - kMpiPrefix.size()),
              parsed.rank) ||
      !number(address.substr(slash + 1), parsed.number) || parsed.number < 1) {
    return InvalidArgumentError(
        StrCat(doing, ": '", address,
               "' is not an address of mpi, as 'mpi:RANK/NUMBER' is"));
  }
  if (parsed.rank >= num_ranks) {
    return InvalidArgumentError(StrCat(doing, ": '", address,
                                       "' is of a rank that is not there: "
                                       "mpirun started ",
                                       num_ranks));
  }
  return parsed;
}

StatusOr<std::unique_ptr<Endpoint>> CreateMpi(
    const Endpoint::Options& options) {
  const MpiWorld* const world = MpiWorld::Current();
  if (world == nullptr || world->threads() == MpiWorld::Threads::kOne) {
    return FailedPreconditionError(
        "transport: mpi joins ranks of mpirun; start the job with `mpirun -np "
        "RANKS shoal train` or `shoal launch mpi`, or choose auto");
  }
  int wanted = 0;
  if (!options.listen.empty()) {
    SHOAL_ASSIGN_OR_RETURN(
        const MpiAddress address,
        ParseMpiAddress("listen", options.listen, world->size()));
    if (address.rank != world->rank()) {
      return InvalidArgumentError(StrCat("listen: '", options.listen,
                                         "' is of another rank than this one, ",
                                         world->rank()));
    }
    wanted = address.number;
  }
  auto bell = std::make_shared<MpiBell>();
  SHOAL_ASSIGN_OR_RETURN(const int number,
                         MpiHub::Get().Add(*world, wanted, bell));
  return std::unique_ptr<Endpoint>(
      std::make_unique<MpiEndpoint>(*world, options, number, std::move(bell)));
}

SHOAL_REGISTER_TRANSPORT("mpi", &CreateMpi);

// --- What the node calls. ---

Status MpiEndpoint::Connect(EndpointId id, const std::string& address) {
  if (closed_) {
    return FailedPreconditionError("connect: the endpoint is closed");
  }
  if (peers_.contains(id)) {
    return OkStatus();
  }
  SHOAL_ASSIGN_OR_RETURN(const MpiAddress parsed,
                         ParseMpiAddress("connect", address, world_.size()));
  forgotten_.erase(id);
  auto peer = std::make_unique<MpiPeer>();
  peer->id = id;
  peer->address = parsed;
  peer->session = EntropySeed() | 1;
  peer->answer_by = std::chrono::steady_clock::now() + kAnswerWithin;
  if (parsed.rank == world_.rank() && !hub_.Has(parsed.number)) {
    peer->broken = UnavailableError(
        StrCat("nobody listens at '", address, "': that endpoint is gone"));
  } else {
    SendSignal(MpiEnvelope::kHello, id, parsed, peer->session, 0);
  }
  peers_[id] = std::move(peer);
  return OkStatus();
}

void MpiEndpoint::Disconnect(EndpointId id) {
  forgotten_.insert(id);
  const auto it = peers_.find(id);
  if (it != peers_.end()) {
    HangUp(*it->second, /*say_bye=*/true);
    peers_.erase(it);
  }
  inbox_.Forget(id);
}

Status MpiEndpoint::Send(EndpointId id, Lane lane, Message message) {
  if (closed_) {
    return FailedPreconditionError("send: the endpoint is closed");
  }
  SHOAL_RETURN_IF_ERROR(CheckMessageSize(message));
  const auto it = peers_.find(id);
  if (it == peers_.end()) {
    return NotConnectedError(id);
  }
  MpiPeer& peer = *it->second;
  if (!peer.broken.ok()) {
    return peer.broken.WithPrefix(StrCat("send: ", id, " is down"));
  }
  const int64_t size = message.size_bytes();
  if (!HasRoom(peer.queued_bytes, size, queue_bytes_max_)) {
    peer.wants_room = true;
    return QueueFullError(id);
  }
  peer.waiting[static_cast<int>(lane)].push_back({std::move(message), size});
  peer.queued_bytes += size;
  StartSends(peer);
  return OkStatus();
}

Status MpiEndpoint::Poll(EndpointSink& sink, Duration timeout) {
  if (closed_) {
    return FailedPreconditionError("poll: the endpoint is closed");
  }
  Time now = std::chrono::steady_clock::now();
  const Time end = now + timeout;
  while (true) {
    SHOAL_RETURN_IF_ERROR(Progress());
    if (inbox_.Deliver(sink) || bell_->Take()) {
      return OkStatus();
    }
    now = std::chrono::steady_clock::now();
    if (now >= end) {
      return OkStatus();
    }
    Rest(now, end);
  }
}

Status MpiEndpoint::Close(Time deadline) {
  if (closed_) {
    return OkStatus();
  }
  int64_t rest = 0;
  while (true) {
    const Status progress = Progress();
    inbox_.Clear();
    rest = 0;
    for (const auto& [id, peer] : peers_) {
      rest += peer->broken.ok() ? peer->queued_bytes : 0;
    }
    const Time now = std::chrono::steady_clock::now();
    if (rest == 0 || now >= deadline || !progress.ok()) {
      break;
    }
    Rest(now, deadline);
    (void)bell_->Take();
  }
  End();
  if (rest > 0) {
    return DeadlineExceededError(StrCat(
        "close: ", rest, " bytes were not taken by their peers in time"));
  }
  return OkStatus();
}

void MpiEndpoint::End() {
  if (std::exchange(closed_, true)) {
    return;
  }
  for (const auto& [id, peer] : peers_) {
    HangUp(*peer, /*say_bye=*/true);
  }
  peers_.clear();
  for (auto& lane : receiving_) {
    for (Receiving& receiving : lane) {
      if (!receiving.done) {
        hub_.Bury(std::move(receiving.transfer));
      }
    }
    lane.clear();
  }
  inbox_.Clear();
  hub_.Remove(number_);
}

// --- What comes. ---

Status MpiEndpoint::Progress() {
  hub_.Sweep(world_);
  for (const Lane lane : {Lane::kUrgent, Lane::kBulk}) {
    SHOAL_RETURN_IF_ERROR(ReceiveFrom(lane));
  }
  const Time now = std::chrono::steady_clock::now();
  for (auto it = peers_.begin(); it != peers_.end();) {
    MpiPeer& peer = *it->second;
    Service(peer, now);
    if (peer.broken.ok()) {
      ++it;
      continue;
    }
    HangUp(peer, /*say_bye=*/false);
    inbox_.PushDown(peer.id, peer.broken);
    it = peers_.erase(it);
  }
  if (!inbox_.empty()) {
    quiet_since_ = now;
  }
  return OkStatus();
}

// Starts to receive what is there and hands on what has come, in the order in
// which it was found.
Status MpiEndpoint::ReceiveFrom(Lane lane) {
  std::deque<Receiving>& queue = receiving_[static_cast<int>(lane)];
  int64_t bytes = 0;
  for (const Receiving& receiving : queue) {
    bytes += receiving.transfer.size_bytes;
  }
  while (queue.size() < kReceivesMax && bytes < kReceiveBytesMax) {
    Receiving receiving;
    SHOAL_ASSIGN_OR_RETURN(
        receiving.transfer,
        StartMpiReceive(world_, MpiTag(number_, lane), &receiving.rank));
    if (receiving.transfer.request == nullptr) {
      break;
    }
    bytes += receiving.transfer.size_bytes;
    queue.push_back(std::move(receiving));
  }
  for (Receiving& receiving : queue) {
    int done = 0;
    if (!receiving.done) {
      SHOAL_RETURN_IF_ERROR(
          world_.Check(world_.table().test(receiving.transfer.request, &done),
                       "MPI_Imrecv"));
      receiving.done = done != 0;
    }
  }
  while (!queue.empty() && queue.front().done) {
    const Receiving front = std::move(queue.front());
    queue.pop_front();
    Handle(front.rank, lane, front.transfer.pieces[0]);
  }
  return OkStatus();
}

void MpiEndpoint::Handle(int rank, Lane lane, const Buffer& bytes) {
  StatusOr<MpiReceived> got = DecodeMpi(bytes);
  if (!got.ok()) {
    // All ranks run this program; which session it was of is not known.
    for (const auto& [id, peer] : peers_) {
      if (peer->address.rank == rank && peer->broken.ok()) {
        peer->broken = got.status();
      }
    }
    return;
  }
  const MpiEnvelope& envelope = got->envelope;
  switch (envelope.kind) {
    case MpiEnvelope::kHello:
      return OnHello(rank, envelope);
    case MpiEnvelope::kWelcome:
    case MpiEnvelope::kRefuse:
      return OnAnswer(envelope);
    default:
      return OnSession(envelope, lane, std::move(got->message));
  }
}

void MpiEndpoint::OnHello(int rank, const MpiEnvelope& hello) {
  const MpiAddress address = {rank, static_cast<int>(hello.from_number)};
  if (hello.to != self_ || hello.from == self_ ||
      forgotten_.contains(hello.from)) {
    SendSignal(MpiEnvelope::kRefuse, hello.from, address, 0,
               hello.from_session);
    return;
  }
  auto it = peers_.find(hello.from);
  if (it != peers_.end() && it->second->theirs == hello.from_session) {
    return;  // What it sent on the other lane was faster.
  }
  if (it != peers_.end() && (it->second->open() || !it->second->broken.ok())) {
    MpiPeer& old = *it->second;
    if (old.broken.ok()) {
      old.broken = UnavailableError(
          StrCat(hello.from, " ended its connection and began another"));
    }
    HangUp(old, /*say_bye=*/false);
    inbox_.PushDown(old.id, old.broken);
    peers_.erase(it);
    it = peers_.end();
  }
  if (it == peers_.end()) {
    auto made = std::make_unique<MpiPeer>();
    made->id = hello.from;
    made->address = address;
    made->session = EntropySeed() | 1;
    it = peers_.emplace(hello.from, std::move(made)).first;
  }
  // Both may have called: each call then begins its end's session, and each
  // answer changes nothing.
  MpiPeer& peer = *it->second;
  peer.theirs = hello.from_session;
  peer.answer_by = Time::max();
  SendSignal(MpiEnvelope::kWelcome, peer.id, peer.address, peer.session,
             peer.theirs);
}

void MpiEndpoint::OnAnswer(const MpiEnvelope& answer) {
  const auto it = peers_.find(answer.from);
  // A refusal may come from another endpoint than the one that was called.
  for (auto& [id, peer] : peers_) {
    if (peer->session == answer.to_session && !peer->open() &&
        answer.kind == MpiEnvelope::kRefuse) {
      peer->broken = UnavailableError(StrCat("nobody takes calls for ", id,
                                             " at 'mpi:", peer->address.rank,
                                             "/", peer->address.number, "'"));
      return;
    }
  }
  if (it == peers_.end() || it->second->session != answer.to_session ||
      it->second->open() || answer.kind != MpiEnvelope::kWelcome) {
    return;
  }
  it->second->theirs = answer.from_session;
  it->second->answer_by = Time::max();
}

void MpiEndpoint::OnSession(const MpiEnvelope& envelope, Lane lane,
                            Message message) {
  const auto it = peers_.find(envelope.from);
  if (it == peers_.end() || !it->second->broken.ok()) {
    return;
  }
  MpiPeer& peer = *it->second;
  if (!peer.open() && envelope.to_session == peer.session) {
    // What it sent on this lane passed its answer on the other.
    peer.theirs = envelope.from_session;
    peer.answer_by = Time::max();
  }
  if (!peer.open() || envelope.from_session != peer.theirs) {
    return;  // Of a session that is over.
  }
  if (envelope.kind == MpiEnvelope::kBye) {
    peer.said_bye = true;
    peer.num_bulk_said = envelope.num_bulk;
  } else {
    peer.num_bulk_received += lane == Lane::kBulk ? 1 : 0;
    inbox_.PushMessage(peer.id, std::move(message));
  }
  if (peer.said_bye && peer.num_bulk_received >= peer.num_bulk_said) {
    peer.broken = UnavailableError(StrCat(peer.id, " ended its connection"));
  }
}

// --- What goes. ---

void MpiEndpoint::Service(MpiPeer& peer, Time now) {
  if (peer.broken.ok() && now >= peer.answer_by) {
    peer.broken = UnavailableError(StrCat(
        peer.id, " at 'mpi:", peer.address.rank, "/", peer.address.number,
        "' did not answer within ", ToString(kAnswerWithin)));
  }
  if (!peer.broken.ok()) {
    return;
  }
  TestSends(peer);
  StartSends(peer);
  // Half of it free, so that sender and receiver do not take turns.
  if (peer.wants_room && peer.queued_bytes <= queue_bytes_max_ / 2) {
    peer.wants_room = false;
    inbox_.PushSendable(peer.id);
  }
}

void MpiEndpoint::StartSends(MpiPeer& peer) {
  if (!peer.open()) {
    return;
  }
  for (const Lane lane : {Lane::kUrgent, Lane::kBulk}) {
    const int i = static_cast<int>(lane);
    while (peer.broken.ok() && !peer.waiting[i].empty() &&
           peer.started[i].size() < kSendsMax &&
           (lane == Lane::kUrgent || peer.bulk_bytes < kBulkBytesMax)) {
      const MpiPeer::Waiting next = std::move(peer.waiting[i].front());
      peer.waiting[i].pop_front();
      MpiEnvelope envelope;
      envelope.from = self_;
      envelope.to = peer.id;
      envelope.from_session = peer.session;
      envelope.to_session = peer.theirs;
      envelope.from_number = static_cast<uint32_t>(number_);
      StatusOr<MpiTransfer> sent = StartMpiSend(
          world_, peer.address.rank, MpiTag(peer.address.number, lane),
          EncodeMpi(envelope, next.message));
      if (!sent.ok()) {
        peer.broken = UnavailableError(
            StrCat("rank ", peer.address.rank, ": ", sent.status().message()));
        return;
      }
      peer.started[i].push_back(*std::move(sent));
      peer.started_bytes[i].push_back(next.size_bytes);
      if (lane == Lane::kBulk) {
        ++peer.num_bulk_sent;
        peer.bulk_bytes += next.size_bytes;
      }
      if (peer.address.rank == world_.rank()) {
        hub_.Ring(peer.address.number);
      }
      quiet_since_ = std::chrono::steady_clock::now();
    }
  }
}

void MpiEndpoint::TestSends(MpiPeer& peer) {
  for (int i = 0; i < kNumLanes; ++i) {
    while (!peer.started[i].empty()) {
      int done = 0;
      const Status tested = world_.Check(
          world_.table().test(peer.started[i].front().request, &done),
          "MPI_Issend");
      if (tested.ok() && done == 0) {
        break;
      }
      const int64_t size = peer.started_bytes[i].front();
      peer.started[i].pop_front();
      peer.started_bytes[i].pop_front();
      peer.queued_bytes -= size;
      peer.bulk_bytes -= i == static_cast<int>(Lane::kBulk) ? size : 0;
      if (!tested.ok()) {
        peer.broken = UnavailableError(
            StrCat("rank ", peer.address.rank, ": ", tested.message()));
        return;
      }
    }
  }
}

// Short messages that nobody waits for.
void MpiEndpoint::SendSignal(MpiEnvelope::Kind kind, EndpointId to,
                             MpiAddress address, uint64_t session,
                             uint64_t theirs, uint64_t num_bulk) {
  MpiEnvelope envelope;
  envelope.kind = kind;
  envelope.from = self_;
  envelope.to = to;
  envelope.from_session = session;
  envelope.to_session = theirs;
  envelope.from_number = static_cast<uint32_t>(number_);
  envelope.num_bulk = num_bulk;
  StatusOr<MpiTransfer> sent =
      StartMpiSend(world_, address.rank, MpiTag(address.number, Lane::kUrgent),
                   EncodeMpi(envelope, Message()));
  if (sent.ok()) {
    hub_.Bury(*std::move(sent));
  }
  if (address.rank == world_.rank()) {
    hub_.Ring(address.number);
  }
  quiet_since_ = std::chrono::steady_clock::now();
}

// What MPI has already still goes out; the rest does not.
void MpiEndpoint::HangUp(MpiPeer& peer, bool say_bye) {
  for (auto& lane : peer.started) {
    for (MpiTransfer& transfer : lane) {
      hub_.Bury(std::move(transfer));
    }
    lane.clear();
  }
  if (say_bye && peer.broken.ok()) {
    SendSignal(MpiEnvelope::kBye, peer.id, peer.address, peer.session,
               peer.theirs, peer.num_bulk_sent);
  }
}

// --- Turns. ---

void MpiEndpoint::Rest(Time now, Time end) {
  const Duration quiet = now - quiet_since_;
  if (quiet < kAskFor) {
    sched_yield();
    return;
  }
  bool busy = false;
  for (int i = 0; i < kNumLanes; ++i) {
    busy |= !receiving_[i].empty();
    for (const auto& [id, peer] : peers_) {
      busy |= !peer->started[i].empty();
    }
  }
  bell_->Wait(std::min<Duration>(
      end - now, std::clamp<Duration>(quiet / 2, kPauseMin,
                                      busy ? kPauseMaxBusy : kPauseMax)));
}

}  // namespace
}  // namespace shoal::comm
