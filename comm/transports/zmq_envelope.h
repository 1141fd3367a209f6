#ifndef SHOAL_COMM_TRANSPORTS_ZMQ_ENVELOPE_H_
#define SHOAL_COMM_TRANSPORTS_ZMQ_ENVELOPE_H_

#include <atomic>
#include <cstdint>

#include "base/mutex.h"
#include "comm/message.h"
#include "comm/transports/event_loop.h"

namespace shoal::comm {

// The first part of every message, as it lies in memory.
struct Envelope {
  enum Kind : uint32_t {
    kHello = 1,   // begins a session's lane; the next part is an address
    kData = 2,    // the other parts are frames
    kBye = 3,     // ends a lane: all is sent
    kByeAck = 4,  // `session` is the receiver's: all of it has arrived
    kReset = 5,   // `session` is the receiver's: it is over
  };
  static constexpr uint64_t kMagic = 0x317a6d712d6c6873;
  uint64_t magic = kMagic;
  uint32_t kind = 0;
  uint32_t lane = 0;
  EndpointId from;
  EndpointId to;
  uint64_t session = 0;
  uint64_t sequence = 0;  // in the session's lane
  uint64_t answers = 0;   // the session of `to` that this one answers, or 0
  MessageHeader header;
};
static_assert(sizeof(Envelope) == 72);

// Wakes an endpoint that may be gone. Thread-safe.
class ZmqWaker {
 public:
  explicit ZmqWaker(EventLoop& loop) : loop_(&loop) {}
  void Wake() {
    const MutexLock lock(mutex_);
    if (loop_ != nullptr) {
      loop_->Wake();
    }
  }
  void Detach() {
    const MutexLock lock(mutex_);
    loop_ = nullptr;
  }

 private:
  Mutex mutex_;
  EventLoop* loop_ SHOAL_GUARDED_BY(mutex_);
};

// What was sent to a peer and is not on the network. libzmq's thread takes off.
struct ZmqQueue {
  std::atomic<int64_t> bytes{0};
  std::atomic<bool> wants_room{false};
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_ZMQ_ENVELOPE_H_
