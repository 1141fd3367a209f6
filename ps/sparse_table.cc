#include "ps/sparse_table.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/random.h"
#include "base/strcat.h"
#include "ps/row_format.h"
#include "ps/slots.h"
#include "ps/table_snapshot.h"

namespace shoal::ps {
namespace {

constexpr int64_t kRowBytesMax = int64_t{2} << 20;
// Rows are allocated in segments of at most this: few, so that their addresses
// stay in the first cache, and untouched memory costs nothing.
constexpr int64_t kSegmentBytesMax = int64_t{64} << 20;
constexpr int kSlotBitsMax = 24;
// Ids that are looked up together, and how far ahead of a row's use the index
// and the row are fetched: enough to hide the memory's latency, few enough that
// what was fetched is still in the first cache.
constexpr size_t kBlock = 64;
constexpr size_t kIndexAhead = 32;
constexpr size_t kRowAhead = 16;

// By lines of known length, which need no call.
void CopyFloats(const float* from, size_t n, float* to) {
  constexpr size_t kLine = 16;
  for (; n >= kLine; n -= kLine, from += kLine, to += kLine) {
    std::memcpy(to, from, kLine * sizeof(float));
  }
  for (size_t i = 0; i < n; ++i) {
    to[i] = from[i];
  }
}

constexpr int64_t RoundUp(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

}  // namespace

StatusOr<std::unique_ptr<SparseTable>> SparseTable::Create(
    const Options& options) {
  if (options.dim < 1) {
    return InvalidArgumentError(
        StrCat("table '", options.name, "': dim is ", options.dim));
  }
  if (options.slot_bits < 1 || options.slot_bits > kSlotBitsMax) {
    return InvalidArgumentError(StrCat("table '", options.name,
                                       "': slot_bits is ", options.slot_bits,
                                       ", outside [1, ", kSlotBitsMax, "]"));
  }
  if (!IsRowFormat(options.format)) {
    return InvalidArgumentError(StrCat(
        "table '", options.name, "': rows can't be in ", Name(options.format)));
  }
  const std::string prefix = StrCat("table '", options.name, "'");
  SHOAL_RETURN_IF_ERROR(CheckRules(options.rules).WithPrefix(prefix));
  SHOAL_CHECK(options.rules.counts() == (options.candidates != nullptr));
  const auto too_large = [&] {
    return InvalidArgumentError(StrCat(
        "table '", options.name, "': dim ", options.dim,
        " is too large: a row may take ", kRowBytesMax, " bytes with state"));
  };
  // Refused before sizes are computed from it.
  if (options.dim > kRowBytesMax) {
    return too_large();
  }
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Optimizer> optimizer,
                         CreateOptimizer(options.optimizer));
  const int64_t optimizer_floats = optimizer->StateFloats(options.dim);
  const int64_t state_floats = optimizer_floats + options.rules.words();
  // 16 bytes keep rows aligned for vectors; whole cache lines where that wastes
  // little.
  const int64_t value_words =
      RoundUp(options.dim * SizeOf(options.format), 4) / 4;
  const int64_t floats = value_words + state_floats;
  int64_t stride = RoundUp(floats, 16);
  if ((stride - floats) * 8 > floats) {
    stride = RoundUp(floats, 4);
  }
  const int64_t row_bytes = stride * static_cast<int64_t>(sizeof(float));
  if (row_bytes > kRowBytesMax) {
    return too_large();
  }
  RowShares shares;
  int index_bits = options.slot_bits;
  if (options.rules.row_budget_bytes > 0) {
    const auto found =
        SharesOf(options.rules.row_budget_bytes, row_bytes, options.slot_bits);
    SHOAL_RETURN_IF_ERROR(found.status().WithPrefix(prefix));
    shares = *found;
    index_bits = shares.bits;
  } else if (options.rules.evicts()) {
    index_bits = std::max(index_bits, RowRules::kSweepBits);
  }
  auto table =
      std::unique_ptr<SparseTable>(new SparseTable(options, index_bits));
  table->optimizer_ = std::move(optimizer);
  table->state_floats_ = state_floats;
  table->value_words_ = value_words;
  table->words_at_ = value_words + optimizer_floats;
  table->stride_ = stride;
  table->shares_ = shares;
  table->segment_row_bits_ =
      static_cast<uint32_t>(
          std::bit_width(static_cast<uint64_t>(kSegmentBytesMax / row_bytes))) -
      1;
  if (options.marks_changes) {
    table->changes_ = std::make_unique<ChangedRows>(options.slot_bits,
                                                    options.mark_bytes_max);
  }
  if (options.memory_bytes_max > 0) {
    SHOAL_RETURN_IF_ERROR(table->PlanMemory().WithPrefix(prefix));
  }
  return table;
}

SparseTable::SparseTable(const Options& options, int index_bits)
    : options_(options),
      key_(HashKey(options.seed, HashText(options.name))),
      index_(index_bits) {}

SparseTable::~SparseTable() {
  for (float* segment : segments_) {
    std::free(segment);
  }
}

int64_t SparseTable::memory_bytes() const {
  const int64_t touched =
      rows_made_ * stride_ * static_cast<int64_t>(sizeof(float));
  constexpr auto kPage = static_cast<int64_t>(kHugePageBytes);
  return index_.bytes() + clock_.bytes() +
         static_cast<int64_t>(away_.size() * sizeof(uint32_t)) +
         static_cast<int64_t>(free_rows_.capacity() * sizeof(uint32_t)) +
         (changes_ == nullptr ? 0 : changes_->bytes()) +
         (touched <= kPage ? touched : RoundUp(touched, kPage));
}

float* SparseTable::Insert(uint64_t hash, uint64_t id) {
  if (snapshot_ != nullptr) {
    snapshot_->BeforeInsert(hash, id);
  }
  const uint32_t row = NewRow();
  index_.Insert(hash, id, row);
  if (changes_ != nullptr) {
    const int64_t slot = SlotOfHash(hash, options_.slot_bits);
    while (!changes_->OnInsert(slot, id, row)) {
      changes_->MakeRoom(slot, num_rows_in(slot));
    }
  }
  if (spills()) {
    clock_.Put(row, id, RowClock::kUsed | RowClock::kDirty);
  }
  float* values = RowAt(row);
  if (format() == DType::kF32) {
    InitValues(id, values);
  } else {
    std::vector<float> first(static_cast<size_t>(dim()));
    InitValues(id, first.data());
    // They are the format's already, so no key changes them.
    RoundValues(format(), 0, first, values);
  }
  optimizer_->InitState(values + value_words_, dim());
  return values;
}

uint32_t SparseTable::NewRow() {
  if (!free_rows_.empty()) {
    const uint32_t row = free_rows_.back();
    free_rows_.pop_back();
    return row;
  }
  const auto row = static_cast<uint32_t>(rows_made_++);
  SHOAL_CHECK(row != RowIndex::kNone);
  if ((row >> segment_row_bits_) == segments_.size()) {
    const size_t bytes = (static_cast<size_t>(stride_) * sizeof(float))
                         << segment_row_bits_;
    segments_.push_back(static_cast<float*>(
        AllocateHuge(bytes, /*small_start=*/segments_.empty())));
  }
  return row;
}

float* SparseTable::RowAt(uint32_t row) const {
  const uint32_t in_segment = row & ((uint32_t{1} << segment_row_bits_) - 1);
  return segments_[row >> segment_row_bits_] + in_segment * stride_;
}

uint64_t SparseTable::RoundingKey(uint64_t id, int64_t step) const {
  constexpr uint64_t kRounding = 0x726f756e64ULL;
  return HashKey(HashKey(HashKey(key_, kRounding), id),
                 static_cast<uint64_t>(step));
}

void SparseTable::InitValues(uint64_t id, float* out) const {
  const std::span<float> values(out, static_cast<size_t>(dim()));
  options_.initializer.Fill(HashKey(key_, id), 0, values);
  RoundInPlace(format(), RoundingKey(id, -1), values);
}

void SparseTable::PullFromMemory(std::span<const uint64_t> ids, float* out,
                                 std::vector<size_t>* missing) const {
  const size_t n = ids.size();
  const auto row_bytes = static_cast<size_t>(value_bytes());
  // Three stages on their way at once: an id's bucket is fetched, then its row,
  // then the row is copied. Rings of what the later stages need.
  std::array<uint64_t, kBlock> hashes;
  std::array<const float*, kBlock> rows;
  const auto fetch_bucket = [&](size_t i) {
    const uint64_t hash = IdHash(ids[i]);
    hashes[i % kBlock] = hash;
    index_.Prefetch(hash);
  };
  const auto fetch_row = [&](size_t i) {
    const uint32_t row = index_.Find(hashes[i % kBlock], ids[i]);
    const float* at = row == RowIndex::kNone ? nullptr : RowAt(row);
    rows[i % kBlock] = at;
    if (at != nullptr) {
      for (size_t b = 0; b < row_bytes; b += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(at) + b);
      }
    }
  };
  for (size_t i = 0; i < std::min(n, kIndexAhead); ++i) {
    fetch_bucket(i);
  }
  for (size_t i = 0; i < std::min(n, kRowAhead); ++i) {
    fetch_row(i);
  }
  for (size_t i = 0; i < n; ++i) {
    if (i + kIndexAhead < n) {
      fetch_bucket(i + kIndexAhead);
    }
    if (i + kRowAhead < n) {
      fetch_row(i + kRowAhead);
    }
    float* to = out + i * static_cast<size_t>(dim());
    const float* row = rows[i % kBlock];
    if (row == nullptr) {
      if (missing != nullptr) {
        missing->push_back(i);
      }
      InitValues(ids[i], to);
    } else if (format() == DType::kF32) {
      CopyFloats(row, static_cast<size_t>(dim()), to);
    } else {
      WidenValues(format(), row, {to, static_cast<size_t>(dim())});
    }
  }
}

