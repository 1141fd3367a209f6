#ifndef SHOAL_PS_SHARD_H_
#define SHOAL_PS_SHARD_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/node.h"
#include "ps/caller.h"
#include "ps/checkpoint_format.h"
#include "ps/dense_layout.h"
#include "ps/dense_store.h"
#include "ps/global_phase.h"
#include "ps/links.h"
#include "ps/member.h"
#include "ps/memory_plan.h"
#include "ps/mode_switch.h"
#include "ps/model_spec.h"
#include "ps/pace.h"
#include "ps/route.h"
#include "ps/shard_records.h"
#include "ps/slot_meter.h"
#include "ps/sparse_table.h"
#include "ps/staleness.h"
#include "ps/step_stage.h"
#include "ps/storage_answer.h"
#include "ps/waiting_message.h"

namespace shoal::ps {

namespace wire {
class Push;
class SlotStates;
}  // namespace wire

// One shard of a server: holds the slots whose chains it is in, and answers
// pulls and pushes for those that it is head of. See docs/architecture.md, "One
// training step" and "Chains".
//
// In `sync` it is at one step at all times: pushes of step t are staged; when
// they are complete their sum goes down the chains; when the tails have it the
// coordinator is told; and its commit applies it in all replicas. Pushes are
// acknowledged then, and pulls of t + 1 wait for that. Under a new route what
// was staged and not committed is dropped everywhere, and clients send it
// again.
//
// Where steps are dealt to workers a push is applied on arrival, once per slot
// and (client, sequence), handed down the chain as it is, and acknowledged when
// the tail has it. Under a new route each hands on again, in order, what was
// not acknowledged, and who has it already passes it over.
//
// Where the workers hold the dense variables outside sync they share every step
// there too: the shard stages their pushes of step t and applies the sum when
// the last has come, with no commit, after step t - 1; in `bounded` a pull of t
// waits until t - staleness steps are applied. No chains there.
//
// Belongs to the thread that pumps it; never blocks, but for the disk of tables
// that spill.
class Shard : public comm::Node {
 public:
  struct Options {
    CoordinatorPlace coordinator;
    FindCoordinator find_coordinator;  // empty: it is never elsewhere
    int server = 0;
    int shard = 0;  // of this server
    Duration join_within = std::chrono::seconds(30);
    ReportFn report;  // or none
  };

  explicit Shard(const Options& options);
  ~Shard() override;

  void OnStart(comm::NodeContext& context) override;
  void OnMessage(comm::EndpointId from, comm::Message message) override;
  void OnPeerDown(comm::EndpointId peer, const Status& why) override;

 private:
  void OnJoined(const JoinResult& joined);
  Status MakeStores();

  // Pulls and pushes.
  void OnPull(comm::EndpointId from, comm::Message request);
  void WaitForStep(uint64_t waiting, Duration within);
  void OnPullDeadline(uint64_t waiting);
  void AnswerPull(comm::EndpointId from, const comm::Message& request);
  void OnPush(comm::EndpointId from, comm::Message request);
  // Whether what a client sent under `version` of the route may be handled;
  // else it was answered: with the newer route, or that it is to ask again.
  bool CheckVersion(comm::EndpointId from, const comm::Message& request,
                    uint64_t version);
  void ReplyMoved(comm::EndpointId to, const comm::Message& request);
  void ReplyPush(comm::EndpointId to, const comm::Message& request,
                 bool repeated = false);
  // Steps that are shared.
  // Whether all of it had come before.
  StatusOr<bool> StagePush(comm::EndpointId from, PushParts push);
  // Outside sync: applies the steps whose pushes have all come.
  void ApplyStaged();
  int64_t StalenessOf(int64_t step);
  // Whether a pull of `step` waits for nothing.
  bool MayAnswer(int64_t step) const;
  void AnswerWaiting();
  StepStage& CurrentStage();

  // sync: sums what is complete and hands it on; then tells the coordinator,
  // again after a lost connection, until its commit comes.
  void Prepare();
  void SendPrepared();
  void OnCommit(const StatusOr<comm::Message>& reply);
  void ApplyCommitted(const StepDecision& decision);
  // False: it failed.
  bool Apply(const Part& part, const StepDecision& decision, int64_t step);
  // False: it failed, since its tables did or take too much memory. After
  // whatever reads or changes them, before anybody is told of it.
  bool CheckTables();
  int64_t BytesOfId(size_t group) const;
  Status TablesStatus() const {
    return CheckMemory(model_, memory_, tables_,
                       dense_->memory_bytes() + saves_->kept_bytes(),
                       store_.get());
  }

  // Where steps are dealt.
  void ApplyPush(comm::EndpointId from, comm::Message request, PushParts push);
  // `acknowledge` runs when the tails have it. Errors: kUnavailable (the one
  // before it has not come).
  Status TakeCommand(Command command, std::function<void()> acknowledge);
  // All pushes of `client` up to `sequence`, in the slots that it is head of.
  bool HasPushes(uint64_t client, uint64_t sequence) const;
  void HandOn(uint64_t command);
  void OnHandedOn(uint64_t command);

