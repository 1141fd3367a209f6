#include "comm/rpc.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/strcat.h"

namespace shoal::comm {
namespace {

Status StatusOfReply(const Message& reply) {
  const auto code = static_cast<StatusCode>(reply.header.status);
  const std::string_view text =
      reply.frames.empty() ? std::string_view() : reply.frames[0].text();
  if (code > StatusCode::kDataLoss) {
    return InternalError(
        StrCat("replied with ", StatusCodeName(code), ": ", text));
  }
  return Status(code, text);
}

}  // namespace

RpcClient::~RpcClient() {
  for (const auto& [request, pending] : pending_) {
    context_.CancelTimer(pending.timer);
  }
}

uint64_t RpcClient::Start(const Call& call, std::vector<Buffer> frames,
                          Done done) {
  const uint64_t request = next_request_++;
  Message message;
  message.header.request = request;
  message.header.method = call.method;
  message.header.kind = MessageKind::kRequest;
  message.frames = std::move(frames);
  const Status sent = context_.Send(call.peer, call.lane, std::move(message));

  Pending& pending = pending_[request];
  pending.peer = call.peer;
  pending.peer_name = call.peer_name;
  pending.what = call.what;
  pending.deadline = call.deadline;
  pending.done = std::move(done);
  if (!sent.ok()) {
    // By a timer, so that `done` does not run inside this call.
    const Status failed =
        sent.WithPrefix(StrCat(call.peer_name, ", ", call.what));
    pending.timer = context_.SetTimer(
        context_.Now(), [this, request, failed] { Finish(request, failed); });
    return request;
  }
  pending.timer = context_.SetTimer(context_.Now() + call.deadline, [this,
                                                                     request] {
    const auto it = pending_.find(request);
    if (it == pending_.end()) {
      return;
    }
    Finish(request, DeadlineExceededError(StrCat(
                        it->second.peer_name, " did not answer within ",
                        ToString(it->second.deadline), ": ", it->second.what)));
  });
  return request;
}

void RpcClient::Forget(uint64_t request) {
  const auto it = pending_.find(request);
  if (it == pending_.end()) {
    return;
  }
  context_.CancelTimer(it->second.timer);
  pending_.erase(it);
}

void RpcClient::OnReply(EndpointId from, Message message) {
  const auto it = pending_.find(message.header.request);
  if (it == pending_.end() || it->second.peer != from) {
    return;  // Late (the call has ended), or made up.
  }
  if (message.header.status == 0) {
    Finish(message.header.request, std::move(message));
    return;
  }
  const Status status = StatusOfReply(message);
  Finish(message.header.request, status.WithPrefix(it->second.peer_name));
}

void RpcClient::OnPeerDown(EndpointId peer, const Status& why) {
  std::vector<uint64_t> lost;
  for (const auto& [request, pending] : pending_) {
    if (pending.peer == peer) {
      lost.push_back(request);
    }
  }
  // In the order they were started, whatever the map's.
  std::sort(lost.begin(), lost.end());
  for (const uint64_t request : lost) {
    const auto it = pending_.find(request);
    if (it == pending_.end()) {
      continue;  // A `done` before it forgot it.
    }
    Finish(request, UnavailableError(
                        StrCat(it->second.peer_name, " is down, waited for ",
                               it->second.what, ": ", why.message())));
  }
}

void RpcClient::Finish(uint64_t request, StatusOr<Message> result) {
  const auto it = pending_.find(request);
  if (it == pending_.end()) {
    return;
  }
  const Done done = std::move(it->second.done);
  context_.CancelTimer(it->second.timer);
  pending_.erase(it);
  if (done) {
    done(std::move(result));
  }
}

Message MakeReply(const Message& request, std::vector<Buffer> frames) {
  Message reply;
  reply.header.request = request.header.request;
  reply.header.method = request.header.method;
  reply.header.kind = MessageKind::kReply;
  reply.frames = std::move(frames);
  return reply;
}

Message MakeErrorReply(const Message& request, const Status& status) {
  // An OK status here would make its text the reply's first frame.
  const Status error =
      status.ok() ? InternalError("an error reply was made of OK") : status;
  Message reply = MakeReply(request, {Buffer::CopyOf(error.message())});
  reply.header.status = static_cast<uint8_t>(error.code());
  return reply;
}

}  // namespace shoal::comm
