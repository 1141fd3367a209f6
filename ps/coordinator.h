#ifndef SHOAL_PS_COORDINATOR_H_
#define SHOAL_PS_COORDINATOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/histogram.h"
#include "comm/node.h"
#include "ps/caller.h"
#include "ps/checkpoint_saver.h"
#include "ps/coordinator_options.h"
#include "ps/coordinator_records.h"
#include "ps/durable_state.h"
#include "ps/global_phase.h"
#include "ps/job_observer.h"
#include "ps/model_spec.h"
#include "ps/rebalancer.h"
#include "ps/route.h"
#include "ps/train_plan.h"

namespace shoal::ps {

namespace wire {
class Commit;
class CoordinatorState;
}  // namespace wire
struct ModeSwitch;

// Lets members in, deals virtual workers, leads the steps of `sync`, keeps the
// clocks of `bounded`, and drives the job from boundary to boundary: train,
// evaluate, save, stop.
//
// Belongs to the thread that pumps it; never blocks.
class Coordinator : public comm::Node {
 public:
  using Options = CoordinatorOptions;

  explicit Coordinator(Options options);
  ~Coordinator() override;

  void OnStart(comm::NodeContext& context) override;
  void OnMessage(comm::EndpointId from, comm::Message message) override;
  void OnPeerDown(comm::EndpointId peer, const Status& why) override;

  // Ends the job: members are told why and the node stops. For the launcher,
  // which sees processes end and signals come; on the node's thread (Post it).
  void Abort(const Status& why);

  // A process of this name ("server 1") is seen to have ended: what it held is
  // lost, without waiting for its connections to tell. On the node's thread.
  enum class Ended : uint8_t {
    kNeeded,   // the job can't go on without it
    kReplace,  // another one in its place is waited for
    kGone,     // it was to go
  };
  Ended ProcessEnded(const std::string& name, const Status& why);

  // Training is under way, and every slot has all its replicas, which whoever
  // takes the place of this coordinator knows too. On the node's thread.
  bool replicated() const;
  uint64_t route_version() const { return route_.version; }
  // Of all gradients so far that workers told of, see ps/staleness.h.
  const Histogram& staleness() const { return staleness_; }

  // Other numbers of servers and workers (0: as many as there are), or the
  // server that is to go (-1: none); gives what happens now, in words. On the
  // node's thread. Errors: kFailedPrecondition, kInvalidArgument: why not.
  StatusOr<std::string> Scale(int servers, int workers, int drain);
  // Other modes, as wire::SetMode has them; the same otherwise.
  StatusOr<std::string> SetMode(const std::string& tables,
                                const std::string& dense);

 private:
  struct Member {
    std::string name;  // "worker 1", "server 0 shard 1"
    std::string address;
    std::string host;
    int64_t pid = 0;
    bool is_worker = false;
    int server = 0;  // shards only
    int index = 0;
    bool any_index = false;  // it did not ask for this one
    bool leaves = false;     // a worker that has no place any more
    bool told_to_stop = false;
    Time last_heard;
    bool suspect = false;  // its connection ended; it may come back
    Time suspect_since;
  };
  void WaitForMembers();
  // Keeps all that a coordinator in the place of this one needs; then `kept`
  // runs, unless the job is ending.
  void Keep(std::function<void()> kept);
  Buffer EncodeState() const;
  Status Recover(const Buffer& state);
  Status TakeState(const wire::CoordinatorState& state);
  uint64_t HashOfJob() const;
  void AskMembers();
  void OnMemberFound(comm::EndpointId id, const StatusOr<comm::Message>& reply);
  // Of a shard at `step`.
  void TakeLastCommit(int64_t step, const wire::Commit& last);
  Status CheckLastCommit();
  // Does not wait for its answer any more.
  void GiveUp(comm::EndpointId id, const Status& why);
  void OnJoinMeanwhile(comm::EndpointId from);
  void FinishRecovery();
  Status CheckFound() const;
  void FinishRecovered();
  // Leaves nothing that another would go on with, and stops.
  void End(const Status& why);

  // Joining.
  void OnJoin(comm::EndpointId from, comm::Message message);
  Status Admit(comm::EndpointId from, const comm::Message& message);
  int FreeWorkerIndex() const;  // num_workers if there is none
  void MakeRoom(int worker);
  void AnswerJoin(const WaitingMessage& waiting);
  void OnAllJoined();
  void MakeReady();
  void LoadHolders();
  void OnReady();
  std::string MissingMembers() const;

  // Orders.
  void GiveOrder(OrderKind kind, int64_t from, int64_t until);
  void AnswerOrder(int worker);
  void AnswerOrders();
  void ReplyStop(const WaitingMessage& asking);
  void OnAskOrder(comm::EndpointId from, comm::Message message);
  void OnOrderDone();
  void AfterBoundary();
  void Evaluated();
  void SaveCheckpoint();
  void AfterCheckpoint();
  void FinishShards();

