#ifndef SHOAL_PS_PS_TESTING_H_
#define SHOAL_PS_PS_TESTING_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "base/storage.h"
#include "comm/message.h"
#include "comm/node.h"

// For the tests of this folder.
namespace shoal::ps {

// The world of one node, in which nothing happens by itself: the test moves the
// clock, runs what was given to storage, reads what was sent, and hands
// messages to the node. Destroy the node first.
class FakeContext : public comm::NodeContext {
 public:
  struct Sent {
    Time time;
    comm::EndpointId to;
    comm::Lane lane;
    comm::Message message;
  };
  struct Connected {
    comm::EndpointId peer;
    std::string address;
  };

  explicit FakeContext(comm::EndpointId self) : self_(self) {}

  // Moves the clock, running timers at their times; those that they set too.
  void Advance(Duration length) {
    const Time end = now_ + length;
    while (!timers_.empty() && timers_.begin()->first.first <= end) {
      const auto first = timers_.begin();
      now_ = std::max(now_, first->first.first);
      const std::function<void()> fire = std::move(first->second);
      timers_.erase(first);
      fire();
    }
    now_ = end;
  }

  // Runs what waits for storage, in order, what was posted, and what they
  // start.
  void RunStorage() {
    while (!works_.empty() || !posts_.empty()) {
      if (works_.empty()) {
        RunPost();
        continue;
      }
      const auto [work, done] = std::move(works_.front());
      works_.pop_front();
      done(work(storage));
    }
  }
  // Runs the first task that was posted.
  void RunPost() {
    const std::function<void()> task = std::move(posts_.front());
    posts_.pop_front();
    task();
  }

  // What the node had set goes with it, where another takes its place.
  void ForgetNode() {
    timers_.clear();
    works_.clear();
    posts_.clear();
  }

  int64_t num_timers() const { return static_cast<int64_t>(timers_.size()); }
  int64_t num_works() const { return static_cast<int64_t>(works_.size()); }

  comm::EndpointId self() const override { return self_; }
  std::string address() const override { return "fake:self"; }
  Time Now() const override { return now_; }

  Status Connect(comm::EndpointId peer, const std::string& address) override {
    connected.push_back({peer, address});
    return refuse_connects;
  }
  void Disconnect(comm::EndpointId /*peer*/) override {}
  Status Send(comm::EndpointId peer, comm::Lane lane,
              comm::Message message) override {
    if (!refuse_sends.ok()) {
      refused.push_back(now_);
      return refuse_sends;
    }
    sent.push_back({now_, peer, lane, std::move(message)});
    return OkStatus();
  }

  void LookUntil(Time /*until*/) override {}
  comm::TimerId SetTimer(Time at, std::function<void()> fire) override {
    const uint64_t timer = next_timer_++;
    timers_.emplace(std::pair(at, timer), std::move(fire));
    return comm::TimerId{timer};
  }
  void CancelTimer(comm::TimerId timer) override {
    std::erase_if(timers_, [timer](const auto& entry) {
      return comm::TimerId{entry.first.second} == timer;
    });
  }

  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    works_.emplace_back(std::move(work), std::move(done));
  }
  // No node of this folder computes.
  void StartCompute(int, std::function<void()>,
                    std::function<void()>) override {
    SHOAL_CHECK(false);
  }
  void Post(std::function<void()> task) override {
    posts_.push_back(std::move(task));
  }

  Random& random() override { return random_; }

  void Stop(Status why) override {
    if (!stopped.has_value()) {
      stopped = std::move(why);
    }
  }

  Status refuse_sends;  // what Send() gives when it is not OK
  Status refuse_connects;
  std::vector<Time> refused;
  std::vector<Sent> sent;
  std::vector<Connected> connected;
  std::optional<Status> stopped;
  MemoryStorage storage;

 private:
  comm::EndpointId self_;
  Time now_{Duration(std::chrono::hours(1))};
  uint64_t next_timer_ = 1;
  std::map<std::pair<Time, uint64_t>, std::function<void()>> timers_;
  std::deque<std::pair<std::function<StatusOr<Buffer>(Storage&)>,
                       std::function<void(StatusOr<Buffer>)>>>
      works_;
  std::deque<std::function<void()>> posts_;
  Random random_{1};
};

// The error that a reply carries; OK for none.
inline Status ErrorOf(const comm::Message& reply) {
  return Status(
      static_cast<StatusCode>(reply.header.status),
      reply.frames.empty() ? std::string_view() : reply.frames[0].text());
}

}  // namespace shoal::ps

#endif  // SHOAL_PS_PS_TESTING_H_
