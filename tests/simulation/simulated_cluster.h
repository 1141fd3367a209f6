#ifndef SHOAL_TESTS_SIMULATION_SIMULATED_CLUSTER_H_
#define SHOAL_TESTS_SIMULATION_SIMULATED_CLUSTER_H_

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/time.h"
#include "comm/sim.h"
#include "ps/coordinator.h"
#include "tests/simulation/cluster_world.h"

namespace shoal::simulation {

// The processes of one job in a simulated world, the launcher that starts again
// what has died, and what befalls them. Runs once.
class SimulatedCluster {
 public:
  // `job` and `plan` must outlive it.
  SimulatedCluster(const SimulatedJob& job, const RunPlan& plan);

  RunResult Run();

 private:
  // The coordinator, a server or a worker.
  struct Process {
    std::vector<std::string> nodes;  // its threads
    Time down_until;                 // not started again before
    bool started = false;
  };

  // The launcher.
  std::unique_ptr<comm::Node> Make(const std::string& node);
  void Add(const std::string& process, std::vector<std::string> nodes);
  void AddWanted();
  void Launch();
  void Tend(const std::string& name, Process& process);
  void Start(Process& process);
  void Kill(const std::string& name, Duration pause);
  bool IsWanted(const std::string& process) const;
  bool Runs(const std::string& node) const;
  bool AllRun(const Process& process) const;
  bool Ended() const;
  // Null when it is down or has ended.
  ps::Coordinator* coordinator();

  // What goes wrong.
  void PlanFaults();
  // Calls `fault` at a time from `begin` on, at most `span` seconds later.
  void Between(double begin, double span, std::function<void()> fault);
  void CrashAServer();
  void CrashCoordinator();
  void Scale(int servers, int workers);
  void SwitchMode();
  void Partition();
  void SlowDown();
  void FillDisk();
  bool ServersRun() const;
  // A server may be lost now and leave a replica of all that it has.
  bool MayLoseAServer();
  std::string AnyProcess();  // that runs, or empty
  double Uniform(double from, double to) {
    return from + (to - from) * random_.Uniform();
  }

  // What must hold.
  void WatchRepairs();
  void CheckCheckpoints();
  void Violated(const std::string& what);

  const SimulatedJob& job_;
  const RunPlan& plan_;
  comm::SimWorld world_;
  Random random_;
  const bool tells_;  // the launcher, the coordinator, of processes that end
  Time start_;
  std::string address_;  // of the coordinator
  std::map<std::string, Process> processes_;
  int servers_wanted_;
  int workers_wanted_;
  bool power_failed_ = false;
  uint64_t lost_version_ = 0;  // of the route, when a server was lost last
  Time lose_none_until_;
  Time short_since_;  // chains, while all processes run; zero: they are not
  RunResult result_;
};

}  // namespace shoal::simulation

#endif  // SHOAL_TESTS_SIMULATION_SIMULATED_CLUSTER_H_
