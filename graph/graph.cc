#include "graph/graph.h"

#include <utility>

#include "base/strcat.h"
#include "graph/op.h"

namespace shoal::graph {
namespace {

template <typename Items, typename NameOf>
Status NoSuch(std::string_view kind, std::string_view name, const Items& items,
              const NameOf& name_of) {
  std::string known;
  for (const auto& item : items) {
    known += known.empty() ? name_of(item) : ", " + name_of(item);
  }
  return NotFoundError(StrCat("graph: no ", kind, " is called '", name,
                              "'; there are: ", known));
}

}  // namespace

StatusOr<int> Graph::FindFeed(std::string_view name) const {
  for (size_t i = 0; i < feeds_.size(); ++i) {
    if (feeds_[i].name == name) {
      return static_cast<int>(i);
    }
  }
  return NoSuch("feed", name, feeds_,
                [](const Feed& feed) { return feed.name; });
}

StatusOr<int> Graph::FindSymbol(std::string_view name) const {
  for (size_t i = 0; i < symbols_.size(); ++i) {
    if (symbols_[i] == name) {
      return static_cast<int>(i);
    }
  }
  return NoSuch("symbol", name, symbols_,
                [](const std::string& symbol) { return symbol; });
}

bool Graph::Contains(NodeRef ref) const {
  return ref.node >= 0 && ref.node < static_cast<int32_t>(nodes_.size()) &&
         ref.output >= 0 &&
         ref.output < static_cast<int32_t>(node(ref).outputs.size());
}

std::string Graph::TypeText(NodeRef ref) const {
  return StrCat(type(ref).shape.ToString(symbols_), " ", Name(type(ref).dtype));
}

std::string Graph::ToString() const {
  std::string text;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const Node& node = nodes_[i];
    text += StrCat(node.name, " = ",
                   node.op == nullptr ? "feed" : node.op->name, "(");
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      const NodeRef input = node.inputs[k];
      text += StrCat(k == 0 ? "" : ", ", this->node(input).name);
      if (input.output != 0) {
        text += StrCat(":", input.output);
      }
    }
    text += node.device.empty() ? ")" : ") on " + node.device;
    for (size_t k = 0; k < node.outputs.size(); ++k) {
      text +=
          " " + TypeText({static_cast<int32_t>(i), static_cast<int32_t>(k)});
    }
    text += "\n";
  }
  return text;
}

}  // namespace shoal::graph
