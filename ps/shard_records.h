#ifndef SHOAL_PS_SHARD_RECORDS_H_
#define SHOAL_PS_SHARD_RECORDS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "comm/message.h"
#include "comm/node.h"
#include "ps/dense_layout.h"
#include "ps/links.h"
#include "ps/step_stage.h"

namespace shoal::ps {

// What a Shard keeps of requests, steps and others' slots; see there.

// A pull that came before the step that it asks for.
struct WaitingPull {
  comm::EndpointId from;
  comm::Message request;
  int64_t step = 0;
  bool stands_in = false;
  comm::TimerId timer = comm::TimerId::kNone;
};
// Gradients that are summed and checked, and what they are of.
struct Part {
  std::shared_ptr<const Piece> piece;
  std::shared_ptr<const Portion> portion;
};
// A message of another shard that was taken and is not handled yet.
struct LinkMessage {
  Links::Ticket ticket;
  comm::Message message;
};
// Who is told when the tails have a push, and how many commands they lack.
struct Waiter {
  int missing = 0;
  std::function<void()> acknowledge;
};
// A push of a client where steps are dealt, which the tails may lack.
struct Command {
  uint64_t client = 0;
  uint64_t sequence = 0;
  int64_t step = 0;
  double learning_rate_factor = 1;
  Part part;
  int64_t bytes = 0;
  std::vector<std::shared_ptr<Waiter>> waiters;
};
// To a shard that joins chains whose tail this one is.
struct Transfer {
  comm::EndpointId endpoint;
  std::vector<int64_t> todo;  // slots that are still to be sent, rising
  std::vector<bool> has;      // by slot: acknowledged
  int64_t bytes_under_way = 0;
  int messages_under_way = 0;
  bool told = false;  // the coordinator, that it has all
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_SHARD_RECORDS_H_
