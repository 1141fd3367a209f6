#include "launch/mpi_ranks.h"

#include <charconv>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/strcat.h"
#include "comm/mpi_world.h"
#include "launch/cluster.h"
#include "launch/commands.h"
#include "launch/mpi_state.h"
#include "launch/placement.h"
#include "launch/process_trace.h"
#include "launch/roles.h"
#include "worker/job.h"
#include "worker/job.pb.h"

namespace shoal::launch {
namespace {

// Preparing the data may take long; the other ranks wait for the address.
constexpr Duration kPrepareWithin = std::chrono::hours(1);
constexpr Duration kReportsWithin = std::chrono::seconds(10);

// A rank of a job, and what it is for.
class JobRank {
 public:
  JobRank(const RunRequest& request, const worker::JobSpec& job,
          comm::MpiWorld& world, RankRole role)
      : request_(request), job_(job), world_(world), role_(role) {
    if (request.trace) {
      trace_folder_ =
          StrCat(request.out.empty() ? StrCat("out/", job.name()) : request.out,
                 "/trace");
    }
  }

  Status RunFirst();
  Status RunOther();

 private:
  bool alone() const { return role_.kind == RankRole::Kind::kCoordinator; }
  Status RunRole(const std::string& address);

  const RunRequest& request_;
  const worker::JobSpec& job_;
  comm::MpiWorld& world_;
  const RankRole role_;
  std::string trace_folder_;
};

Status JobRank::RunRole(const std::string& address) {
  const std::string name = role_.ToString();
  SetLogRole(name);
  const ProcessTrace trace(trace_folder_, name);
  const RoleOptions options{.transport = job_.transport(),
                            .coordinator = {.address = address},
                            .index = role_.index,
                            .shards = job_.cluster().shards()};
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Role> made,
                         role_.kind == RankRole::Kind::kServer
                             ? Role::CreateServer(options)
                             : Role::CreateWorker(options));
  return made->Run();
}

Status JobRank::RunOther() {
  SHOAL_ASSIGN_OR_RETURN(const std::string address,
                         world_.BroadcastFromFirst("", kPrepareWithin));
  const Status ran = RunRole(address);
  if (ran.ok()) {
    return world_.Finalize();
  }
  // mpirun ends all ranks when one fails: the first one may be writing its
  // reports, and says when they are there, and what the job came to: whose exit
  // code mpirun takes is chance.
  const StatusOr<std::string> told =
      world_.BroadcastFromFirst("", kReportsWithin);
  int code = 0;
  if (told.ok() &&
      std::from_chars(told->data(), told->data() + told->size(), code).ec ==
          std::errc() &&
      code != 0) {
    return Status(static_cast<StatusCode>(code), ran.message());
  }
  return ran;
}

Status JobRank::RunFirst() {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<JobRun> run,
                         JobRun::Prepare(request_));
  SHOAL_ASSIGN_OR_RETURN(const ClusterShape shape,
                         run->Shape(world_.one_host()));
  {
    // With a role beside it, that one's timeline is that of the process.
    const ProcessTrace trace(alone() ? trace_folder_ : "", "coordinator");
    const Status ran = run->Finish(RunCoordinatorBeside(
        shape, run->CoordinatorOptions(),
        [&](const std::string& address) -> Status {
          SHOAL_RETURN_IF_ERROR(
              world_.BroadcastFromFirst(address, kPrepareWithin).status());
          return alone() ? OkStatus() : RunRole(address);
        }));
    if (!ran.ok()) {
      // mpirun ends this rank as soon as another one has read this.
      MpiState{.begun = true, .ended = ran.code()}.WriteTo(request_.mpi_state);
      (void)world_.BroadcastFromFirst(StrCat(static_cast<int>(ran.code())), 1s);
      return ran;
    }
  }
  PrintSummary(*run, request_.kind);
  // All ranks have left their timelines when this returns.
  SHOAL_RETURN_IF_ERROR(world_.Finalize());
  return FinishTrace(run->out(), trace_folder_);
}

}  // namespace

Status RunAsRanks(const RunRequest& request) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<worker::JobSpec> job,
                         worker::LoadJob(request.job_path, request.overrides));
  if (job->transport() == "inproc") {
    return InvalidArgumentError(
        "transport: inproc joins threads of one process; under mpirun use "
        "auto, shm, zmq or mpi");
  }
  const bool collective = job->cluster().collective() == "mpi";
  SHOAL_ASSIGN_OR_RETURN(
      const std::unique_ptr<comm::MpiWorld> world,
      comm::MpiWorld::Create(collective || job->transport() == "mpi"
                                 ? comm::MpiWorld::Threads::kMultiple
                                 : comm::MpiWorld::Threads::kOne));
  if (request.expect_ranks > 0 && world->size() != request.expect_ranks) {
    return FailedPreconditionError(
        StrCat("mpirun started ", world->size(),
               " ranks, but --expect-ranks says ", request.expect_ranks,
               ": it may not have read its host file (Open MPI 5 reads "
               "PRTE_MCA_prte_default_hostfile, Open MPI 4 "
               "OMPI_MCA_orte_default_hostfile)"));
  }
  SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> hosts,
                         world->HostNames());
  SHOAL_ASSIGN_OR_RETURN(const std::vector<RankRole> roles,
                         DealRanks(*job, hosts));
  const RankRole role = roles[static_cast<size_t>(world->rank())];
  if (collective) {
    SHOAL_RETURN_IF_ERROR(world->JoinGroup(
        role.kind == RankRole::Kind::kWorker ? 0 : -1, role.index));
  }
  JobRank rank(request, *job, *world, role);
  if (world->rank() != 0) {
    return rank.RunOther();
  }
  MpiState{.begun = true}.WriteTo(request.mpi_state);
  const Status ended = rank.RunFirst();
  MpiState{.begun = true, .ended = ended.code()}.WriteTo(request.mpi_state);
  return ended;
}

}  // namespace shoal::launch
