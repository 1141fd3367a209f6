#ifndef SHOAL_BASE_HISTOGRAM_H_
#define SHOAL_BASE_HISTOGRAM_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace shoal {

// How often numbers of each size were seen, in buckets that are the same
// everywhere, so that any two can be added; with the exact sum and the exact
// greatest. Thread-compatible.
class Histogram {
 public:
  // Bucket i has what is at most kBounds[i] and more than the bound before; one
  // more has the rest.
  static constexpr std::array<int64_t, 16> kBounds = {
      0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024};
  static constexpr size_t kBuckets = kBounds.size() + 1;

  // `value` at least 0.
  void Add(int64_t value);
  void Merge(const Histogram& other);

  bool empty() const { return count() == 0; }
  int64_t count() const;
  int64_t sum() const { return sum_; }
  int64_t max() const { return max_; }  // 0 where empty
  double mean() const;                  // the same
  std::span<const int64_t, kBuckets> buckets() const { return buckets_; }

  // From another process. Errors: kInvalidArgument (another number of buckets,
  // or less than nothing).
  static StatusOr<Histogram> FromParts(std::span<const int64_t> buckets,
                                       int64_t sum, int64_t max);

  // "0: 12, 1: 7, 5 to 6: 1; mean 0.6, greatest 5".
  std::string ToString() const;
  // "0", "5 to 6", "more than 1024": what bucket `i` has.
  static std::string BucketText(size_t i);

 private:
  std::array<int64_t, kBuckets> buckets_ = {};
  int64_t sum_ = 0;
  int64_t max_ = 0;
};

}  // namespace shoal

#endif  // SHOAL_BASE_HISTOGRAM_H_
