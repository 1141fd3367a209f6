#include "base/step_tree.h"

#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;

TEST(StepTreeTest, CoverOfAllIsTheRootWhateverThePadding) {
  for (int leaves = 1; leaves <= 9; ++leaves) {
    EXPECT_THAT(StepTree(leaves).Cover(0, leaves), ElementsAre(1))
        << leaves << " leaves";
  }
}

TEST(StepTreeTest, CoverTakesWholeSubtrees) {
  const StepTree tree(4);
  EXPECT_THAT(tree.Cover(0, 2), ElementsAre(2));
  EXPECT_THAT(tree.Cover(2, 4), ElementsAre(3));
  EXPECT_THAT(tree.Cover(1, 3), ElementsAre(5, 6));
  EXPECT_THAT(tree.Cover(3, 4), ElementsAre(7));
}

TEST(StepTreeTest, RangesLeaveOutPadding) {
  const StepTree tree(3);
  EXPECT_EQ(tree.Range(1), std::make_pair(0, 3));
  EXPECT_EQ(tree.Range(3), std::make_pair(2, 3));
  EXPECT_EQ(tree.Range(6), std::make_pair(2, 3));
  EXPECT_TRUE(tree.IsNode(6));
  EXPECT_FALSE(tree.IsNode(7));  // padding
  EXPECT_FALSE(tree.IsNode(0));
  EXPECT_FALSE(tree.IsNode(8));
}

// Every way to deal contiguous ranges covers each leaf once.
TEST(StepTreeTest, CoversOfADealAreDisjointAndWhole) {
  for (int leaves = 1; leaves <= 12; ++leaves) {
    const StepTree tree(leaves);
    for (int workers = 1; workers <= leaves; ++workers) {
      std::multiset<int> covered;
      for (int w = 0; w < workers; ++w) {
        for (const int64_t node :
             tree.Cover(w * leaves / workers, (w + 1) * leaves / workers)) {
          const auto [begin, end] = tree.Range(node);
          for (int leaf = begin; leaf < end; ++leaf) {
            covered.insert(leaf);
          }
        }
      }
      ASSERT_EQ(covered.size(), static_cast<size_t>(leaves));
      for (int leaf = 0; leaf < leaves; ++leaf) {
        ASSERT_EQ(covered.count(leaf), 1U)
            << leaves << " leaves, " << workers << " workers, leaf " << leaf;
      }
    }
  }
}

}  // namespace
}  // namespace shoal
