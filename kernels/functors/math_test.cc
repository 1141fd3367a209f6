#include "kernels/functors/math.h"

#include <bit>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "kernels/kernel_testing.h"

// The oracle is the C library in double precision.
namespace shoal::functors {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The largest error over a million bit patterns from all of f32 that lie in
// [low, high].
template <typename F, typename Oracle>
double WorstUlps(const F& f, const Oracle& oracle, float low, float high) {
  double worst = 0.0;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 4099) {
    const auto x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (!(x >= low && x <= high)) {
      continue;
    }
    worst = std::max(worst, UlpsFrom(f(x), oracle(double{x})));
  }
  return worst;
}

TEST(MathTest, ExpIsWithinTwoUlps) {
  const auto f = [](float x) { return Exp(x); };
  const auto oracle = [](double x) { return std::exp(x); };
  EXPECT_LE(WorstUlps(f, oracle, -kInf, kInf), 2.0);
  for (float x = -104.5F; x < 89.5F; x += 0.0013F) {
    ASSERT_LE(UlpsFrom(f(x), oracle(x)), 2.0) << x;
  }
}

TEST(MathTest, LogIsWithinTwoUlps) {
  const auto f = [](float x) { return Log(x); };
  const auto oracle = [](double x) { return std::log(x); };
  EXPECT_LE(WorstUlps(f, oracle, 0.0F, kInf), 2.0);
  for (float x = 0.5F; x < 2.0F; x += 0.000013F) {
    ASSERT_LE(UlpsFrom(f(x), oracle(x)), 2.0) << x;
  }
}

TEST(MathTest, Log1pIsWithinThreeUlps) {
  const auto f = [](float x) { return Log1p(x); };
  const auto oracle = [](double x) { return std::log1p(x); };
  EXPECT_LE(WorstUlps(f, oracle, -1.0F, kInf), 3.0);
  for (float x = 0.0F; x < 1.0F; x += 0.000013F) {
    ASSERT_LE(UlpsFrom(f(x), oracle(x)), 3.0) << x;
  }
}

TEST(MathTest, SigmoidIsWithinFourUlps) {
  const auto f = [](float x) { return Sigmoid(x); };
  const auto oracle = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
  EXPECT_LE(WorstUlps(f, oracle, -kInf, kInf), 4.0);
  for (float x = -100.0F; x < 30.0F; x += 0.0013F) {
    ASSERT_LE(UlpsFrom(f(x), oracle(x)), 4.0) << x;
  }
}

TEST(MathTest, TanhIsWithinFourUlps) {
  const auto f = [](float x) { return Tanh(x); };
  const auto oracle = [](double x) { return std::tanh(x); };
  EXPECT_LE(WorstUlps(f, oracle, -kInf, kInf), 4.0);
  for (float x = -10.0F; x < 10.0F; x += 0.00013F) {
    ASSERT_LE(UlpsFrom(f(x), oracle(x)), 4.0) << x;
  }
}

TEST(MathTest, ExtremesAreExact) {
  EXPECT_EQ(Exp(0.0F), 1.0F);
  EXPECT_EQ(Exp(-kInf), 0.0F);
  EXPECT_EQ(Exp(kInf), kInf);
  EXPECT_EQ(Exp(3e38F), kInf);
  EXPECT_EQ(Exp(-3e38F), 0.0F);
  EXPECT_EQ(Log(0.0F), -kInf);
  EXPECT_EQ(Log(-0.0F), -kInf);
  EXPECT_EQ(Log(1.0F), 0.0F);
  EXPECT_EQ(Log(kInf), kInf);
  EXPECT_TRUE(std::isnan(Log(-1.0F)));
  EXPECT_EQ(Log1p(-1.0F), -kInf);
  EXPECT_EQ(Log1p(1e-30F), 1e-30F);
  EXPECT_EQ(Sigmoid(kInf), 1.0F);
  EXPECT_EQ(Sigmoid(-kInf), 0.0F);
  EXPECT_EQ(Sigmoid(0.0F), 0.5F);
  EXPECT_EQ(Tanh(kInf), 1.0F);
  EXPECT_EQ(Tanh(-kInf), -1.0F);
}

TEST(MathTest, NanPassesThrough) {
  EXPECT_TRUE(std::isnan(Exp(kNan)));
  EXPECT_TRUE(std::isnan(Log(kNan)));
  EXPECT_TRUE(std::isnan(Log1p(kNan)));
  EXPECT_TRUE(std::isnan(Sigmoid(kNan)));
  EXPECT_TRUE(std::isnan(Tanh(kNan)));
}

}  // namespace
}  // namespace shoal::functors
