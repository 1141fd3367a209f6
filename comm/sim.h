#ifndef SHOAL_COMM_SIM_H_
#define SHOAL_COMM_SIM_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/status.h"
#include "base/storage.h"
#include "base/time.h"
#include "comm/message.h"
#include "comm/node.h"

namespace shoal::comm {

// What a simulated network and its machines do to nodes. All lengths are drawn
// evenly from [min, max] unless said otherwise.
struct SimOptions {
  // Each message takes this long, but never overtakes one of its peer and lane.
  Duration delay_min = 20us;
  Duration delay_max = 2ms;
  // A share of the messages takes up to `long_delay_max`.
  double long_delay_chance = 0.01;
  Duration long_delay_max = 300ms;

  // Mean time between two losses of a connection somewhere; 0 for none. Then
  // what is under way between the two is gone and both learn of it.
  Duration loss_every = 0ns;
  // How long after a loss or a crash a peer's OnPeerDown() comes.
  Duration detect_min = 0ns;
  Duration detect_max = 200ms;
  // Of a share of the losses one of the two learns only up to so much later.
  double late_chance = 0;
  Duration late_max = 1500ms;
  // Into a partition: when the two ends hold their connection to be lost.
  Duration silence_min = 200ms;
  Duration silence_max = 1s;

  // Each node's clock is up to so much ahead of the world's, and too fast or
  // too slow by up to this share.
  Duration clock_offset_max = 0ns;
  double clock_drift_max = 0;

  Duration storage_min = 100us;
  Duration storage_max = 20ms;
  Duration compute_min = 10us;
  Duration compute_max = 5ms;

  int64_t send_queue_bytes_max = int64_t{256} << 20;  // per peer
};

// Runs nodes in one thread under a virtual clock. All that chance decides comes
// from the seed, so the same nodes and calls give the same run, which
// trace_hash() shows. Not thread-safe; NodeContext::Post() too is for this
// thread only here.
//
// Names are for the test; a node that restarts under its name is a new endpoint
// with a new id, unless it is given the old one. Addresses are "sim:<id>".
class SimWorld {
 public:
  using NodeFactory = std::function<std::unique_ptr<Node>()>;

  explicit SimWorld(uint64_t seed, const SimOptions& options = {});
  ~SimWorld();
  SimWorld(const SimWorld&) = delete;
  SimWorld& operator=(const SimWorld&) = delete;

  // Makes a node; its OnStart() runs as the next event. A zero `id` is drawn
  // from the seed. The name and a given id must be new.
  EndpointId AddNode(const std::string& name, const NodeFactory& factory,
                     EndpointId id = {});

  // Destroys the node at once, as kill -9 does: its timers, posts and works are
  // dropped, what it sent and is still under way is lost, and its peers get
  // OnPeerDown() a little later. A storage work that has begun is cut off
  // anywhere, see TornStorage. No effect when it is down.
  // From a callback of that node itself it happens right after the callback.
  void CrashNode(const std::string& name);

  // Makes a new node for a name that crashed or stopped.
  EndpointId RestartNode(const std::string& name, const NodeFactory& factory,
                         EndpointId id = {});

  // Breaks the connection of two nodes, if there is one.
  void LoseConnection(const std::string& a, const std::string& b);
  // Breaks one connection, whichever; false if there is none.
  bool LoseAnyConnection();

  // Nothing gets from one node to the other for `length`: what is sent arrives
  // afterwards, in order, unless the two give their connection up before. Nor
  // can they connect. One way; the other way is another call.
  void Partition(const std::string& from, const std::string& to,
                 Duration length);

  // For `length` the node takes 50 us times `factor` for each message, and
  // `factor` times as long to compute and to store.
  void SlowDown(const std::string& name, double factor, Duration length);

  // For `length` nothing that is written to storage() fits.
  void FillDisk(Duration length);

  // Calls `action` at a virtual time (now, if it has passed): planned faults.
  void At(Time time, std::function<void()> action);

  // Runs events until `done` holds (asked after each) or the virtual clock
  // passes `limit` from now. Errors: kDeadlineExceeded (the limit passed),
  // kUnavailable (no event is left, so that it would never hold).
  Status Run(const std::function<bool()>& done, Duration limit);
  // Runs all events of the next `length`.
  void RunFor(Duration length);

  Time Now() const;
  uint64_t seed() const;
  int64_t num_events() const;
  int64_t num_losses() const;  // of connections, but for those of crashes

  // Over all events so far: their times, nodes and contents.
  uint64_t trace_hash() const;

  // Null when it is down. A node that called Stop() is still there to look at.
  Node* node(const std::string& name) const;
  EndpointId id(const std::string& name) const;
  std::string address(const std::string& name) const;
  // What the node gave to Stop(); none while it runs or after a crash.
  std::optional<Status> stopped(const std::string& name) const;

  // The files of all nodes.
  MemoryStorage& storage();

  struct Impl;  // for its own sources

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_SIM_H_
