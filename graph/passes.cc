#include "graph/passes.h"

#include <map>
#include <string>
#include <utility>

#include "graph/op.h"
#include "kernels/gemm.h"

namespace shoal::graph {

// Works on a copy whose nodes keep their numbers until the end: replaced_ says
// which tensor stands for a node's outputs.
class GraphRewriter {
 public:
  explicit GraphRewriter(const Graph& graph)
      : graph_(graph), replaced_(graph.nodes().size()) {}

  Graph Run(std::vector<NodeRef>& keep) {
    for (size_t i = 0; i < graph_.nodes_.size(); ++i) {
      Rewrite(i);
    }
    for (NodeRef& ref : keep) {
      ref = Resolve(ref);
    }
    return Prune(keep);
  }

  // See FuseLayers().
  static void Fuse(Graph& graph, const std::vector<NodeRef>& keep) {
    std::vector<int> uses(graph.nodes_.size(), 0);
    for (const NodeRef ref : keep) {
      ++uses[static_cast<size_t>(ref.node)];
    }
    for (const Node& node : graph.nodes_) {
      for (const NodeRef input : node.inputs) {
        ++uses[static_cast<size_t>(input.node)];
      }
    }
    const OpDef* const dense = *OpRegistry().Find("Dense");
    // The node whose only use is to be input 0 of this one, or null.
    const auto only_input = [&](const Node& node) -> Node* {
      Node& input = graph.nodes_[static_cast<size_t>(node.inputs[0].node)];
      const bool only = uses[static_cast<size_t>(node.inputs[0].node)] == 1;
      return only && input.device == node.device && input.op != nullptr
                 ? &input
                 : nullptr;
    };
    for (Node& node : graph.nodes_) {
      if (node.op == nullptr) {
        continue;
      }
      if (node.op->name == "BiasAdd") {
        Node* const product = only_input(node);
        if (product != nullptr && product->op->name == "MatMul" &&
            product->attributes.ints == std::vector<int64_t>{0, 0}) {
          node.op = dense;
          node.inputs = {product->inputs[0], product->inputs[1],
                         node.inputs[1]};
          node.attributes.ints = {static_cast<int64_t>(Activation::kNone)};
        }
        continue;
      }
      const Activation activation = ActivationOf(node.op->name);
      if (activation == Activation::kNone) {
        continue;
      }
      Node* const layer = only_input(node);
      if (layer != nullptr && layer->op == dense &&
          layer->attributes.ints[0] ==
              static_cast<int64_t>(Activation::kNone)) {
        node.op = dense;
        node.inputs = layer->inputs;
        node.attributes.ints = {static_cast<int64_t>(activation)};
      }
    }
  }

 private:
  static Activation ActivationOf(const std::string& op) {
    return op == "Relu"      ? Activation::kRelu
           : op == "Sigmoid" ? Activation::kSigmoid
           : op == "Tanh"    ? Activation::kTanh
                             : Activation::kNone;
  }

  // A node that is replaced has one output, or is equal to the other one.
  NodeRef Resolve(NodeRef ref) const {
    const NodeRef to = replaced_[static_cast<size_t>(ref.node)];
    return to.valid() ? NodeRef{to.node, to.output + ref.output} : ref;
  }

  void Rewrite(size_t i) {
    Node& node = graph_.nodes_[i];
    if (node.op == nullptr) {
      return;
    }
    for (NodeRef& input : node.inputs) {
      input = Resolve(input);
    }
    SkipReshapes(node);
    if (IsIdentity(node)) {
      replaced_[i] = node.inputs[0];
      return;
    }
    const auto [at, added] =
        seen_.emplace(KeyOf(node), static_cast<int32_t>(i));
    if (!added) {
      replaced_[i] = {at->second, 0};
    }
  }

  void SkipReshapes(Node& node) const {
    if (!node.op->alias) {
      return;
    }
    const Node& from = graph_.node(node.inputs[0]);
    if (from.op != nullptr && from.op->alias) {
      node.inputs[0] = from.inputs[0];
    }
  }

  bool IsIdentity(const Node& node) const {
    if (node.op->alias) {
      return graph_.type(node.inputs[0]) == node.outputs[0];
    }
    if (node.op->name == "AddN") {
      return node.inputs.size() == 1;
    }
    return node.op->name == "Scale" && node.attributes.floats[0] == 1.0;
  }

  // Equal for nodes that compute the same bits: attributes count by theirs.
  static std::string KeyOf(const Node& node) {
    std::string key = node.op->name + "@" + node.device;
    const auto append = [&key](const auto& value) {
      key.append(reinterpret_cast<const char*>(&value), sizeof(value));
    };
    append(node.inputs.size());
    for (const NodeRef input : node.inputs) {
      append(input.node);
      append(input.output);
    }
    for (const int64_t number : node.attributes.ints) {
      append(number);
    }
    for (const double number : node.attributes.floats) {
      append(number);
    }
    for (const Dim& dim : node.attributes.shape.dims()) {
      append(dim.symbol());
      append(dim.coef());
      append(dim.offset());
    }
    return key;
  }

  // Leaves out what is not needed and numbers the rest anew.
  Graph Prune(std::vector<NodeRef>& keep) {
    std::vector<bool> needed(graph_.nodes_.size(), false);
    for (const NodeRef ref : keep) {
      needed[static_cast<size_t>(ref.node)] = true;
    }
    for (size_t i = needed.size(); i-- > 0;) {
      if (needed[i]) {
        for (const NodeRef input : graph_.nodes_[i].inputs) {
          needed[static_cast<size_t>(input.node)] = true;
        }
      }
    }
    std::vector<int32_t> numbers(needed.size(), -1);
    const auto renumber = [&numbers](NodeRef& ref) {
      ref.node = numbers[static_cast<size_t>(ref.node)];
    };
    Graph pruned;
    pruned.symbols_ = std::move(graph_.symbols_);
    for (size_t i = 0; i < needed.size(); ++i) {
      Node& node = graph_.nodes_[i];
      if (!needed[i] && node.op != nullptr) {
        continue;
      }
      for (NodeRef& input : node.inputs) {
        renumber(input);
      }
      numbers[i] = static_cast<int32_t>(pruned.nodes_.size());
      pruned.nodes_.push_back(std::move(node));
    }
    pruned.feeds_ = std::move(graph_.feeds_);
    for (Feed& feed : pruned.feeds_) {
      renumber(feed.ref);
    }
    for (NodeRef& ref : keep) {
      renumber(ref);
    }
    return pruned;
  }

  Graph graph_;
  std::vector<NodeRef> replaced_;
  std::map<std::string, int32_t> seen_;
};

Graph Simplify(const Graph& graph, std::vector<NodeRef>& keep) {
  return GraphRewriter(graph).Run(keep);
}

void FuseLayers(Graph& graph, const std::vector<NodeRef>& keep) {
  GraphRewriter::Fuse(graph, keep);
}

}  // namespace shoal::graph
