#ifndef SHOAL_PS_SLOTS_H_
#define SHOAL_PS_SLOTS_H_

#include <algorithm>
#include <bit>
#include <cstdint>

#include "base/random.h"

namespace shoal::ps {

// The one hash of an id: its top bits name the slot, the others the place in
// the slot's index. A bijection, so distinct ids have distinct hashes.
constexpr uint64_t IdHash(uint64_t id) {
  return Mix64(id + 0x9e3779b97f4a7c15ULL);
}

constexpr int64_t SlotOfHash(uint64_t hash, int slot_bits) {
  return static_cast<int64_t>(hash >> (64 - slot_bits));
}

// Fixed for a job's life: enough slots that shards can be filled evenly.
constexpr int SlotBitsFor(int shards_max) {
  const auto wanted = static_cast<uint64_t>(64) *
                      static_cast<uint64_t>(std::max(shards_max, 1));
  return std::max(10, static_cast<int>(std::bit_width(wanted - 1)));
}

// The slots first, first + stride, ... up to last, of 2^bits.
struct SlotSet {
  int bits = 0;
  int64_t first = 0;
  int64_t last = 0;
  int64_t stride = 1;

  constexpr bool Contains(int64_t slot) const {
    return slot >= first && slot <= last && (slot - first) % stride == 0;
  }
  // Whether a slot is in both; sets of different `bits` may always meet.
  constexpr bool Meets(const SlotSet& other) const {
    if (bits != other.bits) {
      return true;
    }
    for (int64_t slot = first; slot <= last; slot += stride) {
      if (other.Contains(slot)) {
        return true;
      }
    }
    return false;
  }
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_SLOTS_H_
