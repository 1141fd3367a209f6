#include "launch/mpi_launch.h"

#include <fcntl.h>
#include <sysexits.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/plugin.h"
#include "base/random.h"
#include "base/s3/client.h"
#include "base/storage.h"
#include "base/strcat.h"
#include "launch/mpi_state.h"
#include "launch/out_folder.h"
#include "launch/placement.h"
#include "launch/supervisor.h"
#include "ps/checkpoint_format.h"
#include "worker/job.h"
#include "worker/job.pb.h"

namespace shoal::launch {
namespace {

namespace fs = std::filesystem;

// For mpirun to end its ranks.
constexpr Duration kStopWithin = std::chrono::seconds(10);
// A shell's exit code for a process that signal 0 would have ended.
constexpr int kSignalExit = 128;
// Before a run whose ranks were not all there is tried again: a host may come
// back.
constexpr Duration kFirstPause = std::chrono::seconds(1);
constexpr Duration kPauseMax = std::chrono::seconds(30);
constexpr Duration kRanksEndWithin = std::chrono::seconds(30);
// More are not listed.
constexpr size_t kListedMax = 32;

StatusOr<std::string> FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    return name;
  }
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment.
  const char* const path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "" : path;
  while (!rest.empty()) {
    const size_t colon = std::min(rest.find(':'), rest.size());
    std::string at = StrCat(rest.substr(0, colon), "/", name);
    if (access(at.c_str(), X_OK) == 0) {
      return at;
    }
    rest.remove_prefix(std::min(colon + 1, rest.size()));
  }
  return NotFoundError(
      StrCat("there is no ", name,
             " in PATH; install Open MPI, or name it with --mpirun"));
}

// Whether a batch system has given this job its hosts, which mpirun then asks.
bool HasAllocation() {
  for (const char* name : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"}) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment.
    if (std::getenv(name) != nullptr) {
      return true;
    }
  }
  return false;
}

// One launch of a job: its command line and what its ranks are.
class MpiLaunch {
 public:
  explicit MpiLaunch(const MpiLaunchOptions& options) : options_(options) {}

  ~MpiLaunch();
  MpiLaunch(const MpiLaunch&) = delete;
  MpiLaunch& operator=(const MpiLaunch&) = delete;

  Status Prepare();
  Status Run(int* exit_code);
  void Print() const;

 private:
  std::vector<std::string> Command() const;
  void MakeStateFile();
  StatusOr<ChildExit> RunOnce(Duration pause);
  std::string Ranks() const;
  std::string NewestCheckpoint() const;

  const MpiLaunchOptions& options_;
  std::string mpirun_;
  std::string program_;
  std::string out_;
  std::string checkpoints_;         // below this folder
  std::string state_file_;          // an MpiState, of each run anew
  std::string host_list_;           // of --host; empty: mpirun finds them
  std::vector<std::string> hosts_;  // by rank; empty: not known
  std::vector<RankRole> roles_;     // by rank
  std::string restore_;             // a restart goes on from it
  int stopped_by_ = 0;              // a signal
};

MpiLaunch::~MpiLaunch() {
  std::error_code ignored;
  fs::remove(state_file_, ignored);
}

Status MpiLaunch::Prepare() {
  SHOAL_ASSIGN_OR_RETURN(
      const std::unique_ptr<worker::JobSpec> job,
      worker::LoadJob(options_.run.job_path, options_.run.overrides));
  out_ =
      options_.run.out.empty() ? StrCat("out/", job->name()) : options_.run.out;
  SHOAL_RETURN_IF_ERROR(OutFolder::CheckPath(out_));
  checkpoints_ =
      job->checkpoint().folder().empty() ? out_ : job->checkpoint().folder();
  SHOAL_ASSIGN_OR_RETURN(program_, OwnProgramPath());
  SHOAL_ASSIGN_OR_RETURN(const std::vector<PlacedHost> placed,
                         PlaceRoles(*job));
  for (const PlacedHost& host : placed) {
    if (!host.roles.empty()) {
      host_list_ += StrCat(host_list_.empty() ? "" : ",", host.name, ":",
                           host.roles.size());
      hosts_.insert(hosts_.end(), host.roles.size(), host.name);
    }
  }
  const auto ranks = static_cast<size_t>(job->cluster().servers()) +
                     static_cast<size_t>(job->cluster().workers());
  if (placed.empty()) {
    // By default mpirun starts no more ranks than there are cores.
    host_list_ = HasAllocation() ? "" : StrCat("localhost:", ranks);
    hosts_.assign(ranks, HasAllocation() ? "" : "localhost");
  }
  SHOAL_ASSIGN_OR_RETURN(roles_, DealRanks(*job, hosts_));
  if (options_.dry_run) {
    mpirun_ = options_.mpirun;
    return OkStatus();
  }
  SHOAL_ASSIGN_OR_RETURN(mpirun_, FindProgram(options_.mpirun));
  return OkStatus();
}

