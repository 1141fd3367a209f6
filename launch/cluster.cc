#include "launch/cluster.h"

#include <atomic>
#include <csignal>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/plugin.h"
#include "base/strcat.h"
#include "comm/pump.h"
#include "launch/roles.h"
#include "launch/supervisor.h"

namespace shoal::launch {
namespace {

// A child that ends by itself has often told the coordinator why; that text is
// the better one, and gets this long to arrive.
constexpr Duration kReasonWithin = 500ms;

// For members to end by themselves once the job is done.
constexpr Duration kEndWithin = std::chrono::seconds(5);

StatusOr<std::unique_ptr<comm::Pump>> CreateCoordinatorPump(
    const ClusterShape& shape) {
  comm::Pump::Options options;
  options.transport = shape.transport;
  options.endpoint.listen = shape.listen;
  options.endpoint.self = comm::kCoordinator;
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

  bool done() const { return done_.load(std::memory_order_acquire); }
  Status Join() {
    thread_.join();
    return status_;
  }

 private:
  comm::Pump& pump_;
  ps::Coordinator coordinator_;  // uses the pump to its end
  Status status_;
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

Status SpawnMembers(const ClusterShape& shape, const std::string& address,
                    Supervisor& supervisor) {
  SHOAL_ASSIGN_OR_RETURN(const std::string program, OwnProgramPath());
  const auto spawn = [&](const char* role, int index) -> Status {
    std::vector<std::string> argv = {
        program,         role,
        "--index",       std::to_string(index),
        "--coordinator", address,
        "--transport",   shape.transport,
        "--shards",      std::to_string(shape.shards)};
    if (!shape.trace_folder.empty()) {
      argv.insert(argv.end(), {"--trace", shape.trace_folder});
    }
    return supervisor.Spawn(StrCat(role, " ", index), argv).status();
  };
  for (int i = 0; i < shape.servers; ++i) {
    SHOAL_RETURN_IF_ERROR(spawn("server", i));
  }
  for (int i = 0; i < shape.workers; ++i) {
    SHOAL_RETURN_IF_ERROR(spawn("worker", i));
  }
  return OkStatus();
}

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
  SHOAL_RETURN_IF_ERROR(SpawnMembers(shape, pump->address(), *supervisor));
  CoordinatorThread thread(*pump, std::move(options));
  const SystemClock clock;
  Time interrupt_at = Time::max();
  Status failure;
  while (!thread.done()) {
    const std::optional<ChildExit> exit = supervisor->Wait(50ms);
    if (exit.has_value() && !exit->ok() && failure.ok()) {
      failure = UnavailableError(exit->ToString());
      interrupt_at =
          clock.Now() + (exit->signal != 0 ? Duration(0) : kReasonWithin);
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
                              .coordinator_address = pump->address(),
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
    const std::function<void(const std::string& address)>& started) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<comm::Pump> pump,
                         CreateCoordinatorPump(shape));
  CoordinatorThread* running = nullptr;
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Supervisor> supervisor,
                         Supervisor::Create(
                             // Only from inside Wait() below.
                             {.on_signal = [&](int signal) {
                               running->Abort(StoppedBy(signal));
                             }}));
  started(pump->address());
  CoordinatorThread thread(*pump, std::move(options));
  running = &thread;
  while (!thread.done()) {
    supervisor->Wait(50ms);  // There are no children, but signals.
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
