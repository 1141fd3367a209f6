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
                             .nodes = tree.Cover(begin, end),
                             .host = comm::HostOf(peer.address)});
  }
  return group;
}

}  // namespace

StatusOr<std::unique_ptr<DenseReplica>> DenseReplica::Create(
    comm::NodeContext& context, const ps::JoinResult& joined,
    OpenDeviceFn open_device) {
  auto replica =
      std::unique_ptr<DenseReplica>(new DenseReplica(context, joined.model));
  SHOAL_RETURN_IF_ERROR(replica->MakeStore(joined));
  replica->MakeBuckets();
  SHOAL_ASSIGN_OR_RETURN(
      const comm::CollectiveFactory* const factory,
      comm::CollectiveRegistry().Find(joined.plan.collective));
  SHOAL_ASSIGN_OR_RETURN(std::vector<comm::AllReduceSwitch> switches,
                         comm::ParseSwitches(joined.plan.allreduce));
  SHOAL_ASSIGN_OR_RETURN(replica->collective_,
                         (*factory)(context, GroupOf(joined),
                                    {.timeout = joined.plan.timeout,
                                     .switches = std::move(switches),
                                     .open_device = std::move(open_device)}));
  return replica;
}

Status DenseReplica::MakeStore(const ps::JoinResult& joined) {
  values_.resize(static_cast<size_t>(layout_.size()));
  if (joined.plan.dense != ps::DensePlace::kWorkerParts) {
    SHOAL_ASSIGN_OR_RETURN(store_,
                           ps::DenseStore::Create(model_, layout_.chunks()));
    store_->CopyFlat(values_.data());
    sum_.resize(values_.size());
    return OkStatus();
  }
  // One at a time, since their state may not fit at once.
  for (const ps::DenseChunk& chunk : layout_.chunks()) {
    SHOAL_ASSIGN_OR_RETURN(store_, ps::DenseStore::Create(model_, {chunk}));
    store_->CopyFlat(values_.data());
  }
  const int size = joined.num_workers;
  std::vector<int64_t> lengths(static_cast<size_t>(size));
  for (size_t c = 0; c < layout_.chunks().size(); ++c) {
    int64_t& length = lengths[static_cast<size_t>(layout_.PartOf(c, size))];
    places_.push_back(length);
    length += layout_.chunks()[c].count;
  }
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::vector<ps::DenseChunk> own;
  for (size_t c = 0; c < places_.size(); ++c) {
    const int part = layout_.PartOf(c, size);
    places_[c] += part * longest;
    if (part == joined.index) {
      own.push_back(layout_.chunks()[c]);
      own.back().offset = places_[c];
    }
  }
  sum_.resize(static_cast<size_t>(size * longest));
  SHOAL_ASSIGN_OR_RETURN(store_,
                         ps::DenseStore::Create(model_, std::move(own)));
  return OkStatus();
}

int64_t DenseReplica::memory_bytes() const {
  size_t floats = values_.size() + sum_.size();
  for (const std::vector<float>& sent : sent_) {
    floats += sent.size();
  }
  return store_->memory_bytes() + static_cast<int64_t>(floats * sizeof(float));
}

void DenseReplica::MakeBuckets() {
  const bool parts = !places_.empty();
  bucket_of_.resize(model_.variables.size());
  Bucket bucket = {.begin = layout_.size(), .end = layout_.size()};
  for (size_t v = bucket_of_.size(); v-- > 0;) {
    bucket_of_[v] = buckets_.size();
    bucket.begin = layout_.offset(static_cast<int>(v));
    ++bucket.variables;
    if (!parts &&
        (bucket.end - bucket.begin) * int64_t{sizeof(float)} >= kBucketBytes) {
      buckets_.push_back(bucket);
      bucket = {.begin = bucket.begin, .end = bucket.begin};
    }
  }
  if (buckets_.empty() || bucket.variables > 0) {
    buckets_.push_back(bucket);
  }
}

void DenseReplica::Begin(std::span<const float* const> terms,
                         double learning_rate_factor, Done done) {
  under_way_ = {.terms = {terms.begin(), terms.end()},
                .learning_rate_factor = learning_rate_factor,
                .done = std::move(done)};
  for (const Bucket& bucket : buckets_) {
    under_way_->missing.push_back(bucket.variables);
  }
}

void DenseReplica::Ready(int variable) {
  if (!under_way_) {
    return;  // It has failed.
  }
  std::vector<int>& missing = under_way_->missing;
  --missing[bucket_of_[static_cast<size_t>(variable)]];
  Start(static_cast<int>(
      std::find_if(missing.begin(), missing.end() - 1,
                   [](int variables) { return variables > 0; }) -
      missing.begin()));
}

