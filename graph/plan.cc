#include "graph/plan.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/strcat.h"
#include "graph/arena_layout.h"
#include "graph/op.h"
#include "graph/passes.h"

namespace shoal::graph {

// Makes one plan: values and storages of what is needed, the steps, which
// storages can be shared, where they lie.
class Planner {
 public:
  Planner(const Graph& graph, const PlanOptions& options)
      : graph_(graph), options_(options) {}

  StatusOr<std::shared_ptr<const Plan>> Run() {
    SHOAL_RETURN_IF_ERROR(CheckFetches());
    if (options_.simplify) {
      graph_ = Simplify(graph_, fetch_refs_);
    }
    FindNeededNodes();
    plan_.feeds_ = graph_.feeds();
    plan_.symbols_ = graph_.symbols();
    plan_.device_ = options_.device;
    plan_.num_threads_ = options_.num_threads;
    plan_.feed_values_.assign(graph_.feeds().size(), -1);
    plan_.symbol_max_.assign(graph_.symbols().size(), -1);
    SHOAL_RETURN_IF_ERROR(AddFeeds());
    SHOAL_RETURN_IF_ERROR(AddSteps());
    SHOAL_RETURN_IF_ERROR(AddFetches());
    FindLifetimes();
    if (options_.reuse_memory) {
      ShareInPlace();
    }
    SHOAL_RETURN_IF_ERROR(SizeStorages());
    SHOAL_RETURN_IF_ERROR(SizeWorkspace());
    SHOAL_RETURN_IF_ERROR(LayOut());
    return std::shared_ptr<const Plan>(new Plan(std::move(plan_)));
  }

 private:
  Status CheckFetches() {
    if (options_.num_threads < 1) {
      return InvalidArgumentError(StrCat("plan: num_threads is ",
                                         options_.num_threads,
                                         "; it must be at least 1"));
    }
    for (size_t i = 0; i < options_.fetches.size(); ++i) {
      const NodeRef ref = options_.fetches[i].ref;
      if (!graph_.Contains(ref)) {
        return InvalidArgumentError(
            StrCat("plan: fetch ", i, " is no node of the graph"));
      }
      if (graph_.type(ref).dtype != DType::kF32) {
        return UnimplementedError(StrCat(
            "plan: fetch ", i, ", node '", graph_.node(ref).name, "', is ",
            graph_.TypeText(ref), "; only f32 can be fetched"));
      }
      fetch_refs_.push_back(ref);
    }
    return OkStatus();
  }

  static bool IsShapeOnly(const Node& node, size_t input) {
    return node.op->InputAt(static_cast<int>(input)).shape_only;
  }

  // A node whose shape alone is looked at need not run.
  void FindNeededNodes() {
    needed_.assign(graph_.nodes().size(), false);
    for (const NodeRef ref : fetch_refs_) {
      needed_[static_cast<size_t>(ref.node)] = true;
    }
    for (size_t i = needed_.size(); i-- > 0;) {
      const Node& node = graph_.nodes()[i];
      for (size_t k = 0; needed_[i] && k < node.inputs.size(); ++k) {
        if (!IsShapeOnly(node, k)) {
          needed_[static_cast<size_t>(node.inputs[k].node)] = true;
        }
      }
    }
  }

  // Errors: kInvalidArgument (a symbol without a maximum).
  Status TakeSymbols(const SymbolicShape& shape, std::string_view node) {
    for (const Dim& dim : shape.dims()) {
      if (dim.is_constant() || plan_.SymbolIsUsed(dim.symbol())) {
        continue;
      }
      const auto symbol = static_cast<size_t>(dim.symbol());
      const auto at = options_.symbol_max.find(plan_.symbols_[symbol]);
      if (at == options_.symbol_max.end() || at->second < 0) {
        return InvalidArgumentError(StrCat(
            "plan: node '", node, "' is ", shape.ToString(plan_.symbols_),
            ", but '", plan_.symbols_[symbol], "' has ",
            at == options_.symbol_max.end() ? "no maximum"
                                            : "a negative maximum",
            "; give one in symbol_max"));
      }
      plan_.symbol_max_[symbol] = at->second;
    }
    return OkStatus();
  }

