#include "graph/arena_layout.h"

#include <algorithm>
#include <numeric>

namespace shoal::graph {
namespace {

bool AtTheSameTime(const ArenaPiece& a, const ArenaPiece& b) {
  return a.first_step <= b.last_step && b.first_step <= a.last_step;
}

// The lowest place beside `placed`, which are ordered by their offsets.
int64_t LowestPlace(const ArenaPiece& piece, int64_t alignment,
                    const std::vector<const ArenaPiece*>& placed) {
  int64_t offset = 0;
  for (const ArenaPiece* other : placed) {
    if (!AtTheSameTime(piece, *other)) {
      continue;
    }
    if (offset + piece.size_bytes <= other->offset) {
      break;
    }
    const int64_t end = other->offset + other->size_bytes;
    offset = std::max(offset, (end + alignment - 1) / alignment * alignment);
  }
  return offset;
}

}  // namespace

int64_t LayOutArena(int64_t alignment, std::vector<ArenaPiece>& pieces) {
  std::vector<size_t> order(pieces.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return pieces[a].size_bytes > pieces[b].size_bytes;
  });
  std::vector<const ArenaPiece*> placed;
  int64_t end = 0;
  for (const size_t i : order) {
    ArenaPiece& piece = pieces[i];
    piece.offset = LowestPlace(piece, alignment, placed);
    end = std::max(end, piece.offset + piece.size_bytes);
    const auto at =
        std::upper_bound(placed.begin(), placed.end(), &piece,
                         [](const ArenaPiece* a, const ArenaPiece* b) {
                           return a->offset < b->offset;
                         });
    placed.insert(at, &piece);
  }
  return (end + alignment - 1) / alignment * alignment;
}

}  // namespace shoal::graph
