#ifndef SHOAL_COMM_TRANSPORTS_EVENT_INBOX_H_
#define SHOAL_COMM_TRANSPORTS_EVENT_INBOX_H_

#include <cstdint>
#include <deque>

#include "base/function_ref.h"
#include "base/status.h"
#include "comm/endpoint.h"

namespace shoal::comm {

// What an endpoint is to tell its node, in order. Belongs to the endpoint's
// thread.
class EventInbox {
 public:
  void PushMessage(EndpointId from, Message message);
  void PushDown(EndpointId peer, const Status& why);
  void PushSendable(EndpointId peer);

  // Nothing more of what is there comes from `peer`.
  void Forget(EndpointId peer);
  void Clear() { events_.clear(); }
  bool empty() const { return events_.empty(); }

  // Only what is there now: what callbacks cause waits for the next turn.
  // `after_each` runs after each callback. Whether there was any.
  bool Deliver(
      EndpointSink& sink, FunctionRef<void()> after_each = [] {});

 private:
  struct Event {
    enum class Kind : uint8_t { kMessage, kDown, kSendable, kNone };
    Kind kind;
    EndpointId peer;
    Message message;
    Status why;
  };
  std::deque<Event> events_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_EVENT_INBOX_H_
