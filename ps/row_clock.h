#ifndef SHOAL_PS_ROW_CLOCK_H_
#define SHOAL_PS_ROW_CLOCK_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace shoal::ps {

// Of the rows that a table has in memory: whose they are, what is to be known
// before one leaves, and which leave first, by second chance: a hand goes round
// over the rows, passes over those used since it came by, once, and takes the
// others. That is close to the least recently used, for a byte a row.
//
// Thread-compatible.
class RowClock {
 public:
  using Marks = uint8_t;
  static constexpr Marks kHere = 1;
  static constexpr Marks kUsed = 2;     // since the hand came by
  static constexpr Marks kPinned = 4;   // may not leave now
  static constexpr Marks kDirty = 8;    // has changed since it came from disk
  static constexpr Marks kOnDisk = 16;  // there is a copy there, maybe stale

  // What it takes for each row.
  static constexpr int64_t kRowBytes = sizeof(uint64_t) + sizeof(Marks);

  void Put(uint32_t row, uint64_t id, Marks marks) {
    if (row >= marks_.size()) {
      marks_.resize(row + size_t{1});
      ids_.resize(row + size_t{1});
    }
    ids_[row] = id;
    marks_[row] = marks | kHere;
  }
  void Remove(uint32_t row) { marks_[row] = 0; }
  void Add(uint32_t row, Marks marks) { marks_[row] |= marks; }
  void Clear(uint32_t row, Marks marks) {
    marks_[row] &= static_cast<Marks>(~marks);
  }
  bool Has(uint32_t row, Marks mark) const { return (marks_[row] & mark) != 0; }
  uint64_t id(uint32_t row) const { return ids_[row]; }

  // Up to n rows that are to leave, pinned. Fewer only if there are no more
  // that are not pinned.
  std::vector<uint32_t> Choose(size_t n);

  // Without this growing beyond `rows` moves what is there.
  void Reserve(size_t rows) {
    marks_.reserve(rows);
    ids_.reserve(rows);
  }
  int64_t bytes() const {
    return static_cast<int64_t>(marks_.size()) * kRowBytes;
  }

 private:
  std::vector<Marks> marks_;
  std::vector<uint64_t> ids_;
  size_t hand_ = 0;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_ROW_CLOCK_H_
