#include "tests/cuda/shim/fibers.h"

#include <ucontext.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace shim {

Index3 threadIdx;
Index3 blockIdx;
Index3 blockDim;
Index3 gridDim;

namespace {

constexpr size_t kStackBytes = size_t{256} << 10;
constexpr int kWarp = 32;

// A stack that runs threads one after the other until one has to wait, whose
// own it then is until that thread ends.
struct Fiber {
  Fiber()
      : stack(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (stack == MAP_FAILED) {
      std::abort();
    }
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() {
#if defined(__SANITIZE_ADDRESS__)
    // Whoever gets this memory next must find no traces of frames.
    ASAN_UNPOISON_MEMORY_REGION(stack, kStackBytes);
#endif
    munmap(stack, kStackBytes);
  }

  ucontext_t context = {};
  void* stack;
  void* fake_stack = nullptr;  // of AddressSanitizer
};

enum class State { kNotStarted, kRunning, kAtBarrier, kAtShuffle, kDone };

struct Thread {
  State state = State::kNotStarted;
  Fiber* fiber = nullptr;
};

// What the lanes of a warp show each other; two, since one lane may be a
// shuffle ahead of another.
struct Warp {
  std::array<std::array<float, kWarp>, 2> values = {};
  std::array<int, kWarp> num_shuffles = {};
};

class Block {
 public:
  // Empty, or what went wrong. `launch`: that of its grid, so that one block
  // has both orders in turn.
  std::string Run(int64_t launch, int64_t number, int num_threads,
                  const std::function<void()>& body) {
    blockIdx = {static_cast<unsigned>(number), 0, 0};
    falling_ = (launch + number) % 2 != 0;
    body_ = &body;
    num_started_ = 0;
    threads_.assign(static_cast<size_t>(num_threads), {});
    warps_.assign(static_cast<size_t>((num_threads + kWarp - 1) / kWarp), {});
    while (num_started_ < num_threads) {
      Resume(IdleFiber());
    }
    while (true) {
      if (const std::string error = OpenBarriers(); !error.empty()) {
        // The stacks hold frames that will never end.
        fibers_.clear();
        idle_.clear();
        return error;
      }
      bool all_done = true;
      for (int i = 0; i < num_threads; ++i) {
        Thread& thread = threads_[static_cast<size_t>(InOrder(i))];
        if (thread.state == State::kRunning) {
          current_ = InOrder(i);
          threadIdx.x = static_cast<unsigned>(current_);
          Resume(thread.fiber);
        }
        all_done = all_done && thread.state == State::kDone;
      }
      if (all_done) {
        return "";
      }
    }
  }

  void Wait(State state) {
    Thread& thread = threads_[static_cast<size_t>(current_)];
    thread.state = state;
    thread.fiber = running_;
    SwitchToScheduler();
  }

  float ShuffleXor(float value, int lane_mask, int width) {
    const int lane = current_ % kWarp;
    Warp& warp = warps_[static_cast<size_t>(current_ / kWarp)];
    const int turn = warp.num_shuffles[static_cast<size_t>(lane)]++ % 2;
    auto& values = warp.values[static_cast<size_t>(turn)];
    values[static_cast<size_t>(lane)] = value;
    Wait(State::kAtShuffle);
    const int other = lane ^ lane_mask;
    // Beyond the group of lanes one keeps one's own.
    return other / width == lane / width ? values[static_cast<size_t>(other)]
                                         : value;
  }

 private:
  int InOrder(int i) const {
    return falling_ ? static_cast<int>(threads_.size()) - 1 - i : i;
  }

  Fiber* IdleFiber() {
    if (idle_.empty()) {
      Fiber* const fiber =
          fibers_.emplace_back(std::make_unique<Fiber>()).get();
      getcontext(&fiber->context);
      fiber->context.uc_stack.ss_sp = fiber->stack;
      fiber->context.uc_stack.ss_size = kStackBytes;
      fiber->context.uc_link = nullptr;
      makecontext(&fiber->context, &Block::Main, 0);
      idle_.push_back(fiber);
    }
    Fiber* const fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }

  static void Main();

