#include "kernels/shadow_device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/strcat.h"
#include "base/thread_pool.h"
#include "kernels/kernel.h"
#include "kernels/shadow_memory.h"

namespace shoal {
namespace {

using HostMay = ShadowPages::HostMay;

// A range of memory that a piece of work reads or writes.
struct Use {
  const void* address = nullptr;
  int64_t size_bytes = 0;
  bool write = false;
  bool of_device = false;  // the host's memory won't do, pinned or not
};

struct Memory {
  std::unique_ptr<ShadowPages> pages;
  ShadowRanges ranges;
  bool of_device = false;
  // Of the host's: the work that it has to wait for.
  struct Pending {
    size_t queue;
    uint64_t count;
    bool write;
  };
  std::vector<Pending> pending;
};

// How far the work of one queue is.
struct Queue {
  uint64_t enqueued = 0;
  uint64_t done = 0;
  VectorClock clock;  // what is ordered before its next piece of work
};

// What a device, its streams, events and buffers share.
struct State {
  explicit State(const ShadowOptions& o) : options(o) {}
  ~State() {
    const MutexLock lock(mutex);
    if (!told) {
      // Found when memory was freed, and nothing was asked of the device since.
      LogError(broken.ToString());
      std::abort();
    }
  }

  const ShadowOptions options;
  Mutex mutex;
  CondVar changed;
  std::map<uintptr_t, Memory> memory SHOAL_GUARDED_BY(mutex);  // by address
  std::deque<Queue> queues SHOAL_GUARDED_BY(mutex);
  VectorClock host SHOAL_GUARDED_BY(mutex);  // what the host has waited for
  Status broken SHOAL_GUARDED_BY(mutex);
  bool told SHOAL_GUARDED_BY(mutex) = true;   // of broken: whoever asked
  int64_t waits SHOAL_GUARDED_BY(mutex) = 0;  // for events
  // Of memory that was freed in use: the work may still touch it.
  std::vector<Memory> kept SHOAL_GUARDED_BY(mutex);

  const Status& Break(const Status& why) SHOAL_REQUIRES(mutex) {
    if (broken.ok()) {
      broken = why.WithPrefix("shadow device");
    }
    told = true;
    return broken;
  }

  const Status& Check() SHOAL_REQUIRES(mutex) {
    told = true;
    return broken;
  }

  // Null when no memory of the device's holds all of it.
  Memory* Find(const void* address, int64_t size_bytes) SHOAL_REQUIRES(mutex) {
    const auto at = reinterpret_cast<uintptr_t>(address);
    auto next = memory.upper_bound(at);
    if (next == memory.begin()) {
      return nullptr;
    }
    --next;
    const auto offset = static_cast<int64_t>(at - next->first);
    return offset + size_bytes <= next->second.pages->size_bytes()
               ? &next->second
               : nullptr;
  }

  static void* Inner(const Memory& m, const void* address) {
    return m.pages->inner() +
           (static_cast<const std::byte*>(address) - m.pages->address());
  }

  // The host knows more: it gets back what no copy uses any more.
  void JoinHost(const VectorClock& clock) SHOAL_REQUIRES(mutex) {
    host.Join(clock);
    for (auto& [address, m] : memory) {
      if (!m.pending.empty()) {
        const VectorClock& known = host;
        std::erase_if(m.pending, [&known](const Memory::Pending& p) {
          return known.of(p.queue) >= p.count;
        });
        Protect(m);
      }
    }
  }

  static void Protect(Memory& m) {
    HostMay may = HostMay::kReadAndWrite;
    for (const Memory::Pending& p : m.pending) {
      may = p.write ? HostMay::kNothing : std::min(may, HostMay::kRead);
      if (may == HostMay::kNothing) {
        break;
      }
    }
    m.pages->Allow(may);
  }

  StatusOr<Buffer> Allocate(const std::shared_ptr<State>& self,
                            int64_t size_bytes, bool of_device) {
    if (size_bytes == 0) {
      return Buffer();
    }
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<ShadowPages> pages,
                           ShadowPages::Create(size_bytes, of_device));
    std::byte* const address = pages->address();
    {
      const MutexLock lock(mutex);
      memory.emplace(reinterpret_cast<uintptr_t>(address),
                     Memory{.pages = std::move(pages),
                            .ranges = ShadowRanges(size_bytes, !of_device),
                            .of_device = of_device,
                            .pending = {}});
    }
    return Buffer::Wrap(
        address, size_bytes,
        std::shared_ptr<const void>(
            address, [self](const void* data) { self->Release(data); }));
  }

