#include "graph/ops.h"

namespace shoal::graph {

NodeRef MatMul(GraphBuilder& b, NodeRef x, NodeRef w, bool transpose_x,
               bool transpose_w) {
  return b.Op("MatMul", {x, w},
              {.ints = {transpose_x ? 1 : 0, transpose_w ? 1 : 0}});
}

NodeRef BiasAdd(GraphBuilder& b, NodeRef x, NodeRef bias) {
  return b.Op("BiasAdd", {x, bias});
}

NodeRef Add(GraphBuilder& b, NodeRef x, NodeRef y) {
  return b.Op("Add", {x, y});
}

NodeRef Sub(GraphBuilder& b, NodeRef x, NodeRef y) {
  return b.Op("Sub", {x, y});
}

NodeRef Mul(GraphBuilder& b, NodeRef x, NodeRef y) {
  return b.Op("Mul", {x, y});
}

NodeRef AddN(GraphBuilder& b, const std::vector<NodeRef>& terms) {
  return b.Op("AddN", terms);
}

NodeRef Scale(GraphBuilder& b, NodeRef x, double alpha) {
  return b.Op("Scale", {x}, {.floats = {alpha}});
}

NodeRef ScaleBy(GraphBuilder& b, NodeRef x, NodeRef s) {
  return b.Op("ScaleBy", {x, s});
}

NodeRef Dot(GraphBuilder& b, NodeRef x, NodeRef y) {
  return b.Op("Dot", {x, y});
}

NodeRef Relu(GraphBuilder& b, NodeRef x) { return b.Op("Relu", {x}); }

NodeRef Sigmoid(GraphBuilder& b, NodeRef x) { return b.Op("Sigmoid", {x}); }

NodeRef Tanh(GraphBuilder& b, NodeRef x) { return b.Op("Tanh", {x}); }

NodeRef Square(GraphBuilder& b, NodeRef x) { return b.Op("Square", {x}); }

NodeRef Softmax(GraphBuilder& b, NodeRef logits) {
  return b.Op("Softmax", {logits});
}

NodeRef Dropout(GraphBuilder& b, NodeRef x, NodeRef seed, double rate) {
  return b.Op("Dropout", {x, seed}, {.floats = {rate}});
}

NodeRef ColumnSum(GraphBuilder& b, NodeRef x) { return b.Op("ColumnSum", {x}); }

NodeRef RowSum(GraphBuilder& b, NodeRef x) { return b.Op("RowSum", {x}); }

NodeRef ReduceSum(GraphBuilder& b, NodeRef x) { return b.Op("ReduceSum", {x}); }

NodeRef L2Penalty(GraphBuilder& b, NodeRef x) { return b.Op("L2Penalty", {x}); }

NodeRef Concat(GraphBuilder& b, const std::vector<NodeRef>& parts) {
  return b.Op("Concat", parts);
}

NodeRef Slice(GraphBuilder& b, NodeRef x, int64_t begin, int64_t size) {
  return b.Op("Slice", {x}, {.ints = {begin, size}});
}

NodeRef Reshape(GraphBuilder& b, NodeRef x, const SymbolicShape& shape) {
  return b.Op("Reshape", {x}, {.shape = shape});
}

NodeRef Gather(GraphBuilder& b, NodeRef rows, NodeRef index) {
  return b.Op("Gather", {rows, index});
}

NodeRef BagPool(GraphBuilder& b, NodeRef rows, NodeRef index, NodeRef offsets,
                NodeRef weights, int64_t fields, bool mean) {
  return b.Op("BagPool", {rows, index, offsets, weights},
              {.ints = {fields, mean ? 1 : 0}});
}

NodeRef FmInteraction(GraphBuilder& b, NodeRef x) {
  return b.Op("FmInteraction", {x});
}

NodeRef DotInteraction(GraphBuilder& b, NodeRef x) {
  return b.Op("DotInteraction", {x});
}

NodeRef CrossCombine(GraphBuilder& b, NodeRef x0, NodeRef z, NodeRef xl) {
  return b.Op("CrossCombine", {x0, z, xl});
}

NodeRef SigmoidCrossEntropy(GraphBuilder& b, NodeRef logits, NodeRef labels) {
  return b.Op("SigmoidCrossEntropy", {logits, labels});
}

NodeRef SoftmaxCrossEntropy(GraphBuilder& b, NodeRef logits, NodeRef labels) {
  return b.Op("SoftmaxCrossEntropy", {logits, labels});
}

NodeRef SquaredError(GraphBuilder& b, NodeRef prediction, NodeRef labels) {
  return b.Op("SquaredError", {prediction, labels});
}

}  // namespace shoal::graph
