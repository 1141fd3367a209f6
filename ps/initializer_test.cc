#include "ps/initializer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"

#include "base/random.h"

namespace shoal::ps {
namespace {

using Kind = Initializer::Kind;

std::vector<float> Filled(const Initializer& initializer, uint64_t key,
                          int64_t first, size_t n) {
  std::vector<float> out(n, NAN);
  initializer.Fill(key, first, out);
  return out;
}

TEST(InitializerTest, ValuesDoNotDependOnHowTheyAreCut) {
  for (const Kind kind :
       {Kind::kZero, Kind::kUniform, Kind::kNormal, Kind::kConstant}) {
    const Initializer initializer{kind, 0.5};
    const auto whole = Filled(initializer, 17, 0, 1000);
    for (const size_t cut : {1, 2, 7, 16, 333}) {
      for (size_t at = 0; at < whole.size(); at += cut) {
        const size_t n = std::min(cut, whole.size() - at);
        const auto piece = Filled(initializer, 17, static_cast<int64_t>(at), n);
        ASSERT_EQ(0, std::memcmp(piece.data(), whole.data() + at, n * 4))
            << "kind " << static_cast<int>(kind) << " at " << at;
      }
    }
  }
}

TEST(InitializerTest, ConstantAndZero) {
  EXPECT_EQ(Filled({Kind::kConstant, 0.25}, 1, 5, 2),
            (std::vector<float>{0.25F, 0.25F}));
  EXPECT_EQ(Filled({Kind::kZero, 9}, 1, 5, 2), (std::vector<float>{0, 0}));
  EXPECT_TRUE(Filled({Kind::kNormal, 1}, 1, 5, 0).empty());
}

// The largest distance between the sample's distribution and `cdf`
// (Kolmogorov and Smirnov). Beyond 1.95 / sqrt(n) for one right sample in 1000;
// the seeds are fixed.
template <typename Cdf>
double KsDistance(std::vector<float> sample, const Cdf& cdf) {
  std::sort(sample.begin(), sample.end());
  const auto n = static_cast<double>(sample.size());
  double distance = 0;
  for (size_t i = 0; i < sample.size(); ++i) {
    const double p = cdf(static_cast<double>(sample[i]));
    const auto below = static_cast<double>(i);
    distance = std::max({distance, p - below / n, (below + 1) / n - p});
  }
  return distance;
}

TEST(InitializerTest, UniformIsUniform) {
  const auto sample = Filled({Kind::kUniform, 2}, 3, 0, 100000);
  for (const float x : sample) {
    ASSERT_TRUE(x >= -2 && x < 2) << x;
  }
  EXPECT_LT(KsDistance(sample, [](double x) { return (x + 2) / 4; }),
            1.95 / std::sqrt(100000.0));
}

TEST(InitializerTest, NormalIsNormal) {
  const auto sample = Filled({Kind::kNormal, 0.1}, 3, 0, 100000);
  EXPECT_LT(KsDistance(sample,
                       [](double x) {
                         return 0.5 * std::erfc(-x / 0.1 / std::sqrt(2.0));
                       }),
            1.95 / std::sqrt(100000.0));
  // Both members of a pair, and neighbours, are independent: the correlation
  // of n numbers is within 4 / sqrt(n).
  for (const size_t lag : {1, 2}) {
    double sum = 0;
    for (size_t i = 0; i + lag < sample.size(); ++i) {
      sum += static_cast<double>(sample[i]) * sample[i + lag] / 0.01;
    }
    EXPECT_LT(std::fabs(sum / 100000), 4 / std::sqrt(100000.0)) << lag;
  }
}

// Box and Muller by the C library: numbers 2 p and 2 p + 1 are the pair that
// the random bits number p make. Also what keeps first values as they are from
// release to release.
TEST(InitializerTest, NormalPairsAreThoseOfTheCLibrary) {
  constexpr uint64_t kKey = 99;
  const auto got = Filled({Kind::kNormal, 1}, kKey, 0, 20000);
  for (size_t p = 0; p < got.size() / 2; ++p) {
    const uint64_t bits = Mix64(kKey + (p + 1) * 0x9e3779b97f4a7c15ULL);
    const double u = (std::ldexp(static_cast<double>(bits >> 32), 1) + 1) /
                     std::ldexp(1.0, 33);
    const double angle =
        2 * std::acos(-1.0) *
        std::ldexp(static_cast<double>(bits & 0xffffffffU), -32);
    const double radius = std::sqrt(-2 * std::log(u));
    // Half a unit of the f32 that the result is rounded to, of at most 6.8.
    ASSERT_NEAR(got[2 * p], radius * std::cos(angle), 0x1.0p-22) << p;
    ASSERT_NEAR(got[2 * p + 1], radius * std::sin(angle), 0x1.0p-22) << p;
  }
}

TEST(InitializerTest, OtherKeysGiveOtherValues) {
  const auto a = Filled({Kind::kUniform, 1}, 3, 0, 10000);
  const auto b = Filled({Kind::kUniform, 1}, 4, 0, 10000);
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += static_cast<double>(a[i]) * b[i] * 3;
  }
  EXPECT_LT(std::fabs(sum / 10000), 4 / std::sqrt(10000.0));
}

}  // namespace
}  // namespace shoal::ps
