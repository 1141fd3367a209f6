#include "comm/sim.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/strcat.h"
#include "comm/transport.h"

namespace shoal::comm {
namespace {

// What an event is, for the trace.
enum class EventKind : uint64_t {
  kStart = 1,
  kMessage,
  kPeerDown,
  kSendable,
  kTimer,
  kPost,
  kStorage,
  kStorageDone,
  kCompute,
  kComputeDone,
  kAction,
  kLoss,
  kCrash,
};

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

// What arrives is the receiver's, and stays when the sender crashes.
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

struct Event {
  Time time;
  uint64_t sequence = 0;  // breaks ties: first asked, first run
  EventKind kind = EventKind::kAction;
  uint64_t detail = 0;       // into the trace
  EndpointId node;           // skipped when it is down; 0 for the world's own
  uint64_t incarnation = 0;  // of the node; skipped when it is another by then
  bool background = false;   // does not keep the world going
  std::function<void()> run;
};

struct RunsLater {
  bool operator()(const Event& a, const Event& b) const {
    return a.time != b.time ? a.time > b.time : a.sequence > b.sequence;
  }
};

}  // namespace

struct SimWorld::Impl {
  // The connection of two nodes. Both ends know its number; an end that has
  // been told of its loss knows none.
  struct Link {
    uint64_t session = 0;
    bool open = false;
    // Per sender (0 is the one with the smaller id).
    int64_t bytes_under_way[2] = {0, 0};
    bool wants_room[2] = {false, false};
    Time last_arrival[2][kNumLanes];
  };
  using Ends = std::pair<EndpointId, EndpointId>;

  class Context;

  struct NodeState {
    std::string name;
    EndpointId id;
    uint64_t incarnation = 0;  // another for each node, also of the same id
    std::unique_ptr<Node> node;
    std::unique_ptr<Context> context;  // outlives the node
    bool alive = true;                 // false after a crash or a Stop()
    bool stopping = false;
    std::optional<Status> stop_status;
    std::map<EndpointId, uint64_t> sessions;  // peers that it holds to be up
    std::set<EndpointId> forgotten;
    uint64_t next_timer = 1;
    std::map<uint64_t, std::function<void()>> timers;
    // Sent and not arrived, but for those that have expired.
    std::deque<std::weak_ptr<Message>> under_way;
    Time storage_free;
    Time compute_free[NodeContext::kNumComputeLanes];
  };

  Impl(uint64_t the_seed, const SimOptions& the_options)
      : seed(the_seed),
        options(the_options),
        random(HashKey(the_seed, HashText("sim world"))),
        hash(HashKey(the_seed, HashText("sim trace"))) {}

  static Ends EndsOf(EndpointId a, EndpointId b) {
    return a < b ? Ends(a, b) : Ends(b, a);
  }
  static int SideOf(EndpointId from, EndpointId to) {
    return from < to ? 0 : 1;
  }

  Duration Between(Duration low, Duration high) {
    const Duration span = std::max<Duration>(high - low, Duration(0));
    return low + Duration(static_cast<int64_t>(
                     random.Below(static_cast<uint64_t>(span.count()) + 1)));
  }

  Duration Delay() {
    if (random.Uniform() < options.long_delay_chance) {
      return Between(options.delay_min,
                     std::max(options.delay_min, options.long_delay_max));
    }
    return Between(options.delay_min, options.delay_max);
  }

  void Schedule(Time time, EventKind kind, EndpointId node, uint64_t detail,
                std::function<void()> run, bool background = false) {
    num_foreground += background ? 0 : 1;
    const NodeState* const state = Find(node);
    events.push_back({std::max(time, now), next_event++, kind, detail, node,
                      state == nullptr ? 0 : state->incarnation, background,
                      std::move(run)});
    std::push_heap(events.begin(), events.end(), RunsLater());
  }

  NodeState* Find(EndpointId id) {
    const auto it = nodes.find(id);
    return it == nodes.end() ? nullptr : &it->second;
  }
  NodeState* FindAlive(EndpointId id) {
    NodeState* const state = Find(id);
    return state != nullptr && state->alive ? state : nullptr;
  }
  NodeState* FindByName(const std::string& name) {
    const auto it = ids.find(name);
    return it == ids.end() ? nullptr : Find(it->second);
  }