std::vector<std::string> MpiLaunch::Command() const {
  std::vector<std::string> argv = {mpirun_, "-np", StrCat(roles_.size())};
  if (!host_list_.empty()) {
    argv.insert(argv.end(), {"--host", host_list_});
  }
  // Ranks have several threads each: bound to a core they would share it.
  argv.insert(argv.end(), {"--map-by", "slot", "--bind-to", "none"});
  // By name: mpirun passes on what they hold here, and nobody else sees it.
  for (const char* name : S3Options::kVariables) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment.
    if (std::getenv(name) != nullptr) {
      argv.insert(argv.end(), {"-x", name});
    }
  }
  argv.insert(argv.end(), options_.mpirun_args.begin(),
              options_.mpirun_args.end());
  argv.insert(argv.end(),
              {program_, "train", options_.run.job_path, "--out", out_});
  for (const std::string& set : options_.run.overrides) {
    argv.insert(argv.end(), {"--set", set});
  }
  if (!restore_.empty()) {
    argv.insert(argv.end(), {"--set", StrCat("checkpoint.restore=", restore_)});
  }
  if (options_.run.trace) {
    argv.emplace_back("--trace");
  }
  if (!state_file_.empty()) {
    argv.insert(argv.end(), {"--mpi-state", state_file_});
  }
  return argv;
}

std::string MpiLaunch::Ranks() const {
  std::string text;
  for (size_t rank = 0; rank < std::min(roles_.size(), kListedMax); ++rank) {
    text +=
        StrCat("# rank ", rank, ": ", roles_[rank].ToString(),
               rank == 0 ? " and the coordinator" : "",
               hosts_[rank].empty() ? "" : StrCat(", on ", hosts_[rank]), "\n");
  }
  if (roles_.size() > kListedMax) {
    text += StrCat("# and ", roles_.size() - kListedMax, " more\n");
  }
  return text;
}

// As a shell reads it.
std::string Quoted(const std::string& word) {
  const bool plain =
      !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
               std::string_view("_-./:=,+@%").find(c) != std::string_view::npos;
      });
  if (plain) {
    return word;
  }
  std::string quoted = "'";
  for (const char c : word) {
    quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return quoted + "'";
}

void MpiLaunch::Print() const {
  std::string line;
  for (const std::string& word : Command()) {
    line += (line.empty() ? "" : " ") + Quoted(word);
  }
  std::printf("%s%s\n", Ranks().c_str(), line.c_str());
}

// The newest checkpoint of the job; empty if there is none.
std::string MpiLaunch::NewestCheckpoint() const {
  const std::unique_ptr<Storage> storage = CreateStorage();
  const StatusOr<std::string> found =
      ps::FindCheckpoint(*storage, checkpoints_);
  return found.ok() ? *found : "";
}

// Beside the output folder, which ranks share with this process, as it is with
// checkpoints. Without the file mpirun's exit code must do.
void MpiLaunch::MakeStateFile() {
  fs::path path = fs::absolute(out_).lexically_normal();
  if (!path.has_filename()) {
    path = path.parent_path();
  }
  path += StrCat(".mpi-", getpid());
  std::error_code ignored;
  fs::create_directories(path.parent_path(), ignored);
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                        S_IRUSR | S_IWUSR);
  if (file >= 0) {
    close(file);
    state_file_ = path;
  }
}

// After a pause; a signal ends both.
StatusOr<ChildExit> MpiLaunch::RunOnce(Duration pause) {
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Supervisor> supervisor,
                         Supervisor::Create({.on_signal = [this](int signal) {
                           stopped_by_ = signal;
                         }}));
  const SystemClock clock;
  const Time begin = clock.Now() + pause;
  while (stopped_by_ == 0 && clock.Now() < begin) {
    supervisor->Wait(begin - clock.Now());
  }
  if (stopped_by_ != 0) {
    return ChildExit{.name = "mpirun"};
  }
  MakeStateFile();
  SHOAL_RETURN_IF_ERROR(supervisor->Spawn("mpirun", Command()).status());
  while (stopped_by_ == 0) {
    if (std::optional<ChildExit> exit = supervisor->Wait(1s);
        exit.has_value()) {
      return *std::move(exit);
    }
  }
  std::vector<ChildExit> exits = supervisor->StopAll(kStopWithin);
  return exits.empty() ? ChildExit{.name = "mpirun"} : std::move(exits[0]);
}

