#include "launch/cluster.h"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/plugin.h"
#include "base/strcat.h"
#include "comm/pump.h"
#include "launch/control.h"
#include "launch/roles.h"
#include "launch/supervisor.h"

namespace shoal::launch {
namespace {

// A child that ends by itself has often told the coordinator why; that text is
// the better one, and gets this long to arrive.
constexpr Duration kReasonWithin = 500ms;

// For a process in place of one that ended to be let in.
constexpr Duration kReplaceWithin = std::chrono::seconds(30);

// For members to end by themselves once the job is done.
constexpr Duration kEndWithin = std::chrono::seconds(5);

StatusOr<std::unique_ptr<comm::Pump>> CreateCoordinatorPump(
    const ClusterShape& shape) {
  comm::Pump::Options options;
  options.transport = shape.transport;
  options.endpoint.listen = shape.listen;
  options.endpoint.self = shape.coordinator;
  options.storage = shape.storage;
  return comm::Pump::Create(options);
}

// The coordinator on a thread of its own.
class CoordinatorThread {
 public:
  CoordinatorThread(comm::Pump& pump, ps::Coordinator::Options options)
      : pump_(pump), coordinator_(std::move(options)), thread_([this] {
          status_ = pump_.Run(coordinator_);
          done_.store(true, std::memory_order_release);
        }) {}
  ~CoordinatorThread() {
    if (thread_.joinable()) {
      thread_.join();
    }
  }
  CoordinatorThread(const CoordinatorThread&) = delete;
  CoordinatorThread& operator=(const CoordinatorThread&) = delete;

  // Ends the job and tells its members, from any thread.
  void Abort(const Status& why) {
    pump_.Post([this, why] { coordinator_.Abort(why); });
  }

  // What a process that ended means for the job. Blocks until the coordinator
  // has decided.
  ps::Coordinator::Ended ProcessEnded(const std::string& name,
                                      const Status& why) {
    return Ask(
        [name, why](ps::Coordinator& coordinator) {
          return coordinator.ProcessEnded(name, why);
        },
        ps::Coordinator::Ended::kNeeded);
  }

  // Whether every slot has all its replicas. Blocks as above.
  bool Replicated() {
    return Ask(
        [](ps::Coordinator& coordinator) { return coordinator.replicated(); },
        false);
  }

  bool done() const { return done_.load(std::memory_order_acquire); }
  Status Join() {
    thread_.join();
    return status_;
  }

 private:
  // `otherwise`: the job ended before there was an answer.
  template <typename Question, typename Answer>
  Answer Ask(const Question& question, Answer otherwise) {
    auto answer = std::make_shared<std::promise<Answer>>();
    std::future<Answer> given = answer->get_future();
    pump_.Post([this, question, answer] {
      answer->set_value(question(coordinator_));
    });
    while (!done()) {
      if (given.wait_for(10ms) == std::future_status::ready) {
        return given.get();
      }
    }
    return otherwise;
  }

  comm::Pump& pump_;
  ps::Coordinator coordinator_;  // uses the pump to its end
  Status status_;
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

// The server and worker processes of one job.
class Members {
 public:
  Members(const ClusterShape& shape, std::string address,
          Supervisor& supervisor)
      : shape_(shape), address_(std::move(address)), supervisor_(supervisor) {}

  // Those of the first `servers` and `workers` that do not run.
  Status SpawnMissing(int servers, int workers) {
    for (int i = 0; i < servers; ++i) {
      SHOAL_RETURN_IF_ERROR(Spawn("server", i));
    }
    for (int i = 0; i < workers; ++i) {
      SHOAL_RETURN_IF_ERROR(Spawn("worker", i));
    }
    return OkStatus();
  }

  void Ended(const std::string& name) { running_.erase(name); }

  // The one that is called so, once more.
  Status SpawnAgain(const std::string& name) {
    const size_t space = name.find(' ');
    return Spawn(name.substr(0, space), std::stoi(name.substr(space + 1)));
  }

