#include "ps/shard.h"

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "base/trace.h"
#include "ps/checkpoint_format.h"
#include "ps/protocol.pb.h"
#include "ps/slots.h"
#include "ps/step_norms.h"
#include "ps/storage_answer.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

// What a message may hold, with room for its head.
constexpr int64_t kReplyBytesMax = comm::kMessageBytesMax - 4096;

// Outside sync, a worker whose pushes of a step are here may be ahead by a few
// more of one whose pushes are still on their way; more is no worker.
constexpr int64_t kStepsAheadMax = 16;

// Of rows that change before a checkpoint has them; beyond it, it is given up.
constexpr int64_t kKeptBytesMax = int64_t{1} << 30;

}  // namespace

Shard::Shard(const Options& options) : options_(options) {}
Shard::~Shard() = default;

void Shard::OnStart(comm::NodeContext& context) {
  context_ = &context;
  caller_.emplace(context);
  saves_.emplace(context);
  member_.emplace(
      context, *caller_,
      Member::Options{.coordinator = options_.coordinator,
                      .find_coordinator = options_.find_coordinator,
                      .server = options_.server,
                      .shard = options_.shard,
                      .join_within = options_.join_within},
      [this](StatusOr<JoinResult> joined) {
        if (!joined.ok()) {
          context_->Stop(joined.status());
          return;
        }
        OnJoined(*joined);
      },
      [this](const Status& why) { context_->Stop(why); });
  member_->Start();
}

void Shard::OnJoined(const JoinResult& joined) {
  model_ = joined.model;
  plan_ = joined.plan;
  index_ = joined.index;
  layout_.emplace(model_);
  links_.emplace(*context_, *caller_, plan_.timeout,
                 [this](const Status& why) { Fail(why); });
  route_ = joined.route;
  if (const Status made = MakeStores(); !made.ok()) {
    Fail(made);
    return;
  }
  step_ = joined.step;
  mode_.num_workers = joined.num_workers;
  mode_.number = joined.mode_number;
  clocks_.Begin(joined.step, mode_.num_workers);
  last_commit_ = joined.last;
  joined_ = true;
  ready_ = !joined.restores;
  pace_.emplace(*context_, [this] { SendSlots(); });
  meter_.emplace(route_.slot_bits, context_->Now());
  Adopt(joined.route);
  Report();
  ReportLoads();
}

Status Shard::MakeStores() {
  SHOAL_ASSIGN_OR_RETURN(memory_, PlanMemory(model_, plan_, route_.slot_bits));
  SHOAL_ASSIGN_OR_RETURN(store_, OpenStore(memory_, plan_));
  SHOAL_ASSIGN_OR_RETURN(
      tables_, MakeTables(model_, route_.slot_bits, memory_, store_.get()));
  SHOAL_ASSIGN_OR_RETURN(dense_, DenseStore::Create(model_, {}));
  return OkStatus();
}

void Shard::Report() {
  if (options_.report == nullptr) {
    return;
  }
  MemberReport report{.ready = ready_, .step = step_};
  // Before, the storage thread may be filling the tables.
  for (size_t t = 0; ready_ && t < tables_.size(); ++t) {
    const std::unique_ptr<SparseTable>& table = tables_[t];
    report.table_bytes += table->memory_bytes();
    if (t >= model_.tables.size()) {
      report.candidates += table->num_rows();
      continue;
    }
    report.table_rows += table->num_rows();
    report.rows_on_disk += table->num_rows() - table->rows_in_memory();
    report.rows_fetched += table->rows_fetched();
    report.rows_admitted += table->rows_admitted();
    report.rows_evicted += table->rows_evicted();
  }
  options_.report(report);
  context_->SetTimer(context_->Now() + kReportEvery, [this] { Report(); });
}

