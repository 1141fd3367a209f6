#include "ps/row_index.h"

#include <utility>

#include "base/status.h"

namespace shoal::ps {
namespace {

// Whether buckets hold `count` entries and leave a fifth free.
bool Fits(uint64_t count, uint8_t bucket_bits) {
  return count <= uint64_t{4} << bucket_bits;
}

}  // namespace

RowIndex::~RowIndex() {
  for (const Part& part : parts_) {
    if (part.buckets != nullptr) {
      blocks_.Free(part.buckets, part.bucket_bits);
    }
  }
}

void RowIndex::Put(const Part& part, uint64_t hash, uint64_t id,
                   uint32_t number) {
  const size_t mask = (size_t{1} << part.bucket_bits) - 1;
  size_t at = Home(part, hash);
  while (part.buckets[at].count == kBucketEntries) {
    at = (at + 1) & mask;
  }
  Bucket& bucket = part.buckets[at];
  bucket.ids[bucket.count] = id;
  bucket.numbers[bucket.count] = number;
  ++bucket.count;
}

void RowIndex::Resize(Part& part, uint8_t bucket_bits) {
  const Part old = part;
  part.bucket_bits = bucket_bits;
  part.buckets = static_cast<Bucket*>(blocks_.Allocate(bucket_bits));
  Bucket empty;
  empty.ids.fill(0);
  empty.numbers.fill(kNone);
  empty.count = 0;
  std::fill_n(part.buckets, size_t{1} << bucket_bits, empty);
  if (old.buckets == nullptr) {
    return;
  }
  for (size_t b = 0; b < size_t{1} << old.bucket_bits; ++b) {
    const Bucket& bucket = old.buckets[b];
    for (uint32_t i = 0; i < bucket.count; ++i) {
      Put(part, IdHash(bucket.ids[i]), bucket.ids[i], bucket.numbers[i]);
    }
  }
  blocks_.Free(old.buckets, old.bucket_bits);
}

void RowIndex::Insert(uint64_t hash, uint64_t id, uint32_t number) {
  Part& part = parts_[static_cast<size_t>(PartOf(hash))];
  if (part.buckets == nullptr) {
    Resize(part, 0);
  } else if (!Fits(uint64_t{part.count} + 1, part.bucket_bits)) {
    Resize(part, static_cast<uint8_t>(part.bucket_bits + 1));
  }
  Put(part, hash, id, number);
  ++part.count;
}

void RowIndex::Remove(Bucket& bucket, size_t entry) {
  const uint32_t last = --bucket.count;
  bucket.ids[entry] = bucket.ids[last];
  bucket.numbers[entry] = bucket.numbers[last];
  bucket.numbers[last] = kNone;
}

void RowIndex::Erase(uint64_t hash, uint64_t id) {
  Part& part = parts_[static_cast<size_t>(PartOf(hash))];
  const size_t mask = (size_t{1} << part.bucket_bits) - 1;
  const auto entry_of = [&](const Bucket& bucket) {
    size_t i = 0;
    while (i < bucket.count && bucket.ids[i] != id) {
      ++i;
    }
    return i;
  };
  size_t hole = Home(part, hash);
  while (entry_of(part.buckets[hole]) == part.buckets[hole].count) {
    hole = (hole + 1) & mask;
  }
  bool was_full = part.buckets[hole].count == kBucketEntries;
  Remove(part.buckets[hole], entry_of(part.buckets[hole]));
  --part.count;
  // Who passed over a full bucket would not be found behind one that is not:
  // the next of them moves up, and leaves a hole itself.
  for (size_t at = (hole + 1) & mask; was_full; at = (at + 1) & mask) {
    Bucket& bucket = part.buckets[at];
    const bool last = bucket.count < kBucketEntries;
    size_t i = 0;
    while (i < bucket.count && ((at - Home(part, IdHash(bucket.ids[i]))) &
                                mask) < ((at - hole) & mask)) {
      ++i;
    }
    if (i < bucket.count) {
      Bucket& to = part.buckets[hole];
      to.ids[to.count] = bucket.ids[i];
      to.numbers[to.count] = bucket.numbers[i];
      ++to.count;
      Remove(bucket, i);
      hole = at;
    }
    was_full = !last;
  }
  // Rows that come in the order of their hash and go to disk fill one part
  // after another: what is left of each must not keep the size of all.
  if (part.bucket_bits > 0 &&
      Fits(2 * uint64_t{part.count},
           static_cast<uint8_t>(part.bucket_bits - 1))) {
    Resize(part, static_cast<uint8_t>(part.bucket_bits - 1));
  }
}

void RowIndex::EraseIf(int64_t index,
                       FunctionRef<bool(uint64_t, uint32_t)> gone) {
  std::vector<std::pair<uint64_t, uint32_t>> kept;
  ForEach(index, [&](uint64_t id, uint32_t number) {
    if (!gone(id, number)) {
      kept.emplace_back(id, number);
    }
  });
  Part& part = parts_[static_cast<size_t>(index)];
  if (kept.size() == part.count) {
    return;
  }
  blocks_.Free(part.buckets, part.bucket_bits);
  part = Part();
  if (kept.empty()) {
    return;
  }
  uint8_t bits = 0;
  while (!Fits(kept.size(), bits)) {
    ++bits;
  }
  Resize(part, bits);
  part.count = static_cast<uint32_t>(kept.size());
  for (const auto& [id, number] : kept) {
    Put(part, IdHash(id), id, number);
  }
}

void RowIndex::ForEach(int64_t index,
                       FunctionRef<void(uint64_t, uint32_t)> visit) const {
  const Part& part = parts_[static_cast<size_t>(index)];
  if (part.buckets == nullptr) {
    return;
  }
  for (size_t b = 0; b < size_t{1} << part.bucket_bits; ++b) {
    const Bucket& bucket = part.buckets[b];
    for (uint32_t i = 0; i < bucket.count; ++i) {
      visit(bucket.ids[i], bucket.numbers[i]);
    }
  }
}

}  // namespace shoal::ps
