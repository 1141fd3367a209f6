#include "comm/mpi_collective.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <thread>
#include <utility>

#include "base/mutex.h"
#include "base/strcat.h"
#include "comm/mpi_table.h"
#include "comm/mpi_world.h"
#include "comm/transports/mpi_hub.h"
#include "comm/tree_sum.h"

namespace shoal::comm {
namespace {

// An operation is asked for again and again at first, then with pauses of an
// eighth of its age.
constexpr Duration kAskFor = 50us;
constexpr Duration kPauseMin = 20us;
constexpr Duration kPauseMax = 500us;
// Kept for the next operations.
constexpr size_t kSpareMax = 4;

// MPI counts in an int.
constexpr int64_t kBytesMax = std::numeric_limits<int>::max();

// No bytes may lie at null.
void Copy(void* to, const void* from, int64_t bytes) {
  if (bytes > 0) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  }
}

}  // namespace

// One operation. `start` runs on the thread that asks MPI; what it uses is here
// until MPI is done, even if nobody waits any more.
struct MpiCollective::Operation {
  uint64_t sequence = 0;
  const char* name = "";
  int64_t bytes = 0;
  std::vector<Buffer> memory;
  std::function<int(ShoalMpiRequest**)> start;
  std::function<void()> finish;  // on the node's thread: results to their place
};

// The thread that starts operations in their order and asks MPI for them.
class MpiCollective::Progress {
 public:
  using EndedFn = std::function<void(uint64_t, const Status&)>;

