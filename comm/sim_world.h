#ifndef SHOAL_COMM_SIM_WORLD_H_
#define SHOAL_COMM_SIM_WORLD_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "comm/sim.h"
#include "comm/torn_storage.h"

// Inside of SimWorld, for its own sources.
namespace shoal::comm {

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
  kBacklog,
};

// Of the world.
inline constexpr Time kBegin{Duration(std::chrono::hours(1))};

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

std::string SimAddress(EndpointId id);
// What arrives is the receiver's, and stays when the sender crashes.
void OwnFrames(Message& message);

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

  struct NodeState {
    std::string name;
    EndpointId id;
    uint64_t incarnation = 0;  // another for each node, also of the same id
    std::unique_ptr<Node> node;
    std::unique_ptr<NodeContext> context;  // outlives the node
    bool alive = true;                     // false after a crash or a Stop()
    bool stopping = false;
    std::optional<Status> stop_status;
    std::map<EndpointId, uint64_t> sessions;  // peers that it holds to be up
    std::set<EndpointId> forgotten;
    uint64_t next_timer = 1;
    std::map<uint64_t, std::function<void()>> timers;
    // Sent and not arrived, but for those that have expired.
    std::deque<std::weak_ptr<Message>> under_way;
    Time storage_free;
    std::shared_ptr<TornStorage> storing;  // the work that has begun
    Time compute_free[NodeContext::kNumComputeLanes];
    double slow_factor = 1;
    Time slow_until;
    Time busy_until;                            // with the message before
    std::deque<std::function<void()>> backlog;  // messages, meanwhile
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
  std::unique_ptr<NodeContext> MakeContext(EndpointId id, uint64_t incarnation);
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
  void Handle(NodeState& state, EndpointId from, uint64_t session,
              const std::shared_ptr<Message>& message);
  void HandleBacklog(NodeState& state);
  void Partition(EndpointId from, EndpointId to, Duration length);
  // When what is sent now gets through; in the past if it does at once.
  Time BlockedUntil(EndpointId from, EndpointId to) const {
    const auto it = blocked.find({from, to});
    return it == blocked.end() ? Time() : it->second;
  }
  bool Blocked(const Ends& ends) const {
    return BlockedUntil(ends.first, ends.second) > now ||
           BlockedUntil(ends.second, ends.first) > now;
  }
  double SlowFactor(const NodeState& state) const {
    return now < state.slow_until ? state.slow_factor : 1;
  }
  bool LoseAny();
  void ReturnRoom(Link& link, EndpointId from, EndpointId to, int64_t bytes);
  void ScheduleNextLoss();

  const uint64_t seed;
  const SimOptions options;
  Random random;
  Time now = kBegin;
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
  std::map<std::pair<EndpointId, EndpointId>, Time> blocked;  // until
  int64_t num_losses = 0;
  EndpointId running;  // the node whose callback runs
  bool crash_running = false;
  MemoryStorage storage;
  Time disk_full_until;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_SIM_WORLD_H_
