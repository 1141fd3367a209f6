#ifndef SHOAL_COMM_MESSAGE_H_
#define SHOAL_COMM_MESSAGE_H_

#include <cstdint>
#include <functional>
#include <ostream>
#include <vector>

#include "base/buffer.h"

namespace shoal::comm {

// Names an endpoint for as long as its process lives; never used again. Drawn
// at random (the coordinator's is kCoordinator), so that a process that comes
// back is a new endpoint and nothing meant for the old one reaches it.
struct EndpointId {
  uint64_t value = 0;
  friend auto operator<=>(const EndpointId&, const EndpointId&) = default;
};
inline constexpr EndpointId kCoordinator{1};

inline std::ostream& operator<<(std::ostream& out, EndpointId id) {
  return out << "endpoint-" << std::hex << id.value << std::dec;
}

// Messages on one lane keep their order; small urgent ones pass large ones on
// the other.
enum class Lane : uint8_t { kUrgent = 0, kBulk = 1 };
inline constexpr int kNumLanes = 2;

enum class MessageKind : uint8_t { kOneWay = 0, kRequest = 1, kReply = 2 };

// Fixed-size head of every message; little endian on the wire as it lies.
struct MessageHeader {
  uint64_t request = 0;  // of the sender of the request; 0 for one-way
  uint16_t method = 0;
  MessageKind kind = MessageKind::kOneWay;
  uint8_t status = 0;  // StatusCode of a reply; its text is then frame 0
  uint32_t reserved = 0;
};
static_assert(sizeof(MessageHeader) == 16);

// A header and frames that are shared, not copied, where the transport can. By
// custom frame 0 is the method's protobuf and the rest are arrays.
struct Message {
  MessageHeader header;
  std::vector<Buffer> frames;

  int64_t size_bytes() const {
    int64_t total = sizeof(MessageHeader);
    for (const Buffer& frame : frames) {
      total += frame.size();
    }
    return total;
  }
};

// Bounds that every receiver checks before it allocates.
inline constexpr int64_t kMessageBytesMax = int64_t{1} << 30;
inline constexpr int kMessageFramesMax = 4096;

}  // namespace shoal::comm

template <>
struct std::hash<shoal::comm::EndpointId> {
  size_t operator()(shoal::comm::EndpointId id) const noexcept {
    return static_cast<size_t>(id.value);
  }
};

#endif  // SHOAL_COMM_MESSAGE_H_