// What rebalancing goes by. A lost report is made up for by the next.
void Shard::ReportLoads() {
  if (ready_ && (commits() || !plan_.shares_steps())) {
    (void)context_->Send(member_->coordinator(), comm::Lane::kUrgent,
                         meter_->Report(context_->Now(), route_.version,
                                        *headed_, tables_, *layout_, *dense_));
  }
  context_->SetTimer(context_->Now() + kLoadsEvery, [this] { ReportLoads(); });
}

void Shard::OnMessage(comm::EndpointId from, comm::Message message) {
  if (message.header.kind == comm::MessageKind::kReply) {
    caller_->OnReply(from, std::move(message));
    return;
  }
  if (member_->OnMessage(from, message)) {
    return;
  }
  if (message.header.kind != comm::MessageKind::kRequest) {
    return;  // Of another version of the program; nobody waits.
  }
  if (!joined_) {
    ReplyError(from, message, UnavailableError("has not joined the job yet"));
    return;
  }
  const auto method = static_cast<Method>(message.header.method);
  if (from != member_->coordinator() &&
      (method == Method::kSave || method == Method::kParts ||
       method == Method::kLoad || method == Method::kFinish ||
       method == Method::kRouteChange || method == Method::kRecover)) {
    ReplyError(from, message,
               FailedPreconditionError(
                   StrCat("only the coordinator may ask a shard for method ",
                          message.header.method)));
    return;
  }
  switch (method) {
    case Method::kPull:
      return OnPull(from, std::move(message));
    case Method::kPush:
      return OnPush(from, std::move(message));
    case Method::kSave:
      return OnSave(from, std::move(message));
    case Method::kParts:
      return saves_->OnParts(from, std::move(message));
    case Method::kLoad:
      return OnLoad(from, message);
    case Method::kRouteChange:
      return OnRouteChange(from, std::move(message));
    case Method::kRecover:
      return AnswerRecover(*context_, from, message, step_, &last_commit_,
                           mode_.number);
    case Method::kPrepare:
    case Method::kApply:
    case Method::kSlotStates:
      return OnLinkMessage(from, std::move(message));
    case Method::kFinish:
      Reply(from, MakeReply(message, {}));
      context_->Stop(OkStatus());
      return;
    default:
      ReplyError(from, message,
                 InvalidArgumentError(
                     StrCat("a shard has no method ", message.header.method)));
  }
}

void Shard::OnPeerDown(comm::EndpointId peer, const Status& why) {
  caller_->OnPeerDown(peer, why);
  member_->OnPeerDown(peer);
  // Whoever waited will ask again on a new connection.
  std::erase_if(waiting_, [&](const auto& entry) {
    if (entry.second.from != peer) {
      return false;
    }
    context_->CancelTimer(entry.second.timer);
    return true;
  });
}

// --- Pulls -----------------------------------------------------------------

void Shard::OnPull(comm::EndpointId from, comm::Message request) {
  wire::Pull pull;
  Status status = Decode(request, pull);
  if (status.ok() && request.frames.size() != model_.groups.size() + 1) {
    status = InvalidArgumentError(StrCat("pull: has ", request.frames.size(),
                                         " frames, expected ",
                                         model_.groups.size() + 1));
  }
  if (status.ok() && !CheckVersion(from, request, pull.version())) {
    return;
  }
  int64_t reply_bytes = pull.dense() ? headed_->dense_elements * 4 : 0;
  const PushShape shape = {.model = &model_,
                           .slot_bits = route_.slot_bits,
                           .portion = headed_.get()};
  for (size_t g = 0; status.ok() && g < model_.groups.size(); ++g) {
    const auto ids = ReadIds(request.frames[g + 1], static_cast<int>(g), shape);
    status = ids.status().WithPrefix("pull");
    for (const int index : model_.groups[g]) {
      reply_bytes += request.frames[g + 1].size() / 8 *
                     tables_[static_cast<size_t>(index)]->dim() * 4;
    }
  }
  // Said here, where it is known why: a reply that is too long is not sent.
  if (status.ok() && reply_bytes > kReplyBytesMax) {
    status = InvalidArgumentError(StrCat(
        "pull: asks for ", reply_bytes, " bytes, more than the ",
        kReplyBytesMax, " of one message; use smaller batches or more shards"));
  }
  if (status.ok() && plan_.mode == Mode::kSync && pull.step() < step_) {
    // Of a worker in place of one that had pushed the step before it was lost.
    status = AbortedError(StrCat("pull: asks for step ", pull.step(),
                                 ", but the job is at ", step_));
  }
  if (status.ok() && !plan_.shares_steps() &&
      !HasPushes(from.value, pull.acknowledged())) {
    status = UnavailableError(
        StrCat("pull: has not got push ", pull.acknowledged(),
               ", which was acknowledged: this shard was cut off"));
  }
  if (!status.ok()) {
    ReplyError(from, request, status);
    return;
  }
  if (MayAnswer(pull.step())) {
    AnswerPull(from, request);
    return;
  }
  const uint64_t waiting = next_waiting_++;
  // A peer's number, whatever it is: added to the clock only within bounds.
  const Duration deadline = std::clamp<Duration>(
      Duration(pull.deadline_ns()), Duration::zero(), plan_.timeout);
  waiting_.emplace(waiting, WaitingPull{.from = from,
                                        .request = std::move(request),
                                        .step = pull.step(),
                                        .stands_in = pull.stands_in()});
  WaitForStep(waiting, deadline);
}

