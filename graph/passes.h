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

// Makes one Dense node of a MatMul without transposition, a BiasAdd, and a
// Relu, Sigmoid or Tanh where there is one, if nobody else needs what lies
// between and all are on one device. Gradients of these take the output alone,
// so they stay as they are. The same bits. Nodes keep their numbers; those that
// nobody needs any more stay.
void FuseLayers(Graph& graph, const std::vector<NodeRef>& keep);

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_PASSES_H_
