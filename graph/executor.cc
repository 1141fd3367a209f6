#include "graph/executor.h"

#include <algorithm>
#include <cstring>
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
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, device.CreateStream());
  std::unique_ptr<Executor> executor(
      new Executor(std::move(plan), device, std::move(stream)));
  ThreadPool* const pool = executor->stream_->pool();
  if (pool != nullptr &&
      pool->num_threads() != executor->plan().num_threads()) {
    return InvalidArgumentError(
        StrCat("executor: the plan is for ", executor->plan().num_threads(),
               " threads, the device has ", pool->num_threads()));
  }
  SHOAL_RETURN_IF_ERROR(executor->Allocate());
  executor->LayOutViews();
  return executor;
}

Executor::Executor(std::shared_ptr<const Plan> plan, Device& device,
                   std::unique_ptr<Stream> stream)
    : plan_(std::move(plan)),
      device_(device),
      staged_(!device.host_can_read()),
      stream_(std::move(stream)),
      symbol_values_(plan_->symbol_max()),
      feeds_(plan_->feeds().size()),
      fetches_(plan_->fetches().size()),
      shapes_(plan_->values().size()),
      memory_(plan_->storages().size()) {}

Executor::~Executor() {
  if (running_) {
    // The device may still use the memory that goes.
    static_cast<void>(stream_->Synchronize());
  }
}

Status Executor::Allocate() {
  SHOAL_ASSIGN_OR_RETURN(arena_, device_.Allocate(plan_->arena_bytes()));
  const std::vector<Plan::Storage>& storages = plan_->storages();
  for (size_t i = 0; i < storages.size(); ++i) {
    if (storages[i].kind == Plan::Storage::Kind::kArena) {
      memory_[i] = arena_.data() + storages[i].offset;
    }
  }
  SHOAL_RETURN_IF_ERROR(CopyConstants());
  return staged_ ? AllocateStaging() : OkStatus();
}

Status Executor::CopyConstants() {
  const std::vector<Plan::Storage>& storages = plan_->storages();
  const int64_t bytes =
      static_cast<int64_t>(storages.size()) * Plan::kAlignment;
  SHOAL_ASSIGN_OR_RETURN(constants_, device_.Allocate(bytes));
  SHOAL_ASSIGN_OR_RETURN(Buffer host, device_.AllocateHost(bytes));
  for (size_t i = 0; i < storages.size(); ++i) {
    if (storages[i].kind == Plan::Storage::Kind::kConstant) {
      const int64_t offset = static_cast<int64_t>(i) * Plan::kAlignment;
      memory_[i] = constants_.data() + offset;
      std::memcpy(host.data() + offset, &storages[i].value, sizeof(float));
    }
  }
  SHOAL_RETURN_IF_ERROR(
      device_.Copy(constants_.data(), host.data(), bytes, *stream_));
  return stream_->Synchronize();
}

