#include "ps/slots.h"

#include <cmath>
#include <unordered_set>
#include <vector>

#include "gtest/gtest.h"

namespace shoal::ps {
namespace {

TEST(SlotsTest, NumberOfSlotsFollowsTheDesign) {
  EXPECT_EQ(SlotBitsFor(0), 10);
  EXPECT_EQ(SlotBitsFor(1), 10);
  EXPECT_EQ(SlotBitsFor(16), 10);  // 64 * 16 = 2^10
  EXPECT_EQ(SlotBitsFor(17), 11);
  EXPECT_EQ(SlotBitsFor(100), 13);  // 6400 <= 2^13
}

// Ids that follow any of the patterns that people use fill slots as evenly as
// random ones would.
TEST(SlotsTest, PatternedIdsSpreadOverSlots) {
  constexpr int kBits = 10;
  constexpr int kIds = 1 << 17;  // 128 a slot, deviation 11.3
  for (const int shift : {0, 1, 7, 32, 46}) {
    std::vector<int> counts(1 << kBits);
    for (uint64_t i = 0; i < kIds; ++i) {
      ++counts[static_cast<size_t>(SlotOfHash(IdHash(i << shift), kBits))];
    }
    for (const int count : counts) {
      ASSERT_LT(std::abs(count - 128), 6 * 11.4) << "shift " << shift;
    }
  }
}

TEST(SlotsTest, ExtremeIdsHaveSlots) {
  for (const uint64_t id : {uint64_t{0}, ~uint64_t{0}}) {
    const int64_t slot = SlotOfHash(IdHash(id), 10);
    EXPECT_TRUE(slot >= 0 && slot < 1024);
  }
  EXPECT_NE(IdHash(0), IdHash(~uint64_t{0}));
}

}  // namespace
}  // namespace shoal::ps
