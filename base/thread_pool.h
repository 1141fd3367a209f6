#ifndef SHOAL_BASE_THREAD_POOL_H_
#define SHOAL_BASE_THREAD_POOL_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "base/function_ref.h"

namespace shoal {

// Splits loops over a fixed set of threads, the caller's among them.
//
// ParallelFor() is called by one thread at a time; it blocks until the loop is
// done. Which thread runs which block is free, so a block must write outputs
// that no other block touches: then the bits do not depend on the threads.
class ThreadPool {
 public:
  // `num_threads` >= 1 counts the caller.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls body(begin, end) for the blocks [0, grain), [grain, 2 grain) ... of
  // [0, count), grain >= 1. Blocks are the same for every number of threads.
  // Loops inside a body run on its own thread.
  void ParallelFor(int64_t count, int64_t grain,
                   FunctionRef<void(int64_t, int64_t)> body);

 private:
  struct Impl;
  int num_threads_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal

#endif  // SHOAL_BASE_THREAD_POOL_H_
