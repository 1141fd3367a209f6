#include "graph/executor.h"

#include <algorithm>
#include <utility>

#include "base/strcat.h"
#include "base/thread_pool.h"

namespace shoal::graph {

StatusOr<std::unique_ptr<Executor>> Executor::Create(
    std::shared_ptr<const Plan> plan, Device& device) {
  if (device.name() != plan->device()) {
    return InvalidArgumentError(StrCat("executor: the plan is for device '",
                                       plan->device(), "', not '",
                                       device.name(), "'"));
  }
  std::unique_ptr<Executor> executor(new Executor(std::move(plan), device));
  ThreadPool* const pool = executor->stream_->pool();
  if (pool != nullptr &&
      pool->num_threads() != executor->plan().num_threads()) {
    return InvalidArgumentError(
        StrCat("executor: the plan is for ", executor->plan().num_threads(),
               " threads, the device has ", pool->num_threads()));
  }
  SHOAL_RETURN_IF_ERROR(executor->Allocate(device));
  executor->LayOutViews();
  return executor;
}

Executor::Executor(std::shared_ptr<const Plan> plan, Device& device)
    : plan_(std::move(plan)),
      stream_(device.CreateStream()),
      symbol_values_(plan_->symbol_max()),
      feeds_(plan_->feeds().size()),
      fetches_(plan_->fetches().size()),
      shapes_(plan_->values().size()),
      memory_(plan_->storages().size()) {}

Status Executor::Allocate(Device& device) {
  SHOAL_ASSIGN_OR_RETURN(arena_, device.Allocate(plan_->arena_bytes()));
  const std::vector<Plan::Storage>& storages = plan_->storages();
  const auto num_storages = static_cast<int64_t>(storages.size());
  SHOAL_ASSIGN_OR_RETURN(constants_,
                         device.Allocate(num_storages * Plan::kAlignment));
  for (size_t i = 0; i < storages.size(); ++i) {
    if (storages[i].kind == Plan::Storage::Kind::kArena) {
      memory_[i] = arena_.data() + storages[i].offset;
    } else if (storages[i].kind == Plan::Storage::Kind::kConstant) {
      memory_[i] =
          constants_.data() + static_cast<int64_t>(i) * Plan::kAlignment;
      SHOAL_RETURN_IF_ERROR(
          device.Copy(memory_[i], &storages[i].value, sizeof(float), *stream_));
    }
  }
  return stream_->Synchronize();
}

void Executor::LayOutViews() {
  for (const Plan::Step& step : plan_->steps()) {
    step_views_.push_back(
        {view_values_.size(), step.inputs.size(), step.outputs.size()});
    for (size_t i = 0; i < step.inputs.size(); ++i) {
      view_values_.push_back(step.inputs[i]);
      view_shape_only_.push_back(step.shape_only[i]);
    }
    for (const int output : step.outputs) {
      view_values_.push_back(output);
      view_shape_only_.push_back(false);
    }
  }
  views_.resize(view_values_.size());
}

Status Executor::SetSymbol(int symbol, int64_t value) {
  if (symbol < 0 || symbol >= static_cast<int>(symbol_values_.size())) {
    return InvalidArgumentError(StrCat("executor: symbol ", symbol,
                                       " is outside [0, ",
                                       symbol_values_.size(), ")"));
  }
  const auto number = static_cast<size_t>(symbol);
  if (!plan_->SymbolIsUsed(symbol)) {
    return OkStatus();
  }
  if (value < 0 || value > plan_->symbol_max()[number]) {
    return InvalidArgumentError(StrCat("executor: '", plan_->symbols()[number],
                                       "' is ", value, ", outside [0, ",
                                       plan_->symbol_max()[number],
                                       "], what the plan was made for"));
  }
  shapes_changed_ = shapes_changed_ || symbol_values_[number] != value;
  symbol_values_[number] = value;
  return OkStatus();
}

Status Executor::SetSymbol(std::string_view name, int64_t value) {
  const std::vector<std::string>& names = plan_->symbols();
  const auto at = std::find(names.begin(), names.end(), name);
  if (at == names.end()) {
    return InvalidArgumentError(
        StrCat("executor: the graph has no symbol '", name, "'"));
  }
  return SetSymbol(static_cast<int>(at - names.begin()), value);
}

namespace {

// Errors: kInvalidArgument.
Status CheckMemory(std::string_view what, const void* data, int64_t size_bytes,
                   DType dtype) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  if (address % static_cast<uintptr_t>(SizeOf(dtype)) != 0) {
    return InvalidArgumentError(
        StrCat("executor: ", what, " is not aligned for ", Name(dtype)));
  }
  if (size_bytes < 0 || (data == nullptr && size_bytes > 0)) {
    return InvalidArgumentError(StrCat("executor: ", what, " is bound to ",
                                       size_bytes, " bytes of no memory"));
  }
  return OkStatus();
}

}  // namespace

Status Executor::BindFeed(int feed, const void* data, int64_t size_bytes) {
  if (feed < 0 || feed >= static_cast<int>(feeds_.size())) {
    return InvalidArgumentError(StrCat("executor: feed ", feed,
                                       " is outside [0, ", feeds_.size(), ")"));
  }
  const auto number = static_cast<size_t>(feed);
  const Feed& description = plan_->feeds()[number];
  if (description.kind == Feed::Kind::kConstant) {
    return InvalidArgumentError(StrCat("executor: feed '", description.name,
                                       "' is a constant; it needs no memory"));
  }
  SHOAL_RETURN_IF_ERROR(
      CheckMemory(description.name, data, size_bytes, description.type.dtype));
  // Kernels only read what is an input of theirs.
  feeds_[number] = {const_cast<void*>(data), size_bytes};
  bindings_changed_ = true;
  return OkStatus();
}