// Names what was published when. A store's files have no such times: there one
// that is published anew as it was counts as the old one.
std::string Publication(const std::string& checkpoint) {
  const std::string manifest = StrCat(checkpoint, "/manifest.json");
  if (IsS3Path(checkpoint)) {
    const StatusOr<Buffer> text = CreateStorage()->ReadFile(manifest);
    return text.ok() ? StrCat(checkpoint, "@", HashText(text->text())) : "";
  }
  std::error_code error;
  const auto time = fs::last_write_time(manifest, error);
  return error ? "" : StrCat(checkpoint, "@", time.time_since_epoch().count());
}

// " (a rank was ended by signal 9)", or nothing where the code says all.
std::string MeaningOf(int exit_code, const MpiState& state) {
  if (const int signal = SignalOf(exit_code); signal != 0) {
    return StrCat(" (a rank was ended by signal ", signal, ")");
  }
  if (state.ended.has_value()) {
    return "";  // The ranks have said why.
  }
  return state.begun ? " (a rank or its host was lost)"
                     : " (the ranks were never all there)";
}

Status MpiLaunch::Run(int* exit_code) {
  // What lies there from an earlier run is not this one's to go on from.
  std::string known = Publication(NewestCheckpoint());
  Duration pause{};
  Duration next_pause = kFirstPause;
  for (int restarts = 0;; ++restarts) {
    SHOAL_ASSIGN_OR_RETURN(const ChildExit exit, RunOnce(pause));
    *exit_code = exit.signal != 0 ? kSignalExit + exit.signal : exit.exit_code;
    if (stopped_by_ != 0) {
      *exit_code = kSignalExit + stopped_by_;
      return StoppedBy(stopped_by_);
    }
    const MpiState state = MpiState::ReadFrom(state_file_);
    if (*exit_code == 0 && (state.ended == StatusCode::kOk || !state.begun)) {
      if (!state.begun) {
        std::fprintf(
            stderr,
            "note: that the job is done is mpirun's word alone: rank 0 "
            "does not share the folder of %s\n",
            out_.c_str());
      }
      return OkStatus();
    }
    const int said = *exit_code;
    if (said == 0) {
      // Open MPI 5's where a host is lost.
      *exit_code = EX_TEMPFAIL;
    }
    const std::string failed = StrCat("mpirun ended with exit code ",
                                      *exit_code, MeaningOf(*exit_code, state));
    std::fprintf(stderr, "%s", Ranks().c_str());
    if (!AnotherTryMayHelp(*exit_code, state)) {
      return UnavailableError(
          StrCat(failed, options_.restarts > 0
                             ? "; it is not started again, since that would "
                               "fail in the same way"
                             : ""));
    }
    const std::string newest = NewestCheckpoint();
    if (Publication(newest) != known) {
      restore_ = newest;
      known = Publication(newest);
    }
    if (restarts >= options_.restarts) {
      return UnavailableError(StrCat(
          failed,
          restarts > 0 ? StrCat(" after ", restarts, " restarts (--restarts)")
                       : "",
          restore_.empty()
              ? "; it left no checkpoint"
              : StrCat("; go on with --set checkpoint.restore=", restore_)));
    }
    pause = state.begun ? Duration{} : next_pause;
    next_pause = state.begun ? kFirstPause : std::min(pause * 2, kPauseMax);
    std::fprintf(stderr, "shoal: %s; restart %d of %d%s, %s\n", failed.c_str(),
                 restarts + 1, options_.restarts,
                 state.begun ? "" : StrCat(" in ", ToString(pause)).c_str(),
                 restore_.empty()
                     ? "as it began: there is no checkpoint of it yet"
                     : StrCat("from ", restore_).c_str());
    // mpirun may end before the last of its ranks has.
    SHOAL_RETURN_IF_ERROR(OutFolder::AwaitFree(out_, kRanksEndWithin));
  }
}

}  // namespace

Status RunMpiLaunch(const MpiLaunchOptions& options, int* exit_code) {
  *exit_code = 1;
  MpiLaunch launch(options);
  SHOAL_RETURN_IF_ERROR(launch.Prepare());
  if (options.dry_run) {
    launch.Print();
    *exit_code = 0;
    return OkStatus();
  }
  return launch.Run(exit_code);
}

}  // namespace shoal::launch