  void Release(const void* data) {
    const MutexLock lock(mutex);
    const auto at = memory.find(reinterpret_cast<uintptr_t>(data));
    const Status idle = at->second.ranges.CheckIdle(host);
    if (!idle.ok()) {
      const bool known = !broken.ok() && told;
      Break(idle);
      told = known;
      kept.push_back(std::move(at->second));
    }
    memory.erase(at);
  }
};

class ShadowEvent : public Event {
 public:
  ShadowEvent(std::shared_ptr<State> state, size_t queue, uint64_t count,
              VectorClock clock)
      : state_(std::move(state)),
        queue_(queue),
        count_(count),
        clock_(std::move(clock)) {}

  bool Done() const override {
    const MutexLock lock(state_->mutex);
    if (state_->queues[queue_].done < count_) {
      return false;
    }
    state_->JoinHost(clock_);
    return true;
  }

  const State& state() const { return *state_; }
  size_t queue() const { return queue_; }
  uint64_t count() const { return count_; }
  const VectorClock& clock() const { return clock_; }

 private:
  const std::shared_ptr<State> state_;
  const size_t queue_;
  const uint64_t count_;
  const VectorClock clock_;
};

class ShadowStream : public Stream {
 public:
  ShadowStream(std::shared_ptr<State> state, size_t number)
      : state_(std::move(state)),
        number_(number),
        pool_(state_->options.threads),
        cpu_(CreateCpuDevice(pool_)),
        random_(HashKey(state_->options.seed, number)),
        thread_([this] { Main(); }) {}

  ~ShadowStream() override {
    {
      const MutexLock lock(state_->mutex);
      stop_ = true;
    }
    state_->changed.NotifyAll();
    thread_.join();
  }

  ThreadPool* pool() override { return nullptr; }

  StatusOr<std::shared_ptr<Event>> Record() override {
    const MutexLock lock(state_->mutex);
    SHOAL_RETURN_IF_ERROR(state_->Check());
    const Queue& queue = state_->queues[number_];
    return std::shared_ptr<Event>(std::make_shared<ShadowEvent>(
        state_, number_, queue.enqueued, queue.clock));
  }

  Status Wait(const Event& event) override {
    const auto* const other = dynamic_cast<const ShadowEvent*>(&event);
    if (other == nullptr || &other->state() != state_.get()) {
      return FailedPreconditionError(
          "shadow device: asked to wait for an event of another device");
    }
    const MutexLock lock(state_->mutex);
    SHOAL_RETURN_IF_ERROR(state_->Check());
    if (state_->waits++ == state_->options.forget_wait) {
      return OkStatus();
    }
    state_->queues[number_].clock.Join(other->clock());
    Push({.wait_queue = other->queue(), .wait_count = other->count()});
    return OkStatus();
  }

  Status Synchronize() override {
    const MutexLock lock(state_->mutex);
    Queue& queue = state_->queues[number_];
    while (queue.done < queue.enqueued) {
      state_->changed.Wait(state_->mutex);
    }
    state_->JoinHost(queue.clock);
    SHOAL_RETURN_IF_ERROR(state_->Check());
    return std::exchange(status_, OkStatus());
  }

  // `work` runs with `uses` at their inner addresses, in their order.
  using Work = std::function<Status(const std::vector<void*>& inner)>;
  Status Enqueue(std::string what, const std::vector<Use>& uses, Work work) {
    const MutexLock lock(state_->mutex);
    SHOAL_RETURN_IF_ERROR(state_->Check());
    Queue& queue = state_->queues[number_];
    ShadowWork description = {.queue = number_,
                              .count = queue.enqueued + 1,
                              .what = std::move(what),
                              .before = queue.clock};
    description.before.Join(state_->host);
    std::vector<void*> inner;
    for (const Use& use : uses) {
      SHOAL_ASSIGN_OR_RETURN(void* const at, Take(description, use));
      inner.push_back(at);
    }
    for (const Use& use : uses) {
      // What is read is looked at before what is written: it may be the same.
      if (use.write && use.size_bytes > 0) {
        Memory& m = *state_->Find(use.address, use.size_bytes);
        const int64_t begin = OffsetIn(m, use.address);
        const Status ordered =
            m.ranges.Write(begin, begin + use.size_bytes, description);
        if (!ordered.ok()) {
          return state_->Break(ordered);
        }
      }
    }
    Push({.work = [work = std::move(work), inner = std::move(inner)] {
      return work(inner);
    }});
    queue.clock.Join(description.before);
    queue.clock.Set(number_, queue.enqueued);
    return OkStatus();
  }

