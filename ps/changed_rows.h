#ifndef SHOAL_PS_CHANGED_ROWS_H_
#define SHOAL_PS_CHANGED_ROWS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace shoal::ps {

// By slot, which rows of a table changed or went between two moments: their
// ids, or that the slot is whole, of which nothing is known. 16 bytes a slot,
// and 8 to 16 an id.
//
// Belongs to the thread of its table.
class ChangedSet {
 public:
  ChangedSet(int slot_bits, bool whole);

  int slot_bits() const { return slot_bits_; }
  bool IsWhole(int64_t slot) const { return At(slot).whole; }
  void MakeWhole(int64_t slot);

  // Adds an id, perhaps once more. False: there is no room for it; see
  // MakeRoom(). A whole slot needs none.
  bool Add(int64_t slot, uint64_t id);
  // For at least one id more, beyond those that are there, each once; unless
  // there would be more than `ids_max` of them, or of bytes() `bytes_max`: then
  // the slot is whole.
  void MakeRoom(int64_t slot, int64_t ids_max, int64_t bytes_max);

  // Those of a slot that is not whole, each once, rising by IdHash(). The first
  // call after an Add() orders them.
  std::span<const uint64_t> In(int64_t slot);
  bool Has(int64_t slot, uint64_t hash);
  // At least as many as In() gives, without ordering them.
  int64_t CountIn(int64_t slot) const { return At(slot).count; }

  // What is in either; whole slots stay whole.
  void Merge(const ChangedSet& other);

  int64_t bytes() const;

 private:
  struct Slot {
    std::unique_ptr<uint64_t[]> ids;
    uint32_t count = 0;
    uint32_t room : 30 = 0;
    bool ordered : 1 = true;
    bool whole : 1 = false;
  };
  static_assert(sizeof(Slot) == 16);

  Slot& At(int64_t slot) { return slots_[static_cast<size_t>(slot)]; }
  const Slot& At(int64_t slot) const {
    return slots_[static_cast<size_t>(slot)];
  }
  static void Order(Slot& slot);
  void Resize(Slot& slot, uint32_t room);

  const int slot_bits_;
  std::vector<Slot> slots_;
  int64_t room_ = 0;  // of all slots, in ids
};

// What incremental checkpoints ask of a table: which rows changed since the
// checkpoint that the next one is based on. A replica marks what it applies
// like the head that saves, and all make the cut of a checkpoint, so whoever
// heads a slot by the next one knows. Where a table does not surely know, its
// slot is whole: before the first cut, when the slot has come from another
// shard, when the base is not one that it has made the cut of, and when the
// marks would take too much room.
//
// A checkpoint that is given up loses no marks: the next one has the base of
// that one, and gets what changed before its cut too.
class ChangedRows {
 public:
  // `bytes_max`: of the marks since the last cut and those between it and the
  // base, together; 0: any.
  ChangedRows(int slot_bits, int64_t bytes_max);

  // The row of `id`, in memory as number `row`, changes; was made; is about to
  // go. False: there is no room for the mark. Then MakeRoom(), and again.
  bool OnChange(int64_t slot, uint64_t id, uint32_t row) {
    return IsMarked(row) || Mark(slot, id, row);
  }
  bool OnInsert(int64_t slot, uint64_t id, uint32_t row) {
    return Mark(slot, id, row);
  }
  // It came from disk, as it was there.
  void OnFetch(uint32_t row) {
    if (IsMarked(row)) {
      marked_[row] = false;
    }
  }
  // A row that is not in memory goes.
  bool OnDropAway(int64_t slot, uint64_t id) { return now_->Add(slot, id); }
  // Of a slot that has `rows`.
  void MakeRoom(int64_t slot, int64_t rows);
  // The slot's rows go or come as a whole.
  void Forget(int64_t slot) { now_->MakeWhole(slot); }

  // The checkpoint of `step` has what the table holds now. Returns what changed
  // since that of `base`; none: that one is to hold all, and all slots are
  // whole. The next cut lets go of it, unless it is held.
  std::shared_ptr<ChangedSet> Cut(int64_t step, std::optional<int64_t> base);

  int64_t bytes() const;

 private:
  bool IsMarked(uint32_t row) const {
    return row < marked_.size() && marked_[row];
  }
  bool Mark(int64_t slot, uint64_t id, uint32_t row);

  const int slot_bits_;
  const int64_t bytes_max_;
  std::vector<bool> marked_;  // by row in memory: its id is in now_
  // Since the last cut, of the checkpoint of `step_`.
  std::unique_ptr<ChangedSet> now_;
  std::optional<int64_t> step_;
  // What that cut returned, since the checkpoint of `base_`.
  std::shared_ptr<ChangedSet> before_;
  std::optional<int64_t> base_;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHANGED_ROWS_H_
