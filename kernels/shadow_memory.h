#ifndef SHOAL_KERNELS_SHADOW_MEMORY_H_
#define SHOAL_KERNELS_SHADOW_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace shoal {

// How much of each queue's work is known to be done, by number of the queue.
class VectorClock {
 public:
  uint64_t of(size_t queue) const {
    return queue < done_.size() ? done_[queue] : 0;
  }
  void Set(size_t queue, uint64_t count);
  void Join(const VectorClock& other);

 private:
  std::vector<uint64_t> done_;
};

// A piece of work: the `count`-th of its queue, and all that is known to be
// done before it begins.
struct ShadowWork {
  size_t queue = 0;
  uint64_t count = 0;
  std::string what;  // "MatMul", for errors
  VectorClock before;
};

// What the shadow device knows of one piece of memory: who read and wrote which
// bytes last. All errors are kFailedPrecondition.
class ShadowRanges {
 public:
  // `written`: whether the memory has contents from the start.
  ShadowRanges(int64_t size_bytes, bool written);

  // Errors: bytes that nothing wrote; a write that `work` is not ordered after.
  Status Read(int64_t begin, int64_t end, const ShadowWork& work);
  // Errors: a read or write that `work` is not ordered after.
  Status Write(int64_t begin, int64_t end, const ShadowWork& work);
  // Errors: work that is not done as far as `done` knows.
  Status CheckIdle(const VectorClock& done) const;

 private:
  struct Access {
    size_t queue = 0;
    uint64_t count = 0;
    std::string what;
  };
  struct Range {
    int64_t end = 0;
    bool written = false;
    std::optional<Access> write;
    std::vector<Access> reads;  // the last of each queue
  };
  using Ranges = std::map<int64_t, Range>;  // by begin; they cover everything

  Ranges::iterator SplitAt(int64_t position);

  Ranges ranges_;
};

// Memory at an address that can be taken from the host while the device goes on
// using it at another.
class ShadowPages {
 public:
  enum class HostMay : uint8_t { kNothing, kRead, kReadAndWrite };

  // `for_device`: the host may never touch it, and the address stays reserved
  // for good. Errors: kResourceExhausted.
  static StatusOr<std::unique_ptr<ShadowPages>> Create(int64_t size_bytes,
                                                       bool for_device);
  ~ShadowPages();
  ShadowPages(const ShadowPages&) = delete;
  ShadowPages& operator=(const ShadowPages&) = delete;

  std::byte* address() const { return address_; }
  std::byte* inner() const { return inner_; }  // where the device works
  int64_t size_bytes() const { return size_bytes_; }
  void Allow(HostMay what);

 private:
  ShadowPages() = default;

  std::byte* address_ = nullptr;
  std::byte* inner_ = nullptr;
  int64_t size_bytes_ = 0;
  size_t mapped_bytes_ = 0;
  bool for_device_ = false;
  HostMay allowed_ = HostMay::kReadAndWrite;
};

}  // namespace shoal

#endif  // SHOAL_KERNELS_SHADOW_MEMORY_H_
