#include "worker/step_input.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/random.h"

namespace shoal::worker {

StepSource::StepSource(Options options) : options_(std::move(options)) {}

int64_t StepSource::steps_per_epoch() const {
  return (options_.train.num_rows() + options_.batch_size - 1) /
         options_.batch_size;
}

int64_t StepSource::share_size_max() const {
  return (options_.batch_size + options_.virtual_workers - 1) /
         options_.virtual_workers;
}

Status StepSource::FillTrain(int64_t step, const Heads& heads,
                             StepInput& input) {
  const int64_t per_epoch = steps_per_epoch();
  const int64_t epoch = step / per_epoch;
  const int64_t rows = options_.train.num_rows();
  if (order_ == nullptr || order_->epoch() != epoch) {
    order_ = std::make_unique<ExampleOrder>(options_.seed, epoch, rows,
                                            options_.shuffle);
  }
  const int64_t begin = (step % per_epoch) * options_.batch_size;
  const int64_t size = std::min(options_.batch_size, rows - begin);
  const int64_t v = options_.virtual_workers;
  const auto share_begin = [&](int64_t share) { return share * size / v; };
  const int64_t own =
      share_begin(options_.virtual_end) - share_begin(options_.virtual_begin);
  input.examples = own;
  input.shares.resize(
      static_cast<size_t>(options_.virtual_end - options_.virtual_begin));
  for (size_t i = 0; i < input.shares.size(); ++i) {
    ShareInput& share = input.shares[i];
    share.virtual_worker = options_.virtual_begin + static_cast<int>(i);
    share.dropout_key =
        HashKey(HashKey(HashKey(options_.seed, HashText("dropout")),
                        static_cast<uint64_t>(step)),
                static_cast<uint64_t>(share.virtual_worker));
    positions_.clear();
    for (int64_t p = share_begin(share.virtual_worker);
         p < share_begin(share.virtual_worker + 1); ++p) {
      positions_.push_back(order_->row(begin + p));
    }
    share.scale = size > 0 ? 1.0F / static_cast<float>(size) : 0.0F;
    share.fraction = size > 0 ? static_cast<float>(positions_.size()) /
                                    static_cast<float>(size)
                              : 0.0F;
    SHOAL_RETURN_IF_ERROR(FillBatch(options_.train, positions_, share.batch));
  }
  Collect(heads, input);
  return OkStatus();
}

Status StepSource::FillTest(int64_t begin, int64_t end, const Heads& heads,
                            StepInput& input) {
  input.examples = end - begin;
  input.shares.resize(1);
  positions_.resize(static_cast<size_t>(end - begin));
  std::iota(positions_.begin(), positions_.end(), begin);
  SHOAL_RETURN_IF_ERROR(
      FillBatch(options_.test, positions_, input.shares[0].batch));
  Collect(heads, input);
  return OkStatus();
}

// Numbers the distinct ids of each group over all shares, so that each row
// travels once however many of its shares and features look it up.
void StepSource::Collect(const Heads& heads, StepInput& input) {
  input.groups.resize(options_.groups.size());
  for (ShareInput& share : input.shares) {
    share.groups.resize(options_.groups.size());
  }
  for (size_t g = 0; g < options_.groups.size(); ++g) {
    const GroupFeatures& features = options_.groups[g];
    const size_t fields = features.categorical.size();
    occurrences_.clear();
    for (const ShareInput& share : input.shares) {
      const Batch& batch = share.batch;
      const size_t all =
          batch.size > 0 ? batch.ids.size() / static_cast<size_t>(batch.size)
                         : 0;
      for (size_t row = 0; row < static_cast<size_t>(batch.size); ++row) {
        for (const int field : features.categorical) {
          occurrences_.push_back(
              batch.ids[row * all + static_cast<size_t>(field)]);
        }
      }
      for (const int bag : features.bags) {
        const Batch::Bag& from = batch.bags[static_cast<size_t>(bag)];
        occurrences_.insert(occurrences_.end(), from.ids.begin(),
                            from.ids.end());
      }
    }
    collector_.Collect(occurrences_, heads, input.groups[g], index_);
    const int32_t* next = index_.data();
    for (ShareInput& share : input.shares) {
      GroupIndex& index = share.groups[g];
      const size_t n = fields * static_cast<size_t>(share.batch.size);
      index.categorical.assign(next, next + n);
      next += n;
      index.bags.resize(features.bags.size());
      for (size_t b = 0; b < features.bags.size(); ++b) {
        const Batch::Bag& from =
            share.batch.bags[static_cast<size_t>(features.bags[b])];
        GroupIndex::Bag& bag = index.bags[b];
        bag.index.assign(next, next + from.ids.size());
        next += from.ids.size();
        bag.offsets.assign(from.offsets.begin(), from.offsets.end());
        if (from.weights.empty()) {
          bag.weights.assign(from.ids.size(), 1.0F);
        } else {
          bag.weights = from.weights;
        }
      }
    }
  }
}

}  // namespace shoal::worker
