#ifndef SHOAL_TESTS_SIMULATION_FORWARDING_H_
#define SHOAL_TESTS_SIMULATION_FORWARDING_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/status.h"
#include "comm/node.h"
#include "comm/rpc.h"
#include "ps/wire.h"

// What stands around a node of a simulated cluster, to watch it or to plant a
// bug in it.
namespace shoal::simulation {

// A context that hands everything on; planted bugs change one call of it.
class ForwardingContext : public comm::NodeContext {
 public:
  explicit ForwardingContext(comm::NodeContext& to) : to_(to) {}
  comm::EndpointId self() const override { return to_.self(); }
  std::string address() const override { return to_.address(); }
  Time Now() const override { return to_.Now(); }
  Status Connect(comm::EndpointId peer, const std::string& address) override {
    return to_.Connect(peer, address);
  }
  void Disconnect(comm::EndpointId peer) override { to_.Disconnect(peer); }
  void LookUntil(Time until) override { to_.LookUntil(until); }
  Status Send(comm::EndpointId peer, comm::Lane lane,
              comm::Message message) override {
    return to_.Send(peer, lane, std::move(message));
  }
  comm::TimerId SetTimer(Time at, std::function<void()> fire) override {
    return to_.SetTimer(at, std::move(fire));
  }
  void CancelTimer(comm::TimerId timer) override { to_.CancelTimer(timer); }
  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    to_.StartStorage(std::move(work), std::move(done));
  }
  void StartCompute(int lane, std::function<void()> compute,
                    std::function<void()> done) override {
    to_.StartCompute(lane, std::move(compute), std::move(done));
  }
  void Post(std::function<void()> task) override { to_.Post(std::move(task)); }
  Random& random() override { return to_.random(); }
  void Stop(Status why) override { to_.Stop(std::move(why)); }

 protected:
  comm::NodeContext& to_;
};

// A node that hands everything on to another; planted bugs change one call.
class ForwardingNode : public comm::Node {
 public:
  explicit ForwardingNode(std::unique_ptr<comm::Node> to)
      : to_(std::move(to)) {}
  void OnStart(comm::NodeContext& context) override {
    context_ = &context;
    to_->OnStart(context);
  }
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    to_->OnMessage(from, std::move(message));
  }
  void OnPeerDown(comm::EndpointId peer, const Status& why) override {
    to_->OnPeerDown(peer, why);
  }
  void OnSendable(comm::EndpointId peer) override { to_->OnSendable(peer); }
  comm::Node* to() const { return to_.get(); }

 protected:
  std::unique_ptr<comm::Node> to_;
  comm::NodeContext* context_ = nullptr;
};

// The node that all others stand around.
inline comm::Node* Undecorated(comm::Node* node) {
  while (auto* around = dynamic_cast<ForwardingNode*>(node)) {
    node = around->to();
  }
  return node;
}

inline bool Is(const comm::Message& message, ps::Method method) {
  return message.header.kind == comm::MessageKind::kRequest &&
         message.header.method == static_cast<uint16_t>(method);
}
inline bool IsReply(const comm::Message& message, ps::Method method) {
  return message.header.kind == comm::MessageKind::kReply &&
         message.header.method == static_cast<uint16_t>(method);
}

// What a message would get that was handled well.
inline void Pretend(comm::NodeContext& context, comm::EndpointId from,
                    const comm::Message& message) {
  (void)context.Send(from, comm::Lane::kBulk, comm::MakeReply(message, {}));
}

// Changes messages on their way to a node; false drops one.
class ChangingNode : public ForwardingNode {
 public:
  using Change =
      std::function<bool(comm::NodeContext&, comm::EndpointId, comm::Message&)>;
  ChangingNode(std::unique_ptr<comm::Node> to, Change change)
      : ForwardingNode(std::move(to)), change_(std::move(change)) {}
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    if (change_(*context_, from, message)) {
      ForwardingNode::OnMessage(from, std::move(message));
    }
  }

 private:
  Change change_;
};

// A node that sees the world through a `Context`, made of the world's and
// `arguments`.
template <typename Context>
class NodeInContext : public ForwardingNode {
 public:
  using Make =
      std::function<std::unique_ptr<Context>(comm::NodeContext& context)>;
  explicit NodeInContext(
      std::unique_ptr<comm::Node> to,
      Make make =
          [](comm::NodeContext& context) {
            return std::make_unique<Context>(context);
          })
      : ForwardingNode(std::move(to)), make_(std::move(make)) {}
  ~NodeInContext() override { to_.reset(); }
  void OnStart(comm::NodeContext& context) override {
    changed_ = make_(context);
    ForwardingNode::OnStart(*changed_);
  }

 protected:
  Make make_;
  std::unique_ptr<Context> changed_;
};

}  // namespace shoal::simulation

#endif  // SHOAL_TESTS_SIMULATION_FORWARDING_H_
