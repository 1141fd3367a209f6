#ifndef SHOAL_GRAPH_ARENA_LAYOUT_H_
#define SHOAL_GRAPH_ARENA_LAYOUT_H_

#include <cstdint>
#include <vector>

namespace shoal::graph {

// A piece of memory that is needed from one step of a schedule to another,
// both included.
struct ArenaPiece {
  int64_t size_bytes = 0;
  int first_step = 0;
  int last_step = 0;
  int64_t offset = 0;  // set by LayOutArena()
};

// Gives each piece a place, a multiple of `alignment`, so that pieces that are
// needed at the same time do not overlap; returns the size of the whole, a
// multiple of `alignment` too. Large pieces choose first and take the lowest
// place that is free (Pisarchyk and Lee 2020: "greedy by size").
// Sizes must add up to less than 2^62.
int64_t LayOutArena(int64_t alignment, std::vector<ArenaPiece>& pieces);

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_ARENA_LAYOUT_H_
