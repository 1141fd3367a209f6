#include "graph/arena_layout.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace shoal::graph {
namespace {

TEST(ArenaLayoutTest, PiecesNeededTogetherDoNotOverlap) {
  Random random(3);
  for (int round = 0; round < 50; ++round) {
    std::vector<ArenaPiece> pieces(random.Below(40));
    int64_t sum = 0;
    for (ArenaPiece& piece : pieces) {
      piece.size_bytes = static_cast<int64_t>(random.Below(1000));
      piece.first_step = static_cast<int>(random.Below(20));
      piece.last_step = piece.first_step + static_cast<int>(random.Below(6));
      sum += (piece.size_bytes + 63) / 64 * 64;
    }
    const int64_t end = LayOutArena(64, pieces);
    EXPECT_LE(end, sum);
    EXPECT_EQ(end % 64, 0);
    for (size_t i = 0; i < pieces.size(); ++i) {
      const ArenaPiece& a = pieces[i];
      EXPECT_EQ(a.offset % 64, 0);
      EXPECT_LE(a.offset + a.size_bytes, end);
      for (size_t j = 0; j < i; ++j) {
        const ArenaPiece& b = pieces[j];
        const bool apart_in_time =
            a.last_step < b.first_step || b.last_step < a.first_step;
        const bool apart_in_space = a.offset + a.size_bytes <= b.offset ||
                                    b.offset + b.size_bytes <= a.offset;
        EXPECT_TRUE(apart_in_time || apart_in_space) << i << " and " << j;
      }
    }
  }
}

TEST(ArenaLayoutTest, AChainTakesTwoPlaces) {
  std::vector<ArenaPiece> pieces;
  for (int i = 0; i < 10; ++i) {
    pieces.push_back({.size_bytes = 100, .first_step = i, .last_step = i + 1});
  }
  EXPECT_EQ(LayOutArena(64, pieces), 256);
}

}  // namespace
}  // namespace shoal::graph
