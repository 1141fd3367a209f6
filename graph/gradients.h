#ifndef SHOAL_GRAPH_GRADIENTS_H_
#define SHOAL_GRAPH_GRADIENTS_H_

#include <vector>

#include "graph/graph.h"

namespace shoal::graph {

// Adds nodes for the gradients of `loss` ([1] f32) with respect to `wrt`, by
// reverse mode: one result for each of `wrt`, of its shape. A result that is
// not valid() means that the loss does not depend on that tensor: its gradient
// is zero, and no node computes it.
//
// A tensor that is used several times gets the sum of what its uses give, by
// AddN, the last use first.
//
// Errors (in the builder): kInvalidArgument if the loss is not [1] f32;
// kUnimplemented, naming the node, if an op on the way has no gradient.
std::vector<NodeRef> Gradients(GraphBuilder& builder, NodeRef loss,
                               const std::vector<NodeRef>& wrt);

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_GRADIENTS_H_
