// Stands in for NCCL, with its C interface as far as kernels/cuda/nccl.cu uses
// it, for members on one host whose GPUs are the stand-in of tests/cuda/shim.
// Members are joined by a hub (hub.h), a thread of the process that made the
// group's id; each member has a thread of its own that works while the caller
// polls.
//
// What it shows: that members are joined by one id, call NCCL as it may be
// called (a call while the last one is under way is refused, as are blocking
// communicators and other calls than the members agree on), that results and
// what follows on the stream wait until NCCL is ready, and what happens when a
// member is late, hangs, or meets an error.
//
// What it does not show: that real NCCL takes these calls, its sums' order and
// rounding, its use of streams beyond the above (an operation is done when it
// is ready here, but still runs on the GPU there), whether an abort ends what
// runs on a GPU, its sockets, several hosts, topologies, or speed.
//
// From the environment:
//   SHOAL_NCCL_STANDIN_VERSION   such as 21700
//   SHOAL_NCCL_STANDIN           plants, with commas between, for RANK's
//     operation OP (1: the first; 0: joining):
//     hang:RANK:OP      never ends, but for an abort
//     late:RANK:OP:MS   begins that much later
//     error:RANK:OP     fails while it is under way (ncclRemoteError)
//     refuse:RANK:OP    is refused when it is called (ncclInternalError)
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/nccl/standin/hub.h"

#define NCCL_API extern "C" __attribute__((visibility("default")))

namespace standin {

NCCL_API int ncclGroupEnd();

namespace {

enum Result : int {
  kSuccess = 0,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

// A call, and where its memory is.
struct Operation {
  Call call;
  const char* from = nullptr;
  char* to = nullptr;
};

struct Plant {
  std::string what;
  int rank = -1;
  int operation = -1;
  int milliseconds = 0;
};

std::vector<Plant> PlantsOf(int rank) {
  std::vector<Plant> plants;
  // Tests set it before they begin.
  const char* const text =
      std::getenv("SHOAL_NCCL_STANDIN");  // NOLINT(concurrency-mt-unsafe)
  std::istringstream all(text == nullptr ? "" : text);
  for (std::string one; std::getline(all, one, ',');) {
    Plant plant;
    std::istringstream fields(one);
    std::getline(fields, plant.what, ':');
    char colon = 0;
    fields >> plant.rank >> colon >> plant.operation >> colon >>
        plant.milliseconds;
    if (plant.rank == rank) {
      plants.push_back(plant);
    }
  }
  return plants;
}

thread_local std::string t_last_error;

int Refuse(int result, std::string why) {
  t_last_error = std::move(why);
  return result;
}

}  // namespace

// --- A member ---------------------------------------------------------------

struct ncclComm {
  int rank = 0;
  int size = 0;
  std::string hub;
  int fd = -1;
  std::vector<Plant> plants;
  int num_groups = 0;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<int()>> tasks;  // of the thread
  int state = kInProgress;
  bool closing = false;
  std::atomic<bool> abort = false;
  std::thread thread;

  const Plant* Find(const std::string& what, int operation) const {
    for (const Plant& plant : plants) {
      if (plant.what == what && plant.operation == operation) {
        return &plant;
      }
    }
    return nullptr;
  }

