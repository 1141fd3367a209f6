#include "ps/table_snapshot.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/status.h"
#include "ps/changed_rows.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"

namespace shoal::ps {
namespace {

constexpr uint32_t kBlockRows = 1024;
// How far ahead of its visit a row is fetched.
constexpr size_t kAhead = 16;

}  // namespace

TableSnapshot::TableSnapshot(SparseTable& table, const std::vector<bool>* slots,
                             std::shared_ptr<ChangedSet> changed)
    : table_(table),
      slots_(slots),
      changed_(std::move(changed)),
      row_size_(table.row_size()),
      kept_(std::countr_zero(static_cast<uint64_t>(table.index_.num_parts()))) {
  SHOAL_CHECK(table_.snapshot_ == nullptr);
  table_.snapshot_ = this;
}

TableSnapshot::~TableSnapshot() { table_.snapshot_ = nullptr; }

int64_t TableSnapshot::kept_bytes() const {
  return kept_.bytes() + static_cast<int64_t>(kept_rows_.size() * kBlockRows *
                                              row_size_ * sizeof(float));
}

bool TableSnapshot::Covers(int64_t part) const {
  if (part < part_) {
    return false;
  }
  return slots_ == nullptr ||
         (*slots_)[static_cast<size_t>(part / table_.parts_per_slot())];
}

bool TableSnapshot::IsOf(int64_t part, uint64_t hash) const {
  if (!Covers(part)) {
    return false;
  }
  const int64_t slot = part / table_.parts_per_slot();
  return changed_ == nullptr || changed_->IsWhole(slot) ||
         changed_->Has(slot, hash);
}

void TableSnapshot::BeforeChange(uint64_t hash, uint64_t id, const float* row) {
  if (!IsOf(kept_.PartOf(hash), hash) ||
      kept_.Find(hash, id) != RowIndex::kNone) {
    return;
  }
  SHOAL_CHECK(num_kept_ < kAbsent);
  const uint32_t number = num_kept_++;
  if (number / kBlockRows == kept_rows_.size()) {
    kept_rows_.push_back(std::make_unique_for_overwrite<float[]>(
        size_t{kBlockRows} * row_size_));
  }
  std::copy_n(row, row_size_, KeptRow(number));
  kept_.Insert(hash, id, number);
}

void TableSnapshot::BeforeInsert(uint64_t hash, uint64_t id) {
  if (IsOf(kept_.PartOf(hash), hash) &&
      kept_.Find(hash, id) == RowIndex::kNone) {
    kept_.Insert(hash, id, kAbsent);
  }
}

void TableSnapshot::BeforeErase(int64_t slot) {
  const int64_t parts = table_.parts_per_slot();
  for (int64_t part = slot * parts; part < (slot + 1) * parts; ++part) {
    if (!Covers(part)) {
      continue;
    }
    table_.index_.ForEach(part, [&](uint64_t id, uint32_t row) {
      BeforeChange(IdHash(id), id, table_.RowAt(row));
    });
    table_.ForEachAway(part, [&](uint64_t id, const float* row) {
      BeforeChange(IdHash(id), id, row);
    });
  }
}

float* TableSnapshot::KeptRow(uint32_t number) const {
  return kept_rows_[number / kBlockRows].get() +
         size_t{number % kBlockRows} * row_size_;
}

void TableSnapshot::Add(uint64_t id, const float* row, uint32_t number) {
  if (table_.spills()) {
    number = static_cast<uint32_t>(copies_.size() / row_size_);
    copies_.insert(copies_.end(), row, row + row_size_);
  }
  pending_.push_back({IdHash(id), id, number});
}

bool TableSnapshot::Gather() {
  pending_.clear();
  copies_.clear();
  at_ = 0;
  const int64_t parts = kept_.num_parts();
  while (++part_ < parts) {
    if (!Covers(part_)) {
      continue;
    }
    const int64_t slot = part_ / table_.parts_per_slot();
    if (changed_ == nullptr || changed_->IsWhole(slot)) {
      GatherAll();
    } else {
      GatherChanged(slot);
    }
    if (!pending_.empty()) {
      std::sort(
          pending_.begin(), pending_.end(),
          [](const Pending& a, const Pending& b) { return a.hash < b.hash; });
      return true;
    }
  }
  return false;
}

void TableSnapshot::GatherAll() {
  table_.index_.ForEach(part_, [&](uint64_t id, uint32_t row) {
    if (kept_.Find(IdHash(id), id) == RowIndex::kNone) {
      Add(id, table_.RowAt(row), row);
    }
  });
  table_.ForEachAway(part_, [&](uint64_t id, const float* row) {
    if (kept_.Find(IdHash(id), id) == RowIndex::kNone) {
      Add(id, row, 0);
    }
  });
  kept_.ForEach(part_, [&](uint64_t id, uint32_t number) {
    if (number != kAbsent) {
      Add(id, KeptRow(number), 0);
    }
  });
}

void TableSnapshot::GatherChanged(int64_t slot) {
  std::vector<uint64_t> elsewhere;  // on disk, or gone
  const std::span<const uint64_t> ids = changed_->In(slot);
  auto at = std::lower_bound(
      ids.begin(), ids.end(), kept_.FirstHashOf(part_),
      [](uint64_t id, uint64_t hash) { return IdHash(id) < hash; });
  for (; at != ids.end() && kept_.PartOf(IdHash(*at)) == part_; ++at) {
    const uint64_t id = *at;
    const uint64_t hash = IdHash(id);
    const uint32_t kept = kept_.Find(hash, id);
    const uint32_t row = table_.index_.Find(hash, id);
    if (kept == kAbsent) {
      pending_.push_back({hash, id, kAbsent});
    } else if (kept != RowIndex::kNone) {
      Add(id, KeptRow(kept), 0);
    } else if (row != RowIndex::kNone) {
      Add(id, table_.RowAt(row), row);
    } else {
      elsewhere.push_back(id);
    }
  }
  std::vector<bool> found(elsewhere.size());
  if (table_.spills() && !elsewhere.empty()) {
    table_.GetAway(elsewhere, [&](size_t i, const float* row) {
      found[i] = true;
      Add(elsewhere[i], row, 0);
    });
  }
  for (size_t i = 0; i < elsewhere.size(); ++i) {
    if (!found[i]) {
      pending_.push_back({IdHash(elsewhere[i]), elsewhere[i], kAbsent});
    }
  }
}

const float* TableSnapshot::RowOf(const Pending& pending) const {
  if (table_.spills()) {
    return copies_.data() + size_t{pending.row} * row_size_;
  }
  const uint32_t number = kept_.Find(pending.hash, pending.id);
  return number == RowIndex::kNone ? table_.RowAt(pending.row)
                                   : KeptRow(number);
}

bool TableSnapshot::Next(FunctionRef<bool(uint64_t, std::span<const std::byte>,
                                          std::span<const float>)>
                             visit) {
  while (true) {
    for (; at_ < pending_.size(); ++at_) {
      if (!table_.spills() && at_ + kAhead < pending_.size() &&
          pending_[at_ + kAhead].row != kAbsent) {
        const float* ahead = table_.RowAt(pending_[at_ + kAhead].row);
        for (size_t f = 0; f < row_size_; f += 16) {
          __builtin_prefetch(ahead + f);
        }
      }
      if (pending_[at_].row == kAbsent) {
        if (!visit(pending_[at_].id, {}, {})) {
          ++at_;
          return true;
        }
        continue;
      }
      const float* row = RowOf(pending_[at_]);
      const bool more = visit(pending_[at_].id,
                              {reinterpret_cast<const std::byte*>(row),
                               static_cast<size_t>(table_.value_bytes())},
                              {row + table_.value_words_,
                               static_cast<size_t>(table_.state_floats())});
      if (!more) {
        ++at_;
        return true;
      }
    }
    if (!Gather()) {
      return false;
    }
  }
  return false;
}

}  // namespace shoal::ps