  void RunThreads() {
    FinishSwitch(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
    while (true) {
      while (num_started_ < static_cast<int>(threads_.size())) {
        current_ = InOrder(num_started_++);
        threadIdx = {static_cast<unsigned>(current_), 0, 0};
        const int mine = current_;
        threads_[static_cast<size_t>(mine)].state = State::kRunning;
        (*body_)();
        threads_[static_cast<size_t>(mine)].state = State::kDone;
      }
      idle_.push_back(running_);
      SwitchToScheduler();
    }
  }

  // Lets go on whoever waits for nobody any more.
  std::string OpenBarriers() {
    const auto count = [&](size_t begin, size_t end, State state) {
      int n = 0;
      for (size_t i = begin; i < end; ++i) {
        n += threads_[i].state == state ? 1 : 0;
      }
      return n;
    };
    const auto release = [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) {
        threads_[i].state = State::kRunning;
      }
    };
    const size_t n = threads_.size();
    const int at_barrier = count(0, n, State::kAtBarrier);
    const int done = count(0, n, State::kDone);
    if (at_barrier == static_cast<int>(n)) {
      release(0, n);
      return "";
    }
    bool opened = false;
    for (size_t first = 0; first + kWarp <= n; first += kWarp) {
      if (count(first, first + kWarp, State::kAtShuffle) == kWarp) {
        release(first, first + kWarp);
        opened = true;
      }
    }
    if (opened || done == static_cast<int>(n)) {
      return "";
    }
    return "block " + std::to_string(blockIdx.x) + ": " +
           std::to_string(at_barrier) + " threads wait in __syncthreads and " +
           std::to_string(count(0, n, State::kAtShuffle)) +
           " in a shuffle for others that never come, " + std::to_string(done) +
           " have ended";
  }

  void Resume(Fiber* fiber) {
    running_ = fiber;
    StartSwitch(&fake_stack_, fiber->stack, kStackBytes);
    swapcontext(&scheduler_, &fiber->context);
    FinishSwitch(fake_stack_, nullptr, nullptr);
  }

  void SwitchToScheduler() {
    Fiber* const fiber = running_;
    StartSwitch(&fiber->fake_stack, scheduler_stack_, scheduler_stack_bytes_);
    swapcontext(&fiber->context, &scheduler_);
    FinishSwitch(fiber->fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
  }

#if defined(__SANITIZE_ADDRESS__)
  static void StartSwitch(void** fake_stack, const void* stack, size_t bytes) {
    __sanitizer_start_switch_fiber(fake_stack, stack, bytes);
  }
  static void FinishSwitch(void* fake_stack, const void** from, size_t* bytes) {
    __sanitizer_finish_switch_fiber(fake_stack, from, bytes);
  }
#else
  static void StartSwitch(void** /*fake_stack*/, const void* /*stack*/,
                          size_t /*bytes*/) {}
  static void FinishSwitch(void* /*fake_stack*/, const void** /*from*/,
                           size_t* /*bytes*/) {}
#endif

  const std::function<void()>* body_ = nullptr;
  bool falling_ = false;
  int num_started_ = 0;
  int current_ = 0;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  Fiber* running_ = nullptr;
  ucontext_t scheduler_ = {};
  void* fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
};

Block* g_block = nullptr;
std::mutex g_mutex;

void Block::Main() { g_block->RunThreads(); }

}  // namespace

void SyncThreads() { g_block->Wait(State::kAtBarrier); }

float ShuffleXor(unsigned mask, float value, int lane_mask, int width) {
  if (mask != 0xffffffffU) {
    std::abort();  // Nothing here shuffles within a part of a warp.
  }
  return g_block->ShuffleXor(value, lane_mask, width);
}

std::string RunGrid(const std::string& name, int64_t blocks, int threads,
                    const std::function<void()>& body) {
  const std::lock_guard lock(g_mutex);
  static Block block;
  static int64_t launch = 0;
  ++launch;
  g_block = &block;
  gridDim = {static_cast<unsigned>(blocks), 1, 1};
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  for (int64_t b = 0; b < blocks; ++b) {
    if (const std::string error = block.Run(launch, b, threads, body);
        !error.empty()) {
      return name + ": " + error;
    }
  }
  return "";
}

}  // namespace shim