  Stream& cpu_stream() { return *cpu_stream_; }
  int threads() const { return state_->options.threads; }

 private:
  struct Item {
    std::function<Status()> work = {};  // or an event to wait for
    size_t wait_queue = 0;
    uint64_t wait_count = 0;
  };

  static int64_t OffsetIn(const Memory& m, const void* address) {
    return static_cast<const std::byte*>(address) - m.pages->address();
  }

  // Checks one range and, if it is read, takes note. Gives its inner address.
  StatusOr<void*> Take(const ShadowWork& work, const Use& use)
      SHOAL_REQUIRES(state_->mutex) {
    if (use.size_bytes == 0) {
      return nullptr;
    }
    Memory* const m = state_->Find(use.address, use.size_bytes);
    if (m == nullptr || (use.of_device && !m->of_device)) {
      return state_->Break(FailedPreconditionError(StrCat(
          work.what, use.write ? " writes " : " reads ", use.size_bytes,
          " bytes at ", use.address,
          ", which are not (or no longer) the device's: a copy is missing, or "
          "the memory was freed")));
    }
    if (!use.write) {
      const int64_t begin = OffsetIn(*m, use.address);
      const Status ordered =
          m->ranges.Read(begin, begin + use.size_bytes, work);
      if (!ordered.ok()) {
        return state_->Break(ordered);
      }
    }
    if (!m->of_device) {
      m->pending.push_back({work.queue, work.count, use.write});
      State::Protect(*m);
    }
    return State::Inner(*m, use.address);
  }

  void Push(Item item) SHOAL_REQUIRES(state_->mutex) {
    ++state_->queues[number_].enqueued;
    items_.push_back(std::move(item));
    state_->changed.NotifyAll();
  }

  void Main() {
    cpu_stream_ = *cpu_->CreateStream();
    const auto delay_max = static_cast<uint64_t>(
        std::max<int64_t>(0, state_->options.delay_max.count()));
    for (;;) {
      Item item;
      bool skip = false;
      {
        const MutexLock lock(state_->mutex);
        while (items_.empty() && !stop_) {
          state_->changed.Wait(state_->mutex);
        }
        if (items_.empty()) {
          return;
        }
        item = std::move(items_.front());
        items_.pop_front();
        while (!item.work &&
               state_->queues[item.wait_queue].done < item.wait_count) {
          state_->changed.Wait(state_->mutex);
        }
        skip = !status_.ok();
      }
      Status status;
      if (item.work) {
        std::this_thread::sleep_for(
            Duration(static_cast<int64_t>(random_.Below(delay_max + 1))));
        if (!skip) {
          status = item.work();
        }
      }
      const MutexLock lock(state_->mutex);
      if (!status.ok() && status_.ok()) {
        status_ = status;
      }
      ++state_->queues[number_].done;
      state_->changed.NotifyAll();
    }
  }

