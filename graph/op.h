#ifndef SHOAL_GRAPH_OP_H_
#define SHOAL_GRAPH_OP_H_

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/registry.h"
#include "base/status.h"
#include "graph/dim.h"
#include "graph/graph.h"

namespace shoal::graph {

struct OpDef;

// What a shape rule sees of a node that is being made: the number and dtypes of
// inputs and attributes have been checked against the OpDef already.
class ShapeContext {
 public:
  ShapeContext(const OpDef& op, std::span<const TensorType> inputs,
               const Attributes& attributes,
               std::span<const std::string> symbol_names)
      : op_(op),
        inputs_(inputs),
        attributes_(attributes),
        symbol_names_(symbol_names) {}

  int num_inputs() const { return static_cast<int>(inputs_.size()); }
  const SymbolicShape& input(int i) const {
    return inputs_[static_cast<size_t>(i)].shape;
  }
  int64_t int_attribute(int i) const {
    return attributes_.ints[static_cast<size_t>(i)];
  }
  double float_attribute(int i) const {
    return attributes_.floats[static_cast<size_t>(i)];
  }
  const SymbolicShape& shape_attribute() const { return attributes_.shape; }

  // "a is [batch,13]", for errors.
  std::string Text(int i) const;
  std::string Text(const SymbolicShape& shape) const {
    return shape.ToString(symbol_names_);
  }
  std::string InputName(int i) const;

  // Errors: kInvalidArgument, naming the inputs and their shapes.
  Status ExpectRank(int i, int rank) const;
  Status ExpectSame(int i, int j) const;
  Status ExpectShape(int i, const SymbolicShape& shape) const;

  // Outputs in their order.
  Status SetOutput(const SymbolicShape& shape) {
    outputs_.push_back({shape, DType::kF32});
    return OkStatus();
  }
  const std::vector<TensorType>& outputs() const { return outputs_; }

 private:
  const OpDef& op_;
  std::span<const TensorType> inputs_;
  const Attributes& attributes_;
  std::span<const std::string> symbol_names_;
  std::vector<TensorType> outputs_;
};

// Sets the outputs. Errors: kInvalidArgument; the text needs not name the node.
using ShapeFn = Status (*)(ShapeContext& ctx);

// What a gradient rule sees of the node that it differentiates. It adds nodes
// to builder() and says which of them are gradients of inputs.
class GradientContext {
 public:
  GradientContext(GraphBuilder& builder, NodeRef node, NodeRef dy,
                  std::vector<bool> wanted);

  GraphBuilder& builder() { return builder_; }
  int num_inputs() const { return static_cast<int>(inputs_.size()); }
  NodeRef input(int i) const { return inputs_[static_cast<size_t>(i)]; }
  NodeRef y() const { return node_; }
  NodeRef dy() const { return dy_; }  // the gradient of y, of its shape
  const Attributes& attributes() const { return attributes_; }

  // Whether anybody asks for the gradient of this input. SetGradient() of
  // another one is ignored, so a rule asks only where that saves a node.
  bool wants(int i) const { return wanted_[static_cast<size_t>(i)]; }
  void SetGradient(int i, NodeRef gradient);
  NodeRef gradient(int i) const { return gradients_[static_cast<size_t>(i)]; }

 private:
  GraphBuilder& builder_;
  NodeRef node_;
  NodeRef dy_;
  std::vector<NodeRef> inputs_;
  Attributes attributes_;
  std::vector<bool> wanted_;
  std::vector<NodeRef> gradients_;
};

using GradientFn = void (*)(GradientContext& ctx);

// A gradient that is one other op with the same attributes. `args` are names of
// inputs, "y" for the output and "grad(y)"; `returns` are "grad(<input>)", in
// the order of the op's outputs.
struct GradientRule {
  std::string op;
  std::vector<std::string> args;
  std::vector<std::string> returns;
};

// An op: what it takes and gives, how shapes follow, how to differentiate it.
// How to compute it is a kernel's business ("cpu/<name>" in KernelRegistry()).
struct OpDef {
  struct Argument {
    std::string name;
    std::string shape;  // for people: "[m,n]"
    DType dtype = DType::kF32;
    // The kernel looks at its shape alone: the memory may be gone.
    bool shape_only = false;
  };

  std::string name;
  std::vector<Argument> inputs;
  bool variadic = false;  // the last input comes once or more
  std::vector<Argument> outputs;
  std::vector<std::string> ints;
  std::vector<std::string> floats;
  bool has_shape_attribute = false;
  ShapeFn shape_fn = nullptr;

  // Exactly one of them is set.
  GradientFn gradient_fn = nullptr;
  GradientRule gradient_rule;
  std::string no_gradient_because;
  bool has_gradient() const { return no_gradient_because.empty(); }

  // Inputs that are not differentiated (labels, indices).
  std::vector<bool> constant_inputs;
  bool IsConstantInput(int i) const;

  // Output 0 may be the memory of any input of its shape and dtype: each of
  // its elements is read before that element is written.
  bool in_place = false;
  // Output 0 is input 0 with another shape: no work, the same memory.
  bool alias = false;

  const Argument& InputAt(int i) const;
  int FindInput(std::string_view input) const;  // -1: there is none
};

Registry<OpDef>& OpRegistry();

// Fills an OpDef; see SHOAL_REGISTER_OP.
class OpDefBuilder {
 public:
  OpDefBuilder(std::string_view name, const char* file) : file_(file) {
    def_.name = name;
  }

  OpDefBuilder& Input(std::string_view name, std::string_view shape,
                      DType dtype = DType::kF32);
  // One or more inputs; must be the last.
  OpDefBuilder& Inputs(std::string_view name, std::string_view shape);
  // Only the shape counts.
  OpDefBuilder& ShapeOf(std::string_view name, std::string_view shape);
  // Not differentiated.
  OpDefBuilder& ConstantInput(std::string_view name, std::string_view shape,
                              DType dtype = DType::kF32);
  OpDefBuilder& Output(std::string_view name, std::string_view shape);
  OpDefBuilder& Ints(std::initializer_list<const char*> names);
  OpDefBuilder& Floats(std::initializer_list<const char*> names);
  OpDefBuilder& ShapeAttribute();
  OpDefBuilder& ShapeFn(graph::ShapeFn fn);
  OpDefBuilder& Gradient(GradientFn fn);
  OpDefBuilder& Gradient(GradientRule rule);
  OpDefBuilder& NoGradient(std::string_view because);
  OpDefBuilder& InPlace();
  OpDefBuilder& Alias();

  // Registers. A definition that contradicts itself stops the program.
  // NOLINTNEXTLINE(google-explicit-constructor): see SHOAL_REGISTER_OP.
  operator bool() const;

 private:
  const char* file_;
  OpDef def_;
};

// SHOAL_REGISTER_OP(Relu).Input("x", "[...]").Output("y", "as x")...;
#define SHOAL_REGISTER_OP(name)                                         \
  [[maybe_unused]] static const bool SHOAL_CONCAT(shoal_op_registered_, \
                                                  __COUNTER__) =        \
      ::shoal::graph::OpDefBuilder(#name, __FILE__)

// Shape rules that many ops share: the output is as the first input, and for
// the second all inputs are alike.
Status SameAsFirst(ShapeContext& ctx);
Status AllSame(ShapeContext& ctx);

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_OP_H_
