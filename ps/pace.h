#ifndef SHOAL_PS_PACE_H_
#define SHOAL_PS_PACE_H_

#include <cstdint>
#include <functional>
#include <utility>

#include "base/time.h"
#include "comm/node.h"

namespace shoal::ps {

// Holds what is sent down to so many bytes a second: what is sent takes its
// time, and until that is over nothing more is; of time in which nothing was
// sent a little may be made up for.
//
// Belongs to the node's thread.
class Pace {
 public:
  // `again` runs when there is room after MaySend() had none.
  Pace(comm::NodeContext& context, std::function<void()> again)
      : context_(context), again_(std::move(again)) {}
  ~Pace() { context_.CancelTimer(timer_); }
  Pace(const Pace&) = delete;
  Pace& operator=(const Pace&) = delete;

  // Another bound from now on; 0: none.
  void SetBytesPerSecond(int64_t bytes_per_second) {
    bytes_per_second_ = bytes_per_second;
  }

  bool MaySend();
  void Sent(int64_t bytes);

 private:
  comm::NodeContext& context_;
  std::function<void()> again_;
  int64_t bytes_per_second_ = 0;
  Time free_at_;
  comm::TimerId timer_ = comm::TimerId::kNone;
};

}  // namespace shoal::ps

#endif  // SHOAL_PS_PACE_H_
