#ifndef SHOAL_KERNELS_SHAPE_H_
#define SHOAL_KERNELS_SHAPE_H_

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "base/status.h"

namespace shoal {

// The sizes of a dense row-major tensor, at most kRankMax of them, each >= 0.
class Shape {
 public:
  static constexpr int kRankMax = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims)
      : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims) {
    SHOAL_CHECK(dims.size() <= kRankMax);
    for (const int64_t dim : dims) {
      dims_[static_cast<size_t>(rank_++)] = dim;
    }
  }

  int rank() const { return rank_; }
  int64_t dim(int axis) const { return dims_[static_cast<size_t>(axis)]; }
  void set_dim(int axis, int64_t size) {
    dims_[static_cast<size_t>(axis)] = size;
  }
  std::span<const int64_t> dims() const {
    return {dims_.data(), static_cast<size_t>(rank_)};
  }
  int64_t num_elements() const {
    int64_t n = 1;
    for (const int64_t dim : dims()) {
      n *= dim;
    }
    return n;
  }
  // All but the last axis, as one.
  int64_t num_rows() const {
    return rank_ == 0 ? 1 : num_elements() / (last() == 0 ? 1 : last());
  }
  int64_t last() const { return rank_ == 0 ? 1 : dim(rank_ - 1); }

  std::string ToString() const;  // "[2,3]"

  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ && a.dims_ == b.dims_;
  }

 private:
  std::array<int64_t, kRankMax> dims_ = {};
  int rank_ = 0;
};

}  // namespace shoal

#endif  // SHOAL_KERNELS_SHAPE_H_
