#ifndef SHOAL_COMM_TRANSPORT_OPERATION_H_
#define SHOAL_COMM_TRANSPORT_OPERATION_H_

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "comm/transport_collective.h"

// What the sources of TransportCollective share.

namespace shoal::comm {

// What frames that borrow memory share with the collective, which may end
// before them.
struct TransportCollective::Alive {
  Mutex mutex;
  NodeContext* context SHOAL_GUARDED_BY(mutex) = nullptr;  // null: it ended
  TransportCollective* collective = nullptr;  // on the node's thread only
};

// Of an operation whose members read each other's memory. Each sums its segment
// in portions and says so, so that the others take a portion while it is still
// in a cache.
struct TransportCollective::Reads {
  struct Peer {
    bool offered = false;
    std::vector<uint64_t> terms;  // where they lie
    uint64_t out = 0;
    int64_t ready = 0;          // portions of its segment
    int64_t taken = 0;          // elements of it
    bool told = false;          // that all are taken
    bool acknowledged = false;  // it has taken all of this rank's
  };
  std::vector<Peer> peers;  // by rank
  int offers_missing = 0;
  int64_t announced = 0;  // portions of this rank's segment
  bool scheduled = false;
};

// Of kHalving: step j swaps halves with the member whose rank differs in bit j,
// step 2 k - 1 - j what came of them.
struct TransportCollective::Halving {
  int step = 0;
  std::vector<int64_t> missing;             // chunks, by step
  std::vector<int64_t> came;                // the same
  std::vector<std::vector<Message>> early;  // of halving steps to come
};

struct TransportCollective::Link {
  std::deque<Message> waiting;  // for room
  Status down;
};

struct TransportCollective::Operation {
  // A chunk that this rank sums: the messages with the others' terms.
  struct Chunk {
    std::vector<Message> terms;  // by rank
    int missing = 0;
  };

  uint64_t sequence = 0;
  Kind kind = Kind::kBarrier;
  DType dtype = DType::kF32;
  int64_t count = 0;
  Done done;
  TimerId timer = TimerId::kNone;
  AllReduceAlgorithm how = AllReduceAlgorithm::kSegments;
  bool begun = false;
  int root = -1;                        // of a broadcast
  std::vector<const std::byte*> terms;  // this rank's
  std::vector<Buffer> copies;           // of terms, to send instead
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  std::vector<Chunk> chunks;
  std::vector<int64_t> missing;  // messages to come, by rank
  bool sent = false;             // all that does not wait for others
  bool working = false;          // there is more to do than to wait
  std::shared_ptr<const void> borrowed;
  std::unique_ptr<Reads> reads;
  std::unique_ptr<Halving> halving;

  int64_t size() const { return SizeOf(dtype); }
  bool exchange() const { return how == AllReduceAlgorithm::kExchange; }
  bool sums() const {
    return kind == Kind::kAllReduce || kind == Kind::kReduceScatter;
  }
  bool complete() const {
    return sent && !working &&
           std::all_of(missing.begin(), missing.end(),
                       [](int64_t n) { return n == 0; });
  }
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_TRANSPORT_OPERATION_H_
