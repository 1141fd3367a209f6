#include "ps/dense_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/random.h"

namespace shoal::ps {

StatusOr<std::unique_ptr<DenseStore>> DenseStore::Create(
    const ModelSpec& model, std::vector<DenseChunk> chunks) {
  auto store = std::unique_ptr<DenseStore>(new DenseStore());
  SHOAL_ASSIGN_OR_RETURN(store->optimizer_,
                         CreateOptimizer(model.dense_optimizer));
  store->chunks_ = std::move(chunks);
  for (const DenseChunk& chunk : store->chunks_) {
    const VariableSpec& variable =
        model.variables[static_cast<size_t>(chunk.variable)];
    const int64_t state = store->optimizer_->StateFloats(chunk.count);
    std::vector<float> row(static_cast<size_t>(chunk.count + state));
    variable.initializer.Fill(
        HashKey(model.seed, HashText(variable.name)), chunk.first,
        std::span<float>(row).first(static_cast<size_t>(chunk.count)));
    store->optimizer_->InitState(row.data() + chunk.count, chunk.count);
    store->rows_.push_back(std::move(row));
    store->num_elements_ += chunk.count;
  }
  return store;
}

int64_t DenseStore::memory_bytes() const {
  int64_t floats = 0;
  for (const std::vector<float>& row : rows_) {
    floats += static_cast<int64_t>(row.size());
  }
  return floats * 4;
}

Buffer DenseStore::Snapshot() {
  if (snapshot_.empty() && num_elements_ > 0) {
    snapshot_ = Buffer::Allocate(num_elements_ * 4);
    float* to = snapshot_.MutableAs<float>().data();
    for (size_t c = 0; c < chunks_.size(); ++c) {
      const auto from = values(c);
      std::copy(from.begin(), from.end(), to);
      to += from.size();
    }
  }
  return snapshot_;
}

void DenseStore::Apply(std::span<const float> gradients,
                       double learning_rate_factor) {
  SHOAL_CHECK(static_cast<int64_t>(gradients.size()) == num_elements_);
  const float* from = gradients.data();
  for (size_t c = 0; c < chunks_.size(); ++c) {
    ApplyChunk(c, from, learning_rate_factor);
    from += chunks_[c].count;
  }
  snapshot_ = Buffer();
}

void DenseStore::ApplyFlat(const float* gradients,
                           double learning_rate_factor) {
  for (size_t c = 0; c < chunks_.size(); ++c) {
    ApplyChunk(c, gradients + chunks_[c].offset, learning_rate_factor);
  }
  snapshot_ = Buffer();
}

void DenseStore::ApplyChunk(size_t chunk, const float* gradients,
                            double factor) {
  float* row = rows_[chunk].data();
  optimizer_->Apply({.rows = &row,
                     .gradients = gradients,
                     .num_rows = 1,
                     .dim = chunks_[chunk].count,
                     .learning_rate_factor = factor});
}

void DenseStore::CopyFlat(float* values) const {
  for (size_t c = 0; c < chunks_.size(); ++c) {
    const auto from = this->values(c);
    std::copy(from.begin(), from.end(), values + chunks_[c].offset);
  }
}

std::span<const float> DenseStore::values(size_t chunk) const {
  return std::span(rows_[chunk])
      .first(static_cast<size_t>(chunks_[chunk].count));
}

std::span<const float> DenseStore::state(size_t chunk) const {
  return std::span(rows_[chunk])
      .subspan(static_cast<size_t>(chunks_[chunk].count));
}

void DenseStore::Load(size_t chunk, std::span<const float> values,
                      std::span<const float> state) {
  SHOAL_CHECK(values.size() + state.size() == rows_[chunk].size());
  std::copy(values.begin(), values.end(), rows_[chunk].begin());
  std::copy(state.begin(), state.end(),
            rows_[chunk].begin() + static_cast<std::ptrdiff_t>(values.size()));
  snapshot_ = Buffer();
}

}  // namespace shoal::ps
