#ifndef SHOAL_WORKER_INPUT_EXAMPLE_ORDER_H_
#define SHOAL_WORKER_INPUT_EXAMPLE_ORDER_H_

#include <cstdint>
#include <span>
#include <vector>

namespace shoal::worker {

// The order in which an epoch reads the training part: a permutation that is a
// function of (seed, epoch, num_rows) alone. Takes 4 bytes a row (8 from 2^32
// rows on), nothing when not shuffled. Thread-safe once made.
class ExampleOrder {
 public:
  ExampleOrder(uint64_t seed, int64_t epoch, int64_t num_rows, bool shuffle);

  int64_t num_rows() const { return num_rows_; }
  int64_t epoch() const { return epoch_; }

  // `position` in [0, num_rows()).
  int64_t row(int64_t position) const {
    if (!small_.empty()) {
      return small_[static_cast<size_t>(position)];
    }
    return large_.empty() ? position : large_[static_cast<size_t>(position)];
  }

 private:
  int64_t epoch_;
  int64_t num_rows_;
  std::vector<uint32_t> small_;
  std::vector<int64_t> large_;
};

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_EXAMPLE_ORDER_H_
