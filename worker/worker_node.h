#ifndef SHOAL_WORKER_WORKER_NODE_H_
#define SHOAL_WORKER_WORKER_NODE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/histogram.h"
#include "comm/node.h"
#include "ps/caller.h"
#include "ps/client.h"
#include "ps/member.h"
#include "ps/storage_answer.h"
#include "worker/dense_replica.h"
#include "worker/gradient_sums.h"
#include "worker/model_runner.h"
#include "worker/step_input.h"

namespace shoal::ps::wire {
class Order;
}  // namespace shoal::ps::wire

namespace shoal::worker {

// What a worker needs beside the cluster: its data and its model.
struct WorkerJob {
  std::unique_ptr<StepSource> source;
  std::unique_ptr<ModelRunner> runner;
  // Outside sync: the factor on learning rates at a step.
  std::function<double(int64_t)> learning_rate_factor;
  int log_every_steps = 100;
};

// Trains and evaluates at the coordinator's orders. Reading (compute lane 1),
// pulling, computing (compute lane 0) and pushing of successive steps overlap;
// how far is bounded by the consistency mode.
//
// Belongs to the thread that pumps it; never blocks.
class WorkerNode : public comm::Node {
 public:
  struct Options {
    ps::CoordinatorPlace coordinator;
    ps::FindCoordinator find_coordinator;  // empty: it is never elsewhere
    int worker = -1;                       // -1: any that is free
    Duration join_within = std::chrono::seconds(30);
    // Runs on compute lane 0 after the job is joined; may block.
    std::function<StatusOr<WorkerJob>(const ps::JoinResult&)> open;
    // The device of the same job, for collectives that sum there; may block.
    std::function<StatusOr<std::shared_ptr<Device>>(const ps::JoinResult&)>
        open_device;
    ps::ReportFn report;  // or none
  };

  explicit WorkerNode(Options options);
  ~WorkerNode() override;

  void OnStart(comm::NodeContext& context) override;
  void OnMessage(comm::EndpointId from, comm::Message message) override;
  void OnPeerDown(comm::EndpointId peer, const Status& why) override;
  void OnSendable(comm::EndpointId peer) override;

 private:
  enum class OrderKind : uint8_t { kTrain, kEvaluate, kStop };
  struct Order {
    int64_t number = 0;
    OrderKind kind = OrderKind::kStop;
    int64_t from = 0;
    int64_t until = 0;
  };
  // One unit of work on its way: a step, or a batch of an evaluation.
  struct Unit;
  // Units whose memory nobody uses any more: a transport that shares memory, or
  // a shard that holds staged gradients, may hold a unit's after it is done.
  struct UnitPool;

  void OnJoined(StatusOr<ps::JoinResult> joined);
  // Of a worker that holds the dense variables.
  Status OpenReplica();
  // One of the things that a worker needs before its first order is there.
  void OnOpened();
  void OnCutOrder(comm::EndpointId from, const comm::Message& request);
  void DropBeyondOrder();
  // The first step from `step` on that is this worker's own.
  int64_t NextOwn(int64_t step) const;
  void OnRouteChange(comm::EndpointId from, const comm::Message& request);
  void OnSave(comm::EndpointId from, const comm::Message& request);
  void OnLoad(comm::EndpointId from, comm::Message request);
  void AskOrder();
  void OnOrder(const comm::Message& reply);
  Status TakeMode(const ps::wire::Order& order);
  void TakeShare(const ps::wire::Order& order);
  void MakeSums(int virtual_begin, int virtual_end);
  bool IsBackup() const;
  // A backup computes what the worker does whose virtual worker that is, from
  // the next step that is read on.
  void StandFor(int virtual_worker);
  // At once, and in step `step`, which waits for that; unless it has pushed the
  // same for that step already: false.
  bool StandIn(int64_t step, int virtual_worker);
  // The virtual workers [begin, end) of the worker who has that one; from -1:
  // nobody has.
  std::pair<int, int> ShareOf(int virtual_worker) const;
  // Where no pull follows that would tell whether the step lacks others.
  void WatchLastStep();
  Duration Patience() const;
  void BeginOrder();

