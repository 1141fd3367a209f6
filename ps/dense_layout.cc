#include "ps/dense_layout.h"

#include <algorithm>

namespace shoal::ps {

DenseLayout::DenseLayout(const ModelSpec& model) {
  for (size_t v = 0; v < model.variables.size(); ++v) {
    const int64_t n = model.variables[v].num_elements();
    offsets_.push_back(size_);
    for (int64_t first = 0; first < n; first += kChunkElements) {
      chunks_.push_back({.variable = static_cast<int>(v),
                         .first = first,
                         .count = std::min(kChunkElements, n - first),
                         .offset = size_ + first});
    }
    size_ += (n + kAlignElements - 1) / kAlignElements * kAlignElements;
  }
}

std::vector<DenseChunk> DenseLayout::ChunksOf(int shard,
                                              const RouteTable& route) const {
  std::vector<DenseChunk> own;
  const int64_t num_slots = int64_t{1} << route.slot_bits;
  for (size_t c = 0; c < chunks_.size() && !route.dense_on_workers(); ++c) {
    if (route.ShardOfSlot(static_cast<int64_t>(c) % num_slots) == shard) {
      own.push_back(chunks_[c]);
    }
  }
  return own;
}

int DenseLayout::PartOf(size_t chunk, int size) const {
  return static_cast<int>(chunks_[chunk].offset * size / size_);
}

}  // namespace shoal::ps
