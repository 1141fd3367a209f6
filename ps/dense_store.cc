#include "ps/dense_store.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/random.h"

namespace shoal::ps {

StatusOr<std::unique_ptr<DenseStore>> DenseStore::Create(
    const ModelSpec& model, std::vector<DenseChunk> chunks) {
  auto store = std::unique_ptr<DenseStore>(new DenseStore(model));
  SHOAL_ASSIGN_OR_RETURN(store->optimizer_,
                         CreateOptimizer(model.dense_optimizer));
  for (const DenseChunk& chunk : chunks) {
    store->Add(chunk);
  }
  return store;
}

namespace {

bool Before(const DenseChunk& a, const DenseChunk& b) {
  return a.offset < b.offset;
}

}  // namespace

size_t DenseStore::Find(const DenseChunk& chunk) const {
  const auto it =
      std::lower_bound(chunks_.begin(), chunks_.end(), chunk, Before);
  SHOAL_CHECK(it != chunks_.end() && it->offset == chunk.offset);
  return static_cast<size_t>(it - chunks_.begin());
}

int64_t DenseStore::FloatsOf(const DenseChunk& chunk) const {
  return chunk.count + optimizer_->StateFloats(chunk.count);
}

void DenseStore::Add(const DenseChunk& chunk) {
  const auto at =
      std::lower_bound(chunks_.begin(), chunks_.end(), chunk, Before);
  if (at != chunks_.end() && at->offset == chunk.offset) {
    return;
  }
  const VariableSpec& variable =
      variables_[static_cast<size_t>(chunk.variable)];
  const int64_t state = optimizer_->StateFloats(chunk.count);
  std::vector<float> row(static_cast<size_t>(chunk.count + state));
  variable.initializer.Fill(
      HashKey(seed_, HashText(variable.name)), chunk.first,
      std::span<float>(row).first(static_cast<size_t>(chunk.count)));
  optimizer_->InitState(row.data() + chunk.count, chunk.count);
  rows_.insert(rows_.begin() + (at - chunks_.begin()), std::move(row));
  chunks_.insert(at, chunk);
  num_elements_ += chunk.count;
}

void DenseStore::Remove(const DenseChunk& chunk) {
  const auto at =
      std::lower_bound(chunks_.begin(), chunks_.end(), chunk, Before);
  if (at != chunks_.end() && at->offset == chunk.offset) {
    num_elements_ -= at->count;
    rows_.erase(rows_.begin() + (at - chunks_.begin()));
    chunks_.erase(at);
  }
}

int64_t DenseStore::memory_bytes() const {
  int64_t floats = 0;
  for (const std::vector<float>& row : rows_) {
    floats += static_cast<int64_t>(row.size());
  }
  return floats * 4;
}

Buffer DenseStore::Copy(std::span<const DenseChunk> chunks) const {
  int64_t elements = 0;
  for (const DenseChunk& chunk : chunks) {
    elements += chunk.count;
  }
  Buffer copy = Buffer::Allocate(elements * 4);
  float* to = copy.MutableAs<float>().data();
  for (const DenseChunk& chunk : chunks) {
    const auto from = values(Find(chunk));
    to = std::copy(from.begin(), from.end(), to);
  }
  return copy;
}

void DenseStore::Apply(std::span<const DenseChunk> chunks,
                       std::span<const float> gradients,
                       double learning_rate_factor,
                       std::span<const double> trust_ratios,
                       std::span<const float> computed_from) {
  const float* from = gradients.data();
  for (const DenseChunk& chunk : chunks) {
    ApplyChunk(Find(chunk), from, learning_rate_factor,
               trust_ratios.empty()
                   ? 1
                   : trust_ratios[static_cast<size_t>(chunk.variable)],
               computed_from.empty()
                   ? nullptr
                   : computed_from.data() + (from - gradients.data()));
    from += chunk.count;
  }
  SHOAL_CHECK(from == gradients.data() + gradients.size());
}

bool DenseStore::AddNorms(std::span<const DenseChunk> chunks,
                          std::span<const float> gradients,
                          std::span<LayerSums> sums) const {
  bool finite = true;
  const float* from = gradients.data();
  for (const DenseChunk& chunk : chunks) {
    const RowNorms norms = optimizer_->norm_phase()->Norms(
        rows_[Find(chunk)].data(), from, chunk.count);
    if (std::isfinite(norms.values) && std::isfinite(norms.updates)) {
      LayerSums& layer = sums[static_cast<size_t>(chunk.variable)];
      layer.values.Add(norms.values);
      layer.updates.Add(norms.updates);
    } else {
      finite = false;
    }
    from += chunk.count;
  }
  SHOAL_CHECK(from == gradients.data() + gradients.size());
  return finite;
}

void DenseStore::ApplyFlat(const float* gradients,
                           double learning_rate_factor) {
  for (size_t c = 0; c < chunks_.size(); ++c) {
    ApplyChunk(c, gradients + chunks_[c].offset, learning_rate_factor, 1,
               nullptr);
  }
}

void DenseStore::ApplyChunk(size_t chunk, const float* gradients, double factor,
                            double trust_ratio, const float* computed_from) {
  float* row = rows_[chunk].data();
  optimizer_->Apply({.rows = &row,
                     .gradients = gradients,
                     .num_rows = 1,
                     .dim = chunks_[chunk].count,
                     .learning_rate_factor = factor,
                     .trust_ratio = trust_ratio,
                     .computed_from = computed_from});
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
}

}  // namespace shoal::ps
