#include "base/thread_pool.h"

#include <atomic>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"

namespace shoal {

namespace {
// Set while a thread runs a block, so that an inner loop does not wait for the
// pool that it occupies.
thread_local bool inside_block = false;
}  // namespace

struct ThreadPool::Impl {
  Mutex mutex;
  CondVar work;
  CondVar done;
  uint64_t loop SHOAL_GUARDED_BY(mutex) = 0;
  int running SHOAL_GUARDED_BY(mutex) = 0;
  bool stop SHOAL_GUARDED_BY(mutex) = false;

  // Of the loop under way; written under the mutex while no thread runs it.
  const FunctionRef<void(int64_t, int64_t)>* body = nullptr;
  int64_t count = 0;
  int64_t grain = 1;
  std::atomic<int64_t> next{0};

  std::vector<std::thread> threads;

  void RunBlocks() {
    inside_block = true;
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) {
        break;
      }
      (*body)(begin, begin + grain < count ? begin + grain : count);
    }
    inside_block = false;
  }

  void Main() {
    uint64_t seen = 0;
    for (;;) {
      {
        MutexLock lock(mutex);
        while (loop == seen && !stop) {
          work.Wait(mutex);
        }
        if (stop) {
          return;
        }
        seen = loop;
      }
      RunBlocks();
      MutexLock lock(mutex);
      if (--running == 0) {
        done.NotifyOne();
      }
    }
  }
};

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(num_threads), impl_(std::make_unique<Impl>()) {
  SHOAL_CHECK(num_threads >= 1);
  for (int i = 1; i < num_threads; ++i) {
    impl_->threads.emplace_back([this] { impl_->Main(); });
  }
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->work.NotifyAll();
  for (std::thread& thread : impl_->threads) {
    thread.join();
  }
}

void ThreadPool::ParallelFor(int64_t count, int64_t grain,
                             FunctionRef<void(int64_t, int64_t)> body) {
  SHOAL_CHECK(grain >= 1);
  if (count <= 0) {
    return;
  }
  if (num_threads_ == 1 || count <= grain || inside_block) {
    for (int64_t begin = 0; begin < count; begin += grain) {
      body(begin, begin + grain < count ? begin + grain : count);
    }
    return;
  }
  {
    MutexLock lock(impl_->mutex);
    impl_->body = &body;
    impl_->count = count;
    impl_->grain = grain;
    impl_->next.store(0, std::memory_order_relaxed);
    impl_->running = num_threads_ - 1;
    ++impl_->loop;
  }
  impl_->work.NotifyAll();
  impl_->RunBlocks();
  MutexLock lock(impl_->mutex);
  while (impl_->running > 0) {
    impl_->done.Wait(impl_->mutex);
  }
}

}  // namespace shoal
