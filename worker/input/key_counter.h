#ifndef SHOAL_WORKER_INPUT_KEY_COUNTER_H_
#define SHOAL_WORKER_INPUT_KEY_COUNTER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace shoal::worker {

// Counts of 64-bit keys that are hashes already; also used as a set. 16 bytes
// a slot, at most half of them taken. Reading is thread-safe.
class KeyCounter {
 public:
  KeyCounter() = default;

  void Add(uint64_t key, uint64_t count = 1);
  uint64_t Count(uint64_t key) const;
  bool Contains(uint64_t key) const { return Count(key) > 0; }
  size_t size() const { return size_; }

  // Keys counted `min_count` times or more, rising.
  std::vector<uint64_t> KeysWithCount(uint64_t min_count) const;

 private:
  struct Slot {
    uint64_t key = 0;
    uint64_t count = 0;  // 0: free
  };
  Slot* Find(uint64_t key);
  void Grow();

  std::vector<Slot> slots_;  // a power of two
  size_t size_ = 0;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_KEY_COUNTER_H_
