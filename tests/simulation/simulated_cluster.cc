#include "tests/simulation/simulated_cluster.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/strcat.h"
#include "comm/torn_storage.h"
#include "ps/checkpoint_format.h"
#include "ps/fenced_storage.h"
#include "ps/shard.h"
#include "tests/simulation/forwarding.h"
#include "worker/open_worker.h"
#include "worker/worker_node.h"

namespace shoal::simulation {
namespace {

constexpr char kCoordinator[] = "coordinator";
constexpr char kStateFile[] = "coordinator.state";

constexpr Duration kLaunchEvery = 25ms;
// How long a job may take, after the last fault and when all its processes run,
// until every slot has all its replicas.
constexpr Duration kRepairWithin = 5s;
// The job's timeout_seconds.
constexpr Duration kRequestsWait = 4s;
// Of each run with faults, beside what chance adds.
constexpr int kLosses = 5;

std::string ServerName(int server) { return StrCat("server ", server); }
std::string WorkerName(int worker) { return StrCat("worker ", worker); }
int IndexOf(const std::string& process) {
  return std::atoi(process.c_str() + process.find(' '));
}
bool IsServer(const std::string& process) {
  return process.starts_with("server");
}
bool IsCoordinator(const std::string& process) {
  return process.starts_with(kCoordinator);
}

// One of several coordinators. What it does to files waits while it can't reach
// etcd, as it does behind a state that is to be kept there, and is done when it
// can again; by then another one may lead.
class SeatContext : public ForwardingContext {
 public:
  SeatContext(comm::NodeContext& to, SimulatedEtcd& etcd,
              const std::string& who)
      : ForwardingContext(to),
        etcd_(etcd),
        who_(who),
        state_(etcd.StoreOf(who)) {}

  void StartStorage(std::function<StatusOr<Buffer>(Storage&)> work,
                    std::function<void(StatusOr<Buffer>)> done) override {
    auto start = [this, work = std::move(work), done = std::move(done)] {
      ForwardingContext::StartStorage(
          [work, state = state_](Storage& storage) {
            ps::FencedStorage fenced(storage,
                                     [&state] { return state->leads(); });
            return work(fenced);
          },
          done);
    };
    const Time until = etcd_.CutOffUntil(who_);
    if (waiting_ == 0 && world_now() >= until) {
      start();
      return;
    }
    ++waiting_;
    SetTimer(Now() + std::max<Duration>(until - world_now(), Duration(1)),
             [this, start = std::move(start)] {
               --waiting_;
               start();
             });
  }

 private:
  Time world_now() const { return etcd_.Now(); }  // its own clock drifts

