#ifndef SHOAL_PS_HUGE_BLOCKS_H_
#define SHOAL_PS_HUGE_BLOCKS_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

namespace shoal::ps {

inline constexpr size_t kHugePageBytes = size_t{2} << 20;  // of x86-64

// Memory for `bytes`, aligned to huge pages and on them where the kernel has
// any. Costs what is touched. With `small_start` the first 2 MiB are on pages
// of the usual size, so that what stays small costs little. Free it with
// std::free().
void* AllocateHuge(size_t bytes, bool small_start);

// Blocks of 64 << order bytes on huge pages. Those below a page are halves of
// larger ones and become whole again with their other half (buddies), so that
// what many owners leave when each moves to twice the size is used by those who
// move later. Thread-compatible.
class HugeBlocks {
 public:
  HugeBlocks() : free_(kPageOrder) {}
  ~HugeBlocks();
  HugeBlocks(const HugeBlocks&) = delete;
  HugeBlocks& operator=(const HugeBlocks&) = delete;

  // Aligned to its size, or to a page; what it holds is undefined.
  void* Allocate(int order);
  void Free(void* block, int order);

  // Of the first page only what was in use.
  int64_t bytes() const;

 private:
  static constexpr int kPageOrder = 15;  // 64 << 15 is a page

  std::vector<std::set<std::byte*>> free_;  // by order, within pages
  // Pages come from regions, one after another: those that are neighbours
  // share what the processor caches of page tables.
  static constexpr size_t kRegionPages = 32;
  std::vector<std::byte*> regions_;
  size_t pages_made_ = 0;
  size_t first_page_bytes_ = 0;
  int64_t large_bytes_ = 0;  // blocks of a page or more
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_HUGE_BLOCKS_H_
