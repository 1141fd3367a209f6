#include "worker/dense_replica.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/step_tree.h"
#include "base/strcat.h"
#include "base/trace.h"
#include "ps/checkpoint_format.h"

namespace shoal::worker {
namespace {

constexpr uint16_t kGroupId = 1;

comm::Group GroupOf(const ps::JoinResult& joined) {
  comm::Group group;
  group.id = kGroupId;
  group.rank = joined.index;
  group.num_leaves = joined.plan.virtual_workers;
  const StepTree tree(group.num_leaves);
  const auto size = static_cast<int>(joined.route.workers.size());
  for (int rank = 0; rank < size; ++rank) {
    const ps::RouteTable::Peer& peer =
        joined.route.workers[static_cast<size_t>(rank)];
    const auto [begin, end] = ps::VirtualRange(joined.plan, rank, size);
    group.members.push_back({.endpoint = peer.endpoint,
                             .address = peer.address,
                             .name = peer.name,
                             .nodes = tree.Cover(begin, end)});
  }
  return group;
}

}  // namespace

StatusOr<std::unique_ptr<DenseReplica>> DenseReplica::Create(
    comm::NodeContext& context, const ps::JoinResult& joined) {
  auto replica = std::unique_ptr<DenseReplica>(new DenseReplica(joined.model));
  SHOAL_ASSIGN_OR_RETURN(
      replica->store_,
      ps::DenseStore::Create(replica->model_, replica->layout_.chunks()));
  SHOAL_ASSIGN_OR_RETURN(
      const comm::CollectiveFactory* const factory,
      comm::CollectiveRegistry().Find(joined.plan.collective));
  SHOAL_ASSIGN_OR_RETURN(
      replica->collective_,
      (*factory)(context, GroupOf(joined), joined.plan.timeout));
  const auto size = static_cast<size_t>(replica->layout_.size());
  replica->values_.resize(size);
  replica->sum_.resize(size);
  replica->store_->CopyFlat(replica->values_.data());
  return replica;
}

void DenseReplica::Apply(std::span<const float* const> terms,
                         double learning_rate_factor, Done done) {
  const std::vector<const void*> raw(terms.begin(), terms.end());
  collective_->AllReduce(
      DType::kF32, raw, sum_.data(), layout_.size(),
      [this, learning_rate_factor, done = std::move(done)](Status status) {
        if (status.ok()) {
          status = CheckSum();
        }
        if (status.ok()) {
          SHOAL_TRACE("apply dense", step_);
          store_->ApplyFlat(sum_.data(), learning_rate_factor);
          store_->CopyFlat(values_.data());
          ++step_;
        }
        done(status);
      });
}

// What a shard refuses of a push, see ps::ReadPush().
Status DenseReplica::CheckSum() const {
  for (const ps::DenseChunk& chunk : layout_.chunks()) {
    const float* const begin = sum_.data() + chunk.offset;
    if (!std::all_of(begin, begin + chunk.count,
                     [](float x) { return std::isfinite(x); })) {
      return InvalidArgumentError(
          StrCat("the gradient of '",
                 model_.variables[static_cast<size_t>(chunk.variable)].name,
                 "' in step ", step_, " is not finite: the training diverges"));
    }
  }
  return OkStatus();
}

StatusOr<std::vector<std::string>> DenseReplica::Save(Storage& storage,
                                                      const std::string& folder,
                                                      const std::string& name) {
  return ps::SaveParts(storage, folder, name,
                       {.model = &model_, .dense = store_.get()});
}

Status DenseReplica::Load(Storage& storage, const std::string& folder,
                          int64_t step) {
  SHOAL_RETURN_IF_ERROR(ps::LoadParts(
      storage, folder, {.model = &model_, .dense = store_.get()}));
  store_->CopyFlat(values_.data());
  step_ = step;
  return OkStatus();
}

}  // namespace shoal::worker
