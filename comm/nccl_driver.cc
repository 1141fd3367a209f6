#include "comm/nccl_driver.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/log.h"
#include "comm/tree_sum.h"

namespace shoal::comm {
namespace {

// What goes on is asked for again and again at first, then with pauses of an
// eighth of its age.
constexpr Duration kAskFor = 50us;
constexpr Duration kPauseMin = 20us;
constexpr Duration kPauseMax = 500us;

// How much of the caller's memory is touched at a time: whoever gives up an
// operation waits for that much.
constexpr int64_t kPieceBytes = int64_t{1} << 20;

// Kept for the next operations, which allocate nothing when a step has fewer.
constexpr size_t kSpareMax = 64;

constexpr Duration kFinishWithin = std::chrono::seconds(2);
constexpr Duration kLeaveWithin = std::chrono::seconds(5);

}  // namespace

void NcclOperation::GiveUp() {
  const MutexLock lock(mutex_);
  given_up_ = true;
}

bool NcclOperation::Touch(std::pair<int64_t, int64_t> range,
                          const std::function<void(int64_t, int64_t)>& copy) {
  for (int64_t at = range.first; at < range.second; at += kPieceBytes) {
    const MutexLock lock(mutex_);
    if (given_up_) {
      return false;
    }
    copy(at, std::min(kPieceBytes, range.second - at));
  }
  return true;
}

bool NcclOperation::CopyIn(std::byte* staging) {
  return Touch(in, [this, staging](int64_t at, int64_t bytes) {
    if (terms.size() == 1) {
      std::memcpy(staging + at, terms[0] + at, static_cast<size_t>(bytes));
      return;
    }
    const int64_t n = bytes / SizeOf(call.dtype);
    AddElements(call.dtype, terms[0] + at, terms[1] + at, staging + at, n);
    for (size_t i = 2; i < terms.size(); ++i) {
      AddElements(call.dtype, staging + at, terms[i] + at, staging + at, n);
    }
  });
}

bool NcclOperation::CopyOut(const std::byte* staging) {
  return Touch(out, [this, staging](int64_t at, int64_t bytes) {
    std::memcpy(to + at, staging + at, static_cast<size_t>(bytes));
  });
}

std::shared_ptr<NcclDriver> NcclDriver::Start(Options options) {
  std::shared_ptr<NcclDriver> driver(new NcclDriver(std::move(options)));
  // The thread keeps what it uses, should it have to be left behind.
  driver->thread_ = std::thread([driver] { driver->Work(); });
  return driver;
}

NcclDriver::~NcclDriver() = default;

// --- What others ask for ----------------------------------------------------

void NcclDriver::Join(Buffer group_id) {
  const MutexLock lock(mutex_);
  group_id_ = std::move(group_id);
  changed_.NotifyAll();
}

void NcclDriver::Add(std::shared_ptr<NcclOperation> operation) {
  const MutexLock lock(mutex_);
  added_.push_back(std::move(operation));
  changed_.NotifyAll();
}

void NcclDriver::Abort() {
  const MutexLock lock(mutex_);
  aborted_ = true;
  changed_.NotifyAll();
}

void NcclDriver::Leave() {
  const Time until = std::chrono::steady_clock::now() + kLeaveWithin;
  bool over = false;
  {
    const MutexLock lock(mutex_);
    left_ = true;
    changed_.NotifyAll();
    while (!over_ && std::chrono::steady_clock::now() < until) {
      changed_.WaitFor(mutex_, until - std::chrono::steady_clock::now());
    }
    over = over_;
  }
  if (over) {
    thread_.join();
    return;
  }
  LogWarning(
      "collective nccl: the GPU's driver or NCCL hangs; its thread is "
      "left behind");
  thread_.detach();
}

// --- The thread -------------------------------------------------------------

void NcclDriver::Post(std::function<void()> task) {
  const MutexLock lock(mutex_);
  if (!left_) {
    options_.post(std::move(task));
  }
}

void NcclDriver::Ended(uint64_t sequence, const Status& status) {
  Post([this, sequence, status] { options_.on_ended(sequence, status); });
}

void NcclDriver::Work() {
  StatusOr<Greeting> greeting = Open();
  const bool opened = greeting.ok();
  Post([this, greeting = std::move(greeting)]() mutable {
    options_.on_open(std::move(greeting));
  });
  if (opened && Serve().ok()) {
    Finish();
  }
  if (member_ != nullptr) {
    member_->Abort();
    member_.reset();
    // What was enqueued ends with it; memory in use is freed only then. An
    // error is the one that is known.
    (void)stream_->Synchronize();
  }
  running_.clear();
  spare_.clear();
  stream_.reset();
  device_.reset();
  const MutexLock lock(mutex_);
  added_.clear();
  over_ = true;
  changed_.NotifyAll();
}

StatusOr<NcclDriver::Greeting> NcclDriver::Open() {
  if (options_.open_device == nullptr) {
    return FailedPreconditionError("this member has no device");
  }
  SHOAL_ASSIGN_OR_RETURN(device_, options_.open_device());
  SHOAL_ASSIGN_OR_RETURN(collectives_, device_->collectives());
  SHOAL_ASSIGN_OR_RETURN(stream_, device_->CreateStream());
  Greeting greeting;
  greeting.library = collectives_->library();
  SHOAL_ASSIGN_OR_RETURN(greeting.device_id, collectives_->DeviceId());
  if (options_.rank == 0) {
    SHOAL_ASSIGN_OR_RETURN(greeting.group_id, collectives_->MakeGroupId());
  }
  return greeting;
}

// Joins, and does what is asked until the member leaves.
Status NcclDriver::Serve() {
  Buffer group_id;
  {
    const MutexLock lock(mutex_);
    while (!group_id_ && !aborted_ && !left_) {
      changed_.Wait(mutex_);
    }
    if (!group_id_) {
      return AbortedError("never joined");
    }
    group_id = *group_id_;
  }
  StatusOr<std::unique_ptr<DeviceCollective>> joined = collectives_->Join(
      {group_id.data(), static_cast<size_t>(group_id.size())}, options_.rank,
      options_.size);
  Status status = joined.status();
  if (joined.ok()) {
    member_ = *std::move(joined);
    status = Await([this] { return member_->Ready(); });
  }
  Ended(0, status);
  Time begin;  // of what goes on
  while (status.ok()) {
    std::shared_ptr<NcclOperation> operation;
    {
      const MutexLock lock(mutex_);
      while (added_.empty() && running_.empty() && !aborted_ && !left_) {
        changed_.Wait(mutex_);
      }
      if (aborted_ || (left_ && !(added_.empty() && running_.empty()))) {
        return AbortedError("given up");
      }
      if (left_) {
        return OkStatus();
      }
      if (!added_.empty()) {
        operation = std::move(added_.front());
        added_.pop_front();
      }
    }
    if (operation != nullptr) {
      const uint64_t sequence = operation->sequence;
      status = Begin(std::move(operation));
      if (!status.ok()) {
        Ended(sequence, status);
      }
      begin = std::chrono::steady_clock::now();
      continue;
    }
    const size_t before = running_.size();
    status = EndDone();
    if (!status.ok()) {
      Ended(running_.front().operation->sequence, status);
    } else if (running_.size() < before) {
      begin = std::chrono::steady_clock::now();
    } else {
      Pause(begin);
    }
  }
  return status;
}

void NcclDriver::Finish() {
  const Time until = std::chrono::steady_clock::now() + kFinishWithin;
  Status status = member_->Finish();
  if (status.ok()) {
    status = Await([this, until]() -> StatusOr<bool> {
      if (std::chrono::steady_clock::now() > until) {
        return DeadlineExceededError("the library does not finish");
      }
      return member_->Ready();
    });
  }
  // Otherwise it is aborted: the others may have gone by now.
}

Status NcclDriver::Await(const std::function<StatusOr<bool>()>& ready) {
  const Time begin = std::chrono::steady_clock::now();
  while (true) {
    SHOAL_ASSIGN_OR_RETURN(const bool is_ready, ready());
    if (is_ready) {
      return OkStatus();
    }
    Pause(begin);
    const MutexLock lock(mutex_);
    if (aborted_) {
      return AbortedError("given up");
    }
  }
}

void NcclDriver::Pause(Time begin) {
  const Duration age = std::chrono::steady_clock::now() - begin;
  if (age < kAskFor) {
    sched_yield();
    return;
  }
  const MutexLock lock(mutex_);
  if (added_.empty() && !aborted_) {
    changed_.WaitFor(mutex_,
                     std::clamp<Duration>(age / 8, kPauseMin, kPauseMax));
  }
}

StatusOr<NcclDriver::Memory> NcclDriver::Take(int64_t bytes,
                                              int64_t from_bytes) {
  for (Memory& spare : spare_) {
    if (spare.data.size() >= bytes && spare.data.size() <= 2 * bytes &&
        spare.from.size() >= from_bytes) {
      std::swap(spare, spare_.back());
      Memory taken = std::move(spare_.back());
      spare_.pop_back();
      return taken;
    }
  }
  Memory memory;
  SHOAL_ASSIGN_OR_RETURN(memory.host, device_->AllocateHost(bytes));
  SHOAL_ASSIGN_OR_RETURN(memory.data, device_->Allocate(bytes));
  SHOAL_ASSIGN_OR_RETURN(memory.from, device_->Allocate(from_bytes));
  return memory;
}

Status NcclDriver::Begin(std::shared_ptr<NcclOperation> operation) {
  NcclOperation& op = *operation;
  if (op.bytes == 0) {
    running_.push_back({.operation = std::move(operation), .enqueued = true});
    return OkStatus();
  }
  const bool all_to_all = op.call.kind == DeviceCollectiveCall::Kind::kAllToAll;
  SHOAL_ASSIGN_OR_RETURN(Memory taken,
                         Take(op.bytes, all_to_all ? op.bytes : 0));
  // Its memory stays there whatever happens, until the library has let go.
  running_.push_back(
      {.operation = std::move(operation), .memory = std::move(taken)});
  Running& running = running_.back();
  Memory& memory = running.memory;
  if (!op.CopyIn(memory.host.data())) {
    return AbortedError("given up");
  }
  const auto [in_begin, in_end] = op.in;
  std::byte* const in = (all_to_all ? memory.from : memory.data).data();
  SHOAL_RETURN_IF_ERROR(device_->Copy(in + in_begin,
                                      memory.host.data() + in_begin,
                                      in_end - in_begin, *stream_));
  op.call.data = memory.data.data();
  op.call.from = memory.from.data();
  SHOAL_RETURN_IF_ERROR(member_->Enqueue(op.call, *stream_));
  // Only then is it on the stream, before what follows.
  SHOAL_RETURN_IF_ERROR(Await([this]() -> StatusOr<bool> {
    SHOAL_RETURN_IF_ERROR(EndDone());
    return member_->Ready();
  }));
  const auto [out_begin, out_end] = op.out;
  SHOAL_RETURN_IF_ERROR(device_->Copy(memory.host.data() + out_begin,
                                      memory.data.data() + out_begin,
                                      out_end - out_begin, *stream_));
  SHOAL_ASSIGN_OR_RETURN(running.event, stream_->Record());
  running.enqueued = true;
  return OkStatus();
}

// Ends what is done of what goes on, in its order.
Status NcclDriver::EndDone() {
  // The library's errors come before the results that they spoil.
  SHOAL_RETURN_IF_ERROR(member_->Ready().status());
  while (
      !running_.empty() && running_.front().enqueued &&
      (running_.front().event == nullptr || running_.front().event->Done())) {
    Running& done = running_.front();
    if (done.event != nullptr) {
      // An event of a device that has failed is done too; the next call on the
      // stream tells.
      SHOAL_RETURN_IF_ERROR(stream_->Record().status());
      if (!done.operation->CopyOut(done.memory.host.data())) {
        return AbortedError("given up");
      }
      spare_.push_back(std::move(done.memory));
      if (spare_.size() > kSpareMax) {
        spare_.erase(spare_.begin());
      }
    }
    Ended(done.operation->sequence, OkStatus());
    running_.pop_front();
  }
  return OkStatus();
}

}  // namespace shoal::comm
