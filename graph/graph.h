#ifndef SHOAL_GRAPH_GRAPH_H_
#define SHOAL_GRAPH_GRAPH_H_

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "graph/dim.h"

namespace shoal::graph {

struct OpDef;

// One output of one node of a graph; the default is none.
struct NodeRef {
  int32_t node = -1;
  int32_t output = 0;

  bool valid() const { return node >= 0; }
  friend bool operator==(const NodeRef&, const NodeRef&) = default;
  friend auto operator<=>(const NodeRef&, const NodeRef&) = default;
};

// What an op computes beside its inputs; the order and meaning are its OpDef's.
struct Attributes {
  std::vector<int64_t> ints = {};
  std::vector<double> floats = {};
  SymbolicShape shape = {};  // Reshape

  friend bool operator==(const Attributes&, const Attributes&) = default;
};

// How a variable starts. Who holds the variable carries it out.
struct Initializer {
  enum class Kind : uint8_t { kZero, kUniform, kNormal, kConstant };
  Kind kind = Kind::kZero;
  double scale = 0;  // uniform: +-scale; normal: deviation; constant: the value

  static Initializer Zero() { return {}; }
  static Initializer Uniform(double scale) { return {Kind::kUniform, scale}; }
  static Initializer Normal(double scale) { return {Kind::kNormal, scale}; }
  static Initializer Constant(double v) { return {Kind::kConstant, v}; }
};

struct TensorType {
  SymbolicShape shape;
  DType dtype = DType::kF32;

  friend bool operator==(const TensorType&, const TensorType&) = default;
};

// A feed has no op and no inputs.
struct Node {
  std::string name;  // unique in its graph
  const OpDef* op = nullptr;
  std::vector<NodeRef> inputs;
  Attributes attributes;
  std::vector<TensorType> outputs;
  // "cpu" runs it there though the plan is for another device; empty: the
  // plan's.
  std::string device = {};
};

// A tensor that comes from outside, from run to run.
struct Feed {
  enum class Kind : uint8_t {
    kPlaceholder,
    kVariable,
    kTableRows,  // rows that were looked up
    kConstant,   // [1], `value`; the executor brings it
  };
  Kind kind = Kind::kPlaceholder;
  std::string name;
  NodeRef ref;
  TensorType type;
  Initializer initializer;  // variables
  std::string group;        // table rows: tables of a group share their ids
  float value = 0;          // constants
};

// A static, typed graph. Nodes stand in an order in which inputs come before
// their users. Made by GraphBuilder; immutable.
class Graph {
 public:
  const std::vector<Node>& nodes() const { return nodes_; }
  const Node& node(NodeRef ref) const {
    return nodes_[static_cast<size_t>(ref.node)];
  }
  const TensorType& type(NodeRef ref) const {
    return node(ref).outputs[static_cast<size_t>(ref.output)];
  }

  // In the order in which they were made; a feed's number is its place here.
  const std::vector<Feed>& feeds() const { return feeds_; }
  // Errors: kNotFound, with the known names.
  StatusOr<int> FindFeed(std::string_view name) const;

  // Names by symbol.
  const std::vector<std::string>& symbols() const { return symbols_; }
  // Errors: kNotFound, with the known names.
  StatusOr<int> FindSymbol(std::string_view name) const;

  bool Contains(NodeRef ref) const;

  // "[batch,13] f32".
  std::string TypeText(NodeRef ref) const;

  // One line per node, for people.
  std::string ToString() const;

 private:
  friend class GraphBuilder;
  friend class GraphRewriter;

  std::vector<Node> nodes_;
  std::vector<Feed> feeds_;
  std::vector<std::string> symbols_;
};

// Builds a graph, op by op. The first error stays: methods then return no node,
// and Finish() gives the error, which names the node. So model code needs no
// checks of its own.
//
// Thread-compatible.
class GraphBuilder {
 public:
  GraphBuilder() = default;
  GraphBuilder(const GraphBuilder&) = delete;
  GraphBuilder& operator=(const GraphBuilder&) = delete;

  // The symbol of this name, made when it is new.
  Dim Symbol(std::string_view name);

  // Feeds. The names of placeholders and tables are taken as they are, those
  // of variables get the scope before them. A name can be taken once.
  NodeRef Placeholder(std::string_view name, const SymbolicShape& shape,
                      DType dtype = DType::kF32);
  // Dims are at least 1.
  NodeRef Variable(std::string_view name, const std::vector<int64_t>& dims,
                   Initializer initializer = {});
  // [rows:<group>, dim] f32: the rows of a table's distinct ids. Tables of one
  // group are looked up with the same ids and so share the symbol.
  NodeRef TableRows(std::string_view table, std::string_view group,
                    int64_t dim);
  // [1] f32.
  NodeRef Constant(float value);

  // A node of an op by its name. `name` defaults to the op's in lower case;
  // it gets the scope before it and a number after it where it is taken.
  // Returns output 0; Output() has the others. Typed wrappers: graph/ops.h.
  NodeRef Op(std::string_view op, std::span<const NodeRef> inputs,
             Attributes attributes = {}, std::string_view name = {});
  NodeRef Op(std::string_view op, std::initializer_list<NodeRef> inputs,
             Attributes attributes = {}, std::string_view name = {}) {
    return Op(op, std::span<const NodeRef>(inputs.begin(), inputs.size()),
              std::move(attributes), name);
  }
  NodeRef Output(NodeRef ref, int output);

  // Puts ops that were built so far on devices (see Node::device). A key is the
  // name of an op, whatever the case ("gather"), or a path that names of nodes
  // begin with ("deep", "deep/0"), of which the longest that fits counts.
  // Returns the keys that fit nothing.
  std::vector<std::string> PlaceOps(
      const std::map<std::string, std::string>& devices);
  // What keys may name, for errors: outermost paths, and ops.
  std::vector<std::string> PlaceableNames() const;

  // While it lives, ops are put on a device.
  class OnDevice {
   public:
    OnDevice(GraphBuilder& builder, std::string device)
        : builder_(builder),
          before_(std::exchange(builder.device_, std::move(device))) {}
    ~OnDevice() { builder_.device_ = std::move(before_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

   private:
    GraphBuilder& builder_;
    std::string before_;
  };

  // While it lives, names start with "<name>/" after those of outer scopes.
  class Scope {
   public:
    Scope(GraphBuilder& builder, std::string_view name);
    ~Scope() { builder_.scope_.resize(size_before_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    GraphBuilder& builder_;
    size_t size_before_;
  };

  // Nothing more can be added once there is an error.
  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }
  void SetError(Status status);

  // What has been built so far. `ref` must be valid.
  const Graph& graph() const { return graph_; }
  const SymbolicShape& shape(NodeRef ref) const {
    return graph_.type(ref).shape;
  }

  // Hands out the graph; the builder is empty afterwards.
  // Errors: kInvalidArgument, kNotFound: the first error.
  StatusOr<Graph> Finish();

 private:
  NodeRef AddFeed(Feed feed);
  NodeRef AddNode(Node node);
  std::string UniqueName(std::string_view name);
  Status CheckShape(std::string_view what, std::string_view name,
                    const SymbolicShape& shape) const;
  StatusOr<Node> MakeNode(std::string_view op, std::span<const NodeRef> inputs,
                          Attributes attributes) const;

  Graph graph_;
  std::set<std::string, std::less<>> names_;
  std::string scope_;
  std::string device_;
  Status status_;
};

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_GRAPH_H_
