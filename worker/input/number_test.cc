#include "worker/input/number.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>

#include "gtest/gtest.h"

#include "base/random.h"

namespace shoal::worker::input_tests {
namespace {

TEST(NumberTest, FiniteNumbersAreRead) {
  double x = 0;
  EXPECT_TRUE(ParseNumber("0", &x) && x == 0);
  EXPECT_TRUE(ParseNumber("-12.5", &x) && x == -12.5);
  EXPECT_TRUE(ParseNumber("+3", &x) && x == 3);
  EXPECT_TRUE(ParseNumber(" 7 ", &x) && x == 7);
  EXPECT_TRUE(ParseNumber(".5", &x) && x == 0.5);
  EXPECT_TRUE(ParseNumber("5.", &x) && x == 5);
  EXPECT_TRUE(ParseNumber("1e-3", &x) && x == 0.001);
  EXPECT_TRUE(ParseNumber("1E400", &x) == false);
  EXPECT_TRUE(ParseNumber("1e-400", &x) && x == 0);
}

TEST(NumberTest, WhatIsNoFiniteNumberIsRefused) {
  double x = 42;
  for (const char* text :
       {"", " ", "-", "+", ".", "nan", "NaN", "inf", "-inf", "0x10", "1,5",
        "1 2", "12a", "--1", "+-1", "1e", "1.2.3", "1e999"}) {
    EXPECT_FALSE(ParseNumber(text, &x)) << text;
  }
  EXPECT_EQ(x, 42);
}

TEST(NumberTest, RandomNumbersRoundAsTheCLibraryRounds) {
  constexpr const char* kForms[] = {"%.0f", "%.3f", "%.17g", "%.6e", "%.15f"};
  for (uint64_t seed = 1; seed <= 20000; ++seed) {
    Random random(seed);
    const double scale =
        std::pow(10.0, static_cast<double>(random.Below(30)) - 15);
    const double value = (random.Uniform() - 0.5) * scale;
    char text[64];
    std::snprintf(text, sizeof(text), kForms[seed % 5], value);
    double got = 0;
    ASSERT_TRUE(ParseNumber(text, &got)) << text;
    EXPECT_EQ(got, std::strtod(text, nullptr)) << text;
  }
}

TEST(NumberTest, FloatsBeyondTheirRangeAreRefused) {
  float x = 0;
  EXPECT_TRUE(ParseFloat("3.4e38", &x));
  EXPECT_FALSE(ParseFloat("3.5e38", &x));
  EXPECT_FALSE(ParseFloat("1e300", &x));
}

TEST(NumberTest, IdsHave64BitsAndNoSign) {
  uint64_t x = 0;
  EXPECT_TRUE(ParseDecimal("18446744073709551615", &x));
  EXPECT_EQ(x, std::numeric_limits<uint64_t>::max());
  EXPECT_FALSE(ParseDecimal("18446744073709551616", &x));
  EXPECT_FALSE(ParseDecimal("-1", &x));
  EXPECT_FALSE(ParseDecimal("1.0", &x));
  EXPECT_FALSE(ParseDecimal("", &x));
  EXPECT_TRUE(ParseHexadecimal("fF", &x));
  EXPECT_EQ(x, 255U);
  EXPECT_FALSE(ParseHexadecimal("10000000000000000", &x));
  EXPECT_FALSE(ParseHexadecimal("0x1", &x));
}

}  // namespace
}  // namespace shoal::worker::input_tests
