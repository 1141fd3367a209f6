#include "comm/transports/event_loop.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "base/strcat.h"

namespace shoal::comm {
namespace {

// A timeout longer than this ends early; whoever waits calls again.
constexpr Duration kWaitMax = std::chrono::seconds(60);

Status LoopError(std::string_view what) {
  return UnavailableError(
      StrCat("endpoint: ", what, ": ", std::system_category().message(errno)));
}

}  // namespace

StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  const int epoll_fd = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) {
    return LoopError("epoll_create1");
  }
  const int doorbell_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (doorbell_fd < 0) {
    const Status status = LoopError("eventfd");
    ::close(epoll_fd);
    return status;
  }
  std::unique_ptr<EventLoop> loop(new EventLoop(epoll_fd, doorbell_fd));
  // Edge-triggered: every ring is one event and nobody has to read it.
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = 0;
  if (::epoll_ctl(epoll_fd, EPOLL_CTL_ADD, doorbell_fd, &event) != 0) {
    return LoopError("epoll_ctl");
  }
  return loop;
}

EventLoop::~EventLoop() {
  ::close(epoll_fd_);
  ::close(doorbell_fd_);
}

Status EventLoop::Watch(int fd, std::function<void()> on_ready) {
  const uint64_t token = next_token_++;
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLRDHUP;
  event.data.u64 = token;
  if (::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) {
    return LoopError("epoll_ctl");
  }
  watched_[fd] = {token, std::move(on_ready)};
  fd_of_token_[token] = fd;
  return OkStatus();
}

void EventLoop::Unwatch(int fd) {
  const auto it = watched_.find(fd);
  if (it == watched_.end()) {
    return;
  }
  ::epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
  fd_of_token_.erase(it->second.token);
  watched_.erase(it);
}

void EventLoop::Wake() {
  if (woken_.exchange(true)) {
    return;  // Whoever set it rings.
  }
  if (sleeping_.load()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(doorbell_fd_, &one, sizeof(one));
  }
}

bool EventLoop::BeginSleep() {
  sleeping_.store(true);
  return !woken_.load();
}

void EventLoop::Wait(Duration timeout) {
  const auto length = std::clamp<Duration>(timeout, Duration(0), kWaitMax);
  // Rounded up, so that a timer is due when the wait has passed.
  const auto milliseconds =
      std::chrono::ceil<std::chrono::milliseconds>(length).count();
  epoll_event events[64];
  const int n = ::epoll_wait(epoll_fd_, events, std::size(events),
                             static_cast<int>(milliseconds));
  for (int i = 0; i < n; ++i) {
    // A token, since a handler may have closed this one, and its number may be
    // in use again.
    const auto fd = fd_of_token_.find(events[i].data.u64);
    if (fd == fd_of_token_.end()) {
      continue;
    }
    const std::function<void()> on_ready = watched_[fd->second].on_ready;
    on_ready();
  }
}

void PollTogether(EventLoop& loop, std::span<LoopEndpoint* const> endpoints,
                  EndpointSink& sink, Duration timeout) {
  if (loop.TimeForAGlance()) {
    loop.Wait(Duration(0));
  }
  const auto deliver = [&] {
    bool any = false;
    for (LoopEndpoint* const endpoint : endpoints) {
      any |= endpoint->Deliver(sink);
    }
    return any;
  };
  if (deliver() || loop.TakeWake()) {
    return;
  }
  if (timeout > Duration(0)) {
    bool ready = !loop.BeginSleep();
    Time due = Time::max();
    for (LoopEndpoint* const endpoint : endpoints) {
      ready |= !endpoint->PrepareSleep();
      due = std::min(due, endpoint->NextDue());
    }
    if (due != Time::max()) {
      timeout =
          std::min<Duration>(timeout, due - std::chrono::steady_clock::now());
    }
    loop.Wait(ready ? Duration(0) : timeout);
    for (LoopEndpoint* const endpoint : endpoints) {
      endpoint->EndSleep();
    }
    loop.EndSleep();
    loop.TakeWake();
  } else {
    loop.Wait(Duration(0));
  }
  deliver();
}

namespace {

class AloneEndpoint : public Endpoint {
 public:
  AloneEndpoint(std::unique_ptr<EventLoop> loop,
                std::unique_ptr<LoopEndpoint> endpoint)
      : loop_(std::move(loop)), endpoint_(std::move(endpoint)) {}

  std::string address() const override { return endpoint_->address(); }
  Status Connect(EndpointId peer, const std::string& address) override {
    return endpoint_->Connect(peer, address);
  }
  void Disconnect(EndpointId peer) override { endpoint_->Disconnect(peer); }
  Status Send(EndpointId peer, Lane lane, Message message) override {
    return endpoint_->Send(peer, lane, std::move(message));
  }
  Status Poll(EndpointSink& sink, Duration timeout) override {
    return endpoint_->Poll(sink, timeout);
  }
  void Wake() override { loop_->Wake(); }
  Status Close(Time deadline) override { return endpoint_->Close(deadline); }

 private:
  const std::unique_ptr<EventLoop> loop_;  // outlives the endpoint
  const std::unique_ptr<LoopEndpoint> endpoint_;
};

}  // namespace

StatusOr<std::unique_ptr<Endpoint>> CreateAlone(
    const Endpoint::Options& options,
    StatusOr<std::unique_ptr<LoopEndpoint>> (*create)(
        EventLoop& loop, const Endpoint::Options& options)) {
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<EventLoop> loop, EventLoop::Create());
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<LoopEndpoint> endpoint,
                         create(*loop, options));
  return std::unique_ptr<Endpoint>(
      std::make_unique<AloneEndpoint>(std::move(loop), std::move(endpoint)));
}

}  // namespace shoal::comm
