#include "comm/transports/event_inbox.h"

#include <utility>

namespace shoal::comm {

void EventInbox::PushMessage(EndpointId from, Message message) {
  events_.push_back({Event::Kind::kMessage, from, std::move(message), {}});
}

void EventInbox::PushDown(EndpointId peer, const Status& why) {
  events_.push_back({Event::Kind::kDown, peer, {}, why});
}

void EventInbox::PushSendable(EndpointId peer) {
  events_.push_back({Event::Kind::kSendable, peer, {}, {}});
}

void EventInbox::Forget(EndpointId peer) {
  for (Event& event : events_) {
    if (event.peer == peer) {
      event.kind = Event::Kind::kNone;
    }
  }
}

bool EventInbox::Deliver(EndpointSink& sink, FunctionRef<void()> after_each) {
  bool any = false;
  for (size_t rest = events_.size(); rest > 0 && !events_.empty(); --rest) {
    Event event = std::move(events_.front());
    events_.pop_front();
    switch (event.kind) {
      case Event::Kind::kMessage:
        sink.OnMessage(event.peer, std::move(event.message));
        break;
      case Event::Kind::kDown:
        sink.OnPeerDown(event.peer, event.why);
        break;
      case Event::Kind::kSendable:
        sink.OnSendable(event.peer);
        break;
      case Event::Kind::kNone:
        continue;
    }
    any = true;
    after_each();
  }
  return any;
}

}  // namespace shoal::comm
