#ifndef SHOAL_GRAPH_PLACEMENT_H_
#define SHOAL_GRAPH_PLACEMENT_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "graph/graph.h"

namespace shoal::graph {

// The plan's device, or the host beside it.
enum class Side : uint8_t { kDevice, kHost };

// On which side each op of a graph runs, where its outputs are needed, and an
// order of the ops that changes sides seldom.
class Placement {
 public:
  // `needed`: by node, whether it runs. Nodes on "cpu" are on the host's side,
  // unless that is the plan's device.
  // Errors: kInvalidArgument (a node on a device that is neither).
  static StatusOr<Placement> Create(const Graph& graph,
                                    const std::vector<NodeRef>& fetches,
                                    const std::vector<bool>& needed,
                                    std::string_view device);

  // Where it is computed. A feed lies on both sides; its home is the device.
  Side home(NodeRef ref) const { return homes_[static_cast<size_t>(ref.node)]; }
  bool IsNeededOn(NodeRef ref, Side side) const {
    return needed_on_.contains({ref, side});
  }
  // The nodes to run, aliases among them, each after its inputs. It is the
  // graph's order where nothing is on the host's side.
  const std::vector<size_t>& order() const { return order_; }

 private:
  Placement() = default;
  Status FindHomes(const Graph& graph, std::string_view device);
  void FindNeeds(const Graph& graph, const std::vector<NodeRef>& fetches,
                 const std::vector<bool>& needed);
  void Order(const Graph& graph, const std::vector<bool>& needed);

  std::vector<Side> homes_;
  std::set<std::pair<NodeRef, Side>> needed_on_;
  std::vector<size_t> order_;
};

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_PLACEMENT_H_
