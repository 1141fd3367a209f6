#include "comm/transport.h"

#include "base/random.h"
#include "base/strcat.h"

namespace shoal::comm {

Registry<TransportFactory>& TransportRegistry() {
  static auto* const registry = new Registry<TransportFactory>("transport");
  return *registry;
}

Status CheckMessageSize(const Message& message) {
  const auto num_frames = static_cast<int64_t>(message.frames.size());
  if (num_frames > kMessageFramesMax) {
    return InvalidArgumentError(StrCat("send: the message has ", num_frames,
                                       " frames; at most ", kMessageFramesMax,
                                       " are allowed"));
  }
  const int64_t size = message.size_bytes();
  if (size > kMessageBytesMax) {
    return InvalidArgumentError(StrCat("send: the message has ", size,
                                       " bytes; at most ", kMessageBytesMax,
                                       " are allowed: send it in parts"));
  }
  return OkStatus();
}

Status NotConnectedError(EndpointId peer) {
  return UnavailableError(
      StrCat("send: ", peer, " is not connected, or it is down"));
}

Status QueueFullError(EndpointId peer) {
  return ResourceExhaustedError(
      StrCat("send: the queue to ", peer, " is full"));
}

StatusOr<std::unique_ptr<Endpoint>> CreateEndpoint(
    const std::string& transport, const Endpoint::Options& options) {
  SHOAL_ASSIGN_OR_RETURN(const TransportFactory* const factory,
                         TransportRegistry().Find(transport));
  Endpoint::Options complete = options;
  while (complete.self.value <= kCoordinator.value &&
         complete.self != kCoordinator) {
    complete.self.value = EntropySeed();
  }
  return (*factory)(complete);
}

}  // namespace shoal::comm