  // Chains.
  void OnRouteChange(comm::EndpointId from, comm::Message request);
  void TakeMode(const ModeState& mode);
  void Adopt(RouteTable route);
  void FindPortions();
  // Of slots that this one was not the head of.
  void ForgetChanges(const RouteTable& before);
  void BeginTransfers();
  void SendSlots();
  void SendSlotsTo(int shard, Transfer& transfer);
  // Sends what `part` has of slots that others get too; `done` runs when they
  // have it, at once if there are none.
  void Forward(Method method, const wire::Push& head, const Part& part,
               const std::function<void()>& done);
  bool HandsOn() const;
  void OnLinkMessage(comm::EndpointId from, comm::Message message);
  void DrainLinks();
  // False: it can't be handled yet.
  bool Handle(const LinkMessage& message);
  Status HandlePush(const LinkMessage& message, const wire::Push& head);
  Status HandleSlots(const LinkMessage& message, const wire::SlotStates& head);
  std::shared_ptr<const Portion> PortionOf(
      const std::function<bool(int64_t)>& has_slot) const;
  // Of a message of another shard, all of them slots that it may send.
  StatusOr<std::shared_ptr<const Portion>> PortionFrom(const std::string& bits,
                                                       int from);

  // Checkpoints.
  void OnSave(comm::EndpointId from, comm::Message request);
  void OnLoad(comm::EndpointId from, const comm::Message& request);
  void EndLoad();
  ShardState StateOf(const Portion& portion) {
    return {.model = &model_,
            .tables = tables_,
            .dense = dense_.get(),
            .chunks = portion.chunks,
            .slot_bits = route_.slot_bits,
            .slots = &portion.slots,
            .check = [this] { return TablesStatus(); }};
  }

  void Report();
  void ReportLoads();
  void Reply(comm::EndpointId to, comm::Message reply);
  void ReplyError(comm::EndpointId to, const comm::Message& request,
                  const Status& status);
  // Tells the coordinator, then stops.
  void Fail(const Status& why);

  bool commits() const { return plan_.mode == Mode::kSync; }
  // The step leader asks for the norms of every step.
  bool needs_norms() const {
    return plan_.global.NeedsNorms() || dense_->needs_norms();
  }
  // Of a push, or what is handed on of one.
  PushShape ShapeOf(const Portion& portion) const {
    return {.model = &model_,
            .slot_bits = route_.slot_bits,
            .portion = &portion,
            .may_diverge = plan_.global.loss_scale > 0};
  }

  Options options_;
  comm::NodeContext* context_ = nullptr;
  std::optional<Caller> caller_;
  std::optional<Member> member_;
  std::optional<Links> links_;

  bool joined_ = false;
  bool ready_ = false;  // and has loaded what it is to restore
  bool failed_ = false;
  int index_ = 0;  // among all shards
  ModelSpec model_;
  ClusterPlan plan_;
  ModeState mode_;  // its number, and the workers that steps are dealt to
  std::optional<DenseLayout> layout_;
  int64_t step_ = 0;          // steps applied; where they are dealt, pushes
  StepDecision last_commit_;  // sync: of the step before, where it is known
  MemoryPlan memory_;
  std::unique_ptr<SpillStore> store_;                 // or none; of tables_
  std::vector<std::unique_ptr<SparseTable>> tables_;  // see MakeTables()
  std::unique_ptr<DenseStore> dense_;
  std::optional<SaveAnswerer> saves_;  // goes before what it reads
  Buffer dense_values_;                // of headed_, until they change

  RouteTable route_;
  std::shared_ptr<const Portion> headed_;  // slots that it is head of
  std::shared_ptr<const Portion> held_;  // and those that it is in the chain of
  // By slot, while it joins its chain: it has all; and it may have, of the
  // route before, which the tail is about to tell.
  std::vector<bool> received_;
  std::vector<bool> maybe_kept_;
  // By shard: the slots of which it gets what this one applies.
  std::map<int, std::vector<bool>> hands_on_;
  std::map<int, Transfer> transfers_;
  std::optional<Pace> pace_;  // of these
  std::optional<SlotMeter> meter_;
  std::map<int, std::deque<LinkMessage>> link_messages_;
  int loads_ = 0;  // under way; until then a new route waits
  std::optional<WaitingMessage> next_route_;

  // Where steps are shared: the pushes of step_ and, outside sync, of those
  // after it; the learning rate factor that they name.
  using Sender = std::pair<uint64_t, uint64_t>;  // endpoint, sequence
  struct Stage {
    StepStage pushes;
    double learning_rate_factor = 1;
    // With backup workers: whose push was taken, by its first node.
    std::map<int64_t, Sender> taken = {};
  };
  std::map<int64_t, Stage> stages_;
  // sync: what of step_ is ready to be applied, and from whose pushes.
  bool prepared_ = false;
  std::vector<Part> parts_;
  struct UnacknowledgedPush {
    WaitingMessage push;
    bool repeated = false;
  };
  std::vector<UnacknowledgedPush> unacknowledged_;
  int came_last_ = -1;  // in the step before
  std::map<int64_t, Sender> taken_before_;
  uint64_t next_waiting_ = 1;
  std::map<uint64_t, WaitingPull> waiting_;
  std::vector<WaitingMessage> waiting_saves_;

  // Where steps are dealt: by client and slot, the last push that was applied;
  // and those that others may lack.
  WorkerClocks::Sequences sequences_;
  WorkerClocks clocks_;
  uint64_t next_command_ = 1;
  std::map<uint64_t, Command> commands_;
  int64_t command_bytes_ = 0;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_SHARD_H_
