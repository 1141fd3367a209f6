#ifndef SHOAL_PS_CLIENT_H_
#define SHOAL_PS_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "ps/caller.h"
#include "ps/dense_layout.h"
#include "ps/model_spec.h"

namespace shoal::ps {

// The distinct ids that a step looks up in one group of tables, in the order in
// which they travel: by shard, and inside a shard by IdHash(). Row i of every
// table of the group belongs to ids[i].
struct GroupIds {
  std::vector<uint64_t> ids;
  std::vector<int64_t> shard_begin;  // [shards + 1], into ids

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
};

// Merges duplicates of `occurrences` and orders what is left; index[i] becomes
// the row of occurrences[i]. Reuses its memory from call to call.
// Thread-compatible.
class IdCollector {
 public:
  IdCollector(int slot_bits, int num_shards)
      : slot_bits_(slot_bits), num_shards_(num_shards) {}

  void Collect(std::span<const uint64_t> occurrences, GroupIds& ids,
               std::vector<int32_t>& index);

 private:
  struct Entry {
    uint64_t hash;
    int32_t shard;
    int32_t first;  // its number by first appearance
  };
  int slot_bits_;
  int num_shards_;
  std::vector<int32_t> buckets_;
  std::vector<Entry> entries_;
  std::vector<Entry> sorted_;
  std::vector<uint64_t> distinct_;
  std::vector<int32_t> rank_;
};

// Pulls rows and dense variables from the shards and pushes gradients to them:
// one envelope per shard and step, with nothing per slot.
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
    std::shared_ptr<const void> owner;
  };

  // `caller` must outlive the client.
  Client(Caller& caller, ModelSpec model, ClusterPlan plan, RouteTable route);

  const DenseLayout& layout() const { return layout_; }

  void Pull(const PullRequest& request, Done done);
  // `done` runs when every shard has acknowledged.
  void Push(const PushRequest& request, Done done);

 private:
  struct Gather;  // counts the answers of one call

  Status TakeRows(const comm::Message& reply, size_t shard,
                  const PullRequest& request) const;

  Caller& caller_;
  ModelSpec model_;
  ClusterPlan plan_;
  RouteTable route_;
  DenseLayout layout_;
  // Per shard.
  struct ShardState {
    std::vector<DenseChunk> chunks;
    int64_t dense_elements = 0;
    uint64_t next_sequence = 1;
  };
  std::vector<ShardState> shards_;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_CLIENT_H_
