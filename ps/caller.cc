#include "ps/caller.h"

#include <algorithm>
#include <utility>

#include "base/strcat.h"

namespace shoal::ps {
namespace {

constexpr Duration kFirstPause = 5ms;
constexpr Duration kLongestPause = 500ms;

bool WorthAnotherTry(StatusCode code) {
  return code == StatusCode::kUnavailable ||
         code == StatusCode::kResourceExhausted;
}

}  // namespace

Caller::~Caller() {
  for (auto& [id, call] : calls_) {
    context_.CancelTimer(call.timer);
  }
}

void Caller::AddPeer(comm::EndpointId peer, std::string address,
                     std::string name) {
  peers_[peer] = {std::move(address), std::move(name)};
}

uint64_t Caller::Start(comm::EndpointId peer, comm::Lane lane, uint16_t method,
                       std::string what, Duration deadline,
                       std::vector<Buffer> frames, Done done) {
  const uint64_t id = next_call_++;
  const Time now = context_.Now();
  calls_.emplace(id, Call{.peer = peer,
                          .lane = lane,
                          .method = method,
                          .what = std::move(what),
                          .start = now,
                          .deadline = now + deadline,
                          .frames = std::move(frames),
                          .done = std::move(done),
                          .pause = kFirstPause});
  Try(id);
  return id;
}

void Caller::Forget(uint64_t call) {
  const auto it = calls_.find(call);
  if (it != calls_.end()) {
    context_.CancelTimer(it->second.timer);
    rpc_.Forget(it->second.request);
    calls_.erase(it);
  }
}

void Caller::Redirect(comm::EndpointId from, comm::EndpointId to) {
  std::vector<uint64_t> moved;
  for (const auto& [id, call] : calls_) {
    if (call.peer == from) {
      moved.push_back(id);
    }
  }
  std::sort(moved.begin(), moved.end());  // As they were started.
  for (const uint64_t id : moved) {
    Call& call = calls_.at(id);
    context_.CancelTimer(call.timer);
    rpc_.Forget(call.request);
    call.peer = to;
    call.pause = kFirstPause;
    Try(id);
  }
}

void Caller::Try(uint64_t id) {
  Call& call = calls_.at(id);
  call.timer = comm::TimerId::kNone;
  const auto peer = peers_.find(call.peer);
  const bool known = peer != peers_.end();
  if (known) {
    const Status connected = context_.Connect(call.peer, peer->second.address);
    if (connected.code() == StatusCode::kInvalidArgument) {
      // Not an address: no other try will find the peer.
      call.timer = context_.SetTimer(
          context_.Now(), [this, id, connected] { OnResult(id, connected); });
      return;
    }
  }
  call.request =
      rpc_.Start({.peer = call.peer,
                  .peer_name = known ? peer->second.name : StrCat(call.peer),
                  .lane = call.lane,
                  .method = call.method,
                  .what = call.what,
                  .deadline = std::max<Duration>(call.deadline - context_.Now(),
                                                 Duration::zero())},
                 call.frames, [this, id](StatusOr<comm::Message> result) {
                   OnResult(id, std::move(result));
                 });
}

void Caller::OnResult(uint64_t id, StatusOr<comm::Message> result) {
  const auto it = calls_.find(id);
  if (it == calls_.end()) {
    return;
  }
  Call& call = it->second;
  if (!result.ok() && WorthAnotherTry(result.status().code())) {
    const Time again = context_.Now() + call.pause;
    if (again < call.deadline) {
      call.pause = std::min<Duration>(call.pause * 2, kLongestPause);
      call.timer = context_.SetTimer(again, [this, id] { Try(id); });
      return;
    }
    const auto peer = peers_.find(call.peer);
    result = DeadlineExceededError(StrCat(
        "waited ", ToString(context_.Now() - call.start), " for ", call.what,
        " from ", peer != peers_.end() ? peer->second.name : StrCat(call.peer),
        "; last failure: ", result.status().message()));
  }
  const Done done = std::move(call.done);
  calls_.erase(it);
  done(std::move(result));
}

}  // namespace shoal::ps
