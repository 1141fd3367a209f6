#include "graph/executor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/strcat.h"
#include "base/thread_pool.h"

namespace shoal::graph {

StatusOr<std::unique_ptr<Executor>> Executor::Create(
    std::shared_ptr<const Plan> plan, Device& device, Device* host) {
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
  if (executor->plan().mixed()) {
    if (host == nullptr || host->name() != "cpu") {
      return InvalidArgumentError(
          "executor: the plan has steps of the cpu; give it a device 'cpu'");
    }
    SHOAL_RETURN_IF_ERROR(executor->OpenHost(*host));
  }
  executor->OrderFetches();
  SHOAL_RETURN_IF_ERROR(executor->Allocate());
  executor->LayOutViews();
  executor->LayOutSegments();
  return executor;
}

Status Executor::OpenHost(Device& host) {
  SHOAL_ASSIGN_OR_RETURN(host_stream_, host.CreateStream());
  if (host_stream_->pool()->num_threads() != plan_->num_threads()) {
    return InvalidArgumentError(
        StrCat("executor: the plan is for ", plan_->num_threads(),
               " threads, the host has ", host_stream_->pool()->num_threads()));
  }
  SHOAL_ASSIGN_OR_RETURN(host_arena_, host.Allocate(plan_->host_arena_bytes()));
  return OkStatus();
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
    static_cast<void>(SynchronizeAll());
  }
}

