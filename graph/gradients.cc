#include "graph/gradients.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/strcat.h"
#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

// Emits the one op that a GradientRule names.
void ApplyRule(const OpDef& op, GradientContext& ctx) {
  const GradientRule& rule = op.gradient_rule;
  std::vector<NodeRef> args;
  for (const std::string& arg : rule.args) {
    if (arg == op.outputs[0].name) {
      args.push_back(ctx.y());
    } else if (arg == StrCat("grad(", op.outputs[0].name, ")")) {
      args.push_back(ctx.dy());
    } else {
      const int input = op.FindInput(arg);
      SHOAL_CHECK(input >= 0);
      args.push_back(ctx.input(input));
    }
  }
  const NodeRef gradient = ctx.builder().Op(rule.op, args, ctx.attributes());
  for (size_t k = 0; k < rule.returns.size(); ++k) {
    const std::string& name = rule.returns[k];
    SHOAL_CHECK(name.size() > 6 && name.starts_with("grad("));
    const int input = op.FindInput(name.substr(5, name.size() - 6));
    SHOAL_CHECK(input >= 0);
    ctx.SetGradient(
        input, k == 0 ? gradient
                      : ctx.builder().Output(gradient, static_cast<int>(k)));
  }
}

class ReverseMode {
 public:
  ReverseMode(GraphBuilder& builder, NodeRef loss,
              const std::vector<NodeRef>& wrt)
      : builder_(builder), loss_(loss), wrt_(wrt) {}

  std::vector<NodeRef> Run() {
    MarkDependents();
    if (depends_[static_cast<size_t>(loss_.node)]) {
      parts_[loss_].push_back(builder_.Constant(1.0F));
    }
    for (int32_t node = loss_.node; node >= 0 && builder_.ok(); --node) {
      Visit({node, 0});
    }
    std::vector<NodeRef> gradients;
    for (const NodeRef ref : wrt_) {
      const auto at = sums_.find(ref);
      gradients.push_back(at != sums_.end() && builder_.ok() ? at->second
                                                             : NodeRef());
    }
    return gradients;
  }

 private:
  // Which nodes up to the loss depend on one of wrt.
  void MarkDependents() {
    const Graph& graph = builder_.graph();
    depends_.assign(static_cast<size_t>(loss_.node) + 1, false);
    for (const NodeRef ref : wrt_) {
      if (ref.node <= loss_.node) {
        depends_[static_cast<size_t>(ref.node)] = true;
      }
    }
    for (int32_t i = 0; i <= loss_.node; ++i) {
      const Node& node = graph.nodes()[static_cast<size_t>(i)];
      const std::vector<bool> wanted = WantedInputs(node);
      if (std::find(wanted.begin(), wanted.end(), true) != wanted.end()) {
        depends_[static_cast<size_t>(i)] = true;
      }
    }
  }

  std::vector<bool> WantedInputs(const Node& node) const {
    std::vector<bool> wanted(node.inputs.size(), false);
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      wanted[k] = !node.op->IsConstantInput(static_cast<int>(k)) &&
                  depends_[static_cast<size_t>(node.inputs[k].node)];
    }
    return wanted;
  }

  // Sums what the users of `ref` gave and hands it on to its inputs.
  void Visit(NodeRef ref) {
    const auto at = parts_.find(ref);
    if (at == parts_.end()) {
      return;
    }
    // Rules add nodes, which moves the graph's: copy what is needed.
    const Node node = builder_.graph().node(ref);
    const GraphBuilder::Scope scope(builder_, StrCat("grad/", node.name));
    const GraphBuilder::OnDevice on(builder_, DeviceOf(node, at->second));
    const NodeRef dy =
        at->second.size() == 1 ? at->second[0] : AddN(builder_, at->second);
    sums_[ref] = dy;
    std::vector<bool> wanted = WantedInputs(node);
    if (std::find(wanted.begin(), wanted.end(), true) == wanted.end()) {
      return;
    }
    if (!node.op->has_gradient()) {
      return builder_.SetError(UnimplementedError(
          StrCat("node '", node.name, "': ", node.op->name,
                 " has no gradient: ", node.op->no_gradient_because)));
    }
    GradientContext ctx(builder_, ref, dy, wanted);
    if (node.op->gradient_fn != nullptr) {
      node.op->gradient_fn(ctx);
    } else {
      ApplyRule(*node.op, ctx);
    }
    HandOn(node, ctx);
  }

  // Gradients are computed where their ops are; those of a feed, which has no
  // device, are summed where all of them come from.
  std::string DeviceOf(const Node& node,
                       const std::vector<NodeRef>& parts) const {
    if (node.op != nullptr) {
      return node.device;
    }
    const std::string& device = builder_.graph().node(parts[0]).device;
    const bool same =
        std::all_of(parts.begin(), parts.end(), [&](NodeRef part) {
          return builder_.graph().node(part).device == device;
        });
    return same ? device : "";
  }

  void HandOn(const Node& node, const GradientContext& ctx) {
    for (size_t k = 0; k < node.inputs.size() && builder_.ok(); ++k) {
      const NodeRef gradient = ctx.gradient(static_cast<int>(k));
      if (!ctx.wants(static_cast<int>(k))) {
        continue;
      }
      const bool fits =
          gradient.valid() && builder_.graph().type(gradient) ==
                                  builder_.graph().type(node.inputs[k]);
      if (!fits) {
        return builder_.SetError(InternalError(StrCat(
            "node '", node.name, "': the gradient rule of ", node.op->name,
            " gives ",
            gradient.valid() ? builder_.graph().TypeText(gradient) : "nothing",
            " for ", node.op->InputAt(static_cast<int>(k)).name, ", which is ",
            builder_.graph().TypeText(node.inputs[k]))));
      }
      parts_[node.inputs[k]].push_back(gradient);
    }
  }

  GraphBuilder& builder_;
  NodeRef loss_;
  const std::vector<NodeRef>& wrt_;
  std::vector<bool> depends_;
  std::map<NodeRef, std::vector<NodeRef>> parts_;
  std::map<NodeRef, NodeRef> sums_;
};

}  // namespace

std::vector<NodeRef> Gradients(GraphBuilder& builder, NodeRef loss,
                               const std::vector<NodeRef>& wrt) {
  const std::vector<NodeRef> none(wrt.size());
  if (!builder.ok()) {
    return none;
  }
  const Graph& graph = builder.graph();
  const bool known = graph.Contains(loss) &&
                     std::all_of(wrt.begin(), wrt.end(), [&](NodeRef ref) {
                       return graph.Contains(ref);
                     });
  if (!known) {
    builder.SetError(InvalidArgumentError(
        "Gradients: the loss or what to differentiate for is no node"));
    return none;
  }
  if (graph.type(loss) != TensorType{{1}, DType::kF32}) {
    builder.SetError(InvalidArgumentError(
        StrCat("Gradients: the loss, node '", graph.node(loss).name, "', is ",
               graph.TypeText(loss), "; it must be [1] f32")));
    return none;
  }
  return ReverseMode(builder, loss, wrt).Run();
}

}  // namespace shoal::graph
