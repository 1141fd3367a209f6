#include "ps/links.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/strcat.h"
#include "comm/rpc.h"
#include "ps/checkpoint_saver.h"

namespace shoal::ps {

void Links::Adopt(const RouteTable& route) {
  for (const uint64_t call : calls_) {
    caller_.Forget(call);
  }
  calls_.clear();
  next_number_.clear();
  incoming_.clear();
  route_ = route;
  for (const RouteTable::Peer& shard : route_.shards) {
    caller_.AddPeer(shard.endpoint, shard.address, shard.name);
  }
}

void Links::Ask(comm::EndpointId peer, comm::Lane lane, Method method,
                std::string what, std::vector<Buffer> frames, Duration within,
                Caller::Done done) {
  auto id = std::make_shared<uint64_t>(0);
  *id = caller_.Start(
      peer, lane, static_cast<uint16_t>(method), std::move(what), within,
      std::move(frames),
      [this, id, done = std::move(done)](const StatusOr<comm::Message>& reply) {
        calls_.erase(*id);
        done(reply);
      });
  calls_.insert(*id);
}

void Links::Send(int shard, Method method, std::string what,
                 std::vector<Buffer> frames, std::function<void()> done) {
  ++next_number_[shard];
  Ask(route_.shards[static_cast<size_t>(shard)].endpoint, comm::Lane::kBulk,
      method, std::move(what), std::move(frames),
      method == Method::kSlotStates ? Duration(kStorageWithin) : timeout_,
      [this, shard,
       done = std::move(done)](const StatusOr<comm::Message>& reply) {
        if (!reply.ok()) {
          failed_(reply.status().WithPrefix(
              route_.shards[static_cast<size_t>(shard)].name));
          return;
        }
        done();
      });
}

std::optional<Links::Ticket> Links::Take(comm::EndpointId from,
                                         const comm::Message& message,
                                         uint64_t version, uint64_t number) {
  const auto refuse = [&](const Status& why) {
    (void)context_.Send(from, comm::Lane::kBulk,
                        comm::MakeErrorReply(message, why));
    return std::nullopt;
  };
  if (version != route_.version) {
    // One of the two is about to hear of the newer one.
    return refuse(UnavailableError(StrCat("sent under version ", version,
                                          " of the route, but ", route_.version,
                                          " counts here")));
  }
  const auto shard = std::find_if(
      route_.shards.begin(), route_.shards.end(),
      [from](const RouteTable::Peer& peer) { return peer.endpoint == from; });
  if (shard == route_.shards.end()) {
    return refuse(FailedPreconditionError("you are no shard of this job"));
  }
  const auto index = static_cast<int>(shard - route_.shards.begin());
  Incoming& incoming = incoming_[index];
  const auto waiting = incoming.waiting.find(number);
  if (waiting != incoming.waiting.end()) {
    waiting->second.header = message.header;  // The one that is still awaited.
    return std::nullopt;
  }
  if (number <= incoming.taken) {
    (void)context_.Send(from, comm::Lane::kBulk, comm::MakeReply(message, {}));
    return std::nullopt;
  }
  if (number != incoming.taken + 1) {
    return refuse(UnavailableError(
        StrCat("number ", number, " came before ", incoming.taken + 1)));
  }
  incoming.taken = number;
  comm::Message head;
  head.header = message.header;
  incoming.waiting.emplace(number, std::move(head));
  return Ticket{.shard = index, .number = number};
}

void Links::Answer(const Ticket& ticket) {
  auto& waiting = incoming_[ticket.shard].waiting;
  const auto it = waiting.find(ticket.number);
  SHOAL_CHECK(it != waiting.end());
  // If it does not arrive, it is asked for again.
  (void)context_.Send(route_.shards[static_cast<size_t>(ticket.shard)].endpoint,
                      comm::Lane::kBulk, comm::MakeReply(it->second, {}));
  waiting.erase(it);
}

}  // namespace shoal::ps
