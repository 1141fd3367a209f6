#include "ps/pace.h"

#include <algorithm>

namespace shoal::ps {
namespace {

// What is sent comes in bursts (in `sync` only between a commit and the next
// sum): so much of the time before counts.
constexpr Duration kMadeUpFor = std::chrono::milliseconds(50);

}  // namespace

bool Pace::MaySend() {
  if (bytes_per_second_ == 0 || context_.Now() >= free_at_) {
    return true;
  }
  if (timer_ == comm::TimerId::kNone) {
    timer_ = context_.SetTimer(free_at_, [this] {
      timer_ = comm::TimerId::kNone;
      again_();
    });
  }
  return false;
}

void Pace::Sent(int64_t bytes) {
  if (bytes_per_second_ == 0) {
    return;
  }
  free_at_ = std::max(free_at_, context_.Now() - kMadeUpFor) +
             FromSeconds(static_cast<double>(bytes) /
                         static_cast<double>(bytes_per_second_));
}

}  // namespace shoal::ps
