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

Portion DenseLayout::PortionOf(
    int slot_bits, bool dense_on_workers,
    const std::function<bool(int64_t)>& has_slot) const {
  const int64_t num_slots = int64_t{1} << slot_bits;
  Portion portion;
  portion.slots.resize(static_cast<size_t>(num_slots));
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    if (has_slot(slot)) {
      portion.slots[static_cast<size_t>(slot)] = true;
      ++portion.num_slots;
    }
  }
  for (size_t c = 0; c < chunks_.size() && !dense_on_workers; ++c) {
    if (portion.Has(static_cast<int64_t>(c) % num_slots)) {
      portion.chunks.push_back(chunks_[c]);
      portion.dense_elements += chunks_[c].count;
    }
  }
  return portion;
}

int DenseLayout::PartOf(size_t chunk, int size) const {
  return static_cast<int>(chunks_[chunk].offset * size / size_);
}

}  // namespace shoal::ps
