#include "ps/sparse_table.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>

#include "base/random.h"
#include "base/strcat.h"
#include "ps/slots.h"

namespace shoal::ps {
namespace {

constexpr size_t kPageBytes = size_t{2} << 20;  // a huge page of x86-64
constexpr uint32_t kFirstCapacityBits = 3;
constexpr int kSlotBitsMax = 24;
// Ids that are looked up together: enough to hide the memory's latency, few
// enough that what was prefetched is still in the first cache when it is used.
constexpr size_t kBlock = 64;

float* NewPage(bool huge) {
  void* page = std::aligned_alloc(kPageBytes, kPageBytes);
  SHOAL_CHECK(page != nullptr);
  if (huge) {
    // Only saves page-table walks; a kernel without huge pages refuses.
    (void)madvise(page, kPageBytes, MADV_HUGEPAGE);
  }
  return static_cast<float*>(page);
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
  // Whose row can't fit is refused before sizes are computed from it.
  if (options.dim > static_cast<int64_t>(kPageBytes / sizeof(float))) {
    return InvalidArgumentError(StrCat("table '", options.name, "': dim ",
                                       options.dim, " is too large"));
  }
  auto table = std::unique_ptr<SparseTable>(new SparseTable(options));
  SHOAL_ASSIGN_OR_RETURN(table->optimizer_, CreateOptimizer(options.optimizer));
  table->state_floats_ = table->optimizer_->StateFloats(options.dim);
  // 16 bytes keep rows aligned for vectors; 64 where that wastes little.
  const int64_t floats = options.dim + table->state_floats_;
  const int64_t align = floats > 16 ? 16 : 4;
  table->stride_ = (floats + align - 1) / align * align;
  const auto rows_per_page = static_cast<uint64_t>(kPageBytes / sizeof(float)) /
                             static_cast<uint64_t>(table->stride_);
  if (rows_per_page == 0) {
    return InvalidArgumentError(StrCat("table '", options.name, "': dim ",
                                       options.dim, " is too large"));
  }
  table->page_row_bits_ =
      static_cast<uint32_t>(std::bit_width(rows_per_page)) - 1;
  return table;
}

SparseTable::SparseTable(const Options& options)
    : options_(options),
      key_(HashKey(options.seed, HashText(options.name))),
      slots_(size_t{1} << options.slot_bits) {}

SparseTable::~SparseTable() {
  for (float* page : pages_) {
    std::free(page);
  }
}

int64_t SparseTable::memory_bytes() const {
  size_t bytes =
      slots_.size() * sizeof(Index) + free_rows_.capacity() * sizeof(uint32_t);
  bytes += pages_.size() > 1
               ? pages_.size() * kPageBytes
               : static_cast<size_t>(rows_made_ * stride_) * sizeof(float);
  for (const Index& index : slots_) {
    if (index.entries != nullptr) {
      bytes += sizeof(Entry) << index.capacity_bits;
    }
  }
  return static_cast<int64_t>(bytes);
}

const SparseTable::Entry* SparseTable::Home(const Index& index,
                                            uint64_t hash) const {
  // The bits after those that name the slot, so that positions rise with the
  // hash.
  return &index.entries[(hash << options_.slot_bits) >>
                        (64 - index.capacity_bits)];
}

const SparseTable::Entry* SparseTable::Find(const Index& index, uint64_t hash,
                                            uint64_t id) const {
  if (index.entries == nullptr) {
    return nullptr;
  }
  const Entry* entry = Home(index, hash);
  const Entry* const end = &index.entries[size_t{1} << index.capacity_bits];
  for (;;) {
    if (entry->row == kNoRow) {
      return nullptr;
    }
    if (entry->id == id) {
      return entry;
    }
    if (++entry == end) {
      entry = index.entries.get();
    }
  }
}

uint32_t SparseTable::Insert(Index& index, uint64_t hash, uint64_t id) {
  const uint64_t capacity = uint64_t{1} << index.capacity_bits;
  if (index.entries == nullptr || (index.count + 1) * 4 > capacity * 3) {
    Grow(index);
  }
  size_t at = static_cast<size_t>(Home(index, hash) - index.entries.get());
  const size_t mask = (size_t{1} << index.capacity_bits) - 1;
  while (index.entries[at].row != kNoRow) {
    at = (at + 1) & mask;
  }
  const uint32_t row = NewRow();
  index.entries[at] = {.id = id, .row = row, .unused = 0};
  ++index.count;
  float* values = RowAt(row);
  InitValues(id, values);
  optimizer_->InitState(values + dim(), dim());
  return row;
}

void SparseTable::Grow(Index& index) {
  const std::unique_ptr<Entry[]> old = std::move(index.entries);
  const size_t old_capacity =
      old == nullptr ? 0 : size_t{1} << index.capacity_bits;
  index.capacity_bits =
      old == nullptr ? kFirstCapacityBits : index.capacity_bits + 1;
  const size_t capacity = size_t{1} << index.capacity_bits;
  index.entries = std::make_unique_for_overwrite<Entry[]>(capacity);
  std::fill_n(index.entries.get(), capacity,
              Entry{.id = 0, .row = kNoRow, .unused = 0});
  for (size_t i = 0; i < old_capacity; ++i) {
    if (old[i].row == kNoRow) {
      continue;
    }
    size_t at = static_cast<size_t>(Home(index, IdHash(old[i].id)) -
                                    index.entries.get());
    while (index.entries[at].row != kNoRow) {
      at = (at + 1) & (capacity - 1);
    }
    index.entries[at] = old[i];
  }
}

uint32_t SparseTable::NewRow() {
  if (!free_rows_.empty()) {
    const uint32_t row = free_rows_.back();
    free_rows_.pop_back();
    return row;
  }
  const auto row = static_cast<uint32_t>(rows_made_++);
  SHOAL_CHECK(row != kNoRow);
  if ((row >> page_row_bits_) == pages_.size()) {
    // A small table stays small: its one page is touched row by row.
    pages_.push_back(NewPage(!pages_.empty()));
  }
  return row;
}

float* SparseTable::RowAt(uint32_t row) const {
  const uint32_t in_page = row & ((uint32_t{1} << page_row_bits_) - 1);
  return pages_[row >> page_row_bits_] + in_page * stride_;
}

void SparseTable::InitValues(uint64_t id, float* out) const {
  options_.initializer.Fill(HashKey(key_, id), 0,
                            {out, static_cast<size_t>(dim())});
}

void SparseTable::Pull(std::span<const uint64_t> ids, float* out) const {
  std::array<uint64_t, kBlock> hashes;
  std::array<const float*, kBlock> rows;
  const size_t row_bytes = static_cast<size_t>(dim()) * sizeof(float);
  for (size_t begin = 0; begin < ids.size(); begin += kBlock) {
    const size_t n = std::min(kBlock, ids.size() - begin);
    for (size_t i = 0; i < n; ++i) {
      hashes[i] = IdHash(ids[begin + i]);
      const Index& index = slots_[static_cast<size_t>(
          SlotOfHash(hashes[i], options_.slot_bits))];
      if (index.entries != nullptr) {
        __builtin_prefetch(Home(index, hashes[i]));
      }
    }
    for (size_t i = 0; i < n; ++i) {
      const Index& index = slots_[static_cast<size_t>(
          SlotOfHash(hashes[i], options_.slot_bits))];
      const Entry* entry = Find(index, hashes[i], ids[begin + i]);
      rows[i] = entry == nullptr ? nullptr : RowAt(entry->row);
      if (rows[i] != nullptr) {
        for (size_t b = 0; b < row_bytes; b += 64) {
          __builtin_prefetch(reinterpret_cast<const char*>(rows[i]) + b);
        }
      }
    }
    for (size_t i = 0; i < n; ++i) {
      float* to = out + (begin + i) * static_cast<size_t>(dim());
      if (rows[i] != nullptr) {
        std::memcpy(to, rows[i], row_bytes);
      } else {
        InitValues(ids[begin + i], to);
      }
    }
  }
}

void SparseTable::Apply(std::span<const uint64_t> ids, const float* gradients,
                        double learning_rate_factor, int64_t step) {
  std::array<uint64_t, kBlock> hashes;
  std::array<float*, kBlock> rows;
  for (size_t begin = 0; begin < ids.size(); begin += kBlock) {
    const size_t n = std::min(kBlock, ids.size() - begin);
    for (size_t i = 0; i < n; ++i) {
      hashes[i] = IdHash(ids[begin + i]);
      const Index& index = slots_[static_cast<size_t>(
          SlotOfHash(hashes[i], options_.slot_bits))];
      if (index.entries != nullptr) {
        __builtin_prefetch(Home(index, hashes[i]));
      }
    }
    for (size_t i = 0; i < n; ++i) {
      Index& index = slots_[static_cast<size_t>(
          SlotOfHash(hashes[i], options_.slot_bits))];
      const Entry* entry = Find(index, hashes[i], ids[begin + i]);
      rows[i] =
          RowAt(entry != nullptr ? entry->row
                                 : Insert(index, hashes[i], ids[begin + i]));
      for (int64_t f = 0; f < stride_; f += 16) {
        __builtin_prefetch(rows[i] + f, 1);
      }
    }
    optimizer_->Apply(
        {.rows = rows.data(),
         .gradients = gradients + begin * static_cast<size_t>(dim()),
         .num_rows = static_cast<int64_t>(n),
         .dim = dim(),
         .learning_rate_factor = learning_rate_factor,
         .step = step});
  }
}

void SparseTable::Load(uint64_t id, std::span<const float> values,
                       std::span<const float> state) {
  SHOAL_CHECK(static_cast<int64_t>(values.size()) == dim() &&
              static_cast<int64_t>(state.size()) == state_floats_);
  const uint64_t hash = IdHash(id);
  Index& index =
      slots_[static_cast<size_t>(SlotOfHash(hash, options_.slot_bits))];
  const Entry* entry = Find(index, hash, id);
  float* row = RowAt(entry != nullptr ? entry->row : Insert(index, hash, id));
  std::copy(values.begin(), values.end(), row);
  std::copy(state.begin(), state.end(), row + dim());
}

void SparseTable::EraseSlot(int64_t slot) {
  SHOAL_CHECK(slot >= 0 && slot < static_cast<int64_t>(slots_.size()));
  Index& index = slots_[static_cast<size_t>(slot)];
  if (index.entries == nullptr) {
    return;
  }
  for (size_t i = 0; i < size_t{1} << index.capacity_bits; ++i) {
    if (index.entries[i].row != kNoRow) {
      free_rows_.push_back(index.entries[i].row);
    }
  }
  index = Index();
}

void SparseTable::ForEach(
    FunctionRef<void(uint64_t, const float*)> visit) const {
  std::vector<std::pair<uint64_t, const Entry*>> sorted;
  for (const Index& index : slots_) {
    if (index.entries == nullptr) {
      continue;
    }
    sorted.clear();
    for (size_t i = 0; i < size_t{1} << index.capacity_bits; ++i) {
      const Entry& entry = index.entries[i];
      if (entry.row != kNoRow) {
        sorted.emplace_back(IdHash(entry.id), &entry);
      }
    }
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [hash, entry] : sorted) {
      visit(entry->id, RowAt(entry->row));
    }
  }
}

}  // namespace shoal::ps
