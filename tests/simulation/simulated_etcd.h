#ifndef SHOAL_TESTS_SIMULATION_SIMULATED_ETCD_H_
#define SHOAL_TESTS_SIMULATION_SIMULATED_ETCD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/buffer.h"
#include "base/status.h"
#include "base/time.h"
#include "comm/sim.h"
#include "ps/durable_state.h"
#include "ps/member.h"

namespace shoal::simulation {

// What coordinators that stand by for each other see of etcd, under the virtual
// clock: who leads by a lease, and the state that only the leader changes. It
// answers at once, and a change is whole or not made.
class SimulatedEtcd {
 public:
  static constexpr Duration kLease = 600ms;

  // `world` must outlive it.
  explicit SimulatedEtcd(const comm::SimWorld& world) : world_(world) {}

  // `who` leads from now on if nobody's lease runs.
  bool Try(const std::string& who);
  // Of the leader; no effect where it leads no more or is cut off.
  void Renew(const std::string& who);
  void Resign(const std::string& who);
  // Members find the leader there.
  void Publish(const std::string& who, const ps::CoordinatorPlace& place);

  // Nothing of `who` gets here for `length`.
  void CutOff(const std::string& who, Duration length);
  // Until when, or a time that has passed.
  Time CutOffUntil(const std::string& who) const;

  // As far as `who` can know: its lease can't have run out.
  bool Leads(const std::string& who) const;
  // It leads no more, and sees that.
  bool HasLost(const std::string& who) const;
  // Who leads now, or did last; its lease may have run out.
  const std::string& leader() const { return leader_; }
  int64_t num_leaders() const { return static_cast<int64_t>(epoch_); }

  Time Now() const { return world_.Now(); }

  // For the coordinator that `who` is as of now.
  std::shared_ptr<ps::StateStore> StoreOf(const std::string& who);
  // Errors: kNotFound (nobody leads).
  StatusOr<ps::CoordinatorPlace> Find() const;
  // How the job ended, once it has.
  const std::optional<Status>& end() const { return end_; }

  // A planted bug: a coordinator always believes that it leads.
  bool believes = true;

 private:
  class Store;

  const comm::SimWorld& world_;
  uint64_t epoch_ = 0;
  std::string leader_;
  Time lease_until_;
  std::optional<ps::CoordinatorPlace> place_;
  std::map<std::string, Time> cut_off_;
  std::optional<Buffer> state_;
  std::optional<Status> end_;
};

}  // namespace shoal::simulation

#endif  // SHOAL_TESTS_SIMULATION_SIMULATED_ETCD_H_
