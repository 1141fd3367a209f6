#ifndef SHOAL_PS_CLIENT_H_
#define SHOAL_PS_CLIENT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "ps/caller.h"
#include "ps/dense_layout.h"
#include "ps/model_spec.h"
#include "ps/route.h"
#include "ps/wire.h"

namespace shoal::ps {

// Which shard is the head of a slot, as far as a client needs to know.
struct SlotHeads {
  int slot_bits = 10;
  int num_shards = 1;
  std::vector<int32_t> of_slot;

  static std::shared_ptr<const SlotHeads> Of(const RouteTable& route);
};

// The distinct ids that a step looks up in one group of tables, in the order in
// which they travel: by shard, and inside a shard by IdHash(). Row i of every
// table of the group belongs to ids[i].
struct GroupIds {
  std::vector<uint64_t> ids;
  std::vector<int64_t> shard_begin;        // [shards + 1], into ids
  std::shared_ptr<const SlotHeads> heads;  // by which they are divided

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
};

// Merges duplicates of `occurrences` and orders what is left; index[i] becomes
// the row of occurrences[i]. Reuses its memory from call to call.
// Thread-compatible.
class IdCollector {
 public:
  void Collect(std::span<const uint64_t> occurrences,
               const std::shared_ptr<const SlotHeads>& heads, GroupIds& ids,
               std::vector<int32_t>& index);

 private:
  struct Entry {
    uint64_t hash;
    int32_t shard;
    int32_t first;  // its number by first appearance
  };
  std::vector<int32_t> buckets_;
  std::vector<Entry> entries_;
  std::vector<Entry> sorted_;
  std::vector<uint64_t> distinct_;
  std::vector<int32_t> rank_;
};

// Pulls rows and dense variables from the heads of slots and pushes gradients
// to them: one envelope per shard and step, with nothing per slot.
//
// Under a new route, of which a shard or the coordinator tells, whatever is not
// answered is asked anew; `version`, or sequence, sees to it that nothing is
// done twice.
//
// Memory that a call names must stay until its `done`; `owner` can see to that.
// Every call ends once, within the plan's timeout, with an error that names the
// shard and what was waited for. Belongs to the node's thread.
class Client {
 public:
  using Done = std::function<void(Status)>;

  struct PullRequest {
    int64_t step = 0;
    std::span<const GroupIds> groups;  // one per group of the model
    // Per table [rows of its group, dim] f32, written.
    std::span<float* const> rows;
    float* dense = nullptr;  // DenseLayout::size() floats, written; null: none
    double* loss_scale = nullptr;  // of the step, written; null: none
    // In clocks, the worst of all shards, see ps/staleness.h; null: none.
    int64_t* staleness = nullptr;
    // sync with backup workers: the virtual worker whose gradients of the step
    // before came last, written unless none is known; null: none.
    int* came_last = nullptr;
    // Not null, in sync: of a client that can stand in for another worker. When
    // the step before is not complete after `patience`, the call ends with
    // kAborted and a virtual worker that is missing is written.
    int* lacks = nullptr;
    Duration patience = {};
    std::shared_ptr<const void> owner;
  };

  struct PushPiece {
    int64_t node = 0;                    // of the StepTree
    std::span<const float* const> rows;  // gradients, as in PullRequest
    const float* dense = nullptr;        // read where shards hold dense chunks
  };
  struct PushRequest {
    int64_t step = 0;
    double learning_rate_factor = 1;  // outside sync
    std::span<const GroupIds> groups;
    std::span<const PushPiece> pieces;
    // What was pulled for the step, as in PullRequest; read where delays are
    // compensated.
    const float* computed_from = nullptr;
    // Where steps are shared: others had pushed all of it before, as one shard
    // says, the same to all; written; null: none.
    bool* repeated = nullptr;
    std::shared_ptr<const void> owner;
  };

  // `caller` must outlive the client.
  Client(Caller& caller, ModelSpec model, ClusterPlan plan, RouteTable route);

  const DenseLayout& layout() const { return layout_; }
  const std::shared_ptr<const SlotHeads>& heads() const { return heads_; }

  void Pull(const PullRequest& request, Done done);
  // `done` runs when every shard has acknowledged: in sync, when the step is
  // committed.
  void Push(const PushRequest& request, Done done);

  // Goes on with `route`, if it is newer.
  void Adopt(RouteTable route);
  // The shards have forgotten its pushes, of which none is under way: another
  // mode counts from here on.
  void BeginSequences() { next_sequence_ = 1; }

 private:
  // The ids and rows of an operation, divided by the heads of now.
  struct Rows {
    std::span<const uint64_t> ids;
    std::span<const int64_t> shard_begin;
    // Where row i lies in the memory that was given; none: there.
    std::vector<int64_t> place;
    GroupIds own;  // where `ids` were divided anew
  };
  struct Operation {
    bool is_push = false;
    int64_t step = 0;
    std::vector<const GroupIds*> groups;
    std::vector<float*> rows;      // pull
    float* dense = nullptr;        // pull
    double* loss_scale = nullptr;  // pull
    int64_t* staleness = nullptr;  // pull
    int* came_last = nullptr;      // pull
    int* lacks = nullptr;          // pull
    Duration patience = {};        // pull
    bool* repeated = nullptr;      // push
    std::vector<PushPiece> pieces;
    std::vector<std::vector<const float*>> piece_rows;
    const float* computed_from = nullptr;  // push
    double learning_rate_factor = 1;
    uint64_t sequence = 0;
    std::shared_ptr<const void> owner;
    Done done;

    std::vector<Rows> divided;  // per group
    std::vector<uint64_t> calls;
    size_t missing = 0;
    Status status;  // the first error
  };

  void Start(uint64_t id);
  void StartPull(uint64_t id, Operation& operation);
  void StartPush(uint64_t id, Operation& operation);
  void Divide(Operation& operation) const;
  // Its pushes up to this sequence are.
  uint64_t Acknowledged() const;
  // Of rows [begin, end) of a group, as they travel.
  Buffer IdsFrame(const Operation& operation, size_t group, size_t shard) const;
  // The chunks of a shard, of what is laid out as DenseLayout has it.
  Buffer DenseFrame(size_t shard, const float* values) const;
  Buffer GradientFrame(const Operation& operation, size_t group, size_t shard,
                       const float* gradients, int64_t dim) const;
  void Call(uint64_t id, size_t shard, Method method, std::string what,
            std::vector<Buffer> frames);
  void OnReply(uint64_t id, size_t shard, const StatusOr<comm::Message>& reply);
  void Arrived(uint64_t id, const Status& status);
  Status TakeRows(const comm::Message& reply, size_t shard,
                  const Operation& operation) const;

  Caller& caller_;
  ModelSpec model_;
  ClusterPlan plan_;
  RouteTable route_;
  std::shared_ptr<const SlotHeads> heads_;
  DenseLayout layout_;
  // By shard: the slots that it is head of.
  std::vector<Portion> headed_;
  uint64_t next_sequence_ = 1;
  uint64_t next_operation_ = 1;
  std::map<uint64_t, Operation> operations_;  // in order
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_CLIENT_H_