void SparseTable::RowsFor(std::span<const uint64_t> ids, int64_t step,
                          float** rows) {
  std::array<uint64_t, kBlock> hashes;
  for (size_t i = 0; i < ids.size(); ++i) {
    hashes[i] = IdHash(ids[i]);
    index_.Prefetch(hashes[i]);
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint32_t row = index_.Find(hashes[i], ids[i]);
    if (row != RowIndex::kNone) {
      rows[i] = RowAt(row);
      BeforeChange(hashes[i], ids[i], row);
    } else if (uint32_t seen = 0; Admits(hashes[i], ids[i], step, &seen)) {
      rows[i] = Insert(hashes[i], ids[i]);
      SetWords(rows[i], static_cast<uint32_t>(step), seen);
      ++rows_admitted_;
    } else {
      rows[i] = nullptr;
      continue;
    }
    for (int64_t f = 0; f < stride_; f += 16) {
      __builtin_prefetch(rows[i] + f, 1);
    }
  }
}

void SparseTable::Apply(std::span<const uint64_t> ids, const float* gradients,
                        double learning_rate_factor, int64_t step,
                        const std::vector<bool>* slots) {
  const auto d = static_cast<size_t>(dim());
  std::array<float*, kBlock> rows;
  int64_t part = -1;  // that ids are being applied to, of a budget's
  for (size_t begin = 0; begin < ids.size(); begin += kBlock) {
    const size_t n = std::min(kBlock, ids.size() - begin);
    const auto block = ids.subspan(begin, n);
    if (spills() && begin % batch_max_ == 0) {
      Bring(ids.subspan(begin, std::min(batch_max_, ids.size() - begin)),
            /*to_be_made=*/true);
    }
    RowsFor(block, step, rows.data());
    for (size_t i = 0; i < n;) {
      const size_t first = i;
      while (i < n && rows[i] != nullptr) {
        ++i;
      }
      if (i > first) {
        Update(block.subspan(first, i - first), {&rows[first], i - first},
               gradients + (begin + first) * d, learning_rate_factor, step);
      }
      while (i < n && rows[i] == nullptr) {
        ++i;
      }
    }
    for (size_t i = 0; part_rows_max() > 0 && i < n; ++i) {
      const int64_t next = index_.PartOf(IdHash(block[i]));
      if (next != part && part >= 0) {
        ShrinkPart(part, static_cast<uint32_t>(step));
      }
      part = next;
    }
  }
  if (part >= 0) {
    ShrinkPart(part, static_cast<uint32_t>(step));
  }
  if (options_.candidates != nullptr) {
    CountCandidates(step, slots);
  }
  if (options_.rules.max_age_steps > 0) {
    Sweep(step, slots);
  }
}

