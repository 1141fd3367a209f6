#include "launch/services.h"

#include <sysexits.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <functional>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include "base/etcd/client.h"
#include "base/log.h"
#include "base/random.h"
#include "base/strcat.h"
#include "comm/listen.h"
#include "launch/cluster.h"
#include "launch/commands.h"
#include "launch/coordinator_card.h"
#include "launch/coordinator_seat.h"
#include "launch/out_folder.h"
#include "launch/process_trace.h"
#include "launch/status_board.h"
#include "launch/status_server.h"
#include "launch/supervisor.h"
#include "worker/job.h"
#include "worker/job.pb.h"

namespace shoal::launch {
namespace {

StatusOr<int> OrdinalOfHost() {
  char name[256] = "";
  (void)gethostname(name, sizeof(name) - 1);
  const std::string_view host(name);
  const size_t dash = host.rfind('-');
  int ordinal = -1;
  if (dash != std::string_view::npos) {
    const char* const end = host.data() + host.size();
    const auto [at, error] =
        std::from_chars(host.data() + dash + 1, end, ordinal);
    if (error == std::errc() && at == end && ordinal >= 0) {
      return ordinal;
    }
  }
  return InvalidArgumentError(
      StrCat("--index is not given, and this host's name, '", host,
             "', does not end with a number as that of a StatefulSet's pod "
             "does"));
}

// Runs a role on a thread of its own, while this one listens to signals.
Status RunUntilSignal(Role& role) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Supervisor> supervisor,
                         Supervisor::Create({.on_signal = [&role](int signal) {
                           role.Interrupt(StoppedBy(signal));
                         }}));
  Status status;
  std::atomic<bool> done = false;
  std::thread thread([&] {
    status = role.Run();
    done = true;
  });
  while (!done) {
    supervisor->Wait(20ms);  // There are no children, but signals.
  }
  thread.join();
  return status;
}

// `job`: the name of the job, if it is known.
Status FindCoordinator(const std::string& job, RoleOptions& options) {
  const SystemClock clock;
  const Time deadline = clock.Now() + options.join_within;
  if (!EtcdAddress::Is(options.coordinator.address)) {
    SHOAL_ASSIGN_OR_RETURN(
        options.coordinator.address,
        comm::ResolveAddress(options.coordinator.address, deadline));
    return OkStatus();
  }
  SHOAL_ASSIGN_OR_RETURN(EtcdAddress etcd,
                         EtcdAddress::Parse(options.coordinator.address));
  if (etcd.name.empty()) {
    etcd.name = job;
  }
  SHOAL_ASSIGN_OR_RETURN(const FoundCoordinator found,
                         AwaitCoordinator(etcd, deadline));
  options.coordinator = {.endpoint = found.card.endpoint,
                         .address = found.card.address,
                         .epoch = found.epoch};
  SHOAL_ASSIGN_OR_RETURN(EtcdClient::Options client_options,
                         EtcdClient::OptionsFor(etcd));
  options.find_coordinator =
      [client = std::make_shared<EtcdClient>(std::move(client_options)),
       name = etcd.name]() -> StatusOr<ps::CoordinatorPlace> {
    SHOAL_ASSIGN_OR_RETURN(const FoundCoordinator now,
                           LookForCoordinator(*client, name));
    return ps::CoordinatorPlace{.endpoint = now.card.endpoint,
                                .address = now.card.address,
                                .epoch = now.epoch};
  };
  return OkStatus();
}

StatusOr<std::unique_ptr<StatusServer>> StartHttp(const ServiceOptions& options,
                                                  const StatusBoard& board) {
  if (options.http_port < 0) {
    return std::unique_ptr<StatusServer>();
  }
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<StatusServer> server,
                         StatusServer::Create(options.http_port, board));
  if (options.http_port == 0) {
    std::fprintf(stderr, "http: port %d\n", server->port());
  }
  return server;
}

}  // namespace

namespace {

// A coordinator of several, or none where the job has one. Prepares `run` while
// it stands by. Null: the job has ended well.
struct Seating {
  bool ended = false;
  std::unique_ptr<CoordinatorSeat> seat;
};

StatusOr<Seating> TakeSeat(RunRequest& request, std::unique_ptr<JobRun>& run) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<worker::JobSpec> job,
                         worker::LoadJob(request.job_path, request.overrides));
  Seating seating;
  if (job->coordinator().empty()) {
    return seating;
  }
  CoordinatorSeat::Options options{
      .job = HashText(TextForMembers(*job)),
      .run = request.run,
      .timeout = FromSeconds(job->cluster().timeout_seconds()),
      .board = request.board};
  SHOAL_ASSIGN_OR_RETURN(options.etcd, EtcdAddress::Parse(job->coordinator()));
  if (options.etcd.name.empty()) {
    options.etcd.name = job->name();
  }
  request.out_use = OutUse::kGoOnInTurn;
  options.stands_by = [&request, &run]() -> Status {
    SHOAL_ASSIGN_OR_RETURN(run, JobRun::Prepare(request));
    return OkStatus();
  };
  SHOAL_ASSIGN_OR_RETURN(seating.seat,
                         CoordinatorSeat::Take(std::move(options)));
  seating.ended = seating.seat == nullptr;
  if (seating.ended) {
    return seating;
  }
  SHOAL_ASSIGN_OR_RETURN(const bool goes_on, seating.seat->GoesOn());
  if (!goes_on) {
    request.out_use = OutUse::kTrainInTurn;
    run.reset();
  }
  return seating;
}

}  // namespace