  // Steps and clocks.
  void OnPrepared(comm::EndpointId from, comm::Message message);
  void MaybeCommit();
  void Commit();
  void ReplyCommit(const WaitingMessage& waiting);
  void OnClock(comm::EndpointId from, comm::Message message);
  void AnswerClocks();
  // The steps before `step` that are the worker's own.
  int64_t ClockAt(size_t worker, int64_t step) const;
  int64_t MinimumClock() const;
  void OnProgress(const comm::Message& message);

  // Routes.
  void MakeFirstRoute();
  // The next version: without whom it has lost, with who has caught up, and
  // with what is to be done next.
  void ChangeRoute();
  void SendRoute();
  void MaybeRebalance();
  bool SlotsMayMove() const;
  // One that comes while the job runs gets slots when its server is complete.
  void LetShardIn(comm::EndpointId shard);
  bool ServerIsComplete(int shard) const;
  RouteTable::Peer PeerOf(comm::EndpointId member) const;
  void OnCaughtUp(comm::EndpointId from, const comm::Message& message);
  std::vector<ShardPlace> Places() const;
  std::vector<RouteTable::Peer> LiveShards() const;
  // Every slot would still have a replica.
  bool CanDrop(int server) const;
  void DropShardsOf(int server, const Status& why);

  // Other numbers of members.
  void OnScale(comm::EndpointId from, const comm::Message& message);
  void ReplyWhenKept(comm::EndpointId from, const comm::Message& message,
                     const StatusOr<std::string>& text);
  Status CheckScale(int servers, int workers, int drain) const;
  bool Leaves(int server) const { return leaving_.contains(server); }
  size_t ShardsWanted() const;
  std::vector<WaitingMessage> LetWorkersGo(int places);
  void FinishLeavers();
  void OnStatus(comm::EndpointId from, const comm::Message& message);
  // Workers: when all that are wanted are there, the order under way is cut and
  // the next one is dealt to them.
  bool WantedAreThere() const;
  void DealAnew();
  void TellWanted() const;
  void CutOrder(int64_t until);
  void SendCuts();
  void CutDone(comm::EndpointId worker);
  std::vector<WaitingMessage> TakeWorkers();  // who have no place any more

  // Another mode, see ModeSwitch.
  void OnSetMode(comm::EndpointId from, const comm::Message& message);
  void HoldWorkers();
  void HoldDone(comm::EndpointId worker);
  void EndHold();
  void TakeMode(int64_t step);
  StepDecision LastCommitOf(int64_t step) const;
  bool AllServersHeadSlots() const;
  void TellMode();

  // Liveness.
  void Watch();
  void WaitForSuspect(comm::EndpointId peer, const Status& why);
  void Lost(comm::EndpointId peer, const Status& why);
  void OnCalledOff(comm::EndpointId from, const Status& why);
  std::string Suspects(comm::EndpointId reporter) const;

  void Reply(comm::EndpointId to, comm::Message reply);

  Options options_;
  comm::NodeContext* context_ = nullptr;
  std::optional<Caller> caller_;
  std::optional<CheckpointSaver> saver_;
  std::optional<DurableState> state_;
  bool state_is_ours_ = false;
  // Until it has found out where the job is; and of members not heard of yet.
  bool recovering_ = true;
  std::unordered_map<comm::EndpointId, uint64_t> recoveries_;
  std::unordered_map<comm::EndpointId, Status> not_found_;  // why
  std::string observed_;                                    // by the one before
  std::unordered_map<comm::EndpointId, Member> members_;
  std::vector<std::optional<comm::EndpointId>> shards_;  // by index
  std::vector<WorkerState> workers_;                     // by index
  std::vector<WaitingMessage> waiting_joins_;
  RouteTable route_;
  Rebalancer rebalancer_;
  bool all_joined_ = false;
  bool started_ = false;  // and what there was to restore is loaded
  // Of this version: the tail that sent, and the shard that joins.
  std::set<std::pair<int, int>> caught_up_;
  std::vector<uint64_t> route_calls_;
  std::set<int> leaving_;   // servers
  int workers_wanted_ = 0;  // if others than there are
  // To those that have not answered; no step is committed before they have.
  std::unordered_map<comm::EndpointId, uint64_t> cuts_;
  bool cut_ = false;  // the order under way is the last of these workers
  bool cut_sent_ = false;
  bool ending_ = false;
  Status called_off_;  // before OnStart()
  comm::TimerId join_timer_ = comm::TimerId::kNone;

  CurrentOrder order_;
  int64_t position_ = 0;                  // steps done at the last boundary
  int64_t committed_ = 0;                 // sync: steps committed
  StepDecision last_commit_{.step = -1};  // the last of them
  // While recovering: the least step that a shard is at.
  std::optional<int64_t> shard_step_min_;
  std::unique_ptr<GlobalPhase> phase_;  // null: called_off_ says why
  bool stop_early_ = false;
  std::unordered_map<comm::EndpointId, PreparedShard> prepared_;
  int64_t calls_under_way_ = 0;
  Histogram staleness_;
  std::unique_ptr<ModeSwitch> modes_;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_COORDINATOR_H_
