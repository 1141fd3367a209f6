#include "base/histogram.h"

#include <vector>

#include "gtest/gtest.h"

namespace shoal {
namespace {

TEST(HistogramTest, NumbersGoIntoTheBucketsThatTheirTextSays) {
  Histogram histogram;
  for (const int64_t value : {0, 0, 1, 5, 6, 7, 1024, 1025, 1000000}) {
    histogram.Add(value);
  }
  EXPECT_EQ(histogram.ToString(),
            "0: 2, 1: 1, 5 to 6: 2, 7 to 8: 1, 513 to 1024: 1, more than "
            "1024: 2; mean 1.11e+05, greatest 1000000");
  EXPECT_EQ(histogram.count(), 9);
  EXPECT_EQ(histogram.sum(), 1002068);
}

TEST(HistogramTest, MergedIsAsIfOneHadSeenAll) {
  Histogram all;
  Histogram parts[2];
  for (int64_t value = 0; value < 3000; value += 7) {
    all.Add(value);
    parts[value % 2].Add(value);
  }
  parts[0].Merge(parts[1]);
  EXPECT_EQ(parts[0].ToString(), all.ToString());
  EXPECT_EQ(parts[0].sum(), all.sum());
}

TEST(HistogramTest, OfAnotherProcessItIsTheSameOrRefused) {
  Histogram one;
  one.Add(3);
  one.Add(40);
  const std::vector<int64_t> buckets(one.buckets().begin(),
                                     one.buckets().end());
  const StatusOr<Histogram> read =
      Histogram::FromParts(buckets, one.sum(), one.max());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->ToString(), one.ToString());

  EXPECT_EQ(Histogram::FromParts(std::vector<int64_t>{1}, 0, 0).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(Histogram::FromParts(buckets, -1, 0).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(
      Histogram::FromParts(std::vector<int64_t>(Histogram::kBuckets, -1), 0, 0)
          .status()
          .code(),
      StatusCode::kInvalidArgument);
}

TEST(HistogramTest, OfNothingIsEmpty) {
  EXPECT_TRUE(Histogram().empty());
  EXPECT_EQ(Histogram().mean(), 0);
  EXPECT_EQ(Histogram().ToString(), "none; mean 0, greatest 0");
}

}  // namespace
}  // namespace shoal