 private:
  Status Spawn(const std::string& role, int index) {
    if (!running_.insert(StrCat(role, " ", index)).second) {
      return OkStatus();
    }
    SHOAL_ASSIGN_OR_RETURN(const std::string program, OwnProgramPath());
    std::vector<std::string> argv = {
        program,         role,
        "--index",       std::to_string(index),
        "--coordinator", address_,
        "--transport",   shape_.transport,
        "--shards",      std::to_string(shape_.shards)};
    if (!shape_.trace_folder.empty()) {
      argv.insert(argv.end(), {"--trace", shape_.trace_folder});
    }
    return supervisor_.Spawn(StrCat(role, " ", index), argv).status();
  }

  const ClusterShape& shape_;
  const std::string address_;
  Supervisor& supervisor_;
  std::set<std::string> running_;
};

// How many members there are to be, as the coordinator says on its thread.
class Wanted {
 public:
  void Set(int servers, int workers) {
    MutexLock lock(mutex_);
    numbers_ = {servers, workers};
  }
  // What was set since the last call, if anything.
  std::optional<std::pair<int, int>> Take() {
    MutexLock lock(mutex_);
    return std::exchange(numbers_, std::nullopt);
  }

 private:
  Mutex mutex_;
  std::optional<std::pair<int, int>> numbers_ SHOAL_GUARDED_BY(mutex_);
};

// Signals to this process end the job of `pump`, which outlives the result.
StatusOr<std::unique_ptr<Supervisor>> CreateSupervisor(comm::Pump& pump) {
  return Supervisor::Create({.on_signal = [&pump](int signal) {
    pump.Interrupt(StoppedBy(signal));
  }});
}

}  // namespace

Status RunAsProcesses(const ClusterShape& shape,
                      ps::Coordinator::Options options) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<comm::Pump> pump,
                         CreateCoordinatorPump(shape));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Supervisor> supervisor,
                         CreateSupervisor(*pump));
  if (shape.restarts > 0) {
    options.replace_within = kReplaceWithin;
  }
  Wanted wanted;
  options.wanted = [&wanted](int servers, int workers) {
    wanted.Set(servers, workers);
  };
  SHOAL_ASSIGN_OR_RETURN(
      const AddressFile address_file,
      AddressFile::Write(shape.address_file, shape.transport, pump->address()));
  Members members(shape, pump->address(), *supervisor);
  SHOAL_RETURN_IF_ERROR(members.SpawnMissing(shape.servers, shape.workers));
  CoordinatorThread thread(*pump, std::move(options));
  int restarts = 0;
  const SystemClock clock;
  Time interrupt_at = Time::max();
  Time lost_at = Time::max();  // a server whose replicas are missing still
  Status failure;
  while (!thread.done()) {
    const std::optional<ChildExit> exit = supervisor->Wait(50ms);
    if (exit.has_value() && failure.ok()) {
      members.Ended(exit->name);
      const Status why = exit->ok()
                             ? UnavailableError(StrCat(exit->name, " ended"))
                             : UnavailableError(exit->ToString());
      const ps::Coordinator::Ended ended = thread.ProcessEnded(exit->name, why);
      // One that went as it was to, and is wanted again meanwhile.
      const bool back = ended == ps::Coordinator::Ended::kReplace && exit->ok();
      const bool again = ended == ps::Coordinator::Ended::kReplace &&
                         !exit->ok() && restarts < shape.restarts;
      if (again) {
        ++restarts;
        std::fprintf(stderr,
                     "shoal: %s; started again (%d of at most %d times, "
                     "cluster.restarts)\n",
                     exit->ToString().c_str(), restarts, shape.restarts);
      }
      failure = back || again ? members.SpawnAgain(exit->name) : OkStatus();
      // Where there are replicas the rest goes on without a server.
      const bool without = ended == ps::Coordinator::Ended::kReplace &&
                           exit->name.starts_with("server");
      if (without) {
        lost_at = clock.Now();
      }
      if (failure.ok() && without && !again && !back) {
        std::fprintf(stderr,
                     "shoal: %s; not started again (%d times before, "
                     "cluster.restarts): the job goes on without it\n",
                     exit->ToString().c_str(), restarts);
      }
      if (failure.ok() && (back || again || without || exit->ok() ||
                           ended == ps::Coordinator::Ended::kGone)) {
        continue;
      }
      if (failure.ok()) {
        failure = ended == ps::Coordinator::Ended::kReplace && restarts > 0
                      ? UnavailableError(StrCat(
                            why.message(), "; ", restarts,
                            " processes were started again before, which is "
                            "the most that cluster.restarts allows"))
                      : why;
      }
      interrupt_at =
          clock.Now() + (exit->signal != 0 ? Duration(0) : kReasonWithin);
    }
    if (const auto numbers = wanted.Take(); numbers.has_value()) {
      const Status spawned =
          members.SpawnMissing(numbers->first, numbers->second);
      if (!spawned.ok() && failure.ok()) {
        failure = spawned;
        interrupt_at = clock.Now();
      }
    }
    if (lost_at != Time::max() && thread.Replicated()) {
      std::fprintf(stderr, "shoal: all replicas are there again after %.2f s\n",
                   ToSeconds(clock.Now() - lost_at));
      lost_at = Time::max();
    }
    if (clock.Now() >= interrupt_at) {
      pump->Interrupt(failure);
      interrupt_at = Time::max();
    }
  }
  const Status status = thread.Join();
  const Time end = clock.Now() + kEndWithin;
  while (status.ok() && supervisor->running() > 0 && clock.Now() < end) {
    supervisor->Wait(50ms);
  }
  supervisor->StopAll(1s);
  return status;
}