void SparseTable::Update(std::span<const uint64_t> ids, std::span<float*> rows,
                         const float* gradients, double learning_rate_factor,
                         int64_t step) {
  const ApplyBatch batch = {.rows = rows.data(),
                            .gradients = gradients,
                            .num_rows = static_cast<int64_t>(ids.size()),
                            .dim = dim(),
                            .learning_rate_factor = learning_rate_factor,
                            .step = step};
  if (format() == DType::kF32) {
    optimizer_->Apply(batch);
  } else {
    ApplyInF32(ids, rows, batch, step);
  }
  if (options_.rules.evicts()) {
    for (float* row : rows) {
      CountPush(row, static_cast<uint32_t>(step));
    }
  }
}

void SparseTable::ApplyInF32(std::span<const uint64_t> ids,
                             std::span<float*> rows, const ApplyBatch& batch,
                             int64_t step) {
  const auto d = static_cast<size_t>(dim());
  const auto s = static_cast<size_t>(state_floats_);
  widened_.resize(kBlock * (d + s));
  std::array<float*, kBlock> wide;
  for (size_t i = 0; i < rows.size(); ++i) {
    wide[i] = widened_.data() + i * (d + s);
    WidenValues(format(), rows[i], {wide[i], d});
    std::copy_n(rows[i] + value_words_, s, wide[i] + d);
  }
  ApplyBatch widened = batch;
  widened.rows = wide.data();
  optimizer_->Apply(widened);
  for (size_t i = 0; i < rows.size(); ++i) {
    RoundValues(format(), RoundingKey(ids[i], step), {wide[i], d}, rows[i]);
    std::copy_n(wide[i] + d, s, rows[i] + value_words_);
  }
}

