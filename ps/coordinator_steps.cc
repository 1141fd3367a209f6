// The part of the coordinator that leads steps and keeps clocks.

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "ps/coordinator.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"

namespace shoal::ps {

void Coordinator::OnPrepared(comm::EndpointId from, comm::Message message) {
  wire::Prepared prepared;
  Status status = Decode(message, prepared);
  if (status.ok() && (members_.at(from).is_worker || prepared.step() < 0)) {
    // A worker must not stand in for the shard that is still missing.
    status = InvalidArgumentError(StrCat("prepared step ", prepared.step(),
                                         " by ", members_.at(from).name));
  } else if (status.ok() && prepared.has_norms() != phase_->needs_norms()) {
    status = InternalError(StrCat("prepared step ", prepared.step(),
                                  prepared.has_norms()
                                      ? " with norms that nobody asked for"
                                      : " without the norms that it needs"));
  } else if (status.ok() && prepared.step() < committed_ - 1) {
    status = InternalError(StrCat("prepared step ", prepared.step(),
                                  " long after its commit; the job is at ",
                                  committed_));
  } else if (status.ok() && prepared.step() > committed_) {
    status = InternalError(StrCat("prepared step ", prepared.step(),
                                  ", but the job is at ", committed_));
  }
  StatusOr<StepNorms> norms = status;
  if (status.ok()) {
    norms = FromWire(prepared.norms());
    status = norms.status();
  }
  if (!status.ok()) {
    Reply(from, MakeErrorReply(message, status));
    return;
  }
  WaitingMessage waiting{from, std::move(message)};
  if (prepared.step() < committed_) {
    ReplyCommit(waiting);  // Its first reply was lost.
    return;
  }
  if (prepared.version() != route_.version) {
    Reply(from,
          MakeErrorReply(waiting.message,
                         UnavailableError("a newer route is on its way")));
    return;
  }
  prepared_.insert_or_assign(
      from, PreparedShard{std::move(waiting), *std::move(norms)});
  MaybeCommit();
}

void Coordinator::MaybeCommit() {
  const auto is_prepared = [this](const auto& shard) {
    return !shard.has_value() || prepared_.contains(*shard);
  };
  if (cut_ == cut_sent_ && cuts_.empty() && !prepared_.empty() &&
      std::all_of(shards_.begin(), shards_.end(), is_prepared)) {
    Commit();
  }
}

void Coordinator::Commit() {
  StepNorms norms;
  for (const auto& [shard, prepared] : prepared_) {
    norms.Add(prepared.norms);
  }
  StatusOr<StepDecision> decision = phase_->Decide(
      committed_, options_.train.LearningRateFactor(committed_), norms);
  if (!decision.ok()) {
    Abort(decision.status());
    return;
  }
  last_commit_ = *std::move(decision);
  ++committed_;
  for (const auto& [shard, prepared] : prepared_) {
    ReplyCommit(prepared.waiting);
  }
  prepared_.clear();
}

void Coordinator::ReplyCommit(const WaitingMessage& waiting) {
  wire::Commit commit;
  ToWire(last_commit_, commit);
  Reply(waiting.from, MakeReply(waiting.message, {Encode(commit)}));
}

// Where steps are dealt in turn: step s is the worker's whose index is s modulo
// their number.
int64_t Coordinator::ClockAt(size_t worker, int64_t step) const {
  const int64_t n = options_.num_workers;
  return (step - static_cast<int64_t>(worker) + n - 1) / n;
}

int64_t Coordinator::MinimumClock() const {
  int64_t minimum = workers_.front().clock;
  for (const WorkerState& worker : workers_) {
    minimum = std::min(minimum, worker.clock);
  }
  return minimum;
}

void Coordinator::OnClock(comm::EndpointId from, comm::Message message) {
  const Member& member = members_.at(from);
  wire::Clock clock;
  const Status status = Decode(message, clock);
  if (!status.ok() || !member.is_worker) {
    Reply(from, MakeErrorReply(message, status.ok() ? InvalidArgumentError(
                                                          "only workers have "
                                                          "clocks")
                                                    : status));
    return;
  }
  WorkerState& state = workers_[static_cast<size_t>(member.index)];
  if (state.awaiting_clock.has_value() && clock.clock() < state.clock) {
    // One that was sent again, after a lost connection, behind a newer one:
    // that is what the worker waits for.
    wire::ClockReply reply;
    reply.set_minimum(MinimumClock());
    Reply(from, MakeReply(message, {Encode(reply)}));
    return;
  }
  state.clock = std::max(state.clock, clock.clock());
  // A newer report takes the place of one that waits.
  state.clock_wanted = 0;
  AnswerClocks();
  state.clock_wanted = clock.wait_for();
  state.awaiting_clock = WaitingMessage{from, std::move(message)};
  AnswerClocks();
}

void Coordinator::AnswerClocks() {
  const int64_t minimum = MinimumClock();
  for (WorkerState& worker : workers_) {
    if (worker.awaiting_clock.has_value() && worker.clock_wanted <= minimum) {
      const WaitingMessage waiting =
          *std::exchange(worker.awaiting_clock, std::nullopt);
      wire::ClockReply reply;
      reply.set_minimum(minimum);
      Reply(waiting.from, MakeReply(waiting.message, {Encode(reply)}));
    }
  }
}

}  // namespace shoal::ps
