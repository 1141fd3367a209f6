#include "ps/slot_meter.h"

#include <algorithm>
#include <utility>

#include "ps/protocol.pb.h"
#include "ps/slots.h"
#include "ps/wire.h"

namespace shoal::ps {

SlotMeter::SlotMeter(int slot_bits, Time start)
    : slot_bits_(slot_bits),
      since_(start),
      pulled_(size_t{1} << slot_bits),
      pushed_(size_t{1} << slot_bits) {}

void SlotMeter::Count(std::span<const uint64_t> ids, int64_t bytes_per_id,
                      std::vector<int64_t>& to) const {
  const int64_t bytes = bytes_per_id * static_cast<int64_t>(kEvery);
  for (const uint64_t id : ids) {
    to[static_cast<size_t>(SlotOfHash(IdHash(id), slot_bits_))] += bytes;
  }
}

comm::Message SlotMeter::Report(
    Time now, uint64_t version, const Portion& headed,
    std::span<const std::unique_ptr<SparseTable>> tables,
    const DenseLayout& layout, const DenseStore& dense) {
  std::vector<int64_t> bytes(pulled_.size());
  for (size_t slot = 0; slot < bytes.size(); ++slot) {
    for (size_t t = 0; headed.slots[slot] && t < tables.size(); ++t) {
      bytes[slot] += tables[t]->num_rows_in(static_cast<int64_t>(slot)) *
                     BytesOfRow(*tables[t]);
    }
  }
  // None are in the slots where the workers hold them.
  const std::vector<DenseChunk>& chunks = layout.chunks();
  for (size_t c = 0; !headed.chunks.empty() && c < chunks.size(); ++c) {
    const size_t slot = c % bytes.size();
    if (headed.slots[slot]) {
      bytes[slot] += dense.FloatsOf(chunks[c]) * 4;
      pulled_[slot] += dense_pulls_ * chunks[c].count * 4;
      pushed_[slot] += dense_pushes_ * chunks[c].count * 4;
    }
  }
  wire::SlotLoads loads;
  loads.set_version(version);
  loads.set_period_ns(std::max<int64_t>(1, (now - since_).count()));
  loads.set_sent(std::exchange(sent_, 0));
  for (size_t slot = 0; slot < bytes.size(); ++slot) {
    if (headed.slots[slot]) {
      loads.add_bytes(bytes[slot]);
      loads.add_pulled(pulled_[slot]);
      loads.add_pushed(pushed_[slot]);
    }
  }
  std::fill(pulled_.begin(), pulled_.end(), 0);
  std::fill(pushed_.begin(), pushed_.end(), 0);
  dense_pulls_ = 0;
  dense_pushes_ = 0;
  since_ = now;
  comm::Message message;
  message.header.method = static_cast<uint16_t>(Method::kSlotLoads);
  message.frames.push_back(Encode(loads));
  return message;
}

}  // namespace shoal::ps