void Shard::WaitForStep(uint64_t waiting, Duration within) {
  waiting_.at(waiting).timer = context_->SetTimer(
      context_->Now() + within, [this, waiting] { OnPullDeadline(waiting); });
}

void Shard::OnPullDeadline(uint64_t waiting) {
  const auto it = waiting_.find(waiting);
  if (it == waiting_.end()) {
    return;
  }
  const std::vector<int> missing = CurrentStage().MissingVirtualWorkers();
  const bool needed = !missing.empty() && it->second.step == step_ + 1;
  if (std::exchange(it->second.stands_in, false)) {
    if (!needed) {
      WaitForStep(waiting, plan_.timeout);
      return;
    }
    wire::PullReply reply;
    reply.set_step(step_);
    // Not the same to all, so that several that stand in divide them.
    reply.set_lacks(missing[waiting % missing.size()]);
    Reply(it->second.from, MakeReply(it->second.request, {Encode(reply)}));
    waiting_.erase(it);
    return;
  }
  std::string workers;
  for (const int worker : missing) {
    workers += StrCat(workers.empty() ? "" : ", ", worker);
  }
  ReplyError(
      it->second.from, it->second.request,
      DeadlineExceededError(
          missing.empty()
              ? StrCat("step ", step_,
                       " is complete here but not committed: the coordinator "
                       "or another shard is late")
              : StrCat("step ", step_,
                       " lacks the gradients of virtual workers ", workers)));
  waiting_.erase(it);
}

bool Shard::MayAnswer(int64_t step) const {
  if (!plan_.shares_steps() || plan_.mode == Mode::kAsync) {
    return true;  // Workers that are dealt steps have waited before they asked.
  }
  return step - (plan_.mode == Mode::kBounded ? plan_.staleness : 0) <= step_;
}

int64_t Shard::StalenessOf(int64_t step) {
  return plan_.shares_steps() ? std::max<int64_t>(step - step_, 0)
                              : clocks_.Staleness(step, sequences_, *headed_);
}

void Shard::AnswerWaiting() {
  std::vector<WaitingPull> ready;
  std::erase_if(waiting_, [&](auto& entry) {
    if (!MayAnswer(entry.second.step)) {
      return false;
    }
    context_->CancelTimer(entry.second.timer);
    ready.push_back(std::move(entry.second));
    return true;
  });
  for (const WaitingPull& pull : ready) {
    AnswerPull(pull.from, pull.request);
  }
}

