#include "base/histogram.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "base/strcat.h"

namespace shoal {

namespace {

// What no honest one comes to; there it stays.
constexpr int64_t kPartMax = int64_t{1} << 50;

int64_t Sum(int64_t a, int64_t b) { return std::min(a + b, kPartMax); }

}  // namespace

void Histogram::Add(int64_t value) {
  value = std::clamp<int64_t>(value, 0, kPartMax);
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), value);
  ++buckets_[static_cast<size_t>(bound - kBounds.begin())];
  sum_ = Sum(sum_, value);
  max_ = std::max(max_, value);
}

void Histogram::Merge(const Histogram& other) {
  for (size_t i = 0; i < kBuckets; ++i) {
    buckets_[i] = Sum(buckets_[i], other.buckets_[i]);
  }
  sum_ = Sum(sum_, other.sum_);
  max_ = std::max(max_, other.max_);
}

int64_t Histogram::count() const {
  return std::accumulate(buckets_.begin(), buckets_.end(), int64_t{0});
}

double Histogram::mean() const {
  return empty() ? 0 : static_cast<double>(sum_) / static_cast<double>(count());
}

StatusOr<Histogram> Histogram::FromParts(std::span<const int64_t> buckets,
                                         int64_t sum, int64_t max) {
  const auto fits = [](int64_t part) { return part >= 0 && part <= kPartMax; };
  if (buckets.size() != kBuckets || !fits(sum) || !fits(max) ||
      !std::all_of(buckets.begin(), buckets.end(), fits)) {
    return InvalidArgumentError(StrCat("a histogram of ", buckets.size(),
                                       " buckets, expected ", kBuckets,
                                       " of 0 to ", kPartMax, " each"));
  }
  Histogram out;
  std::copy(buckets.begin(), buckets.end(), out.buckets_.begin());
  out.sum_ = sum;
  out.max_ = max;
  return out;
}

std::string Histogram::BucketText(size_t i) {
  if (i == kBounds.size()) {
    return StrCat("more than ", kBounds.back());
  }
  const int64_t from = i == 0 ? 0 : kBounds[i - 1] + 1;
  return from == kBounds[i] ? StrCat(from) : StrCat(from, " to ", kBounds[i]);
}

std::string Histogram::ToString() const {
  std::string text;
  for (size_t i = 0; i < kBuckets; ++i) {
    if (buckets_[i] > 0) {
      text +=
          StrCat(text.empty() ? "" : ", ", BucketText(i), ": ", buckets_[i]);
    }
  }
  char tail[64];
  std::snprintf(tail, sizeof(tail), "mean %.3g, greatest %lld", mean(),
                static_cast<long long>(max_));
  return StrCat(text.empty() ? "none" : text, "; ", tail);
}

}  // namespace shoal
