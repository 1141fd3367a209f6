// Stands in for NCCL, with its C interface as far as kernels/cuda/nccl.cu uses
// it, for members on one host whose GPUs are the stand-in of tests/cuda/shim.
// Members are joined by a hub, a thread of the process that made the group's
// id; each member has a thread of its own that works while the caller polls.
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
#include <poll.h>
#include <unistd.h>

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

#include <sys/socket.h>
#include <sys/un.h>

#define NCCL_API extern "C" __attribute__((visibility("default")))

NCCL_API int ncclGroupEnd();

namespace {

using Bytes = std::vector<char>;

enum Result : int {
  kSuccess = 0,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

enum Kind : int32_t {
  kAllReduce,
  kReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kSend,
  kRecv,
};

// One operation of a group, as it goes to the hub.
struct Call {  // without gaps, since it is compared as bytes
  int32_t kind = 0;
  int32_t type = 0;
  int64_t peer = 0;  // or the root
  int64_t count = 0;
};

// And where its memory is.
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

int64_t SizeOf(int type) {
  constexpr int kSizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return kSizes[type];
}

// --- Sockets ----------------------------------------------------------------

constexpr int kTickMs = 5;

// Waits in small steps, so that `stop` ends it. False: stopped, or the other
// end has gone.
bool Transfer(int fd, char* data, size_t bytes, bool in,
              const std::function<bool()>& stop) {
  while (bytes > 0) {
    if (stop()) {
      return false;
    }
    pollfd wait = {.fd = fd,
                   .events = static_cast<int16_t>(in ? POLLIN : POLLOUT),
                   .revents = 0};
    if (poll(&wait, 1, kTickMs) <= 0) {
      continue;
    }
    const ssize_t n = in ? recv(fd, data, bytes, MSG_DONTWAIT)
                         : send(fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
      return false;
    }
    if (n > 0) {
      data += n;
      bytes -= static_cast<size_t>(n);
    }
  }
  return true;
}

bool SendFrame(int fd, Bytes& frame, const std::function<bool()>& stop) {
  uint64_t size = frame.size();
  return Transfer(fd, reinterpret_cast<char*>(&size), sizeof(size), false,
                  stop) &&
         Transfer(fd, frame.data(), frame.size(), false, stop);
}

bool ReceiveFrame(int fd, Bytes& frame, const std::function<bool()>& stop) {
  uint64_t size = 0;
  if (!Transfer(fd, reinterpret_cast<char*>(&size), sizeof(size), true, stop)) {
    return false;
  }
  frame.resize(size);
  return Transfer(fd, frame.data(), size, true, stop);
}

sockaddr_un AddressOf(const std::string& name, socklen_t* length) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  // Abstract: it goes with its process.
  name.copy(address.sun_path + 1, sizeof(address.sun_path) - 2);
  *length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

void Append(Bytes& to, const void* data, size_t bytes) {
  const char* const begin = static_cast<const char*>(data);
  to.insert(to.end(), begin, begin + bytes);
}

// --- Sums -------------------------------------------------------------------

float FromBfloat16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

uint16_t ToBfloat16(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <typename T>
void AddAs(char* to, const char* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    T a;
    T b;
    std::memcpy(&a, to + i * sizeof(T), sizeof(T));
    std::memcpy(&b, from + i * sizeof(T), sizeof(T));
    a = static_cast<T>(a + b);
    std::memcpy(to + i * sizeof(T), &a, sizeof(T));
  }
}

void Add(int type, char* to, const char* from, int64_t count) {
  switch (type) {
    case 2:
      return AddAs<uint32_t>(to, from, count);
    case 4:
    case 5:
      return AddAs<uint64_t>(to, from, count);
    case 6:
      return AddAs<_Float16>(to, from, count);
    case 7:
      return AddAs<float>(to, from, count);
    case 8:
      return AddAs<double>(to, from, count);
    case 9:
      for (int64_t i = 0; i < count; ++i) {
        uint16_t a = 0;
        uint16_t b = 0;
        std::memcpy(&a, to + i * 2, 2);
        std::memcpy(&b, from + i * 2, 2);
        a = ToBfloat16(FromBfloat16(a) + FromBfloat16(b));
        std::memcpy(to + i * 2, &a, 2);
      }
      return;
    default:
      return;
  }
}

// --- The hub ----------------------------------------------------------------

// What a member gives to a call, in bytes, and what it gets.
int64_t GivenBytes(const Call& call, int rank, int size) {
  const int64_t bytes = call.count * SizeOf(call.type);
  switch (call.kind) {
    case kReduceScatter:
      return bytes * size;
    case kBroadcast:
      return rank == call.peer ? bytes : 0;
    case kRecv:
      return 0;
    default:
      return bytes;
  }
}
int64_t GottenBytes(const Call& call, int rank, int size) {
  const int64_t bytes = call.count * SizeOf(call.type);
  switch (call.kind) {
    case kAllGather:
      return bytes * size;
    case kReduce:
      return rank == call.peer ? bytes : 0;
    case kSend:
      return 0;
    default:
      return bytes;
  }
}

// One member's group of calls: the calls, and what it gives to each.
struct Given {
  std::vector<Call> calls;
  std::vector<Bytes> data;
};

Given Parse(const Bytes& frame, int rank, int size) {
  Given given;
  int64_t num = 0;
  std::memcpy(&num, frame.data(), sizeof(num));
  const char* at = frame.data() + sizeof(num);
  given.calls.resize(static_cast<size_t>(num));
  std::memcpy(given.calls.data(), at, given.calls.size() * sizeof(Call));
  at += given.calls.size() * sizeof(Call);
  for (const Call& call : given.calls) {
    const int64_t bytes = GivenBytes(call, rank, size);
    given.data.emplace_back(at, at + bytes);
    at += bytes;
  }
  return given;
}

// The sum of all members' data of a call, from the last rank to the first:
// another order than the step tree's.
Bytes SumOf(const std::vector<Given>& given, size_t i) {
  Bytes sum = given.back().data[i];
  const int type = given[0].calls[i].type;
  for (size_t r = given.size() - 1; r-- > 0;) {
    Add(type, sum.data(), given[r].data[i].data(),
        static_cast<int64_t>(sum.size()) / SizeOf(type));
  }
  return sum;
}

bool Alike(const std::vector<Given>& given, size_t i) {
  for (const Given& other : given) {
    if (other.calls.size() <= i ||
        other.calls.size() != given[0].calls.size() ||
        std::memcmp(&other.calls[i], &given[0].calls[i], sizeof(Call)) != 0) {
      return false;
    }
  }
  return true;
}

// What each member gets of its call i; false when they do not fit together.
bool Answer(const std::vector<Given>& given, size_t rank, size_t i,
            std::vector<std::vector<size_t>>& sent, Bytes& out) {
  const Call& call = given[rank].calls[i];
  if (call.kind == kSend) {
    return true;
  }
  if (call.kind == kRecv) {
    // The next of what the peer sends here.
    const auto peer = static_cast<size_t>(call.peer);
    size_t& next = sent[rank][peer];
    const Given& other = given[peer];
    while (next < other.calls.size() &&
           (other.calls[next].kind != kSend ||
            other.calls[next].peer != static_cast<int64_t>(rank))) {
      ++next;
    }
    if (next == other.calls.size() || other.calls[next].count != call.count) {
      return false;
    }
    Append(out, other.data[next].data(), other.data[next].size());
    ++next;
    return true;
  }
  if (!Alike(given, i)) {
    return false;
  }
  const auto root = static_cast<size_t>(call.peer);
  if (call.kind == kBroadcast) {
    Append(out, given[root].data[i].data(), given[root].data[i].size());
  } else if (call.kind == kAllGather) {
    for (const Given& other : given) {
      Append(out, other.data[i].data(), other.data[i].size());
    }
  } else if (call.kind != kReduce || rank == root) {
    const Bytes sum = SumOf(given, i);
    const size_t part = sum.size() / given.size();
    if (call.kind == kReduceScatter) {
      Append(out, sum.data() + rank * part, part);
    } else {
      Append(out, sum.data(), sum.size());
    }
  }
  return true;
}

bool Never() { return false; }

// Serves one group until its members go; one that goes early leaves the others
// without an answer, as on a machine where nobody notices.
void RunHub(int listener) {
  struct Hello {
    int32_t rank;
    int32_t size;
  };
  std::vector<int> members;
  size_t missing = 1;
  bool all = true;
  while (all && missing > 0) {
    const int fd = accept(listener, nullptr, nullptr);
    Hello hello = {};
    all = fd >= 0 && Transfer(fd, reinterpret_cast<char*>(&hello),
                              sizeof(hello), true, Never);
    if (all) {
      if (members.empty()) {
        members.assign(static_cast<size_t>(hello.size), -1);
        missing = members.size();
      }
      members[static_cast<size_t>(hello.rank)] = fd;
      --missing;
    }
  }
  close(listener);
  const auto size = static_cast<int>(members.size());
  for (bool joining = true; all; joining = false) {
    std::vector<Given> given(members.size());
    for (size_t r = 0; !joining && all && r < members.size(); ++r) {
      Bytes frame;
      all = ReceiveFrame(members[r], frame, Never);
      if (all) {
        given[r] = Parse(frame, static_cast<int>(r), size);
      }
    }
    std::vector<std::vector<size_t>> sent(members.size(),
                                          std::vector<size_t>(members.size()));
    std::vector<Bytes> answers(members.size(), Bytes(1, 0));
    char ok = 1;
    for (size_t r = 0; r < members.size(); ++r) {
      for (size_t i = 0; i < given[r].calls.size(); ++i) {
        ok = ok != 0 && Answer(given, r, i, sent, answers[r]) ? 1 : 0;
      }
    }
    for (size_t r = 0; all && r < members.size(); ++r) {
      answers[r][0] = ok;
      all = SendFrame(members[r], answers[r], Never);
    }
  }
  // Until they go, they wait.
  for (const int fd : members) {
    Bytes rest(1 << 16);
    while (fd >= 0 && recv(fd, rest.data(), rest.size(), 0) > 0) {
    }
  }
  for (const int fd : members) {
    close(fd);
  }
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
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = 0;
    const sockaddr_un address = AddressOf(hub, &length);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&address), length) != 0) {
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
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t length = 0;
  const sockaddr_un address = AddressOf(name, &length);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), length) !=
          0 ||
      listen(listener, 64) != 0) {
    return Refuse(kSystemError, "no socket");
  }
  std::thread(RunHub, listener).detach();
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
