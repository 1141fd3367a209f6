#include "worker/input/key_counter.h"

#include <algorithm>
#include <utility>

namespace shoal::worker {
namespace {

constexpr size_t kFirstSlots = 64;

}  // namespace

KeyCounter::Slot* KeyCounter::Find(uint64_t key) {
  const size_t mask = slots_.size() - 1;
  size_t at = static_cast<size_t>(key) & mask;
  while (slots_[at].count > 0 && slots_[at].key != key) {
    at = (at + 1) & mask;
  }
  return &slots_[at];
}

void KeyCounter::Grow() {
  std::vector<Slot> old = std::move(slots_);
  slots_.assign(std::max(kFirstSlots, old.size() * 2), Slot{});
  for (const Slot& slot : old) {
    if (slot.count > 0) {
      *Find(slot.key) = slot;
    }
  }
}

void KeyCounter::Add(uint64_t key, uint64_t count) {
  if (count == 0) {
    return;
  }
  if (size_ * 2 >= slots_.size()) {
    Grow();
  }
  Slot* slot = Find(key);
  size_ += slot->count == 0 ? 1 : 0;
  slot->key = key;
  slot->count += count;
}

uint64_t KeyCounter::Count(uint64_t key) const {
  if (slots_.empty()) {
    return 0;
  }
  return const_cast<KeyCounter*>(this)->Find(key)->count;
}

std::vector<uint64_t> KeyCounter::KeysWithCount(uint64_t min_count) const {
  std::vector<uint64_t> keys;
  for (const Slot& slot : slots_) {
    if (slot.count > 0 && slot.count >= min_count) {
      keys.push_back(slot.key);
    }
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

}  // namespace shoal::worker
