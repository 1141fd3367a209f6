#include "tests/simulation/push_watch.h"

#include "base/strcat.h"
#include "ps/protocol.pb.h"
#include "ps/wire.h"

namespace shoal::simulation {

using ps::Method;

class PushWatch::Context : public ForwardingContext {
 public:
  Context(comm::NodeContext& to, PushWatch& watch, std::string worker)
      : ForwardingContext(to), watch_(watch), worker_(std::move(worker)) {}
  Status Send(comm::EndpointId peer, comm::Lane lane,
              comm::Message message) override {
    if (Is(message, Method::kPush)) {
      watch_.OnPush(self().value, Now(), peer, message);
    } else if (Is(message, Method::kPull)) {
      watch_.pulls_[{self().value, message.header.request}] =
          watch_.OnPull(worker_, message);
    }
    return ForwardingContext::Send(peer, lane, std::move(message));
  }

 private:
  PushWatch& watch_;
  const std::string worker_;
};

class PushWatch::Watched : public NodeInContext<Context> {
 public:
  Watched(std::unique_ptr<comm::Node> to, PushWatch& watch,
          const std::string& worker)
      : NodeInContext<Context>(std::move(to),
                               [&watch, worker](comm::NodeContext& context) {
                                 watch.names_[context.self().value] = worker;
                                 return std::make_unique<Context>(
                                     context, watch, worker);
                               }),
        watch_(watch) {}
  void OnMessage(comm::EndpointId from, comm::Message message) override {
    if (message.header.kind == comm::MessageKind::kReply &&
        message.header.status == 0) {
      watch_.OnReply(changed_->self().value, changed_->Now(), message);
    }
    ForwardingNode::OnMessage(from, std::move(message));
  }

 private:
  PushWatch& watch_;
};

Decorate PushWatch::Around() {
  return
      [this](const std::string& name,
             std::unique_ptr<comm::Node> node) -> std::unique_ptr<comm::Node> {
        if (!name.starts_with("worker")) {
          return node;
        }
        return std::make_unique<Watched>(std::move(node), *this, name);
      };
}

void PushWatch::OnPush(uint64_t client, Time now, comm::EndpointId to,
                       const comm::Message& message) {
  if (mode_ == ps::Mode::kSync) {
    return;  // Whose pushes are told by their bits.
  }
  ps::wire::Push head;
  if (!ps::Decode(message, head).ok() || head.nodes_size() != 1) {
    violations_.push_back("a push that is none");
    return;
  }
  Push& push = pushes_[{client, head.sequence()}];
  if (head.version() > push.version) {
    num_repeated_ += push.version > 0 ? 1 : 0;
    push.version = head.version();
    push.since = now;
    push.pending.clear();
    push.acknowledged = false;
  }
  push.pending[to.value] = message.header.request;
  requests_[{client, message.header.request}] = {head.sequence(), to.value};
  size_t frame = 1;
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (const uint64_t id : message.frames.at(frame).As<uint64_t>()) {
      push.ids.emplace(static_cast<int>(g), id);
    }
    frame += 1 + groups_[g].size();
  }
}

int64_t PushWatch::OnPull(const std::string& worker,
                          const comm::Message& message) {
  ps::wire::Pull head;
  if (!ps::Decode(message, head).ok()) {
    return 0;
  }
  // Where steps are dealt in turn, worker w has done c of its own before it
  // pulls for step c * workers + w. The slowest must be near.
  const int64_t clock = head.step() / workers_;
  for (int other = 0; mode_ == ps::Mode::kBounded && other < workers_;
       ++other) {
    const int64_t reached = clocks_[StrCat("worker ", other)];
    if (reached < clock - staleness_) {
      violations_.push_back(StrCat(worker, " pulls for its step ", clock,
                                   " while worker ", other, " has done ",
                                   reached));
    }
  }
  return head.step();
}

void PushWatch::OnReply(uint64_t client, Time now,
                        const comm::Message& message) {
  const Key key = {client, message.header.request};
  if (const auto pull = pulls_.find(key); pull != pulls_.end()) {
    ps::wire::PullReply reply;
    if (mode_ == ps::Mode::kSync && ps::Decode(message, reply).ok() &&
        !reply.has_route() && reply.step() != pull->second) {
      violations_.push_back(StrCat("a pull for step ", pull->second,
                                   " got the rows of step ", reply.step()));
    }
    return;
  }
  const auto request = requests_.find(key);
  ps::wire::PushReply reply;
  if (request == requests_.end() || !ps::Decode(message, reply).ok() ||
      reply.has_route()) {
    return;
  }
  const auto [sequence, peer] = request->second;
  Push& push = pushes_.at({client, sequence});
  const auto pending = push.pending.find(peer);
  if (push.acknowledged || pending == push.pending.end() ||
      pending->second != message.header.request) {
    return;
  }
  push.pending.erase(pending);
  if (!push.pending.empty()) {
    return;
  }
  push.acknowledged = true;
  ++clocks_[names_.at(client)];
  if (now - push.since > timeout_) {
    violations_.push_back(StrCat("push ", sequence, " of ", names_.at(client),
                                 " took ", ToString(now - push.since)));
  }
}

std::map<std::pair<int, uint64_t>, PushWatch::Count> PushWatch::CountsOfIds()
    const {
  std::map<std::pair<int, uint64_t>, Count> counts;
  for (const auto& [key, push] : pushes_) {
    for (const auto& id : push.ids) {
      Count& count = counts[id];
      ++count.sent;
      count.acknowledged += push.acknowledged ? 1 : 0;
    }
  }
  return counts;
}

}  // namespace shoal::simulation
