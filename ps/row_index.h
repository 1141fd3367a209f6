#ifndef SHOAL_PS_ROW_INDEX_H_
#define SHOAL_PS_ROW_INDEX_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/function_ref.h"
#include "ps/huge_blocks.h"
#include "ps/slots.h"

namespace shoal::ps {

// A map from ids to numbers below 2^32 - 1, divided by the top bits of
// IdHash() into 2^bits parts.
//
// A part is an array of buckets of one cache line, five entries each, with
// linear probing over whole buckets: most look-ups read one line, and without a
// branch that depends on the place in it. Positions rise with the hash. A part
// grows alone, to twice its size at 80 % full, in memory that the others left:
// at no moment is more than one part's entries there twice.
//
// Thread-compatible.
class RowIndex {
 public:
  static constexpr uint32_t kNone = 0xffffffffU;

  explicit RowIndex(int bits) : bits_(bits), parts_(size_t{1} << bits) {}
  ~RowIndex();
  RowIndex(const RowIndex&) = delete;
  RowIndex& operator=(const RowIndex&) = delete;

  int64_t num_parts() const { return static_cast<int64_t>(parts_.size()); }
  int64_t PartOf(uint64_t hash) const { return SlotOfHash(hash, bits_); }
  uint64_t FirstHashOf(int64_t part) const {
    return static_cast<uint64_t>(part) << (64 - bits_);
  }
  uint64_t LastHashOf(int64_t part) const {
    return FirstHashOf(part) | ~uint64_t{0} >> bits_;
  }
  int64_t count(int64_t part) const {
    return parts_[static_cast<size_t>(part)].count;
  }
  int64_t bytes() const {
    return static_cast<int64_t>(parts_.size() * sizeof(Part)) + blocks_.bytes();
  }

  // `hash` is IdHash(id) in all that follows. (Always inlined: g++ takes a
  // function that only fetches ahead for one without an effect, and drops the
  // call.)
  [[gnu::always_inline]] void Prefetch(uint64_t hash) const {
    const Part& part = PartAt(hash);
    if (part.buckets != nullptr) {
      __builtin_prefetch(&part.buckets[Home(part, hash)]);
    }
  }

  // The number of `id`, or kNone.
  uint32_t Find(uint64_t hash, uint64_t id) const {
    const Part& part = PartAt(hash);
    if (part.buckets == nullptr) {
      return kNone;
    }
    const size_t mask = (size_t{1} << part.bucket_bits) - 1;
    for (size_t at = Home(part, hash);; at = (at + 1) & mask) {
      const Bucket& bucket = part.buckets[at];
      // Without a branch per entry: which of them it is can't be predicted.
      uint32_t found = kNone;
#pragma GCC unroll 5
      for (size_t i = 0; i < kBucketEntries; ++i) {
        found &=
            bucket.numbers[i] | -static_cast<uint32_t>(bucket.ids[i] != id);
      }
      if (found != kNone || bucket.count < kBucketEntries) {
        return found;
      }
    }
  }

  // Adds an id that is not there.
  void Insert(uint64_t hash, uint64_t id, uint32_t number);

  // Removes an id that is there. A part that is mostly empty shrinks.
  void Erase(uint64_t hash, uint64_t id);

  // Removes the entries of a part for which `gone(id, number)`.
  void EraseIf(int64_t part, FunctionRef<bool(uint64_t, uint32_t)> gone);

  // Calls visit(id, number) for a part's entries, in no order that means
  // anything.
  void ForEach(int64_t part, FunctionRef<void(uint64_t, uint32_t)> visit) const;

 private:
  static constexpr size_t kBucketEntries = 5;
  struct alignas(64) Bucket {
    std::array<uint64_t, kBucketEntries> ids;
    std::array<uint32_t, kBucketEntries> numbers;  // kNone from `count` on
    uint32_t count;
  };
  static_assert(sizeof(Bucket) == 64);
  struct Part {
    Bucket* buckets = nullptr;
    uint32_t count = 0;
    uint8_t bucket_bits = 0;
  };

  const Part& PartAt(uint64_t hash) const {
    return parts_[static_cast<size_t>(PartOf(hash))];
  }
  // The bits after those that name the part. Shifted twice, since no bits at
  // all are wanted of a part of one bucket.
  size_t Home(const Part& part, uint64_t hash) const {
    return ((hash << bits_) >> 1) >> (63 - part.bucket_bits);
  }
  void Resize(Part& part, uint8_t bucket_bits);
  void Put(const Part& part, uint64_t hash, uint64_t id, uint32_t number);
  static void Remove(Bucket& bucket, size_t entry);

  int bits_;
  std::vector<Part> parts_;
  HugeBlocks blocks_;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_ROW_INDEX_H_
