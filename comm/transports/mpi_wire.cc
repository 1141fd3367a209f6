#include "comm/transports/mpi_wire.h"

#include <cstring>
#include <utility>

#include "base/strcat.h"

namespace shoal::comm {
namespace {

constexpr int64_t kAlignment = 64;
// Up to here a copy costs less than a message in pieces.
constexpr int64_t kCopiedMax = int64_t{16} << 10;

// MPI counts the bytes of a message in an int.
static_assert(kMessageBytesMax + sizeof(MpiEnvelope) +
                  kMessageFramesMax * (kAlignment + sizeof(uint64_t)) <
              (int64_t{1} << 31));

constexpr int64_t RoundUp(int64_t size) {
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

Buffer Padding(int64_t size) {
  static std::byte zeros[kAlignment] = {};
  return Buffer::Wrap(zeros, size, nullptr);
}

}  // namespace

std::vector<Buffer> EncodeMpi(MpiEnvelope envelope, const Message& message) {
  envelope.num_frames = static_cast<uint32_t>(message.frames.size());
  envelope.header = message.header;
  const int64_t head_bytes = RoundUp(static_cast<int64_t>(
      sizeof(envelope) + message.frames.size() * sizeof(uint64_t)));
  int64_t total = head_bytes;
  for (const Buffer& frame : message.frames) {
    total += RoundUp(frame.size());
  }
  const bool copied = total <= kCopiedMax;
  Buffer head = Buffer::Allocate(copied ? total : head_bytes);
  std::memset(head.data(), 0, static_cast<size_t>(head.size()));
  std::memcpy(head.data(), &envelope, sizeof(envelope));
  std::byte* size_at = head.data() + sizeof(envelope);
  std::byte* frame_at = head.data() + head_bytes;
  std::vector<Buffer> pieces;
  for (const Buffer& frame : message.frames) {
    const auto size = static_cast<uint64_t>(frame.size());
    std::memcpy(size_at, &size, sizeof(size));
    size_at += sizeof(size);
    if (frame.empty()) {
      continue;
    }
    if (copied) {
      std::memcpy(frame_at, frame.data(), static_cast<size_t>(size));
      frame_at += RoundUp(frame.size());
      continue;
    }
    pieces.push_back(frame);
    if (const int64_t rest = RoundUp(frame.size()) - frame.size(); rest > 0) {
      pieces.push_back(Padding(rest));
    }
  }
  pieces.insert(pieces.begin(), std::move(head));
  return pieces;
}

StatusOr<MpiReceived> DecodeMpi(const Buffer& bytes) {
  MpiReceived got;
  MpiEnvelope& envelope = got.envelope;
  const auto size = static_cast<uint64_t>(bytes.size());
  if (size >= sizeof(envelope)) {
    std::memcpy(&envelope, bytes.data(), sizeof(envelope));
  }
  if (size < sizeof(envelope) || envelope.magic != MpiEnvelope::kMagic ||
      envelope.num_frames > kMessageFramesMax) {
    return DataLossError("what came is not a message of this transport");
  }
  got.message.header = envelope.header;
  auto at = static_cast<uint64_t>(
      RoundUp(static_cast<int64_t>(sizeof(envelope)) +
              int64_t{envelope.num_frames} * int64_t{sizeof(uint64_t)}));
  for (uint32_t i = 0; i < envelope.num_frames; ++i) {
    uint64_t frame = 0;
    if (at <= size) {
      std::memcpy(&frame, bytes.data() + sizeof(envelope) + i * sizeof(frame),
                  sizeof(frame));
    }
    if (at > size || frame > size - at) {
      return DataLossError("the frames of a message exceed its size");
    }
    const auto length = static_cast<int64_t>(frame);
    got.message.frames.push_back(
        length == 0 ? Buffer() : bytes.Slice(static_cast<int64_t>(at), length));
    at += static_cast<uint64_t>(RoundUp(length));
  }
  return got;
}

}  // namespace shoal::comm
