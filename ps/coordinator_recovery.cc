// The part of the coordinator that goes on in the place of a lost one. What
// only the members know is asked of them: in `sync` a step was committed if one
// of them has seen its commit, and is not otherwise, since nobody acts on a
// commit that it has not seen. The rest was kept before anybody heard of it.

#include <algorithm>
#include <utility>

#include "base/random.h"
#include "base/strcat.h"
#include "ps/coordinator.h"
#include "ps/mode_switch.h"
#include "ps/protocol.pb.h"
#include "ps/staleness.h"
#include "ps/wire.h"

namespace shoal::ps {

uint64_t Coordinator::HashOfJob() const {
  wire::Model model;
  ToWire(options_.model, model);
  return HashKey(HashText(options_.job_text), HashText(Encode(model).text()));
}

Buffer Coordinator::EncodeState() const {
  wire::CoordinatorState state;
  state.set_job(HashOfJob());
  ToWire(route_, *state.mutable_route());
  state.set_servers(options_.num_servers);
  state.set_workers(options_.num_workers);
  state.set_workers_wanted(workers_wanted_);
  for (const int server : leaving_) {
    state.add_leaving(server);
  }
  for (const auto& [id, member] : members_) {
    wire::CoordinatorState::Member& out = *state.add_members();
    out.set_endpoint(id.value);
    out.set_name(member.name);
    out.set_address(member.address);
    out.set_host(member.host);
    out.set_pid(member.pid);
    out.set_is_worker(member.is_worker);
    out.set_server(member.server);
    out.set_index(member.index);
    out.set_leaves(member.leaves);
    out.set_told_to_stop(member.told_to_stop);
  }
  wire::Order& order = *state.mutable_order();
  order.set_number(order_.number);
  order.set_kind(static_cast<wire::Order::Kind>(order_.kind));
  order.set_from_step(order_.from);
  order.set_until_step(order_.until);
  state.set_cut(cut_);
  state.set_position(position_);
  state.set_stop_early(stop_early_);
  state.set_started(started_);
  state.set_run(options_.run);
  ToWire(staleness_, *state.mutable_staleness());
  ToWire(modes_->now, *state.mutable_mode());
  if (modes_->wanted.has_value()) {
    ToWire(*modes_->wanted, *state.mutable_mode_wanted());
  }
  if (options_.observer != nullptr && started_) {
    state.set_observer(options_.observer->State());
  }
  return Encode(state);
}

void Coordinator::Keep(std::function<void()> kept) {
  if (!state_->enabled() || !all_joined_) {
    kept();
    return;
  }
  state_->Keep(EncodeState(), [this, kept = std::move(kept)] {
    if (!ending_) {
      kept();
      AnswerOrders();  // Those that came meanwhile.
    }
  });
}

void Coordinator::End(const Status& why) {
  if (!state_is_ours_ || !state_->leads()) {
    context_->Stop(why);
    return;
  }
  // Storage may hang; what it leaves is found to be of nobody.
  context_->SetTimer(context_->Now() + options_.plan.timeout,
                     [this, why] { context_->Stop(why); });
  state_->Remove(why, [this, why] { context_->Stop(why); });
}

Status Coordinator::Recover(const Buffer& kept) {
  wire::CoordinatorState state;
  comm::Message message;
  message.frames.push_back(kept);
  SHOAL_RETURN_IF_ERROR(Decode(message, state));
  if (state.run() != options_.run && !options_.run.empty()) {
    WaitForMembers();
    return OkStatus();
  }
  SHOAL_RETURN_IF_ERROR(TakeState(state));
  state_is_ours_ = true;
  AskMembers();
  return OkStatus();
}

Status Coordinator::TakeState(const wire::CoordinatorState& state) {
  if (state.job() != HashOfJob()) {
    return FailedPreconditionError(
        "is of another job, whose coordinator was lost while it trained; if no "
        "member of that one runs any more, remove it");
  }
  SHOAL_ASSIGN_OR_RETURN(route_, FromWire(state.route()));
  const auto servers = static_cast<size_t>(state.servers());
  if (state.servers() < 1 || state.workers() < 1 ||
      route_.shards.size() >
          servers * static_cast<size_t>(options_.shards_per_server)) {
    return DataLossError("does not fit together");
  }
  options_.num_servers = state.servers();
  options_.num_workers = state.workers();
  workers_wanted_ = state.workers_wanted();
  leaving_.insert(state.leaving().begin(), state.leaving().end());
  shards_.assign(servers * static_cast<size_t>(options_.shards_per_server),
                 std::nullopt);
  workers_.assign(
      static_cast<size_t>(std::max(state.workers(), state.workers_wanted())),
      WorkerState());
  for (const wire::CoordinatorState::Member& in : state.members()) {
    const comm::EndpointId id{in.endpoint()};
    const auto index = static_cast<size_t>(in.index());
    if (in.leaves()) {
      // It has no place.
    } else if (in.index() < 0 ||
               index >= (in.is_worker() ? workers_.size() : shards_.size())) {
      return DataLossError(StrCat("has no place for ", in.name()));
    } else if (in.is_worker()) {
      workers_[index].endpoint = id;
    } else {
      shards_[index] = id;
    }
    members_[id] = {.name = in.name(),
                    .address = in.address(),
                    .host = in.host(),
                    .pid = in.pid(),
                    .is_worker = in.is_worker(),
                    .server = in.server(),
                    .index = in.index(),
                    .leaves = in.leaves(),
                    .told_to_stop = in.told_to_stop(),
                    .last_heard = context_->Now()};
  }
  order_ = {.number = state.order().number(),
            .kind = static_cast<OrderKind>(state.order().kind()),
            .from = state.order().from_step(),
            .until = state.order().until_step()};
  cut_ = state.cut();
  position_ = state.position();
  stop_early_ = state.stop_early();
  started_ = state.started();
  SHOAL_ASSIGN_OR_RETURN(modes_->now, FromWire(state.mode()));
  if (modes_->now.number > 0) {
    options_.plan.mode = modes_->now.mode;
    options_.plan.staleness = modes_->now.staleness;
  }
  if (state.has_mode_wanted()) {
    SHOAL_ASSIGN_OR_RETURN(modes_->wanted, FromWire(state.mode_wanted()));
  }
  committed_ = position_;
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i].clock = ClockAt(i, position_);
  }
  observed_ = state.observer();
  SHOAL_ASSIGN_OR_RETURN(staleness_, FromWire(state.staleness()));
  return OkStatus();
}

