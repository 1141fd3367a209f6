// Tables that are larger than memory: see SparseTable and ps/spill_store.h.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/strcat.h"
#include "ps/row_format.h"
#include "ps/slots.h"
#include "ps/sparse_table.h"
#include "ps/table_snapshot.h"

namespace shoal::ps {
namespace {

// Ids that are fetched together, which bounds what lies beside the table
// meanwhile. Blocks of Apply() must not straddle two.
constexpr size_t kBatch = 4096;
constexpr size_t kBatchMultiple = 64;
// What an index that is as empty as it gets takes: for a row, and for a part
// without any. See RowIndex.
constexpr int64_t kIndexBytesPerRow = 32;
constexpr int64_t kIndexBytesPerPart = 80;
// Left of the memory for what rows and index round up to whole pages.
constexpr int64_t kSlackBytes = int64_t{4} << 20;

// The store has checked that these are the bytes that it was given.
void CopyRow(std::span<const std::byte> bytes, size_t floats, float* out) {
  SHOAL_CHECK(bytes.size() == floats * sizeof(float));
  std::memcpy(out, bytes.data(), bytes.size());
}

}  // namespace

Status SparseTable::PlanMemory() {
  const int64_t parts =
      index_.num_parts() *
      (kIndexBytesPerPart + static_cast<int64_t>(sizeof(uint32_t)));
  const int64_t row = row_bytes() + kIndexBytesPerRow + RowClock::kRowBytes +
                      static_cast<int64_t>(sizeof(uint32_t));
  const int64_t least = parts + int64_t{4} * kBatchMultiple * row;
  int64_t usable = options_.memory_bytes_max - parts;
  usable -= std::min(usable / 4, kSlackBytes);
  rows_max_ = std::max<int64_t>(usable, 0) / row;
  if (rows_max_ < static_cast<int64_t>(2 * kBatchMultiple)) {
    return ResourceExhaustedError(
        StrCat("has ", options_.memory_bytes_max,
               " bytes of memory for its rows on disk to come to, but needs ",
               least, " or more; raise cluster.memory_per_server"));
  }
  if (!spills()) {
    return OkStatus();
  }
  // Half of the rows at most, so that what is brought together fits together.
  batch_max_ = std::min(kBatch, static_cast<size_t>(rows_max_) / 2 /
                                    kBatchMultiple * kBatchMultiple);
  away_.resize(static_cast<size_t>(index_.num_parts()));
  clock_.Reserve(static_cast<size_t>(rows_max_));
  return OkStatus();
}

void SparseTable::FreeRow(uint64_t id, uint32_t row) {
  if (snapshot_ != nullptr) {
    snapshot_->BeforeChange(IdHash(id), id, RowAt(row));
  }
  if (changes_ != nullptr) {
    Mark(IdHash(id), id, row);
  }
  free_rows_.push_back(row);
  if (spills()) {
    if (clock_.Has(row, RowClock::kOnDisk)) {
      stale_.push_back(id);
    }
    clock_.Remove(row);
  }
}

// --- Into memory -----------------------------------------------------------

void SparseTable::PullAndKeep(std::span<const uint64_t> ids, float* out) {
  if (!spills()) {
    return PullFromMemory(ids, out, nullptr);
  }
  for (size_t begin = 0; begin < ids.size(); begin += batch_max_) {
    const auto batch =
        ids.subspan(begin, std::min(batch_max_, ids.size() - begin));
    Bring(batch, /*to_be_made=*/false);
    PullFromMemory(batch, out + begin * static_cast<size_t>(dim()), nullptr);
  }
}

void SparseTable::Bring(std::span<const uint64_t> ids, bool to_be_made) {
  std::vector<uint32_t> pinned;
  std::vector<uint64_t> missing;
  for (const uint64_t id : ids) {
    index_.Prefetch(IdHash(id));
  }
  for (const uint64_t id : ids) {
    const uint32_t row = index_.Find(IdHash(id), id);
    if (row == RowIndex::kNone) {
      missing.push_back(id);
    } else {
      clock_.Add(row, RowClock::kUsed | RowClock::kPinned);
      pinned.push_back(row);
    }
  }
  std::sort(missing.begin(), missing.end(),
            [](uint64_t a, uint64_t b) { return IdHash(a) < IdHash(b); });
  missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
  std::vector<uint64_t> found;
  std::vector<float> rows;
  if (rows_away_ > 0 && !missing.empty()) {
    // An error stays in the store, and is asked for.
    static_cast<void>(options_.spill->Get(
        options_.spill_table, missing,
        [&](size_t i, std::span<const std::byte> bytes) {
          found.push_back(missing[i]);
          rows.resize(rows.size() + row_size());
          CopyRow(bytes, row_size(), &rows[rows.size() - row_size()]);
        }));
  }
  MakeRoom(to_be_made ? missing.size() : found.size());
  for (size_t i = 0; i < found.size(); ++i) {
    const uint64_t hash = IdHash(found[i]);
    const uint32_t row = NewRow();
    index_.Insert(hash, found[i], row);
    std::copy_n(&rows[i * row_size()], row_size(), RowAt(row));
    clock_.Put(row, found[i], RowClock::kUsed | RowClock::kOnDisk);
    if (changes_ != nullptr) {
      changes_->OnFetch(row);
    }
    --away_[static_cast<size_t>(index_.PartOf(hash))];
  }
  rows_away_ -= static_cast<int64_t>(found.size());
  rows_fetched_ += static_cast<int64_t>(found.size());
  for (const uint32_t row : pinned) {
    clock_.Clear(row, RowClock::kPinned);
  }
}

// --- Out of memory ---------------------------------------------------------

void SparseTable::MakeRoom(size_t rows) {
  while (rows_in_memory() + static_cast<int64_t>(rows) > rows_max_) {
    // More than is needed now, so that writes are few.
    const auto over = static_cast<size_t>(rows_in_memory() - rows_max_) + rows;
    if (!Spill(std::max(over, static_cast<size_t>(rows_max_ / 64)))) {
      return;  // Who asks for the status gives up; until then there is memory.
    }
  }
}

bool SparseTable::Spill(size_t rows) {
  std::vector<uint32_t> chosen = clock_.Choose(rows);
  std::sort(chosen.begin(), chosen.end(), [&](uint32_t a, uint32_t b) {
    return IdHash(clock_.id(a)) < IdHash(clock_.id(b));
  });
  std::vector<SpillStore::Row> written;
  for (const uint32_t row : chosen) {
    if (clock_.Has(row, RowClock::kDirty) ||
        !clock_.Has(row, RowClock::kOnDisk)) {
      const std::span<const float> floats(RowAt(row), row_size());
      written.push_back({clock_.id(row), std::as_bytes(floats)});
    }
  }
  if (chosen.empty() ||
      !options_.spill->Put(options_.spill_table, written).ok()) {
    return false;
  }
  for (const uint32_t row : chosen) {
    const uint64_t hash = IdHash(clock_.id(row));
    index_.Erase(hash, clock_.id(row));
    ++away_[static_cast<size_t>(index_.PartOf(hash))];
    clock_.Remove(row);
    free_rows_.push_back(row);
  }
  rows_away_ += static_cast<int64_t>(chosen.size());
  return true;
}

// --- On disk ---------------------------------------------------------------

void SparseTable::Pull(std::span<const uint64_t> ids, float* out) const {
  if (rows_away_ == 0) {
    return PullFromMemory(ids, out, nullptr);
  }
  std::vector<size_t> at;
  PullFromMemory(ids, out, &at);
  std::sort(at.begin(), at.end(), [&](size_t a, size_t b) {
    return IdHash(ids[a]) < IdHash(ids[b]);
  });
  std::vector<uint64_t> sorted;
  sorted.reserve(at.size());
  for (const size_t i : at) {
    sorted.push_back(ids[i]);
  }
  const auto d = static_cast<size_t>(dim());
  GetAway(sorted, [&](size_t i, const float* row) {
    WidenValues(format(), row, {out + at[i] * d, d});
  });
}

void SparseTable::GetAway(std::span<const uint64_t> ids,
                          FunctionRef<void(size_t, const float*)> visit) const {
  std::vector<float> row(row_size());
  // An error stays in the store, and is asked for.
  static_cast<void>(
      options_.spill->Get(options_.spill_table, ids,
                          [&](size_t i, std::span<const std::byte> bytes) {
                            CopyRow(bytes, row.size(), row.data());
                            visit(i, row.data());
                          }));
}

void SparseTable::ForEachAway(
    int64_t part, FunctionRef<void(uint64_t, const float*)> visit) const {
  if (away_.empty() || away_[static_cast<size_t>(part)] == 0) {
    return;
  }
  const uint64_t first = index_.FirstHashOf(part);
  std::vector<float> row(row_size());
  static_cast<void>(options_.spill->ForEach(
      options_.spill_table, first, index_.LastHashOf(part),
      [&](uint64_t id, std::span<const std::byte> bytes) {
        if (index_.Find(IdHash(id), id) == RowIndex::kNone) {
          CopyRow(bytes, row.size(), row.data());
          visit(id, row.data());
        }
      }));
}

void SparseTable::DropAway(int64_t part, std::span<const uint64_t> ids) {
  if (!ids.empty()) {
    if (snapshot_ != nullptr && snapshot_->Covers(part)) {
      GetAway(ids, [&](size_t i, const float* row) {
        snapshot_->BeforeChange(IdHash(ids[i]), ids[i], row);
      });
    }
    const int64_t slot = part / parts_per_slot();
    for (size_t i = 0; changes_ != nullptr && i < ids.size(); ++i) {
      while (!changes_->OnDropAway(slot, ids[i])) {
        changes_->MakeRoom(slot, num_rows_in(slot));
      }
    }
    const auto n = static_cast<uint32_t>(ids.size());
    away_[static_cast<size_t>(part)] -= n;
    rows_away_ -= n;
    rows_evicted_ += n;
    stale_.insert(stale_.end(), ids.begin(), ids.end());
  }
  EraseStale();
}

void SparseTable::EraseStale() {
  if (!stale_.empty()) {
    static_cast<void>(options_.spill->Erase(options_.spill_table, stale_));
    stale_.clear();
  }
}

void SparseTable::EraseOnDisk(int64_t slot) {
  const int64_t parts = parts_per_slot();
  static_cast<void>(options_.spill->EraseRange(
      options_.spill_table, index_.FirstHashOf(slot * parts),
      index_.LastHashOf((slot + 1) * parts - 1)));
  stale_.clear();
}

}  // namespace shoal::ps
