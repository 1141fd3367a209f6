#ifndef SHOAL_GRAPH_PASSES_H_
#define SHOAL_GRAPH_PASSES_H_

#include <vector>

#include "graph/graph.h"

namespace shoal::graph {

// The same values with fewer nodes: what does not change a bit is left out
// (Scale by 1, AddN of one, a Reshape to the same shape or of a Reshape), equal
// nodes become one, and nodes that none of `keep` needs go. Feeds stay, with
// their numbers. `keep`, valid nodes of `graph`, is renumbered.
Graph Simplify(const Graph& graph, std::vector<NodeRef>& keep);

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_PASSES_H_
