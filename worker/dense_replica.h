#ifndef SHOAL_WORKER_DENSE_REPLICA_H_
#define SHOAL_WORKER_DENSE_REPLICA_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "comm/node.h"
#include "comm/node_collective.h"
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
// Belongs to the worker's node, which hands over what concerns the collective.
class DenseReplica {
 public:
  using Done = std::function<void(const Status&)>;

  // `context` must outlive it. Errors: those of DenseStore::Create() and of the
  // collective's backend.
  static StatusOr<std::unique_ptr<DenseReplica>> Create(
      comm::NodeContext& context, const ps::JoinResult& joined);

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

  // Sums what all workers give and applies it as step(). terms[i] [values] is
  // the gradient of node i of the worker's cover of the step tree; they must
  // stay until `done`, which runs once, never inside the call, with OK or why
  // it failed: a worker that is lost or late, named, or a sum that is not
  // finite.
  void Apply(std::span<const float* const> terms, double learning_rate_factor,
             Done done);

  // A file of a checkpoint with all variables, as ps::SaveParts(); and back, as
  // ps::LoadParts(), with the step that it is of. On the storage thread, while
  // nothing else goes on here.
  StatusOr<std::vector<std::string>> Save(Storage& storage,
                                          const std::string& folder,
                                          const std::string& name);
  Status Load(Storage& storage, const std::string& folder, int64_t step);

 private:
  explicit DenseReplica(const ps::ModelSpec& model)
      : model_(model), layout_(model_) {}
  Status CheckSum() const;

  const ps::ModelSpec model_;
  const ps::DenseLayout layout_;
  std::unique_ptr<ps::DenseStore> store_;
  std::unique_ptr<comm::NodeCollective> collective_;
  std::vector<float> values_;
  std::vector<float> sum_;
  int64_t step_ = 0;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_DENSE_REPLICA_H_
