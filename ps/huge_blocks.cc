#include "ps/huge_blocks.h"

#include <algorithm>
#include <cstdlib>

#include <sys/mman.h>

#include "base/status.h"

namespace shoal::ps {

void* AllocateHuge(size_t bytes, bool small_start) {
  const size_t size =
      (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  void* memory = std::aligned_alloc(kHugePageBytes, size);
  SHOAL_CHECK(memory != nullptr);
  const size_t skipped = small_start ? kHugePageBytes : 0;
  if (size > skipped) {
    // Only saves page-table walks; a kernel without huge pages refuses.
    (void)madvise(static_cast<std::byte*>(memory) + skipped, size - skipped,
                  MADV_HUGEPAGE);
  }
  return memory;
}

HugeBlocks::~HugeBlocks() {
  for (std::byte* region : regions_) {
    std::free(region);
  }
}

void* HugeBlocks::Allocate(int order) {
  if (order >= kPageOrder) {
    const size_t bytes = size_t{64} << order;
    large_bytes_ += static_cast<int64_t>(bytes);
    return AllocateHuge(bytes, false);
  }
  int from = order;
  while (from < kPageOrder && free_[static_cast<size_t>(from)].empty()) {
    ++from;
  }
  std::byte* block = nullptr;
  if (from == kPageOrder) {
    if (pages_made_ == regions_.size() * kRegionPages) {
      regions_.push_back(static_cast<std::byte*>(
          AllocateHuge(kRegionPages * kHugePageBytes,
                       /*small_start=*/regions_.empty())));
    }
    block = regions_.back() + pages_made_ % kRegionPages * kHugePageBytes;
    ++pages_made_;
  } else {
    // The lowest, so that what is in use stays together.
    auto& blocks = free_[static_cast<size_t>(from)];
    block = *blocks.begin();
    blocks.erase(blocks.begin());
  }
  while (from > order) {
    --from;
    free_[static_cast<size_t>(from)].insert(block + (size_t{64} << from));
  }
  const size_t in_first = reinterpret_cast<uintptr_t>(block) -
                          reinterpret_cast<uintptr_t>(regions_.front());
  if (in_first < kHugePageBytes) {
    first_page_bytes_ =
        std::max(first_page_bytes_, in_first + (size_t{64} << order));
  }
  return block;
}

void HugeBlocks::Free(void* memory, int order) {
  if (order >= kPageOrder) {
    large_bytes_ -= int64_t{64} << order;
    std::free(memory);
    return;
  }
  auto* block = static_cast<std::byte*>(memory);
  for (; order + 1 < kPageOrder; ++order) {
    const size_t bytes = size_t{64} << order;
    auto* const other = reinterpret_cast<std::byte*>(
        reinterpret_cast<uintptr_t>(block) ^ bytes);
    if (free_[static_cast<size_t>(order)].erase(other) == 0) {
      break;
    }
    block = std::min(block, other);
  }
  free_[static_cast<size_t>(order)].insert(block);
}

int64_t HugeBlocks::bytes() const {
  const size_t pages =
      pages_made_ == 0 ? 0
                       : first_page_bytes_ + (pages_made_ - 1) * kHugePageBytes;
  return static_cast<int64_t>(pages) + large_bytes_;
}

}  // namespace shoal::ps
