#include "graph/placement.h"

#include "base/strcat.h"
#include "graph/op.h"

namespace shoal::graph {

StatusOr<Placement> Placement::Create(const Graph& graph,
                                      const std::vector<NodeRef>& fetches,
                                      const std::vector<bool>& needed,
                                      std::string_view device) {
  Placement placement;
  SHOAL_RETURN_IF_ERROR(placement.FindHomes(graph, device));
  placement.FindNeeds(graph, fetches, needed);
  placement.Order(graph, needed);
  return placement;
}

Status Placement::FindHomes(const Graph& graph, std::string_view device) {
  homes_.assign(graph.nodes().size(), Side::kDevice);
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const Node& node = graph.nodes()[i];
    if (node.op != nullptr && node.op->alias) {
      homes_[i] = home(node.inputs[0]);
    } else if (node.device.empty() || node.device == device) {
      homes_[i] = Side::kDevice;
    } else if (node.device == "cpu") {
      homes_[i] = Side::kHost;
    } else {
      return InvalidArgumentError(StrCat(
          "plan: node '", node.name, "' is placed on '", node.device,
          "'; an op is on the cpu or on the plan's device, '", device, "'"));
    }
  }
  return OkStatus();
}

void Placement::FindNeeds(const Graph& graph,
                          const std::vector<NodeRef>& fetches,
                          const std::vector<bool>& needed) {
  for (const NodeRef ref : fetches) {
    needed_on_.emplace(ref, home(ref));
  }
  for (size_t i = graph.nodes().size(); i-- > 0;) {
    const Node& node = graph.nodes()[i];
    if (!needed[i] || node.op == nullptr) {
      continue;
    }
    const NodeRef self = {static_cast<int32_t>(i), 0};
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      for (const Side side : {Side::kDevice, Side::kHost}) {
        const bool reads =
            node.op->alias
                ? IsNeededOn(self, side)
                : side == homes_[i] &&
                      !node.op->InputAt(static_cast<int>(k)).shape_only;
        if (reads) {
          needed_on_.emplace(node.inputs[k], side);
        }
      }
    }
  }
}

// Takes what is ready on one side before it goes to the other; on each side
// in the graph's order.
void Placement::Order(const Graph& graph, const std::vector<bool>& needed) {
  const size_t n = graph.nodes().size();
  std::vector<int> waits_for(n, 0);
  std::vector<std::vector<size_t>> users(n);
  std::set<size_t> ready[2];
  const auto enqueue = [&](size_t i) {
    ready[static_cast<size_t>(homes_[i])].insert(i);
  };
  for (size_t i = 0; i < n; ++i) {
    const Node& node = graph.nodes()[i];
    if (!needed[i] || node.op == nullptr) {
      continue;
    }
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      const auto input = static_cast<size_t>(node.inputs[k].node);
      if (needed[input] && graph.nodes()[input].op != nullptr) {
        users[input].push_back(i);
        ++waits_for[i];
      }
    }
    if (waits_for[i] == 0) {
      enqueue(i);
    }
  }
  // The host first: while the device works on what follows, the host is free.
  size_t side = static_cast<size_t>(Side::kHost);
  while (!ready[0].empty() || !ready[1].empty()) {
    side = ready[side].empty() ? 1 - side : side;
    const size_t i = *ready[side].begin();
    ready[side].erase(ready[side].begin());
    order_.push_back(i);
    for (const size_t user : users[i]) {
      if (--waits_for[user] == 0) {
        enqueue(user);
      }
    }
  }
}

}  // namespace shoal::graph