  bool RunOne();
  void RunEvent(const Event& event);
  EndpointId Add(const std::string& name, const NodeFactory& factory,
                 EndpointId id);
  void Crash(EndpointId id);
  void FinishStop(NodeState& state);
  void CutAll(EndpointId id);
  void Lose(const Ends& ends);
  void ScheduleDown(EndpointId whom, EndpointId peer, uint64_t session,
                    Time time, const Status& why);
  void TellDown(NodeState& state, EndpointId peer, const Status& why);
  Status Connect(NodeState& state, EndpointId peer, const std::string& address);
  Status Send(NodeState& state, EndpointId peer, Lane lane, Message message);
  void Arrive(EndpointId from, EndpointId to, uint64_t session,
              const std::shared_ptr<Message>& message);
  void ReturnRoom(Link& link, EndpointId from, EndpointId to, int64_t bytes);
  void ScheduleNextLoss();

  const uint64_t seed;
  const SimOptions options;
  Random random;
  Time now{Duration(std::chrono::hours(1))};
  uint64_t hash;
  int64_t num_events = 0;
  uint64_t next_event = 1;
  uint64_t next_session = 1;
  uint64_t next_incarnation = 1;
  int64_t num_foreground = 0;
  bool losses_started = false;
  std::vector<Event> events;              // a heap
  std::map<EndpointId, NodeState> nodes;  // the dead ones too
  std::map<std::string, EndpointId> ids;
  std::map<Ends, Link> links;
  EndpointId running;  // the node whose callback runs
  bool crash_running = false;
  MemoryStorage storage;
};

// The world as one node sees it. Stays when the node is gone, and then does
// nothing.
class SimWorld::Impl::Context : public NodeContext {
 public:
  Context(Impl& world, EndpointId id, uint64_t incarnation)
      : world_(world),
        id_(id),
        random_(HashKey(HashKey(world.seed, HashText("sim node")),
                        HashKey(id.value, incarnation))) {}

  EndpointId self() const override { return id_; }
  std::string address() const override { return SimAddress(id_); }
  Time Now() const override { return world_.now; }

  Status Connect(EndpointId peer, const std::string& address) override {
    NodeState* const state = Usable();
    if (state == nullptr) {
      return Gone();
    }
    return world_.Connect(*state, peer, address);
  }

  void Disconnect(EndpointId peer) override {
    if (NodeState* const state = Usable(); state != nullptr) {
      state->forgotten.insert(peer);
      state->sessions.erase(peer);
      // Also a connection that the peer made and that has not come through.
      Link& link = world_.links[EndsOf(id_, peer)];
      if (std::exchange(link.open, false)) {
        world_.ScheduleDown(
            peer, id_, link.session, world_.now + world_.Delay(),
            UnavailableError(StrCat(id_, " ended the connection")));
      }
    }
  }

  Status Send(EndpointId peer, Lane lane, Message message) override {
    NodeState* const state = Usable();
    if (state == nullptr) {
      return Gone();
    }
    return world_.Send(*state, peer, lane, std::move(message));
  }

  void LookUntil(Time /*until*/) override {}
  TimerId SetTimer(Time at, std::function<void()> fire) override {
    NodeState* const state = Usable();
    if (state == nullptr) {
      return TimerId::kNone;
    }
    const uint64_t timer = state->next_timer++;
    state->timers.emplace(timer, std::move(fire));
    world_.Schedule(at, EventKind::kTimer, id_, timer, [state, timer] {
      const auto it = state->timers.find(timer);
      if (it != state->timers.end()) {
        const std::function<void()> run = std::move(it->second);
        state->timers.erase(it);
        run();
      }
    });
    return TimerId{timer};
  }

  void CancelTimer(TimerId timer) override {
    // By the state even of a node that is going: its members cancel theirs.
    if (NodeState* const state = world_.Find(id_); state != nullptr) {
      state->timers.erase(static_cast<uint64_t>(timer));
    }
  }

  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    NodeState* const state = Usable();
    if (state == nullptr) {
      return;
    }
    const Time begin = std::max(world_.now, state->storage_free);
    const Time end = begin + world_.Between(world_.options.storage_min,
                                            world_.options.storage_max);
    state->storage_free = end;
    auto result = std::make_shared<StatusOr<Buffer>>(Buffer());
    world_.Schedule(begin, EventKind::kStorage, id_, 0,
                    [this, result, work = std::move(work)] {
                      *result = work(world_.storage);
                    });
    world_.Schedule(end, EventKind::kStorageDone, id_, 0,
                    [result, done = std::move(done)] {
                      if (done) {
                        done(std::move(*result));
                      }
                    });
  }

  void StartCompute(int lane, std::function<void()> compute,
                    std::function<void()> done) override {
    NodeState* const state = Usable();
    if (state == nullptr) {
      return;
    }
    SHOAL_CHECK(lane >= 0 && lane < kNumComputeLanes);
    Time& free = state->compute_free[lane];
    const Time begin = std::max(world_.now, free);
    free = begin + world_.Between(world_.options.compute_min,
                                  world_.options.compute_max);
    const auto detail = static_cast<uint64_t>(lane);
    world_.Schedule(begin, EventKind::kCompute, id_, detail,
                    std::move(compute));
    world_.Schedule(free, EventKind::kComputeDone, id_, detail,
                    std::move(done));
  }

