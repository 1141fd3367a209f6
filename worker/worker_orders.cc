// The part of a worker that asks for orders: what it is to do, which shares of
// a step are its own, and whom a backup stands for.
#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"
#include "worker/worker_node.h"

namespace shoal::worker {
namespace {

// The other workers and the checkpoint have deadlines of their own, and that
// the coordinator lives is watched by Member: this one only bounds the sum.
constexpr Duration kOrderWithin = std::chrono::hours(24);

// A worker that is later than by this is late.
constexpr Duration kPatienceMin = 10ms;
constexpr int kPatienceDoublings = 10;

}  // namespace

void WorkerNode::AskOrder() {
  asking_ = true;
  ps::wire::AskOrder ask;
  // One that is started anew is not done.
  ask.set_done_order(order_.number - (restarting_ ? 1 : 0));
  std::vector<Buffer> frames = {ps::Encode(ask)};
  if (order_.number > 0 && order_.kind == OrderKind::kEvaluate) {
    frames.push_back(Buffer::CopyOf(
        scores_.data(), static_cast<int64_t>(scores_.size() * sizeof(float))));
    frames.push_back(Buffer::CopyOf(
        labels_.data(), static_cast<int64_t>(labels_.size() * sizeof(float))));
  }
  caller_->Start(member_->coordinator(), comm::Lane::kUrgent,
                 static_cast<uint16_t>(ps::Method::kAskOrder),
                 StrCat("the order after ", order_.number), kOrderWithin,
                 std::move(frames),
                 [this](const StatusOr<comm::Message>& reply) {
                   if (!reply.ok()) {
                     Fail(reply.status());
                     return;
                   }
                   OnOrder(*reply);
                 });
}

void WorkerNode::OnOrder(const comm::Message& reply) {
  asking_ = false;
  ps::wire::Order order;
  if (const Status status = ps::Decode(reply, order); !status.ok()) {
    Fail(status);
    return;
  }
  const bool ended = order_.kind == OrderKind::kStop && order_.number > 0;
  if (const Status taken = TakeMode(order); !taken.ok()) {
    Fail(taken);
    return;
  }
  TakeShare(order);
  order_.number = order.number();
  order_.from = order.from_step();
  order_.until = order.until_step();
  switch (order.kind()) {
    case ps::wire::Order::TRAIN:
      order_.kind = OrderKind::kTrain;
      break;
    case ps::wire::Order::EVALUATE:
      order_.kind = OrderKind::kEvaluate;
      break;
    case ps::wire::Order::STOP:
      order_.kind = OrderKind::kStop;
      if (ended) {
        stopped_ = true;
        context_->Stop(OkStatus());
      } else {
        AskOrder();  // Says good-bye.
      }
      return;
  }
  BeginOrder();
}

// Of steps, and of evaluations: the number of workers may have changed.
void WorkerNode::TakeShare(const ps::wire::Order& order) {
  if (order.kind() == ps::wire::Order::STOP ||
      (order.num_workers() == joined_.num_workers &&
       order.virtual_begin() == joined_.virtual_begin &&
       order.virtual_end() == joined_.virtual_end)) {
    return;
  }
  joined_.num_workers = order.num_workers();
  joined_.virtual_begin = order.virtual_begin();
  joined_.virtual_end = order.virtual_end();
  stands_for_ = -1;
  job_->source->SetShares(joined_.virtual_begin, joined_.virtual_end);
  MakeSums(joined_.virtual_begin, joined_.virtual_end);
}

void WorkerNode::MakeSums(int virtual_begin, int virtual_end) {
  sums_ = std::make_shared<GradientSums>(
      joined_.model, client_->layout(), *job_->runner,
      joined_.plan.virtual_workers, virtual_begin, virtual_end,
      joined_.plan.global.loss_scale > 0);
}

bool WorkerNode::IsBackup() const {
  return order_.kind == OrderKind::kTrain &&
         joined_.plan.mode == ps::Mode::kSync &&
         joined_.index >= ps::PrimaryWorkers(joined_.plan, joined_.num_workers);
}

std::pair<int, int> WorkerNode::ShareOf(int virtual_worker) const {
  const int primaries = ps::PrimaryWorkers(joined_.plan, joined_.num_workers);
  for (int i = 0; i < primaries; ++i) {
    const std::pair<int, int> share =
        ps::VirtualRange(joined_.plan, i, joined_.num_workers);
    if (virtual_worker >= share.first && virtual_worker < share.second) {
      return share;
    }
  }
  return {-1, -1};
}

void WorkerNode::StandFor(int virtual_worker) {
  const auto [begin, end] = ShareOf(virtual_worker);
  if (begin >= 0 && begin != sums_->begin()) {
    job_->source->SetShares(begin, end);
    MakeSums(begin, end);
  }
}

void WorkerNode::BeginOrder() {
  if (order_.kind == OrderKind::kTrain && replica_ != nullptr &&
      replica_->step() != order_.from) {
    Fail(InternalError(StrCat("the order begins at step ", order_.from,
                              ", but this worker's dense variables are at ",
                              replica_->step())));
    return;
  }
  if (std::exchange(restarting_, false) && order_.from <= aborted_step_) {
    Fail(InternalError(StrCat("the servers are past step ", aborted_step_,
                              ", but the coordinator is not")));
    return;
  }
  held_ = false;
  goes_back_to_.reset();
  stride_ = 1;
  if (order_.kind == OrderKind::kTrain && !joined_.plan.shares_steps()) {
    // Whole steps are dealt to the workers in turn: however many there are, a
    // push is the mean over a batch, and an epoch has as many pushes.
    stride_ = joined_.num_workers;
    next_fill_ = NextOwn(order_.from);
    last_unit_ = NextOwn(order_.until);
  } else if (order_.kind == OrderKind::kTrain) {
    next_fill_ = order_.from;
    last_unit_ = order_.until;
  } else {
    const int64_t rows = job_->source->num_test_rows();
    const int64_t begin = joined_.index * rows / joined_.num_workers;
    const int64_t end = (joined_.index + 1) * rows / joined_.num_workers;
    const int64_t batch = job_->source->share_size_max();
    next_fill_ = 0;
    last_unit_ = (end - begin + batch - 1) / batch;
    scores_.clear();
    labels_.clear();
  }
  pulls_started_until_ = next_fill_;
  computed_until_ = next_fill_;
  done_until_ = next_fill_;
  if (order_.kind == OrderKind::kTrain) {
    trained_until_ = std::max(trained_until_, next_fill_);
  }
  if (WaitsForClocks()) {
    ReportClock();
  }
  Advance();
}

int64_t WorkerNode::NextOwn(int64_t step) const {
  return step + (joined_.index - step % stride_ + stride_) % stride_;
}

// --- Backup workers --------------------------------------------------------

// Others compute as much: who takes longer than twice that is late.
Duration WorkerNode::Patience() const {
  return (2 * compute_took_ + kPatienceMin) * (1 << waits_for_pushed_);
}

bool WorkerNode::StandIn(int64_t step, int virtual_worker) {
  const int share = ShareOf(virtual_worker).first;
  const bool pushed = (computed_until_ <= step && share == sums_->begin()) ||
                      (step == pushed_step_ &&
                       std::find(pushed_shares_.begin(), pushed_shares_.end(),
                                 share) != pushed_shares_.end());
  waits_for_pushed_ =
      pushed ? std::min(waits_for_pushed_ + 1, kPatienceDoublings) : 0;
  if (pushed) {
    return false;  // It is on its way.
  }
  stands_for_ = virtual_worker;
  goes_back_to_ = std::max(step, order_.from);
  return true;
}

void WorkerNode::WatchLastStep() {
  struct Nothing {
    std::vector<ps::GroupIds> groups;
    std::vector<float*> rows;
    int lacks = -1;
  };
  const auto nothing = std::make_shared<Nothing>();
  nothing->groups.resize(joined_.model.groups.size());
  nothing->rows.resize(joined_.model.tables.size());
  client_->Pull({.step = last_unit_,
                 .groups = nothing->groups,
                 .rows = nothing->rows,
                 .lacks = &nothing->lacks,
                 .patience = Patience(),
                 .owner = nothing},
                [this, order = order_.number, step = last_unit_ - 1,
                 nothing = nothing.get()](const Status&) {
                  if (nothing->lacks < 0 || order_.number != order || asking_ ||
                      restarting_) {
                    return;
                  }
                  if (StandIn(step, nothing->lacks)) {
                    Advance();
                  } else {
                    WatchLastStep();
                  }
                });
}

}  // namespace shoal::worker
