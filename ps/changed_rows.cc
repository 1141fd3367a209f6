#include "ps/changed_rows.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "ps/slots.h"

namespace shoal::ps {
namespace {

constexpr uint32_t kRoomMin = 4;
constexpr uint32_t kRoomMax = (uint32_t{1} << 30) - 1;

bool ByHash(uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); }

}  // namespace

ChangedSet::ChangedSet(int slot_bits, bool whole)
    : slot_bits_(slot_bits), slots_(size_t{1} << slot_bits) {
  for (Slot& slot : slots_) {
    slot.whole = whole;
  }
}

void ChangedSet::MakeWhole(int64_t slot) {
  Slot& at = At(slot);
  room_ -= at.room;
  at = Slot();
  at.whole = true;
}

bool ChangedSet::Add(int64_t slot, uint64_t id) {
  Slot& at = At(slot);
  if (at.whole) {
    return true;
  }
  if (at.count == at.room) {
    return false;
  }
  at.ids[at.count++] = id;
  at.ordered = false;
  return true;
}

void ChangedSet::MakeRoom(int64_t slot, int64_t ids_max, int64_t bytes_max) {
  Slot& at = At(slot);
  if (at.whole) {
    return;
  }
  // An id may be there again, since its row was on disk meanwhile or gone.
  Order(at);
  if (at.count + at.count / 4 < at.room) {
    return;
  }
  const uint32_t room = std::max(kRoomMin, at.count + at.count / 2);
  if (at.count + 1 > ids_max || room > kRoomMax ||
      bytes() + int64_t{room} * 8 > bytes_max) {
    MakeWhole(slot);
    return;
  }
  Resize(at, room);
}

void ChangedSet::Resize(Slot& slot, uint32_t room) {
  SHOAL_CHECK(room >= slot.count && room <= kRoomMax);
  auto ids = std::make_unique_for_overwrite<uint64_t[]>(room);
  std::copy_n(slot.ids.get(), slot.count, ids.get());
  slot.ids = std::move(ids);
  room_ += int64_t{room} - int64_t{slot.room};
  slot.room = room & kRoomMax;
}

void ChangedSet::Order(Slot& slot) {
  if (!slot.ordered) {
    uint64_t* const begin = slot.ids.get();
    std::sort(begin, begin + slot.count, ByHash);
    slot.count =
        static_cast<uint32_t>(std::unique(begin, begin + slot.count) - begin);
    slot.ordered = true;
  }
}

std::span<const uint64_t> ChangedSet::In(int64_t slot) {
  Slot& at = At(slot);
  Order(at);
  return {at.ids.get(), at.count};
}

bool ChangedSet::Has(int64_t slot, uint64_t hash) {
  const std::span<const uint64_t> ids = In(slot);
  const auto at = std::lower_bound(
      ids.begin(), ids.end(), hash,
      [](uint64_t id, uint64_t wanted) { return IdHash(id) < wanted; });
  return at != ids.end() && IdHash(*at) == hash;
}

void ChangedSet::Merge(const ChangedSet& other) {
  SHOAL_CHECK(slot_bits_ == other.slot_bits_);
  for (size_t s = 0; s < slots_.size(); ++s) {
    const Slot& from = other.slots_[s];
    Slot& to = slots_[s];
    if (from.whole || uint64_t{to.count} + from.count > kRoomMax) {
      MakeWhole(static_cast<int64_t>(s));
    }
    if (to.whole || from.count == 0) {
      continue;
    }
    Resize(to, to.count + from.count);
    std::copy_n(from.ids.get(), from.count, to.ids.get() + to.count);
    to.count += from.count;
    to.ordered = false;
  }
}

int64_t ChangedSet::bytes() const {
  return static_cast<int64_t>(slots_.size() * sizeof(Slot)) + room_ * 8;
}

// ---------------------------------------------------------------------------

ChangedRows::ChangedRows(int slot_bits, int64_t bytes_max)
    : slot_bits_(slot_bits),
      bytes_max_(bytes_max),
      now_(std::make_unique<ChangedSet>(slot_bits, /*whole=*/true)) {}

bool ChangedRows::Mark(int64_t slot, uint64_t id, uint32_t row) {
  if (now_->IsWhole(slot)) {
    return true;
  }
  if (!now_->Add(slot, id)) {
    return false;
  }
  if (row >= marked_.size()) {
    marked_.resize(std::max<size_t>(row + 1, marked_.size() * 3 / 2));
  }
  marked_[row] = true;
  return true;
}

void ChangedRows::MakeRoom(int64_t slot, int64_t rows) {
  // Beyond three quarters of a slot its rows are not many more to write.
  constexpr int64_t kAnyIds = 16;
  const int64_t held = bytes() - now_->bytes();
  now_->MakeRoom(slot, std::max(kAnyIds, rows - rows / 4),
                 bytes_max_ == 0 ? INT64_MAX : bytes_max_ - held);
}

std::shared_ptr<ChangedSet> ChangedRows::Cut(int64_t step,
                                             std::optional<int64_t> base) {
  // A request that comes after one of a later step is late: what it asks for
  // is not what it gets, so nothing is based on that.
  const bool is_late = step_.has_value() && step < *step_;
  if (!base.has_value() || is_late || (base != step_ && base != base_)) {
    now_ = std::make_unique<ChangedSet>(slot_bits_, /*whole=*/true);
  } else if (base != step_) {
    // The checkpoint of step_ was given up.
    now_->Merge(*before_);
  }
  before_ = std::move(now_);
  base_ = is_late ? std::nullopt : base;
  step_ = is_late ? std::nullopt : std::optional(step);
  now_ = std::make_unique<ChangedSet>(slot_bits_, /*whole=*/false);
  marked_.assign(marked_.size(), false);
  return before_;
}

int64_t ChangedRows::bytes() const {
  return now_->bytes() + (before_ == nullptr ? 0 : before_->bytes()) +
         static_cast<int64_t>(marked_.capacity() / 8);
}

}  // namespace shoal::ps