  // Starts whatever may start; called after every event.
  void Advance();
  bool MayPull(const Unit& unit) const;
  bool WaitsForClocks() const;
  bool MayCompute(const Unit& unit) const;
  ps::Client::Done SendDone(const std::shared_ptr<Unit>& owner);
  std::shared_ptr<Unit> NewUnit();
  void StartWork(int lane, const char* doing, const Unit* unit,
                 std::function<void()> work, std::function<void()> done);
  std::string UnitText(const Unit& unit) const;
  void StartFill(Unit& unit);
  void StartPull(const std::shared_ptr<Unit>& unit);
  void StartCompute(const std::shared_ptr<Unit>& unit);
  void BeginGradients(const std::shared_ptr<Unit>& unit);
  void StartPush(const std::shared_ptr<Unit>& unit);
  void OnUnitDone(Unit& unit);
  PulledValues ValuesOf(const Unit& unit) const;
  void Compute(Unit& unit);

  void ReportClock();
  void TakeTurn(const Unit& unit);
  void Count(const Unit& unit);
  void ReportProgress(int64_t step, bool force);
  void Report();
  void Fail(const Status& why);

  Options options_;
  comm::NodeContext* context_ = nullptr;
  std::optional<ps::Caller> caller_;
  std::optional<ps::Member> member_;
  std::optional<ps::Client> client_;
  std::unique_ptr<DenseReplica> replica_;  // null: the shards hold it
  std::optional<ps::SaveAnswerer> saves_;  // of it
  // Of the collective, before this worker has joined.
  std::vector<std::pair<comm::EndpointId, comm::Message>> early_;
  ps::JoinResult joined_;
  std::optional<ps::RouteTable> newer_route_;  // while it opens
  StatusOr<WorkerJob> job_;
  std::shared_ptr<GradientSums> sums_;  // of the steps that are read now
  bool stopped_ = false;
  int opening_ = 0;  // things that the first order waits for

  Order order_;
  int64_t last_unit_ = 0;       // the first unit that is not of this order
  int64_t stride_ = 1;          // from one unit of this worker to the next
  int64_t next_fill_ = 0;       // the next unit to read
  int64_t computed_until_ = 0;  // units before it have been computed
  comm::TimerId lane_timers_[comm::NodeContext::kNumComputeLanes] = {};
  bool filling_ = false;
  bool computing_ = false;
  bool pulling_ = false;
  bool held_ = false;  // it begins no step until its order is cut
  // The order is to be asked for again, once nothing of it is under way.
  bool asking_ = false;  // for an order, whose answer begins it
  bool restarting_ = false;
  int64_t aborted_step_ = -1;
  int64_t pulls_started_until_ = 0;
  int64_t done_until_ = 0;     // units before it are wholly done
  int64_t trained_until_ = 0;  // own steps before it are, of all orders
  std::shared_ptr<UnitPool> pool_;
  std::deque<std::shared_ptr<Unit>> units_;  // rising
  uint64_t values_versions_ = 0;

  // sync with backup workers.
  int came_last_ = -1;   // a virtual worker, in the last step that is known of
  int stands_for_ = -1;  // of a backup: a virtual worker of who it stands for
  int64_t stood_in_ = 0;
  std::optional<int64_t> goes_back_to_;  // a step, with other shares
  Duration compute_took_ = std::chrono::seconds(1);
  // Of the last step that it has pushed for: the shares, and how often it was
  // told that one of these is missing.
  int64_t pushed_step_ = -1;
  std::vector<int> pushed_shares_;
  int waits_for_pushed_ = 0;

  // Where WaitsForClocks().
  int64_t minimum_clock_ = 0;

  // Progress since it was last reported.
  int64_t counted_until_ = 0;
  double loss_sum_ = 0;
  int64_t loss_examples_ = 0;
  Histogram staleness_;   // of gradients, outside sync
  int64_t examples_ = 0;  // of the whole training
  Histogram staleness_of_all_;
  Time last_report_;

  std::vector<float> scores_;  // of the evaluation under way
  std::vector<float> labels_;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_WORKER_NODE_H_