void Shard::AnswerPull(comm::EndpointId from, const comm::Message& request) {
  SHOAL_TRACE("answer pull", step_);
  wire::Pull pull;
  // Decoded once before, when it came.
  SHOAL_CHECK(Decode(request, pull).ok());
  wire::PullReply reply;
  reply.set_step(step_);
  if (last_commit_.next_loss_scale != 1) {
    reply.set_loss_scale(last_commit_.next_loss_scale);
  }
  if (!commits()) {
    reply.set_staleness(StalenessOf(pull.step()));
  } else if (plan_.backup_workers > 0) {
    reply.set_came_last(came_last_);
  }
  std::vector<Buffer> frames = {Encode(reply)};
  const bool counts = meter_->LooksAtPull();
  for (size_t g = 0; g < model_.groups.size(); ++g) {
    const auto ids = request.frames[g + 1].As<uint64_t>();
    if (counts) {
      meter_->Pulled(ids, BytesOfId(g));
    }
    for (const int index : model_.groups[g]) {
      SparseTable& table = *tables_[static_cast<size_t>(index)];
      Buffer rows =
          Buffer::Allocate(static_cast<int64_t>(ids.size()) * table.dim() * 4);
      float* const to = rows.MutableAs<float>().data();
      if (loads_ == 0) {
        table.PullAndKeep(ids, to);
      } else {
        table.Pull(ids, to);  // The storage thread reads the table.
      }
      frames.push_back(std::move(rows));
    }
  }
  if (!CheckTables()) {
    return;
  }
  if (pull.dense()) {
    meter_->PulledDense();
    if (dense_values_.empty()) {
      dense_values_ = dense_->Copy(headed_->chunks);
    }
    frames.push_back(dense_values_);
  }
  Reply(from, MakeReply(request, std::move(frames)));
}

// --- Pushes ----------------------------------------------------------------

bool Shard::CheckVersion(comm::EndpointId from, const comm::Message& request,
                         uint64_t version) {
  if (version == route_.version) {
    return true;
  }
  if (version < route_.version) {
    ReplyMoved(from, request);
  } else {
    ReplyError(from, request,
               UnavailableError(StrCat("has not heard of version ", version,
                                       " of the route yet")));
  }
  return false;
}

void Shard::ReplyMoved(comm::EndpointId to, const comm::Message& request) {
  Buffer head;
  if (request.header.method == static_cast<uint16_t>(Method::kPull)) {
    wire::PullReply reply;
    ToWire(route_, *reply.mutable_route());
    head = Encode(reply);
  } else {
    wire::PushReply reply;
    ToWire(route_, *reply.mutable_route());
    head = Encode(reply);
  }
  Reply(to, MakeReply(request, {head}));
}

void Shard::ReplyPush(comm::EndpointId to, const comm::Message& request,
                      bool repeated) {
  wire::PushReply reply;
  reply.set_step(step_);
  reply.set_repeated(repeated);
  Reply(to, MakeReply(request, {Encode(reply)}));
}

void Shard::OnPush(comm::EndpointId from, comm::Message request) {
  SHOAL_TRACE("take push", step_);
  wire::Push head;
  Status status = Decode(request, head);
  if (status.ok() && !CheckVersion(from, request, head.version())) {
    return;
  }
  PushParts push;
  if (status.ok()) {
    StatusOr<PushParts> read = ReadPush(request, ShapeOf(*headed_));
    status = read.status();
    if (read.ok()) {
      push = *std::move(read);
    }
  }
  if (status.ok() && !plan_.shares_steps()) {
    ApplyPush(from, std::move(request), std::move(push));
    return;
  }
  const int64_t step = push.step;
  StatusOr<bool> repeated = status;
  if (status.ok()) {
    repeated = StagePush(from, std::move(push));
  }
  if (!repeated.ok()) {
    ReplyError(from, request, repeated.status());
    return;
  }
  if (!commits()) {
    ReplyPush(from, request);
    ApplyStaged();
    return;
  }
  if (step < step_) {
    ReplyPush(from, request, *repeated);
    return;
  }
  request.frames.clear();
  unacknowledged_.push_back({{from, std::move(request)}, *repeated});
  if (CurrentStage().complete() && !prepared_) {
    Prepare();
  }
}

