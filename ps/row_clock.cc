#include "ps/row_clock.h"

#include <algorithm>

namespace shoal::ps {

std::vector<uint32_t> RowClock::Choose(size_t n) {
  std::vector<uint32_t> chosen;
  chosen.reserve(n);
  // Twice round, every row was passed over that may be.
  for (size_t passed = 0; passed < 2 * marks_.size() && chosen.size() < n;
       ++passed) {
    hand_ = hand_ + 1 < marks_.size() ? hand_ + 1 : 0;
    Marks& marks = marks_[hand_];
    if ((marks & kHere) == 0 || (marks & kPinned) != 0) {
      continue;
    }
    if ((marks & kUsed) != 0) {
      marks &= static_cast<Marks>(~kUsed);
      continue;
    }
    marks |= kPinned;
    chosen.push_back(static_cast<uint32_t>(hand_));
  }
  return chosen;
}

}  // namespace shoal::ps