  // The value of a tensor, made when it is new. storage -1: no memory (yet).
  StatusOr<int> ValueOf(NodeRef ref) {
    const auto at = value_of_.find(ref);
    if (at != value_of_.end()) {
      return at->second;
    }
    SHOAL_RETURN_IF_ERROR(
        TakeSymbols(graph_.type(ref).shape, graph_.node(ref).name));
    return value_of_[ref] =
               AddValue(graph_.type(ref), -1, graph_.node(ref).name);
  }

  int AddValue(const TensorType& type, int storage, std::string node) {
    plan_.values_.push_back({type, storage});
    value_names_.push_back(std::move(node));
    return static_cast<int>(plan_.values_.size()) - 1;
  }

  int AddStorage(Plan::Storage::Kind kind, int index = 0) {
    plan_.storages_.push_back({.kind = kind, .index = index});
    return static_cast<int>(plan_.storages_.size()) - 1;
  }

  Plan::Value& value(int number) {
    return plan_.values_[static_cast<size_t>(number)];
  }
  Plan::Storage& storage(int number) {
    return plan_.storages_[static_cast<size_t>(number)];
  }

  Status AddFeeds() {
    for (size_t i = 0; i < graph_.feeds().size(); ++i) {
      const Feed& feed = graph_.feeds()[i];
      if (!needed_[static_cast<size_t>(feed.ref.node)]) {
        continue;
      }
      SHOAL_ASSIGN_OR_RETURN(const int number, ValueOf(feed.ref));
      plan_.feed_values_[i] = number;
      const bool constant = feed.kind == Feed::Kind::kConstant;
      value(number).storage =
          AddStorage(constant ? Plan::Storage::Kind::kConstant
                              : Plan::Storage::Kind::kFeed,
                     static_cast<int>(i));
      storage(value(number).storage).value = feed.value;
    }
    return OkStatus();
  }

  StatusOr<const Kernel*> KernelOf(std::string_view op,
                                   std::string_view node) const {
    StatusOr<const Kernel*> kernel = FindKernel(options_.device, op);
    if (!kernel.ok()) {
      return kernel.status().WithPrefix(StrCat("plan: node '", node, "'"));
    }
    return kernel;
  }

  Status AddSteps() {
    for (size_t i = 0; i < graph_.nodes().size(); ++i) {
      const Node& node = graph_.nodes()[i];
      if (!needed_[i] || node.op == nullptr) {
        continue;
      }
      if (node.op->alias) {
        SHOAL_RETURN_IF_ERROR(AddAlias(i));
      } else {
        SHOAL_RETURN_IF_ERROR(AddStep(i));
      }
    }
    return OkStatus();
  }

  Status AddAlias(size_t i) {
    const Node& node = graph_.nodes()[i];
    SHOAL_ASSIGN_OR_RETURN(const int input, ValueOf(node.inputs[0]));
    SHOAL_ASSIGN_OR_RETURN(const int output,
                           ValueOf({static_cast<int32_t>(i), 0}));
    value(output).storage = value(input).storage;
    return OkStatus();
  }

  Status AddStep(size_t i) {
    const Node& node = graph_.nodes()[i];
    Plan::Step step;
    step.name = node.name;
    step.op = node.op->name;
    step.attributes = node.attributes;
    SHOAL_ASSIGN_OR_RETURN(step.kernel, KernelOf(step.op, step.name));
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      SHOAL_ASSIGN_OR_RETURN(const int input, ValueOf(node.inputs[k]));
      step.inputs.push_back(input);
      step.shape_only.push_back(IsShapeOnly(node, k));
    }
    for (size_t k = 0; k < node.outputs.size(); ++k) {
      SHOAL_ASSIGN_OR_RETURN(
          const int output,
          ValueOf({static_cast<int32_t>(i), static_cast<int32_t>(k)}));
      value(output).storage = AddStorage(Plan::Storage::Kind::kArena);
      step.outputs.push_back(output);
    }
    step.label = StrCat("node '", step.name, "'");
    plan_.steps_.push_back(std::move(step));
    step_ops_.push_back(node.op);
    return OkStatus();
  }

