// The part of a worker that holds state of the cluster's: the route, and dense
// variables of its own.

#include <utility>

#include "base/strcat.h"
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
  saves_->OnSave(from, request, save, replica_->state());
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
