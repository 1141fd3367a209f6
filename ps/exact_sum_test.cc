#include "ps/exact_sum.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "base/random.h"

namespace shoal::ps {
namespace {

using Limits = std::numeric_limits<double>;

ExactSum SumOf(const std::vector<double>& terms) {
  ExactSum sum;
  for (const double term : terms) {
    sum.Add(term);
  }
  return sum;
}

TEST(ExactSumTest, LosesNothingWhereDoublesWould) {
  EXPECT_EQ(SumOf({}).value(), 0);
  EXPECT_EQ(SumOf({0.0, 0.25, 3}).value(), 3.25);
  // In doubles each of the small terms is rounded away.
  std::vector<double> terms(1 << 10, 0x1.0p-53);
  terms.insert(terms.begin(), 1);
  EXPECT_EQ(SumOf(terms).value(), 1 + 0x1.0p-43);
  EXPECT_EQ(SumOf({Limits::denorm_min(), Limits::denorm_min()}).value(),
            2 * Limits::denorm_min());
  EXPECT_EQ(SumOf({Limits::max()}).value(), Limits::max());
  EXPECT_EQ(SumOf({Limits::max(), Limits::max()}).value(), Limits::infinity());
  EXPECT_EQ(SumOf({Limits::min()}).value(), Limits::min());
}

TEST(ExactSumTest, IsTheSameInAnyOrderAndDivision) {
  Random random(5);
  std::vector<double> terms;
  for (int i = 0; i < 2000; ++i) {
    terms.push_back(std::ldexp(random.Uniform(),
                               static_cast<int>(random.Below(300)) - 150));
  }
  const ExactSum want = SumOf(terms);
  for (uint64_t round = 0; round < 10; ++round) {
    for (size_t i = terms.size(); i > 1; --i) {
      std::swap(terms[i - 1], terms[random.Below(i)]);
    }
    // Some parts, each of which travels.
    ExactSum sum;
    for (size_t begin = 0; begin < terms.size();) {
      const size_t end =
          std::min(terms.size(), begin + 1 + random.Below(terms.size()));
      const auto part = ExactSum::FromWords(
          SumOf({terms.begin() + static_cast<std::ptrdiff_t>(begin),
                 terms.begin() + static_cast<std::ptrdiff_t>(end)})
              .words());
      ASSERT_TRUE(part.ok());
      sum.Add(*part);
      begin = end;
    }
    EXPECT_THAT(sum.words(), ::testing::ElementsAreArray(want.words()));
  }
  long double plain = 0;
  for (const double term : terms) {
    plain += term;
  }
  EXPECT_NEAR(want.value() / static_cast<double>(plain), 1, 1e-15);
}

TEST(ExactSumTest, CarriesGoThroughAllWords) {
  // 2^200 - 2^-200, which is all ones in between, and 2^-200.
  ExactSum sum;
  for (int bit = -200; bit < 200; ++bit) {
    sum.Add(std::ldexp(1.0, bit));
  }
  sum.Add(std::ldexp(1.0, -200));
  EXPECT_EQ(sum.value(), std::ldexp(1.0, 200));
  EXPECT_THAT(sum.words(), ::testing::ElementsAreArray(
                               SumOf({std::ldexp(1.0, 200)}).words()));
}

TEST(ExactSumTest, MoreWordsThanItHasAreRefused) {
  const std::vector<uint64_t> words(ExactSum::kWords + 1);
  EXPECT_EQ(ExactSum::FromWords(words).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::ps