  void Post(std::function<void()> task) override {
    if (Usable() != nullptr) {
      world_.Schedule(world_.now, EventKind::kPost, id_, 0, std::move(task));
    }
  }

  Random& random() override { return random_; }

  void Stop(Status why) override {
    NodeState* const state = Usable();
    if (state == nullptr || state->stopping) {
      return;
    }
    state->stopping = true;
    state->stop_status = std::move(why);
  }

 private:
  NodeState* Usable() { return world_.FindAlive(id_); }
  Status Gone() const {
    return FailedPreconditionError(StrCat(id_, " is not running"));
  }

  Impl& world_;
  const EndpointId id_;
  Random random_;
};

EndpointId SimWorld::Impl::Add(const std::string& name,
                               const NodeFactory& factory, EndpointId id) {
  SHOAL_CHECK(!nodes.contains(id));
  while (id.value == 0 || nodes.contains(id)) {
    id.value = random() >> 8;  // short enough to read in a log
  }
  ids[name] = id;
  NodeState& state = nodes[id];
  state.name = name;
  state.id = id;
  state.incarnation = next_incarnation++;
  state.context = std::make_unique<Context>(*this, id, state.incarnation);
  state.storage_free = now;
  std::fill_n(state.compute_free, NodeContext::kNumComputeLanes, now);
  state.node = factory();
  Schedule(now, EventKind::kStart, id, HashText(name),
           [&state] { state.node->OnStart(*state.context); });
  return id;
}

bool SimWorld::Impl::RunOne() {
  if (!losses_started && options.loss_every > Duration(0)) {
    losses_started = true;
    ScheduleNextLoss();
  }
  if (events.empty()) {
    return false;
  }
  std::pop_heap(events.begin(), events.end(), RunsLater());
  const Event event = std::move(events.back());
  events.pop_back();
  num_foreground -= event.background ? 0 : 1;
  now = event.time;
  RunEvent(event);
  return true;
}

void SimWorld::Impl::RunEvent(const Event& event) {
  NodeState* state = nullptr;
  if (event.node.value != 0) {
    state = FindAlive(event.node);
    if (state == nullptr || state->incarnation != event.incarnation) {
      return;
    }
    if (event.kind == EventKind::kTimer &&
        !state->timers.contains(event.detail)) {
      return;  // Cancelled.
    }
  }
  ++num_events;
  hash = HashKey(hash, static_cast<uint64_t>(event.kind));
  hash = HashKey(hash, static_cast<uint64_t>(now.time_since_epoch().count()));
  hash = HashKey(hash, event.node.value);
  hash = HashKey(hash, event.detail);
  running = event.node;
  if (event.run) {
    event.run();
  }
  running = EndpointId{};
  if (state != nullptr && std::exchange(crash_running, false)) {
    Crash(state->id);
  } else if (state != nullptr && state->stopping && state->alive) {
    FinishStop(*state);
  }
}

void SimWorld::Impl::Crash(EndpointId id) {
  NodeState* const state = FindAlive(id);
  if (state == nullptr) {
    return;
  }
  hash = HashKey(hash, static_cast<uint64_t>(EventKind::kCrash));
  state->alive = false;
  state->stop_status.reset();  // It may have called Stop() just before.
  CutAll(id);
  // Frames may borrow memory that goes with the node.
  for (const std::weak_ptr<Message>& sent :
       std::exchange(state->under_way, {})) {
    if (const std::shared_ptr<Message> message = sent.lock()) {
      OwnFrames(*message);
    }
  }
  state->node.reset();
  state->timers.clear();
}

