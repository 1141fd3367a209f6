#ifndef SHOAL_COMM_TRANSPORTS_SHM_RING_H_
#define SHOAL_COMM_TRANSPORTS_SHM_RING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace shoal::comm {

// The shared part of a ring of bytes with one writer and one reader, which may
// be two processes. Zeros are an empty ring.
struct ShmRingHead {
  alignas(64) std::atomic<uint64_t> written;  // bytes ever; the writer's
  std::atomic<uint32_t> writer_waits;         // for half of the ring
  alignas(64) std::atomic<uint64_t> read;     // bytes ever; the reader's
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// The writing end. Thread-compatible. Its own count is kept outside the shared
// memory, and the reader's is checked: the other process is not trusted.
class ShmRingWriter {
 public:
  ShmRingWriter() = default;
  // `capacity` is a power of two; head and data outlive the writer.
  ShmRingWriter(ShmRingHead* head, std::byte* data, uint64_t capacity)
      : head_(head), data_(data), capacity_(capacity) {}

  // Appends up to `size` bytes and returns how many; they are visible to the
  // reader when it returns.
  int64_t Write(const void* bytes, int64_t size);

  // Asks the reader to say when half of the ring is free. True when it is
  // free already.
  bool WaitForRoom();

  // The reader's count makes no sense: give the ring up.
  bool broken() const { return broken_; }

 private:
  uint64_t Free();

  ShmRingHead* head_ = nullptr;
  std::byte* data_ = nullptr;
  uint64_t capacity_ = 0;
  uint64_t written_ = 0;
  uint64_t known_read_ = 0;
  bool broken_ = false;
};

// The reading end; see ShmRingWriter.
class ShmRingReader {
 public:
  ShmRingReader() = default;
  ShmRingReader(ShmRingHead* head, const std::byte* data, uint64_t capacity)
      : head_(head), data_(data), capacity_(capacity) {}

  // How many bytes there are.
  int64_t Available();

  // Takes up to `size` bytes out and returns how many.
  int64_t Read(void* bytes, int64_t size);

  // True once after the writer began to wait for room and there is room.
  bool TakeWriterWaits();

  bool broken() const { return broken_; }

 private:
  ShmRingHead* head_ = nullptr;
  const std::byte* data_ = nullptr;
  uint64_t capacity_ = 0;
  uint64_t read_ = 0;
  bool broken_ = false;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_SHM_RING_H_
