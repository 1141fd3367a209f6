#ifndef SHOAL_COMM_COMM_TESTING_H_
#define SHOAL_COMM_COMM_TESTING_H_

#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "comm/endpoint.h"
#include "comm/message.h"
#include "comm/mpi_world.h"
#include "comm/transport.h"

// For the tests of this folder.
namespace shoal::comm {

// Keeps what an endpoint hands over.
class RecordingSink : public EndpointSink {
 public:
  struct Received {
    EndpointId from;
    Message message;
  };

  void OnMessage(EndpointId from, Message message) override {
    received.push_back({from, std::move(message)});
    if (on_message) {
      on_message(from, received.back().message);
    }
  }
  void OnPeerDown(EndpointId peer, const Status& why) override {
    downs.emplace_back(peer, why);
  }
  void OnSendable(EndpointId peer) override { sendable.push_back(peer); }

  std::vector<Received> received;
  std::vector<std::pair<EndpointId, Status>> downs;
  std::vector<EndpointId> sendable;
  std::function<void(EndpointId, const Message&)> on_message;
};

// An endpoint and what it received.
struct TestPeer {
  std::unique_ptr<Endpoint> endpoint;
  EndpointId id;
  RecordingSink sink;

  Status Poll(Duration timeout) { return endpoint->Poll(sink, timeout); }
};

// Polls the peers in turn until `done` holds; false when it does not in time.
inline bool PollUntil(std::initializer_list<TestPeer*> peers,
                      const std::function<bool()>& done,
                      Duration limit = std::chrono::seconds(20)) {
  const Time end = std::chrono::steady_clock::now() + limit;
  while (!done()) {
    if (std::chrono::steady_clock::now() > end) {
      return false;
    }
    for (TestPeer* const peer : peers) {
      if (!peer->Poll(peers.size() == 1 ? 50ms : 1ms).ok()) {
        return false;
      }
    }
  }
  return true;
}

// The transports that are linked in; mpi where mpirun has started the program,
// as MpiTest of integration_tests has it do.
inline std::vector<std::string> TransportsHere() {
  std::vector<std::string> names = TransportRegistry().Names();
  if (!MpiWorld::Present()) {
    std::erase(names, "mpi");
  }
  return names;
}

// `size` bytes that depend on `seed`, in whole and in their order.
inline Buffer TestBytes(int64_t size, uint64_t seed) {
  Buffer buffer = Buffer::Allocate(size);
  Random random(seed);
  for (int64_t i = 0; i < size; i += 8) {
    const uint64_t word = random();
    std::memcpy(buffer.data() + i, &word,
                static_cast<size_t>(std::min<int64_t>(8, size - i)));
  }
  return buffer;
}

inline Message TestMessage(uint64_t request, std::vector<Buffer> frames = {}) {
  Message message;
  message.header.request = request;
  message.header.method = static_cast<uint16_t>(request % 1000);
  message.frames = std::move(frames);
  return message;
}

}  // namespace shoal::comm

#endif  // SHOAL_COMM_COMM_TESTING_H_
