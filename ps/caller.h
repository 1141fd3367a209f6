#ifndef SHOAL_PS_CALLER_H_
#define SHOAL_PS_CALLER_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "comm/node.h"
#include "comm/rpc.h"

namespace shoal::ps {

// Calls that outlive lost connections: what ended with kUnavailable or
// kResourceExhausted is sent again, after a pause that doubles, until the
// call's deadline. So only calls that a receiver may get twice go through here:
// pulls change nothing, and pushes carry what identifies them.
//
// The node hands it every reply and every OnPeerDown(). Belongs to its thread.
class Caller {
 public:
  using Done = comm::RpcClient::Done;

  // `context` must outlive the caller.
  explicit Caller(comm::NodeContext& context)
      : context_(context), rpc_(context) {}
  ~Caller();
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  // Where `peer` is found again when its connection is lost.
  void AddPeer(comm::EndpointId peer, std::string address, std::string name);

  // `done` runs once, never inside Start(), with the reply, with the peer's own
  // error, or with kDeadlineExceeded naming the peer, `what` and the last
  // failure. `frames` are kept until then. Returns the call's number, for
  // Forget().
  uint64_t Start(comm::EndpointId peer, comm::Lane lane, uint16_t method,
                 std::string what, Duration deadline,
                 std::vector<Buffer> frames, Done done);

  // Ends a call without calling its `done`; no effect on one that has ended.
  void Forget(uint64_t call);

  // Asks `to` what `from` has not answered; AddPeer() has told of it.
  void Redirect(comm::EndpointId from, comm::EndpointId to);

  void OnReply(comm::EndpointId from, comm::Message message) {
    rpc_.OnReply(from, std::move(message));
  }
  void OnPeerDown(comm::EndpointId peer, const Status& why) {
    rpc_.OnPeerDown(peer, why);
  }

  int64_t num_pending() const { return static_cast<int64_t>(calls_.size()); }

 private:
  struct Peer {
    std::string address;
    std::string name;
  };
  struct Call {
    comm::EndpointId peer;
    comm::Lane lane;
    uint16_t method = 0;
    std::string what;
    Time start;
    Time deadline;
    std::vector<Buffer> frames;
    Done done;
    Duration pause;
    uint64_t request = 0;  // under way, of rpc_
    comm::TimerId timer = comm::TimerId::kNone;
  };

  void Try(uint64_t id);
  void OnResult(uint64_t id, StatusOr<comm::Message> result);

  comm::NodeContext& context_;
  comm::RpcClient rpc_;
  std::unordered_map<comm::EndpointId, Peer> peers_;
  uint64_t next_call_ = 1;
  std::unordered_map<uint64_t, Call> calls_;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_CALLER_H_
