#ifndef SHOAL_BASE_MUTEX_H_
#define SHOAL_BASE_MUTEX_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/time.h"

#if defined(__clang__)
#define SHOAL_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define SHOAL_THREAD_ANNOTATION(x)
#endif
#define SHOAL_CAPABILITY(x) SHOAL_THREAD_ANNOTATION(capability(x))
#define SHOAL_SCOPED_CAPABILITY SHOAL_THREAD_ANNOTATION(scoped_lockable)
#define SHOAL_GUARDED_BY(x) SHOAL_THREAD_ANNOTATION(guarded_by(x))
#define SHOAL_REQUIRES(...) \
  SHOAL_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define SHOAL_ACQUIRE(...) \
  SHOAL_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define SHOAL_RELEASE(...) \
  SHOAL_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define SHOAL_NO_THREAD_SAFETY_ANALYSIS \
  SHOAL_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace shoal {

// std::mutex that clang's thread-safety analysis understands.
class SHOAL_CAPABILITY("mutex") Mutex {
 public:
  void lock() SHOAL_ACQUIRE() { mutex_.lock(); }
  void unlock() SHOAL_RELEASE() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class SHOAL_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) SHOAL_ACQUIRE(mutex) : mutex_(mutex) {
    mutex_.lock();
  }
  ~MutexLock() SHOAL_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits release and take again the mutex that the caller holds. Spurious
// wake-ups happen: wait in a loop.
class CondVar {
 public:
  void Wait(Mutex& mutex)
      SHOAL_REQUIRES(mutex) SHOAL_NO_THREAD_SAFETY_ANALYSIS {
    cv_.wait(mutex);
  }
  // False when `timeout` passed.
  bool WaitFor(Mutex& mutex, Duration timeout)
      SHOAL_REQUIRES(mutex) SHOAL_NO_THREAD_SAFETY_ANALYSIS {
    return cv_.wait_for(mutex, timeout) == std::cv_status::no_timeout;
  }
  void NotifyOne() { cv_.notify_one(); }
  void NotifyAll() { cv_.notify_all(); }

 private:
  std::condition_variable_any cv_;
};

}  // namespace shoal

#endif  // SHOAL_BASE_MUTEX_H_