StepStage& Shard::CurrentStage() {
  return stages_.try_emplace(step_, Stage{{model_, plan_.virtual_workers}})
      .first->second.pushes;
}

StatusOr<bool> Shard::StagePush(comm::EndpointId from, PushParts push) {
  // A push that is sent again is no repeat of another one's.
  const std::pair<uint64_t, uint64_t> sender(from.value, push.sequence);
  const int64_t first_node = push.pieces.empty() ? 0 : push.pieces[0].node;
  const auto is_others = [&](const std::map<int64_t, Sender>& taken) {
    const auto it = taken.find(first_node);
    return it == taken.end() || it->second != sender;
  };
  if (push.step < step_) {
    return push.step < step_ - 1 || is_others(taken_before_);
  }
  const bool commits = plan_.mode == Mode::kSync;
  if (push.step > step_ + (commits ? 0 : kStepsAheadMax)) {
    return FailedPreconditionError(
        StrCat("push: is for step ", push.step, ", but the job is at ", step_));
  }
  if (!commits && !push.learning_rate_factor.has_value()) {
    return InvalidArgumentError(
        "push: has no learning rate factor, as one outside sync must");
  }
  const auto [it, is_new] = stages_.try_emplace(
      push.step, Stage{{model_, plan_.virtual_workers},
                       push.learning_rate_factor.value_or(1)});
  Stage& stage = it->second;
  if (!commits && stage.learning_rate_factor != *push.learning_rate_factor) {
    return InvalidArgumentError(StrCat("push: has a learning rate factor of ",
                                       *push.learning_rate_factor, " for step ",
                                       push.step, ", another worker has ",
                                       stage.learning_rate_factor));
  }
  const int before = stage.pushes.num_present();
  const Status added = stage.pushes.AddAll(std::move(push.pieces));
  if (!added.ok()) {
    if (is_new) {
      stages_.erase(it);
    }
    return added;
  }
  if (plan_.backup_workers > 0 && stage.pushes.num_present() > before) {
    stage.taken.emplace(first_node, sender);
  }
  return is_others(stage.taken);
}

void Shard::ApplyStaged() {
  const int64_t before = step_;
  for (auto it = stages_.begin(); it != stages_.end() && it->first == step_ &&
                                  it->second.pushes.complete();
       it = stages_.erase(it)) {
    if (!Apply(
            {std::make_shared<const Piece>(it->second.pushes.Sum()), headed_},
            {.learning_rate_factor = it->second.learning_rate_factor}, step_)) {
      return;
    }
    ++step_;
  }
  if (step_ > before) {
    AnswerWaiting();
  }
}

void Shard::Prepare() {
  prepared_ = true;
  // Summed while the commit is on its way, if nobody else needs the sum.
  const bool alone = !HandsOn() && !needs_norms();
  if (alone) {
    SendPrepared();
  }
  {
    SHOAL_TRACE("sum", step_);
    parts_.push_back(
        {std::make_shared<const Piece>(CurrentStage().Sum()), headed_});
  }
  if (!alone) {
    wire::Push head;
    head.set_step(step_);
    Forward(Method::kPrepare, head, Part(parts_.back()),
            [this] { SendPrepared(); });
  }
}

void Shard::SendPrepared() {
  wire::Prepared prepared;
  prepared.set_step(step_);
  prepared.set_version(route_.version);
  if (needs_norms()) {
    StepNorms norms;
    for (const Part& part : parts_) {
      if (part.portion == headed_) {
        norms = NormsOf(*part.piece, *headed_, *dense_,
                        last_commit_.next_loss_scale);
      }
    }
    ToWire(norms, *prepared.mutable_norms());
  }
  // Who has pushes knows that the commit is due. Who has none may wait for as
  // long as the job evaluates or saves; that the coordinator lives is watched
  // by Member.
  const Duration within =
      headed_->empty() ? Duration(std::chrono::hours(24)) : plan_.timeout;
  links_->Ask(
      member_->coordinator(), comm::Lane::kUrgent, Method::kPrepared,
      StrCat("the commit of step ", step_), {Encode(prepared)}, within,
      [this](const StatusOr<comm::Message>& reply) { OnCommit(reply); });
}

