#ifndef SHOAL_COMM_TRANSPORT_H_
#define SHOAL_COMM_TRANSPORT_H_

#include <memory>

#include "base/registry.h"
#include "base/status.h"
#include "comm/endpoint.h"

namespace shoal::comm {

// Makes an endpoint of one transport; `options.self` is set.
using TransportFactory =
    StatusOr<std::unique_ptr<Endpoint>> (*)(const Endpoint::Options& options);

// All transports that are linked in, by name. The contract test walks it.
Registry<TransportFactory>& TransportRegistry();

// Room in a send queue: a message bigger than the whole queue passes when the
// queue is empty, so that every message can be sent some day.
constexpr bool HasRoom(int64_t queued_bytes, int64_t message_bytes,
                       int64_t queue_bytes_max) {
  return queued_bytes == 0 || queued_bytes + message_bytes <= queue_bytes_max;
}

// Errors: kInvalidArgument (over kMessageBytesMax or kMessageFramesMax).
Status CheckMessageSize(const Message& message);

// What Send() refuses a message with: kUnavailable, and kResourceExhausted.
Status NotConnectedError(EndpointId peer);
Status QueueFullError(EndpointId peer);

}  // namespace shoal::comm

#define SHOAL_REGISTER_TRANSPORT(name, factory)                     \
  [[maybe_unused]] static const bool SHOAL_CONCAT(shoal_transport_, \
                                                  __LINE__) =       \
      ::shoal::comm::TransportRegistry().Add(name, factory, __FILE__)

#endif  // SHOAL_COMM_TRANSPORT_H_
