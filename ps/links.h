#ifndef SHOAL_PS_LINKS_H_
#define SHOAL_PS_LINKS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "comm/node.h"
#include "ps/caller.h"
#include "ps/route.h"
#include "ps/wire.h"

namespace shoal::ps {

// How shards hand commands to each other: from one to another they arrive in
// the order in which they were sent, each once, however often a connection
// breaks, as long as both have the same route. Under a new route nothing of
// what was under way arrives any more, and numbers begin again.
//
// Belongs to the thread of its shard.
class Links {
 public:
  // A message that was taken and is not answered yet.
  struct Ticket {
    int shard = 0;  // that it came from
    uint64_t number = 0;
  };

  // `failed` gets why a message could not be delivered within `timeout` (slots:
  // within kStorageWithin, since they wait for storage), naming the shard.
  // `caller` must outlive the links.
  Links(comm::NodeContext& context, Caller& caller, Duration timeout,
        std::function<void(const Status&)> failed)
      : context_(context),
        caller_(caller),
        timeout_(timeout),
        failed_(std::move(failed)) {}

  void Adopt(const RouteTable& route);

  // The number that the head of the next message to `shard` is to have.
  uint64_t NextNumber(int shard) { return next_number_[shard] + 1; }
  // `done` runs when it was answered, never inside Send().
  void Send(int shard, Method method, std::string what,
            std::vector<Buffer> frames, std::function<void()> done);

  // Whether a message that came is the next of its link: then it is to be
  // handled and answered. None: it is not, and whoever sent it was answered or
  // will be.
  std::optional<Ticket> Take(comm::EndpointId from,
                             const comm::Message& message, uint64_t version,
                             uint64_t number);
  void Answer(const Ticket& ticket);

  // The same for what else a member asks under its route: `done` gets the
  // reply, unless the route has changed.
  void Ask(comm::EndpointId peer, comm::Lane lane, Method method,
           std::string what, std::vector<Buffer> frames, Duration within,
           Caller::Done done);

 private:
  struct Incoming {
    uint64_t taken = 0;                         // the last number
    std::map<uint64_t, comm::Message> waiting;  // by number; without frames
  };

  comm::NodeContext& context_;
  Caller& caller_;
  Duration timeout_;
  std::function<void(const Status&)> failed_;
  RouteTable route_;
  std::map<int, uint64_t> next_number_;
  std::map<int, Incoming> incoming_;
  std::unordered_set<uint64_t> calls_;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_LINKS_H_
