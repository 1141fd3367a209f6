// The `shoal` program.

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <sys/resource.h>

#include "comm/collective.h"
#include "comm/mpi_world.h"
#include "launch/allreduce_bench.h"
#include "launch/checkpoint_commands.h"
#include "launch/commands.h"
#include "launch/control.h"
#include "launch/doctor.h"
#include "launch/kubernetes/command.h"
#include "launch/kubernetes/launch_job.h"
#include "launch/mpi_launch.h"
#include "launch/plan_command.h"
#include "launch/services.h"
#include "worker/job.h"

namespace {

using shoal::Status;
using shoal::launch::RoleOptions;
using shoal::launch::RunRequest;
using shoal::launch::ServiceOptions;

// What the commands that run a job have in common.
void AddJobOptions(CLI::App& command, RunRequest& request) {
  command.add_option("JOB", request.job_path, "Job file (YAML)")
      ->required()
      ->type_name("JOB.yaml");
  command
      .add_option("--set", request.overrides,
                  "Sets a key of the job: --set cluster.workers=4")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  command
      .add_option("--out", request.out,
                  "Folder for what the run leaves (default: out/<name>)")
      ->type_name("DIR");
  command.add_flag("--in-process", request.in_process,
                   "Runs servers and workers as threads of this process");
  command.add_flag("--trace", request.trace,
                   "Writes a timeline that ui.perfetto.dev opens");
}

void AddRunOption(CLI::App& command, RunRequest& request) {
  command
      .add_option("--run", request.run,
                  "Goes on from the newest checkpoint in --out if a training "
                  "with the same ID wrote it: for those that start a failed "
                  "one again")
      ->type_name("ID");
}

// Seconds that members and coordinator wait for each other.
void AddJobAddressOptions(CLI::App& command, shoal::launch::JobAddress& job) {
  command.add_option("--job", job.out, "The job's output folder");
  command.add_option("--coordinator", job.coordinator,
                     "Instead: HOST:PORT of its coordinator");
}

void AddJoinOption(CLI::App& command, shoal::Duration& join_within) {
  command
      .add_option_function<double>(
          "--join-within",
          [&join_within](double seconds) {
            join_within = shoal::FromSeconds(seconds);
          },
          "Seconds to wait for the others of the job (default: 60)")
      ->check(CLI::Range(1.0, 1e6));
}

void AddHttpOption(CLI::App& command, ServiceOptions& options) {
  command
      .add_option("--http", options.http_port,
                  "Answers /healthz, /readyz and /metrics at this port; 0: any")
      ->check(CLI::Range(0, 65535));
}

void AddRoleOptions(CLI::App& command, RoleOptions& role,
                    ServiceOptions& options) {
  command
      .add_option("--coordinator", role.coordinator_address,
                  "The coordinator's address, such as tcp://HOST:PORT")
      ->required();
  command
      .add_option("--index", role.index,
                  "Which server or worker, from 0 (default: a server takes the "
                  "number that its host's name ends with, a worker any)")
      ->check(CLI::NonNegativeNumber);
  CLI::Option* const job =
      command
          .add_option("--job", role.job_path,
                      "Takes transport and shards from this job file")
          ->type_name("JOB.yaml");
  command.add_option("--transport", role.transport, "auto, shm or zmq")
      ->check(CLI::IsMember({"auto", "shm", "zmq"}))
      ->excludes(job);
  command.add_option("--shards", role.shards, "Shards of a server")
      ->check(CLI::Range(1, 256))
      ->excludes(job);
  AddJoinOption(command, role.join_within);
  AddHttpOption(command, options);
  command.add_option("--trace", options.trace_folder,
                     "Folder for its timeline");
}

// Every connection and file of a large job takes a descriptor; the low limit
// that shells start with is for programs that use select().
void AllowManyFiles() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Shoal trains models too large for one machine on sharded parameter "
      "servers."};
  app.name("shoal");
  app.require_subcommand(1);
  Status status;

  RunRequest train;
  CLI::App* command = app.add_subcommand("train", "Trains a job's model");
  AddJobOptions(*command, train);
  AddRunOption(*command, train);
  command
      ->add_option("--expect-ranks", train.expect_ranks,
                   "Refuses to train unless mpirun started so many ranks")
      ->check(CLI::Range(1, 1 << 20));
  command
      ->add_option("--mpi-state", train.mpi_state,
                   "Of a rank that `shoal launch mpi` started")
      ->group("");
  // Who started mpirun wants to know whether another try may help.
  bool service = shoal::comm::MpiWorld::Present();
  command->callback([&] { status = shoal::launch::RunJob(train); });

  RunRequest eval;
  eval.kind = RunRequest::Kind::kEvaluate;
  command = app.add_subcommand("eval",
                               "Evaluates a checkpoint on the job's test part");
  AddJobOptions(*command, eval);
  command
      ->add_option("--checkpoint", eval.checkpoint,
                   "A job's folder, or one of its step-N folders")
      ->required()
      ->type_name("DIR");
  command->callback([&] { status = shoal::launch::RunJob(eval); });

  RunRequest predict;
  predict.kind = RunRequest::Kind::kPredict;
  std::string predictions = "-";
  command = app.add_subcommand("predict",
                               "Writes a prediction per row of files, as CSV");
  AddJobOptions(*command, predict);
  command
      ->add_option("--checkpoint", predict.checkpoint,
                   "A job's folder, or one of its step-N folders")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--input", predict.predict_files,
                   "Files to read, from the working folder or data.root")
      ->required()
      ->type_name("FILE...");
  command
      ->add_option("--csv", predictions,
                   "Where to write (default: standard output)")
      ->type_name("FILE");
  command->callback(
      [&] { status = shoal::launch::RunPredict(predict, predictions); });

  CLI::App* checkpoint =
      app.add_subcommand("checkpoint", "Looks at checkpoints and exports them");
  checkpoint->require_subcommand(1);
  std::string path;
  const auto checkpoint_command = [&](const char* name, const char* help,
                                      Status (*run)(const std::string&)) {
    CLI::App* sub = checkpoint->add_subcommand(name, help);
    sub->add_option("DIR", path, "A job's folder, or one of its step-N folders")
        ->required();
    sub->callback([&status, &path, run] { status = run(path); });
  };
  checkpoint_command("ls", "Lists them", &shoal::launch::RunCheckpointList);
  checkpoint_command("verify", "Reads one and checks everything",
                     &shoal::launch::RunCheckpointVerify);
  checkpoint_command("digest",
                     "Prints a digest over all values and optimizer state",
                     &shoal::launch::RunCheckpointDigest);

  std::string other;
  int exit_code = 0;  // of a comparison, or of a job that ran elsewhere
  command = checkpoint->add_subcommand(
      "diff", "Compares two, bit by bit; exit code 1: they differ");
  command->add_option("A", path, "As for the others")->required();
  command->add_option("B", other, "As for the others")->required();
  command->callback([&] {
    status = shoal::launch::RunCheckpointDiff(path, other, &exit_code);
  });
  command = checkpoint->add_subcommand(
      "export", "Writes the values of one for readers of safetensors");
  command->add_option("A", path, "As for the others")->required();
  command->add_option("--out", other, "A new folder")
      ->required()
      ->type_name("DIR");
  command->callback(
      [&] { status = shoal::launch::RunCheckpointExport(path, other); });

  int parts = 0;
  command = checkpoint->add_subcommand(
      "merge", "Writes one anew with few files, and compares the digests");
  command->add_option("A", path, "As for the others")->required();
  command->add_option("--out", other, "A new folder")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--parts", parts,
                   "Files of rows, or one more per table (default: of 64 MiB)")
      ->check(CLI::Range(1, 1'000'000));
  command->callback(
      [&] { status = shoal::launch::RunCheckpointMerge(path, other, parts); });

  CLI::App* data = app.add_subcommand("data", "Works on training data");
  data->require_subcommand(1);
  std::string convert_job;
  std::string convert_out;
  std::string convert_checkpoint;
  std::vector<std::string> convert_set;
  command = data->add_subcommand("convert",
                                 "Writes a job's text files as record files");
  command->add_option("JOB", convert_job, "Job file (YAML)")->required();
  command->add_option("OUT", convert_out, "File to write (.shoalrec)")
      ->required();
  command->add_option("--set", convert_set, "Sets a key of the job")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  command
      ->add_option("--checkpoint", convert_checkpoint,
                   "Takes what was fitted from here, not from the data")
      ->type_name("DIR");
  command->callback([&] {
    status = shoal::launch::RunConvert(convert_job, convert_set,
                                       convert_checkpoint, convert_out);
  });

  CLI::App* bench = app.add_subcommand("bench", "Measures this machine");
  bench->require_subcommand(1);
  shoal::launch::AllReduceBenchOptions allreduce;
  command = bench->add_subcommand(
      "allreduce", "Times allreduces between processes, or ranks of mpirun");
  command->add_option("--ranks", allreduce.ranks, "Processes")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--transport", allreduce.transport, "auto, shm or zmq")
      ->check(CLI::IsMember({"auto", "shm", "zmq"}))
      ->capture_default_str();
  command
      ->add_option("--algorithm", allreduce.algorithm,
                   "auto (by size), exchange, segments, halving, read or "
                   "hierarchical; what the ranks do not allow is replaced")
      ->check([](const std::string& name) {
        return shoal::comm::ParseAllReduceAlgorithm(name).status().message();
      })
      ->capture_default_str();
  command->add_flag("--tune", allreduce.tune,
                    "Times all algorithms and prints which to take from which "
                    "size on");
  command->add_option("--tune-file", allreduce.tune_file,
                      "Where --tune stores that, as lines for job files");
  command
      ->add_option_function<int>(
          "--look-us",
          [&](int us) { allreduce.look = std::chrono::microseconds(us); },
          "Microseconds for which a rank looks for messages before it sleeps; "
          "0: it sleeps at once (default: 50)")
      ->check(CLI::Range(0, 1000000));
  command->add_option("--min-bytes", allreduce.min_bytes, "The shortest vector")
      ->capture_default_str();
  command->add_option("--max-bytes", allreduce.max_bytes, "The longest vector")
      ->capture_default_str();
  command->add_option("--rounds", allreduce.rounds, "Times per size")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  command->add_option("--rank", allreduce.rank, "Of a process started by this")
      ->group("");
  command->add_option("--coordinator", allreduce.coordinator_address)
      ->group("");
  command->callback(
      [&] { status = shoal::launch::RunAllReduceBench(allreduce); });

  CLI::App* launch =
      app.add_subcommand("launch", "Runs a job on other machines");
  launch->require_subcommand(1);
  shoal::launch::MpiLaunchOptions mpi;
  command = launch->add_subcommand(
      "mpi", "Trains a job under mpirun, on the hosts of its `placement`");
  AddJobOptions(*command, mpi.run);
  command->remove_option(command->get_option("--in-process"));
  command->add_flag("--dry-run", mpi.dry_run,
                    "Prints the ranks and the mpirun line, and runs nothing");
  command
      ->add_option("--restarts", mpi.restarts,
                   "Times to start a job again that lost a member, from its "
                   "last checkpoint")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  command->add_option("--mpirun", mpi.mpirun, "The mpirun to run")
      ->capture_default_str();
  command
      ->add_option("--mpirun-arg", mpi.mpirun_args,
                   "An argument for mpirun: --mpirun-arg=--report-bindings")
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  command->callback(
      [&] { status = shoal::launch::RunMpiLaunch(mpi, &exit_code); });
  shoal::launch::AddKubernetesCommand(
      *launch, [&](const shoal::launch::KubernetesRequest& request) {
        service = true;
        const auto ended = shoal::launch::LaunchOnKubernetes(request);
        status = ended.status();
        exit_code = ended.ok() ? *ended : 0;
      });

  shoal::launch::ScaleRequest scale;
  command = app.add_subcommand(
      "scale", "Changes how many servers or workers a running job has");
  AddJobAddressOptions(*command, scale.job);
  command->add_option("--servers", scale.servers, "Servers there are to be")
      ->check(CLI::Range(1, 1024));
  command->add_option("--workers", scale.workers, "Workers there are to be")
      ->check(CLI::Range(1, 4096));
  command->callback([&] {
    status = scale.servers == 0 && scale.workers == 0
                 ? shoal::InvalidArgumentError(
                       "how many? give --servers N, --workers N or both")
                 : shoal::launch::RunScale(scale);
  });
  command = app.add_subcommand(
      "drain", "Moves what a server of a running job holds, and ends it");
  AddJobAddressOptions(*command, scale.job);
  command->add_option("--server", scale.drain, "Its number, from 0")
      ->check(CLI::Range(0, 1023))
      ->required();
  command->callback([&] { status = shoal::launch::RunScale(scale); });
  shoal::launch::ModeRequest mode;
  command = app.add_subcommand(
      "mode", "Changes when workers of a running job see whose updates");
  AddJobAddressOptions(*command, mode.job);
  command->add_option("--tables", mode.tables,
                      "As consistency.tables: sync, bounded:CLOCKS or async");
  command->add_option("--dense", mode.dense,
                      "As consistency.dense, the same; not into or out of "
                      "allreduce");
  command->callback([&] {
    status = mode.tables.empty() && mode.dense.empty()
                 ? shoal::InvalidArgumentError(
                       "which? give --tables MODE, --dense MODE or both")
                 : shoal::launch::RunMode(mode);
  });
  command = app.add_subcommand(
      "status",
      "Says who the members of a running job are, and what they hold");
  AddJobAddressOptions(*command, scale.job);
  command->callback([&] { status = shoal::launch::RunStatus(scale.job); });

  CLI::App* job = app.add_subcommand("job", "About job files");
  bool explain = false;
  job->add_flag("--explain", explain,
                "Prints every key with its meaning and default")
      ->required();
  job->callback([&] {
    const std::string text = shoal::worker::ExplainJob();
    std::fputs(text.c_str(), stdout);
  });

  bool need_gpu = false;
  command = app.add_subcommand(
      "doctor", "Says what of this machine jobs can use, and why not the rest");
  command->add_flag("--need-gpu", need_gpu, "Fails if no GPU can be used");
  command->callback([&] { status = shoal::launch::RunDoctor(need_gpu); });

  RoleOptions role;
  ServiceOptions service_options;
  command = app.add_subcommand("server", "Runs one server of a job");
  AddRoleOptions(*command, role, service_options);
  command->callback([&] {
    service = true;
    status = shoal::launch::RunServerService(role, service_options);
  });
  command = app.add_subcommand("worker", "Runs one worker of a job");
  AddRoleOptions(*command, role, service_options);
  command->callback([&] {
    service = true;
    status = shoal::launch::RunWorkerService(role, service_options);
  });

  std::string plan_job;
  std::vector<std::string> plan_set;
  command = app.add_subcommand(
      "plan", "Reads a job and its data, and says what each server will hold");
  command->add_option("JOB", plan_job, "Job file (YAML)")->required();
  command->add_option("--set", plan_set, "Sets a key of the job")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->allow_extra_args(false)
      ->take_all();
  command->callback(
      [&] { status = shoal::launch::RunPlan(plan_job, plan_set); });

  RunRequest coordinate;
  shoal::Duration join_within = std::chrono::seconds(60);
  command = app.add_subcommand(
      "coordinator", "Trains a job with servers and workers that others start");
  AddJobOptions(*command, coordinate);
  AddJoinOption(*command, join_within);
  AddHttpOption(*command, service_options);
  AddRunOption(*command, coordinate);
  command->callback([&] {
    service = true;
    status = shoal::launch::RunCoordinatorService(coordinate, join_within,
                                                  service_options);
  });

  AllowManyFiles();
  CLI11_PARSE(app, argc, argv);
  // Results that did not get out are no success.
  if (status.ok() && (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)) {
    status = shoal::UnavailableError("standard output can't be written");
  }
  if (!status.ok()) {
    std::fprintf(stderr, "shoal: %s\n", status.message().c_str());
    if (exit_code > 0) {
      return exit_code;
    }
    return service ? shoal::launch::ServiceExitCode(status) : 1;
  }
  return exit_code;
}