namespace {

// Of tensors in memory that copies go through: that of the widest loads.
int64_t Padded(int64_t bytes) {
  constexpr int64_t kAlignment = 256;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

Status Executor::AllocateStaging() {
  copied_.resize(feeds_.size());
  fetch_offsets_.resize(fetches_.size());
  const auto storage_of = [this](int value) -> const Plan::Storage& {
    const int storage = plan_->values()[static_cast<size_t>(value)].storage;
    return plan_->storages()[static_cast<size_t>(storage)];
  };
  int64_t feed_bytes = 0;
  for (const bool versioned : {true, false}) {
    for (size_t i = 0; i < feeds_.size(); ++i) {
      const Feed::Kind kind = plan_->feeds()[i].kind;
      const bool has_version =
          kind == Feed::Kind::kVariable || kind == Feed::Kind::kTableRows;
      if (kind != Feed::Kind::kConstant && has_version == versioned &&
          plan_->FeedIsUsed(static_cast<int>(i))) {
        staging_order_.push_back(i);
        feed_bytes += Padded(
            storage_of(plan_->FeedValue(static_cast<int>(i))).size_bytes);
      }
    }
  }
  int64_t external_bytes = 0;
  int64_t fetch_bytes = 0;
  for (const Plan::FetchPlace& place : plan_->fetches()) {
    const int64_t bytes = Padded(storage_of(place.value).size_bytes);
    fetch_bytes += bytes;
    external_bytes += place.external ? bytes : 0;
  }
  SHOAL_ASSIGN_OR_RETURN(feeds_device_, device_.Allocate(feed_bytes));
  SHOAL_ASSIGN_OR_RETURN(feeds_host_, device_.AllocateHost(feed_bytes));
  SHOAL_ASSIGN_OR_RETURN(fetches_device_, device_.Allocate(external_bytes));
  SHOAL_ASSIGN_OR_RETURN(fetches_host_, device_.AllocateHost(fetch_bytes));
  if (external_bytes == 0) {
    return OkStatus();
  }
  // They are copied back as one piece, with what nobody writes between them.
  std::memset(fetches_host_.data(), 0, static_cast<size_t>(external_bytes));
  SHOAL_RETURN_IF_ERROR(device_.Copy(
      fetches_device_.data(), fetches_host_.data(), external_bytes, *stream_));
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
  for (size_t f = 0; f < fetches_.size(); ++f) {
    const auto storage_of = [this](int value) {
      return plan_->values()[static_cast<size_t>(value)].storage;
    };
    const Plan::FetchPlace& place = plan_->fetches()[f];
    for (size_t s = place.external ? step_views_.size() : 0; s-- > 0;) {
      const std::vector<int>& outputs = plan_->steps()[s].outputs;
      if (std::any_of(outputs.begin(), outputs.end(), [&](int output) {
            return storage_of(output) == storage_of(place.value);
          })) {
        step_views_[s].fetches.push_back(static_cast<int>(f));
        break;
      }
    }
  }
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

Status Executor::BindFeed(int feed, const void* data, int64_t size_bytes,
                          uint64_t version) {
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
  feeds_[number] = {const_cast<void*>(data), size_bytes, version};
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
    if (!place.external || staged_) {
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

int64_t Executor::BytesOf(int value) const {
  const auto v = static_cast<size_t>(value);
  return shapes_[v].num_elements() * SizeOf(plan_->values()[v].type.dtype);
}

void Executor::Stage() {
  int64_t offset = 0;
  for (const size_t f : staging_order_) {
    const int value = plan_->FeedValue(static_cast<int>(f));
    const Plan::Value& v = plan_->values()[static_cast<size_t>(value)];
    memory_[static_cast<size_t>(v.storage)] = feeds_device_.data() + offset;
    offset += Padded(BytesOf(value));
  }
  offset = 0;
  for (const bool external : {true, false}) {
    for (size_t i = 0; i < fetches_.size(); ++i) {
      const Plan::FetchPlace& place = plan_->fetches()[i];
      if (place.external == external) {
        fetch_offsets_[i] = offset;
        if (external) {
          const Plan::Value& v =
              plan_->values()[static_cast<size_t>(place.value)];
          memory_[static_cast<size_t>(v.storage)] =
              fetches_device_.data() + offset;
        }
        offset += Padded(BytesOf(place.value));
      }
    }
    if (external) {
      external_fetch_bytes_ = offset;
    }
  }
}

Status Executor::CopyFeeds() {
  int64_t offset = 0;
  int64_t begin = -1;
  int64_t end = 0;
  for (const size_t f : staging_order_) {
    const Copied now = {offset, BytesOf(plan_->FeedValue(static_cast<int>(f))),
                        feeds_[f].version};
    offset += Padded(now.size_bytes);
    const bool there = now.version != 0 && now == copied_[f];
    if (!there && now.size_bytes > 0) {
      std::memcpy(feeds_host_.data() + now.offset, feeds_[f].data,
                  static_cast<size_t>(now.size_bytes));
      begin = begin < 0 ? now.offset : begin;
      end = now.offset + now.size_bytes;
    }
    copied_[f] = now;
  }
  return begin < 0
             ? OkStatus()
             : device_.Copy(feeds_device_.data() + begin,
                            feeds_host_.data() + begin, end - begin, *stream_);
}

Status Executor::CopyFetches() {
  if (external_fetch_bytes_ > 0) {
    SHOAL_RETURN_IF_ERROR(device_.Copy(fetches_host_.data(),
                                       fetches_device_.data(),
                                       external_fetch_bytes_, *stream_));
  }
  for (size_t i = 0; i < fetches_.size(); ++i) {
    const Plan::FetchPlace& place = plan_->fetches()[i];
    if (!place.external && BytesOf(place.value) > 0) {
      const Plan::Value& v = plan_->values()[static_cast<size_t>(place.value)];
      SHOAL_RETURN_IF_ERROR(
          device_.Copy(fetches_host_.data() + fetch_offsets_[i],
                       memory_[static_cast<size_t>(v.storage)],
                       BytesOf(place.value), *stream_));
    }
  }
  return OkStatus();
}

Status Executor::Run() {
  SHOAL_RETURN_IF_ERROR(Start());
  return Finish();
}

Status Executor::Start() {
  if (running_) {
    return FailedPreconditionError(
        "executor: the last run is not finished; call Finish() first");
  }
  if (shapes_changed_) {
    same_shape_runs_ = 0;
    recorded_ = nullptr;
  }
  if (shapes_changed_ || bindings_changed_) {
    UpdateShapes();
    SHOAL_RETURN_IF_ERROR(ResolveStorages());
    if (staged_) {
      Stage();
    }
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
  Status status = Enqueue();
  running_ = status.ok();
  if (!status.ok() && staged_) {
    // What was enqueued before may still use memory that the caller changes.
    static_cast<void>(stream_->Synchronize());
  }
  return status;
}

Status Executor::Enqueue() {
  if (staged_) {
    SHOAL_RETURN_IF_ERROR(CopyFeeds());
  }
  // Without a stage, memory is wherever callers bind it.
  constexpr int kRunsBefore = 2;
  if (staged_ && stream_->can_record() && !trace_ &&
      ++same_shape_runs_ > kRunsBefore) {
    if (recorded_ == nullptr) {
      SHOAL_RETURN_IF_ERROR(RecordSteps());
    }
    return stream_->Launch(*recorded_);
  }
  return EnqueueSteps();
}

Status Executor::RecordSteps() {
  SHOAL_RETURN_IF_ERROR(stream_->BeginRecording());
  const Status status = EnqueueSteps();
  StatusOr<std::unique_ptr<RecordedWork>> recorded = stream_->EndRecording();
  SHOAL_RETURN_IF_ERROR(status);
  SHOAL_ASSIGN_OR_RETURN(recorded_, std::move(recorded));
  return OkStatus();
}

Status Executor::EnqueueSteps() {
  for (size_t s = 0; s < step_views_.size(); ++s) {
    if (Status status = RunStep(s); !status.ok()) [[unlikely]] {
      return status.WithPrefix(plan_->steps()[s].label);
    }
    if (fetched_ && !staged_) {
      for (const int fetch : step_views_[s].fetches) {
        fetched_(fetch);
      }
    }
  }
  return staged_ ? CopyFetches() : OkStatus();
}

Status Executor::Finish() {
  if (!running_) {
    return FailedPreconditionError("executor: there is no run to finish");
  }
  running_ = false;
  SHOAL_RETURN_IF_ERROR(stream_->Synchronize());
  for (size_t i = 0; staged_ && i < fetches_.size(); ++i) {
    const Plan::FetchPlace& place = plan_->fetches()[i];
    const int64_t bytes = BytesOf(place.value);
    if (place.external && fetches_[i].size_bytes < bytes) [[unlikely]] {
      const auto v = static_cast<size_t>(place.value);
      return CheckBound("fetch", StrCat(i), fetches_[i], shapes_[v],
                        plan_->values()[v].type.dtype);
    }
    if (place.external && bytes > 0) {
      std::memcpy(fetches_[i].data, fetches_host_.data() + fetch_offsets_[i],
                  static_cast<size_t>(bytes));
    }
    if (place.external && fetched_) {
      fetched_(static_cast<int>(i));
    }
  }
  return OkStatus();
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
                    static_cast<size_t>(plan_->workspace_bytes())},
      .label = step.label.c_str()};
  if (!trace_) {
    return step.kernel->run(args, *stream_);
  }
  const Time begin = clock_->Now();
  Status status = step.kernel->run(args, *stream_);
  trace_(step.name, step.op, begin, clock_->Now());
  return status;
}

TensorView Executor::fetch(int index) const {
  const auto i = static_cast<size_t>(index);
  const auto v = static_cast<size_t>(plan_->fetches()[i].value);
  const Plan::Value& value = plan_->values()[v];
  std::byte* memory = memory_[static_cast<size_t>(value.storage)];
  if (staged_) {
    memory = const_cast<std::byte*>(fetches_host_.data()) + fetch_offsets_[i];
  }
  return {memory, shapes_[v], value.type.dtype};
}

void Executor::SetTrace(TraceFn trace, const Clock* clock) {
  trace_ = clock == nullptr ? TraceFn() : std::move(trace);
  clock_ = clock;
}

}  // namespace shoal::graph
