#ifndef SHOAL_TESTS_SIMULATION_PUSH_WATCH_H_
#define SHOAL_TESTS_SIMULATION_PUSH_WATCH_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/time.h"
#include "ps/model_spec.h"
#include "tests/simulation/cluster_world.h"
#include "tests/simulation/forwarding.h"

namespace shoal::simulation {

// Sees what workers send and get, and from that alone what servers must hold at
// the end and what no worker may be told. For jobs whose steps are dealt to
// workers (`bounded` and `async`), and of pulls for `sync` too.
class PushWatch {
 public:
  // A push that takes longer than `timeout` after it was sent, or was sent anew
  // under a newer route, is late.
  PushWatch(const ps::ModelSpec& model, const RunPlan& plan, Duration timeout)
      : groups_(model.groups),
        mode_(plan.mode),
        staleness_(plan.staleness),
        workers_(plan.workers),
        timeout_(timeout) {}

  // Around each worker; what else there is stays as it is.
  Decorate Around();

  // How many pushes of a group's id must have been applied: those that were
  // acknowledged, and those that may have been beside.
  struct Count {
    int64_t acknowledged = 0;
    int64_t sent = 0;
  };
  std::map<std::pair<int, uint64_t>, Count> CountsOfIds() const;

  // What was seen that must not be; empty: nothing.
  const std::vector<std::string>& violations() const { return violations_; }
  int64_t num_pushes() const { return static_cast<int64_t>(pushes_.size()); }
  int64_t num_repeated() const { return num_repeated_; }

 private:
  class Context;
  class Watched;
  struct Push {
    std::set<std::pair<int, uint64_t>> ids;  // and their groups
    uint64_t version = 0;
    Time since;
    std::map<uint64_t, uint64_t> pending;  // requests, by peer
    bool acknowledged = false;
  };
  using Key = std::pair<uint64_t, uint64_t>;  // client, sequence

  void OnPush(uint64_t client, Time now, comm::EndpointId to,
              const comm::Message& message);
  // Gives the step that it is for.
  int64_t OnPull(const std::string& worker, const comm::Message& message);
  void OnReply(uint64_t client, Time now, const comm::Message& message);

  const std::vector<std::vector<int>> groups_;
  const ps::Mode mode_;
  const int64_t staleness_;
  const int workers_;
  const Duration timeout_;
  std::map<Key, Push> pushes_;
  // By client and request.
  std::map<Key, std::pair<uint64_t, uint64_t>> requests_;  // sequence, peer
  std::map<Key, int64_t> pulls_;                           // step
  std::map<std::string, int64_t> clocks_;  // of workers, by name
  std::map<uint64_t, std::string> names_;
  int64_t num_repeated_ = 0;
  std::vector<std::string> violations_;
};

}  // namespace shoal::simulation

#endif  // SHOAL_TESTS_SIMULATION_PUSH_WATCH_H_