Status RunCoordinatorService(RunRequest request, Duration join_within,
                             const ServiceOptions& options) {
  SetLogRole("coordinator");
  StatusBoard board;
  request.board = &board;
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<StatusServer> http,
                         StartHttp(options, board));
  std::unique_ptr<JobRun> run;
  SHOAL_ASSIGN_OR_RETURN(const Seating seating, TakeSeat(request, run));
  CoordinatorSeat* const seat = seating.seat.get();
  if (seating.ended) {
    std::fprintf(stderr, "coordinator: the job has ended\n");
    return OkStatus();
  }
  const auto storage = [seat] {
    return seat == nullptr ? CreateStorage() : seat->CreateStorage();
  };
  const std::unique_ptr<Storage> files = storage();  // of the coordinator
  if (run == nullptr) {
    SHOAL_ASSIGN_OR_RETURN(run, JobRun::Prepare(request, storage()));
  } else {
    run->UseStorage(storage());
  }
  SHOAL_ASSIGN_OR_RETURN(ClusterShape shape, run->Shape(/*one_host=*/false));
  if (shape.in_process) {
    return InvalidArgumentError(
        "transport: inproc joins threads of one process; services use auto, "
        "shm or zmq");
  }
  shape.storage = files.get();
  {
    const ProcessTrace trace(shape.trace_folder, "coordinator");
    ps::Coordinator::Options coordinator = run->CoordinatorOptions();
    coordinator.join_within = join_within;
    coordinator.run = request.run;
    if (seat != nullptr) {
      coordinator.state_store = seat->state();
      shape.coordinator = seat->endpoint();
    } else if (request.kind == RunRequest::Kind::kTrain) {
      coordinator.state_file = run->out() + kCoordinatorStateFile;
    }
    const Status outcome = RunCoordinator(
        shape, std::move(coordinator),
        [&](const std::string& address) -> Status {
          board.SetReady(0, true);
          std::fprintf(stderr,
                       "coordinator: %s waits for %d servers and %d workers\n",
                       address.c_str(), shape.servers, shape.workers);
          return seat == nullptr ? OkStatus()
                                 : seat->Publish(shape.transport, address);
        },
        [seat] {
          const Status lost = seat == nullptr ? OkStatus() : seat->Lost();
          if (!lost.ok()) {
            seat->GiveUp();
          }
          return lost;
        });
    if (seat != nullptr) {
      // How the job ended is then another's to say.
      const Status lost = seat->Lost();
      if (!lost.ok() || (!outcome.ok() && !seat->state()->leads())) {
        run->LeaveToOthers();
        return lost.ok() ? outcome : lost;
      }
    }
    SHOAL_RETURN_IF_ERROR(run->Finish(outcome));
  }
  PrintSummary(*run, request.kind);
  return OkStatus();
}

namespace {

Status RunMember(
    const std::string& name, RoleOptions role, const ServiceOptions& options,
    StatusOr<std::unique_ptr<Role>> (*create)(const RoleOptions&)) {
  SetLogRole(name);
  std::string job_name;
  if (!role.job_path.empty()) {
    SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<worker::JobSpec> job,
                           worker::LoadJob(role.job_path, {}));
    role.transport = job->transport();
    role.shards = job->cluster().shards();
    job_name = job->name();
    if (role.coordinator.address.empty()) {
      role.coordinator.address = job->coordinator();
    }
  }
  if (role.coordinator.address.empty()) {
    return InvalidArgumentError(
        "where is the coordinator? say --coordinator tcp://HOST:PORT or "
        "etcd://HOST:PORT/NAME, or --job with a job file that has the key "
        "`coordinator`");
  }
  const ProcessTrace trace(options.trace_folder, name);
  StatusBoard board;
  role.board = &board;
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<StatusServer> http,
                         StartHttp(options, board));
  SHOAL_RETURN_IF_ERROR(FindCoordinator(job_name, role));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Role> made, create(role));
  return RunUntilSignal(*made);
}

}  // namespace

Status RunServerService(RoleOptions role, const ServiceOptions& options) {
  if (role.index < 0) {
    SHOAL_ASSIGN_OR_RETURN(role.index, OrdinalOfHost());
  }
  return RunMember(StrCat("server ", role.index), role, options,
                   &Role::CreateServer);
}

Status RunWorkerService(RoleOptions role, const ServiceOptions& options) {
  return RunMember(role.index < 0 ? "worker" : StrCat("worker ", role.index),
                   role, options, &Role::CreateWorker);
}

int ServiceExitCode(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return 0;
    case StatusCode::kUnavailable:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kCancelled:
    case StatusCode::kAborted:
    case StatusCode::kResourceExhausted:
      return EX_TEMPFAIL;
    default:
      return 1;
  }
}

}  // namespace shoal::launch