Status Executor::Allocate() {
  SHOAL_ASSIGN_OR_RETURN(arena_, device_.Allocate(plan_->arena_bytes()));
  const std::vector<Plan::Storage>& storages = plan_->storages();
  for (size_t i = 0; i < storages.size(); ++i) {
    if (storages[i].kind == Plan::Storage::Kind::kArena) {
      Buffer& arena = storages[i].side == Side::kHost ? host_arena_ : arena_;
      memory_[i] = arena.data() + storages[i].offset;
    } else if (storages[i].kind == Plan::Storage::Kind::kTransfer) {
      // Each has its own: the shadow device watches over whole allocations.
      SHOAL_ASSIGN_OR_RETURN(transfers_.emplace_back(),
                             device_.AllocateHost(storages[i].size_bytes));
      memory_[i] = transfers_.back().data();
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
      if (storages[i].side == Side::kHost) {
        // Kernels only read what is an input of theirs.
        memory_[i] = reinterpret_cast<std::byte*>(
            const_cast<float*>(&storages[i].value));
        continue;
      }
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
  SHOAL_ASSIGN_OR_RETURN(in_stream_, device_.CreateStream());
  SHOAL_ASSIGN_OR_RETURN(out_stream_, device_.CreateStream());
  copied_.resize(feeds_.size());
  fetch_offsets_.resize(fetches_.size());
  int64_t feed_bytes = 0;
  for (const bool versioned : {true, false}) {
    for (size_t i = 0; i < feeds_.size(); ++i) {
      const Feed::Kind kind = plan_->feeds()[i].kind;
      const bool has_version =
          kind == Feed::Kind::kVariable || kind == Feed::Kind::kTableRows;
      if (kind != Feed::Kind::kConstant && has_version == versioned &&
          plan_->FeedIsUsed(static_cast<int>(i)) &&
          StorageOf(plan_->FeedValue(static_cast<int>(i))).side ==
              Side::kDevice) {
        staging_order_.push_back(i);
        feed_bytes +=
            Padded(StorageOf(plan_->FeedValue(static_cast<int>(i))).size_bytes);
      }
    }
  }
  int64_t external_bytes = 0;
  int64_t fetch_bytes = 0;
  for (const Plan::FetchPlace& place : plan_->fetches()) {
    if (IsOfHost(place)) {
      continue;
    }
    const int64_t bytes = Padded(StorageOf(place.value).size_bytes);
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

void Executor::OrderFetches() {
  std::vector<size_t> written_by(plan_->storages().size(), 0);
  for (size_t s = 0; s < plan_->steps().size(); ++s) {
    for (const int output : plan_->steps()[s].outputs) {
      written_by[StorageNumber(output)] = s;
    }
  }
  fetch_steps_.resize(fetches_.size());
  for (size_t i = 0; i < fetches_.size(); ++i) {
    const Plan::FetchPlace& place = plan_->fetches()[i];
    fetch_steps_[i] = written_by[StorageNumber(place.value)];
    if (!IsOfHost(place)) {
      fetch_order_.push_back(i);
    }
  }
  std::stable_sort(
      fetch_order_.begin(), fetch_order_.end(), [this](size_t a, size_t b) {
        const bool first = plan_->fetches()[a].external;
        const bool second = plan_->fetches()[b].external;
        return first != second ? first : fetch_steps_[a] < fetch_steps_[b];
      });
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
    if (plan_->fetches()[f].external) {
      step_views_[fetch_steps_[f]].fetches.push_back(static_cast<int>(f));
    }
  }
}

void Executor::LayOutSegments() {
  const std::vector<Plan::Step>& steps = plan_->steps();
  for (size_t s = 0; s < steps.size(); ++s) {
    if (segments_.empty() || segments_.back().side != steps[s].side ||
        steps[s].waits) {
      segments_.push_back(
          {.begin = s, .side = steps[s].side, .waits = steps[s].waits});
    }
    segments_.back().end = s + 1;
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
  }
  // One that both sides of a mixed plan read has two.
  for (size_t i = 0; i < memory_.size(); ++i) {
    const Plan::Storage& storage = plan_->storages()[i];
    if (storage.kind == Plan::Storage::Kind::kFeed) {
      memory_[i] = static_cast<std::byte*>(
          feeds_[static_cast<size_t>(storage.index)].data);
    }
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
    memory_[StorageNumber(value)] = feeds_device_.data() + offset;
    offset += Padded(BytesOf(value));
  }
  offset = 0;
  for (const size_t i : fetch_order_) {
    const Plan::FetchPlace& place = plan_->fetches()[i];
    fetch_offsets_[i] = offset;
    if (place.external) {
      memory_[StorageNumber(place.value)] = fetches_device_.data() + offset;
    }
    offset += Padded(BytesOf(place.value));
  }
  CutFetches();
}

// Neighbours on the device leave together until they are worth a copy.
void Executor::CutFetches() {
  constexpr int64_t kWorthACopy = int64_t{256} << 10;
  fetch_pieces_.clear();
  bool open = false;
  for (const size_t i : fetch_order_) {
    const Plan::FetchPlace& place = plan_->fetches()[i];
    const int64_t bytes = BytesOf(place.value);
    if (bytes == 0) {
      continue;
    }
    if (!open || !place.external) {
      fetch_pieces_.push_back({.offset = fetch_offsets_[i],
                               .from = memory_[StorageNumber(place.value)]});
    }
    FetchPiece& piece = fetch_pieces_.back();
    piece.step = fetch_steps_[i];
    piece.size_bytes = fetch_offsets_[i] + bytes - piece.offset;
    open = place.external && piece.size_bytes < kWorthACopy;
  }
  std::stable_sort(
      fetch_pieces_.begin(), fetch_pieces_.end(),
      [](const FetchPiece& a, const FetchPiece& b) { return a.step < b.step; });
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
  in_pending_ = begin >= 0;
  if (begin < 0) {
    return OkStatus();
  }
  Status copied =
      device_.Copy(feeds_device_.data() + begin, feeds_host_.data() + begin,
                   end - begin, *in_stream_);
  if (!copied.ok()) {
    std::fill(copied_.begin(), copied_.end(), Copied());
  }
  return copied;
}

// What is complete after the step.
Status Executor::CopyFetches(size_t step) {
  auto piece = std::lower_bound(
      fetch_pieces_.begin(), fetch_pieces_.end(), step,
      [](const FetchPiece& p, size_t value) { return p.step < value; });
  for (; piece != fetch_pieces_.end() && piece->step == step; ++piece) {
    SHOAL_RETURN_IF_ERROR(CopyOut(fetches_host_.data() + piece->offset,
                                  piece->from, piece->size_bytes));
  }
  return OkStatus();
}

namespace {

// What is enqueued on `after` from now on starts after what is on `before`.
Status Order(Stream& before, Stream& after) {
  SHOAL_ASSIGN_OR_RETURN(const std::shared_ptr<Event> event, before.Record());
  return after.Wait(*event);
}

}  // namespace

Status Executor::CopyOut(void* to, const void* from, int64_t size_bytes) {
  if (!out_waited_) {
    SHOAL_RETURN_IF_ERROR(Order(*stream_, *out_stream_));
    out_waited_ = true;
  }
  out_pending_ = true;
  return device_.Copy(to, from, size_bytes, *out_stream_);
}

Status Executor::WaitForCopiesIn() {
  return std::exchange(in_pending_, false) ? Order(*in_stream_, *stream_)
                                           : OkStatus();
}

// Whoever waits for the kernels then waits for the copies too.
Status Executor::JoinCopiesOut() {
  return std::exchange(out_pending_, false) ? Order(*out_stream_, *stream_)
                                            : OkStatus();
}

// Where an error left streams apart. Errors: the first.
Status Executor::SynchronizeAll() {
  in_pending_ = false;
  out_pending_ = false;
  Status status = stream_->Synchronize();
  for (Stream* const stream : {in_stream_.get(), out_stream_.get()}) {
    if (stream != nullptr) {
      const Status of_copies = stream->Synchronize();
      status = status.ok() ? of_copies : status;
    }
  }
  return status;
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
    for (Segment& segment : segments_) {
      segment.recorded = nullptr;
    }
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
  next_segment_ = 0;
  ++same_shape_runs_;
  Status status = staged_ ? CopyFeeds() : OkStatus();
  if (status.ok()) {
    status = Continue();
  }
  running_ = status.ok();
  if (!status.ok() && staged_) {
    // What was enqueued before may still use memory that the caller changes.
    static_cast<void>(SynchronizeAll());
  }
  return status;
}

// Up to the next segment that must wait for the device, or the end.
Status Executor::Continue() {
  const size_t first = next_segment_;
  for (; next_segment_ < segments_.size(); ++next_segment_) {
    Segment& segment = segments_[next_segment_];
    if (segment.waits && next_segment_ > first) {
      return OkStatus();
    }
    if (segment.side == Side::kDevice) {
      SHOAL_RETURN_IF_ERROR(WaitForCopiesIn());
    }
    // Without a stage, memory is wherever callers bind it.
    constexpr int kRunsBefore = 2;
    const bool record = staged_ && segment.side == Side::kDevice &&
                        stream_->can_record() && !trace_ &&
                        same_shape_runs_ > kRunsBefore;
    if (record && segment.recorded == nullptr) {
      SHOAL_RETURN_IF_ERROR(RecordSteps(segment));
    }
    SHOAL_RETURN_IF_ERROR(record ? stream_->Launch(*segment.recorded)
                                 : EnqueueSteps(segment));
  }
  return OkStatus();
}

Status Executor::RecordSteps(Segment& segment) {
  SHOAL_RETURN_IF_ERROR(stream_->BeginRecording());
  const Status status = EnqueueSteps(segment);
  StatusOr<std::unique_ptr<RecordedWork>> recorded = stream_->EndRecording();
  SHOAL_RETURN_IF_ERROR(status);
  SHOAL_ASSIGN_OR_RETURN(segment.recorded, std::move(recorded));
  return OkStatus();
}

Status Executor::EnqueueSteps(const Segment& segment) {
  for (size_t s = segment.begin; s < segment.end; ++s) {
    if (Status status = RunStep(s); !status.ok()) [[unlikely]] {
      return status.WithPrefix(plan_->steps()[s].label);
    }
    if (staged_) {
      SHOAL_RETURN_IF_ERROR(CopyFetches(s));
    } else if (fetched_) {
      for (const int fetch : step_views_[s].fetches) {
        fetched_(fetch);
      }
    }
  }
  return JoinCopiesOut();
}

Status Executor::Finish() {
  if (!running_) {
    return FailedPreconditionError("executor: there is no run to finish");
  }
  running_ = false;
  SHOAL_RETURN_IF_ERROR(stream_->Synchronize());
  while (next_segment_ < segments_.size()) {
    if (Status status = Continue(); !status.ok()) {
      // Nothing is running when there is an error either.
      static_cast<void>(SynchronizeAll());
      return status;
    }
    SHOAL_RETURN_IF_ERROR(stream_->Synchronize());
  }
  for (size_t i = 0; staged_ && i < fetches_.size(); ++i) {
    const Plan::FetchPlace& place = plan_->fetches()[i];
    const int64_t bytes = BytesOf(place.value);
    if (place.external && fetches_[i].size_bytes < bytes) [[unlikely]] {
      const auto v = static_cast<size_t>(place.value);
      return CheckBound("fetch", StrCat(i), fetches_[i], shapes_[v],
                        plan_->values()[v].type.dtype);
    }
    if (place.external && bytes > 0) {
      std::memcpy(fetches_[i].data, fetch(static_cast<int>(i)).data,
                  static_cast<size_t>(bytes));
    }
    if (place.external && fetched_) {
      fetched_(static_cast<int>(i));
    }
  }
  return OkStatus();
}

Status Executor::Abandon() {
  running_ = false;
  return SynchronizeAll();
}

Status Executor::RunKernel(const Plan::Step& step, const StepViews& place) {
  const std::span<const TensorView> views(views_);
  KernelArgs args = {
      .inputs = views.subspan(place.first_input, place.num_inputs),
      .outputs = views.subspan(place.first_input + place.num_inputs,
                               place.num_outputs),
      .ints = step.attributes.ints,
      .floats = step.attributes.floats,
      .workspace = {arena_.data() + plan_->workspace_offset(),
                    static_cast<size_t>(plan_->workspace_bytes())},
      .label = step.label.c_str()};
  if (step.kernel == nullptr && step.side == Side::kDevice) {
    return CopyOut(args.outputs[0].data, args.inputs[0].data,
                   BytesOf(step.inputs[0]));
  }
  if (step.kernel == nullptr) {
    in_pending_ = true;
    return device_.Copy(args.outputs[0].data, args.inputs[0].data,
                        BytesOf(step.inputs[0]), *in_stream_);
  }
  if (step.side == Side::kDevice) {
    out_waited_ = false;
    return step.kernel->run(args, *stream_);
  }
  args.workspace = {host_arena_.data() + plan_->host_workspace_offset(),
                    static_cast<size_t>(plan_->host_workspace_bytes())};
  return step.kernel->run(args, *host_stream_);
}

Status Executor::RunStep(size_t s) {
  const Plan::Step& step = plan_->steps()[s];
  if (!trace_) {
    return RunKernel(step, step_views_[s]);
  }
  const Time begin = clock_->Now();
  Status status = RunKernel(step, step_views_[s]);
  trace_(step.name, step.op, begin, clock_->Now());
  return status;
}

TensorView Executor::fetch(int index) const {
  const auto i = static_cast<size_t>(index);
  const auto v = static_cast<size_t>(plan_->fetches()[i].value);
  const Plan::Value& value = plan_->values()[v];
  std::byte* memory = memory_[static_cast<size_t>(value.storage)];
  if (staged_ && !IsOfHost(plan_->fetches()[i])) {
    memory = const_cast<std::byte*>(fetches_host_.data()) + fetch_offsets_[i];
  }
  return {memory, shapes_[v], value.type.dtype};
}

void Executor::SetTrace(TraceFn trace, const Clock* clock) {
  trace_ = clock == nullptr ? TraceFn() : std::move(trace);
  clock_ = clock;
}

}  // namespace shoal::graph