  SimulatedEtcd& etcd_;
  const std::string who_;
  const std::shared_ptr<ps::StateStore> state_;
  int waiting_ = 0;
};

comm::SimOptions OptionsFor(const RunPlan& plan) {
  comm::SimOptions options;
  if (!plan.faults) {
    options.long_delay_chance = 0;
    return options;
  }
  options.loss_every = 150ms;
  options.late_chance = 0.2;
  options.late_max = 800ms;
  options.clock_offset_max = std::chrono::hours(24);
  options.clock_drift_max = 0.02;
  return options;
}

}  // namespace

SimulatedCluster::SimulatedCluster(const SimulatedJob& job, const RunPlan& plan)
    : job_(job),
      plan_(plan),
      world_(plan.seed, OptionsFor(plan)),
      random_(HashKey(plan.seed, HashText("faults"))),
      tells_(plan.seed % 2 == 0),
      start_(world_.Now()),
      etcd_(world_),
      servers_wanted_(plan.servers),
      workers_wanted_(plan.workers) {
  if (plan.files != nullptr) {
    for (const auto& [path, bytes] : comm::FilesIn(*plan.files, "")) {
      comm::SetFile(world_.storage(), path, bytes);
    }
  }
}

RunResult SimulatedCluster::Run() {
  etcd_.believes = plan_.always_leads;
  for (int i = 0; i < plan_.coordinators; ++i) {
    const std::string name = StrCat(kCoordinator, " ", i);
    Add(name, {name});
  }
  if (plan_.coordinators == 0) {
    Add(kCoordinator, {kCoordinator});
    Start(processes_.at(kCoordinator));
    address_ = world_.address(kCoordinator);
  }
  Launch();
  PlanFaults();
  const Status ran = world_.Run([this] { return power_failed_ || Ended(); },
                                std::chrono::seconds(120));
  result_.ended = ran.ok() && !power_failed_;
  result_.status = result_.ended ? HowItEnded()
                   : ran.ok()    ? UnavailableError("the power failed")
                                 : ran;
  result_.trace_hash = world_.trace_hash();
  result_.num_events = world_.num_events();
  result_.faults += static_cast<int>(world_.num_losses());
  result_.leaders_changed =
      std::max(0, static_cast<int>(etcd_.num_leaders()) - 1);
  result_.seconds = ToSeconds(world_.Now() - start_);
  result_.digests.clear();
  CheckCheckpoints();
  if (const auto* coordinator = dynamic_cast<const ps::Coordinator*>(
          Undecorated(world_.node(Leader())))) {
    result_.staleness = coordinator->staleness();
  }
  const auto last = result_.digests.find(SimulatedJob::kSteps);
  result_.digest = last == result_.digests.end() ? "" : last->second;
  result_.files = std::make_shared<MemoryStorage>();
  for (const auto& [path, bytes] : comm::FilesIn(world_.storage(), "")) {
    comm::SetFile(*result_.files, path, bytes);
  }
  return std::move(result_);
}

// --- The launcher ----------------------------------------------------------

std::unique_ptr<comm::Node> SimulatedCluster::Make(const std::string& node) {
  std::unique_ptr<comm::Node> made;
  if (IsCoordinator(node)) {
    ps::Coordinator::Options options = job_.CoordinatorOptions();
    options.plan.mode = plan_.mode;
    options.plan.staleness = plan_.staleness;
    options.plan.dense = plan_.dense;
    options.plan.backup_workers = plan_.backup_workers;
    options.num_servers = plan_.servers;
    options.num_workers = plan_.workers;
    options.replicas = plan_.replicas;
    options.rebalance = plan_.rebalance;
    options.restore_folder = plan_.restore_folder;
    options.restore_step = plan_.restore_step;
    // Another run: a state that one before has left is of nobody.
    options.run = StrCat("seed ", plan_.seed);
    if (plan_.coordinators > 0) {
      options.state_store = etcd_.StoreOf(node);
    } else {
      options.state_file = kStateFile;
    }
    options.wanted = [this](int servers, int workers) {
      servers_wanted_ = servers;
      workers_wanted_ = workers;
    };
    made = std::make_unique<ps::Coordinator>(std::move(options));
    if (plan_.coordinators > 0) {
      made = std::make_unique<NodeInContext<SeatContext>>(
          std::move(made), [this, node](comm::NodeContext& context) {
            return std::make_unique<SeatContext>(context, etcd_, node);
          });
    }
  } else if (IsServer(node)) {
    ps::Shard::Options options;
    Find(options.coordinator, options.find_coordinator);
    options.server = IndexOf(node);
    options.shard = std::atoi(node.c_str() + node.rfind(' '));
    if (plan_.reports) {
      options.report = [this](const ps::MemberReport& report) {
        result_.rows_on_disk =
            std::max(result_.rows_on_disk, report.rows_on_disk);
      };
    }
    made = std::make_unique<ps::Shard>(options);
  } else {
    worker::WorkerNode::Options options;
    Find(options.coordinator, options.find_coordinator);
    options.worker = IndexOf(node);
    options.open = &worker::OpenWorker;
    if (plan_.backup_workers > 0) {
      options.report = [this](const ps::MemberReport& report) {
        result_.stood_in =
            std::max(result_.stood_in, static_cast<int>(report.stood_in));
      };
    }
    made = std::make_unique<worker::WorkerNode>(options);
  }
  return plan_.decorate ? plan_.decorate(node, std::move(made))
                        : std::move(made);
}

void SimulatedCluster::Add(const std::string& process,
                           std::vector<std::string> nodes) {
  processes_.try_emplace(process, Process{.nodes = std::move(nodes)});
}

void SimulatedCluster::AddWanted() {
  for (int server = 0; server < servers_wanted_; ++server) {
    std::vector<std::string> shards;
    for (int shard = 0; shard < SimulatedJob::kShards; ++shard) {
      shards.push_back(StrCat(ServerName(server), " shard ", shard));
    }
    Add(ServerName(server), std::move(shards));
  }
  for (int worker = 0; worker < workers_wanted_; ++worker) {
    Add(WorkerName(worker), {WorkerName(worker)});
  }
}

bool SimulatedCluster::Ended() const {
  return plan_.coordinators > 0 ? etcd_.end().has_value()
                                : world_.stopped(kCoordinator).has_value();
}

Status SimulatedCluster::HowItEnded() const {
  return plan_.coordinators > 0 ? *etcd_.end() : *world_.stopped(kCoordinator);
}

std::string SimulatedCluster::Leader() const {
  return plan_.coordinators > 0 ? etcd_.leader() : kCoordinator;
}

// What a member knows that starts now.
void SimulatedCluster::Find(ps::CoordinatorPlace& place,
                            ps::FindCoordinator& find) {
  if (plan_.coordinators == 0) {
    place.address = address_;
    return;
  }
  place = *etcd_.Find();
  find = [this] { return etcd_.Find(); };
}

bool SimulatedCluster::Runs(const std::string& node) const {
  return world_.node(node) != nullptr && !world_.stopped(node).has_value();
}

bool SimulatedCluster::AllRun(const Process& process) const {
  return process.started &&
         std::all_of(process.nodes.begin(), process.nodes.end(),
                     [this](const std::string& node) { return Runs(node); });
}

ps::Coordinator* SimulatedCluster::coordinator() {
  return Runs(Leader()) ? dynamic_cast<ps::Coordinator*>(
                              Undecorated(world_.node(Leader())))
                        : nullptr;
}

bool SimulatedCluster::IsWanted(const std::string& process) const {
  return IsCoordinator(process) ||
         IndexOf(process) <
             (IsServer(process) ? servers_wanted_ : workers_wanted_);
}

void SimulatedCluster::Launch() {
  if (power_failed_ || Ended()) {
    return;
  }
  world_.At(world_.Now() + kLaunchEvery, [this] { Launch(); });
  AddWanted();
  for (auto& [name, process] : processes_) {
    Tend(name, process);
  }
  WatchRepairs();
}

// One of several. It stands by until it can lead; one that has lost its place
// notices a while later, ends, and stands by again.
void SimulatedCluster::TendCoordinator(const std::string& name,
                                       Process& process) {
  const Time now = world_.Now();
  if (process.started && Runs(name)) {
    etcd_.Renew(name);
    if (!etcd_.HasLost(name)) {
      return;
    }
    if (process.gives_up == Time()) {
      process.gives_up = now + FromSeconds(Uniform(0, 0.5));
    }
    if (now >= process.gives_up) {
      Kill(name, kLaunchEvery);
    }
    return;
  }
  if (process.started && world_.stopped(name).has_value()) {
    etcd_.Resign(name);  // It gave up by itself.
  }
  if (now >= process.down_until && etcd_.Try(name)) {
    process.gives_up = Time();
    Start(process);
    etcd_.Publish(
        name, {.endpoint = world_.id(name), .address = world_.address(name)});
  }
}

void SimulatedCluster::Tend(const std::string& name, Process& process) {
  if (plan_.coordinators > 0 && IsCoordinator(name)) {
    TendCoordinator(name, process);
    return;
  }
  if (plan_.coordinators > 0 && !etcd_.Find().ok()) {
    return;  // A member that starts waits until somebody leads.
  }
  bool runs = false;
  bool failed = false;
  for (const std::string& node : process.nodes) {
    const std::optional<Status> stopped =
        process.started ? world_.stopped(node) : std::nullopt;
    runs = runs || (process.started && Runs(node));
    failed = failed || (stopped.has_value() && !stopped->ok());
  }
  if (runs && failed) {
    Kill(name, 50ms);  // A process ends with the first of its threads.
  }
  if (runs || world_.Now() < process.down_until || !IsWanted(name) ||
      (name == "server 1" && plan_.crash_a_server && process.started)) {
    return;
  }
  // One that ended well may be wanted again, but not at the job's end.
  const bool done = process.started && !failed &&
                    world_.stopped(process.nodes.front()).has_value();
  if (done && (coordinator() == nullptr ||
               coordinator()->ProcessEnded(name, OkStatus()) !=
                   ps::Coordinator::Ended::kReplace)) {
    return;
  }
  Start(process);
}

void SimulatedCluster::Start(Process& process) {
  for (const std::string& node : process.nodes) {
    const auto make = [this, node] { return Make(node); };
    const comm::EndpointId id =
        node == kCoordinator ? comm::kCoordinator : comm::EndpointId{};
    process.started ? world_.RestartNode(node, make, id)
                    : world_.AddNode(node, make, id);
  }
  process.started = true;
}

void SimulatedCluster::Kill(const std::string& name, Duration pause) {
  Process& process = processes_.at(name);
  for (const std::string& node : process.nodes) {
    world_.CrashNode(node);
  }
  process.down_until = world_.Now() + pause;
  CheckCheckpoints();
  if (tells_ && !IsCoordinator(name)) {
    world_.At(world_.Now() + 5ms, [this, name] {
      if (coordinator() != nullptr) {
        (void)coordinator()->ProcessEnded(name, UnavailableError("was killed"));
      }
    });
  }
}

// --- What goes wrong -------------------------------------------------------

void SimulatedCluster::Between(double begin, double span,
                               std::function<void()> fault) {
  world_.At(start_ + FromSeconds(begin + span * random_.Uniform()),
            [this, fault = std::move(fault)] {
              if (!power_failed_ && !Ended()) {
                fault();
              }
            });
}

void SimulatedCluster::PlanFaults() {
  for (int i = 0; plan_.faults && i < kLosses; ++i) {
    Between(0.1 * (i + 1), 0.05, [this] { world_.LoseAnyConnection(); });
  }
  for (int i = 0; i < plan_.crashes; ++i) {
    const std::string victim = WorkerName(
        static_cast<int>(random_.Below(static_cast<uint64_t>(plan_.workers))));
    Between(0.05, 1.5, [this, victim] {
      if (Runs(victim)) {
        ++result_.faults;
        Kill(victim, FromSeconds(Uniform(0.02, 0.42)));
      }
    });
  }
  if (plan_.server_crashes > 0) {
    Between(0.02, 0.1, [this] { CrashAServer(); });
  }
  for (int i = 0; i < plan_.scales; ++i) {
    const int servers =
        plan_.replicas + static_cast<int>(random_.Below(
                             static_cast<uint64_t>(6 - plan_.replicas)));
    const int workers =
        plan_.backup_workers + 1 + static_cast<int>(random_.Below(4));
    Between(0.05, 1.5, [this, servers, workers] { Scale(servers, workers); });
  }
  if (!plan_.modes.empty()) {
    Between(0, 0.3, [this] { SwitchMode(); });
  }
  for (int i = 0; i < plan_.coordinator_crashes; ++i) {
    Between(0, plan_.coordinators > 0 ? 8 : 2, [this] { CrashCoordinator(); });
  }
  for (int i = 0; i < plan_.cut_offs; ++i) {
    Between(0.05, 8, [this] { CutOffLeader(); });
  }
  for (int i = 0; i < plan_.partitions; ++i) {
    Between(0.05, 1.2, [this] { Partition(); });
  }
  for (int i = 0; i < plan_.slow_processes; ++i) {
    Between(0.05, 1.2, [this] { SlowDown(); });
  }
  for (int i = 0; i < plan_.full_disks; ++i) {
    Between(0.02, 8, [this] { FillDisk(); });
  }
  if (plan_.slows_worker > 1) {
    Between(0.02, 0, [this] {
      world_.SlowDown(WorkerName(1), plan_.slows_worker, std::chrono::hours(1));
    });
  }
  if (plan_.crash_a_server) {
    Between(0.5, 0, [this] { world_.CrashNode("server 1 shard 1"); });
  }
  if (plan_.power_fails_after > 0) {
    Between(plan_.power_fails_after, 0, [this] {
      power_failed_ = true;
      for (const auto& [name, process] : processes_) {
        for (const std::string& node : process.nodes) {
          world_.CrashNode(node);
        }
      }
    });
  }
}

bool SimulatedCluster::ServersRun() const {
  return std::all_of(processes_.begin(), processes_.end(),
                     [this](const auto& entry) {
                       return !IsServer(entry.first) ||
                              !IsWanted(entry.first) || AllRun(entry.second);
                     });
}

bool SimulatedCluster::MayLoseAServer() {
  return coordinator() != nullptr && coordinator()->replicated() &&
         coordinator()->route_version() > lost_version_ && ServersRun() &&
         world_.Now() >= lose_none_until_;
}

// One is killed once all slots have their replicas again.
void SimulatedCluster::CrashAServer() {
  if (result_.crashed == plan_.server_crashes) {
    return;
  }
  if (MayLoseAServer()) {
    ++result_.crashed;
    ++result_.faults;
    lost_version_ = coordinator()->route_version();
    Kill(ServerName(static_cast<int>(
             random_.Below(static_cast<uint64_t>(plan_.servers)))),
         FromSeconds(Uniform(0.02, 0.62)));
  }
  world_.At(world_.Now() + FromSeconds(Uniform(0.05, 0.15)), [this] {
    if (!power_failed_ && !Ended()) {
      CrashAServer();
    }
  });
}

// Until another one leads, after the lease of this one, and has found all
// members, requests wait for as long as they may once, but not twice.
bool SimulatedCluster::MayLoseLeader() {
  if (!Runs(Leader()) || world_.Now() < keep_leader_until_) {
    return false;
  }
  if (plan_.coordinators > 0) {
    keep_leader_until_ = world_.Now() + kRequestsWait;
  }
  return true;
}

// While members join, train or end; it comes back with its file, or to stand
// by.
void SimulatedCluster::CrashCoordinator() {
  if (MayLoseLeader()) {
    ++result_.coordinators_crashed;
    ++result_.faults;
    Kill(Leader(), FromSeconds(Uniform(0.01, 0.51)));
    if (plan_.loses_state) {
      (void)world_.storage().Remove(kStateFile);
    }
  }
}

void SimulatedCluster::CutOffLeader() {
  if (MayLoseLeader()) {
    ++result_.faults;
    etcd_.CutOff(Leader(), FromSeconds(Uniform(0.1, 2)));
  }
}

void SimulatedCluster::Scale(int servers, int workers) {
  const bool sync = plan_.mode == ps::Mode::kSync;
  if (coordinator() != nullptr &&
      coordinator()->Scale(servers, sync ? workers : 0, -1).ok()) {
    ++result_.scaled;
    ++result_.faults;
  }
}

// Asked for again until it is taken.
void SimulatedCluster::SwitchMode() {
  const std::string& mode = plan_.modes[static_cast<size_t>(result_.switched)];
  const std::string dense = plan_.dense == ps::DensePlace::kShards ? mode : "";
  Duration pause = 10ms;
  if (coordinator() != nullptr && coordinator()->SetMode(mode, dense).ok()) {
    ++result_.switched;
    pause = FromSeconds(Uniform(0, 0.4));
  }
  if (static_cast<size_t>(result_.switched) == plan_.modes.size()) {
    return;
  }
  world_.At(world_.Now() + pause, [this] {
    if (!power_failed_ && !Ended()) {
      SwitchMode();
    }
  });
}

std::string SimulatedCluster::AnyProcess() {
  std::vector<std::string> running;
  for (const auto& [name, process] : processes_) {
    if (AllRun(process)) {
      running.push_back(name);
    }
  }
  return running.empty() ? "" : running[random_.Below(running.size())];
}

// As long as a server that the coordinator does not hear may be given up for
// another, no second one may be lost.
void SimulatedCluster::Partition() {
  const std::string one = AnyProcess();
  const std::string other = random_.Below(3) == 0 ? "" : AnyProcess();
  const uint64_t ways = 1 + random_.Below(3);  // there, back, both
  Duration length = FromSeconds(Uniform(0.05, 1.2));
  if (one.empty() || one == other) {
    return;
  }
  const bool may_lose =
      (IsCoordinator(one) || IsCoordinator(other) || other.empty()) &&
      plan_.replicas > 1;
  if (may_lose && !MayLoseAServer()) {
    length = std::min<Duration>(length, 150ms);
  } else if (may_lose) {
    lose_none_until_ = world_.Now() + length + 1s;
  }
  ++result_.partitioned;
  ++result_.faults;
  for (const auto& [name, process] : processes_) {
    if (name == one || (!other.empty() && name != other) || !AllRun(process)) {
      continue;
    }
    for (const std::string& a : processes_.at(one).nodes) {
      for (const std::string& b : process.nodes) {
        if ((ways & 1) != 0) {
          world_.Partition(a, b, length);
        }
        if ((ways & 2) != 0) {
          world_.Partition(b, a, length);
        }
      }
    }
  }
}

void SimulatedCluster::SlowDown() {
  const std::string victim = AnyProcess();
  const double factor = Uniform(2, 30);
  const Duration length = FromSeconds(Uniform(0.2, 1));
  if (victim.empty()) {
    return;
  }
  ++result_.slowed;
  ++result_.faults;
  for (const std::string& node : processes_.at(victim).nodes) {
    world_.SlowDown(node, factor, length);
  }
}

void SimulatedCluster::FillDisk() {
  ++result_.disks_filled;
  ++result_.faults;
  world_.FillDisk(FromSeconds(Uniform(0.02, 0.3)));
}

// --- What must hold --------------------------------------------------------

void SimulatedCluster::Violated(const std::string& what) {
  if (result_.violation.empty()) {
    result_.violation =
        StrCat(what, ", at ", ToSeconds(world_.Now() - start_), " s");
  }
}

void SimulatedCluster::WatchRepairs() {
  const Time now = world_.Now();
  if (plan_.replicas == 1 || coordinator() == nullptr || !ServersRun() ||
      coordinator()->replicated()) {
    short_since_ = Time();
    return;
  }
  if (short_since_ == Time()) {
    short_since_ = now;
  }
  result_.repair_seconds =
      std::max(result_.repair_seconds, ToSeconds(now - short_since_));
  if (now - short_since_ > kRepairWithin) {
    Violated("slots lack replicas though all servers run");
  }
}

// Whoever died just now: what there is must be whole, and of the right bits.
void SimulatedCluster::CheckCheckpoints() {
  MemoryStorage& files = world_.storage();
  const StatusOr<std::vector<std::string>> names =
      files.ListFolder(kCheckpoints);
  for (const std::string& name :
       names.ok() ? *names : std::vector<std::string>()) {
    const std::string folder = StrCat(kCheckpoints, "/", name);
    const std::optional<int64_t> step = ps::StepOfFolder(name);
    if (!step.has_value() || !files.ReadFile(folder + "/manifest.json").ok()) {
      continue;  // No checkpoint.
    }
    const StatusOr<std::string> digest = ps::DigestCheckpoint(files, folder);
    if (!digest.ok()) {
      Violated(StrCat("the checkpoint of step ", *step,
                      " can't be read: ", digest.status().message()));
      continue;
    }
    result_.digests[*step] = *digest;
    const auto want = plan_.digests.find(*step);
    if (want != plan_.digests.end() && want->second != *digest) {
      Violated(StrCat("the checkpoint of step ", *step, " has other bits"));
    }
  }
}

}  // namespace shoal::simulation
