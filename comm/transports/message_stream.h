#ifndef SHOAL_COMM_TRANSPORTS_MESSAGE_STREAM_H_
#define SHOAL_COMM_TRANSPORTS_MESSAGE_STREAM_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "base/function_ref.h"
#include "base/status.h"
#include "comm/message.h"
#include "comm/transports/shm_ring.h"

namespace shoal::comm {

// Writes one message into a ring of bytes, in as many parts as it takes. Its
// frames are shared until they are written.
class MessageWriter {
 public:
  explicit MessageWriter(Message message);

  // Writes what fits; calls `on_chunk` when the reader could start on a large
  // message already. True when all of the message is in the ring.
  bool WriteSome(ShmRingWriter& ring, FunctionRef<void()> on_chunk);

  int64_t size_bytes() const { return size_bytes_; }

 private:
  int64_t size_bytes_;
  std::vector<Buffer> pieces_;  // the head, then the frames
  size_t piece_ = 0;
  int64_t offset_ = 0;
};

// Reads messages out of a ring of bytes. Sizes are checked before memory is
// taken. Frames of one message share one piece of memory of their own.
class MessageReader {
 public:
  // A message, or none when the ring is empty before its end. Reads up to
  // `*budget` bytes and takes them off. Errors: kDataLoss (not a message).
  StatusOr<std::optional<Message>> Next(ShmRingReader& ring, int64_t* budget);

 private:
  enum class State { kHead, kSizes, kFrames };
  Status StartSizes();
  Status StartFrames();

  // Reads on to `size`; true when it is reached.
  bool Fill(ShmRingReader& ring, void* to, int64_t size, int64_t* budget);

  State state_ = State::kHead;
  alignas(8) std::byte head_[32];
  int64_t have_ = 0;  // of the part that is being read
  std::vector<uint64_t> sizes_;
  size_t frame_ = 0;
  Message message_;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_MESSAGE_STREAM_H_
