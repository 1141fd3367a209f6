#ifndef SHOAL_PS_SLOT_METER_H_
#define SHOAL_PS_SLOT_METER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/time.h"
#include "comm/message.h"
#include "ps/dense_layout.h"
#include "ps/dense_store.h"
#include "ps/route.h"
#include "ps/sparse_table.h"

namespace shoal::ps {

inline constexpr Duration kLoadsEvery = std::chrono::milliseconds(500);

// Counts what is asked of a shard's slots. One message of a few is looked at,
// so that counting costs nothing that shows.
//
// Belongs to the thread of its shard.
class SlotMeter {
 public:
  // `start`: when the first period begins.
  SlotMeter(int slot_bits, Time start);

  // Whether the next message is looked at: a pull tells Pulled() of its groups
  // then, a push Pushed().
  bool LooksAtPull() { return ++pulls_ % kEvery == 0; }
  bool LooksAtPush() { return ++pushes_ % kEvery == 0; }
  void Pulled(std::span<const uint64_t> ids, int64_t bytes_per_id) {
    Count(ids, bytes_per_id, pulled_);
  }
  void Pushed(std::span<const uint64_t> ids, int64_t bytes_per_id) {
    Count(ids, bytes_per_id, pushed_);
  }
  // All dense chunks that the shard is head of, or of a push.
  void PulledDense() { ++dense_pulls_; }
  void PushedDense() { ++dense_pushes_; }
  void Sent(int64_t bytes) { sent_ += bytes; }

  // The period since the last report, as wire::SlotLoads of the slots that
  // `headed` has; ends it.
  comm::Message Report(Time now, uint64_t version, const Portion& headed,
                       std::span<const std::unique_ptr<SparseTable>> tables,
                       const DenseLayout& layout, const DenseStore& dense);

 private:
  static constexpr uint64_t kEvery = 4;
  void Count(std::span<const uint64_t> ids, int64_t bytes_per_id,
             std::vector<int64_t>& to) const;

  int slot_bits_;
  Time since_;
  uint64_t pulls_ = 0;
  uint64_t pushes_ = 0;
  int64_t dense_pulls_ = 0;
  int64_t dense_pushes_ = 0;
  int64_t sent_ = 0;
  std::vector<int64_t> pulled_;  // by slot
  std::vector<int64_t> pushed_;
};

// Of a row of `table`, as it is sent from shard to shard.
inline int64_t BytesOfRow(const SparseTable& table) {
  return 8 + table.value_bytes() + table.state_floats() * 4;
}

}  // namespace shoal::ps

#endif  // SHOAL_PS_SLOT_METER_H_
