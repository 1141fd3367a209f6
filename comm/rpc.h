#ifndef SHOAL_COMM_RPC_H_
#define SHOAL_COMM_RPC_H_

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>

#include "base/status.h"
#include "base/time.h"
#include "comm/message.h"
#include "comm/node.h"

namespace shoal::comm {

// The calling side of requests and replies inside one node. The node hands it
// every message of kind kReply and every OnPeerDown().
//
// Every call ends exactly once: with the reply's frames, with the error that
// the peer replied, with kUnavailable when the peer goes down, or with
// kDeadlineExceeded naming the peer and `what`. Belongs to the node's thread.
class RpcClient {
 public:
  using Done = std::function<void(StatusOr<Message>)>;

  struct Call {
    EndpointId peer;
    std::string peer_name;  // "server 1 shard 0", for errors
    Lane lane = Lane::kUrgent;
    uint16_t method = 0;
    std::string what;  // what is waited for: "rows of step 17"
    Duration deadline = std::chrono::seconds(10);  // from now
  };

  // `context` must outlive the client.
  explicit RpcClient(NodeContext& context)
      : context_(context), next_request_(context.random()() >> 1) {}
  ~RpcClient();
  RpcClient(const RpcClient&) = delete;
  RpcClient& operator=(const RpcClient&) = delete;

  // `done` never runs inside Start(); it may start calls itself. Returns the
  // call's number, for Forget(). Destroying the client drops what is pending
  // without calling `done`.
  uint64_t Start(const Call& call, std::vector<Buffer> frames, Done done);

  // Ends one call early, without calling its `done`; used when it is moot.
  void Forget(uint64_t request);

  void OnReply(EndpointId from, Message message);
  void OnPeerDown(EndpointId peer, const Status& why);

  int64_t num_pending() const { return static_cast<int64_t>(pending_.size()); }

 private:
  struct Pending {
    EndpointId peer;
    std::string peer_name;
    std::string what;
    Duration deadline;
    TimerId timer = TimerId::kNone;
    Done done;
  };
  void Finish(uint64_t request, StatusOr<Message> result);

  NodeContext& context_;
  // From anywhere on: what answers a node that was there before, under the same
  // id, must not answer this one.
  uint64_t next_request_;
  std::unordered_map<uint64_t, Pending> pending_;
};

// The answers to `request` from `from`.
Message MakeReply(const Message& request, std::vector<Buffer> frames);
Message MakeErrorReply(const Message& request, const Status& status);

}  // namespace shoal::comm

#endif  // SHOAL_COMM_RPC_H_
