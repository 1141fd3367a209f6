#include "worker/worker_node.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/mutex.h"
#include "base/strcat.h"
#include "base/trace.h"
#include "ps/protocol.pb.h"
#include "ps/staleness.h"
#include "ps/wire.h"

namespace shoal::worker {
namespace {

// One unit is read, one computed and one pushed at the same time.
constexpr size_t kUnitsMax = 3;
constexpr int kComputeLane = 0;
constexpr int kReadLane = 1;
constexpr Duration kReportEvery = 100ms;
constexpr Duration kOpenWithin = std::chrono::minutes(10);

}  // namespace

struct WorkerNode::Unit {
  enum class State : uint8_t {
    kFilling,
    kFilled,
    kPulling,
    kPulled,
    kComputing,
    kPushing,
    kDone,
  };
  State state = State::kFilling;
  int64_t number = 0;  // the step, or the batch of an evaluation
  StepInput input;
  std::vector<float> dense;
  std::vector<std::vector<float>> rows;
  int lacks = -1;               // instead of rows: a virtual worker
  uint64_t values_version = 0;  // of what was pulled
  std::vector<float*> row_pointers;
  std::shared_ptr<GradientSums> sums;
  std::vector<Gradients> pieces;  // one per node of the cover
  bool repeated = false;          // others had pushed the same before
  int sends = 0;  // under way: to the shards, to the other workers
  double loss_sum = 0;
  double loss_scale = 1;
  int64_t staleness = 0;  // of its values, in clocks
  Status status;
};

struct WorkerNode::UnitPool {
  Mutex mutex;
  std::vector<std::unique_ptr<Unit>> free SHOAL_GUARDED_BY(mutex);
};

WorkerNode::WorkerNode(Options options)
    : options_(std::move(options)),
      job_(FailedPreconditionError("not joined yet")),
      pool_(std::make_shared<UnitPool>()) {}

WorkerNode::~WorkerNode() = default;

void WorkerNode::OnStart(comm::NodeContext& context) {
  context_ = &context;
  caller_.emplace(context);
  saves_.emplace(context);
  member_.emplace(
      context, *caller_,
      ps::Member::Options{.coordinator = options_.coordinator,
                          .find_coordinator = options_.find_coordinator,
                          .is_worker = true,
                          .worker = options_.worker,
                          .join_within = options_.join_within},
      [this](StatusOr<ps::JoinResult> joined) { OnJoined(std::move(joined)); },
      [this](const Status& why) {
        stopped_ = true;
        context_->Stop(why);
      });
  member_->Start();
}

void WorkerNode::OnJoined(StatusOr<ps::JoinResult> joined) {
  if (!joined.ok()) {
    context_->Stop(joined.status());
    return;
  }
  joined_ = *std::move(joined);
  opening_ = 1;
  if (const Status opened = OpenReplica(); !opened.ok()) {
    Fail(opened);
    return;
  }
  StartWork(
      kComputeLane, "opening its data and model", nullptr,
      [this] { job_ = options_.open(joined_); },
      [this] {
        if (!job_.ok()) {
          Fail(job_.status());
          return;
        }
        client_.emplace(*caller_, joined_.model, joined_.plan, joined_.route);
        if (newer_route_.has_value()) {
          client_->Adopt(*std::exchange(newer_route_, std::nullopt));
        }
        MakeSums(joined_.virtual_begin, joined_.virtual_end);
        OnOpened();
      });
}

void WorkerNode::OnOpened() {
  if (stopped_ || --opening_ > 0) {
    return;
  }
  last_report_ = context_->Now();
  Report();
  AskOrder();
}

void WorkerNode::OnMessage(comm::EndpointId from, comm::Message message) {
  if (message.header.kind == comm::MessageKind::kReply) {
    caller_->OnReply(from, std::move(message));
    return;
  }
  if (message.header.method == comm::kCollectiveMethod) {
    if (replica_ != nullptr) {
      replica_->OnMessage(from, message);
    } else if (joined_.num_workers == 0) {
      early_.emplace_back(from, std::move(message));
    }
    return;
  }
  if (member_->OnMessage(from, message) ||
      message.header.kind != comm::MessageKind::kRequest) {
    return;
  }
  if (joined_.num_workers == 0) {
    // On another lane than the answer to our join, which it has passed.
    (void)context_->Send(
        from, comm::Lane::kUrgent,
        comm::MakeErrorReply(message,
                             UnavailableError("has not joined the job yet")));
    return;
  }
  const auto method = static_cast<ps::Method>(message.header.method);
  if (from == member_->coordinator() && method == ps::Method::kRouteChange) {
    OnRouteChange(from, message);
  } else if (from == member_->coordinator() &&
             method == ps::Method::kCutOrder) {
    OnCutOrder(from, message);
  } else if (from == member_->coordinator() && method == ps::Method::kRecover) {
    ps::AnswerRecover(*context_, from, message, trained_until_, nullptr,
                      joined_.mode_number);
  } else if (from == member_->coordinator() && replica_ != nullptr &&
             method == ps::Method::kSave) {
    OnSave(from, message);
  } else if (from == member_->coordinator() && replica_ != nullptr &&
             method == ps::Method::kParts) {
    saves_->OnParts(from, std::move(message));
  } else if (from == member_->coordinator() && replica_ != nullptr &&
             method == ps::Method::kLoad) {
    OnLoad(from, std::move(message));
  } else {
    (void)context_->Send(
        from, comm::Lane::kUrgent,
        comm::MakeErrorReply(
            message, InvalidArgumentError(StrCat("this worker has no method ",
                                                 message.header.method))));
  }
}

void WorkerNode::OnPeerDown(comm::EndpointId peer, const Status& why) {
  caller_->OnPeerDown(peer, why);
  member_->OnPeerDown(peer);
  if (replica_ != nullptr) {
    replica_->OnPeerDown(peer, why);
  }
}

void WorkerNode::OnSendable(comm::EndpointId peer) {
  if (replica_ != nullptr) {
    replica_->OnSendable(peer);
  }
}

void WorkerNode::DropBeyondOrder() {
  while (!units_.empty() && units_.back()->number >= last_unit_ &&
         units_.back()->state == Unit::State::kFilled) {
    units_.pop_back();
  }
}

// --- The pipeline ----------------------------------------------------------

void WorkerNode::Advance() {
  if (stopped_ || asking_) {
    return;
  }
  if (restarting_) {
    if (!filling_ && !computing_ && !pulling_) {
      units_.clear();
      AskOrder();
    }
    return;
  }
  if (goes_back_to_.has_value()) {
    if (filling_ || computing_ || pulling_) {
      return;
    }
    units_.clear();
    next_fill_ = *std::exchange(goes_back_to_, std::nullopt);
    pulls_started_until_ = computed_until_ = done_until_ = next_fill_;
  }
  if (done_until_ == last_unit_ && !filling_) {
    ReportProgress(counted_until_, true);
    AskOrder();
    return;
  }
  for (const auto& unit : units_) {
    if (unit->state == Unit::State::kPulled && MayCompute(*unit)) {
      StartCompute(unit);
    }
  }
  for (const auto& unit : units_) {
    if (unit->state == Unit::State::kFilled && MayPull(*unit)) {
      StartPull(unit);
    }
  }
  if (!filling_ && next_fill_ < last_unit_ && units_.size() < kUnitsMax) {
    units_.push_back(NewUnit());
    units_.back()->number = std::exchange(next_fill_, next_fill_ + stride_);
    StartFill(*units_.back());
  }
}

// A unit goes back to the pool when the last that holds its memory lets go,
// on whatever thread that is.
std::shared_ptr<WorkerNode::Unit> WorkerNode::NewUnit() {
  std::unique_ptr<Unit> unit;
  {
    MutexLock lock(pool_->mutex);
    if (!pool_->free.empty()) {
      unit = std::move(pool_->free.back());
      pool_->free.pop_back();
    }
  }
  if (unit == nullptr) {
    unit = std::make_unique<Unit>();
  }
  return {unit.release(), [pool = pool_](Unit* returned) {
            MutexLock lock(pool->mutex);
            pool->free.emplace_back(returned);
          }};
}

bool WorkerNode::MayPull(const Unit& unit) const {
  // One beyond an order that was cut stays while the next is being read.
  if (unit.number != pulls_started_until_ || unit.number >= last_unit_ ||
      held_) {
    return false;
  }
  // At most one pull ahead of the compute: further ones would only read older
  // values.
  const bool near = unit.number <= computed_until_ + (computing_ ? stride_ : 0);
  return near &&
         (!WaitsForClocks() ||
          minimum_clock_ >= unit.number / stride_ - joined_.plan.staleness);
}

// In `bounded`, where steps are dealt; where they are shared the shards wait.
bool WorkerNode::WaitsForClocks() const {
  return order_.kind == OrderKind::kTrain &&
         joined_.plan.mode == ps::Mode::kBounded &&
         !joined_.plan.shares_steps();
}

bool WorkerNode::MayCompute(const Unit& unit) const {
  // Pulls wait for their step at the shards; a replica is waited for here.
  return !computing_ && unit.number == computed_until_ &&
         (replica_ == nullptr || order_.kind != OrderKind::kTrain ||
          replica_->step() == unit.number);
}

// Work beside the node, which still answers when it hangs: so this watches it.
// `unit`, if any, stays until `done`.
void WorkerNode::StartWork(int lane, const char* doing, const Unit* unit,
                           std::function<void()> work,
                           std::function<void()> done) {
  comm::TimerId& timer = lane_timers_[static_cast<size_t>(lane)];
  const Duration within = unit == nullptr ? kOpenWithin : joined_.plan.timeout;
  timer =
      context_->SetTimer(context_->Now() + within, [this, doing, unit, within] {
        Fail(DeadlineExceededError(
            StrCat(doing, unit == nullptr ? "" : UnitText(*unit),
                   " has taken more than ", ToString(within),
                   ": it hangs, or needs a larger cluster.timeout_seconds")));
      });
  context_->StartCompute(lane, std::move(work),
                         [this, &timer, done = std::move(done)] {
                           context_->CancelTimer(timer);
                           done();
                         });
}

std::string WorkerNode::UnitText(const Unit& unit) const {
  return order_.kind == OrderKind::kTrain
             ? StrCat("step ", unit.number)
             : StrCat("batch ", unit.number, " of the evaluation at step ",
                      order_.until);
}

void WorkerNode::StartFill(Unit& unit) {
  filling_ = true;
  unit.state = Unit::State::kFilling;
  if (IsBackup() && stands_for_ >= 0) {
    StandFor(stands_for_);
  }
  unit.sums = sums_;
  StartWork(
      kReadLane, "reading the examples of ", &unit,
      [this, &unit, heads = client_->heads()] {
        const TraceSpan span("read", unit.number);
        if (order_.kind == OrderKind::kTrain) {
          unit.status = job_->source->FillTrain(unit.number, heads, unit.input);
          return;
        }
        const int64_t rows = job_->source->num_test_rows();
        const int64_t begin = joined_.index * rows / joined_.num_workers;
        const int64_t end = (joined_.index + 1) * rows / joined_.num_workers;
        const int64_t batch = job_->source->share_size_max();
        unit.status = job_->source->FillTest(
            begin + unit.number * batch,
            std::min(begin + (unit.number + 1) * batch, end), heads,
            unit.input);
      },
      [this, &unit] {
        filling_ = false;
        if (!unit.status.ok()) {
          Fail(unit.status);
          return;
        }
        unit.state = Unit::State::kFilled;
        DropBeyondOrder();
        Advance();
      });
}

void WorkerNode::StartPull(const std::shared_ptr<Unit>& owner) {
  Unit& unit = *owner;
  unit.state = Unit::State::kPulling;
  pulling_ = true;
  pulls_started_until_ = unit.number + stride_;
  const size_t num_tables = joined_.model.tables.size();
  unit.rows.resize(num_tables);
  unit.row_pointers.resize(num_tables);
  for (size_t g = 0; g < joined_.model.groups.size(); ++g) {
    for (const int table : joined_.model.groups[g]) {
      const auto t = static_cast<size_t>(table);
      unit.rows[t].resize(static_cast<size_t>(unit.input.groups[g].size() *
                                              joined_.model.tables[t].dim));
      unit.row_pointers[t] = unit.rows[t].data();
    }
  }
  if (replica_ == nullptr) {
    unit.dense.resize(static_cast<size_t>(client_->layout().size()));
  }
  const Time start = context_->Now();
  client_->Pull(
      {.step = order_.kind == OrderKind::kTrain ? unit.number : order_.until,
       .groups = unit.input.groups,
       .rows = unit.row_pointers,
       .dense = replica_ == nullptr ? unit.dense.data() : nullptr,
       .loss_scale = &unit.loss_scale,
       .staleness = &unit.staleness,
       .came_last = &came_last_,
       .lacks = IsBackup() ? &unit.lacks : nullptr,
       .patience = Patience(),
       .owner = owner},
      [this, &unit, start](const Status& status) {
        RecordTrace("pull", unit.number, start, context_->Now());
        pulling_ = false;
        if (status.code() == StatusCode::kAborted && unit.lacks >= 0) {
          if (!StandIn(unit.number - 1, unit.lacks)) {
            unit.state = Unit::State::kFilled;  // Pulls it again.
            pulls_started_until_ = unit.number;
          }
          Advance();
          return;
        }
        if (status.code() == StatusCode::kAborted) {
          // It has heard of the commit that way; see AnswerRecover().
          trained_until_ = std::max(trained_until_, unit.number + 1);
          // This worker took the place of one whose pushes completed the step:
          // the job has gone on, and the coordinator knows where it is.
          restarting_ = true;
          aborted_step_ = unit.number;
          Advance();
          return;
        }
        if (!status.ok()) {
          Fail(status);
          return;
        }
        unit.state = Unit::State::kPulled;
        unit.values_version = ++values_versions_;
        Advance();
      });
}

void WorkerNode::StartCompute(const std::shared_ptr<Unit>& owner) {
  Unit& unit = *owner;
  unit.state = Unit::State::kComputing;
  computing_ = true;
  if (order_.kind == OrderKind::kTrain) {
    BeginGradients(owner);
  }
  StartWork(
      kComputeLane, "computing ", &unit,
      [this, &unit] {
        const TraceSpan span("compute", unit.number);
        Compute(unit);
      },
      [this, owner, start = context_->Now()] {
        Unit& unit = *owner;
        computing_ = false;
        if (order_.kind == OrderKind::kTrain) {
          compute_took_ = context_->Now() - start;
        }
        computed_until_ = unit.number + stride_;
        if (!unit.status.ok()) {
          Fail(unit.status);
          return;
        }
        if (order_.kind == OrderKind::kTrain) {
          StartPush(owner);
          if (joined_.plan.backup_workers == 0) {
            Count(unit);
          }
        } else {
          OnUnitDone(unit);
        }
        Advance();
      });
}

PulledValues WorkerNode::ValuesOf(const Unit& unit) const {
  return {.version = unit.values_version,
          .dense = replica_ == nullptr ? unit.dense.data() : replica_->values(),
          .rows = unit.row_pointers,
          .groups = unit.input.groups};
}

void WorkerNode::Compute(Unit& unit) {
  const PulledValues values = ValuesOf(unit);
  if (order_.kind == OrderKind::kEvaluate) {
    const Batch& batch = unit.input.shares[0].batch;
    unit.status = job_->runner->Score(unit.input.shares[0], values, scores_);
    labels_.insert(labels_.end(), batch.labels.begin(), batch.labels.end());
    return;
  }
  ModelRunner::ReadyFn ready;
  if (replica_ != nullptr) {
    ready = [this, step = unit.number](int variable) {
      context_->Post([this, step, variable] {
        if (replica_->step() == step) {
          replica_->Ready(variable);
        }
      });
    };
  }
  if (unit.loss_scale != 1) {
    for (ShareInput& share : unit.input.shares) {
      share.scale *= static_cast<float>(unit.loss_scale);
      share.fraction *= static_cast<float>(unit.loss_scale);
    }
  }
  StatusOr<double> loss = unit.sums->Run(unit.number, unit.input.shares, values,
                                         unit.pieces, ready);
  unit.status = loss.status();
  unit.loss_sum = loss.ok() ? *loss : 0;
}

// What the gradients of a step go into. The dense ones of a replica are summed
// with the other workers' while they are computed.
void WorkerNode::BeginGradients(const std::shared_ptr<Unit>& owner) {
  Unit& unit = *owner;
  unit.sends = replica_ == nullptr ? 1 : 2;
  unit.pieces.resize(unit.sums->nodes().size());
  if (replica_ == nullptr) {
    return;
  }
  std::vector<const float*> terms;
  for (Gradients& piece : unit.pieces) {
    piece.dense.resize(static_cast<size_t>(client_->layout().size()));
    terms.push_back(piece.dense.data());
  }
  replica_->Begin(terms, job_->learning_rate_factor(unit.number),
                  SendDone(owner));
}

void WorkerNode::StartPush(const std::shared_ptr<Unit>& owner) {
  Unit& unit = *owner;
  unit.state = Unit::State::kPushing;
  std::vector<std::vector<const float*>> rows(unit.pieces.size());
  std::vector<ps::Client::PushPiece> pieces;
  for (size_t i = 0; i < unit.pieces.size(); ++i) {
    for (const std::vector<float>& table : unit.pieces[i].rows) {
      rows[i].push_back(table.data());
    }
    pieces.push_back({.node = unit.sums->nodes()[i],
                      .rows = rows[i],
                      .dense = unit.pieces[i].dense.data()});
  }
  client_->Push(
      {.step = unit.number,
       .learning_rate_factor = job_->learning_rate_factor(unit.number),
       .groups = unit.input.groups,
       .pieces = pieces,
       .computed_from = unit.dense.data(),
       .repeated = &unit.repeated,
       .owner = owner},
      [this, &unit, start = context_->Now(),
       done = SendDone(owner)](const Status& status) {
        RecordTrace("push", unit.number, start, context_->Now());
        if (joined_.plan.backup_workers > 0 && status.ok()) {
          TakeTurn(unit);
        }
        done(status);
      });
  if (replica_ != nullptr) {
    replica_->ReadyAll();
  }
  if (IsBackup()) {
    if (std::exchange(pushed_step_, unit.number) != unit.number) {
      pushed_shares_.clear();
      waits_for_pushed_ = 0;
    }
    pushed_shares_.push_back(unit.sums->begin());
    if (unit.number + 1 == last_unit_) {
      WatchLastStep();
    }
  }
}

// With backups two workers may compute the same: what it adds to the training
// is counted once. A backup that was not needed turns to who came last; one
// that was stays, so that two that are late get one each.
void WorkerNode::TakeTurn(const Unit& unit) {
  if (!unit.repeated) {
    Count(unit);
    stood_in_ += IsBackup() ? 1 : 0;
  } else if (IsBackup() && came_last_ >= 0 && unit.sums == sums_) {
    stands_for_ = came_last_;
  }
}

// The unit stays until what it sends has arrived.
ps::Client::Done WorkerNode::SendDone(const std::shared_ptr<Unit>& owner) {
  return [this, owner](const Status& status) {
    if (!status.ok()) {
      Fail(status);
      return;
    }
    if (--owner->sends == 0) {
      OnUnitDone(*owner);
    }
    Advance();
  };
}

void WorkerNode::OnUnitDone(Unit& unit) {
  unit.state = Unit::State::kDone;
  bool clock_rose = false;
  while (!units_.empty() && units_.front()->state == Unit::State::kDone) {
    done_until_ = units_.front()->number + stride_;
    if (order_.kind == OrderKind::kTrain) {
      trained_until_ = done_until_;
    }
    units_.pop_front();
    clock_rose = true;
  }
  if (clock_rose && WaitsForClocks()) {
    ReportClock();
  }
}

// --- Reports ---------------------------------------------------------------

void WorkerNode::ReportClock() {
  ps::wire::Clock clock;
  // A worker's clock counts its own steps.
  clock.set_clock(done_until_ / stride_);
  const int64_t wanted =
      pulls_started_until_ == last_unit_
          ? 0
          : pulls_started_until_ / stride_ - joined_.plan.staleness;
  clock.set_wait_for(std::max<int64_t>(wanted, 0));
  caller_->Start(member_->coordinator(), comm::Lane::kUrgent,
                 static_cast<uint16_t>(ps::Method::kClock),
                 StrCat("the slowest worker to reach clock ", wanted),
                 joined_.plan.timeout, {ps::Encode(clock)},
                 [this](const StatusOr<comm::Message>& reply) {
                   ps::wire::ClockReply answer;
                   Status status = reply.status();
                   if (reply.ok()) {
                     status = ps::Decode(*reply, answer);
                   }
                   if (!status.ok()) {
                     Fail(status);
                     return;
                   }
                   minimum_clock_ = std::max(minimum_clock_, answer.minimum());
                   Advance();
                 });
}

void WorkerNode::Count(const Unit& unit) {
  // Others have counted the last steps of the window before.
  const int64_t every = job_->log_every_steps;
  if (unit.number / every > counted_until_ / every) {
    ReportProgress(counted_until_, true);
  }
  counted_until_ = unit.number + 1;
  if (std::isfinite(unit.loss_sum)) {  // Else the step is skipped.
    loss_sum_ += unit.loss_sum;
    loss_examples_ += unit.input.examples;
  }
  examples_ += unit.input.examples;
  if (joined_.plan.mode != ps::Mode::kSync) {
    staleness_.Add(unit.staleness);
    staleness_of_all_.Add(unit.staleness);
  }
  ReportProgress(unit.number + 1, false);
}

void WorkerNode::ReportProgress(int64_t step, bool force) {
  const int64_t every = job_->log_every_steps;
  const int64_t window = (step - 1) / every;
  const bool full = step % every == 0;
  if (loss_examples_ == 0 ||
      (!force && !full && context_->Now() - last_report_ < kReportEvery)) {
    return;
  }
  last_report_ = context_->Now();
  ps::wire::Progress progress;
  progress.set_step(step);
  progress.set_window(window);
  progress.set_loss_sum(std::exchange(loss_sum_, 0));
  progress.set_examples(std::exchange(loss_examples_, 0));
  if (!staleness_.empty()) {
    ps::ToWire(std::exchange(staleness_, {}), *progress.mutable_staleness());
  }
  comm::Message message;
  message.header.method = static_cast<uint16_t>(ps::Method::kProgress);
  message.frames.push_back(ps::Encode(progress));
  // A lost report only leaves a gap in the curve.
  (void)context_->Send(member_->coordinator(), comm::Lane::kUrgent,
                       std::move(message));
}

void WorkerNode::Report() {
  if (options_.report == nullptr) {
    return;
  }
  options_.report(
      {.ready = true,
       .step = std::max<int64_t>(done_until_, 0),
       .examples = examples_,
       .stood_in = stood_in_,
       .dense_bytes = replica_ == nullptr ? 0 : replica_->memory_bytes(),
       .staleness = staleness_of_all_});
  context_->SetTimer(context_->Now() + ps::kReportEvery, [this] { Report(); });
}

void WorkerNode::Fail(const Status& why) {
  if (std::exchange(stopped_, true)) {
    return;
  }
  // If it does not arrive, the coordinator sees this process end.
  (void)context_->Send(member_->coordinator(), comm::Lane::kUrgent,
                       ps::AbortMessage(why.code(), why.message()));
  context_->Stop(why);
}

}  // namespace shoal::worker
