// The part of the coordinator that changes the mode of a job while it trains.

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "ps/coordinator.h"
#include "ps/mode_switch.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"

namespace shoal::ps {

void Coordinator::OnSetMode(comm::EndpointId from,
                            const comm::Message& message) {
  wire::SetMode ask;
  const Status decoded = Decode(message, ask);
  ReplyWhenKept(from, message,
                decoded.ok() ? SetMode(ask.tables(), ask.dense()) : decoded);
}

StatusOr<std::string> Coordinator::SetMode(const std::string& tables,
                                           const std::string& dense) {
  if (!started_ || ending_ || recovering_ || order_.kind == OrderKind::kStop) {
    return FailedPreconditionError(
        recovering_ ? "the coordinator was started again, and looks for the "
                      "members of the job"
        : started_  ? "the job is ending"
                    : "the job has not started yet");
  }
  if (modes_->wanted.has_value()) {
    return FailedPreconditionError(
        StrCat("a change to ",
               ModeText(modes_->wanted->mode, modes_->wanted->staleness),
               " is under way; try again"));
  }
  if (workers_wanted_ != 0) {
    return FailedPreconditionError(StrCat("a change to ", workers_wanted_,
                                          " workers is under way; try again"));
  }
  if (options_.plan_for == nullptr) {
    return FailedPreconditionError("this job has one mode for good");
  }
  const ClusterPlan& before = options_.plan;
  SHOAL_ASSIGN_OR_RETURN(const ClusterPlan plan,
                         options_.plan_for(before, tables, dense));
  SHOAL_RETURN_IF_ERROR(GlobalPhase::Create(options_.model, plan).status());
  if (plan.mode == before.mode &&
      (plan.mode != Mode::kBounded || plan.staleness == before.staleness)) {
    return StrCat("nothing changes: it is ",
                  ModeText(before.mode, before.staleness));
  }
  if (plan.mode != Mode::kSync && plan.shares_steps() &&
      !AllServersHeadSlots()) {
    return FailedPreconditionError(
        "slots move to or from a server, which must be done before beside "
        "dense variables on the workers; try again when `shoal status` says "
        "that nothing is being copied and no server leaves");
  }
  modes_->wanted = {.mode = plan.mode, .staleness = plan.staleness};
  Keep([this] { HoldWorkers(); });
  return StrCat("from ", ModeText(before.mode, before.staleness), " to ",
                ModeText(plan.mode, plan.staleness),
                " at the next clock that all workers have come to");
}

// Nothing moves, and nobody is to come or to go.
bool Coordinator::AllServersHeadSlots() const {
  std::vector<bool> heads(shards_.size());
  for (const Chain& chain : route_.chains) {
    heads[static_cast<size_t>(chain.head())] = true;
    if (chain.joining >= 0) {
      return false;
    }
  }
  for (size_t i = 0; i < shards_.size(); ++i) {
    const bool leaves =
        Leaves(static_cast<int>(i) / options_.shards_per_server);
    if (shards_[i].has_value() ? leaves || !heads[i] : !leaves) {
      return false;
    }
  }
  return true;
}

// Between orders it is done when the next one is given.
void Coordinator::HoldWorkers() {
  if (!modes_->wanted.has_value() || modes_->holding || cut_ || ending_ ||
      order_.kind != OrderKind::kTrain || position_ >= order_.until) {
    return;
  }
  modes_->holding = true;
  modes_->begun_until = 0;
  wire::CutOrder hold;
  hold.set_number(order_.number);
  hold.set_hold(true);
  for (int i = 0; i < options_.num_workers; ++i) {
    const std::optional<comm::EndpointId>& worker =
        workers_[static_cast<size_t>(i)].endpoint;
    if (!worker.has_value()) {
      continue;  // One in its place gets the order as it is then.
    }
    modes_->holds[*worker] = caller_->Start(
        *worker, comm::Lane::kUrgent, static_cast<uint16_t>(Method::kCutOrder),
        "how far it has begun", options_.plan.timeout, {Encode(hold)},
        [this, id = *worker](const StatusOr<comm::Message>& reply) {
          wire::CutReply answer;
          // One that can't is lost, which is seen elsewhere.
          if (reply.ok() && Decode(*reply, answer).ok()) {
            modes_->begun_until =
                std::max(modes_->begun_until, answer.begun_until());
          }
          HoldDone(id);
        });
  }
  if (modes_->holds.empty()) {
    EndHold();
  }
}

void Coordinator::HoldDone(comm::EndpointId worker) {
  const auto hold = modes_->holds.find(worker);
  if (hold == modes_->holds.end()) {
    return;
  }
  caller_->Forget(hold->second);
  modes_->holds.erase(hold);
  if (modes_->holds.empty()) {
    EndHold();
  }
}

// Behind the last step that any of them has begun, or has done.
void Coordinator::EndHold() {
  modes_->holding = false;
  int64_t until = std::max(modes_->begun_until, order_.from);
  if (options_.plan.mode == Mode::kSync) {
    until = std::max(until, committed_);
  } else if (!options_.plan.shares_steps()) {
    for (int i = 0; i < options_.num_workers; ++i) {
      const int64_t clock = workers_[static_cast<size_t>(i)].clock;
      until = std::max(until, (clock - 1) * options_.num_workers + i + 1);
    }
  }
  CutOrder(std::min(until, order_.until));
}

// At the end of an order, which is a drained clock: from `step` on there is
// what is wanted.
void Coordinator::TakeMode(int64_t step) {
  modes_->holding = false;
  for (const auto& [worker, call] : std::exchange(modes_->holds, {})) {
    caller_->Forget(call);  // The order is done.
  }
  if (!modes_->wanted.has_value()) {
    return;
  }
  ModeState& now = modes_->now;
  const ModeState wanted = *std::exchange(modes_->wanted, std::nullopt);
  now = {.number = now.number + 1,
         .mode = wanted.mode,
         .staleness = wanted.staleness,
         .num_workers = options_.num_workers,
         .from_step = step};
  options_.plan.mode = now.mode;
  options_.plan.staleness = now.staleness;
  if (committed_ != step) {
    committed_ = step;
    last_commit_ = LastCommitOf(step);
  }
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i].clock = ClockAt(i, step);
  }
  TellMode();
  // A version of the route of its own, under which every replica takes it
  // before it takes anything else; nothing is under way.
  ChangeRoute();
}

// Where nothing is decided of a step but its learning rate.
StepDecision Coordinator::LastCommitOf(int64_t step) const {
  return {.step = step - 1,
          .learning_rate_factor =
              step > 0 ? options_.train.LearningRateFactor(step - 1) : 1};
}

void Coordinator::TellMode() {
  if (options_.observer != nullptr && modes_->now.number > 0) {
    options_.observer->OnModeChanged(
        modes_->now.from_step,
        ModeText(modes_->now.mode, modes_->now.staleness));
  }
}

}  // namespace shoal::ps
