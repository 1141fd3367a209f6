#ifndef SHOAL_TESTS_FAULT_FAULT_FIXTURE_H_
#define SHOAL_TESTS_FAULT_FAULT_FIXTURE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <sys/types.h>

#include "tests/integration/job_fixture.h"
#include "tests/integration/program.h"

namespace shoal::fault {

using integration::RunOutcome;
using integration::Words;

using SteadyClock = std::chrono::steady_clock;

double SecondsSince(SteadyClock::time_point then);

// Times that `words` stand in `text`.
int Count(const std::string& text, const std::string& words);

// What a job's launcher has told so far. Each evaluation is told in a line of
// its own, and each lost server in another when its replicas are elsewhere.
struct JobView {
  pid_t launcher = 0;
  const std::string& output;

  int evaluations() const { return Count(output, ": test auc"); }
  int repairs() const { return Count(output, "all replicas are there again"); }
  int restarts() const { return Count(output, "; started again ("); }
  std::vector<pid_t> servers() const;
  std::vector<pid_t> workers() const;
};

// What to do to a running job, asked every 20 ms.
using Disturb = std::function<void(const JobView&)>;

// Kills a random process, and the next one as soon as the job has made up for
// the last: a server, when all replicas are there again; a worker, when
// training went on.
class Killer {
 public:
  struct Options {
    int kills = 10;
    bool servers = true;
    bool workers = false;  // with `servers`: one of each at once
    uint64_t seed = 1;
    // Whether now is the moment; none: always.
    std::function<bool(const JobView&)> when = {};
  };

  explicit Killer(const Options& options)
      : options_(options), random_(options.seed) {}

  void operator()(const JobView& job);
  int kills() const { return kills_; }

 private:
  bool Recovered(const JobView& job) const;
  bool KillOneOf(const std::vector<pid_t>& processes);

  Options options_;
  std::mt19937_64 random_;
  int kills_ = 0;
  int servers_killed_ = 0;
  int evaluations_then_ = 0;
};

// Jobs whose processes are killed and stopped, over real transports. Replicas
// are on as many servers as there are.
class FaultTest : public integration::JobsTest {
 protected:
  // `replicas` servers and two workers, and so many passes over 2400 examples,
  // each of 38 steps and an evaluation.
  static Words Cluster(int replicas, int epochs, const std::string& transport);

  // Trains into `out`, which must be well unless `disturb` says otherwise.
  RunOutcome Disturbed(const std::string& out, const Words& settings,
                       const Disturb& disturb) const;

  // Calls `attempt` with a number of epochs, and with twice as many for as long
  // as it says that its job ended too soon.
  static void UntilLongEnough(int epochs,
                              const std::function<bool(int epochs)>& attempt);

  // Calls `attempt` with a number of epochs and a killer to disturb its job
  // with: again with twice as many epochs while the job ends before all kills.
  static void KillDuring(
      const Killer::Options& options, int epochs,
      const std::function<void(int epochs, const Disturb& killer)>& attempt);

  // The same job as services, of which those that a signal ended are started
  // again: `disturb` is not given a launcher, but what ServicesWith() needs.
  // With `etcd`, where it is, two coordinators that keep their state there; the
  // last line is then "coordinators: A B", their exit codes. The first one
  // starts two seconds before the other and reaches etcd by a process of its
  // own, ProxyWords() on its command line: without that, it is cut off.
  RunOutcome DisturbedServices(
      const std::string& out, const Words& settings,
      const std::function<void(const JobView&, const std::string& at)>& disturb,
      const std::string& etcd = "") const;

  std::string ProxyWords() const { return Path("proxy.py"); }

  // Of the services that were started with `at`: "coordinator", "server".
  std::vector<pid_t> ServicesWith(const std::string& at,
                                  const std::string& role) const;

  // Asks the coordinator at `at`.
  static bool AllReplicasAreThere(const std::string& at);

  // The same job, as threads of one server that nobody disturbs.
  void TrainUndisturbed(const std::string& out, int epochs,
                        const Words& more = {}) const;

  // Updates that the rows and chunks of the newest checkpoint have had, one
  // "TABLE id count" or "VARIABLE@FIRST count" after another, sorted. For jobs
  // whose optimizers are Adam's: they count in the last element of the state.
  std::vector<std::string> UpdateCounts(const std::string& out) const;
};

// The long form, for every night.
bool Nightly();

}  // namespace shoal::fault

#endif  // SHOAL_TESTS_FAULT_FAULT_FIXTURE_H_
