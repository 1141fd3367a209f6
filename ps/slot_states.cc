#include "ps/slot_states.h"

#include <cstddef>
#include <cstring>
#include <utility>

#include "base/strcat.h"
#include "ps/slots.h"
#include "ps/step_stage.h"

namespace shoal::ps {
namespace {

// A frame of a known length that is written from its beginning on.
class FrameWriter {
 public:
  explicit FrameWriter(int64_t bytes)
      : frame_(Buffer::Allocate(bytes)),
        to_(frame_.MutableAs<std::byte>().data()) {}

  template <typename T>
  void Add(std::span<const T> values) {
    if (!values.empty()) {
      SHOAL_CHECK(values.size_bytes() <= static_cast<size_t>(end() - to_));
      std::memcpy(to_, values.data(), values.size_bytes());
      to_ += values.size_bytes();
    }
  }
  // When it is full.
  Buffer Take() {
    SHOAL_CHECK(to_ == end());
    return std::move(frame_);
  }

 private:
  std::byte* end() {
    return frame_.MutableAs<std::byte>().data() + frame_.size();
  }

  Buffer frame_;
  std::byte* to_;
};

}  // namespace

std::string SlotBits(const Portion& portion) {
  std::string bits((portion.slots.size() + 7) / 8, '\0');
  for (size_t slot = 0; slot < portion.slots.size(); ++slot) {
    if (portion.slots[slot]) {
      bits[slot / 8] = static_cast<char>(static_cast<uint8_t>(bits[slot / 8]) |
                                         (1U << (slot % 8)));
    }
  }
  return bits;
}

StatusOr<std::vector<bool>> SlotsOfBits(const std::string& bits,
                                        int64_t num_slots) {
  if (static_cast<int64_t>(bits.size()) != (num_slots + 7) / 8) {
    return InvalidArgumentError(StrCat("names slots by ", bits.size(),
                                       " bytes, but there are ", num_slots,
                                       " slots"));
  }
  std::vector<bool> slots(static_cast<size_t>(num_slots));
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    slots[slot] =
        (static_cast<uint8_t>(bits[slot / 8]) >> (slot % 8) & 1U) != 0;
  }
  return slots;
}

std::vector<Buffer> CopySlots(
    std::span<const std::unique_ptr<SparseTable>> tables,
    const DenseStore& dense, const Portion& portion) {
  std::vector<Buffer> frames;
  for (const auto& table : tables) {
    int64_t rows = 0;
    for (size_t slot = 0; slot < portion.slots.size(); ++slot) {
      rows += portion.slots[slot]
                  ? table->num_rows_in(static_cast<int64_t>(slot))
                  : 0;
    }
    FrameWriter ids(rows * 8);
    FrameWriter values(rows * table->value_bytes());
    FrameWriter states(rows * table->state_floats() * 4);
    for (size_t slot = 0; slot < portion.slots.size(); ++slot) {
      if (!portion.slots[slot]) {
        continue;
      }
      table->ForEachInSlot(static_cast<int64_t>(slot),
                           [&](uint64_t id, std::span<const std::byte> value,
                               std::span<const float> state) {
                             ids.Add(std::span<const uint64_t>(&id, 1));
                             values.Add(value);
                             states.Add(state);
                           });
    }
    if (!table->status().ok()) {
      return {};  // Its rows on disk could not be read.
    }
    frames.push_back(ids.Take());
    frames.push_back(values.Take());
    frames.push_back(states.Take());
  }
  int64_t floats = 0;
  for (const DenseChunk& chunk : portion.chunks) {
    floats += dense.FloatsOf(chunk);
  }
  FrameWriter chunks(floats * 4);
  for (const DenseChunk& chunk : portion.chunks) {
    const size_t at = dense.Find(chunk);
    chunks.Add(dense.values(at));
    chunks.Add(dense.state(at));
  }
  frames.push_back(chunks.Take());
  return frames;
}

Status TakeSlots(const comm::Message& message, const Portion& portion,
                 int slot_bits,
                 std::span<const std::unique_ptr<SparseTable>> tables,
                 DenseStore& dense) {
  if (message.frames.size() != 2 + 3 * tables.size()) {
    return InvalidArgumentError(StrCat("slot states: ", message.frames.size(),
                                       " frames, expected ",
                                       2 + 3 * tables.size()));
  }
  const PushShape shape = {.slot_bits = slot_bits, .portion = &portion};
  for (size_t t = 0; t < tables.size(); ++t) {
    const Buffer& ids = message.frames[1 + 3 * t];
    SHOAL_RETURN_IF_ERROR(ReadIds(ids, static_cast<int>(t), shape)
                              .status()
                              .WithPrefix("slot states"));
    const int64_t n = ids.size() / 8;
    if (message.frames[2 + 3 * t].size() != n * tables[t]->value_bytes() ||
        message.frames[3 + 3 * t].size() != n * tables[t]->state_floats() * 4) {
      return InvalidArgumentError(StrCat("slot states: table '",
                                         tables[t]->name(), "' has ", n,
                                         " ids, but values or state of another "
                                         "number"));
    }
  }
  int64_t floats = 0;
  for (const DenseChunk& chunk : portion.chunks) {
    floats += dense.FloatsOf(chunk);
  }
  if (message.frames.back().size() != floats * 4) {
    return InvalidArgumentError(StrCat("slot states: chunks of ",
                                       message.frames.back().size(),
                                       " bytes, expected ", floats * 4));
  }
  for (size_t t = 0; t < tables.size(); ++t) {
    SparseTable& table = *tables[t];
    for (size_t slot = 0; slot < portion.slots.size(); ++slot) {
      if (portion.slots[slot]) {
        table.EraseSlot(static_cast<int64_t>(slot));
      }
    }
    const auto ids = message.frames[1 + 3 * t].As<uint64_t>();
    table.Load(ids, message.frames[2 + 3 * t].As<std::byte>(),
               message.frames[3 + 3 * t].As<float>());
  }
  const float* from = message.frames.back().As<float>().data();
  for (const DenseChunk& chunk : portion.chunks) {
    dense.Add(chunk);
    const size_t at = dense.Find(chunk);
    const size_t values = dense.values(at).size();
    const size_t states = dense.state(at).size();
    dense.Load(at, {from, values}, {from + values, states});
    from += values + states;
  }
  return OkStatus();
}

void DropSlots(const Portion& portion,
               std::span<const std::unique_ptr<SparseTable>> tables,
               DenseStore& dense) {
  for (size_t slot = 0; slot < portion.slots.size(); ++slot) {
    for (size_t t = 0; portion.slots[slot] && t < tables.size(); ++t) {
      tables[t]->EraseSlot(static_cast<int64_t>(slot));
    }
  }
  for (const DenseChunk& chunk : portion.chunks) {
    dense.Remove(chunk);
  }
}

}  // namespace shoal::ps
