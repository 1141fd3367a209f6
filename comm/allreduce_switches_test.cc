#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "comm/collective.h"

namespace shoal::comm {
namespace {

TEST(AllReduceSwitchesTest, ComeBackAndBadOnesAreRefused) {
  const auto parsed = ParseSwitches(FormatSwitches(DefaultSwitches()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(FormatSwitches(*parsed), FormatSwitches(DefaultSwitches()));
  using Entries = std::vector<std::string>;
  for (const Entries& bad :
       {Entries{""}, Entries{"8 read"}, Entries{"0 read", "0 segments"},
        Entries{"0 spiral"}, Entries{"0 auto"}, Entries{"0"},
        Entries{"0 read now"}, Entries{"x read"}}) {
    EXPECT_EQ(ParseSwitches(bad).status().code(), StatusCode::kInvalidArgument)
        << bad.back();
  }
}

}  // namespace
}  // namespace shoal::comm