  // `ended` is called on that thread.
  Progress(const MpiWorld& world, EndedFn ended)
      : world_(world), ended_(std::move(ended)), thread_([this] { Loop(); }) {}
  // Operations that go on are left to MPI, with their memory.
  ~Progress() {
    {
      const MutexLock lock(mutex_);
      over_ = true;
    }
    changed_.NotifyOne();
    thread_.join();
    for (Running& running : running_) {
      MpiHub::Get().Bury({.request = running.request,
                          .pieces = std::move(running.op->memory)});
    }
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Add(std::shared_ptr<Operation> op) {
    {
      const MutexLock lock(mutex_);
      added_.push_back(std::move(op));
    }
    changed_.NotifyOne();
  }

 private:
  struct Running {
    std::shared_ptr<Operation> op;
    ShoalMpiRequest* request = nullptr;
  };

  void Loop() {
    Time begin;  // of the operation that goes on, or what was done last
    while (true) {
      std::deque<std::shared_ptr<Operation>> added;
      {
        const MutexLock lock(mutex_);
        while (added_.empty() && running_.empty() && !over_) {
          changed_.Wait(mutex_);
        }
        if (over_) {
          return;
        }
        added.swap(added_);
      }
      const Time now = std::chrono::steady_clock::now();
      for (std::shared_ptr<Operation>& op : added) {
        Start(std::move(op));
        begin = now;
      }
      if (Test()) {
        begin = now;
      } else if (now - begin < kAskFor) {
        sched_yield();
      } else {
        const MutexLock lock(mutex_);
        if (added_.empty() && !over_) {
          changed_.WaitFor(mutex_, std::clamp<Duration>((now - begin) / 8,
                                                        kPauseMin, kPauseMax));
        }
      }
    }
  }

  void Start(std::shared_ptr<Operation> op) {
    Running running;
    const Status status = world_.Check(op->start(&running.request), op->name);
    if (!status.ok()) {
      ended_(op->sequence, status);
      return;
    }
    running.op = std::move(op);
    running_.push_back(std::move(running));
  }

  // True if one ended.
  bool Test() {
    bool any = false;
    for (auto it = running_.begin(); it != running_.end();) {
      int done = 0;
      const Status status =
          world_.Check(world_.table().test(it->request, &done), it->op->name);
      if (status.ok() && done == 0) {
        ++it;
        continue;
      }
      ended_(it->op->sequence, status);
      it = running_.erase(it);
      any = true;
    }
    return any;
  }

  const MpiWorld& world_;
  const EndedFn ended_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::shared_ptr<Operation>> added_ SHOAL_GUARDED_BY(mutex_);
  bool over_ SHOAL_GUARDED_BY(mutex_) = false;
  std::vector<Running> running_;  // of the thread, and of who has joined it
  std::thread thread_;            // last: uses all of the above
};

MpiCollective::MpiCollective(const MpiWorld& world, NodeContext& context,
                             Group group, Duration timeout)
    : world_(world),
      context_(context),
      group_(std::move(group)),
      watch_(context, group_, {.timeout = timeout, .library = "MPI"}) {
  // Posted to this object only while its thread is there, and that ends first;
  // a post that comes later finds no owner.
  progress_ = std::make_unique<Progress>(
      world, [this, alive = std::weak_ptr<const bool>(alive_)](
                 uint64_t sequence, const Status& status) {
        context_.Post([this, alive, sequence, status] {
          if (!alive.expired()) {
            OnEnded(sequence, status);
          }
        });
      });
}

MpiCollective::~MpiCollective() = default;

StatusOr<std::unique_ptr<NodeCollective>> MpiCollective::Create(
    NodeContext& context, Group group, const CollectiveOptions& options) {
  const MpiWorld* const world = MpiWorld::Current();
  if (world == nullptr || world->group() == nullptr ||
      world->threads() == MpiWorld::Threads::kOne) {
    return FailedPreconditionError(
        "cluster.collective: mpi needs mpirun; start the job with `mpirun -np "
        "RANKS shoal train` or `shoal launch mpi`, or choose auto");
  }
  int rank = 0;
  int size = 0;
  world->table().group_rank(world->group(), &rank, &size);
  if (rank != group.rank || size != group.size()) {
    return FailedPreconditionError(
        StrCat("collective mpi: this member is ", group.rank, " of ",
               group.size(), ", but MPI was told ", rank, " of ", size));
  }
  std::unique_ptr<MpiCollective> made(
      new MpiCollective(*world, context, std::move(group), options.timeout));
  SHOAL_RETURN_IF_ERROR(made->watch_.Connect());
  return std::unique_ptr<NodeCollective>(std::move(made));
}

SHOAL_REGISTER_COLLECTIVE("mpi", &MpiCollective::Create);

// --- Operations ------------------------------------------------------------

// Null if it can't be: `done` then hears why. `rows` of `count` elements are
// its memory.
std::shared_ptr<MpiCollective::Operation> MpiCollective::NewOperation(
    const char* name, DType dtype, int64_t count, int rows, Done done) {
  const std::optional<uint64_t> sequence =
      watch_.Begin(name, dtype, count, std::move(done));
  if (!sequence) {
    return nullptr;
  }
  const int64_t bytes = count * SizeOf(dtype);
  if (bytes > kBytesMax / rows) {
    watch_.Fail(InvalidArgumentError(
        StrCat(watch_.TextOf(*sequence),
               ": collective mpi takes less than 2 GiB at a time; give it in "
               "parts, or choose cluster.collective: transport")));
    return nullptr;
  }
  auto op = std::make_shared<Operation>();
  op->sequence = *sequence;
  op->name = name;
  op->bytes = bytes;
  return op;
}

// Memory for MPI to work on.
Buffer MpiCollective::Take(int64_t bytes) {
  for (Buffer& spare : spare_) {
    if (spare.size() == bytes && bytes > 0) {
      std::swap(spare, spare_.back());
      Buffer taken = std::move(spare_.back());
      spare_.pop_back();
      return taken;
    }
  }
  return Buffer::Allocate(bytes);
}

// The sum of this member's own terms.
Buffer MpiCollective::SumOfTerms(DType dtype,
                                 std::span<const void* const> terms,
                                 int64_t count) {
  SHOAL_CHECK(terms.size() ==
              group_.members[static_cast<size_t>(group_.rank)].nodes.size());
  Buffer sum = Take(count * SizeOf(dtype));
  std::byte* const to = sum.data();
  if (count == 0) {
    return sum;
  }
  if (terms.empty()) {
    std::memset(to, 0, static_cast<size_t>(sum.size()));
    return sum;
  }
  Copy(to, terms[0], sum.size());
  for (size_t i = 1; i < terms.size(); ++i) {
    AddElements(dtype, to, static_cast<const std::byte*>(terms[i]), to, count);
  }
  return sum;
}

void MpiCollective::AllReduce(DType dtype, std::span<const void* const> terms,
                              void* out, int64_t count, Done done) {
  auto op = NewOperation("allreduce", dtype, count, 1, std::move(done));
  if (op == nullptr) {
    return;
  }
  op->memory = {SumOfTerms(dtype, terms, count)};
  void* const data = op->memory[0].data();
  op->start = [this, dtype, data, count](ShoalMpiRequest** request) {
    return world_.table().allreduce(world_.group(), static_cast<int>(dtype),
                                    data, static_cast<int>(count), request);
  };
  op->finish = [data, out, bytes = op->bytes] { Copy(out, data, bytes); };
  Start(std::move(op));
}

namespace {

// How MPI is told the segments of all ranks.
struct Segments {
  std::vector<int> counts;
  std::vector<int> firsts;
};

Segments SegmentsOf(int64_t count, int size) {
  Segments segments;
  for (int rank = 0; rank < size; ++rank) {
    const auto [begin, end] = SegmentOf(count, rank, size);
    segments.firsts.push_back(static_cast<int>(begin));
    segments.counts.push_back(static_cast<int>(end - begin));
  }
  return segments;
}

}  // namespace

void MpiCollective::ReduceScatter(DType dtype,
                                  std::span<const void* const> terms, void* out,
                                  int64_t count, Done done) {
  auto op = NewOperation("reduce-scatter", dtype, count, 1, std::move(done));
  if (op == nullptr) {
    return;
  }
  const auto [begin, end] = SegmentOf(count, group_.rank, group_.size());
  const int64_t first = begin * SizeOf(dtype);
  const int64_t bytes = (end - begin) * SizeOf(dtype);
  op->memory = {SumOfTerms(dtype, terms, count), Take(bytes)};
  const void* const from = op->memory[0].data();
  void* const to = op->memory[1].data();
  op->start =
      [this, dtype, from, to,
       segments = SegmentsOf(count, group_.size())](ShoalMpiRequest** request) {
        return world_.table().reduce_scatter(world_.group(),
                                             static_cast<int>(dtype), from, to,
                                             segments.counts.data(), request);
      };
  op->finish = [to, out, first, bytes] {
    Copy(static_cast<std::byte*>(out) + first, to, bytes);
  };
  Start(std::move(op));
}

void MpiCollective::AllGather(DType dtype, void* data, int64_t count,
                              Done done) {
  auto op = NewOperation("all-gather", dtype, count, 1, std::move(done));
  if (op == nullptr) {
    return;
  }
  const int64_t bytes = op->bytes;
  op->memory = {Take(bytes)};
  void* const all = op->memory[0].data();
  Copy(all, data, bytes);
  op->start = [this, dtype, all, segments = SegmentsOf(count, group_.size())](
                  ShoalMpiRequest** request) {
    return world_.table().all_gather(world_.group(), static_cast<int>(dtype),
                                     all, segments.counts.data(),
                                     segments.firsts.data(), request);
  };
  op->finish = [all, data, bytes] { Copy(data, all, bytes); };
  Start(std::move(op));
}

void MpiCollective::AllToAll(DType dtype, const void* from, void* to,
                             int64_t count, Done done) {
  auto op =
      NewOperation("all-to-all", dtype, count, group_.size(), std::move(done));
  if (op == nullptr) {
    return;
  }
  const int64_t bytes = op->bytes * group_.size();
  op->memory = {Take(bytes), Take(bytes)};
  void* const sent = op->memory[0].data();
  void* const got = op->memory[1].data();
  Copy(sent, from, bytes);
  op->start = [this, dtype, sent, got, count](ShoalMpiRequest** request) {
    return world_.table().all_to_all(world_.group(), static_cast<int>(dtype),
                                     sent, got, static_cast<int>(count),
                                     request);
  };
  op->finish = [got, to, bytes] { Copy(to, got, bytes); };
  Start(std::move(op));
}

void MpiCollective::Broadcast(DType dtype, void* data, int64_t count, int root,
                              Done done) {
  SHOAL_CHECK(root >= 0 && root < group_.size());
  auto op = NewOperation("broadcast", dtype, count, 1, std::move(done));
  if (op == nullptr) {
    return;
  }
  const int64_t bytes = op->bytes;
  op->memory = {Take(bytes)};
  void* const copy = op->memory[0].data();
  if (root == group_.rank) {
    Copy(copy, data, bytes);
  }
  op->start = [this, copy, bytes, root](ShoalMpiRequest** request) {
    return world_.table().broadcast(world_.group(), copy,
                                    static_cast<int>(bytes), root, request);
  };
  op->finish = [this, copy, data, bytes, root] {
    if (root != group_.rank) {
      Copy(data, copy, bytes);
    }
  };
  Start(std::move(op));
}

void MpiCollective::Barrier(Done done) {
  auto op = NewOperation("barrier", DType::kF32, 0, 1, std::move(done));
  if (op == nullptr) {
    return;
  }
  op->start = [this](ShoalMpiRequest** request) {
    return world_.table().barrier(world_.group(), request);
  };
  op->finish = [] {};
  Start(std::move(op));
}

void MpiCollective::Start(std::shared_ptr<Operation> op) {
  operations_.emplace(op->sequence, op);
  progress_->Add(std::move(op));
}

void MpiCollective::OnEnded(uint64_t sequence, const Status& status) {
  const auto node = operations_.extract(sequence);
  if (!status.ok()) {
    watch_.Fail(InternalError(
        StrCat(watch_.TextOf(sequence), ": ", status.message(),
               "; all members must call the same operations in the same order "
               "with the same sizes")));
    return;
  }
  const Done done = watch_.End(sequence);
  if (done == nullptr) {
    return;
  }
  Operation& op = *node.mapped();
  op.finish();
  for (Buffer& memory : op.memory) {
    if (!memory.empty()) {
      spare_.push_back(std::move(memory));
    }
  }
  if (spare_.size() > kSpareMax) {
    spare_.erase(spare_.begin(),
                 spare_.end() - static_cast<ptrdiff_t>(kSpareMax));
  }
  done(OkStatus());
}

}  // namespace shoal::comm