Status RunAsThreads(const ClusterShape& shape,
                    ps::Coordinator::Options coordinator) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<comm::Pump> pump,
                         CreateCoordinatorPump(shape));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Supervisor> supervisor,
                         CreateSupervisor(*pump));
  std::vector<std::unique_ptr<Role>> roles;
  for (int i = 0; i < shape.servers + shape.workers; ++i) {
    const bool server = i < shape.servers;
    const RoleOptions options{.transport = shape.transport,
                              .coordinator = {.address = pump->address()},
                              .index = server ? i : i - shape.servers,
                              .shards = shape.shards};
    SHOAL_ASSIGN_OR_RETURN(
        std::unique_ptr<Role> role,
        server ? Role::CreateServer(options) : Role::CreateWorker(options));
    roles.push_back(std::move(role));
  }
  CoordinatorThread thread(*pump, std::move(coordinator));
  std::vector<std::thread> threads;
  for (const std::unique_ptr<Role>& role : roles) {
    threads.emplace_back([&role, &pump] {
      const Status status = role->Run();
      if (!status.ok()) {
        pump->Interrupt(status);  // Without effect if the job has ended.
      }
    });
  }
  while (!thread.done()) {
    supervisor->Wait(50ms);  // There are no children, but signals.
  }
  const Status status = thread.Join();
  for (const std::unique_ptr<Role>& role : roles) {
    if (!status.ok()) {
      role->Interrupt(CancelledError("the job was called off"));
    }
  }
  for (std::thread& member : threads) {
    member.join();
  }
  return status;
}

Status RunCoordinator(
    const ClusterShape& shape, ps::Coordinator::Options options,
    const std::function<Status(const std::string& address)>& started,
    const std::function<Status()>& lost) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<comm::Pump> pump,
                         CreateCoordinatorPump(shape));
  CoordinatorThread* running = nullptr;
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Supervisor> supervisor,
                         Supervisor::Create(
                             // Only from inside Wait() below.
                             {.on_signal = [&](int signal) {
                               running->Abort(StoppedBy(signal));
                             }}));
  SHOAL_RETURN_IF_ERROR(started(pump->address()));
  CoordinatorThread thread(*pump, std::move(options));
  running = &thread;
  Status why;
  while (!thread.done()) {
    supervisor->Wait(50ms);  // There are no children, but signals.
    if (why.ok()) {
      why = lost();
      if (!why.ok()) {
        pump->Interrupt(why);
      }
    }
  }
  return thread.Join();
}

Status RunCoordinatorBeside(
    const ClusterShape& shape, ps::Coordinator::Options options,
    const std::function<Status(const std::string& address)>& here) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<comm::Pump> pump,
                         CreateCoordinatorPump(shape));
  CoordinatorThread thread(*pump, std::move(options));
  const Status own = here(pump->address());
  if (!own.ok()) {
    pump->Interrupt(own);  // Without effect if the job has ended.
  }
  const Status status = thread.Join();
  return status.ok() ? own : status;
}

}  // namespace shoal::launch