void Coordinator::AskMembers() {
  // As long as one that says nothing is waited for elsewhere: those who wait
  // for it here still go on.
  const Duration within = options_.plan.timeout / 2;
  wire::Recover recover;
  recover.set_epoch(state_->epoch());
  recover.set_address(context_->address());
  for (const auto& [id, member] : members_) {
    caller_->AddPeer(id, member.address, member.name);
    recoveries_[id] = caller_->Start(
        id, comm::Lane::kUrgent, static_cast<uint16_t>(Method::kRecover),
        "what it has done", within, {Encode(recover)},
        [this, id = id](const StatusOr<comm::Message>& reply) {
          OnMemberFound(id, reply);
        });
  }
  if (recoveries_.empty()) {
    FinishRecovery();
  }
}

void Coordinator::OnMemberFound(comm::EndpointId id,
                                const StatusOr<comm::Message>& reply) {
  recoveries_.erase(id);
  Member& member = members_.at(id);
  wire::RecoverReply found;
  Status status = reply.ok() ? Decode(*reply, found) : reply.status();
  if (status.ok() && found.step() < 0) {
    status = InvalidArgumentError(StrCat("is at step ", found.step()));
  }
  member.suspect = !status.ok();
  if (!status.ok()) {
    not_found_[id] = status.WithPrefix(
        "did not answer the coordinator, which was started again");
  } else if (found.mode_number() != modes_->now.number) {
    // It has not heard of the switch, before which nothing of what counts now
    // was done.
  } else if (options_.plan.mode == Mode::kSync) {
    committed_ = std::max(committed_, found.step());
    if (!member.is_worker) {
      shard_step_min_ =
          std::min(shard_step_min_.value_or(found.step()), found.step());
      TakeLastCommit(found.step(), found.last());
    }
  } else if (member.is_worker && !member.leaves) {
    const auto worker = static_cast<size_t>(member.index);
    workers_[worker].clock =
        std::max(workers_[worker].clock, ClockAt(worker, found.step()));
  }
  if (recoveries_.empty() && !ending_) {
    FinishRecovery();
  }
}

void Coordinator::TakeLastCommit(int64_t step, const wire::Commit& last) {
  const StatusOr<StepDecision> decision = FromWire(last);
  if (decision.ok() && decision->step == step - 1 &&
      decision->step > last_commit_.step) {
    last_commit_ = *decision;
    phase_->Resume(*decision);
  }
}

// Of who is a step behind, which has yet to apply it.
Status Coordinator::CheckLastCommit() {
  if (last_commit_.step == committed_ - 1 || committed_ == 0) {
    return OkStatus();
  }
  if (!phase_->needs_norms()) {
    last_commit_ = {.step = committed_ - 1,
                    .learning_rate_factor =
                        options_.train.LearningRateFactor(committed_ - 1)};
  } else if (shard_step_min_.value_or(committed_) < committed_) {
    return DataLossError(
        StrCat("what was decided of all gradients of step ", committed_ - 1,
               " was lost with the coordinator and the shards that had heard "
               "of it; start the job from its last checkpoint"));
  }
  return OkStatus();
}

