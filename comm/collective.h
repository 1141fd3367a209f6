#ifndef SHOAL_COMM_COLLECTIVE_H_
#define SHOAL_COMM_COLLECTIVE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "comm/message.h"

namespace shoal::comm {

// The members of a collective, the same on all of them but for `rank`.
struct Group {
  struct Member {
    EndpointId endpoint;
    std::string address;
    std::string name;  // "worker 2", for errors
    // What it adds to sums: nodes of the step tree, rising. Together the
    // members' nodes cover what is under `root` once.
    std::vector<int64_t> nodes;
    // Members with the same one share memory; empty: with nobody. See HostOf().
    std::string host;
  };
  uint16_t id = 0;  // tells groups of one node apart; below 2^14
  int rank = 0;
  int num_leaves = 0;  // of the step tree
  int64_t root = 1;    // the node of the tree that sums are of
  std::vector<Member> members;

  int size() const { return static_cast<int>(members.size()); }
  // -1: no member.
  int RankOf(EndpointId endpoint) const {
    int rank = size() - 1;
    while (rank >= 0 &&
           members[static_cast<size_t>(rank)].endpoint != endpoint) {
      --rank;
    }
    return rank;
  }
};

// Gives each member one leaf of the tree, in rank order.
void DealOneLeafEach(Group& group);

// The host that an address of an endpoint says, for Group::Member::host: shm
// and the shm of auto; empty for all that crosses no shared memory.
std::string HostOf(std::string_view address);

// Elements [begin, end) of a vector that `rank` of `size` ranks owns.
constexpr std::pair<int64_t, int64_t> SegmentOf(int64_t count, int rank,
                                                int size) {
  return {count * rank / size, count * (rank + 1) / size};
}

// How an allreduce goes. All give the same bits: what is added is always the
// two children of a node of the step tree. (That is why there is no plain ring,
// which adds in the order of the ring.) One that the group does not allow gives
// way to another.
enum class AllReduceAlgorithm : uint8_t {
  // By size.
  kAuto,
  // Everyone sends everything to everyone and sums itself: one round.
  kExchange,
  // Everyone sums one segment and sends the sum to everyone: two rounds, and no
  // more bytes than a ring (2 (n - 1) / n of the vector each way).
  kSegments,
  // Halves, quarters ... are swapped and summed with ever farther members, and
  // back: 2 log2(n) rounds with one peer each, the same bytes. For 2^k members
  // with one node of one depth each, in order; else kSegments.
  kHalving,
  // kSegments where members read each other's memory instead of sending. For
  // members of one host that may; else kSegments.
  kRead,
  // Inside hosts, then between them, then inside: each byte crosses to another
  // host once for all of a host. Where each host's members have all that is
  // under one node; kRead with one host; else kSegments.
  kHierarchical,
};

std::string_view Name(AllReduceAlgorithm algorithm);
// Errors: kInvalidArgument (none of them, which it lists).
StatusOr<AllReduceAlgorithm> ParseAllReduceAlgorithm(std::string_view name);

// From vectors of so many bytes on, kAuto takes this algorithm.
struct AllReduceSwitch {
  int64_t from_bytes = 0;
  AllReduceAlgorithm algorithm = AllReduceAlgorithm::kSegments;
};
// What was found good on small machines; `shoal bench allreduce --tune`
// measures others.
std::vector<AllReduceSwitch> DefaultSwitches();

// An entry for each, "65536 read", rising from 0: cluster.allreduce of jobs.
std::vector<std::string> FormatSwitches(
    std::span<const AllReduceSwitch> switches);
// Errors: kInvalidArgument (the entry and what is wrong with it).
StatusOr<std::vector<AllReduceSwitch>> ParseSwitches(
    std::span<const std::string> entries);

// Operations that all members of a group call alike, in the same order; sums go
// along the step tree, so that they have the same bits for every number of
// members. Counts are in elements.
//
// Nothing blocks: `done` runs once, on the node's thread, never inside the
// call, with OK or why it failed; the memory that the call was given must stay
// as it is until then and is free of all readers afterwards. A member that is
// lost, is late, or calls something else ends the operation for all with an
// error that names it, and the collective is of no use from then on.
class Collective {
 public:
  using Done = std::function<void(const Status&)>;

  virtual ~Collective() = default;

  virtual const Group& group() const = 0;

  // out[count] = the sum of all members' terms; terms[i] is that of nodes[i] of
  // this member. `out` may be one of the terms.
  virtual void AllReduce(DType dtype, std::span<const void* const> terms,
                         void* out, int64_t count, Done done) = 0;

  // Of that sum, this rank's segment, written to the same place of `out`.
  virtual void ReduceScatter(DType dtype, std::span<const void* const> terms,
                             void* out, int64_t count, Done done) = 0;

  // data[count]: this rank's segment is there and the others are filled in.
  virtual void AllGather(DType dtype, void* data, int64_t count, Done done) = 0;

  // from[size, count] to[size, count]: row r of `from` goes to rank r, and row
  // r of `to` comes from it.
  virtual void AllToAll(DType dtype, const void* from, void* to, int64_t count,
                        Done done) = 0;

  // data[count] of `root` comes to all.
  virtual void Broadcast(DType dtype, void* data, int64_t count, int root,
                         Done done) = 0;

  // Ends when all have called it.
  virtual void Barrier(Done done) = 0;
};

}  // namespace shoal::comm

#endif  // SHOAL_COMM_COLLECTIVE_H_
