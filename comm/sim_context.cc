#include <cmath>
#include <utility>

#include "base/strcat.h"
#include "comm/sim_world.h"

namespace shoal::comm {
namespace {

// The world as one node sees it. Stays when the node is gone, and then does
// nothing.
class Context : public NodeContext {
 public:
  Context(SimWorld::Impl& world, EndpointId id, uint64_t incarnation)
      : world_(world),
        id_(id),
        random_(HashKey(HashKey(world.seed, HashText("sim node")),
                        HashKey(id.value, incarnation))) {
    Random clock(HashKey(HashKey(world.seed, HashText("sim clock")),
                         HashKey(id.value, incarnation)));
    offset_ = FromSeconds(ToSeconds(world.options.clock_offset_max) *
                          clock.Uniform());
    drift_ = world.options.clock_drift_max * (2 * clock.Uniform() - 1);
  }

  EndpointId self() const override { return id_; }
  std::string address() const override { return SimAddress(id_); }
  Time Now() const override { return Local(world_.now); }

  Status Connect(EndpointId peer, const std::string& address) override {
    SimWorld::Impl::NodeState* const state = Usable();
    if (state == nullptr) {
      return Gone();
    }
    return world_.Connect(*state, peer, address);
  }

  void Disconnect(EndpointId peer) override {
    if (SimWorld::Impl::NodeState* const state = Usable(); state != nullptr) {
      state->forgotten.insert(peer);
      state->sessions.erase(peer);
      // Also a connection that the peer made and that has not come through.
      SimWorld::Impl::Link& link =
          world_.links[SimWorld::Impl::EndsOf(id_, peer)];
      if (std::exchange(link.open, false)) {
        world_.ScheduleDown(
            peer, id_, link.session, world_.now + world_.Delay(),
            UnavailableError(StrCat(id_, " ended the connection")));
      }
    }
  }

  Status Send(EndpointId peer, Lane lane, Message message) override {
    SimWorld::Impl::NodeState* const state = Usable();
    if (state == nullptr) {
      return Gone();
    }
    return world_.Send(*state, peer, lane, std::move(message));
  }

  void LookUntil(Time /*until*/) override {}
  TimerId SetTimer(Time at, std::function<void()> fire) override {
    SimWorld::Impl::NodeState* const state = Usable();
    if (state == nullptr) {
      return TimerId::kNone;
    }
    const uint64_t timer = state->next_timer++;
    state->timers.emplace(timer, std::move(fire));
    world_.Schedule(OfWorld(at), EventKind::kTimer, id_, timer, [state, timer] {
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
    if (SimWorld::Impl::NodeState* const state = world_.Find(id_);
        state != nullptr) {
      state->timers.erase(static_cast<uint64_t>(timer));
    }
  }

  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    SimWorld::Impl::NodeState* const state = Usable();
    if (state == nullptr) {
      return;
    }
    const Time begin = std::max(world_.now, state->storage_free);
    const Time end =
        begin + Longer(*state, world_.Between(world_.options.storage_min,
                                              world_.options.storage_max));
    state->storage_free = end;
    auto result = std::make_shared<StatusOr<Buffer>>(Buffer());
    world_.Schedule(begin, EventKind::kStorage, id_, 0,
                    [this, state, result, work = std::move(work)] {
                      state->storing =
                          std::make_shared<TornStorage>(world_.storage);
                      *result = work(*state->storing);
                    });
    world_.Schedule(end, EventKind::kStorageDone, id_, 0,
                    [state, result, done = std::move(done)] {
                      state->storing.reset();
                      if (done) {
                        done(std::move(*result));
                      }
                    });
  }

  void StartCompute(int lane, std::function<void()> compute,
                    std::function<void()> done) override {
    SimWorld::Impl::NodeState* const state = Usable();
    if (state == nullptr) {
      return;
    }
    SHOAL_CHECK(lane >= 0 && lane < kNumComputeLanes);
    Time& free = state->compute_free[lane];
    const Time begin = std::max(world_.now, free);
    free = begin + Longer(*state, world_.Between(world_.options.compute_min,
                                                 world_.options.compute_max));
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
    SimWorld::Impl::NodeState* const state = Usable();
    if (state == nullptr || state->stopping) {
      return;
    }
    state->stopping = true;
    state->stop_status = std::move(why);
  }

 private:
  SimWorld::Impl::NodeState* Usable() { return world_.FindAlive(id_); }
  Status Gone() const {
    return FailedPreconditionError(StrCat(id_, " is not running"));
  }
  Duration Longer(const SimWorld::Impl::NodeState& state,
                  Duration length) const {
    const double factor = world_.SlowFactor(state);
    return factor == 1 ? length : FromSeconds(ToSeconds(length) * factor);
  }
  // The node's clock.
  Time Local(Time time) const {
    return time + offset_ +
           Duration(static_cast<int64_t>(
               drift_ * static_cast<double>((time - kBegin).count())));
  }
  // The first time at which the node's clock says `local`.
  Time OfWorld(Time local) const {
    if (drift_ == 0) {
      return local - offset_;
    }
    Time time =
        kBegin + Duration(static_cast<int64_t>(
                     static_cast<double>((local - offset_ - kBegin).count()) /
                     (1 + drift_)));
    while (Local(time) < local) {
      time += 1ns;
    }
    return time;
  }

  SimWorld::Impl& world_;
  const EndpointId id_;
  Random random_;
  Duration offset_;
  double drift_ = 0;
};

}  // namespace

std::unique_ptr<NodeContext> SimWorld::Impl::MakeContext(EndpointId id,
                                                         uint64_t incarnation) {
  return std::make_unique<Context>(*this, id, incarnation);
}

}  // namespace shoal::comm
