#ifndef SHOAL_TESTS_SIMULATION_CLUSTER_WORLD_H_
#define SHOAL_TESTS_SIMULATION_CLUSTER_WORLD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "comm/node.h"
#include "comm/sim.h"
#include "ps/coordinator.h"

namespace shoal::simulation {

// A real job (its data prepared once, its model real) that a simulated cluster
// of 3 servers x 2 shards and 3 workers trains for 50 steps, with evaluations
// and checkpoints on the way.
class SimulatedJob {
 public:
  static constexpr int kServers = 3;
  static constexpr int kShards = 2;
  static constexpr int kWorkers = 3;
  static constexpr int64_t kSteps = 50;

  // Writes the data into a folder of its own below the temporary folder.
  // `overrides`: KEY=VALUE of the job.
  static StatusOr<std::unique_ptr<SimulatedJob>> Create(
      const std::vector<std::string>& overrides = {});
  virtual ~SimulatedJob() = default;

  virtual ps::Coordinator::Options CoordinatorOptions() const = 0;
};

// Puts something around a node: to watch it, or to plant a bug in it.
using Decorate = std::function<std::unique_ptr<comm::Node>(
    const std::string& name, std::unique_ptr<comm::Node> node)>;

struct RunPlan {
  uint64_t seed = 1;
  ps::Mode mode = ps::Mode::kSync;
  int64_t staleness = 0;  // bounded
  int workers = SimulatedJob::kWorkers;
  ps::DensePlace dense = ps::DensePlace::kShards;
  bool faults = true;           // lost connections, long delays
  int crashes = 2;              // of workers, at times drawn from the seed
  bool crash_a_server = false;  // for good
  int replicas = 1;
  int server_crashes = 0;  // one after another, each repaired before the next
  int coordinator_crashes = 0;
  ps::RebalanceBy rebalance = ps::RebalanceBy::kBytes;
  int scales = 0;  // to other numbers of servers and workers
  Decorate decorate = {};
};

struct RunResult {
  Status status;       // of the coordinator, or why the world came to no end
  bool ended = false;  // the coordinator stopped within the time limit
  std::string digest;  // of the checkpoint at the end
  uint64_t trace_hash = 0;
  int64_t num_events = 0;
  int crashed = 0;  // servers that were
  int coordinators_crashed = 0;
  int scaled = 0;      // commands that were taken
  double seconds = 0;  // of the virtual clock
};

RunResult RunJob(const SimulatedJob& job, const RunPlan& plan);

// A context that hands everything on; planted bugs change one call of it.
class ForwardingContext : public comm::NodeContext {
 public:
  explicit ForwardingContext(comm::NodeContext& to) : to_(to) {}
  comm::EndpointId self() const override { return to_.self(); }
  std::string address() const override { return to_.address(); }
  Time Now() const override { return to_.Now(); }
  Status Connect(comm::EndpointId peer, const std::string& address) override {
    return to_.Connect(peer, address);
  }
  void Disconnect(comm::EndpointId peer) override { to_.Disconnect(peer); }
  void LookUntil(Time until) override { to_.LookUntil(until); }
  Status Send(comm::EndpointId peer, comm::Lane lane,
              comm::Message message) override {
    return to_.Send(peer, lane, std::move(message));
  }
  comm::TimerId SetTimer(Time at, std::function<void()> fire) override {
    return to_.SetTimer(at, std::move(fire));
  }
  void CancelTimer(comm::TimerId timer) override { to_.CancelTimer(timer); }
  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    to_.StartStorage(std::move(work), std::move(done));
  }
  void StartCompute(int lane, std::function<void()> compute,
                    std::function<void()> done) override {
    to_.StartCompute(lane, std::move(compute), std::move(done));
  }
  void Post(std::function<void()> task) override { to_.Post(std::move(task)); }
  Random& random() override { return to_.random(); }
  void Stop(Status why) override { to_.Stop(std::move(why)); }

 protected:
  comm::NodeContext& to_;
};

// A node that hands everything on to another; planted bugs change one call.
class ForwardingNode : public comm::Node {
 public:
  explicit ForwardingNode(std::unique_ptr<comm::Node> to)
      : to_(std::move(to)) {}
  void OnStart(comm::NodeContext& context) override {
    context_ = &context;
    to_->OnStart(context);
  }
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    to_->OnMessage(from, std::move(message));
  }
  void OnPeerDown(comm::EndpointId peer, const Status& why) override {
    to_->OnPeerDown(peer, why);
  }
  void OnSendable(comm::EndpointId peer) override { to_->OnSendable(peer); }

 protected:
  std::unique_ptr<comm::Node> to_;
  comm::NodeContext* context_ = nullptr;
};

}  // namespace shoal::simulation

#endif  // SHOAL_TESTS_SIMULATION_CLUSTER_WORLD_H_