// As Endpoint::Close() does: what was sent still arrives, then the peers see
// the connection end.
void SimWorld::Impl::FinishStop(NodeState& state) {
  state.alive = false;
  for (const auto& [ends, link] : links) {
    if (!link.open || (ends.first != state.id && ends.second != state.id)) {
      continue;
    }
    // Also a peer that this node has not heard of yet.
    const EndpointId peer = ends.first == state.id ? ends.second : ends.first;
    Time last = now + Delay();
    for (const Time arrival : link.last_arrival[SideOf(state.id, peer)]) {
      last = std::max(last, arrival + 1ns);
    }
    ScheduleDown(peer, state.id, link.session, last,
                 UnavailableError(StrCat(state.name, " ended its connection")));
  }
  state.sessions.clear();
  state.timers.clear();
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
  const Status why = UnavailableError("the connection was lost");
  for (const auto& [whom, peer] : {ends, Ends(ends.second, ends.first)}) {
    ScheduleDown(whom, peer, link.session,
                 now + Between(options.detect_min, options.detect_max), why);
  }
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
  Link& link = links[EndsOf(state.id, peer)];
  if (!link.open) {
    link = Link();
    link.session = next_session++;
    link.open = true;
  }
  state.sessions[peer] = link.session;
  const NodeState* const other = FindAlive(peer);
  if (other == nullptr || other->forgotten.contains(state.id)) {
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
  if (state.forgotten.contains(from)) {
    return;
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

void SimWorld::Impl::ScheduleNextLoss() {
  // Exponential gaps: losses come in bunches too.
  const double mean = ToSeconds(options.loss_every);
  const Duration gap = FromSeconds(-mean * std::log1p(-random.Uniform()));
  Schedule(
      now + gap, EventKind::kLoss, EndpointId{}, 0,
      [this] {
        std::vector<Ends> open;
        for (const auto& [ends, link] : links) {
          if (link.open) {
            open.push_back(ends);
          }
        }
        if (!open.empty()) {
          Lose(open[random.Below(open.size())]);
        }
        ScheduleNextLoss();
      },
      /*background=*/true);
}

SimWorld::SimWorld(uint64_t seed, const SimOptions& options)
    : impl_(std::make_unique<Impl>(seed, options)) {}

SimWorld::~SimWorld() {
  // Nodes first: their members still call their contexts.
  for (auto& [id, state] : impl_->nodes) {
    state.alive = false;
    state.node.reset();
  }
}

EndpointId SimWorld::AddNode(const std::string& name,
                             const NodeFactory& factory, EndpointId id) {
  SHOAL_CHECK(!impl_->ids.contains(name));
  return impl_->Add(name, factory, id);
}

void SimWorld::CrashNode(const std::string& name) {
  const Impl::NodeState* const state = impl_->FindByName(name);
  if (state == nullptr) {
    return;
  }
  if (impl_->running == state->id) {
    impl_->crash_running = true;
    return;
  }
  impl_->Crash(state->id);
}

EndpointId SimWorld::RestartNode(const std::string& name,
                                 const NodeFactory& factory, EndpointId id) {
  Impl::NodeState* const old = impl_->FindByName(name);
  SHOAL_CHECK(old != nullptr && !old->alive);
  old->node.reset();
  if (old->id == id) {
    impl_->nodes.erase(id);
  }
  return impl_->Add(name, factory, id);
}

void SimWorld::LoseConnection(const std::string& a, const std::string& b) {
  const EndpointId first = id(a);
  const EndpointId second = id(b);
  impl_->Lose(Impl::EndsOf(first, second));
}

void SimWorld::At(Time time, std::function<void()> action) {
  impl_->Schedule(time, EventKind::kAction, EndpointId{}, 0, std::move(action));
}

Status SimWorld::Run(const std::function<bool()>& done, Duration limit) {
  const Time end = impl_->now + limit;
  while (!done()) {
    if (impl_->num_foreground == 0 || impl_->events.empty()) {
      return UnavailableError(StrCat("the simulation of seed ", impl_->seed,
                                     " came to rest after ", impl_->num_events,
                                     " events: nobody waits for anything"));
    }
    if (impl_->events.front().time > end) {
      impl_->now = end;
      return DeadlineExceededError(
          StrCat("the simulation of seed ", impl_->seed, " is not done after ",
                 ToString(limit), " of virtual time and ", impl_->num_events,
                 " events"));
    }
    impl_->RunOne();
  }
  return OkStatus();
}

void SimWorld::RunFor(Duration length) {
  const Time end = impl_->now + length;
  while (!impl_->events.empty() && impl_->events.front().time <= end) {
    impl_->RunOne();
  }
  impl_->now = end;
}

Time SimWorld::Now() const { return impl_->now; }
uint64_t SimWorld::seed() const { return impl_->seed; }
int64_t SimWorld::num_events() const { return impl_->num_events; }
uint64_t SimWorld::trace_hash() const { return impl_->hash; }
MemoryStorage& SimWorld::storage() { return impl_->storage; }

Node* SimWorld::node(const std::string& name) const {
  const Impl::NodeState* const state = impl_->FindByName(name);
  return state == nullptr ? nullptr : state->node.get();
}

EndpointId SimWorld::id(const std::string& name) const {
  const auto it = impl_->ids.find(name);
  SHOAL_CHECK(it != impl_->ids.end());
  return it->second;
}

std::string SimWorld::address(const std::string& name) const {
  return SimAddress(id(name));
}

std::optional<Status> SimWorld::stopped(const std::string& name) const {
  const Impl::NodeState* const state = impl_->FindByName(name);
  return state == nullptr ? std::nullopt : state->stop_status;
}

}  // namespace shoal::comm
