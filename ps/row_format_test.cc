#include "ps/row_format.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"

#include "base/random.h"

namespace shoal::ps {
namespace {

struct Format {
  DType dtype;
  int digits;  // of the fraction, the hidden one too
  int least;   // exponent of the least normal value
  double largest;
};
constexpr Format kFormats[] = {{DType::kBF16, 8, -126, 0x1.fep127},
                               {DType::kF16, 11, -14, 65504}};

// From the definition of such a format, in double precision.
double SpacingAt(const Format& format, double value) {
  const int exponent =
      std::max(value == 0 ? format.least : std::ilogb(value), format.least);
  return std::ldexp(1.0, exponent - format.digits + 1);
}

float Rounded(const Format& format, uint64_t key, float value) {
  RoundInPlace(format.dtype, key, {&value, 1});
  return value;
}

TEST(RowFormatTest, EveryNumberOfTheFormatStays) {
  for (const Format& format : kFormats) {
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
      const auto from = static_cast<uint16_t>(bits);
      float wide = 0;
      WidenValues(format.dtype, &from, {&wide, 1});
      uint16_t back = 0;
      RoundValues(format.dtype, bits * 77 + 1, {&wide, 1}, &back);
      if (std::isnan(wide)) {
        WidenValues(format.dtype, &back, {&wide, 1});
        EXPECT_TRUE(std::isnan(wide)) << bits;
        continue;
      }
      ASSERT_EQ(back, from) << Name(format.dtype);
      if (std::isfinite(wide) && wide != 0) {
        const double steps = wide / SpacingAt(format, wide);
        ASSERT_EQ(steps, std::round(steps)) << bits;
        ASSERT_LE(std::abs(wide), format.largest);
      }
    }
  }
}

// The two neighbours alone, and on average the value: 4 sigma of 4,000 draws.
TEST(RowFormatTest, RoundsToNeighboursWithoutBias) {
  constexpr int kDraws = 4000;
  Random random(3);
  for (const Format& format : kFormats) {
    for (int i = 0; i < 200; ++i) {
      const auto value = static_cast<float>(
          (random.Uniform() - 0.5) *
          std::ldexp(1.0, static_cast<int>(random.Below(30)) - 26));
      const double spacing = SpacingAt(format, value);
      const double below = std::floor(value / spacing) * spacing;
      double sum = 0;
      for (int draw = 0; draw < kDraws; ++draw) {
        const double got = Rounded(format, random(), value);
        ASSERT_TRUE(got == below || got == below + spacing)
            << value << " became " << got;
        sum += (got - value) / spacing;
      }
      EXPECT_LT(std::abs(sum / kDraws), 4 * 0.5 / std::sqrt(kDraws))
          << Name(format.dtype) << " " << value;
    }
  }
}

TEST(RowFormatTest, BeyondTheRangeBecomesTheLargest) {
  for (const Format& format : kFormats) {
    const auto largest = static_cast<float>(format.largest);
    for (const float value :
         {std::numeric_limits<float>::max(),
          std::nextafter(largest, std::numeric_limits<float>::max())}) {
      for (uint64_t key = 0; key < 100; ++key) {
        EXPECT_EQ(Rounded(format, key, value), largest);
        EXPECT_EQ(Rounded(format, key, -value), -largest);
      }
    }
    const float infinity = std::numeric_limits<float>::infinity();
    EXPECT_EQ(Rounded(format, 1, infinity), infinity);
    EXPECT_TRUE(std::isnan(Rounded(format, 1, std::nanf(""))));
    EXPECT_TRUE(std::signbit(Rounded(format, 1, -0.0F)));
  }
}

// Places draw apart, and the same key draws the same.
TEST(RowFormatTest, DrawsAreAFunctionOfKeyAndPlace) {
  const std::vector<float> values(64, 1 + 0x1p-9F + 0x1p-12F);
  for (const Format& format : kFormats) {
    std::vector<uint16_t> first(64);
    std::vector<uint16_t> second(64);
    RoundValues(format.dtype, 5, values, first.data());
    RoundValues(format.dtype, 5, values, second.data());
    EXPECT_EQ(first, second);
    RoundValues(format.dtype, 6, values, second.data());
    EXPECT_NE(first, second);
    EXPECT_NE(std::vector<uint16_t>(64, first[0]), first);
  }
}

}  // namespace
}  // namespace shoal::ps
