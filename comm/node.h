#ifndef SHOAL_COMM_NODE_H_
#define SHOAL_COMM_NODE_H_

#include <functional>
#include <string>

#include "base/random.h"
#include "base/status.h"
#include "base/storage.h"
#include "base/time.h"
#include "comm/endpoint.h"
#include "comm/message.h"

namespace shoal::comm {

enum class TimerId : uint64_t { kNone = 0 };

// All that a node may use of the world. Calls never block, and callbacks run on
// the thread that pumps the node, never inside the call that asked for them.
//
// Belongs to the node's thread but for Post(). Valid until the node is
// destroyed.
class NodeContext {
 public:
  virtual ~NodeContext() = default;

  virtual EndpointId self() const = 0;
  virtual std::string address() const = 0;  // for peers to connect to
  virtual Time Now() const = 0;

  // See Endpoint.
  virtual Status Connect(EndpointId peer, const std::string& address) = 0;
  virtual void Disconnect(EndpointId peer) = 0;
  virtual Status Send(EndpointId peer, Lane lane, Message message) = 0;

  // A hint that messages are expected before `until`: until then the pump looks
  // for them instead of sleeping (and yields its core to whoever wants it),
  // since a wake-up may take longer than what is waited for.
  virtual void LookUntil(Time until) = 0;

  // Calls `fire` once at `at`, or soon if that has passed.
  virtual TimerId SetTimer(Time at, std::function<void()> fire) = 0;
  // No effect on a timer that has fired or is kNone.
  virtual void CancelTimer(TimerId timer) = 0;

  // Runs `work` where blocking is allowed, then `done` on the node's thread.
  // Works of one node run one after another in the order they were started.
  virtual void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                            std::function<void(StatusOr<Buffer>)> done) = 0;

  // Runs `compute` away from the node's thread (in simulation: at once, its
  // length drawn from the seed), then `done` on the node's thread. One at a
  // time per lane, in order; lanes 0 .. kNumComputeLanes - 1 run beside each
  // other. `compute` may use what no other thread touches.
  static constexpr int kNumComputeLanes = 2;
  virtual void StartCompute(int lane, std::function<void()> compute,
                            std::function<void()> done) = 0;

  // Runs `task` on the node's thread soon. Any thread may call it.
  virtual void Post(std::function<void()> task) = 0;

  // For names and jitter; seeded by entropy, in simulation by the seed.
  virtual Random& random() = 0;

  // Ends the pump of this node after the current callback; `why` is what its
  // owner gets. The first call counts.
  virtual void Stop(Status why) = 0;
};

// An event-driven state machine: shards, the coordinator and the worker are
// nodes. It never blocks and reads time, randomness and files only through its
// context, so that a simulation can pump a whole cluster in one thread.
//
// A node's state belongs to the thread that pumps it: no locks.
class Node : public EndpointSink {
 public:
  // Called once before anything else.
  virtual void OnStart(NodeContext& context) = 0;

  // For nodes that keep nothing to send later.
  void OnSendable(EndpointId /*peer*/) override {}
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_NODE_H_
