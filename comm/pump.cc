#include "comm/pump.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/cancellable.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/strcat.h"

namespace shoal::comm {
namespace {

// How long the pump sleeps when nothing is due; any event ends it early.
constexpr Duration kIdleMax = std::chrono::seconds(10);

// Timers in the order of their times, then of their making. Belongs to the
// pump's thread.
class TimerQueue {
 public:
  TimerId Add(Time at, std::function<void()> fire) {
    const uint64_t id = next_++;
    timers_.emplace(id, std::move(fire));
    heap_.push_back({at, id});
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    return TimerId{id};
  }

  void Cancel(TimerId timer) {
    timers_.erase(static_cast<uint64_t>(timer));
    // Cancelled ones leave the heap when they are due or outnumber the others.
    if (heap_.size() > 64 && heap_.size() > 4 * timers_.size()) {
      std::erase_if(heap_, [this](const Entry& entry) {
        return !timers_.contains(entry.id);
      });
      std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    }
  }

  std::optional<Time> Next() {
    while (!heap_.empty() && !timers_.contains(heap_.front().id)) {
      Pop();
    }
    return heap_.empty() ? std::nullopt : std::optional<Time>(heap_.front().at);
  }

  // Those that are due at `now`; each is still to be taken.
  std::vector<uint64_t> Due(Time now) {
    std::vector<uint64_t> due;
    for (std::optional<Time> next = Next(); next.has_value() && *next <= now;
         next = Next()) {
      due.push_back(heap_.front().id);
      Pop();
    }
    return due;
  }

  // Takes a due one out; empty when it was cancelled since.
  std::function<void()> Take(uint64_t due) {
    const auto it = timers_.find(due);
    if (it == timers_.end()) {
      return nullptr;
    }
    std::function<void()> fire = std::move(it->second);
    timers_.erase(it);
    return fire;
  }

  void Clear() {
    timers_.clear();
    heap_.clear();
  }

 private:
  struct Entry {
    Time at;
    uint64_t id;
    friend auto operator<=>(const Entry&, const Entry&) = default;
  };

  void Pop() {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    heap_.pop_back();
  }

  uint64_t next_ = 1;
  std::unordered_map<uint64_t, std::function<void()>> timers_;
  std::vector<Entry> heap_;
};

// A thread that runs works one after another, started with the first.
class WorkThread {
 public:
  WorkThread() = default;
  ~WorkThread() { Join(); }
  WorkThread(const WorkThread&) = delete;
  WorkThread& operator=(const WorkThread&) = delete;

  void Add(std::function<void()> work) {
    {
      const MutexLock lock(mutex_);
      works_.push_back(std::move(work));
    }
    changed_.NotifyOne();
    if (!thread_.joinable()) {
      thread_ = std::thread([this] { Loop(); });
    }
  }

  // Ends after the work that runs; the others are dropped.
  void Join() {
    {
      const MutexLock lock(mutex_);
      ended_ = true;
      works_.clear();
    }
    changed_.NotifyOne();
    if (thread_.joinable()) {
      thread_.join();
    }
  }

 private:
  void Loop() {
    while (true) {
      std::function<void()> work;
      {
        const MutexLock lock(mutex_);
        while (works_.empty() && !ended_) {
          changed_.Wait(mutex_);
        }
        if (ended_) {
          return;
        }
        work = std::move(works_.front());
        works_.pop_front();
      }
      work();
    }
  }

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> works_ SHOAL_GUARDED_BY(mutex_);
  bool ended_ SHOAL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // the pump's thread starts and joins it
};

// The clock, the works and the endpoint of one node. All but Post() and
// Interrupt() belongs to the thread in Run().
class RealPump : public Pump, public NodeContext, private EndpointSink {
 public:
  RealPump(const Options& options, EndpointId self,
           std::unique_ptr<Endpoint> endpoint)
      : self_(self),
        close_within_(options.close_within),
        own_storage_(options.storage == nullptr ? CreateStorage() : nullptr),
        storage_(options.storage == nullptr ? *own_storage_ : *options.storage),
        endpoint_(std::move(endpoint)),
        random_(HashKey(EntropySeed(), self.value)) {}

  // Pump and NodeContext.
  std::string address() const override { return endpoint_->address(); }
  EndpointId self() const override { return self_; }

  Status Run(Node& node) override;
  void Interrupt(Status why) override {
    Post([this, why] { Stop(why); });
  }

  // NodeContext.
  Time Now() const override { return std::chrono::steady_clock::now(); }
  Status Connect(EndpointId peer, const std::string& address) override {
    return endpoint_->Connect(peer, address);
  }
  void Disconnect(EndpointId peer) override { endpoint_->Disconnect(peer); }
  Status Send(EndpointId peer, Lane lane, Message message) override {
    return endpoint_->Send(peer, lane, std::move(message));
  }
  void LookUntil(Time until) override { look_until_ = until; }
  TimerId SetTimer(Time at, std::function<void()> fire) override {
    return over_ ? TimerId::kNone : timers_.Add(at, std::move(fire));
  }
  void CancelTimer(TimerId timer) override { timers_.Cancel(timer); }

  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    if (over_) {
      return;
    }
    storage_thread_.Add(
        [this, work = std::move(work), done = std::move(done)]() mutable {
          auto result = std::make_shared<StatusOr<Buffer>>(work(storage_));
          Post([result, done = std::move(done)] {
            if (done) {
              done(std::move(*result));
            }
          });
        });
  }

