#include "comm/transports/shm_ring.h"

#include <algorithm>
#include <cstring>

// The stores and loads that decide whether one side may sleep are sequentially
// consistent: each side writes its own word, then reads the other's, and the
// two must not both see the old value.

namespace shoal::comm {

uint64_t ShmRingWriter::Free() {
  const uint64_t read = head_->read.load();
  // The reader can only have come nearer to what was written.
  if (read < known_read_ || read > written_) {
    broken_ = true;
    return 0;
  }
  known_read_ = read;
  return capacity_ - (written_ - read);
}

int64_t ShmRingWriter::Write(const void* bytes, int64_t size) {
  const auto wanted = static_cast<uint64_t>(size);
  uint64_t free = capacity_ - (written_ - known_read_);
  if (free < wanted) {
    free = Free();
  }
  const uint64_t count = broken_ ? 0 : std::min(wanted, free);
  if (count == 0) {
    return 0;
  }
  const uint64_t begin = written_ & (capacity_ - 1);
  const uint64_t first = std::min(count, capacity_ - begin);
  std::memcpy(data_ + begin, bytes, first);
  std::memcpy(data_, static_cast<const std::byte*>(bytes) + first,
              count - first);
  written_ += count;
  head_->written.store(written_);
  return static_cast<int64_t>(count);
}

bool ShmRingWriter::WaitForRoom() {
  head_->writer_waits.store(1);
  return Free() >= capacity_ / 2;
}

int64_t ShmRingReader::Available() {
  const uint64_t available = head_->written.load() - read_;
  if (available > capacity_) {
    broken_ = true;
    return 0;
  }
  return static_cast<int64_t>(available);
}

int64_t ShmRingReader::Read(void* bytes, int64_t size) {
  const auto count =
      static_cast<uint64_t>(std::min<int64_t>(size, Available()));
  if (count == 0) {
    return 0;
  }
  const uint64_t begin = read_ & (capacity_ - 1);
  const uint64_t first = std::min(count, capacity_ - begin);
  std::memcpy(bytes, data_ + begin, first);
  std::memcpy(static_cast<std::byte*>(bytes) + first, data_, count - first);
  read_ += count;
  head_->read.store(read_);
  return static_cast<int64_t>(count);
}

bool ShmRingReader::TakeWriterWaits() {
  if (head_->writer_waits.load() == 0 ||
      static_cast<uint64_t>(Available()) > capacity_ / 2) {
    return false;
  }
  head_->writer_waits.store(0);
  return true;
}

}  // namespace shoal::comm