  // The first external fetch of what a step computes takes its storage, so
  // that the step writes straight into the caller's memory.
  Status AddFetches() {
    std::vector<bool> taken(plan_.storages_.size(), false);
    for (size_t i = 0; i < fetch_refs_.size(); ++i) {
      const bool external = options_.fetches[i].external;
      SHOAL_ASSIGN_OR_RETURN(int number, ValueOf(fetch_refs_[i]));
      const int place = value(number).storage;
      const bool in_arena = storage(place).kind == Plan::Storage::Kind::kArena;
      if (external && in_arena && !taken[static_cast<size_t>(place)]) {
        storage(place) = {.kind = Plan::Storage::Kind::kFetch,
                          .index = static_cast<int>(i)};
      } else if (external || !in_arena) {
        SHOAL_ASSIGN_OR_RETURN(number, AddCopy(number, i, external));
        taken.resize(plan_.storages_.size(), false);
      }
      taken[static_cast<size_t>(value(number).storage)] = true;
      plan_.fetches_.push_back({number, external});
    }
    return OkStatus();
  }

  // The copy is made as soon as what it shows is there.
  StatusOr<int> AddCopy(int from, size_t fetch, bool external) {
    const int to = AddValue(value(from).type,
                            AddStorage(external ? Plan::Storage::Kind::kFetch
                                                : Plan::Storage::Kind::kArena,
                                       static_cast<int>(fetch)),
                            StrCat("fetch:", fetch));
    Plan::Step step;
    step.name = StrCat("fetch:", fetch);
    step.op = "Reshape";
    SHOAL_ASSIGN_OR_RETURN(step.kernel, KernelOf(step.op, step.name));
    step.inputs = {from};
    step.shape_only = {false};
    step.outputs = {to};
    step.attributes.shape = value(to).type.shape;
    step.label = StrCat("node '", step.name, "'");
    ptrdiff_t at = std::ssize(plan_.steps_);
    while (at > 0 && !Writes(plan_.steps_[static_cast<size_t>(at - 1)],
                             value(from).storage)) {
      --at;
    }
    plan_.steps_.insert(plan_.steps_.begin() + at, std::move(step));
    step_ops_.insert(step_ops_.begin() + at, nullptr);
    return to;
  }

  bool Writes(const Plan::Step& step, int storage) {
    return std::any_of(
        step.outputs.begin(), step.outputs.end(),
        [&](int output) { return value(output).storage == storage; });
  }

  // By storage: the step that writes it and the last one that reads it.
  void FindLifetimes() {
    first_.assign(plan_.storages_.size(), 0);
    last_.assign(plan_.storages_.size(), -1);
    const auto num_steps = static_cast<int>(plan_.steps_.size());
    for (int s = 0; s < num_steps; ++s) {
      const Plan::Step& step = plan_.steps_[static_cast<size_t>(s)];
      for (const int output : step.outputs) {
        first_[static_cast<size_t>(value(output).storage)] = s;
        last_[static_cast<size_t>(value(output).storage)] = s;
      }
      for (size_t k = 0; k < step.inputs.size(); ++k) {
        if (!step.shape_only[k]) {
          last_[static_cast<size_t>(value(step.inputs[k]).storage)] = s;
        }
      }
    }
    for (const Plan::FetchPlace& fetch : plan_.fetches_) {
      last_[static_cast<size_t>(value(fetch.value).storage)] = num_steps;
    }
  }

  void ShareInPlace() {
    for (size_t s = 0; s < plan_.steps_.size(); ++s) {
      if (step_ops_[s] != nullptr && step_ops_[s]->in_place) {
        const int input = DyingInput(static_cast<int>(s));
        if (input >= 0) {
          MergeStorages(value(plan_.steps_[s].outputs[0]).storage,
                        value(input).storage);
        }
      }
    }
  }

