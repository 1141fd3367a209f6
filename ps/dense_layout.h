#ifndef SHOAL_PS_DENSE_LAYOUT_H_
#define SHOAL_PS_DENSE_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "ps/model_spec.h"

namespace shoal::ps {

// A piece of a dense variable: the unit that a shard holds.
struct DenseChunk {
  int variable = 0;
  int64_t first = 0;   // its first element in the variable
  int64_t count = 0;   // elements
  int64_t offset = 0;  // of its first element in the flat memory
};

// Some slots, and the chunks that lie in them.
struct Portion {
  std::vector<bool> slots;  // by slot
  int64_t num_slots = 0;
  std::vector<DenseChunk> chunks;  // rising
  int64_t dense_elements = 0;

  bool Has(int64_t slot) const { return slots[static_cast<size_t>(slot)]; }
  bool empty() const { return num_slots == 0; }
};

// How a worker lays all dense variables out in one flat piece of memory, and
// how they are cut into chunks for the shards: chunk c lies in slot c modulo
// the number of slots. A function of the model alone.
class DenseLayout {
 public:
  static constexpr int64_t kChunkElements = 16384;  // 64 KiB of f32
  static constexpr int64_t kAlignElements = 16;     // a cache line

  explicit DenseLayout(const ModelSpec& model);

  // Elements of the flat memory, with what aligns each variable.
  int64_t size() const { return size_; }
  int64_t offset(int variable) const {
    return offsets_[static_cast<size_t>(variable)];
  }
  const std::vector<DenseChunk>& chunks() const { return chunks_; }

  // Where workers hold the dense variables, no chunk lies in a slot.
  Portion PortionOf(int slot_bits, bool dense_on_workers,
                    const std::function<bool(int64_t)>& has_slot) const;

  // Where workers hold parts: the number among `size` of the one whose chunk
  // `chunk` of chunks() is. Parts are whole chunks, since an optimizer's state
  // may be a chunk's; they rise, and are even to a chunk.
  int PartOf(size_t chunk, int size) const;

 private:
  std::vector<int64_t> offsets_;
  std::vector<DenseChunk> chunks_;
  int64_t size_ = 0;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_DENSE_LAYOUT_H_