  void Loop() {
    while (true) {
      std::function<int()> task;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] { return !tasks.empty() || closing; });
        if (tasks.empty()) {
          return;
        }
        task = std::move(tasks.front());
        tasks.pop_front();
      }
      const int result = task();
      const std::lock_guard lock(mutex);
      state = result;
    }
  }

  // Hands the thread something to do; the caller polls for its end.
  int Begin(std::function<int()> task) {
    const std::lock_guard lock(mutex);
    state = kInProgress;
    tasks.push_back(std::move(task));
    changed.notify_one();
    return kInProgress;
  }
  int State() {
    const std::lock_guard lock(mutex);
    return state;
  }

  // Sleeps unless it is aborted.
  void Sleep(std::chrono::microseconds time) const {
    const auto until = std::chrono::steady_clock::now() + time;
    while (!abort && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(
          std::min(time, std::chrono::microseconds(1000)));
    }
  }

  int Planted(int operation) {
    // Long enough that one who does not poll reads what was there before.
    Sleep(std::chrono::microseconds(200));
    if (const Plant* const late = Find("late", operation)) {
      Sleep(std::chrono::milliseconds(late->milliseconds));
    }
    while (Find("hang", operation) != nullptr && !abort) {
      Sleep(std::chrono::milliseconds(5));
    }
    return Find("error", operation) != nullptr ? kRemoteError : kSuccess;
  }

  int Join() {
    if (const int planted = Planted(0); planted != kSuccess) {
      return planted;
    }
    fd = ConnectToHub(hub);
    if (fd < 0) {
      return kSystemError;
    }
    int32_t hello[2] = {rank, size};
    const auto stop = [this] { return abort.load(); };
    Bytes answer;
    if (!Transfer(fd, reinterpret_cast<char*>(hello), sizeof(hello), false,
                  stop)) {
      return kSystemError;
    }
    return ReceiveFrame(fd, answer, stop) ? kSuccess : Silence();
  }

  // The hub, or a member, is gone: nobody tells.
  int Silence() const {
    while (!abort) {
      Sleep(std::chrono::milliseconds(5));
    }
    return kInternalError;
  }

  int Run(int number, const std::vector<Operation>& operations) {
    if (const int planted = Planted(number); planted != kSuccess) {
      return planted;
    }
    Bytes frame;
    const auto num = static_cast<int64_t>(operations.size());
    Append(frame, &num, sizeof(num));
    for (const Operation& op : operations) {
      Append(frame, &op.call, sizeof(op.call));
    }
    for (const Operation& op : operations) {
      Append(frame, op.from,
             static_cast<size_t>(GivenBytes(op.call, rank, size)));
    }
    const auto stop = [this] { return abort.load(); };
    Bytes answer;
    if (!SendFrame(fd, frame, stop) || !ReceiveFrame(fd, answer, stop)) {
      return Silence();
    }
    if (answer[0] == 0) {
      return kInvalidUsage;  // The calls do not fit together.
    }
    const char* at = answer.data() + 1;
    for (const Operation& op : operations) {
      const int64_t bytes = GottenBytes(op.call, rank, size);
      if (bytes > 0) {
        std::memcpy(op.to, at, static_cast<size_t>(bytes));
      }
      at += bytes;
    }
    return kSuccess;
  }

  void Close() {
    {
      const std::lock_guard lock(mutex);
      closing = true;
    }
    changed.notify_one();
    thread.join();
    if (fd >= 0) {
      close(fd);
    }
    delete this;
  }
};

namespace {

struct Group {
  int depth = 0;
  ncclComm* comm = nullptr;
  std::vector<Operation> operations;
};
thread_local Group t_group;

// An operation, alone or in a group of one communicator.
int Issue(ncclComm* comm, const Call& call, const void* from, void* to) {
  if (comm->State() != kSuccess) {
    return Refuse(kInvalidUsage,
                  "called while the communicator is busy or has failed");
  }
  if (call.type < 0 || call.type > 9 || call.count < 0) {
    return Refuse(kInvalidArgument, "no such type or count");
  }
  if (comm->Find("refuse", comm->num_groups + 1) != nullptr) {
    return Refuse(kInternalError, "planted: refused");
  }
  const bool alone = t_group.depth == 0;
  t_group.depth += alone ? 1 : 0;
  t_group.comm = comm;
  t_group.operations.push_back(
      {call, static_cast<const char*>(from), static_cast<char*>(to)});
  return alone ? ncclGroupEnd() : kSuccess;
}

}  // namespace

// --- NCCL's interface -------------------------------------------------------

struct ncclUniqueId {
  char internal[128];
};

struct ncclConfig {  // as of 2.14
  size_t size;
  unsigned magic;
  unsigned version;
  int blocking;
};

NCCL_API int ncclGetVersion(int* version) {
  // Tests set it before they begin.
  const char* const text = std::getenv(  // NOLINT(concurrency-mt-unsafe)
      "SHOAL_NCCL_STANDIN_VERSION");
  *version = text == nullptr ? 22809 : std::atoi(text);
  return kSuccess;
}

NCCL_API const char* ncclGetErrorString(int result) {
  switch (result) {
    case kSuccess:
      return "no error";
    case kSystemError:
      return "unhandled system error";
    case kInternalError:
      return "internal error";
    case kInvalidArgument:
      return "invalid argument";
    case kInvalidUsage:
      return "invalid usage";
    case kRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "in progress";
  }
}

NCCL_API const char* ncclGetLastError(ncclComm* /*comm*/) {
  return t_last_error.c_str();
}