  // An input whose memory the first output can take over, or -1.
  int DyingInput(int s) {
    const Plan::Step& step = plan_.steps_[static_cast<size_t>(s)];
    const Plan::Value& output = value(step.outputs[0]);
    if (storage(output.storage).kind != Plan::Storage::Kind::kArena) {
      return -1;
    }
    for (size_t k = 0; k < step.inputs.size(); ++k) {
      const Plan::Value& input = value(step.inputs[k]);
      if (!step.shape_only[k] && input.type == output.type &&
          storage(input.storage).kind == Plan::Storage::Kind::kArena &&
          last_[static_cast<size_t>(input.storage)] == s) {
        return step.inputs[k];
      }
    }
    return -1;
  }

  void MergeStorages(int from, int into) {
    for (Plan::Value& value : plan_.values_) {
      if (value.storage == from) {
        value.storage = into;
      }
    }
    last_[static_cast<size_t>(into)] = last_[static_cast<size_t>(from)];
    last_[static_cast<size_t>(from)] = -1;  // nobody's any more
  }

  Status TooLarge(std::string_view node, const SymbolicShape& shape) const {
    return ResourceExhaustedError(
        StrCat("plan: node '", node, "', ", shape.ToString(plan_.symbols_),
               " at the maxima of its symbols, takes more than ",
               options_.arena_bytes_max,
               " bytes; lower the maxima or raise arena_bytes_max"));
  }

  // Errors: kResourceExhausted.
  StatusOr<int64_t> BytesOf(size_t number) const {
    const TensorType& type = plan_.values_[number].type;
    int64_t bytes = SizeOf(type.dtype);
    for (const Dim& dim : type.shape.dims()) {
      const std::optional<int64_t> size = dim.EvalChecked(plan_.symbol_max_);
      if (!size || __builtin_mul_overflow(bytes, *size, &bytes)) {
        return TooLarge(value_names_[number], type.shape);
      }
    }
    if (bytes > options_.arena_bytes_max) {
      return TooLarge(value_names_[number], type.shape);
    }
    return bytes;
  }

  Status SizeStorages() {
    for (size_t i = 0; i < plan_.values_.size(); ++i) {
      SHOAL_ASSIGN_OR_RETURN(const int64_t bytes, BytesOf(i));
      if (plan_.values_[i].storage >= 0) {
        int64_t& size = storage(plan_.values_[i].storage).size_bytes;
        size = std::max(size, bytes);
      }
    }
    return OkStatus();
  }

  std::vector<TensorView> ViewsAtMaxima(const std::vector<int>& values) const {
    std::vector<TensorView> views;
    for (const int number : values) {
      const TensorType& type = plan_.values_[static_cast<size_t>(number)].type;
      views.push_back(
          {nullptr, type.shape.Eval(plan_.symbol_max_), type.dtype});
    }
    return views;
  }

  Status SizeWorkspace() {
    for (const Plan::Step& step : plan_.steps_) {
      if (step.kernel->workspace_bytes == nullptr) {
        continue;
      }
      const int64_t bytes = step.kernel->workspace_bytes(
          ViewsAtMaxima(step.inputs), ViewsAtMaxima(step.outputs),
          step.attributes.ints, options_.num_threads);
      if (bytes < 0 || bytes > options_.arena_bytes_max) {
        return ResourceExhaustedError(StrCat(
            "plan: node '", step.name, "': ", step.op, " asks for ", bytes,
            " bytes of workspace; the most is ", options_.arena_bytes_max));
      }
      plan_.workspace_bytes_ = std::max(plan_.workspace_bytes_, bytes);
    }
    return OkStatus();
  }

  static int64_t Aligned(int64_t bytes) {
    return (bytes + Plan::kAlignment - 1) / Plan::kAlignment * Plan::kAlignment;
  }