void Shard::OnCommit(const StatusOr<comm::Message>& reply) {
  wire::Commit commit;
  Status status = reply.status();
  if (status.ok()) {
    status = Decode(*reply, commit);
  }
  if (status.ok() && commit.step() != step_) {
    status = InternalError(
        StrCat("a commit of step ", commit.step(), " came at step ", step_));
  }
  StatusOr<StepDecision> decision = status;
  if (status.ok()) {
    decision = FromWire(commit);
  }
  if (!decision.ok()) {
    Fail(decision.status());
    return;
  }
  ApplyCommitted(*decision);
  if (failed_) {
    return;
  }
  for (auto& [from, request] : std::exchange(waiting_saves_, {})) {
    OnSave(from, std::move(request));
  }
  // Before what may have come already for the next step.
  SendSlots();
  DrainLinks();
  if (headed_->empty() && !failed_) {
    prepared_ = true;
    SendPrepared();  // Of what is nothing here.
  }
}

void Shard::ApplyCommitted(const StepDecision& decision) {
  const int64_t step = step_;
  int64_t prepared = 0;
  for (const Part& part : parts_) {
    prepared += part.portion->num_slots;
  }
  const int64_t has =
      held_->num_slots + std::count(received_.begin(), received_.end(), true);
  if (prepared != has) {
    Fail(
        InternalError(StrCat("step ", step_, " is committed, but prepared for ",
                             prepared, " of ", has, " slots here")));
    return;
  }
  if (!decision.trust_ratios.empty() &&
      decision.trust_ratios.size() != model_.variables.size()) {
    Fail(InternalError(StrCat("the commit of step ", step, " has ratios of ",
                              decision.trust_ratios.size(), " variables, of ",
                              model_.variables.size())));
    return;
  }
  // First what is asked for: nobody pulls from a replica that is no head.
  const auto apply = [&](bool headed) {
    for (const Part& part : parts_) {
      if (!decision.skip && (part.portion == headed_) == headed &&
          !Apply(part, decision, step)) {
        return false;
      }
    }
    return true;
  };
  if (!apply(true)) {
    return;
  }
  came_last_ = CurrentStage().came_last();
  taken_before_ = std::move(stages_.at(step_).taken);
  ++step_;
  last_commit_ = decision;
  prepared_ = false;
  AnswerWaiting();
  for (const auto& [push, repeated] : std::exchange(unacknowledged_, {})) {
    ReplyPush(push.from, push.message, repeated);
  }
  if (!apply(false)) {
    return;
  }
  // After the answers: nobody waits for the memory to be freed.
  parts_.clear();
  stages_.clear();
}

bool Shard::Apply(const Part& part, const StepDecision& decision,
                  int64_t step) {
  SHOAL_TRACE("apply", step);
  const double learning_rate_factor = decision.learning_rate_factor;
  const bool scales = decision.gradient_scale != 1;
  const Piece scaled =
      scales ? Scaled(*part.piece, decision.gradient_scale) : Piece();
  const Piece& piece = scales ? scaled : *part.piece;
  const bool headed = part.portion == headed_;
  const bool counts = headed && meter_->LooksAtPush();
  if (headed && !piece.dense.empty()) {
    meter_->PushedDense();
  }
  for (size_t g = 0; g < piece.groups.size(); ++g) {
    const GroupGradients& gradients = piece.groups[g];
    if (counts) {
      meter_->Pushed(gradients.ids, BytesOfId(g));
    }
    for (size_t t = 0; t < gradients.tables.size(); ++t) {
      const auto index = static_cast<size_t>(model_.groups[g][t]);
      tables_[index]->Apply(gradients.ids, gradients.tables[t].data(),
                            learning_rate_factor, step + 1,
                            &part.portion->slots);
    }
  }
  dense_->Apply(part.portion->chunks, piece.dense, learning_rate_factor,
                decision.trust_ratios, piece.computed_from);
  dense_values_ = Buffer();
  return CheckTables();
}