NCCL_API int ncclGetUniqueId(ncclUniqueId* id) {
  *id = {};
  std::random_device random;
  const std::string name =
      "shoal-nccl-" + std::to_string(random()) + "-" + std::to_string(random());
  name.copy(id->internal, sizeof(id->internal) - 1);
  if (!StartHub(name)) {
    return Refuse(kSystemError, "no socket");
  }
  return kSuccess;
}

NCCL_API int ncclCommInitRankConfig(ncclComm** comm, int size, ncclUniqueId id,
                                    int rank, ncclConfig* config) {
  if (config == nullptr || config->magic != 0xcafebeef ||
      config->version < 21400 || config->blocking != 0) {
    return Refuse(kInvalidArgument,
                  "the stand-in takes communicators that do not block");
  }
  if (rank < 0 || rank >= size) {
    return Refuse(kInvalidArgument, "no such rank");
  }
  auto made = std::make_unique<ncclComm>();
  made->rank = rank;
  made->size = size;
  made->hub = id.internal;
  made->plants = PlantsOf(rank);
  *comm = made.release();
  (*comm)->thread = std::thread([comm = *comm] { comm->Loop(); });
  return (*comm)->Begin([comm = *comm] { return comm->Join(); });
}

NCCL_API int ncclCommGetAsyncError(ncclComm* comm, int* state) {
  *state = comm->State();
  if (*state == kRemoteError) {
    t_last_error = "planted: remote error";
  } else if (*state == kInvalidUsage) {
    t_last_error = "the members' calls do not fit together";
  }
  return kSuccess;
}

NCCL_API int ncclCommFinalize(ncclComm* comm) {
  if (comm->State() != kSuccess) {
    return Refuse(kInvalidUsage, "finalized while it is busy");
  }
  return comm->Begin([] { return kSuccess; });
}

NCCL_API int ncclCommDestroy(ncclComm* comm) {
  comm->Close();
  return kSuccess;
}

NCCL_API int ncclCommAbort(ncclComm* comm) {
  comm->abort = true;
  comm->Close();
  return kSuccess;
}

NCCL_API int ncclGroupStart() {
  ++t_group.depth;
  return kSuccess;
}

NCCL_API int ncclGroupEnd() {
  if (--t_group.depth > 0) {
    return kSuccess;
  }
  Group group = std::exchange(t_group, {});
  if (group.operations.empty()) {
    return kSuccess;
  }
  ncclComm* const comm = group.comm;
  return comm->Begin([comm, number = ++comm->num_groups,
                      operations = std::move(group.operations)] {
    return comm->Run(number, operations);
  });
}

NCCL_API int ncclAllReduce(const void* from, void* to, size_t count, int type,
                           int /*op*/, ncclComm* comm, void* /*stream*/) {
  return Issue(comm, {kAllReduce, type, 0, static_cast<int64_t>(count)}, from,
               to);
}

NCCL_API int ncclReduce(const void* from, void* to, size_t count, int type,
                        int /*op*/, int root, ncclComm* comm,
                        void* /*stream*/) {
  return Issue(comm, {kReduce, type, root, static_cast<int64_t>(count)}, from,
               to);
}

NCCL_API int ncclReduceScatter(const void* from, void* to, size_t count,
                               int type, int /*op*/, ncclComm* comm,
                               void* /*stream*/) {
  return Issue(comm, {kReduceScatter, type, 0, static_cast<int64_t>(count)},
               from, to);
}

NCCL_API int ncclAllGather(const void* from, void* to, size_t count, int type,
                           ncclComm* comm, void* /*stream*/) {
  return Issue(comm, {kAllGather, type, 0, static_cast<int64_t>(count)}, from,
               to);
}

NCCL_API int ncclBroadcast(const void* from, void* to, size_t count, int type,
                           int root, ncclComm* comm, void* /*stream*/) {
  return Issue(comm, {kBroadcast, type, root, static_cast<int64_t>(count)},
               from, to);
}

NCCL_API int ncclSend(const void* from, size_t count, int type, int peer,
                      ncclComm* comm, void* /*stream*/) {
  return Issue(comm, {kSend, type, peer, static_cast<int64_t>(count)}, from,
               nullptr);
}

NCCL_API int ncclRecv(void* to, size_t count, int type, int peer,
                      ncclComm* comm, void* /*stream*/) {
  return Issue(comm, {kRecv, type, peer, static_cast<int64_t>(count)}, nullptr,
               to);
}

}  // namespace standin
