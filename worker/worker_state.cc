// The part of a worker that holds state of the cluster's: the route, the mode,
// the end of its order, and dense variables of its own.

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "ps/mode_switch.h"
#include "ps/protocol.pb.h"
#include "ps/storage_answer.h"
#include "ps/wire.h"
#include "worker/worker_node.h"

namespace shoal::worker {

void WorkerNode::OnRouteChange(comm::EndpointId from,
                               const comm::Message& request) {
  ps::wire::RouteChange change;
  Status status = ps::Decode(request, change);
  if (status.ok()) {
    StatusOr<ps::RouteTable> route = ps::FromWire(change.route());
    status = route.status();
    if (route.ok() && client_.has_value()) {
      client_->Adopt(*std::move(route));
    } else if (route.ok()) {
      newer_route_ = *std::move(route);
    }
  }
  (void)context_->Send(from, comm::Lane::kUrgent,
                       status.ok() ? comm::MakeReply(request, {})
                                   : comm::MakeErrorReply(request, status));
}

Status WorkerNode::OpenReplica() {
  if (joined_.route.dense_on_workers()) {
    // By value: it may run on after this worker.
    SHOAL_ASSIGN_OR_RETURN(
        replica_, DenseReplica::Create(
                      *context_, joined_,
                      options_.open_device == nullptr
                          ? DenseReplica::OpenDeviceFn()
                          : [open = options_.open_device, joined = joined_] {
                              return open(joined);
                            }));
    ++opening_;
    replica_->Open([this](const Status& status) {
      if (!status.ok()) {
        Fail(status);
        return;
      }
      OnOpened();
    });
    for (auto& [from, message] : early_) {
      replica_->OnMessage(from, message);
    }
  }
  early_.clear();
  return OkStatus();
}

// The order under way ends before it was to: units that were only read for
// what is not of it any more are dropped.
void WorkerNode::OnCutOrder(comm::EndpointId from,
                            const comm::Message& request) {
  ps::wire::CutOrder cut;
  ps::wire::CutReply answer;
  Status status = ps::Decode(request, cut);
  const bool is_this = status.ok() && cut.number() == order_.number &&
                       order_.kind == OrderKind::kTrain;
  if (is_this && cut.hold()) {
    held_ = true;
    answer.set_begun_until(pulls_started_until_ - stride_ + 1);
  } else if (is_this) {
    held_ = false;
    const int64_t last = NextOwn(cut.until_step());
    if (last < pulls_started_until_) {
      status = InternalError(
          StrCat("an order is cut at step ", cut.until_step(),
                 ", but rows are pulled up to ", pulls_started_until_));
    } else if (last < last_unit_ || cut.until_step() < order_.until) {
      order_.until = cut.until_step();
      last_unit_ = last;
      next_fill_ = std::min(next_fill_, last_unit_);
      DropBeyondOrder();
    }
  }
  (void)context_->Send(from, comm::Lane::kUrgent,
                       status.ok()
                           ? comm::MakeReply(request, {ps::Encode(answer)})
                           : comm::MakeErrorReply(request, status));
  if (!status.ok()) {
    Fail(status);
  } else if (is_this && !cut.hold()) {
    if (WaitsForClocks()) {
      ReportClock();  // It may wait for one that does not come any more.
    }
    Advance();  // It may be done with it now.
  }
}

// The shards have it under the route that comes with it, and no step of the
// order is to be done under one before.
Status WorkerNode::TakeMode(const ps::wire::Order& order) {
  if (!order.has_mode()) {
    return OkStatus();
  }
  SHOAL_ASSIGN_OR_RETURN(const ps::ModeState mode, ps::FromWire(order.mode()));
  SHOAL_ASSIGN_OR_RETURN(ps::RouteTable route, ps::FromWire(order.route()));
  client_->Adopt(std::move(route));
  if (mode.number == joined_.mode_number) {
    return OkStatus();
  }
  joined_.mode_number = mode.number;
  joined_.plan.mode = mode.mode;
  joined_.plan.staleness = mode.staleness;
  client_->BeginSequences();
  minimum_clock_ = 0;
  trained_until_ = mode.from_step;
  return OkStatus();
}

// The coordinator asks for both when nothing else goes on.
void WorkerNode::OnSave(comm::EndpointId from, const comm::Message& request) {
  ps::wire::Save save;
  Status status = ps::Decode(request, save);
  if (status.ok() && save.step() != replica_->step()) {
    status = FailedPreconditionError(StrCat("save: is for step ", save.step(),
                                            ", but this worker is at ",
                                            replica_->step()));
  }
  if (!status.ok()) {
    (void)context_->Send(from, comm::Lane::kUrgent,
                         comm::MakeErrorReply(request, status));
    return;
  }
  saves_->OnSave(from, request, save, replica_->state(),
                 /*cuts_changes=*/false);
}

void WorkerNode::OnLoad(comm::EndpointId from, comm::Message request) {
  ps::wire::Load load;
  if (const Status status = ps::Decode(request, load); !status.ok()) {
    (void)context_->Send(from, comm::Lane::kUrgent,
                         comm::MakeErrorReply(request, status));
    return;
  }
  ps::AnswerLoad(
      *context_, from, std::move(request),
      [this, load](Storage& storage) {
        return replica_->Load(storage, load.folder(), load.step());
      },
      [] {});
}

}  // namespace shoal::worker
