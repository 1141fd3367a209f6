#include "ps/storage_answer.h"

#include <utility>

#include "comm/rpc.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"

namespace shoal::ps {
namespace {

// A full or broken disk is not a busy peer.
Status Final(const Status& status) {
  return status.code() == StatusCode::kDataLoss
             ? status
             : FailedPreconditionError(status.message());
}

void Answer(comm::NodeContext& context, comm::EndpointId to,
            comm::Message request,
            std::function<StatusOr<Buffer>(Storage&)> work,
            std::function<std::vector<Buffer>(const Buffer&)> frames_of,
            std::function<void()> ended) {
  context.StartStorage(
      std::move(work),
      [&context, to, request = std::move(request),
       frames_of = std::move(frames_of),
       ended = std::move(ended)](const StatusOr<Buffer>& done) {
        (void)context.Send(
            to, comm::Lane::kBulk,
            done.ok() ? comm::MakeReply(request, frames_of(*done))
                      : comm::MakeErrorReply(request, Final(done.status())));
        ended();
      });
}

}  // namespace

void AnswerSave(
    comm::NodeContext& context, comm::EndpointId to, comm::Message request,
    std::function<StatusOr<std::vector<std::string>>(Storage&)> work,
    std::function<void()> ended) {
  Answer(
      context, to, std::move(request),
      [work = std::move(work)](Storage& storage) -> StatusOr<Buffer> {
        SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> parts,
                               work(storage));
        wire::SaveReply reply;
        reply.mutable_parts()->Assign(parts.begin(), parts.end());
        return Encode(reply);
      },
      [](const Buffer& reply) { return std::vector<Buffer>{reply}; },
      std::move(ended));
}

void AnswerLoad(comm::NodeContext& context, comm::EndpointId to,
                comm::Message request, std::function<Status(Storage&)> work,
                std::function<void()> loaded, std::function<void()> ended) {
  Answer(
      context, to, std::move(request),
      [work = std::move(work)](Storage& storage) -> StatusOr<Buffer> {
        SHOAL_RETURN_IF_ERROR(work(storage));
        return Buffer();
      },
      [loaded = std::move(loaded)](const Buffer& /*nothing*/) {
        loaded();
        return std::vector<Buffer>{};
      },
      std::move(ended));
}

}  // namespace shoal::ps