// Starts the first `buckets` buckets, all members in this order.
void DenseReplica::Start(int buckets) {
  while (under_way_ && under_way_->status.ok() &&
         under_way_->started < buckets) {
    if (under_way_->started == 0) {
      under_way_->begin = context_.Now();
    }
    const Bucket& bucket = buckets_[static_cast<size_t>(under_way_->started++)];
    if (places_.empty()) {
      SumBucket(bucket);
    } else {
      SumPart();
    }
  }
}

void DenseReplica::SumBucket(const Bucket& bucket) {
  std::vector<const void*> terms;
  for (const float* const term : under_way_->terms) {
    terms.push_back(term + bucket.begin);
  }
  collective_->AllReduce(DType::kF32, terms, sum_.data() + bucket.begin,
                         bucket.end - bucket.begin,
                         [this](const Status& status) { OnBucket(status); });
}

// After a failure, the step ends when nothing uses the terms any more.
void DenseReplica::OnBucket(const Status& status) {
  Step& step = *under_way_;
  ++step.ended;
  if (step.status.ok()) {
    step.status = status;
  }
  if (step.status.ok() && step.ended == num_buckets()) {
    step.status = ApplySum();
    if (step.status.ok()) {
      store_->CopyFlat(values_.data());
    }
    End();
  } else if (!step.status.ok() && step.ended == step.started) {
    End();
  }
}

void DenseReplica::SumPart() {
  const std::vector<const float*>& terms = under_way_->terms;
  sent_.resize(terms.size() - 1);
  std::vector<const void*> raw;
  for (size_t i = 0; i < terms.size(); ++i) {
    std::vector<float>& to = i == 0 ? sum_ : sent_[i - 1];
    to.resize(sum_.size());
    for (size_t c = 0; c < places_.size(); ++c) {
      const ps::DenseChunk& chunk = layout_.chunks()[c];
      std::copy_n(terms[i] + chunk.offset, chunk.count, to.data() + places_[c]);
    }
    raw.push_back(to.data());
  }
  collective_->ReduceScatter(DType::kF32, raw, sum_.data(),
                             static_cast<int64_t>(sum_.size()),
                             [this](const Status& status) { OnPart(status); });
}

void DenseReplica::OnPart(const Status& status) {
  under_way_->status = status.ok() ? ApplySum() : status;
  if (!under_way_->status.ok()) {
    End();
    return;
  }
  store_->CopyFlat(sum_.data());
  collective_->AllGather(
      DType::kF32, sum_.data(), static_cast<int64_t>(sum_.size()),
      [this](const Status& all) {
        for (size_t c = 0; all.ok() && c < places_.size(); ++c) {
          const ps::DenseChunk& chunk = layout_.chunks()[c];
          std::copy_n(sum_.data() + places_[c], chunk.count,
                      values_.data() + chunk.offset);
        }
        under_way_->status = all;
        End();
      });
}

void DenseReplica::End() {
  RecordTrace("allreduce", step_, under_way_->begin, context_.Now());
  step_ += under_way_->status.ok() ? 1 : 0;
  const Step ended = *std::exchange(under_way_, std::nullopt);
  ended.done(ended.status);
}

Status DenseReplica::ApplySum() {
  // What a shard refuses of a push, see ps::ReadPush().
  for (const ps::DenseChunk& chunk : store_->chunks()) {
    const float* const begin = sum_.data() + chunk.offset;
    if (!std::all_of(begin, begin + chunk.count,
                     [](float x) { return std::isfinite(x); })) {
      return InvalidArgumentError(
          StrCat("the gradient of '",
                 model_.variables[static_cast<size_t>(chunk.variable)].name,
                 "' in step ", step_, " is not finite: the training diverges"));
    }
  }
  SHOAL_TRACE("apply dense", step_);
  store_->ApplyFlat(sum_.data(), under_way_->learning_rate_factor);
  return OkStatus();
}

Status DenseReplica::Load(Storage& storage, const std::string& folder,
                          int64_t step) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<ps::DenseStore> all,
                         ps::DenseStore::Create(model_, layout_.chunks()));
  SHOAL_RETURN_IF_ERROR(ps::LoadParts(
      storage, folder,
      {.model = &model_, .dense = all.get(), .chunks = layout_.chunks()}));
  all->CopyFlat(values_.data());
  size_t next = 0;  // of the store's, which lie in the same order
  for (size_t c = 0; c < layout_.chunks().size(); ++c) {
    const ps::DenseChunk& chunk = layout_.chunks()[c];
    if (next < store_->chunks().size() &&
        store_->chunks()[next].variable == chunk.variable &&
        store_->chunks()[next].first == chunk.first) {
      store_->Load(next++, all->values(c), all->state(c));
    }
  }
  step_ = step;
  return OkStatus();
}

}  // namespace shoal::worker