void SparseTable::Load(std::span<const uint64_t> ids,
                       std::span<const std::byte> values,
                       std::span<const float> states) {
  const auto v = static_cast<size_t>(value_bytes());
  const auto s = static_cast<size_t>(state_floats_);
  SHOAL_CHECK(values.size() == ids.size() * v &&
              states.size() == ids.size() * s);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (spills() && i % batch_max_ == 0) {
      Bring(ids.subspan(i, std::min(batch_max_, ids.size() - i)),
            /*to_be_made=*/true);
    }
    const uint64_t hash = IdHash(ids[i]);
    const uint32_t found = index_.Find(hash, ids[i]);
    if (found != RowIndex::kNone) {
      BeforeChange(hash, ids[i], found);
    }
    float* row = found != RowIndex::kNone ? RowAt(found) : Insert(hash, ids[i]);
    std::memcpy(row, values.data() + i * v, v);
    std::copy_n(states.data() + i * s, s, row + value_words_);
  }
}

void SparseTable::BeforeChange(uint64_t hash, uint64_t id, uint32_t row) {
  if (spills()) {
    clock_.Add(row, RowClock::kDirty);
  }
  if (snapshot_ != nullptr) {
    snapshot_->BeforeChange(hash, id, RowAt(row));
  }
  if (changes_ != nullptr) {
    Mark(hash, id, row);
  }
}

void SparseTable::Mark(uint64_t hash, uint64_t id, uint32_t row) {
  const int64_t slot = SlotOfHash(hash, options_.slot_bits);
  while (!changes_->OnChange(slot, id, row)) {
    changes_->MakeRoom(slot, num_rows_in(slot));
  }
}

void SparseTable::EraseSlot(int64_t slot) {
  SHOAL_CHECK(slot >= 0 && slot < int64_t{1} << options_.slot_bits);
  if (snapshot_ != nullptr) {
    snapshot_->BeforeErase(slot);
  }
  if (changes_ != nullptr) {
    changes_->Forget(slot);
  }
  const int64_t parts = parts_per_slot();
  bool on_disk = false;
  for (int64_t part = slot * parts; part < (slot + 1) * parts; ++part) {
    index_.EraseIf(part, [&](uint64_t id, uint32_t row) {
      FreeRow(id, row);
      return true;
    });
    if (spills()) {
      uint32_t& away = away_[static_cast<size_t>(part)];
      on_disk = on_disk || away > 0;
      rows_away_ -= std::exchange(away, 0);
    }
  }
  if (on_disk || !stale_.empty()) {
    EraseOnDisk(slot);
  }
}

void SparseTable::ForEach(FunctionRef<void(uint64_t, std::span<const std::byte>,
                                           std::span<const float>)>
                              visit) const {
  for (int64_t slot = 0; slot < int64_t{1} << options_.slot_bits; ++slot) {
    ForEachInSlot(slot, visit);
  }
}

int64_t SparseTable::num_rows_in(int64_t slot) const {
  int64_t rows = 0;
  const int64_t parts = parts_per_slot();
  for (int64_t part = slot * parts; part < (slot + 1) * parts; ++part) {
    rows += CountIn(part);
  }
  return rows;
}

void SparseTable::ForEachInSlot(
    int64_t slot, FunctionRef<void(uint64_t, std::span<const std::byte>,
                                   std::span<const float>)>
                      visit) const {
  struct Entry {
    uint64_t hash;
    uint64_t id;
    uint32_t row;
  };
  std::vector<Entry> sorted;
  const int64_t parts = parts_per_slot();
  for (int64_t part = slot * parts; part < (slot + 1) * parts; ++part) {
    index_.ForEach(part, [&](uint64_t id, uint32_t row) {
      sorted.push_back({IdHash(id), id, row});
    });
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const Entry& a, const Entry& b) { return a.hash < b.hash; });
  const auto visit_row = [&](uint64_t id, const float* row) {
    visit(id,
          {reinterpret_cast<const std::byte*>(row),
           static_cast<size_t>(value_bytes())},
          {row + value_words_, static_cast<size_t>(state_floats_)});
  };
  // In between, those on disk, which rise too.
  auto next = sorted.begin();
  for (int64_t part = slot * parts; part < (slot + 1) * parts; ++part) {
    ForEachAway(part, [&](uint64_t id, const float* row) {
      for (; next != sorted.end() && next->hash < IdHash(id); ++next) {
        visit_row(next->id, RowAt(next->row));
      }
      visit_row(id, row);
    });
  }
  for (; next != sorted.end(); ++next) {
    visit_row(next->id, RowAt(next->row));
  }
}

}  // namespace shoal::ps
