#include "comm/nccl_collective.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/strcat.h"

namespace shoal::comm {
namespace {

using Kind = DeviceCollectiveCall::Kind;

// The group of the messages by which members find each other.
constexpr uint16_t kBootstrapBit = 0x8000;

}  // namespace

struct NcclCollective::Greeting {
  char library[32] = {};
  char device_id[16] = {};
  std::byte group_id[128] = {};
};

NcclCollective::NcclCollective(NodeContext& context, Group group,
                               const CollectiveOptions& options)
    : context_(context),
      group_(std::move(group)),
      watch_(context, group_,
             {.timeout = options.timeout,
              .library = "NCCL",
              .on_broken = [this] { OnBroken(); }}) {
  greetings_.resize(group_.members.size());
  driver_ = NcclDriver::Start(
      {.rank = group_.rank,
       .size = group_.size(),
       .open_device = options.open_device,
       // Posted to this object only while it is there; a task that runs later
       // finds no owner.
       .post =
           [this, alive = std::weak_ptr<const bool>(alive_)](
               std::function<void()> task) {
             context_.Post([alive, task = std::move(task)] {
               if (!alive.expired()) {
                 task();
               }
             });
           },
       .on_open =
           [this](const StatusOr<NcclDriver::Greeting>& greeting) {
             OnOpen(greeting);
           },
       .on_ended = [this](
                       uint64_t sequence,
                       const Status& status) { OnEnded(sequence, status); }});
}

NcclCollective::~NcclCollective() {
  for (const auto& [sequence, op] : operations_) {
    op->GiveUp();
  }
  driver_->Leave();
}

StatusOr<std::unique_ptr<NodeCollective>> NcclCollective::Create(
    NodeContext& context, Group group, const CollectiveOptions& options) {
  Group bootstrap = group;
  bootstrap.id |= kBootstrapBit;
  SHOAL_ASSIGN_OR_RETURN(
      std::unique_ptr<TransportCollective> transport,
      TransportCollective::Create(context, std::move(bootstrap),
                                  {.timeout = options.timeout}));
  std::unique_ptr<NcclCollective> made(
      new NcclCollective(context, std::move(group), options));
  made->bootstrap_ = std::move(transport);
  made->watch_.BeginOpening("opening the GPU and NCCL", [](const Status&) {});
  return std::unique_ptr<NodeCollective>(std::move(made));
}

SHOAL_REGISTER_COLLECTIVE("nccl", &NcclCollective::Create);

// --- Joining ----------------------------------------------------------------

void NcclCollective::OnOpen(const StatusOr<NcclDriver::Greeting>& greeting) {
  if (!greeting.ok()) {
    watch_.Fail(greeting.status().WithPrefix("cluster.collective: nccl"));
    return;
  }
  if (watch_.End(OperationWatch::kOpening) == nullptr) {
    return;
  }
  Greeting& own = greetings_[static_cast<size_t>(group_.rank)];
  greeting->library.copy(own.library, sizeof(own.library) - 1);
  greeting->device_id.copy(own.device_id, sizeof(own.device_id));
  const Buffer& id = greeting->group_id;
  std::copy_n(id.data(),
              std::min(id.size(), static_cast<int64_t>(sizeof(own.group_id))),
              own.group_id);
  static_assert(sizeof(Greeting) % sizeof(int32_t) == 0);
  bootstrap_->AllGather(
      DType::kI32, greetings_.data(),
      static_cast<int64_t>(sizeof(Greeting) / sizeof(int32_t)) * group_.size(),
      [this](const Status& status) { OnGreetings(status); });
}

void NcclCollective::OnGreetings(const Status& status) {
  if (const Status checked = status.ok() ? CheckGreetings() : status;
      !checked.ok()) {
    watch_.Fail(checked.WithPrefix("cluster.collective: nccl"));
    return;
  }
  watch_.BeginOpening("joining NCCL's group", [](const Status&) {});
  driver_->Join(
      Buffer::CopyOf(greetings_[0].group_id, sizeof(greetings_[0].group_id)));
}

Status NcclCollective::CheckGreetings() const {
  for (size_t r = 0; r < greetings_.size(); ++r) {
    const auto name = [this](size_t rank) { return group_.members[rank].name; };
    if (std::strcmp(greetings_[r].library, greetings_[0].library) != 0) {
      return FailedPreconditionError(
          StrCat(name(r), " has ", greetings_[r].library, ", ", name(0), " ",
                 greetings_[0].library, "; install the same everywhere"));
    }
    for (size_t s = 0; s < r; ++s) {
      if (std::memcmp(greetings_[r].device_id, greetings_[s].device_id,
                      sizeof(greetings_[r].device_id)) == 0) {
        return FailedPreconditionError(
            StrCat(name(s), " and ", name(r),
                   " have the same GPU, and NCCL takes one of each only; run "
                   "as many workers as there are GPUs, or set "
                   "cluster.collective: transport"));
      }
    }
  }
  return OkStatus();
}

// --- Operations -------------------------------------------------------------

std::pair<int64_t, int64_t> NcclCollective::OwnBytes(DType dtype,
                                                     int64_t count) const {
  const auto [begin, end] = SegmentOf(count, group_.rank, group_.size());
  return {begin * SizeOf(dtype), end * SizeOf(dtype)};
}

// All of it comes from the caller and goes back.
std::shared_ptr<NcclOperation> NcclCollective::NewOperation(
    const char* name, Kind kind, DType dtype, int64_t count,
    std::span<const void* const> terms, void* out, Done done) {
  auto op = std::make_shared<NcclOperation>();
  op->name = name;
  op->done = std::move(done);
  op->call = {.kind = kind, .dtype = dtype, .count = count};
  op->bytes = count * SizeOf(dtype);
  op->in = {0, op->bytes};
  op->out = {0, op->bytes};
  for (const void* const term : terms) {
    op->terms.push_back(static_cast<const std::byte*>(term));
  }
  op->to = static_cast<std::byte*>(out);
  return op;
}

void NcclCollective::AllReduce(DType dtype, std::span<const void* const> terms,
                               void* out, int64_t count, Done done) {
  Submit(NewOperation("allreduce", Kind::kAllReduce, dtype, count, terms, out,
                      std::move(done)));
}

void NcclCollective::ReduceScatter(DType dtype,
                                   std::span<const void* const> terms,
                                   void* out, int64_t count, Done done) {
  auto op = NewOperation("reduce-scatter", Kind::kReduceScatter, dtype, count,
                         terms, out, std::move(done));
  op->out = OwnBytes(dtype, count);
  Submit(std::move(op));
}

void NcclCollective::AllGather(DType dtype, void* data, int64_t count,
                               Done done) {
  const void* const terms[] = {data};
  auto op = NewOperation("all-gather", Kind::kAllGather, dtype, count, terms,
                         data, std::move(done));
  op->in = OwnBytes(dtype, count);
  Submit(std::move(op));
}

void NcclCollective::AllToAll(DType dtype, const void* from, void* to,
                              int64_t count, Done done) {
  const void* const terms[] = {from};
  auto op = NewOperation("all-to-all", Kind::kAllToAll, dtype, count, terms, to,
                         std::move(done));
  op->bytes *= group_.size();
  op->in = {0, op->bytes};
  op->out = {0, op->bytes};
  Submit(std::move(op));
}

void NcclCollective::Broadcast(DType dtype, void* data, int64_t count, int root,
                               Done done) {
  SHOAL_CHECK(root >= 0 && root < group_.size());
  const void* const terms[] = {data};
  auto op = NewOperation("broadcast", Kind::kBroadcast, dtype, count, terms,
                         data, std::move(done));
  op->call.root = root;
  (root == group_.rank ? op->out : op->in) = {0, 0};
  Submit(std::move(op));
}

// A sum that nobody reads.
void NcclCollective::Barrier(Done done) {
  auto op = NewOperation("barrier", Kind::kAllReduce, DType::kI32, 1, {},
                         nullptr, std::move(done));
  op->in = {0, 0};
  op->out = {0, 0};
  Submit(std::move(op));
}

void NcclCollective::Submit(std::shared_ptr<NcclOperation> operation) {
  if (!joined_ && watch_.broken().ok()) {
    waiting_.push_back(std::move(operation));
    return;
  }
  const std::optional<uint64_t> sequence =
      watch_.Begin(operation->name, operation->call.dtype,
                   operation->call.count, std::move(operation->done));
  if (sequence) {
    operation->sequence = *sequence;
    operations_.emplace(*sequence, operation);
    driver_->Add(std::move(operation));
  }
}

void NcclCollective::OnEnded(uint64_t sequence, const Status& status) {
  if (!status.ok()) {
    const Status why = status.WithPrefix(watch_.TextOf(sequence));
    if (status.code() == StatusCode::kUnavailable) {
      watch_.FailNamingWhoIsLost(why);
    } else {
      watch_.Fail(why);
    }
    return;
  }
  operations_.erase(sequence);
  const Done done = watch_.End(sequence);
  if (done == nullptr) {
    return;
  }
  if (sequence == OperationWatch::kOpening) {
    joined_ = true;
    for (auto& operation : std::exchange(waiting_, {})) {
      Submit(std::move(operation));
    }
  }
  done(OkStatus());
}

void NcclCollective::OnBroken() {
  for (const auto& [sequence, op] : operations_) {
    op->GiveUp();
  }
  driver_->Abort();
  for (auto& operation : std::exchange(waiting_, {})) {
    Submit(std::move(operation));  // It hears why it can't be.
  }
}

}  // namespace shoal::comm
