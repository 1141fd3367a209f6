#include "gtest/gtest.h"

#include "comm/collective.h"

namespace shoal::comm {
namespace {

TEST(AllReduceSwitchesTest, ComeBackAndBadOnesAreRefused) {
  const auto parsed =
      ParseSwitches("# by hand\n" + FormatSwitches(DefaultSwitches()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(FormatSwitches(*parsed), FormatSwitches(DefaultSwitches()));
  for (const char* bad : {"", "8 read\n", "0 read\n0 segments\n", "0 ring\n",
                          "0 auto\n", "0\n", "0 read now\n", "x read\n"}) {
    EXPECT_EQ(ParseSwitches(bad).status().code(), StatusCode::kInvalidArgument)
        << bad;
  }
}

}  // namespace
}  // namespace shoal::comm