void Coordinator::GiveUp(comm::EndpointId id, const Status& why) {
  if (!recovering_) {
    return;
  }
  const auto call = recoveries_.find(id);
  if (call != recoveries_.end()) {
    caller_->Forget(call->second);
    OnMemberFound(id, why);
  } else {
    members_.at(id).suspect = true;
    not_found_[id] = why;
  }
}

// Who asks to be let in has not had an answer, and done nothing.
void Coordinator::OnJoinMeanwhile(comm::EndpointId from) {
  const auto call = recoveries_.find(from);
  if (call != recoveries_.end()) {
    caller_->Forget(call->second);
    comm::Message nothing;
    nothing.frames.push_back(Encode(wire::RecoverReply()));
    OnMemberFound(from, nothing);
  }
}

void Coordinator::FinishRecovery() {
  recovering_ = false;
  all_joined_ = true;
  for (auto& [id, member] : members_) {
    member.last_heard = context_->Now();
    member.suspect_since = context_->Now();
  }
  const bool all_done = order_.kind == OrderKind::kStop && order_.number > 0;
  Status found = started_ && !all_done ? CheckFound() : OkStatus();
  if (!started_) {
    committed_ = 0;  // Some may have loaded already what all are to load.
  } else if (found.ok() && options_.plan.mode == Mode::kSync) {
    found = CheckLastCommit();
  }
  if (!found.ok()) {
    Abort(found);
    return;
  }
  if (options_.observer != nullptr && started_) {
    const Status recovered = options_.observer->OnRecovered(
        std::max(position_, committed_), std::exchange(observed_, ""));
    if (!recovered.ok()) {
      Abort(recovered);
      return;
    }
    if (!staleness_.empty()) {
      options_.observer->OnStaleness(staleness_);
    }
  }
  if (all_done) {
    FinishRecovered();
    return;
  }
  // Whoever runs the job may know of what the lost one did not get to keep, or
  // not of what it did.
  TellWanted();
  if (!started_) {
    MakeReady();
  } else if (options_.plan.mode == Mode::kSync ||
             !options_.plan.shares_steps()) {
    // A step that was under way begins anew, whoever has heard of its commit;
    // so does a copy of slots.
    if (options_.plan.mode != Mode::kSync) {
      // Of sync, if there was, for who has not heard of it.
      last_commit_ = LastCommitOf(modes_->now.from_step);
      committed_ = modes_->now.from_step;
    }
    ChangeRoute();
  } else if (modes_->now.number > 0) {
    SendRoute();  // With the mode.
  }
  TellMode();
  if (cut_) {
    SendCuts();
  }
  HoldWorkers();
  for (const auto& [id, member] : members_) {
    if (member.suspect) {
      not_found_.try_emplace(
          id, UnavailableError("its connection was lost while the coordinator "
                               "was started again"));
    }
  }
  for (const auto& [id, why] : std::exchange(not_found_, {})) {
    if (members_.contains(id) && !ending_) {
      WaitForSuspect(id, why);
    }
  }
}

// Of every slot there must be a replica: no one else knows what it holds, nor
// which steps were committed.
Status Coordinator::CheckFound() const {
  const auto found = [this](int shard) {
    const auto& place = shards_[static_cast<size_t>(shard)];
    return place.has_value() && !not_found_.contains(*place);
  };
  for (const Chain& chain : route_.chains) {
    if (std::any_of(chain.members.begin(), chain.members.end(), found)) {
      continue;
    }
    const auto& place = shards_[static_cast<size_t>(chain.tail())];
    return place.has_value()
               ? not_found_.at(*place).WithPrefix(members_.at(*place).name)
               : UnavailableError(StrCat("shard ", chain.tail(), " was lost"));
  }
  return OkStatus();
}

// The training is done, and what is left of it is kept; who did not answer has
// heard so.
void Coordinator::FinishRecovered() {
  for (const auto& [id, why] : std::exchange(not_found_, {})) {
    const Member& member = members_.at(id);
    if (!member.is_worker) {
      shards_[static_cast<size_t>(member.index)].reset();
    } else if (!member.leaves) {
      workers_[static_cast<size_t>(member.index)].done_order = order_.number;
    }
    members_.erase(id);
  }
  if (std::all_of(workers_.begin(), workers_.end(),
                  [this](const WorkerState& worker) {
                    return worker.done_order == order_.number;
                  })) {
    FinishShards();
  }
}

}  // namespace shoal::ps