// Of a pull's or push's group, for each id.
int64_t Shard::BytesOfId(size_t group) const {
  int64_t bytes = 8;
  for (const int table : model_.groups[group]) {
    bytes += model_.tables[static_cast<size_t>(table)].dim * 4;
  }
  return bytes;
}

bool Shard::CheckTables() {
  Status status = TablesStatus();
  const int64_t kept = saves_->kept_bytes();
  if (kept > 0 && (kept > kKeptBytesMax ||
                   status.code() == StatusCode::kResourceExhausted)) {
    saves_->GiveUp(StrCat(kept, " bytes changed before they were written"));
    status = TablesStatus();
  }
  if (!status.ok()) {
    Fail(status);
  }
  return status.ok();
}

// --- Checkpoints -----------------------------------------------------------

void Shard::OnSave(comm::EndpointId from, comm::Message request) {
  wire::Save save;
  if (const Status status = Decode(request, save); !status.ok()) {
    ReplyError(from, request, status);
    return;
  }
  if (save.version() < route_.version) {
    // It is about to be asked for anew, under that one.
    ReplyError(from, request,
               UnavailableError(StrCat("save: is for version ", save.version(),
                                       " of the route, but ", route_.version,
                                       " counts")));
    return;
  }
  if (save.version() > route_.version || (commits() && save.step() > step_)) {
    // Workers are done when one shard has told them of the last commit; it, or
    // the route, may still be on its way here.
    waiting_saves_.push_back({from, std::move(request)});
    return;
  }
  if (plan_.shares_steps() && save.step() != step_) {
    ReplyError(
        from, request,
        FailedPreconditionError(StrCat("save: is for step ", save.step(),
                                       ", but the shard is at ", step_)));
    return;
  }
  // The coordinator asks when nothing is under way.
  saves_->OnSave(from, request, save, StateOf(*headed_),
                 plan_.incremental_checkpoints);
}

void Shard::EndLoad() {
  --loads_;
  if (loads_ == 0 && next_route_.has_value()) {
    WaitingMessage next = *std::exchange(next_route_, std::nullopt);
    OnRouteChange(next.from, std::move(next.message));
  }
  SendSlots();
  DrainLinks();
}

void Shard::OnLoad(comm::EndpointId from, const comm::Message& request) {
  wire::Load load;
  if (const Status status = Decode(request, load); !status.ok()) {
    ReplyError(from, request, status);
    return;
  }
  // A coordinator that was started again asks again, perhaps while the tables
  // are still being filled.
  ready_ = false;
  ++loads_;
  AnswerLoad(
      *context_, from, request,
      [this, load, portion = held_](Storage& storage) {
        return LoadParts(storage, load.folder(), StateOf(*portion));
      },
      [this, step = load.step()] {
        step_ = step;
        clocks_.Begin(step, mode_.num_workers);
        ready_ = loads_ == 1;
        dense_values_ = Buffer();
      },
      [this] { EndLoad(); });
}

// ---------------------------------------------------------------------------

void Shard::Reply(comm::EndpointId to, comm::Message reply) {
  // A reply that can't be sent is asked for again, or its waiter's deadline
  // passes: nothing is kept for it here.
  (void)context_->Send(to, comm::Lane::kBulk, std::move(reply));
}

void Shard::ReplyError(comm::EndpointId to, const comm::Message& request,
                       const Status& status) {
  Reply(to, MakeErrorReply(request, status));
}

void Shard::Fail(const Status& why) {
  if (std::exchange(failed_, true)) {
    return;
  }
  // If it does not arrive, the coordinator sees this process end.
  (void)context_->Send(member_->coordinator(), comm::Lane::kUrgent,
                       AbortMessage(why.code(), why.message()));
  context_->Stop(why);
}

}  // namespace shoal::ps