Status Executor::BindFetch(int fetch, void* data, int64_t size_bytes) {
  if (fetch < 0 || fetch >= static_cast<int>(fetches_.size())) {
    return InvalidArgumentError(StrCat(
        "executor: fetch ", fetch, " is outside [0, ", fetches_.size(), ")"));
  }
  const auto number = static_cast<size_t>(fetch);
  const Plan::FetchPlace& place = plan_->fetches()[number];
  if (!place.external) {
    return InvalidArgumentError(
        StrCat("executor: fetch ", fetch,
               " lies in the arena; plan it as external to bind it"));
  }
  const Plan::Value& value = plan_->values()[static_cast<size_t>(place.value)];
  SHOAL_RETURN_IF_ERROR(
      CheckMemory(StrCat("fetch ", fetch), data, size_bytes, value.type.dtype));
  fetches_[number] = {data, size_bytes};
  bindings_changed_ = true;
  return OkStatus();
}

void Executor::UpdateShapes() {
  const std::vector<Plan::Value>& values = plan_->values();
  for (size_t i = 0; i < values.size(); ++i) {
    shapes_[i] = values[i].type.shape.Eval(symbol_values_);
  }
}

Status Executor::CheckBound(std::string_view kind, std::string_view name,
                            const Bound& bound, const Shape& shape,
                            DType dtype) const {
  const int64_t needed = shape.num_elements() * SizeOf(dtype);
  if (bound.size_bytes < needed) {
    return FailedPreconditionError(StrCat(
        "executor: ", kind, " '", name, "' is ", shape.ToString(), " ",
        Name(dtype), ", ", needed, " bytes, but ",
        bound.data == nullptr ? std::string("nothing is bound")
                              : StrCat(bound.size_bytes, " bytes are bound")));
  }
  return OkStatus();
}

Status Executor::ResolveStorages() {
  for (size_t i = 0; i < feeds_.size(); ++i) {
    const int number = plan_->FeedValue(static_cast<int>(i));
    const Feed& feed = plan_->feeds()[i];
    if (number < 0 || feed.kind == Feed::Kind::kConstant) {
      continue;
    }
    const auto v = static_cast<size_t>(number);
    SHOAL_RETURN_IF_ERROR(
        CheckBound("feed", feed.name, feeds_[i], shapes_[v], feed.type.dtype));
    memory_[static_cast<size_t>(plan_->values()[v].storage)] =
        static_cast<std::byte*>(feeds_[i].data);
  }
  for (size_t i = 0; i < fetches_.size(); ++i) {
    const Plan::FetchPlace& place = plan_->fetches()[i];
    if (!place.external) {
      continue;
    }
    const auto v = static_cast<size_t>(place.value);
    const Plan::Value& value = plan_->values()[v];
    if (shapes_[v].num_elements() * SizeOf(value.type.dtype) >
        fetches_[i].size_bytes) [[unlikely]] {
      return CheckBound("fetch", StrCat(i), fetches_[i], shapes_[v],
                        value.type.dtype);
    }
    memory_[static_cast<size_t>(value.storage)] =
        static_cast<std::byte*>(fetches_[i].data);
  }
  return OkStatus();
}

Status Executor::Run() {
  if (shapes_changed_ || bindings_changed_) {
    UpdateShapes();
    SHOAL_RETURN_IF_ERROR(ResolveStorages());
    for (size_t i = 0; i < views_.size(); ++i) {
      const auto v = static_cast<size_t>(view_values_[i]);
      const Plan::Value& value = plan_->values()[v];
      views_[i] = {view_shape_only_[i]
                       ? nullptr
                       : memory_[static_cast<size_t>(value.storage)],
                   shapes_[v], value.type.dtype};
    }
    shapes_changed_ = false;
    bindings_changed_ = false;
  }
  for (size_t s = 0; s < step_views_.size(); ++s) {
    if (Status status = RunStep(s); !status.ok()) [[unlikely]] {
      return status.WithPrefix(StrCat("node '", plan_->steps()[s].name, "'"));
    }
  }
  return stream_->Synchronize();
}

Status Executor::RunStep(size_t s) {
  const Plan::Step& step = plan_->steps()[s];
  const StepViews& place = step_views_[s];
  const std::span<const TensorView> views(views_);
  const KernelArgs args = {
      .inputs = views.subspan(place.first_input, place.num_inputs),
      .outputs = views.subspan(place.first_input + place.num_inputs,
                               place.num_outputs),
      .ints = step.attributes.ints,
      .floats = step.attributes.floats,
      .workspace = {arena_.data() + plan_->workspace_offset(),
                    static_cast<size_t>(plan_->workspace_bytes())}};
  if (!trace_) {
    return step.kernel->run(args, *stream_);
  }
  const Time begin = clock_->Now();
  Status status = step.kernel->run(args, *stream_);
  trace_(step.name, step.op, begin, clock_->Now());
  return status;
}

TensorView Executor::fetch(int index) const {
  const Plan::FetchPlace& place = plan_->fetches()[static_cast<size_t>(index)];
  const auto v = static_cast<size_t>(place.value);
  const Plan::Value& value = plan_->values()[v];
  return {memory_[static_cast<size_t>(value.storage)], shapes_[v],
          value.type.dtype};
}

void Executor::SetTrace(TraceFn trace, const Clock* clock) {
  trace_ = clock == nullptr ? TraceFn() : std::move(trace);
  clock_ = clock;
}

}  // namespace shoal::graph
