#ifndef SHOAL_PS_SPILL_STORE_H_
#define SHOAL_PS_SPILL_STORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/function_ref.h"
#include "base/status.h"

namespace shoal::ps {

// Rows that do not fit in memory, of the tables of one shard, which are
// numbered from 0 to 65535. It only makes room: what it holds is of no use to
// another process, and gone with its owner.
//
// Every call may block for as long as its disk does. Get() and ForEach() may
// run beside each other and beside status().
//
// Errors: kResourceExhausted (disk full), kUnavailable (any other input/output
// error), naming the folder. The first one stays: from then on all calls return
// it, and their owner has to give up, since rows may be missing.
class SpillStore {
 public:
  struct Row {
    uint64_t id = 0;
    std::span<const std::byte> bytes;
  };

  virtual ~SpillStore() = default;

  // Calls found(i, bytes) for those of `ids`, which rise by IdHash(), that are
  // there.
  virtual Status Get(
      int table, std::span<const uint64_t> ids,
      FunctionRef<void(size_t, std::span<const std::byte>)> found) const = 0;

  // Adds rows, or replaces them.
  virtual Status Put(int table, std::span<const Row> rows) = 0;

  // Removes them; those that are not there are fine.
  virtual Status Erase(int table, std::span<const uint64_t> ids) = 0;
  // All whose IdHash() is in [first, last].
  virtual Status EraseRange(int table, uint64_t first, uint64_t last) = 0;

  // Calls visit(id, bytes) for those with IdHash() in [first, last], rising by
  // it.
  virtual Status ForEach(
      int table, uint64_t first, uint64_t last,
      FunctionRef<void(uint64_t, std::span<const std::byte>)> visit) const = 0;

  virtual Status status() const = 0;
  // The most that it takes, but for what is under way in one call.
  virtual int64_t memory_bytes() const = 0;
};

struct SpillOptions {
  // It makes a folder of its own in this one, with the files, and removes it at
  // the end. Folders there that others left when they were killed go first.
  std::string parent;
  // Of disk that must be free.
  int64_t free_bytes_min = 0;
  // Of blocks that were read, with the filters and indexes of files.
  int64_t cache_bytes = int64_t{8} << 20;
  // Of one table of rows that are to be written; there are two.
  int64_t write_buffer_bytes = int64_t{4} << 20;
};

// On RocksDB. Errors: kFailedPrecondition (`parent` is no folder, can't be
// written, or has too little space), those of the store.
StatusOr<std::unique_ptr<SpillStore>> OpenSpillStore(
    const SpillOptions& options);

}  // namespace shoal::ps

#endif  // SHOAL_PS_SPILL_STORE_H_
