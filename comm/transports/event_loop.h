#ifndef SHOAL_COMM_TRANSPORTS_EVENT_LOOP_H_
#define SHOAL_COMM_TRANSPORTS_EVENT_LOOP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>

#include "base/status.h"
#include "base/time.h"
#include "comm/endpoint.h"

namespace shoal::comm {

// The one wait of an endpoint, or of several that one node uses: file
// descriptors and a doorbell that other threads and processes may ring.
//
// Belongs to the endpoint's thread but for Wake().
class EventLoop {
 public:
  static StatusOr<std::unique_ptr<EventLoop>> Create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Calls `on_ready` from Wait() whenever `fd` is readable or hung up. It notes
  // what there is to do; it may watch and unwatch.
  Status Watch(int fd, std::function<void()> on_ready);
  // Before `fd` is closed.
  void Unwatch(int fd);

  // An eventfd; writing 1 to it ends a wait. It is never read.
  int doorbell_fd() const { return doorbell_fd_; }

  void Wake();  // any thread
  // True once after Wake().
  bool TakeWake() { return woken_.exchange(false); }

  // Between BeginSleep() and EndSleep() Wake() rings. BeginSleep() returns
  // false when Wake() came before.
  bool BeginSleep();
  void EndSleep() { sleeping_.store(false); }

  // Waits up to `timeout` (0: looks only) and calls handlers.
  void Wait(Duration timeout);

  // Now and then true, so that a busy endpoint looks at its sockets too.
  bool TimeForAGlance() { return (++num_polls_ & 15) == 0; }

 private:
  struct Watched {
    uint64_t token;
    std::function<void()> on_ready;
  };

  EventLoop(int epoll_fd, int doorbell_fd)
      : epoll_fd_(epoll_fd), doorbell_fd_(doorbell_fd) {}

  const int epoll_fd_;
  const int doorbell_fd_;
  std::atomic<bool> woken_{false};
  std::atomic<bool> sleeping_{false};
  uint64_t num_polls_ = 0;
  uint64_t next_token_ = 1;
  std::unordered_map<int, Watched> watched_;
  std::unordered_map<uint64_t, int> fd_of_token_;
};

// An endpoint that waits in an event loop which it may share with others.
class LoopEndpoint : public Endpoint {
 public:
  // Hands over what has arrived; true if it called the sink.
  virtual bool Deliver(EndpointSink& sink) = 0;

  // From here to EndSleep() peers ring the doorbell. False when something is
  // there to Deliver().
  virtual bool PrepareSleep() = 0;
  virtual void EndSleep() = 0;

  // When to Deliver() even if nothing happens; Time::max() for never.
  virtual Time NextDue() const = 0;

  // Whether Send() would find `peer`.
  virtual bool Knows(EndpointId peer) const = 0;
};

// Endpoint::Poll() for endpoints that share `loop`.
void PollTogether(EventLoop& loop, std::span<LoopEndpoint* const> endpoints,
                  EndpointSink& sink, Duration timeout);

// Makes an endpoint that waits in `loop`, which must outlive it.
StatusOr<std::unique_ptr<LoopEndpoint>> CreateShmIn(
    EventLoop& loop, const Endpoint::Options& options);
StatusOr<std::unique_ptr<LoopEndpoint>> CreateZmqIn(
    EventLoop& loop, const Endpoint::Options& options);

// A whole endpoint of its own loop and one endpoint in it.
StatusOr<std::unique_ptr<Endpoint>> CreateAlone(
    const Endpoint::Options& options,
    StatusOr<std::unique_ptr<LoopEndpoint>> (*create)(
        EventLoop& loop, const Endpoint::Options& options));

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_EVENT_LOOP_H_
