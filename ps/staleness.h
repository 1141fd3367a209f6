#ifndef SHOAL_PS_STALENESS_H_
#define SHOAL_PS_STALENESS_H_

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/histogram.h"
#include "base/status.h"
#include "ps/dense_layout.h"

namespace shoal::ps {

namespace wire {
class Histogram;
}  // namespace wire

void ToWire(const Histogram& histogram, wire::Histogram& out);
// Errors: kInvalidArgument, see Histogram::FromParts().
StatusOr<Histogram> FromWire(const wire::Histogram& in);

// The staleness of a gradient, in clocks, is how many clocks are missing in the
// values that it is computed from. A gradient of a worker's clock c (its c-th
// own step, from 0) would be of values with all that every worker pushes in its
// clocks before c; it is as stale as the values lack of the worker of which
// they lack the most: c - min over workers of the clocks that are applied.
// (Steps that all workers share: c is the step.) So `bounded: s` allows s, and
// in sync it is 0.
//
// A shard says for each pull how stale its slots are at the moment when it
// reads them, by what it has applied itself; the worker takes the worst of the
// shards that it pulled from.

// Where steps are dealt to workers: how far each of them is in the slots of a
// shard, found from the sequences that exactly once needs anyway.
// Belongs to the thread of its shard.
class WorkerClocks {
 public:
  // By client and slot: the last push that was applied.
  using Sequences = std::unordered_map<uint64_t, std::vector<uint64_t>>;
  // Of a client's pushes: push `sequence` brings its worker to clock
  // `sequence + offset`.
  struct Origin {
    int worker = 0;
    int64_t offset = 0;
  };

  // All steps before `step` are applied; from here on they are dealt to so many
  // workers. What was known of clients is forgotten.
  void Begin(int64_t step, int num_workers);

  // Push `sequence` of `client`, which is of `step`, was applied to some slots.
  void OnPush(uint64_t client, uint64_t sequence, int64_t step);
  // Slots came with what another shard knows.
  void OnSlots(uint64_t client, const Origin& origin);
  // Other slots are meant, or sequences changed by something else than a push.
  void Invalidate();

  std::optional<Origin> OriginOf(uint64_t client) const;

  // Of a gradient of `step`, computed from what the slots of `headed` hold now.
  int64_t Staleness(int64_t step, const Sequences& sequences,
                    const Portion& headed);

 private:
  struct Client {
    Origin origin;
    // The least sequence of all headed slots, until something changes.
    std::optional<uint64_t> least;
  };

  int64_t from_ = 0;
  int64_t num_workers_ = 1;
  std::unordered_map<uint64_t, Client> clients_;
  std::vector<int64_t> clocks_;  // of Staleness()
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_STALENESS_H_
