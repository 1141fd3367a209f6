#include "comm/sim.h"

#include <algorithm>
#include <utility>

#include "base/random.h"
#include "base/strcat.h"
#include "comm/sim_world.h"

namespace shoal::comm {

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
  state.context = MakeContext(id, state.incarnation);
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
  if (state->storing != nullptr) {
    const auto changes = static_cast<uint64_t>(state->storing->num_changes());
    storage.SetCapacity(INT64_MAX);
    state->storing->TearAfter(random.Below(changes + 1), random.Uniform());
    storage.SetCapacity(now < disk_full_until ? 0 : INT64_MAX);
    state->storing.reset();
  }
  state->node.reset();
  state->timers.clear();
  state->backlog.clear();
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

bool SimWorld::LoseAnyConnection() { return impl_->LoseAny(); }

void SimWorld::Partition(const std::string& from, const std::string& to,
                         Duration length) {
  impl_->Partition(id(from), id(to), length);
}

void SimWorld::SlowDown(const std::string& name, double factor,
                        Duration length) {
  Impl::NodeState* const state = impl_->FindByName(name);
  SHOAL_CHECK(state != nullptr && factor >= 1);
  state->slow_factor = factor;
  state->slow_until = impl_->now + length;
}

void SimWorld::FillDisk(Duration length) {
  impl_->disk_full_until =
      std::max(impl_->disk_full_until, impl_->now + length);
  impl_->storage.SetCapacity(0);
  At(impl_->disk_full_until, [this] {
    if (impl_->now >= impl_->disk_full_until) {
      impl_->storage.SetCapacity(INT64_MAX);
    }
  });
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
int64_t SimWorld::num_losses() const { return impl_->num_losses; }
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