  const std::shared_ptr<State> state_;
  const size_t number_;
  ThreadPool pool_;
  std::unique_ptr<Device> cpu_;
  std::unique_ptr<Stream> cpu_stream_;
  Random random_;
  bool stop_ SHOAL_GUARDED_BY(state_->mutex) = false;
  std::deque<Item> items_ SHOAL_GUARDED_BY(state_->mutex);
  Status status_ SHOAL_GUARDED_BY(state_->mutex);
  std::thread thread_;
};

Status RunShadowed(const std::string& op, const Kernel& kernel,
                   const KernelArgs& args, Stream& stream) {
  auto& shadow = static_cast<ShadowStream&>(stream);
  std::vector<Use> uses;
  const std::string label = args.label == nullptr ? "" : args.label;
  const auto use = [&](const TensorView& view, bool write) {
    uses.push_back(
        {view.data,
         view.data == nullptr ? 0 : view.num_elements() * SizeOf(view.dtype),
         write, /*of_device=*/true});
  };
  for (const TensorView& view : args.inputs) {
    use(view, false);
  }
  for (const TensorView& view : args.outputs) {
    use(view, true);
  }
  int64_t workspace_bytes = 0;
  if (kernel.workspace_bytes) {
    workspace_bytes =
        std::min(static_cast<int64_t>(args.workspace.size()),
                 kernel.workspace_bytes(args.inputs, args.outputs, args.ints,
                                        shadow.threads()));
  }
  uses.push_back(
      {args.workspace.data(), workspace_bytes, true, /*of_device=*/true});
  // What the caller's spans point to may be gone when the work runs.
  struct Copied {
    std::vector<TensorView> inputs, outputs;
    std::vector<int64_t> ints;
    std::vector<double> floats;
  };
  Copied copied = {{args.inputs.begin(), args.inputs.end()},
                   {args.outputs.begin(), args.outputs.end()},
                   {args.ints.begin(), args.ints.end()},
                   {args.floats.begin(), args.floats.end()}};
  return shadow.Enqueue(
      op, uses,
      [&shadow, &kernel, workspace_bytes, label,
       copied = std::move(copied)](const std::vector<void*>& inner) {
        Copied run = copied;
        size_t next = 0;
        for (TensorView& view : run.inputs) {
          view.data = inner[next++];
        }
        for (TensorView& view : run.outputs) {
          view.data = inner[next++];
        }
        const Status status =
            kernel.run({.inputs = run.inputs,
                        .outputs = run.outputs,
                        .ints = run.ints,
                        .floats = run.floats,
                        .workspace = {static_cast<std::byte*>(inner[next]),
                                      static_cast<size_t>(workspace_bytes)}},
                       shadow.cpu_stream());
        return status.ok() || label.empty() ? status : status.WithPrefix(label);
      });
}

// Those of the CPU, run on the stream's thread.
KernelMap ShadowKernels() {
  constexpr std::string_view kCpu = "cpu/";
  KernelMap kernels;
  for (const std::string& name : KernelRegistry().Names()) {
    if (name.starts_with(kCpu)) {
      const Kernel& kernel = **KernelRegistry().Find(name);
      const std::string op = name.substr(kCpu.size());
      kernels[op] = {.run =
                         [op, &kernel](const KernelArgs& args, Stream& stream) {
                           return RunShadowed(op, kernel, args, stream);
                         },
                     .workspace_bytes = kernel.workspace_bytes};
    }
  }
  return kernels;
}

class ShadowDevice : public Device {
 public:
  explicit ShadowDevice(const ShadowOptions& options)
      : state_(std::make_shared<State>(options)) {}

  std::string_view name() const override { return "shadow"; }
  bool host_can_read() const override { return false; }

  StatusOr<Buffer> Allocate(int64_t size_bytes) override {
    return state_->Allocate(state_, size_bytes, /*of_device=*/true);
  }
  StatusOr<Buffer> AllocateHost(int64_t size_bytes) override {
    return state_->Allocate(state_, size_bytes, /*of_device=*/false);
  }

  StatusOr<std::unique_ptr<Stream>> CreateStream() override {
    size_t number = 0;
    {
      const MutexLock lock(state_->mutex);
      number = state_->queues.size();
      state_->queues.emplace_back();
    }
    return std::unique_ptr<Stream>(
        std::make_unique<ShadowStream>(state_, number));
  }

  Status Copy(void* to, const void* from, int64_t size_bytes,
              Stream& stream) override {
    return static_cast<ShadowStream&>(stream).Enqueue(
        "a copy", {{from, size_bytes, false}, {to, size_bytes, true}},
        [size_bytes](const std::vector<void*>& inner) {
          if (size_bytes > 0) {
            std::memcpy(inner[1], inner[0], static_cast<size_t>(size_bytes));
          }
          return OkStatus();
        });
  }

 private:
  const std::shared_ptr<State> state_;
};

}  // namespace

std::unique_ptr<Device> CreateShadowDevice(const ShadowOptions& options) {
  AddKernels("shadow", ShadowKernels());
  return std::make_unique<ShadowDevice>(options);
}

}  // namespace shoal
