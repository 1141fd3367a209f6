#ifndef SHOAL_WORKER_DENSE_REPLICA_H_
#define SHOAL_WORKER_DENSE_REPLICA_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "comm/node.h"
#include "comm/node_collective.h"
#include "ps/checkpoint_format.h"
#include "ps/dense_layout.h"
#include "ps/dense_store.h"
#include "ps/member.h"

namespace shoal::worker {

// All dense variables and their optimizer state, where every worker holds them
// (`consistency.dense: allreduce`): the workers' gradients are summed by a
// collective, and each worker applies the sum to its own copy, so that all stay
// the same to the bit; along the step tree, with backend `transport`, the same
// that shards would hold.
//
// With `consistency.sharded_optimizer` each has the state of its own part of
// the chunks only: it gets the sum of those (reduce-scatter), applies it, and
// hands the new values to the others (all-gather). What is sent is laid out so
// that the parts are the collective's segments: part after part, each as long
// as the longest.
//
// Belongs to the worker's node, which hands over what concerns the collective.
class DenseReplica {
 public:
  using Done = std::function<void(const Status&)>;
  using OpenDeviceFn = std::function<StatusOr<std::shared_ptr<Device>>()>;

  // What is summed while the rest is computed: takes much longer than the
  // latency of a sum.
  static constexpr int64_t kBucketBytes = int64_t{256} << 10;

  // `context` must outlive it; `open_device` is the collective's, see there.
  // Errors: those of DenseStore::Create() and of the collective's backend.
  static StatusOr<std::unique_ptr<DenseReplica>> Create(
      comm::NodeContext& context, const ps::JoinResult& joined,
      OpenDeviceFn open_device = {});

  // Ends when the collective works among all workers, or says why it does not;
  // called by all of them.
  void Open(Done done) { collective_->Barrier(std::move(done)); }

  // Takes messages of the collective; false for others.
  bool OnMessage(comm::EndpointId from, comm::Message& message) {
    return collective_->OnMessage(from, message);
  }
  void OnPeerDown(comm::EndpointId peer, const Status& why) {
    collective_->OnPeerDown(peer, why);
  }
  void OnSendable(comm::EndpointId peer) { collective_->OnSendable(peer); }

  // Steps applied.
  int64_t step() const { return step_; }
  // As DenseLayout lays them out; they change at the end of Apply() alone.
  const float* values() const { return values_.data(); }
  // Of values, the optimizer's state, and what is summed.
  int64_t memory_bytes() const;

  // Sums what all workers give and applies it as step(). terms[i] [values] is
  // the gradient of node i of the worker's cover of the step tree, which need
  // not be there before Ready() says so; they must stay until `done`, which
  // runs once, never inside a call, with OK or why it failed: a worker that is
  // lost or late, named, or a sum that is not finite.
  void Begin(std::span<const float* const> terms, double learning_rate_factor,
             Done done);

  // The gradients of `variable`, or of all, of the step that has begun are
  // there. They are reduced in buckets, in the order in which a backward pass
  // yields them: from the last variable to the first, as many as make
  // kBucketBytes at least. Of a sharded optimizer all are one bucket. The last
  // bucket, and so the change of values, waits for ReadyAll(): other gradients
  // may still be computed from them.
  void Ready(int variable);
  void ReadyAll() { Start(num_buckets()); }
  int num_buckets() const { return static_cast<int>(buckets_.size()); }

  // Of all variables, or this worker's part of them, for a checkpoint. While
  // nothing else goes on here.
  ps::ShardState state() const {
    return {
        .model = &model_, .dense = store_.get(), .chunks = store_->chunks()};
  }
  // And back, as ps::LoadParts(), with the step that it is of: all values, and
  // for as long as that takes all state. On the storage thread, while nothing
  // else goes on here.
  Status Load(Storage& storage, const std::string& folder, int64_t step);

 private:
  DenseReplica(comm::NodeContext& context, const ps::ModelSpec& model)
      : context_(context), model_(model), layout_(model_) {}
  // Elements [begin, end) of the layout.
  struct Bucket {
    int64_t begin = 0;
    int64_t end = 0;
    int variables = 0;
  };
  // The step that is under way.
  struct Step {
    std::vector<const float*> terms;
    double learning_rate_factor = 1;
    Done done;
    std::vector<int> missing = {};  // variables, by bucket
    Time begin;                     // of the first sum
    int started = 0;                // buckets
    int ended = 0;
    Status status;  // the first that is not OK
  };

  Status MakeStore(const ps::JoinResult& joined);
  void MakeBuckets();
  void Start(int buckets);
  void SumBucket(const Bucket& bucket);
  void OnBucket(const Status& status);
  void SumPart();
  void OnPart(const Status& status);
  // Applies what is the store's of sum_, and puts its values there.
  Status ApplySum();
  void End();

  comm::NodeContext& context_;
  const ps::ModelSpec model_;
  const ps::DenseLayout layout_;
  std::unique_ptr<ps::DenseStore> store_;
  std::unique_ptr<comm::NodeCollective> collective_;
  std::vector<float> values_;
  std::vector<float> sum_;
  // Where each chunk is in sum_ and in sent_; none: as in values_.
  std::vector<int64_t> places_;
  // Of terms but the first, which is sent from sum_.
  std::vector<std::vector<float>> sent_;
  std::vector<Bucket> buckets_;
  std::vector<size_t> bucket_of_;  // by variable
  std::optional<Step> under_way_;
  int64_t step_ = 0;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_DENSE_REPLICA_H_