  void StartCompute(int lane, std::function<void()> compute,
                    std::function<void()> done) override {
    SHOAL_CHECK(lane >= 0 && lane < kNumComputeLanes);
    if (over_) {
      return;
    }
    compute_threads_[lane].Add(
        [this, compute = std::move(compute), done = std::move(done)]() mutable {
          compute();
          Post(std::move(done));
        });
  }

  void Post(std::function<void()> task) override {
    {
      const MutexLock lock(posts_mutex_);
      posts_.push_back(std::move(task));
      if (posts_.size() > 1) {
        return;  // Whoever posted the first one has woken the pump.
      }
    }
    endpoint_->Wake();
  }

  Random& random() override { return random_; }

  void Stop(Status why) override {
    if (!stopped_) {
      stopped_ = true;
      why_ = std::move(why);
    }
  }

 private:
  // EndpointSink: what the endpoint still has after Stop() is dropped.
  void OnMessage(EndpointId from, Message message) override {
    if (!stopped_) {
      node_->OnMessage(from, std::move(message));
    }
  }
  void OnPeerDown(EndpointId peer, const Status& why) override {
    if (!stopped_) {
      node_->OnPeerDown(peer, why);
    }
  }
  void OnSendable(EndpointId peer) override {
    if (!stopped_) {
      node_->OnSendable(peer);
    }
  }

  void RunPosts();
  void RunTimers();
  Duration TimeToNext();
  void End();

  const EndpointId self_;
  const Duration close_within_;
  const std::unique_ptr<Storage> own_storage_;
  Storage& storage_;
  const std::unique_ptr<Endpoint> endpoint_;
  Random random_;
  Node* node_ = nullptr;
  TimerQueue timers_;
  Time look_until_;
  bool stopped_ = false;  // Stop() was called
  bool over_ = false;     // Run() is at its end: calls do nothing
  Status why_;

  Mutex posts_mutex_;
  std::vector<std::function<void()>> posts_ SHOAL_GUARDED_BY(posts_mutex_);

  // Last, so that they end before what they use.
  WorkThread storage_thread_;
  WorkThread compute_threads_[kNumComputeLanes];
};

Status RealPump::Run(Node& node) {
  SHOAL_CHECK(node_ == nullptr);
  node_ = &node;
  RunPosts();  // An Interrupt() that came before.
  if (!stopped_) {
    node.OnStart(*this);
  }
  while (!stopped_) {
    RunPosts();
    RunTimers();
    if (stopped_) {
      break;
    }
    const bool looking = Now() < look_until_;
    const Status polled =
        endpoint_->Poll(*this, looking ? Duration(0) : TimeToNext());
    if (looking) {
      std::this_thread::yield();
    }
    if (!polled.ok()) {
      Stop(polled);
    }
  }
  End();
  return why_;
}

void RealPump::RunPosts() {
  std::vector<std::function<void()>> posts;
  {
    const MutexLock lock(posts_mutex_);
    posts.swap(posts_);
  }
  for (const std::function<void()>& post : posts) {
    if (stopped_) {
      return;
    }
    if (post) {
      post();
    }
  }
}

void RealPump::RunTimers() {
  // Those set meanwhile wait for the next round, so that messages get a turn
  // and one that is set again and again at a past time leaves the others
  // theirs.
  for (const uint64_t due : timers_.Due(Now())) {
    if (stopped_) {
      return;
    }
    const std::function<void()> fire = timers_.Take(due);
    if (fire != nullptr) {
      fire();
    }
  }
}

Duration RealPump::TimeToNext() {
  const std::optional<Time> next = timers_.Next();
  if (!next.has_value()) {
    return kIdleMax;
  }
  return std::clamp<Duration>(*next - Now(), Duration(0), kIdleMax);
}

void RealPump::End() {
  over_ = true;
  if (auto* const waiting = dynamic_cast<Cancellable*>(&storage_)) {
    waiting->Cancel();
  }
  storage_thread_.Join();
  for (WorkThread& thread : compute_threads_) {
    thread.Join();
  }
  timers_.Clear();
  {
    std::vector<std::function<void()>> dropped;
    const MutexLock lock(posts_mutex_);
    dropped.swap(posts_);
  }
  const Status closed = endpoint_->Close(Now() + close_within_);
  if (!closed.ok()) {
    // Peers see the connection end; that is theirs to judge.
    LogWarning(self_, ": ", closed.message());
  }
}

}  // namespace

StatusOr<std::unique_ptr<Pump>> Pump::Create(const Options& options) {
  Options complete = options;
  EndpointId& self = complete.endpoint.self;
  while (self.value <= kCoordinator.value && self != kCoordinator) {
    self.value = EntropySeed();
  }
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Endpoint> endpoint,
                         CreateEndpoint(complete.transport, complete.endpoint));
  return std::unique_ptr<Pump>(
      std::make_unique<RealPump>(complete, self, std::move(endpoint)));
}

}  // namespace shoal::comm
