#ifndef SHOAL_GRAPH_PLAN_H_
#define SHOAL_GRAPH_PLAN_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "graph/graph.h"
#include "graph/placement.h"
#include "kernels/kernel.h"

namespace shoal::graph {

// What a run shall give.
struct Fetch {
  NodeRef ref;
  // The caller binds memory that the result is written to. Otherwise it lies
  // in the executor's arena until the next run.
  bool external = false;
};

struct PlanOptions {
  // Also the numbers by which executors know fetches.
  std::vector<Fetch> fetches;
  // The largest value of each symbol, by name. Others are ignored.
  std::map<std::string, int64_t> symbol_max;
  std::string device = "cpu";
  int num_threads = 1;  // of the pool that kernels will run on
  bool simplify = true;
  // Off: every tensor has a place of its own, for tests and for debugging.
  bool reuse_memory = true;
  int64_t arena_bytes_max = int64_t{64} << 30;
};

// What to run and where everything lies: a flat schedule of kernel calls with
// all buffers laid out ahead. Immutable; any number of executors may share it.
class Plan {
 public:
  // Errors: kInvalidArgument (a fetch that is no node; a symbol without a
  // maximum), kNotFound (no kernel), kResourceExhausted (more memory than
  // arena_bytes_max), each naming the node.
  static StatusOr<std::shared_ptr<const Plan>> Create(
      const Graph& graph, const PlanOptions& options);

  // Where a tensor lies. Feeds and external fetches lie in memory that is
  // bound; constants in the executor's; the rest in the arena.
  //
  // A plan for a device whose graph has ops on the CPU is mixed: it also has
  // an arena and constants of the host. What goes from one side to the other
  // lies on the host's in memory of its own that copies can run to and from
  // (kTransfer), and is copied by a step without a kernel. External fetches of
  // the host's side lie where others of its tensors do.
  struct Storage {
    enum class Kind : uint8_t { kArena, kFeed, kFetch, kConstant, kTransfer };
    Kind kind = Kind::kArena;
    Side side = Side::kDevice;
    int index = 0;           // of the feed or fetch
    int64_t offset = 0;      // in the arena, a multiple of kAlignment
    int64_t size_bytes = 0;  // at the symbols' maxima
    float value = 0;         // of a constant
  };
  struct Value {
    TensorType type;
    int storage = 0;
  };
  // One kernel call. Inputs and outputs are numbers of values; an input whose
  // shape alone counts has no memory (data is null).
  struct Step {
    Side side = Side::kDevice;  // of a copy: where it copies from
    // The device's work so far must be over before: this step reads what was
    // copied from there.
    bool waits = false;
    std::string name;   // the node's
    std::string label;  // "node 'deep/relu'", for errors
    std::string op;
    const Kernel* kernel = nullptr;  // null: a copy to the other side
    std::vector<int> inputs;
    std::vector<bool> shape_only;
    std::vector<int> outputs;
    Attributes attributes;
  };
  struct FetchPlace {
    int value = 0;
    bool external = false;
  };

  static constexpr int64_t kAlignment = 64;

  const std::vector<Storage>& storages() const { return storages_; }
  const std::vector<Value>& values() const { return values_; }
  const std::vector<Step>& steps() const { return steps_; }
  const std::vector<FetchPlace>& fetches() const { return fetches_; }

  const std::vector<Feed>& feeds() const { return feeds_; }
  const std::vector<std::string>& symbols() const { return symbols_; }
  const std::vector<int64_t>& symbol_max() const { return symbol_max_; }
  // A feed that no step reads need not be bound: its value is -1.
  bool FeedIsUsed(int feed) const { return FeedValue(feed) >= 0; }
  int FeedValue(int feed) const {
    return feed_values_[static_cast<size_t>(feed)];
  }
  // A symbol that no shape has need not be set.
  bool SymbolIsUsed(int symbol) const {
    return symbol_max_[static_cast<size_t>(symbol)] >= 0;
  }

  const std::string& device() const { return device_; }
  bool mixed() const { return mixed_; }
  int num_threads() const { return num_threads_; }

  // The arena holds what is computed on the way, the workspace that all steps
  // share included.
  int64_t arena_bytes() const { return arena_bytes_; }
  int64_t workspace_bytes() const { return workspace_bytes_; }
  int64_t workspace_offset() const { return workspace_offset_; }
  // The same of the host's side.
  int64_t host_arena_bytes() const { return host_arena_bytes_; }
  int64_t host_workspace_bytes() const { return host_workspace_bytes_; }
  int64_t host_workspace_offset() const {
    return host_arena_bytes_ - host_workspace_bytes_;
  }
  // What the arena would take if nothing were reused.
  int64_t arena_bytes_without_reuse() const {
    return arena_bytes_without_reuse_;
  }

  // The schedule and the layout, for people.
  std::string ToString() const;

 private:
  friend class Planner;
  Plan() = default;

  std::vector<Storage> storages_;
  std::vector<Value> values_;
  std::vector<Step> steps_;
  std::vector<FetchPlace> fetches_;
  std::vector<Feed> feeds_;
  std::vector<int> feed_values_;
  std::vector<std::string> symbols_;
  std::vector<int64_t> symbol_max_;  // -1: not used
  std::string device_;
  bool mixed_ = false;
  int num_threads_ = 1;
  int64_t arena_bytes_ = 0;
  int64_t workspace_bytes_ = 0;
  int64_t workspace_offset_ = 0;
  int64_t host_arena_bytes_ = 0;
  int64_t host_workspace_bytes_ = 0;
  int64_t arena_bytes_without_reuse_ = 0;
};

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_PLAN_H_
