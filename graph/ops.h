#ifndef SHOAL_GRAPH_OPS_H_
#define SHOAL_GRAPH_OPS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "graph/graph.h"

// Typed calls of GraphBuilder::Op() for model code. What each computes stands
// with its OpDef in graph/ops/.
namespace shoal::graph {

using Refs = std::span<const NodeRef>;

// y[m, n] = a[m, k] b[k, n], each transposed first where asked.
NodeRef MatMul(GraphBuilder& b, NodeRef x, NodeRef w, bool transpose_x = false,
               bool transpose_w = false);
NodeRef BiasAdd(GraphBuilder& b, NodeRef x, NodeRef bias);

NodeRef Add(GraphBuilder& b, NodeRef x, NodeRef y);
NodeRef Sub(GraphBuilder& b, NodeRef x, NodeRef y);
NodeRef Mul(GraphBuilder& b, NodeRef x, NodeRef y);
NodeRef AddN(GraphBuilder& b, const std::vector<NodeRef>& terms);
NodeRef Scale(GraphBuilder& b, NodeRef x, double alpha);
NodeRef ScaleBy(GraphBuilder& b, NodeRef x, NodeRef s);  // s is [1]
NodeRef Dot(GraphBuilder& b, NodeRef x, NodeRef y);      // [1]

NodeRef Relu(GraphBuilder& b, NodeRef x);
NodeRef Sigmoid(GraphBuilder& b, NodeRef x);
NodeRef Tanh(GraphBuilder& b, NodeRef x);
NodeRef Square(GraphBuilder& b, NodeRef x);
NodeRef Softmax(GraphBuilder& b, NodeRef logits);

// `seed` is [1] u64: another one in every run and for every use.
NodeRef Dropout(GraphBuilder& b, NodeRef x, NodeRef seed, double rate);

NodeRef ColumnSum(GraphBuilder& b, NodeRef x);  // [m, n] -> [n]
NodeRef RowSum(GraphBuilder& b, NodeRef x);     // [m, n] -> [m, 1]
NodeRef ReduceSum(GraphBuilder& b, NodeRef x);  // [...] -> [1]
NodeRef L2Penalty(GraphBuilder& b, NodeRef x);  // [...] -> [1]: sum x^2 / 2

// Along the last axis of 2-D tensors.
NodeRef Concat(GraphBuilder& b, const std::vector<NodeRef>& parts);
NodeRef Slice(GraphBuilder& b, NodeRef x, int64_t begin, int64_t size);
// As many elements, which do not move.
NodeRef Reshape(GraphBuilder& b, NodeRef x, const SymbolicShape& shape);

// rows [u, d] and index [b, f] i32 -> [b, f, d].
NodeRef Gather(GraphBuilder& b, NodeRef rows, NodeRef index);
// rows [u, d], index [n] i32, offsets [b * fields + 1] i32, weights [n]
// -> [b, fields, d]: weighted sums (means) of the rows of each bag.
NodeRef BagPool(GraphBuilder& b, NodeRef rows, NodeRef index, NodeRef offsets,
                NodeRef weights, int64_t fields, bool mean);

NodeRef FmInteraction(GraphBuilder& b, NodeRef x);   // [b, f, d] -> [b, 1]
NodeRef DotInteraction(GraphBuilder& b, NodeRef x);  // -> [b, f (f - 1) / 2]
// x0 * z + xl, all [b, n].
NodeRef CrossCombine(GraphBuilder& b, NodeRef x0, NodeRef z, NodeRef xl);

// Losses per example, [b, 1]; labels are [b, 1] f32.
NodeRef SigmoidCrossEntropy(GraphBuilder& b, NodeRef logits, NodeRef labels);
NodeRef SoftmaxCrossEntropy(GraphBuilder& b, NodeRef logits, NodeRef labels);
NodeRef SquaredError(GraphBuilder& b, NodeRef prediction, NodeRef labels);

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_OPS_H_
