#include <algorithm>
#include <cctype>
#include <cmath>
#include <utility>

#include "base/strcat.h"
#include "graph/graph.h"
#include "graph/op.h"

namespace shoal::graph {
namespace {

std::string LowerCase(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return lower;
}

// Errors: kInvalidArgument; the text does not name the node.
Status CheckAttributes(const OpDef& op, const Attributes& attributes) {
  if (attributes.ints.size() != op.ints.size() ||
      attributes.floats.size() != op.floats.size()) {
    return InvalidArgumentError(
        StrCat("has ", attributes.ints.size(), " whole numbers and ",
               attributes.floats.size(), " floats as attributes; ", op.name,
               " takes ", op.ints.size(), " and ", op.floats.size()));
  }
  if (!op.has_shape_attribute && attributes.shape.rank() != 0) {
    return InvalidArgumentError(
        StrCat("has a shape as attribute; ", op.name, " takes none"));
  }
  for (size_t i = 0; i < op.floats.size(); ++i) {
    if (!std::isfinite(attributes.floats[i])) {
      return InvalidArgumentError(StrCat(
          op.floats[i], " is ", attributes.floats[i], "; it must be finite"));
    }
  }
  return OkStatus();
}

// Errors: kInvalidArgument; the text does not name the node.
Status CheckInputs(const OpDef& op, std::span<const NodeRef> inputs,
                   const Graph& graph) {
  const bool count_fits = op.variadic ? inputs.size() >= op.inputs.size()
                                      : inputs.size() == op.inputs.size();
  if (!count_fits) {
    return InvalidArgumentError(StrCat("has ", inputs.size(), " inputs; ",
                                       op.name, " takes ", op.inputs.size(),
                                       op.variadic ? " or more" : ""));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    const OpDef::Argument& argument = op.InputAt(static_cast<int>(i));
    if (!graph.Contains(inputs[i])) {
      return InvalidArgumentError(
          StrCat("input ", i, " (", argument.name, ") is no node"));
    }
    const DType dtype = graph.type(inputs[i]).dtype;
    if (dtype != argument.dtype) {
      return InvalidArgumentError(StrCat(
          argument.name, " (node '", graph.node(inputs[i]).name, "') is ",
          Name(dtype), "; ", op.name, " takes ", Name(argument.dtype)));
    }
  }
  return OkStatus();
}

}  // namespace

void GraphBuilder::SetError(Status status) {
  if (status_.ok()) {
    status_ = std::move(status);
  }
}

Dim GraphBuilder::Symbol(std::string_view name) {
  const auto at =
      std::find(graph_.symbols_.begin(), graph_.symbols_.end(), name);
  const auto number = static_cast<int>(at - graph_.symbols_.begin());
  if (at == graph_.symbols_.end()) {
    graph_.symbols_.emplace_back(name);
  }
  return Dim::Symbol(number);
}

std::string GraphBuilder::UniqueName(std::string_view name) {
  std::string unique = scope_ + std::string(name);
  for (int i = 1; !names_.insert(unique).second; ++i) {
    unique = StrCat(scope_, name, "_", i);
  }
  return unique;
}

Status GraphBuilder::CheckShape(std::string_view what, std::string_view name,
                                const SymbolicShape& shape) const {
  for (const Dim& dim : shape.dims()) {
    if (dim.coef() < 0 || dim.offset() < 0 ||
        dim.symbol() >= static_cast<int>(graph_.symbols_.size())) {
      return InvalidArgumentError(
          StrCat(what, " '", name, "': shape ", shape.ToString(graph_.symbols_),
                 " has a size that is negative or none"));
    }
  }
  return OkStatus();
}

NodeRef GraphBuilder::AddNode(Node node) {
  graph_.nodes_.push_back(std::move(node));
  return {static_cast<int32_t>(graph_.nodes_.size()) - 1, 0};
}

NodeRef GraphBuilder::AddFeed(Feed feed) {
  if (!ok()) {
    return {};
  }
  if (Status status = CheckShape("feed", feed.name, feed.type.shape);
      !status.ok()) {
    SetError(std::move(status));
    return {};
  }
  if (!names_.insert(feed.name).second) {
    SetError(InvalidArgumentError(
        StrCat("feed '", feed.name, "': the name is taken already")));
    return {};
  }
  Node node;
  node.name = feed.name;
  node.outputs = {feed.type};
  feed.ref = AddNode(std::move(node));
  graph_.feeds_.push_back(std::move(feed));
  return graph_.feeds_.back().ref;
}

NodeRef GraphBuilder::Placeholder(std::string_view name,
                                  const SymbolicShape& shape, DType dtype) {
  Feed feed;
  feed.name = name;
  feed.type = {shape, dtype};
  return AddFeed(std::move(feed));
}

NodeRef GraphBuilder::Variable(std::string_view name,
                               const std::vector<int64_t>& dims,
                               Initializer initializer) {
  Feed feed;
  feed.kind = Feed::Kind::kVariable;
  feed.name = scope_ + std::string(name);
  feed.initializer = initializer;
  if (dims.size() > Shape::kRankMax) {
    SetError(InvalidArgumentError(
        StrCat("variable '", feed.name, "': ", dims.size(),
               " axes are too many; the most are ", Shape::kRankMax)));
    return {};
  }
  const std::vector<Dim> sizes(dims.begin(), dims.end());
  feed.type = {SymbolicShape(std::span<const Dim>(sizes)), DType::kF32};
  if (std::any_of(dims.begin(), dims.end(), [](int64_t d) { return d < 1; })) {
    SetError(InvalidArgumentError(StrCat(
        "variable '", feed.name, "': shape ",
        feed.type.shape.ToString(graph_.symbols_), "; sizes are at least 1")));
    return {};
  }
  if (!std::isfinite(initializer.scale)) {
    SetError(InvalidArgumentError(
        StrCat("variable '", feed.name, "': its initial values have scale ",
               initializer.scale, "; it must be finite")));
    return {};
  }
  return AddFeed(std::move(feed));
}

NodeRef GraphBuilder::TableRows(std::string_view table, std::string_view group,
                                int64_t dim) {
  if (dim <= 0) {
    SetError(InvalidArgumentError(StrCat("table '", table, "': rows of ", dim,
                                         " numbers; it must be at least 1")));
    return {};
  }
  Feed feed;
  feed.kind = Feed::Kind::kTableRows;
  feed.name = table;
  feed.type = {{Symbol(StrCat("rows:", group)), dim}, DType::kF32};
  feed.group = group;
  return AddFeed(std::move(feed));
}

NodeRef GraphBuilder::Constant(float value) {
  if (!ok()) {
    return {};
  }
  Feed feed;
  feed.kind = Feed::Kind::kConstant;
  // UniqueName() takes the name; AddFeed() takes it again.
  feed.name = UniqueName("constant");
  names_.erase(feed.name);
  feed.type = {{1}, DType::kF32};
  feed.value = value;
  return AddFeed(std::move(feed));
}

StatusOr<Node> GraphBuilder::MakeNode(std::string_view op_name,
                                      std::span<const NodeRef> inputs,
                                      Attributes attributes) const {
  SHOAL_ASSIGN_OR_RETURN(const OpDef* op, OpRegistry().Find(op_name));
  SHOAL_RETURN_IF_ERROR(CheckInputs(*op, inputs, graph_));
  SHOAL_RETURN_IF_ERROR(CheckAttributes(*op, attributes));
  Node node;
  node.op = op;
  node.inputs.assign(inputs.begin(), inputs.end());
  node.attributes = std::move(attributes);
  std::vector<TensorType> types;
  for (const NodeRef input : inputs) {
    types.push_back(graph_.type(input));
  }
  ShapeContext ctx(*op, types, node.attributes, graph_.symbols_);
  SHOAL_RETURN_IF_ERROR(op->shape_fn(ctx));
  SHOAL_CHECK(ctx.outputs().size() == op->outputs.size());
  node.outputs = ctx.outputs();
  return node;
}

namespace {

// How much of a node's name the key fits, 0: it does not.
size_t Fit(const Node& node, const std::string& key) {
  if (node.op == nullptr || node.op->alias) {
    return 0;  // It computes nothing.
  }
  if (node.name == key || node.name.starts_with(key + "/")) {
    return key.size();
  }
  // "deep/0/matmul_1" runs a MatMul, which any path of its own goes before.
  return LowerCase(key) == LowerCase(node.op->name) ? 1 : 0;
}

}  // namespace

std::vector<std::string> GraphBuilder::PlaceOps(
    const std::map<std::string, std::string>& devices) {
  std::set<std::string> unused;
  for (const auto& [key, device] : devices) {
    unused.insert(key);
  }
  for (Node& node : graph_.nodes_) {
    size_t best = 0;
    for (const auto& [key, device] : devices) {
      const size_t fit = Fit(node, key);
      if (fit > 0) {
        unused.erase(key);
      }
      if (fit > best) {
        best = fit;
        node.device = device;
      }
    }
  }
  return {unused.begin(), unused.end()};
}

std::vector<std::string> GraphBuilder::PlaceableNames() const {
  std::set<std::string> names;
  for (const Node& node : graph_.nodes_) {
    if (node.op != nullptr && !node.op->alias) {
      names.insert(LowerCase(node.op->name));
      const size_t slash = node.name.find('/');
      if (slash != std::string::npos) {
        names.insert(node.name.substr(0, slash));
      }
    }
  }
  return {names.begin(), names.end()};
}

NodeRef GraphBuilder::Op(std::string_view op, std::span<const NodeRef> inputs,
                         Attributes attributes, std::string_view name) {
  if (!ok()) {
    return {};
  }
  std::string unique = UniqueName(name.empty() ? LowerCase(op) : name);
  StatusOr<Node> node = MakeNode(op, inputs, std::move(attributes));
  Status status = node.status();
  if (status.ok()) {
    for (const TensorType& type : node->outputs) {
      if (status.ok()) {
        status = CheckShape("node", unique, type.shape);
      }
    }
  } else {
    status = status.WithPrefix(StrCat("node '", unique, "'"));
  }
  if (!status.ok()) {
    SetError(std::move(status));
    return {};
  }
  node->name = std::move(unique);
  node->device = device_;
  return AddNode(*std::move(node));
}

NodeRef GraphBuilder::Output(NodeRef ref, int output) {
  if (!ok()) {
    return {};
  }
  const NodeRef result = {ref.node, output};
  if (!graph_.Contains(result)) {
    SetError(InvalidArgumentError(
        graph_.Contains({ref.node, 0})
            ? StrCat("node '", graph_.node(ref).name, "' has no output ",
                     output)
            : StrCat("output ", output, " of what is no node")));
    return {};
  }
  return result;
}

GraphBuilder::Scope::Scope(GraphBuilder& builder, std::string_view name)
    : builder_(builder), size_before_(builder.scope_.size()) {
  builder_.scope_ += name;
  builder_.scope_ += '/';
}

StatusOr<Graph> GraphBuilder::Finish() {
  if (!ok()) {
    return status_;
  }
  names_.clear();
  return std::exchange(graph_, Graph());
}

}  // namespace shoal::graph
