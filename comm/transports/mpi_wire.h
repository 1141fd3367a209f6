#ifndef SHOAL_COMM_TRANSPORTS_MPI_WIRE_H_
#define SHOAL_COMM_TRANSPORTS_MPI_WIRE_H_

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "comm/message.h"

namespace shoal::comm {

// What stands in front of every message of transport `mpi`. Sessions are
// numbers that each end draws for its side of a connection.
struct MpiEnvelope {
  enum Kind : uint32_t {
    kHello = 1,    // begins a session
    kWelcome = 2,  // joins it
    kRefuse = 3,   // not the endpoint that was asked for, or it does not want
    kData = 4,
    kBye = 5,  // ends the session, after `num_bulk` messages on the bulk lane
  };
  static constexpr uint32_t kMagic = 0x3169706d;  // "mpi1"

  uint32_t magic = kMagic;
  uint32_t kind = kData;
  EndpointId from;
  EndpointId to;
  uint64_t from_session = 0;
  uint64_t to_session = 0;  // 0: not known yet
  uint32_t from_number = 0;
  uint32_t num_frames = 0;
  uint64_t num_bulk = 0;
  MessageHeader header;
};
static_assert(sizeof(MpiEnvelope) == 72);

// One MPI message: the envelope, the frames' sizes (8 bytes each), the frames,
// each at a multiple of 64 bytes. Short ones are one piece, of others the
// frames are shared.
std::vector<Buffer> EncodeMpi(MpiEnvelope envelope, const Message& message);

struct MpiReceived {
  MpiEnvelope envelope;
  Message message;
};
// Frames are slices of `bytes`. Errors: kDataLoss (not such a message).
StatusOr<MpiReceived> DecodeMpi(const Buffer& bytes);

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORTS_MPI_WIRE_H_