  // Of all that steps compute into the arena. Errors: kResourceExhausted.
  StatusOr<int64_t> SumOfOutputs() {
    int64_t sum = 0;
    for (const Plan::Step& step : plan_.steps_) {
      for (const int output : step.outputs) {
        if (storage(value(output).storage).kind ==
            Plan::Storage::Kind::kArena) {
          SHOAL_ASSIGN_OR_RETURN(const int64_t bytes,
                                 BytesOf(static_cast<size_t>(output)));
          sum += Aligned(bytes);
        }
        if (sum > kSumMax) {
          return TooMuch(sum);
        }
      }
    }
    return sum;
  }

  Status LayOut() {
    SHOAL_ASSIGN_OR_RETURN(const int64_t sum, SumOfOutputs());
    std::vector<ArenaPiece> pieces;
    std::vector<int> owners;
    for (size_t i = 0; i < plan_.storages_.size(); ++i) {
      const Plan::Storage& storage = plan_.storages_[i];
      if (storage.kind == Plan::Storage::Kind::kArena && last_[i] >= 0) {
        const bool reuse = options_.reuse_memory;
        pieces.push_back({.size_bytes = storage.size_bytes,
                          .first_step = reuse ? first_[i] : 0,
                          .last_step = reuse ? last_[i] : 0});
        owners.push_back(static_cast<int>(i));
      }
    }
    const int64_t end = LayOutArena(Plan::kAlignment, pieces);
    for (size_t i = 0; i < pieces.size(); ++i) {
      storage(owners[i]).offset = pieces[i].offset;
    }
    plan_.workspace_offset_ = end;
    plan_.arena_bytes_ = end + plan_.workspace_bytes_;
    plan_.arena_bytes_without_reuse_ = sum + plan_.workspace_bytes_;
    return plan_.arena_bytes_ > options_.arena_bytes_max
               ? TooMuch(plan_.arena_bytes_)
               : OkStatus();
  }

  Status TooMuch(int64_t bytes) const {
    return ResourceExhaustedError(
        StrCat("plan: ", bytes, " bytes of memory are needed, more than ",
               options_.arena_bytes_max,
               "; lower the symbols' maxima or raise arena_bytes_max"));
  }

  static constexpr int64_t kSumMax = int64_t{1} << 60;

  Graph graph_;
  const PlanOptions& options_;
  Plan plan_;
  std::vector<NodeRef> fetch_refs_;
  std::vector<bool> needed_;
  std::map<NodeRef, int> value_of_;
  std::vector<std::string> value_names_;
  std::vector<const OpDef*> step_ops_;  // null: a copy into a fetch
  std::vector<int> first_;
  std::vector<int> last_;
};

StatusOr<std::shared_ptr<const Plan>> Plan::Create(const Graph& graph,
                                                   const PlanOptions& options) {
  return Planner(graph, options).Run();
}

std::string Plan::ToString() const {
  std::string text =
      StrCat(arena_bytes_, " bytes of arena (", arena_bytes_without_reuse_,
             " without reuse), ", workspace_bytes_, " of them workspace\n");
  const auto place = [this](int number) {
    const Value& value = values_[static_cast<size_t>(number)];
    const std::string shape = value.type.shape.ToString(symbols_);
    if (value.storage < 0) {
      return StrCat(shape, " no memory");
    }
    const Storage& storage = storages_[static_cast<size_t>(value.storage)];
    switch (storage.kind) {
      case Storage::Kind::kArena:
        return StrCat(shape, " at ", storage.offset);
      case Storage::Kind::kFeed:
        return StrCat(shape, " ",
                      feeds_[static_cast<size_t>(storage.index)].name);
      case Storage::Kind::kFetch:
        return StrCat(shape, " fetch ", storage.index);
      case Storage::Kind::kConstant:
        return StrCat(shape, " constant ", storage.value);
    }
    return shape;
  };
  for (const Step& step : steps_) {
    text += StrCat(step.name, ": ", step.op, "(");
    for (size_t i = 0; i < step.inputs.size(); ++i) {
      text += StrCat(i == 0 ? "" : ", ", place(step.inputs[i]));
    }
    text += ") ->";
    for (const int output : step.outputs) {
      text += " " + place(output);
    }
    text += "\n";
  }
  return text;
}

}  // namespace shoal::graph
