#include "comm/transports/message_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/strcat.h"

namespace shoal::comm {
namespace {

// "shm1" as it lies in memory.
constexpr uint32_t kMagic = 0x316d6873;

// In front of each message; then the frames' sizes (8 bytes each), then they.
struct StreamHead {
  uint32_t magic;
  uint32_t num_frames;
  uint64_t frame_bytes;  // of all frames
  MessageHeader header;
};
static_assert(sizeof(StreamHead) == 32);

// Parts of this size are made visible one by one, so that both sides of a large
// message copy at the same time.
constexpr int64_t kChunkBytes = 128 << 10;

// Frames start at multiples of this in the memory that they share.
constexpr int64_t kFrameAlignment = 64;

int64_t RoundUp(int64_t size) {
  return (size + kFrameAlignment - 1) / kFrameAlignment * kFrameAlignment;
}

}  // namespace

MessageWriter::MessageWriter(Message message)
    : size_bytes_(message.size_bytes()) {
  const size_t num_frames = message.frames.size();
  Buffer head = Buffer::Allocate(
      static_cast<int64_t>(sizeof(StreamHead) + num_frames * sizeof(uint64_t)));
  const StreamHead fixed = {
      .magic = kMagic,
      .num_frames = static_cast<uint32_t>(num_frames),
      .frame_bytes = static_cast<uint64_t>(
          size_bytes_ - static_cast<int64_t>(sizeof(MessageHeader))),
      .header = message.header};
  std::memcpy(head.data(), &fixed, sizeof(fixed));
  std::byte* sizes = head.data() + sizeof(fixed);
  for (const Buffer& frame : message.frames) {
    const auto size = static_cast<uint64_t>(frame.size());
    std::memcpy(sizes, &size, sizeof(size));
    sizes += sizeof(size);
  }
  pieces_ = std::move(message.frames);
  pieces_.insert(pieces_.begin(), std::move(head));
}

bool MessageWriter::WriteSome(ShmRingWriter& ring,
                              FunctionRef<void()> on_chunk) {
  while (piece_ < pieces_.size()) {
    Buffer& piece = pieces_[piece_];
    const int64_t rest = piece.size() - offset_;
    if (rest == 0) {
      piece = Buffer();
      ++piece_;
      offset_ = 0;
      continue;
    }
    const int64_t written =
        ring.Write(static_cast<const Buffer&>(piece).data() + offset_,
                   std::min(rest, kChunkBytes));
    if (written == 0) {
      return false;
    }
    offset_ += written;
    if (written == kChunkBytes) {
      on_chunk();
    }
  }
  return true;
}

bool MessageReader::Fill(ShmRingReader& ring, void* to, int64_t size,
                         int64_t* budget) {
  while (have_<size&& * budget> 0) {
    const int64_t n = ring.Read(static_cast<std::byte*>(to) + have_,
                                std::min({size - have_, kChunkBytes, *budget}));
    if (n == 0) {
      return false;
    }
    have_ += n;
    *budget -= n;
  }
  return have_ == size;
}

StatusOr<std::optional<Message>> MessageReader::Next(ShmRingReader& ring,
                                                     int64_t* budget) {
  if (state_ == State::kHead) {
    if (!Fill(ring, head_, sizeof(head_), budget)) {
      return std::optional<Message>();
    }
    SHOAL_RETURN_IF_ERROR(StartSizes());
  }
  if (state_ == State::kSizes) {
    if (!Fill(ring, sizes_.data(),
              static_cast<int64_t>(sizes_.size() * sizeof(uint64_t)), budget)) {
      return std::optional<Message>();
    }
    SHOAL_RETURN_IF_ERROR(StartFrames());
  }
  for (; frame_ < message_.frames.size(); ++frame_, have_ = 0) {
    Buffer& frame = message_.frames[frame_];
    if (!Fill(ring, frame.data(), frame.size(), budget)) {
      return std::optional<Message>();
    }
  }
  state_ = State::kHead;
  return std::optional<Message>(std::exchange(message_, Message()));
}

Status MessageReader::StartSizes() {
  StreamHead head;
  std::memcpy(&head, head_, sizeof(head));
  if (head.magic != kMagic) {
    return DataLossError("what came is not a message of this transport");
  }
  if (head.num_frames > kMessageFramesMax ||
      head.frame_bytes > kMessageBytesMax - sizeof(MessageHeader)) {
    return DataLossError(StrCat("a message claims ", head.num_frames,
                                " frames of ", head.frame_bytes, " bytes"));
  }
  message_.header = head.header;
  sizes_.resize(head.num_frames);
  state_ = State::kSizes;
  have_ = 0;
  return OkStatus();
}

Status MessageReader::StartFrames() {
  StreamHead head;
  std::memcpy(&head, head_, sizeof(head));
  uint64_t total = 0;
  int64_t memory = 0;
  for (const uint64_t size : sizes_) {
    if (size > head.frame_bytes - total) {
      return DataLossError("the frames of a message exceed its size");
    }
    total += size;
    memory += RoundUp(static_cast<int64_t>(size));
  }
  if (total != head.frame_bytes) {
    return DataLossError("the frames of a message do not add up to its size");
  }
  const Buffer all = Buffer::Allocate(memory);
  int64_t begin = 0;
  for (const uint64_t size : sizes_) {
    const auto length = static_cast<int64_t>(size);
    message_.frames.push_back(length == 0 ? Buffer()
                                          : all.Slice(begin, length));
    begin += RoundUp(length);
  }
  state_ = State::kFrames;
  have_ = 0;
  frame_ = 0;
  return OkStatus();
}

}  // namespace shoal::comm
